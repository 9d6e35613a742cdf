//! What the watches have told, and what follows from it.
//!
//! The facts are kept as they come. What is derived from them (who is where,
//! who comes next, how an image fares) is brought up to date by
//! [`World::settle`], for the nodes and images that an event concerns only.

mod derived;
mod discoveries;
mod facts;
mod judge;
mod on_node;
mod reports;
mod sets;
mod stale;

use std::collections::{BTreeMap, BTreeSet};

use drop_api::pull_policy::HostNetwork;
use drop_api::{CachedImageSetStatus, CachedImageStatus, NodeCache, PullPolicyStatus};
use jiff::{SignedDuration, Timestamp};

use crate::Name;
use crate::backoff::Backoff;
use crate::budget::Starts;
use crate::effect::{Effect, EffectKey, PodOrder};
use crate::event::{Event, Kind};
use crate::health::Health;
use crate::image::Image;
use crate::image_set::{ImageSet, Members};
use crate::interner::Texts;
use crate::inventory::{Index, Sighting};
use crate::memory::{Failure, Memory, Record};
use crate::node::{Node, Readiness};
use crate::order::Candidate;
use crate::placement::{NotATarget, Placement};
use crate::plan::Plan;
use crate::policy::{BUILT_IN, Policy};
use crate::presence::{Evidence, Standing, standing};
use crate::pull_pod::{PullPod, Steps};
use crate::reference::Reference;
use crate::registry::Registry;
use crate::settings::Settings;
use crate::status::is_news;
use crate::time::after;
use crate::verdict::Verdict;

pub(crate) use discoveries::DiscoveryEntry;
pub(crate) use on_node::OnNode;
use stale::Stale;

/// By how many writes of one status a watch may lag. At one write a second it is slow
/// indeed that lags further; then a status is written once more.
const MAX_OVERTAKEN: usize = 16;

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
    /// Images of which one node at a time tries the pull.
    pub(crate) probed: BTreeSet<Name>,
    /// Per policy the nodes that could start a pull now.
    pub(crate) queues: BTreeMap<Name, BTreeSet<Candidate>>,
    /// When a node's place in the queues has to be looked at again.
    pub(crate) alarms: BTreeSet<(Timestamp, Name)>,
    /// When images on a node have to be judged anew although nothing happened.
    pub(crate) judgements: BTreeSet<(Timestamp, Name)>,
    /// Per policy when it last started pulls; kept when it goes, because it may be
    /// there again before the delay has passed.
    pub(crate) starts: BTreeMap<Name, Starts>,
    /// What memories are made of.
    texts: Texts,
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
    /// When this process first saw it.
    pub(crate) seen_at: Timestamp,
    /// When its spec last changed while this process watched.
    edited_at: Option<Timestamp>,
    pub(crate) published: Published<CachedImageStatus>,
}

/// An image, and what is known of it whatever the node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'a> {
    pub(crate) entry: &'a ImageEntry,
    /// Per platform the least size in bytes with which a node has listed it.
    sizes: Option<&'a BTreeMap<Name, u64>>,
    /// The digest that the newest pull on any node got.
    newest: Option<&'a str>,
    /// After which time its policy has a tag looked up again, if it does.
    repull_interval: Option<SignedDuration>,
    /// Whether no other CachedImage wants the same.
    is_only: bool,
}

/// In how many nodes an image has which standing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) cached: usize,
    pub(crate) outdated: usize,
    pub(crate) missing: usize,
    pub(crate) failed: usize,
    pub(crate) evicted: usize,
}

impl Tally {
    pub(crate) fn targeted(self) -> usize {
        self.there() + self.missing + self.failed + self.evicted
    }

    /// Nodes that have the image.
    pub(crate) fn there(self) -> usize {
        self.cached + self.outdated
    }

    fn take_in(&mut self, mut moves: Moves) {
        for standing in Standing::ALL {
            let count = self.of(standing);
            *count = (*count + *moves.entered.of(standing)).saturating_sub(*moves.left.of(standing));
        }
    }

    fn of(&mut self, standing: Standing) -> &mut usize {
        match standing {
            Standing::Cached => &mut self.cached,
            Standing::Outdated => &mut self.outdated,
            Standing::Missing => &mut self.missing,
            Standing::Failed => &mut self.failed,
            Standing::Evicted => &mut self.evicted,
        }
    }
}

