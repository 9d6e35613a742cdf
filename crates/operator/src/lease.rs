//! The Lease that lets one replica write.
//!
//! The protocol is client-go's: whoever holds the Lease renews it; whoever sees
//! it unchanged for its whole duration, by the own clock, takes it. Updates carry
//! the resource version, so that of two only one succeeds.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drop_api::names::MANAGER;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::patience::{cause, patient};

/// The Lease's name.
const NAME: &str = "drop";

/// How long a Lease lasts, and the steps within.
#[derive(Clone, Copy, Debug)]
pub struct Durations {
    /// For how long the others respect it.
    pub lease: Duration,
}

impl Durations {
    /// How long after a renewal the next one follows.
    fn retry(self) -> Duration {
        self.lease / 3
    }

    /// For how long after a renewal the holder relies on it. A request that is
    /// begun by then ends before the Lease does: see [`Durations::request`].
    fn reliance(self) -> Duration {
        self.lease * 2 / 3
    }

    /// The time limit of one request.
    pub fn request(self) -> Duration {
        self.lease / 3
    }
}

/// Whether this process may write; shared by all who do.
#[derive(Clone, Debug)]
pub struct Leadership {
    /// Until when it may; `None` while it does not lead.
    until: watch::Sender<Option<Instant>>,
}

impl Leadership {
    /// Not leading.
    pub fn new() -> Self {
        Self { until: watch::Sender::new(None) }
    }

    /// Leading for ever, without a Lease.
    pub fn unconditional() -> Self {
        let far = Instant::now() + Duration::from_secs(100 * 365 * 24 * 3600);
        Self { until: watch::Sender::new(Some(far)) }
    }

    /// Whether this process may write now.
    pub fn is_held(&self) -> bool {
        self.until.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Gives it up.
    pub fn resign(&self) {
        self.until.send_replace(None);
    }

    /// Waits until it may.
    pub async fn gained(&self) {
        // The sender is `self`: it cannot be gone.
        drop(self.until.subscribe().wait_for(Option::is_some).await);
    }

    /// Waits until it may no longer, although it did.
    pub async fn lost(&self) {
        let mut changes = self.until.subscribe();
        loop {
            let until = *changes.borrow_and_update();
            match until {
                None => drop(changes.changed().await),
                Some(until) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(until.into()) => {}
                        _ = changes.changed() => continue,
                    }
                    if !self.is_held() {
                        self.resign();
                        return;
                    }
                }
            }
        }
    }
}

/// A replica that wants to lead.
pub struct Candidate {
    api: Api<Lease>,
    identity: Arc<str>,
    durations: Durations,
    leadership: Leadership,
}

/// What a candidate has seen of the Lease.
struct Seen {
    lease: Lease,
    /// When to renew it, or to take it over, by this process's clock.
    act_at: Instant,
}

impl Candidate {
    /// A candidate for the Lease in `namespace`. `identity` tells replicas apart.
    pub fn new(client: Client, namespace: &str, identity: &str, durations: Durations, leadership: Leadership) -> Self {
        Self { api: Api::namespaced(client, namespace), identity: identity.into(), durations, leadership }
    }

    /// Takes the Lease when it is free, and renews it, for ever.
    pub async fn run(&self) {
        let mut seen: Option<Seen> = None;
        let mut changes = pin!(patient(watch_object(self.api.clone(), NAME), "Lease".to_owned()));
        loop {
            let act_at = seen.as_ref().map(|seen| seen.act_at);
            tokio::select! {
                change = changes.next() => match change {
                    Some(Ok(lease)) => self.notice(&mut seen, lease.unwrap_or_default()),
                    Some(Err(error)) => warn!(error = cause(&error), "the Lease cannot be watched: tried again"),
                    None => return,
                },
                () = sleep_until(act_at) => {
                    let lease = seen.take().map(|seen| seen.lease).unwrap_or_default();
                    seen = Some(self.act(lease).await);
                }
            }
        }
    }

