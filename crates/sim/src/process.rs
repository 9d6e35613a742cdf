//! The operator's processes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use drop_core::clock::Clock;
use drop_core::effect::EffectKey;
use drop_core::event::Kind;
use drop_core::explain::{Which, explain};
use drop_core::{Effect, Event, Name, World, audit::audit, plan, step};
use jiff::{SignedDuration, Timestamp};

use crate::agenda::{Item, TIME_LIMIT};
use crate::api::{image_event, policy_event, secret_event, set_event};
use crate::lab::EPOCH;
use crate::{Fate, Lab, schema, secs};

/// A process of the operator.
pub(crate) struct Process {
    pub(crate) id: u64,
    pub(crate) world: World,
    /// The time at which its last plan asked for the next one.
    pub(crate) wake_at: Option<Timestamp>,
    /// By how much the clock of its machine is ahead.
    clock_ahead: SignedDuration,
    /// The clock of its decisions.
    clock: Clock,
    /// The time at which each of its watches showed, or will show, its last event.
    pub(crate) shown: BTreeMap<Kind, Timestamp>,
    /// By how much its watches lag beyond the usual.
    pub(crate) lags: BTreeMap<Kind, SignedDuration>,
    /// The time in which it may write.
    pub(crate) leads: Range<Timestamp>,
}

impl Process {
    /// Returns the time of this process, when it is `now` for all others.
    pub(crate) fn time(&mut self, now: Timestamp) -> Timestamp {
        self.clock.now(now + self.clock_ahead, now.duration_since(EPOCH))
    }

    /// Passes an event to it.
    pub(crate) fn hear(&mut self, event: Event, now: Timestamp) {
        let time = self.time(now);
        self.world.apply(event, time);
    }
}

impl Lab {
    /// Sets the clocks of the machines on which operators run forward, or back, while they run.
    pub fn set_clocks(&mut self, by: SignedDuration) {
        self.note(|| format!("the operator's clock is set by {by:#}"));
        self.record.clocks_were_set = true;
        self.processes.iter_mut().for_each(|process| process.clock_ahead += by);
    }

    /// Ends every operator. Requests that are under way arrive, or are lost.
    pub fn stop(&mut self, requests_arrive: bool) {
        self.note(|| "the operator ends".to_owned());
        self.processes.clear();
        for item in self.agenda.take(Item::is_operators) {
            if let Item::Request(_, sent_at, effect, fate) = item
                && requests_arrive
                && matches!(fate, Fate::Answered | Fate::AnswerLost | Fate::Late(_))
            {
                self.carry_out(&effect, sent_at);
            }
        }
        self.record.restarted(&self.api, self.now);
    }

    /// Starts an operator, which lists all objects.
    pub fn start(&mut self) {
        self.note(|| "an operator starts".to_owned());
        let id = self.begin(self.now..Timestamp::MAX);
        self.plan(id);
    }

    /// Starts another operator as a standby that follows the watches, while the leader fails to renew its Lease. The
    /// leader goes on for `rest`, and the standby begins once no request of the leader can arrive any more.
    pub fn hand_over(&mut self, rest: SignedDuration) {
        // A standby that never led ends.
        let now = self.now;
        let (leaders, standbys): (Vec<_>, Vec<_>) = self.processes.drain(..).partition(|it| it.leads.start <= now);
        self.processes = leaders;
        let mut leads_from = now;
        for standby in standbys {
            leads_from = leads_from.max(standby.leads.start);
            let is_its = |item: &Item| item.is_heard_by(Some(standby.id)) || matches!(item, Item::Lead(_));
            self.agenda.take(is_its);
        }
        for leader in &mut self.processes {
            leader.leads.end = leader.leads.end.min(now + rest);
            leads_from = leads_from.max(leader.leads.end + TIME_LIMIT);
            self.agenda.add(leader.leads.end, Item::Retire(leader.id));
        }
        self.note(|| "another operator starts as a standby".to_owned());
        let id = self.begin(leads_from..Timestamp::MAX);
        self.agenda.add(leads_from, Item::Lead(id));
    }

