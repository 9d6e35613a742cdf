//! Objects of an older operator, and how Drop takes them over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use drop_api::condition;
use drop_e2e::{Bed, root};
use drop_testbed::{Answer, FakeServer, ImageSpec};
use serde_json::{Value, json};

use crate::discovery::wait_discovery;
use crate::sets::wait_set;

const OBJECTS: &str = include_str!("migration/objects.yaml");
const PODS: &str = include_str!("migration/pods.yaml");
const KINDS: [(&str, &str); 4] = [
    ("CachedImage", "cachedimages"),
    ("CachedImageSet", "cachedimagesets"),
    ("DiscoveryPolicy", "discoverypolicies"),
    ("PullPolicy", "pullpolicies"),
];
/// Names as the older operators made them: one without a hash, the others with six digits of it.
const CHILDREN: [(&str, &str, &str, &str); 4] = [
    ("older-static", "older-static-app-2-3fa9c1", "docker.io/older/app", "2"),
    ("older-static", "older-static-tool-1", "docker.io/older/tool", "1"),
    ("older-found", "older-found-found-1", "docker.io/older/found", "1"),
    ("older-ranked", "older-ranked-ranked-1-b04d77", "docker.io/older/ranked", "1"),
];

pub fn objects_of_older_operators_are_taken_over(bed: &Bed) -> Result<()> {
    for (path, tag) in [("app", "1"), ("app", "2"), ("tool", "1"), ("found", "1"), ("ranked", "1")] {
        bed.cluster.registry().push(&format!("older/{path}"), tag, &ImageSpec::runnable())?;
    }
    bed.operator().as_mut().context("the operator runs")?.terminate()?;
    let loki = events()?;
    let objects = OBJECTS.replace("http://127.0.0.1:9/answers", &loki.url());
    leave_behind(bed, &objects)?;
    let before = uids(bed)?;
    bed.start_operator()?;

    for pod in ["pull-older-image-x7k2p", "pull-older-gone-m4q9z"] {
        bed.wait("older Pods to go", |sight| (!sight.pods.contains_key(pod)).then_some(()))?;
    }
    bed.wait_cached("older-image", 2)?;
    wait_set(bed, "older-static", "AllReady 2/2")?;
    for (set, policy, reason, image) in [
        ("older-found", "older-sources", "SecretNotFound", "docker.io/older/found:1"),
        ("older-ranked", "older-signals", "ConnectionRefused", "docker.io/older/ranked:1"),
    ] {
        wait_set(bed, set, &format!("{reason} 1/1"))?;
        wait_discovery(bed, policy, reason, |policy| {
            policy.status.iter().flat_map(|status| &status.discovered_images).map(|found| &*found.image).eq([image])
        })?;
    }
    wait_discovery(bed, "older-events", "Synced", |policy| {
        let found = policy.status.iter().flat_map(|status| &status.discovered_images);
        found.map(|found| (&*found.image, &*found.final_score)).eq([("docker.io/older/found:1", "81.3")])
    })?;
    bed.wait_image("older-failing", |_, ready| ready.reason == "ErrImagePull")?;
    ensure!(uids(bed)? == before, "not the same CachedImages: {before:#?} {:#?}", uids(bed)?);
    ensure!(bed.look().pods.contains_key("older-stranger"), "a Pod that pulls nothing is nobody's business");
    let image = stored(bed, "older-image")?;
    ensure!(image.pointer("/status/cachedNodes").is_none(), "{image:#}");
    let conditions = bed.look().images.get("older-image").and_then(|image| image.status.clone()).unwrap_or_default();
    ensure!(conditions.conditions.iter().all(|condition| condition.type_ == condition::READY), "{conditions:#?}");

    // The manifests that users have in Git apply as before, and the sets own their children.
    let mut objects: Vec<Value> = serde_saphyr::from_multiple(&objects)?;
    objects.iter_mut().filter_map(Value::as_object_mut).for_each(|object| drop(object.remove("status")));
    bed.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string())?;
    let images = json!([{ "image": "docker.io/older/app", "tag": "2" }]);
    let patch = json!({ "spec": { "images": images } }).to_string();
    bed.cluster.kubectl(&["patch", "cachedimageset", "older-static", "--type=merge", "--patch", &patch])?;
    bed.wait("a child to go with its entry", |sight| {
        (!sight.images.contains_key("older-static-tool-1")).then_some(())
    })?;
    wait_set(bed, "older-static", "AllReady 1/1")?;
    ensure!(bed.look().images.contains_key("older-static-app-2-3fa9c1"));
    bed.cluster.kubectl(&["delete", "pod", "-n", "drop-system", "older-stranger"])?;
    for kind in ["cachedimageset/older-static", "cachedimageset/older-found", "cachedimageset/older-ranked"] {
        bed.cluster.kubectl(&["delete", kind, "--cascade=foreground"])?;
    }
    bed.cluster.kubectl(&["delete", "cachedimage", "older-image", "older-failing"])?;
    bed.cluster.kubectl(&["delete", "discoverypolicy", "older-sources", "older-signals", "older-events"])?;
    Ok(())
}