    /// Takes in what the watch shows.
    fn notice(&self, seen: &mut Option<Seen>, lease: Lease) {
        match seen {
            // What this replica wrote itself comes back late.
            Some(seen) if self.is_ours(&seen.lease) && self.is_ours(&lease) => {}
            Some(seen) if renewal(&seen.lease) == renewal(&lease) => seen.lease = lease,
            _ => *seen = Some(self.see(lease)),
        }
    }

    /// The Lease, seen for the first time as it is now.
    fn see(&self, lease: Lease) -> Seen {
        let wait = match holder(&lease) {
            None | Some("") => Duration::ZERO,
            Some(holder) if *holder == *self.identity => self.durations.retry(),
            // Replicas may be configured differently while they are replaced.
            Some(_) => self.durations.lease.max(duration(&lease)),
        };
        Seen { lease, act_at: Instant::now() + wait }
    }

    /// Takes or renews the Lease.
    async fn act(&self, lease: Lease) -> Seen {
        match tokio::time::timeout(self.durations.request(), self.take(lease.clone())).await {
            Ok(Ok(lease)) => return self.see(lease),
            // Another was faster, or the answer to an earlier renewal was lost.
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
            Ok(Err(error)) => warn!(error = cause(&error), "the Lease cannot be written: tried again"),
            Err(_) => warn!("the Lease cannot be written: no answer; tried again"),
        }
        let now = tokio::time::timeout(self.durations.request(), self.api.get_opt(NAME)).await;
        let now = now.ok().and_then(Result::ok).map(Option::unwrap_or_default);
        match now {
            Some(now) if !self.is_ours(&now) && renewal(&now) != renewal(&lease) => self.see(now),
            now => Seen { lease: now.unwrap_or(lease), act_at: Instant::now() + self.durations.retry() / 5 },
        }
    }

    /// Gives the Lease up, if this replica holds it, so that another need not wait.
    pub async fn release(&self) {
        let released = async {
            let mut lease = self.api.get(NAME).await?;
            if self.is_ours(&lease) {
                if let Some(spec) = &mut lease.spec {
                    spec.holder_identity = Some(String::new());
                    spec.lease_duration_seconds = Some(1);
                }
                self.api.replace(NAME, &params(), &lease).await?;
                info!("lease released");
            }
            Ok::<_, kube::Error>(())
        };
        match tokio::time::timeout(self.durations.request(), released).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(error = cause(&error), "the Lease cannot be released: it runs out by itself"),
            Err(_) => warn!("the Lease cannot be released: it runs out by itself"),
        }
    }

    /// Writes the Lease as this replica's, renewed now.
    async fn take(&self, mut lease: Lease) -> Result<Lease, kube::Error> {
        let began = Instant::now();
        let now = MicroTime(Timestamp::now());
        let renews = self.is_ours(&lease);
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        if !renews {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions =
                Some(spec.lease_transitions.map_or(0, |transitions| transitions.saturating_add(1)));
        }
        spec.holder_identity = Some(self.identity.to_string());
        // Rounded up: the others may wait longer, but not less.
        spec.lease_duration_seconds = i32::try_from(self.durations.lease.as_millis().div_ceil(1000)).ok();
        spec.renew_time = Some(now);
        let lease = if lease.metadata.resource_version.is_some() {
            self.api.replace(NAME, &params(), &lease).await?
        } else {
            lease.metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
            self.api.create(&params(), &lease).await?
        };
        if self.leadership.until.send_replace(Some(began + self.durations.reliance())).is_none() {
            info!(identity = &*self.identity, "leading");
        }
        Ok(lease)
    }

    fn is_ours(&self, lease: &Lease) -> bool {
        holder(lease) == Some(&*self.identity)
    }
}

fn params() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref())
}

/// How long the holder wants it to be respected.
fn duration(lease: &Lease) -> Duration {
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    Duration::from_secs(seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or_default())
}

/// What changes with every renewal.
fn renewal(lease: &Lease) -> (Option<&str>, Option<&MicroTime>) {
    (holder(lease), lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref()))
}

/// Ends at `at`, or never.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
