//! Simulates kubelets that run pull Pods.

use std::fmt;

use drop_api::names::stable_hash;
use drop_api::scheduling::TaintEffect;
use drop_core::event::Kind;
use drop_core::node::{Node, Readiness, Taint};
use drop_core::pull_pod::{Container, ContainerState, Rejection};
use drop_core::reference::Reference;
use drop_core::{Event, Name};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use crate::agenda::Item;
use crate::api::whole_seconds;
use crate::record::Success;
use crate::{Failure, Lab, Outcome, secs};

/// How a kubelet behaves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kubelet {
    /// It works.
    #[default]
    Works,
    /// It ignores new Pods while it is in this state.
    Silent,
    /// It acknowledges Pods, but cannot start them.
    NoSandbox,
    /// It rejects Pods, for this reason.
    Rejects(Failure),
    /// It rejects the next Pod, for this reason, and then works.
    RejectsNext(Failure),
    /// No image can be pulled here, for this reason.
    CannotPull(Failure),
    /// It is disconnected: its actions become visible when it is back.
    Lost,
}

/// Formats the behaviour as a predicate for people.
impl fmt::Display for Kubelet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Works => f.write_str("works"),
            Self::Silent => f.write_str("does not acknowledge Pods"),
            Self::NoSandbox => f.write_str("cannot start Pods"),
            Self::Rejects(failure) => write!(f, "rejects Pods: {}", failure.message),
            Self::RejectsNext(failure) => write!(f, "rejects the next Pod: {}", failure.message),
            Self::CannotPull(failure) => write!(f, "cannot pull anything: {}", failure.message),
            Self::Lost => f.write_str("is lost"),
        }
    }
}

/// The next step in a Pod's life.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Acknowledge,
    StartSandbox,
    /// Begins to pull the next image.
    Pull,
    /// Ends the pull of this number, if it is done.
    Pulled(u64),
    /// Shows that the failed pulls wait.
    BackOff,
    /// Retries the failed pulls.
    Retry,
    Remove,
}

/// One pass over a Pod's containers. The kubelet pulls their images one after another, except for those that it has
/// pulled.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    /// The end of each container's pull, in order, with its failure, if any; `None` for a container that was done
    /// before.
    pub pulls: Vec<Option<(Timestamp, Option<Failure>)>>,
    /// Whether the kubelet has finished the pass.
    pub is_over: bool,
}

const ACKNOWLEDGEMENT: SignedDuration = SignedDuration::from_millis(200);
const SANDBOX: SignedDuration = SignedDuration::from_millis(300);
/// `terminationGracePeriodSeconds`.
const GRACE: SignedDuration = SignedDuration::from_secs(1);
/// How long a kubelet that ignores a Pod leaves it Terminating.
const SILENCE: SignedDuration = SignedDuration::from_secs(30);
/// How long after a failed pull the kubelet looks at the Pod again.
const SYNC: SignedDuration = SignedDuration::from_secs(2);
/// The first wait of a Pod after a failed pull, doubled up to the second
/// (`imageBackOffPeriod` and `MaxImageBackOff` in Kubernetes' `pkg/kubelet/kubelet.go`).
const BACK_OFF: (SignedDuration, SignedDuration) = (SignedDuration::from_secs(10), SignedDuration::from_secs(300));
/// The taint of nodes that are not ready.
const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// How long a restart of a kubelet takes.
const RESTART: SignedDuration = SignedDuration::from_secs(3);

impl Lab {
    /// Handles the creation of a Pod.
    pub(crate) fn kubelet_sees(&mut self, uid: &Name) {
        self.agenda.add(self.now + ACKNOWLEDGEMENT, Item::Kubelet(uid.clone(), Step::Acknowledge));
    }

    pub(crate) fn kubelet(&self, node: &str) -> Kubelet {
        self.knobs.kubelets.get(node).cloned().unwrap_or_default()
    }

