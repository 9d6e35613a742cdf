//! Checks a cluster in which nothing is left to happen.

use std::collections::BTreeSet;

use drop_api::cached_image::ImagePullPolicy;
use drop_api::condition::{self, ConditionStatus};
use drop_api::{CachedImage, CachedImageSet, CachedImageStatus};
use drop_core::image::Image;
use drop_core::node::Node;
use drop_core::policy::Policy;
use drop_core::reference::Reference;

use crate::Lab;
use crate::check::Faults;
use crate::sources::is_exhaustive;

/// Returns the reference that a CachedImage, or an entry of a set, without a digest asks for.
pub(crate) fn reference_of(image: &str, tag: &Option<String>) -> Reference {
    Reference::new(image, tag.as_deref(), None)
}

impl Lab {
    /// Returns the faults of a cluster at rest in which everything works and nothing is paused, as sentences.
    #[must_use]
    pub fn faults_at_rest(&self) -> Vec<String> {
        let images = self.api.images.iter().flat_map(|(name, object)| match &object.status {
            Some(status) => self.faults_of_image_at_rest(name, object, status),
            None => vec![format!("CachedImage {name} has no status")],
        });
        let policies = self.api.policies.iter().filter_map(|(name, policy)| {
            let pulling = policy.status.as_ref().map_or(0, |status| status.nodes_pulling);
            (pulling > 0).then(|| format!("PullPolicy {name} shows {pulling} nodes that pull"))
        });
        let sets = self.api.sets.iter().flat_map(|(name, set)| self.faults_of_set_at_rest(name, set));
        images.chain(policies).chain(sets).collect()
    }

    /// Returns the target nodes of an image, according to the image and its PullPolicy.
    #[must_use]
    pub fn targets_of(&self, image: &Image) -> Vec<&Node> {
        let mut placement = image.placement.clone();
        if let Some(policy) = self.api.policies.get(&*image.policy).and_then(Policy::from_api) {
            placement.tolerations.extend(policy.tolerations);
            placement.labels.extend(policy.labels);
        }
        placement.tolerate_twins();
        self.api.nodes.values().filter(|node| placement.check(node).is_ok()).collect()
    }

    fn faults_of_set_at_rest(&self, name: &str, set: &CachedImageSet) -> Vec<String> {
        let mut faults = Faults::default();
        let is_its = |image: &&CachedImage| {
            let owners = image.metadata.owner_references.iter().flatten();
            owners.map(|owner| Some(&owner.uid)).any(|uid| uid == set.metadata.uid.as_ref())
        };
        let children: Vec<&CachedImage> = self.api.images.values().filter(is_its).collect();
        let mut owned: Vec<_> = children.iter().map(|child| reference_of(&child.spec.image, &child.spec.tag)).collect();
        owned.sort();
        let entries = set.spec.images.iter();
        let mut asked: BTreeSet<_> = entries.map(|entry| reference_of(&entry.image, &entry.tag)).collect();
        let policy = set.spec.discovery_policy_ref.as_ref();
        let policy = policy.map(|policy| self.api.discoveries.get(&policy.name).and_then(|it| it.status.as_ref()));
        let found = policy.flatten().into_iter().flat_map(|status| &status.discovered_images);
        asked.extend(found.map(|found| Reference::parse(&found.image)));
        // An image stays if a source may not have been able to find it again.
        let may_have_more = policy.is_some_and(|status| !status.is_some_and(|status| is_exhaustive(status, None)));
        let has_them = owned.iter().eq(&asked) || (may_have_more && asked.iter().all(|image| owned.contains(image)));
        faults.unless(has_them, || format!("it has {owned:?} of {asked:?}"));
        let is_ready = |child: &&&CachedImage| {
            let status = child.status.as_ref().and_then(|status| condition::ready(&status.conditions));
            status.is_some_and(|ready| ready.status == ConditionStatus::True)
        };
        let ready = children.iter().filter(is_ready).count();
        let shown = set.status.as_ref().map(|status| (status.images_managed, status.images_ready));
        let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        let is_true = shown == Some((count(owned.len()), count(ready)));
        faults.unless(is_true, || format!("it shows {shown:?}, and {ready} of {} are ready", owned.len()));
        let reason = set.status.as_ref().and_then(|status| condition::ready(&status.conditions));
        let reason = reason.map_or("", |ready| &*ready.reason);
        let trouble = policy.map(|status| status.and_then(|status| condition::ready(&status.conditions)));
        let expected = match trouble {
            Some(None) => "DiscoveryPolicyNotFound",
            Some(Some(ready)) if ready.status != ConditionStatus::True => &*ready.reason,
            _ if ready == owned.len() => "AllReady",
            _ => "Progressing",
        };
        faults.unless(reason == expected, || format!("it shows {reason}, and should {expected}"));
        faults.at(|| format!("CachedImageSet {name}: {:#?}", set.status))
    }

    fn faults_of_image_at_rest(&self, name: &str, object: &CachedImage, status: &CachedImageStatus) -> Vec<String> {
        let mut faults = Faults::default();
        let Some(image) = Image::from_api(object) else { return vec![format!("CachedImage {name} cannot be read")] };
        let is_never = image.pull == ImagePullPolicy::Never;
        let shows = self.shows(name);
        let is_there = status.nodes_ready == status.nodes_targeted;
        let is_as_it_should = match status.nodes_targeted {
            0 => shows == "NoMatchingNodes 0/0",
            _ if is_never => is_there == shows.starts_with("Cached"),
            _ => is_there && shows.starts_with("Cached"),
        };
        faults.unless(is_as_it_should, || format!("it shows {shows}: {}", self.message(name)));
        let is_observed = status.observed_generation == object.metadata.generation;
        faults.unless(is_observed, || "its status is that of an older generation".to_owned());
        let left = (status.nodes_pulling, status.nodes_failed, status.failures.len());
        faults.unless(left == (0, 0, 0) || is_never, || format!("pulls or failures are left: {left:?}"));
        if self.knobs.lists {
            let targets = self.targets_of(&image);
            // An eviction from a node is not known if the node's list is too short for the image.
            let count = |is: &dyn Fn(&str) -> bool| targets.iter().filter(|node| is(&node.name)).count();
            let there = count(&|node| self.is_on_disk(node, &image.reference));
            let untold = count(&|node| !self.would_list(node, &image.reference));
            let shown = usize::try_from(status.nodes_ready).unwrap_or(usize::MAX);
            let possible = there.saturating_sub(untold)..=there + untold;
            faults.unless(possible.contains(&shown), || format!("it shows {shown} nodes that have it, and {there} do"));
        }
        faults.at(|| format!("CachedImage {name}: {status:#?}"))
    }
}
