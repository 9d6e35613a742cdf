//! What the watches have told, and what follows from it.
//!
//! The facts are kept as they come. What is derived from them (who is where,
//! who comes next, how an image fares) is brought up to date by
//! [`World::settle`], for the nodes and images that an event concerns only.

use std::collections::{BTreeMap, BTreeSet};

use drop_api::{CachedImageStatus, NodeCache, PullPolicyStatus};
use jiff::{SignedDuration, Timestamp};

use crate::Name;
use crate::backoff::Backoff;
use crate::budget::Starts;
use crate::effect::{Effect, EffectKey, PodOrder};
use crate::event::{Event, Kind, Report};
use crate::failure::shortened;
use crate::health::Health;
use crate::image::{Image, ImagePullPolicy};
use crate::memory::{Failure, Memory};
use crate::node::Node;
use crate::order::{Candidate, Urgency};
use crate::placement::{NotATarget, Placement};
use crate::plan::Plan;
use crate::policy::{BUILT_IN, Policy};
use crate::presence::{Standing, standing};
use crate::pull_pod::{Container, ContainerState, PullPod, Steps};
use crate::reference::Reference;
use crate::settings::Settings;

/// Everything that planning knows.
#[derive(Debug)]
pub struct World {
    pub(crate) settings: Settings,
    /// Kinds that have not been listed yet.
    pub(crate) unsynced: BTreeSet<Kind>,
    pub(crate) images: BTreeMap<Name, ImageEntry>,
    pub(crate) policies: BTreeMap<Name, PolicyEntry>,
    pub(crate) nodes: BTreeMap<Name, NodeEntry>,
    pub(crate) caches: BTreeMap<Name, CacheEntry>,
    pub(crate) pods: BTreeMap<Name, PodEntry>,

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
    /// Images of which one node at a time tries the pull.
    pub(crate) probed: BTreeSet<Name>,
    /// Per policy the nodes that could start a pull now.
    pub(crate) queues: BTreeMap<Name, BTreeSet<Candidate>>,
    /// When a node's place in the queues has to be looked at again.
    pub(crate) alarms: BTreeSet<(Timestamp, Name)>,
    /// Per policy when it last started pulls; kept when it goes, because it may be
    /// there again before the delay has passed.
    pub(crate) starts: BTreeMap<Name, Starts>,
    /// Effects that are under way or failed.
    pub(crate) flights: BTreeMap<EffectKey, Flight>,

    /// Objects whose written state may differ from what it should be.
    pub(crate) stale: Stale,
    dirty: Dirty,
}

/// A CachedImage.
#[derive(Debug)]
pub(crate) struct ImageEntry {
    pub(crate) image: Image,
    /// What the image and its policy ask of nodes; `None` where the policy is missing.
    pub(crate) placement: Option<Placement>,
    pub(crate) tally: Tally,
    /// Set while the API server refuses its Pods.
    pub(crate) refused: Option<Refused>,
    /// When its spec last changed while this process watched.
    edited_at: Option<Timestamp>,
    pub(crate) published: Published<CachedImageStatus>,
}

/// In how many nodes an image has which standing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) cached: usize,
    pub(crate) missing: usize,
    pub(crate) failed: usize,
}

impl Tally {
    pub(crate) fn targeted(self) -> usize {
        self.cached + self.missing + self.failed
    }

    fn of(&mut self, standing: Standing) -> &mut usize {
        match standing {
            Standing::Cached => &mut self.cached,
            Standing::Missing => &mut self.missing,
            Standing::Failed => &mut self.failed,
        }
    }
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
    pub(crate) written_at: Option<Timestamp>,
}

impl<S: Clone> Published<S> {
    /// Takes in what the watch shows.
    fn observe(&mut self, status: S) {
        self.status = status;
        self.is_confirmed = true;
    }

    /// Takes a write as done that was only just asked for.
    fn write(&mut self, status: &S, now: Timestamp) {
        self.observe(status.clone());
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
    /// The object as it was last seen or written.
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
}

/// What may have to be written.
#[derive(Debug, Default)]
pub(crate) struct Stale {
    pub(crate) images: BTreeSet<Name>,
    pub(crate) policies: BTreeSet<Name>,
    /// NodeCaches, and since when.
    pub(crate) caches: BTreeMap<Name, Timestamp>,
}

/// What [`World::settle`] has to look at.
#[derive(Debug, Default)]
struct Dirty {
    /// Images to be judged on every node.
    images: BTreeSet<Name>,
    /// Nodes on which every image is to be judged.
    nodes: BTreeSet<Name>,
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
        let published = Published { status: PullPolicyStatus::default(), is_confirmed: true, written_at: None };
        Self {
            settings,
            unsynced: Kind::ALL.into(),
            images: BTreeMap::new(),
            policies: [(BUILT_IN.into(), PolicyEntry { policy: built_in, published })].into(),
            nodes: BTreeMap::new(),
            caches: BTreeMap::new(),
            pods: BTreeMap::new(),
            wanted: BTreeMap::new(),
            pods_on: BTreeMap::new(),
            pulling: BTreeMap::new(),
            troubled: BTreeMap::new(),
            health: BTreeMap::new(),
            probed: BTreeSet::new(),
            queues: BTreeMap::new(),
            alarms: BTreeSet::new(),
            starts: BTreeMap::new(),
            flights: BTreeMap::new(),
            stale: Stale::default(),
            dirty: Dirty::default(),
        }
    }

