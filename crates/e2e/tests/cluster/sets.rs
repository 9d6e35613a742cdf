//! CachedImageSets: the CachedImages that they own, and the number of requests that they cause.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use drop_api::{CachedImage, CachedImageSet, condition};
use drop_e2e::{Bed, Sight};
use drop_testbed::ImageSpec;

/// Returns the CachedImages that a set owns.
pub fn children(sight: &Sight, set: &str) -> Vec<CachedImage> {
    let owned = |image: &&CachedImage| {
        let owners = image.metadata.owner_references.iter().flatten();
        owners.into_iter().any(|owner| owner.kind == "CachedImageSet" && owner.name == set)
    };
    sight.images.values().filter(owned).cloned().collect()
}

/// Waits until the set `name` shows this reason and number of images, `AllReady 3/3`.
pub fn wait_set(bed: &Bed, name: &str, shows: &str) -> Result<CachedImageSet> {
    let found = bed.wait(&format!("{name} to show {shows}"), |sight| {
        let set = sight.sets.get(name)?;
        let status = set.status.as_ref()?;
        let ready = condition::ready(&status.conditions)?;
        let current = status.observed_generation == set.metadata.generation;
        let text = format!("{} {}", ready.reason, status.ready.as_deref().unwrap_or_default());
        (current && text == shows).then(|| set.clone())
    });
    found.with_context(|| format!("{name}: {:#?}", bed.look().sets.get(name).map(|set| &set.status)))
}

pub fn a_set_owns_one_cachedimage_for_each_image(bed: &Bed) -> Result<()> {
    for path in ["one/app", "two/app", "three/app"] {
        bed.cluster.registry().push(path, "sets", &ImageSpec::runnable())?;
    }
    bed.nodes("sets", 2)?;
    let set = |spec: &str, images: &str| {
        bed.apply(&format!(
            "{{apiVersion: drop.corewire.io/v1alpha1, kind: CachedImageSet, metadata: {{name: sets}},
               spec: {{policyRef: {{name: sets}}, nodeSelector: {{scenario: sets}}, {spec} images: [{images}]}}}}"
        ))
    };
    bed.apply(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {name: sets}
spec: {maxConcurrentNodes: 2, minDelayBetweenPulls: 0s}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: sets-mine, labels: {drop.corewire.io/imageset: sets}}
spec: {image: docker.io/one/app, tag: sets, policyRef: {name: sets}, nodeSelector: {scenario: sets}}
",
    )?;
    // The last segment and the tag are the same; one entry is wrong, and one repeated.
    let one = "{image: docker.io/one/app, tag: sets}";
    let all = format!("{one}, {{image: docker.io/two/app, tag: sets}}, {{image: docker.io/three/app, tag: sets}}");
    set("", &format!("{all}, {{image: 'https://wrong/app', tag: sets}}, {{image: one/app, tag: sets}}"))?;
    let shown = wait_set(bed, "sets", "Degraded 3/3")?;
    let message = condition::ready(&shown.status.unwrap_or_default().conditions).map(|ready| ready.message.clone());
    ensure!(message.as_deref().is_some_and(|text| text.contains("images[3] (https://wrong/app)")), "{message:?}");
    set("", &all)?;
    wait_set(bed, "sets", "AllReady 3/3")?;
    let pods: BTreeSet<String> = bed.pods_of("docker.io/two/app:sets").into_iter().collect();
    ensure!(pods.len() == 2, "one Pod on each node: {pods:?}");

    // Every field reaches every child of the set, and no other CachedImage.
    set(
        "imagePullPolicy: IfNotPresent, priority: 7, tolerations: [{key: sets, operator: Exists}], \
         imagePullSecrets: [{name: sets}],",
        &all,
    )?;
    bed.wait("every child to have the set's fields", |sight| {
        let has_all = |child: &CachedImage| {
            let spec = &child.spec;
            spec.priority == 7 && spec.tolerations.len() == 1 && spec.image_pull_secrets.len() == 1
        };
        let children = children(sight, "sets");
        (children.len() == 3 && children.iter().all(has_all)).then_some(())
    })?;
    ensure!(bed.look().images.get("sets-mine").is_some_and(|mine| mine.spec.priority == 0));
    let uids = |sight: &Sight| -> BTreeSet<_> {
        children(sight, "sets").into_iter().filter_map(|child| child.metadata.uid).collect()
    };
    let before = uids(&bed.look());

    // Removing an entry deletes its child; the others stay the same objects.
    set("", one)?;
    wait_set(bed, "sets", "AllReady 1/1")?;
    bed.wait("the children of two entries to go", |sight| (uids(sight).len() == 1).then_some(()))?;
    ensure!(uids(&bed.look()).is_subset(&before), "the child that stays is the same");

    // A set that is deleted in the foreground creates nothing until it is gone.
    bed.cluster.kubectl(&["delete", "cachedimageset", "sets", "--cascade=foreground"])?;
    ensure!(children(&bed.look(), "sets").is_empty(), "foreground deletion waits for the children");
    set("", one)?;
    wait_set(bed, "sets", "AllReady 1/1")?;
    bed.cluster.kubectl(&["delete", "cachedimageset", "sets", "--cascade=background"])?;
    bed.wait("the children to follow", |sight| children(sight, "sets").is_empty().then_some(()))?;
    ensure!(bed.look().images.contains_key("sets-mine"), "a label alone makes no child");
    bed.cluster.kubectl(&["delete", "cachedimage", "sets-mine"])?;
    Ok(())
}

