//! The client for the API server.

use std::time::Duration;

use anyhow::Context as _;
use http::header::{HeaderValue, USER_AGENT};
use http::{Method, Request, Uri};
use kube::client::ClientBuilder;
use kube::{Client, Config};
use tower::util::MapRequestLayer;

/// The operator's name in the API server's audit log.
const NAME: &str = concat!("drop/", env!("CARGO_PKG_VERSION"));

/// Makes a client for the cluster of the kubeconfig or the service account. It passes each request to `count`, and
/// requests fail when the API server is silent for `max_silence`.
///
/// # Errors
/// If neither exists, or its credentials are not usable.
pub async fn client<F>(count: F, max_silence: Duration) -> anyhow::Result<Client>
where
    F: Fn(&Method, &Uri) + Clone + Send + Sync + 'static,
{
    // One provider serves the whole process; a second call may fail.
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut config =
        Config::infer().await.context("no cluster: set KUBECONFIG, or run in a Pod with a service account")?;
    end_silence(&mut config, max_silence);
    config.headers.push((USER_AGENT, HeaderValue::from_static(NAME)));
    // The plan repeats each failed effect, with the knowledge of that time.
    config.default_retry = false;
    let count = MapRequestLayer::new(move |request: Request<_>| {
        count(request.method(), request.uri());
        request
    });
    Ok(ClientBuilder::try_from(config)
        .context("the cluster's address or credentials cannot be used")?
        .with_layer(&count)
        .build())
}

/// Ends connections on which the API server has been silent for `after` since a request. The watcher's own limit is
/// five minutes, and only applies to watches that have begun: lists, and requests for a watch, have none.
pub fn end_silence(config: &mut Config, after: Duration) {
    config.read_timeout = Some(after);
    // Counted from the request, not from when its connection fell idle.
    config.reset_reader_on_write = true;
}

/// Returns the Pod of this process, by its host name; `drop` outside of a Pod.
pub fn pod_name() -> String {
    std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "drop".to_owned())
}
