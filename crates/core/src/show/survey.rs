//! Computes the numbers behind `/metrics`, and groups every missing image by verdict.

use std::collections::BTreeMap;

use drop_api::discovery_policy::QueryStatus;
use jiff::Timestamp;
use serde::Serialize;

use crate::Name;
use crate::discovery::sync;
use crate::gate::Pair;
use crate::gate::budget::Budget;
use crate::gate::verdict::Verdict;
use crate::objects::reference::Reference;
use crate::show::status;
use crate::world::{ImageEntry, World};

/// How many nodes are named for a verdict.
const EXAMPLES: usize = 3;

/// The numbers behind the gauges of `/metrics`.
#[derive(Debug, Default)]
pub struct Summary {
    /// Whether every watched kind has been listed.
    pub is_synced: bool,
    /// Images being pulled, by policy.
    pub active: BTreeMap<Name, usize>,
    /// Images missing on target nodes and not being pulled, by policy and reason.
    pub waiting: BTreeMap<(Name, &'static str), usize>,
    /// By CachedImage.
    pub images: BTreeMap<Name, ImageCounts>,
    /// Per CachedImageSet, whether it can have all of its CachedImages.
    pub sets: BTreeMap<Name, bool>,
    /// Every wanted image, with its size in bytes once a node lists it.
    pub sizes: BTreeMap<Reference, Option<u64>>,
    /// By DiscoveryPolicy.
    pub discoveries: BTreeMap<Name, DiscoveryCounts>,
}

/// The numbers of one DiscoveryPolicy, from its status.
#[derive(Debug, Default)]
pub struct DiscoveryCounts {
    /// Whether it is Ready, or has not run yet.
    pub is_well: bool,
    /// Images that it has found.
    pub images: usize,
    /// Per source, whether its last answer was good.
    pub sources: BTreeMap<Name, bool>,
}

/// One CachedImage's numbers.
#[derive(Debug, Default)]
pub struct ImageCounts {
    /// Target nodes.
    pub targeted: usize,
    /// Nodes that have it.
    pub cached: usize,
    /// Nodes that lack it because the last pull there failed.
    pub failed: usize,
    /// Rounds of pulls that failed because of the image or its registry, without a success since.
    pub consecutive_failures: usize,
}

impl Summary {
    /// Computes all numbers except those of waiting pulls, which a [`Survey`] counts.
    #[must_use]
    pub fn new(world: &World) -> Self {
        let mut summary = Self { is_synced: world.is_synced(), ..Self::default() };
        for entry in world.policies() {
            summary.active.insert(entry.policy.name.clone(), 0);
        }
        for entry in world.pods() {
            let open = entry.pod.containers.iter().filter(|container| container.outcome().is_none()).count();
            *summary.active.entry(entry.pod.policy.clone()).or_default() += open;
        }
        for (policy, entry) in world.discoveries() {
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
        summary.sets.extend(world.sets().map(|entry| (entry.set.name.clone(), status::is_whole(world, entry))));
        summary.sizes.extend(world.wanted().map(|image| (image.clone(), world.size_of(image))));
        for entry in world.images() {
            let counts = ImageCounts {
                targeted: entry.tally.targeted(),
                cached: entry.tally.there(),
                failed: entry.tally.failed,
                consecutive_failures: world.open_rounds(&entry.image.reference) as usize,
            };
            summary.images.insert(entry.image.name.clone(), counts);
        }
        summary
    }
}

/// All CachedImages, with the verdicts on the nodes that lack them.
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
    /// The verdicts on the other target nodes, the most frequent one first.
    pub verdicts: Vec<Group>,
}

/// Nodes with the same verdict on an image.
#[derive(Debug, Serialize)]
pub struct Group {
    /// The verdict; its names and times are those of the first example.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The same as a sentence.
    pub message: String,
    /// The number of nodes.
    pub nodes: usize,
    /// Some of them.
    pub examples: Vec<Name>,
}

/// By the verdict's reason.
type Groups = BTreeMap<&'static str, Group>;

/// Examines every missing image on every node, some at a time. It may see only some of the changes between two steps.
#[derive(Debug, Default)]
pub struct Survey {
    found: BTreeMap<Name, Groups>,
    /// The last node that was examined.
    reached: Option<Name>,
}

impl Survey {
    /// Examines the next nodes, at most about `pairs` pairs of an image and a node. A pair takes about a fifth of a
    /// microsecond. Returns the overview after the last node.
    pub fn step(&mut self, world: &World, now: Timestamp, pairs: usize) -> Option<Overview> {
        let budget = Budget::new(world, now);
        let mut found = std::mem::take(&mut self.found);
        let waiting = world.images().filter(|entry| entry.tally.cached < entry.tally.targeted());
        let mut images: Vec<(&ImageEntry, Groups)> =
            waiting.map(|entry| (entry, found.remove(&entry.image.name).unwrap_or_default())).collect();
        let reached = self.reached.take();
        let mut nodes = world.nodes_after(reached.as_ref());
        // If no image is missing, no node needs to be examined.
        let part = pairs.checked_div(images.len()).map_or(0, |nodes| nodes.max(1));
        for node in nodes.by_ref().take(part) {
            let here = world.on_node(node);
            for (image, groups) in &mut images {
                let standing = node.standings.get(&image.image.name).copied();
                let Some(standing) = standing.filter(|standing| standing.wants_pull()) else { continue };
                let Some(pair) = Pair::new(&here, image, standing, now) else { continue };
                note(groups, pair.explain(&budget), &node.node.name);
            }
            self.reached = Some(node.node.name.clone());
        }
        let is_over = part == 0 || nodes.next().is_none();
        self.found = images.into_iter().map(|(image, groups)| (image.image.name.clone(), groups)).collect();
        is_over.then(|| self.overview(world))
    }

    fn overview(&mut self, world: &World) -> Overview {
        let mut summary = Summary::new(world);
        let mut images = Vec::new();
        for entry in world.images() {
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
