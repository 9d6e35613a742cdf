//! A small cluster on virtual time.
//!
//! [`Lab`] drives a [`World`] the way the operator does, against a fake API server
//! and fake kubelets, and keeps its own record of what happened. After every plan
//! it checks the plan (`audit`, the same plan twice, a wake-up in the future), and
//! at every request it checks, from its own record, what the specification
//! promises: caps, delays, nothing pulled twice, statuses that make sense.

mod check;
mod disk;
mod kubelet;
mod record;
pub mod schema;

use std::collections::{BTreeMap, BTreeSet};

use drop_api::cached_image::LocalObjectReference;
use drop_api::condition;
use drop_api::{
    CachedImage, CachedImageSet, CachedImageSetSpec, CachedImageSetStatus, CachedImageSpec, CachedImageStatus,
    DiscoveryPolicy, DiscoveryPolicySpec, DiscoveryPolicyStatus, GoDuration, NodeCache, PullPolicy, PullPolicySpec,
    PullPolicyStatus,
};
use drop_core::discovery::{Answer, Backend, Discovered, Order, SourceFailure, SourceOutcome};
use drop_core::effect::EffectKey;
use drop_core::event::{Kind, Report};
use drop_core::explain::explain;
use drop_core::image::Image;
use drop_core::image_set::ImageSet;
use drop_core::node::Node;
use drop_core::policy::Policy;
use drop_core::pull_pod::{Container, ContainerState, PullPod};
use drop_core::reference::Reference;
use drop_core::{Effect, Event, Name, Settings, World, audit::audit, plan};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

pub use kubelet::{Kubelet, Pass};
pub use record::{Created, Record};

/// When every lab begins. The fraction shows where whole seconds are rounded.
const EPOCH_MILLIS: i64 = 1_767_225_600_300;

/// How long the executor waits for an answer.
const TIME_LIMIT: SignedDuration = SignedDuration::from_secs(10);

/// How long Kubernetes takes to collect what a deleted node owned.
const COLLECTION: SignedDuration = SignedDuration::from_secs(4);

pub fn secs(secs: f64) -> SignedDuration {
    SignedDuration::from_secs_f64(secs)
}

pub fn duration(text: &str) -> GoDuration {
    text.parse().unwrap()
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// It is carried out, and answered.
    Answered,
    /// The API server refuses it.
    Refused(&'static str),
    /// The API server refuses it, even where an earlier one like it was carried out:
    /// admission comes before the look whether the object exists.
    RefusedAnyway(&'static str),
    /// It is carried out, but the answer is lost.
    AnswerLost,
    /// It never arrives.
    RequestLost,
}

/// How long things take, and what goes wrong.
pub struct Knobs {
    /// From the plan until a request takes effect.
    pub request: SignedDuration,
    /// From there until its answer arrives.
    pub reply: SignedDuration,
    /// From a change until a watch shows it.
    pub watch: SignedDuration,
    /// How long a pull takes.
    pub pull: SignedDuration,
    /// How long a pull takes of these references.
    pub pulls: BTreeMap<String, SignedDuration>,
    /// References that cannot be pulled, with the kubelet's reason and message.
    pub broken_images: BTreeMap<String, (&'static str, &'static str)>,
    /// What runtimes tell of references, if it is not a sha256 digest.
    pub digests: BTreeMap<String, &'static str>,
    /// What sources answer, by their addresses.
    pub sources: BTreeMap<String, Result<Answer, SourceFailure>>,
    /// By how much the kubelets' clocks are ahead.
    pub kubelet_clock: SignedDuration,
    /// Nodes whose kubelets do not work as they should.
    pub kubelets: BTreeMap<String, Kubelet>,
    /// Whether nodes list their images.
    pub lists: bool,
    /// What becomes of each request.
    pub fate: Box<dyn FnMut(&Effect) -> Fate>,
    /// Delays and fates of requests are drawn from this, if set.
    pub jitter: Option<Rng>,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            request: secs(0.01),
            reply: secs(0.01),
            watch: secs(0.05),
            pull: secs(5.0),
            pulls: BTreeMap::new(),
            broken_images: BTreeMap::new(),
            digests: BTreeMap::new(),
            sources: BTreeMap::new(),
            kubelet_clock: SignedDuration::ZERO,
            kubelets: BTreeMap::new(),
            lists: false,
            fate: Box::new(|_| Fate::Answered),
            jitter: None,
        }
    }
}

