//! Carries out effects, and reports how each ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use drop_api::names::{LABEL_MANAGED_BY, LABEL_ORIGIN, MANAGER};
use drop_api::{CachedImage, CachedImageSet, CachedImageSpec, DiscoveryPolicy, PullPolicy};
use drop_core::discovery::{Discovered, Order};
use drop_core::effect::{Effect, PodOrder};
use drop_core::event::{Event, Report};
use drop_core::image::Origin;
use drop_core::lookup::LookedUp;
use jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, Request};
use kube::{Api, Client, ResourceExt};
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, info, warn};

use super::event::{self, event};
use super::pod::{TERMINATION_GRACE_SECONDS, pod};
use crate::cluster::client::pod_name;
use crate::cluster::lean;
use crate::cluster::patience::cause;
use crate::discover::{self, Limits};
use crate::leadership::Leadership;
use crate::metrics::Metrics;

/// The most requests under way at once.
const MAX_REQUESTS: usize = 32;

/// Sends requests to the API server, each in a task of its own.
#[derive(Clone)]
pub struct Executor {
    resources: Resources,
    reports: mpsc::Sender<Event>,
    /// Set when its engine has ended.
    retired: Arc<AtomicBool>,
}

/// The resources that all executors of a process share.
#[derive(Clone)]
pub struct Resources {
    /// The client for the API server.
    pub client: Client,
    /// The namespace of pull Pods.
    pub namespace: Arc<str>,
    /// The priority class of pull Pods.
    pub priority_class: Option<Arc<str>>,
    /// The metrics that count effects.
    pub metrics: Arc<Metrics>,
    /// Whether this process may write.
    pub leadership: Leadership,
    /// The time limit of one effect. An effect that begins while this process leads ends before the Lease does.
    pub time_limit: Duration,
    /// The time limits of sources of DiscoveryPolicies.
    pub limits: Limits,
    permits: Arc<Semaphore>,
    /// The Pod of this process, which Events name.
    instance: Arc<str>,
}

impl Resources {
    /// Collects the resources of executors that create Pods in `namespace`.
    pub fn new(
        client: Client,
        namespace: &str,
        priority_class: Option<&str>,
        metrics: Arc<Metrics>,
        leadership: Leadership,
        time_limit: Duration,
        limits: Limits,
    ) -> Self {
        Self {
            instance: pod_name().into(),
            client,
            namespace: namespace.into(),
            priority_class: priority_class.map(Into::into),
            metrics,
            leadership,
            time_limit,
            limits,
            permits: Arc::new(Semaphore::new(MAX_REQUESTS)),
        }
    }

    /// Waits until no effect is under way.
    pub async fn idle(&self) {
        let all = u32::try_from(MAX_REQUESTS).unwrap_or(u32::MAX);
        drop(self.permits.acquire_many(all).await);
    }
}

impl Executor {
    /// Makes an executor that sends its reports to `reports`.
    pub fn new(resources: &Resources, reports: mpsc::Sender<Event>) -> Self {
        Self { resources: resources.clone(), reports, retired: Arc::default() }
    }

    /// Drops all effects that still wait for a permit.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Begins `effect` in a task of its own, which sends the report.
    pub fn begin(&self, effect: Effect) {
        let executor = self.clone();
        tokio::spawn(async move {
            let key = effect.key();
            // Discovery and look-ups write nothing and may take minutes, so they hold no permit and may outlive the
            // Lease.
            let limit = match effect {
                Effect::Discover(_) | Effect::LookUp(_) => None,
                _ => Some(executor.resources.time_limit),
            };
            let _permit = match limit {
                Some(_) => Some(executor.resources.permits.acquire().await),
                None => None,
            };
            if executor.retired.load(Ordering::Relaxed) {
                return;
            }
            let executed = async {
                if executor.resources.leadership.is_held() {
                    executor.execute(&effect).await
                } else {
                    Ok(Report::Unknown("the Lease is not held".to_owned()))
                }
            };
            let executed = tokio::time::timeout(limit.unwrap_or(Duration::MAX), executed);
            let report = match executed.await {
                Ok(Ok(report)) => report,
                Ok(Err(error)) => executor.failed(&effect, error),
                Err(_) => Report::Unknown(format!("no answer within {:?}", executor.resources.time_limit)),
            };
            match &report {
                Report::Refused(why) => warn!(?key, why, "refused by the API server: tried again later"),
                Report::Unknown(why) => warn!(?key, why, "request failed: tried again"),
                _ => executor.done(&effect, &report),
            }
            // The receiver is gone only when the operator ends.
            drop(executor.reports.send(Event::Report(key, report)).await);
        });
    }

