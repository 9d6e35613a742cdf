//! What to do now, and when to look again.

use std::collections::{BTreeSet, btree_set};

use drop_api::NodeCache;
use drop_api::names::short_hash;
use drop_api::pull_policy::HostNetwork;
use jiff::{SignedDuration, Timestamp};

use crate::Name;
use crate::budget::Budget;
use crate::effect::{Effect, EffectKey, PodOrder, Pull};
use crate::image::{Image, ImagePullPolicy};
use crate::memory::{Context, Memory, Settlement};
use crate::node::Readiness;
use crate::order::{Candidate, Urgency};
use crate::policy::Policy;
use crate::pull_pod::{End, Expectations, PullPod};
use crate::reference::Reference;
use crate::status;
use crate::verdict::Verdict;
use crate::world::{ImageEntry, NodeEntry, PodEntry, Published, Stage, Start, World};

/// What to do now.
#[derive(Debug, Default)]
pub struct Plan {
    /// In the order in which they are to be begun; they do not wait for each other.
    pub effects: Vec<Effect>,
    /// When to plan again although nothing happened.
    pub wake_at: Option<Timestamp>,
    /// Objects that were found to be written as they should be.
    pub clean: Clean,
    /// What the effects are about.
    keys: BTreeSet<EffectKey>,
    /// Nodes whose Pods have been pulling for so long that their NodeCaches say so.
    long_pulls: BTreeSet<Name>,
}

/// Objects whose written state is as it should be.
#[derive(Debug, Default)]
pub struct Clean {
    /// CachedImages.
    pub images: Vec<Name>,
    /// PullPolicies.
    pub policies: Vec<Name>,
    /// Nodes, for their NodeCaches.
    pub caches: Vec<Name>,
}

impl Plan {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |wake_at| wake_at.min(at)));
    }

    /// Adds `effect`, unless one about the same is under way or waits to be tried again.
    fn add(&mut self, world: &World, effect: Effect, now: Timestamp) {
        let key = effect.key();
        if self.keys.contains(&key) {
            // Two Pods on one node: the other's turn comes with the report.
        } else if world.is_free(&key, now) {
            self.keys.insert(key);
            self.effects.push(effect);
        } else {
            self.wake_for(world, &key);
        }
    }

    /// Whether it starts, or asks again for, a pull of `image`.
    fn starts(&self, image: &Reference) -> bool {
        self.effects.iter().any(|effect| match effect {
            Effect::CreatePod(order) => order.pulls.iter().any(|pull| pull.reference == *image),
            _ => false,
        })
    }

    /// Wakes when a failed effect is to be tried again.
    fn wake_for(&mut self, world: &World, key: &EffectKey) {
        if let Some(at) = world.flights.get(key).and_then(|flight| flight.not_before) {
            self.wake(at);
        }
    }
}

/// Decides what to do now. `world` must be settled as of `now`.
#[must_use]
pub fn plan(world: &World, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if !world.is_synced() {
        return plan;
    }
    tend_pods(world, now, &mut plan);
    start_pulls(world, now, &mut plan);
    record_nodes(world, now, &mut plan);
    publish_images(world, now, &mut plan);
    publish_policies(world, now, &mut plan);
    for (at, _) in world.alarms.first().into_iter().chain(world.judgements.first()) {
        plan.wake(*at);
    }
    plan
}

// ---- Pods that are there ----------------------------------------------------

