//! What people are told of by Kubernetes Events: an object's changes of state, each
//! once. How far a roll-out is and which node comes next is no such change.

use drop_api::condition::{self, Condition};

use crate::Name;
use crate::failure::shortened;
use crate::image::Image;

/// The longest message of a [`Notice`], in characters: an Event takes 1 kB, and a
/// character may take four bytes.
const MAX_MESSAGE: usize = 250;

/// A change of an object's state that is worth an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The object's kind, of Drop's API group.
    pub kind: &'static str,
    /// Its name.
    pub name: Name,
    /// Its UID.
    pub uid: Name,
    /// Whether it is a change for the worse.
    pub is_warning: bool,
    /// What changed, in one CamelCase word.
    pub reason: String,
    /// The same as a sentence.
    pub message: String,
}

/// What a Ready reason of a CachedImage means for those who wait for it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// On all its nodes.
    Cached,
    /// On its way, or about to be.
    Progress,
    /// Was removed from a node.
    Evicted,
    /// Nothing is done, by somebody's will.
    Idle,
    /// A pull failed.
    Failing,
}

impl State {
    fn of(condition: &Condition) -> Self {
        match condition.reason.as_str() {
            "Cached" => Self::Cached,
            "Waiting" | "Pulling" => Self::Progress,
            "Evicted" => Self::Evicted,
            "NoMatchingNodes" | "Paused" | "PullPolicyNotFound" => Self::Idle,
            _ => Self::Failing,
        }
    }
}

/// What is worth telling of a CachedImage whose conditions change.
///
/// It is derived from what the API shows, so that nothing is told again after a
/// restart or by another leader.
#[must_use]
pub fn of_image(image: &Image, before: &[Condition], after: &[Condition]) -> Option<Notice> {
    let after = condition::ready(after)?;
    let before = condition::ready(before).map_or(State::Progress, State::of);
    let (is_warning, reason) = match (before, State::of(after)) {
        (State::Failing, State::Failing) => return None,
        (_, State::Failing) => (true, after.reason.as_str()),
        // While it is repaired it goes to and fro between these two, node by node.
        (State::Cached, State::Evicted) => (true, "Evicted"),
        (State::Failing, State::Cached | State::Progress) => (false, "Recovered"),
        (State::Progress | State::Evicted | State::Idle, State::Cached) => (false, "Cached"),
        _ => return None,
    };
    Some(Notice {
        kind: "CachedImage",
        name: image.name.clone(),
        uid: image.uid.clone(),
        is_warning,
        reason: reason.to_owned(),
        message: shortened(&after.message, MAX_MESSAGE),
    })
}
