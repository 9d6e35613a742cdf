//! The order in which pulls begin.

use std::cmp::{Ordering, Reverse};

use jiff::Timestamp;

use crate::Name;

/// How urgent an image is on one node; the lesser goes first.
///
/// Fresh pulls go by priority. All others come after them, whatever their priority, so that a failing image never
/// delays another one. They go by time: the image that has waited longest is next. So no name or priority lets one
/// failing image take every turn of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// The image was not tried here yet, or only failed once with the node; it fails nowhere, and the node works.
    Fresh {
        /// The image's priority.
        priority: i32,
        /// The hour since when it has waited on the node, if that is more than an hour ago; else the last of all times.
        /// Otherwise new images with other names could go before it for ever.
        waits_since: Timestamp,
        /// Its place in its set.
        rank: usize,
    },
    /// The image failed here or elsewhere, was denied, or may be the one of several that hung; or the node fails, or
    /// its mirror lags behind the registry. All of these are one class, so that none of them takes every turn of
    /// another.
    Late {
        /// The time from which it no longer yields to fresh pulls.
        overdue_from: Timestamp,
        /// When it last failed; an image that was not tried yet goes first.
        tried_at: Option<Timestamp>,
        /// Its place in its set. The kubelet pulls the images of a Pod in this order. If a Pod timed out, its last
        /// image is the least likely to have hung.
        rank: Reverse<usize>,
    },
}

impl Urgency {
    /// The least urgency that is not fresh.
    pub const FIRST_LATE: Self = Self::Late { overdue_from: Timestamp::MIN, tried_at: None, rank: Reverse(usize::MAX) };

    /// Whether it yields to fresh pulls.
    #[must_use]
    pub fn is_late(&self) -> bool {
        !matches!(self, Self::Fresh { .. })
    }

    /// Compares two images on a node: the lesser goes first. Of equals, names decide. Of late images the last name goes
    /// first, as with their ranks.
    #[must_use]
    pub fn compare(&self, image: &Name, other: &Self, other_image: &Name) -> Ordering {
        let by_name = if self.is_late() { other_image.cmp(image) } else { image.cmp(other_image) };
        self.cmp(other).then(by_name)
    }

    /// Returns the part that counts between nodes, and between policies on one node. The place in a set does not count
    /// there: the first image of a set would go before the second image of every node that has waited longer.
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

/// A node that waits for a pull of one policy, with its most urgent fresh pull or its most urgent retry; the lesser
/// goes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Whether this pull would begin a turn: nodes that go on with their turn come first.
    pub begins_turn: bool,
    /// How urgent the pull is.
    pub urgency: Urgency,
    /// Since when the node has lacked images of the policy: of equals, the node that has waited longest goes first.
    pub waiting_since: Timestamp,
    /// The CachedImage, which only decides between nodes that wait equally long.
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
