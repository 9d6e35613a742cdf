//! Answers the planner's questions about images on one node.

use std::cell::OnceCell;
use std::cmp::Reverse;

use jiff::{SignedDuration, Timestamp};

use super::{ImageEntry, Lookup, NodeEntry, World};
use crate::Name;
use crate::objects::memory::{Failure, MAX_IMAGES, Memory, Record, pair};
use crate::objects::policy::Policy;
use crate::objects::presence::{Standing, pulled_again_at};
use crate::objects::reference::Reference;
use crate::pace::backoff::Backoff;
use crate::pace::order::Urgency;
use crate::time::after;

/// A fresh pull that has waited for so long goes before those of its priority that have waited for less, whatever their
/// names: new images may come without an end.
pub(crate) const LONG_WAIT: SignedDuration = SignedDuration::from_hours(1);

/// A node with its memory.
pub(crate) struct OnNode<'a> {
    pub(crate) world: &'a World,
    pub(crate) entry: &'a NodeEntry,
    memory: Option<&'a Memory>,
    has_room: OnceCell<bool>,
}

impl World {
    /// Combines a node with its memory.
    pub(crate) fn on_node<'a>(&'a self, entry: &'a NodeEntry) -> OnNode<'a> {
        OnNode { world: self, entry, memory: self.memory_of(&entry.node), has_room: OnceCell::new() }
    }
}

