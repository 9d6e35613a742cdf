//! What the watches have told, and what follows from it.
//!
//! The facts are kept as they come. What is derived from them (who is where,
//! who comes next, how an image fares) is brought up to date by
//! [`World::settle`], for the nodes and images that an event concerns only.

pub(crate) mod breaker;
mod derived;
mod discoveries;
mod facts;
pub(crate) mod health;
mod judge;
mod lines;
mod on_node;
pub(crate) mod published;
mod reports;
mod sets;
mod sightings;
mod stale;
mod tally;

use std::collections::{BTreeMap, BTreeSet};

use drop_api::{CachedImageSetStatus, CachedImageStatus, NodeCache, PullPolicyStatus};
use jiff::Timestamp;

use crate::Name;
use crate::interner::Texts;
use crate::io::effect::{Effect, EffectKey, PodOrder};
use crate::io::event::{Event, Kind};
use crate::io::flights::Flight;
use crate::io::plan::Plan;
use crate::objects::image::Image;
use crate::objects::image_set::{ImageSet, Members};
use crate::objects::memory::{Failure, Memory};
use crate::objects::node::{Node, Readiness};
use crate::objects::placement::{NotATarget, Placement};
use crate::objects::policy::{BUILT_IN, Policy};
use crate::objects::presence::Standing;
use crate::objects::pull_pod::{PullPod, Steps};
use crate::objects::reference::Reference;
use crate::pace::order::Candidate;
use crate::pace::starts::Starts;
use crate::settings::Settings;
use crate::time::after;
use breaker::Registry;
use health::Health;

pub(crate) use discoveries::DiscoveryEntry;
pub(crate) use lines::Places;
pub(crate) use on_node::OnNode;
pub(crate) use published::{Published, is_news};
pub(crate) use sightings::Known;
use stale::Stale;
pub(crate) use tally::{Moves, Tally};

/// Everything that planning knows.
#[derive(Debug)]
pub struct World {
    pub(crate) settings: Settings,
    /// Kinds that have not been listed yet.
    pub(crate) unsynced: BTreeSet<Kind>,
    pub(crate) images: BTreeMap<Name, ImageEntry>,
    pub(crate) sets: BTreeMap<Name, SetEntry>,
    pub(crate) discoveries: BTreeMap<Name, DiscoveryEntry>,
    /// Per Secret of the pod namespace its version.
    secrets: BTreeMap<Name, Name>,
    pub(crate) policies: BTreeMap<Name, PolicyEntry>,
    pub(crate) nodes: BTreeMap<Name, NodeEntry>,
    pub(crate) caches: BTreeMap<Name, CacheEntry>,
    pub(crate) pods: BTreeMap<Name, PodEntry>,

    /// Per UID of a CachedImageSet the CachedImages that it owns.
    pub(crate) children: BTreeMap<Name, BTreeSet<Name>>,
    /// Per name of a CachedImage the set that asks for it.
    pub(crate) asked_by: BTreeMap<Name, Name>,
    /// Per name of a CachedImage the UID of the one that was deleted, until the watch shows that.
    deleted: BTreeMap<Name, Name>,
    /// Per image the CachedImages that want it.
    pub(crate) wanted: BTreeMap<Reference, BTreeSet<Name>>,
    /// Per node its pull Pods; there is more than one only by accident.
    pub(crate) pods_on: BTreeMap<Name, BTreeSet<Name>>,
    /// Per image the nodes that are pulling it, or are through with it and that is
    /// not recorded yet.
    pub(crate) pulling: BTreeMap<Reference, BTreeSet<Name>>,
    /// Nodes whose own last failure has not been overcome.
    pub(crate) troubled: BTreeMap<Name, Failure>,
    /// Per image how it fares.
    pub(crate) health: BTreeMap<Reference, Health>,
    /// Per host how its registry fares.
    pub(crate) registries: BTreeMap<Name, Registry>,
    /// Per wanted image and platform the least size in bytes with which a node has listed it.
    pub(crate) sizes: BTreeMap<Reference, BTreeMap<Name, u64>>,
    /// Per policy the nodes that could start a pull now.
    pub(crate) queues: BTreeMap<Name, BTreeSet<Candidate>>,
    /// When a node's place in the queues has to be looked at again.
    pub(crate) alarms: BTreeSet<(Timestamp, Name)>,
    /// When images on a node have to be judged anew, or unwanted ones forgotten, although nothing happened.
    pub(crate) judgements: BTreeSet<(Timestamp, Name)>,
    /// Per policy when it last started pulls; kept when it goes, because it may be
    /// there again before the delay has passed.
    pub(crate) starts: BTreeMap<Name, Starts>,
    /// What memories are made of.
    texts: Texts,
    /// Sets of which CachedImages were being created when this was last derived.
    filling: BTreeSet<Name>,
    /// Effects that are under way or failed.
    pub(crate) flights: BTreeMap<EffectKey, Flight>,

