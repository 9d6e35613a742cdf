//! Cached means that the image is on the node now.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use drop_api::condition::{self, ConditionStatus};
use drop_e2e::{Bed, requests};
use drop_testbed::{ImageSpec, Node, NodeOptions};
use jiff::SignedDuration;

/// Makes the kubelet list its images now, and waits until the API shows `image` as listed, or as not listed.
pub fn wait_listed(bed: &Bed, node: &Node, image: &str, listed: bool) -> Result<()> {
    // A kubelet refreshes its list every 30 s, and when it starts.
    node.stop()?;
    node.start()?;
    bed.wait(&format!("{image} to be listed by {}: {listed}", node.name()), |sight| {
        let lists = sight.nodes.get(node.name())?.status.as_ref()?.images.as_ref()?;
        let is_listed = lists.iter().flat_map(|listed| listed.names.iter().flatten()).any(|name| name == image);
        (is_listed == listed).then_some(())
    })
}

pub fn what_a_node_has_already_needs_no_pod(bed: &Bed) -> Result<()> {
    bed.cluster.registry().push("found/app", "1", &ImageSpec::runnable())?;
    let nodes = bed.nodes("found", 1)?;
    let node = nodes.first().context("a node")?;
    bed.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: found, namespace: default}, spec: {
            nodeName: found-1, restartPolicy: Never, automountServiceAccountToken: false,
            containers: [{name: app, image: 'docker.io/found/app:1', command: ['true']}]}}",
    )?;
    bed.cluster.kubectl(&["wait", "pod/found", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s"])?;
    wait_listed(bed, node, "docker.io/found/app:1", true)?;
    for (name, pull) in [("found-if-not-present", "IfNotPresent"), ("found-never", "Never")] {
        bed.apply(&format!(
            "{{apiVersion: drop.corewire.io/v1alpha1, kind: CachedImage, metadata: {{name: {name}}},
               spec: {{image: docker.io/found/app, tag: '1', imagePullPolicy: {pull}, nodeSelector: {{scenario: found}}}}}}"
        ))?;
        bed.wait_cached(name, 1)?;
    }
    let pods = bed.pods_of("docker.io/found/app:1");
    ensure!(pods.is_empty(), "nothing had to be pulled: {pods:?}");
    bed.wait("the NodeCache to remember what was found", |sight| {
        let images = &sight.caches.get("found-1")?.status.as_ref()?.images;
        images.iter().any(|image| image.image == "docker.io/found/app:1" && image.found_at.is_some()).then_some(())
    })
}

pub fn an_image_that_is_removed_is_pulled_again_there(bed: &Bed) -> Result<()> {
    let image = "docker.io/evicted/app:1";
    bed.cluster.registry().push("evicted/app", "1", &ImageSpec::runnable())?;
    let nodes = bed.nodes("evicted", 2)?;
    let node = nodes.first().context("a node")?;
    bed.apply(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {name: evicted}
spec: {maxConcurrentNodes: 2, minDelayBetweenPulls: 0s}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: evicted}
spec: {image: docker.io/evicted/app, tag: '1', policyRef: {name: evicted}, nodeSelector: {scenario: evicted}}
",
    )?;
    bed.wait_cached("evicted", 2)?;
    for round in 1..=2 {
        for node in &nodes {
            wait_listed(bed, node, image, true)?;
        }
        node.remove_image(image)?;
        wait_listed(bed, node, image, false)?;
        bed.wait_image("evicted", |status, ready| ready.reason == "Evicted" && status.ready.as_deref() == Some("1/2"))?;
        bed.wait_cached("evicted", 2)?;
        let eviction = bed.wait("the eviction on record", |sight| {
            let images = &sight.caches.get("evicted-1")?.status.as_ref()?.images;
            images.iter().find(|record| record.image == image)?.eviction
        })?;
        ensure!(eviction.count == round, "{eviction:?}");
    }
    bed.wait_no_pod(image)?;
    let sight = bed.look();
    let pulls = |node: &str| {
        sight.all_pods.values().filter(|pod| pod.node == node && pod.images.contains(&image.to_owned())).count()
    };
    ensure!((pulls("evicted-1"), pulls("evicted-2")) == (3, 1), "{:#?}", sight.all_pods);
    drop(sight);
    bed.wait_events("evicted", &[("Cached", 3), ("Evicted", 2)])
}

