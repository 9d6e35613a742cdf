//! Failing pulls, and the pulls that wait for them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use drop_api::CachedImage;
use drop_e2e::requests::{self, Life};
use drop_e2e::{Bed, SeenPod};
use drop_testbed::{ImageSpec, PRIVATE_HOST};
use jiff::SignedDuration;

pub fn an_unknown_registry_delays_nobody_else(bed: &Bed) -> Result<()> {
    bed.cluster.registry().push("failures/good", "1", &ImageSpec::runnable())?;
    bed.nodes("failures", 2)?;
    bed.apply(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {name: failures}
spec: {minDelayBetweenPulls: 1s, failureBackoff: {initial: 4s, max: 16s}}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: broken-img}
spec: {image: registry.bad/x, tag: latest, priority: -5, policyRef: {name: failures}, nodeSelector: {scenario: failures}}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: failures-good}
spec: {image: failures/good, tag: '1', policyRef: {name: failures}, nodeSelector: {scenario: failures}}
",
    )?;
    // The more urgent image keeps failing. Meanwhile the other one is cached on all nodes.
    let first = bed.wait_image("broken-img", |_, ready| ready.reason == "ErrImagePull")?;
    let status = first.status.unwrap_or_default();
    ensure!(status.ready.as_deref() == Some("0/2"), "{status:#?}");
    bed.wait_cached("failures-good", 2)?;
    let again = bed.wait_image("broken-img", |status, ready| {
        ready.reason == "ImagePullBackOff" && status.consecutive_failures >= 4
    })?;
    let status = again.status.unwrap_or_default();
    let failure = status.failures.first().context("a failure is shown")?;
    ensure!(failure.message == "cannot resolve registry.bad", "{status:#?}");
    ensure!(failure.retry_at.is_some(), "{status:#?}");
    let message = &status.conditions.first().context("Ready")?.message;
    ensure!(message.starts_with("failures-") && message.contains(": cannot resolve registry.bad"), "{message}");

    bed.wait_events("broken-img", &[("ErrImagePull", 1)])?;
    bed.wait_events("failures-good", &[("Cached", 1)])?;

    // One node at a time tries, and each attempt waits longer than the one before: 4 s, 8 s, 16 s, less 10 % of jitter.
    let is_bad = |image: &String| image == "registry.bad/x:latest";
    let pods = bed.look().all_pods.clone().into_iter().filter(|(_, pod)| pod.images.iter().any(is_bad)).collect();
    let lives = requests::lives(&bed.cluster.audit()?, &pods);
    ensure!(requests::most_tries_at_once(&lives) == 1, "{lives:#?}");
    for ((one, next), seconds) in lives.iter().zip(lives.iter().skip(1)).zip([4_i64, 8, 16]) {
        let gap = next.from.duration_since(one.from);
        ensure!(gap >= SignedDuration::from_millis(seconds * 900), "retried after {gap:#}, not {seconds}s: {lives:#?}");
    }
    bed.cluster.kubectl(&["delete", "cachedimage", "broken-img"])?;
    bed.wait_no_pod("registry.bad/x:latest")
}

pub fn a_private_image_needs_its_secret(bed: &Bed) -> Result<()> {
    let registry = bed.cluster.private_registry();
    registry.push("team/app", "v1", &ImageSpec::runnable())?;
    let image = registry.image("team/app", "v1");
    let (user, password) = registry.credentials().context("the private registry wants credentials")?;
    bed.nodes("private", 1)?;
    let manifest = |secrets: &str| {
        format!(
            "
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {{name: private}}
spec: {{minDelayBetweenPulls: 1s, failureBackoff: {{initial: 2s, max: 4s}}}}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {{name: private}}
spec: {{image: '{image}', imagePullSecrets: {secrets}, policyRef: {{name: private}}, nodeSelector: {{scenario: private}}}}
"
        )
    };
    bed.apply(&manifest("[]"))?;
    bed.wait_image("private", |status, ready| {
        let told = ready.message == "private-1: unauthorized: check imagePullSecrets";
        told && ready.reason == "ErrImagePull" && status.ready.as_deref() == Some("0/1")
    })?;
    bed.cluster.kubectl(&[
        "create",
        "secret",
        "docker-registry",
        "private-pull",
        "-n",
        "drop-system",
        &format!("--docker-server={PRIVATE_HOST}"),
        &format!("--docker-username={user}"),
        &format!("--docker-password={password}"),
    ])?;
    bed.apply(&manifest("[{name: private-pull}]"))?;
    bed.wait_cached("private", 1)?;
    Ok(())
}

pub fn a_pull_that_takes_too_long_is_given_up(bed: &Bed) -> Result<()> {
    let registry = bed.cluster.registry();
    registry.push("timeout/app", "1", &ImageSpec::runnable().layer(1 << 20))?;
    registry.hold("timeout/app");
    bed.nodes("timeout", 1)?;
    bed.apply(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {name: timeout}
spec: {pullTimeout: 3s, failureBackoff: {initial: 1s, max: 1s}}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: timeout}
spec: {image: timeout/app, tag: '1', policyRef: {name: timeout}, nodeSelector: {scenario: timeout}}
",
    )?;
    bed.wait_image("timeout", |_, ready| ready.reason == "PullTimeout")?;
    // The kubelet goes on with the pull. The Pod counts until it is gone, so there is no second one yet.
    let pods = bed.pods_of("docker.io/timeout/app:1");
    ensure!(pods.len() == 1, "{pods:?}");
    registry.release("timeout/app");
    bed.wait_cached("timeout", 1)?;
    Ok(())
}