    /// Starts an operator that may write within this time.
    fn begin(&mut self, leads: Range<Timestamp>) -> u64 {
        let id = self.agenda.number();
        let mut world = World::new(self.settings.clone());
        for mut event in self.list() {
            (self.knobs.mishear)(&mut event);
            world.apply(event, self.now);
        }
        let (shown, lags) = (BTreeMap::new(), BTreeMap::new());
        let clock_ahead = SignedDuration::ZERO;
        let clock = Clock::new(self.now, self.now.duration_since(EPOCH));
        self.processes.push(Process { id, world, wake_at: None, clock_ahead, clock, shown, lags, leads });
        id
    }

    /// Lets a standby begin to lead. It first lists the kinds that leaders write, because it may not have seen the
    /// latest writes.
    pub(crate) fn lead(&mut self, id: u64) -> Option<u64> {
        self.note(|| "the standby leads".to_owned());
        self.record.restarted(&self.api, self.now);
        let recently = self.now - self.hearsay();
        let last_write = |statuses: &[(Timestamp, _)]| statuses.last().map(|(at, _)| *at);
        let unseen = self.record.statuses.iter().filter(|(_, statuses)| last_write(statuses) >= Some(recently));
        let unseen: Vec<String> = unseen.map(|(image, _)| image.clone()).collect();
        self.record.unwritten.extend(unseen);
        self.process(id)?.world.expect_lists(&[Kind::Pod, Kind::Cache]);
        self.list_anew(id, Kind::Pod);
        self.list_anew(id, Kind::Cache);
        Some(id)
    }

    /// Ends a process whose time to lead is over. Its requests are still under way.
    pub(crate) fn retire(&mut self, id: u64) {
        let now = self.now;
        self.processes.retain(|process| process.id != id || process.leads.contains(&now));
        if self.process(id).is_none() {
            self.note(|| "the operator that led ends".to_owned());
            self.agenda.take(|item| item.is_heard_by(Some(id)));
        }
    }

    /// Ends the operator and starts another.
    pub fn restart(&mut self, requests_arrive: bool) {
        self.stop(requests_arrive);
        self.start();
    }

    /// Breaks the watches off; every kind is listed anew.
    pub fn relist(&mut self) {
        for id in self.ids() {
            Kind::ALL.into_iter().for_each(|kind| self.list_anew(id, kind));
        }
    }

    /// Breaks the watches of one kind off; the kind is listed anew.
    pub fn relist_kind(&mut self, kind: Kind) {
        self.ids().into_iter().for_each(|id| self.list_anew(id, kind));
    }

    fn list_anew(&mut self, id: u64, kind: Kind) {
        self.agenda.take(|item| matches!(item, Item::Watch(to, of, _) if (*to, *of) == (id, kind)));
        self.process(id).and_then(|process| process.shown.remove(&kind));
        self.show_to(id, kind, self.list_of(kind));
    }

    /// Lets the watch of a kind lag by this time beyond the usual, for the operator that was started last, or for the
    /// one before it.
    pub fn lag(&mut self, kind: Kind, by: SignedDuration, of_newest: bool) {
        self.longest_lag = self.longest_lag.max(by);
        let mut processes = self.processes.iter_mut().rev();
        if let Some(process) = if of_newest { processes.next() } else { processes.nth(1) } {
            process.lags.insert(kind, by);
        }
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.processes.iter().map(|process| process.id).collect()
    }

