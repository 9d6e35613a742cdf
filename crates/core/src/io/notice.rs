//! Changes of an object's state that Drop reports as Kubernetes Events, each once.
//!
//! For example, a CachedImage begins to fail. The progress of a roll-out, or the choice of the next node, is no such
//! change.

use std::collections::BTreeSet;

use drop_api::cached_image::{CachedImageStatus, Phase};
use drop_api::cached_image_set::{CachedImageSetStatus, SetPhase};
use drop_api::condition::{self, Condition, ConditionStatus};
use drop_api::discovery_policy::DiscoveryPolicyStatus;

use crate::Name;
use crate::discovery::SpecId;
use crate::objects::image::Image;
use crate::objects::image_set::ImageSet;
use crate::objects::memory::Failure;
use crate::objects::node::Node;
use crate::text::shortened;

/// The longest message of a [`Notice`], in characters. An Event takes 1 kB, and a character may take four bytes.
const MAX_MESSAGE: usize = 250;

/// The reason of a [`Notice`] that all nodes of an image have it.
pub const CACHED: &str = "Cached";

/// The kind of a [`Notice`] about a node.
pub const NODE: &str = "Node";

/// A change of an object's state that is worth an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The object's kind: [`NODE`], or one of Drop's API group.
    pub kind: &'static str,
    /// Its name.
    pub name: Name,
    /// Its UID.
    pub uid: Name,
    /// Whether it is a change for the worse.
    pub is_warning: bool,
    /// The change, in one CamelCase word.
    pub reason: String,
    /// The same as a sentence.
    pub message: String,
}

/// The meaning of a CachedImage's Ready reason for people who wait for the image.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// All its nodes have it.
    Cached,
    /// Nodes pull it, or will soon.
    Progress,
    /// A node has evicted it.
    Evicted,
    /// No node pulls it, as the specs say: a policy is paused, or no node matches.
    Idle,
    /// A pull failed.
    Failing,
}

impl State {
    fn of(status: &CachedImageStatus) -> Self {
        match condition::ready(&status.conditions).map(|ready| ready.reason.as_str()) {
            Some(CACHED) => Self::Cached,
            None | Some("Waiting" | "Pulling") => Self::Progress,
            Some("Evicted") => Self::Evicted,
            Some("NoMatchingNodes" | "Paused" | "PullPolicyNotFound") => Self::Idle,
            // The notice about a failing node covers its images.
            Some(_) if status.phase == Some(Phase::Pending) => Self::Progress,
            Some(_) => Self::Failing,
        }
    }
}

/// Returns the notice about a CachedImage whose status changes, if the change is worth one.
///
/// It compares the conditions that the API shows with the new ones. So neither a restart nor a new leader reports a
/// change again.
#[must_use]
pub fn of_image(image: &Image, before: &CachedImageStatus, after: &CachedImageStatus) -> Option<Notice> {
    let ready = condition::ready(&after.conditions)?;
    let (is_warning, reason) = match (State::of(before), State::of(after)) {
        (State::Failing, State::Failing) => return None,
        (_, State::Failing) => (true, ready.reason.as_str()),
        // While nodes pull an evicted image again, one after another, the image changes between these two states.
        (State::Cached, State::Evicted) => (true, "Evicted"),
        (State::Failing, State::Cached | State::Progress) => (false, "Recovered"),
        // The notice about a set covers its images.
        (State::Progress | State::Evicted | State::Idle, State::Cached) if image.set.is_none() => (false, CACHED),
        _ => return None,
    };
    Some(Notice {
        kind: "CachedImage",
        name: image.name.clone(),
        uid: image.uid.clone(),
        is_warning,
        reason: reason.to_owned(),
        message: shortened(&ready.message, MAX_MESSAGE),
    })
}

/// Returns the notice about a node that begins to fail as a whole, or that works again.
///
/// There is one notice about the node, not one for each image that waits for it.
#[must_use]
pub fn of_node(node: &Node, before: Option<&Failure>, after: Option<&Failure>) -> Option<Notice> {
    // A limit that ends within seconds is no failure to report.
    let [before, after] = [before, after].map(|failure| failure.filter(|failure| !failure.is_throttling()));
    let (is_warning, reason, message) = match (before, after) {
        (None, Some(failure)) => {
            (true, failure.reason.to_string(), format!("no image can be pulled: {}", failure.message))
        }
        (Some(_), None) => (false, "Recovered".to_owned(), "images are pulled again".to_owned()),
        _ => return None,
    };
    let (name, uid) = (node.name.clone(), node.uid.clone());
    Some(Notice { kind: NODE, name, uid, is_warning, reason, message: shortened(&message, MAX_MESSAGE) })
}

/// Returns the notice about a CachedImageSet whose status changes: it became ready, began to fail, or recovered.
#[must_use]
pub fn of_set(set: &ImageSet, before: &CachedImageSetStatus, after: &CachedImageSetStatus) -> Option<Notice> {
    let ready = condition::ready(&after.conditions)?;
    let (is_warning, reason) = match (before.phase, after.phase?) {
        (Some(SetPhase::Degraded), SetPhase::Degraded) => return None,
        (_, SetPhase::Degraded) => (true, ready.reason.as_str()),
        (Some(SetPhase::Degraded), _) => (false, "Recovered"),
        (None | Some(SetPhase::Pending), SetPhase::Ready) => (false, ready.reason.as_str()),
        _ => return None,
    };
    Some(Notice {
        kind: "CachedImageSet",
        name: set.name.clone(),
        uid: set.uid.clone(),
        is_warning,
        reason: reason.to_owned(),
        message: shortened(&ready.message, MAX_MESSAGE),
    })
}

/// Returns the notice about a DiscoveryPolicy whose status changes: its list has changed, or its sources began to fail
/// or recovered.
#[must_use]
pub fn of_discovery(
    name: &Name,
    spec: &SpecId,
    before: &DiscoveryPolicyStatus,
    after: &DiscoveryPolicyStatus,
) -> Option<Notice> {
    let ready = condition::ready(&after.conditions)?;
    let had_trouble = condition::ready(&before.conditions).filter(|before| is_trouble(before));
    let images = |status: &DiscoveryPolicyStatus| -> BTreeSet<String> {
        status.discovered_images.iter().map(|image| image.image.clone()).collect()
    };
    let (old, new) = (images(before), images(after));
    let (added, removed) = (new.difference(&old).count(), old.difference(&new).count());
    let change = format!("+{added} \u{2212}{removed}");
    let (is_warning, reason, message) = match (had_trouble, is_trouble(ready)) {
        (Some(before), true) if before.reason == ready.reason => return None,
        (_, true) => (true, ready.reason.as_str(), ready.message.clone()),
        (Some(_), false) => (false, "Recovered", format!("{}: {change}", ready.message)),
        (None, false) if added + removed > 0 => (false, "DiscoveryChanged", format!("{}: {change}", ready.message)),
        (None, false) => return None,
    };
    Some(Notice {
        kind: "DiscoveryPolicy",
        name: name.clone(),
        uid: spec.uid.clone(),
        is_warning,
        reason: reason.to_owned(),
        message: shortened(&message, MAX_MESSAGE),
    })
}

/// Whether a DiscoveryPolicy's Ready condition reports a source that fails.
fn is_trouble(ready: &Condition) -> bool {
    ready.status != ConditionStatus::True || ready.reason == "PartiallyFailed"
}
