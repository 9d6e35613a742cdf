//! Why each image is where it is, for `/debug/plan`, `/metrics` and statuses.

use std::collections::BTreeMap;
use std::ops::Bound;

use drop_api::discovery_policy::QueryStatus;
use jiff::Timestamp;
use serde::Serialize;

use crate::Name;
use crate::budget::Budget;
use crate::discovery::sync;
use crate::image::ImagePullPolicy;
use crate::policy::Policy;
use crate::presence::Standing;
use crate::reference::Reference;
use crate::status;
use crate::verdict::Verdict;
use crate::world::{ImageEntry, NodeEntry, OnNode, PodEntry, World};

/// How many nodes are named for a verdict.
const EXAMPLES: usize = 3;

/// What [`explain`] is asked about: the pairs of these two, of all where there is none.
#[derive(Clone, Debug, Default)]
pub struct Which {
    /// A CachedImage.
    pub cached_image: Option<Name>,
    /// A node.
    pub node: Option<Name>,
}

/// Nothing is called so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no {kind} called {name:?}")]
pub struct Unknown {
    kind: &'static str,
    name: Name,
}

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
    /// The other target nodes, as far as they were asked about.
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

/// Says of images that are wanted and missing why that is so, as far as the replica knows: what is
/// refused is known to the one that asked. After `limit` pairs there are no more. Of one image on
/// one node it is said in any case.
///
/// # Errors
/// If the world has not what is asked about.
pub fn explain(world: &World, now: Timestamp, which: &Which, limit: usize) -> Result<Vec<Explanation>, Unknown> {
    let unknown = |kind, name: &Name| Unknown { kind, name: name.clone() };
    let images: Vec<&ImageEntry> = match &which.cached_image {
        Some(name) => vec![world.images.get(name).ok_or_else(|| unknown("CachedImage", name))?],
        None => world.images.values().collect(),
    };
    let nodes: Vec<&NodeEntry> = match &which.node {
        Some(name) => vec![world.nodes.get(name).ok_or_else(|| unknown("node", name))?],
        None => world.nodes.values().collect(),
    };
    let is_one_pair = which.cached_image.is_some() && which.node.is_some();
    let budget = Budget::new(world);
    let mut left = limit;
    let mut explanations = Vec::new();
    for entry in images {
        let is_missing = |node: &&&NodeEntry| {
            let standing = node.standings.get(&entry.image.name);
            is_one_pair || standing.is_some_and(|standing| *standing != Standing::Cached)
        };
        let verdicts = nodes.iter().filter(is_missing).take(left).map(|node| {
            let verdict = verdict(world, node, entry, &budget, now);
            let message = verdict.to_string();
            NodeVerdict { node: node.node.name.clone(), verdict, message }
        });
        let verdicts: Vec<NodeVerdict> = verdicts.collect();
        left -= verdicts.len();
        if which.node.is_none() || !verdicts.is_empty() {
            explanations.push(Explanation {
                cached_image: entry.image.name.clone(),
                image: entry.image.reference.clone(),
                cached: entry.tally.there(),
                nodes: verdicts,
            });
        }
    }
    Ok(explanations)
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
    match node.standings.get(&entry.image.name) {
        Some(Standing::Cached) => Verdict::Cached,
        Some(standing) => {
            let image = OfImage::new(world, entry, budget);
            match image.policy {
                Some(policy) => missing(&image, &OfNode::new(world, node, policy, budget, now), *standing),
                None => image.without_policy(),
            }
        }
        None => {
            let why = entry.place_on(&node.node).err();
            why.map_or(Verdict::Next, |why| Verdict::NotATarget { why: why.to_string() })
        }
    }
}

/// What holds up an image wherever it is missing.
struct OfImage<'a> {
    entry: &'a ImageEntry,
    policy: Option<&'a Policy>,
    /// It is not to be pulled.
    rests: Option<Verdict>,
    refused: Option<Verdict>,
    /// It or its registry fails.
    fails: Option<Verdict>,
    /// Its registry's slots are taken.
    waits: Option<Verdict>,
}

