//! Answers HTTP requests: probes, metrics, and what the planner has decided.

pub mod answers;
pub mod guard;
pub mod http;
pub mod listen;
pub mod tls;
