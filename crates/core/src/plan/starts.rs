//! Starts pulls as far as the gate allows.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::ops::Bound;

use drop_api::names::short_hash;
use drop_api::pull_policy::HostNetwork;
use jiff::Timestamp;

use crate::Name;
use crate::gate::budget::Budget;
use crate::gate::{Pair, Purpose, check_image, check_trouble};
use crate::io::effect::{Effect, PodOrder, Pull};
use crate::io::plan::{First, Plan};
use crate::objects::image::Image;
use crate::objects::memory::Record;
use crate::objects::node::Readiness;
use crate::objects::policy::Policy;
use crate::objects::presence::Standing;
use crate::pace::order::{Candidate, Urgency};
use crate::time::after;
use crate::world::{ImageEntry, NodeEntry, OnNode, World};

/// Starts the pulls that the policies allow. Each policy has a line, in this order:
///
/// 1. nodes that go on with their turn,
/// 2. nodes with a fresh pull, by priority, then by how long the node has waited,
/// 3. retries, probes of images that fail, and questions for tags, by the time since they are overdue.
///
/// An overdue entry of the third kind goes before all others if, for the longest backoff, no Pod of the third kind
/// existed, and a fresh pull began since, if any waits. So failures take at most one turn in that time, and at most
/// every other turn from images that were never tried, however long each failure lasts. And a steady supply of fresh
/// pulls delays no retry for ever.
///
/// While the first in line waits for a slot of the policy or for the delay between nodes, only nodes that go on with
/// their turn may pass it.
pub(super) fn start_pulls(world: &World, now: Timestamp, plan: &mut Plan) {
    let mut budget = Budget::new(world, now);
    let mut quests = quests(world, now, plan);
    let mut lines: Vec<Line<'_>> = world
        .policies()
        .map(|entry| Line::new(world, &entry.policy, quests.remove(&entry.policy.name).unwrap_or_default(), now))
        .collect();
    loop {
        lines.iter_mut().for_each(|line| line.find_start(world, &budget, plan));
        // Over all policies the most urgent start goes first, because two of them may want the same node.
        let places = lines.iter().enumerate().filter_map(|(at, line)| Some((&line.ready.as_ref()?.place, at)));
        let Some((_, first)) = places.min() else { break };
        let Some(line) = lines.get_mut(first) else { break };
        let Some(Ready { order, .. }) = line.ready.take() else { break };
        line.lets_late_first &= !order.is_late;
        commit_start(order, &mut budget, plan);
    }
    // A node that would have begun its turn with a claimed slot may have been taken by another policy.
    for line in lines {
        for candidate in line.yielding {
            if let Ok(Some(order)) = start_turn(world, line.policy, candidate, Claims::Ignored, &budget, now) {
                commit_start(order, &mut budget, plan);
            }
        }
    }
}

/// Whether a node that goes on with its turn leaves registry slots to more urgent nodes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Claims {
    Respected,
    Ignored,
}

/// The nodes and quests that wait under one policy.
struct Line<'a> {
    policy: &'a Policy,
    now: Timestamp,
    /// Whether an overdue retry or quest goes before fresh pulls.
    lets_late_first: bool,
    /// When a turn last began.
    served_at: Option<Timestamp>,
    fresh: Peekable<Candidates<'a>>,
    retries: Peekable<Candidates<'a>>,
    quests: Peekable<std::vec::IntoIter<Quest<'a>>>,
    /// The first Pod that can begin, as things were when it was found.
    ready: Option<Ready<'a>>,
    /// Nodes that go on with their turn, and left their slot to more urgent ones.
    yielding: Vec<&'a Candidate>,
}

/// A Pod that can begin.
struct Ready<'a> {
    place: Place,
    entry: Next<'a>,
    order: PodOrder,
}

type Candidates<'a> = Box<dyn Iterator<Item = &'a Candidate> + 'a>;

/// A pull that is not tied to a node: any suitable node is to try an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Quest<'a> {
    urgency: Urgency,
    /// The oldest last failure among the nodes that lack the image, if several CachedImages want it; `None` if one of
    /// these nodes never failed. The CachedImage with that node goes first.
    oldest_try: Option<Timestamp>,
    image: &'a Name,
    is_probe: bool,
}

