//! Pauses registries that do not answer: a circuit breaker for each host.
//!
//! A host is paused when three different images fail because of their registry on two nodes, with no success since the
//! first of these failures. Then one pull at a time tries the host, at growing intervals. The first success resumes it
//! for all. If no other working node lacks images of the host, so that none could try, failures on one node are enough.

use std::collections::BTreeMap;

use drop_api::node_cache::FailureScope;
use jiff::{SignedDuration, Timestamp};

use super::{NodeEntry, World};
use crate::Name;
use crate::objects::image::ImagePullPolicy;
use crate::objects::node::{Node, Readiness};
use crate::objects::policy::Policy;
use crate::objects::reference::Reference;
use crate::pace::backoff::Backoff;
use crate::time::after;
use crate::world::health::Health;

/// How many images have to fail before their registry is paused.
const FAILING_IMAGES: usize = 3;

/// A pull that goes on for this long makes progress, so its registry answers: containerd gives up a download without
/// progress after five minutes (`image_pull_progress_timeout`).
const STALL: SignedDuration = SignedDuration::from_mins(5);

/// How a registry host fares, derived from the health of its images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registry {
    /// The newest pull from it that succeeded.
    success: Option<Timestamp>,
    /// The images that fail because of the registry, with no success since.
    failing: BTreeMap<Reference, BTreeMap<Name, Failing>>,
    /// Whether only one pull at a time may try it.
    is_paused: bool,
}

/// How one image fails on one node because of its registry.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failing {
    /// Rounds of failures over all nodes.
    rounds: u32,
    /// The first failure in a row.
    since: Timestamp,
    /// The last failure.
    at: Timestamp,
}

impl Registry {
    /// Records how one of its images fares. Returns whether this is a success after failures.
    pub fn update(&mut self, image: &Reference, health: &Health) -> bool {
        let success = health.success.as_ref().map(|success| success.at);
        let recovered = success > self.success && !self.failing.is_empty();
        self.success = self.success.max(success);
        let failures = health.failing.iter().filter(|(_, failure)| failure.scope == FailureScope::Registry);
        let of_image = failures.map(|(node, failure)| {
            let (rounds, since, at) = (failure.rounds, failure.since, failure.at);
            (node.clone(), Failing { rounds, since, at })
        });
        self.failing.insert(image.clone(), of_image.collect());
        for nodes in self.failing.values_mut() {
            nodes.retain(|_, failing| Some(failing.since) > self.success);
        }
        self.failing.retain(|_, nodes| !nodes.is_empty());
        recovered
    }

    /// The newest pull from it that succeeded.
    #[must_use]
    pub fn success(&self) -> Option<Timestamp> {
        self.success
    }

    /// Whether only one pull at a time may try it. `others_may_try` says whether a node other than the given one could
    /// show whose fault the failures are.
    fn should_pause(&self, others_may_try: impl Fn(&Name) -> bool) -> bool {
        let mut failing = self.failing.values().flat_map(BTreeMap::keys);
        let Some(first) = failing.next().filter(|_| self.failing.len() >= FAILING_IMAGES) else { return false };
        failing.any(|node| node != first) || !others_may_try(first)
    }

    /// Returns when the next pull of one of these images may try it while it is paused, where the newest try that goes
    /// on began at `tried_at`. A try that goes on for longer than [`STALL`] holds up none of the others.
    #[must_use]
    pub fn probe_at(
        &self,
        host: &str,
        backoff: &Backoff,
        tried_at: Option<Timestamp>,
        is_among: impl Fn(&Reference) -> bool,
    ) -> Option<Timestamp> {
        let rounds = self.failing.values().map(|nodes| nodes.values().map(|failing| failing.rounds).max().unwrap_or(0));
        let rounds = rounds.fold(0_u32, u32::saturating_add);
        let excess = u32::try_from(FAILING_IMAGES - 1).unwrap_or(u32::MAX);
        let wait = backoff.delay(rounds.saturating_sub(excess), host);
        let failing = self.failing.iter().filter(|(image, _)| is_among(image)).flat_map(|(_, nodes)| nodes.values());
        let failed_at = failing.map(|failing| failing.at).max();
        let after_try = tried_at.map(|at| after(at, wait.max(STALL)));
        after_try.max(failed_at.map(|at| after(at, wait)))
    }
}

impl World {
    /// Whether only one pull at a time may try the image's registry.
    pub(crate) fn is_registry_paused(&self, image: &Reference) -> bool {
        self.registries.get(image.host()).is_some_and(|registry| registry.is_paused)
    }

    /// Returns when the next pull under this policy may try a paused registry; `None` where it may now. Each policy
    /// waits after its own images: one with short waits would leave no turn to another.
    pub(crate) fn registry_probe_at(&self, image: &Reference, policy: &Policy) -> Option<Timestamp> {
        let registry = self.registries.get(image.host()).filter(|registry| registry.is_paused)?;
        let is_of_policy = |other: &Reference| self.wanted_by(other).any(|entry| entry.image.policy == policy.name);
        registry.probe_at(image.host(), &policy.backoff, self.registry_tried_at(image), is_of_policy)
    }

