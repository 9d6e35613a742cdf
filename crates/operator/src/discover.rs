//! The network side of discovery: asks Prometheus, Loki and registries. `drop_core::discovery` interprets their
//! answers.

mod at_most;
mod challenge;
mod client;
pub mod command;
mod complaint;
mod credentials;
mod docker_config;
mod fields;
#[cfg(test)]
mod foreign_text;
mod isolation;
mod left_alone;
mod link;
mod loki;
mod lookup;
mod manifest;
mod prometheus;
mod registry;
mod report;
mod retry_after;
mod run;
mod seat;
mod session;
#[cfg(test)]
mod shippers;
mod transport;

use drop_core::discovery::{Answer, Backend, SourceFailure, SourceReason};
use jiff::Timestamp;

pub use client::Limits;
#[cfg(test)]
pub use client::forget;
pub use credentials::{Credentials, check_authorities};
pub use isolation::end_with_panics;
pub use lookup::look_up;
pub use run::run;
pub use seat::Seat;

/// The longest name, in bytes. A longer text is no image, and no label that matters.
const MAX_NAME: usize = 1024;
/// The approximate memory that a name takes while it is processed, besides its own bytes.
const PER_NAME: usize = 256;
/// The longest message, in characters; the status allows as much.
const MAX_MESSAGE: usize = 1024;

/// The answer of a backend.
#[derive(Debug)]
pub struct Fetched {
    /// The data.
    pub answer: Answer,
    /// A note for people, such as warnings of the backend.
    pub note: Option<String>,
}

impl Fetched {
    /// An answer with several remarks.
    fn new(answer: Answer, remarks: impl IntoIterator<Item = String>) -> Self {
        let note = remarks.into_iter().reduce(|all, remark| format!("{all}; {remark}"));
        Self { answer, note: note.map(|note| note.chars().take(MAX_MESSAGE).collect()) }
    }
}

