//! What the watches tell, taken in.

use std::collections::BTreeMap;

use drop_api::{CachedImageStatus, NodeCache, PullPolicyStatus};
use jiff::{SignedDuration, Timestamp};

use super::{CacheEntry, ImageEntry, Moves, NodeEntry, PodEntry, PolicyEntry, Published, Stage, Tally, World};
use crate::Name;
use crate::io::effect::{EffectKey, PodOrder, Pull};
use crate::io::event::Kind;
use crate::objects::image::Image;
use crate::objects::memory::{self, Memory, Record};
use crate::objects::node::Node;
use crate::objects::policy::{BUILT_IN, Policy};
use crate::objects::presence::Standing;
use crate::objects::pull_pod::{Container, ContainerState, Outcome, PullPod, Steps};
use crate::objects::reference::Reference;
use crate::time::after;
use crate::world::health::Health;

impl World {
    /// Takes in a CachedImage. `None` tells nothing of the status of one that is known.
    pub(super) fn set_image(&mut self, image: Image, status: Option<CachedImageStatus>, now: Timestamp) {
        let name = image.name.clone();
        // The answer to a write may come before the watch shows what was there before it.
        let older = |known: &ImageEntry| known.image.uid == image.uid && known.image.generation > image.generation;
        if self.images.get(&name).is_some_and(older) {
            return;
        }
        self.stale.images.insert(name.clone());
        self.stale.sets.extend(image.set.as_ref().map(|set| set.name.clone()));
        self.stale.sets.extend(self.asked_by.get(&name).cloned());
        if let Some(entry) = self.images.get_mut(&name) {
            if entry.image.uid != image.uid {
                // Another object under the name shows nothing of what was written to the one before.
                let status = status.unwrap_or_default();
                entry.published = Published::of(&image, status);
            } else if let Some(status) = status {
                entry.published.observe(status);
            }
            if entry.image == image {
                return;
            }
            let old = std::mem::replace(&mut entry.image, image.clone());
            entry.edited_at = Some(now);
            entry.refused = None;
            if old.reference != image.reference {
                entry.tally = Tally::default();
                self.forget_standings(&name);
            } else if old.pull != image.pull {
                // It may stand as before for another reason, which is remembered.
                let nodes = self.nodes.iter().filter(|(_, node)| node.standings.contains_key(&name));
                self.dirty.caches.extend(nodes.map(|(node, _)| node.clone()));
            }
            self.disown(&old);
            self.own(&image);
            self.unwant(&old);
            self.want(&image);
        } else {
            // One of this name may have gone a moment ago.
            self.forget_standings(&name);
            self.own(&image);
            self.want(&image);
            let published = Published::of(&image, status.unwrap_or_default());
            let rank = self.rank_of(&image);
            let entry = ImageEntry {
                image,
                placement: None,
                tally: Tally::default(),
                rank,
                refused: None,
                is_probed: false,
                is_doubted: false,
                seen_at: now,
                edited_at: None,
                published,
            };
            self.images.insert(name.clone(), entry);
        }
        self.dirty.images.insert(name);
    }

    /// Lets an image be judged as if for the first time, and NodeCaches forget what
    /// it was before.
    pub(super) fn forget_standings(&mut self, image: &Name) {
        for (name, node) in &mut self.nodes {
            if node.standings.remove(image).is_some() {
                self.dirty.places.insert(name.clone());
                self.dirty.caches.insert(name.clone());
            }
        }
    }

    pub(super) fn want(&mut self, image: &Image) {
        self.stale.policies.insert(image.policy.clone());
        let names = self.wanted.entry(image.reference.clone()).or_default();
        let is_new = names.is_empty();
        names.insert(image.name.clone());
        if is_new {
            let sizes = self.nodes.values().filter_map(|entry| {
                Some((entry.node.platform.clone(), entry.node.inventory.find(&image.reference)?.size))
            });
            for (platform, size) in Vec::from_iter(sizes) {
                self.note_size(&image.reference, &platform, size);
            }
        }
    }

