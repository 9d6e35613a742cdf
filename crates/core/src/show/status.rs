//! Derives the statuses that the API shows from the [`World`].

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, btree_set};

use drop_api::cached_image::{CachedImageStatus, ImagePullPolicy, MAX_FAILURES, NodeFailure, Phase};
use drop_api::cached_image_set::{CachedImageSetStatus, SetPhase};
use drop_api::condition::{self, Condition, ConditionStatus};
use drop_api::node_cache::{NodeCache, NodeCacheSpec, NodeCacheStatus};
use drop_api::pull_policy::PullPolicyStatus;
use jiff::Timestamp;
use kube::core::ObjectMeta;

use crate::discovery::sync;
use crate::gate::budget::Budget;
use crate::gate::check_kubelet;
use crate::gate::verdict::Verdict;
use crate::io::effect::EffectKey;
use crate::objects::memory::{Failure, Memory};
use crate::objects::placement::Placement;
use crate::objects::policy::Policy;
use crate::objects::presence::Standing;
use crate::objects::reference::Reference;
use crate::pace::order::Candidate;
use crate::text::{count, plural, shortened};
use crate::world::health::Health;
use crate::world::{Group, ImageEntry, Lookup, NodeEntry, PodEntry, SetEntry, Stage, World};
use crate::{Name, gate};

/// The answers that the statuses of all images of a plan share, each found when it is first needed.
#[derive(Default)]
pub(crate) struct Shared<'a> {
    budget: OnceCell<Budget<'a>>,
    lines: RefCell<Vec<Line<'a>>>,
}

/// The nodes that wait under a policy, from the first one on that is a target of the images of a placement.
struct Line<'a> {
    policy: &'a Name,
    placement: &'a Placement,
    candidates: btree_set::Iter<'a, Candidate>,
}

impl<'a> Shared<'a> {
    fn budget(&self, world: &'a World, now: Timestamp) -> &Budget<'a> {
        self.budget.get_or_init(|| Budget::new(world, now))
    }

    /// The nodes that wait under an image's policy, in order. Of those before the first target some may be left out.
    fn waiting(&self, world: &'a World, entry: &'a ImageEntry) -> impl Iterator<Item = &'a NodeEntry> {
        let (policy, placement) = (&entry.image.policy, entry.placement());
        let mut lines = self.lines.borrow_mut();
        let known = lines.iter().find(|line| line.policy == policy && line.placement == placement);
        let candidates = known.map(|line| line.candidates.clone()).or_else(|| {
            let mut rest = world.line(policy)?.iter();
            let mut candidates = rest.clone();
            while rest.next().is_some_and(|it| world.standing_on(&it.node, &entry.image.name).is_none()) {
                candidates = rest.clone();
            }
            lines.push(Line { policy, placement, candidates: candidates.clone() });
            Some(candidates)
        });
        candidates.into_iter().flatten().filter_map(|candidate| world.node(&candidate.node))
    }
}

