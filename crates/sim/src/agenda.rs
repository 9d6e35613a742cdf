//! Virtual time: the future events, and the steps that let them happen.

use std::collections::{BTreeMap, BTreeSet};

use drop_core::effect::EffectKey;
use drop_core::event::{Kind, Report};
use drop_core::{Effect, Event, Name};
use jiff::{SignedDuration, Timestamp};

use crate::kubelet::Step;
use crate::lab::KEPT;
use crate::{Fate, Lab, secs};

/// How long the executor waits for an answer. No request arrives later, so the next leader waits this long after the
/// last moment at which the previous one may write.
pub(crate) const TIME_LIMIT: SignedDuration = SignedDuration::from_secs(10);
/// The longest time for which events may go on happening.
const LONGEST: SignedDuration = SignedDuration::from_hours(24);
/// An operator that does nothing for this long is at rest: no repair waits longer.
const QUIET: SignedDuration = SignedDuration::from_hours(12);

/// A future event. The numbers are those of the operator's processes.
pub(crate) enum Item {
    /// A request, sent at this time, reaches the API server.
    Request(u64, Timestamp, Box<Effect>, Fate),
    /// The operator gets an answer.
    Answer(u64, EffectKey, Report),
    /// The watch of a kind shows an event.
    Watch(u64, Kind, Event),
    /// A process that was a standby may write.
    Lead(u64),
    /// A process may write no more, and ends.
    Retire(u64),
    /// The kubelet takes its next step with the Pod of this UID.
    Kubelet(Name, Step),
    /// The node of this UID lists its images.
    List(Name),
    /// The kubelet of the node of this UID looks after its disk.
    CleanDisk(Name),
    /// Kubernetes collects the dependents of the node or set of this UID.
    Collect(Name),
}

impl Item {
    /// Whether the item ends with the operator's process.
    pub(crate) fn is_operators(&self) -> bool {
        matches!(self, Self::Request(..) | Self::Lead(_) | Self::Retire(_)) || self.is_heard_by(None)
    }

    /// Whether the item informs this process, or any process if none is given.
    pub(crate) fn is_heard_by(&self, process: Option<u64>) -> bool {
        match self {
            Self::Answer(id, ..) | Self::Watch(id, ..) => process.is_none_or(|process| process == *id),
            _ => false,
        }
    }
}

/// Future events and their times. Of events at the same time, the one that was added first comes first.
#[derive(Default)]
pub(crate) struct Agenda {
    items: BTreeMap<(Timestamp, u64), Item>,
    last: u64,
}

impl Agenda {
    /// Returns a number that no other item has.
    pub(crate) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(crate) fn add(&mut self, at: Timestamp, item: Item) {
        let number = self.number();
        self.items.insert((at, number), item);
    }

    /// Removes and returns the items for which `is_meant` holds.
    pub(crate) fn take(&mut self, is_meant: impl Fn(&Item) -> bool) -> Vec<Item> {
        let (taken, rest) = std::mem::take(&mut self.items).into_iter().partition(|(_, item)| is_meant(item));
        self.items = rest;
        BTreeMap::into_values(taken).collect()
    }

    fn next_at(&self) -> Option<Timestamp> {
        self.items.first_key_value().map(|((at, _), _)| *at)
    }

    /// Returns the next item that is due.
    fn due(&mut self, now: Timestamp) -> Option<Item> {
        let entry = self.items.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }
}

impl Lab {
    /// Returns `usual`, or a random time around it.
    pub(crate) fn jittered(&mut self, usual: SignedDuration) -> SignedDuration {
        match &mut self.knobs.jitter {
            Some(rng) => secs(usual.as_secs_f64() * rng.below(40) as f64 / 10.0),
            None => usual,
        }
    }

    /// Returns the time of the next event; `None` if there is none.
    #[must_use]
    pub fn next_at(&self) -> Option<Timestamp> {
        let wakes = self.processes.iter().filter_map(|process| process.wake_at);
        self.agenda.next_at().into_iter().chain(wakes).min()
    }

