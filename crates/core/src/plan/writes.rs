//! What to write: NodeCaches and statuses.

use std::cell::OnceCell;
use std::collections::BTreeSet;

use drop_api::NodeCache;
use jiff::Timestamp;

use super::pods::record;
use crate::Name;
use crate::interner::Texts;
use crate::io::effect::{Effect, EffectKey};
use crate::io::notice::{self, Notice};
use crate::io::plan::{Look, Plan};
use crate::objects::memory::{self, Memory};
use crate::pace::backoff::Backoff;
use crate::show::status::{self, Status};
use crate::time::after;
use crate::world::published::is_progress;
use crate::world::{CacheEntry, NodeEntry, Published, World};

/// Brings NodeCaches up to date that differ for other reasons than a Pod's outcome.
pub(super) fn record_nodes(world: &World, now: Timestamp, plan: &mut Plan) {
    let long_pulls = std::mem::take(&mut plan.long_pulls);
    let due = world.due(now).filter_map(|key| match key {
        EffectKey::Record(node) => Some(node),
        _ => None,
    });
    let due: BTreeSet<&Name> = due.chain(&long_pulls).collect();
    for name in due {
        let key = EffectKey::Record(name.clone());
        let recording = plan.keys.contains(&key);
        let Some(node) = world.node(name).filter(|_| !recording) else { continue };
        if !world.is_free(&key, now) {
            plan.wake_for(world, &key);
            continue;
        }
        match differing_cache(world, node, long_pulls.contains(name), now) {
            Some(effect) => plan.add(world, effect, now),
            None => plan.looks.push((key, Look::Clean)),
        }
    }
}

/// A node's NodeCache as it should be, unless it is.
pub(crate) fn differing_cache(world: &World, node: &NodeEntry, has_long_pull: bool, now: Timestamp) -> Option<Effect> {
    let is_its = |cache: &&CacheEntry| *cache.object.spec.node_uid == *node.node.uid;
    let current = world.cache(&node.node.name).filter(is_its);
    let has_any = node.standings.values().any(|standing| standing.is_there());
    if current.is_none() && !has_any && !has_long_pull {
        // There is nothing to say of a node that has none of what it should have.
        return None;
    }
    let memory = world.memory_of(&node.node).cloned().unwrap_or_default();
    let effect = record(world, node, memory, Vec::new(), now);
    let Effect::RecordNode { cache, .. } = &effect else { return None };
    let is_unchanged = current.is_some_and(|current| says_the_same(current, cache));
    (!is_unchanged).then_some(effect)
}

/// Whether `cache` differs from the object that is there in nothing that is worth a
/// write. An image's size, which is known a while after its pull, that a policy is gone, and what is remembered
/// no longer go with the next write.
fn says_the_same(current: &CacheEntry, cache: &NodeCache) -> bool {
    let mut status = cache.status.clone().unwrap_or_default();
    let mut memory = Memory::from_api(&status, &mut Texts::default());
    memory::forget(&mut status);
    memory.starts.clone_from(&current.memory.starts);
    memory.keep_unwanted(&current.memory);
    for (image, record) in &mut memory.images {
        record.size = current.memory.images.get(image).and_then(|known| known.size);
    }
    current.object.status.as_ref() == Some(&status) && current.memory == memory
}

pub(super) fn publish_images(world: &World, now: Timestamp, plan: &mut Plan) {
    let budget = OnceCell::new();
    let started = plan.pulls();
    for key in world.due(now) {
        let EffectKey::Image(name) = key else { continue };
        let Some(entry) = world.image(name) else {
            plan.looks.push((key.clone(), Look::Clean));
            continue;
        };
        if started.contains(&entry.image.reference) {
            // It is about to be out of date: the report of the creation follows.
            continue;
        }
        if !world.is_free(key, now) {
            plan.wake_for(world, key);
            continue;
        }
        let status = status::cached_image(world, entry, &budget, now);
        // What a set has only just made has nothing to show yet that its set does not.
        let is_new_child = entry.image.set.is_some() && entry.published.status.conditions.is_empty();
        if is_new_child && is_progress(&status.conditions) {
            let shown_at = after(entry.seen_at, world.settings().progress_interval);
            if shown_at > now {
                plan.wake(shown_at);
                plan.looks.push((key.clone(), Look::Deferred(shown_at)));
                continue;
            }
        }
        let notice = notice::of_image(&entry.image, &entry.published.status.conditions, &status.conditions);
        let effect = |status| Effect::PatchImage { image: name.clone(), status };
        let look = publish(world, &entry.published, status, notice, now, plan, effect);
        plan.looks.push((key.clone(), look));
    }
}

pub(super) fn publish_policies(world: &World, now: Timestamp, plan: &mut Plan) {
    for key in world.due(now) {
        let EffectKey::Policy(name) = key else { continue };
        let Some(entry) = world.policy(name).filter(|_| !name.is_empty()) else {
            plan.looks.push((key.clone(), Look::Clean));
            continue;
        };
        let status = status::pull_policy(world, &entry.policy, &entry.published.status, now);
        let effect = |status| Effect::PatchPolicy { policy: name.clone(), status };
        let look = publish(world, &entry.published, status, None, now, plan, effect);
        plan.looks.push((key.clone(), look));
    }
}

/// Writes `status` where it differs, when its time has come, and tells of what has
/// changed.
pub(super) fn publish<S: Status>(
    world: &World,
    published: &Published<S>,
    status: S,
    notice: Option<Notice>,
    now: Timestamp,
    plan: &mut Plan,
    effect: impl FnOnce(Box<S>) -> Effect,
) -> Look {
    if published.is(&status) {
        return Look::Clean;
    }
    match world.next_write(published, status.is_urgent_after(&published.status)).filter(|at| *at > now) {
        Some(at) => {
            plan.wake(at);
            Look::Later(at)
        }
        None => {
            let patch = effect(Box::new(status));
            if let Some(notice) = notice.filter(|_| world.is_free(&patch.key(), now)) {
                plan.add(world, Effect::Tell(Box::new(notice)), now);
            }
            plan.add(world, patch, now);
            Look::Written
        }
    }
}

impl World {
    /// The earliest time at which a status may be written.
    fn next_write<S>(&self, published: &Published<S>, urgent: bool) -> Option<Timestamp> {
        // Progress is shown at ever longer intervals: a roll-out that takes hours need
        // not be followed by the second.
        let progress =
            Backoff { initial: self.settings().progress_interval, max: self.settings().progress_interval * 6 };
        let interval = match urgent {
            true => self.settings().status_interval,
            false if published.is_part => progress.max,
            false => progress.nominal(published.progress + 1),
        };
        published.written_at.map(|at| after(at, interval))
    }
}
