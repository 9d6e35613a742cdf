//! The first steps of a user.

use anyhow::{Result, ensure};
use drop_e2e::Bed;
use drop_testbed::ImageSpec;

/// The CachedImage of the README's quickstart.
const QUICKSTART: &str = include_str!("../../../../examples/quickstart.yaml");
const ALPINE: &str = "docker.io/library/alpine:3.20";

pub fn the_quickstart_becomes_cached(bed: &Bed) -> Result<()> {
    let digest = bed.cluster.registry().push("library/alpine", "3.20", &ImageSpec::runnable())?;
    let nodes = bed.nodes("alone", 2)?;
    bed.apply(QUICKSTART)?;

    let pod = bed.wait_pod(ALPINE)?;
    let labelled = bed.cluster.kubectl(&[
        "get",
        "pods",
        "-n",
        "drop-system",
        "-l",
        "drop.corewire.io/cachedimage=alpine-3-20",
        "-o",
        "wide",
    ])?;
    let name = pod.metadata.name.unwrap_or_default();
    ensure!(labelled.contains(&name), "{name} is not among\n{labelled}");

    let image = bed.wait_cached("alpine-3-20", 2)?;
    let status = image.status.unwrap_or_default();
    ensure!(status.resolved_digest.as_deref() == Some(digest.as_str()), "{status:#?}");
    let table = bed.cluster.kubectl(&["get", "cachedimages", "alpine-3-20"])?;
    for cell in ["IMAGE", "TAG", "STATUS", "READY", "AGE", "docker.io/library/alpine", "3.20", "Cached", "2/2"] {
        ensure!(table.contains(cell), "{cell} is not in\n{table}");
    }
    bed.wait_no_pod(ALPINE)?;
    for node in &nodes {
        let cache = bed.wait(node.name(), |sight| sight.caches.get(node.name()).cloned())?;
        ensure!(cache.status.as_ref().is_some_and(|status| status.ready == "1/1"), "{cache:#?}");
    }

    bed.cluster.kubectl(&["delete", "cachedimage", "alpine-3-20"])?;
    // The nodes remember the image for a day, in case it is wanted again.
    bed.wait("the NodeCaches to say that nobody wants the image", |sight| {
        let is_unwanted = |cache: &drop_api::NodeCache| {
            let status = cache.status.as_ref();
            status.is_some_and(|status| {
                status.ready == "0/0" && status.images.iter().all(|image| image.unwanted_since.is_some())
            })
        };
        sight.caches.values().all(is_unwanted).then_some(())
    })?;
    ensure!(bed.look().pods.is_empty(), "Pods are left: {:?}", bed.look().pods.keys());
    for node in &nodes {
        let images = node.ctr(&["images", "ls", "-q"])?;
        ensure!(images.contains(ALPINE), "the image is gone from {}:\n{images}", node.name());
    }
    Ok(())
}

pub fn an_image_without_programs_is_cached(bed: &Bed) -> Result<()> {
    bed.cluster.registry().push("test/scratch", "1", &ImageSpec::scratch())?;
    bed.nodes("scratch", 1)?;
    bed.apply(
        "{apiVersion: drop.corewire.io/v1alpha1, kind: CachedImage, metadata: {name: scratch},
          spec: {image: docker.io/test/scratch, tag: '1', nodeSelector: {scenario: scratch}}}",
    )?;
    bed.wait_cached("scratch", 1)?;
    bed.wait_no_pod("docker.io/test/scratch:1")
}
