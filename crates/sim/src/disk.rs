//! What is on nodes' disks, and what they list of it.

use std::sync::Arc;

use drop_core::Name;
use drop_core::inventory::{Inventory, Listed};
use drop_core::reference::Reference;
use jiff::SignedDuration;

use crate::Lab;
use crate::agenda::Item;

/// How often a kubelet lists its images.
const EVERY: SignedDuration = SignedDuration::from_secs(30);
/// The size of every image, in bytes.
const SIZE: u64 = 100_000_000;

impl Lab {
    /// An image came onto the disk of the node of this UID, as this digest.
    pub(crate) fn stored(&mut self, node_uid: &Name, image: &Reference, digest: Reference) {
        self.disks.entry(node_uid.clone()).or_default().insert(image.clone(), digest);
        self.list_soon(node_uid);
    }

    /// Whether the node has the image.
    #[must_use]
    pub fn is_on_disk(&self, node: &str, image: &Reference) -> bool {
        let node = self.api.nodes.get(node);
        node.and_then(|node| self.disks.get(&node.uid)).is_some_and(|disk| disk.contains_key(image))
    }

    /// The node's garbage collector removes an image. Returns whether it was there, and was not
    /// being pulled.
    pub fn evict(&mut self, node: &str, image: &Reference) -> bool {
        let Some(uid) = self.api.nodes.get(node).map(|node| node.uid.clone()) else {
            self.misses("Node", node);
            return false;
        };
        let on_node = self.api.pods.values().filter(|live| live.node_uid == uid);
        let is_used = on_node.flat_map(|live| &live.pod.containers).any(|container| container.image == *image);
        let is_removed = !is_used && self.disks.get_mut(&uid).is_some_and(|disk| disk.remove(image).is_some());
        if is_removed {
            self.record.successes.remove(&(uid.clone(), image.clone()));
            self.list_soon(&uid);
        }
        is_removed
    }

    fn list_soon(&mut self, node_uid: &Name) {
        if self.knobs.lists {
            self.agenda.add(self.now + EVERY, Item::List(node_uid.clone()));
        }
    }

    /// The kubelet of the node of this UID lists its images.
    pub(crate) fn list_images(&mut self, node_uid: &Name) {
        let disk = self.disks.get(node_uid).cloned().unwrap_or_default();
        let Some(name) = self.api.node_of_uid(node_uid).map(|node| node.name.clone()) else { return };
        // Something else is always there: an empty list would tell nothing.
        let pause = Listed { names: vec![Reference::parse("registry.k8s.io/pause:3.10")], size: 1 };
        let images = disk.into_iter().map(|(image, digest)| Listed { names: vec![digest, image], size: SIZE });
        let inventory = Inventory::new(images.chain([pause]).map(Arc::new).collect());
        self.edit_node(&name, |node| node.inventory = inventory);
    }
}
