//! Decides whether a pull may begin, and if not, why.
//!
//! No other place decides this. Queues, starts, probes, questions for tags, statuses, metrics, `/debug/plan` and the
//! audit all ask [`Pair`], which checks one ordered list of rules. The verdict of the first rule that is not met is
//! what people read. A new rule needs one line in a check and one [`Verdict`].

pub mod budget;
mod queues;
pub mod verdict;

use std::collections::BTreeSet;

use drop_api::pull_policy::HostNetwork;
use jiff::{SignedDuration, Timestamp};

use crate::gate::budget::Budget;
use crate::gate::verdict::{Held, Verdict};
use crate::objects::image::ImagePullPolicy;
use crate::objects::node::Readiness;
use crate::objects::policy::Policy;
use crate::objects::presence::Standing;
use crate::objects::reference::Reference;
use crate::pace::order::Urgency;
use crate::time::after;
use crate::world::{ImageEntry, NodeEntry, OnNode, World};

/// For at most this long, new images join a turn that has begun.
const LONGEST_INCLUSION: SignedDuration = SignedDuration::from_mins(5);

/// The purpose of a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A node lacks the image, or has an old one.
    Pull,
    /// The image or its registry fails: one node tries whether it still does.
    Probe,
    /// A node has the image: it checks whether the tag has moved.
    Ask,
}

/// An image and one of its target nodes.
pub(crate) struct Pair<'a, 'b> {
    pub(crate) here: &'b OnNode<'a>,
    pub(crate) image: &'a ImageEntry,
    pub(crate) policy: &'a Policy,
    pub(crate) standing: Standing,
    pub(crate) now: Timestamp,
}

impl<'a, 'b> Pair<'a, 'b> {
    /// Combines an image and a node under the image's policy. If that is missing, it stands under the built-in one; the
    /// first rule then reports the missing policy.
    pub(crate) fn new(here: &'b OnNode<'a>, image: &'a ImageEntry, standing: Standing, now: Timestamp) -> Option<Self> {
        let policy = here.world.policy_or_built_in(&image.image.policy)?;
        Some(Self { here, image, policy, standing, now })
    }

    /// Checks whether the pull may begin now, given the slots and Pods in use.
    ///
    /// # Errors
    /// The first rule that is not met.
    pub(crate) fn check(&self, purpose: Purpose, budget: &Budget<'_>) -> Result<(), Held> {
        self.check_alone(purpose, budget.tried())?;
        let is_late = purpose == Purpose::Pull && self.urgency().is_late();
        budget.check(self.policy, &self.here.entry.node.name, self.begins_turn(is_late), self.now)?;
        budget.check_host(self.policy, self.image.image.reference.host())
    }

    /// Whether only a limit or delay of the policy holds the pull, so that it waits for its turn in the line.
    pub(crate) fn waits_for_the_line(&self, budget: &Budget<'_>) -> bool {
        self.check(Purpose::Pull, budget).is_err_and(|held| held.verdict.holds_the_line())
            && budget.check_host(self.policy, self.image.image.reference.host()).is_ok()
    }

    /// Checks whether the pull could begin now if no other pull were waiting. From then on the node waits in a queue.
    ///
    /// # Errors
    /// The first rule that is not met.
    pub(crate) fn check_alone(&self, purpose: Purpose, tried: &BTreeSet<Reference>) -> Result<(), Held> {
        let policy = Some(self.policy).filter(|policy| policy.name == self.image.image.policy);
        check_image(self.here.world, self.image, policy, self.now)?;
        self.check_here(purpose)?;
        check_trouble(self.here.world, self.image, self.policy, purpose, tried, self.now)
    }

    /// Checks whether this node lets the pull begin.
    ///
    /// # Errors
    /// The first rule that is not met.
    pub(crate) fn check_here(&self, purpose: Purpose) -> Result<(), Held> {
        let Self { here, policy, now, .. } = *self;
        let (world, node, image) = (here.world, &here.entry.node, &self.image.image);
        check_kubelet(here.entry, policy)?;
        if world.lacks_platform(self.image, node) {
            return Held::by(Verdict::NoImageForPlatform { platform: node.platform.clone() });
        }
        if !here.has_room(&image.reference) {
            return Held::by(Verdict::TooManyImages);
        }
        if let Some(refused) = &self.image.refused {
            let message = || refused.message.clone();
            Held::before(Some(refused.until), now, |until| Verdict::Refused { until, message: message() })?;
        }
        if let Some((until, cause)) = here.backoff(policy) {
            Held::before(Some(until), now, |until| Verdict::NodeBackingOff { until, cause: cause.clone() })?;
        }
        if let Some((until, cause)) = here.backoff_of(self.image, policy) {
            Held::before(Some(until), now, |until| Verdict::BackingOff { until, cause: cause.clone() })?;
        }
        if self.is_evicted() {
            let verdict = |until| Verdict::Evicted { until };
            match here.repair_at(&image.reference) {
                // The plan has to record the eviction first.
                None => Held::by(verdict(now))?,
                until => Held::before(until, now, verdict)?,
            }
        }
        match purpose {
            Purpose::Pull | Purpose::Probe => Ok(()),
            Purpose::Ask => Held::before(world.may_ask_at(&image.reference, node, policy), now, |_| Verdict::Cached),
        }
    }