/// In how many nodes an image has got another standing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Moves {
    left: Tally,
    entered: Tally,
}

impl Moves {
    fn add(&mut self, before: Option<Standing>, after: Option<Standing>) {
        before.into_iter().for_each(|standing| *self.left.of(standing) += 1);
        after.into_iter().for_each(|standing| *self.entered.of(standing) += 1);
    }
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

/// A status, as the API server last showed it.
#[derive(Debug)]
pub(crate) struct Published<S> {
    pub(crate) status: S,
    /// Whether the API server is known to have it: a write of it did not fail.
    pub(crate) is_confirmed: bool,
    /// Whether a write of it is under way.
    is_under_way: bool,
    /// What it was before each write that the watch has not shown yet, so that it may still
    /// show that; the last ones.
    overtaken: Vec<S>,
    pub(crate) written_at: Option<Timestamp>,
    /// Whether another object shows the progress of the whole that it is a part of.
    pub(crate) is_part: bool,
    /// Writes since the last news, which only showed progress.
    pub(crate) progress: u32,
}

impl<S: Clone + PartialEq> Published<S> {
    /// Takes in what the watch shows. While a write is under way that is older, and it may be
    /// for a while after its answer. Returns whether it is something else than was known.
    fn observe(&mut self, status: S) -> bool {
        let is_same = status == self.status;
        let is_older = self.is_under_way || self.overtaken.contains(&status);
        if is_same || !is_older {
            self.overtaken.clear();
        }
        if !is_older {
            self.status = status;
            self.is_confirmed = true;
        }
        !is_same && !is_older
    }

    /// Takes in the answer to a write.
    fn answer(&mut self, is_written: bool) {
        self.is_under_way = false;
        self.is_confirmed = is_written;
    }

    /// A status that the watch shows, and that nobody has written yet.
    fn new(status: S) -> Self {
        Self {
            status,
            is_confirmed: true,
            is_under_way: false,
            overtaken: Vec::new(),
            written_at: None,
            is_part: false,
            progress: 0,
        }
    }

