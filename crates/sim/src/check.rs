//! Checks the promises of the specification against the lab's own record.
//!
//! Every function here returns the faults as sentences; none if all is well.

use std::collections::BTreeSet;

use drop_api::cached_image::ImagePullPolicy;
use drop_api::condition::{self, Condition, ConditionStatus};
use drop_api::node_cache::Failure;
use drop_api::pull_policy::{HostNetwork, LookupMode};
use drop_api::{CachedImageStatus, NodeCache, PullPolicySpec};
use drop_core::effect::{EffectKey, PodOrder, Pull};
use drop_core::node::Readiness;
use drop_core::pull_pod::{Expectations, PullPod, Steps};
use drop_core::reference::Reference;
use drop_core::{Effect, Name};
use jiff::{SignedDuration, Timestamp};

use crate::{Lab, secs};

/// How long after a change the operator may not know of it, unless a watch lags more than usual.
const HEARSAY: SignedDuration = SignedDuration::from_secs(2);

/// More requests than this about one object within this time are too many.
const BUSY: (SignedDuration, usize) = (SignedDuration::from_secs(30), 30);

/// The faults that a check has found.
#[derive(Default)]
pub(crate) struct Faults(Vec<String>);

impl Faults {
    pub(crate) fn unless(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }

    /// Returns the faults, each with its place.
    pub(crate) fn at(self, place: impl FnOnce() -> String) -> Vec<String> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let place = place();
        self.0.into_iter().map(|what| format!("{what}; {place}")).collect()
    }
}

impl Lab {
    /// Checks a Pod that is about to be created, and was requested at `sent_at`.
    pub(crate) fn faults_of_start(&self, order: &PodOrder, sent_at: Timestamp) -> Vec<String> {
        let mut faults = Faults::default();
        let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let is_label = order.name.len() <= 63
            && order.name.starts_with(is_alphanumeric)
            && order.name.ends_with(is_alphanumeric)
            && order.name.chars().all(|c| is_alphanumeric(c) || c == '-');
        faults.unless(is_label, || "a Pod's name is a DNS label".to_owned());
        faults.unless(!order.pulls.is_empty(), || "a Pod pulls something".to_owned());
        let on_node = self.record.live().find(|pod| pod.order.node_uid == order.node_uid);
        faults.unless(on_node.is_none(), || format!("one Pod per node, beside {on_node:?}"));
        let policies = self.policies_in_force(&order.policy, sent_at);
        let is_open = policies.iter().any(|policy| !policy.paused);
        faults.unless(is_open, || "the policy is paused or missing".to_owned());
        // A request that was lost is repeated under the limits of its first time.
        let key = EffectKey::CreatePod(order.name.clone());
        let first = self.record.requests.iter().find(|(_, other)| *other == key).map(|(at, _)| *at);
        let planned_at = first.unwrap_or(sent_at);
        let policies = self.policies_in_force(&order.policy, planned_at);
        let changed_at = self.record.readiness_changed_at.get(&*order.node);
        let is_known = changed_at.is_none_or(|at| planned_at.duration_since(*at) > self.hearsay());
        for pull in &order.pulls {
            let is_done = !policies.iter().any(|policy| self.may_be_pulled(pull, &order.node_uid, policy, planned_at));
            faults.unless(!is_done, || format!("{} was pulled already", pull.reference));
            let asks = self.settings.looks_up && policies.iter().all(|policy| policy.lookup == LookupMode::Auto);
            let refuted = self.faults_of_pull(pull, &order.node_uid, planned_at).filter(|_| asks && is_known);
            faults.0.extend(refuted);
        }
        let is_settled = self.record.wants_changed_at.is_none_or(|at| planned_at.duration_since(at) > self.hearsay());
        for object in order.pulls.iter().filter_map(|pull| self.api.images.get(&*pull.cached_image)) {
            let mut named = object.spec.image_pull_secrets.iter();
            let has_all = named.all(|secret| order.secrets.iter().any(|given| **given == *secret.name));
            faults.unless(has_all || !is_settled, || "a Pod pulls without a Secret of its image".to_owned());
        }
        let refusals: Vec<String> = policies.iter().map_while(|policy| self.refuses(policy, order)).collect();
        faults.unless(refusals.len() < policies.len(), || format!("{refusals:?}"));
        let tries: Vec<Vec<String>> =
            policies.iter().map(|policy| self.faults_of_haste(order, policy, planned_at)).collect();
        if !tries.iter().any(Vec::is_empty) {
            faults.0.extend(tries.into_iter().next().unwrap_or_default());
        }
        if !order.begins_turn() {
            let is_of_turn = |pod: &crate::Created| pod.order.node == order.node && pod.order.policy == order.policy;
            let goes_on = self.record.pods.iter().any(is_of_turn);
            faults.unless(goes_on, || "a turn goes on that never began".to_owned());
        }
        if let Some(node) = self.api.node_of_uid(&order.node_uid).filter(|_| is_known) {
            let is_as_allowed = policies.iter().any(|policy| {
                let uses_it = match policy.host_network {
                    HostNetwork::Always => true,
                    HostNetwork::Never => false,
                    HostNetwork::NotReadyNodes => node.readiness != Readiness::Ready,
                };
                uses_it == order.host_network
            });
            faults.unless(is_as_allowed, || "its policy says otherwise of the node's network".to_owned());
            let can_start = match node.readiness {
                Readiness::Ready | Readiness::NotReady { network: true } => true,
                Readiness::NotReady { network: false } => order.host_network,
                Readiness::Lost => false,
            };
            faults.unless(can_start, || "its node can start no such Pod".to_owned());
        }
        faults.at(|| {
            let earlier = self.record.pods.iter().filter(|pod| pod.order.node == order.node);
            let earlier: Vec<String> = earlier.map(|pod| format!("{pod}, {}", pod.order.name)).collect();
            format!("after {earlier:#?}: {order:#?}")
        })
    }

