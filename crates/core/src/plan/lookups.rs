//! Asks registries for the images whose look-up is due.

use jiff::Timestamp;

use crate::io::effect::{Effect, EffectKey};
use crate::io::plan::Plan;
use crate::world::World;

/// Asks registries for the images that are due.
pub(super) fn look_up(world: &World, now: Timestamp, plan: &mut Plan) {
    for key in world.due(now) {
        if let EffectKey::LookUp(image) = key {
            plan.add(world, Effect::LookUp(Box::new(world.inquiry(image))), now);
        }
    }
}