    /// Takes in how large an image is on some node of this platform, of which the least
    /// counts, whatever comes first. Lists that lack the image may prove something else now.
    fn note_size(&mut self, image: &Reference, platform: &Name, size: u64) {
        let known = self.sizes.get(image).and_then(|sizes| sizes.get(platform));
        if size > 0 && known.is_none_or(|known| size < *known) {
            self.sizes.entry(image.clone()).or_default().insert(platform.clone(), size);
            self.dirty.standings.extend(self.wanted.get(image).into_iter().flatten().cloned());
        }
    }

    pub(super) fn unwant(&mut self, image: &Image) {
        self.stale.policies.insert(image.policy.clone());
        // Nodes that are no targets now, but were, remember it too.
        let remember = self.nodes.iter().filter(|(_, node)| {
            let memory = self.memory_of(&node.node).filter(|_| !node.standings.contains_key(&image.name));
            memory.is_some_and(|memory| memory.images.contains_key(&image.reference))
        });
        let remember: Vec<Name> = remember.map(|(node, _)| node.clone()).collect();
        self.dirty.caches.extend(remember);
        if let Some(names) = self.wanted.get_mut(&image.reference) {
            names.remove(&image.name);
            if names.is_empty() {
                self.wanted.remove(&image.reference);
                self.sizes.remove(&image.reference);
            }
        }
    }

    pub(super) fn set_policy(&mut self, policy: Policy, status: PullPolicyStatus) {
        let name = policy.name.clone();
        self.stale.policies.insert(name.clone());
        match self.policies.get_mut(&name) {
            Some(entry) => {
                entry.published.observe(status);
                if entry.policy == policy {
                    return;
                }
                entry.policy = policy;
            }
            None => {
                let published = Published::new(status);
                self.policies.insert(name.clone(), PolicyEntry { policy, published });
            }
        }
        self.policy_changed(&name);
    }

    pub(super) fn policy_changed(&mut self, name: &Name) {
        let concerned = self.images.values().filter(|entry| entry.image.policy == *name);
        self.dirty.images.extend(concerned.map(|entry| entry.image.name.clone()));
    }

    pub(super) fn set_node(&mut self, node: Node, now: Timestamp) {
        let name = node.name.clone();
        for listed in node.inventory.images() {
            for image in &listed.names {
                if self.wanted.contains_key(image) {
                    self.note_size(image, &node.platform, listed.size);
                }
            }
        }
        let before = self.nodes.get(&name).filter(|entry| entry.node.uid == node.uid);
        let before = before.map(|entry| (&entry.node.inventory, entry.full_list));
        let full_list = node.inventory.shortest_full_list(before, self.settings.listed_images);
        match self.nodes.get_mut(&name) {
            Some(entry) if entry.node == node => return,
            Some(entry) => {
                // Another machine under the same name starts anew.
                let is_another = entry.node.uid != node.uid;
                if is_another {
                    entry.turn = None;
                    entry.hung_at = None;
                    self.starts.values_mut().for_each(|starts| starts.replace(&name));
                    self.dirty.caches.insert(name.clone());
                }
                let is_hindered = is_another || entry.node.readiness != node.readiness;
                entry.node = node;
                entry.full_list = full_list;
                if is_hindered {
                    self.hinder(&name);
                }
            }
            None => {
                let entry = NodeEntry {
                    node,
                    full_list,
                    standings: BTreeMap::new(),
                    turn: None,
                    hung_at: None,
                    waiting_since: None,
                    places: Vec::new(),
                    alarm: None,
                };
                self.nodes.insert(name.clone(), entry);
                self.number_of_nodes_changed();
                self.end_recorded_pulls(&name, now);
                self.dirty.caches.insert(name.clone());
            }
        }
        self.dirty.nodes.insert(name);
    }

