//! Decides whether a pull may begin, and if not, why.
//!
//! No other place decides this. Queues, starts, probes, questions for tags, statuses, metrics, `/debug/plan` and the
//! audit all ask [`Pair::check`], which checks one ordered list of rules. The first rule that is not met becomes the
//! verdict that people read. A new rule needs one [`Rule`], one line in [`Pair::check`] and one [`Verdict`].

pub mod budget;
mod queues;
pub mod verdict;

use std::collections::BTreeSet;

use drop_api::pull_policy::HostNetwork;
use jiff::{SignedDuration, Timestamp};

use crate::Name;
use crate::gate::budget::Budget;
use crate::gate::verdict::Verdict;
use crate::objects::image::ImagePullPolicy;
use crate::objects::node::Readiness;
use crate::objects::policy::Policy;
use crate::objects::presence::Standing;
use crate::objects::reference::Reference;
use crate::pace::order::Urgency;
use crate::time::after;
use crate::world::{ImageEntry, Lookup, NodeEntry, OnNode, World};

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

/// The rules, in the order in which they are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    PolicyExists,
    NotPaused,
    MayBePulled,
    IsLookedUp,
    Exists,
    KubeletReports,
    HasNetwork,
    ServesPlatform,
    HasRoom,
    NotRefused,
    NodeWorks,
    WorksHere,
    Repaired,
    RegistryAnswers,
    ImageWorks,
    IsDue,
    SetIsComplete,
    NodeIsFree,
    PolicyAllows,
    RegistrySlot,
}

/// The first rule that a pull does not meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    rule: Rule,
    /// The time from which the answer may differ without an event.
    pub(crate) until: Option<Timestamp>,
    /// The slot or Pod in use that the pull waits for.
    in_use: Option<Verdict>,
}

impl Rule {
    fn holds(self) -> Result<(), Held> {
        Err(Held { rule: self, until: None, in_use: None })
    }

    fn holds_until(self, until: Timestamp) -> Result<(), Held> {
        Err(Held { rule: self, until: Some(until), in_use: None })
    }

    /// Fails because of something in use.
    fn waits_for(self, verdict: Verdict) -> Held {
        Held { rule: self, until: verdict.until(), in_use: Some(verdict) }
    }

    /// Fails while `until` has not passed.
    fn holds_before(self, until: Option<Timestamp>, now: Timestamp) -> Result<(), Held> {
        until.filter(|until| *until > now).map_or(Ok(()), |until| self.holds_until(until))
    }
}

/// A node and one of the policies under which it may pull.
pub(crate) struct Side<'a> {
    pub(crate) here: OnNode<'a>,
    pub(crate) node: &'a NodeEntry,
    policy: &'a Policy,
    now: Timestamp,
}

impl<'a> Side<'a> {
    pub(crate) fn new(world: &'a World, node: &'a NodeEntry, policy: &'a Policy, now: Timestamp) -> Self {
        Self { here: world.on_node(node), node, policy, now }
    }

    /// Checks whether the node can run a pull Pod at all.
    ///
    /// # Errors
    /// The rule that it does not meet.
    pub(crate) fn check(&self) -> Result<(), Held> {
        match self.node.node.readiness {
            Readiness::Lost => Rule::KubeletReports.holds(),
            Readiness::NotReady { network: false } if self.policy.host_network == HostNetwork::Never => {
                Rule::HasNetwork.holds()
            }
            Readiness::Ready | Readiness::NotReady { .. } => Ok(()),
        }
    }
}

impl Side<'_> {
    /// Whether a pull of an image would begin a turn here, instead of going on with one. A late pull always begins a
    /// turn: fresh pulls of other nodes go first.
    ///
    /// A turn goes on for images that became wanted within the longest backoff after it began, at most five minutes,
    /// and that were neither pulled nor evicted since. Without this bound, a node that keeps getting new images, or
    /// that evicts its images again and again, would never let another node begin.
    pub(crate) fn begins_turn(&self, image: &ImageEntry, is_late: bool) -> bool {
        let turn = self.node.turn.as_ref().filter(|turn| turn.policy == self.policy.name);
        is_late
            || turn.is_none_or(|turn| {
                let record = self.here.record(&image.image.reference);
                let changed_at = record.and_then(|record| {
                    let evicted_at = record.eviction.as_ref().map(|eviction| eviction.at);
                    record.pulled.as_ref().map(|pulled| pulled.at).max(evicted_at)
                });
                let included = self.policy.backoff.max.min(LONGEST_INCLUSION);
                image.wanted_since() > after(turn.began_at, included) || changed_at > Some(turn.began_at)
            })
    }
}

