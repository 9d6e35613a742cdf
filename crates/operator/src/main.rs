//! The `drop` binary.
//!
//! A module only uses modules of lines above its own, so that each line can be read without those below it:
//!
//! 1. `clock`: the clock of this process's decisions
//! 2. `cluster`, `leadership`, `metrics`: connects to the API server, holds whether this process may write, and counts
//!    events
//! 3. `discover`: asks the sources of DiscoveryPolicies
//! 4. `watch`, `act`, `serve`: turns changes in the cluster into events, carries out effects as requests, and answers
//!    HTTP requests
//! 5. `engine`: the only loop, which plans
//! 6. `cli`: flags and environment variables
//! 7. `operator`: puts the parts together and runs them
//!
//! `tests/layers.rs` reads this list and checks the imports.

mod act;
mod cli;
mod clock;
mod cluster;
mod discover;
mod engine;
#[cfg(test)]
mod fake;
mod leadership;
mod metrics;
mod operator;
mod serve;
mod watch;

use clap::Parser;

fn main() -> anyhow::Result<()> {
    discover::end_with_panics();
    let cli = cli::Cli::parse();
    match cli.command {
        cli::Command::Operator(args) => operator::run(&args),
        cli::Command::Discover(args) => discover::command::run(&args),
        #[cfg(feature = "demo")]
        cli::Command::Demo(args) => drop_demo::run(&args),
    }
}
