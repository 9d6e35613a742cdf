//! How an image fares over all nodes.

use std::collections::BTreeMap;

use drop_api::node_cache::FailureScope;
use jiff::Timestamp;

use super::World;
use crate::Name;
use crate::objects::image::Image;
use crate::objects::memory::{Failure, Record};
use crate::objects::policy::Policy;
use crate::objects::reference::Reference;
use crate::pace::backoff::Backoff;
use crate::time::after;

/// One image reference on all nodes, derived from their memories.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// The newest pull that succeeded.
    pub success: Option<Success>,
    /// The newest success of any image of the same registry, as far as it closes
    /// failures of this one.
    pub registry_success: Option<Timestamp>,
    /// The nodes whose last pull failed.
    pub failing: BTreeMap<Name, Failure>,
}

/// A pull that succeeded somewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Success {
    /// When.
    pub at: Timestamp,
    /// Where.
    pub node: Name,
    /// The digest, if the runtime tells it.
    pub digest: Option<Name>,
}

impl Health {
    /// Takes in what `node` now remembers of the image. Returns whether the
    /// newest success was on `node` and has to be looked for again.
    pub fn update(&mut self, node: &Name, record: Option<&Record>) -> bool {
        match record.and_then(|record| record.failure.as_deref()) {
            Some(failure) => drop(self.failing.insert(node.clone(), failure.clone())),
            None => drop(self.failing.remove(node)),
        }
        let mut stale = self.success.as_ref().is_some_and(|success| success.node == *node);
        if let Some(pulled) = record.and_then(|record| record.pulled.as_ref()) {
            // Ties go to the node with the lower name, so that the order in which
            // memories come in does not matter.
            let newest = self.success.as_ref().is_none_or(|newest| {
                (newest.at, std::cmp::Reverse(&newest.node)) <= (pulled.at, std::cmp::Reverse(node))
            });
            if newest {
                let digest = record.and_then(|record| record.digest.clone());
                self.success = Some(Success { at: pulled.at, node: node.clone(), digest });
                stale = false;
            }
        }
        stale
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.success.is_none() && self.failing.is_empty()
    }

    /// The failures since the newest success that are the image's or its
    /// registry's: while there are any, one node at a time tries.
    pub fn open_failures(&self) -> impl Iterator<Item = (&Name, &Failure)> {
        let success = self.success.as_ref().map(|success| success.at);
        self.failing.iter().filter(move |(_, failure)| match failure.scope {
            FailureScope::Image => success < Some(failure.at),
            FailureScope::Registry => success.max(self.registry_success) < Some(failure.at),
            FailureScope::Node | FailureScope::Unknown => false,
        })
    }

    /// How many rounds of open failures there were.
    #[must_use]
    pub fn open_rounds(&self) -> u32 {
        self.open_failures().map(|(_, failure)| failure.count).max().unwrap_or(0)
    }

    /// When the last of the open failures was.
    #[must_use]
    pub fn last_open_failure(&self) -> Option<Timestamp> {
        self.open_failures().map(|(_, failure)| failure.at).max()
    }
}

impl World {
    /// How often an image failed in a row; nodes that fail side by side count once.
    /// While it is not zero, one node at a time tries it.
    pub(crate) fn open_rounds(&self, image: &Reference) -> u32 {
        self.health.get(image).map_or(0, Health::open_rounds)
    }

    /// When the next node may try an image that fails; `None` where it does not.
    pub(crate) fn probe_at(&self, image: &Image, policy: &Policy) -> Option<Timestamp> {
        let at = self.next_round(&image.reference, &policy.backoff)?;
        // An edit may have mended what failed: it is tried at once.
        let edited_at = self.images.get(&image.name).and_then(|entry| entry.edited_at);
        let last = self.health.get(&image.reference)?.last_open_failure()?;
        Some(edited_at.filter(|edited_at| *edited_at >= last).map_or(at, |edited_at| edited_at.min(at)))
    }

    /// Whether a Pod is trying the image. One that began before the image last failed tells
    /// nothing new, however long it takes.
    pub(crate) fn is_tried(&self, image: &Reference) -> bool {
        self.is_tried_since(image, self.health.get(image).and_then(Health::last_open_failure))
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

    /// When an image that fails may be tried again by the backoff alone.
    pub(crate) fn next_round(&self, image: &Reference, backoff: &Backoff) -> Option<Timestamp> {
        let health = self.health.get(image)?;
        let wait = backoff.delay(health.open_rounds(), image.as_str());
        Some(after(health.last_open_failure()?, wait))
    }
}
