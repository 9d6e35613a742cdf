//! The facts that the watches have shown, and the state that is derived from them.
//!
//! The facts are kept unchanged. [`World::settle`] updates the derived state (which images are on which nodes, which
//! node is next, how an image fares), only for the nodes and images that an event affects.

mod agenda;
pub(crate) mod breaker;
mod caches;
mod discoveries;
pub(crate) mod health;
mod images;
mod judge;
mod lines;
mod lookups;
mod nodes;
mod on_node;
mod outbox;
mod pods;
mod policies;
pub(crate) mod published;
mod reports;
mod sets;
mod sightings;
mod tally;

use std::collections::{BTreeMap, BTreeSet};

use drop_api::PullPolicyStatus;
use jiff::Timestamp;

use crate::Name;
use crate::interner::Texts;
use crate::io::effect::{Effect, EffectKey};
use crate::io::event::{Event, Kind};
use crate::io::flights::Flight;
use crate::io::notice;
use crate::io::plan::Plan;
use crate::objects::policy::{BUILT_IN, Policy};
use crate::objects::reference::Reference;
use crate::pace::order::Candidate;
use crate::pace::starts::Starts;
use crate::settings::Settings;
use agenda::Agenda;
use breaker::Registry;
use health::Health;
use outbox::Outbox;

pub(crate) use caches::CacheEntry;
pub(crate) use discoveries::DiscoveryEntry;
pub(crate) use images::{ImageEntry, Refused};
pub(crate) use lines::Places;
pub(crate) use lookups::Lookup;
pub(crate) use nodes::NodeEntry;
pub(crate) use on_node::{LONG_WAIT, OnNode};
pub(crate) use pods::{PodEntry, Stage};
pub(crate) use policies::PolicyEntry;
pub(crate) use published::{Published, Status};
pub(crate) use sets::SetEntry;
pub(crate) use sightings::Group;
pub(crate) use tally::{Moves, Tally};

/// Everything that planning knows.
#[derive(Debug)]
pub struct World {
    settings: Settings,
    /// Kinds that have not been listed yet.
    unsynced: BTreeSet<Kind>,
    images: BTreeMap<Name, ImageEntry>,
    sets: BTreeMap<Name, SetEntry>,
    discoveries: BTreeMap<Name, DiscoveryEntry>,
    /// The version of each Secret of the pod namespace.
    secrets: BTreeMap<Name, Name>,
    policies: BTreeMap<Name, PolicyEntry>,
    nodes: BTreeMap<Name, NodeEntry>,
    caches: BTreeMap<Name, CacheEntry>,
    pods: BTreeMap<Name, PodEntry>,

    /// By the UID of a CachedImageSet, the CachedImages that it owns.
    children: BTreeMap<Name, BTreeSet<Name>>,
    /// By the name of a CachedImage, the set that asks for it.
    asked_by: BTreeMap<Name, Name>,
    /// By the name of a CachedImage, the UID of the deleted object, until the watch shows the deletion.
    deleted: BTreeMap<Name, Name>,
    /// Per image the CachedImages that want it.
    wanted: BTreeMap<Reference, BTreeSet<Name>>,
    /// Per node its pull Pods; there is more than one only by accident.
    pods_on: BTreeMap<Name, BTreeSet<Name>>,
    /// Per image, the nodes that are pulling it, or whose pull has ended and is not recorded yet.
    pulling: BTreeMap<Reference, BTreeSet<Name>>,
    /// Per image how it fares.
    health: BTreeMap<Reference, Health>,
    /// The look-up of each wanted image whose registry is asked.
    lookups: BTreeMap<Reference, Lookup>,
    /// Whether this replica asks registries: it leads, and every kind is synced.
    asks: bool,
    /// Per host how its registry fares.
    registries: BTreeMap<Name, Registry>,
    /// Per wanted image and platform the least size in bytes with which a node has listed it.
    sizes: BTreeMap<Reference, BTreeMap<Name, u64>>,
    /// Per policy the nodes that could start a pull now.
    queues: BTreeMap<Name, BTreeSet<Candidate>>,
    /// Per policy, when it last started pulls. The entry stays when the policy is deleted, because the policy may be
    /// created again before the delay has passed.
    starts: BTreeMap<Name, Starts>,
    /// The texts that memories share.
    texts: Texts,
    /// Sets whose CachedImages were being created when this was last derived.
    filling: BTreeSet<Name>,
    /// Effects that are under way or failed.
    flights: BTreeMap<EffectKey, Flight>,

    /// The objects that may need a write.
    outbox: Outbox,
    /// The objects that the next [`World::settle`] must examine.
    dirty: Dirty,
    /// The steps of [`World::settle`] that are due at a certain time.
    agenda: Agenda<Moment>,
}