    async fn execute(&self, effect: &Effect) -> Result<Report, kube::Error> {
        match effect {
            Effect::CreatePod(order) => self.create_pod(order).await,
            Effect::DeletePod { pod, uid, force } => self.delete_pod(pod, uid.as_deref(), *force).await,
            Effect::CheckPod { pod } => {
                let found = self.pods().get_opt(pod).await?;
                Ok(found.map_or(Report::PodGone { uid: None }, |_| Report::Done))
            }
            Effect::RecordNode { cache, .. } => {
                let api: Api<lean::NodeCache> = Api::all(self.resources.client.clone());
                let params = PatchParams::apply(MANAGER).force();
                let cache = api.patch(&cache.name_any(), &params, &Patch::Apply(cache)).await?;
                Ok(Report::Recorded(Box::new(cache.into())))
            }
            Effect::PatchImage { image, status } => patch_status(&self.cached_images(), image, status).await,
            Effect::CreateChild { child, .. } => self.create_child(child).await,
            Effect::UpdateChild { child, uid, spec, origin, .. } => self.update_child(child, uid, spec, *origin).await,
            Effect::DeleteChild { child, uid, .. } => {
                let preconditions = Some(Preconditions { uid: Some(uid.to_string()), resource_version: None });
                let params = DeleteParams { preconditions, ..DeleteParams::default() };
                self.cached_images().delete(child, &params).await?;
                Ok(Report::Done)
            }
            Effect::Discover(order) => {
                let secrets = Api::namespaced(self.resources.client.clone(), &self.resources.namespace);
                let discovered = discover::run(order, &secrets, self.resources.limits).await;
                Ok(Report::Discovered(Box::new(discovered)))
            }
            Effect::LookUp(inquiry) => {
                let secrets = Api::namespaced(self.resources.client.clone(), &self.resources.namespace);
                Ok(Report::LookedUp(discover::look_up(inquiry, &secrets, self.resources.limits).await))
            }
            Effect::PatchDiscovery { policy, status } => {
                let api: Api<DiscoveryPolicy> = Api::all(self.resources.client.clone());
                patch_status(&api, policy, status).await
            }
            Effect::PatchSet { set, status } => {
                let api: Api<CachedImageSet> = Api::all(self.resources.client.clone());
                patch_status(&api, set, status).await
            }
            Effect::PatchPolicy { policy, status } => {
                let api: Api<PullPolicy> = Api::all(self.resources.client.clone());
                patch_status(&api, policy, status).await
            }
            Effect::Tell(notice) => {
                let event = event(notice, &self.resources.instance, Timestamp::now());
                let events = Api::namespaced(self.resources.client.clone(), event::NAMESPACE);
                // Nothing depends on an Event, so a failed one is not repeated.
                match events.create(&post(), &event).await {
                    Ok(_) => info!(kind = notice.kind, name = %notice.name, reason = notice.reason, "event written"),
                    Err(error) => {
                        warn!(kind = notice.kind, name = %notice.name, error = cause(&error), "an event is lost")
                    }
                }
                Ok(Report::Done)
            }
        }
    }

