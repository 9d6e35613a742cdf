//! Actions of users, administrators and autoscalers.

use drop_api::cached_image::LocalObjectReference;
use drop_api::{
    CachedImage, CachedImageSet, CachedImageSetSpec, CachedImageSpec, DiscoveryPolicy, DiscoveryPolicySpec, PullPolicy,
    PullPolicySpec,
};
use drop_core::effect::EffectKey;
use drop_core::event::Kind;
use drop_core::node::Node;
use drop_core::pull_pod::{Container, ContainerState, PullPod};
use drop_core::reference::Reference;
use drop_core::{Event, Name};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};

use crate::api::{policy_event, secret_event, set_event, whole_seconds};
use crate::{Kubelet, Lab, LivePod};

/// Makes a CachedImage refer to a policy.
pub fn under(policy: &str) -> impl FnOnce(&mut CachedImageSpec) + use<> {
    let name = policy.to_owned();
    move |spec| spec.policy_ref = Some(LocalObjectReference { name })
}

/// If the named object does not exist, that is a [`Violation`](crate::Violation) too.
impl Lab {
    /// Creates a CachedImage of this reference under the built-in policy.
    pub fn image(&mut self, name: &str, reference: &str) {
        self.image_with(name, reference, |_| {});
    }

    /// Creates a CachedImage of this reference.
    pub fn image_with(&mut self, name: &str, reference: &str, edit: impl FnOnce(&mut CachedImageSpec)) {
        let mut spec = CachedImageSpec { image: reference.to_owned(), ..CachedImageSpec::default() };
        edit(&mut spec);
        let mut image = CachedImage::new(name, spec);
        image.metadata.generation = Some(1);
        image.metadata.uid = Some(format!("image-{}", self.api.next_version()));
        image.metadata.creation_timestamp = Some(Time(whole_seconds(self.now)));
        self.record.created_at.insert(EffectKey::Image(name.into()), self.now);
        self.api.images.insert(name.to_owned(), image);
        self.note(|| format!("CachedImage {name} is created"));
        self.record.wanted(self.now);
        self.show_image(name);
    }

    /// Creates a CachedImage that belongs to a CachedImageSet.
    pub fn image_of_set(&mut self, set: &str, name: &str, reference: &str, edit: impl FnOnce(&mut CachedImageSpec)) {
        self.image_with(name, reference, edit);
        let known = self.api.sets.get(set).and_then(|set| set.metadata.uid.clone());
        let owner = OwnerReference {
            api_version: "drop.corewire.io/v1alpha1".to_owned(),
            kind: "CachedImageSet".to_owned(),
            name: set.to_owned(),
            uid: known.unwrap_or_else(|| format!("uid-of-{set}")),
            controller: Some(true),
            block_owner_deletion: Some(true),
        };
        if let Some(image) = self.api.images.get_mut(name) {
            image.metadata.owner_references = Some(vec![owner]);
        }
        self.show_image(name);
    }

    /// Changes a CachedImage.
    pub fn edit_image(&mut self, name: &str, edit: impl FnOnce(&mut CachedImageSpec)) {
        let Some(image) = self.api.images.get_mut(name) else { return self.misses("CachedImage", name) };
        edit(&mut image.spec);
        image.metadata.generation = image.metadata.generation.map(|generation| generation + 1);
        self.note(|| format!("CachedImage {name} is changed"));
        self.record.wants_changed(self.now);
        self.show_image(name);
    }

    /// Deletes a CachedImage.
    pub fn delete_image(&mut self, name: &str) {
        if self.api.images.remove(name).is_none() {
            return self.misses("CachedImage", name);
        }
        self.note(|| format!("CachedImage {name} is deleted"));
        self.record.wants_changed(self.now);
        self.show(Kind::Image, &Event::Gone(Kind::Image, name.into()));
    }

    /// Creates or changes a CachedImageSet.
    pub fn set(&mut self, name: &str, edit: impl FnOnce(&mut CachedImageSetSpec)) {
        let version = self.api.next_version();
        let set = self.api.sets.entry(name.to_owned()).or_insert_with(|| {
            self.record.created_at.insert(EffectKey::Set(name.into()), self.now);
            let mut set = CachedImageSet::new(name, CachedImageSetSpec::default());
            set.metadata.generation = Some(0);
            set.metadata.uid = Some(format!("set-{version}"));
            set
        });
        edit(&mut set.spec);
        set.metadata.generation = set.metadata.generation.map(|generation| generation + 1);
        let event = set_event(set);
        self.note(|| format!("CachedImageSet {name} is written"));
        self.record.set_changed_at.insert(name.to_owned(), self.now);
        self.record.wants_changed(self.now);
        event.into_iter().for_each(|event| self.show(Kind::Set, &event));
    }

