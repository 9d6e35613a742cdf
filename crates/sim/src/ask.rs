//! Queries of the state of a lab.

use drop_api::CachedImageStatus;
use drop_api::condition;
use drop_core::reference::Reference;
use jiff::{SignedDuration, Timestamp};

use crate::lab::EPOCH;
use crate::{Created, Lab, LivePod};

impl Lab {
    /// Returns how much virtual time has passed.
    #[must_use]
    pub fn elapsed(&self) -> SignedDuration {
        self.now.duration_since(EPOCH)
    }

    /// Returns the status of a CachedImage, as the API server has it.
    #[must_use]
    pub fn status(&self, image: &str) -> CachedImageStatus {
        self.api.images.get(image).and_then(|image| image.status.clone()).unwrap_or_default()
    }

    /// Returns the reason of a CachedImage's Ready condition, and how many nodes have the image.
    #[must_use]
    pub fn shows(&self, image: &str) -> String {
        let status = self.status(image);
        let ready = condition::ready(&status.conditions);
        let reason = ready.map(|ready| ready.reason.clone()).unwrap_or_default();
        format!("{reason} {}", status.ready.unwrap_or_default())
    }

    /// Returns the message of a CachedImage's Ready condition.
    #[must_use]
    pub fn message(&self, image: &str) -> String {
        let status = self.status(image);
        condition::ready(&status.conditions).map(|ready| ready.message.clone()).unwrap_or_default()
    }

    /// Returns the reasons that a CachedImage's Ready condition has had, one after another.
    #[must_use]
    pub fn reasons(&self, image: &str) -> Vec<String> {
        let statuses = self.record.statuses.get(image).into_iter().flatten();
        let mut reasons: Vec<String> =
            statuses.filter_map(|(_, status)| Some(condition::ready(&status.conditions)?.reason.clone())).collect();
        reasons.dedup();
        reasons
    }

    /// Returns the creation of each Pod as the time in whole seconds, the node, and the CachedImages: `10s b: alpine`.
    #[must_use]
    pub fn starts(&self) -> Vec<String> {
        self.record.pods.iter().map(Created::to_string).collect()
    }

    /// Returns all Pods that ever existed with this image.
    #[must_use]
    pub fn pods_of(&self, reference: &str) -> Vec<&Created> {
        let reference = Reference::parse(reference);
        self.record.pods.iter().filter(|pod| pod.pulls(&reference)).collect()
    }

    /// Returns the Pods that were created later than `within` after `since` without a reason: none of their images had
    /// been evicted, which makes Drop wait for hours.
    #[must_use]
    pub fn late_starts(&self, since: Timestamp, within: SignedDuration) -> Vec<String> {
        let late = self.record.pods.iter().filter(|pod| pod.at.duration_since(since) > within);
        let was_evicted = |pod: &&Created| {
            let cache = self.api.caches.get(&*pod.order.node).and_then(|cache| cache.status.as_ref());
            let mut images = cache.into_iter().flat_map(|status| &status.images);
            images.any(|image| image.eviction.is_some() && pod.pulls(&Reference::parse(&image.image)))
        };
        late.filter(|pod| !was_evicted(pod)).map(Created::to_string).collect()
    }

    /// Returns the pull Pod on a node.
    #[must_use]
    pub fn live(&self, node: &str) -> Option<&LivePod> {
        self.api.pods.values().find(|live| &*live.pod.node == node)
    }
}