/// Returns the status of a CachedImage.
pub(crate) fn cached_image<'a>(
    world: &'a World,
    entry: &'a ImageEntry,
    shared: &Shared<'a>,
    now: Timestamp,
) -> CachedImageStatus {
    let image = &entry.image;
    let tally = entry.tally;
    let nothing = Health::default();
    let health = world.health_of(&image.reference).unwrap_or(&nothing);
    let pulling: Vec<_> = world.pulling(&image.reference).filter(|node| is_target(world, node, entry)).collect();
    let mut failures: Vec<(&Name, &Failure)> = failures(world, entry, health).collect();
    // A failure that may be the image's own comes before a node's failure.
    failures.sort_by_key(|(node, failure)| (failure.is_of_node(), std::cmp::Reverse(failure.at), *node));
    let only_nodes_fail = failures.first().is_some_and(|(_, failure)| failure.is_of_node());

    let (reason, message) = reason(world, entry, health, &pulling, &failures, shared, now);
    let ready = reason == "Cached";
    let previous = condition::ready(&entry.published.status.conditions);
    let newest = health.success.as_ref();
    let lookup = match world.lookup_of(entry) {
        // A process that has just started knows nothing better than the status that the previous one wrote.
        Some(lookup) if lookup.is_pending() => entry.published.status.lookup.clone(),
        lookup => lookup.and_then(Lookup::status),
    };
    let known = lookup.as_ref().and_then(|lookup| lookup.digest.as_deref());
    let served = known.filter(|_| lookup.as_ref().is_some_and(|lookup| lookup.message.is_none()));
    // A digest that pins the image is its own as soon as a node has the image, whatever told so.
    let pinned = image.reference.digest().filter(|_| tally.there() > 0);
    let last_failure = world.last_try(entry);
    CachedImageStatus {
        observed_generation: image.generation,
        conditions: vec![Condition::ready(ready, &reason, message, image.generation, previous, now)],
        phase: Some(match reason.as_str() {
            "Cached" => Phase::Ready,
            "Pulling" => Phase::Pulling,
            "Waiting" | "Paused" | "NoMatchingNodes" => Phase::Pending,
            "PullPolicyNotFound" | "Evicted" => Phase::Degraded,
            // The failure is not the image's.
            _ if only_nodes_fail => Phase::Pending,
            _ => Phase::Degraded,
        }),
        ready: Some(format!("{}/{}", tally.there(), tally.targeted())),
        nodes_targeted: count(tally.targeted()),
        nodes_ready: count(tally.there()),
        nodes_pulling: count(pulling.len()),
        nodes_failed: count(tally.failed),
        resolved_digest: pinned.or(served).or_else(|| newest?.id.as_ref()?.digest()).or(known).map(str::to_owned),
        lookup,
        last_pulled_at: newest.map(|success| success.at),
        last_attempted_at: newest.map(|success| success.at).max(last_failure),
        consecutive_failures: i32::try_from(consecutive_failures(world, entry)).unwrap_or(i32::MAX),
        failures: failures
            .iter()
            .take(MAX_FAILURES)
            .map(|(node, failure)| NodeFailure {
                node: node.to_string(),
                reason: failure.reason.to_string(),
                message: failure.message.to_string(),
                attempts: i32::try_from(failure.count).unwrap_or(i32::MAX),
                retry_at: world.node(node).and_then(|node| gate::retry_at(world, node, entry)),
            })
            .collect(),
    }
}

/// Returns the failures of an image on the nodes that lack it because of them.
fn failures<'a>(
    world: &'a World,
    entry: &'a ImageEntry,
    health: &'a Health,
) -> impl Iterator<Item = (&'a Name, &'a Failure)> {
    let has_failed = |node: &Name| world.standing_on(node, &entry.image.name) == Some(Standing::Failed);
    health.failing.iter().filter(move |(node, _)| has_failed(node))
}

/// Returns the number of an image's failures in a row: on the node with the most failures, or in rounds over all nodes.
fn consecutive_failures(world: &World, entry: &ImageEntry) -> u32 {
    let Some(health) = world.health_of(&entry.image.reference) else { return 0 };
    let on_nodes = failures(world, entry, health).map(|(_, failure)| failure.count);
    on_nodes.max().unwrap_or(0).max(health.open_rounds(|node| is_target(world, node, entry)))
}

