//! What kubelets do with pull Pods.

use drop_core::Event;
use drop_core::Name;
use drop_core::event::Kind;
use drop_core::pull_pod::{ContainerState, Rejection};
use drop_core::reference::Reference;
use jiff::{SignedDuration, Timestamp};

use crate::agenda::Item;
use crate::api::whole_seconds;
use crate::{Failure, Knobs, Lab, LivePod, secs};

/// How a kubelet behaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Kubelet {
    /// It does what it should.
    #[default]
    Works,
    /// It takes no notice of new Pods, for as long as it is so.
    Silent,
    /// It acknowledges Pods, and cannot start them.
    NoSandbox,
    /// It refuses Pods, for this reason.
    Rejects(Failure),
    /// No image can be pulled here, for this reason.
    CannotPull(Failure),
}

/// What is next in a Pod's life.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Acknowledge,
    StartSandbox,
    EndPass,
    Remove,
}

/// One pass over a Pod's containers: they are pulled one after another.
#[derive(Clone, Debug)]
pub struct Pass {
    /// When each pull ends, and with which failure, if any.
    pub pulls: Vec<(Timestamp, Option<Failure>)>,
    /// Whether the kubelet is through with it.
    pub is_over: bool,
}

const ACKNOWLEDGEMENT: SignedDuration = SignedDuration::from_millis(200);
const SANDBOX: SignedDuration = SignedDuration::from_millis(300);
/// A pull that fails takes so long.
const FAILURE: SignedDuration = SignedDuration::from_secs(1);
/// `terminationGracePeriodSeconds`.
const GRACE: SignedDuration = SignedDuration::from_secs(1);
/// How long a kubelet that takes no notice of a Pod leaves it Terminating.
const SILENCE: SignedDuration = SignedDuration::from_secs(30);

impl Lab {
    /// A Pod was created.
    pub(crate) fn kubelet_sees(&mut self, uid: &Name) {
        self.agenda.add(self.now + ACKNOWLEDGEMENT, Item::Kubelet(uid.clone(), Step::Acknowledge));
    }

    fn kubelet(&self, node: &str) -> Kubelet {
        self.knobs.kubelets.get(node).cloned().unwrap_or_default()
    }

    /// A kubelet takes a step with one of its Pods.
    pub(crate) fn kubelet_step(&mut self, uid: &Name, step: Step) {
        let now = self.now;
        let Some(live) = self.api.pod_of_uid(uid) else { return };
        let (name, node) = (live.pod.name.clone(), live.pod.node.clone());
        let is_terminating = live.pod.terminating;
        let kubelet = self.kubelet(&node);
        match step {
            Step::Remove => return self.remove_pod(uid),
            // A machine that is gone does nothing any more.
            _ if is_terminating || !self.api.nodes.contains_key(&*node) => return,
            Step::Acknowledge if kubelet == Kubelet::Silent => {
                return self.agenda.add(now + SILENCE, Item::Kubelet(uid.clone(), Step::Acknowledge));
            }
            Step::Acknowledge => {
                let acknowledged_at = self.kubelet_time(now);
                let Some(live) = self.api.pods.get_mut(&name) else { return };
                live.pod.acknowledged_at = Some(acknowledged_at);
                match kubelet {
                    Kubelet::Rejects(Failure { reason, message }) => {
                        live.pod.rejection = Some(Rejection { reason, message });
                    }
                    _ => self.agenda.add(now + SANDBOX, Item::Kubelet(uid.clone(), Step::StartSandbox)),
                }
            }
            Step::StartSandbox if kubelet == Kubelet::NoSandbox => {
                return self.agenda.add(now + SILENCE, Item::Kubelet(uid.clone(), Step::StartSandbox));
            }
            Step::StartSandbox => self.begin_pass(&name, &kubelet),
            Step::EndPass => self.end_pass(&name),
        }
        self.show_pod(&name);
    }

    /// A time by the kubelets' clocks, in whole seconds.
    fn kubelet_time(&self, at: Timestamp) -> Timestamp {
        whole_seconds(at + self.knobs.kubelet_clock)
    }

