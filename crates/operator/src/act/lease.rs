//! The Lease that lets one replica write.
//!
//! The leader renews the Lease every third of its duration. It starts requests for two thirds of the duration after it
//! sent its last successful renewal, and a request takes at most the last third. So one duration after a renewal no
//! request of the leader is under way, even if the leader cannot reach the API server.
//!
//! A replica begins to lead by replacing one exact version of the Lease: the API server denies the request if the Lease
//! has changed since. A replica may replace a version in three cases, and in each of them no other replica writes:
//!
//! 1. The replica leads already, and the version names it or no holder.
//! 2. The version is released: its holder has written it after the holder's last request had ended.
//! 3. The replica has known the version for a whole duration, by its own clock. The replica that led when the version
//!    was written has not renewed since.
//!
//! A Lease that was deleted does not show its holder, and the holder may rely on it for a while longer. A leader
//! creates it again and goes on. Any other replica creates it without a holder, and then waits as in case 3, so that
//! `kubectl delete lease drop` never makes a second leader. The price: if there has never been a Lease, the first
//! replica leads after one duration.
//!
//! By these rules a leader sees another holder only if a user edits the Lease, or if replicas with different rules
//! share it. It resigns at that moment: as soon as the watch shows the other holder, or the API server denies its own
//! renewal because of it.
//!
//! The rules do not cover clocks of replicas that run at different speeds, a Lease that a user marks as released (no
//! holder, and a duration of one second), nor a request that the network holds back and delivers after the leader has
//! given it up: the API server has no way to tell it from one that is sent in time.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use drop_api::names::MANAGER;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use crate::clock::Deadline;
use crate::cluster::patience::{cause, patient};
use crate::leadership::Leadership;

/// The Lease's name.
const NAME: &str = "drop";
/// The duration of a released Lease, in seconds; client-go writes the same.
const RELEASED: i32 = 1;

/// How long a Lease lasts, and the steps within.
#[derive(Clone, Copy, Debug)]
pub struct Durations {
    /// How long a standby waits for a silent leader.
    pub lease: Duration,
}

impl Durations {
    /// Returns how long the leader starts requests after it sent a renewal.
    fn reliance(self) -> Duration {
        self.lease * 2 / 3
    }

    /// Returns the time limit of one request. A renewal begins so early that it ends, at the latest, when the previous
    /// one can no longer be relied on.
    pub fn request(self) -> Duration {
        self.lease / 3
    }

    /// Returns the pause between two attempts at the same request.
    fn retry(self) -> Duration {
        self.lease / 15
    }
}

/// A replica that wants to lead.
pub struct Candidate {
    api: Api<Lease>,
    identity: Arc<str>,
    durations: Durations,
    leadership: Leadership,
}

/// A candidate's knowledge of the Lease, and when the candidate may act on it.
struct Known {
    /// The newest version. A Lease that does not exist has no resource version, and keeps its last contents.
    lease: Lease,
    /// When this replica may replace or create it.
    act_at: Instant,
}

impl Candidate {
    /// Makes a candidate for the Lease in `namespace`. `identity` distinguishes replicas.
    pub fn new(client: Client, namespace: &str, identity: &str, durations: Durations, leadership: Leadership) -> Self {
        Self { api: Api::namespaced(client, namespace), identity: identity.into(), durations, leadership }
    }

    /// Takes the Lease as soon as the rules allow it, and renews it, for ever.
    pub async fn run(&self) {
        let mut known: Option<Known> = None;
        let mut changes = pin!(patient(watch_object(self.api.clone(), NAME), "Lease".to_owned()));
        loop {
            let act_at = known.as_ref().map(|known| known.act_at);
            tokio::select! {
                change = changes.next() => match change {
                    Some(Ok(found)) => self.notice(&mut known, found),
                    Some(Err(error)) => warn!(error = cause(&error), "the Lease cannot be watched: tried again"),
                    None => return,
                },
                // Without a version there is nothing to do until the watch shows one.
                () = sleep_until(act_at.unwrap_or_else(Instant::now)), if act_at.is_some() => {
                    if let Some(Known { lease, .. }) = known.take() {
                        known = Some(self.act(lease).await);
                    }
                }
            }
        }
    }

    /// Records the version that the watch shows, unless an answer has already shown a newer one.
    fn notice(&self, known: &mut Option<Known>, found: Option<Lease>) {
        let before = known.take();
        *known = Some(match (before, found) {
            (Some(before), Some(found)) if version(&found) <= version(&before.lease) => before,
            (_, Some(found)) => self.assess(found),
            (before, None) => self.assess(gone(before.map(|before| before.lease).unwrap_or_default())),
        });
    }

