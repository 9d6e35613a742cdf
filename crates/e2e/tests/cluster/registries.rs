//! Registries that fail: what waits for them, and how it goes on when they are well again.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use drop_e2e::requests::{self, Life};
use drop_e2e::{Bed, SeenPod};
use drop_testbed::{FaultyRegistry, ImageSpec, RegistryFault};
use jiff::Timestamp;

/// One image more than have to fail until their registry is paused.
const IMAGES: usize = 4;
const NODES: usize = 3;

/// Hosts whose registries fail, each in its way, and the cause that is shown.
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
    // containerd gives up after 50 s. By then three images have failed side by side.
    fail_and_recover(bed, "stalled", &STALLED, NODES)
}

/// Pulls images of these hosts, `limit` at once, until every host is paused, and on when they
/// have recovered.
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
        // One node each, so that they can fail side by side.
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

    // The other images are pulled meanwhile.
    bed.wait_cached(&format!("{name}-good"), NODES)?;
    for (host, _, cause) in hosts {
        for image in 0..IMAGES {
            bed.wait_image(&format!("{host}-{image}"), |_, ready| {
                // The first one is among the three that fail. Of the others one waits; later on
                // it may be the one that tries.
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
        ensure!(requests::most_nodes_at_once(&tries) == 1, "{host}: {tries:#?}");
        eprintln!(
            "{host}: {} Pods until it was paused, {} tries, {} afterwards",
            others.len(),
            tries.len(),
            after.len()
        );
        all.extend(pods);
    }
    // Neither the failures nor the recovery breaks the policy's limit.
    let most = requests::most_nodes_at_once(&requests::lives(&audit, &all));
    ensure!(most == limit, "{most} nodes at once");
    Ok(())
}

/// Every Pod that ever pulled from `host`, which may go on with a path.
fn pods_of(bed: &Bed, host: &str) -> BTreeMap<String, SeenPod> {
    bed.look().all_pods.clone().into_iter().filter(|(_, pod)| pulls_from(pod, host)).collect()
}

fn pulls_from(pod: &SeenPod, host: &str) -> bool {
    pod.images.iter().any(|image| image.strip_prefix(host).is_some_and(|path| path.starts_with('/')))
}