    /// Takes a write as done that was only just asked for.
    fn write(&mut self, status: &S, is_news: bool, now: Timestamp) {
        self.progress = if is_news { 0 } else { self.progress.saturating_add(1) };
        if self.status != *status {
            let before = std::mem::replace(&mut self.status, status.clone());
            let surplus = (self.overtaken.len() + 1).saturating_sub(MAX_OVERTAKEN);
            self.overtaken.drain(..surplus);
            self.overtaken.push(before);
        }
        self.is_confirmed = true;
        self.is_under_way = true;
        self.written_at = Some(now);
    }
}

/// A node.
#[derive(Debug)]
pub(crate) struct NodeEntry {
    pub(crate) node: Node,
    /// The images that it is a target of.
    pub(crate) standings: BTreeMap<Name, Standing>,
    /// The policy whose turn of pulls is going on here.
    pub(crate) turn: Option<Name>,
    /// Since when it has missed images without a Pod that pulls.
    waiting_since: Option<Timestamp>,
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

/// An effect that is under way, or that failed and waits.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    /// Failures in a row.
    pub(crate) failures: u32,
    /// Whether one of them may have been done all the same.
    pub(crate) in_doubt: bool,
    /// The earliest next try; `None` while it is under way.
    pub(crate) not_before: Option<Timestamp>,
    /// What the API server says against it.
    pub(crate) refusal: Option<Name>,
    /// Whether what it is about is gone since.
    is_overtaken: bool,
}

impl Flight {
    pub(crate) fn is_under_way(&self) -> bool {
        self.not_before.is_none()
    }
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
            probed: BTreeSet::new(),
            queues: BTreeMap::new(),
            alarms: BTreeSet::new(),
            judgements: BTreeSet::new(),
            starts: BTreeMap::new(),
            texts: Texts::default(),
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
            Event::Discovery(policy) => self.set_discovery(*policy),
            Event::Secret(name, version) => self.set_secret(name, version),
            Event::Policy(policy, status) => self.set_policy(*policy, *status),
            Event::Node(node) => self.set_node(*node),
            Event::Pod(pod) => self.set_pod(*pod, now),
            Event::Cache(object) => self.set_cache(*object, true, now),
            Event::Gone(Kind::Pod, name) => self.pod_gone(&name),
            Event::Gone(kind, name) => self.remove(kind, &name),
            Event::Listed(kind, names) => {
                for gone in self.names(kind) {
                    if !names.contains(&gone) {
                        self.remove(kind, &gone);
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

    /// Brings everything that is derived up to date, as of `now`.
    pub fn settle(&mut self, now: Timestamp) {
        if !self.is_synced() {
            return;
        }
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
            self.dirty.nodes.insert(node);
        }
        for set in std::mem::take(&mut self.dirty.sets) {
            self.gather(&set);
        }
        self.judge_all(now);
        for node in std::mem::take(&mut self.dirty.caches) {
            if self.nodes.contains_key(&node) {
                self.cache_is_stale(node, now);
            }
        }
        for node in std::mem::take(&mut self.dirty.places) {
            self.enqueue(&node, now);
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

    /// How often an image failed in a row; nodes that fail side by side count once.
    /// While it is not zero, one node at a time tries it.
    pub(crate) fn open_rounds(&self, image: &Reference) -> u32 {
        self.health.get(image).map_or(0, Health::open_rounds)
    }

    /// When the next node may try an image that fails; `None` where it does not.
    pub(crate) fn probe_at(&self, image: &Image, policy: &Policy) -> Option<Timestamp> {
        let at = self.next_round(&image.reference, &policy.backoff)?;
        // An edit may have mended what failed: it is tried at once.
        let edited_at = self.images.get(&image.name).and_then(|entry| entry.edited_at);
        let last = self.health.get(&image.reference)?.last_open_failure()?;
        Some(edited_at.filter(|edited_at| *edited_at >= last).map_or(at, |edited_at| edited_at.min(at)))
    }

    /// Whether only one pull at a time may try the image's registry.
    pub(crate) fn is_registry_paused(&self, image: &Reference) -> bool {
        self.registries.get(image.host()).is_some_and(Registry::is_paused)
    }

    /// When the next pull may try a paused registry; `None` where all may.
    pub(crate) fn registry_probe_at(&self, image: &Reference, policy: &Policy) -> Option<Timestamp> {
        self.registries.get(image.host())?.probe_at(image.host(), &policy.backoff)
    }

    /// Whether a Pod is trying the image. One that began before the image last failed tells
    /// nothing new, however long it takes.
    pub(crate) fn is_tried(&self, image: &Reference) -> bool {
        self.is_tried_since(image, self.health.get(image).and_then(Health::last_open_failure))
    }

    /// Whether a Pod is trying the image's registry, in the same sense.
    pub(crate) fn is_registry_tried(&self, image: &Reference) -> bool {
        let failed_at = self.registries.get(image.host()).and_then(Registry::last_failure);
        let mut of_host = self.pulling.keys().filter(|other| other.host() == image.host());
        of_host.any(|other| self.is_tried_since(other, failed_at))
    }

    fn is_tried_since(&self, image: &Reference, at: Option<Timestamp>) -> bool {
        let nodes = self.pulling.get(image).into_iter().flatten();
        let mut pods = nodes.filter_map(|node| self.pods_on.get(node)).flatten().filter_map(|pod| self.pods.get(pod));
        pods.any(|entry| {
            let is_of_image = entry.pod.containers.iter().any(|container| container.image == *image);
            let is_after = entry.started_at.is_none_or(|started_at| at.is_none_or(|at| started_at > at));
            is_of_image && is_after && !self.is_recorded(entry)
        })
    }

    /// When an image that fails may be tried again by the backoff alone.
    pub(crate) fn next_round(&self, image: &Reference, backoff: &Backoff) -> Option<Timestamp> {
        let health = self.health.get(image)?;
        let wait = backoff.delay(health.open_rounds(), image.as_str());
        Some(after(health.last_open_failure()?, wait))
    }

    /// An image, and what is known of it whatever the node.
    pub(crate) fn known<'a>(&'a self, entry: &'a ImageEntry) -> Known<'a> {
        let reference = &entry.image.reference;
        let success = self.health.get(reference).and_then(|health| health.success.as_ref());
        Known {
            entry,
            sizes: self.sizes.get(reference),
            newest: success.and_then(|success| success.digest.as_deref()),
            repull_interval: self.policy_of(&entry.image).and_then(|policy| policy.repull_interval),
            is_only: self.wanted.get(reference).is_some_and(|names| names.len() == 1),
        }
    }

    /// What an image on a node is judged by, if `memory` is what is remembered.
    pub(crate) fn evidence<'a>(
        &self,
        node: &Node,
        listed: &Index<'a>,
        known: &Known<'a>,
        memory: Option<&'a Memory>,
    ) -> Evidence<'a> {
        let image = &known.entry.image;
        let record = memory.and_then(|memory| memory.images.get(&image.reference));
        let usual_size = || known.sizes?.get(&node.platform).copied();
        let size = record.and_then(|record| record.size).or_else(usual_size);
        let sight = |name| listed.sight(name, size, self.settings.listed_images);
        // Under the name that it was pulled by, where admission has rewritten its own.
        let pulled_as = record.and_then(|record| record.pulled_as.as_deref());
        let sighting = match (sight(&image.reference), pulled_as) {
            (Sighting::Absent | Sighting::Unknown, Some(name)) => sight(name),
            (sighting, _) => sighting,
        };
        let sighting = match (sighting, node.readiness) {
            // The list of a kubelet that does not report is an old one.
            (Sighting::Absent, Readiness::Lost { .. }) => Sighting::Unknown,
            (sighting, _) => sighting,
        };
        Evidence {
            image,
            record,
            sighting,
            newest: known.newest,
            repull_interval: known.repull_interval,
            node_fails: memory.is_some_and(|memory| memory.node_failure.is_some()),
            listed_within: self.settings.listed_within,
        }
    }

    /// `memory` with what the node's list proves of the images wanted there: those
    /// that were found, and those that were evicted. Returns how many were evicted.
    pub(crate) fn with_sightings(&self, node: &NodeEntry, mut memory: Memory, now: Timestamp) -> (Memory, usize) {
        let mut evictions = 0;
        let index = node.node.inventory.index(node.standings.len());
        for entry in node.standings.keys().filter_map(|image| self.images.get(image)) {
            let reference = &entry.image.reference;
            let evidence = self.evidence(&node.node, &index, &self.known(entry), Some(&memory));
            let is_there = standing(&evidence, now).0;
            let size = match evidence.sighting {
                Sighting::Present(listed) => Some(listed.size).filter(|size| *size > 0),
                Sighting::Absent | Sighting::Unknown => None,
            };
            let has_room = memory.has_room();
            let is_known = memory.images.get(reference).is_some_and(|record| record.current_since().is_some());
            let digest = evidence.counts_as_pulled().filter(|_| !is_known).map(Name::from);
            match memory.images.get_mut(reference) {
                Some(record) => {
                    record.size = size.or(record.size);
                    if is_there == Standing::Evicted && record.present_since().is_some() {
                        record.evict(now, self.settings.repair_max);
                        evictions += 1;
                    } else if is_there.is_there() && (record.present_since().is_none() || digest.is_some()) {
                        record.found_at = record.found_at.or(Some(now));
                        record.digest = digest;
                        record.failure = None;
                    }
                }
                None if is_there.is_there() && has_room => {
                    let record = Record { found_at: Some(now), digest, size, ..Record::default() };
                    memory.images.insert(reference.clone(), record);
                }
                None => {}
            }
        }
        (memory, evictions)
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
        self.flights_of(set).any(|(_, flight)| flight.is_under_way())
    }

    /// Whether an effect about `key` may be issued at `now`.
    pub(crate) fn is_free(&self, key: &EffectKey, now: Timestamp) -> bool {
        self.flights.get(key).is_none_or(|flight| flight.not_before.is_some_and(|at| at <= now))
    }
}

impl NodeEntry {
    /// Why no Pod of `policy` would start on the node now, if so.
    pub(crate) fn hindrance(&self, policy: &Policy) -> Option<Verdict> {
        match self.node.readiness {
            Readiness::Lost { .. } => Some(Verdict::NodeLost),
            Readiness::NotReady { network: false } if policy.host_network == HostNetwork::Never => {
                Some(Verdict::NodeWithoutNetwork)
            }
            Readiness::Ready | Readiness::NotReady { .. } => None,
        }
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
