//! Objects that change during a roll-out, and unusual objects.

use anyhow::{Context, Result, ensure};
use drop_e2e::Bed;
use drop_testbed::ImageSpec;

pub fn an_image_is_edited_while_it_is_pulled(bed: &Bed) -> Result<()> {
    let registry = bed.cluster.registry();
    for tag in ["old", "new"] {
        registry.push("edited/app", tag, &ImageSpec::runnable().layer(1 << 20))?;
    }
    bed.nodes("edited", 1)?;
    registry.hold("edited/app");
    let manifest = |tag: &str| {
        format!(
            "{{apiVersion: drop.corewire.io/v1alpha1, kind: CachedImage, metadata: {{name: edited}},
               spec: {{image: docker.io/edited/app, tag: {tag}, nodeSelector: {{scenario: edited}}}}}}"
        )
    };
    bed.apply(&manifest("old"))?;
    bed.wait_pod("docker.io/edited/app:old")?;
    bed.wait_image("edited", |_, ready| ready.reason == "Pulling")?;

    // The old image is no longer wanted, so its Pod is deleted. The kubelet goes on with the pull, and until it has
    // finished, the node has no room for another Pod.
    bed.apply(&manifest("new"))?;
    bed.wait("the old Pod to be deleted", |sight| {
        let mut pods = sight.pods.values().filter(|pod| is_pulling(pod, "docker.io/edited/app:old"));
        pods.all(|pod| pod.metadata.deletion_timestamp.is_some()).then_some(())
    })?;
    registry.release("edited/app");
    bed.wait_cached("edited", 1)?;
    let cache = bed.wait("the NodeCache", |sight| sight.caches.get("edited-1").cloned())?;
    let status = cache.status.context("status")?;
    let images: Vec<_> = status.images.iter().map(|image| image.image.as_str()).collect();
    ensure!(images == ["docker.io/edited/app:new"], "{images:?}");
    Ok(())
}

pub fn two_cachedimages_of_one_image_share_a_pull(bed: &Bed) -> Result<()> {
    bed.cluster.registry().push("twice/app", "1", &ImageSpec::runnable())?;
    bed.nodes("twice", 1)?;
    bed.apply(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: twice-short}
spec: {image: 'twice/app:1', nodeSelector: {scenario: twice}}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: twice-full}
spec: {image: docker.io/twice/app, tag: '1', nodeSelector: {scenario: twice}}
",
    )?;
    bed.wait_cached("twice-short", 1)?;
    bed.wait_cached("twice-full", 1)?;
    let pods = bed.pods_of("docker.io/twice/app:1");
    ensure!(pods.len() == 1, "{pods:?}");
    Ok(())
}

pub fn long_names_and_digests_work(bed: &Bed) -> Result<()> {
    let digest = bed.cluster.registry().push("odd/app", "1", &ImageSpec::runnable())?;
    bed.nodes("odd", 1)?;
    let long = format!("{}.{}", "long".repeat(15), "name".repeat(48));
    ensure!(long.len() == 253, "the longest name that there is");
    bed.apply(&format!(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {{name: {long}}}
spec: {{image: docker.io/odd/app, digest: '{digest}', nodeSelector: {{scenario: odd}}}}
"
    ))?;
    let image = bed.wait_cached(&long, 1)?;
    let status = image.status.unwrap_or_default();
    ensure!(status.resolved_digest.as_deref() == Some(digest.as_str()), "{status:#?}");
    Ok(())
}

fn is_pulling(pod: &k8s_openapi::api::core::v1::Pod, image: &str) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.filter_map(|container| container.image.as_deref()).any(|other| other == image)
}
