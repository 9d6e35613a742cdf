//! Which pulls to start.

use std::collections::{BTreeMap, BTreeSet, btree_set};

use drop_api::names::short_hash;
use drop_api::pull_policy::HostNetwork;
use jiff::Timestamp;

use crate::Name;
use crate::gate::budget::Budget;
use crate::gate::verdict::Verdict;
use crate::io::effect::{Effect, PodOrder, Pull};
use crate::io::plan::Plan;
use crate::objects::image::{Image, ImagePullPolicy};
use crate::objects::node::Readiness;
use crate::objects::policy::Policy;
use crate::objects::presence::Standing;
use crate::objects::reference::Reference;
use crate::pace::order::{Candidate, Urgency};
use crate::time::after;
use crate::world::health::Health;
use crate::world::{ImageEntry, NodeEntry, World};

/// Starts what the policies allow: nodes that go on with their turn first, then
/// by urgency, then probes of images that fail.
pub(super) fn start_pulls(world: &World, now: Timestamp, plan: &mut Plan) {
    let mut budget = Budget::new(world);
    let probes = probes(world, now, plan);
    let mut served = BTreeSet::new();
    for (_, image, policy) in &probes.overdue {
        let is_next = probes.goes_first.contains(&policy.name) && !served.contains(&policy.name);
        if is_next && probe(world, image, now, &mut budget, plan) {
            served.insert(&policy.name);
        }
    }
    let mut overdue = probes.overdue.iter().peekable();
    let mut queues: Vec<Queue<'_>> = world
        .queues
        .iter()
        .filter_map(|(policy, queue)| {
            let policy = &world.policies.get(policy)?.policy;
            let mut rest = queue.iter();
            Some(Queue { policy, next: rest.next(), rest })
        })
        .collect();
    loop {
        // Over all policies the most urgent candidate goes first, because two of
        // them may want the same node.
        let waiting = queues.iter_mut().filter_map(|queue| queue.next.map(|candidate| (queue, candidate)));
        let first = waiting.min_by_key(|(_, candidate)| *candidate);
        let candidate = first.as_ref().map(|(_, candidate)| *candidate);
        let is_first = |place: &Candidate| candidate.is_none_or(|candidate| place < candidate);
        if let Some((_, image, _)) = overdue.next_if(|(place, ..)| is_first(place)) {
            probe(world, image, now, &mut budget, plan);
            continue;
        }
        let Some((queue, candidate)) = first else { break };
        queue.next = queue.rest.next();
        match start(world, queue.policy, candidate, &budget, now) {
            Ok(Some(order)) => commit_start(order, &mut budget, plan),
            Ok(None) => {}
            Err(verdict) => {
                // Whoever comes next under this policy waits for the same, except
                // the node of the last start, which does not wait for itself.
                let others = queue.next.take().into_iter().chain(std::mem::take(&mut queue.rest));
                if let Verdict::WaitingForDelay { until } = verdict {
                    if let Some(until) = until {
                        plan.wake(until);
                    }
                    let last = world.starts.get(&queue.policy.name).and_then(|starts| starts.last());
                    let is_last = |next: &&Candidate| last.is_some_and(|(node, _)| next.node == *node);
                    queue.next = others.into_iter().find(is_last);
                }
            }
        }
    }
    for image in probes.due {
        probe(world, image, now, &mut budget, plan);
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
    let here = world.on_node(node);
    let mut images: Vec<(Urgency, &Image)> = node
        .standings
        .iter()
        .filter_map(|(name, standing)| {
            let wanted = world.images.get(name)?;
            here.could_start(wanted, *standing).filter(|from| *from <= now)?;
            Some((here.urgency(wanted, *standing, now).0, &wanted.image))
        })
        // A set that is being filled starts when all its images are known: they share Pods.
        .filter(|(_, image)| image.set.as_ref().is_none_or(|set| !world.is_being_filled(&set.name)))
        .filter(|(_, image)| image.policy == policy.name && budget.admit_host(policy, image.reference.host()).is_ok())
        .collect();
    images.sort_by(|(a, _), (b, _)| a.cmp(b));
    let is_alone = |image: &Image| here.record(&image.reference).is_some_and(|record| record.alone);
    let mut batch: Vec<&Image> = Vec::new();
    let mut room = here.room();
    for (_, image) in images {
        let fits = match batch.first() {
            None => true,
            Some(first) if is_alone(first) || is_alone(image) => false,
            Some(first) => first.set.is_some() && first.set == image.set && first.secrets == image.secrets,
        };
        let is_new = batch.iter().all(|other| other.reference != image.reference);
        let takes = usize::from(here.record(&image.reference).is_none());
        if fits && is_new && takes <= room && batch.len() < policy.images_per_pod {
            room -= takes;
            batch.push(image);
        }
    }
    batch
}

/// The Pod that pulls `batch` onto a node; `None` where there is nothing to pull.
fn order(world: &World, node: &NodeEntry, policy: &Policy, batch: &[&Image], begins_turn: bool) -> Option<PodOrder> {
    let first = batch.first()?;
    let here = world.on_node(node);
    let mut identity = node.node.uid.to_string();
    for image in batch {
        let attempts = here.record(&image.reference).map_or(0, |record| record.attempts);
        identity.push_str(&format!(" {}#{attempts}", image.reference));
    }
    let host_network = match policy.host_network {
        HostNetwork::Always => true,
        HostNetwork::Never => false,
        HostNetwork::NotReadyNodes => node.node.readiness != Readiness::Ready,
    };
    let placement = world.images.get(&first.name).and_then(|entry| entry.placement.as_ref());
    Some(PodOrder {
        name: pod_name(first.set.as_ref().map_or(&first.name, |set| &set.name), &identity),
        node: node.node.name.clone(),
        node_uid: node.node.uid.clone(),
        policy: policy.name.clone(),
        set: first.set.as_ref().map(|set| set.name.clone()),
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

/// The images that fail and are to be tried again.
///
/// Retries yield to all others, but not for ever: one that is overdue goes first, if none
/// under its policy has failed for the longest backoff. Any further one stands in line with
/// those that were never tried, so that many of them do not take all the time there is.
#[derive(Default)]
struct Probes<'a> {
    /// Those that have been due for longer than the longest backoff, by their places among the
    /// nodes that wait, in which the image's name stands for a node's.
    overdue: Vec<(Candidate, &'a Name, &'a Policy)>,
    /// The policies under which one of them goes first.
    goes_first: BTreeSet<&'a Name>,
    /// The others.
    due: Vec<&'a Name>,
}

fn probes<'a>(world: &'a World, now: Timestamp, plan: &mut Plan) -> Probes<'a> {
    let mut probes = Probes::default();
    let mut last_failures: BTreeMap<&Name, (Timestamp, &Policy)> = BTreeMap::new();
    for (name, entry) in world.probed.iter().filter_map(|name| Some((name, world.images.get(name)?))) {
        let image = &entry.image;
        let Some(policy) = world.policy_of(image) else { continue };
        let last_failure = world.health.get(&image.reference).and_then(Health::last_open_failure);
        let (last_of_policy, _) = last_failures.entry(&policy.name).or_insert((Timestamp::MIN, policy));
        *last_of_policy = last_failure.unwrap_or(Timestamp::MIN).max(*last_of_policy);
        if policy.paused || image.pull == ImagePullPolicy::Never || world.is_or_will_be_tried(&image.reference, plan) {
            continue;
        }
        let of_registry = world.registry_probe_at(&image.reference, policy);
        if of_registry.is_some() && world.is_registry_tried(&image.reference) {
            continue;
        }
        let refused = entry.refused.as_ref().map(|refused| refused.until);
        let Some(at) = world.probe_at(image, policy).max(of_registry) else { continue };
        let at = refused.map_or(at, |until| until.max(at));
        let waiting_since = after(at, policy.backoff.max);
        if at > now {
            plan.wake(at);
        } else if waiting_since > now {
            probes.due.push(name);
        } else {
            let priority = image.priority;
            let place =
                Candidate { begins_turn: true, retry: false, priority, waiting_since, node: image.name.clone() };
            probes.overdue.push((place, name, policy));
        }
    }
    probes.overdue.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    let goes_first = last_failures.iter().filter(|(_, (last, policy))| after(*last, policy.backoff.max) <= now);
    probes.goes_first = goes_first.map(|(policy, _)| *policy).collect();
    probes
}

/// Lets one node try an image that fails, as its time has come. Returns whether one does.
fn probe(world: &World, name: &Name, now: Timestamp, budget: &mut Budget<'_>, plan: &mut Plan) -> bool {
    let Some(ImageEntry { image, .. }) = world.images.get(name) else { return false };
    let Some(policy) = world.policy_of(image) else { return false };
    let is_paused = world.is_registry_paused(&image.reference);
    if budget.is_used_up(policy) {
        return false;
    }
    // Another probe of this plan may do.
    if world.is_or_will_be_tried(&image.reference, plan) || (is_paused && plan.tries_registry(&image.reference)) {
        return false;
    }
    let last_try = |node: &Name| {
        let failing = &world.health.get(&image.reference)?.failing;
        failing.get(node).map(|failure| failure.at)
    };
    let held_until = |node: &NodeEntry| {
        let here = world.on_node(node);
        here.backoff(policy).map(|(until, _)| until).max(here.repair_at(&image.reference))
    };
    let candidates = world
        .nodes
        .values()
        .filter(|node| node.standings.get(name).is_some_and(|standing| *standing != Standing::Cached))
        .filter(|node| budget.busy_with(&node.node.name).is_none())
        .filter(|node| node.hindrance(policy).is_none())
        .filter(|node| world.on_node(node).has_room(&image.reference));
    let (waiting, free): (Vec<_>, Vec<_>) =
        candidates.map(|node| (node, held_until(node))).partition(|(_, until)| until.is_some_and(|until| until > now));
    // The node that has not tried for longest goes first.
    let node = free.into_iter().min_by_key(|(node, _)| (last_try(&node.node.name), node.node.name.clone()));
    let Some((node, _)) = node else {
        waiting.into_iter().filter_map(|(_, until)| until).for_each(|until| plan.wake(until));
        return false;
    };
    try_on(world, node, policy, image, now, budget, plan)
}

/// Starts a Pod for one image on a node, if the policy allows it now. Returns whether it does.
fn try_on(
    world: &World,
    node: &NodeEntry,
    policy: &Policy,
    image: &Image,
    now: Timestamp,
    budget: &mut Budget<'_>,
    plan: &mut Plan,
) -> bool {
    let begins_turn = node.turn.as_ref() != Some(&policy.name);
    let admitted = budget.admit(policy, &node.node.name, begins_turn, now);
    if admitted.is_err() {
        budget.use_up(policy);
    }
    match admitted.and_then(|()| budget.admit_host(policy, image.reference.host())) {
        Ok(()) => {
            let order = order(world, node, policy, &[image], begins_turn);
            let starts = order.is_some();
            order.into_iter().for_each(|order| commit_start(order, budget, plan));
            starts
        }
        Err(Verdict::WaitingForDelay { until: Some(until) }) => {
            plan.wake(until);
            false
        }
        Err(_) => false,
    }
}

/// Lets one node ask whether a tag has moved, when its interval has passed. If it
/// has, the other nodes are outdated, and follow like any that miss the image.
fn ask_for_tag(world: &World, entry: &ImageEntry, now: Timestamp, budget: &mut Budget<'_>, plan: &mut Plan) {
    let image = &entry.image;
    let Some(policy) = world.policy_of(image) else { return };
    let Some(interval) = policy.repull_interval else { return };
    let is_fixed = image.reference.digest().is_some() || image.pull != ImagePullPolicy::Always;
    let needs_no_try = policy.paused || is_fixed || entry.tally.there() == 0;
    if needs_no_try || world.is_or_will_be_tried(&image.reference, plan) {
        return;
    }
    let success = world.health.get(&image.reference).and_then(|health| health.success.as_ref());
    let asked_at = success.map_or(Timestamp::MIN, |success| success.at);
    let at = after(asked_at, interval);
    let refused = entry.refused.as_ref().map(|refused| refused.until);
    let held_until = world.probe_at(image, policy).max(world.registry_probe_at(&image.reference, policy)).max(refused);
    let at = held_until.map_or(at, |until| until.max(at));
    if at > now {
        plan.wake(at);
        return;
    }
    if budget.is_used_up(policy) {
        return;
    }
    let since = |node: &NodeEntry| world.on_node(node).record(&image.reference)?.present_since();
    let held_until = |node: &NodeEntry| {
        let here = world.on_node(node);
        let of_node = here.backoff(policy).map(|(until, _)| until);
        of_node.max(here.backoff_of(image, policy).map(|(until, _)| until))
    };
    let (held, free): (Vec<_>, Vec<_>) = world
        .nodes
        .values()
        .filter(|node| node.standings.get(&image.name).is_some_and(|standing| standing.is_there()))
        .filter(|node| budget.busy_with(&node.node.name).is_none())
        .filter(|node| node.hindrance(policy).is_none())
        .partition(|node| held_until(node).is_some_and(|until| until > now));
    // The node whose copy is oldest goes first.
    match free.into_iter().min_by_key(|node| (since(node), node.node.name.clone())) {
        Some(node) => drop(try_on(world, node, policy, image, now, budget, plan)),
        None => held.into_iter().filter_map(held_until).for_each(|until| plan.wake(until)),
    }
}

impl World {
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

    /// Whether a Pod is trying `image`, or the plan makes one.
    fn is_or_will_be_tried(&self, image: &Reference, plan: &Plan) -> bool {
        self.is_tried(image) || plan.starts(image)
    }
}