    /// Takes one step with a Pod.
    pub(crate) fn kubelet_step(&mut self, uid: &Name, step: Step) {
        let now = self.now;
        let Some(live) = self.api.pod_of_uid(uid) else { return };
        let (name, node) = (live.pod.name.clone(), live.pod.node.clone());
        let is_terminating = live.pod.terminating;
        let has_network = live.host_network
            || self.api.nodes.get(&*node).is_none_or(|node| node.readiness != Readiness::NotReady { network: false });
        let kubelet = self.kubelet(&node);
        let mut later = |step| self.agenda.add(now + SILENCE, Item::Kubelet(uid.clone(), step));
        match step {
            _ if kubelet == Kubelet::Lost => return later(step),
            Step::Remove => return self.remove_pod(uid),
            Step::Pulled(number) => return self.pulled(&name, number),
            // A machine that is gone does nothing any more.
            _ if is_terminating || !self.api.nodes.contains_key(&*node) => return,
            Step::Acknowledge if kubelet == Kubelet::Silent => return later(step),
            Step::Acknowledge => {
                if matches!(kubelet, Kubelet::RejectsNext(_)) {
                    self.knobs.kubelets.remove(&*node);
                }
                let acknowledged_at = self.kubelet_time(now);
                let Some(live) = self.api.pods.get_mut(&name) else { return };
                live.pod.acknowledged_at = Some(acknowledged_at);
                match kubelet {
                    Kubelet::Rejects(Failure { reason, message })
                    | Kubelet::RejectsNext(Failure { reason, message }) => {
                        live.pod.rejection = Some(Rejection { reason, message });
                    }
                    _ => self.agenda.add(now + SANDBOX, Item::Kubelet(uid.clone(), Step::StartSandbox)),
                }
            }
            Step::StartSandbox if kubelet == Kubelet::NoSandbox || !has_network => return later(step),
            Step::StartSandbox => {
                let sandbox_up_at = self.kubelet_time(now);
                let Some(live) = self.api.pods.get_mut(&name) else { return };
                live.pass = Some(Pass::default());
                live.pod.sandbox_up_at = Some(sandbox_up_at);
                self.pull_next(&name);
            }
            Step::Pull => return self.pull_next(&name),
            Step::BackOff => self.back_off(&name),
            Step::Retry => {
                let Some(live) = self.api.pods.get_mut(&name) else { return };
                live.pass = Some(Pass::default());
                return self.pull_next(&name);
            }
        }
        self.show_pod(&name);
    }

    /// Returns a time by the kubelets' clocks, in whole seconds.
    fn kubelet_time(&self, at: Timestamp) -> Timestamp {
        whole_seconds(at + self.knobs.kubelet_clock)
    }

    /// Begins to pull the next image of a Pod, if there is one.
    fn pull_next(&mut self, name: &Name) {
        let Some(live) = self.api.pods.get_mut(name) else { return };
        let Some(pass) = live.pass.as_mut().filter(|pass| !pass.is_over) else { return };
        let through = |container: &&Container| matches!(container.state, ContainerState::Terminated { .. });
        let rest = live.pod.containers.iter().skip(pass.pulls.len());
        pass.pulls.extend(rest.clone().take_while(through).map(|_| None));
        let Some(container) = live.pod.containers.get(pass.pulls.len()) else { return self.end_pass(name) };
        let (uid, node_uid) = (live.pod.uid.clone().unwrap_or_default(), live.node_uid.clone());
        let (image, node, secrets) = (container.image.clone(), live.pod.node.clone(), live.secrets.clone());
        let failure = match self.kubelet(&node) {
            Kubelet::CannotPull(failure) => Some(failure),
            _ => self.failure_of(&node, &image).or_else(|| self.lacks_secret(&secrets, &image)),
        };
        self.pull(&uid, &node_uid, &image, failure);
    }

    /// Returns why an image cannot be pulled with these Secrets, in the words of containerd, if it cannot.
    pub(crate) fn lacks_secret(&self, secrets: &[Name], image: &Reference) -> Option<Failure> {
        let secret = self.knobs.private.get(image.as_str())?;
        let is_known = self.api.secrets.contains_key(secret) && !self.knobs.wrong_secrets.contains(secret);
        let is_given = secrets.iter().any(|given| **given == **secret);
        Outcome::Unauthorized.failure(image).filter(|_| !is_known || !is_given)
    }

