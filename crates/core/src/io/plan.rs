//! A plan: what is done now, and when to plan again.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::effect::{Effect, EffectKey};
use crate::Name;
use crate::objects::reference::Reference;

/// The decision of one moment: effects, what was found while they were decided, and when to decide again.
#[derive(Debug, Default)]
pub struct Plan {
    /// In the order in which they begin; no effect waits for another.
    pub effects: Vec<Effect>,
    /// When to plan again although nothing happened.
    pub wake_at: Option<Timestamp>,
    /// The findings about objects that may have to be written.
    pub looks: Vec<(EffectKey, Look)>,
    /// Effects that failed, and that the plan does not want any more.
    pub(crate) dropped: Vec<EffectKey>,
    /// By policy the pull that goes first, where it waits for a slot or for the delay between nodes, and all others with
    /// it.
    pub(crate) first_in_line: BTreeMap<Name, First>,
    /// The keys of the effects.
    pub(crate) keys: BTreeSet<EffectKey>,
    /// Nodes whose Pods have been pulling for so long that their NodeCaches say so.
    pub(crate) long_pulls: BTreeSet<Name>,
}

/// A pull that lets nobody pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct First {
    /// The CachedImage.
    pub(crate) image: Name,
    /// The node.
    pub(crate) node: Name,
}

/// A plan's finding about an object that may have to be written, and when a plan looks at the object again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The API shows what it should: not before something changes.
    Clean,
    /// It is written with this plan: not for a moment, whatever changes.
    Written,
    /// It differs, but was written too recently: at that time, and not for a moment, whatever changes.
    Later(Timestamp),
    /// It need not be written yet: at that time, or when something changes.
    Deferred(Timestamp),
}

impl Plan {
    /// Plans again at `at` at the latest.
    pub(crate) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |wake_at| wake_at.min(at)));
    }

    /// The images whose pulls it starts, or asks for again.
    pub(crate) fn pulls(&self) -> BTreeSet<Reference> {
        let orders = self.effects.iter().filter_map(|effect| match effect {
            Effect::CreatePod(order) => Some(order),
            _ => None,
        });
        orders.flat_map(|order| order.pulls.iter().map(|pull| pull.reference.clone())).collect()
    }
}
