//! Carries out requests, as the API server does.

use drop_api::condition::{self, Condition};
use drop_api::names::LABEL_ORIGIN;
use drop_api::{
    CachedImage, CachedImageSetStatus, CachedImageStatus, DiscoveryPolicyStatus, NodeCache, PullPolicyStatus,
};
use drop_core::effect::{EffectKey, PodOrder};
use drop_core::event::{Kind, Report};
use drop_core::image::{Image, ImagePullPolicy};
use drop_core::reference::Reference;
use drop_core::{Effect, Event, Name};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value};

use crate::Lab;
use crate::api::{policy_event, set_event, whole_seconds};

impl Lab {
    /// Returns an object as it arrives at the API server.
    fn arrived<T: Clone + serde::Serialize + serde::de::DeserializeOwned>(&self, object: &T) -> serde_json::Result<T> {
        if self.knobs.json { serde_json::from_str(&serde_json::to_string(object)?) } else { Ok(object.clone()) }
    }

    /// The status of an object whose status was `before`, after a merge patch with this one.
    fn patched<T: Clone + serde::Serialize + serde::de::DeserializeOwned>(
        &self,
        before: Option<&T>,
        patch: &T,
    ) -> serde_json::Result<T> {
        if !self.knobs.json {
            return Ok(patch.clone());
        }
        let mut status = serde_json::to_value(before)?;
        merge(&mut status, serde_json::to_value(patch)?);
        serde_json::from_value(status)
    }

    /// Refuses a request, except where it has been carried out before.
    pub(crate) fn refuse(&mut self, effect: &Effect, sent_at: Timestamp, why: &str) -> Report {
        match effect {
            Effect::CreatePod(order) if self.api.pods.contains_key(&order.name) => self.carry_out(effect, sent_at),
            _ => Report::Refused(why.to_owned()),
        }
    }

    /// Carries out a request that was sent at `sent_at`.
    pub(crate) fn carry_out(&mut self, effect: &Effect, sent_at: Timestamp) -> Report {
        self.attempt(effect, sent_at).unwrap_or_else(|error| {
            self.violate(format!("{:?} cannot be read: {error}", effect.key()));
            Report::Refused(error.to_string())
        })
    }

