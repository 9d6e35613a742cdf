//! Turns watches of the API server into events for the planner.

mod convert;
mod observe;

pub use observe::{WRITTEN_BY_LEADERS, observe};
