//! The order in which pulls begin.

use std::cmp::{Ordering, Reverse};

use jiff::Timestamp;

use crate::Name;

/// How urgent an image is on one node; the lesser goes first.
///
/// Fresh pulls go by priority. All others come after them whatever their priority, so that an image
/// that fails never delays another, and go by time: the one that has waited longest is next. So no
/// name or priority lets one failing image take every turn of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// The image was not tried here yet, fails nowhere, and the node works.
    Fresh {
        /// The image's priority.
        priority: i32,
        /// Since when it is wanted, if it has waited for longer than an hour; else the last of all times. Otherwise new
        /// images with other names could go before it for ever.
        waits_since: Timestamp,
        /// Its place in its set.
        rank: usize,
    },
    /// It failed here or elsewhere, was refused, or may be the one of several that hung; or the node is in
    /// trouble, or its mirror lags behind the registry. One class for all, so that none of these kinds takes every
    /// turn of another.
    Late {
        /// From when on it no longer yields to fresh pulls.
        overdue_from: Timestamp,
        /// When it last failed; what was not tried yet goes first.
        tried_at: Option<Timestamp>,
        /// Its place in its set. The kubelet pulls the images of a Pod in this order, so of those
        /// whose Pod timed out the last one is the least likely to have hung.
        rank: Reverse<usize>,
    },
}

impl Urgency {
    /// The least of all that are not fresh.
    pub const FIRST_LATE: Self = Self::Late { overdue_from: Timestamp::MIN, tried_at: None, rank: Reverse(usize::MAX) };

    /// Whether it yields to fresh pulls.
    #[must_use]
    pub fn is_late(&self) -> bool {
        !matches!(self, Self::Fresh { .. })
    }

    /// Compares two images on a node: the lesser goes first. Names decide between equals: of late ones the last
    /// goes first, as of their ranks.
    #[must_use]
    pub fn compare(&self, image: &Name, other: &Self, other_image: &Name) -> Ordering {
        let by_name = if self.is_late() { other_image.cmp(image) } else { image.cmp(other_image) };
        self.cmp(other).then(by_name)
    }

    /// The part of it that counts between nodes, and between policies on one node. There a place in a set tells nothing: its
    /// first image would go before the second one of all that have waited longer.
    #[must_use]
    pub fn between_nodes(&self) -> Self {
        match *self {
            Self::Fresh { priority, .. } => Self::Fresh { priority, waits_since: Timestamp::MAX, rank: 0 },
            late @ Self::Late { .. } => late,
        }
    }

    /// Whether it has yielded to fresh pulls for long enough.
    #[must_use]
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        match self {
            Self::Fresh { .. } => false,
            Self::Late { overdue_from, .. } => *overdue_from <= now,
        }
    }
}

/// A node that waits for a pull of one policy, with its most urgent fresh pull or its most urgent
/// retry; the lesser goes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Whether this would begin a turn: a node goes on with its turn first.
    pub begins_turn: bool,
    /// How urgent that is.
    pub urgency: Urgency,
    /// Since when it has missed images: between equals the node that has waited longest goes first.
    pub waiting_since: Timestamp,
    /// The CachedImage that it is, which only decides between nodes that wait equally long.
    pub image: Name,
    /// The node.
    pub node: Name,
}

impl Candidate {
    fn order(&self) -> (bool, Urgency, Timestamp, Urgency, &Name, &Name) {
        let Self { begins_turn, urgency, waiting_since, image, node } = self;
        (*begins_turn, urgency.between_nodes(), *waiting_since, *urgency, image, node)
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