    /// In a cluster of one node that one tells whether a registry answers; in any other it takes two.
    fn number_of_nodes_changed(&mut self) {
        if self.nodes.len() <= 2 {
            self.dirty.images.extend(self.images.keys().cloned());
        }
    }

    /// Takes in that a node's pulls wait for another reason than before.
    fn hinder(&mut self, node: &Name) {
        let standings = self.nodes.get(node).into_iter().flat_map(|entry| &entry.standings);
        let waiting = standings.filter(|(_, standing)| !standing.is_there());
        self.stale.images.extend(waiting.map(|(image, _)| image.clone()));
    }

    pub(super) fn set_pod(&mut self, pod: PullPod, now: Timestamp) {
        let known = self.pods.get(&pod.name);
        if known.is_some_and(|known| matches!(known.stage, Stage::Observed) && known.pod == pod) {
            return;
        }
        // A Pod that this process asked for was created by now at the latest. Of
        // any other only the second is known in which it was created, by a clock that may be ahead.
        let started_at = match known {
            Some(PodEntry { started_at: Some(at), .. }) => *at,
            Some(_) => now,
            None => after(pod.created_at, SignedDuration::from_secs(1)).min(now),
        };
        let begins_turn = known.is_none_or(|known| known.begins_turn);
        let steps = Steps::see(&pod, known.map(|known| &known.steps), now);
        let recorded = known.is_some_and(|known| known.recorded && known.pod.uid == pod.uid);
        let is_late = known.is_some_and(|known| known.is_late);
        if begins_turn {
            self.note_start(&pod.policy, &pod.node, started_at);
        }
        // A creation whose answer was lost is confirmed by this.
        self.flights.remove(&EffectKey::CreatePod(pod.name.clone()));
        self.accepted(&pod);
        let stage = Stage::Observed;
        self.put_pod(PodEntry { pod, stage, started_at: Some(started_at), begins_turn, steps, recorded, is_late });
    }

    /// Takes in that pulls began under a policy.
    pub(super) fn note_start(&mut self, policy: &Name, node: &Name, at: Timestamp) {
        self.starts.entry(policy.clone()).or_default().note(node, at);
        self.stale.policies.insert(policy.clone());
    }