/// Records Pods that came to their end, deletes them once that is recorded, and
/// deletes Pods that nobody wants any more.
fn tend_pods(world: &World, now: Timestamp, plan: &mut Plan) {
    for entry in world.pods.values() {
        let pod = &entry.pod;
        let wanted = pod.containers.iter().any(|container| world.wanted.contains_key(&container.image));
        let node = world.nodes.get(&pod.node).filter(|node| node.node.uid == pod.node_uid);
        match &entry.stage {
            Stage::Requested(order) if wanted && world.may_still_start(order) => {
                plan.add(world, Effect::CreatePod(order.clone()), now);
                continue;
            }
            Stage::Requested(order) => {
                // Whether it was created is not known before that request ends.
                if world.is_free(&EffectKey::CreatePod(order.name.clone()), now) {
                    plan.add(world, Effect::DeletePod { pod: pod.name.clone(), uid: None, force: false }, now);
                } else {
                    plan.wake_for(world, &EffectKey::CreatePod(order.name.clone()));
                }
                continue;
            }
            Stage::Created(at) => {
                let check_at = at.checked_add(world.settings.confirm_within).unwrap_or(Timestamp::MAX);
                if check_at <= now {
                    plan.add(world, Effect::CheckPod { pod: pod.name.clone() }, now);
                } else {
                    plan.wake(check_at);
                }
            }
            Stage::Observed => {}
        }
        let lost_at = node.and_then(|node| world.lost_at(&node.node));
        let is_lost = lost_at.is_some_and(|at| at <= now);
        lost_at.filter(|_| !is_lost).into_iter().for_each(|at| plan.wake(at));
        let Some(node) = node.filter(|_| wanted && !world.is_recorded(entry)) else {
            if !pod.terminating || is_lost {
                let effect = Effect::DeletePod { pod: pod.name.clone(), uid: pod.uid.clone(), force: is_lost };
                plan.add(world, effect, now);
            }
            continue;
        };
        let Some(policy) = world.policy_or_built_in(&pod.policy) else { continue };
        let expected = Expectations {
            pull_timeout: policy.pull_timeout,
            tells_sandbox: node.node.tells_sandbox,
            settings: &world.settings,
        };
        match pod.end(&entry.steps, &expected, now).or(is_lost.then_some(End::Lost)) {
            Some(end) => plan.add(world, record_pod(world, node, entry, policy, &end, now), now),
            None => {
                plan.wake(PullPod::deadline(&entry.steps, &expected).0);
                let shown_at = entry.steps.created.checked_add(world.settings.record_within).unwrap_or(Timestamp::MAX);
                if shown_at > now {
                    plan.wake(shown_at);
                } else {
                    plan.long_pulls.insert(pod.node.clone());
                }
            }
        }
    }
}

/// The NodeCache with the outcome of a Pod.
fn record_pod(world: &World, node: &NodeEntry, entry: &PodEntry, policy: &Policy, end: &End, now: Timestamp) -> Effect {
    let context = Context {
        now,
        platform: &node.node.platform,
        backoff: &policy.backoff,
        began_turn_at: entry.begins_turn.then(|| entry.started_at.unwrap_or(now)),
        rounds: &|image| (world.open_rounds(image), world.next_round(image, &policy.backoff)),
    };
    let nothing = Memory::default();
    let before = world.memory_of(&node.node).unwrap_or(&nothing);
    let (memory, settlements) = before.with(&entry.pod, end, &context);
    record(world, node, memory, settlements, now)
}

fn record(world: &World, node: &NodeEntry, mut memory: Memory, settlements: Vec<Settlement>, now: Timestamp) -> Effect {
    let evictions;
    (memory, evictions) = world.with_sightings(node, memory, now);
    memory.prune(|image| world.is_meant_for(image, &node.node), |policy| world.policies.contains_key(policy));
    Effect::RecordNode { cache: Box::new(status::node_cache(world, node, &memory, now)), settlements, evictions }
}

// ---- Pulls to start ---------------------------------------------------------

