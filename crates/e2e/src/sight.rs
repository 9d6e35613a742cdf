//! Records all objects that the watches of a cluster have shown.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drop_api::names::MANAGER;
use drop_api::{CachedImage, CachedImageSet, DiscoveryPolicy, NodeCache, PullPolicy, condition};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// The existing objects, and a record of earlier ones.
#[derive(Debug, Default)]
pub struct Sight {
    /// The existing CachedImages.
    pub images: BTreeMap<String, CachedImage>,
    /// The existing CachedImageSets.
    pub sets: BTreeMap<String, CachedImageSet>,
    /// The existing DiscoveryPolicies.
    pub discoveries: BTreeMap<String, DiscoveryPolicy>,
    /// The existing PullPolicies.
    pub policies: BTreeMap<String, PullPolicy>,
    /// The existing NodeCaches.
    pub caches: BTreeMap<String, NodeCache>,
    /// The existing nodes.
    pub nodes: BTreeMap<String, Node>,
    /// The existing pull Pods.
    pub pods: BTreeMap<String, Pod>,
    /// Every pull Pod that ever existed.
    pub all_pods: BTreeMap<String, SeenPod>,
    /// Events about Drop's objects.
    pub events: BTreeMap<String, SeenEvent>,
    /// Every status that a CachedImage ever had, as name, reason and READY.
    pub history: Vec<(String, String, String)>,
}

/// An Event that was seen.
#[derive(Clone, Debug)]
pub struct SeenEvent {
    /// The object that it is about.
    pub object: String,
    /// Its reason.
    pub reason: String,
}

/// A pull Pod that was seen.
#[derive(Clone, Debug)]
pub struct SeenPod {
    /// Its node.
    pub node: String,
    /// The images of its containers.
    pub images: Vec<String>,
}

/// A [`Sight`] that the watches keep up to date.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    sight: Arc<Mutex<Sight>>,
    changed: watch::Sender<()>,
}

impl Watched {
    /// Begins to watch.
    pub(crate) fn start(client: &Client, namespace: &str, runtime: &Handle) -> Self {
        let watched = Self { sight: Arc::default(), changed: watch::Sender::new(()) };
        watched.follow(runtime, Api::all(client.clone()), |sight, name, object: Option<CachedImage>| {
            if let Some(image) = &object {
                let status = image.status.clone().unwrap_or_default();
                let reason = condition::ready(&status.conditions).map(|ready| ready.reason.clone());
                let seen = (name.clone(), reason.unwrap_or_default(), status.ready.unwrap_or_default());
                let last = sight.history.iter().rev().find(|(other, ..)| *other == name);
                if last != Some(&seen) {
                    sight.history.push(seen);
                }
            }
            put(&mut sight.images, name, object);
        });
        watched.follow(runtime, Api::all(client.clone()), |sight, name, object: Option<CachedImageSet>| {
            put(&mut sight.sets, name, object);
        });
        watched.follow(runtime, Api::all(client.clone()), |sight, name, object: Option<DiscoveryPolicy>| {
            put(&mut sight.discoveries, name, object);
        });
        watched.follow(runtime, Api::all(client.clone()), |sight, name, object: Option<PullPolicy>| {
            put(&mut sight.policies, name, object);
        });
        watched.follow(runtime, Api::all(client.clone()), |sight, name, object: Option<NodeCache>| {
            put(&mut sight.caches, name, object);
        });
        watched.follow(runtime, Api::all(client.clone()), |sight, name, object: Option<Node>| {
            put(&mut sight.nodes, name, object);
        });
        watched.follow(runtime, Api::namespaced(client.clone(), "default"), |sight, name, object: Option<Event>| {
            if let Some(event) = object.filter(|event| event.reporting_controller.as_deref() == Some(MANAGER)) {
                let seen = SeenEvent {
                    object: event.regarding.and_then(|object| object.name).unwrap_or_default(),
                    reason: event.reason.unwrap_or_default(),
                };
                sight.events.insert(name, seen);
            }
        });
        watched.follow(runtime, Api::namespaced(client.clone(), namespace), |sight, name, object: Option<Pod>| {
            if let Some(spec) = object.as_ref().and_then(|pod| pod.spec.as_ref()) {
                let images = spec.containers.iter().filter_map(|container| container.image.clone()).collect();
                let node = spec.node_name.clone().unwrap_or_default();
                sight.all_pods.insert(name.clone(), SeenPod { node, images });
            }
            put(&mut sight.pods, name, object);
        });
        watched
    }

    /// Returns the objects as the watches show them now.
    pub(crate) fn look(&self) -> MutexGuard<'_, Sight> {
        self.sight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a receiver that is notified of every change from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn follow<K>(&self, runtime: &Handle, api: Api<K>, take: fn(&mut Sight, String, Option<K>))
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let watched = self.clone();
        runtime.spawn(watcher(api, watcher::Config::default()).default_backoff().for_each(move |event| {
            let (name, object) = match event {
                Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                    (object.name_any(), Some(object))
                }
                Ok(watcher::Event::Delete(object)) => (object.name_any(), None),
                // The cluster may be stopping. An interrupted watch resumes by itself.
                Ok(watcher::Event::Init | watcher::Event::InitDone) | Err(_) => return std::future::ready(()),
            };
            take(&mut watched.look(), name, object);
            watched.changed.send_replace(());
            std::future::ready(())
        }));
    }
}

fn put<K>(map: &mut BTreeMap<String, K>, name: String, object: Option<K>) {
    match object {
        Some(object) => drop(map.insert(name, object)),
        None => drop(map.remove(&name)),
    }
}
