//! CachedImages, their target nodes, and the number of nodes that have each of them.

use std::collections::BTreeMap;

use drop_api::CachedImageStatus;
use jiff::Timestamp;

use super::{Moves, Published, Tally, World};
use crate::Name;
use crate::io::effect::EffectKey;
use crate::objects::image::Image;
use crate::objects::node::Node;
use crate::objects::placement::{NotATarget, Placement};
use crate::objects::reference::Reference;

/// A CachedImage.
#[derive(Debug)]
pub(crate) struct ImageEntry {
    pub(crate) image: Image,
    /// The requirements of the image and its policy on nodes; `None` where the policy is missing.
    pub(crate) placement: Option<Placement>,
    pub(crate) tally: Tally,
    /// Its place among the images of its set; the first one is pulled first.
    pub(crate) rank: usize,
    /// Set while the API server denies its Pods.
    pub(crate) refused: Option<Refused>,
    /// Whether it or its registry fails, so that one node at a time tries it.
    pub(crate) is_probed: bool,
    /// Whether it fails on some node, and no node has pulled it since.
    pub(crate) is_doubted: bool,
    /// When this process first saw it.
    pub(crate) seen_at: Timestamp,
    /// When its spec last changed while this process watched.
    pub(crate) edited_at: Option<Timestamp>,
    pub(crate) published: Published<CachedImageStatus>,
}

impl ImageEntry {
    /// Returns since when its present spec is wanted. An edit before the last restart does not count.
    pub(crate) fn wanted_since(&self) -> Timestamp {
        let created_at = self.image.created_at.min(self.seen_at);
        self.edited_at.map_or(created_at, |edited_at| edited_at.max(created_at))
    }
}

/// A denial of a Pod by the API server.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) count: u32,
    pub(crate) until: Timestamp,
    pub(crate) message: Name,
}

impl World {
    /// Records a CachedImage. `None` leaves the known status unchanged.
    pub(super) fn set_image(&mut self, mut image: Image, status: Option<CachedImageStatus>, now: Timestamp) {
        let name = image.name.clone();
        image.reference = image.reference.shared(&mut self.texts);
        // The answer to a write may arrive before the watch shows the state that the write replaced.
        let older = |known: &ImageEntry| known.image.uid == image.uid && known.image.generation > image.generation;
        if self.images.get(&name).is_some_and(older) {
            return;
        }
        let status = status.map(|mut status| {
            // The clock of the leader that wrote it may have been ahead.
            let since = status.lookup.as_mut().and_then(|lookup| lookup.since.as_mut());
            since.into_iter().for_each(|since| *since = now.min(*since));
            status
        });
        self.outbox.note_image(&name);
        image.set.iter().for_each(|set| self.outbox.note_set(&set.name));
        self.asked_by.get(&name).into_iter().for_each(|set| self.outbox.note_set(set));
        if let Some(entry) = self.images.get_mut(&name) {
            if entry.image.uid != image.uid {
                // Another object under the same name does not show the statuses written to the previous one.
                let status = status.unwrap_or_default();
                entry.published = Published::of(&image, status);
            } else if let Some(status) = status {
                entry.published.observe(status);
            }
            if entry.image == image {
                return;
            }
            let old = std::mem::replace(&mut entry.image, image.clone());
            entry.edited_at = Some(now);
            entry.refused = None;
            if old.reference != image.reference {
                entry.tally = Tally::default();
                self.forget_standings(&name);
            } else if old.pull != image.pull {
                // Its standing may be the same for another reason, and NodeCaches store the reason.
                let nodes = self.nodes.iter().filter(|(_, node)| node.standings.contains_key(&name));
                self.dirty.caches.extend(nodes.map(|(node, _)| node.clone()));
            }
            self.disown(&old);
            self.own(&image);
            self.unwant(&old);
            self.want(&image);
            // An edit may have fixed the failure.
            self.ask_again(&image.reference);
        } else {
            // An object of this name may have been deleted a moment ago.
            self.forget_standings(&name);
            self.own(&image);
            self.want(&image);
            let published = Published::of(&image, status.unwrap_or_default());
            let rank = self.rank_of(&image);
            let entry = ImageEntry {
                image,
                placement: None,
                tally: Tally::default(),
                rank,
                refused: None,
                is_probed: false,
                is_doubted: false,
                seen_at: now,
                edited_at: None,
                published,
            };
            self.images.insert(name.clone(), entry);
        }
        self.dirty.images.insert(name);
    }

    /// Has an image judged as if for the first time, and clears its old standing from NodeCaches.
    pub(super) fn forget_standings(&mut self, image: &Name) {
        for (name, node) in &mut self.nodes {
            if node.standings.remove(image).is_some() {
                self.dirty.places.insert(name.clone());
                self.dirty.caches.insert(name.clone());
            }
        }
    }

    pub(super) fn want(&mut self, image: &Image) {
        self.outbox.note_policy(&image.policy);
        self.dirty.lookups.insert(image.reference.clone());
        let names = self.wanted.entry(image.reference.clone()).or_default();
        let is_new = names.is_empty();
        names.insert(image.name.clone());
        if is_new {
            let sizes = self.nodes.values().filter_map(|entry| {
                Some((entry.node.platform.clone(), entry.node.inventory.find(&image.reference)?.size))
            });
            for (platform, size) in Vec::from_iter(sizes) {
                self.note_size(&image.reference, &platform, size);
            }
        }
    }