/// Starts what the policies allow: nodes that go on with their turn first, then
/// by urgency, then probes of images that fail.
fn start_pulls(world: &World, now: Timestamp, plan: &mut Plan) {
    let mut budget = Budget::new(world);
    for image in &world.probed {
        probe(world, image, Probe::Overdue, now, &mut budget, plan);
    }
    let mut queues: Vec<Queue<'_>> = world
        .queues
        .iter()
        .filter_map(|(policy, queue)| {
            let policy = &world.policies.get(policy)?.policy;
            let mut rest = queue.iter();
            Some(Queue { policy, next: rest.next(), rest })
        })
        .collect();
    // Over all policies the most urgent candidate goes first, because two of
    // them may want the same node.
    while let Some((queue, candidate)) = queues
        .iter_mut()
        .filter_map(|queue| queue.next.map(|candidate| (queue, candidate)))
        .min_by_key(|(_, candidate)| *candidate)
    {
        queue.next = queue.rest.next();
        match start(world, queue.policy, candidate, &budget, now) {
            Ok(Some(order)) => commit_start(order, &mut budget, plan),
            Ok(None) => {}
            Err(verdict) => {
                // Whoever comes next under this policy waits for the same, except
                // the node of the last start, which does not wait for itself.
                queue.next = None;
                if let Verdict::WaitingForDelay { until } = verdict {
                    if let Some(until) = until {
                        plan.wake(until);
                    }
                    let last = world.starts.get(&queue.policy.name).and_then(|starts| starts.last());
                    queue.next = last.and_then(|(node, _)| queue.rest.find(|next| next.node == *node));
                    queue.rest = btree_set::Iter::default();
                }
            }
        }
    }
    for image in &world.probed {
        probe(world, image, Probe::Due, now, &mut budget, plan);
    }
    for entry in world.images.values() {
        ask_for_tag(world, entry, now, &mut budget, plan);
    }
}

/// The nodes that wait under one policy.
struct Queue<'a> {
    policy: &'a Policy,
    next: Option<&'a Candidate>,
    rest: btree_set::Iter<'a, Candidate>,
}

fn commit_start(order: PodOrder, budget: &mut Budget<'_>, plan: &mut Plan) {
    budget.take(&order);
    let effect = Effect::CreatePod(Box::new(order));
    plan.keys.insert(effect.key());
    plan.effects.push(effect);
}

/// The Pod that `candidate` may start now; `None` where only this node cannot.
fn start(
    world: &World,
    policy: &Policy,
    candidate: &Candidate,
    budget: &Budget<'_>,
    now: Timestamp,
) -> Result<Option<PodOrder>, Verdict> {
    if budget.busy_with(&candidate.node).is_some() {
        return Ok(None);
    }
    budget.admit(policy, &candidate.node, candidate.begins_turn, now)?;
    let Some(node) = world.nodes.get(&candidate.node) else { return Ok(None) };
    let batch = batch(world, node, policy, budget, now);
    Ok(order(world, node, policy, &batch, candidate.begins_turn))
}

/// The images for the next Pod on a node: the most urgent one whose registry has
/// a free slot, and with it others of the same set.
fn batch<'a>(
    world: &'a World,
    node: &NodeEntry,
    policy: &Policy,
    budget: &Budget<'_>,
    now: Timestamp,
) -> Vec<&'a Image> {
    let mut images: Vec<(Urgency, &Image)> = node
        .standings
        .iter()
        .filter(|(name, standing)| {
            matches!(world.could_start(node, name, **standing), Start::From(from) if from.is_none_or(|from| from <= now))
        })
        .filter_map(|(name, standing)| {
            let image = &world.images.get(name)?.image;
            Some((world.urgency(node, image, *standing, now).0, image))
        })
        .filter(|(_, image)| image.policy == policy.name && budget.admit_host(policy, image.reference.host()).is_ok())
        .collect();
    images.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut batch: Vec<&Image> = Vec::new();
    for (_, image) in images {
        let fits = match batch.first() {
            None => true,
            Some(first) => first.set.is_some() && first.set == image.set && first.secrets == image.secrets,
        };
        let is_new = batch.iter().all(|other| other.reference != image.reference);
        if fits && is_new && batch.len() < policy.images_per_pod {
            batch.push(image);
        }
    }
    batch
}

