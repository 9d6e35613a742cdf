//! A reference model of pacing, simple enough to believe: a recount of what a policy's Pods
//! did, from nothing but when they were created and when they were gone.
//!
//! It shares nothing with the planner, not even what a turn is: whatever comes onto a node
//! long after the last Pod begins one.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use crate::{Created, Record};

/// A Pod that comes so long after the last one on its node was gone begins a turn. A turn may
/// rest between two Pods while a slot or a registry is not free.
const REST: SignedDuration = SignedDuration::from_mins(10);

/// What the Pods of one policy did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// The most nodes with a Pod at once.
    pub nodes: usize,
    /// The most Pods at once.
    pub pods: usize,
    /// The least time from a beginning on one node to the next on another one.
    pub delay: Option<SignedDuration>,
}

impl Record {
    /// What the Pods of a policy did; the built-in one has no name.
    #[must_use]
    pub fn pace(&self, policy: &str) -> Pace {
        let pods: Vec<&Created> = self.pods.iter().filter(|pod| *pod.order.policy == *policy).collect();
        let mut pace = Pace::default();
        let mut last_beginning: Option<&Created> = None;
        for (number, pod) in pods.iter().enumerate() {
            let earlier = pods.iter().take(number);
            let beside: Vec<_> = earlier.clone().filter(|other| is_there(other, pod.at)).collect();
            let nodes: BTreeSet<_> = beside.iter().map(|other| &other.order.node_uid).collect();
            let is_new = !nodes.contains(&pod.order.node_uid);
            pace.nodes = pace.nodes.max(nodes.len() + usize::from(is_new));
            pace.pods = pace.pods.max(beside.len() + 1);
            let rests = |other: &&&Created| is_there(other, pod.at - REST);
            if earlier.filter(|other| other.order.node_uid == pod.order.node_uid).any(|other| rests(&other)) {
                continue;
            }
            // Nobody could know any more of a Pod that left no trace before a restart.
            if let Some(last) = last_beginning.filter(|last| !last.is_forgotten && last.order.node != pod.order.node) {
                let delay = pod.at.duration_since(last.at);
                pace.delay = Some(pace.delay.map_or(delay, |least| least.min(delay)));
            }
            last_beginning = Some(pod);
        }
        pace
    }
}

/// Whether the Pod was not gone by then.
fn is_there(pod: &Created, at: Timestamp) -> bool {
    pod.gone_at.is_none_or(|gone_at| gone_at > at)
}
