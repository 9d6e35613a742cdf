//! What follows from the facts: who is where, and who comes next.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Moves, NodeEntry, World};
use crate::Name;
use crate::objects::image::ImagePullPolicy;
use crate::objects::presence::Standing;
use crate::pace::backoff::spread;
use crate::pace::order::{Candidate, Urgency};
use crate::time::after;

impl World {
    /// How an image stands on a node; `None` where that is not a target.
    pub(crate) fn standing_on(&self, node: &str, image: &str) -> Option<Standing> {
        self.nodes.get(node)?.standings.get(image).copied()
    }

    /// Derives an image's placement anew.
    pub(super) fn place_image(&mut self, name: &Name) {
        if let Some(entry) = self.images.get(name) {
            let policy = self.policy_of(&entry.image);
            let placement = policy.map(|policy| {
                let mut placement = entry.image.placement.clone();
                placement.tolerations.extend(policy.tolerations.iter().cloned());
                placement.tolerate_twins();
                placement.labels.extend(policy.labels.clone());
                placement
            });
            let reference = &entry.image.reference;
            let probed = self.open_rounds(reference) > 0 || self.is_registry_paused(reference);
            if probed {
                self.probed.insert(name.clone());
            } else {
                self.probed.remove(name);
            }
            if let Some(entry) = self.images.get_mut(name) {
                entry.placement = placement;
            }
        }
        self.stale.images.insert(name.clone());
    }

    /// A NodeCache may differ from what it should be, in nothing that is urgent.
    pub(super) fn cache_is_stale(&mut self, node: Name, now: Timestamp) {
        let at = after(now, spread(self.settings.record_within, &node));
        self.stale.caches.insert_at(node, at);
    }

    pub(super) fn count(&mut self, image: &Name, moves: Moves) {
        if moves == Moves::default() {
            return;
        }
        let Some(entry) = self.images.get_mut(image) else { return };
        entry.tally.take_in(moves);
        if entry.tally.there() == entry.tally.targeted() {
            // Nothing is asked for any more that could be refused.
            entry.refused = None;
        }
        self.stale.images.insert(image.clone());
        self.stale.policies.insert(entry.image.policy.clone());
    }

    pub(super) fn leave_queues(&mut self, node: &Name, places: &[(Name, Candidate)], alarm: Option<Timestamp>) {
        for (policy, candidate) in places {
            if let Some(queue) = self.queues.get_mut(policy) {
                queue.remove(candidate);
                if queue.is_empty() {
                    self.queues.remove(policy);
                }
            }
        }
        if let Some(at) = alarm {
            self.alarms.remove(&(at, node.clone()));
        }
    }

    /// Gives a node its places in the queues: one for each policy under which it
    /// could start a pull now, with its most urgent image.
    pub(super) fn enqueue(&mut self, name: &Name, now: Timestamp) {
        let Some(entry) = self.nodes.get_mut(name) else { return };
        let (places, alarm) = (std::mem::take(&mut entry.places), entry.alarm.take());
        self.leave_queues(name, &places, alarm);
        if self.pods_on.contains_key(name) {
            return;
        }
        let Some(entry) = self.nodes.get(name) else { return };
        let (urgencies, alarm) = self.eligible(entry, now);
        let waiting_since = entry.waiting_since.unwrap_or(now);
        // Neither a node that failed nor a retry goes on with a turn: others go first.
        let failed = self.memory_of(&entry.node).is_some_and(|memory| memory.node_failure.is_some());
        let goes_on = |policy: &Name| urgencies.get(policy).is_some_and(|urgency| !failed && !urgency.retry);
        let turn = entry.turn.clone().filter(goes_on);
        let places: Vec<_> = urgencies
            .into_iter()
            .map(|(policy, urgency)| {
                let begins_turn = turn.as_ref() != Some(&policy);
                let Urgency { retry, priority, .. } = urgency;
                (policy, Candidate { begins_turn, retry, priority, waiting_since, node: name.clone() })
            })
            .collect();
        for (policy, candidate) in &places {
            self.queues.entry(policy.clone()).or_default().insert(candidate.clone());
        }
        if let Some(at) = alarm {
            self.alarms.insert((at, name.clone()));
        }
        let images = &self.images;
        if let Some(entry) = self.nodes.get_mut(name) {
            entry.turn = turn;
            let is_pulled =
                |name: &Name| images.get(name).is_some_and(|entry| entry.image.pull != ImagePullPolicy::Never);
            let mut standings = entry.standings.iter();
            let misses_any = standings.any(|(name, standing)| *standing != Standing::Cached && is_pulled(name));
            entry.waiting_since = Some(waiting_since).filter(|_| misses_any);
            entry.places = places;
            entry.alarm = alarm;
        }
    }

    /// Per policy the most urgent image that the node could start on now, and
    /// when this has to be asked again.
    pub(super) fn eligible(&self, entry: &NodeEntry, now: Timestamp) -> (BTreeMap<Name, Urgency>, Option<Timestamp>) {
        let mut best: BTreeMap<Name, Urgency> = BTreeMap::new();
        let mut alarm: Option<Timestamp> = None;
        let mut wait = |until: Timestamp| alarm = Some(alarm.map_or(until, |alarm| alarm.min(until)));
        let here = self.on_node(entry);
        for (name, standing) in &entry.standings {
            let Some(wanted) = self.images.get(name) else { continue };
            let Some(from) = here.could_start(wanted, *standing) else { continue };
            if from > now {
                wait(from);
                continue;
            }
            let (urgency, until) = here.urgency(wanted, *standing, now);
            until.into_iter().for_each(&mut wait);
            match best.get_mut(&wanted.image.policy) {
                Some(kept) if *kept <= urgency => {}
                Some(kept) => *kept = urgency,
                None => drop(best.insert(wanted.image.policy.clone(), urgency)),
            }
        }
        (best, alarm)
    }
}
