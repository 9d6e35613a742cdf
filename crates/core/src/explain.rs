//! Why each image is where it is, for `/debug/plan` and for statuses.

use std::collections::BTreeMap;

use drop_api::discovery_policy::QueryStatus;
use jiff::Timestamp;
use serde::Serialize;

use crate::Name;
use crate::budget::Budget;
use crate::discovery::sync;
use crate::image::ImagePullPolicy;
use crate::presence::Standing;
use crate::reference::Reference;
use crate::status;
use crate::verdict::Verdict;
use crate::world::{ImageEntry, NodeEntry, World};

/// One CachedImage on the nodes that do not have it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The CachedImage.
    pub cached_image: Name,
    /// Its reference.
    pub image: Reference,
    /// Nodes that have it.
    pub cached: usize,
    /// The other target nodes.
    pub nodes: Vec<NodeVerdict>,
}

/// What happens to the image on one node.
#[derive(Debug, Serialize)]
pub struct NodeVerdict {
    /// The node.
    pub node: Name,
    /// What happens.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The same as a sentence.
    pub message: String,
}

/// Says of every image that is wanted and missing somewhere why that is so, as far as the
/// replica knows: what is refused is known to the one that asked.
#[must_use]
pub fn explain(world: &World, now: Timestamp) -> Vec<Explanation> {
    let budget = Budget::new(world);
    world
        .images
        .values()
        .map(|entry| {
            let nodes = world.nodes.values().filter(|node| {
                node.standings.get(&entry.image.name).is_some_and(|standing| *standing != Standing::Cached)
            });
            Explanation {
                cached_image: entry.image.name.clone(),
                image: entry.image.reference.clone(),
                cached: entry.tally.there(),
                nodes: nodes
                    .map(|node| {
                        let verdict = verdict(world, node, entry, &budget, now);
                        let message = verdict.to_string();
                        NodeVerdict { node: node.node.name.clone(), verdict, message }
                    })
                    .collect(),
            }
        })
        .collect()
}

/// What happens to one image on one node.
///
/// What failed is the reason until it succeeds: times in a verdict may have passed, and then
/// it waits for its turn, or is held up by what else there is.
pub(crate) fn verdict(
    world: &World,
    node: &NodeEntry,
    entry: &ImageEntry,
    budget: &Budget<'_>,
    now: Timestamp,
) -> Verdict {
    let image = &entry.image;
    match node.standings.get(&image.name) {
        Some(Standing::Cached) => return Verdict::Cached,
        Some(Standing::Outdated | Standing::Missing | Standing::Failed | Standing::Evicted) => {}
        None => {
            let why = entry.place_on(&node.node).err();
            return why.map_or(Verdict::Next, |why| Verdict::NotATarget { why: why.to_string() });
        }
    }
    let Some(policy) = world.policy_of(image) else {
        return Verdict::PullPolicyNotFound { policy: image.policy.clone() };
    };
    let pod = world.pod_on(&node.node.name);
    if let Some(pod) = pod.filter(|entry| entry.pod.is_pulling(&image.reference)) {
        return Verdict::Pulling { pod: pod.pod.name.clone() };
    }
    if image.pull == ImagePullPolicy::Never {
        return Verdict::NeverPulled;
    }
    if policy.paused {
        return Verdict::Paused { policy: policy.name.clone() };
    }
    if let Some(hindrance) = node.hindrance(policy) {
        return hindrance;
    }
    let here = world.on_node(node);
    if !here.has_room(&image.reference) {
        return Verdict::TooManyImages;
    }
    if let Some(refused) = &entry.refused {
        return Verdict::Refused { until: refused.until, message: refused.message.clone() };
    }
    if let Some((until, cause)) = here.backoff(policy) {
        return Verdict::NodeBackingOff { until, cause: cause.clone() };
    }
    let is_evicted = node.standings.get(&image.name) == Some(&Standing::Evicted);
    if let Some(until) = here.repair_at(&image.reference).filter(|_| is_evicted) {
        return Verdict::Evicted { until };
    }
    if let Some((until, cause)) = here.backoff_of(image, policy) {
        return Verdict::BackingOff { until, cause: cause.clone() };
    }
    if let Some(at) = world.registry_probe_at(&image.reference, policy) {
        let under_way = world.is_registry_tried(&image.reference);
        let host = image.reference.host().into();
        return Verdict::RegistryPaused { host, at: Some(at).filter(|_| !under_way) };
    }
    if let Some(at) = world.probe_at(image, policy) {
        let under_way = world.is_tried(&image.reference);
        let health = world.health.get(&image.reference);
        let cause = health.and_then(|health| health.open_failures().next());
        let cause = cause.map_or_else(|| "".into(), |(_, failure)| failure.message.clone());
        return Verdict::WaitingForProbe { at: Some(at).filter(|_| !under_way), cause };
    }
    if let Some(pod) = budget.busy_with(&node.node.name) {
        return Verdict::NodeBusy { pod };
    }
    let begins_turn = node.turn.as_ref() != Some(&policy.name);
    let admitted = budget
        .admit(policy, &node.node.name, begins_turn, now)
        .and_then(|()| budget.admit_host(policy, image.reference.host()));
    admitted.err().unwrap_or(Verdict::Next)
}

