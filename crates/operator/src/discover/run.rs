//! One run of a DiscoveryPolicy by the operator.

use std::collections::BTreeMap;

use drop_core::discovery::{Discovered, Measured, Order, Query, SourceFailure, SourceOutcome, SourceReason};
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::{Credentials, Limits, fetch};

/// Asks all sources of a policy side by side, with the Secrets of the pod namespace, and
/// ranks what they name.
pub async fn run(order: &Order, secrets: &Api<Secret>, limits: Limits) -> Discovered {
    let now = Timestamp::now();
    let queries = order.pipeline.queries().iter().enumerate();
    let asked = join_all(queries.map(|(at, query)| async move {
        let began = Timestamp::now();
        let measured = measure(order, at, query, secrets, now, limits).await;
        (Timestamp::now().duration_since(began), measured)
    }));
    let asked: Vec<(SignedDuration, Result<Measured, SourceFailure>)> = asked.await;
    let measured: Vec<_> = asked.iter().map(|(_, measured)| measured.as_ref().ok()).collect();
    let images = order.pipeline.rank(&measured, |_| order.nodes).images;
    let sources = asked
        .into_iter()
        .map(|(elapsed, measured)| SourceOutcome { elapsed, result: measured.map(|measured| measured.image_count()) });
    Discovered { spec: order.spec.clone(), sources: sources.collect(), images }
}

async fn measure(
    order: &Order,
    at: usize,
    query: &Query,
    secrets: &Api<Secret>,
    now: Timestamp,
    limits: Limits,
) -> Result<Measured, SourceFailure> {
    let credentials = match &query.secret {
        None => Credentials::none()?,
        Some(name) => Credentials::from_secret(&secret(name, secrets).await?)?,
    };
    let answer = fetch(&query.backend, &credentials, now, limits).await?;
    let pipeline = order.pipeline.clone();
    // An answer may hold millions of samples: other tasks go on meanwhile.
    let measured = tokio::task::spawn_blocking(move || pipeline.measure(at, answer, now)).await;
    measured.map_err(|error| SourceFailure {
        reason: SourceReason::InvalidResponse,
        message: format!("the answer could not be evaluated: {error}"),
    })
}

/// The data of a Secret.
async fn secret(name: &str, secrets: &Api<Secret>) -> Result<BTreeMap<String, Vec<u8>>, SourceFailure> {
    let failure = |message: String| SourceFailure { reason: SourceReason::SecretNotFound, message };
    let found = secrets.get_opt(name).await.map_err(|error| failure(format!("Secret {name}: {error}")))?;
    let secret =
        found.ok_or_else(|| failure(format!("there is no Secret {name} in the pod namespace: create it there")))?;
    Ok(secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect())
}
