//! Drop's decisions.
//!
//! [`World`] is what the watches have told; [`plan`](plan::plan) derives from it
//! what to do now, and when to look again. Nothing here does I/O, reads a clock
//! or draws random numbers: the same events give the same plan.
//!
//! The order of work is always the same:
//!
//! 1. [`World::apply`] takes in each event,
//! 2. [`World::settle`] brings what is derived from them up to date,
//! 3. [`plan::plan`] decides, changing nothing,
//! 4. [`World::commit`] takes the plan's effects as done until their reports come.

pub mod audit;
pub mod backoff;
pub mod budget;
pub mod discovery;
pub mod effect;
pub mod event;
pub mod explain;
pub mod failure;
pub mod health;
pub mod image;
pub mod image_set;
pub mod interner;
pub mod inventory;
pub mod memory;
pub mod node;
pub mod notice;
pub mod order;
pub mod placement;
pub mod plan;
pub mod policy;
pub mod presence;
pub mod pull_pod;
pub mod reference;
pub mod registry;
pub mod settings;
pub mod status;
mod time;
pub mod verdict;
pub mod world;

pub use effect::Effect;
pub use event::Event;
pub use plan::{Plan, plan};
pub use settings::Settings;
pub use world::World;

/// A name or UID; cheap to copy, shared wherever it occurs.
pub type Name = std::sync::Arc<str>;
