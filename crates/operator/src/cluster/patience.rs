//! Retries watches. A failed watch is retried after a growing wait; a silent watch is resumed at once.

use std::error::Error;
use std::future::ready;
use std::io;
use std::time::Duration;

use anyhow::Chain;
use drop_core::backoff::Backoff;
use futures::{Stream, StreamExt};
use jiff::SignedDuration;
use kube::runtime::utils::{self, ResetTimerBackoff};
use kube::runtime::{WatchStreamExt, watcher};

/// A full list is a heavy request for an API server in trouble. But Drop must notice soon that the server has
/// recovered.
const BACKOFF: Backoff = Backoff { initial: SignedDuration::from_secs(1), max: SignedDuration::from_secs(15) };
/// A failure this long after the previous one starts with the first wait again.
const FORGET_AFTER: Duration = Duration::from_secs(120);

/// Returns the same watch, which waits after each failure: longer with each failure in a row. Every other event ends
/// the row, so `watch` must not contain events about attempts. `who` gives each watch waits of its own.
pub fn patient<T>(
    watch: impl Stream<Item = Result<T, watcher::Error>>,
    who: String,
) -> impl Stream<Item = Result<T, watcher::Error>> {
    let row = Row { who, failures: 0 };
    watch.filter(|event| ready(!is_silence(event))).backoff(ResetTimerBackoff::new(row, FORGET_AFTER))
}

/// Returns the innermost cause of an error, without the layers around it.
pub fn cause(error: &(dyn Error + 'static)) -> String {
    Chain::new(error).last().map(ToString::to_string).unwrap_or_default()
}

/// Whether a watch has ended because the API server was silent. The watcher resumes it at the same place.
fn is_silence<T>(event: &Result<T, watcher::Error>) -> bool {
    let Err(watcher::Error::WatchFailed(error)) = event else { return false };
    Chain::new(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).any(is_timeout)
}

fn is_timeout(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut
}

/// The failures in a row of one watch.
struct Row {
    who: String,
    failures: u32,
}

impl Iterator for Row {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        Some(BACKOFF.delay(self.failures, &self.who).unsigned_abs())
    }
}

impl utils::Backoff for Row {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::body::Body;
    use drop_api::PullPolicy;
    use kube::{Api, Client, Config};

    use super::super::client::end_silence;
    use super::*;
    use crate::fake::{Fake, Got, reply};

    #[tokio::test]
    async fn a_list_that_falls_silent_fails_and_a_watch_is_resumed() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let lists = Arc::new(AtomicUsize::new(0));
        let server = Fake::start(move |got: &Got| {
            let is_list = !got.target.contains("watch=true");
            if is_list && lists.fetch_add(1, Ordering::Relaxed) > 0 {
                let list = r#"{"apiVersion":"v1","kind":"List","metadata":{"resourceVersion":"7"},"items":[]}"#;
                return reply(200, &[], list);
            }
            reply(200, &[], Body::from_stream(futures::stream::pending::<io::Result<Vec<u8>>>()))
        })
        .await;
        let mut config = Config::new(server.url.parse().unwrap());
        end_silence(&mut config, Duration::from_millis(50));
        let policies: Api<PullPolicy> = Api::all(Client::try_from(config).unwrap());
        let mut events = Box::pin(patient(watcher(policies, watcher::Config::default()), "Policy".to_owned()));
        let mut told = Vec::new();
        let watches = || server.got().iter().filter(|got| got.target.contains("resourceVersion=7")).count();
        let resumed = async {
            while watches() < 3 {
                tokio::select! {
                    Some(event) = events.next() => told.push(event),
                    () = tokio::time::sleep(Duration::from_millis(10)) => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), resumed).await.expect("nothing ends the silence");
        use watcher::Event::{Init, InitDone};
        let expected =
            matches!(&told[..], [Ok(Init), Err(watcher::Error::InitialListFailed(_)), Ok(Init), Ok(InitDone)]);
        assert!(expected, "{told:?}");
    }
}
