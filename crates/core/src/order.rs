//! Who is served first.

use jiff::Timestamp;

use crate::Name;
use crate::image::Image;

/// How urgent an image is; the lesser goes first. Images whose last pull failed
/// come after all others, so that a failing image never delays another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Urgency {
    /// Its last pull here failed.
    pub retry: bool,
    /// Its priority.
    pub priority: i32,
    /// Its name, which decides between equals.
    pub image: Name,
}

impl Urgency {
    /// The urgency of `image`.
    #[must_use]
    pub fn new(image: &Image, retry: bool) -> Self {
        Self { retry, priority: image.priority, image: image.name.clone() }
    }
}

/// A node that waits for a pull of one policy; the lesser goes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Whether this would begin a turn: a node goes on with its turn first.
    pub begins_turn: bool,
    /// Its most urgent missing image.
    pub urgency: Urgency,
    /// When a pull was last started there: who waited longest wins ties.
    pub last_start: Option<Timestamp>,
    /// The node.
    pub node: Name,
}
