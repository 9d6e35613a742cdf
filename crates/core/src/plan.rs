//! Plans the effects for now, and the time of the next plan.

mod discoveries;
mod lookups;
mod pods;
mod sets;
mod starts;
pub(crate) mod writes;

use jiff::Timestamp;

use crate::io::effect::{Effect, EffectKey};
use crate::io::plan::Plan;
use crate::world::World;

impl Plan {
    /// Adds `effect`, unless one with the same subject is under way or waits for a retry.
    fn add(&mut self, world: &World, effect: Effect, now: Timestamp) {
        let key = effect.key();
        if self.keys.contains(&key) {
            // The plan has a Pod for this node already: a second one is planned after the report on the first.
        } else if world.is_free(&key, now) {
            self.keys.insert(key);
            self.effects.push(effect);
        } else {
            self.wake_for(world, &key);
        }
    }

    /// Plans again when a failed effect is due for a retry.
    fn wake_for(&mut self, world: &World, key: &EffectKey) {
        world.retry_at(key).into_iter().for_each(|at| self.wake(at));
    }
}

/// Plans the effects for now. `world` must be settled as of `now`.
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
    lookups::look_up(world, now, &mut plan);
    discoveries::tend_discoveries(world, now, &mut plan);
    sets::tend_sets(world, now, &mut plan);
    writes::publish_policies(world, now, &mut plan);
    world.next_moment(now).into_iter().for_each(|at| plan.wake(at));
    plan
}
