//! Finds the images that matter: the answers of backends become signals, and signals become a
//! ranking.
//!
//! Nothing here talks to a backend. The operator fetches an [`Answer`] per query, and [`Pipeline`] does the rest. It is
//! the same for both forms of a DiscoveryPolicy.

mod aggregate;
mod answer;
mod failure;
mod left_out;
mod names;
mod pipeline;
mod pull_event;
mod query;
mod ranking;
mod signal;
pub(crate) mod sync;
mod tag_order;
mod tags;
mod window;

pub use answer::{Answer, End, PullEvent, Repository, Sample, Series};
pub use failure::{SourceFailure, SourceReason};
pub use left_out::{LeftOut, Why};
pub use pipeline::{MOST_IMAGES, Measured, Pipeline, Ranked, RankedImage, score_text};
pub use query::{Backend, Query};
pub use ranking::Model;
pub use sync::{Discovered, HELD_FOR, Order, SourceOutcome, SpecId};
pub use tags::registry_name;

/// The spec asks for something impossible: reason `InvalidSpec`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct InvalidSpec {
    /// The field: `signals[0].timeWeightedAggregate.timezone`.
    pub path: String,
    /// The fault and the remedy.
    pub message: String,
}

impl InvalidSpec {
    fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

/// Compiles the regular expression in the field `path`.
fn regex(path: &str, pattern: &str) -> Result<regex::Regex, InvalidSpec> {
    regex::Regex::new(pattern).map_err(|error| {
        InvalidSpec::new(path, format!("not a regular expression (https://docs.rs/regex/1/regex/#syntax): {error}"))
    })
}