    /// Checks that no image is tried too soon after it failed or was removed, according to the NodeCaches: against the
    /// least waits of the specification, whatever the planner makes of the failures. Times are the operator's, so after
    /// its clock was set nothing can be checked.
    fn faults_of_haste(&self, order: &PodOrder, policy: &PullPolicySpec, planned_at: Timestamp) -> Vec<String> {
        let mut faults = Faults::default();
        let cache = self.api.caches.get(&*order.node).filter(|cache| *cache.spec.node_uid == *order.node_uid);
        let Some(status) = cache.and_then(|cache| cache.status.as_ref()).filter(|_| !self.record.clocks_were_set)
        else {
            return faults.0;
        };
        // Waits vary by ten percent, and the operator did not know NodeCaches that came later.
        let is_early = |at: Timestamp, wait: SignedDuration| {
            at <= planned_at && planned_at.duration_since(at).as_secs_f64() < 0.89 * wait.as_secs_f64()
        };
        let initial = policy.failure_backoff.initial.get();
        let throttled = |failure: &Failure| if failure.message.contains("QPS") { secs(20.0) } else { initial };
        if let Some(failure) = &status.node_failure {
            let wait = initial.min(throttled(failure));
            faults.unless(!is_early(failure.at, wait), || format!("{} is tried too soon after it failed", order.node));
        }
        for pull in &order.pulls {
            let record = status.images.iter().find(|image| *image.image == *pull.reference.as_str());
            let (failure, eviction) = (record.and_then(|it| it.failure.as_ref()), record.and_then(|it| it.eviction));
            // An edit may have fixed the failure.
            let edited_at = self.record.wants_changed_at;
            let failure = failure.filter(|failure| edited_at.is_none_or(|at| at + self.hearsay() < failure.at));
            let is_hasty = failure.is_some_and(|failure| is_early(failure.at, initial.min(throttled(failure))));
            faults.unless(!is_hasty, || format!("{} is tried too soon after it failed", pull.reference));
            let is_gone = record.is_some_and(|record| record.pulled_at.is_none() && record.found_at.is_none());
            // A failed image waits for its backoff instead.
            let has_failed = record.is_some_and(|record| record.failure.is_some());
            let evicted_at = eviction.filter(|_| is_gone && !has_failed).map(|eviction| eviction.at);
            let is_hasty = evicted_at.is_some_and(|at| is_early(at, self.settings.repair_initial));
            faults.unless(!is_hasty, || format!("{} is pulled too soon after it was removed", pull.reference));
        }
        faults.0
    }

