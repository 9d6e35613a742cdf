//! What a plan is: effects, and when to plan again.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::effect::{Effect, EffectKey};
use crate::Name;
use crate::objects::reference::Reference;

/// What to do now.
#[derive(Debug, Default)]
pub struct Plan {
    /// In the order in which they are to be begun; they do not wait for each other.
    pub effects: Vec<Effect>,
    /// When to plan again although nothing happened.
    pub wake_at: Option<Timestamp>,
    /// Objects that were found to be written as they should be.
    pub clean: Clean,
    /// What the statuses of CachedImages were found to be.
    pub images: Looks,
    /// What those of PullPolicies were found to be.
    pub policies: Looks,
    /// Policies under which somebody goes first who waits for a slot or for the delay between nodes.
    pub(crate) waiting: BTreeSet<Name>,
    /// What the effects are about.
    pub(crate) keys: BTreeSet<EffectKey>,
    /// Nodes whose Pods have been pulling for so long that their NodeCaches say so.
    pub(crate) long_pulls: BTreeSet<Name>,
}

/// Objects of one kind whose statuses were looked at.
#[derive(Debug, Default)]
pub struct Looks {
    /// Those that are as they should be.
    pub clean: Vec<Name>,
    /// Those that differ: they are written with this plan, or later.
    pub(crate) differing: Vec<Name>,
    /// Those that need not be looked at before these times, unless something changes.
    pub(crate) deferred: Vec<(Name, Timestamp)>,
}

/// Objects whose written state is as it should be.
#[derive(Debug, Default)]
pub struct Clean {
    /// CachedImageSets.
    pub sets: Vec<Name>,
    /// Effects that were refused and are not wanted any more.
    pub flights: Vec<EffectKey>,
    /// Nodes, for their NodeCaches.
    pub caches: Vec<Name>,
}

impl Plan {
    /// Plans again at `at` at the latest.
    pub(crate) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |wake_at| wake_at.min(at)));
    }

    /// The images whose pulls it starts, or asks for again.
    pub(crate) fn pulls(&self) -> impl Iterator<Item = &Reference> {
        let orders = self.effects.iter().filter_map(|effect| match effect {
            Effect::CreatePod(order) => Some(order),
            _ => None,
        });
        orders.flat_map(|order| order.pulls.iter().map(|pull| &pull.reference))
    }

    /// Whether it starts, or asks again for, a pull of `image`.
    pub(crate) fn starts(&self, image: &Reference) -> bool {
        self.pulls().any(|other| other == image)
    }
}
