//! Nodes that are not ready, that change, and that leave.

use anyhow::{Context, Result, ensure};
use drop_e2e::{Bed, Fleet};
use drop_testbed::{AuditEvent, ImageSpec, NodeOptions};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{self as core, NodeCondition};

/// Waits for a request of the operator after `change` for which `is_it` holds.
fn follows(bed: &Bed, change: Timestamp, what: &str, is_it: impl Fn(&AuditEvent) -> bool) -> Result<()> {
    bed.wait_request(what, |event| event.request_received >= change && is_it(event)).map(drop)
}

/// Waits until one of `pods` is requested after `change`.
fn pulls_follow(bed: &Bed, change: Timestamp, pods: &[String]) -> Result<()> {
    follows(bed, change, "a Pod", |event| event.verb == "create" && pods.contains(&event.name))
}

/// Waits until the CachedImage's status is written after `change`.
fn status_follows(bed: &Bed, change: Timestamp, image: &str) -> Result<()> {
    follows(bed, change, "a status", |event| event.resource == "cachedimages" && event.name == image)
}

/// Returns when the node last became Ready, or not Ready: the start of that second.
fn readiness_changed(bed: &Bed, node: &str) -> Result<Timestamp> {
    let sight = bed.look();
    let ready = sight.nodes.get(node).and_then(readiness);
    Ok(ready.and_then(|ready| ready.last_transition_time.as_ref()).context("a Ready condition")?.0)
}

/// Returns the condition `Ready` of a node.
fn readiness(node: &core::Node) -> Option<&NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == "Ready")
}

/// Tolerations of nodes that are not Ready, as a user writes them.
const TOLERATIONS: &str = "[
    {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoSchedule},
    {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoSchedule}]";

pub fn a_node_without_a_network_is_warmed_over_its_own(bed: &Bed) -> Result<()> {
    for app in ["early", "late"] {
        bed.cluster.registry().push(&format!("unready/{app}"), "1", &ImageSpec::runnable())?;
    }
    let node = bed.cluster.add_node(NodeOptions { cni: false, ..NodeOptions::new("unready-1") })?;
    bed.apply(&format!(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {{name: unready}}
spec: {{minDelayBetweenPulls: 0s, hostNetwork: NotReadyNodes}}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {{name: unready-early}}
spec:
  image: docker.io/unready/early:1
  policyRef: {{name: unready}}
  nodeSelector: {{kubernetes.io/hostname: unready-1}}
  tolerations: {TOLERATIONS}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {{name: unready-late}}
spec:
  image: docker.io/unready/late:1
  nodeSelector: {{kubernetes.io/hostname: unready-1}}
  tolerations: {TOLERATIONS}
"
    ))?;
    bed.wait_cached("unready-early", 1)?;
    bed.wait_image("unready-late", |_, ready| {
        ready.reason == "Waiting" && ready.message.contains("unready-1: the network for Pods is not up")
    })?;
    ensure!(bed.pods_of("docker.io/unready/late:1").is_empty(), "a Pod would only wait");

    node.enable_network()?;
    bed.wait_cached("unready-late", 1)?;
    let pods = bed.pods_of("docker.io/unready/early:1");
    ensure!(pods.len() == 1, "what was there is not pulled again: {pods:?}");
    Ok(())
}

