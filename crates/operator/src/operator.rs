//! `drop operator`: puts the parts together and runs them until told to stop.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use kube::client::ClientBuilder;
use kube::{Client, Config};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tower::util::MapRequestLayer;
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::cli::{LogFormat, OperatorArgs};
use crate::engine::Engine;
use crate::execute::Executor;
use crate::http;
use crate::metrics::Metrics;
use crate::observe::observe;

/// How the operator names itself in the API server's audit log.
const USER_AGENT: &str = concat!("drop/", env!("CARGO_PKG_VERSION"));
/// How many events may wait for the engine before the watches are held up.
const EVENTS: usize = 1024;
/// How long requests under way may take when the operator is told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the operator until SIGTERM or SIGINT.
pub fn run(args: &OperatorArgs) -> anyhow::Result<()> {
    init_log(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(args))
}

fn init_log(args: &OperatorArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&args.log_level)
        .with_context(|| format!("--log-level {:?}: write a level such as info or debug", args.log_level))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match args.log_format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.init(),
    }
    Ok(())
}

async fn serve(args: &OperatorArgs) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::new());
    let client = client(&metrics).await?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    info!(version = env!("CARGO_PKG_VERSION"), listen = %listener.local_addr()?, "started");

    let (events, inbox) = mpsc::channel(EVENTS);
    let (queries, questions) = mpsc::channel(8);
    let ready = Arc::new(AtomicBool::new(false));
    let namespace = &args.pod_namespace;
    let class = args.pod_priority_class.as_deref();
    let executor = Executor::new(client.clone(), namespace, class, events.clone(), metrics.clone());
    let engine = Engine::new(args.settings(), inbox, questions, executor.clone(), metrics.clone(), ready.clone());
    let router = http::router(http::Context { ready, queries, metrics });

    tokio::select! {
        () = observe(client, namespace.clone(), events) => {}
        () = engine.run() => {}
        served = axum::serve(listener, router) => served.context("the HTTP server failed")?,
        stopped = stop_signal() => stopped?,
    }
    // The engine plans nothing any more; what was begun may come to its end.
    info!("stopping");
    drop(tokio::time::timeout(GRACE, executor.idle()).await);
    Ok(())
}

async fn client(metrics: &Arc<Metrics>) -> anyhow::Result<Client> {
    // One provider for the whole process; that it is set already is no error.
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut config =
        Config::infer().await.context("no cluster: set KUBECONFIG, or run in a Pod with a service account")?;
    config.headers.push((::http::header::USER_AGENT, ::http::HeaderValue::from_static(USER_AGENT)));
    // Every effect is tried again by plan, with what is known by then.
    config.default_retry = false;
    let metrics = metrics.clone();
    let count = MapRequestLayer::new(move |request: ::http::Request<_>| {
        metrics.requested(request.method(), request.uri());
        request
    });
    Ok(ClientBuilder::try_from(config)
        .context("the cluster's address or credentials cannot be used")?
        .with_layer(&count)
        .build())
}

/// Ends when the process is told to stop.
async fn stop_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