    /// Objects whose written state may differ from what it should be.
    pub(crate) stale: Writes,
    dirty: Dirty,
}

/// A CachedImage.
#[derive(Debug)]
pub(crate) struct ImageEntry {
    pub(crate) image: Image,
    /// What the image and its policy ask of nodes; `None` where the policy is missing.
    pub(crate) placement: Option<Placement>,
    pub(crate) tally: Tally,
    /// Its place among the images of its set; the first is pulled first.
    pub(crate) rank: usize,
    /// Set while the API server refuses its Pods.
    pub(crate) refused: Option<Refused>,
    /// Whether it or its registry fails, so that one node at a time tries it.
    pub(crate) is_probed: bool,
    /// Whether it fails on some node, and none has pulled it since.
    pub(crate) is_doubted: bool,
    /// When this process first saw it.
    pub(crate) seen_at: Timestamp,
    /// When its spec last changed while this process watched.
    pub(crate) edited_at: Option<Timestamp>,
    pub(crate) published: Published<CachedImageStatus>,
}

/// A CachedImageSet.
#[derive(Debug)]
pub(crate) struct SetEntry {
    pub(crate) set: ImageSet,
    /// What it asks for.
    pub(crate) members: Members,
    pub(crate) published: Published<CachedImageSetStatus>,
}

/// A PullPolicy.
#[derive(Debug)]
pub(crate) struct PolicyEntry {
    pub(crate) policy: Policy,
    pub(crate) published: Published<PullPolicyStatus>,
}

/// A node.
#[derive(Debug)]
pub(crate) struct NodeEntry {
    pub(crate) node: Node,
    /// How many images the node lists at least, if it has them: a shorter list is complete.
    pub(crate) full_list: usize,
    /// The images that it is a target of.
    pub(crate) standings: BTreeMap<Name, Standing>,
    /// The policy whose turn of pulls is going on here.
    pub(crate) turn: Option<Name>,
    /// When the last Pod was gone here whose pulls had not come to their end in time; `None` once a Pod
    /// has pulled all of its images.
    pub(crate) hung_at: Option<Timestamp>,
    /// Since when it has missed images without a Pod that pulls.
    pub(crate) waiting_since: Option<Timestamp>,
    /// Its places in the queues, by policy.
    places: Vec<(Name, Candidate)>,
    /// Its entry among the alarms.
    alarm: Option<Timestamp>,
}

/// The API server refused a Pod.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) count: u32,
    pub(crate) until: Timestamp,
    pub(crate) message: Name,
}

/// A NodeCache.
#[derive(Debug)]
pub(crate) struct CacheEntry {
    pub(crate) memory: Memory,
    /// The object as it was last seen or written, without what is in `memory`.
    pub(crate) object: NodeCache,
    /// Whether the watch has shown it: a list that lacks it then means that it is gone.
    seen: bool,
}

/// A pull Pod.
#[derive(Debug)]
pub(crate) struct PodEntry {
    pub(crate) pod: PullPod,
    pub(crate) stage: Stage,
    /// When it was started: the latest possible moment, so that no delay
    /// measured from it is too short. `None` while that is not known.
    pub(crate) started_at: Option<Timestamp>,
    /// Whether it began a turn of its node.
    pub(crate) begins_turn: bool,
    /// When it was seen to take each step.
    pub(crate) steps: Steps,
    /// Whether its outcome has been recorded.
    pub(crate) recorded: bool,
    /// Whether this process asked for it with other than fresh pulls.
    pub(crate) is_late: bool,
}

/// How sure it is that a Pod exists.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Its creation was asked for.
    Requested(Box<PodOrder>),
    /// The API server said, then, that it is there; the watch has not shown it.
    Created(Timestamp),
    /// The watch has shown it.
    Observed,
    /// Somebody else has deleted it: it stays until that is recorded.
    Gone,
}

/// What may have to be written.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    pub(crate) images: Stale,
    /// CachedImageSets, for their CachedImages too.
    pub(crate) sets: BTreeSet<Name>,
    pub(crate) policies: Stale,
    /// Nodes, for their NodeCaches.
    pub(crate) caches: Stale,
}

