//! What follows from the facts: where images are to be, and on how many nodes they are.

use jiff::Timestamp;

use super::{Moves, World};
use crate::Name;
use crate::objects::presence::Standing;
use crate::pace::backoff::spread;
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
            let is_probed = self.open_rounds(reference) > 0 || self.is_registry_paused(reference);
            let is_doubted = self.doubt(reference).is_some();
            if let Some(entry) = self.images.get_mut(name) {
                entry.placement = placement;
                entry.is_probed = is_probed;
                entry.is_doubted = is_doubted;
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
}