    /// Deletes a CachedImageSet; Kubernetes collects its CachedImages a little later.
    pub fn delete_set(&mut self, name: &str) {
        let Some(set) = self.api.sets.remove(name) else { return self.misses("CachedImageSet", name) };
        self.note(|| format!("CachedImageSet {name} is deleted"));
        self.show(Kind::Set, &Event::Gone(Kind::Set, name.into()));
        self.collect_soon(set.metadata.uid.unwrap_or_default().into());
    }

    /// Creates or changes a DiscoveryPolicy.
    pub fn discovery(&mut self, name: &str, edit: impl FnOnce(&mut DiscoveryPolicySpec)) {
        let version = self.api.next_version();
        let policy = self.api.discoveries.entry(name.to_owned()).or_insert_with(|| {
            let mut policy = DiscoveryPolicy::new(name, DiscoveryPolicySpec::default());
            policy.metadata.generation = Some(0);
            policy.metadata.uid = Some(format!("discovery-{version}"));
            policy
        });
        edit(&mut policy.spec);
        policy.metadata.generation = policy.metadata.generation.map(|generation| generation + 1);
        let policy = policy.clone();
        self.note(|| format!("DiscoveryPolicy {name} is written"));
        self.lists(name, Some(policy.status.clone().unwrap_or_default()));
        self.show(Kind::Discovery, &Event::Discovery(Box::new(policy)));
    }

    /// Deletes a DiscoveryPolicy.
    pub fn delete_discovery(&mut self, name: &str) {
        if self.api.discoveries.remove(name).is_none() {
            return self.misses("DiscoveryPolicy", name);
        }
        self.note(|| format!("DiscoveryPolicy {name} is deleted"));
        self.lists(name, None);
        self.show(Kind::Discovery, &Event::Gone(Kind::Discovery, name.into()));
    }

    /// Creates or changes a Secret.
    pub fn secret(&mut self, name: &str) {
        let version = self.api.next_version();
        self.note(|| format!("Secret {name} is written"));
        self.record.questions_changed_at = Some(self.now);
        self.api.secrets.insert(name.to_owned(), version);
        self.show(Kind::Secret, &secret_event((&name.to_owned(), &version)));
    }

    /// Deletes a Secret.
    pub fn delete_secret(&mut self, name: &str) {
        if self.api.secrets.remove(name).is_none() {
            return self.misses("Secret", name);
        }
        self.note(|| format!("Secret {name} is deleted"));
        self.record.questions_changed_at = Some(self.now);
        self.show(Kind::Secret, &Event::Gone(Kind::Secret, name.into()));
    }

    /// Creates or changes a PullPolicy.
    pub fn policy(&mut self, name: &str, edit: impl FnOnce(&mut PullPolicySpec)) {
        let policy = self.api.policies.entry(name.to_owned()).or_insert_with(|| {
            self.record.created_at.insert(EffectKey::Policy(name.into()), self.now);
            let mut policy = PullPolicy::new(name, PullPolicySpec::default());
            policy.metadata.generation = Some(0);
            policy
        });
        edit(&mut policy.spec);
        policy.metadata.generation = policy.metadata.generation.map(|generation| generation + 1);
        self.record.policy_changed(name, Some(policy.spec.clone()), self.now);
        let event = policy_event(policy);
        // A shorter pullTimeout may end a pull whose success the operator does not know yet.
        let (now, hearsay) = (self.now, self.hearsay());
        self.record.successes.retain(|_, success| now.duration_since(success.at) > hearsay);
        self.note(|| format!("PullPolicy {name} is written"));
        event.into_iter().for_each(|event| self.show(Kind::Policy, &event));
    }

    /// Deletes a PullPolicy.
    pub fn delete_policy(&mut self, name: &str) {
        if self.api.policies.remove(name).is_none() {
            return self.misses("PullPolicy", name);
        }
        self.note(|| format!("PullPolicy {name} is deleted"));
        self.record.policy_changed(name, None, self.now);
        self.show(Kind::Policy, &Event::Gone(Kind::Policy, name.into()));
    }

