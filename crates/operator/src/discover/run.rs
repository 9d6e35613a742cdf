//! One run of a DiscoveryPolicy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drop_core::discovery::{Discovered, Measured, Order, Pipeline, Query, SourceFailure, SourceOutcome, SourceReason};
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::{Credentials, Limits, Seat, fetch};

/// What a query measured, and how long that took.
pub type Asked = (SignedDuration, Result<Measured, SourceFailure>);

/// Asks all queries of `pipeline` side by side, each with its credentials.
pub async fn ask(
    pipeline: &Arc<Pipeline>,
    credentials: Vec<Result<Credentials, SourceFailure>>,
    now: Timestamp,
    limits: Limits,
) -> Vec<Asked> {
    let queries = pipeline.queries().iter().zip(credentials).enumerate();
    let asked = queries.map(|(at, (query, credentials))| async move {
        let began = Instant::now();
        let measured = async { measure(pipeline, at, query, &credentials?, now, limits).await };
        let measured = measured.await;
        (SignedDuration::try_from(began.elapsed()).unwrap_or(SignedDuration::MAX), measured)
    });
    join_all(asked).await
}

async fn measure(
    pipeline: &Arc<Pipeline>,
    at: usize,
    query: &Query,
    credentials: &Credentials,
    now: Timestamp,
    limits: Limits,
) -> Result<Measured, SourceFailure> {
    let seat = Seat::default();
    let fetched = fetch(&query.backend, credentials, now, limits, &seat).await?;
    let pipeline = pipeline.clone();
    // An answer may hold millions of samples: other tasks go on meanwhile.
    let measure = move || {
        let measured = Measured { note: fetched.note, ..pipeline.measure(at, fetched.answer, now) };
        drop(seat);
        measured
    };
    let measured = tokio::task::spawn_blocking(measure).await;
    measured.map_err(|error| SourceFailure {
        reason: SourceReason::InvalidResponse,
        message: format!("the answer could not be evaluated: {error}"),
    })
}

/// Asks all sources of a policy, with the Secrets of the pod namespace, and ranks what
/// they name.
pub async fn run(order: &Order, secrets: &Api<Secret>, limits: Limits) -> Discovered {
    let credentials = order.pipeline.queries().iter().map(|query| async {
        match &query.secret {
            None => Credentials::none(),
            Some(name) => Credentials::from_secret(&secret(name, secrets, limits.request).await?),
        }
    });
    let credentials = join_all(credentials).await;
    let asked = ask(&order.pipeline, credentials, Timestamp::now(), limits).await;
    let measured: Vec<_> = asked.iter().map(|(_, measured)| measured.as_ref().ok()).collect();
    let images = order.pipeline.rank(&measured, |_| order.nodes).images;
    let sources = asked.into_iter().map(|(elapsed, measured)| SourceOutcome {
        elapsed,
        note: measured.as_ref().ok().and_then(|measured| measured.note.clone()),
        result: measured.map(|measured| measured.image_count()),
    });
    Discovered { spec: order.spec.clone(), sources: sources.collect(), images }
}

/// The data of a Secret, which is waited for no longer than `limit`: the cluster's
/// client would wait for ever.
async fn secret(
    name: &str,
    secrets: &Api<Secret>,
    limit: Duration,
) -> Result<BTreeMap<String, Vec<u8>>, SourceFailure> {
    let failure = |message: String| SourceFailure { reason: SourceReason::SecretNotFound, message };
    let found = tokio::time::timeout(limit, secrets.get_opt(name)).await.map_err(|_| SourceFailure {
        reason: SourceReason::Timeout,
        message: format!("Secret {name}: no answer of the API server within {limit:?}"),
    })?;
    let found = found.map_err(|error| failure(format!("Secret {name}: {error}")))?;
    let secret =
        found.ok_or_else(|| failure(format!("there is no Secret {name} in the pod namespace: create it there")))?;
    Ok(secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::raw;

    #[tokio::test]
    async fn a_secret_is_not_waited_for_without_end() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let mute = raw(b"", false).await;
        let client = kube::Client::try_from(kube::Config::new(format!("http://{mute}").parse().unwrap())).unwrap();
        let secrets = Api::namespaced(client, "drop-system");
        let failure = secret("login", &secrets, Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(failure.reason, SourceReason::Timeout);
        assert!(failure.message.starts_with("Secret login: "), "{failure}");
    }
}
