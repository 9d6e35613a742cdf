//! How an image fares over all nodes.

use std::collections::{BTreeMap, BTreeSet};

use drop_api::node_cache::FailureScope;
use jiff::Timestamp;

use super::{ImageEntry, NodeEntry, World};
use crate::Name;
use crate::objects::image::ImagePullPolicy;
use crate::objects::memory::{Failure, Record};
use crate::objects::newest::{ImageId, Newest, Update};
use crate::objects::node::Node;
use crate::objects::policy::Policy;
use crate::objects::presence::Standing;
use crate::objects::reference::Reference;
use crate::pace::backoff::Backoff;
use crate::time::after;

/// A failure of unknown scope counts as the image's once it occurs on this many nodes.
const UNKNOWN_NODES: usize = 3;

/// One image reference on all nodes, derived from their memories.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// The newest pull that succeeded.
    pub success: Option<Success>,
    /// The IDs that the newest pulls got.
    pub newest: Newest,
    /// The newest success of any image of the same registry, if it closes failures of this one.
    pub registry_success: Option<Timestamp>,
    /// The nodes whose last pull failed.
    pub failing: BTreeMap<Name, Failure>,
    /// The nodes on which a Pod with several images, including this one, timed out.
    pub alone: BTreeSet<Name>,
}

/// A pull that succeeded somewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Success {
    /// When.
    pub at: Timestamp,
    /// Where.
    pub node: Name,
    /// The ID that the runtime reported for the image, if any.
    pub id: Option<ImageId>,
}

impl Health {
    /// Records what `node`, which is of this platform, now remembers of the image. Returns the consequences, above all
    /// whether one of the newest pulls was on `node` and has to be searched again.
    pub fn update(&mut self, node: &Name, platform: &Name, record: Option<&Record>) -> Update {
        match record.and_then(|record| record.failure.as_deref()) {
            Some(failure) => drop(self.failing.insert(node.clone(), failure.clone())),
            None => drop(self.failing.remove(node)),
        }
        match record.is_some_and(|record| record.alone) {
            true => drop(self.alone.insert(node.clone())),
            false => drop(self.alone.remove(node)),
        }
        // An unwanted image's tag is not followed.
        let wanted = record.filter(|record| record.unwanted_since.is_none());
        let pulled_as = wanted.and_then(|record| Some((record.pulled?.at.into(), record.id.as_ref()?)));
        let mut update = self.newest.update(node, platform, pulled_as);
        let mut is_stale = self.success.as_ref().is_some_and(|success| success.node == *node);
        if let Some(pulled) = record.and_then(|record| record.pulled) {
            let at = Timestamp::from(pulled.at);
            // Of equal times the node with the lower name wins, so that the order in which memories arrive does not
            // matter.
            let newest = self
                .success
                .as_ref()
                .is_none_or(|newest| (newest.at, std::cmp::Reverse(&newest.node)) <= (at, std::cmp::Reverse(node)));
            if newest {
                let id = record.and_then(|record| record.id.clone());
                self.success = Some(Success { at, node: node.clone(), id });
                is_stale = false;
            }
        }
        update.is_stale |= is_stale;
        update
    }

    /// Forgets the newest pulls. They are then searched in the memories of all nodes.
    pub fn forget_pulls(&mut self) {
        self.success = None;
        self.newest = Newest::default();
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.success.is_none() && self.failing.is_empty() && self.alone.is_empty()
    }

    /// Returns the failures that no success refutes: the image was pulled on no node since the first failure in a row.
    /// A node whose failures are refuted has a fault of its own, which does not become the image's when the image fails
    /// there again. Failures that were the node's own from the start are left out.
    fn unrefuted(&self) -> impl Iterator<Item = (&Name, &Failure)> {
        let success = self.success.as_ref().map(|success| success.at);
        self.failing.iter().filter(move |(_, failure)| match failure.scope {
            FailureScope::Image | FailureScope::Unknown => success < Some(failure.since),
            FailureScope::Registry => success.max(self.registry_success) < Some(failure.since),
            FailureScope::Node => false,
        })
    }

    /// Returns the failures that are the image's or its registry's. While there are any, one node at a time tries. One
    /// failing node is enough if no other node has succeeded before; otherwise a second one has to fail. Failures of
    /// unknown scope count on three nodes and more.
    pub fn open_failures(&self) -> impl Iterator<Item = (&Name, &Failure)> {
        let is_unknown = |failure: &Failure| failure.scope == FailureScope::Unknown;
        let unknown = self.unrefuted().filter(|(_, failure)| is_unknown(failure)).count();
        let known = self.unrefuted().count() - unknown;
        let needed = if self.success.is_some() { 2 } else { 1 };
        self.unrefuted().filter(move |(_, failure)| match is_unknown(failure) {
            true => unknown >= UNKNOWN_NODES,
            false => known >= needed,
        })
    }

    /// Whether `failure`, of some node, is the image's or its registry's.
    #[must_use]
    pub fn is_open(&self, failure: &Failure) -> bool {
        self.open_failures().any(|(_, open)| open == failure)
    }

