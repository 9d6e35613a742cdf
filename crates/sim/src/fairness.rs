//! Checks that no pull starves: counts how often a pull loses to others.
//!
//! It shares no code with the planner. A pull counts as waiting while the lab's own objects show no reason for the wait
//! but the pace of its policy: it was never tried on its node, fails nowhere, and its node is free. Then at most
//! [`most`] other Pods may begin under its policy before it.

use std::collections::BTreeMap;

use drop_api::node_cache::FailureScope;
use drop_api::{NodeCacheStatus, PullPolicySpec};
use drop_core::Name;
use drop_core::effect::PodOrder;
use drop_core::image::{Image, ImagePullPolicy};
use drop_core::node::{Node, Readiness};
use jiff::SignedDuration;

use crate::{Kubelet, Lab};

/// A denied request is put off for at most this long.
const REFUSED_FOR: SignedDuration = SignedDuration::from_mins(30);

/// The losses of each waiting pull, by the node's UID and the CachedImage.
#[derive(Debug, Default)]
pub struct Fairness {
    losses: BTreeMap<(Name, Name), Losses>,
}

/// How often one pull has lost.
#[derive(Debug)]
struct Losses {
    /// The number of pulls that were wanted under its policy when it first lost.
    wanted: usize,
    /// The number of Pods that began before it.
    pods: usize,
    /// Whether some of their nodes failed as a whole.
    has_node_trouble: bool,
}

/// Returns how many Pods may begin before a pull that waits only for its policy's pace, if this many pulls are wanted
/// under the policy.
///
/// A fresh pull begins once until it succeeds or fails because of the image, so at most `wanted` fresh ones begin
/// before. A pull that fails with its node is fresh again once another pull has succeeded there: at most once more for
/// each success and for each node. Between two Pods that go before fresh pulls, one Pod with a fresh pull begins, so
/// there is one of these for each fresh one, and one more. Ten are for Pods under way.
fn most(wanted: usize, has_node_trouble: bool) -> usize {
    let fresh = if has_node_trouble { 3 * wanted } else { wanted };
    2 * fresh + 10
}

impl Lab {
    /// Begins to count how often pulls lose to others.
    pub fn watch_fairness(&mut self) {
        self.record.fairness.get_or_insert_default();
    }

    /// Counts the pulls that a Pod is about to pass, and returns those that were passed too often.
    pub(crate) fn faults_of_fairness(&mut self, order: &PodOrder) -> Vec<String> {
        let Some(mut fairness) = self.record.fairness.take() else { return Vec::new() };
        let is_quiet = self.is_quiet();
        let waiting = if is_quiet { self.waiting_beside(order) } else { BTreeMap::new() };
        if !is_quiet {
            fairness.losses.clear();
        }
        let caches = || self.api.caches.values().filter_map(|cache| cache.status.as_ref());
        let has_node_trouble = caches().any(|cache| cache.node_failure.is_some()) || self.has_hung();
        let mut faults = Vec::new();
        for ((node, image), wanted) in waiting {
            let losses = fairness.losses.entry((node.clone(), image.clone()));
            let losses = losses.or_insert(Losses { wanted, pods: 0, has_node_trouble: false });
            losses.pods += 1;
            losses.has_node_trouble |= has_node_trouble;
            let most = most(losses.wanted, losses.has_node_trouble);
            if losses.pods > most {
                let name = self.api.node_of_uid(&node).map(|node| node.name.clone()).unwrap_or_default();
                faults.push(format!("{image} on {name} starves: {} Pods began before it, {most} may", losses.pods));
            }
        }
        fairness.losses.retain(|(node, image), _| {
            let is_its = order.node_uid == *node && order.pulls.iter().any(|pull| pull.cached_image == *image);
            !is_its
        });
        self.record.fairness = Some(fairness);
        faults
    }

    /// Whether the operator must know of all changes by now.
    fn is_quiet(&self) -> bool {
        let is_known = |at: &jiff::Timestamp| self.now.duration_since(*at) > self.hearsay();
        let refused_at = self.record.refused_at.filter(|at| self.now.duration_since(*at) <= REFUSED_FOR);
        self.record.changes.last().is_none_or(is_known)
            && self.record.wants_changed_at.as_ref().is_none_or(is_known)
            && self.record.restarted_at.as_ref().is_none_or(is_known)
            && self.record.readiness_changed_at.values().all(is_known)
            && self.processes.len() == 1
            && refused_at.is_none()
    }

