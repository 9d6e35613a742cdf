//! A small cluster on virtual time.
//!
//! [`Lab`] drives a [`World`](drop_core::World) as the operator does, against a simulated API server, kubelets and
//! registries, and keeps its own [`Record`] of all events. After every plan it checks the plan (`audit`, the same plan
//! twice, no effect twice, a wake-up in the future). At every request it checks the promises of the specification from
//! its own record: caps, delays, no repeated pull, consistent statuses. A broken promise is a [`Violation`] in
//! [`Lab::violations`].
//!
//! These parts do not depend on the planner:
//!
//! - the lab's API server, kubelets, disks, network and registries;
//! - the checks of caps, delays and repetitions at each creation (`check.rs`). They count from the record alone, with
//!   two exceptions: they trust the planner about which Pods begin a turn, and use its code to find out which
//!   registries a Pod is still pulling from and when a Pod is given up;
//! - the recounts of pacing (`pacing.rs`) and of fairness (`fairness.rs`), which trust no other code;
//! - the lists of DiscoveryPolicies (`sources.rs`), made anew from the answers of their sources;
//! - the check of a cluster at rest (`rest.rs`), which compares statuses with the simulated disks.
//!
//! There is no clock, and no randomness but [`Rng`], so the same seed gives the same events.

mod agenda;
mod api;
mod ask;
mod check;
mod disk;
mod fairness;
mod knobs;
mod kubelet;
mod lab;
mod lookups;
pub mod manifest;
mod pacing;
mod process;
mod pulls;
mod record;
mod requests;
mod rest;
mod rng;
pub mod scenario;
pub mod schema;
mod sources;
mod trouble;
mod users;

pub use api::{Api, LivePod};
pub use knobs::{Fate, Knobs, Machine};
pub use kubelet::{Kubelet, Pass};
pub use lab::{Lab, Violation};
pub use pulls::{Bandwidth, Registry};
pub use record::{Created, Record, Success};
pub use rng::Rng;
pub use trouble::{Failure, Outcome, Trouble};
pub use users::under;

use jiff::SignedDuration;

/// Returns a duration of this many seconds.
#[must_use]
pub fn secs(secs: f64) -> SignedDuration {
    SignedDuration::from_secs_f64(secs)
}
