//! Answers HTTP requests: probes, metrics, and the planner's decisions.

pub mod answers;
pub mod guard;
pub mod http;
pub mod listen;
pub mod tls;
