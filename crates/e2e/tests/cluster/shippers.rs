//! Pull events in a real Loki, in the lines that shippers of Kubernetes events write.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use drop_api::DiscoveryPolicy;
use drop_e2e::Bed;
use drop_testbed::{Loki, Tools};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::discovery::wait_discovery;

/// A field that only the recipe of the documentation that counts each pull once reads.
const VERSION: &str = "eventRV";

fn message(image: &str) -> String {
    format!("Successfully pulled image \"{image}\" in 1m21.3s (1m30s including waiting). Image size: 7 bytes.")
}

/// Returns the line of Alloy and of Grafana Agent.
fn alloy(image: &str, version: u32) -> String {
    format!(
        "name=job-1 kind=Pod objectAPIversion=v1 objectRV=758900 eventRV={version} reportinginstance=node-1 \
         reportingcontroller=kubelet sourcecomponent=kubelet sourcehost=node-1 reason=Pulled type=Normal count=1 \
         msg={:?} ",
        message(image)
    )
}

/// The labels of a stream.
type Labels = &'static [(&'static str, &'static str)];

/// Returns the labels of each shipper's stream, and the line that reports the pull of `shipped/NAME:1`.
fn shipped() -> [(&'static str, Labels, String); 6] {
    const ALLOY: &[(&str, &str)] = &[("job", "loki.source.kubernetes_events"), ("namespace", "ci")];
    const OTEL: &[(&str, &str)] = &[("k8s_event_reason", "Pulled"), ("k8s_event_uid", "b"), ("k8s_event_count", "1")];
    let image = |name: &str| format!("shipped/{name}:1");
    let event = |name: &str| {
        json!({
            "metadata": { "name": "job-1.17d0", "namespace": "ci", "uid": name, "resourceVersion": "758942" },
            "reason": "Pulled", "message": message(&image(name)), "type": "Normal", "count": 1,
            "source": { "component": "kubelet", "host": "node-1" },
            "involvedObject": { "kind": "Pod", "namespace": "ci", "name": "job-1", "fieldPath": "spec.containers{build}" },
        })
    };
    let in_json = json!({
        "name": "job-1", "kind": "Pod", "eventRV": "758943", "sourcecomponent": "kubelet", "reason": "Pulled",
        "type": "Normal", "count": 1, "msg": message(&image("alloy-json")),
    });
    let routed = json!({ "verb": "ADDED", "event": event("eventrouter") });
    let watched = json!({ "object": { "note": message(&image("k8sobjects")), "reason": "Pulled" }, "type": "ADDED" });
    [
        ("alloy", ALLOY, alloy(&image("alloy"), 758_942)),
        ("alloy-json", ALLOY, in_json.to_string()),
        ("event-exporter", &[], event("event-exporter").to_string()),
        ("eventrouter", &[], format!("I0826 10:58:53.717599       6 glogsink.go:42] {routed}")),
        ("k8s-events", OTEL, message(&image("k8s-events"))),
        ("k8sobjects", &[("event_domain", "k8s")], watched.to_string()),
    ]
}

pub fn pulls_are_found_in_the_lines_of_every_shipper(bed: &Bed) -> Result<()> {
    let loki = Loki::start(bed.cluster.home(), &Tools::built(&["loki"])?, "shippers-loki")?;
    let yesterday = Timestamp::now() - SignedDuration::from_hours(20);
    let push = |labels: &[(&str, &str)], line: &str| loki.push(labels, &[(yesterday, line.to_owned())]);
    for (shipper, labels, line) in shipped() {
        let labels = [labels, &[("shipper", shipper)]].concat();
        push(&labels, &line)?;
        // A shipper that restarts may report an event again.
        push(&labels, &line)?;
    }
    let all = r#"{shipper=~".+"}"#;
    // No parser, the default one, and that of policies for the Go operator; and what Loki itself reads in the lines.
    let cases = [
        (json!(null), all.to_owned()),
        (json!({}), all.to_owned()),
        (json!({ "imageField": "message" }), all.to_owned()),
        (json!(null), format!("{all} | logfmt")),
        (json!({}), format!("{all} | json")),
    ];
    let once: BTreeMap<String, String> =
        shipped().iter().map(|(name, ..)| (format!("docker.io/shipped/{name}:1"), "1".to_owned())).collect();
    for (number, (parser, query)) in cases.iter().enumerate() {
        let found = scores(bed, &format!("shipped-{number}"), &loki, query, parser, once.keys().cloned().collect())?;
        ensure!(found == once, "{query} with the parser {parser}: {found:?}");
    }
    each_pull_counts_once(bed, &loki, &push).context("the recipe of docs/pull-events.md")
}

/// Has two shippers report the first of two pulls.
fn each_pull_counts_once(bed: &Bed, loki: &Loki, push: &impl Fn(&[(&str, &str)], &str) -> Result<()>) -> Result<()> {
    let [twice, once] = ["shipped/twice:1", "shipped/once:1"];
    for (image, version, instance) in [(twice, 1, "one"), (twice, 1, "two"), (once, 2, "one")] {
        push(&[("job", "kubernetes-events"), ("instance", instance)], &alloy(image, version))?;
    }
    let names: BTreeSet<String> = [twice, once].map(|image| format!("docker.io/{image}")).into();
    let values = |name: &str, query: &str| -> Result<[f64; 2]> {
        let scores = scores(bed, name, loki, query, &Value::Null, names.clone()).with_context(|| query.to_owned())?;
        let score =
            |image: &str| scores.get(&format!("docker.io/{image}")).context("a score")?.parse().context("a number");
        Ok([score(twice)?, score(once)?])
    };
    let lines = values("recipe-drop", r#"{job="kubernetes-events"} |= "Successfully pulled image""#)?;
    ensure!(lines == [1.0, 1.0], "Drop counts an event once: {lines:?}");
    let blocks = drop_docs::blocks()?;
    let recipes = blocks.iter().filter(|block| block.page.ends_with("pull-events.md"));
    let (exact, simple): (Vec<_>, Vec<_>) = recipes
        .filter(|block| block.text.contains("count_over_time(\n"))
        .partition(|block| block.text.contains(VERSION));
    ensure!(exact.len() == 1 && !simple.is_empty(), "the page has both kinds of recipes");
    let recipes = exact.into_iter().map(|recipe| (recipe, 1.0)).chain(simple.into_iter().map(|it| (it, 2.0)));
    for (number, (recipe, times)) in recipes.enumerate() {
        let [twice, once] = values(&format!("recipe-{number}"), &recipe.text)?;
        ensure!(once > 0.0 && twice == times * once, "{recipe}: {twice} and {once}");
    }
    Ok(())
}

/// Returns the scores of a new policy of this name with this query, once it lists exactly these images.
fn scores(
    bed: &Bed,
    name: &str,
    loki: &Loki,
    query: &str,
    parser: &Value,
    names: BTreeSet<String>,
) -> Result<BTreeMap<String, String>> {
    let mut source = json!({ "endpoint": loki.url(), "query": query });
    if let (false, Some(source)) = (parser.is_null(), source.as_object_mut()) {
        source.insert("parser".to_owned(), parser.clone());
    }
    let policy = json!({
        "apiVersion": "drop.corewire.io/v1alpha1",
        "kind": "DiscoveryPolicy",
        "metadata": { "name": name },
        "spec": { "syncInterval": "1s", "sources": [{ "type": "loki", "loki": source }] },
    });
    bed.apply(&policy.to_string())?;
    let listed = |policy: &DiscoveryPolicy| -> BTreeMap<String, String> {
        let images = policy.status.iter().flat_map(|status| &status.discovered_images);
        images.map(|image| (image.image.clone(), image.final_score.clone())).collect()
    };
    let found =
        wait_discovery(bed, name, "Synced", |policy| listed(policy).into_keys().collect::<BTreeSet<_>>() == names);
    let found = found.with_context(|| format!("{query} with the parser {parser}"))?;
    bed.cluster.kubectl(&["delete", "discoverypolicy", name])?;
    Ok(listed(&found))
}
