//! `drop operator`: puts the parts together and runs them until told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use kube::client::ClientBuilder;
use kube::{Client, Config};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tower::util::MapRequestLayer;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::answers::Query;
use crate::cli::{LogFormat, OperatorArgs};
use crate::discover::check_authorities;
use crate::engine::Engine;
use crate::execute::{Executor, Resources};
use crate::guard::Guard;
use crate::lease::{Candidate, Durations, Leadership};
use crate::metrics::Metrics;
use crate::observe::observe;
use crate::{http, listen};

/// How the operator names itself in the API server's audit log.
const USER_AGENT: &str = concat!("drop/", env!("CARGO_PKG_VERSION"));
/// How long the operator may take to end what was begun when it is told to stop.
const GRACE: Duration = Duration::from_secs(8);
/// How many events may wait for the engine before the watches are held up.
const EVENTS: usize = 1024;

/// Runs the operator until SIGTERM or SIGINT.
pub fn run(args: &OperatorArgs) -> anyhow::Result<()> {
    init_log(args)?;
    check_authorities()?;
    // The loop and the watches stay on this thread, all others have the other one.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(serve(args))
}

fn init_log(args: &OperatorArgs) -> anyhow::Result<()> {
    // What the client says of failed requests is said again by whoever sent them.
    let directives = format!("kube_client=off,{}", args.log_level);
    let filter = EnvFilter::try_new(directives)
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
    let client = client(&metrics, args.max_silence()).await?;
    let certificate = args.serving.certificate()?;
    let listener =
        TcpListener::bind(&*args.listen).await.with_context(|| format!("cannot listen on any of {:?}", args.listen))?;
    info!(version = env!("CARGO_PKG_VERSION"), listen = %listener.local_addr()?, "started");

    let lease = Duration::try_from(args.lease_duration.get())?.max(Duration::from_secs(3));
    let durations = Durations { lease };
    let leadership = if args.leader_election { Leadership::new() } else { Leadership::unconditional() };
    let candidate = Candidate::new(client.clone(), &args.pod_namespace, &identity(), durations, leadership.clone());
    let (queries, mut questions) = mpsc::channel(8);
    let ready = Arc::new(AtomicBool::new(false));
    let context = http::Context {
        ready: ready.clone(),
        queries,
        metrics: metrics.clone(),
        leadership: leadership.clone(),
        pages: Arc::default(),
    };
    let router = http::router(context, args.serving.metrics_auth.then(|| Guard::new(client.clone())));
    // On the other thread, so that a plan that takes long holds up neither.
    let mut others = JoinSet::new();
    others.spawn(listen::serve(listener, certificate, router));
    let candidate = Arc::new(candidate);
    if args.leader_election {
        let candidate = candidate.clone();
        others.spawn(async move { candidate.run().await });
    }
    let class = args.pod_priority_class.as_deref();
    let resources = Resources::new(
        client,
        &args.pod_namespace,
        class,
        metrics,
        leadership.clone(),
        durations.request(),
        args.limits(),
    );
    tokio::select! {
        () = lead(args, &resources, &ready, &mut questions) => {}
        Some(ended) = others.join_next() => ended?,
        stopped = stop_signal() => stopped?,
    }
    // Nothing more is begun; what was begun ends before another may lead.
    others.shutdown().await;
    let led = leadership.resign();
    let released = async {
        resources.idle().await;
        if led && args.leader_election {
            candidate.release().await;
        }
    };
    if tokio::time::timeout(GRACE, released).await.is_err() {
        warn!("requests are still under way: the Lease runs out by itself");
    }
    Ok(())
}

/// Keeps up with the cluster, and works on it while the Lease is held. When it is
/// lost all is forgotten: somebody else may have gone on from there.
async fn lead(
    args: &OperatorArgs,
    resources: &Resources,
    ready: &Arc<AtomicBool>,
    queries: &mut mpsc::Receiver<Query>,
) {
    loop {
        let (events, inbox) = mpsc::channel(EVENTS);
        let executor = Executor::new(resources, events.clone());
        let (relist, relists) = watch::channel(());
        let engine = Engine::new(args.settings(), inbox, queries, executor.clone(), resources, ready.clone(), relist);
        tokio::select! {
            () = observe(resources.client.clone(), args.pod_namespace.clone(), events, relists) => {}
            () = engine.run() => {}
        }
        warn!("the Lease is lost: starting over as a standby");
        ready.store(false, Ordering::Relaxed);
        // What was begun must have ended before it is looked what there is.
        executor.retire();
        resources.idle().await;
    }
}

/// What tells this process from every other one.
fn identity() -> String {
    format!("{}_{}_{}", pod_name(), std::process::id(), jiff::Timestamp::now().as_nanosecond())
}

/// The Pod that this process runs in, by its host name; `drop` outside of one.
pub fn pod_name() -> String {
    std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "drop".to_owned())
}

async fn client(metrics: &Arc<Metrics>, max_silence: Duration) -> anyhow::Result<Client> {
    // One provider for the whole process; that it is set already is no error.
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut config =
        Config::infer().await.context("no cluster: set KUBECONFIG, or run in a Pod with a service account")?;
    end_silence(&mut config, max_silence);
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

/// Lets connections end over which the API server has said nothing for so long although it was
/// asked. The watcher's own limit is five minutes, and holds for watches that have begun: lists,
/// and requests for a watch, have none.
pub fn end_silence(config: &mut Config, after: Duration) {
    config.read_timeout = Some(after);
    // Counted from the request, not from when its connection fell idle.
    config.reset_reader_on_write = true;
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