    /// Adds a node, with a UID of its own.
    pub fn node(&mut self, name: &str) {
        let uid = format!("node-{}", self.api.next_version());
        let node = Node {
            name: name.into(),
            uid: uid.as_str().into(),
            created_at: whole_seconds(self.now),
            platform: "linux/amd64".into(),
            ..Node::default()
        };
        self.api.nodes.insert(name.to_owned(), node.clone());
        if self.knobs.kubelets.get(name) == Some(&Kubelet::Lost) {
            self.knobs.kubelets.remove(name);
        }
        self.note(|| format!("node {name} joins"));
        self.show(Kind::Node, &Event::Node(Box::new(node)));
    }

    /// Changes a node.
    pub fn edit_node(&mut self, name: &str, edit: impl FnOnce(&mut Node)) {
        let Some(node) = self.api.nodes.get_mut(name) else { return self.misses("Node", name) };
        let before = node.clone();
        edit(node);
        let node = node.clone();
        let is_target_of = |node: &Node| {
            (node.readiness, node.taints.clone(), node.unschedulable, node.disk_pressure, node.is_virtual)
        };
        if node.labels != before.labels {
            self.record.wants_changed(self.now);
        } else if is_target_of(&node) != is_target_of(&before) {
            self.record.changes.push(self.now);
        }
        if node.readiness != before.readiness || node.platform != before.platform {
            self.record.readiness_changed_at.insert(name.to_owned(), self.now);
        }
        let event = Event::Node(Box::new(node));
        self.show(Kind::Node, &event);
    }

    /// Pushes an image anew, with this digest from now on.
    pub fn push(&mut self, image: &str, digest: &str) {
        self.note(|| format!("{image} is pushed anew"));
        self.knobs.digests.insert(image.to_owned(), digest.to_owned());
        self.record.changes.push(self.now);
        self.record.pushed.insert(image.to_owned(), self.now);
    }

    /// Removes a node; Kubernetes collects its Pods and its NodeCache a little later.
    pub fn remove_node(&mut self, name: &str) {
        let Some(node) = self.api.nodes.remove(name) else { return self.misses("Node", name) };
        self.note(|| format!("node {name} leaves"));
        self.show(Kind::Node, &Event::Gone(Kind::Node, name.into()));
        self.collect_soon(node.uid);
    }

    /// Deletes a Pod, as a user may.
    pub fn delete_pod(&mut self, name: &Name) {
        self.record.wants_changed(self.now);
        self.terminate(name);
    }

    /// Adds a Pod like Drop's own to a node, although Drop did not create it.
    pub fn stray_pod(&mut self, name: &str, node: &str, reference: &str) {
        let Some(node_uid) = self.api.nodes.get(node).map(|node| node.uid.clone()) else {
            return self.misses("Node", node);
        };
        let images = [Reference::parse(reference)];
        self.add_pod(name.into(), node.into(), node_uid, "".into(), images, None);
    }

    /// Adds a Pod that pulls these images. Returns its UID.
    pub(crate) fn add_pod(
        &mut self,
        name: Name,
        node: Name,
        node_uid: Name,
        policy: Name,
        images: impl IntoIterator<Item = Reference>,
        goes_on_since: Option<Timestamp>,
    ) -> Name {
        let uid: Name = format!("pod-{}", self.api.next_version()).into();
        let waiting = || ContainerState::Waiting { reason: "".into(), message: "".into() };
        let container = |image| Container { image, pulled_as: None, image_id: None, state: waiting() };
        let containers = images.into_iter().map(container);
        let pod = PullPod {
            name: name.clone(),
            uid: Some(uid.clone()),
            node,
            node_uid: node_uid.clone(),
            policy,
            created_at: whole_seconds(self.now),
            goes_on_since,
            terminating: false,
            acknowledged_at: None,
            sandbox_up_at: None,
            rejection: None,
            containers: containers.collect(),
        };
        self.api.pods.insert(
            name.clone(),
            LivePod {
                pod,
                node_uid,
                host_network: false,
                secrets: Vec::new(),
                pass: None,
                failures: 0,
                gone_from: None,
            },
        );
        self.show_pod(&name);
        self.kubelet_sees(&uid);
        uid
    }
}
