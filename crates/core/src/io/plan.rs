//! A plan: the effects to carry out now, and the time to plan again.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::effect::{Effect, EffectKey};
use crate::Name;
use crate::objects::reference::Reference;
use crate::pace::order::Urgency;

/// The decisions of one moment: effects, findings about objects, and the time of the next plan.
#[derive(Debug, Default)]
pub struct Plan {
    /// In the order in which they begin; no effect waits for another.
    pub effects: Vec<Effect>,
    /// When to plan again, even without an event.
    pub wake_at: Option<Timestamp>,
    /// The findings about objects that may need a write.
    pub looks: Vec<(EffectKey, Look)>,
    /// Effects that failed, and that the plan no longer wants.
    pub(crate) dropped: Vec<EffectKey>,
    /// Per policy, the pull that goes first while it waits for a slot or for the delay between nodes. All other pulls
    /// of the policy wait with it.
    pub(crate) first_in_line: BTreeMap<Name, First>,
    /// The keys of the effects.
    pub(crate) keys: BTreeSet<EffectKey>,
    /// Nodes whose Pods have been pulling long enough for their NodeCaches to show it.
    pub(crate) long_pulls: BTreeSet<Name>,
}

/// A pull that no other may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct First {
    /// The CachedImage.
    pub(crate) image: Name,
    /// The node.
    pub(crate) node: Name,
    /// How urgent it is there.
    pub(crate) urgency: Urgency,
    /// Whether it would begin a turn. A node that goes on with its turn goes first, however urgent others are.
    pub(crate) begins_turn: bool,
}

/// A plan's finding about an object that may need a write, and when a plan looks at the object again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The API shows the current state: no plan looks at the object before something changes.
    Clean,
    /// This plan writes the object: no plan looks at it for a moment, whatever changes.
    Written,
    /// The object differs, but was written too recently: a plan looks at it at that time, and not for a moment,
    /// whatever changes.
    Later(Timestamp),
    /// The object needs no write yet: a plan looks at it at that time, or when something changes.
    Deferred(Timestamp),
}

impl Plan {
    /// Plans again at `at` at the latest.
    pub(crate) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |wake_at| wake_at.min(at)));
    }

    /// Returns the images whose pulls it starts or requests again.
    pub(crate) fn pulls(&self) -> BTreeSet<Reference> {
        let orders = self.effects.iter().filter_map(|effect| match effect {
            Effect::CreatePod(order) => Some(order),
            _ => None,
        });
        orders.flat_map(|order| order.pulls.iter().map(|pull| pull.reference.clone())).collect()
    }
}
