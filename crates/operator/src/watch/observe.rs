//! Watches the cluster and sends each change to the engine as an event.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::future::ready;

use drop_api::names::{LABEL_MANAGED_BY, MANAGER};
use drop_api::{CachedImage, CachedImageSet, DiscoveryPolicy, PullPolicy};
use drop_core::Name;
use drop_core::event::{Event, Kind};
use drop_core::image::Image;
use drop_core::image_set::ImageSet;
use drop_core::interner::{Interner, Texts};
use drop_core::policy::Policy;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1 as k8s;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tracing::warn;

use super::convert;
use crate::cluster::lean::{self, Guarded};
use crate::cluster::patience::{cause, patient};

/// The kinds that leaders write. A new leader lists them again, because its watches may not have shown the last changes
/// of the previous leader yet.
pub const WRITTEN_BY_LEADERS: [Kind; 2] = [Kind::Pod, Kind::Cache];

/// How many objects a list holds at most; the next ones come with another request. A Node has some 13 kB, and a list is
/// held as text while its objects are read: with kube's default of 500, reading 5,000 nodes determined the operator's
/// peak memory.
const PAGE: u32 = 100;

/// Watches all kinds that planning depends on, and sends each change to `events` until the receiver is gone. Whenever
/// `relist` changes, lists [`WRITTEN_BY_LEADERS`] again.
pub async fn observe(client: Client, namespace: String, events: mpsc::Sender<Event>, relist: watch::Receiver<()>) {
    let everything = || watcher::Config::default().page_size(PAGE);
    let pull_pods = everything().labels(&format!("{LABEL_MANAGED_BY}={MANAGER}"));
    let (mut images, mut texts) = (Interner::default(), Texts::default());
    let node = move |object| convert::node(object, &mut images, &mut texts).map(|node| Event::Node(Box::new(node)));
    let send = |event| send(&events, event);
    let secrets: Api<PartialObjectMeta<k8s::Secret>> = Api::namespaced(client.clone(), &namespace);
    tokio::join!(
        watch_kind(Kind::Image, Api::all(client.clone()), everything(), cached_image).for_each(send),
        watch_kind(Kind::Set, Api::all(client.clone()), everything(), cached_image_set).for_each(send),
        watch_kind(Kind::Discovery, Api::all(client.clone()), everything(), discovery_policy).for_each(send),
        // Only the metadata: discovery reads a Secret's data when it needs it.
        follow(Kind::Secret, watcher(secrets, everything()), secret).for_each(send),
        watch_kind(Kind::Policy, Api::all(client.clone()), everything(), pull_policy).for_each(send),
        afresh(relist.clone(), || {
            watch_kind(Kind::Cache, Api::all(client.clone()), everything(), node_cache).for_each(send)
        }),
        watch_kind(Kind::Node, Api::all(client.clone()), everything(), node).for_each(send),
        afresh(relist, || {
            let pods = Api::namespaced(client.clone(), &namespace);
            watch_kind(Kind::Pod, pods, pull_pods.clone(), pod).for_each(send)
        }),
    );
}

/// Runs the future of `begin`, and starts over with a new one whenever `again` changes.
async fn afresh<F: Future<Output = ()>>(mut again: watch::Receiver<()>, begin: impl Fn() -> F) {
    loop {
        tokio::select! {
            () = begin() => return,
            // When the engine is gone, `changed` fails and the watches go on.
            Ok(()) = again.changed() => {}
        }
    }
}

async fn send(events: &mpsc::Sender<Event>, event: Event) {
    // The receiver is gone only when the operator ends.
    drop(events.send(event).await);
}

/// Returns the events of one kind. An object for which `convert` returns `None` counts as gone. An object that cannot
/// be read is logged and otherwise ignored.
fn watch_kind<K>(
    kind: Kind,
    api: Api<Guarded<K>>,
    config: watcher::Config,
    mut convert: impl FnMut(K) -> Option<Event>,
) -> impl Stream<Item = Event>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    follow(kind, watcher(api, config), move |object| {
        let name = name(&object);
        match object.0 {
            Ok(object) => Some(convert(object).unwrap_or(Event::Gone(kind, name))),
            Err(error) => {
                warn!(?kind, %name, error = %error.error, "object cannot be read: it is ignored until it changes");
                None
            }
        }
    })
}

