//! Nodes that are not ready, that change, and that go.

use anyhow::{Context, Result, ensure};
use drop_e2e::Bed;
use drop_testbed::{ImageSpec, NodeOptions};

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
    bed.nodes("follow", 2)?;
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
    bed.cluster.kubectl(&["label", "node", "follow-1", "warm=yes"])?;
    bed.wait_cached("follow", 1)?;
    bed.cluster.kubectl(&["taint", "node", "follow-2", "gpu=yes:NoSchedule"])?;
    bed.cluster.kubectl(&["label", "node", "follow-2", "warm=yes"])?;
    bed.cluster.kubectl(&["cordon", "follow-1"])?;
    bed.wait_image("follow", |status, ready| ready.reason == "NoMatchingNodes" && status.nodes_targeted == 0)?;
    bed.cluster.kubectl(&["taint", "node", "follow-2", "gpu-"])?;
    bed.wait_cached("follow", 1)?;
    bed.cluster.kubectl(&["uncordon", "follow-1"])?;
    bed.wait_cached("follow", 2)?;
    let pods = bed.pods_of(image);
    ensure!(pods.len() == 2, "each node pulled once: {pods:?}");
    Ok(())
}

pub fn a_lost_kubelet_holds_no_slot(bed: &Bed) -> Result<()> {
    let registry = bed.cluster.registry();
    registry.push("lost/app", "1", &ImageSpec::runnable().layer(1 << 20))?;
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
    // One node at a time may pull, and the lost one comes first.
    bed.wait("a Pod on the lost node", |sight| sight.all_pods.values().any(|pod| pod.node == "lost-1").then_some(()))?;
    bed.wait_image("lost", |status, _| status.ready.as_deref() == Some("1/2"))?;
    bed.wait("the lost node's Pod to go", |sight| {
        let mut nodes = sight.pods.values().filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref());
        (!nodes.any(|node| node == "lost-1")).then_some(())
    })?;
    node.resume()?;
    bed.wait_cached("lost", 2)?;
    Ok(())
}

pub fn a_machine_under_an_old_name_starts_empty(bed: &Bed) -> Result<()> {
    let image = "docker.io/again/app:1";
    bed.cluster.registry().push("again/app", "1", &ImageSpec::runnable())?;
    bed.nodes("again", 1)?;
    bed.apply(
        "{apiVersion: drop.corewire.io/v1alpha1, kind: CachedImage, metadata: {name: again},
          spec: {image: docker.io/again/app, tag: '1', nodeSelector: {scenario: again}}}",
    )?;
    bed.wait_cached("again", 1)?;
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
    bed.nodes("again", 1)?;
    bed.wait_cached("again", 1)?;
    ensure!(uid(bed)? != first, "another machine has a NodeCache of its own");
    ensure!(bed.pods_of(image).len() == 2, "{:?}", bed.pods_of(image));
    Ok(())
}