/// The sides of one node, by policy.
pub(crate) struct Sides<'a> {
    world: &'a World,
    node: &'a NodeEntry,
    now: Timestamp,
    /// By the policy name that images give. There are few.
    by_policy: Vec<(&'a Name, Side<'a>)>,
}

impl<'a> Sides<'a> {
    pub(crate) fn new(world: &'a World, node: &'a NodeEntry, now: Timestamp) -> Self {
        Self { world, node, now, by_policy: Vec::new() }
    }

    /// Returns the node's side of `image`'s policy. If the policy is missing, it returns the side of the built-in one;
    /// the first rule then reports the missing policy.
    pub(crate) fn of(&mut self, image: &'a ImageEntry) -> Option<&Side<'a>> {
        let name = &image.image.policy;
        let known = self.by_policy.iter().position(|(known, _)| *known == name);
        let at = known.unwrap_or(self.by_policy.len());
        if known.is_none() {
            let policy = self.world.policy_or_built_in(name)?;
            self.by_policy.push((name, Side::new(self.world, self.node, policy, self.now)));
        }
        self.by_policy.get(at).map(|(_, side)| side)
    }
}

/// An image and one of its target nodes.
pub(crate) struct Pair<'a, 'b> {
    pub(crate) world: &'a World,
    pub(crate) image: &'a ImageEntry,
    pub(crate) side: &'b Side<'a>,
    pub(crate) standing: Standing,
}

impl<'a> Pair<'a, '_> {
    /// Checks whether the pull may begin now, given the slots and Pods in use.
    ///
    /// # Errors
    /// The first rule that is not met.
    pub(crate) fn check(&self, purpose: Purpose, budget: &Budget<'_>) -> Result<(), Held> {
        self.check_alone(purpose, budget.tried())?;
        let (node, policy) = (&self.side.node.node.name, self.side.policy);
        if let Some(pod) = budget.busy_with(node) {
            return Err(Rule::NodeIsFree.waits_for(Verdict::NodeBusy { pod }));
        }
        let is_late = purpose == Purpose::Pull && self.urgency().is_late();
        let begins_turn = self.side.begins_turn(self.image, is_late);
        let admitted = budget.admit(policy, node, begins_turn, self.side.now);
        admitted.map_err(|verdict| Rule::PolicyAllows.waits_for(verdict))?;
        let of_host = budget.admit_host(policy, self.image.image.reference.host());
        of_host.map_err(|verdict| Rule::RegistrySlot.waits_for(verdict))
    }

    /// Checks whether the pull could begin now if no other pull were waiting. From then on the node waits in a queue.
    ///
    /// # Errors
    /// The first rule that is not met.
    pub(crate) fn check_alone(&self, purpose: Purpose, tried: &BTreeSet<Reference>) -> Result<(), Held> {
        // If the policy is missing, the side is that of the built-in one.
        let policy = Some(self.side.policy).filter(|policy| policy.name == self.image.image.policy);
        check_image(self.world, self.image, policy, self.side.now)?;
        self.check_here(purpose)?;
        check_trouble(self.world, self.image, self.side.policy, purpose, tried, self.side.now)
    }