/// The layer of the slow image takes 40 s, which is longer than `pullTimeout`.
const RATE: usize = 100_000;
const SLOW: usize = 40 * RATE;

pub fn a_pull_that_a_throttled_registry_delays_holds_up_no_other_image(bed: &Bed) -> Result<()> {
    const NODES: usize = 2;
    let registry = bed.cluster.registry();
    let repository = |scenario: &str, app: &str| format!("{scenario}/{app}");
    let policy = |scenario: &str| {
        format!(
            "
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {{name: {scenario}}}
spec: {{pullTimeout: 10s, minDelayBetweenPulls: 0s, failureBackoff: {{initial: 1s, max: 5s}}}}
"
        )
    };
    let mut manifests = String::new();
    for scenario in ["throttled", "throttled-set"] {
        registry.push(&repository(scenario, "a-slow"), "1", &ImageSpec::runnable().layer(SLOW))?;
        registry.push(&repository(scenario, "b-small"), "1", &ImageSpec::runnable())?;
        registry.throttle(&repository(scenario, "a-slow"), RATE);
        bed.nodes(scenario, NODES)?;
        manifests.push_str(&policy(scenario));
        manifests.push_str("---");
    }
    for app in ["a-slow", "b-small"] {
        manifests.push_str(&format!(
            "
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {{name: throttled-{app}}}
spec: {{image: docker.io/throttled/{app}, tag: '1', policyRef: {{name: throttled}}, nodeSelector: {{scenario: throttled}}}}
---"
        ));
    }
    manifests.push_str(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImageSet
metadata: {name: throttled-set}
spec:
  policyRef: {name: throttled-set}
  nodeSelector: {scenario: throttled-set}
  images:
  - {image: docker.io/throttled-set/a-slow, tag: '1'}
  - {image: docker.io/throttled-set/b-small, tag: '1'}
",
    );
    bed.apply(&manifests)?;
    for scenario in ["throttled", "throttled-set"] {
        let of_scenario = |image: &CachedImage| {
            let selector = image.spec.node_selector.get("scenario").is_some_and(|value| value == scenario);
            let ready = image.status.as_ref().and_then(|status| status.ready.as_deref());
            selector && ready == Some("2/2")
        };
        bed.wait(&format!("{scenario}: both images on both nodes"), |sight| {
            (sight.images.values().filter(|image| of_scenario(image)).count() == 2).then_some(())
        })?;
        let image = |app: &str| format!("docker.io/{}:1", repository(scenario, app));
        let (slow, small) = (image("a-slow"), image("b-small"));
        bed.wait_no_pod(&slow)?;
        bed.wait_no_pod(&small)?;
        let pods: BTreeMap<String, SeenPod> = {
            let sight = bed.look();
            let is_ours = |pod: &SeenPod| pod.images.iter().any(|image| *image == slow || *image == small);
            sight
                .all_pods
                .iter()
                .filter(|(_, pod)| is_ours(pod))
                .map(|(name, pod)| (name.clone(), pod.clone()))
                .collect()
        };
        let lives = requests::lives(&bed.cluster.audit()?, &pods);
        ensure!(requests::most_nodes_at_once(&lives) == 1, "{scenario}: {lives:#?}");
        let pulls =
            |life: &Life, image: &str| pods.get(&life.pod).is_some_and(|pod| pod.images.iter().any(|it| it == image));
        for node in [1, 2].map(|number| format!("{scenario}-{number}")) {
            let here: Vec<&Life> = lives.iter().filter(|life| life.node == node).collect();
            // A Pod with both images ends when the slow image has not come in time.
            let alone =
                here.iter().position(|life| pulls(life, &small) && !pulls(life, &slow)).context("the small image")?;
            let before = here.iter().take(alone).filter(|life| pulls(life, &slow)).count();
            ensure!(before <= 1, "{node}: {before} Pods with the slow image went before the small one: {here:#?}");
            ensure!(here.len() <= 4, "{node}: {} Pods for two images: {here:#?}", here.len());
        }
        eprintln!("{scenario}: {} Pods for 2 images on {NODES} nodes, of which one never comes in time", lives.len());
    }
    Ok(())
}

pub fn a_registry_that_is_down_is_tried_by_one_pull_at_a_time(bed: &Bed) -> Result<()> {
    const IMAGES: usize = 4;
    bed.nodes("down", 2)?;
    let mut manifests = "
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {name: down}
spec: {maxConcurrentNodes: 2, minDelayBetweenPulls: 0s, failureBackoff: {initial: 5s, max: 10s}}
"
    .to_owned();
    for image in 0..IMAGES {
        manifests.push_str(&format!(
            "---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {{name: down-{image}}}
spec: {{image: registry.down/app-{image}, tag: '1', policyRef: {{name: down}}, nodeSelector: {{scenario: down}}}}
"
        ));
    }
    bed.apply(&manifests)?;
    // Three images fail because of the registry. The fourth waits for the registry, until it becomes the probe, because
    // it was never tried before.
    bed.wait_image("down-2", |_, ready| ready.message.contains("cannot resolve registry.down"))?;
    bed.wait_image("down-3", |_, ready| {
        let waits = ready.reason == "Waiting" && ready.message.contains("registry.down does not answer");
        waits || ready.message.contains("cannot resolve registry.down")
    })?;
    for image in 0..IMAGES {
        bed.cluster.registry().push(&format!("app-{image}"), "1", &ImageSpec::runnable())?;
    }
    bed.cluster.mirror_host("registry.down")?;
    for image in 0..IMAGES {
        bed.wait_cached(&format!("down-{image}"), 2)?;
    }
    Ok(())
}
