//! The invariants that every plan keeps, whatever happened before.
//!
//! Tests and the simulator run [`audit`] after every plan, and debug builds after every plan of a running operator. It
//! counts the limits anew from the facts. For that it shares no code with the budget that it checks.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::Name;
use crate::gate::budget::Budget;
use crate::gate::{Pair, Purpose};
use crate::io::effect::{Effect, EffectKey, PodOrder};
use crate::io::plan::{First, Plan};
use crate::objects::image::ImagePullPolicy;
use crate::objects::presence::Standing;
use crate::plan::writes;
use crate::show::status;
use crate::world::{Stage, World};

/// Every invariant that `plan` violates, as sentences; none if all is well.
#[must_use]
pub fn audit(world: &World, plan: &Plan, now: Timestamp) -> Vec<String> {
    let mut violations = Vec::new();
    if !world.is_synced() && !plan.effects.is_empty() {
        violations.push("effects before every watch has synced".to_owned());
    }
    let mut keys = BTreeSet::new();
    for effect in &plan.effects {
        if !keys.insert(effect.key()) {
            violations.push(format!("two effects about {:?}", effect.key()));
        }
    }
    let new: Vec<&PodOrder> = plan
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::CreatePod(order) if world.pod(&order.name).is_none() => Some(&**order),
            _ => None,
        })
        .collect();
    for order in &new {
        violations.extend(audit_order(world, order, now).into_iter().map(|what| format!("Pod {}: {what}", order.name)));
    }
    let policies: BTreeSet<&Name> = new.iter().map(|order| &order.policy).collect();
    for policy in policies {
        let orders: Vec<&PodOrder> = new.iter().copied().filter(|order| order.policy == *policy).collect();
        violations.extend(
            audit_policy(world, policy, &orders, now).into_iter().map(|what| format!("policy {policy:?}: {what}")),
        );
    }
    let mut nodes: BTreeMap<&Name, usize> = BTreeMap::new();
    for node in world.pods().map(|entry| &entry.pod.node).chain(new.iter().map(|order| &order.node)) {
        *nodes.entry(node).or_default() += 1;
    }
    for order in &new {
        if nodes.get(&order.node).is_some_and(|pods| *pods > 1) {
            violations.push(format!("more than one pull Pod on {}", order.node));
        }
    }
    for effect in &plan.effects {
        if let Effect::DeletePod { pod, .. } = effect {
            violations.extend(audit_deletion(world, pod).map(|what| format!("deletion of {pod}: {what}")));
        }
    }
    if world.is_synced() {
        violations.extend(audit_statuses(world, plan, now));
        violations.extend(audit_starts(world, plan, &new, now));
    }
    violations
}

/// Checks that the plan starts every pull that it could start: a rule of the gate holds each other pull that is wanted
/// and missing, each probe and each question for a tag. There is one exception. Under the policy another pull goes
/// first, which the plan names, which is no less urgent, and which waits for a slot of the policy or for the delay
/// between nodes. Only a node that goes on with its turn may pass it.
fn audit_starts(world: &World, plan: &Plan, new: &[&PodOrder], now: Timestamp) -> Vec<String> {
    let mut budget = Budget::new(world, now);
    new.iter().for_each(|order| budget.take(order));
    let mut faults = Vec::new();
    for node in world.nodes() {
        let here = world.on_node(node);
        for (image, standing) in world.images_on(node, |_| true) {
            let name = &image.image.name;
            let Some(pair) = Pair::new(&here, image, standing, now) else { continue };
            let purposes = [
                Some(Purpose::Pull).filter(|_| standing.wants_pull()),
                Some(Purpose::Probe).filter(|_| standing.wants_pull() && image.is_probed),
                Some(Purpose::Ask).filter(|_| standing.is_there()),
            ];
            for purpose in purposes.into_iter().flatten() {
                let first = plan.first_in_line.get(&image.image.policy);
                let goes_on = purpose == Purpose::Pull && !pair.begins_turn(pair.urgency().is_late());
                let is_behind = first.is_some_and(|it| it.image != *name || it.node != node.node.name) && !goes_on;
                if !is_behind && pair.check(purpose, &budget).is_ok() {
                    faults
                        .push(format!("{name} on {} ({purpose:?}) could start, and nobody goes first", node.node.name));
                }
            }
            let first = plan.first_in_line.get(&image.image.policy).filter(|_| standing.wants_pull());
            if let Some(First { urgency, .. }) = first.filter(|first| first.begins_turn && !first.urgency.is_late()) {
                let is_more_urgent = pair.urgency().between_nodes() < urgency.between_nodes();
                if is_more_urgent && pair.waits_for_the_line(&budget) {
                    faults.push(format!("{name} on {} waits behind a pull that is less urgent", node.node.name));
                }
            }
        }
    }
    faults
}

