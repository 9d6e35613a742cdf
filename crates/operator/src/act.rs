//! Carries out the planner's effects: requests to the API server, by one of several replicas at a time.

mod event;
mod execute;
pub mod lease;
mod pod;

pub use execute::{Executor, Resources};