    pub(crate) fn process(&mut self, id: u64) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.id == id)
    }

    /// Returns all objects as a new process lists them.
    #[must_use]
    pub fn list(&self) -> Vec<Event> {
        Kind::ALL.into_iter().flat_map(|kind| self.list_of(kind)).collect()
    }

    /// Returns all objects of one kind.
    fn list_of(&self, kind: Kind) -> Vec<Event> {
        fn names<'a>(names: impl Iterator<Item = &'a String>) -> BTreeSet<Name> {
            names.map(|name| name.as_str().into()).collect()
        }
        let api = &self.api;
        let (mut events, names): (Vec<Event>, _) = match kind {
            Kind::Image => (api.images.values().filter_map(image_event).collect(), names(api.images.keys())),
            Kind::Set => (api.sets.values().filter_map(set_event).collect(), names(api.sets.keys())),
            Kind::Discovery => {
                let policies = api.discoveries.values().cloned();
                (policies.map(|policy| Event::Discovery(Box::new(policy))).collect(), names(api.discoveries.keys()))
            }
            Kind::Secret => (api.secrets.iter().map(secret_event).collect(), names(api.secrets.keys())),
            Kind::Policy => (api.policies.values().filter_map(policy_event).collect(), names(api.policies.keys())),
            Kind::Node => {
                let nodes = api.nodes.values().cloned();
                (nodes.map(|node| Event::Node(Box::new(node))).collect(), names(api.nodes.keys()))
            }
            Kind::Pod => {
                let pods = api.pods.values().map(|live| Event::Pod(Box::new(live.pod.clone())));
                (pods.collect(), api.pods.keys().cloned().collect())
            }
            Kind::Cache => {
                let caches = api.caches.values().cloned();
                (caches.map(|cache| Event::Cache(Box::new(cache))).collect(), names(api.caches.keys()))
            }
        };
        events.push(Event::Listed(kind, names));
        events
    }

    /// Lets a process plan, checks the plan, and sends its requests.
    pub(crate) fn plan(&mut self, id: u64) {
        let now = self.now;
        let Some(process) = self.processes.iter_mut().find(|process| process.id == id) else { return };
        let time = process.time(now);
        let (world, leads) = (&mut process.world, process.leads.contains(&now));
        let tamper = &mut self.knobs.tamper;
        let planned = step(world, time, leads, |world, first| {
            tamper(first);
            let mut second = plan(world, time);
            tamper(&mut second);
            let is_same = (&first.effects, first.wake_at) == (&second.effects, second.wake_at);
            let twice = (!is_same).then(|| "planning twice makes two plans".to_owned());
            twice.into_iter().chain(audit(world, first, time)).collect::<Vec<_>>()
        });
        let Some((first, mut violations)) = planned else { return };
        let mut planned = |world: &World| {
            let mut plan = plan(world, time);
            tamper(&mut plan);
            plan
        };
        if !first.effects.is_empty() {
            // The requested effects count as done.
            world.settle(time);
            let asked: BTreeSet<EffectKey> = first.effects.iter().map(Effect::key).collect();
            let again = planned(world).effects;
            let twice = again.iter().map(Effect::key).filter(|key| asked.contains(key));
            violations.extend(twice.map(|key| format!("{key:?} is asked for again at once")));
        }
        // It sleeps for this long, whatever its clock shows meanwhile.
        let longer = if process.clock_ahead.is_zero() { SignedDuration::ZERO } else { secs(0.001) };
        let wake_at = first.wake_at.map(|at| now.checked_add(at.duration_since(time) + longer));
        process.wake_at = wake_at.map(|at| at.unwrap_or(Timestamp::MAX));
        if let Some(at) = first.wake_at.filter(|at| *at <= time) {
            violations.push(format!("the plan wakes at {at}, which is over"));
        }
        self.violate_all(violations);
        for effect in first.effects {
            self.violate_all(self.faults_of_pace(&effect));
            let refused = if self.knobs.json { schema::violations_of(&effect) } else { Vec::new() };
            if !refused.is_empty() {
                self.violate(format!("the API server refuses {:?}: {refused:#?}", effect.key()));
            }
            self.record.requests.push((now, effect.key()));
            self.note_list(&effect);
            let fate = (self.knobs.fate)(&effect);
            if let (Effect::PatchImage { image, .. }, Fate::Refused(_) | Fate::RefusedAnyway(_) | Fate::RequestLost) =
                (&effect, &fate)
            {
                self.record.unwritten.insert(image.to_string());
            }
            if matches!((&effect, &fate), (Effect::CreatePod(_), Fate::Refused(_) | Fate::RefusedAnyway(_))) {
                self.record.refused_at = Some(now);
            }
            let way = if let Fate::Late(way) = fate { way.min(TIME_LIMIT) } else { self.jittered(self.knobs.request) };
            self.agenda.add(now + way, Item::Request(id, now, Box::new(effect), fate));
        }
    }

    /// Returns why each missing image is missing, as `/debug/plan` shows it: CachedImage, node and sentence.
    pub fn explained(&mut self) -> Vec<String> {
        let now = self.now;
        let Some(process) = self.processes.last_mut() else { return Vec::new() };
        let time = process.time(now);
        process.world.settle(time);
        let explanations = explain(&process.world, time, &Which::default(), usize::MAX).unwrap_or_default();
        let lines = explanations.iter().flat_map(|image| {
            image.nodes.iter().map(|node| format!("{} on {}: {}", image.cached_image, node.node, node.message))
        });
        lines.collect()
    }
}