/// The Pod that pulls `batch` onto a node; `None` where there is nothing to pull.
fn order(world: &World, node: &NodeEntry, policy: &Policy, batch: &[&Image], begins_turn: bool) -> Option<PodOrder> {
    let first = batch.first()?;
    let memory = world.memory_of(&node.node);
    let mut identity = node.node.uid.to_string();
    for image in batch {
        let attempts =
            memory.and_then(|memory| memory.images.get(&image.reference)).map_or(0, |record| record.attempts);
        identity.push_str(&format!(" {}#{attempts}", image.reference));
    }
    let host_network = match policy.host_network {
        HostNetwork::Always => true,
        HostNetwork::Never => false,
        HostNetwork::NotReadyNodes => node.node.readiness != Readiness::Ready,
    };
    let placement = world.images.get(&first.name).and_then(|entry| entry.placement.as_ref());
    Some(PodOrder {
        name: pod_name(first.set.as_ref().unwrap_or(&first.name), &identity),
        node: node.node.name.clone(),
        node_uid: node.node.uid.clone(),
        policy: policy.name.clone(),
        set: first.set.clone(),
        pulls: batch
            .iter()
            .map(|image| Pull {
                cached_image: image.name.clone(),
                reference: image.reference.clone(),
                policy: image.pull,
            })
            .collect(),
        secrets: world.secrets_for(node, batch),
        tolerations: placement.map(|placement| placement.tolerations.clone()).unwrap_or_default(),
        host_network,
        begins_turn,
    })
}

/// A DNS label: what is pulled, as far as there is room, and a hash of `identity`.
fn pod_name(what: &str, identity: &str) -> Name {
    let prefix: String = what.chars().take(50).map(|c| if c == '.' { '-' } else { c }).collect();
    format!("{}-{}", prefix.trim_end_matches('-'), short_hash(identity.as_bytes())).into()
}

/// Which probes are to be started.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Probe {
    /// Those that are due.
    Due,
    /// Those that have been due for longer than the longest backoff.
    Overdue,
}

/// Lets one node try an image that fails, when its backoff has passed.
fn probe(world: &World, name: &Name, which: Probe, now: Timestamp, budget: &mut Budget<'_>, plan: &mut Plan) {
    let Some(entry) = world.images.get(name) else { return };
    let image = &entry.image;
    let Some(policy) = world.policy_of(image) else { return };
    if policy.paused || image.pull == ImagePullPolicy::Never || world.is_tried(&image.reference, plan) {
        return;
    }
    let Some(at) = world.probe_at(image, policy) else { return };
    let at = entry.refused.as_ref().map_or(at, |refused| refused.until.max(at));
    if at > now {
        plan.wake(at);
        return;
    }
    // Retries yield to all others, but not for ever.
    let overdue_at = at.checked_add(policy.backoff.max).unwrap_or(Timestamp::MAX);
    if which == Probe::Overdue && overdue_at > now {
        return;
    }
    let last_try = |node: &Name| {
        let failing = &world.health.get(&image.reference)?.failing;
        failing.get(node).map(|failure| failure.at)
    };
    let candidates = world
        .nodes
        .values()
        .filter(|node| node.standings.get(name).is_some_and(|standing| !standing.is_there()))
        .filter(|node| budget.busy_with(&node.node.name).is_none())
        .filter(|node| node.hindrance(policy).is_none());
    let (waiting, free): (Vec<_>, Vec<_>) = candidates
        .map(|node| (node, world.node_backoff(node, policy).map(|(until, _)| until)))
        .partition(|(_, until)| until.is_some_and(|until| until > now));
    // The node that has not tried for longest goes first.
    let node = free.into_iter().min_by_key(|(node, _)| (last_try(&node.node.name), node.node.name.clone()));
    let Some((node, _)) = node else {
        waiting.into_iter().filter_map(|(_, until)| until).for_each(|until| plan.wake(until));
        return;
    };
    try_on(world, node, policy, image, now, budget, plan);
}