/// The fake API server's objects.
#[derive(Default)]
pub struct Api {
    pub images: BTreeMap<String, CachedImage>,
    pub sets: BTreeMap<String, CachedImageSet>,
    pub discoveries: BTreeMap<String, DiscoveryPolicy>,
    pub secrets: BTreeMap<String, u64>,
    pub policies: BTreeMap<String, PullPolicy>,
    pub nodes: BTreeMap<String, Node>,
    pub pods: BTreeMap<Name, LivePod>,
    pub caches: BTreeMap<String, NodeCache>,
    /// The last resource version; UIDs are made from it too.
    version: u64,
}

/// A Pod and what its kubelet is doing with it.
#[derive(Clone, Debug)]
pub struct LivePod {
    pub pod: PullPod,
    pub node_uid: Name,
    pub pass: Option<Pass>,
}

/// Something that is going to happen.
enum Item {
    /// A request reaches the API server.
    Request(Effect, Fate),
    /// The operator gets an answer.
    Answer(EffectKey, Report),
    /// A watch shows something.
    Watch(Event),
    /// The kubelet takes its next step with the Pod of this UID.
    Kubelet(Name, kubelet::Step),
    /// The node of this UID lists its images.
    List(Name),
    /// Kubernetes collects what the node or set of this UID owned.
    Collect(Name),
}

impl Item {
    /// Whether it ends with the operator's process.
    fn is_operators(&self) -> bool {
        matches!(self, Self::Request(..) | Self::Answer(..) | Self::Watch(..))
    }
}

pub struct Lab {
    pub now: Timestamp,
    pub knobs: Knobs,
    pub api: Api,
    pub record: Record,
    /// What to call this lab where a check fails.
    pub title: String,
    settings: Settings,
    world: Option<World>,
    wake_at: Option<Timestamp>,
    agenda: BTreeMap<(Timestamp, u64), Item>,
    sequence: u64,
    shown: BTreeMap<Kind, Timestamp>,
    /// By the node's UID the images that are there, and the digest of each.
    disks: BTreeMap<Name, BTreeMap<Reference, Reference>>,
}

impl Lab {
    /// An empty cluster with a running operator.
    pub fn new() -> Self {
        Self::with(Settings::default())
    }

    pub fn with(settings: Settings) -> Self {
        let mut lab = Self {
            now: Timestamp::from_millisecond(EPOCH_MILLIS).unwrap(),
            knobs: Knobs::default(),
            api: Api::default(),
            record: Record::default(),
            title: String::new(),
            settings,
            world: None,
            wake_at: None,
            agenda: BTreeMap::new(),
            sequence: 0,
            shown: BTreeMap::new(),
            disks: BTreeMap::new(),
        };
        lab.start();
        lab
    }

    /// A cluster with these nodes.
    pub fn with_nodes(nodes: &[&str]) -> Self {
        let mut lab = Self::new();
        nodes.iter().for_each(|node| lab.node(node));
        lab
    }

    // ---- The operator's process --------------------------------------------

    /// Ends the operator. Requests that are under way arrive, or never do.
    pub fn stop(&mut self, requests_arrive: bool) {
        self.world = None;
        self.wake_at = None;
        let agenda = std::mem::take(&mut self.agenda);
        let (ended, rest) = agenda.into_iter().partition(|(_, item)| item.is_operators());
        self.agenda = rest;
        for (_, item) in ended {
            if let Item::Request(effect, fate) = item
                && requests_arrive
                && matches!(fate, Fate::Answered | Fate::AnswerLost)
            {
                self.carry_out(&effect);
            }
        }
        // Of what these requests changed the next process hears in its lists.
        self.agenda.retain(|_, item| !item.is_operators());
        self.record.restarted(&self.api, self.now);
    }

    /// Starts the operator, which lists everything.
    pub fn start(&mut self) {
        let mut world = World::new(self.settings.clone());
        for event in self.list() {
            world.apply(event, self.now);
        }
        self.world = Some(world);
        self.shown.clear();
        self.plan();
    }

    pub fn restart(&mut self, requests_arrive: bool) {
        self.stop(requests_arrive);
        self.start();
    }

    /// Breaks the watches off; everything is listed anew.
    pub fn relist(&mut self) {
        self.agenda.retain(|_, item| !matches!(item, Item::Watch(_)));
        for event in self.list() {
            self.tell(event);
        }
        self.shown.clear();
        self.plan();
    }

    /// Everything that there is, as a new process hears of it.
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