    fn attempt(&mut self, effect: &Effect, sent_at: Timestamp) -> serde_json::Result<Report> {
        Ok(match effect {
            Effect::CreatePod(order) => self.create_pod(order, sent_at),
            Effect::DeletePod { pod, uid, force } => match self.api.pods.get(pod) {
                Some(live) if uid.is_none() || live.pod.uid == *uid => {
                    let uid = live.pod.uid.clone().unwrap_or_default();
                    self.terminate(pod);
                    if *force {
                        self.remove_pod(&uid);
                    }
                    Report::Done
                }
                _ => Report::PodGone { uid: uid.clone() },
            },
            Effect::CheckPod { pod } if self.api.pods.contains_key(pod) => Report::Done,
            Effect::CheckPod { .. } => Report::PodGone { uid: None },
            Effect::RecordNode { cache, .. } => self.record_node(*self.arrived(cache)?),
            Effect::PatchImage { image, status } => {
                let before = self.api.images.get(&**image).and_then(|object| object.status.as_ref());
                let status: CachedImageStatus = self.patched(before, status)?;
                self.violate_all(self.faults_of_status(image, &status, sent_at));
                self.record.unwritten.remove(&**image);
                if let Some(object) = self.api.images.get_mut(&**image)
                    && object.status.as_ref() != Some(&status)
                {
                    object.status = Some(status.clone());
                    self.note(|| shown(image, &status.conditions, status.ready.as_deref()));
                    self.record.statuses.entry(image.to_string()).or_default().push((self.now, status));
                    self.show_image(image);
                }
                Report::Done
            }
            Effect::CreateChild { child, .. } => self.create_child(*self.arrived(child)?),
            Effect::UpdateChild { child, uid, spec, origin, .. } => {
                match self.api.images.get(&**child).and_then(|image| image.metadata.uid.clone()) {
                    None => Report::Done,
                    Some(found) if *found != **uid => Report::Refused("another UID".to_owned()),
                    Some(_) => {
                        let spec = *self.arrived(spec)?;
                        if let (Some(origin), Some(image)) = (origin, self.api.images.get_mut(&**child)) {
                            let labels = image.metadata.labels.get_or_insert_default();
                            labels.insert(LABEL_ORIGIN.to_owned(), origin.label().to_owned());
                        }
                        self.edit_image(child, |before| *before = spec);
                        let now = self.api.images.get(&**child).cloned();
                        now.map_or(Report::Done, |now| Report::Child(Box::new(now)))
                    }
                }
            }
            Effect::DeleteChild { set, child, uid } => {
                let found = self.api.images.get(&**child);
                if let Some(found) = found.filter(|found| found.metadata.uid.as_deref() == Some(&**uid)) {
                    self.violate_all(self.faults_of_deletion(set, found, sent_at));
                    self.delete_image(child);
                }
                Report::Done
            }
            Effect::PatchSet { set, status } => {
                let before = self.api.sets.get(&**set).and_then(|object| object.status.as_ref());
                let status: CachedImageSetStatus = self.patched(before, status)?;
                if let Some(object) = self.api.sets.get_mut(&**set)
                    && object.status.as_ref() != Some(&status)
                {
                    object.status = Some(status.clone());
                    let event = set_event(object);
                    self.note(|| shown(set, &status.conditions, status.ready.as_deref()));
                    event.into_iter().for_each(|event| self.show(Kind::Set, &event));
                }
                Report::Done
            }
            Effect::Discover(order) => self.discover(order),
            Effect::LookUp(inquiry) => Report::LookedUp(self.look_up(inquiry)),
            Effect::PatchDiscovery { policy, status } => {
                let before = self.api.discoveries.get(&**policy).and_then(|object| object.status.as_ref());
                let status: DiscoveryPolicyStatus = self.patched(before, status)?;
                self.violate_all(self.faults_of_list(policy, &status));
                if let Some(object) = self.api.discoveries.get_mut(&**policy)
                    && object.status.as_ref() != Some(&status)
                {
                    object.status = Some(status.clone());
                    let event = Event::Discovery(Box::new(object.clone()));
                    self.note(|| shown(policy, &status.conditions, None));
                    self.lists(policy, Some(status));
                    self.show(Kind::Discovery, &event);
                }
                Report::Done
            }
            Effect::PatchPolicy { policy, status } => {
                let before = self.api.policies.get(&**policy).and_then(|object| object.status.as_ref());
                let status: PullPolicyStatus = self.patched(before, status)?;
                if let Some(object) = self.api.policies.get_mut(&**policy)
                    && object.status.as_ref() != Some(&status)
                {
                    object.status = Some(status);
                    self.record.policy_writes.push((self.now, policy.to_string()));
                    let event = policy_event(object);
                    event.into_iter().for_each(|event| self.show(Kind::Policy, &event));
                }
                Report::Done
            }
            Effect::Tell(notice) => {
                self.record.told.push((self.now, (**notice).clone()));
                Report::Done
            }
        })
    }

    fn create_pod(&mut self, order: &PodOrder, sent_at: Timestamp) -> Report {
        if let Some(live) = self.api.pods.get(&order.name) {
            return Report::PodCreated { uid: live.pod.uid.clone().unwrap_or_default() };
        }
        self.violate_all(self.faults_of_start(order, sent_at));
        let faults = self.faults_of_fairness(order);
        self.violate_all(faults);
        let images = order.pulls.iter().map(|pull| pull.reference.clone());
        let (node, node_uid) = (order.node.clone(), order.node_uid.clone());
        let uid = self.add_pod(order.name.clone(), node, node_uid, order.policy.clone(), images, order.goes_on_since);
        if let Some(live) = self.api.pods.get_mut(&order.name) {
            live.secrets.clone_from(&order.secrets);
            live.host_network = order.host_network;
        }
        let has_machine = self.api.nodes.get(&*order.node).is_some_and(|node| node.uid == order.node_uid);
        self.record.created(order, uid.clone(), has_machine, self.now);
        let images: Vec<&str> = order.pulls.iter().map(|pull| pull.reference.as_str()).collect();
        self.note(|| format!("{}: a Pod pulls {}", order.node, images.join(", ")));
        if !has_machine {
            self.collect_soon(order.node_uid.clone());
        }
        Report::PodCreated { uid }
    }

