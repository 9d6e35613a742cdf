//! Pull Pods, from the request that creates them until they are gone.

use jiff::{SignedDuration, Timestamp};

use super::{Refused, World};
use crate::Name;
use crate::io::effect::{EffectKey, PodOrder};
use crate::objects::presence::Standing;
use crate::objects::pull_pod::{Container, ContainerState, Outcome, PullPod, Steps};
use crate::objects::reference::Reference;
use crate::pace::backoff::Backoff;
use crate::text::shortened;
use crate::time::after;

/// A pull Pod.
#[derive(Debug)]
pub(crate) struct PodEntry {
    pub(crate) pod: PullPod,
    pub(crate) stage: Stage,
    /// When it was started: the latest possible time, so that no delay measured from it is too short. `None` while
    /// unknown.
    pub(crate) started_at: Option<Timestamp>,
    /// Whether it began a turn of its node.
    pub(crate) begins_turn: bool,
    /// When this process saw it take each step.
    pub(crate) steps: Steps,
    /// Whether its outcome has been recorded.
    pub(crate) recorded: bool,
    /// Whether this process requested it with late pulls.
    pub(crate) is_late: bool,
}

/// How certain the existence of a Pod is.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Its creation was requested.
    Requested(Box<PodOrder>),
    /// The API server confirmed it at this time; the watch has not shown it.
    Created(Timestamp),
    /// The watch has shown it.
    Observed,
    /// Another client has deleted it: the entry stays until that is recorded.
    Gone,
}

impl World {
    pub(super) fn set_pod(&mut self, pod: PullPod, now: Timestamp) {
        let known = self.pods.get(&pod.name);
        if known.is_some_and(|known| matches!(known.stage, Stage::Observed) && known.pod == pod) {
            return;
        }
        // A Pod that this process requested was created by now at the latest. For any other Pod, only the second of its
        // creation is known, by a clock that may be ahead.
        let started_at = match known {
            Some(PodEntry { started_at: Some(at), .. }) => *at,
            Some(_) => now,
            None => after(pod.created_at, SignedDuration::from_secs(1)).min(now),
        };
        let begins_turn = known.map_or(pod.goes_on_since.is_none(), |known| known.begins_turn);
        let steps = Steps::see(&pod, known.map(|known| &known.steps), now);
        let recorded = known.is_some_and(|known| known.recorded && known.pod.uid == pod.uid);
        let is_late = known.is_some_and(|known| known.is_late);
        if begins_turn {
            self.note_start(&pod.policy, &pod.node, started_at);
        } else if known.is_none() {
            // The Pod that began the turn may be gone without a record.
            let began_at = after(pod.turn_began_at(now), SignedDuration::from_secs(1)).min(now);
            self.note_start(&pod.policy, &pod.node, began_at);
        }
        // This confirms a creation whose answer was lost.
        self.flights.remove(&EffectKey::CreatePod(pod.name.clone()));
        self.accepted(&pod);
        let stage = Stage::Observed;
        self.put_pod(PodEntry { pod, stage, started_at: Some(started_at), begins_turn, steps, recorded, is_late }, now);
    }

    /// Treats a requested Pod as created.
    pub(super) fn expect_pod(&mut self, order: &PodOrder, now: Timestamp) {
        if self.pods.contains_key(&order.name) {
            return;
        }
        let waiting = || ContainerState::Waiting { reason: "".into(), message: "".into() };
        let pod = PullPod {
            name: order.name.clone(),
            uid: None,
            node: order.node.clone(),
            node_uid: order.node_uid.clone(),
            policy: order.policy.clone(),
            created_at: now,
            goes_on_since: order.goes_on_since,
            terminating: false,
            acknowledged_at: None,
            sandbox_up_at: None,
            rejection: None,
            containers: order
                .pulls
                .iter()
                .map(|pull| Container {
                    image: pull.reference.clone(),
                    pulled_as: None,
                    image_id: None,
                    state: waiting(),
                })
                .collect(),
        };
        let is_late = order.is_late;
        let starts = self.starts.entry(order.policy.clone()).or_default();
        starts.begin(!is_late);
        if is_late {
            starts.note_retry(now);
        }
        let steps = Steps::see(&pod, None, now);
        let stage = Stage::Requested(Box::new(order.clone()));
        let begins_turn = order.begins_turn();
        self.put_pod(PodEntry { pod, stage, started_at: None, begins_turn, steps, recorded: false, is_late }, now);
    }