    /// Whether there is a reason to pull an image again onto the node of this UID under this policy: its interval has
    /// passed and a node has to ask whether the tag has moved, or the tag has moved.
    fn may_be_pulled(&self, pull: &Pull, node_uid: &Name, policy: &PullPolicySpec, planned_at: Timestamp) -> bool {
        let done = self.record.successes.get(&(node_uid.clone(), pull.reference.clone()));
        // The watch may show that the machine is gone later than it shows that its NodeCache is.
        let is_there = |node_uid: &Name| self.api.node_of_uid(node_uid).is_some();
        let Some(own) = done.filter(|_| is_there(node_uid)) else { return true };
        let node = self.api.node_of_uid(node_uid).map(|node| node.name.clone()).unwrap_or_default();
        let asks = self.settings.looks_up && policy.lookup == LookupMode::Auto && policy.repull_interval.is_some();
        let is_behind = own.image_id != self.newest_id(&node, &pull.reference);
        let is_older = self.record.pushed.get(pull.reference.as_str()).is_some_and(|at| own.at <= *at);
        let mirrors = self.knobs.digests_on.get(&*node);
        let lags = mirrors.is_some_and(|mirrors| mirrors.contains_key(pull.reference.as_str()));
        if asks && (is_behind || is_older || lags) {
            // The registry answered that the tag has moved.
            return true;
        }
        let Some(interval) = policy.repull_interval.as_ref().filter(|_| pull.policy == ImagePullPolicy::Always) else {
            return false;
        };
        let of_it = |what: &(Name, Reference)| what.1 == pull.reference;
        let mut pulled = self.record.pulled.iter().filter(|(what, _)| of_it(what)).map(|(_, it)| it);
        // An earlier pull may have been recorded later, and then it counts as the newest.
        let slack = self.hearsay() + self.settings.retry_max;
        let has_moved = pulled.any(|it| it.image_id != own.image_id && own.at.duration_since(it.at) <= slack);
        let known = self.record.successes.iter().filter(|(what, _)| of_it(what) && is_there(&what.0));
        // If image IDs differ, only nodes of the same platform and kind of ID answer for this one.
        let reports_bare_ids =
            |node: &Name| self.knobs.machines.get(&**node).is_some_and(|machine| machine.bare_image_ids);
        let group =
            |node_uid: &Name| self.api.node_of_uid(node_uid).map(|node| (&node.platform, reports_bare_ids(&node.name)));
        let is_bare = |node_uid: &Name| group(node_uid).map(|(_, is_bare)| is_bare);
        let has_same_id = |other: &Name, id: &Name| *id == own.image_id && is_bare(other) == is_bare(node_uid);
        // A record counts until its NodeCache says that the image is not wanted there any more.
        let statuses = self.api.caches.values().filter_map(|cache| cache.status.as_ref());
        let records = statuses.flat_map(|status| &status.images).filter(|record| record.unwanted_since.is_none());
        let mut ids = records.filter(|record| *record.image == *pull.reference.as_str());
        let reported = own.image_id.rsplit('@').next();
        let is_recorded_alike = ids.all(|record| record.digest.as_deref().or(record.image_id.as_deref()) == reported);
        // The operator may still remember a node that has just gone.
        let is_known = |at: &Timestamp| planned_at.duration_since(*at) > self.hearsay();
        let is_settled = self.record.changes.last().is_none_or(is_known);
        let is_one =
            is_settled && is_recorded_alike && known.clone().all(|(what, it)| has_same_id(&what.0, &it.image_id));
        let answers = known.filter(|(what, _)| is_one || group(&what.0) == group(node_uid));
        let asked_at = answers.map(|(_, it)| it.at).max();
        // After its clock was set, the operator measures other times than the lab.
        let is_due = |at: Timestamp| {
            self.record.clocks_were_set || at > planned_at || planned_at.duration_since(at) >= interval.get()
        };
        is_due(own.at) && (has_moved || asked_at.is_none_or(is_due))
    }