pub fn the_longest_names_make_valid_children(bed: &Bed) -> Result<()> {
    let tag = "t".repeat(128);
    bed.cluster.registry().push("long/app", &tag, &ImageSpec::runnable())?;
    bed.nodes("longest", 1)?;
    for length in [63, 253] {
        let name = format!("longest-{}", "n".repeat(length - 8));
        bed.apply(&format!(
            "{{apiVersion: drop.corewire.io/v1alpha1, kind: CachedImageSet, metadata: {{name: {name}}},
               spec: {{nodeSelector: {{scenario: longest}}, images: [{{image: long/app, tag: {tag}}}]}}}}"
        ))?;
        wait_set(bed, &name, "AllReady 1/1")?;
        bed.cluster.kubectl(&["delete", "cachedimageset", &name])?;
    }
    Ok(())
}

const IMAGES: usize = 20;
const NODES: usize = 4;

pub fn twenty_images_on_four_nodes_cost_few_requests(bed: &Bed) -> Result<()> {
    let repository = |image: usize| format!("twenty/app-{image}");
    for image in 0..IMAGES {
        bed.cluster.registry().push(&repository(image), "1", &ImageSpec::runnable())?;
    }
    bed.nodes("twenty", NODES)?;
    let images: Vec<String> =
        (0..IMAGES).map(|image| format!("{{image: docker.io/{}, tag: '1'}}", repository(image))).collect();
    bed.apply(&format!(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {{name: twenty}}
spec: {{maxConcurrentNodes: {NODES}, minDelayBetweenPulls: 0s, imagesPerPod: {IMAGES}}}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImageSet
metadata: {{name: twenty}}
spec: {{policyRef: {{name: twenty}}, nodeSelector: {{scenario: twenty}}, images: [{}]}}
",
        images.join(", ")
    ))?;
    wait_set(bed, "twenty", "AllReady 20/20")?;
    bed.wait_no_pod("docker.io/twenty/app-0:1")?;
    let pods = bed.pods_of("docker.io/twenty/app-0:1");
    ensure!(pods.len() == NODES, "one Pod on each node: {pods:?}");

    let is_ours = |name: &str| name == "twenty" || name.starts_with("twenty-");
    let sent: Vec<_> =
        bed.requests()?.into_iter().filter(|event| event.verb != "watch" && is_ours(&event.name)).collect();
    let pairs = IMAGES * NODES;
    let mut kinds = std::collections::BTreeMap::<_, usize>::new();
    for event in &sent {
        *kinds.entry((event.verb.as_str(), event.resource.as_str())).or_default() += 1;
    }
    eprintln!(
        "a set of {IMAGES} images on {NODES} nodes: {} requests, {:.2} per image and node",
        sent.len(),
        sent.len() as f64 / pairs as f64
    );
    for ((verb, resource), count) in kinds {
        eprintln!("  {verb} {resource}: {count}");
    }
    // Statuses are also written at intervals: a slow machine causes more of them.
    for (verb, resource, exactly) in
        [("create", "cachedimages", IMAGES), ("create", "pods", NODES), ("delete", "pods", NODES)]
    {
        let count = sent.iter().filter(|event| event.verb == verb && event.resource == resource).count();
        ensure!(count == exactly, "{count} times {verb} {resource}, not {exactly}");
    }
    ensure!(sent.len() <= 2 * pairs, "{} requests for {pairs} pulls", sent.len());
    bed.cluster.kubectl(&["delete", "cachedimageset", "twenty"])?;
    Ok(())
}
