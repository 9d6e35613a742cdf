//! A simple reference model of pacing. It counts the Pods from the times of their creation, their outcomes, and their
//! end.
//!
//! It shares no code with the planner, and has its own definition of a turn: a Pod goes on with a turn if the Pod of
//! its policy before it on its node left images missing there, and was gone not long ago. It is exact for a policy
//! whose limits were never changed.

use std::collections::{BTreeMap, BTreeSet};

use drop_api::PullPolicySpec;
use drop_core::Name;
use jiff::{SignedDuration, Timestamp};

use crate::{Created, Lab, Record};

/// A Pod that comes this long after the end of the previous one on its node begins a turn. A turn may rest between two
/// Pods while no slot or registry is free.
const REST: SignedDuration = SignedDuration::from_mins(10);

/// The pace of the Pods of one policy.
#[derive(Default)]
struct Pace {
    /// The most nodes with a Pod at once.
    nodes: usize,
    /// The most Pods at once.
    pods: usize,
    /// The most Pods at once with an image of the same registry whose outcome was not known yet.
    pods_per_registry: usize,
    /// The least time from the beginning of a turn on one node to a later one on another.
    delay: Option<SignedDuration>,
}

impl Lab {
    /// Returns the policies whose Pods went faster than the policies ever allowed, as sentences.
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
        // Without a limit any number is allowed.
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
    /// Returns the pace of the Pods of a policy; the built-in one has no name. The operator may not know of a change
    /// for as long as `hearsay`.
    fn pace(&self, policy: &str, hearsay: SignedDuration) -> Pace {
        let mut pace = Pace::default();
        let mut beginnings: Vec<&Created> = Vec::new();
        let mut last_on: BTreeMap<&Name, &Created> = BTreeMap::new();
        let mut there: Vec<&Created> = Vec::new();
        for pod in &self.pods {
            if *pod.order.policy != *policy {
                continue;
            }
            let before = last_on.insert(&pod.order.node_uid, pod);
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
            // If a Pod left no trace before a restart, the new operator cannot know of it.
            let known = beginnings.iter().rev().filter(|other| !other.is_forgotten);
            if let Some(other) = known.clone().find(|other| other.order.node != pod.order.node) {
                let delay = pod.at.duration_since(other.at);
                pace.delay = Some(pace.delay.map_or(delay, |least| least.min(delay)));
            }
            beginnings.push(pod);
        }
        pace
    }

    /// Whether a Pod may go on with the turn of the previous one on its node.
    fn may_go_on(&self, before: &Created, pod: &Created, hearsay: SignedDuration) -> bool {
        let Some(gone_at) = before.gone_at else { return true };
        let is_meanwhile = |at: &Timestamp| (SignedDuration::ZERO..=hearsay).contains(&at.duration_since(gone_at));
        pod.at.duration_since(gone_at) <= REST && (before.left_some || self.changes.iter().any(is_meanwhile))
    }
}
