//! Runs DiscoveryPolicies when they are due, and writes their statuses.

use jiff::Timestamp;

use super::writes;
use crate::Name;
use crate::discovery::{Order, sync};
use crate::io::effect::{Effect, EffectKey};
use crate::io::notice;
use crate::io::plan::{Look, Plan};
use crate::world::World;

/// Asks the sources of policies that are due, and writes statuses.
pub(super) fn tend_discoveries(world: &World, now: Timestamp, plan: &mut Plan) {
    for key in world.due(now) {
        match key {
            EffectKey::Discovery(name) => ask(world, name, now, plan),
            EffectKey::DiscoveryStatus(name) => {
                let look = publish(world, name, now, plan);
                plan.looks.push((key.clone(), look));
            }
            _ => {}
        }
    }
}

fn ask(world: &World, name: &Name, now: Timestamp, plan: &mut Plan) {
    let Some(entry) = world.discovery(name) else { return };
    let Ok(pipeline) = &entry.pipeline else { return };
    let order = Order {
        policy: name.clone(),
        spec: entry.id.clone(),
        pipeline: pipeline.clone(),
        nodes: world.nodes_counted_by(&entry.spec),
        listed: entry.listed(),
    };
    plan.add(world, Effect::Discover(Box::new(order)), now);
}

fn publish(world: &World, name: &Name, now: Timestamp, plan: &mut Plan) -> Look {
    let Some(entry) = world.discovery(name) else { return Look::Clean };
    let status = match (&entry.pipeline, &entry.outcome) {
        (Err(error), _) => sync::invalid(error, &entry.id, &entry.published.status, now),
        (Ok(_), Some(status)) => status.clone(),
        (Ok(_), None) => return Look::Clean,
    };
    let notice = notice::of_discovery(name, &entry.id, &entry.published.status, &status);
    let effect = |status| Effect::PatchDiscovery { policy: name.clone(), status };
    writes::publish(world, &entry.published, status, notice, now, plan, effect)
}