/// A step of [`World::settle`] at a certain time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    /// Looks at a node's places in the queues.
    Places(Name),
    /// Judges the images on a node.
    Judgement(Name),
    /// Forgets images of a node that have been unwanted for long.
    Forgetting(Name),
    /// Forgets when deleted policies last started pulls.
    Starts,
}

/// The objects that [`World::settle`] has to examine.
#[derive(Debug, Default)]
struct Dirty {
    /// References whose look-ups may have to begin or end.
    lookups: BTreeSet<Reference>,
    /// Hosts whose registries may have to be paused or resumed.
    hosts: BTreeSet<Name>,
    /// Sets that may ask for different images.
    sets: BTreeSet<Name>,
    /// Images whose placement, place in the queues and standings may have changed.
    images: BTreeSet<Name>,
    /// Images with news that may change their standings.
    standings: BTreeSet<Name>,
    /// Nodes on which every image has to be judged.
    nodes: BTreeSet<Name>,
    /// Per node, the images that have to be judged there.
    pairs: BTreeMap<Name, BTreeSet<Name>>,
    /// Nodes whose places in the queues may have changed.
    places: BTreeSet<Name>,
    /// Nodes whose NodeCaches may need a write.
    caches: BTreeSet<Name>,
}

impl Dirty {
    /// Notes that different nodes may now lack an image of this host.
    fn note_host(&mut self, image: &Reference) {
        if !self.hosts.contains(image.host()) {
            self.hosts.insert(image.host().into());
        }
    }
}

