//! The evidence about images from the lists of nodes.

use std::collections::BTreeMap;
use std::iter;
use std::num::NonZeroU64;

use jiff::{SignedDuration, Timestamp};

use super::lookups::{Lookup, Served};
use super::{ImageEntry, NodeEntry, World};
use crate::Name;
use crate::look_up::look_up;
use crate::objects::inventory::{Index, Listed, Sighting};
use crate::objects::memory::{Memory, Record};
use crate::objects::newest::{ImageId, Newest};
use crate::objects::node::Readiness;
use crate::objects::policy::Policy;
use crate::objects::presence::{Evidence, Standing, standing};
use crate::objects::reference::Reference;

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

/// Images that are looked at together on one node or several. Walking through each map once is faster than searching it
/// for each image.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    images: Vec<Option<Known<'a>>>,
    /// The references of the images in order, and the position of each image.
    references: Vec<&'a Reference>,
    places: Vec<usize>,
}

/// The facts about an image on one node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found<'a> {
    /// Its record in the node's memory.
    pub(crate) record: Option<&'a Record>,
    /// Its entry in the node's list.
    listed: Option<&'a Listed>,
}

impl<'a> Group<'a> {
    /// Collects the facts about these images that are the same for all nodes. An image that does not exist is `None`.
    fn new(world: &'a World, entries: &[Option<&'a ImageEntry>]) -> Self {
        let of = |(place, entry): (usize, &Option<&'a ImageEntry>)| Some((&(*entry)?.image.reference, place));
        let mut by_reference: Vec<(&Reference, usize)> = entries.iter().enumerate().filter_map(of).collect();
        // Of one reference the images keep their order.
        by_reference.sort_by_key(|(reference, _)| *reference);
        let (references, places): (Vec<&Reference>, Vec<usize>) = by_reference.into_iter().unzip();
        let sizes = look_up(&world.sizes, &references);
        let health = look_up(&world.health, &references);
        let lookups = look_up(&world.lookups, &references);
        let wanted = look_up(&world.wanted, &references);
        let mut images = vec![None; entries.len()];
        let facts = places.iter().zip(sizes).zip(health).zip(lookups).zip(wanted);
        for ((((place, sizes), health), lookup), wanted) in facts {
            let Some((entry, known)) = entries.get(*place).copied().flatten().zip(images.get_mut(*place)) else {
                continue;
            };
            let policy = world.policy_of(&entry.image);
            *known = Some(Known {
                entry,
                sizes,
                newest: health.map(|health| &health.newest),
                served: lookup.filter(|_| policy.is_some_and(Policy::looks_up)).and_then(Lookup::current),
                repull_interval: policy.and_then(|policy| policy.repull_interval),
                is_only: wanted.is_some_and(|names| names.len() == 1),
            });
        }
        Self { images, references, places }
    }

    /// The images, in the order in which they were asked for.
    pub(super) fn images(&self) -> &[Option<Known<'a>>] {
        &self.images
    }

    /// Whether one of the images has this reference.
    pub(crate) fn has(&self, image: &Reference) -> bool {
        self.references.binary_search(&image).is_ok()
    }

    /// Returns the facts about each image on a node, in the order of the images. `memory` is the node's.
    pub(super) fn on<'n>(&self, index: &Index<'n>, memory: Option<&'n Memory>) -> Vec<Found<'n>> {
        let mut found = vec![Found::default(); self.images.len()];
        let listed = index.find_all(&self.references);
        let records = memory.map(|memory| look_up(&memory.images, &self.references)).unwrap_or_default();
        let records = records.into_iter().chain(iter::repeat(None));
        for ((place, listed), record) in self.places.iter().zip(listed).zip(records) {
            found.get_mut(*place).into_iter().for_each(|found| *found = Found { record, listed });
        }
        found
    }
}