    /// Whether the operator may have given up on a Pod before it learns of the Pod's end.
    pub(crate) fn is_given_up(&self, pod: &PullPod) -> bool {
        let cache = self.api.caches.get(&*pod.node).and_then(|cache| cache.status.as_ref());
        if cache.is_some_and(|status| status.last_pod_uid.as_deref() == pod.uid.as_deref()) {
            return true;
        }
        let is_lost = self.api.nodes.get(&*pod.node).is_some_and(|node| matches!(node.readiness, Readiness::Lost));
        let changed_at = self.record.readiness_changed_at.get(&*pod.node);
        if is_lost || changed_at.is_some_and(|at| self.now.duration_since(*at) <= self.hearsay()) {
            return true;
        }
        let policies = self.policies_in_force(&pod.policy, self.now);
        let timeout = policies.iter().map(|policy| policy.pull_timeout.get()).min();
        let expected = Expectations {
            pull_timeout: timeout.unwrap_or(SignedDuration::ZERO),
            tells_sandbox: true,
            settings: &self.settings,
        };
        let now = self.now + self.hearsay();
        // The operator uses its own clock, and may not have seen the latest steps.
        let mut seen = pod.clone();
        for step in [&mut seen.acknowledged_at, &mut seen.sandbox_up_at] {
            *step = step.map(|at| at - self.knobs.kubelet_clock);
        }
        let mut unseen = seen.clone();
        for step in [&mut unseen.acknowledged_at, &mut unseen.sandbox_up_at] {
            *step = step.filter(|at| self.now.duration_since(*at) > self.hearsay());
        }
        [seen, unseen].iter().any(|pod| pod.end(&Steps::see(pod, None, now), &expected, now).is_some())
    }

    /// Returns the least time that passes while an operator waits for `wait`. After its clock was set, the clock
    /// approaches the lab's by one part in a thousand.
    pub(crate) fn at_least(&self, wait: SignedDuration) -> SignedDuration {
        if self.record.clocks_were_set { secs(0.998 * wait.as_secs_f64()) } else { wait }
    }

    /// Returns how long after a change the operator may not know of it.
    pub(crate) fn hearsay(&self) -> SignedDuration {
        HEARSAY + self.longest_lag
    }

    /// Returns the specs that the policy has, or has had since a moment before `at`.
    fn policies_in_force(&self, name: &str, at: Timestamp) -> Vec<PullPolicySpec> {
        if name.is_empty() {
            return vec![self.settings.built_in_policy.clone()];
        }
        let history = self.record.policies.get(name).into_iter().flatten().rev();
        let mut in_force = Vec::new();
        for (since, spec) in history {
            in_force.extend(spec.clone());
            if at.duration_since(*since) > self.hearsay() {
                break;
            }
        }
        in_force
    }

    /// Returns why a policy does not allow a Pod in addition to the existing ones, if it does not.
    fn refuses(&self, policy: &PullPolicySpec, order: &PodOrder) -> Option<String> {
        let over = |limit: Option<i32>, count: usize| {
            limit.is_some_and(|limit| usize::try_from(limit).is_ok_and(|limit| count > limit))
        };
        let live: Vec<_> = self.record.live().filter(|pod| pod.order.policy == order.policy).collect();
        let mut nodes: BTreeSet<_> = live.iter().map(|pod| &pod.order.node_uid).collect();
        nodes.insert(&order.node_uid);
        if over(Some(policy.max_concurrent_nodes), nodes.len()) {
            return Some(format!("{} nodes pull", nodes.len()));
        }
        if over(policy.max_concurrent_pulls, live.len() + 1) {
            return Some(format!("{} Pods pull already", live.len()));
        }
        let hosts: BTreeSet<&str> = order.pulls.iter().map(|pull| pull.reference.host()).collect();
        for host in hosts {
            let is_busy =
                |pod: &Name| self.api.pods.get(pod).is_some_and(|live| live.pod.busy_hosts().any(|busy| busy == host));
            let pulling = live.iter().filter(|pod| is_busy(&pod.order.name)).count();
            if over(policy.max_concurrent_pulls_per_registry, pulling + 1) {
                return Some(format!("{pulling} Pods pull from {host} already"));
            }
        }
        if over(Some(policy.images_per_pod), order.pulls.len()) {
            return Some("too many images in one Pod".to_owned());
        }
        let begins = self.record.pods.iter().filter(|pod| pod.order.begins_turn() && !pod.is_forgotten);
        let mut elsewhere = begins.filter(|pod| pod.order.policy == order.policy && pod.order.node != order.node);
        let delay = self.at_least(policy.min_delay_between_pulls.get());
        let other = elsewhere.find(|pod| self.now.duration_since(pod.at) < delay).filter(|_| order.begins_turn());
        other.map(|other| format!("too soon after {other}"))
    }

