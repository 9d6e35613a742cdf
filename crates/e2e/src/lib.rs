//! Shared code of the tests against a real cluster. A [`Bed`] is a cluster with an operator, and a record of all
//! objects that were ever seen in it.

mod bed;
mod fleet;
mod front;
mod https;
mod operator;
pub mod requests;
mod sight;

use std::path::{Path, PathBuf};

pub use bed::Bed;
pub use fleet::Fleet;
pub use front::pass_on;
pub use https::Scraper;
pub use operator::{Operator, binary as operator_binary};
pub use sight::{SeenEvent, SeenPod, Sight};

/// The repository's root.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
