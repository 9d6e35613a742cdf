//! Runs a DiscoveryPolicy once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drop_core::discovery::{Discovered, Measured, Order, Pipeline, Query, SourceFailure, SourceOutcome, SourceReason};
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::isolation::{isolated, on_a_thread};
use super::{Credentials, Limits, Seat, fetch};

/// The duration of a query, and its values.
pub type Asked = (SignedDuration, Result<Measured, SourceFailure>);

/// Asks all queries of `pipeline` concurrently, each with its credentials.
pub async fn ask(
    pipeline: &Arc<Pipeline>,
    credentials: Vec<Result<Credentials, SourceFailure>>,
    now: Timestamp,
    limits: Limits,
) -> Vec<Asked> {
    let queries = pipeline.queries().iter().zip(credentials).enumerate();
    let asked = queries.map(|(at, (query, credentials))| async move {
        let began = Instant::now();
        let measured = isolated(async { measure(pipeline, at, query, &credentials?, now, limits).await }).await;
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
    // An answer may hold millions of samples; other tasks go on meanwhile.
    let measure = move || {
        let measured = pipeline.measure(at, fetched.answer, now);
        let measured = Measured { note: fetched.note.or(measured.note.clone()), ..measured };
        drop(seat);
        measured
    };
    on_a_thread(measure).await
}

/// Asks all sources of a policy, with the Secrets of the pod namespace, and ranks the images that they name.
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
    let images = order.pipeline.rank(&measured, |_| order.nodes, &order.listed).images;
    let sources = asked.iter().map(|(elapsed, measured)| SourceOutcome::new(*elapsed, measured));
    Discovered { spec: order.spec.clone(), sources: sources.collect(), images }
}

/// Checks that a Secret may be sent to a source. Tokens of ServiceAccounts are for the API server only, and a user who
/// may write a DiscoveryPolicy could send them anywhere.
///
/// # Errors
/// `SecretNotFound`.
pub fn check_type(name: &str, type_: Option<&str>) -> Result<(), SourceFailure> {
    match type_ {
        Some(type_ @ ("kubernetes.io/service-account-token" | "bootstrap.kubernetes.io/token")) => {
            let message = format!("Secret {name} is of type {type_}, which no source gets: make one of type Opaque");
            Err(SourceFailure::new(SourceReason::SecretNotFound, message))
        }
        _ => Ok(()),
    }
}

/// Returns the data of a Secret that a source names.
///
/// # Errors
/// Those of [`get`], and if the Secret [must not be sent](check_type).
async fn secret(
    name: &str,
    secrets: &Api<Secret>,
    limit: Duration,
) -> Result<BTreeMap<String, Vec<u8>>, SourceFailure> {
    let secret = get(name, secrets, limit).await?;
    check_type(name, secret.type_.as_deref())?;
    Ok(data(secret))
}

/// Reads a Secret within `limit`: the cluster's client would wait for ever.
///
/// # Errors
/// `SecretNotFound`, or `Timeout` of the API server.
pub async fn get(name: &str, secrets: &Api<Secret>, limit: Duration) -> Result<Secret, SourceFailure> {
    let failure = |message: String| SourceFailure::new(SourceReason::SecretNotFound, message);
    let found = tokio::time::timeout(limit, secrets.get_opt(name)).await.map_err(|_| {
        let message = format!("Secret {name}: no answer of the API server within {limit:?}");
        SourceFailure::new(SourceReason::Timeout, message)
    })?;
    let found = found.map_err(|error| failure(format!("Secret {name}: {error}")))?;
    found.ok_or_else(|| failure(format!("there is no Secret {name} in the pod namespace: create it there")))
}

/// Returns the data of a Secret.
pub fn data(secret: Secret) -> BTreeMap<String, Vec<u8>> {
    secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect()
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
