//! The disks of nodes, and the images that nodes list.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use drop_core::Name;
use drop_core::inventory::{Inventory, Listed};
use drop_core::reference::Reference;
use jiff::{SignedDuration, Timestamp};

use crate::Lab;
use crate::agenda::Item;

/// How often a kubelet lists its images.
const EVERY: SignedDuration = SignedDuration::from_secs(30);
/// How often a kubelet checks whether to remove images (`ImageGCPeriod`).
const COLLECTION: SignedDuration = SignedDuration::from_mins(5);
/// The least age of an image that is removed (`imageMinimumGCAge`).
const LEAST_AGE: SignedDuration = SignedDuration::from_mins(2);
/// How many images a kubelet lists by default.
const USUALLY_LISTED: usize = 50;
/// How many images every kubelet lists at least, whatever its administrator configures.
const LEAST_LISTED: usize = 3;
/// In percent of the disk: above the first (`imageGCHighThresholdPercent`), the kubelet removes images until at most
/// the second is used (`imageGCLowThresholdPercent`).
const THRESHOLDS: (u64, u64) = (85, 80);

/// One node's disk.
#[derive(Default)]
pub(crate) struct Disk {
    images: BTreeMap<Reference, Stored>,
    /// Whether a check of the kubelet is scheduled.
    is_watched: bool,
}

/// An image on a disk.
struct Stored {
    /// The ID that the runtime gives it: its repository and digest.
    id: Name,
    /// In bytes.
    size: u64,
    used_at: Timestamp,
}

impl Disk {
    /// In bytes.
    fn used(&self) -> u64 {
        self.images.values().map(|image| image.size).sum()
    }
}

impl Lab {
    /// Whether there is room for an image on the disk of the node of this UID.
    pub(crate) fn has_room(&self, node_uid: &Name, image: &Reference) -> bool {
        let disk = self.disks.get(node_uid);
        let others = disk.map_or(0, |disk| disk.used() - disk.images.get(image).map_or(0, |stored| stored.size));
        let node = self.api.node_of_uid(node_uid).map(|node| node.name.clone()).unwrap_or_default();
        self.room_on(&node).is_none_or(|capacity| others + self.size_of(image) <= capacity)
    }

    /// Returns how much room a node has for images, in bytes, if that is limited.
    pub(crate) fn room_on(&self, node: &str) -> Option<u64> {
        self.knobs.machines.get(node).and_then(|machine| machine.disk).or(self.knobs.disk)
    }

    /// Returns how many images a node lists at most (`nodeStatusMaxImages`).
    fn listed_images_on(&self, node: &str) -> usize {
        match self.knobs.machines.get(node).and_then(|machine| machine.listed_images) {
            None if self.settings.listed_images == 0 => USUALLY_LISTED,
            None => self.settings.listed_images,
            // -1 means that there is no limit.
            Some(most) => usize::try_from(most).unwrap_or(usize::MAX),
        }
    }

    /// Stores an image under this ID on the disk of the node of this UID.
    pub(crate) fn stored(&mut self, node_uid: &Name, image: &Reference, id: Name) {
        let stored = Stored { id, size: self.size_of(image), used_at: self.now };
        self.disks.entry(node_uid.clone()).or_default().images.insert(image.clone(), stored);
        self.list_soon(node_uid);
        self.watch_disk(node_uid);
    }

    /// Schedules the kubelet's check of its disk, if the disk is rather full.
    fn watch_disk(&mut self, node_uid: &Name) {
        let Some(node) = self.api.node_of_uid(node_uid).map(|node| node.name.clone()) else { return };
        let (Some(capacity), Some(disk)) = (self.room_on(&node), self.disks.get_mut(node_uid)) else { return };
        if disk.used() * 100 > capacity * THRESHOLDS.0 && !disk.is_watched {
            disk.is_watched = true;
            self.agenda.add(self.now + COLLECTION, Item::CleanDisk(node_uid.clone()));
        }
    }

    /// Lets the kubelet of the node of this UID remove images until enough is free. Images that have not been used for
    /// longest go first.
    pub(crate) fn clean_disk(&mut self, node_uid: &Name) {
        let room = self.api.node_of_uid(node_uid).and_then(|node| self.room_on(&node.name));
        let Some(disk) = self.disks.get_mut(node_uid) else { return };
        disk.is_watched = false;
        let Some(capacity) = room.filter(|capacity| disk.used() * 100 > capacity * THRESHOLDS.0) else {
            return;
        };
        let old = disk.images.iter().filter(|(_, image)| self.now.duration_since(image.used_at) >= LEAST_AGE);
        let mut oldest: Vec<(Timestamp, Reference)> =
            old.map(|(image, stored)| (stored.used_at, image.clone())).collect();
        oldest.sort();
        for (_, image) in oldest {
            let used = self.disks.get(node_uid).map_or(0, Disk::used);
            if used * 100 > capacity * THRESHOLDS.1 {
                self.remove_image(node_uid, &image);
            }
        }
        self.watch_disk(node_uid);
    }