pub fn a_moved_tag_is_noticed_by_one_node_and_followed_by_the_others(bed: &Bed) -> Result<()> {
    let image = "docker.io/moved/app:1";
    let registry = bed.cluster.registry();
    let old = registry.push("moved/app", "1", &ImageSpec::runnable())?;
    bed.nodes("moved", 2)?;
    bed.apply(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {name: moved}
spec: {maxConcurrentNodes: 2, minDelayBetweenPulls: 0s, repullInterval: 20s}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: moved}
spec: {image: docker.io/moved/app, tag: '1', policyRef: {name: moved}, nodeSelector: {scenario: moved}}
",
    )?;
    bed.wait_cached("moved", 2)?;
    // The tag has not moved: one of the two nodes asks, and the other does not pull.
    let asked = |pods: usize| {
        bed.wait(&format!("{pods} Pods"), |sight| {
            let of_image = sight.all_pods.values().filter(|pod| pod.images.iter().any(|other| other == image));
            (of_image.count() >= pods).then_some(())
        })
    };
    asked(3)?;
    asked(4)?;
    let new = registry.push("moved/app", "1", &ImageSpec::runnable())?;
    ensure!(old != new, "another image");
    bed.wait("both nodes to have the new image", |sight| {
        let digest = |node: &str| {
            let images = &sight.caches.get(node)?.status.as_ref()?.images;
            images.iter().find(|record| record.image == image)?.digest.clone()
        };
        (digest("moved-1").as_ref() == Some(&new) && digest("moved-2").as_ref() == Some(&new)).then_some(())
    })?;
    let shown = bed.wait_image("moved", |status, _| status.resolved_digest.as_deref() == Some(new.as_str()))?;
    ensure!(shown.status.is_some_and(|status| status.ready.as_deref() == Some("2/2")));
    bed.cluster.kubectl(&["delete", "cachedimage", "moved"])?;
    bed.wait_no_pod(image)?;

    let history: Vec<_> = bed.look().history.iter().filter(|(name, ..)| name == "moved").cloned().collect();
    let first_cached = history.iter().position(|(_, reason, _)| reason == "Cached").context("it was cached")?;
    ensure!(
        history.iter().skip(first_cached).all(|(_, reason, ready)| reason == "Cached" && ready == "2/2"),
        "{history:?}"
    );
    let pods: BTreeMap<_, _> = bed
        .look()
        .all_pods
        .clone()
        .into_iter()
        .filter(|(_, pod)| pod.images.iter().any(|other| other == image))
        .collect();
    let lives = requests::lives(&bed.cluster.audit()?, &pods);
    // The first two Pods filled the nodes. From then on each Pod asks an interval after the last one, except for the
    // Pod that follows on the node that saw the move.
    let soon = lives.iter().skip(1).zip(lives.iter().skip(2));
    let soon = soon.filter(|(one, next)| next.from.duration_since(one.from) < SignedDuration::from_secs(20)).count();
    ensure!(soon == 1, "{soon} Pods came before their interval had passed: {lives:#?}");
    Ok(())
}

/// How many images a node lists at most.
const LISTED: usize = 50;

pub fn a_list_that_is_full_tells_of_large_images_only(bed: &Bed) -> Result<()> {
    let registry = bed.cluster.registry();
    let nodes = bed.nodes("many", 1)?;
    let node = nodes.first().context("a node")?;
    let push = |app: &str, bytes: usize| registry.push(&format!("many/{app}"), "1", &ImageSpec::scratch().layer(bytes));
    for app in 0..LISTED {
        push(&format!("filler-{app}"), 100_000)?;
        node.pull(&format!("docker.io/many/filler-{app}:1"))?;
    }
    push("small", 1)?;
    node.pull("docker.io/many/small:1")?;
    push("found", 1 << 20)?;
    node.pull("docker.io/many/found:1")?;
    push("large", 1 << 20)?;
    let want = |app: &str| {
        bed.apply(&format!(
            "{{apiVersion: drop.corewire.io/v1alpha1, kind: CachedImage, metadata: {{name: many-{app}}},
               spec: {{image: docker.io/many/{app}, tag: '1', imagePullPolicy: IfNotPresent,
                       nodeSelector: {{scenario: many}}}}}}"
        ))
    };
    want("large")?;
    bed.wait_cached("many-large", 1)?;
    let listed = |app: &str| format!("docker.io/many/{app}:1");
    wait_listed(bed, node, &listed("large"), true)?;
    let sight = bed.look();
    let status = sight.nodes.get(node.name()).and_then(|node| node.status.as_ref());
    let count = status.and_then(|status| status.images.as_ref()).map_or(0, Vec::len);
    drop(sight);
    ensure!(count == LISTED, "the node lists {count} images");

    // A listed image is present, without a Pod. A small image that is not listed may be present or not, so the kubelet
    // is asked.
    want("found")?;
    bed.wait_cached("many-found", 1)?;
    ensure!(bed.pods_of(&listed("found")).is_empty(), "what is listed needs no Pod");
    want("small")?;
    bed.wait_cached("many-small", 1)?;
    ensure!(bed.pods_of(&listed("small")).len() == 1, "{:?}", bed.pods_of(&listed("small")));

    // A large image would be listed, so it is gone. A small image may be present or not.
    node.remove_image(&listed("small"))?;
    node.remove_image(&listed("large"))?;
    wait_listed(bed, node, &listed("large"), false)?;
    bed.wait_image("many-large", |_, ready| ready.reason == "Evicted")?;
    bed.wait_cached("many-large", 1)?;
    ensure!(bed.pods_of(&listed("large")).len() == 2, "{:?}", bed.pods_of(&listed("large")));
    bed.wait_cached("many-small", 1)?;
    bed.wait_events("many-small", &[("Cached", 1)])?;
    ensure!(bed.pods_of(&listed("small")).len() == 1, "{:?}", bed.pods_of(&listed("small")));
    Ok(())
}

