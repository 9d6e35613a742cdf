//! Records the outcomes of Pods, and deletes Pods.

use drop_api::NodeCache;
use jiff::Timestamp;

use crate::io::effect::{Effect, EffectKey, PodOrder};
use crate::io::notice;
use crate::io::plan::Plan;
use crate::objects::memory::{Context, Memory, Settlement};
use crate::objects::policy::Policy;
use crate::objects::pull_pod::{Container, End, Expectations, PullPod};
use crate::objects::reference::Reference;
use crate::show::status;
use crate::time::after;
use crate::world::{NodeEntry, PodEntry, Stage, World};

/// Records Pods that have ended, deletes them once that is recorded, and deletes Pods that are no longer wanted.
pub(super) fn tend_pods(world: &World, now: Timestamp, plan: &mut Plan) {
    for entry in world.pods() {
        let pod = &entry.pod;
        let wanted = world.wants(pod);
        let of_name = world.node(&pod.node);
        let node = of_name.filter(|node| node.node.uid == pod.node_uid);
        match &entry.stage {
            Stage::Requested(order) if wanted && world.may_still_start(order) => {
                plan.add(world, Effect::CreatePod(order.clone()), now);
                continue;
            }
            Stage::Requested(order) => {
                // Until the request to create the Pod has ended, it is not known whether the Pod exists.
                if world.is_free(&EffectKey::CreatePod(order.name.clone()), now) {
                    plan.add(world, Effect::DeletePod { pod: pod.name.clone(), uid: None, force: false }, now);
                } else {
                    plan.wake_for(world, &EffectKey::CreatePod(order.name.clone()));
                }
                continue;
            }
            Stage::Created(at) => {
                let check_at = after(*at, world.settings().confirm_within);
                if check_at <= now {
                    plan.add(world, Effect::CheckPod { pod: pod.name.clone() }, now);
                } else {
                    plan.wake(check_at);
                }
            }
            Stage::Observed | Stage::Gone => {}
        }
        let is_gone = matches!(entry.stage, Stage::Gone);
        // A kubelet completes a pull that is no longer wanted, so its progress is still recorded.
        let shown_at = after(entry.steps.created, world.settings().record_within);
        if shown_at > now {
            plan.wake(shown_at);
        } else if !is_gone && !world.is_recorded(entry) {
            plan.long_pulls.insert(pod.node.clone());
        }
        // Whichever machine it belongs to, no other kubelet will report that it has ended.
        let lost_at = of_name.and_then(|node| world.lost_at(node));
        let is_lost = lost_at.is_some_and(|at| at <= now);
        lost_at.filter(|_| !is_lost).into_iter().for_each(|at| plan.wake(at));
        let Some(node) = node.filter(|_| wanted && !world.is_recorded(entry)) else {
            // The answer to the deletion of a Pod that is gone says so.
            if !pod.terminating || is_lost || is_gone {
                let effect = Effect::DeletePod { pod: pod.name.clone(), uid: pod.uid.clone(), force: is_lost };
                plan.add(world, effect, now);
            }
            continue;
        };
        let Some(policy) = world.policy_or_built_in(&pod.policy) else { continue };
        let expected = Expectations {
            pull_timeout: policy.pull_timeout,
            tells_sandbox: node.node.tells_sandbox,
            settings: world.settings(),
        };
        let cut_short = is_gone.then_some(End::Deleted).or(is_lost.then_some(End::Lost));
        match pod.end(&entry.steps, &expected, now).or(cut_short) {
            // No plan repeats a write that is under way.
            Some(_) if !world.is_free(&EffectKey::Record(pod.node.clone()), now) => {
                plan.wake_for(world, &EffectKey::Record(pod.node.clone()));
            }
            Some(end) => record_pod(world, node, entry, policy, &end, now, plan),
            None => plan.wake(PullPod::deadline(&entry.steps, &expected).0),
        }
    }
}

/// Writes the NodeCache with the outcome of a Pod, and a notice about a node that begins to fail or works again.
fn record_pod(
    world: &World,
    node: &NodeEntry,
    entry: &PodEntry,
    policy: &Policy,
    end: &End,
    now: Timestamp,
    plan: &mut Plan,
) {
    let context = Context {
        now,
        platform: &node.node.platform,
        was_up: entry.steps.sandbox_up.is_some()
            || !node.node.tells_sandbox && entry.pod.containers.iter().any(Container::is_reported),
        backoff: &policy.backoff,
        began_turn_at: entry.begins_turn.then(|| entry.started_at.unwrap_or(now)),
        rounds: &|image| world.rounds_on(image, &node.node.name, &policy.backoff),
    };
    let nothing = Memory::default();
    let before = world.memory_of(&node.node).unwrap_or(&nothing);
    let (mut memory, settlements) = before.with(&entry.pod, end, &context);
    for (image, record) in &mut memory.images {
        if record.failure.as_ref().is_none_or(|failure| failure.at != now) {
            continue;
        }
        let retry_at = world.next_try(image, &node.node, record, &policy.backoff);
        record.failure.iter_mut().for_each(|failure| failure.retry_at = retry_at);
    }
    let told = notice::of_node(&node.node, before.node_failure.as_ref(), memory.node_failure.as_ref());
    plan.add(world, Draft::new(world, node, memory, now).write(settlements), now);
    let told = told.filter(|notice| node.told.as_ref() != Some(&notice.reason));
    told.into_iter().for_each(|notice| plan.add(world, Effect::Tell(Box::new(notice)), now));
}

/// A NodeCache in its current state.
pub(super) struct Draft {
    pub(super) memory: Memory,
    /// The fields that `memory` does not hold.
    pub(super) object: NodeCache,
    evictions: usize,
}

impl Draft {
    /// Drafts the NodeCache with this memory, updated from the node's list of images.
    pub(super) fn new(world: &World, node: &NodeEntry, memory: Memory, now: Timestamp) -> Self {
        let group = world.group_on(node);
        let (mut memory, evictions) = world.with_sightings(node, &group, memory, now);
        let is_wanted = |image: &Reference| group.has(image) || world.is_meant_for(image, &node.node);
        memory.prune(is_wanted, |policy| world.policy(policy).is_some(), now);
        let mut object = status::node_cache(world, node, &group, &memory, now);
        // If the object is newer than the known state, the API server denies the write.
        let known = world.cache(&node.node.name).map(|entry| &entry.object.metadata);
        object.metadata.resource_version = known.and_then(|known| known.resource_version.clone());
        Self { memory, object, evictions }
    }

    /// Returns the effect that writes it with these outcomes.
    pub(super) fn write(mut self, settlements: Vec<Settlement>) -> Effect {
        self.memory.remember(self.object.status.get_or_insert_default());
        Effect::RecordNode { cache: Box::new(self.object), settlements, evictions: self.evictions }
    }
}

impl World {
    /// Whether a Pod that may not exist yet may be requested again.
    fn may_still_start(&self, order: &PodOrder) -> bool {
        let policy = self.policy(&order.policy).map(|entry| &entry.policy);
        let node = self.node(&order.node).map(|entry| &entry.node);
        policy.is_some_and(|policy| !policy.paused) && node.is_some_and(|node| node.uid == order.node_uid)
    }
}
