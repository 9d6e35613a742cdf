//! The lines of waiting nodes, one for each policy.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Moment, World};
use crate::Name;
use crate::pace::order::Candidate;

/// A node's places in the lines of its policies.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// By policy.
    pub(crate) candidates: Vec<(Name, Candidate)>,
    /// When to look again if no event comes before.
    pub(crate) alarm: Option<Timestamp>,
    /// The policies of the images that it lacks, whatever holds their pulls.
    pub(crate) lacking: BTreeSet<Name>,
}

impl World {
    pub(super) fn leave_queues(&mut self, places: &[(Name, Candidate)]) {
        for (policy, candidate) in places {
            if let Some(queue) = self.queues.get_mut(policy) {
                queue.remove(candidate);
                if queue.is_empty() {
                    self.queues.remove(policy);
                }
            }
        }
    }

    /// Takes the nodes whose places may have changed since the last call.
    pub(crate) fn take_unplaced(&mut self) -> Vec<Name> {
        std::mem::take(&mut self.dirty.places).into_iter().collect()
    }

    /// Moves a node to other places in the lines.
    pub(crate) fn place_node(&mut self, name: &Name, places: Places, now: Timestamp) {
        let Some(entry) = self.nodes.get_mut(name) else { return };
        let old = std::mem::take(&mut entry.places);
        self.leave_queues(&old);
        for (policy, candidate) in &places.candidates {
            self.queues.entry(policy.clone()).or_default().insert(candidate.clone());
        }
        let moment = Moment::Places(name.clone());
        match places.alarm {
            Some(at) => self.agenda.set(moment, at),
            None => self.agenda.cancel(&moment),
        }
        let is_busy = self.pods_on.contains_key(name);
        let Some(entry) = self.nodes.get_mut(name) else { return };
        if !is_busy {
            // A turn that does not go on is over.
            let goes_on = |policy: &Name| places.candidates.iter().any(|(of, it)| of == policy && !it.begins_turn);
            entry.turns.retain(|policy, _| goes_on(policy));
            entry.waiting_since.retain(|policy, _| places.lacking.contains(policy));
            for policy in places.lacking {
                entry.waiting_since.entry(policy).or_insert(now);
            }
        }
        entry.places = places.candidates;
    }

    /// Returns the nodes that wait under a policy, in order.
    pub(crate) fn line(&self, policy: &str) -> Option<&BTreeSet<Candidate>> {
        self.queues.get(policy)
    }
}