/// Starts a Pod for one image on a node, if the policy allows it now.
fn try_on(
    world: &World,
    node: &NodeEntry,
    policy: &Policy,
    image: &Image,
    now: Timestamp,
    budget: &mut Budget<'_>,
    plan: &mut Plan,
) {
    let begins_turn = node.turn.as_ref() != Some(&policy.name);
    let admitted = budget
        .admit(policy, &node.node.name, begins_turn, now)
        .and_then(|()| budget.admit_host(policy, image.reference.host()));
    match admitted {
        Ok(()) => {
            if let Some(order) = order(world, node, policy, &[image], begins_turn) {
                commit_start(order, budget, plan);
            }
        }
        Err(Verdict::WaitingForDelay { until: Some(until) }) => plan.wake(until),
        Err(_) => {}
    }
}

/// Lets one node ask whether a tag has moved, when its interval has passed. If it
/// has, the other nodes are outdated, and follow like any that miss the image.
fn ask_for_tag(world: &World, entry: &ImageEntry, now: Timestamp, budget: &mut Budget<'_>, plan: &mut Plan) {
    let image = &entry.image;
    let Some(policy) = world.policy_of(image) else { return };
    let Some(interval) = policy.repull_interval else { return };
    let is_fixed = image.reference.digest().is_some() || image.pull != ImagePullPolicy::Always;
    if policy.paused || is_fixed || entry.tally.there() == 0 || world.is_tried(&image.reference, plan) {
        return;
    }
    let success = world.health.get(&image.reference).and_then(|health| health.success.as_ref());
    let asked_at = success.map_or(Timestamp::MIN, |success| success.at);
    let at = asked_at.checked_add(interval).unwrap_or(Timestamp::MAX);
    let at = world.probe_at(image, policy).map_or(at, |probe_at| probe_at.max(at));
    if at > now {
        plan.wake(at);
        return;
    }
    let since = |node: &NodeEntry| world.memory_of(&node.node)?.images.get(&image.reference)?.present_since();
    // The node whose copy is oldest goes first.
    let node = world
        .nodes
        .values()
        .filter(|node| node.standings.get(&image.name).is_some_and(|standing| standing.is_there()))
        .filter(|node| budget.busy_with(&node.node.name).is_none())
        .filter(|node| node.hindrance(policy).is_none())
        .filter(|node| world.node_backoff(node, policy).is_none_or(|(until, _)| until <= now))
        .min_by_key(|node| (since(node), node.node.name.clone()));
    if let Some(node) = node {
        try_on(world, node, policy, image, now, budget, plan);
    }
}

// ---- What is written --------------------------------------------------------

/// Brings NodeCaches up to date that differ for other reasons than a Pod's outcome.
fn record_nodes(world: &World, now: Timestamp, plan: &mut Plan) {
    let long_pulls = std::mem::take(&mut plan.long_pulls);
    let stale =
        world.stale.caches.keys().chain(long_pulls.iter().filter(|name| !world.stale.caches.contains_key(*name)));
    for name in stale {
        let recording = plan.keys.contains(&EffectKey::Record(name.clone()));
        let Some(node) = world.nodes.get(name).filter(|_| !recording) else { continue };
        let since = world.stale.caches.get(name).filter(|_| !long_pulls.contains(name));
        let due = since.map(|since| since.checked_add(world.settings.record_within).unwrap_or(Timestamp::MAX));
        if let Some(due) = due.filter(|due| *due > now) {
            plan.wake(due);
            continue;
        }
        let memory = world.memory_of(&node.node).cloned().unwrap_or_default();
        let effect = record(world, node, memory, Vec::new(), now);
        let Effect::RecordNode { cache, .. } = &effect else { continue };
        let current = world.caches.get(name).map(|entry| &entry.object);
        let unchanged = current.is_some_and(|object| says_the_same(object, cache));
        let is_empty = cache.status.as_ref().is_none_or(|status| status.images.is_empty());
        let nothing_to_say = current.is_none() && is_empty && !long_pulls.contains(name);
        if unchanged || nothing_to_say {
            plan.clean.caches.push(name.clone());
        } else {
            plan.add(world, effect, now);
        }
    }
}