    /// Records the size of an image on some node of this platform. The least size counts, whichever comes first. With a
    /// new size, lists that lack the image may prove something else.
    pub(super) fn note_size(&mut self, image: &Reference, platform: &Name, size: u64) {
        let known = self.sizes.get(image).and_then(|sizes| sizes.get(platform));
        if size > 0 && known.is_none_or(|known| size < *known) {
            let before = self.sizes.entry(image.clone()).or_default().insert(platform.clone(), size);
            if before.is_none() && self.lookups.contains_key(image) {
                self.lookup_changed(image);
            }
            self.dirty.standings.extend(self.wanted.get(image).into_iter().flatten().cloned());
        }
    }

    pub(super) fn unwant(&mut self, image: &Image) {
        self.outbox.note_policy(&image.policy);
        self.dirty.note_host(&image.reference);
        self.dirty.lookups.insert(image.reference.clone());
        // Nodes that are no longer targets remember the image too.
        let remember = self.nodes.iter().filter(|(_, node)| {
            let memory = self.memory_of(&node.node).filter(|_| !node.standings.contains_key(&image.name));
            memory.is_some_and(|memory| memory.images.contains_key(&image.reference))
        });
        let remember: Vec<Name> = remember.map(|(node, _)| node.clone()).collect();
        self.dirty.caches.extend(remember);
        if let Some(names) = self.wanted.get_mut(&image.reference) {
            names.remove(&image.name);
            if names.is_empty() {
                self.wanted.remove(&image.reference);
                self.sizes.remove(&image.reference);
            }
        }
        self.mark_images_of(&image.reference);
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
            let is_doubted = self.doubted_since(reference).is_some();
            if let Some(entry) = self.images.get_mut(name) {
                self.dirty.note_host(&entry.image.reference);
                entry.placement = placement;
                entry.is_probed = is_probed;
                entry.is_doubted = is_doubted;
            }
        }
        self.outbox.note_image(name);
    }

    pub(super) fn count(&mut self, image: &Name, moves: Moves) {
        if moves == Moves::default() {
            return;
        }
        let Some(entry) = self.images.get_mut(image) else { return };
        entry.tally.take_in(moves);
        self.dirty.note_host(&entry.image.reference);
        if entry.tally.cached == entry.tally.targeted() {
            // Every target node has the image, so no further Pod is requested that could be denied.
            entry.refused = None;
        }
        // The next try of another CachedImage of the reference may depend on it.
        let reference = entry.image.reference.clone();
        self.mark_images_of(&reference);
    }

    /// Marks the statuses of every CachedImage of this reference as stale, and those of their policies: the Pod of one
    /// policy pulls for all.
    pub(super) fn mark_images_of(&mut self, reference: &Reference) {
        for name in self.wanted.get(reference).into_iter().flatten() {
            self.images.get(name).into_iter().for_each(|entry| self.outbox.note_policy(&entry.image.policy));
            self.outbox.note_image(name);
        }
    }

    /// Whether some CachedImage wants `image` on `node`, or would if the node were healthy.
    pub(crate) fn is_meant_for(&self, image: &Reference, node: &Node) -> bool {
        self.wanted_by(image).any(|entry| entry.selects(node))
    }

    pub(super) fn remove_image(&mut self, name: &Name) {
        self.deleted.remove(name);
        let Some(entry) = self.images.remove(name) else { return };
        if let Some(set) = &entry.image.set {
            self.overtake(&EffectKey::Child { set: set.name.clone(), child: name.clone() });
        }
        self.outbox.remove(&EffectKey::Image(name.clone()));
        self.asked_by.get(name).into_iter().for_each(|set| self.outbox.note_set(set));
        self.disown(&entry.image);
        self.unwant(&entry.image);
        self.flights.remove(&EffectKey::Image(name.clone()));
        self.dirty.images.insert(name.clone());
    }

    /// The CachedImage called `name`.
    pub(crate) fn image(&self, name: &str) -> Option<&ImageEntry> {
        self.images.get(name)
    }

    /// Every CachedImage, by name.
    pub(crate) fn images(&self) -> impl Iterator<Item = &ImageEntry> {
        self.images.values()
    }

    /// Every image that some CachedImage wants.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = &Reference> {
        self.wanted.keys()
    }

    /// The CachedImages that want `image`.
    pub(crate) fn wanted_by(&self, image: &Reference) -> impl Iterator<Item = &ImageEntry> {
        self.wanted.get(image).into_iter().flatten().filter_map(|name| self.images.get(name))
    }

    /// Returns the names of the pull secrets of these CachedImages, each once.
    pub(crate) fn secrets_of<'a>(images: impl Iterator<Item = &'a ImageEntry>) -> Vec<Name> {
        let mut secrets: Vec<Name> = Vec::new();
        for secret in images.flat_map(|entry| &entry.image.secrets) {
            if !secrets.contains(secret) {
                secrets.push(secret.clone());
            }
        }
        secrets
    }

    /// Returns the least size in bytes with which any node lists `image`.
    pub(crate) fn size_of(&self, image: &Reference) -> Option<u64> {
        self.sizes.get(image).into_iter().flat_map(BTreeMap::values).min().copied()
    }
}

impl ImageEntry {
    /// Whether no node is a target.
    pub(super) fn is_nowhere(&self) -> bool {
        self.tally.targeted() == 0
    }

    /// Its requirements on a node. An image whose policy is missing keeps its targets: they wait.
    pub(crate) fn placement(&self) -> &Placement {
        self.placement.as_ref().unwrap_or(&self.image.placement)
    }

    /// Checks whether `node` is a target of the image.
    pub(crate) fn place_on<'a>(&'a self, node: &'a Node) -> Result<(), NotATarget<'a>> {
        self.placement().check(node)
    }

    /// Whether the image selects `node`, healthy or not.
    pub(crate) fn selects(&self, node: &Node) -> bool {
        self.placement().selects(node).is_ok()
    }
}
