//! Drop's decisions.
//!
//! [`World`] holds the facts that the watches have shown. [`plan`](plan()) derives from it
//! the effects for now, and the time of the next plan. Nothing here does I/O, reads a clock
//! or draws random numbers: the same events give the same plan.
//!
//! [`World::apply`] records each event. Then one [`step`](step()) does the rest, always in this order:
//!
//! 1. [`World::settle`] brings up to date the state that is derived from the events,
//! 2. [`plan`](plan()) decides, changing nothing,
//! 3. [`audit`](audit::audit) checks the invariants, in debug builds and tests,
//! 4. [`World::commit`] treats the plan's effects as done until their reports come.

pub mod audit;
pub mod discovery;
mod gate;
pub mod interner;
mod io;
mod look_up;
mod name;
mod objects;
mod pace;
mod plan;
pub mod settings;
mod show;
mod step;
mod text;
mod time;
pub mod world;

pub use gate::verdict;
pub use io::effect::Effect;
pub use io::event::Event;
pub use io::plan::{Look, Plan};
pub use io::{effect, event, lookup, notice};
pub use name::Name;
pub use objects::{
    failure, image, image_set, inventory, manifest, memory, newest, node, placement, policy, presence, pull_pod,
    reference,
};
pub use pace::{backoff, clock, order};
pub use plan::plan;
pub use settings::Settings;
pub use show::{explain, survey};
pub use step::{step, violations};
pub use world::World;
