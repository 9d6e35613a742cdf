//! Serves `/healthz`, `/readyz`, `/metrics` and `/debug/plan`.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query as Params, State};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use drop_core::Name;
use drop_core::explain::Which;
use drop_core::survey::Overview;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::answers::Query;
use super::guard::{self, Guard};
use crate::leadership::Leadership;
use crate::metrics::Metrics;

/// The state that the handlers share.
#[derive(Clone)]
pub struct Context {
    /// Whether every watch has synced.
    pub ready: Arc<AtomicBool>,
    /// Questions to the engine.
    pub queries: mpsc::Sender<Query>,
    /// The operator's metrics.
    pub metrics: Arc<Metrics>,
    /// Whether this replica leads.
    pub leadership: Leadership,
    /// The last answers of `/metrics` and `/debug/plan`.
    pub pages: Arc<[Page; 2]>,
}

/// The answer of `/debug/plan`.
#[derive(Serialize)]
struct Look<I> {
    /// Whether this replica leads. A standby does not know which requests the API server has denied.
    leads: bool,
    /// The images, with the verdicts of missing ones.
    images: I,
}

/// The parameters of `/debug/plan`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Particulars {
    cachedimage: Option<Name>,
    node: Option<Name>,
}

/// Makes the router. Every client may read the probes; the guard, if there is one, decides about the other paths.
pub fn router(context: Context, guard: Option<Guard>) -> Router {
    let mut guarded = Router::new().route("/metrics", get(metrics)).route("/debug/plan", get(debug_plan));
    if let Some(guard) = guard {
        guarded = guarded.route_layer(from_fn_with_state(Arc::new(guard), guard::check));
    }
    guarded.route("/healthz", get(healthz)).route("/readyz", get(readyz)).with_state(context)
}

/// Succeeds as long as the engine answers.
async fn healthz(State(context): State<Context>) -> Response {
    match context.ask(Query::Ping).await {
        Some(()) => "ok".into_response(),
        None => not_running(),
    }
}

async fn readyz(State(context): State<Context>) -> Response {
    if context.ready.load(Ordering::Relaxed) {
        "ok".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "waiting for the watches to sync").into_response()
    }
}

async fn metrics(State(context): State<Context>) -> Response {
    let [page, _] = &*context.pages;
    let write = |overview: &Overview, leads| {
        let summary = &overview.summary;
        context.metrics.encode(summary, leads && summary.is_synced).map(String::into_bytes)
    };
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    context.show(page, content_type, write).await
}

/// Answers with an overview, or with the pairs of one image or node.
async fn debug_plan(State(context): State<Context>, Params(asked): Params<Particulars>) -> Response {
    if asked.cachedimage.is_none() && asked.node.is_none() {
        let [_, page] = &*context.pages;
        let write = |overview: &Overview, leads| serde_json::to_vec(&Look { leads, images: &overview.images });
        return context.show(page, JSON, write).await;
    }
    let which = Which { cached_image: asked.cachedimage, node: asked.node };
    match context.ask(|reply| Query::Explain(which, reply)).await {
        Some(Ok(images)) => {
            let text = serde_json::to_vec(&Look { leads: context.leadership.is_held(), images });
            text.map_or_else(failed, |text| ([(header::CONTENT_TYPE, JSON)], text).into_response())
        }
        Some(Err(unknown)) => (StatusCode::NOT_FOUND, unknown.to_string()).into_response(),
        None => not_running(),
    }
}

const JSON: &str = "application/json";

fn not_running() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the engine is not running").into_response()
}

fn failed(error: impl Display) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
}

/// The text of the last overview, encoded once for all clients.
#[derive(Default)]
pub struct Page(Mutex<Option<Written>>);

/// The overview that was encoded, whether this replica led, and the text.
type Written = (Arc<Overview>, bool, Bytes);

impl Page {
    fn of<E>(
        &self,
        overview: Arc<Overview>,
        leads: bool,
        write: impl FnOnce(&Overview, bool) -> Result<Vec<u8>, E>,
    ) -> Result<Bytes, E> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((of, led, text)) if Arc::ptr_eq(of, &overview) && *led == leads => Ok(text.clone()),
            _ => {
                let text = Bytes::from(write(&overview, leads)?);
                *last = Some((overview, leads, text.clone()));
                Ok(text)
            }
        }
    }
}

impl Context {
    /// Answers with the page of the newest overview.
    async fn show<E: Display>(
        &self,
        page: &Page,
        content_type: &'static str,
        write: impl FnOnce(&Overview, bool) -> Result<Vec<u8>, E>,
    ) -> Response {
        let Some(overview) = self.ask(Query::Survey).await else { return not_running() };
        let text = page.of(overview, self.leadership.is_held(), write);
        text.map_or_else(failed, |text| ([(header::CONTENT_TYPE, content_type)], text).into_response())
    }