    /// Plans, checks the plan, and sends its requests.
    fn plan(&mut self) {
        let now = self.now;
        let Some(world) = &mut self.world else { return };
        world.settle(now);
        let first = plan(world, now);
        let second = plan(world, now);
        assert_eq!(first.effects, second.effects, "{}: planning changes nothing", self.title);
        assert_eq!(first.wake_at, second.wake_at, "{}: planning changes nothing", self.title);
        let violations = audit(world, &first, now);
        let place = format!("{} at {}", self.title, self.record.clock(now));
        assert!(violations.is_empty(), "{place}: {violations:#?}");
        assert!(first.wake_at.is_none_or(|at| at > now), "{place}: wakes at {:?}", first.wake_at);
        world.commit(&first, now);
        self.wake_at = first.wake_at;
        for effect in first.effects {
            self.check_pace_of_writes(&effect);
            let violations = schema::violations_of(&effect);
            assert!(violations.is_empty(), "{place}: the API server refuses {:?}: {violations:#?}", effect.key());
            self.record.requests.push((now, effect.key()));
            let fate = (self.knobs.fate)(&effect);
            if let (Effect::PatchImage { image, .. }, Fate::Refused(_) | Fate::RefusedAnyway(_) | Fate::RequestLost) =
                (&effect, &fate)
            {
                self.record.unwritten.insert(image.to_string());
            }
            let at = now + self.jittered(self.knobs.request);
            self.schedule(at, Item::Request(effect, fate));
        }
    }

    /// Why every missing image is missing, as `/debug/plan` shows it: CachedImage,
    /// node and sentence.
    pub fn explained(&mut self) -> Vec<String> {
        let now = self.now;
        let world = self.world.as_mut().unwrap();
        world.settle(now);
        let explanations = explain(world, now);
        let lines = explanations.iter().flat_map(|image| {
            image.nodes.iter().map(|node| format!("{} on {}: {}", image.cached_image, node.node, node.message))
        });
        lines.collect()
    }

    // ---- Time ---------------------------------------------------------------

    fn schedule(&mut self, at: Timestamp, item: Item) {
        self.sequence += 1;
        self.agenda.insert((at, self.sequence), item);
    }

    /// `usual`, or a random time around it.
    fn jittered(&mut self, usual: SignedDuration) -> SignedDuration {
        match &mut self.knobs.jitter {
            Some(rng) => secs(usual.as_secs_f64() * rng.below(40) as f64 / 10.0),
            None => usual,
        }
    }

    fn next_at(&self) -> Option<Timestamp> {
        let item = self.agenda.first_key_value().map(|((at, _), _)| *at);
        item.into_iter().chain(self.wake_at).min()
    }

    /// Lets the next thing happen; `false` where nothing is left to happen.
    pub fn step(&mut self) -> bool {
        let Some(at) = self.next_at() else { return false };
        self.now = self.now.max(at);
        let mut heard = self.wake_at.is_some_and(|wake_at| wake_at <= self.now);
        while let Some(item) = self.due() {
            heard |= self.happen(item);
        }
        if heard {
            self.plan();
        }
        true
    }

    /// The next item whose time has come.
    fn due(&mut self) -> Option<Item> {
        let entry = self.agenda.first_entry().filter(|entry| entry.key().0 <= self.now)?;
        Some(entry.remove())
    }

    /// Lets an item happen. Returns whether the operator heard of something.
    fn happen(&mut self, item: Item) -> bool {
        let now = self.now;
        match item {
            Item::Request(effect, fate) => {
                let key = effect.key();
                let (report, after) = match fate {
                    Fate::Answered => (self.carry_out(&effect), self.jittered(self.knobs.reply)),
                    Fate::Refused(why) => (self.refuse(&effect, why), self.jittered(self.knobs.reply)),
                    Fate::RefusedAnyway(why) => (Report::Refused(why.to_owned()), self.jittered(self.knobs.reply)),
                    Fate::AnswerLost => {
                        self.carry_out(&effect);
                        (Report::Unknown("no answer".to_owned()), TIME_LIMIT)
                    }
                    Fate::RequestLost => (Report::Unknown("no answer".to_owned()), TIME_LIMIT),
                };
                self.schedule(now + after, Item::Answer(key, report));
                false
            }
            Item::Answer(key, report) => self.tell(Event::Report(key, report)),
            Item::Watch(event) => self.tell(event),
            Item::Kubelet(uid, step) => {
                self.kubelet_step(&uid, step);
                false
            }
            Item::List(node_uid) => {
                self.list_images(&node_uid);
                false
            }
            Item::Collect(node_uid) => {
                self.collect(&node_uid);
                false
            }
        }
    }

