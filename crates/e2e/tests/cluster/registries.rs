//! Failing registries: the pulls that wait for them, and the recovery.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use drop_e2e::requests::{self, Life};
use drop_e2e::{Bed, SeenPod};
use drop_testbed::{FaultyRegistry, ImageSpec, RegistryFault};
use jiff::{SignedDuration, Timestamp};

/// One more than the number of images that have to fail before their registry is paused.
const IMAGES: usize = 4;
const NODES: usize = 3;

/// Hosts whose registries fail in different ways, and the cause in the status.
const REFUSING: [(&str, RegistryFault, &str); 4] = [
    ("busy.test", RegistryFault::TooManyRequests, "rate limited by busy.test"),
    ("broken.test", RegistryFault::Unavailable, "server error at broken.test"),
    ("reset.test", RegistryFault::Reset, "connection lost: reset.test"),
    ("forged.test", RegistryFault::BadCertificate, "TLS: certificate signed by unknown authority"),
];

const STALLED: [(&str, RegistryFault, &str); 1] =
    [("stalled.test", RegistryFault::Stall, "timeout connecting to stalled.test")];

pub fn registries_that_refuse_are_tried_by_one_pull_at_a_time(bed: &Bed) -> Result<()> {
    fail_and_recover(bed, "refused", &REFUSING, NODES - 1)
}

pub fn a_registry_that_stalls_is_tried_by_one_pull_at_a_time(bed: &Bed) -> Result<()> {
    // containerd gives up after 50 s. By then three images have failed at the same time.
    fail_and_recover(bed, "stalled", &STALLED, NODES)
}

/// Pulls images of these hosts, `limit` at once, until every host is paused, and continues after the hosts have
/// recovered.
fn fail_and_recover(bed: &Bed, name: &str, hosts: &[(&str, RegistryFault, &str)], limit: usize) -> Result<()> {
    bed.nodes(name, NODES)?;
    let push = |app: &str| bed.cluster.registry().push(&format!("{name}/{app}"), "1", &ImageSpec::runnable());
    let mut manifests = format!(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {{name: {name}}}
spec: {{maxConcurrentNodes: {limit}, minDelayBetweenPulls: 0s, failureBackoff: {{initial: 2s, max: 4s}}}}
"
    );
    let mut want = |name_of_image: &str, image: &str, selector: &str| {
        manifests.push_str(&format!(
            "---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {{name: {name_of_image}}}
spec: {{image: {image}, tag: '1', policyRef: {{name: {name}}}, nodeSelector: {selector}}}
"
        ));
    };
    push("good")?;
    want(&format!("{name}-good"), &format!("docker.io/{name}/good"), &format!("{{scenario: {name}}}"));
    for image in 0..IMAGES {
        push(&format!("app-{image}"))?;
        // One node each, so that they can fail at the same time.
        let selector = format!("{{kubernetes.io/hostname: {name}-{}}}", image % NODES + 1);
        for (host, ..) in hosts {
            want(&format!("{host}-{image}"), &format!("{host}/{name}/app-{image}"), &selector);
        }
    }
    let registries: Vec<FaultyRegistry> =
        hosts.iter().map(|(host, ..)| bed.cluster.faulty_registry(host)).collect::<Result<_>>()?;
    for (registry, (_, fault, _)) in registries.iter().zip(hosts) {
        registry.fail(*fault)?;
    }
    bed.apply(&manifests)?;

    // Meanwhile the other images are pulled.
    bed.wait_cached(&format!("{name}-good"), NODES)?;
    for (host, _, cause) in hosts {
        for image in 0..IMAGES {
            bed.wait_image(&format!("{host}-{image}"), |_, ready| {
                // The first image is among the three that fail. One of the others waits; later it may be the probe.
                let waits = image > 0 && ready.message.contains(&format!("{host} does not answer"));
                waits || ready.message.contains(cause)
            })?;
        }
    }
    let paused_at = Timestamp::now();
    let before: Vec<usize> = hosts.iter().map(|(host, ..)| pods_of(bed, host).len()).collect();
    for ((host, ..), before) in hosts.iter().zip(&before) {
        bed.wait(&format!("{host} to be tried twice"), |sight| {
            (sight.all_pods.values().filter(|pod| pulls_from(pod, host)).count() >= before + 2).then_some(())
        })?;
    }
    let healed_at = Timestamp::now();
    for registry in &registries {
        registry.heal()?;
    }
    for (host, ..) in hosts {
        for image in 0..IMAGES {
            bed.wait_cached(&format!("{host}-{image}"), 1)?;
            bed.wait_no_pod(&format!("{host}/{name}/app-{image}:1"))?;
        }
    }

    let audit = bed.cluster.audit()?;
    let mut all = pods_of(bed, &format!("docker.io/{name}"));
    for (host, ..) in hosts {
        let pods = pods_of(bed, host);
        let lives = requests::lives(&audit, &pods);
        let (tries, others): (Vec<Life>, _) = lives.into_iter().partition(|life| life.from > paused_at);
        let (tries, after): (Vec<Life>, Vec<Life>) = tries.into_iter().partition(|life| life.from < healed_at);
        ensure!(requests::most_tries_at_once(&tries) == 1, "{host}: {tries:#?}");
        eprintln!(
            "{host}: {} Pods until it was paused, {} tries, {} afterwards",
            others.len(),
            tries.len(),
            after.len()
        );
        all.extend(pods);
    }
    // Neither the failures nor the recovery exceed the policy's limit.
    let most = requests::most_nodes_at_once(&requests::lives(&audit, &all));
    ensure!(most == limit, "{most} nodes at once");
    Ok(())
}