pub fn labels_cordons_and_taints_are_followed(bed: &Bed) -> Result<()> {
    let image = "docker.io/follow/app:1";
    bed.cluster.registry().push("follow/app", "1", &ImageSpec::runnable())?;
    let nodes = bed.nodes("follow", 2)?;
    bed.apply(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {name: follow}
spec: {minDelayBetweenPulls: 0s}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: follow}
spec: {image: docker.io/follow/app, tag: '1', policyRef: {name: follow}, nodeSelector: {warm: 'yes'}}
",
    )?;
    bed.wait_image("follow", |_, ready| {
        ready.reason == "NoMatchingNodes" && ready.message.contains("label warm=yes is missing")
    })?;
    let change = |arguments: &[&str]| -> Result<Timestamp> {
        let at = Timestamp::now();
        bed.cluster.kubectl(arguments)?;
        Ok(at)
    };
    let labelled = change(&["label", "node", "follow-1", "warm=yes"])?;
    bed.wait_cached("follow", 1)?;
    let first = bed.pods_of(image);
    ensure!(first.len() == 1, "{first:?}");
    pulls_follow(bed, labelled, &first)?;
    change(&["taint", "node", "follow-2", "gpu=yes:NoSchedule"])?;
    change(&["label", "node", "follow-2", "warm=yes"])?;
    let cordoned = change(&["cordon", "follow-1"])?;
    bed.wait_image("follow", |status, ready| ready.reason == "NoMatchingNodes" && status.nodes_targeted == 0)?;
    status_follows(bed, cordoned, "follow")?;
    ensure!(bed.pods_of(image) == first, "neither is a target");
    let tolerated = change(&["taint", "node", "follow-2", "gpu-"])?;
    bed.wait_cached("follow", 1)?;
    let both = bed.pods_of(image);
    ensure!(both.len() == 2, "each node pulled once: {both:?}");
    pulls_follow(bed, tolerated, &both)?;
    let uncordoned = change(&["uncordon", "follow-1"])?;
    bed.wait_cached("follow", 2)?;
    status_follows(bed, uncordoned, "follow")?;
    ensure!(bed.pods_of(image) == both, "what was pulled is not pulled again");

    // A node that joins, and a kubelet that restarts.
    bed.cluster.add_node(NodeOptions {
        labels: [("warm".to_owned(), "yes".to_owned())].into(),
        ..NodeOptions::new("follow-3")
    })?;
    bed.wait_cached("follow", 3)?;
    let all = bed.pods_of(image);
    ensure!(all.len() == 3, "only the new node pulls: {all:?}");
    let joined: Vec<_> = all.iter().filter(|pod| !both.contains(pod)).cloned().collect();
    pulls_follow(bed, readiness_changed(bed, "follow-3")?, &joined)?;
    let unlabelled = change(&["label", "node", "follow-3", "warm-"])?;
    bed.wait_cached("follow", 2)?;
    status_follows(bed, unlabelled, "follow")?;
    // A kubelet that starts first reports that it is not ready.
    let restarted = Timestamp::now();
    for node in &nodes {
        node.stop()?;
        node.start()?;
    }
    for node in ["follow-1", "follow-2"] {
        bed.wait(&format!("{node} to be Ready again"), |sight| {
            let ready = readiness(sight.nodes.get(node)?)?;
            let reported_at = ready.last_heartbeat_time.as_ref()?.0;
            (ready.status == "True" && reported_at > restarted).then_some(())
        })?;
    }
    bed.wait_cached("follow", 2)?;
    ensure!(bed.pods_of(image) == all, "what was pulled is not pulled again");
    Ok(())
}

pub fn a_lost_kubelet_holds_no_slot(bed: &Bed) -> Result<()> {
    let image = "docker.io/lost/app:1";
    bed.cluster.registry().push("lost/app", "1", &ImageSpec::runnable().layer(1 << 20))?;
    let nodes = bed.nodes("lost", 2)?;
    let node = nodes.first().context("a node")?;
    node.pause()?;
    bed.apply(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {name: lost}
spec: {minDelayBetweenPulls: 0s, failureBackoff: {initial: 2s, max: 4s}}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: lost}
spec:
  image: docker.io/lost/app:1
  policyRef: {name: lost}
  nodeSelector: {scenario: lost}
  tolerations:
    - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoSchedule}
",
    )?;
    // One node at a time may pull, and the lost node comes first.
    bed.wait("a Pod on the lost node", |sight| sight.all_pods.values().any(|pod| pod.node == "lost-1").then_some(()))?;
    bed.wait_image("lost", |status, _| status.ready.as_deref() == Some("1/2"))?;
    bed.wait("the lost node's Pod to go", |sight| {
        let mut nodes = sight.pods.values().filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref());
        (!nodes.any(|node| node == "lost-1")).then_some(())
    })?;
    let before = bed.pods_of(image);
    follows(bed, readiness_changed(bed, "lost-1")?, "the end of its Pod", |event| {
        event.verb == "delete" && before.contains(&event.name)
    })?;
    let resumed_at = Timestamp::now();
    node.resume()?;
    bed.wait_cached("lost", 2)?;
    // The recovered node pulls again, and no other node does.
    let new: Vec<_> = bed.pods_of(image).into_iter().filter(|pod| !before.contains(pod)).collect();
    let sight = bed.look();
    let on: Vec<_> = new.iter().filter_map(|pod| Some(sight.all_pods.get(pod)?.node.as_str())).collect();
    ensure!(on == ["lost-1"], "{on:?}");
    drop(sight);
    let audit = bed.cluster.audit()?;
    let reports = audit.iter().filter(|event| event.user == "system:node:lost-1" && event.subresource == "status");
    let reports = reports.filter(|event| event.resource == "nodes").map(|event| event.request_received);
    let reported_at = reports.filter(|at| *at >= resumed_at).min().context("the kubelet reports again")?;
    pulls_follow(bed, reported_at, &new)
}