impl<'a> OnNode<'a> {
    /// Returns the record of an image here.
    pub(crate) fn record(&self, image: &Reference) -> Option<&'a Record> {
        self.memory?.images.get(image)
    }

    /// Whether the node has pulled an image from this registry that is still there.
    pub(crate) fn has_pulled_from(&self, host: &str) -> bool {
        let images = self.memory.into_iter().flat_map(|memory| &memory.images);
        images.into_iter().any(|(image, record)| record.pulled.is_some() && image.host() == host)
    }

    /// Returns for how many further images the memory has room.
    pub(crate) fn room(&self) -> usize {
        self.memory.map_or(MAX_IMAGES, Memory::room)
    }

    /// Whether the memory has a record of `image`, or room for one.
    pub(crate) fn has_room(&self, image: &Reference) -> bool {
        *self.has_room.get_or_init(|| self.memory.is_none_or(Memory::has_room)) || self.record(image).is_some()
    }

    /// Returns until when Drop backs off from the node as a whole, and why.
    pub(crate) fn backoff(&self, policy: &Policy) -> Option<(Timestamp, &'a Name)> {
        let failure = self.memory?.node_failure.as_ref()?;
        Some((failure.node_due(&self.entry.node.name, &policy.backoff), &failure.message))
    }

    /// Returns the last failures in a row of an image here, unless the CachedImage was edited since: the edit may have
    /// fixed them.
    fn failure(&self, wanted: &ImageEntry) -> Option<&'a Failure> {
        let failure = self.record(&wanted.image.reference)?.failure.as_deref()?;
        wanted.edited_at.is_none_or(|edited_at| edited_at < failure.at).then_some(failure)
    }

    /// Returns until when Drop backs off from the image here, for a failure of this node, and why.
    pub(crate) fn backoff_of(&self, wanted: &ImageEntry, policy: &Policy) -> Option<(Timestamp, &'a Name)> {
        let failure = self.failure(wanted)?;
        let image = &wanted.image.reference;
        let is_own = !wanted.is_probed || !self.world.is_open(image, failure);
        is_own.then(|| (failure.due(&self.entry.node.name, image, &policy.backoff), &failure.message))
    }

    /// Returns when an evicted image is pulled again; `None` if no eviction is recorded.
    pub(crate) fn repair_at(&self, image: &Reference) -> Option<Timestamp> {
        let record = self.record(image)?;
        let eviction = record.eviction.as_ref().filter(|_| record.present_since().is_none())?;
        let settings = &self.world.settings;
        let backoff = Backoff { initial: settings.repair_initial, max: settings.repair_max };
        Some(after(eviction.at, backoff.delay(eviction.count, &pair(&self.entry.node.name, image))))
    }

    /// Returns since when a node waits for an image: since both exist, since the image was evicted, or since the copy
    /// came whose tag has moved.
    fn waits_since(&self, wanted: &ImageEntry) -> Timestamp {
        let record = self.record(&wanted.image.reference);
        let came_at = record.and_then(|record| match self.entry.standings.get(&wanted.image.name)? {
            Standing::Evicted => record.eviction.as_ref().map(|eviction| eviction.at),
            Standing::Outdated => record.current_since(),
            Standing::Missing | Standing::Failed | Standing::Cached => None,
        });
        let since = self.both_since(wanted);
        since.max(came_at.unwrap_or(since))
    }

    /// Returns since when both the CachedImage and the node exist.
    fn both_since(&self, wanted: &ImageEntry) -> Timestamp {
        wanted.wanted_since().max(self.entry.node.created_at)
    }

    /// Returns since when a node waits for an image, while that is for less than [`LONG_WAIT`].
    pub(crate) fn waits_briefly_since(&self, wanted: &ImageEntry, now: Timestamp) -> Option<Timestamp> {
        let is_brief = |since: &Timestamp| now.as_second() - since.as_second() < LONG_WAIT.as_secs();
        let since = Some(self.both_since(wanted)).filter(is_brief);
        since.or_else(|| Some(self.waits_since(wanted)).filter(is_brief))
    }

    /// Returns how urgent an image is here at `now`. All but fresh pulls yield to those for the longest backoff.
    pub(crate) fn urgency(&self, wanted: &ImageEntry, policy: &Policy, now: Timestamp) -> Urgency {
        let (image, rank, hung_at) = (&wanted.image.reference, wanted.rank, self.entry.hung_at);
        let late = |due: Timestamp, tried_at| Urgency::Late {
            overdue_from: after(due, policy.backoff.max),
            tried_at,
            rank: Reverse(rank),
        };
        let of_node = self.backoff(policy).map(|(until, _)| until);
        // One failure with the node is over with the node's.
        let is_over = |failure: &Failure| failure.is_of_node() && failure.count == 1 && of_node.is_none();
        if let Some(failure) = self.failure(wanted).filter(|failure| !is_over(failure)) {
            // A pull that hung goes on until its Pod is gone.
            let due = Some(failure.due(&self.entry.node.name, image, &policy.backoff)).max(hung_at).max(of_node);
            return late(due.unwrap_or(failure.at), Some(failure.at));
        }
        // If another node has pulled the image since, it was not the image that hung.
        let is_alone = wanted.is_doubted && self.record(image).is_some_and(|record| record.alone);
        let due = if let Some(refused) = &wanted.refused {
            Some(refused.until)
        } else if is_alone && self.entry.node.inventory.lists(image) {
            // Its Pod timed out together with other images, any of which may have hung. But the node lists this one by
            // now.
            Some(Timestamp::MIN)
        } else if is_alone {
            hung_at.or(Some(wanted.seen_at))
        } else if wanted.is_doubted {
            self.world.doubted_since(image)
        } else if let Some(due) = self.pulls_in_vain_until(wanted, policy) {
            Some(due)
        } else {
            of_node.or(hung_at)
        };
        match due {
            // No sooner than the node works again: of many late pulls, those of a failing node would always come first.
            Some(due) => late(of_node.map_or(due, |until| until.max(due)), None),
            None => {
                // By the hour, so that images of one set keep their order.
                let by_hour = |at: Timestamp| Timestamp::from_second(at.as_second() / 3600 * 3600).unwrap_or(at);
                let is_brief = self.waits_briefly_since(wanted, now).is_some();
                let waits_since = if is_brief { Timestamp::MAX } else { by_hour(self.waits_since(wanted)) };
                Urgency::Fresh { priority: wanted.image.priority, waits_since, rank }
            }
        }
    }

    /// Returns when a node pulls again that has pulled since its registry serves a different digest: its mirror lags.
    fn pulls_in_vain_until(&self, wanted: &ImageEntry, policy: &Policy) -> Option<Timestamp> {
        let served = self.world.lookup_of(wanted).and_then(Lookup::current)?;
        let is_outdated = self.entry.standings.get(&wanted.image.name) == Some(&Standing::Outdated);
        let since = self.record(&wanted.image.reference)?.current_since()?;
        let is_in_vain = is_outdated && since >= served.since;
        is_in_vain.then(|| pulled_again_at(since, served.since, policy.repull_interval.unwrap_or_default()))
    }

    /// Returns when the node as a whole was last in trouble, while it is: a pull here tells little of the image then.
    pub(crate) fn trouble_at(&self) -> Option<Timestamp> {
        self.memory.and_then(Memory::node_failed_at).max(self.entry.hung_at)
    }
}