    /// Whether a Pod is gone although the outcome of one of its images is unknown.
    fn has_hung(&self) -> bool {
        self.record.pods.iter().any(|pod| pod.gone_at.is_some() && pod.settled_at.is_none())
    }

    /// Returns the pulls under the policy of `order` that only its pace holds, and the number of pulls wanted under it.
    fn waiting_beside(&self, order: &PodOrder) -> BTreeMap<(Name, Name), usize> {
        let named = self.record.policies.get(&*order.policy).and_then(|history| history.last()?.1.as_ref());
        let built_in = Some(&self.settings.built_in_policy).filter(|_| order.policy.is_empty());
        let Some(policy) = named.or(built_in).filter(|policy| !policy.paused) else { return BTreeMap::new() };
        let images = self.api.images.values().filter_map(Image::from_api);
        let images = images.filter(|image| image.policy == order.policy && image.pull != ImagePullPolicy::Never);
        let images: Vec<Image> = images.collect();
        let lacking = images.iter().flat_map(|image| {
            let targets = self.targets_of(image).into_iter();
            targets.filter(|node| self.id_on_disk(&node.uid, &image.reference).is_none()).map(move |node| (node, image))
        });
        let lacking: Vec<(&Node, &Image)> = lacking.collect();
        let wanted = lacking.len();
        let is_other = |node: &Node, image: &Image| {
            node.uid != order.node_uid || order.pulls.iter().all(|pull| pull.reference != image.reference)
        };
        let waiting =
            lacking.into_iter().filter(|(node, image)| is_other(node, image) && self.waits(node, image, policy));
        waiting.map(|(node, image)| ((node.uid.clone(), image.name.clone()), wanted)).collect()
    }

    /// Whether only the pace of its policy holds a pull.
    fn waits(&self, node: &Node, image: &Image, policy: &PullPolicySpec) -> bool {
        let works = node.readiness == Readiness::Ready && self.kubelet(&node.name) == Kubelet::Works;
        let is_free = self.record.live().all(|pod| pod.order.node_uid != node.uid);
        // The outcomes of all images of its last Pod are known, so none of them hangs there.
        let of_node = self.record.pods.iter().rev().find(|pod| pod.order.node_uid == node.uid);
        let is_settled = of_node.is_none_or(|pod| pod.settled_at.is_some());
        let is_new = !self.record.pulled.contains_key(&(node.uid.clone(), image.reference.clone()));
        let is_of_set = image.set.as_ref().is_some_and(|set| self.api.sets.contains_key(&*set.name));
        let host = image.reference.host();
        let busy =
            self.record.live().filter(|pod| pod.order.policy == image.policy && pod.hosts().contains(host)).count();
        let limit = policy.max_concurrent_pulls_per_registry.and_then(|limit| usize::try_from(limit).ok());
        works
            && is_free
            && is_settled
            && is_new
            && !is_of_set
            && limit.is_none_or(|limit| busy < limit)
            && self.api.caches.iter().all(|(name, cache)| {
                cache.status.as_ref().is_none_or(|status| is_well(status, image, **name == *node.name))
            })
    }
}

/// Whether a node's memory has no reason to put off the first pull of an image, on this node or anywhere.
fn is_well(cache: &NodeCacheStatus, image: &Image, is_here: bool) -> bool {
    let here = cache.node_failure.is_none();
    let of_image = cache.images.iter().all(|record| {
        let is_same = *record.image == *image.reference.as_str();
        let fails = record.failure.as_ref();
        let is_of_registry = fails.is_some_and(|failure| failure.scope == FailureScope::Registry)
            && drop_core::reference::Reference::parse(&record.image).host() == image.reference.host();
        let is_known = is_same && (fails.is_some() || record.alone == Some(true) || (is_here && record.attempts > 0));
        !is_known && !is_of_registry
    });
    of_image && (here || !is_here)
}
