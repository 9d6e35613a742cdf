//! Registries that do not answer: a circuit breaker for each host.
//!
//! When three different images fail for their registry's sake, with no success
//! in between, the host is paused: one pull at a time tries it, at growing
//! intervals. The first one that succeeds opens it to all.

use std::collections::BTreeMap;

use drop_api::node_cache::FailureScope;
use jiff::Timestamp;

use super::World;
use crate::objects::policy::Policy;
use crate::objects::reference::Reference;
use crate::pace::backoff::Backoff;
use crate::time::after;
use crate::world::health::Health;

/// How many images have to fail before their registry is paused.
const FAILING_IMAGES: usize = 3;

/// How a registry host fares, derived from the health of its images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registry {
    /// The newest pull from it that succeeded.
    success: Option<Timestamp>,
    /// The images that failed for its sake since then: how often, and when last.
    failing: BTreeMap<Reference, (u32, Timestamp)>,
}

impl Registry {
    /// Takes in how one of its images fares. Returns whether this is a success after
    /// failures.
    pub fn update(&mut self, image: &Reference, health: &Health) -> bool {
        let success = health.success.as_ref().map(|success| success.at);
        let recovered = success > self.success && !self.failing.is_empty();
        self.success = self.success.max(success);
        self.failing.retain(|_, (_, at)| Some(*at) > self.success);
        let failures = health.failing.values().filter(|failure| failure.scope == FailureScope::Registry);
        let newest = failures.filter(|failure| Some(failure.at) > self.success).max_by_key(|failure| failure.at);
        match newest {
            Some(failure) => drop(self.failing.insert(image.clone(), (failure.count, failure.at))),
            None => drop(self.failing.remove(image)),
        }
        recovered
    }

    /// The newest pull from it that succeeded.
    #[must_use]
    pub fn success(&self) -> Option<Timestamp> {
        self.success
    }

    /// Whether only one pull at a time may try it.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.failing.len() >= FAILING_IMAGES
    }

    /// When the next pull may try it; `None` where all may.
    #[must_use]
    pub fn probe_at(&self, host: &str, backoff: &Backoff) -> Option<Timestamp> {
        if !self.is_paused() {
            return None;
        }
        let count = self.failing.values().fold(0_u32, |sum, (count, _)| sum.saturating_add(*count));
        let excess = u32::try_from(FAILING_IMAGES - 1).unwrap_or(u32::MAX);
        let wait = backoff.delay(count.saturating_sub(excess), host);
        Some(after(self.last_failure()?, wait))
    }

    /// The newest pull that failed for its sake since then.
    #[must_use]
    pub fn last_failure(&self) -> Option<Timestamp> {
        self.failing.values().map(|(_, at)| *at).max()
    }
}

impl World {
    /// Whether only one pull at a time may try the image's registry.
    pub(crate) fn is_registry_paused(&self, image: &Reference) -> bool {
        self.registries.get(image.host()).is_some_and(Registry::is_paused)
    }

    /// When the next pull may try a paused registry; `None` where all may.
    pub(crate) fn registry_probe_at(&self, image: &Reference, policy: &Policy) -> Option<Timestamp> {
        self.registries.get(image.host())?.probe_at(image.host(), &policy.backoff)
    }

    /// Whether a Pod is trying the image's registry, in the same sense.
    pub(crate) fn is_registry_tried(&self, image: &Reference) -> bool {
        let failed_at = self.registries.get(image.host()).and_then(Registry::last_failure);
        let mut of_host = self.pulling.keys().filter(|other| other.host() == image.host());
        of_host.any(|other| self.is_tried_since(other, failed_at))
    }
}
