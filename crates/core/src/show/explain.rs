//! Why each image is where it is, for `/debug/plan`, `/metrics` and statuses.

use jiff::Timestamp;
use serde::Serialize;

use crate::Name;
use crate::gate::budget::Budget;
use crate::gate::verdict::Verdict;
use crate::objects::image::ImagePullPolicy;
use crate::objects::policy::Policy;
use crate::objects::presence::Standing;
use crate::objects::reference::Reference;
use crate::world::{ImageEntry, NodeEntry, OnNode, PodEntry, World};

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
pub(super) struct OfImage<'a> {
    pub(super) entry: &'a ImageEntry,
    pub(super) policy: Option<&'a Policy>,
    /// It is not to be pulled.
    rests: Option<Verdict>,
    refused: Option<Verdict>,
    /// It or its registry fails.
    fails: Option<Verdict>,
    /// Its registry's slots are taken.
    waits: Option<Verdict>,
}

impl<'a> OfImage<'a> {
    pub(super) fn new(world: &'a World, entry: &'a ImageEntry, budget: &Budget<'_>) -> Self {
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

    pub(super) fn without_policy(&self) -> Verdict {
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
pub(super) struct OfNode<'a> {
    here: OnNode<'a>,
    pod: Option<&'a PodEntry>,
    hindrance: Option<Verdict>,
    backoff: Option<Verdict>,
    /// Others come first.
    waits: Option<Verdict>,
    policy: &'a Policy,
}

impl<'a> OfNode<'a> {
    pub(super) fn new(
        world: &'a World,
        node: &'a NodeEntry,
        policy: &'a Policy,
        budget: &Budget<'_>,
        now: Timestamp,
    ) -> Self {
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
pub(super) fn missing(image: &OfImage<'_>, node: &OfNode<'_>, standing: Standing) -> Verdict {
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