    /// Whether the image was removed from the node. If it failed there for one CachedImage, it may have been evicted
    /// for another one.
    fn is_evicted(&self) -> bool {
        let standings = &self.here.entry.standings;
        let on_node = |other: &ImageEntry| standings.get(&other.image.name) == Some(&Standing::Evicted);
        match self.standing {
            Standing::Evicted => true,
            Standing::Failed => self.here.world.wanted_by(&self.image.image.reference).any(on_node),
            Standing::Missing | Standing::Cached | Standing::Outdated => false,
        }
    }

    /// Whether the pull would begin a turn here, instead of going on with one. A late pull always begins a turn: fresh
    /// pulls of other nodes go first.
    ///
    /// A turn goes on for images that became wanted within the longest backoff after it began, at most five minutes,
    /// and that were neither pulled nor evicted since. Without this bound, a node that keeps getting new images, or
    /// that evicts its images again and again, would never let another node begin.
    pub(crate) fn begins_turn(&self, is_late: bool) -> bool {
        let turn = self.here.entry.turns.get(&self.policy.name);
        is_late
            || turn.is_none_or(|turn| {
                let record = self.here.record(&self.image.image.reference);
                let changed_at = record.and_then(|record| {
                    let evicted_at = record.eviction.as_ref().map(|eviction| eviction.at);
                    record.pulled.map(|pulled| pulled.at.into()).max(evicted_at)
                });
                let included = self.policy.backoff.max.min(LONGEST_INCLUSION);
                self.image.wanted_since() > after(turn.began_at, included) || changed_at > Some(turn.began_at)
            })
    }

    /// Returns how urgent the pull is, once it could begin.
    pub(crate) fn urgency(&self) -> Urgency {
        self.here.urgency(self.image, self.policy, self.now)
    }

    /// Returns the verdict on the image on this node.
    pub(crate) fn explain(&self, budget: &Budget<'_>) -> Verdict {
        if self.standing == Standing::Cached {
            return Verdict::Cached;
        }
        let pod = self.here.world.pod_on(&self.here.entry.node.name);
        if let Some(pod) = pod.filter(|entry| entry.pod.is_pulling(&self.image.image.reference)) {
            return Verdict::Pulling { pod: pod.pod.name.clone() };
        }
        // A probe that is due may still wait for other pulls.
        let probe = self.image.is_probed.then(|| self.check(Purpose::Probe, budget)).and_then(Result::err);
        let probe = probe.filter(|held| held.verdict.is_of_pace());
        let held = probe.or_else(|| self.check(Purpose::Pull, budget).err());
        held.map_or(Verdict::Next, |held| self.with_time(held.verdict))
    }

    /// Adds the time of the next probe or question, which takes too long to find for every check.
    fn with_time(&self, verdict: Verdict) -> Verdict {
        let Self { here: OnNode { world, .. }, image, policy, now, .. } = *self;
        let reference = &image.image.reference;
        let next = |at: Option<Timestamp>, is_tried: bool| at.filter(|at| *at > now && !is_tried);
        match verdict {
            Verdict::NotFound { cause, .. } => Verdict::NotFound { cause, at: world.lookup_at(reference) },
            Verdict::RegistryPaused { host, .. } => {
                let is_tried = world.registry_tried_at(reference).is_some();
                Verdict::RegistryPaused { host, at: next(world.registry_probe_at(reference, policy), is_tried) }
            }
            Verdict::WaitingForProbe { cause, .. } => {
                Verdict::WaitingForProbe { cause, at: next(world.probe_at(image, policy), world.is_tried(reference)) }
            }
            verdict => verdict,
        }
    }
}

/// Checks whether a node can run a pull Pod at all.
///
/// # Errors
/// The rule that it does not meet.
pub(crate) fn check_kubelet(node: &NodeEntry, policy: &Policy) -> Result<(), Held> {
    match node.node.readiness {
        Readiness::Lost => Held::by(Verdict::NodeLost),
        Readiness::NotReady { network: false } if policy.host_network == HostNetwork::Never => {
            Held::by(Verdict::NodeWithoutNetwork)
        }
        Readiness::Ready | Readiness::NotReady { .. } => Ok(()),
    }
}