    /// Resigns if a new version requires it, and decides when this replica may act on the version.
    fn assess(&self, lease: Lease) -> Known {
        let now = Instant::now();
        let held_until = self.leadership.held_until();
        let act_at = match (holder(&lease), held_until) {
            _ if version(&lease).is_none() || is_released(&lease) => now,
            ("", Some(_)) => now,
            (holder, Some(until)) if *holder == *self.identity => {
                until.checked_sub(self.durations.request()).unwrap_or(now)
            }
            // The holder may also be this replica: it no longer led when it saw this version, so another replica may
            // have led since.
            (holder, _) => {
                if self.leadership.resign() {
                    warn!(holder, "another replica holds the Lease: resigned");
                }
                now + self.respect(&lease)
            }
        };
        Known { lease, act_at }
    }

    /// Returns how long the writer of this version may rely on it. Replicas may have different configurations during an
    /// upgrade.
    fn respect(&self, lease: &Lease) -> Duration {
        let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        let duration = Duration::from_secs(seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or_default());
        self.durations.lease.max(duration)
    }

    /// Writes the Lease. If that fails, reads whether it has changed.
    async fn act(&self, lease: Lease) -> Known {
        match timeout(self.durations.request(), self.write(lease.clone())).await {
            Ok(Ok(lease)) => return self.assess(lease),
            // It has changed, or exists by now.
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
            Ok(Err(error)) => warn!(error = cause(&error), "the Lease cannot be written: tried again"),
            Err(_) => warn!("the Lease cannot be written: no answer; tried again"),
        }
        let again_at = Instant::now() + self.durations.retry();
        match timeout(self.durations.request(), self.api.get_opt(NAME)).await {
            Ok(Ok(Some(found))) if version(&found) != version(&lease) => {
                let known = self.assess(found);
                Known { act_at: known.act_at.max(again_at), ..known }
            }
            Ok(Ok(None)) => Known { lease: gone(lease), act_at: again_at },
            // This replica may still replace the same version: no other replica has written since.
            _ => Known { lease, act_at: again_at },
        }
    }

    /// Replaces the Lease, and so begins or continues to lead. Creates it if it does not exist; this makes a replica
    /// lead only if it led before.
    async fn write(&self, mut lease: Lease) -> Result<Lease, kube::Error> {
        let began = Deadline::now();
        let exists = version(&lease).is_some();
        let leads = exists || self.leadership.is_held();
        let (now, respect) = (MicroTime(Timestamp::now()), self.respect(&lease));
        let is_new = holder(&lease) != &*self.identity;
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        if leads && is_new {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions =
                Some(spec.lease_transitions.map_or(0, |transitions| transitions.saturating_add(1)));
        }
        spec.holder_identity = leads.then(|| self.identity.to_string());
        // Other replicas may wait longer, but not less. So the duration is rounded up, and a deleted Lease keeps its
        // own.
        let duration = if leads { self.durations.lease } else { respect };
        spec.lease_duration_seconds = i32::try_from(duration.as_millis().div_ceil(1000)).ok();
        spec.renew_time = Some(now);
        let lease = if exists {
            self.api.replace(NAME, &params(), &lease).await?
        } else {
            self.api.create(&params(), &lease).await?
        };
        if leads && self.leadership.extend(began.after(self.durations.reliance())) {
            info!(identity = &*self.identity, "leading");
        }
        Ok(lease)
    }

    /// Releases the Lease, so that a standby need not wait. Only for a leader that has resigned, after its last request
    /// has ended.
    pub async fn release(&self) {
        let released = async {
            let mut lease = self.api.get(NAME).await?;
            if holder(&lease) == &*self.identity {
                if let Some(spec) = &mut lease.spec {
                    spec.holder_identity = Some(String::new());
                    spec.lease_duration_seconds = Some(RELEASED);
                }
                self.api.replace(NAME, &params(), &lease).await?;
                info!("lease released");
            }
            Ok::<_, kube::Error>(())
        };
        match timeout(self.durations.request(), released).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(error = cause(&error), "the Lease cannot be released: it runs out by itself"),
            Err(_) => warn!("the Lease cannot be released: it runs out by itself"),
        }
    }
}

fn params() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

/// Returns the resource version, which grows with each change; `None` if the Lease does not exist.
fn version(lease: &Lease) -> Option<u64> {
    lease.metadata.resource_version.as_ref().map(|version| version.parse().unwrap_or_default())
}

/// Returns the same Lease as it is after its deletion.
fn gone(lease: Lease) -> Lease {
    Lease { metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() }, ..lease }
}

/// Returns the holder of the Lease; empty if it has none.
fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

/// Whether the last holder has given the Lease up.
fn is_released(lease: &Lease) -> bool {
    let duration = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    holder(lease).is_empty() && duration == Some(RELEASED)
}

#[cfg(test)]
mod tests;
