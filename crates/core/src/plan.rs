//! What to do now, and when to look again.

mod discoveries;
mod pods;
mod sets;
mod starts;
pub(crate) mod writes;

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::Name;
use crate::effect::{Effect, EffectKey};
use crate::reference::Reference;
use crate::world::World;

/// What to do now.
#[derive(Debug, Default)]
pub struct Plan {
    /// In the order in which they are to be begun; they do not wait for each other.
    pub effects: Vec<Effect>,
    /// When to plan again although nothing happened.
    pub wake_at: Option<Timestamp>,
    /// Objects that were found to be written as they should be.
    pub clean: Clean,
    /// What the statuses of CachedImages were found to be.
    pub images: Looks,
    /// What those of PullPolicies were found to be.
    pub policies: Looks,
    /// What the effects are about.
    keys: BTreeSet<EffectKey>,
    /// Nodes whose Pods have been pulling for so long that their NodeCaches say so.
    long_pulls: BTreeSet<Name>,
}

/// Objects of one kind whose statuses were looked at.
#[derive(Debug, Default)]
pub struct Looks {
    /// Those that are as they should be.
    pub clean: Vec<Name>,
    /// Those that differ: they are written with this plan, or later.
    pub(crate) differing: Vec<Name>,
    /// Those that need not be looked at before these times, unless something changes.
    pub(crate) deferred: Vec<(Name, Timestamp)>,
}

/// Objects whose written state is as it should be.
#[derive(Debug, Default)]
pub struct Clean {
    /// CachedImageSets.
    pub sets: Vec<Name>,
    /// Effects that were refused and are not wanted any more.
    pub flights: Vec<EffectKey>,
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

    /// The images whose pulls it starts, or asks for again.
    fn pulls(&self) -> impl Iterator<Item = &Reference> {
        let orders = self.effects.iter().filter_map(|effect| match effect {
            Effect::CreatePod(order) => Some(order),
            _ => None,
        });
        orders.flat_map(|order| order.pulls.iter().map(|pull| &pull.reference))
    }

    /// Whether it starts, or asks again for, a pull of `image`.
    fn starts(&self, image: &Reference) -> bool {
        self.pulls().any(|other| other == image)
    }

    /// Whether it starts a pull from the registry of `image`.
    fn tries_registry(&self, image: &Reference) -> bool {
        self.pulls().any(|other| other.host() == image.host())
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
    pods::tend_pods(world, now, &mut plan);
    starts::start_pulls(world, now, &mut plan);
    writes::record_nodes(world, now, &mut plan);
    writes::publish_images(world, now, &mut plan);
    discoveries::tend_discoveries(world, now, &mut plan);
    sets::tend_sets(world, now, &mut plan);
    writes::publish_policies(world, now, &mut plan);
    let stale = [&world.stale.images, &world.stale.policies, &world.stale.caches];
    stale.into_iter().filter_map(|stale| stale.next_after(now)).for_each(|at| plan.wake(at));
    for (at, _) in world.alarms.first().into_iter().chain(world.judgements.first()) {
        plan.wake(*at);
    }
    plan
}