/// Checks that a status shows the present state if no plan looks at it again.
fn audit_statuses(world: &World, plan: &Plan, now: Timestamp) -> Vec<String> {
    let shared = status::Shared::default();
    let is_clean = |key: EffectKey| !world.is_noted(&key);
    let images = world.images().filter(|entry| is_clean(EffectKey::Image(entry.image.name.clone())));
    let images = images.filter_map(|entry| {
        let status = status::cached_image(world, entry, &shared, now);
        differs(&format!("CachedImage {}", entry.image.name), &entry.published.status, &status)
    });
    let sets = world.sets().filter(|entry| is_clean(EffectKey::Set(entry.set.name.clone())));
    let sets = sets.filter_map(|entry| {
        let status = status::cached_image_set(world, entry, true, now);
        differs(&format!("CachedImageSet {}", entry.set.name), &entry.published.status, &status)
    });
    let policies = world.policies().filter(|entry| !entry.policy.name.is_empty());
    let policies = policies.filter(|entry| is_clean(EffectKey::Policy(entry.policy.name.clone())));
    let policies = policies.filter_map(|entry| {
        let shown = &entry.published.status;
        let status = status::pull_policy(world, &entry.policy, shown, now);
        differs(&format!("PullPolicy {}", entry.policy.name), shown, &status)
    });
    let discoveries = world.discoveries().filter(|(name, _)| is_clean(EffectKey::DiscoveryStatus((*name).clone())));
    let discoveries = discoveries.filter_map(|(name, entry)| {
        let outcome = entry.outcome.as_ref().filter(|_| entry.pipeline.is_ok())?;
        differs(&format!("DiscoveryPolicy {name}"), &entry.published.status, outcome)
    });
    // Each audit checks one node's NodeCache: making one is the most expensive part, and a wrong one stays wrong until
    // its node's turn.
    let turn = usize::try_from(now.as_microsecond()).unwrap_or(0).checked_rem(world.number_of_nodes());
    let node = turn.and_then(|turn| world.nodes().nth(turn));
    let cache = node.filter(|node| is_clean(EffectKey::Record(node.node.name.clone()))).and_then(|node| {
        let cache = writes::differing_cache(world, node, false, now)?;
        let key = cache.key();
        let is_written = !world.is_free(&key, now) || plan.effects.iter().any(|effect| effect.key() == key);
        let known = || world.cache(&node.node.name).map(|cache| (&cache.object.status, &cache.memory));
        (!is_written).then(|| format!("NodeCache {} shows {:?}, and should {cache:?}", node.node.name, known()))
    });
    images.chain(sets).chain(policies).chain(discoveries).chain(cache).collect()
}

/// Reports an object that shows `shown` although it should show `expected`.
fn differs<S: PartialEq + std::fmt::Debug>(object: &str, shown: &S, expected: &S) -> Option<String> {
    (shown != expected).then(|| format!("{object} shows {shown:?}, and should {expected:?}"))
}