impl Quest<'_> {
    fn purpose(&self) -> Purpose {
        if self.is_probe { Purpose::Probe } else { Purpose::Ask }
    }
}

/// The next entry of a line.
enum Next<'a> {
    Node(&'a Candidate),
    Quest(Quest<'a>),
}

/// The place of a start among those of other lines, which only matters where both want the same node; the lesser goes
/// first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// False for a retry or quest that goes before fresh pulls.
    yields: bool,
    urgency: Urgency,
    waiting_since: Timestamp,
    begins_turn: bool,
    /// When its policy last began a turn: of two equals, the policy that waited longest goes first.
    served_at: Option<Timestamp>,
    node: Name,
}

impl<'a> Line<'a> {
    fn new(world: &'a World, policy: &'a Policy, quests: Vec<Quest<'a>>, now: Timestamp) -> Self {
        let queue = world.line(&policy.name);
        let first_late = Candidate {
            begins_turn: true,
            urgency: Urgency::FIRST_LATE,
            waiting_since: Timestamp::MIN,
            image: "".into(),
            node: "".into(),
        };
        let waiting = |range: (Bound<Candidate>, Bound<Candidate>)| {
            let candidates: Candidates<'a> =
                Box::new(queue.into_iter().flat_map(move |queue| queue.range(range.clone())));
            candidates.peekable()
        };
        let mut fresh = waiting((Bound::Unbounded, Bound::Excluded(first_late.clone())));
        let retries = waiting((Bound::Included(first_late), Bound::Unbounded));
        let starts = world.starts(&policy.name);
        let fresh_wait = fresh.peek().is_some();
        let lets_late_first = starts.is_none_or(|starts| starts.lets_retry_first(fresh_wait, policy.backoff.max, now));
        let served_at = starts.and_then(|starts| starts.last()).map(|(_, at)| *at);
        let quests = quests.into_iter().peekable();
        Self { policy, now, lets_late_first, served_at, fresh, retries, quests, ready: None, yielding: Vec::new() }
    }

    /// Goes through the line until a Pod is found that can begin.
    fn find_start(&mut self, world: &World, budget: &Budget<'_>, plan: &mut Plan) {
        // One that was found before may have lost its node, or another one tries its image.
        let mut lost = None;
        match self.ready.take() {
            Some(ready) if budget.allows(&ready.order) => self.ready = Some(ready),
            ready => lost = ready.map(|ready| (ready.place, ready.entry)),
        }
        while self.ready.is_none() {
            let Some((place, entry)) = lost.take().or_else(|| Some((self.first()?, self.next()?))) else { return };
            let result = match &entry {
                Next::Node(candidate) => start_turn(world, self.policy, candidate, Claims::Respected, budget, self.now),
                Next::Quest(quest) => start_quest(world, self.policy, quest, budget, self.now, plan),
            };
            match (result, entry) {
                (Ok(Some(order)), entry) => self.ready = Some(Ready { place, entry, order }),
                (Ok(None), Next::Node(candidate)) if !candidate.begins_turn => self.yielding.push(candidate),
                (Ok(None), _) => {}
                (Err((until, first)), _) => {
                    until.into_iter().for_each(|at| plan.wake(at));
                    plan.first_in_line.entry(self.policy.name.clone()).or_insert(first);
                    self.keep_turns();
                }
            }
        }
    }

    /// The first retry, and the first quest.
    fn late(&mut self) -> (Option<Urgency>, Option<Urgency>) {
        (self.retries.peek().map(|candidate| candidate.urgency), self.quests.peek().map(|quest| quest.urgency))
    }

    /// Whether the first retry or quest goes before the first fresh pull.
    fn is_late_first(&mut self) -> bool {
        let (retry, quest) = self.late();
        let late = retry.into_iter().chain(quest).min();
        match (self.fresh.peek(), late) {
            (Some(_), Some(late)) => self.lets_late_first && late.is_overdue(self.now),
            (None, late) => late.is_some(),
            (Some(_), None) => false,
        }
    }