    /// Returns when the newest try of the image's registry that goes on began; `None` if none goes on.
    pub(crate) fn registry_tried_at(&self, image: &Reference) -> Option<Timestamp> {
        let of_host = self.pulling.iter().filter(|(other, _)| other.host() == image.host());
        let pods = of_host.flat_map(|(_, nodes)| nodes).filter_map(|node| self.pods_on.get(node)).flatten();
        let pods = pods.filter_map(|pod| self.pods.get(pod)).filter(|entry| !self.is_recorded(entry));
        pods.map(|entry| entry.started_at.unwrap_or(entry.steps.created)).max()
    }

    /// Derives anew how the registry of an image fares, after the image's health has changed.
    pub(super) fn registry_changed(&mut self, image: &Reference) {
        let is_of_host = |other: &Reference| other.host() == image.host();
        let nothing = Health::default();
        let health = self.health.get(image);
        if health.is_none() && !self.health.keys().any(is_of_host) {
            if self.registries.remove(image.host()).is_some_and(|registry| registry.is_paused) {
                self.registry_fares_otherwise(image.host());
            }
            return;
        }
        if !self.registries.contains_key(image.host()) {
            self.registries.insert(image.host().into(), Registry::default());
        }
        let Some(registry) = self.registries.get_mut(image.host()) else { return };
        let recovered = registry.update(image, health.unwrap_or(&nothing));
        let success = registry.success();
        if let Some(health) = self.health.get_mut(image) {
            health.registry_success = success;
        }
        if recovered {
            self.registry_fares_otherwise(image.host());
        }
        self.dirty.note_host(image);
    }

    /// Derives anew which registries are paused, among those that may have changed. Returns whether any has changed.
    pub(super) fn judge_registries(&mut self) -> bool {
        let mut is_any_changed = false;
        for host in std::mem::take(&mut self.dirty.hosts) {
            let Some(registry) = self.registries.get(&host) else { continue };
            let is_paused = registry.should_pause(|node| self.may_others_try(&host, node));
            if is_paused != registry.is_paused {
                self.registries.get_mut(&host).into_iter().for_each(|registry| registry.is_paused = is_paused);
                self.registry_fares_otherwise(&host);
                is_any_changed = true;
            }
        }
        is_any_changed
    }

    /// Whether a node other than `node` lacks an image of this host and could pull it.
    fn may_others_try(&self, host: &str, node: &str) -> bool {
        let of_host = self.wanted.iter().filter(|(image, _)| image.host() == host).flat_map(|(_, names)| names);
        of_host.filter_map(|name| self.images.get(name)).any(|entry| {
            let may_be_pulled = self.policy_of(&entry.image).is_some_and(|policy| !policy.paused)
                && entry.image.pull != ImagePullPolicy::Never;
            let lacks = |other: &NodeEntry| other.standings.get(&entry.image.name).is_some_and(|it| it.wants_pull());
            let works = |other: &Node| other.readiness == Readiness::Ready && self.trouble_of(other).is_none();
            let others = || self.nodes.values().filter(|other| *other.node.name != *node && lacks(other));
            let mut able = others().map(|other| &other.node).filter(|it| works(it) && !self.lacks_platform(entry, it));
            let is_lacking = self.nodes.get(node).is_some_and(&lacks);
            let lacking = entry.tally.targeted() - entry.tally.cached;
            may_be_pulled && lacking > usize::from(is_lacking) && able.next().is_some()
        })
    }

    /// Derives the images of a registry anew, after it was paused or resumed.
    fn registry_fares_otherwise(&mut self, host: &str) {
        let success = self.registries.get(host).and_then(Registry::success);
        for (_, health) in self.health.iter_mut().filter(|(other, _)| other.host() == host) {
            health.registry_success = success;
        }
        let wanted = self.wanted.iter().filter(|(other, _)| other.host() == host).flat_map(|(_, names)| names);
        self.dirty.images.extend(wanted.cloned());
    }
}

#[cfg(test)]
mod tests {
    use drop_api::NodeCache;
    use drop_api::node_cache::{ImageRecord, NodeCacheSpec, NodeCacheStatus};

    use super::*;
    use crate::io::event::{Event, Kind};
    use crate::settings::Settings;

    #[test]
    fn a_registry_is_forgotten_with_its_last_image() {
        let (mut world, now) = (World::new(Settings::default()), Timestamp::UNIX_EPOCH);
        for number in 0..100 {
            let record = |image: &str| ImageRecord {
                image: format!("r{number}.example/{image}:1"),
                pulled_at: Some(now),
                ..ImageRecord::default()
            };
            let images = vec![record("one"), record("two")];
            let mut cache = NodeCache::new("node", NodeCacheSpec { node_uid: "uid".to_owned() });
            cache.status = Some(NodeCacheStatus { images, ..NodeCacheStatus::default() });
            world.apply(Event::Cache(Box::new(cache)), now);
            assert_eq!((world.health.len(), world.registries.len()), (2, 1));
        }
        world.apply(Event::Gone(Kind::Cache, "node".into()), now);
        assert_eq!((world.health.len(), world.registries.len()), (0, 0));
    }
}