/// What [`World::settle`] has to look at.
#[derive(Debug, Default)]
struct Dirty {
    /// Sets that may ask for other images.
    sets: BTreeSet<Name>,
    /// Images whose placement, place in the queues and standings may have changed.
    images: BTreeSet<Name>,
    /// Images of which something is known that may change their standings.
    standings: BTreeSet<Name>,
    /// Nodes on which every image is to be judged.
    nodes: BTreeSet<Name>,
    /// Per node the images that are to be judged there.
    pairs: BTreeMap<Name, BTreeSet<Name>>,
    /// Nodes whose places in the queues may have changed.
    places: BTreeSet<Name>,
    /// Nodes whose NodeCaches may have to be written.
    caches: BTreeSet<Name>,
}

impl World {
    /// An empty world, in which every kind still has to be listed.
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
            troubled: BTreeMap::new(),
            health: BTreeMap::new(),
            registries: BTreeMap::new(),
            sizes: BTreeMap::new(),
            queues: BTreeMap::new(),
            alarms: BTreeSet::new(),
            judgements: BTreeSet::new(),
            starts: BTreeMap::new(),
            texts: Texts::default(),
            filling: BTreeSet::new(),
            flights: BTreeMap::new(),
            stale: Writes::default(),
            dirty: Dirty::default(),
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

    /// Takes in one event.
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

