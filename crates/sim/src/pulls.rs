//! Simulates pulls that share bandwidth, and registries with limits.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use drop_core::Name;
use drop_core::reference::Reference;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use crate::agenda::Item;
use crate::kubelet::Step;
use crate::trouble::{manifest_url, unresolved};
use crate::{Failure, Lab, Outcome, secs};

/// How fast images come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bandwidth {
    /// The bandwidth that all pulls of one node share, in bytes per second.
    pub node: u32,
    /// The bandwidth that all pulls from one registry share, in bytes per second.
    pub registry: u32,
}

/// The limits of a registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Registry {
    /// The most pulls at once.
    pub at_once: Option<usize>,
    /// The most pulls that begin within a minute.
    pub per_minute: Option<usize>,
    /// Whether the registry does not answer.
    pub is_down: bool,
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_down {
            return f.write_str("is down");
        }
        f.write_str("serves")?;
        if let Some(most) = self.at_once {
            write!(f, " {most} pulls at once")?;
        }
        if let Some(most) = self.per_minute {
            write!(f, " {most} pulls per minute")?;
        }
        Ok(())
    }
}

/// One pull.
#[derive(Clone, Debug)]
pub(crate) struct Pull {
    number: u64,
    /// The UID of its Pod.
    pub(crate) pod: Name,
    pub(crate) node_uid: Name,
    image: Reference,
    /// Decided when the pull begins.
    failure: Option<Failure>,
    /// Whether it shares bandwidth with others, which then decides its duration.
    is_shared: bool,
    /// The remaining bytes as of `Pulls::as_of`, and the rate in bytes per second. Without shared bandwidth neither
    /// counts.
    left: f64,
    rate: f64,
    ends_at: Timestamp,
}

/// The pulls under way.
#[derive(Default)]
pub(crate) struct Pulls {
    under_way: Vec<Pull>,
    as_of: Timestamp,
    /// Nodes and UIDs of Pods that wait until their kubelet, which pulls one image at a time, is free.
    waiting: VecDeque<(Name, Name)>,
    /// The beginnings of pulls in the last minute, by host.
    begun: BTreeMap<String, VecDeque<Timestamp>>,
}

/// How long a failing pull takes.
const FAILURE: SignedDuration = SignedDuration::from_secs(1);

impl Lab {
    /// Has a kubelet pull an image for the Pod of this UID, now or after others.
    pub(crate) fn pull(&mut self, pod: &Name, node_uid: &Name, image: &Reference, failure: Option<Failure>) {
        if self.pulls.under_way.iter().any(|pull| pull.node_uid == *node_uid) {
            self.pulls.waiting.push_back((node_uid.clone(), pod.clone()));
            return;
        }
        let failure = failure.or_else(|| self.refused_by_registry(image));
        let node = self.api.node_of_uid(node_uid).map(|node| node.name.clone()).unwrap_or_default();
        let odd = self.time_of(&node, image).filter(|_| failure.is_none());
        let usual = self.knobs.pulls.get(image.as_str()).copied().unwrap_or(self.knobs.pull);
        let ends_at = self.now + if failure.is_some() { FAILURE } else { odd.unwrap_or(usual) };
        let number = self.agenda.number();
        let left = self.size_of(image) as f64;
        let (pod, node_uid, image) = (pod.clone(), node_uid.clone(), image.clone());
        let is_shared = failure.is_none() && odd.is_none() && self.knobs.bandwidth.is_some();
        self.pulls.under_way.push(Pull {
            number,
            pod: pod.clone(),
            node_uid,
            image,
            failure,
            is_shared,
            left,
            rate: 0.0,
            ends_at,
        });
        if is_shared {
            self.share_bandwidth();
        } else {
            self.agenda.add(ends_at, Item::Kubelet(pod, Step::Pulled(number)));
        }
    }

    /// Returns why the registry does not serve the image now, in the words of containerd, if it does not.
    fn refused_by_registry(&mut self, image: &Reference) -> Option<Failure> {
        let host = image.host();
        let registry = self.knobs.registries.get(host).copied()?;
        let now = self.now;
        if registry.is_down {
            let url = manifest_url(image);
            let why = format!("failed to do request: Head \"{url}\": dial tcp {host}:443: connect: connection refused");
            return Some(unresolved(image, &why));
        }
        let served = self.pulls.under_way.iter().filter(|pull| pull.failure.is_none() && pull.image.host() == host);
        let is_full = registry.at_once.is_some_and(|most| served.count() >= most);
        let begun = self.pulls.begun.entry(host.to_owned()).or_default();
        while begun.front().is_some_and(|at| now.duration_since(*at) >= secs(60.0)) {
            begun.pop_front();
        }
        if is_full || registry.per_minute.is_some_and(|most| begun.len() >= most) {
            return Outcome::Status(429).failure(image);
        }
        begun.push_back(now);
        None
    }