/// Returns the reason and message of a CachedImage's Ready condition.
///
/// The gate decides both. A failure is the reason while the gate's verdict is to back off for it.
fn reason<'a>(
    world: &'a World,
    entry: &'a ImageEntry,
    health: &Health,
    pulling: &[&Name],
    failures: &[(&Name, &Failure)],
    shared: &Shared<'a>,
    now: Timestamp,
) -> (String, String) {
    let image = &entry.image;
    let tally = entry.tally;
    let say = |reason: &str, message: String| (reason.to_owned(), message);
    let Some(policy) = world.policy_of(image) else {
        let verdict = Verdict::PullPolicyNotFound { policy: image.policy.clone() };
        return say("PullPolicyNotFound", verdict.to_string());
    };
    if tally.targeted() == 0 {
        return say("NoMatchingNodes", no_matching_nodes(world, entry));
    }
    let progress = format!("{}/{} nodes cached", tally.there(), tally.targeted());
    if tally.there() == tally.targeted() {
        let all = format!("cached on {}/{}", tally.there(), plural(tally.targeted(), "node"));
        // A tag may have moved while Drop cannot ask for it.
        let success = health.success.as_ref().map(|success| success.at);
        let asked_in_vain = health.failing.iter().filter(|(node, failure)| {
            let is_there = world.standing_on(node, &image.name).is_some_and(Standing::is_there);
            is_there && success < Some(failure.at)
        });
        let last = asked_in_vain.max_by_key(|(_, failure)| failure.at);
        let last = last.filter(|_| image.pull == ImagePullPolicy::Always && policy.repull_interval.is_some());
        let last = last.map(|(node, failure)| format!("; {node} could not ask for a newer one: {}", failure.message));
        return say("Cached", format!("{all}{}", last.unwrap_or_default()));
    }
    if policy.paused && pulling.is_empty() {
        return say("Paused", Verdict::Paused { policy: policy.name.clone() }.to_string());
    }
    // A node that cannot pull at all does not back off. A failure of the image itself remains when a node is lost.
    let backs_off = |(node, failure): &&(&Name, &Failure)| {
        let node = world.node(node).filter(|_| failure.is_of_node());
        node.is_none_or(|node| check_kubelet(node, policy).is_ok())
    };
    if let Some((node, failure)) = failures.iter().find(backs_off) {
        let failed_again = failure.count > 1 || health.open_rounds(|node| is_target(world, node, entry)) > 1;
        let reason = match &*failure.reason {
            "ErrImagePull" if failed_again => "ImagePullBackOff",
            reason => reason,
        };
        return say(reason, format!("{node}: {}{}", failure.message, and_more(failures.len() - 1, "node")));
    }
    if let Some(missing) = world.missing(entry) {
        return say("ErrImagePull", missing.to_string());
    }
    if let Some(node) = pulling.first() {
        return say("Pulling", format!("{progress}; pulling on {node}{}", and_more(pulling.len() - 1, "node")));
    }
    if image.pull == ImagePullPolicy::Never {
        return say("Waiting", format!("{progress}; imagePullPolicy: Never only reports"));
    }
    if tally.evicted > 0 {
        let evicted = world.nodes().find(|node| node.standings.get(&image.name) == Some(&Standing::Evicted));
        let evicted = evicted.map(|node| match why(world, node, entry, shared, now) {
            Some(verdict) => format!("; removed from {}: {verdict}", node.node.name),
            None => format!("; removed from {}, where it will be pulled again", node.node.name),
        });
        return say("Evicted", format!("{progress}{}", evicted.unwrap_or_default()));
    }
    let example = an_example(world, entry, policy, shared);
    let lacks = |node: &&NodeEntry| node.standings.get(&image.name).is_some_and(|standing| !standing.is_there());
    if example.is_none()
        && let Some(NodeEntry { node, .. }) = world.nodes().find(lacks)
    {
        let verdict = Verdict::NoImageForPlatform { platform: node.platform.clone() };
        return say(verdict.reason(), format!("{progress}; {}: {verdict}", node.name));
    }
    let verdict = example.and_then(|node| Some((&node.node.name, why(world, node, entry, shared, now)?)));
    let why = verdict.map_or_else(|| queued(policy), |(node, verdict)| format!("{node}: {verdict}"));
    say("Waiting", format!("{progress}; {why}"))
}

/// Describes the pace of a policy under which an image waits.
fn queued(policy: &Policy) -> String {
    let name = if policy.name.is_empty() { "built-in defaults" } else { &*policy.name };
    format!("queued ({name}: at most {} at once, {:#} apart)", plural(policy.max_nodes, "node"), policy.min_delay)
}

/// Says that a message names one of several.
fn and_more(others: usize, what: &str) -> String {
    match others {
        0 => String::new(),
        1 => format!(" (and 1 more {what})"),
        others => format!(" (and {others} more {what}s)"),
    }
}

