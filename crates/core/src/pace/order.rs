//! Who is served first.

use std::cmp::Reverse;

use jiff::Timestamp;

use crate::Name;

/// How urgent an image is on one node; the lesser goes first.
///
/// Fresh pulls go by priority. Retries come after them whatever their priority, so that an image
/// that fails never delays another, and go by time: the one that has waited longest is next. So no
/// name or priority lets one failing image take every turn of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// The image was not tried here yet, and does not fail elsewhere.
    Fresh {
        /// The image's priority.
        priority: i32,
        /// Its place in its set.
        rank: usize,
    },
    /// It was tried here, or fails elsewhere.
    Retry {
        /// From when on it no longer yields to fresh pulls.
        overdue_from: Timestamp,
        /// When it was last tried; what was never tried goes first.
        tried_at: Option<Timestamp>,
        /// Its place in its set. The kubelet pulls the images of a Pod in this order, so of those
        /// whose Pod timed out the last one is the least likely to have hung.
        rank: Reverse<usize>,
    },
}

impl Urgency {
    /// The least of all retries.
    pub const FIRST_RETRY: Self =
        Self::Retry { overdue_from: Timestamp::MIN, tried_at: None, rank: Reverse(usize::MAX) };

    /// Whether it is a retry.
    #[must_use]
    pub fn is_retry(&self) -> bool {
        matches!(self, Self::Retry { .. })
    }

    /// Whether it is a retry that has yielded to fresh pulls for long enough.
    #[must_use]
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        matches!(self, Self::Retry { overdue_from, .. } if *overdue_from <= now)
    }
}

/// A node that waits for a pull of one policy, with its most urgent fresh pull or its most urgent
/// retry; the lesser goes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Whether this would begin a turn: a node goes on with its turn first.
    pub begins_turn: bool,
    /// How urgent that is.
    pub urgency: Urgency,
    /// Since when it has missed images: who waits longest wins ties.
    pub waiting_since: Timestamp,
    /// The CachedImage that it is, which only decides between nodes that wait equally long.
    pub image: Name,
    /// The node.
    pub node: Name,
}