    /// Whether every kind has been listed, so that planning may begin.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.unsynced.is_empty()
    }

    /// Takes in one event.
    pub fn apply(&mut self, event: Event, now: Timestamp) {
        match event {
            Event::Image(image, status) => self.set_image(*image, *status, now),
            Event::Policy(policy, status) => self.set_policy(*policy, *status),
            Event::Node(node) => self.set_node(*node),
            Event::Pod(pod) => self.set_pod(*pod, now),
            Event::Cache(object) => self.set_cache(*object, true),
            Event::Gone(kind, name) => self.remove(kind, &name),
            Event::Listed(kind, names) => {
                for gone in self.names(kind) {
                    if !names.contains(&gone) {
                        self.remove(kind, &gone);
                    }
                }
                self.unsynced.remove(&kind);
            }
            Event::Report(key, report) => self.report(key, report, now),
        }
    }

    /// Takes the plan's effects as done, until their reports come.
    pub fn commit(&mut self, plan: &Plan, now: Timestamp) {
        for effect in &plan.effects {
            let flight = self.flights.entry(effect.key()).or_default();
            flight.not_before = None;
            match effect {
                Effect::CreatePod(order) => self.expect_pod(order, now),
                Effect::PatchImage { image, status } => {
                    if let Some(entry) = self.images.get_mut(image) {
                        entry.published.write(status, now);
                    }
                }
                Effect::PatchPolicy { policy, status } => {
                    if let Some(entry) = self.policies.get_mut(policy) {
                        entry.published.write(status, now);
                    }
                }
                Effect::DeletePod { .. } | Effect::CheckPod { .. } | Effect::RecordNode { .. } => {}
            }
        }
        for image in &plan.clean.images {
            self.stale.images.remove(image);
        }
        for policy in &plan.clean.policies {
            self.stale.policies.remove(policy);
        }
        for cache in &plan.clean.caches {
            self.stale.caches.remove(cache);
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
        for image in std::mem::take(&mut self.dirty.images) {
            self.place_image(&image, now);
        }
        for node in std::mem::take(&mut self.dirty.nodes) {
            let images: Vec<Name> = self.images.keys().cloned().collect();
            for image in images {
                self.judge(&node, &image, now);
            }
            self.dirty.places.insert(node);
        }
        for node in std::mem::take(&mut self.dirty.caches) {
            if self.nodes.contains_key(&node) {
                self.stale.caches.entry(node).or_insert(now);
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

    /// When an image that fails may be tried again by the backoff alone.
    pub(crate) fn next_round(&self, image: &Reference, backoff: &Backoff) -> Option<Timestamp> {
        let health = self.health.get(image)?;
        let wait = backoff.delay(health.open_rounds(), image.as_str());
        Some(health.last_open_failure()?.checked_add(wait).unwrap_or(Timestamp::MAX))
    }

    /// Until when a failed image yields to all others on the node: one longest
    /// backoff after it was due.
    fn yields_until(&self, node: &Node, image: &Image, policy: &Policy) -> Option<Timestamp> {
        let memory = self.memory_of(node)?;
        let record = memory.images.get(&image.reference).and_then(|record| record.failure.as_ref());
        let failure = record.or(memory.node_failure.as_ref())?;
        let wait = policy.backoff.delay(failure.count, &node.name).saturating_add(policy.backoff.max);
        Some(failure.at.checked_add(wait).unwrap_or(Timestamp::MAX))
    }

    /// Until when the node as a whole is left alone, and why.
    pub(crate) fn node_backoff(&self, entry: &NodeEntry, policy: &Policy) -> Option<(Timestamp, Name)> {
        let failure = self.memory_of(&entry.node)?.node_failure.as_ref()?;
        let wait = policy.backoff.delay(failure.count, &entry.node.name);
        Some((failure.at.checked_add(wait).unwrap_or(Timestamp::MAX), failure.message.clone()))
    }

    /// Until when the image is left alone on the node for a failure of unknown
    /// scope, and why.
    pub(crate) fn pair_backoff(&self, node: &Node, image: &Image, policy: &Policy) -> Option<(Timestamp, Name)> {
        use drop_api::node_cache::FailureScope::Unknown;
        let record = self.memory_of(node)?.images.get(&image.reference)?;
        let failure = record.failure.as_ref().filter(|failure| failure.scope == Unknown)?;
        let wait = policy.backoff.delay(failure.count, &format!("{}/{}", node.name, image.reference));
        Some((failure.at.checked_add(wait).unwrap_or(Timestamp::MAX), failure.message.clone()))
    }

    /// Whether what becomes of `image` on `node` can be remembered.
    pub(crate) fn has_room(&self, node: &Node, image: &Reference) -> bool {
        self.memory_of(node).is_none_or(|memory| memory.has_room() || memory.images.contains_key(image))
    }

    /// Whether some CachedImage wants `image` on `node`, or would if the node were
    /// healthy.
    pub(crate) fn is_meant_for(&self, image: &Reference, node: &Node) -> bool {
        let wanted_by = self.wanted.get(image).into_iter().flatten();
        wanted_by.filter_map(|name| self.images.get(name)).any(|entry| entry.selects(node))
    }

    /// Whether an effect about `key` may be issued at `now`.
    pub(crate) fn is_free(&self, key: &EffectKey, now: Timestamp) -> bool {
        self.flights.get(key).is_none_or(|flight| flight.not_before.is_some_and(|at| at <= now))
    }

    // ---- Facts --------------------------------------------------------------

    fn set_image(&mut self, image: Image, status: CachedImageStatus, now: Timestamp) {
        let name = image.name.clone();
        self.stale.images.insert(name.clone());
        if let Some(entry) = self.images.get_mut(&name) {
            entry.published.observe(status);
            if entry.image == image {
                return;
            }
            let old = std::mem::replace(&mut entry.image, image.clone());
            entry.edited_at = Some(now);
            entry.refused = None;
            if old.reference != image.reference {
                entry.tally = Tally::default();
                self.forget_standings(&name);
            }
            self.unwant(&old);
            self.want(&image);
        } else {
            // One of this name may have gone a moment ago.
            self.forget_standings(&name);
            self.want(&image);
            let published = Published { status, is_confirmed: true, written_at: None };
            let entry = ImageEntry {
                image,
                placement: None,
                tally: Tally::default(),
                refused: None,
                edited_at: None,
                published,
            };
            self.images.insert(name.clone(), entry);
        }
        self.dirty.images.insert(name);
    }

    /// Lets an image be judged as if for the first time, and NodeCaches forget what
    /// it was before.
    fn forget_standings(&mut self, image: &Name) {
        for (name, node) in &mut self.nodes {
            if node.standings.remove(image).is_some() {
                self.dirty.caches.insert(name.clone());
            }
        }
    }

    fn want(&mut self, image: &Image) {
        self.stale.policies.insert(image.policy.clone());
        self.wanted.entry(image.reference.clone()).or_default().insert(image.name.clone());
    }

    fn unwant(&mut self, image: &Image) {
        self.stale.policies.insert(image.policy.clone());
        if let Some(names) = self.wanted.get_mut(&image.reference) {
            names.remove(&image.name);
            if names.is_empty() {
                self.wanted.remove(&image.reference);
            }
        }
    }

    fn set_policy(&mut self, policy: Policy, status: PullPolicyStatus) {
        let name = policy.name.clone();
        self.stale.policies.insert(name.clone());
        match self.policies.get_mut(&name) {
            Some(entry) => {
                entry.published.observe(status);
                if entry.policy == policy {
                    return;
                }
                entry.policy = policy;
            }
            None => {
                let published = Published { status, is_confirmed: true, written_at: None };
                self.policies.insert(name.clone(), PolicyEntry { policy, published });
            }
        }
        self.policy_changed(&name);
    }

    fn policy_changed(&mut self, name: &Name) {
        let concerned = self.images.values().filter(|entry| entry.image.policy == *name);
        self.dirty.images.extend(concerned.map(|entry| entry.image.name.clone()));
    }

    fn set_node(&mut self, node: Node) {
        let name = node.name.clone();
        match self.nodes.get_mut(&name) {
            Some(entry) if entry.node == node => return,
            Some(entry) => {
                // Another machine under the same name starts anew.
                if entry.node.uid != node.uid {
                    entry.turn = None;
                }
                entry.node = node;
            }
            None => {
                let entry = NodeEntry {
                    node,
                    standings: BTreeMap::new(),
                    turn: None,
                    waiting_since: None,
                    places: Vec::new(),
                    alarm: None,
                };
                self.nodes.insert(name.clone(), entry);
                self.end_recorded_pulls(&name);
            }
        }
        self.dirty.nodes.insert(name);
    }

    fn set_pod(&mut self, pod: PullPod, now: Timestamp) {
        let known = self.pods.get(&pod.name);
        if known.is_some_and(|known| matches!(known.stage, Stage::Observed) && known.pod == pod) {
            return;
        }
        // A Pod that this process asked for was created by now at the latest. Of
        // any other only the second is known in which it was created.
        let started_at = match known {
            Some(PodEntry { started_at: Some(at), .. }) => *at,
            Some(_) => now,
            None => pod.created_at.saturating_add(SignedDuration::from_secs(1)).unwrap_or(now),
        };
        let begins_turn = known.is_none_or(|known| known.begins_turn);
        let steps = Steps::see(&pod, known.map(|known| &known.steps), now);
        let recorded = known.is_some_and(|known| known.recorded && known.pod.uid == pod.uid);
        if begins_turn {
            self.starts.entry(pod.policy.clone()).or_default().note(&pod.node, started_at);
        }
        // A creation whose answer was lost is confirmed by this.
        self.flights.remove(&EffectKey::CreatePod(pod.name.clone()));
        self.accepted(&pod);
        let stage = Stage::Observed;
        self.put_pod(PodEntry { pod, stage, started_at: Some(started_at), begins_turn, steps, recorded });
    }

    /// Takes a Pod as created that was only just asked for.
    fn expect_pod(&mut self, order: &PodOrder, now: Timestamp) {
        if self.pods.contains_key(&order.name) {
            return;
        }
        let waiting = || ContainerState::Waiting { reason: "".into(), message: "".into() };
        let pod = PullPod {
            name: order.name.clone(),
            uid: None,
            node: order.node.clone(),
            node_uid: order.node_uid.clone(),
            policy: order.policy.clone(),
            created_at: now,
            terminating: false,
            acknowledged_at: None,
            sandbox_up_at: None,
            rejection: None,
            containers: order
                .pulls
                .iter()
                .map(|pull| Container { image: pull.reference.clone(), image_id: None, state: waiting() })
                .collect(),
        };
        let steps = Steps::see(&pod, None, now);
        let stage = Stage::Requested(Box::new(order.clone()));
        let begins_turn = order.begins_turn;
        self.put_pod(PodEntry { pod, stage, started_at: None, begins_turn, steps, recorded: false });
    }

    fn put_pod(&mut self, entry: PodEntry) {
        self.take_pod(&entry.pod.name.clone());
        let pod = &entry.pod;
        self.pods_on.entry(pod.node.clone()).or_default().insert(pod.name.clone());
        let recorded = self.is_recorded(&entry);
        for container in &pod.containers {
            if !recorded || container.outcome().is_none() {
                self.pulling.entry(container.image.clone()).or_default().insert(pod.node.clone());
            }
        }
        if let Some(node) = self.nodes.get_mut(&pod.node).filter(|node| node.node.uid == pod.node_uid) {
            node.turn = Some(pod.policy.clone());
            node.waiting_since = None;
        }
        self.touch_pod(&entry.pod);
        self.pods.insert(entry.pod.name.clone(), entry);
    }

    fn take_pod(&mut self, name: &Name) {
        let Some(entry) = self.pods.remove(name) else { return };
        let pod = entry.pod;
        if let Some(pods) = self.pods_on.get_mut(&pod.node) {
            pods.remove(name);
            if pods.is_empty() {
                self.pods_on.remove(&pod.node);
            }
        }
        for container in &pod.containers {
            self.end_pull(&container.image, &pod.node);
        }
        self.touch_pod(&pod);
    }

    /// Takes in that the outcome of a node's Pod may be recorded now.
    fn end_recorded_pulls(&mut self, node: &Name) {
        let pods = self.pods_on.get(node).into_iter().flatten();
        let recorded: Vec<Name> =
            pods.filter(|pod| self.pods.get(*pod).is_some_and(|entry| self.is_recorded(entry))).cloned().collect();
        for pod in &recorded {
            if let Some(entry) = self.pods.get_mut(pod) {
                entry.recorded = true;
            }
        }
        let recorded: Vec<Reference> = recorded
            .iter()
            .filter_map(|pod| self.pods.get(pod))
            .flat_map(|entry| entry.pod.containers.iter().filter(|container| container.outcome().is_some()))
            .map(|container| container.image.clone())
            .collect();
        for image in recorded {
            self.end_pull(&image, node);
        }
    }

    fn end_pull(&mut self, image: &Reference, node: &Name) {
        if let Some(nodes) = self.pulling.get_mut(image) {
            nodes.remove(node);
            if nodes.is_empty() {
                self.pulling.remove(image);
            }
        }
    }

    /// Marks what a change of a Pod concerns.
    fn touch_pod(&mut self, pod: &PullPod) {
        self.dirty.places.insert(pod.node.clone());
        self.stale.policies.insert(pod.policy.clone());
        for container in &pod.containers {
            self.mark_images_of(&container.image);
        }
    }

    /// Marks the status of every CachedImage of this reference as stale.
    fn mark_images_of(&mut self, reference: &Reference) {
        self.stale.images.extend(self.wanted.get(reference).into_iter().flatten().cloned());
    }

    fn set_cache(&mut self, object: NodeCache, seen: bool) {
        let Some(name) = object.metadata.name.as_deref().map(Name::from) else { return };
        // The answer to a write may come before the watch shows the state that
        // the write replaced.
        let older = |known: &CacheEntry| version(&known.object) > version(&object);
        if self.caches.get(&name).is_some_and(older) {
            return;
        }
        let memory = Memory::from_api(&object);
        let unchanged =
            self.caches.get(&name).is_some_and(|known| known.memory == memory && known.object.spec == object.spec);
        for (policy, at) in &memory.starts {
            self.starts.entry(policy.clone()).or_default().note(&name, *at);
        }
        let seen = seen || self.caches.get(&name).is_some_and(|known| known.seen);
        let before = self.caches.insert(name.clone(), CacheEntry { memory, object, seen });
        if !unchanged {
            self.memory_changed(&name, before.map(|entry| entry.memory).unwrap_or_default());
        }
    }

    /// Derives anew what follows from a node's memory, of which `before` was the last.
    fn memory_changed(&mut self, node: &Name, before: Memory) {
        let after = self.caches.get(node).map(|entry| entry.memory.clone()).unwrap_or_default();
        match &after.node_failure {
            Some(failure) => drop(self.troubled.insert(node.clone(), failure.clone())),
            None => drop(self.troubled.remove(node)),
        }
        let references: BTreeSet<&Reference> = before.images.keys().chain(after.images.keys()).collect();
        for reference in references {
            let record = after.images.get(reference);
            if before.images.get(reference) == record {
                continue;
            }
            let failing_before = self.open_rounds(reference) > 0;
            let health = self.health.entry(reference.clone()).or_default();
            if health.update(node, record) {
                health.success = None;
                for (node, cache) in &self.caches {
                    health.update(node, cache.memory.images.get(reference));
                }
            }
            if health.is_empty() {
                self.health.remove(reference);
            }
            self.mark_images_of(reference);
            if failing_before != (self.open_rounds(reference) > 0) {
                self.dirty.images.extend(self.wanted.get(reference).into_iter().flatten().cloned());
            }
        }
        self.end_recorded_pulls(node);
        self.dirty.nodes.insert(node.clone());
    }

    fn names(&self, kind: Kind) -> Vec<Name> {
        match kind {
            Kind::Image => self.images.keys().cloned().collect(),
            Kind::Policy => self.policies.keys().filter(|name| &***name != BUILT_IN).cloned().collect(),
            Kind::Node => self.nodes.keys().cloned().collect(),
            // A Pod that the watch has not shown yet may be younger than the list.
            Kind::Pod => self
                .pods
                .iter()
                .filter(|(_, entry)| matches!(entry.stage, Stage::Observed))
                .map(|(name, _)| name.clone())
                .collect(),
            Kind::Cache => self.caches.iter().filter(|(_, entry)| entry.seen).map(|(name, _)| name.clone()).collect(),
        }
    }

    fn remove(&mut self, kind: Kind, name: &Name) {
        match kind {
            Kind::Image => {
                let Some(entry) = self.images.remove(name) else { return };
                self.stale.images.remove(name);
                self.unwant(&entry.image);
                self.probed.remove(name);
                self.flights.remove(&EffectKey::Image(name.clone()));
                self.dirty.images.insert(name.clone());
            }
            Kind::Policy => {
                if self.policies.remove(name).is_some() {
                    self.stale.policies.remove(name);
                    self.flights.remove(&EffectKey::Policy(name.clone()));
                    self.policy_changed(name);
                }
            }
            Kind::Node => {
                let Some(entry) = self.nodes.remove(name) else { return };
                self.leave_queues(name, &entry.places, entry.alarm);
                for (image, standing) in entry.standings {
                    self.count(&image, Some(standing), None);
                }
                let nowhere = self.images.iter().filter(|(_, entry)| entry.is_nowhere());
                self.stale.images.extend(nowhere.map(|(image, _)| image.clone()));
                self.stale.caches.remove(name);
            }
            Kind::Pod => {
                if let Some(entry) = self.pods.get(name) {
                    // A NodeCache that was written meanwhile says that it is pulling.
                    self.dirty.caches.insert(entry.pod.node.clone());
                    // A turn that never began does not go on.
                    let never_began = entry.begins_turn && entry.started_at.is_none();
                    if let Some(node) = self.nodes.get_mut(&entry.pod.node).filter(|_| never_began) {
                        node.turn = None;
                    }
                }
                self.take_pod(name);
                self.flights.remove(&EffectKey::DeletePod(name.clone()));
                self.flights.remove(&EffectKey::CheckPod(name.clone()));
            }
            Kind::Cache => {
                if let Some(entry) = self.caches.remove(name) {
                    self.memory_changed(name, entry.memory);
                }
            }
        }
    }

    // ---- Reports ------------------------------------------------------------

    fn report(&mut self, key: EffectKey, report: Report, now: Timestamp) {
        match &report {
            Report::Refused(_) | Report::Unknown(_) => {
                let backoff = Backoff { initial: self.settings.retry_initial, max: self.settings.retry_max };
                if let Some(flight) = self.flights.get_mut(&key) {
                    flight.failures = flight.failures.saturating_add(1);
                    flight.in_doubt |= matches!(report, Report::Unknown(_));
                    let wait = backoff.delay(flight.failures, &format!("{key:?}"));
                    flight.not_before = Some(now.checked_add(wait).unwrap_or(Timestamp::MAX));
                }
                self.unconfirm(&key);
            }
            // A deletion that was accepted is under way until the Pod is gone.
            Report::Done if matches!(key, EffectKey::DeletePod(_)) => {}
            _ => drop(self.flights.remove(&key)),
        }
        match (key, report) {
            (EffectKey::CreatePod(name), Report::PodCreated { uid }) => self.pod_created(&name, uid, now),
            (EffectKey::CreatePod(name), Report::Refused(message)) => self.pod_refused(&name, &message, now),
            (EffectKey::DeletePod(name) | EffectKey::CheckPod(name), Report::PodGone { uid }) => {
                // Another Pod may have got the name meanwhile.
                let is_other = |entry: &PodEntry| uid.is_some() && entry.pod.uid != uid;
                if !self.pods.get(&name).is_some_and(is_other) {
                    self.remove(Kind::Pod, &name);
                }
            }
            (EffectKey::DeletePod(name), Report::Done) => {
                // It did exist; the watch may have missed it for good.
                if let Some(entry) = self.pods.get_mut(&name).filter(|entry| matches!(entry.stage, Stage::Requested(_)))
                {
                    entry.stage = Stage::Created(now);
                }
            }
            (EffectKey::CheckPod(name), _) => {
                if let Some(PodEntry { stage: Stage::Created(at), .. }) = self.pods.get_mut(&name) {
                    *at = now;
                }
            }
            (EffectKey::Record(_), Report::Recorded(cache)) => self.set_cache(*cache, false),
            _ => {}
        }
    }

    /// Takes back that a status was written.
    fn unconfirm(&mut self, key: &EffectKey) {
        match key {
            EffectKey::Image(name) => {
                if let Some(entry) = self.images.get_mut(name) {
                    entry.published.is_confirmed = false;
                    self.stale.images.insert(name.clone());
                }
            }
            EffectKey::Policy(name) => {
                if let Some(entry) = self.policies.get_mut(name) {
                    entry.published.is_confirmed = false;
                    self.stale.policies.insert(name.clone());
                }
            }
            EffectKey::CreatePod(_) | EffectKey::DeletePod(_) | EffectKey::CheckPod(_) | EffectKey::Record(_) => {}
        }
    }

    fn pod_created(&mut self, name: &Name, uid: Name, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(name) else { return };
        if !matches!(entry.stage, Stage::Requested(_)) {
            return;
        }
        if entry.begins_turn {
            self.starts.entry(entry.pod.policy.clone()).or_default().note(&entry.pod.node, now);
        }
        entry.stage = Stage::Created(now);
        entry.started_at = Some(now);
        entry.pod.uid = Some(uid);
        let pod = entry.pod.clone();
        self.stale.policies.insert(pod.policy.clone());
        self.accepted(&pod);
    }

    /// Takes in that the API server accepts Pods for these images.
    fn accepted(&mut self, pod: &PullPod) {
        for container in &pod.containers {
            for name in self.wanted.get(&container.image).into_iter().flatten() {
                if let Some(entry) = self.images.get_mut(name)
                    && entry.refused.take().is_some()
                {
                    self.dirty.images.insert(name.clone());
                }
            }
        }
    }

    fn pod_refused(&mut self, name: &Name, message: &str, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(name) else { return };
        let Stage::Requested(order) = &entry.stage else { return };
        let order = order.clone();
        let flight = self.flights.remove(&EffectKey::CreatePod(name.clone()));
        if flight.is_some_and(|flight| flight.in_doubt) {
            // An earlier request may have created it: it counts until that is known.
            entry.stage = Stage::Created(Timestamp::MIN);
        } else {
            self.remove(Kind::Pod, name);
        }
        if order.begins_turn {
            // Other nodes would be refused as well: no faster than they may start.
            self.starts.entry(order.policy.clone()).or_default().note(&order.node, now);
        }
        let backoff = Backoff { initial: self.settings.retry_initial, max: self.settings.retry_max };
        for pull in &order.pulls {
            let Some(entry) = self.images.get_mut(&pull.cached_image) else { continue };
            let count = entry.refused.as_ref().map_or(0, |refused| refused.count).saturating_add(1);
            let until = now.checked_add(backoff.delay(count, &pull.cached_image)).unwrap_or(Timestamp::MAX);
            entry.refused = Some(Refused { count, until, message: shortened(message, 512).into() });
            self.dirty.images.insert(pull.cached_image.clone());
        }
    }

    // ---- Derived state ------------------------------------------------------

    /// Derives an image's placement anew and judges it on every node.
    fn place_image(&mut self, name: &Name, now: Timestamp) {
        if let Some(entry) = self.images.get(name) {
            let policy = self.policy_of(&entry.image);
            let placement = policy.map(|policy| {
                let mut placement = entry.image.placement.clone();
                placement.tolerations.extend(policy.tolerations.iter().cloned());
                let labels = policy.labels.iter();
                placement.labels.extend(labels.map(|(key, value)| (key.clone(), value.clone())));
                placement
            });
            let probed = self.open_rounds(&entry.image.reference) > 0;
            if probed {
                self.probed.insert(name.clone());
            } else {
                self.probed.remove(name);
            }
            if let Some(entry) = self.images.get_mut(name) {
                entry.placement = placement;
            }
        }
        let nodes: Vec<Name> = self.nodes.keys().cloned().collect();
        for node in nodes {
            self.judge(&node, name, now);
            self.dirty.places.insert(node);
        }
        self.stale.images.insert(name.clone());
    }

    /// Judges one image on one node, and counts it.
    fn judge(&mut self, node: &Name, image: &Name, now: Timestamp) {
        let Some(entry) = self.nodes.get(node) else { return };
        let standing = self.images.get(image).and_then(|wanted| {
            wanted.place_on(&entry.node).ok()?;
            Some(standing(self.memory_of(&entry.node), &wanted.image.reference))
        });
        let Some(entry) = self.nodes.get_mut(node) else { return };
        let before = match standing {
            Some(standing) => entry.standings.insert(image.clone(), standing),
            None => entry.standings.remove(image),
        };
        if standing.is_none() && self.images.get(image).is_some_and(ImageEntry::is_nowhere) {
            // Its status says why by the example of some node.
            self.stale.images.insert(image.clone());
        }
        if before != standing {
            self.count(image, before, standing);
            self.stale.caches.entry(node.clone()).or_insert(now);
        }
    }

    fn count(&mut self, image: &Name, before: Option<Standing>, after: Option<Standing>) {
        let Some(entry) = self.images.get_mut(image) else { return };
        if let Some(before) = before {
            let count = entry.tally.of(before);
            *count = count.saturating_sub(1);
        }
        if let Some(after) = after {
            *entry.tally.of(after) += 1;
        }
        self.stale.images.insert(image.clone());
        self.stale.policies.insert(entry.image.policy.clone());
    }

    fn leave_queues(&mut self, node: &Name, places: &[(Name, Candidate)], alarm: Option<Timestamp>) {
        for (policy, candidate) in places {
            if let Some(queue) = self.queues.get_mut(policy) {
                queue.remove(candidate);
                if queue.is_empty() {
                    self.queues.remove(policy);
                }
            }
        }
        if let Some(at) = alarm {
            self.alarms.remove(&(at, node.clone()));
        }
    }

    /// Gives a node its places in the queues: one for each policy under which it
    /// could start a pull now, with its most urgent image.
    fn enqueue(&mut self, name: &Name, now: Timestamp) {
        let Some(entry) = self.nodes.get_mut(name) else { return };
        let (places, alarm) = (std::mem::take(&mut entry.places), entry.alarm.take());
        self.leave_queues(name, &places, alarm);
        if self.pods_on.contains_key(name) {
            return;
        }
        let Some(entry) = self.nodes.get(name) else { return };
        let (urgencies, alarm) = self.eligible(entry, now);
        let waiting_since = entry.waiting_since.unwrap_or(now);
        // Neither a node that failed nor a retry goes on with a turn: others go first.
        let failed = self.memory_of(&entry.node).is_some_and(|memory| memory.node_failure.is_some());
        let goes_on = |policy: &Name| urgencies.get(policy).is_some_and(|urgency| !failed && !urgency.retry);
        let turn = entry.turn.clone().filter(goes_on);
        let places: Vec<_> = urgencies
            .into_iter()
            .map(|(policy, urgency)| {
                let begins_turn = turn.as_ref() != Some(&policy);
                let Urgency { retry, priority, .. } = urgency;
                (policy, Candidate { begins_turn, retry, priority, waiting_since, node: name.clone() })
            })
            .collect();
        for (policy, candidate) in &places {
            self.queues.entry(policy.clone()).or_default().insert(candidate.clone());
        }
        if let Some(at) = alarm {
            self.alarms.insert((at, name.clone()));
        }
        if let Some(entry) = self.nodes.get_mut(name) {
            entry.turn = turn;
            let misses_any = entry.standings.values().any(|standing| *standing != Standing::Cached);
            entry.waiting_since = Some(waiting_since).filter(|_| misses_any);
            entry.places = places;
            entry.alarm = alarm;
        }
    }

    /// Per policy the most urgent image that the node could start on now, and
    /// when this has to be asked again.
    fn eligible(&self, entry: &NodeEntry, now: Timestamp) -> (BTreeMap<Name, Urgency>, Option<Timestamp>) {
        let mut best: BTreeMap<Name, Urgency> = BTreeMap::new();
        let mut alarm: Option<Timestamp> = None;
        let mut wait = |until: Timestamp| alarm = Some(alarm.map_or(until, |alarm| alarm.min(until)));
        for (name, standing) in &entry.standings {
            match self.could_start(entry, name, *standing) {
                Start::Never => {}
                Start::From(Some(until)) if until > now => wait(until),
                Start::From(_) => {
                    let Some(wanted) = self.images.get(name) else { continue };
                    let (urgency, until) = self.urgency(entry, &wanted.image, *standing, now);
                    until.into_iter().for_each(&mut wait);
                    let place = best.entry(wanted.image.policy.clone());
                    let kept = place.or_insert_with(|| urgency.clone());
                    if urgency < *kept {
                        *kept = urgency;
                    }
                }
            }
        }
        (best, alarm)
    }

    /// How urgent an image is on a node, and until when, if that will change.
    pub(crate) fn urgency(
        &self,
        entry: &NodeEntry,
        image: &Image,
        standing: Standing,
        now: Timestamp,
    ) -> (Urgency, Option<Timestamp>) {
        let policy = self.policy_of(image).filter(|_| standing == Standing::Failed);
        let until =
            policy.and_then(|policy| self.yields_until(&entry.node, image, policy)).filter(|until| *until > now);
        (Urgency { retry: until.is_some(), priority: image.priority, image: image.name.clone() }, until)
    }

    /// From when a node could start on an image, as far as node and image are
    /// concerned.
    pub(crate) fn could_start(&self, entry: &NodeEntry, image: &Name, standing: Standing) -> Start {
        if standing == Standing::Cached || self.probed.contains(image) {
            return Start::Never;
        }
        let Some(wanted) = self.images.get(image) else { return Start::Never };
        let Some(policy) = self.policy_of(&wanted.image) else { return Start::Never };
        if policy.paused || wanted.image.pull == ImagePullPolicy::Never {
            return Start::Never;
        }
        if !self.has_room(&entry.node, &wanted.image.reference) {
            return Start::Never;
        }
        let node = self.node_backoff(entry, policy).map(|(until, _)| until);
        let pair = self.pair_backoff(&entry.node, &wanted.image, policy).map(|(until, _)| until);
        let refused = wanted.refused.as_ref().map(|refused| refused.until);
        Start::From(node.max(pair).max(refused))
    }
}

/// From when a node could start on an image.
pub(crate) enum Start {
    /// Not until something changes.
    Never,
    /// From then on; `None`: at once.
    From(Option<Timestamp>),
}

impl ImageEntry {
    /// Whether no node is a target.
    fn is_nowhere(&self) -> bool {
        self.tally.targeted() == 0
    }

    /// Whether the image is to be on `node`.
    pub(crate) fn place_on(&self, node: &Node) -> Result<(), NotATarget> {
        // An image whose policy is missing still has its targets: they wait.
        self.placement.as_ref().unwrap_or(&self.image.placement).check(node)
    }

    /// Whether the image is meant for `node`, healthy or not.
    pub(crate) fn selects(&self, node: &Node) -> bool {
        self.placement.as_ref().unwrap_or(&self.image.placement).selects(node).is_ok()
    }
}

/// An object's resource version as a number, which newer versions have greater;
/// see <https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions>.
fn version(object: &NodeCache) -> u64 {
    object.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}
