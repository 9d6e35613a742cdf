//! The evidence about images from the lists of nodes.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use jiff::{SignedDuration, Timestamp};

use super::lookups::{Lookup, Served};
use super::{ImageEntry, NodeEntry, World};
use crate::Name;
use crate::objects::inventory::{Index, Sighting};
use crate::objects::memory::{Memory, Record};
use crate::objects::newest::{ImageId, Newest};
use crate::objects::node::Readiness;
use crate::objects::presence::{Evidence, Standing, standing};

/// An image, and the facts about it that are the same for all nodes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'a> {
    pub(crate) entry: &'a ImageEntry,
    /// Per platform, the least size in bytes with which a node has listed it.
    sizes: Option<&'a BTreeMap<Name, u64>>,
    /// The results of the newest pulls.
    newest: Option<&'a Newest>,
    /// The manifest that its registry serves, and since when that is known, while the registry answers.
    served: Option<&'a Served>,
    /// The interval after which its policy has a tag looked up again, if it does.
    repull_interval: Option<SignedDuration>,
    /// Whether no other CachedImage wants the same image.
    pub(super) is_only: bool,
}

impl World {
    /// Collects the facts about an image that are the same for all nodes.
    pub(crate) fn known<'a>(&'a self, entry: &'a ImageEntry) -> Known<'a> {
        let reference = &entry.image.reference;
        Known {
            entry,
            sizes: self.sizes.get(reference),
            newest: self.health.get(reference).map(|health| &health.newest),
            served: self.lookup_of(entry).and_then(Lookup::current),
            repull_interval: self.policy_of(&entry.image).and_then(|policy| policy.repull_interval),
            is_only: self.wanted.get(reference).is_some_and(|names| names.len() == 1),
        }
    }

    /// Returns the evidence about an image on a node. `record` is its record there.
    pub(crate) fn evidence<'a>(
        &self,
        entry: &'a NodeEntry,
        listed: &Index<'a>,
        known: &Known<'a>,
        record: Option<&'a Record>,
        node_failed_at: Option<Timestamp>,
    ) -> Evidence<'a> {
        let node = &entry.node;
        let image = &known.entry.image;
        let usual_size = || known.sizes?.get(&node.platform).copied();
        let size = record.and_then(|record| record.size).map(NonZeroU64::get).or_else(usual_size);
        let sight = |name| listed.sight(name, size, entry.full_list);
        // If admission has rewritten the image's name, the node lists the name that it pulled.
        let pulled_as = record.and_then(|record| record.pulled_as.as_deref());
        let sighting = match (sight(&image.reference), pulled_as) {
            (Sighting::Absent | Sighting::Unknown, Some(name)) => sight(name),
            (sighting, _) => sighting,
        };
        let sighting = match (sighting, node.readiness) {
            // If a kubelet does not report, its list is an old one.
            (Sighting::Absent, Readiness::Lost) => Sighting::Unknown,
            (sighting, _) => sighting,
        };
        Evidence {
            image,
            record,
            sighting,
            newest: known.newest.map(|newest| newest.seen_from(&node.platform)).unwrap_or_default(),
            served: known.served.map(|served| (&*served.manifest, served.since)),
            platform: &node.platform,
            repull_interval: known.repull_interval,
            node_failed_at,
            listed_within: self.settings.listed_within,
        }
    }

    /// Returns `memory` updated from the node's list: of the wanted images, it records those that were found or
    /// evicted. Also returns the number of evictions.
    pub(crate) fn with_sightings(&self, node: &NodeEntry, mut memory: Memory, now: Timestamp) -> (Memory, usize) {
        let mut evictions = 0;
        let node_failed_at = memory.node_failed_at();
        let mut room = memory.room();
        let index = node.node.inventory.index(node.standings.len());
        for (entry, _) in self.images_on(node, |_| true) {
            let reference = &entry.image.reference;
            let record = memory.images.get(reference);
            let evidence = self.evidence(node, &index, &self.known(entry), record, node_failed_at);
            if evidence.was_removed_unwanted(now) {
                memory.images.remove(reference);
                continue;
            }
            let is_there = standing(&evidence, now).0;
            let size = match evidence.sighting {
                Sighting::Present(listed) => NonZeroU64::new(listed.size),
                Sighting::Absent | Sighting::Unknown => None,
            };
            let is_known = record.is_some_and(|record| record.current_since().is_some());
            let id = evidence.counts_as_pulled().filter(|_| !is_known).map(|digest| ImageId::new(digest.into()));
            match memory.images.get_mut(reference) {
                Some(record) => {
                    record.size = size.or(record.size);
                    if is_there == Standing::Evicted && record.present_since().is_some() {
                        record.evict(now, self.settings.repair_max);
                        evictions += 1;
                    } else if is_there.is_there() && (record.present_since().is_none() || id.is_some()) {
                        record.found_at = record.found_at.or(Some(now));
                        record.id = id;
                        record.failure = None;
                    }
                }
                None if is_there.is_there() && room > 0 => {
                    room -= 1;
                    let record = Record { found_at: Some(now), id, size, ..Record::default() };
                    memory.images.insert(reference.clone(), record);
                }
                None => {}
            }
        }
        (memory, evictions)
    }
}