    /// Checks whether this node lets the pull begin.
    ///
    /// # Errors
    /// The first rule that is not met.
    pub(crate) fn check_here(&self, purpose: Purpose) -> Result<(), Held> {
        let (side, now) = (self.side, self.side.now);
        let (image, here) = (&self.image.image, &side.here);
        side.check()?;
        if self.world.lacks_platform(self.image, &side.node.node) {
            return Rule::ServesPlatform.holds();
        }
        if !here.has_room(&image.reference) {
            return Rule::HasRoom.holds();
        }
        Rule::NotRefused.holds_before(self.image.refused.as_ref().map(|refused| refused.until), now)?;
        Rule::NodeWorks.holds_before(here.backoff(side.policy).map(|(until, _)| until), now)?;
        Rule::WorksHere.holds_before(here.backoff_of(self.image, side.policy).map(|(until, _)| until), now)?;
        if self.is_evicted() {
            // The plan has to record the eviction first.
            let Some(until) = here.repair_at(&image.reference) else { return Rule::Repaired.holds() };
            Rule::Repaired.holds_before(Some(until), now)?;
        }
        if purpose == Purpose::Ask {
            Rule::IsDue.holds_before(self.world.may_ask_at(&image.reference, &side.node.node, side.policy), now)?;
        }
        Ok(())
    }

    /// Whether the image was removed from the node. If it failed there for one CachedImage, it may have been evicted for
    /// another one.
    fn is_evicted(&self) -> bool {
        let on_node = |other: &ImageEntry| self.side.node.standings.get(&other.image.name) == Some(&Standing::Evicted);
        match self.standing {
            Standing::Evicted => true,
            Standing::Failed => self.world.wanted_by(&self.image.image.reference).any(on_node),
            Standing::Missing | Standing::Cached | Standing::Outdated => false,
        }
    }

    /// Returns the verdict that people read while a rule holds the pull.
    fn verdict(&self, held: Held) -> Verdict {
        let (world, side) = (self.world, self.side);
        let (image, policy) = (&self.image.image, side.policy);
        let of = |pair: Option<(Timestamp, &Name)>| {
            pair.map_or_else(|| (side.now, "".into()), |(until, cause)| (until, cause.clone()))
        };
        match held.rule {
            Rule::PolicyExists => Verdict::PullPolicyNotFound { policy: image.policy.clone() },
            Rule::NotPaused => Verdict::Paused { policy: policy.name.clone() },
            Rule::MayBePulled => Verdict::NeverPulled,
            Rule::IsLookedUp => Verdict::LookingUp,
            Rule::Exists => {
                let cause = world.lookup_of(self.image).and_then(Lookup::missing).cloned();
                let cause = cause.unwrap_or_else(|| "".into());
                Verdict::NotFound { cause, at: world.lookup_at(&image.reference) }
            }
            Rule::ServesPlatform => Verdict::NoImageForPlatform { platform: side.node.node.platform.clone() },
            Rule::KubeletReports => Verdict::NodeLost,
            Rule::HasNetwork => Verdict::NodeWithoutNetwork,
            Rule::HasRoom => Verdict::TooManyImages,
            Rule::NotRefused => {
                let message = self.image.refused.as_ref().map_or_else(|| "".into(), |it| it.message.clone());
                Verdict::Refused { until: held.until.unwrap_or(side.now), message }
            }
            Rule::NodeWorks => {
                let (until, cause) = of(side.here.backoff(policy));
                Verdict::NodeBackingOff { until, cause }
            }
            Rule::WorksHere => {
                let (until, cause) = of(side.here.backoff_of(self.image, policy));
                Verdict::BackingOff { until, cause }
            }
            Rule::Repaired => Verdict::Evicted { until: held.until.unwrap_or(side.now) },
            Rule::RegistryAnswers => {
                let at = world.registry_probe_at(&image.reference, policy);
                let at = at.filter(|at| *at > side.now && world.registry_tried_at(&image.reference).is_none());
                Verdict::RegistryPaused { host: image.reference.host().into(), at }
            }
            Rule::ImageWorks => {
                let at = world.probe_at(self.image, policy);
                let at = at.filter(|at| *at > side.now && !world.is_tried(&image.reference));
                Verdict::WaitingForProbe { at, cause: world.cause_of(&image.reference) }
            }
            Rule::IsDue => Verdict::Cached,
            Rule::SetIsComplete => {
                Verdict::SetIncomplete { set: image.set.as_ref().map_or_else(|| "".into(), |set| set.name.clone()) }
            }
            Rule::NodeIsFree | Rule::PolicyAllows | Rule::RegistrySlot => held.in_use.unwrap_or(Verdict::Next),
        }
    }

