//! The record of all events in a lab.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use drop_api::{CachedImageStatus, DiscoveryPolicyStatus, PullPolicySpec};
use drop_core::effect::{EffectKey, PodOrder};
use drop_core::event::Kind;
use drop_core::lookup::LookedUp;
use drop_core::manifest::Manifest;
use drop_core::notice::Notice;
use drop_core::reference::Reference;
use drop_core::{Event, Name};
use jiff::Timestamp;

use crate::Api;
use crate::fairness::Fairness;
use crate::lab::EPOCH;

/// All events of a lab.
#[derive(Default)]
pub struct Record {
    /// Every Pod that ever existed.
    pub pods: Vec<Created>,
    /// Every request, with the time at which it was sent.
    pub requests: Vec<(Timestamp, EffectKey)>,
    /// The statuses that CachedImages had, with the time from which they had them.
    pub statuses: BTreeMap<String, Vec<(Timestamp, CachedImageStatus)>>,
    /// CachedImages with a status that was lost on its way to the API server, or to the current leader.
    pub unwritten: BTreeSet<String>,
    /// When each image was last pushed anew.
    pub pushed: BTreeMap<String, Timestamp>,
    /// Changes of NodeCaches, by their names.
    pub cache_writes: Vec<(Timestamp, String)>,
    /// Changes of PullPolicies' statuses, by their names.
    pub policy_writes: Vec<(Timestamp, String)>,
    /// The notices that were written as Events.
    pub told: Vec<(Timestamp, Notice)>,
    /// The specs of each PullPolicy, with their beginning; `None` while it did not exist.
    pub policies: BTreeMap<String, Vec<(Timestamp, Option<PullPolicySpec>)>>,
    /// The statuses that each DiscoveryPolicy showed or was to show, with their beginning; `None` while it did not
    /// exist.
    pub lists: BTreeMap<String, Vec<(Timestamp, Option<DiscoveryPolicyStatus>)>>,
    /// When each CachedImageSet was last written.
    pub set_changed_at: BTreeMap<String, Timestamp>,
    /// Pulls that a Pod's status showed as done, by the node's UID; the last ones.
    pub pulled: BTreeMap<(Name, Reference), Success>,
    /// The pulls that the operator must know of. It must not pull these images again, except for a tag that is
    /// followed.
    pub successes: BTreeMap<(Name, Reference), Success>,
    /// Images that some node of a platform has listed, with their sizes.
    pub listed: BTreeSet<(Name, Reference)>,
    /// When the wanted images of any node last changed.
    pub wants_changed_at: Option<Timestamp>,
    /// The times of all changes that may let an image be missing, or not, on some node.
    pub changes: Vec<Timestamp>,
    /// When objects with a status were created.
    pub created_at: BTreeMap<EffectKey, Timestamp>,
    /// When the readiness or platform of each node last changed, by name.
    pub readiness_changed_at: BTreeMap<String, Timestamp>,
    /// When the operator was last restarted.
    pub restarted_at: Option<Timestamp>,
    /// The registries' last answers to the operator.
    pub(crate) answers: BTreeMap<Reference, Told>,
    /// When the images, Secrets or policies of look-ups last changed.
    pub(crate) questions_changed_at: Option<Timestamp>,
    /// Whether clocks of operators were set.
    pub clocks_were_set: bool,
    /// When the API server last denied a Pod.
    pub refused_at: Option<Timestamp>,
    /// How often pulls have lost to others, if requested.
    pub fairness: Option<Fairness>,
    /// The events that watches have shown, in their order, if requested.
    pub history: Option<Vec<(Kind, Event)>>,
    /// The events as sentences for people, if requested.
    pub(crate) journal: Option<Vec<(Timestamp, String)>>,
}

/// A registry's last answers about an image.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// When the operator asked.
    pub(crate) asked_at: Timestamp,
    /// When it heard of the answer.
    pub(crate) at: Timestamp,
    /// The manifest that it last served.
    pub(crate) served: Option<Manifest>,
    /// Whether its last answer was a manifest.
    pub(crate) works: bool,
    /// Whether its last answer was that there is no such image.
    pub(crate) is_missing: bool,
}

/// A pull that succeeded.
#[derive(Clone, Debug)]
pub struct Success {
    /// When a Pod's status showed it.
    pub at: Timestamp,
    /// The image's digest at that time.
    pub image_id: Name,
}

/// A Pod that was created.
#[derive(Debug)]
pub struct Created {
    /// When.
    pub at: Timestamp,
    /// Its UID.
    pub uid: Name,
    /// The order that created it.
    pub order: PodOrder,
    /// When its deletion was requested.
    pub deleted_at: Option<Timestamp>,
    /// When it first showed the outcomes of its images.
    pub settled_at: Option<Timestamp>,
    /// When it was gone.
    pub gone_at: Option<Timestamp>,
    /// Whether its node missed images of its policy when it was gone.
    pub left_some: bool,
    /// Whether an operator that was restarted can no longer find it in the API, or its machine was gone before it came.
    pub is_forgotten: bool,
}

impl Created {
    /// Whether it pulls this image.
    #[must_use]
    pub fn pulls(&self, reference: &Reference) -> bool {
        self.order.pulls.iter().any(|pull| pull.reference == *reference)
    }