    async fn create_pod(&self, order: &PodOrder) -> Result<Report, kube::Error> {
        let created = match self.post_pod(order).await {
            // An earlier request, whose answer was lost, may have created it.
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                match self.pods().get_opt(&order.name).await? {
                    Some(pod) => Some(pod).filter(|pod| is_ours(pod, order)),
                    None => return Ok(Report::Unknown("a Pod of that name has just gone".to_owned())),
                }
            }
            created => Some(created?),
        };
        let uid = created.and_then(|pod| pod.metadata.uid);
        Ok(match uid {
            Some(uid) => Report::PodCreated { uid: uid.into() },
            None => Report::Refused(format!("there is a Pod {} that is not Drop's", order.name)),
        })
    }

    async fn post_pod(&self, order: &PodOrder) -> Result<lean::Pod, kube::Error> {
        let pod = pod(order, &self.resources.namespace, self.resources.priority_class.as_deref());
        let body = serde_json::to_vec(&pod).map_err(kube::Error::SerdeError)?;
        // `Api::create` would read the answer as the type that it sends; here a lean type is enough.
        let request = Request::new(self.pods().resource_url()).create(&post(), body);
        self.resources.client.request(request.map_err(kube::Error::BuildRequest)?).await
    }

    async fn create_child(&self, child: &CachedImage) -> Result<Report, kube::Error> {
        let created = match self.cached_images().create(&post(), child).await {
            // An earlier request, whose answer was lost, may have created it.
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                match self.cached_images().get_opt(&child.name_any()).await? {
                    Some(found) if found.metadata.deletion_timestamp.is_some() => return Ok(being_deleted()),
                    Some(found) if found.owner_references() == child.owner_references() => found,
                    Some(_) => return Ok(Report::Refused("it is there already and not the set's".to_owned())),
                    None => return Ok(Report::Unknown("one of that name has just gone".to_owned())),
                }
            }
            created => created?,
        };
        Ok(Report::Child(Box::new(created)))
    }

    async fn update_child(
        &self,
        name: &str,
        uid: &str,
        spec: &CachedImageSpec,
        origin: Option<Origin>,
    ) -> Result<Report, kube::Error> {
        // An apply would leave fields that another client has set.
        let mut operations = vec![
            serde_json::json!({ "op": "test", "path": "/metadata/uid", "value": uid }),
            serde_json::json!({ "op": "replace", "path": "/spec", "value": spec }),
        ];
        operations.extend(origin.map(|origin| {
            let path = format!("/metadata/labels/{}", LABEL_ORIGIN.replace('/', "~1"));
            serde_json::json!({ "op": "replace", "path": path, "value": origin.label() })
        }));
        let patch = serde_json::from_value(operations.into());
        let patch = Patch::Json::<()>(patch.map_err(kube::Error::SerdeError)?);
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        match self.cached_images().patch(name, &params, &patch).await {
            Ok(child) if child.metadata.deletion_timestamp.is_some() => Ok(being_deleted()),
            Ok(child) => Ok(Report::Child(Box::new(child))),
            // The API server answers 422 both for an invalid spec and for a failed test; only the words differ.
            Err(kube::Error::Api(status)) if status.code == 422 => match self.cached_images().get_opt(name).await? {
                Some(found) if found.metadata.uid.as_deref() == Some(uid) => Err(kube::Error::Api(status)),
                _ => Ok(Report::Unknown("another one has the name by now".to_owned())),
            },
            Err(error) => Err(error),
        }
    }

    async fn delete_pod(&self, name: &str, uid: Option<&str>, force: bool) -> Result<Report, kube::Error> {
        let preconditions = uid.map(|uid| Preconditions { uid: Some(uid.to_owned()), resource_version: None });
        // Pods of an older operator have a grace period of 0, with which they would vanish before their pull ends.
        let grace_period_seconds = Some(if force { 0 } else { TERMINATION_GRACE_SECONDS });
        let params = DeleteParams { preconditions, grace_period_seconds, ..DeleteParams::default() };
        match self.pods().delete(name, &params).await {
            Ok(_) => Ok(Report::Done),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Report::PodGone { uid: uid.map(Into::into) }),
            // Another Pod may have the name by now.
            Err(kube::Error::Api(status)) if status.code == 409 => match self.pods().get_opt(name).await? {
                Some(pod) if uid.is_none() || pod.metadata.uid.as_deref() == uid => Err(kube::Error::Api(status)),
                _ => Ok(Report::PodGone { uid: uid.map(Into::into) }),
            },
            Err(error) => Err(error),
        }
    }

    fn cached_images(&self) -> Api<CachedImage> {
        Api::all(self.resources.client.clone())
    }

    fn pods(&self) -> Api<lean::Pod> {
        Api::namespaced(self.resources.client.clone(), &self.resources.namespace)
    }

    /// Returns the report of an effect whose request failed.
    fn failed(&self, effect: &Effect, error: kube::Error) -> Report {
        match error {
            // The server is slow or busy, or the object has changed meanwhile: the next attempt may succeed.
            kube::Error::Api(status) if matches!(status.code, 408 | 409 | 429) => Report::Unknown(status.message),
            kube::Error::Api(status) if (400..500).contains(&status.code) => {
                let needless =
                    !matches!(effect, Effect::CreatePod(_) | Effect::RecordNode { .. } | Effect::CreateChild { .. });
                if status.code == 404 && needless { Report::Done } else { Report::Refused(status.message) }
            }
            error => Report::Unknown(cause(&error)),
        }
    }

    /// Logs and counts an effect that succeeded.
    fn done(&self, effect: &Effect, report: &Report) {
        match effect {
            Effect::CreatePod(order) => {
                let images: Vec<&str> = order.pulls.iter().map(|pull| pull.reference.as_str()).collect();
                info!(pod = %order.name, node = %order.node, policy = %order.policy, ?images, "pull started");
            }
            Effect::DeletePod { pod, force, .. } => info!(%pod, force, "pull Pod deleted"),
            Effect::RecordNode { cache, settlements, evictions } => {
                let status = cache.status.as_ref();
                let ready = status.map(|status| status.ready.as_str()).unwrap_or_default();
                info!(node = %cache.name_any(), ready, settled = settlements.len(), evictions, "node recorded");
                self.resources.metrics.evicted(*evictions);
                for settlement in settlements {
                    self.resources.metrics.settled(settlement);
                }
            }
            Effect::PatchImage { image, status } => {
                let ready = status.conditions.first();
                let reason = ready.map(|ready| ready.reason.as_str()).unwrap_or_default();
                info!(%image, reason, ready = status.ready, "status written");
            }
            Effect::PatchPolicy { policy, status } => {
                info!(%policy, pulling = status.nodes_pulling, waiting = status.pulls_waiting, "status written");
            }
            Effect::CreateChild { set, child } => info!(%set, cachedimage = %child.name_any(), "CachedImage created"),
            Effect::UpdateChild { set, child, .. } => info!(%set, cachedimage = %child, "CachedImage changed"),
            Effect::DeleteChild { set, child, .. } => info!(%set, cachedimage = %child, "CachedImage deleted"),
            Effect::PatchSet { set, status } => {
                let ready = status.conditions.first();
                let reason = ready.map(|ready| ready.reason.as_str()).unwrap_or_default();
                info!(%set, reason, ready = status.ready, "status written");
            }
            Effect::PatchDiscovery { policy, status } => {
                let ready = status.conditions.first();
                let reason = ready.map(|ready| ready.reason.as_str()).unwrap_or_default();
                info!(%policy, reason, images = status.image_count, "status written");
            }
            Effect::Discover(order) => {
                if let Report::Discovered(discovered) = report {
                    self.answered(order, discovered);
                }
            }
            Effect::LookUp(inquiry) => {
                let image = &inquiry.reference;
                match report {
                    Report::LookedUp(LookedUp::Found(manifest)) => {
                        info!(%image, digest = %manifest.digest, "looked up at its registry");
                    }
                    Report::LookedUp(LookedUp::NotFound { message } | LookedUp::Unavailable { message, .. }) => {
                        warn!(%image, %message, "not looked up at its registry");
                    }
                    _ => debug!(%image, "unchanged at its registry"),
                }
            }
            Effect::CheckPod { pod } => debug!(%pod, ?report, "looked up"),
            Effect::Tell(_) => {}
        }
    }

    /// Logs and counts the answers of a policy's sources.
    fn answered(&self, order: &Order, discovered: &Discovered) {
        let policy = &order.policy;
        for (query, outcome) in order.pipeline.queries().iter().zip(&discovered.sources) {
            let (source, elapsed) = (&query.name, outcome.elapsed);
            self.resources.metrics.answered(policy, source, elapsed);
            match &outcome.result {
                Ok(images) => info!(%policy, source, images, %elapsed, "source asked"),
                Err(failure) => warn!(%policy, source, %failure, %elapsed, "source failed"),
            }
        }
    }
}

