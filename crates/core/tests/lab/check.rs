//! What the specification promises, checked against the lab's own record.

use std::collections::BTreeSet;

use drop_api::condition::{self, Condition, ConditionStatus};
use drop_api::{CachedImageStatus, NodeCache, PullPolicySpec};
use drop_core::Effect;
use drop_core::effect::{EffectKey, PodOrder};
use drop_core::pull_pod::{Expectations, PullPod, Steps};
use drop_core::reference::Reference;
use jiff::{SignedDuration, Timestamp};

use super::{Lab, secs};

/// How long after a change of a policy the operator may not know of it.
const HEARSAY: SignedDuration = SignedDuration::from_secs(2);

impl Lab {
    /// A Pod is about to come into being: may it?
    pub(super) fn check_start(&self, order: &PodOrder) {
        let earlier = self.record.pods.iter().filter(|pod| pod.order.node == order.node);
        let earlier: Vec<String> = earlier.map(|pod| format!("{pod}, {}", pod.order.name)).collect();
        let place = format!("{} at {}, after {earlier:#?}: {order:#?}", self.title, self.record.clock(self.now));
        assert!(
            order.name.len() <= 63
                && order.name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && order.name.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && order.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
            "a Pod's name is a DNS label; {place}"
        );
        assert!(!order.pulls.is_empty(), "a Pod pulls something; {place}");
        let on_node = self.record.live().find(|pod| pod.order.node_uid == order.node_uid);
        assert!(on_node.is_none(), "one Pod per node, beside {on_node:?}; {place}");
        for pull in &order.pulls {
            let done = self.record.successes.contains(&(order.node_uid.clone(), pull.reference.clone()));
            let mut policies = self.policies_in_force(&order.policy, self.now).into_iter();
            let is_looked_up_again = policies.any(|policy| policy.repull_interval.is_some());
            assert!(!done || is_looked_up_again, "{} was pulled already; {place}", pull.reference);
        }
        let policies = self.policies_in_force(&order.policy, self.now);
        assert!(policies.iter().any(|policy| !policy.paused), "the policy is paused or missing; {place}");
        // A request that was lost is made again under the limits of its first time.
        let key = EffectKey::CreatePod(order.name.clone());
        let first = self.record.requests.iter().find(|(_, other)| *other == key).map(|(at, _)| *at);
        let policies = self.policies_in_force(&order.policy, first.unwrap_or(self.now));
        let allowed = policies.iter().any(|policy| self.allows(policy, order).is_ok());
        let refusals: Vec<_> = policies.iter().map(|policy| self.allows(policy, order)).collect();
        assert!(allowed, "{refusals:?}; {place}");
        if !order.begins_turn {
            let of_node = self.record.pods.iter().rev().find(|pod| pod.order.node == order.node);
            let goes_on = of_node.is_some_and(|pod| pod.order.policy == order.policy);
            assert!(goes_on, "a turn goes on that never began; {place}");
        }
    }

    /// Whether the operator may have given up on a Pod before it hears of its end.
    pub(super) fn is_given_up(&self, pod: &PullPod) -> bool {
        let cache = self.api.caches.get(&*pod.node).and_then(|cache| cache.status.as_ref());
        if cache.is_some_and(|status| status.last_pod_uid.as_deref() == pod.uid.as_deref()) {
            return true;
        }
        let policies = self.policies_in_force(&pod.policy, self.now);
        let timeout = policies.iter().map(|policy| policy.pull_timeout.get()).min();
        let expected = Expectations {
            pull_timeout: timeout.unwrap_or(SignedDuration::ZERO),
            tells_sandbox: true,
            settings: &self.settings,
        };
        let now = self.now + HEARSAY;
        // The operator goes by its own clock.
        let mut pod = pod.clone();
        for step in [&mut pod.acknowledged_at, &mut pod.sandbox_up_at] {
            *step = step.map(|at| at - self.knobs.kubelet_clock);
        }
        pod.end(&Steps::see(&pod, None, now), &expected, now).is_some()
    }

    /// What the policy says, or has said since a moment before `at`.
    fn policies_in_force(&self, name: &str, at: Timestamp) -> Vec<PullPolicySpec> {
        if name.is_empty() {
            return vec![PullPolicySpec::default()];
        }
        let history = self.record.policies.get(name).into_iter().flatten().rev();
        let mut in_force = Vec::new();
        for (since, spec) in history {
            in_force.extend(spec.clone());
            if at.duration_since(*since) > HEARSAY {
                break;
            }
        }
        in_force
    }

