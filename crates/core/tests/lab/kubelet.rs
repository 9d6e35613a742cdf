//! What kubelets do with pull Pods.

use drop_core::Event;
use drop_core::Name;
use drop_core::event::Kind;
use drop_core::pull_pod::{ContainerState, Rejection};
use drop_core::reference::Reference;
use jiff::{SignedDuration, Timestamp};

use super::{Item, Knobs, Lab, secs, whole_seconds};

/// How a kubelet behaves.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Kubelet {
    #[default]
    Works,
    /// It takes no notice of new Pods, for as long as it is so.
    Silent,
    /// It acknowledges Pods, and cannot start them.
    NoSandbox,
    /// It refuses Pods, with this reason and message.
    Rejects(&'static str, &'static str),
    /// No image can be pulled here, with this reason and message.
    CannotPull(&'static str, &'static str),
}

/// What is next in a Pod's life.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Acknowledge,
    StartSandbox,
    EndPass,
    Remove,
}

/// One pass over a Pod's containers: they are pulled one after another.
#[derive(Clone, Debug)]
pub struct Pass {
    /// When each pull ends, and with which failure, if any.
    pub pulls: Vec<(Timestamp, Option<(&'static str, &'static str)>)>,
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
    pub(super) fn kubelet_sees(&mut self, uid: &Name) {
        self.schedule(self.now + ACKNOWLEDGEMENT, Item::Kubelet(uid.clone(), Step::Acknowledge));
    }

    fn kubelet(&self, node: &str) -> Kubelet {
        self.knobs.kubelets.get(node).cloned().unwrap_or_default()
    }

    pub(super) fn kubelet_step(&mut self, uid: &Name, step: Step) {
        let now = self.now;
        let live = self.api.pods.values().find(|live| live.pod.uid.as_ref() == Some(uid));
        let Some(name) = live.map(|live| live.pod.name.clone()) else { return };
        let node = self.api.pods[&name].pod.node.clone();
        let kubelet = self.kubelet(&node);
        let there = self.api.nodes.contains_key(&*node);
        let ahead = self.knobs.kubelet_clock;
        let clock = |at: Timestamp| Some(whole_seconds(at + ahead));
        let live = self.api.pods.get_mut(&name).unwrap();
        match step {
            Step::Remove => return self.remove_pod(uid),
            // A machine that is gone does nothing any more.
            _ if live.pod.terminating || !there => return,
            Step::Acknowledge => match kubelet {
                Kubelet::Silent => {
                    self.schedule(now + SILENCE, Item::Kubelet(uid.clone(), Step::Acknowledge));
                    return;
                }
                Kubelet::Rejects(reason, message) => {
                    live.pod.acknowledged_at = clock(now);
                    live.pod.rejection = Some(Rejection { reason: reason.into(), message: message.into() });
                }
                _ => {
                    live.pod.acknowledged_at = clock(now);
                    self.schedule(now + SANDBOX, Item::Kubelet(uid.clone(), Step::StartSandbox));
                }
            },
            Step::StartSandbox if kubelet == Kubelet::NoSandbox => {
                self.schedule(now + SILENCE, Item::Kubelet(uid.clone(), Step::StartSandbox));
                return;
            }
            Step::StartSandbox => {
                live.pod.sandbox_up_at = clock(now);
                let images: Vec<String> =
                    live.pod.containers.iter().map(|container| container.image.to_string()).collect();
                let mut at = now;
                let pulls = images.iter().map(|image| {
                    let failure = match kubelet {
                        Kubelet::CannotPull(reason, message) => Some((reason, message)),
                        _ => self.knobs.broken_images.get(image).copied(),
                    };
                    let usual = self.knobs.pulls.get(image).copied().unwrap_or(self.knobs.pull);
                    at += if failure.is_some() { FAILURE } else { usual };
                    (at, failure)
                });
                let pass = Pass { pulls: pulls.collect(), is_over: false };
                self.api.pods.get_mut(&name).unwrap().pass = Some(pass);
                self.schedule(at, Item::Kubelet(uid.clone(), Step::EndPass));
            }
            Step::EndPass => {
                let node_uid = live.node_uid.clone();
                let before = live.pod.clone();
                let mut pulled = Vec::new();
                let pass = live.pass.as_mut().unwrap();
                pass.is_over = true;
                for (container, (at, failure)) in live.pod.containers.iter_mut().zip(&pass.pulls) {
                    if let Some((reason, message)) = failure {
                        let (reason, message) = ((*reason).into(), (*message).into());
                        container.state = ContainerState::Waiting { reason, message };
                    } else {
                        container.image_id = Some(image_id(&self.knobs, &container.image).into());
                        let (reason, at) = ("Completed".into(), clock(*at));
                        container.state = ContainerState::Terminated { reason, at };
                        pulled.push(container.image.clone());
                    }
                }
                let given_up = self.is_given_up(&before);
                for image in pulled {
                    self.stored(&node_uid, &image, Reference::parse(&image_id(&self.knobs, &image)));
                    let wanted = !given_up && self.is_wanted(&node_uid, &image);
                    self.record.succeeded(&node_uid, &image, wanted);
                }
            }
        }
        self.show_pod(&name);
    }

    /// Deletes a Pod; it goes when its kubelet is through with the pull at hand.
    pub(super) fn terminate(&mut self, name: &Name) {
        let now = self.now;
        let Some(live) = self.api.pods.get_mut(name).filter(|live| !live.pod.terminating) else { return };
        live.pod.terminating = true;
        let pulling = live.pass.as_ref().filter(|pass| !pass.is_over);
        let pulled_at = pulling.and_then(|pass| pass.pulls.iter().map(|(at, _)| *at).find(|at| *at > now));
        let silent = live.pod.acknowledged_at.is_none();
        let uid = live.pod.uid.clone().unwrap();
        let grace =
            if silent && self.kubelet(&self.api.pods[name].pod.node) == Kubelet::Silent { SILENCE } else { GRACE };
        let gone_at = (now + grace).max(pulled_at.unwrap_or(now));
        self.record.deleted(&uid, now);
        self.show_pod(name);
        self.schedule(gone_at, Item::Kubelet(uid, Step::Remove));
    }

    pub(super) fn remove_pod(&mut self, uid: &Name) {
        let live = self.api.pods.values().find(|live| live.pod.uid.as_ref() == Some(uid));
        let Some(name) = live.map(|live| live.pod.name.clone()) else { return };
        let live = self.api.pods.remove(&name).unwrap();
        // Deleting a Pod does not end its pull.
        let pass = live.pass.filter(|pass| !pass.is_over).into_iter().flat_map(|pass| pass.pulls);
        for (container, (at, failure)) in live.pod.containers.iter().zip(pass) {
            if failure.is_none() && at <= self.now {
                let digest = Reference::parse(&image_id(&self.knobs, &container.image));
                self.stored(&live.node_uid, &container.image, digest);
            }
        }
        self.record.gone(uid, self.now);
        self.show(Kind::Pod, Event::Gone(Kind::Pod, name));
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
    let repository = image.as_str().split([':', '@']).next().unwrap();
    let usual = format!("sha256:{:064x}", 7);
    let digest = knobs.digests.get(image.as_str()).copied().unwrap_or(&usual);
    format!("{repository}@{digest}")
}