    /// The registries that it pulls from.
    #[must_use]
    pub fn hosts(&self) -> BTreeSet<&str> {
        self.order.pulls.iter().map(|pull| pull.reference.host()).collect()
    }

    /// The time of its creation, in whole seconds since the lab began.
    #[must_use]
    pub fn second(&self) -> i64 {
        second(self.at)
    }
}

impl fmt::Display for Created {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let images: Vec<&str> = self.order.pulls.iter().map(|pull| &*pull.cached_image).collect();
        write!(f, "{}s {}: {}", self.second(), self.order.node, images.join(" "))
    }
}

/// The time since the lab began, in whole seconds.
fn second(at: Timestamp) -> i64 {
    at.duration_since(EPOCH).as_secs()
}

/// Formats a time as the lab counts it.
pub(crate) fn clock(at: Timestamp) -> String {
    format!("{:.2}s", at.duration_since(EPOCH).as_secs_f64())
}

impl Record {
    /// Returns the events, one per line: the time since the lab began, and the event. Empty unless
    /// [`Lab::keep_journal`](crate::Lab::keep_journal) was called.
    #[must_use]
    pub fn timeline(&self) -> String {
        let lines = self.journal.iter().flatten().map(|(at, what)| format!("{:>9}  {what}\n", clock(*at)));
        lines.collect()
    }

    pub(crate) fn created(&mut self, order: &PodOrder, uid: Name, has_machine: bool, at: Timestamp) {
        let order = order.clone();
        self.pods.push(Created {
            at,
            uid,
            order,
            deleted_at: None,
            settled_at: None,
            gone_at: None,
            left_some: false,
            is_forgotten: !has_machine,
        });
    }

    fn pod(&mut self, uid: &Name) -> Option<&mut Created> {
        self.pods.iter_mut().find(|pod| pod.uid == *uid)
    }

    pub(crate) fn deleted(&mut self, uid: &Name, at: Timestamp) {
        if let Some(pod) = self.pod(uid) {
            pod.deleted_at = Some(at);
        }
    }

    pub(crate) fn settled(&mut self, uid: &Name, at: Timestamp) {
        if let Some(pod) = self.pod(uid) {
            pod.settled_at.get_or_insert(at);
        }
    }

    pub(crate) fn gone(&mut self, uid: &Name, left_some: bool, at: Timestamp) {
        if let Some(pod) = self.pod(uid) {
            (pod.gone_at, pod.left_some) = (Some(at), left_some);
        }
    }

    pub(crate) fn succeeded(&mut self, node_uid: &Name, image: &Reference, wanted: bool, success: Success) {
        let what = (node_uid.clone(), image.clone());
        if wanted {
            self.successes.insert(what.clone(), success.clone());
        }
        self.pulled.insert(what, success);
    }

    /// Records that an image is newly wanted.
    pub(crate) fn wanted(&mut self, at: Timestamp) {
        self.wants_changed_at = Some(at);
        self.questions_changed_at = Some(at);
        self.changes.push(at);
    }

    /// Returns when the operator last asked the registry of an image.
    pub(crate) fn asked_at(&self, image: &Reference) -> Option<Timestamp> {
        let is_it = |key: &EffectKey| matches!(key, EffectKey::LookUp(asked) if asked == image);
        self.requests.iter().rev().find(|(_, key)| is_it(key)).map(|(at, _)| *at)
    }

    /// Records that a registry's answer reaches the operator.
    pub(crate) fn looked_up(&mut self, image: &Reference, answer: &LookedUp, at: Timestamp) {
        let Some(asked_at) = self.asked_at(image) else { return };
        let told = self.answers.entry(image.clone()).or_default();
        told.asked_at = asked_at;
        if let LookedUp::Found(manifest) = answer {
            told.served = Some((**manifest).clone());
        }
        told.at = at;
        told.works = told.served.is_some() && matches!(answer, LookedUp::Found(_) | LookedUp::Unchanged);
        told.is_missing = matches!(answer, LookedUp::NotFound { .. });
    }

    /// Records that the wanted images of a node have changed: an image that was pulled may be pulled again.
    pub(crate) fn wants_changed(&mut self, at: Timestamp) {
        self.successes.clear();
        self.wanted(at);
    }

    pub(crate) fn policy_changed(&mut self, name: &str, spec: Option<PullPolicySpec>, at: Timestamp) {
        self.policies.entry(name.to_owned()).or_default().push((at, spec));
        self.changes.push(at);
        self.questions_changed_at = Some(at);
    }

    /// The operator was restarted: it knows of starts from Pods and NodeCaches only.
    pub(crate) fn restarted(&mut self, api: &Api, at: Timestamp) {
        self.restarted_at = Some(at);
        self.answers.clear();
        for pod in &mut self.pods {
            let order = &pod.order;
            let cache = api.caches.get(&*order.node).and_then(|cache| cache.status.as_ref());
            let starts = cache.into_iter().flat_map(|status| &status.pull_starts);
            let recorded = starts.filter(|start| *start.policy == *order.policy).any(|start| start.at >= pod.at);
            pod.is_forgotten |= !recorded && !api.pods.contains_key(&order.name);
        }
    }

    /// The Pods that are there, in the order of their creation.
    pub fn live(&self) -> impl Iterator<Item = &Created> {
        self.pods.iter().filter(|pod| pod.gone_at.is_none())
    }
}