    fn tell(&mut self, event: Event) -> bool {
        let now = self.now;
        self.world.as_mut().map(|world| world.apply(event, now)).is_some()
    }

    /// Lets `span` pass.
    pub fn run(&mut self, span: SignedDuration) {
        let until = self.now + span;
        while self.next_at().is_some_and(|at| at <= until) {
            self.step();
        }
        self.now = until;
    }

    /// Runs until nothing is left to happen, and checks that the operator agrees.
    pub fn settle(&mut self) {
        let limit = self.now + SignedDuration::from_hours(24);
        while self.step() {
            if self.now > limit {
                let explained = self.explained();
                panic!("{}: still busy after a day: {explained:#?}", self.title);
            }
        }
        assert_eq!(self.wake_at, None);
        assert!(self.api.pods.is_empty(), "{}: Pods are left: {:?}", self.title, self.api.pods);
    }

    /// Runs until `done`, for at most an hour.
    pub fn until(&mut self, mut done: impl FnMut(&Self) -> bool) {
        let limit = self.now + SignedDuration::from_hours(1);
        while !done(self) {
            assert!(self.step() && self.now < limit, "{}: it never comes to that", self.title);
        }
    }

    // ---- What users do ------------------------------------------------------

    /// Creates a CachedImage of this reference under the built-in policy.
    pub fn image(&mut self, name: &str, reference: &str) {
        self.image_with(name, reference, |_| {});
    }

    pub fn image_with(&mut self, name: &str, reference: &str, edit: impl FnOnce(&mut CachedImageSpec)) {
        let mut spec = CachedImageSpec { image: reference.to_owned(), ..CachedImageSpec::default() };
        edit(&mut spec);
        let mut image = CachedImage::new(name, spec);
        image.metadata.generation = Some(1);
        self.api.version += 1;
        image.metadata.uid = Some(format!("image-{}", self.api.version));
        self.record.created_at.insert(EffectKey::Image(name.into()), self.now);
        self.api.images.insert(name.to_owned(), image);
        self.show_image(name);
    }