/// Stores the objects under schemas that keep all fields, and then restores Drop's own schemas.
fn leave_behind(bed: &Bed, objects: &str) -> Result<()> {
    for (kind, plural) in KINDS {
        bed.apply(&anything(kind, plural).to_string())?;
    }
    until("the API server to keep unknown fields", || {
        // Until then the API server denies some.
        Ok(bed.apply(objects).is_ok() && stored(bed, "older-image")?.pointer("/status/cachedNodes").is_some())
    })?;
    for (set, name, image, tag) in CHILDREN {
        let uid = bed.cluster.kubectl(&["get", "cachedimageset", set, "-o", "jsonpath={.metadata.uid}"])?;
        let object = json!({
            "apiVersion": "drop.corewire.io/v1alpha1",
            "kind": "CachedImage",
            "metadata": {
                "name": name,
                "labels": { "drop.corewire.io/imageset": set },
                "ownerReferences": [{
                    "apiVersion": "drop.corewire.io/v1alpha1", "kind": "CachedImageSet", "name": set, "uid": uid,
                    "controller": true, "blockOwnerDeletion": true,
                }],
            },
            "spec": { "image": image, "tag": tag, "imagePullPolicy": "Always", "policyRef": { "name": "older" } },
            "status": { "phase": "Pending", "nodesTargeted": 2, "cachedNodes": [] },
        });
        bed.apply(&object.to_string())?;
    }
    bed.apply(PODS)?;
    bed.cluster.define(&root().join("deploy/crds"))?;
    until("the API server to know Drop's fields only", || {
        Ok(stored(bed, "older-image")?.pointer("/status/cachedNodes").is_none())
    })
}

/// A Loki with the event of one pull, as kubernetes-event-exporter writes it.
fn events() -> Result<FakeServer> {
    let message = "Successfully pulled image \"older/found:1\" in 1m21.3s (1m30s including waiting)";
    let event = json!({ "involvedObject": { "name": "runner-1" }, "reason": "Pulled", "message": message });
    let stream = json!({ "stream": { "app": "events" }, "values": [["1767323045000000000", event.to_string()]] });
    let body = json!({ "status": "success", "data": { "resultType": "streams", "result": [stream] } });
    let loki = FakeServer::start()?;
    loki.answer("/loki/api/v1/query_range", Answer::ok(body.to_string()).header("Content-Type", "application/json"));
    Ok(loki)
}

/// A CustomResourceDefinition without a schema.
fn anything(kind: &str, plural: &str) -> Value {
    let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.drop.corewire.io") },
        "spec": {
            "group": "drop.corewire.io",
            "scope": "Cluster",
            "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List") },
            "versions": [{ "name": "v1alpha1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } }],
        },
    })
}

/// Returns a CachedImage as the API server shows it.
fn stored(bed: &Bed, name: &str) -> Result<Value> {
    Ok(serde_json::from_str(&bed.cluster.kubectl(&["get", "cachedimage", name, "-o", "json"])?)?)
}

/// Returns the UIDs of the CachedImages of the older operator, by name.
fn uids(bed: &Bed) -> Result<BTreeMap<String, String>> {
    let columns = "custom-columns=NAME:.metadata.name,UID:.metadata.uid";
    let table = bed.cluster.kubectl(&["get", "cachedimages", "--no-headers", "-o", columns])?;
    let row = |line: &str| line.split_once(' ').map(|(name, uid)| (name.to_owned(), uid.trim().to_owned()));
    Ok(table.lines().filter_map(row).filter(|(name, _)| name.starts_with("older-")).collect())
}

/// Polls until `is_so` holds, because the API server applies a changed schema a little later.
fn until(what: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !is_so()? {
        ensure!(begun.elapsed() < Duration::from_secs(60), "waited a minute for {what}");
    }
    Ok(())
}