/// Returns the gate's verdict on an image on a node that lacks it, as a status shows it; `None` while the image waits
/// for its turn.
///
/// No status is written only because time has passed. So a failure or denial stays the verdict until the pull succeeds,
/// even at the moment of a retry.
fn why<'a>(
    world: &'a World,
    node: &NodeEntry,
    entry: &ImageEntry,
    shared: &Shared<'a>,
    now: Timestamp,
) -> Option<Verdict> {
    match gate::verdict(world, node, entry, shared.budget(world, now), now) {
        // These verdicts change with every Pod and moment.
        Verdict::Next
        | Verdict::SetIncomplete { .. }
        | Verdict::Refused { .. }
        | Verdict::NodeBackingOff { .. }
        | Verdict::BackingOff { .. }
        | Verdict::Evicted { .. }
        | Verdict::RegistryPaused { .. }
        | Verdict::WaitingForProbe { .. }
        | Verdict::NodeBusy { .. }
        | Verdict::NodeReserved { .. }
        | Verdict::WaitingForNodeSlot { .. }
        | Verdict::WaitingForPullSlot { .. }
        | Verdict::WaitingForRegistrySlot { .. }
        | Verdict::WaitingForDelay { .. } => {}
        verdict => return Some(verdict),
    }
    if let Some(refused) = &entry.refused {
        return Some(Verdict::Refused { until: refused.until, message: refused.message.clone() });
    }
    // A lasting failure of the node. A single rejected Pod is reported by an Event about the node.
    if let Some(failure) = world.trouble_of(&node.node).filter(|failure| failure.count > 1) {
        let until = failure.retry_at.unwrap_or(failure.at);
        return Some(Verdict::NodeBackingOff { until, cause: failure.message.clone() });
    }
    gate::trouble(world, entry, now)
}

/// Returns a node that lacks the image, and whose wait is most informative: preferably one that waits for its turn, not
/// one that cannot pull. `None` if the registry has no image for the platform of any such node.
fn an_example<'a>(
    world: &'a World,
    entry: &'a ImageEntry,
    policy: &Policy,
    shared: &Shared<'a>,
) -> Option<&'a NodeEntry> {
    let name = &entry.image.name;
    let lacks = |node: &&NodeEntry| {
        let is_there = node.standings.get(name).is_none_or(|standing| standing.is_there());
        !is_there && !world.lacks_platform(entry, &node.node)
    };
    let works = |node: &NodeEntry| world.trouble_of(&node.node).is_none();
    let can_pull = |node: &&NodeEntry| lacks(node) && works(node) && check_kubelet(node, policy).is_ok();
    // A node in the queue is found soon, however many nodes there are. The image's own failure is the same on every
    // node, whether the node waits in the queue or not.
    let is_in_trouble = entry.refused.is_some() || entry.is_probed;
    let waiting = || shared.waiting(world, entry).find(|node| lacks(node) && works(node));
    let waiting = if is_in_trouble { None } else { waiting() };
    let any = |is: &dyn Fn(&&NodeEntry) -> bool| world.nodes().find(is);
    waiting.or_else(|| any(&can_pull)).or_else(|| any(&lacks))
}

/// Returns why no node is a target, with the first node as the example.
fn no_matching_nodes(world: &World, entry: &ImageEntry) -> String {
    let example = world.nodes().find_map(|node| {
        let why = entry.place_on(&node.node).err()?;
        Some(format!("{}: {why}", node.node.name))
    });
    match example {
        Some(example) => format!("none of {} is a target; {example}", plural(world.number_of_nodes(), "node")),
        None => "the cluster has no nodes".to_owned(),
    }
}

fn is_target(world: &World, node: &str, entry: &ImageEntry) -> bool {
    world.standing_on(node, &entry.image.name).is_some()
}

/// Returns the status of a CachedImageSet, from the statuses of its CachedImages. `is_current` says whether these match
/// the set.
pub(crate) fn cached_image_set(
    world: &World,
    entry: &SetEntry,
    is_current: bool,
    now: Timestamp,
) -> CachedImageSetStatus {
    let owned: Vec<&ImageEntry> = world.children_of(&entry.set).collect();
    let number_ready = owned.iter().filter(|child| is_ready(child)).count();
    let (reason, message) = set_reason(world, entry, &owned, number_ready, is_current);
    let is_ready = reason == "AllReady";
    let previous = condition::ready(&entry.published.status.conditions);
    CachedImageSetStatus {
        observed_generation: entry.set.generation,
        conditions: vec![Condition::ready(is_ready, &reason, message, entry.set.generation, previous, now)],
        phase: Some(match reason.as_str() {
            "AllReady" => SetPhase::Ready,
            "Progressing" => SetPhase::Pending,
            _ => SetPhase::Degraded,
        }),
        ready: Some(format!("{number_ready}/{}", owned.len())),
        images_managed: count(owned.len()),
        images_ready: count(number_ready),
    }
}