pub fn a_machine_under_an_old_name_starts_empty(bed: &Bed) -> Result<()> {
    let image = "docker.io/again/app:1";
    bed.cluster.registry().push("again/app", "1", &ImageSpec::runnable())?;
    let options =
        NodeOptions { labels: [("scenario".to_owned(), "again".to_owned())].into(), ..NodeOptions::new("again-1") };
    let other = NodeOptions { name: "again-2".to_owned(), ..options.clone() };
    bed.cluster.add_nodes(vec![options.clone(), other])?;
    bed.apply(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {name: again}
spec: {minDelayBetweenPulls: 0s}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: again}
spec: {image: docker.io/again/app, tag: '1', policyRef: {name: again}, nodeSelector: {scenario: again}}
",
    )?;
    bed.wait_cached("again", 2)?;
    let before = bed.pods_of(image);
    let uid = |bed: &Bed| {
        bed.wait("the NodeCache", |sight| {
            let cache = sight.caches.get("again-1")?;
            let images = &cache.status.as_ref()?.images;
            images
                .iter()
                .any(|record| record.image == image && record.pulled_at.is_some())
                .then(|| cache.spec.node_uid.clone())
        })
    };
    let first = uid(bed)?;
    bed.cluster.remove_node("again-1")?;
    bed.wait("the NodeCache to go with its node", |sight| (!sight.caches.contains_key("again-1")).then_some(()))?;
    bed.cluster.add_node(options)?;
    bed.wait_cached("again", 2)?;
    ensure!(uid(bed)? != first, "another machine has a NodeCache of its own");
    let new: Vec<_> = bed.pods_of(image).into_iter().filter(|pod| !before.contains(pod)).collect();
    ensure!(before.len() == 2 && new.len() == 1, "the new machine pulls, and no other: {before:?}, then {new:?}");
    pulls_follow(bed, readiness_changed(bed, "again-1")?, &new)
}

pub fn a_node_that_rejects_pods_is_told_once_and_costs_few_writes(bed: &Bed) -> Result<()> {
    const IMAGES: usize = 20;
    const REJECTED: usize = 6;
    let options = |name: &str, most_pods: usize| NodeOptions {
        labels: [("scenario".to_owned(), "crowded".to_owned())].into(),
        kubelet: serde_json::json!({ "maxPods": most_pods }),
        ..NodeOptions::new(name)
    };
    bed.cluster.add_nodes(vec![options("crowded-full", 1), options("crowded-free", 200)])?;
    bed.cluster.registry().push("crowd/filler", "1", &ImageSpec::runnable())?;
    bed.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: filler, namespace: default}, spec: {
            nodeName: crowded-full, automountServiceAccountToken: false, terminationGracePeriodSeconds: 1,
            containers: [{name: app, image: 'docker.io/crowd/filler:1'}]}}",
    )?;
    bed.cluster.kubectl(&["wait", "pod/filler", "--for=condition=Ready", "--timeout=120s"])?;
    let fleet = Fleet {
        name: "crowded",
        images: IMAGES,
        policy: "{maxConcurrentNodes: 2, minDelayBetweenPulls: 0s, failureBackoff: {initial: 1s, max: 2s}}",
        selector: "{scenario: crowded}",
    };
    fleet.push(bed)?;
    fleet.apply(bed)?;
    for image in 0..IMAGES {
        bed.wait_image(&format!("crowded-{image}"), |status, _| status.nodes_ready == 1)?;
    }
    bed.wait_events("crowded-full", &[("OutOfpods", 1)])?;

    // Only the full node keeps trying.
    let since = Timestamp::now();
    let rejected = || fleet.pods(bed).values().filter(|pod| pod.node == "crowded-full").count();
    let before = rejected();
    bed.wait(&format!("{REJECTED} more Pods to be rejected"), |sight| {
        let here = sight.all_pods.values().filter(|pod| {
            pod.node == "crowded-full" && pod.images.iter().any(|image| image.starts_with("docker.io/crowded/"))
        });
        (here.count() >= before + REJECTED).then_some(())
    })?;
    let is_write = |event: &&AuditEvent| {
        event.resource == "cachedimages" && event.verb == "patch" && event.name.starts_with("crowded-")
    };
    let sent = bed.requests()?;
    let all = sent.iter().filter(is_write).count();
    let late = sent.iter().filter(is_write).filter(|event| event.request_received > since).count();
    eprintln!("{IMAGES} images, {} rejected Pods: {all} writes of statuses, {late} in the last {REJECTED}", rejected());
    // There is not one write for each image and rejected Pod.
    ensure!(late <= IMAGES, "{late} writes of statuses for {IMAGES} images and {REJECTED} rejected Pods");
    ensure!(all <= 6 * IMAGES, "{all} writes of statuses for {IMAGES} images");
    bed.wait_events("crowded-full", &[("OutOfpods", 1)])?;
    for image in 0..IMAGES {
        bed.wait_events(&format!("crowded-{image}"), &[])?;
    }

    bed.cluster.kubectl(&["delete", "pod", "filler"])?;
    fleet.wait_cached(bed, 2)?;
    bed.wait_events("crowded-full", &[("OutOfpods", 1), ("Recovered", 1)])
}