/// Whether an existing Pod is the one that `order` asks for.
fn is_ours(pod: &lean::Pod, order: &PodOrder) -> bool {
    let node = pod.spec.node_name.as_deref();
    let manager = pod.labels().get(LABEL_MANAGED_BY);
    node == Some(&order.node) && manager.is_some_and(|manager| manager == MANAGER)
}

fn being_deleted() -> Report {
    Report::Unknown("one of that name is being deleted".to_owned())
}

fn post() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

async fn patch_status<K>(api: &Api<K>, name: &str, status: &impl Serialize) -> Result<Report, kube::Error>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    // A merge patch keeps what it does not have: in statuses, absent values are null.
    let patch = Patch::Merge(serde_json::json!({ "status": status }));
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    api.patch_status(name, &params, &patch).await?;
    Ok(Report::Done)
}

#[cfg(test)]
mod tests {
    use drop_api::names::API_VERSION;
    use drop_core::notice::Notice;
    use serde_json::{Value, json};

    use super::*;
    use crate::fake::{Fake, Got, reply};

    /// Returns the report about `effect` if the API server gives these answers by the method of a request, and the
    /// number of requests.
    async fn report(effect: Effect, answers: &[(&str, u16, Value)]) -> (Report, usize) {
        drop(rustls::crypto::ring::default_provider().install_default());
        let answers: Vec<_> =
            answers.iter().map(|(method, status, body)| ((*method).to_owned(), *status, body.to_string())).collect();
        let server = Fake::start(move |got: &Got| {
            let (_, status, body) = answers.iter().find(|(method, ..)| *method == got.method).unwrap();
            reply(*status, &[("content-type", "application/json")], body.clone())
        })
        .await;
        let client = Client::try_from(kube::Config::new(server.url.parse().unwrap())).unwrap();
        let leadership = Leadership::unconditional();
        let limit = Duration::from_secs(30);
        let resources =
            Resources::new(client, "drop-system", None, Arc::new(Metrics::new()), leadership, limit, Limits::default());
        let (sender, mut reports) = mpsc::channel(1);
        Executor::new(&resources, sender).begin(effect);
        let Some(Event::Report(_, report)) = reports.recv().await else { panic!() };
        (report, server.got().len())
    }