impl World {
    /// Makes an empty world, in which every kind still has to be listed.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let built_in = Policy::new(BUILT_IN.into(), None, &settings.built_in_policy);
        let published = Published::new(PullPolicyStatus::default());
        Self {
            settings,
            unsynced: Kind::ALL.into(),
            images: BTreeMap::new(),
            sets: BTreeMap::new(),
            discoveries: BTreeMap::new(),
            secrets: BTreeMap::new(),
            policies: [(BUILT_IN.into(), PolicyEntry { policy: built_in, published })].into(),
            nodes: BTreeMap::new(),
            caches: BTreeMap::new(),
            pods: BTreeMap::new(),
            children: BTreeMap::new(),
            asked_by: BTreeMap::new(),
            deleted: BTreeMap::new(),
            wanted: BTreeMap::new(),
            pods_on: BTreeMap::new(),
            pulling: BTreeMap::new(),
            health: BTreeMap::new(),
            lookups: BTreeMap::new(),
            asks: false,
            registries: BTreeMap::new(),
            sizes: BTreeMap::new(),
            queues: BTreeMap::new(),
            starts: BTreeMap::new(),
            texts: Texts::default(),
            filling: BTreeSet::new(),
            flights: BTreeMap::new(),
            outbox: Outbox::default(),
            dirty: Dirty::default(),
            agenda: Agenda::default(),
        }
    }

    /// Whether every kind has been listed, so that planning may begin.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.unsynced.is_empty()
    }

    /// Holds planning until these kinds have been listed again.
    pub fn expect_lists(&mut self, kinds: &[Kind]) {
        self.unsynced.extend(kinds);
    }

    /// Records one event.
    pub fn apply(&mut self, event: Event, now: Timestamp) {
        match event {
            Event::Image(image, _) if self.deleted.get(&image.name) == Some(&image.uid) => {}
            Event::Image(image, status) => self.set_image(*image, Some(*status), now),
            Event::Set(set, status) => self.set_set(*set, *status),
            Event::Discovery(policy) => self.set_discovery(*policy, now),
            Event::Secret(name, version) => self.set_secret(name, version),
            Event::Policy(policy, status) => self.set_policy(*policy, *status),
            Event::Node(node) => self.set_node(*node, now),
            Event::Pod(pod) => self.set_pod(*pod, now),
            Event::Cache(object) => self.set_cache(*object, true, now),
            Event::Gone(Kind::Pod, name) => self.pod_gone(&name, now),
            Event::Gone(kind, name) => self.remove(kind, &name, now),
            Event::Listed(kind, names) => {
                for gone in self.names(kind) {
                    if !names.contains(&gone) {
                        self.remove(kind, &gone, now);
                    }
                }
                if kind == Kind::Image {
                    self.deleted.retain(|name, _| names.contains(name));
                }
                self.unsynced.remove(&kind);
            }
            Event::Report(key, report) => self.report(key, report, now),
        }
    }

    /// Returns the names of all objects of a kind that a list of it would show.
    fn names(&self, kind: Kind) -> Vec<Name> {
        match kind {
            Kind::Image => self.images.keys().cloned().collect(),
            Kind::Set => self.sets.keys().cloned().collect(),
            Kind::Discovery => self.discoveries.keys().cloned().collect(),
            Kind::Secret => self.secrets.keys().cloned().collect(),
            Kind::Policy => self.policies.keys().filter(|name| &***name != BUILT_IN).cloned().collect(),
            Kind::Node => self.nodes.keys().cloned().collect(),
            // A Pod that the watch has not shown yet may be newer than the list.
            Kind::Pod => self
                .pods
                .iter()
                .filter(|(_, entry)| matches!(entry.stage, Stage::Observed | Stage::Gone))
                .map(|(name, _)| name.clone())
                .collect(),
            Kind::Cache => self.caches.iter().filter(|(_, entry)| entry.seen).map(|(name, _)| name.clone()).collect(),
        }
    }

    fn remove(&mut self, kind: Kind, name: &Name, now: Timestamp) {
        match kind {
            Kind::Image => self.remove_image(name),
            Kind::Set => self.remove_set(name),
            Kind::Discovery => self.remove_discovery(name),
            Kind::Secret => self.remove_secret(name),
            Kind::Policy => self.remove_policy(name, now),
            Kind::Node => self.remove_node(name),
            Kind::Pod => self.remove_pod(name, now),
            Kind::Cache => self.remove_cache(name, now),
        }
    }

    /// Treats the plan's effects as done, until their reports come.
    pub fn commit(&mut self, plan: &Plan, now: Timestamp) {
        self.looked_at(&plan.looks, now);
        for key in &plan.dropped {
            self.flights.remove(key);
        }
        for effect in &plan.effects {
            let flight = self.flights.entry(effect.key()).or_default();
            flight.not_before = None;
            flight.is_overtaken = false;
            match effect {
                Effect::CreatePod(order) => self.expect_pod(order, now),
                Effect::PatchImage { image, status } => {
                    if let Some(entry) = self.images.get_mut(image) {
                        entry.published.write(status, now);
                        entry.image.set.iter().for_each(|set| self.outbox.note_set(&set.name));
                    }
                }
                Effect::PatchSet { set, status } => {
                    if let Some(entry) = self.sets.get_mut(set) {
                        entry.published.write(status, now);
                    }
                }
                Effect::Discover(_) | Effect::LookUp(_) => self.outbox.remove(&effect.key()),
                Effect::PatchDiscovery { policy, status } => {
                    if let Some(entry) = self.discoveries.get_mut(policy) {
                        entry.published.write(status, now);
                        self.discovery_changed(policy);
                    }
                }
                Effect::PatchPolicy { policy, status } => {
                    if let Some(entry) = self.policies.get_mut(policy) {
                        entry.published.write(status, now);
                    }
                }
                Effect::Tell(notice) if notice.kind == notice::NODE => {
                    if let Some(node) = self.nodes.get_mut(&notice.name) {
                        node.told = Some(notice.reason.clone());
                    }
                }
                Effect::DeletePod { .. }
                | Effect::CheckPod { .. }
                | Effect::RecordNode { .. }
                | Effect::CreateChild { .. }
                | Effect::UpdateChild { .. }
                | Effect::DeleteChild { .. }
                | Effect::Tell(_) => {}
            }
        }
    }

    /// Updates the state that follows from facts alone, as of `now`.
    pub(crate) fn derive(&mut self, now: Timestamp) {
        while let Some(moment) = self.agenda.pop_due(now) {
            match moment {
                Moment::Places(node) => drop(self.dirty.places.insert(node)),
                Moment::Judgement(node) => drop(self.dirty.nodes.insert(node)),
                Moment::Starts => self.forget_starts(now),
                Moment::Forgetting(node) => {
                    self.dirty.caches.insert(node.clone());
                    self.dirty.nodes.insert(node);
                }
            }
        }
        for set in std::mem::take(&mut self.dirty.sets) {
            self.gather(&set);
        }
        let references = std::mem::take(&mut self.dirty.lookups);
        self.choose_lookups(references, now);
        let filling: BTreeSet<Name> =
            self.flights_of_sets().filter_map(|(key, flight)| flight.fills(key)).cloned().collect();
        let before = std::mem::replace(&mut self.filling, filling.clone());
        before.symmetric_difference(&filling).for_each(|set| self.filling_changed(set));
        self.judge_all(now);
        // Only now is it known which nodes could probe a registry. Images of a paused registry are judged differently.
        if self.judge_registries() {
            self.judge_all(now);
        }
        for node in std::mem::take(&mut self.dirty.caches) {
            if self.nodes.contains_key(&node) {
                self.cache_is_stale(node, now);
            }
        }
    }

    /// Drop's own time constants.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }
}