/// Hosts whose registries give invalid answers.
const SENSELESS: [(&str, RegistryFault); 2] =
    [("eof.test", RegistryFault::Eof), ("nonsense.test", RegistryFault::Nonsense)];

pub fn a_question_that_fails_backs_off_for_the_image_and_not_node_by_node(bed: &Bed) -> Result<()> {
    // After the second and the third failure, less 10 % of jitter. Without a backoff the nodes take turns.
    const WAITS: [i64; 2] = [8, 16];
    bed.nodes("asked", NODES)?;
    let mut manifests = "
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {name: asked}
spec:
  maxConcurrentNodes: 3
  minDelayBetweenPulls: 0s
  repullInterval: 2s
  failureBackoff: {initial: 4s, max: 16s}
"
    .to_owned();
    for (host, _) in SENSELESS {
        bed.cluster.registry().push(&format!("asked/{host}"), "1", &ImageSpec::runnable())?;
        manifests.push_str(&format!(
            "---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {{name: {host}}}
spec: {{image: {host}/asked/{host}, tag: '1', policyRef: {{name: asked}}, nodeSelector: {{scenario: asked}}}}
"
        ));
    }
    let registries: Vec<FaultyRegistry> =
        SENSELESS.iter().map(|(host, _)| bed.cluster.faulty_registry(host)).collect::<Result<_>>()?;
    bed.apply(&manifests)?;
    for (host, _) in SENSELESS {
        bed.wait_cached(host, NODES)?;
    }
    for (registry, (_, fault)) in registries.iter().zip(SENSELESS) {
        registry.fail(fault)?;
    }
    let tells = |message: &str| (1..=NODES).any(|node| message.contains(&format!("asked-{node}")));
    let mut told = Vec::new();
    for (host, _) in SENSELESS {
        // The nodes still have the images, and the status says that no node could ask for a newer one.
        let image = bed.wait_image(host, |_, ready| tells(&ready.message))?;
        told.push(Timestamp::now());
        let conditions = image.status.map(|status| status.conditions).unwrap_or_default();
        eprintln!("{host}: {}", conditions.first().map(|ready| ready.message.as_str()).unwrap_or_default());
    }
    for ((host, _), told_at) in SENSELESS.iter().zip(&told) {
        let before = pods_of(bed, host).len();
        bed.wait(&format!("{host} to be asked"), |sight| {
            let pods = sight.all_pods.values().filter(|pod| pulls_from(pod, host)).count();
            (pods > before + WAITS.len()).then_some(())
        })?;
        let asked = requests::lives(&bed.cluster.audit()?, &pods_of(bed, host));
        let asked: Vec<Life> = asked.into_iter().filter(|life| life.from > *told_at).collect();
        for ((one, next), seconds) in asked.iter().zip(asked.iter().skip(1)).zip(WAITS) {
            let gap = next.from.duration_since(one.from);
            ensure!(gap >= SignedDuration::from_millis(seconds * 900), "{host}: asked again after {gap:#}: {asked:#?}");
        }
        ensure!(asked.len() > WAITS.len() && requests::most_tries_at_once(&asked) == 1, "{host}: {asked:#?}");
    }
    for registry in &registries {
        registry.heal()?;
    }
    for (host, _) in SENSELESS {
        bed.wait_image(host, |_, ready| !tells(&ready.message))?;
        let history: Vec<_> = bed.look().history.iter().filter(|(name, ..)| name == host).cloned().collect();
        let first_cached = history.iter().position(|(_, reason, _)| reason == "Cached").context("it was cached")?;
        let after = history.get(first_cached..).unwrap_or_default();
        ensure!(after.iter().all(|(_, reason, ready)| reason == "Cached" && ready == "3/3"), "{host}: {history:?}");
        bed.wait_events(host, &[("Cached", 1)])?;
        bed.cluster.kubectl(&["delete", "cachedimage", host])?;
    }
    Ok(())
}

/// Returns every Pod that ever pulled from `host`, which may include a path.
fn pods_of(bed: &Bed, host: &str) -> BTreeMap<String, SeenPod> {
    bed.look().all_pods.clone().into_iter().filter(|(_, pod)| pulls_from(pod, host)).collect()
}

fn pulls_from(pod: &SeenPod, host: &str) -> bool {
    pod.images.iter().any(|image| image.strip_prefix(host).is_some_and(|path| path.starts_with('/')))
}
