//! A reference model of pacing, simple enough to believe: a recount of what Pods did, from when
//! they were created, when they showed what became of their images, and when they were gone.
//!
//! It shares nothing with the planner, not even what a turn is: a Pod goes on with one if the
//! Pod before it on its node was of the same policy, left something missing there, and was gone
//! not long ago. It is exact for a policy whose limits were never changed.

use std::collections::{BTreeMap, BTreeSet};

use drop_api::PullPolicySpec;
use drop_core::Name;
use jiff::{SignedDuration, Timestamp};

use crate::{Created, Lab, Record};

/// A Pod that comes so long after the last one on its node was gone begins a turn. A turn may
/// rest between two Pods while a slot or a registry is not free.
const REST: SignedDuration = SignedDuration::from_mins(10);

/// What the Pods of one policy did.
#[derive(Default)]
struct Pace {
    /// The most nodes with a Pod at once.
    nodes: usize,
    /// The most Pods at once.
    pods: usize,
    /// The most Pods at once with an image of the same registry of which nobody could know yet
    /// what became of it.
    pods_per_registry: usize,
    /// The least time from a beginning on one node to a later one on another.
    delay: Option<SignedDuration>,
}

impl Lab {
    /// Where Pods went faster than their policies ever allowed, as sentences.
    #[must_use]
    pub fn faults_of_pacing(&self) -> Vec<String> {
        let built_in = vec![&self.settings.built_in_policy];
        let said = self.record.policies.iter().map(|(name, history)| {
            let specs: Vec<_> = history.iter().filter_map(|(_, spec)| spec.as_ref()).collect();
            (name.as_str(), specs)
        });
        said.chain([("", built_in)]).flat_map(|(name, specs)| self.faults_of_pace_of(name, &specs)).collect()
    }

    fn faults_of_pace_of(&self, policy: &str, specs: &[&PullPolicySpec]) -> Vec<String> {
        let pace = self.record.pace(policy, self.hearsay());
        // Whatever has no limit allows any number.
        let most = |limit: fn(&PullPolicySpec) -> Option<i32>| {
            let limits =
                specs.iter().map(|spec| limit(spec).map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(0)));
            limits.max().unwrap_or(0)
        };
        let counts = [
            (pace.nodes, most(|spec| Some(spec.max_concurrent_nodes)), "nodes pulled at once"),
            (pace.pods, most(|spec| spec.max_concurrent_pulls), "Pods pulled at once"),
            (
                pace.pods_per_registry,
                most(|spec| spec.max_concurrent_pulls_per_registry),
                "Pods pulled from one registry at once",
            ),
        ];
        let over = counts.into_iter().filter(|(count, most, _)| count > most);
        let over = over.map(|(count, most, what)| format!("policy {policy:?}: {count} {what}, {most} may"));
        let least = specs.iter().map(|spec| spec.min_delay_between_pulls.get()).min().unwrap_or_default();
        let early = pace.delay.filter(|delay| *delay < self.at_least(least));
        let early = early.map(|delay| format!("policy {policy:?}: nodes began {delay:#} apart, {least:#} must pass"));
        over.chain(early).collect()
    }
}

impl Record {
    /// What the Pods of a policy did; the built-in one has no name. What changes may not be heard
    /// of for as long as `hearsay`.
    fn pace(&self, policy: &str, hearsay: SignedDuration) -> Pace {
        let mut pace = Pace::default();
        let mut beginnings: Vec<&Created> = Vec::new();
        let mut last_on: BTreeMap<&Name, &Created> = BTreeMap::new();
        let mut there: Vec<&Created> = Vec::new();
        for pod in &self.pods {
            let before = last_on.insert(&pod.order.node_uid, pod);
            if *pod.order.policy != *policy {
                continue;
            }
            there.retain(|other| other.gone_at.is_none_or(|gone_at| gone_at > pod.at));
            there.push(pod);
            let nodes: BTreeSet<_> = there.iter().map(|other| &other.order.node_uid).collect();
            pace.nodes = pace.nodes.max(nodes.len());
            pace.pods = pace.pods.max(there.len());
            for host in pod.hosts() {
                let is_busy =
                    |other: &&&Created| other.settled_at.is_none_or(|at| at > pod.at) && other.hosts().contains(host);
                pace.pods_per_registry = pace.pods_per_registry.max(there.iter().filter(is_busy).count());
            }
            if before.is_some_and(|before| self.may_go_on(before, pod, hearsay)) {
                continue;
            }
            // Nobody could know any more of a Pod that left no trace before a restart.
            let known = beginnings.iter().rev().filter(|other| !other.is_forgotten);
            if let Some(other) = known.clone().find(|other| other.order.node != pod.order.node) {
                let delay = pod.at.duration_since(other.at);
                pace.delay = Some(pace.delay.map_or(delay, |least| least.min(delay)));
            }
            beginnings.push(pod);
        }
        pace
    }

    /// Whether a Pod may go on with the turn of the one before it on its node.
    fn may_go_on(&self, before: &Created, pod: &Created, hearsay: SignedDuration) -> bool {
        let Some(gone_at) = before.gone_at else { return true };
        let is_meanwhile = |at: &Timestamp| (SignedDuration::ZERO..=hearsay).contains(&at.duration_since(gone_at));
        before.order.policy == pod.order.policy
            && pod.at.duration_since(gone_at) <= REST
            && (before.left_some || self.changes.iter().any(is_meanwhile))
    }
}
