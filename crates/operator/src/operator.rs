//! `drop operator`: puts the parts together and runs them until SIGTERM or SIGINT.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::act::lease::{Candidate, Durations};
use crate::act::{Executor, Resources};
use crate::cli::{LogFormat, OperatorArgs};
use crate::cluster::client::{client, pod_name};
use crate::discover::check_authorities;
use crate::engine::Engine;
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::serve::answers::Query;
use crate::serve::guard::Guard;
use crate::serve::{http, listen};
use crate::watch::observe;

/// How long the operator may take, after SIGTERM, to finish its requests and to release the Lease.
const GRACE: Duration = Duration::from_secs(8);
/// The most events that wait for the engine. With more, the watches wait.
const EVENTS: usize = 1024;

/// Runs the operator until SIGTERM or SIGINT.
pub fn run(args: &OperatorArgs) -> anyhow::Result<()> {
    init_log(args)?;
    check_authorities()?;
    // The loop and the watches stay on this thread; everything else runs on the worker thread.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(serve(args))
}

fn init_log(args: &OperatorArgs) -> anyhow::Result<()> {
    // The callers log failed requests; the client would log them a second time.
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
    let counting = metrics.clone();
    let client = client(move |method, uri| counting.requested(method, uri), args.max_silence()).await?;
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
    // On the worker thread, so that a long plan delays neither answers nor renewals of the Lease.
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
    // No new request begins, and those under way end before another replica may lead.
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

/// Follows the cluster, and works on it while this process leads. When it loses the Lease, it forgets its state and
/// starts over, because another replica may have continued from there.
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
        // The next engine must not list objects while requests of this one are under way.
        executor.retire();
        resources.idle().await;
    }
}

/// Returns a name for this process that no other process has, not even a later one in the same Pod.
fn identity() -> String {
    format!("{}_{}_{}", pod_name(), std::process::id(), jiff::Timestamp::now().as_nanosecond())
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
