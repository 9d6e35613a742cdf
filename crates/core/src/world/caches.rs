//! NodeCaches, which hold the memory of each node.

use drop_api::NodeCache;
use jiff::Timestamp;

use super::{Moment, World};
use crate::Name;
use crate::io::effect::EffectKey;
use crate::objects::memory::{self, Failure, Memory, Record};
use crate::objects::node::Node;
use crate::objects::reference::Reference;
use crate::pace::backoff::spread;
use crate::time::after;

/// A NodeCache.
#[derive(Debug)]
pub(crate) struct CacheEntry {
    pub(crate) memory: Memory,
    /// The object as it was last seen or written, without the fields that `memory` holds.
    pub(crate) object: NodeCache,
    /// Whether the watch has shown it. If so, a list that lacks it means that it is gone.
    pub(super) seen: bool,
}

impl World {
    pub(super) fn set_cache(&mut self, mut object: NodeCache, seen: bool, now: Timestamp) {
        let Some(name) = object.metadata.name.as_deref().map(Name::from) else { return };
        // The answer to a write may arrive before the watch shows the state that the write replaced.
        let older = |known: &CacheEntry| version(&known.object) > version(&object);
        if self.caches.get(&name).is_some_and(older) {
            return;
        }
        let status = object.status.get_or_insert_default();
        memory::clamp_times(status, now);
        let memory = Memory::from_api(status, &mut self.texts);
        memory::forget(status);
        let unchanged =
            self.caches.get(&name).is_some_and(|known| known.memory == memory && known.object.spec == object.spec);
        for (policy, at) in memory.starts.iter().filter(|_| !unchanged) {
            self.note_start(policy, &name, *at);
        }
        let is_of = |known: &CacheEntry| known.object.spec.node_uid == object.spec.node_uid;
        if !self.caches.get(&name).is_none_or(is_of) {
            // The memory of another machine under the same name no longer counts.
            self.dirty.nodes.insert(name.clone());
        }
        let seen = seen || self.caches.get(&name).is_some_and(|known| known.seen);
        if self.caches.get(&name).is_none_or(|known| known.object.status != object.status) {
            // A write whose answer was lost may be out of date by now.
            self.dirty.caches.insert(name.clone());
        }
        let before = self.caches.insert(name.clone(), CacheEntry { memory, object, seen });
        if !unchanged {
            self.memory_changed(&name, before.map(|entry| entry.memory).unwrap_or_default(), now);
        }
    }

    /// Derives anew the state that follows from a node's memory. `before` is the memory before the change.
    pub(super) fn memory_changed(&mut self, node: &Name, before: Memory, now: Timestamp) {
        if let Some(entry) = self.nodes.get_mut(node) {
            entry.told = None;
        }
        let nothing = Memory::default();
        let after = self.caches.get(node).map_or(&nothing, |entry| &entry.memory);
        // NodeCaches of earlier versions do not name the platform.
        let platform = after.platform.clone().unwrap_or_default();
        let is_moved = before.platform != after.platform;
        let forgets_at = after.forgets_at();
        let forgotten = before.images.keys().filter(|image| !after.images.contains_key(*image));
        let is_changed = |image: &Reference, record: &Record| is_moved || before.images.get(image) != Some(record);
        let changed = after.images.iter().filter(|(image, record)| is_changed(image, record));
        let changes: Vec<(Reference, Option<Record>)> = forgotten
            .map(|image| (image.clone(), None))
            .chain(changed.map(|(image, record)| (image.clone(), Some(record.clone()))))
            .collect();
        let is_troubled = before.node_failed_at() != after.node_failed_at();
        let is_hindered = before.node_failure != after.node_failure || before.has_room() != after.has_room();
        if is_hindered {
            self.hinder(node);
        }
        match forgets_at {
            Some(at) => self.agenda.set(Moment::Forgetting(node.clone()), at),
            None => self.agenda.cancel(&Moment::Forgetting(node.clone())),
        }
        // Before everything is synced, every node is judged as a whole. If a node begins or ceases to fail as a whole,
        // all of its images are judged too.
        if is_troubled || !self.is_synced() {
            self.dirty.nodes.insert(node.clone());
        }
        for (reference, record) in &changes {
            let fails = |world: &Self| (world.open_rounds(reference) > 0, world.doubted_since(reference).is_some());
            let failing_before = fails(self);
            let health = self.health.entry(reference.clone()).or_default();
            let update = health.update(node, &platform, record.as_ref());
            if update.is_stale {
                health.forget_pulls();
                for (node, cache) in &self.caches {
                    let platform = cache.memory.platform.clone().unwrap_or_default();
                    health.update(node, &platform, cache.memory.images.get(reference));
                }
            }
            if health.is_empty() {
                self.health.remove(reference);
            }
            record.iter().for_each(|record| self.compare_with_served(reference, &platform, record));
            if self.lookups.get(reference).is_some_and(|lookup| lookup.missing().is_some()) {
                self.lookup_changed(reference);
            }
            self.registry_changed(reference);
            self.mark_images_of(reference);
            let wanted_by = || self.wanted.get(reference).into_iter().flatten().cloned();
            if !self.dirty.nodes.contains(node) {
                self.dirty.pairs.entry(node.clone()).or_default().extend(wanted_by());
            }
            if failing_before != fails(self) {
                self.dirty.images.extend(wanted_by());
            } else if update.is_stale || update.is_news {
                self.dirty.standings.extend(wanted_by());
            }
        }
        self.end_recorded_pulls(node, now);
        self.dirty.places.insert(node.clone());
    }

    /// Notes that a NodeCache may differ from its current state, in a part that is not urgent.
    pub(super) fn cache_is_stale(&mut self, node: Name, now: Timestamp) {
        let at = after(now, spread(self.settings.record_within, &node));
        self.outbox.note_by(EffectKey::Record(node), at);
    }

    /// Returns the memory of a node; `None` if there is none, or if it belongs to another machine.
    pub(crate) fn memory_of(&self, node: &Node) -> Option<&Memory> {
        let cache = self.caches.get(&node.name)?;
        (*cache.object.spec.node_uid == *node.uid).then_some(&cache.memory)
    }

    pub(super) fn remove_cache(&mut self, name: &Name, now: Timestamp) {
        self.overtake(&EffectKey::Record(name.clone()));
        if let Some(entry) = self.caches.remove(name) {
            self.dirty.caches.insert(name.clone());
            self.memory_changed(name, entry.memory, now);
        }
    }

    /// Returns the NodeCache of a node, which may belong to an earlier machine of the same name.
    pub(crate) fn cache(&self, node: &str) -> Option<&CacheEntry> {
        self.caches.get(node)
    }

    /// Returns a node's last failure as a whole, if the node has not recovered.
    pub(crate) fn trouble_of(&self, node: &Node) -> Option<&Failure> {
        self.memory_of(node)?.node_failure.as_ref()
    }
}

/// Returns an object's resource version as a number, which is greater for newer versions; see
/// <https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions>.
fn version(object: &NodeCache) -> u64 {
    object.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}