    /// Returns since when the image has failed somewhere with nothing to refute it.
    #[must_use]
    pub fn doubted_since(&self) -> Option<Timestamp> {
        self.unrefuted().map(|(_, failure)| failure.since).min()
    }

    /// Returns the nodes on which it may be the one of several images that hung, while no node has pulled it since.
    fn suspicions(&self) -> impl Iterator<Item = &Name> {
        self.alone.iter().filter(|node| self.success.is_none() && !self.failing.contains_key(*node))
    }

    /// Returns how many rounds of open failures there were on these nodes.
    #[must_use]
    pub fn open_rounds(&self, is_among: impl Fn(&Name) -> bool) -> u32 {
        self.open_failures().filter(|(node, _)| is_among(node)).map(|(_, failure)| failure.rounds).max().unwrap_or(0)
    }

    /// Returns when these nodes may begin the next round of tries, by the backoff alone; `None` if they have no open
    /// failures.
    #[must_use]
    pub fn next_round(
        &self,
        image: &Reference,
        backoff: &Backoff,
        is_among: impl Fn(&Name) -> bool,
    ) -> Option<Timestamp> {
        let last = self.last_open_failure(&is_among)?;
        Some(after(last, backoff.delay(self.open_rounds(is_among), image.as_str())))
    }

    /// Returns when the last of the open failures on these nodes was.
    #[must_use]
    pub fn last_open_failure(&self, is_among: impl Fn(&Name) -> bool) -> Option<Timestamp> {
        self.open_failures().filter(|(node, _)| is_among(node)).map(|(_, failure)| failure.at).max()
    }
}

impl World {
    /// Returns how often an image failed in a row; nodes that fail at the same time count once. While it is not zero,
    /// one node at a time tries the image.
    pub(crate) fn open_rounds(&self, image: &Reference) -> u32 {
        self.health.get(image).map_or(0, |health| health.open_rounds(|_| true))
    }

    /// Whether a failure of `image` on some node is the image's or its registry's.
    pub(crate) fn is_open(&self, image: &Reference, failure: &Failure) -> bool {
        self.health.get(image).is_some_and(|health| health.is_open(failure))
    }

    /// Returns since when an image has failed somewhere with nothing to refute it, or may have hung. Later failures
    /// change nothing: a node that fails again and again would put off all others.
    pub(crate) fn doubted_since(&self, image: &Reference) -> Option<Timestamp> {
        let health = self.health.get(image)?;
        let hung_at = |node| self.nodes.get(node).and_then(|node| node.hung_at).unwrap_or(Timestamp::UNIX_EPOCH);
        health.doubted_since().into_iter().chain(health.suspicions().map(hung_at)).min()
    }

    /// Whether a node is a target of a CachedImage. Others may want the same image on other nodes, with other Secrets
    /// or under other policies.
    fn is_target(&self, wanted: &ImageEntry, node: &str) -> bool {
        self.standing_on(node, &wanted.image.name).is_some()
    }

    /// Returns when a CachedImage was last tried in vain on any of its nodes that has not succeeded since.
    pub(crate) fn last_try(&self, wanted: &ImageEntry) -> Option<Timestamp> {
        let failing = &self.health.get(&wanted.image.reference)?.failing;
        failing.iter().filter(|(node, _)| self.is_target(wanted, node)).map(|(_, failure)| failure.at).max()
    }

    /// Returns the oldest last failure among the nodes that lack a CachedImage; `None` if one of them never failed.
    pub(crate) fn oldest_try(&self, wanted: &ImageEntry) -> Option<Timestamp> {
        let failing = &self.health.get(&wanted.image.reference)?.failing;
        let standing = |node: &NodeEntry| node.standings.get(&wanted.image.name).copied();
        let lacking = self.nodes.iter().filter(|(_, node)| standing(node).is_some_and(Standing::wants_pull));
        lacking.map(|(node, _)| failing.get(node).map(|failure| failure.at)).min().flatten()
    }

    /// Returns why an image fails, in a few words.
    pub(crate) fn cause_of(&self, image: &Reference) -> Name {
        let cause = self.health.get(image).and_then(|health| health.open_failures().next());
        cause.map_or_else(|| "".into(), |(_, failure)| failure.message.clone())
    }

    /// Returns when the next of its nodes may try a CachedImage that fails; `None` where it fails on none of them.
    pub(crate) fn probe_at(&self, wanted: &ImageEntry, policy: &Policy) -> Option<Timestamp> {
        let image = &wanted.image.reference;
        let health = self.health.get(image)?;
        let is_target = |node: &Name| self.is_target(wanted, node);
        let at = health.next_round(image, &policy.backoff, is_target)?;
        // An edit may have mended what failed: it is tried at once.
        let last = health.last_open_failure(is_target)?;
        Some(wanted.edited_at.filter(|edited_at| *edited_at >= last).map_or(at, |edited_at| edited_at.min(at)))
    }

