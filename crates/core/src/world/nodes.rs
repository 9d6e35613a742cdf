//! Nodes, and how images stand on them.

use std::collections::BTreeMap;
use std::ops::Bound;

use jiff::Timestamp;

use super::{ImageEntry, Moment, Moves, PodEntry, World};
use crate::Name;
use crate::io::effect::EffectKey;
use crate::look_up::look_up;
use crate::objects::node::{Node, Readiness};
use crate::objects::presence::Standing;
use crate::pace::order::Candidate;
use crate::time::after;

/// A node.
#[derive(Debug)]
pub(crate) struct NodeEntry {
    pub(crate) node: Node,
    /// How many images the node lists at least, if it has them. A shorter list is complete.
    pub(crate) full_list: usize,
    /// The standings of the images whose target it is.
    pub(crate) standings: BTreeMap<Name, Standing>,
    /// When this process first saw that its kubelet is lost. The control plane's time comes from another clock: if that
    /// were an hour ahead, a Pod would keep its slot for an hour longer.
    pub(crate) lost_since: Option<Timestamp>,
    /// The turns of pulls that go on here, by policy.
    pub(crate) turns: BTreeMap<Name, Turn>,
    /// When the last Pod whose pulls had not ended in time was gone from here; `None` once a Pod has pulled all of its
    /// images.
    pub(crate) hung_at: Option<Timestamp>,
    /// By policy, since when it has lacked images of that policy without having one of its Pods.
    pub(crate) waiting_since: BTreeMap<Name, Timestamp>,
    /// When the API server last refused a Pod with fresh pulls here, and one with late pulls.
    pub(crate) refused_at: Refusals,
    /// The reason of the last notice about it, until its NodeCache shows what the notice is about: a write that
    /// fails is tried again, and the notice is not.
    pub(crate) told: Option<String>,
    /// Its places in the queues, by policy.
    pub(super) places: Vec<(Name, Candidate)>,
}

/// When the API server last refused Pods on a node.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    pub(crate) fresh: Option<Timestamp>,
    pub(crate) late: Option<Timestamp>,
}

/// A node's run of pull Pods under one policy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) began_at: Timestamp,
    /// Whether the last Pod on the node was of another policy. Such a turn ends when another node begins one.
    is_interrupted: bool,
}

impl NodeEntry {
    /// Whether it could start pulls under a policy other than this one.
    pub(crate) fn waits_under_another(&self, policy: &Name) -> bool {
        self.places.iter().any(|(other, _)| other != policy)
    }

    /// Notes that a Pod has begun under `policy`, as a part of a turn that began at this time. A late Pod does not
    /// renew a turn that goes on: a node with retries would keep other nodes from their turns for ever.
    pub(super) fn pulls(&mut self, policy: &Name, began_turn_at: Timestamp, is_late: bool) {
        let known = self.turns.get(policy).filter(|_| is_late).map(|turn| turn.began_at);
        self.turns.values_mut().for_each(|turn| turn.is_interrupted = true);
        let turn = Turn { began_at: known.unwrap_or(began_turn_at), is_interrupted: false };
        self.turns.insert(policy.clone(), turn);
        self.waiting_since.remove(policy);
    }
}

impl World {
    pub(super) fn set_node(&mut self, mut node: Node, now: Timestamp) {
        let name = node.name.clone();
        // The clock that wrote it may be ahead.
        let known = self.nodes.get(&name).map(|entry| &entry.node).filter(|known| known.uid == node.uid);
        node.created_at = known.map_or(node.created_at.min(now), |known| known.created_at);
        for listed in node.inventory.images() {
            for image in &listed.names {
                if self.wanted.contains_key(image) {
                    self.note_size(image, &node.platform, listed.size);
                }
            }
        }
        let before = self.nodes.get(&name).filter(|entry| entry.node.uid == node.uid);
        let before = before.map(|entry| (&entry.node.inventory, entry.full_list));
        let full_list = node.inventory.shortest_full_list(before, self.settings.listed_images);
        let is_lost = node.readiness == Readiness::Lost;
        if !self.nodes.values().any(|entry| entry.node.platform == node.platform) {
            self.platform_appeared(&node.platform);
        }
        match self.nodes.get_mut(&name) {
            Some(entry) if entry.node == node => return,
            Some(entry) => {
                // Another machine under the same name starts anew.
                let is_another = entry.node.uid != node.uid;
                let lost_since = entry.lost_since.filter(|_| !is_another).unwrap_or(now);
                entry.lost_since = is_lost.then_some(lost_since);
                if is_another {
                    entry.turns.clear();
                    entry.hung_at = None;
                    entry.refused_at = Refusals::default();
                    entry.told = None;
                    self.starts.values_mut().for_each(|starts| starts.replace(&name));
                    self.dirty.caches.insert(name.clone());
                }
                if entry.node.platform != node.platform {
                    let concerned = self.lookups.keys().filter_map(|image| self.wanted.get(image));
                    self.dirty.images.extend(concerned.flatten().cloned());
                }
                let is_hindered = is_another || entry.node.readiness != node.readiness;
                entry.node = node;
                entry.full_list = full_list;
                if is_hindered {
                    self.hinder(&name);
                }
            }
            None => {
                let entry = NodeEntry {
                    node,
                    full_list,
                    lost_since: is_lost.then_some(now),
                    standings: BTreeMap::new(),
                    turns: BTreeMap::new(),
                    hung_at: None,
                    waiting_since: BTreeMap::new(),
                    refused_at: Refusals::default(),
                    told: None,
                    places: Vec::new(),
                };
                self.nodes.insert(name.clone(), entry);
                self.take_up_turns(&name, now);
                self.end_recorded_pulls(&name, now);
                self.dirty.caches.insert(name.clone());
            }
        }
        self.dirty.nodes.insert(name);
    }

