//! Whether an image is on a node.

use crate::memory::{Memory, Record};
use crate::reference::Reference;

/// What is known of an image on a node that should have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is there.
    Cached,
    /// It is not, and was not tried or is to be tried again.
    Missing,
    /// It is not, and the last pull failed.
    Failed,
}

/// Judges one image on one node by what Drop remembers of its pulls there.
#[must_use]
pub fn standing(memory: Option<&Memory>, image: &Reference) -> Standing {
    match memory.and_then(|memory| memory.images.get(image)) {
        Some(Record { pulled: Some(_), .. }) => Standing::Cached,
        Some(Record { failure: Some(_), .. }) => Standing::Failed,
        // What is missing on a node that fails as a whole fails with it.
        _ if memory.is_some_and(|memory| memory.node_failure.is_some()) => Standing::Failed,
        _ => Standing::Missing,
    }
}
