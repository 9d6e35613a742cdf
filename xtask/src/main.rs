//! Tasks of this repository; see `cargo xtask --help`.

mod cluster;
mod generate;

use std::process::ExitCode;

use clap::Parser;

/// Tasks of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// A real Kubernetes on this machine, without Docker: start it, end it.
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Write the files that are generated from the code.
    Gen,
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Cluster(command) => cluster::run(command),
        Task::Gen => generate::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
