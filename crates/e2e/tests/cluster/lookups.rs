//! Look-ups of images at their registry, counted by the registry.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_e2e::{Bed, pass_on};
use drop_testbed::{Answer, FakeServer, ImageSpec, Request};

/// How long the test waits for anything.
const LIMIT: Duration = Duration::from_secs(180);
const NODES: usize = 2;
const IMAGE: &str = "docker.io/lookups/app:1";
const MANIFEST: &str = "/v2/lookups/app/manifests/1";
/// The tag stays the same for this many intervals.
const INTERVALS: usize = 3;

pub fn registries_are_asked_so_that_no_pod_is(bed: &Bed) -> Result<()> {
    let registry = bed.cluster.registry();
    let old = registry.push("lookups/app", "1", &ImageSpec::runnable())?;
    let upstream = registry.address();
    let front = FakeServer::start()?;
    front.answer_with("/", move |request| pass_on(upstream, request));
    let _served = bed.serve("registry-1.docker.io", front.address())?;
    bed.nodes("lookups", NODES)?;

    a_tag_that_stays_costs_one_question_per_interval(bed, &front, &old).context("a tag that stays")?;
    let new = registry.push("lookups/app", "1", &ImageSpec::runnable())?;
    ensure!(new != old, "another image has another digest");
    a_tag_that_moves_is_pulled_once_by_each_node(bed, &new).context("a tag that moves")?;
    a_typo_is_told_without_a_pod(bed).context("a typo")?;
    nodes_find_out_where_the_registry_refuses_drop(bed, &front, upstream).context("a refusal")?;
    bed.cluster.kubectl(&["delete", "cachedimage", "lookups", "lookups-typo"])?;
    Ok(())
}

fn asked(requests: &[Request], method: &str) -> usize {
    requests.iter().filter(|request| request.method == method && request.path == MANIFEST).count()
}

fn a_tag_that_stays_costs_one_question_per_interval(bed: &Bed, front: &FakeServer, old: &str) -> Result<()> {
    bed.apply(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {name: lookups}
spec: {maxConcurrentNodes: 2, minDelayBetweenPulls: 0s, repullInterval: 10s}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: lookups}
spec: {image: docker.io/lookups/app, tag: '1', policyRef: {name: lookups}, nodeSelector: {scenario: lookups}}
",
    )?;
    let image = bed.wait_cached("lookups", NODES)?;
    let lookup = image.status.context("a status")?.lookup.context("an answer")?;
    ensure!(lookup.digest.as_deref() == Some(old) && lookup.message.is_none(), "{lookup:?}");
    front.wait(LIMIT, |requests| (asked(requests, "HEAD") > INTERVALS).then_some(()))?;
    ensure!(asked(&front.requests(), "GET") == 1, "a HEAD is enough where nothing has moved: {:#?}", front.requests());
    let pods = bed.pods_of(IMAGE);
    ensure!(pods.len() == NODES, "no Pod finds out what the registry tells: {pods:?}");
    Ok(())
}

fn a_tag_that_moves_is_pulled_once_by_each_node(bed: &Bed, new: &str) -> Result<()> {
    bed.wait("a roll-out", |sight| {
        let pods = sight.all_pods.values().filter(|pod| pod.images.iter().any(|image| image == IMAGE));
        (pods.count() >= 2 * NODES).then_some(())
    })?;
    bed.wait_no_pod(IMAGE)?;
    bed.wait_image("lookups", |status, ready| {
        ready.reason == "Cached" && status.resolved_digest.as_deref() == Some(new)
    })?;
    let pods = bed.pods_of(IMAGE);
    ensure!(pods.len() == 2 * NODES, "one pull on each node: {pods:?}");
    Ok(())
}

fn a_typo_is_told_without_a_pod(bed: &Bed) -> Result<()> {
    bed.apply(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: lookups-typo}
spec: {image: docker.io/lookups/app, tag: '9', policyRef: {name: lookups}, nodeSelector: {scenario: lookups}}
",
    )?;
    bed.wait_image("lookups-typo", |_, ready| {
        ready.reason == "ErrImagePull"
            && ready.message.contains("image not found")
            && ready.message.ends_with("lookups/app:9")
    })?;
    let pods = bed.pods_of("docker.io/lookups/app:9");
    ensure!(pods.is_empty(), "{pods:?}");
    Ok(())
}

fn nodes_find_out_where_the_registry_refuses_drop(bed: &Bed, front: &FakeServer, registry: SocketAddr) -> Result<()> {
    front.answer("/", Answer::status(403));
    bed.wait_image("lookups", |status, _| status.lookup.as_ref().is_some_and(|lookup| lookup.message.is_some()))?;
    bed.wait("a Pod that finds out whether the tag has moved", |sight| {
        let pods = sight.all_pods.values().filter(|pod| pod.images.iter().any(|image| image == IMAGE));
        (pods.count() > 2 * NODES).then_some(())
    })?;
    front.answer_with("/", move |request| pass_on(registry, request));
    bed.wait_image("lookups", |status, ready| {
        ready.reason == "Cached" && status.lookup.as_ref().is_some_and(|lookup| lookup.message.is_none())
    })?;
    Ok(())
}