    /// Ends the pull of this number, if it is done.
    fn pulled(&mut self, name: &Name, number: u64) {
        let Some((image, failure)) = self.end_pull(number) else { return };
        let Some(live) = self.api.pods.get(name) else { return };
        let (uid, node_uid) = (live.pod.uid.clone().unwrap_or_default(), live.node_uid.clone());
        let node = live.pod.node.clone();
        if self.evicts(&node, &image) {
            self.evict_pod(name);
            return self.pull_for_others(&node_uid);
        }
        let is_full = !self.has_room(&node_uid, &image);
        let full = || ("ErrImagePull", "failed to extract layer: write: no space left on device").into();
        let failure = failure.or_else(|| is_full.then(full));
        match &failure {
            Some(failure) => self.note(|| format!("{node}: {image}: {}: {}", failure.reason, failure.message)),
            None => {
                self.note(|| format!("{node}: {image} is pulled"));
                let id = self.newest_id(&node, &image);
                self.stored(&node_uid, &image, id);
            }
        }
        let now = self.now;
        if let Some(live) = self.api.pods.get_mut(name) {
            live.pass.get_or_insert_default().pulls.push(Some((now, failure)));
            match live.gone_from {
                // Deleting a Pod does not end its pull.
                Some(at) => self.agenda.add(now.max(at), Item::Kubelet(uid, Step::Remove)),
                None => self.pull_next(name),
            }
        }
        self.pull_for_others(&node_uid);
    }

    /// The kubelet evicts a Pod that has filled the disk.
    fn evict_pod(&mut self, name: &Name) {
        let Some(live) = self.api.pods.get_mut(name) else { return };
        let uid = live.pod.uid.clone().unwrap_or_default();
        let message = "The node was low on resource: ephemeral-storage.";
        live.pod.rejection = Some(Rejection { reason: "Evicted".into(), message: message.into() });
        self.record.settled(&uid, self.now);
        match self.api.pods.get(name).and_then(|live| live.gone_from) {
            Some(at) => self.agenda.add(self.now.max(at), Item::Kubelet(uid, Step::Remove)),
            None => self.show_pod(name),
        }
    }

    /// A kubelet that has become free pulls for the Pods that wait.
    fn pull_for_others(&mut self, node_uid: &Name) {
        if let Some(uid) = self.next_waiting(node_uid)
            && let Some(name) = self.api.pod_of_uid(&uid).map(|live| live.pod.name.clone())
        {
            self.pull_next(&name);
        }
    }

    /// Ends a pass over a Pod's containers, and shows the outcomes.
    fn end_pass(&mut self, name: &Name) {
        let Some(live) = self.api.pods.get(name) else { return };
        let given_up = self.is_given_up(&live.pod);
        let mut live = live.clone();
        let Some(pass) = live.pass.as_mut() else { return };
        pass.is_over = true;
        let mut has_failed = false;
        for (container, pull) in live.pod.containers.iter_mut().zip(&pass.pulls) {
            let Some((at, failure)) = pull else { continue };
            if let Some(Failure { reason, message }) = failure.clone() {
                container.state = ContainerState::Waiting { reason, message };
                has_failed = true;
                continue;
            }
            let image = container.image.clone();
            let image_id = self.id_on_disk(&live.node_uid, &image).cloned().unwrap_or_default();
            let has_bare_ids = self.knobs.machines.get(&*live.pod.node).is_some_and(|machine| machine.bare_image_ids);
            container.image_id = Some(if has_bare_ids { bare_id(&image_id) } else { image_id.clone() });
            let at = Some(self.kubelet_time(*at));
            container.state = ContainerState::Terminated { reason: "Completed".into(), at };
            let wanted = !given_up && self.is_surely_wanted(&live.node_uid, &image);
            self.record.succeeded(&live.node_uid, &image, wanted, Success { at: self.now, image_id });
        }
        let uid = live.pod.uid.clone().unwrap_or_default();
        self.record.settled(&uid, self.now);
        if has_failed {
            let wait = (BACK_OFF.0 * 2_i32.saturating_pow(live.failures.min(8))).min(BACK_OFF.1);
            live.failures += 1;
            self.agenda.add(self.now + SYNC, Item::Kubelet(uid.clone(), Step::BackOff));
            self.agenda.add(self.now + wait, Item::Kubelet(uid, Step::Retry));
        }
        self.api.pods.insert(name.clone(), live);
        self.show_pod(name);
    }