pub fn a_node_that_lists_fewer_images_than_others_evicts_none(bed: &Bed) -> Result<()> {
    const IMAGES: usize = 30;
    const FEW: usize = 20;
    let options = |name: &str, kubelet: serde_json::Value| NodeOptions {
        labels: [("scenario".to_owned(), "lists".to_owned())].into(),
        kubelet,
        ..NodeOptions::new(name)
    };
    let nodes = bed.cluster.add_nodes(vec![
        options("lists-few", serde_json::json!({ "nodeStatusMaxImages": FEW })),
        options("lists-many", serde_json::json!({})),
        options("lists-all", serde_json::json!({ "nodeStatusMaxImages": -1 })),
    ])?;
    let mut manifests = "
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {name: lists}
spec: {maxConcurrentNodes: 3, minDelayBetweenPulls: 0s}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImageSet
metadata: {name: lists}
spec:
  policyRef: {name: lists}
  nodeSelector: {scenario: lists}
  images:
"
    .to_owned();
    for app in 0..IMAGES {
        // The first image is the smallest, and so the first to be cut off.
        let spec = ImageSpec::runnable().layer((app + 2) * 100_000);
        bed.cluster.registry().push(&format!("lists/app-{app}"), "1", &spec)?;
        manifests.push_str(&format!("  - {{image: docker.io/lists/app-{app}, tag: '1'}}\n"));
    }
    bed.apply(&manifests)?;
    let image = |app: usize| format!("docker.io/lists/app-{app}:1");
    let all_cached = || {
        bed.wait("all images on all nodes", |sight| {
            let status = sight.sets.get("lists")?.status.as_ref()?;
            let ready = condition::ready(&status.conditions)?;
            (ready.status == ConditionStatus::True && ready.reason == "AllReady").then_some(())
        })
    };
    all_cached()?;
    for app in 0..IMAGES {
        bed.wait_no_pod(&image(app))?;
    }
    let count = |node: &str| {
        let sight = bed.look();
        let status = sight.nodes.get(node).and_then(|node| node.status.as_ref());
        status.and_then(|status| status.images.as_ref()).map_or(0, Vec::len)
    };
    for node in &nodes {
        wait_listed(bed, node, &image(IMAGES - 1), true)?;
    }
    ensure!(
        count("lists-few") == FEW && count("lists-many") > IMAGES,
        "{} {}",
        count("lists-few"),
        count("lists-many")
    );

    // Drop notices an image that is removed from each node, although only one of the nodes has a short list. By then
    // the wait for a pull to show in the list has passed.
    for node in &nodes {
        node.remove_image(&image(IMAGES - 1))?;
        wait_listed(bed, node, &image(IMAGES - 1), false)?;
    }
    bed.wait("three evictions", |sight| {
        let evicted = |node: &&Arc<Node>| {
            let images = &sight.caches.get(node.name())?.status.as_ref()?.images;
            let record = images.iter().find(|record| record.image == image(IMAGES - 1))?;
            record.eviction.as_ref().filter(|eviction| eviction.count == 1).map(drop)
        };
        (nodes.iter().filter_map(|node| evicted(&node)).count() == nodes.len()).then_some(())
    })?;
    all_cached()?;
    let sight = bed.look();
    for cache in nodes.iter().filter_map(|node| sight.caches.get(node.name())) {
        let status = cache.status.as_ref().context("a status")?;
        let evicted: Vec<_> = status.images.iter().filter(|record| record.eviction.is_some()).collect();
        ensure!(evicted.len() == 1 && status.ready == format!("{IMAGES}/{IMAGES}"), "{evicted:#?} {}", status.ready);
    }
    for app in 0..IMAGES {
        let pods = sight.all_pods.values().filter(|pod| pod.images.contains(&image(app)));
        let expected = if app == IMAGES - 1 { 2 * nodes.len() } else { nodes.len() };
        ensure!(pods.clone().count() == expected, "{}: {:#?}", image(app), pods.collect::<Vec<_>>());
    }
    Ok(())
}
