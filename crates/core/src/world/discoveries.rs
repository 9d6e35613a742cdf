//! DiscoveryPolicies, and when each asks its sources.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use drop_api::{DiscoveryPolicy, DiscoveryPolicySpec, DiscoveryPolicyStatus};
use jiff::Timestamp;

use super::{Published, World};
use crate::Name;
use crate::discovery::{HELD_FOR, InvalidSpec, Pipeline, SpecId, sync};
use crate::io::effect::EffectKey;
use crate::io::event::{Kind, Report};
use crate::objects::image_set::ImageSet;
use crate::objects::node::Readiness;
use crate::objects::placement::Placement;
use crate::pace::backoff::{Backoff, jittered};
use crate::time::after;

/// A DiscoveryPolicy.
#[derive(Debug)]
pub(crate) struct DiscoveryEntry {
    pub(crate) id: SpecId,
    pub(crate) spec: DiscoveryPolicySpec,
    pub(crate) pipeline: Result<Arc<Pipeline>, InvalidSpec>,
    pub(crate) published: Published<DiscoveryPolicyStatus>,
    /// The status that the object is to show, once known.
    pub(crate) outcome: Option<DiscoveryPolicyStatus>,
    /// Failed runs in a row: runs in which a source failed.
    failures: u32,
    /// The images that kept their place before a better one, each with the number of runs in a row.
    held: BTreeMap<Name, u32>,
}

impl DiscoveryEntry {
    /// Returns the listed images that keep their place before slightly better ones.
    pub(crate) fn listed(&self) -> BTreeSet<Name> {
        let status = &self.published.status;
        let is_same = status.observed_generation == self.id.generation;
        let images = status.discovered_images.iter().filter(|_| is_same).map(|image| Name::from(&*image.image));
        images.filter(|image| self.held.get(image).is_none_or(|runs| *runs < HELD_FOR)).collect()
    }
}

impl World {
    pub(super) fn set_discovery(&mut self, object: DiscoveryPolicy, now: Timestamp) {
        let meta = object.metadata;
        let (Some(name), Some(uid)) = (meta.name.map(Name::from), meta.uid.map(Name::from)) else { return };
        if meta.deletion_timestamp.is_some() {
            return self.remove_discovery(&name);
        }
        let id = SpecId { uid, generation: meta.generation };
        let status = object.status.unwrap_or_default();
        let run = EffectKey::Discovery(name.clone());
        // The clock that wrote it may have been hours ahead.
        let latest = after(now, object.spec.sync_interval.get());
        match self.discoveries.get_mut(&name) {
            Some(entry) if entry.id == id => {
                if !entry.published.observe(status) {
                    return;
                }
                // Another replica leads, and has asked.
                let is_own = entry.outcome.as_ref() == Some(&entry.published.status);
                if !is_own && self.outbox.time_of(&run).is_some() {
                    entry.outcome = None;
                    let next_at = entry.published.status.next_sync_time.map(|at| at.min(latest));
                    self.outbox.schedule(run, next_at.unwrap_or(Timestamp::MIN));
                }
            }
            known => {
                let pipeline = Pipeline::compile(&object.spec).map(Arc::new);
                // A restart does not cause sources to be asked again.
                let planned = status.next_sync_time.filter(|_| status.observed_generation == id.generation);
                let next_at = if known.is_some() { None } else { planned.map(|at| at.min(latest)) };
                // An edit does not show a status that was written meanwhile.
                let published = match self.discoveries.remove(&name) {
                    Some(mut known) if known.id.uid == id.uid => {
                        known.published.observe(status);
                        known.published
                    }
                    _ => Published::new(status),
                };
                let entry = DiscoveryEntry {
                    id,
                    spec: object.spec,
                    pipeline,
                    published,
                    outcome: None,
                    failures: 0,
                    held: BTreeMap::new(),
                };
                self.discoveries.insert(name.clone(), entry);
                self.outbox.schedule(run, next_at.unwrap_or(Timestamp::MIN));
            }
        }
        self.outbox.note(EffectKey::DiscoveryStatus(name.clone()));
        self.discovery_changed(&name);
    }

    pub(super) fn remove_discovery(&mut self, name: &Name) {
        if self.discoveries.remove(name).is_some() {
            for key in [EffectKey::Discovery(name.clone()), EffectKey::DiscoveryStatus(name.clone())] {
                self.outbox.remove(&key);
                self.flights.remove(&key);
            }
            self.discovery_changed(name);
        }
    }

    /// Gathers the sets that get their images from a policy anew.
    pub(super) fn discovery_changed(&mut self, name: &Name) {
        let refers = |set: &super::SetEntry| {
            set.set.spec.discovery_policy_ref.as_ref().is_some_and(|policy| *policy.name == **name)
        };
        let concerned = self.sets.iter().filter(|(_, set)| refers(set));
        self.dirty.sets.extend(concerned.map(|(set, _)| set.clone()));
    }