    /// Shows that the kubelet waits before it retries the failed pulls.
    fn back_off(&mut self, name: &Name) {
        let Some(live) = self.api.pods.get_mut(name) else { return };
        for container in &mut live.pod.containers {
            if let ContainerState::Waiting { reason, message } = &mut container.state
                && &**reason == "ErrImagePull"
            {
                *message = format!("Back-off pulling image \"{}\": ErrImagePull: {message}", container.image).into();
                *reason = "ImagePullBackOff".into();
            }
        }
    }

    /// Restarts a kubelet. Its current pulls end, and begin anew when it is back.
    pub fn restart_kubelet(&mut self, node: &str) {
        let Some(node_uid) = self.api.nodes.get(node).map(|node| node.uid.clone()) else {
            return self.misses("Node", node);
        };
        self.note(|| format!("{node}: the kubelet is restarted"));
        for uid in self.abort_pulls(&node_uid) {
            let Some(name) = self.api.pod_of_uid(&uid).map(|live| live.pod.name.clone()) else { continue };
            let Some(live) = self.api.pods.get_mut(&name) else { continue };
            live.failures = 0;
            let step = if live.pod.terminating { Step::Remove } else { Step::Pull };
            self.agenda.add(self.now + RESTART, Item::Kubelet(uid, step));
        }
    }

    /// Disconnects a node; the control plane reports that.
    pub fn lose(&mut self, node: &str) {
        self.note(|| format!("node {node} is lost"));
        self.knobs.kubelets.insert(node.to_owned(), Kubelet::Lost);
        self.edit_node(node, |node| node.readiness = Readiness::Lost);
    }

    /// Takes the network of a node down; the control plane reports that.
    pub fn disconnect(&mut self, node: &str) {
        self.note(|| format!("node {node} has no network"));
        self.edit_node(node, lacks_network);
    }

    /// Makes a node ready.
    pub fn ready(&mut self, node: &str) {
        self.note(|| format!("node {node} is ready"));
        self.edit_node(node, |node| {
            node.readiness = Readiness::Ready;
            node.taints.retain(|taint| taint.key != NOT_READY);
        });
    }

    /// Makes every node that was lost, or had no network, ready again.
    pub fn regain(&mut self) {
        let others = self.api.nodes.values().filter(|node| node.readiness != Readiness::Ready);
        for node in others.map(|node| node.name.clone()).collect::<Vec<_>>() {
            self.ready(&node);
        }
        self.knobs.kubelets.retain(|_, kubelet| *kubelet != Kubelet::Lost);
    }

    /// Deletes a Pod. It goes when its kubelet has finished the current pull.
    pub(crate) fn terminate(&mut self, name: &Name) {
        let now = self.now;
        let Some(live) = self.api.pods.get_mut(name).filter(|live| !live.pod.terminating) else { return };
        live.pod.terminating = true;
        let is_unseen = live.pod.acknowledged_at.is_none();
        let (uid, node) = (live.pod.uid.clone().unwrap_or_default(), live.pod.node.clone());
        let grace = if is_unseen && self.kubelet(&node) == Kubelet::Silent { SILENCE } else { GRACE };
        if let Some(live) = self.api.pods.get_mut(name) {
            live.gone_from = Some(now + grace);
        }
        self.record.deleted(&uid, now);
        self.show_pod(name);
        // Otherwise it goes with the end of the pull.
        if !self.is_pulling(&uid) {
            self.forget_pulls(&uid);
            self.agenda.add(now + grace, Item::Kubelet(uid, Step::Remove));
        }
    }