    /// Divides bandwidth anew among the pulls that share it. Each gets an equal part of its node's and of its
    /// registry's bandwidth, whichever is less.
    fn share_bandwidth(&mut self) {
        let Some(bandwidth) = self.knobs.bandwidth else { return };
        let now = self.now;
        let elapsed = now.duration_since(self.pulls.as_of).as_secs_f64();
        self.pulls.as_of = now;
        let mut on_node: BTreeMap<Name, u32> = BTreeMap::new();
        let mut from_host: BTreeMap<String, u32> = BTreeMap::new();
        for pull in self.pulls.under_way.iter().filter(|pull| pull.is_shared) {
            *on_node.entry(pull.node_uid.clone()).or_default() += 1;
            *from_host.entry(pull.image.host().to_owned()).or_default() += 1;
        }
        for pull in self.pulls.under_way.iter_mut().filter(|pull| pull.is_shared) {
            let part = |of: u32, among: Option<&u32>| f64::from(of) / f64::from(among.copied().unwrap_or(1));
            let node = part(bandwidth.node, on_node.get(&pull.node_uid));
            let rate = node.min(part(bandwidth.registry, from_host.get(pull.image.host()))).max(1.0);
            pull.left = (pull.left - pull.rate * elapsed).max(0.0);
            if (pull.rate - rate).abs() > f64::EPSILON {
                pull.rate = rate;
                // Not a moment too early: the remaining bytes must reach zero.
                pull.ends_at = now + secs(pull.left / rate) + SignedDuration::from_nanos(1);
                self.agenda.add(pull.ends_at, Item::Kubelet(pull.pod.clone(), Step::Pulled(pull.number)));
            }
        }
    }

    /// Ends the pull of this number, if it is due. Returns its image, and its failure, if any.
    pub(crate) fn end_pull(&mut self, number: u64) -> Option<(Reference, Option<Failure>)> {
        let now = self.now;
        let at = self.pulls.under_way.iter().position(|pull| pull.number == number && pull.ends_at <= now)?;
        let Pull { image, failure, .. } = self.pulls.under_way.remove(at);
        self.share_bandwidth();
        let is_down = self.knobs.registries.get(image.host()).is_some_and(|registry| registry.is_down);
        let failure = failure.or_else(|| is_down.then(|| ("ErrImagePull", "failed to copy: unexpected EOF").into()));
        Some((image, failure))
    }

    /// Ends the current pulls of a node. Returns the UIDs of their Pods, and of the Pods that waited there.
    pub(crate) fn abort_pulls(&mut self, node_uid: &Name) -> Vec<Name> {
        let ended = self.pulls.under_way.extract_if(.., |pull| pull.node_uid == *node_uid).map(|pull| pull.pod);
        let mut pods: Vec<Name> = ended.collect();
        let (waited, rest) = self.pulls.waiting.drain(..).partition(|(node, _)| node == node_uid);
        self.pulls.waiting = rest;
        pods.extend(VecDeque::into_iter(waited).map(|(_, pod)| pod));
        self.share_bandwidth();
        pods
    }

    /// Whether the Pod of this UID is pulling.
    pub(crate) fn is_pulling(&self, pod: &Name) -> bool {
        self.pulls.under_way.iter().any(|pull| pull.pod == *pod)
    }

    /// Forgets the pulls of a Pod that is gone, or that must not begin another one.
    pub(crate) fn forget_pulls(&mut self, pod: &Name) {
        self.pulls.waiting.retain(|(_, waiting)| waiting != pod);
        self.pulls.under_way.retain(|pull| pull.pod != *pod);
        self.share_bandwidth();
    }

    /// Returns the UID of the Pod that has waited longest for a kubelet that is free now.
    pub(crate) fn next_waiting(&mut self, node_uid: &Name) -> Option<Name> {
        if self.pulls.under_way.iter().any(|pull| pull.node_uid == *node_uid) {
            return None;
        }
        let at = self.pulls.waiting.iter().position(|(node, _)| node == node_uid)?;
        self.pulls.waiting.remove(at).map(|(_, pod)| pod)
    }

    /// Returns the size of an image, in bytes.
    pub(crate) fn size_of(&self, image: &Reference) -> u64 {
        self.knobs.sizes.get(image.as_str()).copied().unwrap_or(SIZE)
    }
}

/// The usual size of an image, in bytes.
const SIZE: u64 = 100_000_000;
