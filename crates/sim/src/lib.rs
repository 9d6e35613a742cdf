//! A small cluster on virtual time.
//!
//! [`Lab`] drives a [`World`](drop_core::World) the way the operator does, against a
//! simulated API server, kubelets and registries, and keeps its own [`Record`] of what
//! happened. After every plan it checks the plan (`audit`, the same plan twice, nothing twice, a
//! wake-up in the future), and at every request it checks, from its own record, what the
//! specification promises: caps, delays, nothing pulled twice, statuses that make sense.
//! What does not hold is a [`Violation`], kept in [`Lab::violations`].
//!
//! What is independent of the planner: the lab's API server, kubelets, disks, network and
//! registries; the checks of caps, delays and repetitions at each creation (`check.rs`),
//! which recount from the record alone, except that they take the planner's word for which
//! Pods begin a turn, and its code for which registries a Pod is still pulling from and when
//! a Pod is given up; the recount of pacing (`pacing.rs`) and of who loses to whom (`fairness.rs`), which take nobody's
//! word; the lists of
//! DiscoveryPolicies (`sources.rs`), made anew from what their sources answer; and the look at a
//! cluster at rest (`rest.rs`), which compares statuses with the simulated disks.
//!
//! There is no clock and no randomness but [`Rng`], so whatever is made from a seed
//! happens again in the same way.

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

/// A duration of so many seconds.
#[must_use]
pub fn secs(secs: f64) -> SignedDuration {
    SignedDuration::from_secs_f64(secs)
}
