//! Counts the slots in use now against the limits of the pull policies.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::Name;
use crate::gate::verdict::{Held, Verdict};
use crate::io::effect::PodOrder;
use crate::objects::policy::Policy;
use crate::objects::reference::Reference;
use crate::pace::order::Candidate;
use crate::time::after;
use crate::world::{LONG_WAIT, World};

/// A node is reserved at most for this long before the delay of its policy has passed.
const SOON: SignedDuration = SignedDuration::from_mins(5);

/// The slots in use, including those that the current plan takes.
#[derive(Debug)]
pub struct Budget<'a> {
    world: &'a World,
    usage: BTreeMap<Name, Usage>,
    /// Nodes that start no Pod of another policy than this one, for which they have waited for long.
    reserved: BTreeMap<Name, Name>,
    /// Nodes that get a Pod from the current plan, and the Pod.
    taken: BTreeMap<Name, Name>,
    /// Images that the current plan pulls: a second probe of one of them, or of its registry, would add no knowledge.
    tried: BTreeSet<Reference>,
}

/// The slots of one policy that are in use.
#[derive(Clone, Debug, Default)]
struct Usage {
    /// Nodes with a Pod.
    nodes: BTreeSet<Name>,
    /// Pods.
    pulls: usize,
    /// Pods with an open pull, by registry.
    hosts: BTreeMap<Name, usize>,
    /// Nodes on which a turn was begun, but is not confirmed yet.
    beginning: BTreeSet<Name>,
}

impl<'a> Budget<'a> {
    /// Counts the slots in use in `world`.
    #[must_use]
    pub fn new(world: &'a World, now: Timestamp) -> Self {
        let mut usage: BTreeMap<Name, Usage> = BTreeMap::new();
        for entry in world.pods() {
            let pod = &entry.pod;
            let usage = usage.entry(pod.policy.clone()).or_default();
            usage.add(&pod.node, pod.busy_hosts().collect());
            if entry.begins_turn && entry.started_at.is_none() {
                usage.beginning.insert(pod.node.clone());
            }
        }
        let (reserved, taken, tried) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let mut budget = Self { world, usage, reserved, taken, tried };
        budget.reserve(now);
        budget
    }

    /// Reserves the first node in the line of each policy that has waited for an hour and can begin soon. Otherwise a
    /// node that is busy under another policy whenever a slot becomes free would never get one.
    fn reserve(&mut self, now: Timestamp) {
        let mut reserved: BTreeMap<Name, (Timestamp, Name)> = BTreeMap::new();
        for entry in self.world.policies() {
            let policy = &entry.policy;
            let line = self.world.line(&policy.name).into_iter().flatten();
            let Some(first) = line.take_while(|it| !it.urgency.is_late()).find(|it| it.begins_turn) else { continue };
            if after(first.waiting_since, LONG_WAIT) <= now && self.begins_soon(policy, first, now) {
                let place = (first.waiting_since, policy.name.clone());
                let kept = reserved.entry(first.node.clone());
                kept.and_modify(|kept| *kept = place.clone().min(kept.clone())).or_insert(place);
            }
        }
        self.reserved = reserved.into_iter().map(|(node, (_, policy))| (node, policy)).collect();
    }

    /// Whether another policy may want the node of `candidate`, which can begin within minutes or as soon as a Pod
    /// ends.
    fn begins_soon(&self, policy: &Policy, candidate: &Candidate, now: Timestamp) -> bool {
        let (world, node) = (self.world, &candidate.node);
        let is_wanted = world.node(node).is_some_and(|node| node.waits_under_another(&policy.name));
        let host = world.image(&candidate.image).map(|image| image.image.reference.host());
        if !is_wanted || host.is_some_and(|host| self.check_host(policy, host).is_err()) {
            return false;
        }
        match self.check(policy, node, true, now).map_err(|held| held.verdict) {
            Err(Verdict::WaitingForDelay { until }) => until.is_none_or(|until| until <= after(now, SOON)),
            // A turn may go on for hours, so that the node would idle.
            Err(Verdict::WaitingForNodeSlot { .. } | Verdict::WaitingForPullSlot { .. }) => {
                let pods = world.pods().filter(|entry| entry.pod.policy == policy.name);
                pods.into_iter().any(|entry| world.ends_turn(&entry.pod))
            }
            result => result.is_ok(),
        }
    }

