//! Who is served first.

use jiff::Timestamp;

use crate::Name;

/// How urgent an image is on one node; the lesser goes first. Images whose last
/// pull failed come after all others, so that a failing image never delays
/// another, until they have waited too long.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Urgency {
    /// Its last pull here failed, not too long ago.
    pub retry: bool,
    /// Its priority.
    pub priority: i32,
    /// Its place in its set.
    pub rank: usize,
    /// Its name, which decides between equals.
    pub image: Name,
}

/// A node that waits for a pull of one policy; the lesser goes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Whether this would begin a turn: a node goes on with its turn first.
    pub begins_turn: bool,
    /// Whether its most urgent missing image is a retry.
    pub retry: bool,
    /// That image's priority.
    pub priority: i32,
    /// Since when it has missed images: who waits longest wins ties.
    pub waiting_since: Timestamp,
    /// The node.
    pub node: Name,
}