    /// Creates a CachedImage that belongs to a CachedImageSet.
    pub fn image_of_set(&mut self, set: &str, name: &str, reference: &str, edit: impl FnOnce(&mut CachedImageSpec)) {
        self.image_with(name, reference, edit);
        let image = self.api.images.get_mut(name).unwrap();
        image.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "drop.corewire.io/v1alpha1".to_owned(),
            kind: "CachedImageSet".to_owned(),
            name: set.to_owned(),
            uid: format!("uid-of-{set}"),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]);
        self.show_image(name);
    }

    /// Creates or changes a CachedImageSet.
    pub fn set(&mut self, name: &str, edit: impl FnOnce(&mut CachedImageSetSpec)) {
        self.api.version += 1;
        let version = self.api.version;
        let set = self.api.sets.entry(name.to_owned()).or_insert_with(|| {
            self.record.created_at.insert(EffectKey::Set(name.into()), self.now);
            let mut set = CachedImageSet::new(name, CachedImageSetSpec::default());
            set.metadata.generation = Some(0);
            set.metadata.uid = Some(format!("set-{version}"));
            set
        });
        edit(&mut set.spec);
        set.metadata.generation = set.metadata.generation.map(|generation| generation + 1);
        let event = set_event(set).unwrap();
        self.record.forget_successes();
        self.show(Kind::Set, event);
    }

    /// Creates or changes a DiscoveryPolicy.
    pub fn discovery(&mut self, name: &str, edit: impl FnOnce(&mut DiscoveryPolicySpec)) {
        self.api.version += 1;
        let version = self.api.version;
        let policy = self.api.discoveries.entry(name.to_owned()).or_insert_with(|| {
            let mut policy = DiscoveryPolicy::new(name, DiscoveryPolicySpec::default());
            policy.metadata.generation = Some(0);
            policy.metadata.uid = Some(format!("discovery-{version}"));
            policy
        });
        edit(&mut policy.spec);
        policy.metadata.generation = policy.metadata.generation.map(|generation| generation + 1);
        let event = Event::Discovery(Box::new(policy.clone()));
        self.show(Kind::Discovery, event);
    }

    pub fn delete_discovery(&mut self, name: &str) {
        self.api.discoveries.remove(name).unwrap();
        self.show(Kind::Discovery, Event::Gone(Kind::Discovery, name.into()));
    }

    /// Creates or changes a Secret.
    pub fn secret(&mut self, name: &str) {
        self.api.version += 1;
        self.api.secrets.insert(name.to_owned(), self.api.version);
        let event = secret_event((&name.to_owned(), &self.api.version));
        self.show(Kind::Secret, event);
    }

    /// Deletes a CachedImageSet; Kubernetes collects its CachedImages a little later.
    pub fn delete_set(&mut self, name: &str) {
        let set = self.api.sets.remove(name).unwrap();
        self.show(Kind::Set, Event::Gone(Kind::Set, name.into()));
        self.schedule(self.now + COLLECTION, Item::Collect(set.metadata.uid.unwrap().into()));
    }

    pub fn edit_image(&mut self, name: &str, edit: impl FnOnce(&mut CachedImageSpec)) {
        let image = self.api.images.get_mut(name).unwrap();
        edit(&mut image.spec);
        image.metadata.generation = image.metadata.generation.map(|generation| generation + 1);
        self.record.forget_successes();
        self.show_image(name);
    }

    pub fn delete_image(&mut self, name: &str) {
        self.api.images.remove(name).unwrap();
        self.record.forget_successes();
        self.show(Kind::Image, Event::Gone(Kind::Image, name.into()));
    }

    /// Creates or changes a PullPolicy.
    pub fn policy(&mut self, name: &str, edit: impl FnOnce(&mut PullPolicySpec)) {
        let policy = self.api.policies.entry(name.to_owned()).or_insert_with(|| {
            self.record.created_at.insert(EffectKey::Policy(name.into()), self.now);
            let mut policy = PullPolicy::new(name, PullPolicySpec::default());
            policy.metadata.generation = Some(0);
            policy
        });
        edit(&mut policy.spec);
        policy.metadata.generation = policy.metadata.generation.map(|generation| generation + 1);
        let event = policy_event(policy).unwrap();
        self.record.policy_changed(name, Some(policy.spec.clone()), self.now);
        self.show(Kind::Policy, event);
    }

    pub fn delete_policy(&mut self, name: &str) {
        self.api.policies.remove(name).unwrap();
        self.record.policy_changed(name, None, self.now);
        self.show(Kind::Policy, Event::Gone(Kind::Policy, name.into()));
    }

    /// Adds a node, with a UID of its own.
    pub fn node(&mut self, name: &str) {
        self.api.version += 1;
        let uid = format!("node-{}", self.api.version);
        let node =
            Node { name: name.into(), uid: uid.as_str().into(), platform: "linux/amd64".into(), ..Node::default() };
        self.api.nodes.insert(name.to_owned(), node.clone());
        self.show(Kind::Node, Event::Node(Box::new(node)));
    }

    pub fn edit_node(&mut self, name: &str, edit: impl FnOnce(&mut Node)) {
        let node = self.api.nodes.get_mut(name).unwrap();
        let labels = node.labels.clone();
        edit(node);
        if node.labels != labels {
            self.record.forget_successes();
        }
        let event = Event::Node(Box::new(node.clone()));
        self.show(Kind::Node, event);
    }

    /// Removes a node; Kubernetes collects its Pods and its NodeCache a little later.
    pub fn remove_node(&mut self, name: &str) {
        let node = self.api.nodes.remove(name).unwrap();
        self.show(Kind::Node, Event::Gone(Kind::Node, name.into()));
        self.schedule(self.now + COLLECTION, Item::Collect(node.uid));
    }

    /// Deletes a Pod, as a user may.
    pub fn delete_pod(&mut self, name: &Name) {
        self.record.forget_successes();
        self.terminate(name);
    }

    /// Puts a Pod onto a node that nobody asked for, made like Drop's own.
    pub fn stray_pod(&mut self, name: &str, node: &str, reference: &str) {
        self.api.version += 1;
        let uid: Name = format!("pod-{}", self.api.version).into();
        let node_uid = self.api.nodes[node].uid.clone();
        let state = ContainerState::Waiting { reason: "".into(), message: "".into() };
        let pod = PullPod {
            name: name.into(),
            uid: Some(uid.clone()),
            node: node.into(),
            node_uid: node_uid.clone(),
            policy: "".into(),
            created_at: whole_seconds(self.now),
            terminating: false,
            acknowledged_at: None,
            sandbox_up_at: None,
            rejection: None,
            containers: vec![Container { image: Reference::parse(reference), image_id: None, state }],
        };
        self.api.pods.insert(name.into(), LivePod { pod, node_uid, pass: None });
        self.show_pod(&name.into());
        self.kubelet_sees(&uid);
    }

    fn collect(&mut self, node_uid: &Name) {
        let pods = self.api.pods.values().filter(|live| live.node_uid == *node_uid);
        for uid in pods.filter_map(|live| live.pod.uid.clone()).collect::<Vec<_>>() {
            self.remove_pod(&uid);
        }
        let owners = |image: &CachedImage| image.metadata.owner_references.clone().unwrap_or_default();
        let images =
            self.api.images.iter().filter(|(_, image)| owners(image).iter().any(|owner| *owner.uid == **node_uid));
        for name in images.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.delete_image(&name);
        }
        let owned = |cache: &NodeCache| cache.spec.node_uid == **node_uid;
        let caches = self.api.caches.iter().filter(|(_, cache)| owned(cache));
        for name in caches.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.api.caches.remove(&name);
            self.show(Kind::Cache, Event::Gone(Kind::Cache, name.as_str().into()));
        }
    }

    // ---- The API server -----------------------------------------------------

    /// Lets the watch show something, in order for each kind.
    fn show(&mut self, kind: Kind, event: Event) {
        let delay = self.jittered(self.knobs.watch);
        let at = (self.now + delay).max(self.shown.get(&kind).copied().unwrap_or(self.now));
        self.shown.insert(kind, at);
        self.schedule(at, Item::Watch(event));
    }

    fn show_image(&mut self, name: &str) {
        let event = image_event(&self.api.images[name]).unwrap();
        self.show(Kind::Image, event);
    }

    fn show_pod(&mut self, name: &Name) {
        let event = Event::Pod(Box::new(self.api.pods[name].pod.clone()));
        self.show(Kind::Pod, event);
    }

    /// Refuses a request, except where it has been carried out before.
    fn refuse(&mut self, effect: &Effect, why: &str) -> Report {
        match effect {
            Effect::CreatePod(order) if self.api.pods.contains_key(&order.name) => self.carry_out(effect),
            _ => Report::Refused(why.to_owned()),
        }
    }

    fn carry_out(&mut self, effect: &Effect) -> Report {
        match effect {
            Effect::CreatePod(order) => {
                if let Some(live) = self.api.pods.get(&order.name) {
                    return Report::PodCreated { uid: live.pod.uid.clone().unwrap() };
                }
                self.check_start(order);
                self.api.version += 1;
                let uid: Name = format!("pod-{}", self.api.version).into();
                let waiting = ContainerState::Waiting { reason: "".into(), message: "".into() };
                let pod = PullPod {
                    name: order.name.clone(),
                    uid: Some(uid.clone()),
                    node: order.node.clone(),
                    node_uid: order.node_uid.clone(),
                    policy: order.policy.clone(),
                    created_at: whole_seconds(self.now),
                    terminating: false,
                    acknowledged_at: None,
                    sandbox_up_at: None,
                    rejection: None,
                    containers: order
                        .pulls
                        .iter()
                        .map(|pull| Container { image: pull.reference.clone(), image_id: None, state: waiting.clone() })
                        .collect(),
                };
                let live = LivePod { pod, node_uid: order.node_uid.clone(), pass: None };
                self.api.pods.insert(order.name.clone(), live);
                self.record.created(order, uid.clone(), self.now);
                self.show_pod(&order.name);
                self.kubelet_sees(&uid);
                if self.api.nodes.get(&*order.node).is_none_or(|node| node.uid != order.node_uid) {
                    self.schedule(self.now + COLLECTION, Item::Collect(order.node_uid.clone()));
                }
                Report::PodCreated { uid }
            }
            Effect::DeletePod { pod, uid, .. } => match self.api.pods.get(pod) {
                Some(live) if uid.is_none() || live.pod.uid == *uid => {
                    self.terminate(pod);
                    Report::Done
                }
                _ => Report::PodGone { uid: uid.clone() },
            },
            Effect::CheckPod { pod } if self.api.pods.contains_key(pod) => Report::Done,
            Effect::CheckPod { .. } => Report::PodGone { uid: None },
            Effect::RecordNode { cache, .. } => {
                let mut cache: NodeCache = through_json(cache);
                self.check_cache(&cache);
                let name = cache.metadata.name.clone().unwrap();
                let before = self.api.caches.get(&name);
                let changed = before.is_none_or(|before| before.spec != cache.spec || before.status != cache.status);
                if changed {
                    self.api.version += 1;
                    cache.metadata.resource_version = Some(self.api.version.to_string());
                    self.record.cache_writes.push((self.now, name.clone()));
                    self.api.caches.insert(name.clone(), cache.clone());
                    self.show(Kind::Cache, Event::Cache(Box::new(cache)));
                }
                let cache = self.api.caches[&name].clone();
                if self.api.nodes.get(&name).is_none_or(|node| *node.uid != *cache.spec.node_uid) {
                    let uid: Name = cache.spec.node_uid.as_str().into();
                    self.schedule(self.now + COLLECTION, Item::Collect(uid));
                }
                Report::Recorded(Box::new(cache))
            }
            Effect::PatchImage { image, status } => {
                let status: CachedImageStatus = through_json(status);
                self.check_status(image, &status);
                self.record.unwritten.remove(&**image);
                if let Some(object) = self.api.images.get_mut(&**image)
                    && object.status.as_ref() != Some(&status)
                {
                    object.status = Some(status.clone());
                    self.record.statuses.entry(image.to_string()).or_default().push((self.now, status));
                    self.show_image(image);
                }
                Report::Done
            }
            Effect::CreateChild { child, .. } => {
                let name = child.metadata.name.clone().unwrap();
                if !self.api.images.contains_key(&name) {
                    let mut child: CachedImage = through_json(child);
                    self.api.version += 1;
                    child.metadata.uid = Some(format!("image-{}", self.api.version));
                    child.metadata.generation = Some(1);
                    self.record.created_at.insert(EffectKey::Image(name.as_str().into()), self.now);
                    self.api.images.insert(name.clone(), child);
                    self.show_image(&name);
                }
                let found = &self.api.images[&name];
                match found.metadata.owner_references == child.metadata.owner_references {
                    true => Report::Child(Box::new(found.clone())),
                    false => Report::Refused("it is there already".to_owned()),
                }
            }
            Effect::UpdateChild { child, uid, spec, .. } => {
                match self.api.images.get(&**child).and_then(|image| image.metadata.uid.clone()) {
                    None => Report::Done,
                    Some(found) if *found != **uid => Report::Refused("another UID".to_owned()),
                    Some(_) => {
                        self.edit_image(child, |before| *before = through_json(spec));
                        Report::Child(Box::new(self.api.images[&**child].clone()))
                    }
                }
            }
            Effect::DeleteChild { child, uid, .. } => {
                let found = self.api.images.get(&**child).and_then(|image| image.metadata.uid.clone());
                if found.is_some_and(|found| *found == **uid) {
                    self.delete_image(child);
                }
                Report::Done
            }
            Effect::PatchSet { set, status } => {
                let status: CachedImageSetStatus = through_json(status);
                if let Some(object) = self.api.sets.get_mut(&**set)
                    && object.status.as_ref() != Some(&status)
                {
                    object.status = Some(status);
                    let event = set_event(object).unwrap();
                    self.show(Kind::Set, event);
                }
                Report::Done
            }
            Effect::Discover(order) => self.discover(order),
            Effect::PatchDiscovery { policy, status } => {
                let status: DiscoveryPolicyStatus = through_json(status);
                if let Some(object) = self.api.discoveries.get_mut(&**policy)
                    && object.status.as_ref() != Some(&status)
                {
                    object.status = Some(status);
                    let event = Event::Discovery(Box::new(object.clone()));
                    self.show(Kind::Discovery, event);
                }
                Report::Done
            }
            Effect::PatchPolicy { policy, status } => {
                let status: PullPolicyStatus = through_json(status);
                if let Some(object) = self.api.policies.get_mut(&**policy)
                    && object.status.as_ref() != Some(&status)
                {
                    object.status = Some(status);
                    self.record.policy_writes.push((self.now, policy.to_string()));
                    let event = policy_event(object).unwrap();
                    self.show(Kind::Policy, event);
                }
                Report::Done
            }
            Effect::Tell(notice) => {
                self.record.told.push((self.now, (**notice).clone()));
                Report::Done
            }
        }
    }

    /// Asks the sources of a DiscoveryPolicy, as the operator does.
    fn discover(&self, order: &Order) -> Report {
        let answer = |backend: &Backend| {
            let address = match backend {
                Backend::Prometheus(query) => &query.endpoint,
                Backend::Loki(query) => &query.endpoint,
                Backend::Registry(query) => &query.url,
            };
            self.knobs.sources[address].clone()
        };
        let queries = order.pipeline.queries().iter().enumerate();
        let measured: Vec<_> = queries
            .map(|(at, query)| answer(&query.backend).map(|answer| order.pipeline.measure(at, answer, self.now)))
            .collect();
        let answered: Vec<_> = measured.iter().map(|measured| measured.as_ref().ok()).collect();
        let images = order.pipeline.rank(&answered, |_| order.nodes).images;
        let sources = measured.iter().map(|measured| SourceOutcome {
            elapsed: secs(0.1),
            result: measured.as_ref().map(|measured| measured.image_count()).map_err(SourceFailure::clone),
        });
        Report::Discovered(Box::new(Discovered { spec: order.spec.clone(), sources: sources.collect(), images }))
    }

    /// Whether some CachedImage wants `reference` on the node of this UID.
    fn is_wanted(&self, node_uid: &Name, reference: &Reference) -> bool {
        let node = self.api.nodes.values().find(|node| node.uid == *node_uid);
        let mut images = self.api.images.values().filter_map(Image::from_api);
        node.is_some_and(|node| {
            images.any(|image| image.reference == *reference && image.placement.selects(node).is_ok())
        })
    }

    // ---- What tests ask -----------------------------------------------------

    /// The status of a CachedImage, as the API server has it.
    pub fn status(&self, image: &str) -> CachedImageStatus {
        self.api.images[image].status.clone().unwrap_or_default()
    }

    /// The reason of a CachedImage's Ready condition, and how many nodes have it.
    pub fn shows(&self, image: &str) -> String {
        let status = self.status(image);
        let ready = condition::ready(&status.conditions);
        let reason = ready.map(|ready| ready.reason.clone()).unwrap_or_default();
        format!("{reason} {}", status.ready.unwrap_or_default())
    }

    /// The message of a CachedImage's Ready condition.
    pub fn message(&self, image: &str) -> String {
        let status = self.status(image);
        condition::ready(&status.conditions).map(|ready| ready.message.clone()).unwrap_or_default()
    }

    /// The reasons that a CachedImage's Ready condition has had, one after another.
    pub fn reasons(&self, image: &str) -> Vec<String> {
        let statuses = self.record.statuses.get(image).into_iter().flatten();
        let mut reasons: Vec<String> =
            statuses.filter_map(|(_, status)| Some(condition::ready(&status.conditions)?.reason.clone())).collect();
        reasons.dedup();
        reasons
    }

    /// When Pods were created, in whole seconds, where, and of which CachedImages:
    /// `10s b: alpine`.
    pub fn starts(&self) -> Vec<String> {
        self.record.pods.iter().map(Created::to_string).collect()
    }

    /// The Pods that there ever were with this image.
    pub fn pods_of(&self, reference: &str) -> Vec<&Created> {
        let reference = Reference::parse(reference);
        self.record.pods.iter().filter(|pod| pod.pulls(&reference)).collect()
    }

    pub fn live(&self, node: &str) -> Option<&LivePod> {
        self.api.pods.values().find(|live| &*live.pod.node == node)
    }
}