    /// Checks a NodeCache that is about to be written against the facts.
    pub(crate) fn faults_of_cache(&self, cache: &NodeCache) -> Vec<String> {
        let name = cache.metadata.name.as_deref().unwrap_or_default();
        let images = cache.status.iter().flat_map(|status| &status.images);
        let pulled = images.filter(|image| image.pulled_at.is_some());
        let untrue = pulled.filter(|image| {
            let what = (cache.spec.node_uid.as_str().into(), Reference::parse(&image.image));
            !self.record.pulled.contains_key(&what)
        });
        untrue.map(|image| format!("{} was never pulled onto {name}", image.image)).collect()
    }

    /// Checks a status that is about to be written, and was sent at `sent_at`.
    pub(crate) fn faults_of_status(&self, image: &str, status: &CachedImageStatus, sent_at: Timestamp) -> Vec<String> {
        let mut faults = Faults::default();
        faults.unless(status.nodes_ready <= status.nodes_targeted, || "more nodes are ready than targeted".to_owned());
        let counted = Some(format!("{}/{}", status.nodes_ready, status.nodes_targeted));
        faults.unless(status.ready == counted, || "READY is what the counts say".to_owned());
        faults.unless(status.failures.len() <= 10, || "more than 10 failures".to_owned());
        let Some(ready) = condition::ready(&status.conditions) else {
            faults.unless(false, || "there is no condition Ready".to_owned());
            return faults.at(|| format!("{image}: {status:#?}"));
        };
        let is_cached = ready.status == ConditionStatus::True;
        faults.unless(is_cached == (ready.reason == "Cached"), || "Ready and its reason differ".to_owned());
        let all_there = status.nodes_targeted > 0 && status.nodes_ready == status.nodes_targeted;
        faults.unless(!is_cached || all_there, || "Cached, but not everywhere".to_owned());
        faults.unless(!ready.message.is_empty(), || "Ready has no message".to_owned());
        let object = self.api.images.get(image).and_then(|object| object.status.as_ref());
        let before = object.and_then(|status| condition::ready(&status.conditions));
        // A lost status, or one for a previous object of the same name, may have changed the object in between.
        let created_at = self.record.created_at.get(&EffectKey::Image(image.into()));
        let is_new = created_at.is_some_and(|at| sent_at.duration_since(*at) <= self.hearsay());
        let is_known = !is_new && !self.record.unwritten.contains(image);
        let comparable = |before: &&Condition| before.status == ready.status && is_known;
        let moved = before.filter(comparable).is_some_and(|it| it.last_transition_time != ready.last_transition_time);
        faults.unless(!moved, || "lastTransitionTime moved although status did not change".to_owned());
        faults.at(|| format!("{image}: {status:#?}"))
    }

    /// Checks that one object's status is written at most once a second, and that no request is repeated again and
    /// again.
    pub(crate) fn faults_of_pace(&self, effect: &Effect) -> Vec<String> {
        let key = effect.key();
        let recent = self.record.requests.iter().rev().take_while(|(at, _)| self.now.duration_since(*at) < BUSY.0);
        let mut faults = Faults::default();
        let times = recent.filter(|(_, other)| *other == key).count();
        faults.unless(times < BUSY.1, || format!("{key:?} is asked for {times} times within {:#}", BUSY.0));
        if let EffectKey::LookUp(image) = &key {
            faults.0.extend(self.faults_of_question(image));
        }
        if matches!(effect, Effect::PatchImage { .. } | Effect::PatchSet { .. } | Effect::PatchPolicy { .. }) {
            let is_gone = matches!(effect, Effect::PatchImage { image, .. } if !self.api.images.contains_key(&**image));
            let created_at = self.record.created_at.get(&key).copied();
            let written = || self.record.requests.iter().rev().filter(|(_, other)| *other == key).map(|(at, _)| *at);
            // A recent write may have been for a previous object of the same name.
            let had_another = created_at.is_some_and(|created_at| written().any(|at| at < created_at));
            let created_at = created_at.map(|at| if had_another { at + HEARSAY } else { at });
            let since = self.record.restarted_at.max(created_at);
            let last = written().next().filter(|at| since.is_none_or(|since| since < *at));
            let is_early = last.is_some_and(|at| self.now.duration_since(at) < self.at_least(secs(1.0)));
            // A deleted object comes back for a moment if a watch lags behind the answer to its deletion.
            faults.unless(!is_early || is_gone, || format!("{key:?} is written too often"));
        }
        faults.0
    }
}