    /// Returns when a node is to find out whether the tag of an image has moved; `None` if no node is to. A failed
    /// question delays the next one on all nodes.
    pub(crate) fn ask_at(&self, wanted: &ImageEntry, policy: &Policy) -> Option<Timestamp> {
        let image = &wanted.image;
        let interval = policy.repull_interval?;
        if image.pull != ImagePullPolicy::Always || image.reference.digest().is_some() || wanted.tally.there() == 0 {
            return None;
        }
        // No node needs to pull for an answer that the registry gives, or is about to give.
        let lookup = self.lookup_of(wanted);
        if lookup.is_some_and(|lookup| lookup.works() || lookup.is_pending()) {
            return None;
        }
        let health = self.health.get(&image.reference);
        let success = health.and_then(|health| health.success.as_ref());
        let answered_at = health.and_then(|health| health.newest.oldest_answer()).or(success.map(|success| success.at));
        // The registry's answer is valid for all groups of nodes.
        let answered_at = answered_at.max(self.looked_up_at(wanted));
        let due = answered_at.map_or(wanted.seen_at, |at| after(at, interval));
        // A failure on a node that has the image is a failed question.
        let is_question = |node: &str| self.standing_on(node, &image.name).is_some_and(Standing::is_there);
        let failures = health.into_iter().flat_map(|health| &health.failing);
        let failures =
            failures.filter(|(node, failure)| success.map(|it| it.at) < Some(failure.at) && is_question(node));
        let (count, at) = failures.fold((0_u32, None), |(count, at), (_, failure)| {
            (count.saturating_add(failure.count), at.max(Some(failure.at)))
        });
        let put_off = at.map(|at| after(at, policy.backoff.delay(count, image.reference.as_str())));
        put_off.max(Some(due))
    }

    /// Returns when a node like this one may check again whether the tag has moved: once the interval has passed since
    /// a node like it checked. Checks of other nodes, whose image IDs cannot be compared with this node's, do not
    /// count. `None` before the first check.
    pub(crate) fn may_ask_at(&self, image: &Reference, node: &Node, policy: &Policy) -> Option<Timestamp> {
        let health = self.health.get(image)?;
        let id = self.memory_of(node).and_then(|memory| memory.images.get(image)?.id.as_ref());
        let answered_at = health.newest.seen_from(&node.platform).answered_at(id)?;
        Some(after(answered_at, policy.repull_interval?))
    }

    /// Whether a Pod is trying the image. A Pod that began before the image last failed gives no new information,
    /// however long it takes.
    pub(crate) fn is_tried(&self, image: &Reference) -> bool {
        self.is_tried_since(image, self.health.get(image).and_then(|health| health.last_open_failure(|_| true)))
    }

    pub(super) fn is_tried_since(&self, image: &Reference, at: Option<Timestamp>) -> bool {
        let nodes = self.pulling.get(image).into_iter().flatten();
        let mut pods = nodes.filter_map(|node| self.pods_on.get(node)).flatten().filter_map(|pod| self.pods.get(pod));
        pods.any(|entry| {
            let is_of_image = entry.pod.containers.iter().any(|container| container.image == *image);
            let is_after = entry.started_at.is_none_or(|started_at| at.is_none_or(|at| started_at > at));
            is_of_image && is_after && !self.is_recorded(entry)
        })
    }

    /// Returns the rounds of failures of the CachedImages that want an image on `node`, and when these may be tried
    /// again, by the backoff alone.
    pub(crate) fn rounds_on(&self, image: &Reference, node: &str, backoff: &Backoff) -> (u32, Option<Timestamp>) {
        let Some(health) = self.health.get(image) else { return (0, None) };
        let is_among = self.among_nodes_of(image, node);
        (health.open_rounds(&is_among), health.next_round(image, backoff, &is_among))
    }

    /// Whether another node is a target of a CachedImage that wants an image on `node`.
    fn among_nodes_of(&self, image: &Reference, node: &str) -> impl Fn(&Name) -> bool {
        let wanting: Vec<&ImageEntry> = self.wanted_by(image).filter(|wanted| self.is_target(wanted, node)).collect();
        move |other| wanting.iter().any(|wanted| self.is_target(wanted, other))
    }

    /// Returns when an image may be tried again if a node will remember `record` of it; `None` if the image does not
    /// fail.
    pub(crate) fn next_try(
        &self,
        image: &Reference,
        node: &Node,
        record: &Record,
        backoff: &Backoff,
    ) -> Option<Timestamp> {
        let failure = record.failure.as_deref()?;
        let mut health = self.health.get(image).cloned().unwrap_or_default();
        health.update(&node.name, &node.platform, Some(record));
        let is_among = self.among_nodes_of(image, &node.name);
        let of_image = health.next_round(image, backoff, is_among).filter(|_| health.is_open(failure));
        of_image.or_else(|| Some(failure.due(&node.name, image, backoff)))
    }

    /// How an image fares over all nodes; `None` where nothing is known.
    pub(crate) fn health_of(&self, image: &Reference) -> Option<&Health> {
        self.health.get(image)
    }
}