/// Refers a CachedImage to a policy.
pub fn under(policy: &str) -> impl FnOnce(&mut CachedImageSpec) + use<> {
    let name = policy.to_owned();
    move |spec| spec.policy_ref = Some(LocalObjectReference { name })
}

fn image_event(object: &CachedImage) -> Option<Event> {
    let image = Image::from_api(object)?;
    Some(Event::Image(Box::new(image), Box::new(object.status.clone().unwrap_or_default())))
}

fn set_event(object: &CachedImageSet) -> Option<Event> {
    let set = ImageSet::from_api(object)?;
    Some(Event::Set(Box::new(set), Box::new(object.status.clone().unwrap_or_default())))
}

fn secret_event((name, version): (&String, &u64)) -> Event {
    Event::Secret(name.as_str().into(), version.to_string().into())
}

fn policy_event(object: &PullPolicy) -> Option<Event> {
    let policy = Policy::from_api(object)?;
    Some(Event::Policy(Box::new(policy), Box::new(object.status.clone().unwrap_or_default())))
}

/// What the API server keeps of a timestamp of Kubernetes' own.
fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap()
}

/// What is left of an object after its way to the API server and back.
fn through_json<T: serde::Serialize + serde::de::DeserializeOwned>(object: &T) -> T {
    serde_json::from_str(&serde_json::to_string(object).unwrap()).unwrap()
}

/// A small generator of random numbers (xorshift64*).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(drop_api::names::stable_hash(&seed.to_le_bytes()) | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        let index = self.below(of.len() as u64);
        of[usize::try_from(index).unwrap()].clone()
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            let other = self.below(end as u64 + 1);
            items.swap(end, usize::try_from(other).unwrap());
        }
    }
}