    pub(super) fn put_pod(&mut self, entry: PodEntry, now: Timestamp) {
        let was_started = self.pods.get(&entry.pod.name).is_some_and(|known| known.started_at.is_some());
        let begins = entry.started_at.is_some() && !was_started;
        self.take_pod(&entry.pod.name.clone());
        let pod = &entry.pod;
        self.pods_on.entry(pod.node.clone()).or_default().insert(pod.name.clone());
        let recorded = self.is_recorded(&entry);
        for container in &pod.containers {
            if !recorded || container.outcome().is_none() {
                self.pulling.entry(container.image.clone()).or_default().insert(pod.node.clone());
            }
        }
        if begins {
            self.pod_begins(&entry, now);
        }
        self.touch_pod(&entry.pod);
        self.pods.insert(entry.pod.name.clone(), entry);
    }

    /// Records that a Pod has begun on its node, now that it is known to exist.
    fn pod_begins(&mut self, entry: &PodEntry, now: Timestamp) {
        let pod = &entry.pod;
        if let Some(node) = self.nodes.get_mut(&pod.node).filter(|node| node.node.uid == pod.node_uid) {
            node.pulls(&pod.policy, pod.turn_began_at(now), entry.is_late);
        }
        if entry.begins_turn {
            self.end_interrupted_turns(&pod.policy, &pod.node);
        }
    }

    pub(super) fn take_pod(&mut self, name: &Name) {
        let Some(entry) = self.pods.remove(name) else { return };
        let pod = entry.pod;
        if let Some(pods) = self.pods_on.get_mut(&pod.node) {
            pods.remove(name);
            if pods.is_empty() {
                self.pods_on.remove(&pod.node);
            }
        }
        for container in &pod.containers {
            self.end_pull(&container.image, &pod.node);
        }
        self.touch_pod(&pod);
    }

    /// Ends the pulls of a node's Pods whose outcomes are now recorded.
    pub(super) fn end_recorded_pulls(&mut self, node: &Name, now: Timestamp) {
        let pods = self.pods_on.get(node).into_iter().flatten();
        let recorded: Vec<Name> =
            pods.filter(|pod| self.pods.get(*pod).is_some_and(|entry| self.is_recorded(entry))).cloned().collect();
        for pod in &recorded {
            if let Some(entry) = self.pods.get_mut(pod) {
                entry.recorded = true;
            }
        }
        let images: Vec<Reference> = recorded
            .iter()
            .filter_map(|pod| self.pods.get(pod))
            .flat_map(|entry| entry.pod.containers.iter().filter(|container| container.outcome().is_some()))
            .map(|container| container.image.clone())
            .collect();
        for image in images {
            self.end_pull(&image, node);
        }
        for pod in recorded {
            if self.pods.get(&pod).is_some_and(|entry| matches!(entry.stage, Stage::Gone)) {
                self.remove_pod(&pod, now);
            }
        }
    }

    /// Removes a Pod that is gone. If its outcome is not recorded yet, another client has deleted it, and may delete
    /// the next one too. So a failure is recorded, and no Pod follows at once.
    pub(super) fn pod_gone(&mut self, name: &Name, now: Timestamp) {
        let is_cut_short = self.pods.get(name).is_some_and(|entry| self.is_cut_short(entry));
        match self.pods.get_mut(name).filter(|_| is_cut_short) {
            Some(entry) => entry.stage = Stage::Gone,
            None => self.remove_pod(name, now),
        }
    }

