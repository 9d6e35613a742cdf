//! Performs one step of Drop: from the events to the effects.

use jiff::Timestamp;

use crate::audit::audit;
use crate::io::plan::Plan;
use crate::plan::plan;
use crate::world::World;

/// Settles the world, plans, lets `check` examine the plan, and treats its effects as done until their reports come. A
/// replica that does not lead only settles, and gets no plan.
///
/// `check` gets the world and the plan before anything is committed. Its result is returned with the plan.
pub fn step<T>(
    world: &mut World,
    now: Timestamp,
    leads: bool,
    check: impl FnOnce(&World, &mut Plan) -> T,
) -> Option<(Plan, T)> {
    if leads {
        world.begin_to_ask(now);
    }
    world.settle(now);
    if !leads {
        return None;
    }
    let mut plan = plan(world, now);
    let checked = check(world, &mut plan);
    world.commit(&plan, now);
    Some((plan, checked))
}

/// Returns the invariants that a plan violates, in builds that check them; otherwise none.
#[must_use]
pub fn violations(world: &World, plan: &Plan, now: Timestamp) -> Vec<String> {
    if cfg!(debug_assertions) { audit(world, plan, now) } else { Vec::new() }
}