    fn allows(&self, policy: &PullPolicySpec, order: &PodOrder) -> Result<(), String> {
        let live: Vec<_> = self.record.live().filter(|pod| pod.order.policy == order.policy).collect();
        let mut nodes: BTreeSet<_> = live.iter().map(|pod| &pod.order.node_uid).collect();
        nodes.insert(&order.node_uid);
        if nodes.len() > usize::try_from(policy.max_concurrent_nodes).unwrap() {
            return Err(format!("{} nodes pull", nodes.len()));
        }
        let over =
            |limit: Option<i32>, count: usize| limit.is_some_and(|limit| count >= usize::try_from(limit).unwrap());
        if over(policy.max_concurrent_pulls, live.len()) {
            return Err(format!("{} Pods pull already", live.len()));
        }
        let hosts: BTreeSet<&str> = order.pulls.iter().map(|pull| pull.reference.host()).collect();
        for host in hosts {
            let pulling = live.iter().filter(|pod| {
                self.api.pods.get(&pod.order.name).is_some_and(|live| live.pod.busy_hosts().any(|busy| busy == host))
            });
            let pulling = pulling.count();
            if over(policy.max_concurrent_pulls_per_registry, pulling) {
                return Err(format!("{pulling} Pods pull from {host} already"));
            }
        }
        if order.pulls.len() > usize::try_from(policy.images_per_pod).unwrap() {
            return Err("too many images in one Pod".to_owned());
        }
        let begins = self.record.pods.iter().filter(|pod| pod.order.begins_turn && !pod.is_forgotten);
        let mut elsewhere = begins.filter(|pod| pod.order.policy == order.policy && pod.order.node != order.node);
        let delay = policy.min_delay_between_pulls.get();
        match elsewhere.find(|pod| self.now.duration_since(pod.at) < delay) {
            Some(other) if order.begins_turn => Err(format!("too soon after {other}")),
            _ => Ok(()),
        }
    }

    /// A NodeCache is about to be written: is it true?
    pub(super) fn check_cache(&self, cache: &NodeCache) {
        let name = cache.metadata.name.as_deref().unwrap_or_default();
        let images = cache.status.iter().flat_map(|status| &status.images);
        for image in images.filter(|image| image.pulled_at.is_some()) {
            let what = (cache.spec.node_uid.as_str().into(), Reference::parse(&image.image));
            assert!(self.record.pulled.contains(&what), "{}: {} was never pulled onto {name}", self.title, image.image);
        }
    }

    /// A status is about to be written: does it make sense?
    pub(super) fn check_status(&self, image: &str, status: &CachedImageStatus) {
        let place = format!("{} at {}: {image}: {status:#?}", self.title, self.record.clock(self.now));
        assert!(status.nodes_ready <= status.nodes_targeted, "{place}");
        assert_eq!(status.ready, Some(format!("{}/{}", status.nodes_ready, status.nodes_targeted)), "{place}");
        assert!(status.failures.len() <= 10, "{place}");
        let ready = condition::ready(&status.conditions).unwrap();
        let is_cached = ready.status == ConditionStatus::True;
        assert_eq!(is_cached, ready.reason == "Cached", "{place}");
        let all_there = status.nodes_targeted > 0 && status.nodes_ready == status.nodes_targeted;
        assert!(!is_cached || all_there, "{place}");
        assert!(!ready.message.is_empty(), "{place}");
        let Some(object) = self.api.images.get(image) else { return };
        let before = object.status.as_ref().and_then(|status| condition::ready(&status.conditions));
        // A status that was lost may have changed it in between.
        let comparable = |before: &&Condition| before.status == ready.status && !self.record.unwritten.contains(image);
        if let Some(before) = before.filter(comparable) {
            assert_eq!(
                before.last_transition_time, ready.last_transition_time,
                "lastTransitionTime moves only when status changes; {place}"
            );
        }
    }

    /// One object's status is written at most once a second.
    pub(super) fn check_pace_of_writes(&self, effect: &Effect) {
        if !matches!(effect, Effect::PatchImage { .. } | Effect::PatchSet { .. } | Effect::PatchPolicy { .. }) {
            return;
        }
        let key = effect.key();
        let since = self.record.restarted_at.max(self.record.created_at.get(&key).copied());
        let last = self.record.requests.iter().rev().find(|(_, other)| *other == key);
        if let Some((at, _)) = last.filter(|(at, _)| since.is_none_or(|since| since < *at)) {
            assert!(self.now.duration_since(*at) >= secs(1.0), "{}: {key:?} is written too often", self.title);
        }
    }
}