/// Whether a child shows that it is ready in its current form, and not as it was before an edit.
fn is_ready(child: &ImageEntry) -> bool {
    let status = &child.published.status;
    status.observed_generation == child.image.generation
        && condition::ready(&status.conditions).is_some_and(|ready| ready.status == ConditionStatus::True)
}

/// Whether a set can have all of its CachedImages, whether or not they become ready.
pub(crate) fn is_whole(world: &World, entry: &SetEntry) -> bool {
    // The next plan clears a denial that is over.
    !matches!(world.discovery_of(&entry.set), Some(None)) && wrong(world, entry, false).is_empty()
}

/// Returns a sentence for each of a set's images or CachedImages that it cannot have. `is_current` says whether the set
/// has no more effects to request, so that a denial is over.
fn wrong(world: &World, entry: &SetEntry, is_current: bool) -> Vec<String> {
    let foreign = entry.members.children.iter().filter_map(|child| {
        let image = &world.image(&child.image.name)?.image;
        // A CachedImage of an earlier set of the same name is about to be deleted.
        if image.set.as_ref().is_some_and(|owner| owner.name == entry.set.name && *owner.uid != *entry.set.uid) {
            return None;
        }
        (!image.is_owned_by(&entry.set.uid))
            .then(|| format!("CachedImage {} is there and not the set's: rename or delete it", image.name))
    });
    let flights = world.flights_of(&entry.set.name).filter(|_| !is_current);
    let refused = flights.filter_map(|(key, flight)| match (key, &flight.refusal) {
        (EffectKey::Child { child, .. }, Some(why)) => Some(format!("CachedImage {child} was refused: {why}")),
        _ => None,
    });
    entry.members.invalid.iter().cloned().chain(foreign).chain(refused).collect()
}

/// Returns the reason and message of a CachedImageSet's Ready condition.
fn set_reason(
    world: &World,
    entry: &SetEntry,
    owned: &[&ImageEntry],
    number_ready: usize,
    is_current: bool,
) -> (String, String) {
    let members = &entry.members;
    let say = |reason: &str, message: String| (reason.to_owned(), shortened(&message, 1024));
    let policy = entry.set.spec.discovery_policy_ref.as_ref().map(|policy| &policy.name);
    let discovery = world.discovery_of(&entry.set).zip(policy);
    match discovery {
        None => {}
        Some((None, policy)) => {
            let message = format!("there is no DiscoveryPolicy {policy}: create it; what it found last stays");
            return say("DiscoveryPolicyNotFound", message);
        }
        Some((Some(discovery), policy)) => {
            if let Some((reason, message)) = sync::trouble(&discovery.published.status) {
                return say(reason, format!("DiscoveryPolicy {policy}: {message}"));
            }
        }
    }
    let wrong = wrong(world, entry, is_current);
    if !wrong.is_empty() {
        return say("Degraded", wrong.join("; "));
    }
    let told = |child: &ImageEntry| {
        let ready = condition::ready(&child.published.status.conditions);
        let (reason, message) = ready.map(|ready| (&*ready.reason, &*ready.message)).unwrap_or_default();
        format!("{}: {reason}: {message}", child.image.reference)
    };
    let mut failing: Vec<_> =
        owned.iter().filter(|child| child.published.status.phase == Some(Phase::Degraded)).collect();
    failing.sort_by_key(|child| std::cmp::Reverse(child.published.status.consecutive_failures));
    if let Some(worst) = failing.first() {
        return say("Degraded", format!("{}{}", told(worst), and_more(failing.len() - 1, "image")));
    }
    let repeated = members.repeated.iter().map(|repeated| format!("; {repeated}")).collect::<String>();
    let progress = format!(
        "{number_ready} of {} are on all their nodes",
        plural(members.children.len().max(owned.len()), "image")
    );
    let is_discovered = discovery.is_none_or(|(policy, _)| {
        policy.is_some_and(|policy| condition::ready(&policy.published.status.conditions).is_some())
    });
    if !is_discovered {
        return say("Progressing", format!("{progress}; discovery has not run yet{repeated}"));
    }
    if is_current && number_ready == owned.len() {
        return say("AllReady", format!("{progress}{repeated}"));
    }
    let next = owned.iter().filter(|child| !is_ready(child) && child.published.status.phase.is_some());
    let next = next.min_by_key(|child| child.rank).map(|child| format!("; {}", told(child))).unwrap_or_default();
    say("Progressing", format!("{progress}{next}{repeated}"))
}