    /// Lets the next event happen; `false` if there is none.
    pub fn step(&mut self) -> bool {
        let Some(at) = self.next_at() else { return false };
        self.now = self.now.max(at);
        let now = self.now;
        let awake = self.processes.iter().filter(|process| process.wake_at.is_some_and(|wake_at| wake_at <= now));
        let mut heard: BTreeSet<u64> = awake.map(|process| process.id).collect();
        while let Some(item) = self.agenda.due(now) {
            heard.extend(self.happen(item));
        }
        for id in heard {
            self.plan(id);
        }
        true
    }

    /// Lets an item happen. Returns the process that it informs, if any.
    fn happen(&mut self, item: Item) -> Option<u64> {
        match item {
            Item::Request(id, sent_at, effect, fate) => {
                let report = match fate {
                    Fate::Answered | Fate::Late(_) => Some(self.carry_out(&effect, sent_at)),
                    Fate::Refused(why) => Some(self.refuse(&effect, sent_at, why)),
                    Fate::RefusedAnyway(why) => Some(Report::Refused(why.to_owned())),
                    Fate::AnswerLost => {
                        self.carry_out(&effect, sent_at);
                        None
                    }
                    Fate::RequestLost => None,
                };
                // Sources may take minutes.
                let (usual, limit) = match &*effect {
                    Effect::Discover(_) | Effect::LookUp(_) => (self.knobs.asking, LONGEST),
                    _ => (self.knobs.reply, TIME_LIMIT),
                };
                let way_back = if let Fate::Late(way) = fate { way } else { self.jittered(usual) };
                let limit = if report.is_some() { limit } else { TIME_LIMIT };
                let (given_up_at, answered_at) = (sent_at + limit, self.now + way_back);
                let (at, report) = match report.filter(|_| answered_at < given_up_at) {
                    Some(report) => (answered_at, report),
                    None => (given_up_at, Report::Unknown("no answer".to_owned())),
                };
                self.agenda.add(at, Item::Answer(id, effect.key(), report));
                return None;
            }
            Item::Answer(id, key, report) => {
                if let (EffectKey::LookUp(image), Report::LookedUp(answer)) = (&key, &report)
                    && self.process(id).is_some()
                {
                    self.record.looked_up(image, answer, self.now);
                }
                return self.tell(id, Event::Report(key, report));
            }
            Item::Watch(id, _, event) => return self.tell(id, event),
            Item::Lead(id) => return self.lead(id),
            Item::Retire(id) => self.retire(id),
            Item::Kubelet(uid, step) => self.kubelet_step(&uid, step),
            Item::List(node_uid) => self.list_images(&node_uid),
            Item::CleanDisk(node_uid) => self.clean_disk(&node_uid),
            Item::Collect(owner_uid) => self.collect(&owner_uid),
        }
        None
    }

    fn tell(&mut self, id: u64, mut event: Event) -> Option<u64> {
        let now = self.now;
        (self.knobs.mishear)(&mut event);
        self.process(id)?.hear(event, now);
        Some(id)
    }

    /// Lets `span` pass.
    pub fn run(&mut self, span: SignedDuration) {
        let until = self.now + span;
        while self.next_at().is_some_and(|at| at <= until) {
            self.step();
        }
        self.now = until;
    }

    /// Runs until no event is left for half a day, and checks that the operator agrees.
    pub fn settle(&mut self) {
        let limit = self.now + LONGEST;
        while self.next_at().is_some_and(|at| at.duration_since(self.now) < QUIET) {
            self.step();
            if self.now > limit || self.violations.len() >= KEPT {
                let explained = self.explained();
                return self.violate(format!("still busy after a day: {explained:#?}"));
            }
        }
        let left: Vec<String> = self.api.pods.keys().map(ToString::to_string).collect();
        if !left.is_empty() {
            self.violate(format!("Pods are left: {left:?}"));
        }
    }

    /// Runs until `done`, for at most an hour.
    pub fn until(&mut self, mut done: impl FnMut(&Self) -> bool) {
        let limit = self.now + SignedDuration::from_hours(1);
        while !done(self) {
            if !self.step() || self.now >= limit {
                return self.violate("it never comes to what was waited for");
            }
        }
    }
}