/// The numbers behind the gauges of `/metrics`.
#[derive(Debug, Default)]
pub struct Summary {
    /// Whether everything that is watched has been listed.
    pub is_synced: bool,
    /// Images being pulled, by policy.
    pub active: BTreeMap<Name, usize>,
    /// Images missing on target nodes and not being pulled, by policy and reason.
    pub waiting: BTreeMap<(Name, &'static str), usize>,
    /// By CachedImage.
    pub images: BTreeMap<Name, ImageCounts>,
    /// Per CachedImageSet whether it can have all of its CachedImages.
    pub sets: BTreeMap<Name, bool>,
    /// Every image that is wanted, with its size in bytes once a node lists it.
    pub sizes: BTreeMap<Reference, Option<u64>>,
    /// By DiscoveryPolicy.
    pub discoveries: BTreeMap<Name, DiscoveryCounts>,
}

/// One DiscoveryPolicy's numbers, as its status tells them.
#[derive(Debug, Default)]
pub struct DiscoveryCounts {
    /// Whether it is Ready, or has not run yet.
    pub is_well: bool,
    /// Images that it has found.
    pub images: usize,
    /// Per source whether its last answer was good.
    pub sources: BTreeMap<Name, bool>,
}

/// One CachedImage's numbers.
#[derive(Debug, Default)]
pub struct ImageCounts {
    /// Nodes that should have it.
    pub targeted: usize,
    /// Nodes that have it.
    pub cached: usize,
    /// Nodes that do not have it because the last pull there failed.
    pub failed: usize,
    /// Rounds of pulls that failed for the image's or its registry's sake, with no success since.
    pub consecutive_failures: usize,
}

/// Counts what is being pulled, and what waits for what.
#[must_use]
pub fn summarize(world: &World, now: Timestamp) -> Summary {
    let budget = Budget::new(world);
    let mut summary = Summary { is_synced: world.is_synced(), ..Summary::default() };
    for policy in world.policies.keys() {
        summary.active.insert(policy.clone(), 0);
    }
    for entry in world.pods.values() {
        let open = entry.pod.containers.iter().filter(|container| container.outcome().is_none()).count();
        *summary.active.entry(entry.pod.policy.clone()).or_default() += open;
    }
    for (policy, entry) in &world.discoveries {
        let status = &entry.published.status;
        let sources = status.query_results.iter();
        let counts = DiscoveryCounts {
            is_well: sync::trouble(status).is_none(),
            images: status.discovered_images.len(),
            sources: sources
                .map(|result| (result.name.as_str().into(), result.status == QueryStatus::Success))
                .collect(),
        };
        summary.discoveries.insert(policy.clone(), counts);
    }
    summary.sets.extend(world.sets.iter().map(|(set, entry)| (set.clone(), status::is_whole(world, entry))));
    for image in world.wanted.keys() {
        let sizes = world.sizes.get(image).into_iter().flat_map(BTreeMap::values);
        summary.sizes.insert(image.clone(), sizes.min().copied());
    }
    for entry in world.images.values() {
        let counts = ImageCounts {
            targeted: entry.tally.targeted(),
            cached: entry.tally.there(),
            // What is never tried does not fail.
            failed: if entry.image.pull == ImagePullPolicy::Never { 0 } else { entry.tally.failed },
            consecutive_failures: world.open_rounds(&entry.image.reference) as usize,
        };
        let waits = entry.tally.cached < counts.targeted;
        summary.images.insert(entry.image.name.clone(), counts);
        for node in world.nodes.values().filter(|_| waits) {
            if node.standings.get(&entry.image.name).is_none_or(|standing| *standing == Standing::Cached) {
                continue;
            }
            let verdict = verdict(world, node, entry, &budget, now);
            if !matches!(verdict, Verdict::Pulling { .. }) {
                *summary.waiting.entry((entry.image.policy.clone(), verdict.reason())).or_default() += 1;
            }
        }
    }
    summary
}