/// Asks one backend for its data up to `now`.
///
/// # Errors
/// The reason, and a message that names the host and no secret.
pub async fn fetch(
    backend: &Backend,
    credentials: &Credentials,
    now: Timestamp,
    limits: Limits,
    seat: &Seat,
) -> Result<Fetched, SourceFailure> {
    let answer = async {
        match backend {
            Backend::Prometheus(query) => prometheus::fetch(query, credentials, now, limits, seat).await,
            Backend::Loki(query) => loki::fetch(query, credentials, now, limits, seat).await,
            Backend::Registry(query) => {
                let answer = registry::fetch(query, credentials, limits, seat).await?;
                Ok(Fetched { answer, note: None })
            }
        }
    };
    let answer = tokio::select! {
        answer = answer => answer,
        () = seat.held_for(limits.query) => {
            let message = format!("not all is answered after {}s: ask for less", limits.query.as_secs());
            Err(SourceFailure::new(SourceReason::Timeout, message))
        }
    };
    answer.map_err(|failure| {
        // Secrets are removed before the message is cut, because a cut might leave a part of one.
        let message = credentials.redact(&failure.message, &[]).chars().take(MAX_MESSAGE).collect();
        SourceFailure { message, ..failure }
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use drop_api::discovery_policy::RegistryQuery;
    use futures::future::join_all;
    use serde_json::json;

    use super::credentials::secret;
    use super::seat::Room;
    use super::*;
    use crate::fake::{Fake, raw, reply};

    async fn failure(url: String, limits: Limits) -> SourceFailure {
        let query =
            RegistryQuery { url, repositories: vec!["a".to_owned()], max_scan: 100_000, ..RegistryQuery::default() };
        fetch(&Backend::Registry(query), &secret(&[]), Timestamp::UNIX_EPOCH, limits, &Seat::default())
            .await
            .unwrap_err()
    }

    #[tokio::test]
    async fn a_query_of_many_quick_answers_ends_in_time() {
        let backend = Fake::start(|got| {
            let page: u32 = got.parameter("page").map_or(0, |page| page.parse().unwrap());
            let link = format!("</more?page={}>; rel=next", page + 1);
            reply(200, &[("link", &link)], format!(r#"{{"tags":["{page}"]}}"#))
        })
        .await;
        let limits = Limits { query: Duration::from_millis(200), ..Limits::default() };
        let failure = failure(backend.url.clone(), limits).await;
        assert_eq!(failure.reason, SourceReason::Timeout);
        assert!(backend.got().len() > 1);
    }

    #[tokio::test]
    async fn a_query_of_many_refusals_ends_in_time() {
        // Each repository has one request; none of the answers has content.
        let backend = Fake::start(|_| reply(404, &[], r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#)).await;
        let repositories = (0..20_000).map(|at| format!("r{at}")).collect();
        let query = RegistryQuery { url: backend.url.clone(), repositories, max_scan: 10, ..RegistryQuery::default() };
        let limits = Limits { query: Duration::from_millis(100), ..Limits::default() };
        let (query, credentials, seat) = (Backend::Registry(query), secret(&[]), Seat::default());
        let asked = fetch(&query, &credentials, Timestamp::UNIX_EPOCH, limits, &seat);
        assert_eq!(asked.await.unwrap_err().reason, SourceReason::Timeout);
    }

    #[tokio::test]
    async fn an_answer_without_memory_is_asked_for_again_and_a_failure_needs_none() {
        let backend = Fake::start(|got| match got.target.starts_with("/v2/") {
            true => reply(200, &[], r#"{"tags":["1"]}"#),
            false => reply(404, &[], ""),
        })
        .await;
        let room = Box::leak(Box::new(Room::new(0)));
        let (credentials, limits) = (secret(&[]), Limits::default());
        let query = |url: &str| {
            let repositories = vec!["a".to_owned(), "b".to_owned()];
            let (url, max_scan) = (url.to_owned(), 1000);
            Backend::Registry(RegistryQuery { url, repositories, max_scan, ..RegistryQuery::default() })
        };
        let (there, elsewhere) = (query(&backend.url), query(&format!("{}/base", backend.url)));
        let (first, second) = (Seat::of(room), Seat::of(room));
        let large = first.answer().whole(1).await;
        let failure = fetch(&elsewhere, &credentials, Timestamp::UNIX_EPOCH, limits, &second).await.unwrap_err();
        assert_eq!(failure.reason, SourceReason::NotFound);
        let mut answer = Box::pin(fetch(&there, &credentials, Timestamp::UNIX_EPOCH, limits, &second));
        assert!(tokio::time::timeout(Duration::from_millis(100), &mut answer).await.is_err());
        drop((large, first));
        let answer = answer.await.unwrap().answer;
        assert!(matches!(answer, Answer::Tags(repositories) if repositories.len() == 2));
    }

    #[tokio::test]
    async fn slow_answers_delay_no_other() {
        let prometheus = |endpoint: String| {
            let query = json!({"endpoint": endpoint, "query": "up", "queryType": "instant"});
            Backend::Prometheus(serde_json::from_value(query).unwrap())
        };
        // The beginning of an answer, whose rest never comes.
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{";
        let hosts = [raw(head, false).await, raw(head, false).await, raw(head, false).await];
        let slow = hosts.map(|host| prometheus(format!("http://{host}")));
        let (credentials, limits) = (secret(&[]), Limits::default());
        let seats = [(); 3].map(|()| Seat::default());
        let slow = slow.iter().zip(&seats);
        let slow = slow.map(|(query, seat)| fetch(query, &credentials, Timestamp::UNIX_EPOCH, limits, seat));
        let mut slow = Box::pin(join_all(slow));
        assert!(tokio::time::timeout(Duration::from_millis(100), &mut slow).await.is_err());
        let body = r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#;
        let backend = Fake::start(move |_| reply(200, &[], body)).await;
        let (query, seat) = (prometheus(backend.url.clone()), Seat::default());
        let quick = fetch(&query, &credentials, Timestamp::UNIX_EPOCH, limits, &seat);
        tokio::select! {
            _ = &mut slow => panic!("what never ends has ended"),
            quick = quick => assert!(quick.is_ok()),
        }
    }

    #[tokio::test]
    async fn messages_fit_into_the_status() {
        let backend = Fake::start(|_| reply(404, &[], "")).await;
        let failure = failure(format!("{}/{}", backend.url, "p".repeat(2000)), Limits::default()).await;
        assert_eq!((failure.reason, failure.message.len()), (SourceReason::NotFound, MAX_MESSAGE));
    }
}
