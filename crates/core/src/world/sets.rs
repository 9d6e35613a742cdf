//! CachedImageSets, and the CachedImages that they own.

use drop_api::CachedImageSetStatus;
use jiff::Timestamp;

use super::{ImageEntry, NodeEntry, Published, World};
use crate::Name;
use crate::io::effect::EffectKey;
use crate::io::event::Report;
use crate::objects::image::Image;
use crate::objects::image_set::{ImageSet, Members};

/// A CachedImageSet.
#[derive(Debug)]
pub(crate) struct SetEntry {
    pub(crate) set: ImageSet,
    /// The CachedImages that it asks for.
    pub(crate) members: Members,
    pub(crate) published: Published<CachedImageSetStatus>,
}

impl SetEntry {
    fn new(set: ImageSet, status: CachedImageSetStatus) -> Self {
        Self { set, members: Members::default(), published: Published::new(status) }
    }
}

impl World {
    pub(super) fn set_set(&mut self, set: ImageSet, status: CachedImageSetStatus) {
        let name = set.name.clone();
        self.outbox.note_set(&name);
        match self.sets.get_mut(&name) {
            Some(entry) if entry.set.uid != set.uid => *entry = SetEntry::new(set, status),
            Some(entry) => {
                entry.published.observe(status);
                if entry.set == set {
                    return;
                }
                entry.set = set;
            }
            None => {
                self.sets.insert(name.clone(), SetEntry::new(set, status));
            }
        }
        self.dirty.sets.insert(name);
    }

    pub(super) fn remove_set(&mut self, name: &Name) {
        if self.sets.remove(name).is_some() {
            self.asked_by.retain(|_, set| set != name);
            let key = EffectKey::Set(name.clone());
            self.outbox.remove(&key);
            self.flights.remove(&key);
            let of_set: Vec<EffectKey> = self.flights_of(name).map(|(key, _)| key.clone()).collect();
            of_set.iter().for_each(|key| self.overtake(key));
        }
    }

    /// Records that a CachedImage belongs to its set.
    pub(super) fn own(&mut self, image: &Image) {
        if let Some(set) = &image.set {
            self.children.entry(set.uid.clone()).or_default().insert(image.name.clone());
            self.outbox.note_set(&set.name);
            if self.asked_by.get(&image.name) != Some(&set.name) {
                self.dirty.sets.insert(set.name.clone());
            }
        }
    }

    /// Returns the place of a CachedImage among those of its set.
    pub(super) fn rank_of(&self, image: &Image) -> usize {
        let set = image.set.as_ref().and_then(|set| self.sets.get(&set.name));
        let place = set.and_then(|set| set.members.children.iter().position(|child| child.image.name == image.name));
        place.unwrap_or_default()
    }

    /// Records that a CachedImage no longer belongs to its set.
    pub(super) fn disown(&mut self, image: &Image) {
        let Some(set) = &image.set else { return };
        if let Some(children) = self.children.get_mut(&set.uid) {
            children.remove(&image.name);
            if children.is_empty() {
                self.children.remove(&set.uid);
            }
        }
        self.outbox.note_set(&set.name);
    }

    /// Derives anew the images that a set asks for, and the order of their pulls.
    pub(super) fn gather(&mut self, name: &Name) {
        let Some(entry) = self.sets.get_mut(name) else { return };
        let owned = self.children.get(&entry.set.uid).into_iter().flatten();
        let owned: Vec<&Image> = owned.filter_map(|name| Some(&self.images.get(name)?.image)).collect();
        let policy = entry.set.spec.discovery_policy_ref.as_ref();
        let discovery = policy.and_then(|policy| self.discoveries.get(policy.name.as_str()));
        let discovered = discovery.map(|entry| &*entry.published.status.discovered_images);
        entry.members = entry.set.members(discovered.unwrap_or_default());
        entry.members.adopt(&owned);
        let children: Vec<Name> = entry.members.children.iter().map(|child| child.image.name.clone()).collect();
        self.asked_by.retain(|_, set| set != name);
        self.asked_by.extend(children.iter().map(|child| (child.clone(), name.clone())));
        for (rank, child) in children.iter().enumerate() {
            let Some(image) = self.images.get_mut(child).filter(|image| image.rank != rank) else { continue };
            image.rank = rank;
            // If every target node has the image, its place in the order does not matter.
            if image.tally.cached < image.tally.targeted() {
                self.dirty.images.insert(child.clone());
            }
        }
        self.outbox.note_set(name);
    }

    /// Has nodes that lack images of a set find their places anew, because these images may start now, or may no longer
    /// start.
    pub(super) fn filling_changed(&mut self, set: &Name) {
        // The set may be gone, and its CachedImages not yet.
        let is_child = |entry: &&ImageEntry| entry.image.set.as_ref().is_some_and(|owner| owner.name == *set);
        let children: Vec<Name> = self.images.values().filter(is_child).map(|entry| entry.image.name.clone()).collect();
        let waits = |node: &NodeEntry| {
            children.iter().any(|name| node.standings.get(name).is_some_and(|standing| standing.wants_pull()))
        };
        let nodes = self.nodes.iter().filter(|(_, node)| waits(node)).map(|(name, _)| name.clone());
        self.dirty.places.extend(nodes);
        children.iter().for_each(|child| self.outbox.note_image(child));
    }

    /// Records how the creation, change or deletion of a set's CachedImage ended.
    pub(super) fn child_reported(&mut self, set: &Name, child: &Name, report: Report, now: Timestamp) {
        self.outbox.note_set(set);
        match report {
            Report::Child(object) => {
                let Some(image) = Image::from_api(&object) else { return };
                // The answer does not include a status that was written meanwhile.
                let is_known = self.images.get(&image.name).is_some_and(|known| known.image.uid == image.uid);
                self.set_image(image, object.status.filter(|_| !is_known), now);
            }
            Report::Done => {
                let known = self.images.get(child).map(|entry| entry.image.uid.clone());
                self.remove_image(child);
                // The watch may still show the object for a while.
                self.deleted.extend(known.map(|uid| (child.clone(), uid)));
            }
            _ => {}
        }
    }

    /// The CachedImageSet called `name`.
    pub(crate) fn set(&self, name: &str) -> Option<&SetEntry> {
        self.sets.get(name)
    }

    /// Every CachedImageSet, by name.
    pub(crate) fn sets(&self) -> impl Iterator<Item = &SetEntry> {
        self.sets.values()
    }

    /// The CachedImages that a set owns.
    pub(crate) fn children_of(&self, set: &ImageSet) -> impl Iterator<Item = &ImageEntry> {
        self.children.get(&set.uid).into_iter().flatten().filter_map(|name| self.images.get(name))
    }
}
