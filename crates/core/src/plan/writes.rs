//! Writes the NodeCaches and statuses that differ.

use std::collections::BTreeSet;

use drop_api::condition::{self, Condition};
use jiff::{SignedDuration, Timestamp};

use super::pods::Draft;
use crate::Name;
use crate::io::effect::{Effect, EffectKey};
use crate::io::notice::{self, Notice};
use crate::io::plan::{Look, Plan};
use crate::pace::backoff::Backoff;
use crate::show::status;
use crate::time::after;
use crate::world::published::is_progress;
use crate::world::{CacheEntry, ImageEntry, Lookup, NodeEntry, Published, Status, World};

/// Updates NodeCaches that differ for other reasons than a Pod's outcome.
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

/// Returns the write of a node's NodeCache, if that differs from its current state.
pub(crate) fn differing_cache(world: &World, node: &NodeEntry, has_long_pull: bool, now: Timestamp) -> Option<Effect> {
    let is_its = |cache: &&CacheEntry| *cache.object.spec.node_uid == *node.node.uid;
    let current = world.cache(&node.node.name).filter(is_its);
    let has_any = node.standings.values().any(|standing| standing.is_there());
    if current.is_none() && !has_any && !has_long_pull {
        // A node without any of its images needs no NodeCache.
        return None;
    }
    let memory = world.memory_of(&node.node).cloned().unwrap_or_default();
    let draft = Draft::new(world, node, memory, now);
    let says_the_same = |current: &CacheEntry| {
        current.object.status == draft.object.status && draft.memory.is_not_worth_a_write_after(&current.memory)
    };
    (!current.is_some_and(says_the_same)).then(|| draft.write(Vec::new()))
}

pub(super) fn publish_images(world: &World, now: Timestamp, plan: &mut Plan) {
    let shared = status::Shared::default();
    let started = plan.pulls();
    for key in world.due(now) {
        let EffectKey::Image(name) = key else { continue };
        let Some(entry) = world.image(name) else {
            plan.looks.push((key.clone(), Look::Clean));
            continue;
        };
        if started.contains(&entry.image.reference) {
            // The status would be out of date at once: the report of the creation follows.
            continue;
        }
        if !world.is_free(key, now) {
            plan.wake_for(world, key);
            continue;
        }
        let status = status::cached_image(world, entry, &shared, now);
        // A new child of a set shows nothing that its set does not show.
        let is_new_child = entry.image.set.is_some() && entry.published.status.conditions.is_empty();
        if is_new_child && is_progress(&status.conditions) {
            let shown_at = after(entry.seen_at, world.settings().progress_interval);
            if shown_at > now {
                plan.wake(shown_at);
                plan.looks.push((key.clone(), Look::Deferred(shown_at)));
                continue;
            }
        }
        // An answer that is due within seconds decides the status.
        let answer_due_by = world.lookup_of(entry).and_then(Lookup::holds_until).filter(|at| *at > now);
        if let Some(at) = answer_due_by.filter(|_| entry.tally.there() < entry.tally.targeted()) {
            plan.wake(at);
            plan.looks.push((key.clone(), Look::Deferred(at)));
            continue;
        }
        let notice = notice::of_image(&entry.image, &entry.published.status, &status);
        let notice = notice.filter(|notice| notice.reason != notice::CACHED || !is_roll_out(world, entry, now));
        let effect = |status| Effect::PatchImage { image: name.clone(), status };
        let look = publish(world, &entry.published, status, notice, now, plan, effect);
        plan.looks.push((key.clone(), look));
    }
}

/// If at most this many CachedImages without a set are cached under one policy within [`ROLL_OUT_WITHIN`], each gets an
/// Event. More are a roll-out: 30 images would cause 30 Events with the contents of the statuses.
const CACHED_AT_ONCE: usize = 3;
const ROLL_OUT_WITHIN: SignedDuration = SignedDuration::from_mins(10);

/// Whether an image is cached as part of a roll-out.
fn is_roll_out(world: &World, image: &ImageEntry, now: Timestamp) -> bool {
    let of_policy = world.images().filter(|other| other.image.policy == image.image.policy);
    let ready = of_policy
        .filter(|other| other.image.set.is_none())
        .filter_map(|other| condition::ready(&other.published.status.conditions));
    let is_new = |ready: &&Condition| after(ready.last_transition_time, ROLL_OUT_WITHIN) > now;
    let cached = ready.filter(|ready| ready.reason == notice::CACHED).filter(is_new);
    cached.take(CACHED_AT_ONCE).count() == CACHED_AT_ONCE
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

/// Writes `status` if it differs and its time has come, and reports the change.
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
        // Progress is written at growing intervals: a roll-out of hours needs no update every second.
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