    fn is_cut_short(&self, entry: &PodEntry) -> bool {
        let pod = &entry.pod;
        let is_own = [EffectKey::DeletePod(pod.name.clone()), EffectKey::KillPod(pod.name.clone())]
            .iter()
            .any(|key| self.flights.contains_key(key));
        let is_there = self.nodes.get(&pod.node).is_some_and(|node| node.node.uid == pod.node_uid);
        matches!(entry.stage, Stage::Observed) && !is_own && self.wants(pod) && is_there && !self.is_recorded(entry)
    }

    /// Records that a Pod of the node no longer pulls the image. Another Pod may already pull it.
    pub(super) fn end_pull(&mut self, image: &Reference, node: &Name) {
        let mut pods = self.pods_on.get(node).into_iter().flatten().filter_map(|pod| self.pods.get(pod));
        let is_pulled = pods.any(|entry| {
            let mut of_image = entry.pod.containers.iter().filter(|container| container.image == *image);
            of_image.any(|container| container.outcome().is_none() || !self.is_recorded(entry))
        });
        if is_pulled {
            return;
        }
        if let Some(nodes) = self.pulling.get_mut(image) {
            nodes.remove(node);
            if nodes.is_empty() {
                self.pulling.remove(image);
            }
        }
    }

    /// Marks the node, images and policy that a change of a Pod affects.
    pub(super) fn touch_pod(&mut self, pod: &PullPod) {
        self.dirty.places.insert(pod.node.clone());
        self.outbox.note_policy(&pod.policy);
        for container in &pod.containers {
            self.mark_images_of(&container.image);
        }
    }

    pub(super) fn pod_created(&mut self, name: &Name, uid: Name, now: Timestamp) {
        let Some(mut entry) = self.pods.remove(name) else { return };
        if matches!(entry.stage, Stage::Requested(_)) {
            entry.stage = Stage::Created(now);
            entry.started_at = Some(now);
            entry.pod.uid = Some(uid);
            self.pod_begins(&entry, now);
            if entry.begins_turn {
                self.note_start(&entry.pod.policy, &entry.pod.node, now);
            }
            self.accepted(&entry.pod);
        }
        self.pods.insert(name.clone(), entry);
    }

    /// Records that the API server accepts Pods for these images.
    pub(super) fn accepted(&mut self, pod: &PullPod) {
        for container in &pod.containers {
            for name in self.wanted.get(&container.image).into_iter().flatten() {
                if let Some(entry) = self.images.get_mut(name)
                    && entry.refused.take().is_some()
                {
                    self.dirty.images.insert(name.clone());
                }
            }
        }
    }

    pub(super) fn pod_refused(&mut self, name: &Name, message: &str, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(name) else { return };
        let Stage::Requested(order) = &entry.stage else { return };
        let order = order.clone();
        let flight = self.flights.remove(&EffectKey::CreatePod(name.clone()));
        if flight.is_some_and(|flight| flight.in_doubt) {
            // An earlier request may have created it: it counts until that is known.
            entry.stage = Stage::Created(Timestamp::MIN);
        } else {
            self.remove_pod(name, now);
        }
        if order.begins_turn() {
            // Other nodes would be refused as well, so they are asked for no faster than they may start.
            self.starts.entry(order.policy.clone()).or_default().note_refusal(now);
            self.outbox.note_policy(&order.policy);
        }
        if let Some(node) = self.nodes.get_mut(&order.node) {
            let refused_at = if order.is_late { &mut node.refused_at.late } else { &mut node.refused_at.fresh };
            *refused_at = Some(now);
        }
        let backoff = Backoff { initial: self.settings.retry_initial, max: self.settings.retry_max };
        for pull in &order.pulls {
            let Some(entry) = self.images.get_mut(&pull.cached_image) else { continue };
            let count = entry.refused.as_ref().map_or(0, |refused| refused.count).saturating_add(1);
            let until = after(now, backoff.delay(count, &pull.cached_image));
            entry.refused = Some(Refused { count, until, message: shortened(message, 512).into() });
            self.dirty.images.insert(pull.cached_image.clone());
        }
    }