    /// Checks that `node` is free, and that `policy` lets it start a Pod now.
    ///
    /// # Errors
    /// The first rule that is not met.
    pub(crate) fn check(&self, policy: &Policy, node: &Name, begins_turn: bool, now: Timestamp) -> Result<(), Held> {
        self.check_node(policy, node)?;
        self.check_slots(policy, node)?;
        let usage = self.usage.get(&policy.name);
        if begins_turn && policy.min_delay > SignedDuration::ZERO {
            if usage.into_iter().flat_map(|usage| &usage.beginning).any(|other| other != node) {
                return Held::by(Verdict::WaitingForDelay { until: None });
            }
            // A node does not wait for its own last start. But if other nodes wait with a fresh pull, each such start
            // would delay them.
            let fresh = self.world.line(&policy.name).into_iter().flatten().take_while(|it| !it.urgency.is_late());
            let others_wait = fresh.map(|it| &it.node).any(|other| other != node);
            let own = Some(&**node).filter(|_| !others_wait);
            let starts = self.world.starts(&policy.name);
            let free_at = starts.and_then(|starts| starts.free_at(own, policy.min_delay));
            Held::before(free_at, now, |until| Verdict::WaitingForDelay { until: Some(until) })?;
        }
        Ok(())
    }

    /// Checks that `node` is busy with no Pod and reserved for no other policy.
    ///
    /// # Errors
    /// The rule that it does not meet.
    pub(crate) fn check_node(&self, policy: &Policy, node: &Name) -> Result<(), Held> {
        if let Some(pod) = self.busy_with(node) {
            return Held::by(Verdict::NodeBusy { pod });
        }
        match self.reserved.get(node).filter(|other| **other != policy.name) {
            Some(other) => Held::by(Verdict::NodeReserved { policy: other.clone() }),
            None => Ok(()),
        }
    }

    /// Checks that `policy` has a free slot for a Pod on `node`.
    fn check_slots(&self, policy: &Policy, node: &Name) -> Result<(), Held> {
        let Some(usage) = self.usage.get(&policy.name) else { return Ok(()) };
        if usage.nodes.iter().filter(|other| *other != node).count() >= policy.max_nodes {
            return Held::by(Verdict::WaitingForNodeSlot { policy: policy.name.clone(), limit: policy.max_nodes });
        }
        match policy.max_pulls {
            Some(limit) if usage.pulls >= limit => {
                Held::by(Verdict::WaitingForPullSlot { policy: policy.name.clone(), limit })
            }
            _ => Ok(()),
        }
    }

    /// Checks that `policy` lets one more Pod pull from `host`.
    ///
    /// # Errors
    /// The limit that holds the Pod.
    pub(crate) fn check_host(&self, policy: &Policy, host: &str) -> Result<(), Held> {
        match policy.max_pulls_per_registry {
            Some(limit) if self.free_slots(policy, host) == Some(0) => {
                Held::by(Verdict::WaitingForRegistrySlot { host: host.into(), limit })
            }
            _ => Ok(()),
        }
    }

    /// Returns how many more Pods `policy` lets pull from `host`; `None` if it sets no limit.
    pub(crate) fn free_slots(&self, policy: &Policy, host: &str) -> Option<usize> {
        let usage = self.usage.get(&policy.name);
        let in_use = usage.and_then(|usage| usage.hosts.get(host)).copied().unwrap_or(0);
        policy.max_pulls_per_registry.map(|limit| limit.saturating_sub(in_use))
    }

    /// The images that the current plan pulls.
    pub(crate) fn tried(&self) -> &BTreeSet<Reference> {
        &self.tried
    }

    /// Returns the Pod that keeps `node` from starting another, if any.
    #[must_use]
    pub fn busy_with(&self, node: &str) -> Option<Name> {
        let running = self.world.pod_on(node).map(|entry| entry.pod.name.clone());
        running.or_else(|| self.taken.get(node).cloned())
    }

    /// Whether no Pod of the plan at hand has the node of `order`, or tries the registry of a late pull.
    pub(crate) fn allows(&self, order: &PodOrder) -> bool {
        let is_tried = |host: &str| self.tried.iter().any(|other| other.host() == host);
        let may_be_tried = !order.is_late || order.pulls.iter().all(|pull| !is_tried(pull.reference.host()));
        !self.taken.contains_key(&order.node) && may_be_tried
    }

    /// Counts a Pod that the plan creates.
    pub fn take(&mut self, order: &PodOrder) {
        self.taken.insert(order.node.clone(), order.name.clone());
        self.tried.extend(order.pulls.iter().map(|pull| pull.reference.clone()));
        let usage = self.usage.entry(order.policy.clone()).or_default();
        usage.add(&order.node, order.pulls.iter().map(|pull| pull.reference.host()).collect());
        if order.begins_turn() {
            usage.beginning.insert(order.node.clone());
        }
    }
}

impl Usage {
    /// Counts one Pod.
    fn add(&mut self, node: &Name, hosts: BTreeSet<&str>) {
        self.nodes.insert(node.clone());
        self.pulls += 1;
        for host in hosts {
            match self.hosts.get_mut(host) {
                Some(pods) => *pods += 1,
                None => drop(self.hosts.insert(host.into(), 1)),
            }
        }
    }
}