    /// Asks the engine; `None` if it has ended.
    async fn ask<T>(&self, query: impl FnOnce(oneshot::Sender<T>) -> Query) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.queries.send(query(reply)).await.ok()?;
        answer.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use drop_api::CachedImage;
    use drop_core::event::Kind;
    use drop_core::image::Image;
    use drop_core::node::Node;
    use drop_core::{Event, Settings, World};
    use jiff::Timestamp;
    use serde_json::{Value, json};
    use tower::ServiceExt as _;

    use super::super::answers::{Answers, ROWS};
    use super::*;

    /// Makes a world with this many images and nodes, in which no node has any image.
    fn world(images: usize, nodes: usize) -> World {
        let (mut world, now) = (World::new(Settings::default()), Timestamp::now());
        for kind in Kind::ALL {
            world.apply(Event::Listed(kind, [].into()), now);
        }
        for number in 0..nodes {
            let name: Name = format!("n{number}").into();
            let node = Node { name: name.clone(), uid: name, platform: "linux/amd64".into(), ..Node::default() };
            world.apply(Event::Node(Box::new(node)), now);
        }
        for number in 0..images {
            let name = format!("i{number}");
            let image = json!({
                "apiVersion": "drop.corewire.io/v1alpha1", "kind": "CachedImage",
                "metadata": { "name": name, "uid": name },
                "spec": { "image": format!("registry.example.com/{name}"), "tag": "1" },
            });
            let image: CachedImage = serde_json::from_value(image).unwrap();
            world.apply(Event::Image(Box::new(Image::from_api(&image).unwrap()), Box::default()), now);
        }
        world
    }

    /// Makes the routes of a replica that knows this world.
    fn served(mut world: World) -> Router {
        let (queries, mut questions) = mpsc::channel(8);
        tokio::spawn(async move {
            let mut answers = Answers::new();
            loop {
                tokio::select! {
                    query = questions.recv() => match query {
                        Some(query) => answers.take(query),
                        None => return,
                    },
                    () = answers.due() => answers.step(&mut world),
                }
            }
        });
        let context = Context {
            ready: Arc::default(),
            queries,
            metrics: Arc::new(Metrics::new()),
            leadership: Leadership::unconditional(),
            pages: Arc::default(),
        };
        router(context, None)
    }

    async fn get(router: &Router, path: &str) -> (u16, String) {
        let request = ::http::Request::builder().uri(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn plan(router: &Router, query: &str) -> Value {
        let (status, text) = get(router, &format!("/debug/plan{query}")).await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    #[tokio::test]
    async fn a_plan_groups_nodes_and_does_not_grow_with_them() {
        let few = get(&served(world(20, 10)), "/debug/plan").await.1.len();
        let router = served(world(20, 2000));
        let many = get(&router, "/debug/plan").await.1.len();
        assert!(many < few + few / 2, "{few} bytes for 10 nodes, {many} for 2000");
        let plan = plan(&router, "").await;
        assert_eq!((plan["leads"].as_bool(), plan["images"].as_array().map(Vec::len)), (Some(true), Some(20)));
        let image = &plan["images"][0];
        assert_eq!((&image["cachedImage"], &image["cached"]), (&json!("i0"), &json!(0)));
        let nodes = image["verdicts"].as_array().unwrap().iter().map(|group| group["nodes"].as_u64().unwrap());
        assert_eq!(nodes.sum::<u64>(), 2000, "{image}");
        assert_eq!(image["verdicts"][0]["examples"].as_array().unwrap().len(), 3, "{image}");
    }

    #[tokio::test]
    async fn particulars_of_an_image_and_of_a_node_are_bounded() {
        let router = served(world(20, 2000));
        let rows = |plan: &Value| {
            let images = plan["images"].as_array().unwrap().iter();
            images.map(|image| image["nodes"].as_array().unwrap().len()).collect::<Vec<_>>()
        };
        assert_eq!(rows(&plan(&router, "?cachedimage=i3").await), [ROWS]);
        assert_eq!(rows(&plan(&router, "?node=n7").await), [1; 20]);
        let pair = plan(&router, "?node=n7&cachedimage=i3").await;
        assert_eq!((rows(&pair), &pair["images"][0]["nodes"][0]["node"]), (vec![1], &json!("n7")));
        for (query, status, why) in [
            ("?cachedimage=nope", 404, r#"there is no CachedImage called "nope""#),
            ("?node=nope", 404, r#"there is no node called "nope""#),
            ("?image=i3", 400, "unknown field `image`"),
        ] {
            let (got, text) = get(&router, &format!("/debug/plan{query}")).await;
            assert_eq!((got, text.contains(why)), (status, true), "{query}: {text}");
        }
    }

    #[tokio::test]
    async fn what_waits_is_counted_over_all_nodes() {
        let text = get(&served(world(30, 1000)), "/metrics").await.1;
        let waiting = text.lines().filter(|line| line.starts_with("drop_waiting_pulls{"));
        let waiting: u64 = waiting.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
        assert_eq!(waiting, 30_000, "{text}");
    }
}