    /// Takes a Pod as created that was only just asked for.
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
        let is_late = order.pulls.iter().any(|pull| !self.is_fresh(&order.node, pull));
        if is_late {
            self.starts.entry(order.policy.clone()).or_default().note_retry(now);
        }
        let steps = Steps::see(&pod, None, now);
        let stage = Stage::Requested(Box::new(order.clone()));
        let begins_turn = order.begins_turn;
        self.put_pod(PodEntry { pod, stage, started_at: None, begins_turn, steps, recorded: false, is_late });
    }

    /// Whether a pull is of an image that is missing on the node, was not tried there, and fails nowhere.
    fn is_fresh(&self, node: &Name, pull: &Pull) -> bool {
        let fails = |image: &ImageEntry| image.is_probed || image.is_doubted || image.refused.is_some();
        let fails = self.images.get(&pull.cached_image).is_some_and(fails);
        let is_there = self.standing_on(node, &pull.cached_image) == Some(Standing::Cached);
        let memory = self.nodes.get(node).and_then(|node| self.memory_of(&node.node));
        let record = memory.and_then(|memory| memory.images.get(&pull.reference));
        !fails && !is_there && record.is_none_or(|record| record.failure.is_none() && !record.alone)
    }

    pub(super) fn put_pod(&mut self, entry: PodEntry) {
        self.take_pod(&entry.pod.name.clone());
        let pod = &entry.pod;
        self.pods_on.entry(pod.node.clone()).or_default().insert(pod.name.clone());
        let recorded = self.is_recorded(&entry);
        for container in &pod.containers {
            if !recorded || container.outcome().is_none() {
                self.pulling.entry(container.image.clone()).or_default().insert(pod.node.clone());
            }
        }
        if let Some(node) = self.nodes.get_mut(&pod.node).filter(|node| node.node.uid == pod.node_uid) {
            node.turn = Some(pod.policy.clone());
            node.waiting_since = None;
        }
        self.touch_pod(&entry.pod);
        self.pods.insert(entry.pod.name.clone(), entry);
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

    /// Takes in that the outcome of a node's Pod may be recorded now.
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
                self.remove(Kind::Pod, &pod, now);
            }
        }
    }

    /// Takes in that a Pod is gone. One whose outcome is still to be recorded was deleted by somebody else,
    /// who may do so again: that is recorded as a failure, so that none follows at once.
    pub(super) fn pod_gone(&mut self, name: &Name, now: Timestamp) {
        let is_cut_short = self.pods.get(name).is_some_and(|entry| self.is_cut_short(entry));
        match self.pods.get_mut(name).filter(|_| is_cut_short) {
            Some(entry) => entry.stage = Stage::Gone,
            None => self.remove(Kind::Pod, name, now),
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

    /// Records that a Pod of the node pulls the image no more. Another one may do so already.
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

    /// Marks what a change of a Pod concerns.
    pub(super) fn touch_pod(&mut self, pod: &PullPod) {
        self.dirty.places.insert(pod.node.clone());
        self.stale.policies.insert(pod.policy.clone());
        for container in &pod.containers {
            self.mark_images_of(&container.image);
        }
    }

    /// Marks the status of every CachedImage of this reference as stale, and of their policies:
    /// the Pod of one policy pulls for all.
    pub(super) fn mark_images_of(&mut self, reference: &Reference) {
        for name in self.wanted.get(reference).into_iter().flatten() {
            self.stale.policies.extend(self.images.get(name).map(|entry| entry.image.policy.clone()));
            self.stale.images.insert(name.clone());
        }
    }

    pub(super) fn set_cache(&mut self, mut object: NodeCache, seen: bool, now: Timestamp) {
        let Some(name) = object.metadata.name.as_deref().map(Name::from) else { return };
        // The answer to a write may come before the watch shows the state that
        // the write replaced.
        let older = |known: &CacheEntry| version(&known.object) > version(&object);
        if self.caches.get(&name).is_some_and(older) {
            return;
        }
        let status = object.status.get_or_insert_default();
        memory::clamp_times(status, now);
        let memory = Memory::from_api(status, &mut self.texts);
        memory::forget(status);
        let unchanged =
            self.caches.get(&name).is_some_and(|known| known.memory == memory && known.object.spec == object.spec);
        for (policy, at) in memory.starts.iter().filter(|_| !unchanged) {
            self.note_start(policy, &name, *at);
        }
        let is_of = |known: &CacheEntry| known.object.spec.node_uid == object.spec.node_uid;
        if !self.caches.get(&name).is_none_or(is_of) {
            // What another machine under the name had counts no longer.
            self.dirty.nodes.insert(name.clone());
        }
        let seen = seen || self.caches.get(&name).is_some_and(|known| known.seen);
        if self.caches.get(&name).is_none_or(|known| known.object.status != object.status) {
            // A write whose answer was lost may have been one that is out of date by now.
            self.dirty.caches.insert(name.clone());
        }
        let before = self.caches.insert(name.clone(), CacheEntry { memory, object, seen });
        if !unchanged {
            self.memory_changed(&name, before.map(|entry| entry.memory).unwrap_or_default(), now);
        }
    }

    /// Derives anew what follows from a node's memory, of which `before` was the last.
    pub(super) fn memory_changed(&mut self, node: &Name, before: Memory, now: Timestamp) {
        let nothing = Memory::default();
        let after = self.caches.get(node).map_or(&nothing, |entry| &entry.memory);
        let node_failure = after.node_failure.clone();
        // NodeCaches of earlier versions do not tell the platform.
        let platform = after.platform.clone().unwrap_or_default();
        let is_moved = before.platform != after.platform;
        let forgets_at = (before.forgets_at(), after.forgets_at());
        let forgotten = before.images.keys().filter(|image| !after.images.contains_key(*image));
        let is_changed = |image: &Reference, record: &Record| is_moved || before.images.get(image) != Some(record);
        let changed = after.images.iter().filter(|(image, record)| is_changed(image, record));
        let changes: Vec<(Reference, Option<Record>)> = forgotten
            .map(|image| (image.clone(), None))
            .chain(changed.map(|(image, record)| (image.clone(), Some(record.clone()))))
            .collect();
        let is_troubled = before.node_failure.is_some() != node_failure.is_some();
        let is_hindered = before.node_failure != node_failure || before.has_room() != after.has_room();
        match node_failure {
            Some(failure) => drop(self.troubled.insert(node.clone(), failure)),
            None => drop(self.troubled.remove(node)),
        }
        if is_hindered {
            self.hinder(node);
        }
        if forgets_at.0 != forgets_at.1 {
            if let Some(at) = forgets_at.0 {
                self.judgements.remove(&(at, node.clone()));
            }
            self.judgements.extend(forgets_at.1.map(|at| (at, node.clone())));
        }
        // Before all is synced, every node is judged as a whole; and what fails with its node, with it.
        if is_troubled || !self.is_synced() {
            self.dirty.nodes.insert(node.clone());
        }
        for (reference, record) in &changes {
            let fails = |world: &Self| (world.open_rounds(reference) > 0, world.doubt(reference).is_some());
            let failing_before = fails(self);
            let health = self.health.entry(reference.clone()).or_default();
            let update = health.update(node, &platform, record.as_ref());
            if update.is_stale {
                health.forget_pulls();
                for (node, cache) in &self.caches {
                    let platform = cache.memory.platform.clone().unwrap_or_default();
                    health.update(node, &platform, cache.memory.images.get(reference));
                }
            }
            let health = health.clone();
            if health.is_empty() {
                self.health.remove(reference);
            }
            self.registry_changed(reference, &health);
            self.mark_images_of(reference);
            let wanted_by = || self.wanted.get(reference).into_iter().flatten().cloned();
            if !self.dirty.nodes.contains(node) {
                self.dirty.pairs.entry(node.clone()).or_default().extend(wanted_by());
            }
            if failing_before != fails(self) {
                self.dirty.images.extend(wanted_by());
            } else if update.is_stale || update.is_news {
                self.dirty.standings.extend(wanted_by());
            } else if let Some(former) = update.former.filter(|former| !self.dirty.nodes.contains(former)) {
                // It asks for its platform no more.
                self.dirty.pairs.entry(former).or_default().extend(wanted_by());
            }
        }
        self.end_recorded_pulls(node, now);
        self.dirty.places.insert(node.clone());
    }

    /// Derives anew how a registry fares, of which one image's health has changed.
    fn registry_changed(&mut self, image: &Reference, health: &Health) {
        let is_of_host = |other: &&Reference| other.host() == image.host();
        let wanted = self.wanted.iter().filter(|(other, _)| is_of_host(other)).flat_map(|(_, names)| names);
        let concerned: Vec<Name> = wanted.cloned().collect();
        let nodes = self.nodes.len();
        let registry = self.registries.entry(image.host().into()).or_default();
        let paused_before = registry.is_paused(nodes);
        let recovered = registry.update(image, health);
        let success = registry.success();
        let is_changed = recovered || paused_before != registry.is_paused(nodes);
        if registry.is_empty() {
            self.registries.remove(image.host());
        }
        if let Some(health) = self.health.get_mut(image) {
            health.registry_success = success;
        }
        if is_changed {
            for (_, health) in self.health.iter_mut().filter(|(other, _)| is_of_host(other)) {
                health.registry_success = success;
            }
            self.dirty.images.extend(concerned);
        }
    }

    pub(super) fn names(&self, kind: Kind) -> Vec<Name> {
        match kind {
            Kind::Image => self.images.keys().cloned().collect(),
            Kind::Set => self.sets.keys().cloned().collect(),
            Kind::Discovery => self.discoveries.keys().cloned().collect(),
            Kind::Secret => self.secrets.keys().cloned().collect(),
            Kind::Policy => self.policies.keys().filter(|name| &***name != BUILT_IN).cloned().collect(),
            Kind::Node => self.nodes.keys().cloned().collect(),
            // A Pod that the watch has not shown yet may be younger than the list.
            Kind::Pod => self
                .pods
                .iter()
                .filter(|(_, entry)| matches!(entry.stage, Stage::Observed | Stage::Gone))
                .map(|(name, _)| name.clone())
                .collect(),
            Kind::Cache => self.caches.iter().filter(|(_, entry)| entry.seen).map(|(name, _)| name.clone()).collect(),
        }
    }

    pub(super) fn remove(&mut self, kind: Kind, name: &Name, now: Timestamp) {
        match kind {
            Kind::Image => {
                self.deleted.remove(name);
                let Some(entry) = self.images.remove(name) else { return };
                if let Some(set) = &entry.image.set {
                    self.overtake(&EffectKey::Child { set: set.name.clone(), child: name.clone() });
                }
                self.stale.images.remove(name);
                self.stale.sets.extend(self.asked_by.get(name).cloned());
                self.disown(&entry.image);
                self.unwant(&entry.image);
                self.flights.remove(&EffectKey::Image(name.clone()));
                self.dirty.images.insert(name.clone());
            }
            Kind::Set => self.remove_set(name),
            Kind::Discovery => self.remove_discovery(name),
            Kind::Secret => self.remove_secret(name),
            Kind::Policy => {
                if self.policies.remove(name).is_some() {
                    self.stale.policies.remove(name);
                    self.flights.remove(&EffectKey::Policy(name.clone()));
                    self.policy_changed(name);
                }
            }
            Kind::Node => {
                let Some(entry) = self.nodes.remove(name) else { return };
                self.number_of_nodes_changed();
                self.starts.values_mut().for_each(|starts| starts.replace(name));
                self.leave_queues(name, &entry.places, entry.alarm);
                for (image, standing) in entry.standings {
                    let mut moves = Moves::default();
                    moves.add(Some(standing), None);
                    self.count(&image, moves);
                }
                let nowhere = self.images.iter().filter(|(_, entry)| entry.is_nowhere());
                self.stale.images.extend(nowhere.map(|(image, _)| image.clone()));
                self.stale.caches.remove(name);
                self.overtake(&EffectKey::Record(name.clone()));
            }
            Kind::Pod => {
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
                    // A NodeCache that was written meanwhile says that it is pulling.
                    self.dirty.caches.insert(entry.pod.node.clone());
                    // A turn that never began does not go on, nor does that of a node whose pulls hang.
                    let never_began = entry.begins_turn && entry.started_at.is_none();
                    if let Some(node) = self.nodes.get_mut(&entry.pod.node).filter(|_| never_began || has_hung) {
                        node.turn = None;
                    }
                }
                self.take_pod(name);
                self.flights.remove(&EffectKey::CreatePod(name.clone()));
                self.flights.remove(&EffectKey::DeletePod(name.clone()));
                self.flights.remove(&EffectKey::CheckPod(name.clone()));
                self.flights.remove(&EffectKey::KillPod(name.clone()));
            }
            Kind::Cache => {
                self.overtake(&EffectKey::Record(name.clone()));
                if let Some(entry) = self.caches.remove(name) {
                    self.dirty.caches.insert(name.clone());
                    self.memory_changed(name, entry.memory, now);
                }
            }
        }
    }
}

/// An object's resource version as a number, which newer versions have greater;
/// see <https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions>.
fn version(object: &NodeCache) -> u64 {
    object.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}
