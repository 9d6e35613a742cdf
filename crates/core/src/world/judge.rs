//! How images stand on nodes, judged anew where that may have changed.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{ImageEntry, Known, Moment, Moves, World};
use crate::Name;
use crate::io::effect::EffectKey;
use crate::objects::memory::Memory;
use crate::objects::presence::{Standing, standing};
use crate::objects::reference::Reference;

/// On how many nodes images are judged before that is counted: it bounds the memory for it.
const JUDGED_TOGETHER: usize = 64;

/// An image that is to be judged, if it still is there.
struct Asked<'a> {
    entry: Option<&'a ImageEntry>,
    /// Found out for the first node that is a target.
    known: OnceCell<Known<'a>>,
}

impl<'a> Asked<'a> {
    fn new(entry: Option<&'a ImageEntry>) -> Self {
        Self { entry, known: OnceCell::new() }
    }
}

/// What was judged on one node.
#[derive(Default)]
struct Judgement {
    changes: Vec<Change>,
    /// When to judge again, if nothing happens before.
    again_at: Option<Timestamp>,
    /// Whether an image is remembered as wanted that is not meant for the node, or the reverse.
    misremembers: bool,
}

/// An image that stands otherwise than before.
struct Change {
    /// Its place among those that were asked for.
    place: usize,
    image: Name,
    before: Option<Standing>,
    after: Option<Standing>,
}

impl World {
    /// Derives anew which nodes are targets of which images, and how these stand there, where
    /// that may have changed.
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
                // News from elsewhere tells nothing new of what was never there.
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
            // Those that are gone are among the images that were placed.
            images.extend(self.images.keys().cloned());
        }
        let nodes = Vec::from_iter(nodes);
        self.judge(&nodes, &images, now);
        self.dirty.places.extend(nodes);
    }

    /// Judges images on nodes, and counts them. Returns the nodes where anything changed.
    fn judge(&mut self, nodes: &[Name], images: &BTreeSet<Name>, now: Timestamp) -> Vec<Name> {
        let mut changed = Vec::new();
        for nodes in nodes.chunks(JUDGED_TOGETHER) {
            let asked: Vec<Asked<'_>> = look_up(&self.images, images).into_iter().map(Asked::new).collect();
            let nowhere =
                images.iter().zip(&asked).filter(|(_, asked)| asked.entry.is_some_and(ImageEntry::is_nowhere));
            // Their statuses say why by the example of some node.
            let nowhere: Vec<Name> = nowhere.map(|(name, _)| name.clone()).collect();
            let judgements = nodes.iter().filter_map(|node| Some((node, self.judgement(node, images, &asked, now)?)));
            let judgements: Vec<(&Name, Judgement)> = judgements.collect();
            nowhere.iter().for_each(|name| self.outbox.note_image(name));
            let mut moves = vec![Moves::default(); images.len()];
            for (node, judgement) in judgements {
                if !judgement.changes.is_empty() {
                    changed.push(node.clone());
                }
                self.take_in(node, judgement, &mut moves, now);
            }
            for (image, moves) in images.iter().zip(moves) {
                self.count(image, moves);
            }
        }
        changed
    }

    /// How `images`, of which this is known, stand on a node now.
    fn judgement<'a>(
        &'a self,
        node: &str,
        images: &BTreeSet<Name>,
        asked: &[Asked<'a>],
        now: Timestamp,
    ) -> Option<Judgement> {
        let entry = self.nodes.get(node)?;
        let memory = self.memory_of(&entry.node);
        let index = entry.node.inventory.index(images.len());
        let mut judgement = Judgement::default();
        // How many images are remembered that may be no targets.
        let mut others = memory.map_or(0, |memory| memory.images.len());
        let before = look_up(&entry.standings, images);
        for (place, ((name, asked), before)) in images.iter().zip(asked).zip(before).enumerate() {
            let target = asked.entry.filter(|image| image.place_on(&entry.node).is_ok());
            let after = target.map(|image| {
                let known = asked.known.get_or_init(|| self.known(image));
                let evidence = self.evidence(entry, &index, known, memory);
                if known.is_only && evidence.record.is_some_and(|record| record.unwanted_since.is_none()) {
                    others = others.saturating_sub(1);
                }
                let (standing, at) = standing(&evidence, now);
                judgement.again_at = at.into_iter().chain(judgement.again_at).min();
                standing
            });
            let before = before.copied();
            if before != after {
                judgement.changes.push(Change { place, image: name.clone(), before, after });
            }
        }
        // What was no target may by now not even be meant to be one.
        let is_wrong = |image: &ImageEntry, memory: &Memory| {
            let record = memory.images.get(&image.image.reference);
            record.is_some_and(|record| record.unwanted_since.is_none() != image.selects(&entry.node))
        };
        judgement.misremembers = others > 0
            && memory.is_some_and(|memory| {
                asked.iter().filter_map(|asked| asked.entry).any(|image| is_wrong(image, memory))
            });
        Some(judgement)
    }

    fn take_in(&mut self, node: &Name, judgement: Judgement, moves: &mut [Moves], now: Timestamp) {
        if let Some(at) = judgement.again_at {
            self.agenda.set_at_the_latest(Moment::Judgement(node.clone()), at);
        }
        // An eviction is recorded at once, because its repair waits for that.
        match judgement.changes.iter().any(|change| change.after == Some(Standing::Evicted)) {
            true => self.outbox.note(EffectKey::Record(node.clone())),
            false if judgement.changes.is_empty() && !judgement.misremembers => {}
            false => self.cache_is_stale(node.clone(), now),
        }
        let Some(entry) = self.nodes.get_mut(node) else { return };
        for Change { place, image, before, after } in judgement.changes {
            match after {
                Some(standing) => entry.standings.insert(image, standing),
                None => entry.standings.remove(&image),
            };
            if let Some(moves) = moves.get_mut(place) {
                moves.add(before, after);
            }
        }
    }
}

/// How many times more entries a map may have than are looked up before it is searched for each.
const SPARSE: usize = 8;

/// What `map` has under each of `names`. Where many are asked for, by one walk through both.
fn look_up<'a, V>(map: &'a BTreeMap<Name, V>, names: &BTreeSet<Name>) -> Vec<Option<&'a V>> {
    if names.len() * SPARSE < map.len() {
        return names.iter().map(|name| map.get(name)).collect();
    }
    let mut entries = map.iter().peekable();
    let find = |name| {
        while entries.next_if(|(other, _)| *other < name).is_some() {}
        entries.next_if(|(other, _)| *other == name).map(|(_, value)| value)
    };
    names.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_in_any_map() {
        let names: BTreeSet<Name> = ["b", "d", "e"].map(Name::from).into();
        for keys in [&[][..], &["a"], &["d"], &["a", "b", "c", "e", "f"], &["c", "z"]] {
            let many = (0..100).map(|number| format!("a{number}"));
            let small: BTreeMap<Name, String> = keys.iter().map(|key| ((*key).into(), (*key).to_owned())).collect();
            let mut large = small.clone();
            large.extend(many.map(|key| (key.as_str().into(), key)));
            for map in [small, large] {
                let each: Vec<Option<&String>> = names.iter().map(|name| map.get(name)).collect();
                assert_eq!(look_up(&map, &names), each, "{keys:?}");
            }
        }
    }
}
