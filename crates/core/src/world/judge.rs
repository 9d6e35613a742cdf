//! Judges how images stand on nodes, for those pairs that may have changed.

use std::collections::BTreeSet;
use std::mem;

use jiff::Timestamp;

use super::sightings::{Found, Group, Known};
use super::{ImageEntry, Moment, Moves, World};
use crate::Name;
use crate::io::effect::EffectKey;
use crate::look_up::look_up;
use crate::objects::memory::Memory;
use crate::objects::presence::{Standing, standing};
use crate::objects::reference::Reference;

/// Images are judged on this many nodes before the results are counted. This bounds the memory for the results.
const JUDGED_TOGETHER: usize = 64;

/// Images to be judged on several nodes.
struct Asked<'a> {
    names: Vec<&'a Name>,
    group: Group<'a>,
    /// Whether an image has the same nodes as the previous one, as the images of a set do.
    goes_with_last: Vec<bool>,
}

impl<'a> Asked<'a> {
    fn new(world: &'a World, names: &'a BTreeSet<Name>) -> Self {
        let names: Vec<&Name> = names.iter().collect();
        let group = world.group(&names);
        let mut last: Option<&ImageEntry> = None;
        let goes_with_last = |known: &Option<Known<'a>>| {
            let entry = known.as_ref().map(|known| known.entry);
            let before = mem::replace(&mut last, entry);
            entry.zip(before).is_some_and(|(entry, last)| entry.placement() == last.placement())
        };
        let goes_with_last = group.images().iter().map(goes_with_last).collect();
        Self { names, group, goes_with_last }
    }
}

/// The result of judging the images on one node.
#[derive(Default)]
struct Judgement {
    changes: Vec<Change>,
    /// When to judge again if no event comes before.
    again_at: Option<Timestamp>,
    /// Whether the memory has an image as wanted that is not meant for the node, or the reverse.
    misremembers: bool,
}

/// An image whose standing has changed.
struct Change {
    /// Its position among the images to be judged.
    place: usize,
    before: Option<Standing>,
    after: Option<Standing>,
}

impl World {
    /// Derives anew which nodes are targets of which images, and how the images stand there, for those that may have
    /// changed.
    pub(super) fn judge_all(&mut self, now: Timestamp) {
        let placed = std::mem::take(&mut self.dirty.images);
        for image in &placed {
            self.place_image(image);
        }
        let nodes = std::mem::take(&mut self.dirty.nodes);
        let mut images = std::mem::take(&mut self.dirty.standings);
        let news_of: Vec<(Name, Reference)> = images
            .difference(&placed)
            .filter_map(|name| Some((name.clone(), self.images.get(name)?.image.reference.clone())))
            .collect();
        images.extend(placed.iter().cloned());
        if !images.is_empty() {
            let others: Vec<Name> = self.nodes.keys().filter(|node| !nodes.contains(*node)).cloned().collect();
            for node in others {
                let Some(entry) = self.nodes.get(&node) else { continue };
                // News from other nodes does not affect an image that this node never had.
                let is_concerned = |(name, reference): &&(Name, Reference)| {
                    entry
                        .standings
                        .get(name)
                        .is_some_and(|standing| *standing != Standing::Missing || entry.node.inventory.lists(reference))
                };
                let concerned = news_of.iter().filter(is_concerned).map(|(name, _)| name);
                let images: BTreeSet<Name> = placed.iter().chain(concerned).cloned().collect();
                let is_changed = !self.judge(std::slice::from_ref(&node), &images, now).is_empty();
                let waits =
                    |image: &Name| self.standing_on(&node, image).is_some_and(|standing| standing != Standing::Cached);
                if is_changed || placed.iter().any(waits) {
                    self.dirty.places.insert(node);
                }
            }
        }
        for (node, images) in std::mem::take(&mut self.dirty.pairs) {
            if !nodes.contains(&node) {
                let changed = self.judge(&[node], &images, now);
                self.dirty.places.extend(changed);
            }
        }
        if !nodes.is_empty() {
            // Deleted images are among the images that were placed.
            images.extend(self.images.keys().cloned());
        }
        let nodes = Vec::from_iter(nodes);
        self.judge(&nodes, &images, now);
        self.dirty.places.extend(nodes);
    }