/// Returns the status of a PullPolicy.
pub(crate) fn pull_policy(
    world: &World,
    policy: &Policy,
    before: &PullPolicyStatus,
    now: Timestamp,
) -> PullPolicyStatus {
    let images = world.images().filter(|entry| entry.image.policy == policy.name);
    let waiting: usize = images
        .filter(|entry| entry.image.pull != ImagePullPolicy::Never)
        .map(|entry| {
            let pulling = world.pulling(&entry.image.reference);
            let pulling = pulling.filter(|node| is_target(world, node, entry)).count();
            (entry.tally.targeted() - entry.tally.cached).saturating_sub(pulling)
        })
        .sum();
    let pods = world.pods().filter(|entry| entry.pod.policy == policy.name);
    let nodes: std::collections::BTreeSet<_> = pods.map(|entry| &entry.pod.node).collect();
    let (reason, message) = match policy.paused {
        true => ("Paused", "nothing new is started until paused is false"),
        false => ("InForce", ""),
    };
    let previous = condition::ready(&before.conditions);
    let ready = Condition::ready(!policy.paused, reason, message.to_owned(), policy.generation, previous, now);
    let last_start = world.starts(&policy.name).and_then(|starts| starts.last()).map(|(_, at)| *at);
    PullPolicyStatus {
        observed_generation: policy.generation,
        conditions: vec![ready],
        nodes_pulling: count(nodes.len()),
        pulls_waiting: count(waiting),
        // A start before the last restart is only known to the second.
        last_pull_started_at: last_start.map(whole_seconds).max(before.last_pull_started_at),
    }
}

/// Returns the NodeCache of a node with this memory, but without the memory's own fields.
pub(crate) fn node_cache(
    world: &World,
    node: &NodeEntry,
    group: &Group<'_>,
    memory: &Memory,
    now: Timestamp,
) -> NodeCache {
    let name = &node.node.name;
    // If several CachedImages want one image, the worst standing counts, whichever comes last.
    let mut standings: BTreeMap<&Reference, Standing> = BTreeMap::new();
    for (reference, found) in world.standings(node, group, memory, now) {
        let worst = standings.entry(reference).or_insert(found);
        *worst = found.max(*worst);
    }
    let number = |wanted: Standing| standings.values().filter(|standing| **standing == wanted).count();
    let cached = standings.values().filter(|standing| standing.is_there()).count();
    // A Pod that this memory has recorded pulls no more, and a Pod that has just begun is not worth a write.
    let is_long = |entry: &PodEntry| {
        let is_there = !matches!(entry.stage, Stage::Requested(_));
        is_there && now.duration_since(entry.steps.created) >= world.settings().record_within
    };
    let pulling: usize = world
        .pods_on(name)
        .filter(|entry| {
            is_long(entry) && !world.is_recorded(entry) && (entry.pod.uid.is_none() || entry.pod.uid != memory.last_pod)
        })
        .map(|entry| entry.pod.containers.iter().filter(|container| container.outcome().is_none()).count())
        .sum();
    let (ready, reason) = match number(Standing::Failed) {
        _ if cached == standings.len() => (true, "AllCached"),
        0 => (false, "ImagesMissing"),
        _ => (false, "PullsFailed"),
    };
    let before = world.cache(name).and_then(|entry| entry.object.status.as_ref());
    let previous = before.and_then(|status| condition::ready(&status.conditions));
    let message = format!("{cached} of {} are on the node", plural(standings.len(), "image"));
    let mut cache = NodeCache::new(name, NodeCacheSpec { node_uid: node.node.uid.to_string() });
    cache.metadata = ObjectMeta {
        name: Some(name.to_string()),
        owner_references: Some(vec![node.node.owner_reference()]),
        ..ObjectMeta::default()
    };
    cache.status = Some(NodeCacheStatus {
        conditions: vec![Condition::ready(ready, reason, message, None, previous, now)],
        ready: format!("{cached}/{}", standings.len()),
        images_pulling: count(pulling),
        images_failed: count(number(Standing::Failed)),
        ..NodeCacheStatus::default()
    });
    cache
}

fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
