//! The operator's processes.

use std::collections::{BTreeMap, BTreeSet};

use drop_core::event::Kind;
use drop_core::explain::explain;
use drop_core::{Effect, Event, Name, World, audit::audit, plan};
use jiff::Timestamp;

use crate::agenda::Item;
use crate::api::{image_event, policy_event, secret_event, set_event};
use crate::{Fate, Lab, schema};

/// One operator.
pub(crate) struct Process {
    pub(crate) id: u64,
    pub(crate) world: World,
    /// When its last plan wanted to be made anew.
    pub(crate) wake_at: Option<Timestamp>,
    /// When its watches showed what they showed last.
    pub(crate) shown: BTreeMap<Kind, Timestamp>,
    /// From when until when it may write.
    pub(crate) leads: std::ops::Range<Timestamp>,
}

impl Lab {
    /// Ends every operator. Requests that are under way arrive, or never do.
    pub fn stop(&mut self, requests_arrive: bool) {
        self.processes.clear();
        for item in self.agenda.take(Item::is_operators) {
            if let Item::Request(_, effect, fate) = item
                && requests_arrive
                && matches!(fate, Fate::Answered | Fate::AnswerLost)
            {
                self.carry_out(&effect);
            }
        }
        self.record.restarted(&self.api, self.now);
    }

    /// Starts an operator, which lists everything.
    pub fn start(&mut self) {
        self.begin(self.now..Timestamp::MAX);
    }

    /// Starts an operator that may write in this time.
    pub(crate) fn begin(&mut self, leads: std::ops::Range<Timestamp>) -> u64 {
        let id = self.agenda.number();
        let mut world = World::new(self.settings.clone());
        for event in self.list() {
            world.apply(event, self.now);
        }
        self.processes.push(Process { id, world, wake_at: None, shown: BTreeMap::new(), leads });
        self.plan(id);
        id
    }

    /// Ends the operator and starts another.
    pub fn restart(&mut self, requests_arrive: bool) {
        self.stop(requests_arrive);
        self.start();
    }

    /// Breaks the watches off; everything is listed anew.
    pub fn relist(&mut self) {
        self.agenda.take(|item| matches!(item, Item::Watch(..)));
        let (list, now) = (self.list(), self.now);
        for process in &mut self.processes {
            list.iter().for_each(|event| process.world.apply(event.clone(), now));
            process.shown.clear();
        }
        for id in self.ids() {
            self.plan(id);
        }
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.processes.iter().map(|process| process.id).collect()
    }

    pub(crate) fn process(&mut self, id: u64) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.id == id)
    }

    /// Everything that there is, as a new process hears of it.
    #[must_use]
    pub fn list(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let names = |names: &mut dyn Iterator<Item = &str>| names.map(Name::from).collect::<BTreeSet<_>>();
        events.extend(self.api.images.values().filter_map(image_event));
        events.push(Event::Listed(Kind::Image, names(&mut self.api.images.keys().map(String::as_str))));
        events.extend(self.api.sets.values().filter_map(set_event));
        events.push(Event::Listed(Kind::Set, names(&mut self.api.sets.keys().map(String::as_str))));
        events.extend(self.api.discoveries.values().map(|policy| Event::Discovery(Box::new(policy.clone()))));
        events.push(Event::Listed(Kind::Discovery, names(&mut self.api.discoveries.keys().map(String::as_str))));
        events.extend(self.api.secrets.iter().map(secret_event));
        events.push(Event::Listed(Kind::Secret, names(&mut self.api.secrets.keys().map(String::as_str))));
        events.extend(self.api.policies.values().filter_map(policy_event));
        events.push(Event::Listed(Kind::Policy, names(&mut self.api.policies.keys().map(String::as_str))));
        events.extend(self.api.nodes.values().map(|node| Event::Node(Box::new(node.clone()))));
        events.push(Event::Listed(Kind::Node, names(&mut self.api.nodes.keys().map(String::as_str))));
        events.extend(self.api.pods.values().map(|live| Event::Pod(Box::new(live.pod.clone()))));
        events.push(Event::Listed(Kind::Pod, names(&mut self.api.pods.keys().map(|name| &**name))));
        events.extend(self.api.caches.values().map(|cache| Event::Cache(Box::new(cache.clone()))));
        events.push(Event::Listed(Kind::Cache, names(&mut self.api.caches.keys().map(String::as_str))));
        events
    }

    /// Lets a process plan, checks the plan, and sends its requests.
    pub(crate) fn plan(&mut self, id: u64) {
        let now = self.now;
        let is_meant = |process: &&mut Process| process.id == id && process.leads.contains(&now);
        let Some(process) = self.processes.iter_mut().find(is_meant) else { return };
        let world = &mut process.world;
        world.settle(now);
        let mut first = plan(world, now);
        let second = plan(world, now);
        let mut violations = Vec::new();
        if (&first.effects, first.wake_at) != (&second.effects, second.wake_at) {
            violations.push("planning twice makes two plans".to_owned());
        }
        (self.knobs.tamper)(&mut first);
        violations.extend(audit(world, &first, now));
        world.commit(&first, now);
        process.wake_at = first.wake_at;
        if let Some(at) = first.wake_at.filter(|at| *at <= now) {
            violations.push(format!("the plan wakes at {at}, which is over"));
        }
        self.violate_all(violations);
        for effect in first.effects {
            self.violate_all(self.faults_of_pace(&effect));
            let refused = schema::violations_of(&effect);
            if !refused.is_empty() {
                self.violate(format!("the API server refuses {:?}: {refused:#?}", effect.key()));
            }
            self.record.requests.push((now, effect.key()));
            let fate = (self.knobs.fate)(&effect);
            if let (Effect::PatchImage { image, .. }, Fate::Refused(_) | Fate::RefusedAnyway(_) | Fate::RequestLost) =
                (&effect, &fate)
            {
                self.record.unwritten.insert(image.to_string());
            }
            let at = now + self.jittered(self.knobs.request);
            self.agenda.add(at, Item::Request(id, Box::new(effect), fate));
        }
    }

    /// Why every missing image is missing, as `/debug/plan` shows it: CachedImage,
    /// node and sentence.
    pub fn explained(&mut self) -> Vec<String> {
        let now = self.now;
        let Some(process) = self.processes.last_mut() else { return Vec::new() };
        process.world.settle(now);
        let explanations = explain(&process.world, now);
        let lines = explanations.iter().flat_map(|image| {
            image.nodes.iter().map(|node| format!("{} on {}: {}", image.cached_image, node.node, node.message))
        });
        lines.collect()
    }
}