    fn first(&mut self) -> Option<Place> {
        let served_at = self.served_at;
        if !self.is_late_first() {
            let Candidate { begins_turn, urgency, waiting_since, node, .. } = self.fresh.peek()?;
            let (begins_turn, urgency, waiting_since) = (*begins_turn, *urgency, *waiting_since);
            let urgency = urgency.between_nodes();
            return Some(Place { yields: true, urgency, waiting_since, begins_turn, served_at, node: node.clone() });
        }
        let (retry, quest) = self.late();
        let urgency = retry.into_iter().chain(quest).min()?;
        Some(Place {
            yields: !(self.lets_late_first && urgency.is_overdue(self.now)),
            urgency,
            waiting_since: Timestamp::MIN,
            begins_turn: true,
            served_at,
            node: self.policy.name.clone(),
        })
    }

    fn next(&mut self) -> Option<Next<'a>> {
        if !self.is_late_first() {
            return self.fresh.next().map(Next::Node);
        }
        match self.late() {
            (Some(retry), quest) if quest.is_none_or(|quest| retry < quest) => self.retries.next().map(Next::Node),
            _ => self.quests.next().map(Next::Quest),
        }
    }

    /// Keeps only the nodes that go on with their turn.
    fn keep_turns(&mut self) {
        let nobody = || -> Candidates<'a> { Box::new(std::iter::empty()) };
        let fresh = std::mem::replace(&mut self.fresh, nobody().peekable());
        let going_on: Candidates<'a> = Box::new(fresh.take_while(|candidate| !candidate.begins_turn));
        (self.fresh, self.retries) = (going_on.peekable(), nobody().peekable());
        self.quests = Vec::new().into_iter().peekable();
    }
}

fn commit_start(order: PodOrder, budget: &mut Budget<'_>, plan: &mut Plan) {
    budget.take(&order);
    let effect = Effect::CreatePod(Box::new(order));
    plan.keys.insert(effect.key());
    plan.effects.push(effect);
}

/// Returns whether a Pod with `image` may begin on a node: false if only this node cannot start one.
///
/// # Errors
/// The pull, if a limit or delay of the policy holds it and the whole line with it, and the time when that ends by
/// itself.
fn may_begin(
    policy: &Policy,
    budget: &Budget<'_>,
    (image, node, urgency): (&Name, &Name, Urgency),
    begins_turn: bool,
    now: Timestamp,
) -> Result<bool, (Option<Timestamp>, First)> {
    match budget.check(policy, node, begins_turn, now) {
        Ok(()) => Ok(true),
        Err(held) if held.verdict.holds_the_line() => {
            Err((held.until, First { image: image.clone(), node: node.clone(), urgency, begins_turn }))
        }
        Err(_) => Ok(false),
    }
}

/// Returns the Pod that `candidate` may start now; `None` if only this node cannot start one.
///
/// # Errors
/// As [`may_begin`].
fn start_turn(
    world: &World,
    policy: &Policy,
    candidate: &Candidate,
    claims: Claims,
    budget: &Budget<'_>,
    now: Timestamp,
) -> Result<Option<PodOrder>, (Option<Timestamp>, First)> {
    let Candidate { image, node, begins_turn, urgency, .. } = candidate;
    let may_begin = may_begin(policy, budget, (image, node, *urgency), *begins_turn, now)?;
    let Some(node) = world.node(&candidate.node).filter(|_| may_begin) else { return Ok(None) };
    let here = world.on_node(node);
    let batch = batch(&here, policy, candidate, claims, budget, now);
    Ok(order(&here, policy, &batch, candidate.begins_turn, candidate.urgency.is_late()))
}

