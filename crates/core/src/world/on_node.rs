//! What is asked of images on one node while planning.

use drop_api::node_cache::FailureScope;
use jiff::Timestamp;

use super::{ImageEntry, NodeEntry, World};
use crate::Name;
use crate::objects::image::{Image, ImagePullPolicy};
use crate::objects::memory::{MAX_IMAGES, Memory, Record};
use crate::objects::policy::Policy;
use crate::objects::presence::Standing;
use crate::objects::reference::Reference;
use crate::pace::backoff::Backoff;
use crate::pace::order::Urgency;
use crate::time::after;

/// A node with what is remembered of it.
pub(crate) struct OnNode<'a> {
    world: &'a World,
    entry: &'a NodeEntry,
    memory: Option<&'a Memory>,
}

impl World {
    /// The node with what is remembered of it.
    pub(crate) fn on_node<'a>(&'a self, entry: &'a NodeEntry) -> OnNode<'a> {
        OnNode { world: self, entry, memory: self.memory_of(&entry.node) }
    }
}

impl<'a> OnNode<'a> {
    /// What is remembered of an image here.
    pub(crate) fn record(&self, image: &Reference) -> Option<&'a Record> {
        self.memory?.images.get(image)
    }

    /// Of how many more images it can be remembered what becomes of them.
    pub(crate) fn room(&self) -> usize {
        MAX_IMAGES.saturating_sub(self.memory.map_or(0, |memory| memory.images.len()))
    }

    /// Whether what becomes of `image` can be remembered.
    pub(crate) fn has_room(&self, image: &Reference) -> bool {
        self.room() > 0 || self.record(image).is_some()
    }

    /// Until when the node as a whole is left alone, and why.
    pub(crate) fn backoff(&self, policy: &Policy) -> Option<(Timestamp, &'a Name)> {
        let failure = self.memory?.node_failure.as_ref()?;
        let wait = policy.backoff.delay(failure.count, &self.entry.node.name);
        Some((after(failure.at, wait), &failure.message))
    }

    /// Until when the image is left alone for a failure of unknown scope, and why.
    pub(crate) fn backoff_of(&self, image: &Image, policy: &Policy) -> Option<(Timestamp, &'a Name)> {
        let failure = self.record(&image.reference)?.failure.as_deref();
        let failure = failure.filter(|failure| failure.scope == FailureScope::Unknown)?;
        let wait = policy.backoff.delay(failure.count, &self.pair(&image.reference));
        Some((after(failure.at, wait), &failure.message))
    }

    /// When an image that was evicted is pulled again; `None` where no eviction is
    /// recorded.
    pub(crate) fn repair_at(&self, image: &Reference) -> Option<Timestamp> {
        let record = self.record(image)?;
        let eviction = record.eviction.as_ref().filter(|_| record.present_since().is_none())?;
        let settings = &self.world.settings;
        let backoff = Backoff { initial: settings.repair_initial, max: settings.repair_max };
        Some(after(eviction.at, backoff.delay(eviction.count, &self.pair(image))))
    }

    /// From when the node could start on an image, as far as these two are concerned;
    /// `None`: not before something changes.
    pub(crate) fn could_start(&self, wanted: &ImageEntry, standing: Standing) -> Option<Timestamp> {
        let image = &wanted.image;
        if standing == Standing::Cached || self.world.probed.contains(&image.name) {
            return None;
        }
        let policy = self.world.policy_of(image)?;
        let is_allowed = !policy.paused && image.pull != ImagePullPolicy::Never;
        if !is_allowed || self.entry.hindrance(policy).is_some() || !self.has_room(&image.reference) {
            return None;
        }
        let repair = match standing {
            // The eviction has to be recorded first.
            Standing::Evicted => Some(self.repair_at(&image.reference)?),
            _ => None,
        };
        let node = self.backoff(policy).map(|(until, _)| until);
        let pair = self.backoff_of(image, policy).map(|(until, _)| until);
        let refused = wanted.refused.as_ref().map(|refused| refused.until);
        Some(node.max(pair).max(refused).max(repair).unwrap_or(Timestamp::MIN))
    }

    /// How urgent an image is here, and until when, if that will change.
    pub(crate) fn urgency(
        &self,
        wanted: &ImageEntry,
        standing: Standing,
        now: Timestamp,
    ) -> (Urgency, Option<Timestamp>) {
        let image = &wanted.image;
        let policy = self.world.policy_of(image).filter(|_| standing != Standing::Missing);
        let until = policy.and_then(|policy| self.yields_until(image, policy)).filter(|until| *until > now);
        let (priority, rank, image) = (image.priority, wanted.rank, image.name.clone());
        (Urgency { retry: until.is_some(), priority, rank, image }, until)
    }

    /// Until when a failed image yields to all others: one longest backoff after it was
    /// due.
    fn yields_until(&self, image: &Image, policy: &Policy) -> Option<Timestamp> {
        let record = self.record(&image.reference).and_then(|record| record.failure.as_deref());
        let failure = record.or(self.memory?.node_failure.as_ref())?;
        let wait = policy.backoff.delay(failure.count, &self.entry.node.name).saturating_add(policy.backoff.max);
        Some(after(failure.at, wait))
    }

    /// What distinguishes this image here from all others, for jitter.
    fn pair(&self, image: &Reference) -> String {
        format!("{}/{image}", self.entry.node.name)
    }
}
