//! Carries out what the planner wants: requests to the API server, one of several replicas at a time.

mod event;
mod execute;
pub mod lease;
mod pod;

pub use execute::{Executor, Resources};