/// Returns the images for the next Pod on a node: the most urgent image whose registry has a free slot, and others of
/// the same set.
fn batch<'a>(
    here: &OnNode<'a>,
    policy: &'a Policy,
    candidate: &Candidate,
    claims: Claims,
    budget: &Budget<'_>,
    now: Timestamp,
) -> Vec<&'a Image> {
    let world = here.world;
    let wanted = world.images_on(here.entry, Standing::wants_pull);
    let wanted = wanted.filter(|(image, _)| image.image.policy == policy.name);
    let wanted = wanted.filter(|(image, _)| budget.check_host(policy, image.image.reference.host()).is_ok());
    let pairs = wanted.map(|(image, standing)| Pair { here, image, policy, standing, now });
    let startable = pairs.filter(|pair| pair.check_alone(Purpose::Pull, budget.tried()).is_ok());
    // The node has other places for its other images: for going on, for beginning a turn, or for retries.
    let is_elsewhere = |pair: &Pair<'_, '_>, is_late: bool| {
        is_late != candidate.urgency.is_late() || candidate.begins_turn != pair.begins_turn(is_late)
    };
    let urgent = startable.map(|pair| (pair.urgency(), pair));
    let mut images: Vec<(bool, Urgency, &ImageEntry)> =
        urgent.map(|(urgency, pair)| (is_elsewhere(&pair, urgency.is_late()), urgency, pair.image)).collect();
    images.sort_by(|(elsewhere, a, one), (other_elsewhere, b, other)| {
        elsewhere.cmp(other_elsewhere).then_with(|| a.compare(&one.image.name, b, &other.image.name))
    });
    if !candidate.begins_turn && claims == Claims::Respected {
        // The most urgent image of each registry decides for all images of that registry.
        let is_left =
            |host: &str, urgency| slot_is_claimed(world, policy, host, (urgency, candidate.waiting_since), budget, now);
        let mut left: BTreeMap<&str, bool> = BTreeMap::new();
        images.retain(|(_, urgency, image)| {
            let host = image.image.reference.host();
            !*left.entry(host).or_insert_with(|| is_left(host, *urgency))
        });
    }
    if images.first().is_some_and(|(is_elsewhere, _, _)| *is_elsewhere) {
        return Vec::new();
    }
    let is_alone = |entry: &ImageEntry| {
        entry.is_doubted
            || entry.refused.is_some()
            || here.record(&entry.image.reference).is_some_and(|record| record.alone)
    };
    let mut batch: Vec<&Image> = Vec::new();
    let mut room = here.room();
    // One image is enough to find out whether a node is still in trouble.
    let is_first_alone = here.trouble_at().is_some() || images.first().is_some_and(|(_, _, first)| is_alone(first));
    for (_, _, entry) in images {
        let image = &entry.image;
        let fits = match batch.first() {
            None => true,
            Some(_) if is_first_alone || is_alone(entry) => false,
            Some(first) => first.set.is_some() && first.set == image.set && first.secrets == image.secrets,
        };
        let is_new = batch.iter().all(|other| other.reference != image.reference);
        let takes = usize::from(here.record(&image.reference).is_none());
        if fits && is_new && takes <= room && batch.len() < policy.images_per_pod {
            room -= takes;
            batch.push(image);
        }
    }
    batch
}

/// Whether nodes that would begin their turn with a registry claim all of its free slots. They claim a slot if they are
/// more urgent than a node that goes on, or have waited longer. Without claims, a registry with few slots would serve
/// no other node until all nodes with a turn are done.
fn slot_is_claimed(
    world: &World,
    policy: &Policy,
    host: &str,
    (urgency, waiting_since): (Urgency, Timestamp),
    budget: &Budget<'_>,
    now: Timestamp,
) -> bool {
    let Some(free) = budget.free_slots(policy, host) else { return false };
    let beginning = world.line(&policy.name).into_iter().flatten().skip_while(|candidate| !candidate.begins_turn);
    let place = (urgency.between_nodes(), waiting_since);
    let before = beginning.take_while(|it| (it.urgency.between_nodes(), it.waiting_since) < place);
    // The first node that has to wait lets no node behind it pass.
    let can_begin = before
        .map_while(|it| Some((may_begin(policy, budget, (&it.image, &it.node, it.urgency), true, now).ok()?, it)));
    let is_of_host = |it: &Candidate| world.image(&it.image).is_some_and(|it| it.image.reference.host() == host);
    can_begin.filter(|(may_begin, it)| *may_begin && is_of_host(it)).take(free).count() == free
}

