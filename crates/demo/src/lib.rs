//! Drop's planner on a simulated cluster: a demo for machines that cannot run a real one, and an
//! answer to "how long would my roll-out take with this policy?".
//!
//! [`drop_sim::Lab`] is the cluster. Here are the objects that it begins with ([`Story`]), the
//! tables that `kubectl get` would show ([`table`]), where they are shown ([`view`]), and real
//! time, to which virtual time is tied if one likes to watch ([`run`]).

mod args;
mod rest;
mod run;
mod story;
mod summary;
mod table;
mod view;

pub use args::{Args, Pace};
pub use run::{record, run};
pub use story::Story;