    /// Judges images on nodes, and counts them. Returns the nodes with any change.
    fn judge(&mut self, nodes: &[Name], images: &BTreeSet<Name>, now: Timestamp) -> Vec<Name> {
        let mut changed = Vec::new();
        for nodes in nodes.chunks(JUDGED_TOGETHER) {
            let asked = Asked::new(self, images);
            let entries = asked.group.images().iter().flatten().map(|known| known.entry);
            let nowhere = entries.filter(|entry| entry.is_nowhere());
            // These images have no target node, and their statuses explain that with some node as the example.
            let nowhere: Vec<Name> = nowhere.map(|entry| entry.image.name.clone()).collect();
            let judgements = nodes.iter().filter_map(|node| Some((node, self.judgement(node, &asked, now)?)));
            let judgements: Vec<(&Name, Judgement)> = judgements.collect();
            let names: Vec<&Name> = images.iter().collect();
            nowhere.iter().for_each(|name| self.outbox.note_image(name));
            let mut moves = vec![Moves::default(); images.len()];
            for (node, judgement) in judgements {
                if !judgement.changes.is_empty() {
                    changed.push(node.clone());
                }
                self.take_in(node, judgement, &names, &mut moves, now);
            }
            for (image, moves) in images.iter().zip(moves) {
                self.count(image, moves);
            }
        }
        changed
    }

    /// Returns how the images of `asked` stand on a node now.
    fn judgement<'a>(&'a self, node: &str, asked: &Asked<'a>, now: Timestamp) -> Option<Judgement> {
        let entry = self.nodes.get(node)?;
        let memory = self.memory_of(&entry.node);
        let images = asked.group.images();
        let index = entry.node.inventory.index(images.len());
        let found = asked.group.on(&index, memory);
        let node_failed_at = memory.and_then(Memory::node_failed_at);
        let mut judgement = Judgement::default();
        // The number of remembered images that may not be targets.
        let mut others = memory.map_or(0, |memory| memory.images.len());
        let mut is_target = false;
        let before = look_up(&entry.standings, &asked.names);
        let all = images.iter().zip(&found).zip(&asked.goes_with_last).zip(before);
        for (place, (((known, found), goes_with_last), before)) in all.enumerate() {
            if !goes_with_last {
                is_target = known.is_some_and(|known| known.entry.place_on(&entry.node).is_ok());
            }
            let after = known.as_ref().filter(|_| is_target).map(|known| {
                let evidence = self.evidence(entry, &index, known, *found, node_failed_at);
                if known.is_only && evidence.record.is_some_and(|record| record.unwanted_since.is_none()) {
                    others = others.saturating_sub(1);
                }
                let (standing, at) = standing(&evidence, now);
                judgement.again_at = at.into_iter().chain(judgement.again_at).min();
                standing
            });
            let before = before.copied();
            if before != after {
                judgement.changes.push(Change { place, before, after });
            }
        }
        // An image that was not a target may no longer be meant to be one.
        let is_wrong = |(known, found): (&Option<Known<'_>>, &Found<'_>)| {
            let known = known.zip(found.record);
            known.is_some_and(|(known, record)| record.unwanted_since.is_none() != known.entry.selects(&entry.node))
        };
        judgement.misremembers = others > 0 && images.iter().zip(&found).any(is_wrong);
        Some(judgement)
    }

    fn take_in(&mut self, node: &Name, judgement: Judgement, names: &[&Name], moves: &mut [Moves], now: Timestamp) {
        if let Some(at) = judgement.again_at {
            self.agenda.set_at_the_latest(Moment::Judgement(node.clone()), at);
        }
        // An eviction is recorded at once, because its repair waits for the record.
        match judgement.changes.iter().any(|change| change.after == Some(Standing::Evicted)) {
            true => self.outbox.note(EffectKey::Record(node.clone())),
            false if judgement.changes.is_empty() && !judgement.misremembers => {}
            false => self.cache_is_stale(node.clone(), now),
        }
        let Some(entry) = self.nodes.get_mut(node) else { return };
        let name_of = |change: &Change| names.get(change.place).map(|name| (*name).clone());
        if entry.standings.is_empty() {
            let all = judgement.changes.iter().filter_map(|change| Some((name_of(change)?, change.after?)));
            entry.standings = all.collect();
        } else {
            for change in &judgement.changes {
                match name_of(change).zip(change.after) {
                    Some((image, standing)) => drop(entry.standings.insert(image, standing)),
                    None => drop(name_of(change).and_then(|image| entry.standings.remove(&image))),
                }
            }
        }
        for change in judgement.changes {
            if let Some(moves) = moves.get_mut(change.place) {
                moves.add(change.before, change.after);
            }
        }
    }
}