impl<'a> OfImage<'a> {
    fn new(world: &'a World, entry: &'a ImageEntry, budget: &Budget<'_>) -> Self {
        let (image, policy) = (&entry.image, world.policy_of(&entry.image));
        let rests = match policy {
            _ if image.pull == ImagePullPolicy::Never => Some(Verdict::NeverPulled),
            Some(policy) if policy.paused => Some(Verdict::Paused { policy: policy.name.clone() }),
            _ => None,
        };
        let refused = entry.refused.as_ref();
        Self {
            entry,
            policy,
            rests,
            refused: refused.map(|it| Verdict::Refused { until: it.until, message: it.message.clone() }),
            fails: policy.and_then(|policy| failing(world, entry, policy)),
            waits: policy.and_then(|policy| budget.admit_host(policy, image.reference.host()).err()),
        }
    }

    fn without_policy(&self) -> Verdict {
        Verdict::PullPolicyNotFound { policy: self.entry.image.policy.clone() }
    }
}

/// Whether the image's registry or the image itself fails, so that one pull at a time tries it.
fn failing(world: &World, entry: &ImageEntry, policy: &Policy) -> Option<Verdict> {
    let reference = &entry.image.reference;
    if let Some(at) = world.registry_probe_at(reference, policy) {
        let under_way = world.is_registry_tried(reference);
        return Some(Verdict::RegistryPaused { host: reference.host().into(), at: Some(at).filter(|_| !under_way) });
    }
    let at = world.probe_at(&entry.image, policy)?;
    let under_way = world.is_tried(reference);
    let cause = world.health.get(reference).and_then(|health| health.open_failures().next());
    let cause = cause.map_or_else(|| "".into(), |(_, failure)| failure.message.clone());
    Some(Verdict::WaitingForProbe { at: Some(at).filter(|_| !under_way), cause })
}

/// What holds up whatever is missing on a node, under one policy.
struct OfNode<'a> {
    here: OnNode<'a>,
    pod: Option<&'a PodEntry>,
    hindrance: Option<Verdict>,
    backoff: Option<Verdict>,
    /// Others come first.
    waits: Option<Verdict>,
    policy: &'a Policy,
}

impl<'a> OfNode<'a> {
    fn new(world: &'a World, node: &'a NodeEntry, policy: &'a Policy, budget: &Budget<'_>, now: Timestamp) -> Self {
        let (here, name) = (world.on_node(node), &node.node.name);
        let backoff = here.backoff(policy);
        let busy = budget.busy_with(name).map(|pod| Verdict::NodeBusy { pod });
        let begins_turn = node.turn.as_ref() != Some(&policy.name);
        Self {
            pod: world.pod_on(name),
            hindrance: node.hindrance(policy),
            backoff: backoff.map(|(until, cause)| Verdict::NodeBackingOff { until, cause: cause.clone() }),
            waits: busy.or_else(|| budget.admit(policy, name, begins_turn, now).err()),
            here,
            policy,
        }
    }
}

/// What happens to an image on a node that should have it, and has it not or an old one.
fn missing(image: &OfImage<'_>, node: &OfNode<'_>, standing: Standing) -> Verdict {
    let (here, wanted) = (&node.here, &image.entry.image);
    let reference = &wanted.reference;
    if let Some(entry) = node.pod.filter(|entry| entry.pod.is_pulling(reference)) {
        return Verdict::Pulling { pod: entry.pod.name.clone() };
    }
    let evicted = || {
        let until = here.repair_at(reference).filter(|_| standing == Standing::Evicted)?;
        Some(Verdict::Evicted { until })
    };
    let backing_off = || {
        let (until, cause) = here.backoff_of(wanted, node.policy)?;
        Some(Verdict::BackingOff { until, cause: cause.clone() })
    };
    let hindrance = image.rests.as_ref().or(node.hindrance.as_ref()).cloned();
    hindrance
        .or_else(|| (!here.has_room(reference)).then_some(Verdict::TooManyImages))
        .or_else(|| image.refused.as_ref().or(node.backoff.as_ref()).cloned())
        .or_else(evicted)
        .or_else(backing_off)
        .or_else(|| image.fails.as_ref().or(node.waits.as_ref()).or(image.waits.as_ref()).cloned())
        .unwrap_or(Verdict::Next)
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

impl Summary {
    /// Everything but what waits: a [`Survey`] tells that.
    #[must_use]
    pub fn new(world: &World) -> Self {
        let mut summary = Self { is_synced: world.is_synced(), ..Self::default() };
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
            summary.images.insert(entry.image.name.clone(), counts);
        }
        summary
    }
}