/// Returns the Pod that pulls `batch` onto a node; `None` if there is nothing to pull.
fn order(here: &OnNode<'_>, policy: &Policy, batch: &[&Image], begins_turn: bool, is_late: bool) -> Option<PodOrder> {
    let first = batch.first()?;
    let (world, node) = (here.world, here.entry);
    let mut identity = node.node.uid.to_string();
    for image in batch {
        let attempts = here.record(&image.reference).map_or(0, |record| record.attempts);
        identity.push_str(&format!(" {}#{attempts}", image.reference));
    }
    let host_network = match policy.host_network {
        HostNetwork::Always => true,
        HostNetwork::Never => false,
        HostNetwork::NotReadyNodes => node.node.readiness != Readiness::Ready,
    };
    let placement = world.image(&first.name).and_then(|entry| entry.placement.as_ref());
    Some(PodOrder {
        name: pod_name(first.set.as_ref().map_or(&first.name, |set| &set.name), &identity),
        node: node.node.name.clone(),
        node_uid: node.node.uid.clone(),
        policy: policy.name.clone(),
        set: first.set.as_ref().map(|set| set.name.clone()),
        pulls: batch
            .iter()
            .map(|image| Pull {
                cached_image: image.name.clone(),
                reference: image.reference.clone(),
                policy: image.pull,
            })
            .collect(),
        secrets: world.secrets_for(node, batch),
        tolerations: placement.map(|placement| placement.tolerations.clone()).unwrap_or_default(),
        host_network,
        goes_on_since: node.turns.get(&policy.name).map(|turn| turn.began_at).filter(|_| !begins_turn),
        is_late,
    })
}

/// Returns a DNS label: `what`, cut to the available length, and a hash of `identity`.
fn pod_name(what: &str, identity: &str) -> Name {
    let prefix: String = what.chars().take(50).map(|c| if c == '.' { '-' } else { c }).collect();
    format!("{}-{}", prefix.trim_end_matches('-'), short_hash(identity.as_bytes())).into()
}

/// Returns the probes and the questions for tags that are due, by policy, the longest overdue first.
fn quests<'a>(world: &'a World, now: Timestamp, plan: &mut Plan) -> BTreeMap<&'a Name, Vec<Quest<'a>>> {
    let mut quests: BTreeMap<&Name, Vec<Quest<'_>>> = BTreeMap::new();
    let nothing = BTreeSet::new();
    let any_asks = world.policies().any(|entry| entry.policy.repull_interval.is_some());
    for entry in world.images().filter(|entry| entry.is_probed || any_asks) {
        let Some(policy) = world.policy_of(&entry.image) else { continue };
        let asks = policy.repull_interval.is_some();
        if !entry.is_probed && !asks {
            continue;
        }
        if let Err(held) = check_image(world, entry, Some(policy), now) {
            held.until.into_iter().for_each(|at| plan.wake(at));
            continue;
        }
        let reference = &entry.image.reference;
        let probe = entry.is_probed && entry.tally.cached < entry.tally.targeted();
        for purpose in [probe.then_some(Purpose::Probe), asks.then_some(Purpose::Ask)].into_iter().flatten() {
            if let Err(held) = check_trouble(world, entry, policy, purpose, &nothing, now) {
                held.until.into_iter().for_each(|at| plan.wake(at));
                continue;
            }
            let due = match purpose {
                Purpose::Ask => world.ask_at(entry, policy),
                _ => world.probe_at(entry, policy).max(world.registry_probe_at(reference, policy)),
            };
            let is_shared = || world.wanted_by(reference).nth(1).is_some();
            let last = match purpose {
                Purpose::Ask if is_shared() => oldest_copy(world, entry),
                _ => world.last_try(entry),
            };
            // The nodes decide between CachedImages of one reference, not the places in their sets.
            let rank = if is_shared() { 0 } else { entry.rank };
            let urgency = Urgency::Late {
                overdue_from: after(due.unwrap_or_else(|| entry.wanted_since()), policy.backoff.max),
                tried_at: last,
                rank: Reverse(rank),
            };
            let is_probe = purpose == Purpose::Probe;
            let oldest_try = if is_probe && is_shared() { world.oldest_try(entry) } else { None };
            let quest = Quest { urgency, oldest_try, image: &entry.image.name, is_probe };
            quests.entry(&policy.name).or_default().push(quest);
        }
    }
    quests.values_mut().for_each(|quests| quests.sort());
    quests
}