impl World {
    /// Collects the facts about the images of these names that are the same for all nodes.
    pub(super) fn group(&self, names: &[&Name]) -> Group<'_> {
        Group::new(self, &look_up(&self.images, names))
    }

    /// Collects the facts about the images that a node is a target of.
    pub(crate) fn group_on(&self, node: &NodeEntry) -> Group<'_> {
        let entries: Vec<Option<&ImageEntry>> = self.images_on(node, |_| true).map(|(entry, _)| Some(entry)).collect();
        Group::new(self, &entries)
    }

    /// Judges the images of `group` on a node with this memory, as of `now`.
    pub(crate) fn standings<'a>(
        &'a self,
        node: &'a NodeEntry,
        group: &'a Group<'a>,
        memory: &Memory,
        now: Timestamp,
    ) -> Vec<(&'a Reference, Standing)> {
        let index = node.node.inventory.index(group.images.len());
        let found = group.on(&index, Some(memory));
        let failed_at = memory.node_failed_at();
        let images = group.images.iter().zip(found);
        let judged = images.filter_map(|(known, found)| {
            let known = known.as_ref()?;
            let evidence = self.evidence(node, &index, known, found, failed_at);
            Some((&known.entry.image.reference, standing(&evidence, now).0))
        });
        judged.collect()
    }

    /// Returns the evidence about an image on a node, where it was `found`.
    pub(super) fn evidence<'a>(
        &self,
        entry: &'a NodeEntry,
        index: &Index<'a>,
        known: &Known<'a>,
        found: Found<'a>,
        node_failed_at: Option<Timestamp>,
    ) -> Evidence<'a> {
        let (node, image, record) = (&entry.node, &known.entry.image, found.record);
        let usual_size = || known.sizes?.get(&node.platform).copied();
        let size = record.and_then(|record| record.size).map(NonZeroU64::get).or_else(usual_size);
        // If admission has rewritten the image's name, the node lists the name that it pulled.
        let pulled_as = record.and_then(|record| record.pulled_as.as_deref());
        let sighting = match (index.sight(&image.reference, found.listed, size, entry.full_list), pulled_as) {
            (Sighting::Absent | Sighting::Unknown, Some(name)) => {
                index.sight(name, index.find(name), size, entry.full_list)
            }
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

    /// Returns `memory` updated from the node's list: of the images of `group`, it records those that were found or
    /// evicted. Also returns the number of evictions.
    pub(crate) fn with_sightings(
        &self,
        node: &NodeEntry,
        group: &Group<'_>,
        mut memory: Memory,
        now: Timestamp,
    ) -> (Memory, usize) {
        let mut evictions = 0;
        let mut room = memory.room();
        let index = node.node.inventory.index(group.images.len());
        let found = group.on(&index, Some(&memory));
        // Several CachedImages may want one image: each sees what the one before it has changed.
        let mut changes: Vec<(&Reference, Option<Record>)> = Vec::new();
        for (reference, place) in group.references.iter().zip(&group.places) {
            let (Some(Some(known)), Some(found)) = (group.images.get(*place), found.get(*place)) else { continue };
            let changed = changes.last().filter(|(image, _)| image == reference);
            let record = changed.map_or(found.record, |(_, record)| record.as_ref());
            let evidence = self.evidence(node, &index, known, Found { record, ..*found }, memory.node_failed_at());
            let after = if evidence.was_removed_unwanted(now) {
                None
            } else {
                let is_there = standing(&evidence, now).0;
                let size = match evidence.sighting {
                    Sighting::Present(listed) => NonZeroU64::new(listed.size),
                    Sighting::Absent | Sighting::Unknown => None,
                };
                let is_known = record.is_some_and(|record| record.current_since().is_some());
                let id = evidence.counts_as_pulled().filter(|_| !is_known).map(|digest| ImageId::new(digest.into()));
                match record {
                    Some(record) if is_there == Standing::Evicted && record.present_since().is_some() => {
                        let mut record = Record { size: size.or(record.size), ..record.clone() };
                        record.evict(now, self.settings.repair_max);
                        evictions += 1;
                        Some(record)
                    }
                    Some(record) if is_there.is_there() && (record.present_since().is_none() || id.is_some()) => {
                        Some(Record {
                            found_at: record.found_at.or(Some(now.into())),
                            id,
                            failure: None,
                            size: size.or(record.size),
                            ..record.clone()
                        })
                    }
                    Some(record) if size.is_some() && size != record.size => Some(Record { size, ..record.clone() }),
                    None if is_there.is_there() && room > 0 => {
                        room -= 1;
                        Some(Record { found_at: Some(now.into()), id, size, ..Record::default() })
                    }
                    Some(_) | None => continue,
                }
            };
            changes.push((reference, after));
        }
        let changes: Vec<(Reference, Option<Record>)> =
            changes.into_iter().map(|(reference, record)| (reference.clone(), record)).collect();
        for (reference, record) in changes {
            match record {
                Some(record) => drop(memory.images.insert(reference, record)),
                None => drop(memory.images.remove(&reference)),
            }
        }
        (memory, evictions)
    }
}