/// What happens to the images that are missing, by image and verdict.
#[derive(Debug)]
pub struct Overview {
    /// The numbers.
    pub summary: Summary,
    /// Every CachedImage.
    pub images: Vec<Outline>,
}

/// One CachedImage on all of its nodes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outline {
    /// The CachedImage.
    pub cached_image: Name,
    /// Its reference.
    pub image: Reference,
    /// Nodes that have it.
    pub cached: usize,
    /// What happens on the other target nodes, on the most of them first.
    pub verdicts: Vec<Group>,
}

/// Nodes on which the same happens to an image.
#[derive(Debug, Serialize)]
pub struct Group {
    /// What happens; names and times are those of the first example.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The same as a sentence.
    pub message: String,
    /// On how many nodes.
    pub nodes: usize,
    /// Some of them.
    pub examples: Vec<Name>,
}

/// By the verdict's reason.
type Groups = BTreeMap<&'static str, Group>;

/// Looks at every image that is missing on every node, a part at a time: what happens between two
/// steps may be seen in part.
#[derive(Debug, Default)]
pub struct Survey {
    found: BTreeMap<Name, Groups>,
    /// The last node that was looked at.
    reached: Option<Name>,
}

impl Survey {
    /// Looks at the next nodes, at about so many pairs of an image and a node, which takes about a
    /// fifth of a microsecond each; returns what there is once those were the last ones.
    pub fn step(&mut self, world: &World, now: Timestamp, pairs: usize) -> Option<Overview> {
        let budget = Budget::new(world);
        let mut found = std::mem::take(&mut self.found);
        let waiting = world.images.values().filter(|entry| entry.tally.cached < entry.tally.targeted());
        let mut images: Vec<(OfImage<'_>, Groups)> = waiting
            .map(|entry| (OfImage::new(world, entry, &budget), found.remove(&entry.image.name).unwrap_or_default()))
            .collect();
        let after = self.reached.take().map_or(Bound::Unbounded, Bound::Excluded);
        let mut nodes = world.nodes.range::<Name, _>((after, Bound::Unbounded)).map(|(_, node)| node);
        // Where nothing is missing there is nothing to look for on nodes.
        let part = pairs.checked_div(images.len()).map_or(0, |nodes| nodes.max(1));
        for node in nodes.by_ref().take(part) {
            let mut sides: BTreeMap<&Name, OfNode<'_>> = BTreeMap::new();
            for (image, groups) in &mut images {
                let standing = node.standings.get(&image.entry.image.name);
                let Some(standing) = standing.filter(|standing| **standing != Standing::Cached) else { continue };
                let verdict = match image.policy {
                    Some(policy) => {
                        let side = sides.entry(&policy.name);
                        let side = side.or_insert_with(|| OfNode::new(world, node, policy, &budget, now));
                        missing(image, side, *standing)
                    }
                    None => image.without_policy(),
                };
                note(groups, verdict, &node.node.name);
            }
            self.reached = Some(node.node.name.clone());
        }
        let is_over = part == 0 || nodes.next().is_none();
        self.found = images.into_iter().map(|(image, groups)| (image.entry.image.name.clone(), groups)).collect();
        is_over.then(|| self.overview(world))
    }

    fn overview(&mut self, world: &World) -> Overview {
        let mut summary = Summary::new(world);
        let mut images = Vec::new();
        for entry in world.images.values() {
            let groups = self.found.remove(&entry.image.name).unwrap_or_default();
            let mut verdicts: Vec<Group> = groups.into_values().collect();
            for group in verdicts.iter().filter(|group| !matches!(group.verdict, Verdict::Pulling { .. })) {
                let key = (entry.image.policy.clone(), group.verdict.reason());
                *summary.waiting.entry(key).or_default() += group.nodes;
            }
            verdicts.sort_by_key(|group| std::cmp::Reverse(group.nodes));
            images.push(Outline {
                cached_image: entry.image.name.clone(),
                image: entry.image.reference.clone(),
                cached: entry.tally.there(),
                verdicts,
            });
        }
        Overview { summary, images }
    }
}

/// Counts one more node.
fn note(groups: &mut Groups, verdict: Verdict, node: &Name) {
    let group = groups.entry(verdict.reason()).or_insert_with(|| {
        let message = verdict.to_string();
        Group { verdict, message, nodes: 0, examples: Vec::new() }
    });
    group.nodes += 1;
    if group.examples.len() < EXAMPLES {
        group.examples.push(node.clone());
    }
}
