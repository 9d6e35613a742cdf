//! Which images matter: what backends answer becomes signals, signals become a
//! ranking.
//!
//! Nothing here talks to a backend. The operator fetches an [`Answer`] per query
//! and hands it in.

mod answer;
mod failure;

pub use answer::{Answer, PullEvent, Repository, Sample, Series};
pub use failure::{SourceFailure, SourceReason};