    fn record_node(&mut self, mut cache: NodeCache) -> Report {
        self.violate_all(self.faults_of_cache(&cache));
        let name = cache.metadata.name.clone().unwrap_or_default();
        let version = self.api.caches.get(&name).and_then(|cache| cache.metadata.resource_version.as_ref());
        if cache.metadata.resource_version.is_some() && cache.metadata.resource_version.as_ref() != version {
            return Report::Unknown("the object has been modified".to_owned());
        }
        match self.api.caches.get(&name) {
            Some(before) if before.spec == cache.spec && before.status == cache.status => cache = before.clone(),
            _ => {
                cache.metadata.resource_version = Some(self.api.next_version().to_string());
                self.record.cache_writes.push((self.now, name.clone()));
                self.api.caches.insert(name.clone(), cache.clone());
                self.show(Kind::Cache, &Event::Cache(Box::new(cache.clone())));
            }
        }
        if self.api.nodes.get(&name).is_none_or(|node| *node.uid != *cache.spec.node_uid) {
            self.collect_soon(cache.spec.node_uid.as_str().into());
        }
        Report::Recorded(Box::new(cache))
    }

    fn create_child(&mut self, mut child: CachedImage) -> Report {
        let name = child.metadata.name.clone().unwrap_or_default();
        match self.api.images.get(&name) {
            Some(found) if found.metadata.owner_references == child.metadata.owner_references => {
                Report::Child(Box::new(found.clone()))
            }
            Some(_) => Report::Refused("it is there already".to_owned()),
            None => {
                child.metadata.uid = Some(format!("image-{}", self.api.next_version()));
                child.metadata.generation = Some(1);
                child.metadata.creation_timestamp = Some(Time(whole_seconds(self.now)));
                self.record.created_at.insert(EffectKey::Image(name.as_str().into()), self.now);
                self.api.images.insert(name.clone(), child.clone());
                self.record.wanted(self.now);
                self.show_image(&name);
                for owner in child.metadata.owner_references.iter().flatten() {
                    if !self.api.sets.values().any(|set| set.metadata.uid.as_ref() == Some(&owner.uid)) {
                        self.collect_soon(owner.uid.as_str().into());
                    }
                }
                Report::Child(Box::new(child))
            }
        }
    }

    /// Whether some CachedImage wants `reference` on the node of this UID, as the operator
    /// must know.
    pub(crate) fn is_surely_wanted(&self, node_uid: &Name, reference: &Reference) -> bool {
        let known = self.record.wants_changed_at.is_none_or(|at| self.now.duration_since(at) > self.hearsay());
        known && self.is_wanted(node_uid, reference)
    }

    /// Whether the node of this UID misses images of a policy, as far as the operator must know.
    pub(crate) fn misses_some(&self, node_uid: &Name, policy: &Name) -> bool {
        let Some(node) = self.api.node_of_uid(node_uid) else { return false };
        let said = self.record.policies.get(&**policy).into_iter().flatten().filter_map(|(_, spec)| spec.as_ref());
        let follows_tags = said.clone().any(|spec| spec.repull_interval.is_some());
        let mut images = self.api.images.values().filter_map(Image::from_api);
        images.any(|image| {
            let what = (node_uid.clone(), image.reference.clone());
            let id = self.id_on_disk(node_uid, &image.reference).filter(|_| self.record.successes.contains_key(&what));
            // The times of their records decide which of two digests is the newest.
            let pulled = self.record.pulled.iter().filter(|((_, other), _)| *other == image.reference);
            let mut ids = pulled.map(|(_, it)| &*it.image_id);
            let newest = self.newest_id(&node.name, &image.reference);
            let is_there = id.is_some_and(|id| !follows_tags || (*id == newest && ids.all(|other| *other == *newest)));
            let is_pulled = image.policy == *policy && image.pull != ImagePullPolicy::Never;
            is_pulled && !is_there && image.placement.selects(node).is_ok()
        })
    }

    /// Whether some CachedImage wants `reference` on the node of this UID.
    fn is_wanted(&self, node_uid: &Name, reference: &Reference) -> bool {
        let mut images = self.api.images.values().filter_map(Image::from_api);
        self.api.node_of_uid(node_uid).is_some_and(|node| {
            images.any(|image| image.reference == *reference && image.placement.selects(node).is_ok())
        })
    }
}

/// Merges a patch into `target`: <https://www.rfc-editor.org/rfc/rfc7396#section-2>.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (name, value) in patch {
        match value {
            Value::Null => drop(target.remove(&name)),
            value => merge(target.entry(name).or_insert(Value::Null), value),
        }
    }
}

/// What a status says, on one line.
fn shown(name: &str, conditions: &[Condition], ready: Option<&str>) -> String {
    let condition = condition::ready(conditions);
    let (reason, message) = condition.map(|ready| (&*ready.reason, &*ready.message)).unwrap_or_default();
    format!("{name} shows {reason} {}: {message}", ready.unwrap_or_default())
}
