//! `/healthz`, `/readyz`, `/metrics` and `/debug/plan`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use drop_core::explain::Explanation;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::engine::Query;
use crate::guard::{self, Guard};
use crate::lease::Leadership;
use crate::metrics::Metrics;

/// What the handlers answer from.
#[derive(Clone)]
pub struct Context {
    /// Whether every watch has synced.
    pub ready: Arc<AtomicBool>,
    /// The engine's questions.
    pub queries: mpsc::Sender<Query>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// Whether this replica works.
    pub leadership: Leadership,
}

/// What `/debug/plan` answers.
#[derive(Serialize)]
struct Look {
    /// Whether this replica works; a standby does not know what is refused.
    leads: bool,
    /// Why every missing image is missing.
    images: Vec<Explanation>,
}

/// The paths that are served: probes to everybody, the others to those whom the guard lets pass.
pub fn router(context: Context, guard: Option<Guard>) -> Router {
    let mut guarded = Router::new().route("/metrics", get(metrics)).route("/debug/plan", get(debug_plan));
    if let Some(guard) = guard {
        guarded = guarded.route_layer(from_fn_with_state(Arc::new(guard), guard::check));
    }
    guarded.route("/healthz", get(healthz)).route("/readyz", get(readyz)).with_state(context)
}

/// Alive as long as the engine answers.
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
    let Some(summary) = context.ask(Query::Summarize).await else { return not_running() };
    let leads = context.leadership.is_held() && summary.is_synced;
    match context.metrics.encode(&summary, leads) {
        Ok(text) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn debug_plan(State(context): State<Context>) -> Response {
    let Some(images) = context.ask(Query::Explain).await else { return not_running() };
    match serde_json::to_string_pretty(&Look { leads: context.leadership.is_held(), images }) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn not_running() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the engine is not running").into_response()
}

impl Context {
    /// The engine's answer; `None` where it has ended.
    async fn ask<T>(&self, query: fn(oneshot::Sender<T>) -> Query) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.queries.send(query(reply)).await.ok()?;
        answer.await.ok()
    }
}