/// Checks that a Pod pulls only images that are wanted, and that the gate lets each of them begin.
fn audit_order(world: &World, order: &PodOrder, now: Timestamp) -> Vec<String> {
    let mut violations = Vec::new();
    let Some(node) = world.node(&order.node) else { return vec!["its node does not exist".to_owned()] };
    if node.node.uid != order.node_uid {
        violations.push("its node is another machine".to_owned());
    }
    match world.policy(&order.policy) {
        None => violations.push("its policy does not exist".to_owned()),
        Some(entry) if entry.policy.paused => violations.push("its policy is paused".to_owned()),
        Some(_) => {}
    }
    let here = world.on_node(node);
    for pull in &order.pulls {
        let name = &pull.cached_image;
        let Some(entry) = world.image(name) else {
            violations.push(format!("{name} does not exist"));
            continue;
        };
        let Some(standing) = node.standings.get(name).copied() else {
            violations.push(format!("the node is not a target of {name}"));
            continue;
        };
        let policy = world.policy_of(&entry.image);
        if entry.image.pull == ImagePullPolicy::Never {
            violations.push(format!("{name} is never to be pulled"));
        }
        if standing == Standing::Cached && policy.is_none_or(|policy| policy.repull_interval.is_none()) {
            violations.push(format!("{name} is there already"));
        }
        let purposes: &[Purpose] =
            if standing.wants_pull() { &[Purpose::Pull, Purpose::Probe, Purpose::Ask] } else { &[Purpose::Ask] };
        let pair = Pair::new(&here, entry, standing, now);
        let held = |purpose: &Purpose| pair.as_ref()?.check_alone(*purpose, &BTreeSet::new()).err();
        if let Some(Some(held)) = purposes.iter().map(held).min_by_key(Option::is_some) {
            violations.push(format!("{name} begins, although: {}", held.verdict));
        }
    }
    violations
}

/// Checks that the limits of a policy hold with the new Pods.
fn audit_policy(world: &World, policy: &Name, orders: &[&PodOrder], now: Timestamp) -> Vec<String> {
    let Some(limits) = world.policy(policy).map(|entry| &entry.policy) else { return Vec::new() };
    let mut violations = Vec::new();
    let live: Vec<_> = world.pods().map(|entry| &entry.pod).filter(|pod| pod.policy == *policy).collect();
    let mut nodes: BTreeSet<&Name> = live.iter().map(|pod| &pod.node).collect();
    nodes.extend(orders.iter().map(|order| &order.node));
    if nodes.len() > limits.max_nodes {
        violations.push(format!("{} nodes pull, {} may", nodes.len(), limits.max_nodes));
    }
    let pulls = live.len() + orders.len();
    if limits.max_pulls.is_some_and(|limit| pulls > limit) {
        violations.push(format!("{pulls} Pods pull, {:?} may", limits.max_pulls));
    }
    if let Some(limit) = limits.max_pulls_per_registry {
        let mut hosts: BTreeMap<&str, usize> = BTreeMap::new();
        for pod in &live {
            for host in pod.busy_hosts().collect::<BTreeSet<_>>() {
                *hosts.entry(host).or_default() += 1;
            }
        }
        for order in orders {
            for host in order.pulls.iter().map(|pull| pull.reference.host()).collect::<BTreeSet<_>>() {
                let pods = hosts.entry(host).or_default();
                *pods += 1;
                if *pods > limit {
                    violations.push(format!("{pods} Pods pull from {host}, {limit} may"));
                }
            }
        }
    }
    let beginning: Vec<_> = orders.iter().filter(|order| order.begins_turn()).collect();
    if limits.min_delay > SignedDuration::ZERO {
        if beginning.len() > 1 {
            violations.push(format!("{} nodes begin at once", beginning.len()));
        }
        for order in beginning {
            for entry in world.pods().filter(|entry| entry.pod.policy == *policy) {
                let elapsed = entry.started_at.map(|at| now.duration_since(at));
                let is_other = entry.pod.node != order.node;
                if is_other && entry.begins_turn && elapsed.is_none_or(|elapsed| elapsed < limits.min_delay) {
                    violations.push(format!("{} begins too soon after {}", order.node, entry.pod.node));
                }
            }
        }
    }
    violations
}

/// Checks that a Pod is deleted only after its outcome is recorded, or when no CachedImage wants it, or while it is not
/// known whether it was created.
fn audit_deletion(world: &World, name: &Name) -> Option<String> {
    let entry = world.pod(name)?;
    if matches!(entry.stage, Stage::Requested(_)) {
        return None;
    }
    let pod = &entry.pod;
    let wanted = world.wants(pod);
    let node = world.node(&pod.node).filter(|node| node.node.uid == pod.node_uid)?;
    let recorded = world.memory_of(&node.node).is_some_and(|memory| memory.last_pod == pod.uid);
    (wanted && !recorded).then(|| "its outcome is not recorded".to_owned())
}