    /// Takes the plan's effects as done, until their reports come.
    pub fn commit(&mut self, plan: &Plan, now: Timestamp) {
        // With every Pod's step, to look again would be work for nothing.
        let held_until = after(now, self.settings.status_interval);
        self.stale.images.looked_at(&plan.images, held_until);
        self.stale.policies.looked_at(&plan.policies, held_until);
        for set in &plan.clean.sets {
            self.stale.sets.remove(set);
        }
        for key in &plan.clean.flights {
            self.flights.remove(key);
        }
        for cache in &plan.clean.caches {
            self.stale.caches.remove(cache);
        }
        for effect in &plan.effects {
            let flight = self.flights.entry(effect.key()).or_default();
            flight.not_before = None;
            flight.is_overtaken = false;
            match effect {
                Effect::CreatePod(order) => self.expect_pod(order, now),
                Effect::PatchImage { image, status } => {
                    if let Some(entry) = self.images.get_mut(image) {
                        let is_news = is_news(&entry.published.status.conditions, &status.conditions);
                        entry.published.write(status, is_news, now);
                        self.stale.sets.extend(entry.image.set.as_ref().map(|set| set.name.clone()));
                    }
                }
                Effect::PatchSet { set, status } => {
                    if let Some(entry) = self.sets.get_mut(set) {
                        let is_news = is_news(&entry.published.status.conditions, &status.conditions);
                        entry.published.write(status, is_news, now);
                    }
                }
                Effect::Discover(order) => {
                    if let Some(entry) = self.discoveries.get_mut(&order.policy) {
                        entry.next_at = None;
                    }
                }
                Effect::PatchDiscovery { policy, status } => {
                    if let Some(entry) = self.discoveries.get_mut(policy) {
                        entry.published.write(status, true, now);
                        self.discovery_changed(policy);
                    }
                }
                Effect::PatchPolicy { policy, status } => {
                    if let Some(entry) = self.policies.get_mut(policy) {
                        let is_news = is_news(&entry.published.status.conditions, &status.conditions);
                        entry.published.write(status, is_news, now);
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

    /// Brings everything up to date that follows from facts alone, as of `now`.
    pub(crate) fn derive(&mut self, now: Timestamp) {
        while let Some((at, node)) = self.alarms.first().cloned() {
            if at > now {
                break;
            }
            self.alarms.pop_first();
            if let Some(entry) = self.nodes.get_mut(&node) {
                entry.alarm = None;
            }
            self.dirty.places.insert(node);
        }
        while let Some((at, node)) = self.judgements.first().cloned() {
            if at > now {
                break;
            }
            self.judgements.pop_first();
            let forgets_at = self.caches.get(&node).and_then(|cache| cache.memory.forgets_at());
            if forgets_at.is_some_and(|at| at <= now) {
                self.dirty.caches.insert(node.clone());
            }
            self.dirty.nodes.insert(node);
        }
        for set in std::mem::take(&mut self.dirty.sets) {
            self.gather(&set);
        }
        let filling: BTreeSet<Name> =
            self.flights.iter().filter_map(|(key, flight)| flight.fills(key)).cloned().collect();
        let before = std::mem::replace(&mut self.filling, filling.clone());
        before.symmetric_difference(&filling).for_each(|set| self.filling_changed(set));
        self.judge_all(now);
        for node in std::mem::take(&mut self.dirty.caches) {
            if self.nodes.contains_key(&node) {
                self.cache_is_stale(node, now);
            }
        }
    }

    // ---- What is asked of a world while planning ----------------------------

    /// The image's policy, if it exists.
    pub(crate) fn policy_of(&self, image: &Image) -> Option<&Policy> {
        self.policies.get(&image.policy).map(|entry| &entry.policy)
    }

    /// The policy called `name`, or the built-in one where that is gone: for Pods
    /// that outlive their policy.
    pub(crate) fn policy_or_built_in(&self, name: &str) -> Option<&Policy> {
        self.policies.get(name).or_else(|| self.policies.get(BUILT_IN)).map(|entry| &entry.policy)
    }

    /// What is remembered of a node, unless it is of another machine.
    pub(crate) fn memory_of(&self, node: &Node) -> Option<&Memory> {
        let cache = self.caches.get(&node.name)?;
        (*cache.object.spec.node_uid == *node.uid).then_some(&cache.memory)
    }

    /// Whether the Pod's outcome is in its node's memory, or was.
    pub(crate) fn is_recorded(&self, entry: &PodEntry) -> bool {
        let pod = &entry.pod;
        let memory = self.nodes.get(&pod.node).and_then(|node| self.memory_of(&node.node));
        entry.recorded || memory.is_some_and(|memory| memory.last_pod.is_some() && memory.last_pod == pod.uid)
    }

    /// Whether any image of the Pod is wanted.
    pub(crate) fn wants(&self, pod: &PullPod) -> bool {
        pod.containers.iter().any(|container| self.wanted.contains_key(&container.image))
    }

    /// One of the node's pull Pods.
    pub(crate) fn pod_on(&self, node: &str) -> Option<&PodEntry> {
        let name = self.pods_on.get(node)?.first()?;
        self.pods.get(name)
    }

    /// When the Pods of a node whose kubelet is lost are deleted by force.
    pub(crate) fn lost_at(&self, node: &Node) -> Option<Timestamp> {
        match node.readiness {
            Readiness::Lost { since } => Some(after(since, self.settings.lost_within)),
            Readiness::Ready | Readiness::NotReady { .. } => None,
        }
    }

    /// Whether some CachedImage wants `image` on `node`, or would if the node were
    /// healthy.
    pub(crate) fn is_meant_for(&self, image: &Reference, node: &Node) -> bool {
        let wanted_by = self.wanted.get(image).into_iter().flatten();
        wanted_by.filter_map(|name| self.images.get(name)).any(|entry| entry.selects(node))
    }

    /// The effects about a set's CachedImages that are under way or failed.
    pub(crate) fn flights_of<'a>(&'a self, set: &'a Name) -> impl Iterator<Item = (&'a EffectKey, &'a Flight)> {
        let first = EffectKey::Child { set: set.clone(), child: "".into() };
        self.flights
            .range(first..)
            .take_while(move |(key, _)| matches!(key, EffectKey::Child { set: of, .. } if of == set))
    }

    /// Whether CachedImages of a set are being created.
    pub(crate) fn is_being_filled(&self, set: &Name) -> bool {
        self.flights_of(set).any(|(key, flight)| flight.fills(key).is_some())
    }

    /// Whether an effect about `key` may be issued at `now`.
    pub(crate) fn is_free(&self, key: &EffectKey, now: Timestamp) -> bool {
        self.flights.get(key).is_none_or(|flight| flight.not_before.is_some_and(|at| at <= now))
    }
}

impl ImageEntry {
    /// Whether no node is a target.
    fn is_nowhere(&self) -> bool {
        self.tally.targeted() == 0
    }

    /// Whether the image is to be on `node`.
    pub(crate) fn place_on<'a>(&'a self, node: &'a Node) -> Result<(), NotATarget<'a>> {
        // An image whose policy is missing still has its targets: they wait.
        self.placement.as_ref().unwrap_or(&self.image.placement).check(node)
    }

    /// Whether the image is meant for `node`, healthy or not.
    pub(crate) fn selects(&self, node: &Node) -> bool {
        self.placement.as_ref().unwrap_or(&self.image.placement).selects(node).is_ok()
    }
}
