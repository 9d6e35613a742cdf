//! Discovery's network side: asks Prometheus, Loki and registries. What their answers
//! mean is for `drop_core::discovery` to say.

mod client;
mod credentials;
mod fields;
mod link;
mod loki;
mod prometheus;
mod registry;
mod transport;

#[cfg(test)]
mod fake;

use drop_core::discovery::{Answer, Backend, SourceFailure, SourceReason};
use jiff::Timestamp;

pub use client::Limits;
pub use credentials::Credentials;

/// Asks one backend for what there is up to `now`.
///
/// # Errors
/// With the reason and a message that names the host and no secret.
pub async fn fetch(
    backend: &Backend,
    credentials: &Credentials,
    now: Timestamp,
    limits: Limits,
) -> Result<Answer, SourceFailure> {
    let answer = async {
        match backend {
            Backend::Prometheus(query) => prometheus::fetch(query, credentials, now, limits).await,
            Backend::Loki(query) => loki::fetch(query, credentials, now, limits).await,
            Backend::Registry(query) => registry::fetch(query, credentials, limits).await,
        }
    };
    tokio::time::timeout(limits.query, answer).await.unwrap_or_else(|_| {
        let message = format!("not all is answered after {}s: ask for less", limits.query.as_secs());
        Err(SourceFailure { reason: SourceReason::Timeout, message })
    })
}