    /// Ends the interrupted turns of a policy, because a turn has begun on `node`. Otherwise several nodes would go on
    /// with their turns side by side, without the delay between nodes.
    pub(super) fn end_interrupted_turns(&mut self, policy: &Name, node: &Name) {
        for (name, entry) in self.nodes.iter_mut().filter(|(name, _)| *name != node) {
            if entry.turns.get(policy).is_some_and(|turn| turn.is_interrupted) {
                entry.turns.remove(policy);
                self.dirty.places.insert(name.clone());
            }
        }
    }

    /// Records the turns of Pods that were known before their node.
    fn take_up_turns(&mut self, name: &Name, now: Timestamp) {
        let pods = self.pods_on.get(name).into_iter().flatten().filter_map(|pod| self.pods.get(pod));
        let Some(entry) = self.nodes.get_mut(name) else { return };
        for PodEntry { pod, is_late, .. } in pods.filter(|pod| pod.started_at.is_some()) {
            if pod.node_uid == entry.node.uid {
                entry.pulls(&pod.policy, pod.turn_began_at(now), *is_late);
            }
        }
    }

    /// Marks what may follow when a node's pulls wait for another reason than before.
    pub(super) fn hinder(&mut self, node: &Name) {
        let standings = self.nodes.get(node).into_iter().flat_map(|entry| &entry.standings);
        for (image, _) in standings.filter(|(_, standing)| !standing.is_there()) {
            self.outbox.note_image(image);
            // Whether the node counts as one that could try a registry may have changed.
            self.images.get(image).into_iter().for_each(|entry| self.dirty.note_host(&entry.image.reference));
        }
    }

    /// Returns when the Pods of a node whose kubelet is lost are deleted by force.
    pub(crate) fn lost_at(&self, node: &NodeEntry) -> Option<Timestamp> {
        Some(after(node.lost_since?, self.settings.lost_within))
    }

    /// Returns how an image stands on a node; `None` if the node is not a target.
    pub(crate) fn standing_on(&self, node: &str, image: &str) -> Option<Standing> {
        self.nodes.get(node)?.standings.get(image).copied()
    }

    pub(super) fn remove_node(&mut self, name: &Name) {
        let Some(entry) = self.nodes.remove(name) else { return };
        self.starts.values_mut().for_each(|starts| starts.replace(name));
        self.leave_queues(&entry.places);
        self.agenda.cancel(&Moment::Places(name.clone()));
        self.agenda.cancel(&Moment::Judgement(name.clone()));
        for (image, standing) in entry.standings {
            let mut moves = Moves::default();
            moves.add(Some(standing), None);
            self.count(&image, moves);
        }
        let nowhere = self.images.iter().filter(|(_, entry)| entry.is_nowhere());
        nowhere.for_each(|(image, _)| self.outbox.note_image(image));
        let key = EffectKey::Record(name.clone());
        self.outbox.remove(&key);
        self.overtake(&key);
    }

    /// The node called `name`.
    pub(crate) fn node(&self, name: &str) -> Option<&NodeEntry> {
        self.nodes.get(name)
    }

    /// Every node, by name.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &NodeEntry> {
        self.nodes.values()
    }

    /// Returns the nodes whose names come after `name`; all of them if `name` is `None`.
    pub(crate) fn nodes_after(&self, name: Option<&Name>) -> impl Iterator<Item = &NodeEntry> {
        let after = name.map_or(Bound::Unbounded, Bound::Excluded);
        self.nodes.range::<Name, _>((after, Bound::Unbounded)).map(|(_, entry)| entry)
    }

    /// Returns the images that a node is a target of, if `is_meant` holds for their standing there.
    pub(crate) fn images_on(
        &self,
        node: &NodeEntry,
        is_meant: impl Fn(Standing) -> bool,
    ) -> impl Iterator<Item = (&ImageEntry, Standing)> {
        let meant = node.standings.iter().filter(|(_, standing)| is_meant(**standing));
        let (names, standings): (Vec<&Name>, Vec<Standing>) = meant.map(|(name, standing)| (name, *standing)).unzip();
        let images = look_up(&self.images, &names).into_iter().zip(standings);
        images.filter_map(|(image, standing)| Some((image?, standing)))
    }

    /// Returns the number of nodes.
    pub(crate) fn number_of_nodes(&self) -> usize {
        self.nodes.len()
    }
}