    /// Whether the Pod's outcome is, or was, in its node's memory.
    pub(crate) fn is_recorded(&self, entry: &PodEntry) -> bool {
        let pod = &entry.pod;
        let memory = self.nodes.get(&pod.node).and_then(|node| self.memory_of(&node.node));
        entry.recorded || memory.is_some_and(|memory| memory.last_pod.is_some() && memory.last_pod == pod.uid)
    }

    /// Whether any image of the Pod is wanted.
    pub(crate) fn wants(&self, pod: &PullPod) -> bool {
        pod.containers.iter().any(|container| self.wanted.contains_key(&container.image))
    }

    /// Whether the node of a Pod lacks no image of the Pod's policy that the Pod does not pull.
    pub(crate) fn ends_turn(&self, pod: &PullPod) -> bool {
        let Some(node) = self.node(&pod.node) else { return true };
        let mut lacking = self.images_on(node, Standing::wants_pull).map(|(image, _)| &image.image);
        let is_in_pod = |image: &Reference| pod.containers.iter().any(|container| container.image == *image);
        lacking.all(|image| image.policy != pod.policy || is_in_pod(&image.reference))
    }

    /// Returns one of the node's pull Pods.
    pub(crate) fn pod_on(&self, node: &str) -> Option<&PodEntry> {
        self.pods_on(node).next()
    }

    pub(super) fn remove_pod(&mut self, name: &Name, now: Timestamp) {
        if let Some(entry) = self.pods.get(name) {
            let succeeded = |container: &Container| matches!(container.outcome(), Some(Outcome::Pulled { .. }));
            let has_succeeded = entry.pod.containers.iter().all(succeeded);
            let is_open = |container: &Container| container.outcome().is_none();
            let has_hung = entry.recorded && entry.pod.containers.iter().any(is_open);
            if entry.is_late || has_hung {
                self.starts.entry(entry.pod.policy.clone()).or_default().note_retry(now);
            }
            if let Some(node) = self.nodes.get_mut(&entry.pod.node).filter(|_| has_succeeded || has_hung) {
                node.hung_at = has_hung.then_some(now);
            }
            // A NodeCache that was written meanwhile says that the node is pulling.
            self.dirty.caches.insert(entry.pod.node.clone());
            // The turn of a node whose pulls hang does not go on.
            if let Some(node) = self.nodes.get_mut(&entry.pod.node).filter(|_| has_hung) {
                node.turns.remove(&entry.pod.policy);
            }
        }
        self.take_pod(name);
        self.flights.remove(&EffectKey::CreatePod(name.clone()));
        self.flights.remove(&EffectKey::DeletePod(name.clone()));
        self.flights.remove(&EffectKey::CheckPod(name.clone()));
        self.flights.remove(&EffectKey::KillPod(name.clone()));
    }

    /// The pull Pod called `name`.
    pub(crate) fn pod(&self, name: &str) -> Option<&PodEntry> {
        self.pods.get(name)
    }

    /// Every pull Pod, by name.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &PodEntry> {
        self.pods.values()
    }

    /// The pull Pods of a node; there is more than one only by accident.
    pub(crate) fn pods_on(&self, node: &str) -> impl Iterator<Item = &PodEntry> {
        self.pods_on.get(node).into_iter().flatten().filter_map(|pod| self.pods.get(pod))
    }

    /// Returns the nodes that are pulling `image`, or whose pull has ended and is not recorded yet.
    pub(crate) fn pulling(&self, image: &Reference) -> impl Iterator<Item = &Name> {
        self.pulling.get(image).into_iter().flatten()
    }
}