    /// Whether the node has the image.
    #[must_use]
    pub fn is_on_disk(&self, node: &str, image: &Reference) -> bool {
        let node = self.api.nodes.get(node);
        node.and_then(|node| self.disks.get(&node.uid)).is_some_and(|disk| disk.images.contains_key(image))
    }

    /// Returns the ID of an image on the node of this UID: its repository and digest.
    #[must_use]
    pub fn id_on_disk(&self, node_uid: &str, image: &Reference) -> Option<&Name> {
        self.disks.get(node_uid)?.images.get(image).map(|stored| &stored.id)
    }

    /// Whether the node's list would show the image if the node had it: the list is complete, or the image is known to
    /// be large enough.
    #[must_use]
    pub fn would_list(&self, node: &str, image: &Reference) -> bool {
        let Some(node) = self.api.nodes.get(node) else { return false };
        let disk = self.disks.get(&node.uid);
        let mut sizes: Vec<u64> = disk.iter().flat_map(|disk| disk.images.values().map(|image| image.size)).collect();
        sizes.sort_unstable();
        let most = self.listed_images_on(&node.name);
        let smallest_listed = sizes.iter().rev().nth(most.saturating_sub(1));
        // Without a configured length, only a list of less than three is known to be complete.
        let complete_below = if self.settings.listed_images == 0 { most.min(LEAST_LISTED) } else { most };
        sizes.len() + 1 < complete_below
            || (self.record.listed.contains(&(node.platform.clone(), image.clone()))
                && smallest_listed.is_some_and(|smallest| self.size_of(image) > *smallest))
    }

    /// Lets the node's garbage collector remove an image. Returns whether the node had the image, and was not pulling
    /// it.
    pub fn evict(&mut self, node: &str, image: &Reference) -> bool {
        let Some(uid) = self.api.nodes.get(node).map(|node| node.uid.clone()) else {
            self.misses("Node", node);
            return false;
        };
        self.remove_image(&uid, image)
    }

    fn remove_image(&mut self, node_uid: &Name, image: &Reference) -> bool {
        let on_node = self.api.pods.values().filter(|live| live.node_uid == *node_uid);
        let is_used = on_node.flat_map(|live| &live.pod.containers).any(|container| container.image == *image);
        let mut disk = self.disks.get_mut(node_uid).filter(|_| !is_used);
        let is_removed = disk.as_mut().is_some_and(|disk| disk.images.remove(image).is_some());
        if is_removed {
            let node = self.api.node_of_uid(node_uid).map(|node| node.name.clone()).unwrap_or_default();
            self.note(|| format!("{node}: {image} is removed"));
            self.record.successes.remove(&(node_uid.clone(), image.clone()));
            self.record.changes.push(self.now);
            self.list_soon(node_uid);
        }
        is_removed
    }

    fn list_soon(&mut self, node_uid: &Name) {
        if self.knobs.lists {
            self.agenda.add(self.now + EVERY, Item::List(node_uid.clone()));
        }
    }

    /// Lets the kubelet of the node of this UID list its images, the largest ones.
    pub(crate) fn list_images(&mut self, node_uid: &Name) {
        let Some(name) = self.api.node_of_uid(node_uid).map(|node| node.name.clone()) else { return };
        // Every node has another image too: an empty list would prove nothing.
        let pause = Listed { names: [Reference::parse("registry.k8s.io/pause:3.10")].into(), is_cut: false, size: 1 };
        let stored = self.disks.get(node_uid).into_iter().flat_map(|disk| &disk.images);
        let mut images: Vec<Listed> = stored
            .map(|(image, stored)| Listed {
                names: [Reference::parse(&stored.id), image.clone()].into(),
                is_cut: false,
                size: stored.size,
            })
            .chain([pause])
            .collect();
        images.sort_by_key(|image| Reverse(image.size));
        images.truncate(self.listed_images_on(&name));
        let platform = self.api.nodes.get(&*name).map(|node| node.platform.clone()).unwrap_or_default();
        let names = images.iter().flat_map(|image| &image.names);
        self.record.listed.extend(names.map(|name| (platform.clone(), name.clone())));
        let inventory = Inventory::new(images.into_iter().map(Arc::new).collect());
        self.edit_node(&name, |node| node.inventory = inventory);
    }
}