    pub(crate) fn remove_pod(&mut self, uid: &Name) {
        let Some(name) = self.api.pod_of_uid(uid).map(|live| live.pod.name.clone()) else { return };
        let Some(live) = self.api.pods.remove(&name) else { return };
        self.forget_pulls(uid);
        self.note(|| format!("{}: the Pod is gone", live.pod.node));
        let left_some = self.misses_some(&live.node_uid, &live.pod.policy);
        self.record.gone(uid, left_some, self.now);
        self.show(Kind::Pod, &Event::Gone(Kind::Pod, name));
        self.pull_for_others(&live.node_uid);
    }

    /// Makes every kubelet work, and every image available.
    pub fn repair(&mut self) {
        self.regain();
        let pressed = self.api.nodes.values().filter(|node| node.disk_pressure).map(|node| node.name.clone());
        for node in pressed.collect::<Vec<_>>() {
            self.edit_node(&node, |node| node.disk_pressure = false);
        }
        self.knobs.kubelets.clear();
        self.knobs.broken_images.clear();
        self.knobs.troubles.clear();
        self.knobs.alternates.clear();
        self.knobs.machines.values_mut().for_each(|machine| machine.disk = None);
        self.knobs.registries.clear();
        self.knobs.wrong_secrets.clear();
        self.knobs.asking = secs(0.01);
        self.knobs.disk = None;
        self.knobs.bandwidth = None;
        self.knobs.pull = secs(5.0);
        self.knobs.pulls.clear();
        self.processes.iter_mut().for_each(|process| process.lags.clear());
    }
}

/// Sets the conditions that the control plane shows for a node whose network is not up.
pub(crate) fn lacks_network(node: &mut Node) {
    node.readiness = Readiness::NotReady { network: false };
    let taint = |effect| Taint { key: NOT_READY.to_owned(), value: String::new(), effect };
    node.taints.retain(|taint| taint.key != NOT_READY);
    node.taints.extend([taint(TaintEffect::NoSchedule), taint(TaintEffect::NoExecute)]);
}

/// Returns the ID of an image whose digest is in `id`: the digest of its configuration, which differs.
pub(crate) fn bare_id(id: &str) -> Name {
    format!("sha256:{}", hex(id.as_bytes())).into()
}

/// Returns the digest of the manifest for one platform, of an index with this digest.
pub(crate) fn platform_digest(digest: &str, platform: &str) -> String {
    format!("sha256:{}", hex(format!("{digest} {platform}").as_bytes()))
}

/// Returns sixty-four hexadecimal digits derived from `bytes`.
fn hex(bytes: &[u8]) -> String {
    format!("{:064x}", stable_hash(bytes))
}

/// Returns the repository of an image, as it is written.
pub(crate) fn repository(image: &Reference) -> &str {
    image.as_str().split([':', '@']).next().unwrap_or_default()
}

impl Lab {
    /// Returns the digest under which the registry of an image serves its tag.
    pub(crate) fn served_digest(&self, image: &Reference) -> String {
        let usual = || format!("sha256:{:064x}", 7);
        self.knobs.digests.get(image.as_str()).cloned().unwrap_or_else(usual)
    }

    /// Returns the ID that the runtime of a node reports for an image that it pulls now: its repository and digest.
    #[must_use]
    pub fn newest_id(&self, node: &str, image: &Reference) -> Name {
        let knobs = &self.knobs;
        let repository = repository(image);
        let served = self.served_digest(image);
        let own = knobs.digests_on.get(node).and_then(|digests| digests.get(image.as_str()));
        let digest = own.unwrap_or(&served);
        let platform = self.api.nodes.get(node).map(|node| node.platform.clone()).filter(|_| own.is_none());
        match platform.filter(|_| knobs.digests_by_platform.contains(image.as_str())) {
            Some(platform) => format!("{repository}@{}", platform_digest(digest, &platform)).into(),
            None => format!("{repository}@{digest}").into(),
        }
    }
}