    /// Records the version of a Secret. DiscoveryPolicies that use the Secret ask again.
    pub(super) fn set_secret(&mut self, name: Name, version: Name) {
        let is_first_list = self.unsynced.contains(&Kind::Secret);
        let before = self.secrets.insert(name.clone(), version.clone());
        if !is_first_list && before != Some(version) {
            self.secret_changed(&name);
        }
    }

    pub(super) fn remove_secret(&mut self, name: &Name) {
        if self.secrets.remove(name).is_some() {
            self.secret_changed(name);
        }
    }

    fn secret_changed(&mut self, name: &Name) {
        self.lookup_secret_changed(name);
        for (policy, entry) in &self.discoveries {
            let Ok(pipeline) = &entry.pipeline else { continue };
            if pipeline.queries().iter().any(|query| query.secret.as_deref() == Some(&**name)) {
                self.outbox.note(EffectKey::Discovery(policy.clone()));
            }
        }
    }

    /// Records how a run ended.
    pub(super) fn discovery_reported(&mut self, name: &Name, report: Report, now: Timestamp) {
        let settings = &self.settings;
        let Some(entry) = self.discoveries.get_mut(name) else { return };
        let Ok(pipeline) = &entry.pipeline else { return };
        let run = EffectKey::Discovery(name.clone());
        let Report::Discovered(discovered) = report else {
            // No source was asked; the flight says when to retry.
            self.outbox.note(run);
            return;
        };
        if discovered.spec != entry.id {
            return;
        }
        let held = discovered.images.iter().filter(|image| image.is_held).map(|image| &image.image);
        let runs = |image: &Name| entry.held.get(image).map_or(1, |runs| runs.saturating_add(1));
        entry.held = held.map(|image| (image.clone(), runs(image))).collect();
        let mut status = sync::outcome(pipeline, &discovered, &entry.published.status, now);
        let interval = entry.spec.sync_interval.get();
        let is_well = sync::is_well(pipeline, &status);
        entry.failures = if is_well { 0 } else { entry.failures.saturating_add(1) };
        let regular = jittered(interval, name);
        let wait = match entry.failures {
            0 => regular,
            failures => {
                Backoff { initial: settings.discovery_retry.min(interval), max: interval }.delay(failures, name)
            }
        };
        let wait = wait.max(discovered.left_alone_for(regular).unwrap_or_default());
        // An edit during the run starts another run at once.
        let at = self.outbox.time_of(&run).unwrap_or_else(|| after(now, wait));
        self.outbox.schedule(run, at);
        status.next_sync_time = Some(at.max(now));
        entry.outcome = Some(status);
        self.outbox.note(EffectKey::DiscoveryStatus(name.clone()));
    }

    /// Returns the DiscoveryPolicy that a set refers to, if it refers to one; `Some(None)` if that does not exist.
    pub(crate) fn discovery_of(&self, set: &ImageSet) -> Option<Option<&DiscoveryEntry>> {
        let policy = set.spec.discovery_policy_ref.as_ref()?;
        Some(self.discoveries.get(policy.name.as_str()))
    }

    /// Returns how many Ready nodes the policy's ranking counts.
    pub(crate) fn nodes_counted_by(&self, spec: &DiscoveryPolicySpec) -> usize {
        let ranking = spec.ranking.as_ref();
        let model = ranking.and_then(|ranking| ranking.expected_savings.as_ref().or(ranking.model_exposure.as_ref()));
        let affinity = model.and_then(|model| model.nodes.as_ref()?.selector.clone());
        let placement = Placement { affinity, ..Placement::default() };
        let nodes = self.nodes.values().map(|entry| &entry.node);
        nodes.filter(|node| node.readiness == Readiness::Ready && placement.selects(node).is_ok()).count()
    }

    /// The DiscoveryPolicy called `name`.
    pub(crate) fn discovery(&self, name: &str) -> Option<&DiscoveryEntry> {
        self.discoveries.get(name)
    }

    /// Every DiscoveryPolicy, by name.
    pub(crate) fn discoveries(&self) -> impl Iterator<Item = (&Name, &DiscoveryEntry)> {
        self.discoveries.iter()
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::io::event::Event;
    use crate::settings::Settings;

    #[test]
    fn a_time_that_a_clock_ahead_has_written_puts_off_no_sync() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let hours = |hours| after(now, SignedDuration::from_hours(hours));
        let mut policy = DiscoveryPolicy::new("p", DiscoveryPolicySpec::default());
        policy.metadata.uid = Some("uid".to_owned());
        policy.metadata.generation = Some(1);
        policy.spec.sync_interval = "1h".parse().unwrap();
        let mut world = World::new(Settings::default());
        let run = EffectKey::Discovery("p".into());
        for ahead in [8, 9] {
            let (generation, next) = (Some(1), Some(hours(ahead)));
            let status =
                DiscoveryPolicyStatus { observed_generation: generation, next_sync_time: next, ..Default::default() };
            policy.status = Some(status);
            world.apply(Event::Discovery(Box::new(policy.clone())), now);
            assert_eq!(world.outbox.time_of(&run), Some(hours(1)));
        }
    }
}