    fn status(code: u16, reason: &str) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "so", "reason": reason, "code": code})
    }

    fn child(uid: &str, deleting: bool) -> CachedImage {
        serde_json::from_value(json!({
            "apiVersion": API_VERSION,
            "kind": "CachedImage",
            "metadata": {
                "name": "child",
                "uid": uid,
                "deletionTimestamp": deleting.then_some("2026-01-01T00:00:00Z"),
            },
            "spec": {"image": "alpine:3"},
        }))
        .unwrap()
    }

    fn create() -> Effect {
        Effect::CreateChild { set: "set".into(), child: Box::new(child("", false)) }
    }

    fn update() -> Effect {
        let spec = Box::new(child("", false).spec);
        Effect::UpdateChild { set: "set".into(), child: "child".into(), uid: "one".into(), spec, origin: None }
    }

    fn delete_pod() -> Effect {
        Effect::DeletePod { pod: "pod".into(), uid: Some("one".into()), force: false }
    }

    fn pod(uid: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", "uid": uid}})
    }

    fn json_of(child: &CachedImage) -> Value {
        serde_json::to_value(child).unwrap()
    }

    #[tokio::test]
    async fn a_child_that_is_being_deleted_is_not_the_sets() {
        let deleting = json_of(&child("one", true));
        let exists = ("POST", 409, status(409, "AlreadyExists"));
        for (effect, answers) in [
            (create(), vec![exists.clone(), ("GET", 200, deleting.clone())]),
            (update(), vec![("PATCH", 200, deleting)]),
        ] {
            let (report, _) = report(effect, &answers).await;
            assert!(matches!(&report, Report::Unknown(why) if why.contains("is being deleted")), "{report:?}");
        }
        let (report, _) = report(create(), &[exists, ("GET", 200, json_of(&child("one", false)))]).await;
        assert!(matches!(report, Report::Child(_)), "{report:?}");
    }

    #[tokio::test]
    async fn what_may_succeed_next_time_is_no_refusal() {
        let cases = [
            (408, "Timeout", false),
            (409, "Conflict", false),
            (429, "TooManyRequests", false),
            (500, "InternalError", false),
            (400, "BadRequest", true),
            (403, "Forbidden", true),
            (422, "Invalid", true),
        ];
        for (code, reason, is_refused) in cases {
            let (report, _) = report(create(), &[("POST", code, status(code, reason))]).await;
            assert_eq!(matches!(report, Report::Refused(_)), is_refused, "{code}: {report:?}");
            assert_eq!(matches!(report, Report::Unknown(_)), !is_refused, "{code}: {report:?}");
        }
    }

    #[tokio::test]
    async fn a_child_that_another_has_replaced_is_not_refused_its_spec() {
        let invalid = ("PATCH", 422, status(422, "Invalid"));
        let (report, _) = report(update(), &[invalid.clone(), ("GET", 200, json_of(&child("two", false)))]).await;
        assert!(matches!(report, Report::Unknown(_)), "{report:?}");
        let (report, _) = self::report(update(), &[invalid, ("GET", 200, json_of(&child("one", false)))]).await;
        assert!(matches!(report, Report::Refused(_)), "{report:?}");
    }

    #[tokio::test]
    async fn a_pod_whose_name_another_has_is_gone() {
        let conflict = ("DELETE", 409, status(409, "Conflict"));
        let gone = |report: &Report| matches!(report, Report::PodGone { uid: Some(uid) } if &**uid == "one");
        for (answer, expected) in
            [((200, pod("two")), true), ((404, status(404, "NotFound")), true), ((200, pod("one")), false)]
        {
            let (report, requests) = report(delete_pod(), &[conflict.clone(), ("GET", answer.0, answer.1)]).await;
            assert_eq!((gone(&report), requests), (expected, 2), "{report:?}");
        }
    }

    #[tokio::test]
    async fn a_notice_is_one_request() {
        let notice = Notice {
            kind: "CachedImage",
            name: "a".into(),
            uid: "uid".into(),
            is_warning: true,
            reason: "Evicted".to_owned(),
            message: "removed from a node".to_owned(),
        };
        let event = event(&notice, "drop-0", Timestamp::UNIX_EPOCH);
        let answers = [("POST", 201, serde_json::to_value(event).unwrap())];
        let (report, requests) = report(Effect::Tell(Box::new(notice)), &answers).await;
        assert!(matches!(report, Report::Done), "{report:?}");
        assert_eq!(requests, 1);
    }
}