/// Checks whether the image's policy, spec and registry allow a pull at all.
///
/// # Errors
/// The first rule that is not met.
pub(crate) fn check_image(
    world: &World,
    image: &ImageEntry,
    policy: Option<&Policy>,
    now: Timestamp,
) -> Result<(), Held> {
    match policy {
        None => Held::by(Verdict::PullPolicyNotFound { policy: image.image.policy.clone() }),
        Some(policy) if policy.paused => Held::by(Verdict::Paused { policy: policy.name.clone() }),
        Some(_) if image.image.pull == ImagePullPolicy::Never => Held::by(Verdict::NeverPulled),
        Some(_) => match world.lookup_of(image) {
            Some(lookup) => match world.missing(image) {
                Some(cause) => Held::by(Verdict::NotFound { cause: cause.clone(), at: None }),
                None if lookup.waits_to_be_asked() => Held::by(Verdict::LookingUp),
                None => Held::before(lookup.holds_until(), now, |_| Verdict::LookingUp),
            },
            None => Ok(()),
        },
    }
}

/// Checks whether the image, its registry and its set allow a pull to begin, on whichever node.
///
/// # Errors
/// The first rule that is not met.
pub(crate) fn check_trouble(
    world: &World,
    image: &ImageEntry,
    policy: &Policy,
    purpose: Purpose,
    tried: &BTreeSet<Reference>,
    now: Timestamp,
) -> Result<(), Held> {
    let reference = &image.image.reference;
    let will_be_tried = || world.is_tried(reference) || tried.contains(reference);
    if image.is_probed {
        let host_is_tried = || tried.iter().any(|other| other.host() == reference.host());
        let registry = || Verdict::RegistryPaused { host: reference.host().into(), at: None };
        let probe = || Verdict::WaitingForProbe { at: None, cause: world.cause_of(reference) };
        match purpose {
            Purpose::Pull if world.is_registry_paused(reference) => return Held::by(registry()),
            Purpose::Pull => return Held::by(probe()),
            _ if world.is_registry_paused(reference) && host_is_tried() => return Held::by(registry()),
            _ if will_be_tried() => return Held::by(probe()),
            _ => {
                Held::before(world.registry_probe_at(reference, policy), now, |_| registry())?;
                Held::before(world.probe_at(image, policy), now, |_| probe())?;
            }
        }
    }
    if purpose == Purpose::Ask {
        match world.ask_at(image, policy).filter(|_| !will_be_tried()) {
            None => return Held::by(Verdict::Cached),
            due => Held::before(due, now, |_| Verdict::Cached)?,
        }
    }
    match &image.image.set {
        // A set's images share Pods, so the first Pod waits until all of them are known.
        Some(set) if world.is_being_filled(&set.name) => Held::by(Verdict::SetIncomplete { set: set.name.clone() }),
        _ => Ok(()),
    }
}

/// Returns why an image that fails because of itself or its registry is not pulled, whatever else a node waits for;
/// `None` if the image does not fail.
pub(crate) fn trouble(world: &World, image: &ImageEntry, now: Timestamp) -> Option<Verdict> {
    let policy = world.policy_or_built_in(&image.image.policy).filter(|_| image.is_probed)?;
    let held = check_trouble(world, image, policy, Purpose::Pull, &BTreeSet::new(), now).err();
    held.map(|held| held.verdict)
}

/// Returns the earliest time at which an image that failed on a node is tried there again; `None` if it is not known,
/// for example while one pull at a time probes its registry.
///
/// It is the time of the last rule that ends by itself, even if that has passed, so that it changes with events alone.
pub(crate) fn retry_at(world: &World, node: &NodeEntry, image: &ImageEntry) -> Option<Timestamp> {
    let standing = node.standings.get(&image.image.name).copied()?;
    let here = world.on_node(node);
    let mut pair = Pair::new(&here, image, standing, Timestamp::MIN)?;
    let policy = world.policy_of(&image.image);
    if world.is_registry_paused(&image.image.reference) {
        return None;
    }
    while let Err(held) = check_image(world, image, policy, pair.now).and_then(|()| pair.check_here(Purpose::Pull)) {
        pair.now = held.until?;
    }
    Some(pair.now).max(world.probe_at(image, pair.policy)).filter(|at| *at > Timestamp::MIN)
}

/// Returns the verdict on an image on a node, whether the node is a target or not.
pub(crate) fn verdict(
    world: &World,
    node: &NodeEntry,
    image: &ImageEntry,
    budget: &Budget<'_>,
    now: Timestamp,
) -> Verdict {
    let Some(standing) = node.standings.get(&image.image.name).copied() else {
        let why = image.place_on(&node.node).err();
        return why.map_or(Verdict::Next, |why| Verdict::NotATarget { why: why.to_string() });
    };
    let here = world.on_node(node);
    Pair::new(&here, image, standing, now).map_or(Verdict::Next, |pair| pair.explain(budget))
}
