//! When DiscoveryPolicies ask their sources, and what they show.

use jiff::Timestamp;

use super::writes;
use crate::discovery::{Order, sync};
use crate::io::effect::Effect;
use crate::io::notice;
use crate::io::plan::Plan;
use crate::world::World;

/// Asks the sources of policies whose time has come, and writes statuses.
pub(super) fn tend_discoveries(world: &World, now: Timestamp, plan: &mut Plan) {
    for (name, entry) in &world.discoveries {
        if let (Ok(pipeline), Some(at)) = (&entry.pipeline, entry.next_at) {
            if at > now {
                plan.wake(at);
            } else {
                let order = Order {
                    policy: name.clone(),
                    spec: entry.id.clone(),
                    pipeline: pipeline.clone(),
                    nodes: world.nodes_counted_by(&entry.spec),
                };
                plan.add(world, Effect::Discover(Box::new(order)), now);
            }
        }
        let status = match (&entry.pipeline, &entry.outcome) {
            (Err(error), _) => sync::invalid(error, &entry.id, &entry.published.status, now),
            (Ok(_), Some(status)) if entry.published.is(status) => continue,
            (Ok(_), Some(status)) => status.clone(),
            (Ok(_), None) => continue,
        };
        let notice = notice::of_discovery(name, &entry.id, &entry.published.status, &status);
        let effect = |status| Effect::PatchDiscovery { policy: name.clone(), status };
        writes::publish(world, &entry.published, status, notice, now, plan, effect);
    }
}
