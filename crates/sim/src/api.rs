//! The objects of the simulated API server, and the watches that show them.

use std::collections::BTreeMap;

use drop_api::{CachedImage, CachedImageSet, DiscoveryPolicy, NodeCache, PullPolicy};
use drop_core::event::Kind;
use drop_core::image::Image;
use drop_core::image_set::ImageSet;
use drop_core::node::Node;
use drop_core::policy::Policy;
use drop_core::pull_pod::PullPod;
use drop_core::{Event, Name};
use jiff::{SignedDuration, Timestamp};

use crate::agenda::Item;
use crate::{Lab, Pass};

/// How long Kubernetes takes to collect the dependents of a deleted object.
const COLLECTION: SignedDuration = SignedDuration::from_secs(4);

/// The API server's objects, by name.
#[derive(Default)]
pub struct Api {
    /// CachedImages.
    pub images: BTreeMap<String, CachedImage>,
    /// CachedImageSets.
    pub sets: BTreeMap<String, CachedImageSet>,
    /// DiscoveryPolicies.
    pub discoveries: BTreeMap<String, DiscoveryPolicy>,
    /// Versions of Secrets.
    pub secrets: BTreeMap<String, u64>,
    /// PullPolicies.
    pub policies: BTreeMap<String, PullPolicy>,
    /// Nodes.
    pub nodes: BTreeMap<String, Node>,
    /// Pull Pods.
    pub pods: BTreeMap<Name, LivePod>,
    /// NodeCaches.
    pub caches: BTreeMap<String, NodeCache>,
    /// The last resource version; UIDs are made from it too.
    version: u64,
}

impl Api {
    /// A new resource version.
    pub(crate) fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// The Pod of this UID.
    pub(crate) fn pod_of_uid(&self, uid: &Name) -> Option<&LivePod> {
        self.pods.values().find(|live| live.pod.uid.as_ref() == Some(uid))
    }

    /// The node of this UID.
    pub(crate) fn node_of_uid(&self, uid: &Name) -> Option<&Node> {
        self.nodes.values().find(|node| node.uid == *uid)
    }
}

/// A Pod and its kubelet's progress with it.
#[derive(Clone, Debug)]
pub struct LivePod {
    /// The Pod, as the API server has it.
    pub pod: PullPod,
    /// The UID of the node that owns it.
    pub node_uid: Name,
    /// Whether it uses the node's network.
    pub host_network: bool,
    /// The Secrets that it pulls with.
    pub secrets: Vec<Name>,
    /// The pass that its kubelet is working on.
    pub pass: Option<Pass>,
    /// Passes in which a pull failed.
    pub failures: u32,
    /// The earliest time at which it is gone, if it is being deleted.
    pub gone_from: Option<Timestamp>,
}

impl Lab {
    /// Lets every watch show an event.
    pub(crate) fn show(&mut self, kind: Kind, event: &Event) {
        if let Some(history) = &mut self.record.history {
            history.push((kind, event.clone()));
        }
        for id in self.ids() {
            self.show_to(id, kind, [event.clone()]);
        }
    }

    /// Lets the watch of a process show events together: in order for each kind, and after the events that it showed
    /// before.
    pub(crate) fn show_to(&mut self, id: u64, kind: Kind, events: impl IntoIterator<Item = Event>) {
        let at = self.now + self.jittered(self.knobs.watch);
        let Some(process) = self.process(id) else { return };
        let at = at + process.lags.get(&kind).copied().unwrap_or_default();
        let shown = process.shown.entry(kind).or_insert(at);
        *shown = at.max(*shown);
        let at = *shown;
        for event in events {
            self.agenda.add(at, Item::Watch(id, kind, event));
        }
    }

    pub(crate) fn show_image(&mut self, name: &str) {
        match self.api.images.get(name).map(image_event) {
            Some(Some(event)) => self.show(Kind::Image, &event),
            _ => self.violate(format!("the CachedImage {name} cannot be read")),
        }
    }

    pub(crate) fn show_pod(&mut self, name: &Name) {
        if let Some(live) = self.api.pods.get(name) {
            let event = Event::Pod(Box::new(live.pod.clone()));
            self.show(Kind::Pod, &event);
        }
    }

    /// Lets Kubernetes collect the dependents of an object that is gone.
    pub(crate) fn collect_soon(&mut self, owner_uid: Name) {
        self.agenda.add(self.now + COLLECTION, Item::Collect(owner_uid));
    }

    pub(crate) fn collect(&mut self, owner_uid: &Name) {
        let pods = self.api.pods.values().filter(|live| live.node_uid == *owner_uid);
        for uid in pods.filter_map(|live| live.pod.uid.clone()).collect::<Vec<_>>() {
            self.remove_pod(&uid);
        }
        let is_owned = |image: &CachedImage| {
            image.metadata.owner_references.iter().flatten().any(|owner| *owner.uid == **owner_uid)
        };
        let images = self.api.images.iter().filter(|(_, image)| is_owned(image));
        for name in images.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.delete_image(&name);
        }
        let caches = self.api.caches.iter().filter(|(_, cache)| cache.spec.node_uid == **owner_uid);
        for name in caches.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.api.caches.remove(&name);
            self.record.changes.push(self.now);
            self.show(Kind::Cache, &Event::Gone(Kind::Cache, name.as_str().into()));
        }
    }
}

pub(crate) fn image_event(object: &CachedImage) -> Option<Event> {
    let image = Image::from_api(object)?;
    Some(Event::Image(Box::new(image), Box::new(object.status.clone().unwrap_or_default())))
}

pub(crate) fn set_event(object: &CachedImageSet) -> Option<Event> {
    let set = ImageSet::from_api(object)?;
    Some(Event::Set(Box::new(set), Box::new(object.status.clone().unwrap_or_default())))
}

pub(crate) fn secret_event((name, version): (&String, &u64)) -> Event {
    Event::Secret(name.as_str().into(), version.to_string().into())
}

pub(crate) fn policy_event(object: &PullPolicy) -> Option<Event> {
    let policy = Policy::from_api(object)?;
    Some(Event::Policy(Box::new(policy), Box::new(object.status.clone().unwrap_or_default())))
}

/// Rounds a time as the API server does for Kubernetes' own timestamps.
pub(crate) fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