/// Returns since when the node with the oldest copy of an image has had it. If several CachedImages want the same image
/// on different nodes, the one with the oldest copy asks for the tag. Otherwise the first one would ask each time, and
/// if its nodes have another runtime than the others, its answers would tell those nothing.
fn oldest_copy(world: &World, image: &ImageEntry) -> Option<Timestamp> {
    let nodes = world.nodes().filter(|node| node.standings.get(&image.image.name).is_some_and(|it| it.is_there()));
    let records = nodes.filter_map(|node| world.on_node(node).record(&image.image.reference));
    records.filter_map(Record::present_since).min()
}

/// Returns the Pod by which some node tries an image; `None` if no node can now.
///
/// # Errors
/// As [`may_begin`].
fn start_quest(
    world: &World,
    policy: &Policy,
    quest: &Quest<'_>,
    budget: &Budget<'_>,
    now: Timestamp,
    plan: &mut Plan,
) -> Result<Option<PodOrder>, (Option<Timestamp>, First)> {
    let Some(image) = world.image(quest.image) else { return Ok(None) };
    let (name, reference) = (quest.image, &image.image.reference);
    let purpose = quest.purpose();
    if check_trouble(world, image, policy, purpose, budget.tried(), now).is_err() {
        // Another start of this plan tries the image or its registry.
        return Ok(None);
    }
    let mut best: Option<(_, OnNode<'_>, bool)> = None;
    for node in world.nodes() {
        let Some(standing) = node.standings.get(name).copied() else { continue };
        let is_meant = match purpose {
            Purpose::Ask => standing.is_there(),
            _ => standing.wants_pull(),
        };
        if !is_meant || budget.check_node(policy, &node.node.name).is_err() {
            continue;
        }
        let here = world.on_node(node);
        let pair = Pair { here: &here, image, policy, standing, now };
        if let Err(held) = pair.check_here(purpose) {
            held.until.into_iter().for_each(|at| plan.wake(at));
            continue;
        }
        let record = here.record(reference);
        let tried_at = record.and_then(|record| record.failure.as_ref()).map(|failure| failure.at);
        let place = match purpose {
            // The node that has not asked for longest. One that is in trouble has its turn, too: otherwise it may
            // never hear of a move.
            Purpose::Ask => (record.and_then(|record| record.present_since()).max(tried_at), false),
            // The node that has not tried for longest, and of these one that has pulled from this registry: if it fails
            // too, the fault is not the node's. Trouble of a node counts as a try, because only a Pod shows that it is
            // over.
            _ => (tried_at.max(here.trouble_at()), !here.has_pulled_from(reference.host())),
        };
        let place = (place, &node.node.name);
        if best.as_ref().is_none_or(|(kept, _, _)| place < *kept) {
            let begins_turn = pair.begins_turn(false);
            best = Some((place, here, begins_turn));
        }
    }
    let Some((_, here, begins_turn)) = best else { return Ok(None) };
    let may_begin = may_begin(policy, budget, (name, &here.entry.node.name, quest.urgency), begins_turn, now)?;
    if !may_begin || budget.check_host(policy, reference.host()).is_err() {
        return Ok(None);
    }
    Ok(order(&here, policy, &[&image.image], begins_turn, true))
}

impl World {
    /// Returns the secrets of every CachedImage that wants one of these images on the node. If two CachedImages name
    /// different secrets, the kubelet tries all of them.
    fn secrets_for(&self, node: &NodeEntry, batch: &[&Image]) -> Vec<Name> {
        let wanted_by = batch.iter().flat_map(|image| self.wanted_by(&image.reference));
        Self::secrets_of(wanted_by.filter(|entry| node.standings.contains_key(&entry.image.name)))
    }
}