/// Whether two NodeCaches differ in nothing that is worth a write. An image's size
/// is known a while after its pull, and goes with the next write.
fn says_the_same(one: &NodeCache, other: &NodeCache) -> bool {
    let without_sizes = |cache: &NodeCache| {
        let mut status = cache.status.clone().unwrap_or_default();
        status.images.iter_mut().for_each(|image| image.size_bytes = None);
        status
    };
    one.spec == other.spec && without_sizes(one) == without_sizes(other)
}

fn publish_images(world: &World, now: Timestamp, plan: &mut Plan) {
    for name in &world.stale.images {
        let Some(entry) = world.images.get(name) else { continue };
        if plan.starts(&entry.image.reference) {
            // It is about to be out of date: the report of the creation follows.
            continue;
        }
        let status = status::cached_image(world, entry, now);
        if entry.published.is(&status) {
            plan.clean.images.push(name.clone());
            continue;
        }
        let urgent = status::is_news(&entry.published.status.conditions, &status.conditions)
            || entry.published.status.observed_generation != status.observed_generation;
        match world.next_write(&entry.published, urgent).filter(|at| *at > now) {
            Some(at) => plan.wake(at),
            None => plan.add(world, Effect::PatchImage { image: name.clone(), status: Box::new(status) }, now),
        }
    }
}

fn publish_policies(world: &World, now: Timestamp, plan: &mut Plan) {
    for name in &world.stale.policies {
        let Some(entry) = world.policies.get(name).filter(|_| !name.is_empty()) else {
            plan.clean.policies.push(name.clone());
            continue;
        };
        let status = status::pull_policy(world, &entry.policy, &entry.published.status, now);
        if entry.published.is(&status) {
            plan.clean.policies.push(name.clone());
            continue;
        }
        let urgent = status::is_news(&entry.published.status.conditions, &status.conditions)
            || entry.published.status.observed_generation != status.observed_generation;
        match world.next_write(&entry.published, urgent).filter(|at| *at > now) {
            Some(at) => plan.wake(at),
            None => plan.add(world, Effect::PatchPolicy { policy: name.clone(), status: Box::new(status) }, now),
        }
    }
}

impl<S: PartialEq> Published<S> {
    /// Whether the API server has this status, as far as is known.
    fn is(&self, status: &S) -> bool {
        self.is_confirmed && self.status == *status
    }
}

impl World {
    /// The earliest time at which a status may be written.
    fn next_write<S>(&self, published: &Published<S>, urgent: bool) -> Option<Timestamp> {
        let interval: SignedDuration =
            if urgent { self.settings.status_interval } else { self.settings.progress_interval };
        published.written_at.map(|at| at.checked_add(interval).unwrap_or(Timestamp::MAX))
    }

    /// Whether a Pod that may not have come into being may be asked for again.
    fn may_still_start(&self, order: &PodOrder) -> bool {
        let policy = self.policies.get(&order.policy).map(|entry| &entry.policy);
        let node = self.nodes.get(&order.node).map(|entry| &entry.node);
        policy.is_some_and(|policy| !policy.paused) && node.is_some_and(|node| node.uid == order.node_uid)
    }

    /// The secrets of every CachedImage that wants one of these images on the node:
    /// where two differ, the kubelet tries them all.
    fn secrets_for(&self, node: &NodeEntry, batch: &[&Image]) -> Vec<Name> {
        let names = batch.iter().filter_map(|image| self.wanted.get(&image.reference)).flatten();
        let wanted_here = names.filter(|name| node.standings.contains_key(*name));
        let mut secrets: Vec<Name> = Vec::new();
        for secret in wanted_here.filter_map(|name| self.images.get(name)).flat_map(|entry| &entry.image.secrets) {
            if !secrets.contains(secret) {
                secrets.push(secret.clone());
            }
        }
        secrets
    }

    /// Whether a Pod is pulling `image` somewhere, or the plan makes one.
    fn is_tried(&self, image: &Reference, plan: &Plan) -> bool {
        self.pulling.contains_key(image) || plan.starts(image)
    }
}