    /// Returns how urgent the pull is, once it could begin.
    pub(crate) fn urgency(&self) -> Urgency {
        self.side.here.urgency(self.image, self.side.policy, self.side.now)
    }

    /// Returns the verdict on the image on this node.
    pub(crate) fn explain(&self, budget: &Budget<'_>) -> Verdict {
        if self.standing == Standing::Cached {
            return Verdict::Cached;
        }
        let pod = self.world.pod_on(&self.side.node.node.name);
        if let Some(pod) = pod.filter(|entry| entry.pod.is_pulling(&self.image.image.reference)) {
            return Verdict::Pulling { pod: pod.pod.name.clone() };
        }
        // A probe that is due may still wait for other pulls.
        let probe = self.image.is_probed.then(|| self.check(Purpose::Probe, budget)).and_then(Result::err);
        let probe = probe.filter(|held| matches!(held.rule, Rule::PolicyAllows | Rule::RegistrySlot));
        match probe.map_or_else(|| self.check(Purpose::Pull, budget), Err) {
            Ok(()) => Verdict::Next,
            Err(held) => self.verdict(held),
        }
    }
}

/// Checks whether the image's policy, spec and registry allow a pull at all.
pub(crate) fn check_image(
    world: &World,
    image: &ImageEntry,
    policy: Option<&Policy>,
    now: Timestamp,
) -> Result<(), Held> {
    match policy {
        None => Rule::PolicyExists.holds(),
        Some(policy) if policy.paused => Rule::NotPaused.holds(),
        Some(_) if image.image.pull == ImagePullPolicy::Never => Rule::MayBePulled.holds(),
        Some(_) => match world.lookup_of(image) {
            Some(lookup) if lookup.missing().is_some() => Rule::Exists.holds(),
            Some(lookup) if lookup.waits_to_be_asked() => Rule::IsLookedUp.holds(),
            Some(lookup) => Rule::IsLookedUp.holds_before(lookup.holds_until(), now),
            None => Ok(()),
        },
    }
}

/// Checks whether the image, its registry and its set allow a pull to begin, on whichever node.
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
        match purpose {
            Purpose::Pull if world.is_registry_paused(reference) => return Rule::RegistryAnswers.holds(),
            Purpose::Pull => return Rule::ImageWorks.holds(),
            _ if world.is_registry_paused(reference) && host_is_tried() => return Rule::RegistryAnswers.holds(),
            _ if will_be_tried() => return Rule::ImageWorks.holds(),
            _ => {
                Rule::RegistryAnswers.holds_before(world.registry_probe_at(reference, policy), now)?;
                Rule::ImageWorks.holds_before(world.probe_at(image, policy), now)?;
            }
        }
    }
    match purpose {
        Purpose::Ask if will_be_tried() => Rule::IsDue.holds()?,
        Purpose::Ask => match world.ask_at(image, policy) {
            Some(at) => Rule::IsDue.holds_before(Some(at), now)?,
            None => Rule::IsDue.holds()?,
        },
        Purpose::Pull | Purpose::Probe => {}
    }
    match &image.image.set {
        // A set's images share Pods, so the first Pod waits until all of them are known.
        Some(set) if world.is_being_filled(&set.name) => Rule::SetIsComplete.holds(),
        _ => Ok(()),
    }
}

/// Returns why an image that fails because of itself or its registry is not pulled on a node, no matter what else the
/// node waits for; `None` if the image does not fail.
pub(crate) fn trouble(world: &World, node: &NodeEntry, image: &ImageEntry, now: Timestamp) -> Option<Verdict> {
    let standing = node.standings.get(&image.image.name).copied().filter(|_| image.is_probed)?;
    let mut sides = Sides::new(world, node, now);
    let side = sides.of(image)?;
    let held = check_trouble(world, image, side.policy, Purpose::Pull, &BTreeSet::new(), now).err()?;
    Some(Pair { world, image, side, standing }.verdict(held))
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
    match Sides::new(world, node, now).of(image) {
        Some(side) => Pair { world, image, side, standing }.explain(budget),
        None => Verdict::Next,
    }
}