/// The events of a watch, without objects for which `read` returns `None`.
fn follow<K: Resource<DynamicType = ()>>(
    kind: Kind,
    watch: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>>,
    mut read: impl FnMut(K) -> Option<Event>,
) -> impl Stream<Item = Event> {
    let mut listed: BTreeSet<Name> = BTreeSet::new();
    // The beginning of a list is no success, and must not reset the backoff.
    let watch = watch.filter(|event| ready(!matches!(event, Ok(watcher::Event::Init))));
    patient(watch, format!("{kind:?}")).filter_map(move |event| {
        let event = match event {
            Ok(watcher::Event::InitApply(object)) => {
                listed.insert(name(&object));
                read(object)
            }
            Ok(watcher::Event::InitDone) => Some(Event::Listed(kind, std::mem::take(&mut listed))),
            Ok(watcher::Event::Apply(object)) => read(object),
            Ok(watcher::Event::Delete(object)) => Some(Event::Gone(kind, name(&object))),
            Ok(watcher::Event::Init) => None,
            Err(error) => {
                // The watcher restarts a failed list from its beginning.
                listed.clear();
                report(kind, &error);
                None
            }
        };
        ready(event)
    })
}

fn name<K: Resource<DynamicType = ()>>(object: &K) -> Name {
    object.name_any().into()
}

fn report(kind: Kind, error: &watcher::Error) {
    let refused = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    };
    match refused {
        Some(404) => {
            warn!(?kind, "not served by the API server: install Drop's CustomResourceDefinitions (deploy/crds)")
        }
        Some(401) => {
            warn!(?kind, "watch unauthorized: the token or certificate has expired, or is not this cluster's")
        }
        Some(403) => warn!(?kind, error = cause(error), "watch forbidden: grant the operator's role"),
        _ => warn!(?kind, error = cause(error), "watch interrupted: it is resumed"),
    }
}

fn cached_image(object: CachedImage) -> Option<Event> {
    let image = Image::from_api(&object)?;
    Some(Event::Image(Box::new(image), Box::new(object.status.unwrap_or_default())))
}

fn cached_image_set(object: CachedImageSet) -> Option<Event> {
    let set = ImageSet::from_api(&object)?;
    Some(Event::Set(Box::new(set), Box::new(object.status.unwrap_or_default())))
}

fn discovery_policy(mut object: DiscoveryPolicy) -> Option<Event> {
    object.metadata.managed_fields = None;
    Some(Event::Discovery(Box::new(object)))
}

fn secret(object: PartialObjectMeta<k8s::Secret>) -> Option<Event> {
    Some(Event::Secret(object.metadata.name?.into(), object.metadata.resource_version?.into()))
}

fn pull_policy(object: PullPolicy) -> Option<Event> {
    let policy = Policy::from_api(&object)?;
    Some(Event::Policy(Box::new(policy), Box::new(object.status.unwrap_or_default())))
}

fn node_cache(object: lean::NodeCache) -> Option<Event> {
    Some(Event::Cache(Box::new(object.into())))
}

fn pod(object: lean::Pod) -> Option<Event> {
    convert::pull_pod(object).map(|pod| Event::Pod(Box::new(pod)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kube::runtime::watcher::Error::NoResourceVersion;
    use kube::runtime::watcher::Event::{Init, InitApply, InitDone};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_list_that_fails_is_tried_ever_more_slowly_and_begun_anew() {
        let image = |name: &str| InitApply(CachedImage::new(name, Default::default()));
        let mut events = vec![Ok(Init), Ok(image("before"))];
        events.extend((0..10).flat_map(|_| [Err(NoResourceVersion), Ok(Init)]));
        events.extend([Ok(image("after")), Ok(InitDone)]);
        let began_at = Instant::now();
        let told: Vec<_> = follow(Kind::Image, futures::stream::iter(events), |_| None).collect().await;
        let expected = BTreeSet::from(["after".into()]);
        assert!(matches!(&told[..], [Event::Listed(Kind::Image, names)] if *names == expected), "{told:?}");
        let elapsed = began_at.elapsed();
        assert!((Duration::from_secs(90)..Duration::from_secs(120)).contains(&elapsed), "{elapsed:?}");
    }
}