    /// The sandbox is up: the kubelet begins to pull.
    fn begin_pass(&mut self, name: &Name, kubelet: &Kubelet) {
        let sandbox_up_at = self.kubelet_time(self.now);
        let Some(live) = self.api.pods.get_mut(name) else { return };
        let mut at = self.now;
        let pulls = live.pod.containers.iter().map(|container| {
            let image = container.image.as_str();
            let failure = match kubelet {
                Kubelet::CannotPull(failure) => Some(failure.clone()),
                _ => self.knobs.broken_images.get(image).cloned(),
            };
            let usual = self.knobs.pulls.get(image).copied().unwrap_or(self.knobs.pull);
            at += if failure.is_some() { FAILURE } else { usual };
            (at, failure)
        });
        live.pass = Some(Pass { pulls: pulls.collect(), is_over: false });
        live.pod.sandbox_up_at = Some(sandbox_up_at);
        let uid = live.pod.uid.clone().unwrap_or_default();
        self.agenda.add(at, Item::Kubelet(uid, Step::EndPass));
    }

    /// The kubelet is through with a Pod's containers, and shows what became of them.
    fn end_pass(&mut self, name: &Name) {
        let Some(live) = self.api.pods.get(name) else { return };
        let given_up = self.is_given_up(&live.pod);
        let (node_uid, mut pod) = (live.node_uid.clone(), live.pod.clone());
        let Some(mut pass) = live.pass.clone() else { return };
        pass.is_over = true;
        for (container, (at, failure)) in pod.containers.iter_mut().zip(&pass.pulls) {
            if let Some(Failure { reason, message }) = failure.clone() {
                container.state = ContainerState::Waiting { reason, message };
                continue;
            }
            let (image, image_id) = (container.image.clone(), image_id(&self.knobs, &container.image));
            container.image_id = Some(image_id.as_str().into());
            let at = Some(self.kubelet_time(*at));
            container.state = ContainerState::Terminated { reason: "Completed".into(), at };
            self.stored(&node_uid, &image, Reference::parse(&image_id));
            let wanted = !given_up && self.is_wanted(&node_uid, &image);
            self.record.succeeded(&node_uid, &image, wanted);
        }
        self.api.pods.insert(name.clone(), LivePod { pod, node_uid, pass: Some(pass) });
    }

    /// Deletes a Pod; it goes when its kubelet is through with the pull at hand.
    pub(crate) fn terminate(&mut self, name: &Name) {
        let now = self.now;
        let Some(live) = self.api.pods.get_mut(name).filter(|live| !live.pod.terminating) else { return };
        live.pod.terminating = true;
        let pulling = live.pass.as_ref().filter(|pass| !pass.is_over);
        let pulled_at = pulling.and_then(|pass| pass.pulls.iter().map(|(at, _)| *at).find(|at| *at > now));
        let is_unseen = live.pod.acknowledged_at.is_none();
        let (uid, node) = (live.pod.uid.clone().unwrap_or_default(), live.pod.node.clone());
        let grace = if is_unseen && self.kubelet(&node) == Kubelet::Silent { SILENCE } else { GRACE };
        let gone_at = (now + grace).max(pulled_at.unwrap_or(now));
        self.record.deleted(&uid, now);
        self.show_pod(name);
        self.agenda.add(gone_at, Item::Kubelet(uid, Step::Remove));
    }

    pub(crate) fn remove_pod(&mut self, uid: &Name) {
        let Some(name) = self.api.pod_of_uid(uid).map(|live| live.pod.name.clone()) else { return };
        let Some(live) = self.api.pods.remove(&name) else { return };
        // Deleting a Pod does not end its pull.
        let pass = live.pass.filter(|pass| !pass.is_over).into_iter().flat_map(|pass| pass.pulls);
        for (container, (at, failure)) in live.pod.containers.iter().zip(pass) {
            if failure.is_none() && at <= self.now {
                let digest = Reference::parse(&image_id(&self.knobs, &container.image));
                self.stored(&live.node_uid, &container.image, digest);
            }
        }
        self.record.gone(uid, self.now);
        self.show(Kind::Pod, &Event::Gone(Kind::Pod, name));
    }

    /// Lets every kubelet work, and every image be there.
    pub fn repair(&mut self) {
        self.knobs.kubelets.clear();
        self.knobs.broken_images.clear();
        self.knobs.pull = secs(5.0);
        self.knobs.pulls.clear();
    }
}

/// What a runtime calls an image that it has pulled.
fn image_id(knobs: &Knobs, image: &Reference) -> String {
    let repository = image.as_str().split([':', '@']).next().unwrap_or_default();
    let usual = format!("sha256:{:064x}", 7);
    let digest = knobs.digests.get(image.as_str()).unwrap_or(&usual);
    format!("{repository}@{digest}")
}
