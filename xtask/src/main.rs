//! Tasks of this repository; see `cargo xtask --help`.

#![allow(clippy::print_stdout, reason = "a command-line tool talks to its user")]

mod bench;
mod cluster;
mod dashboard;
mod demo;
mod fuzz;
mod generate;
mod image;
mod operator;
mod reference;
mod test;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

/// Tasks of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Show Drop at work: a real cluster with two nodes, the operator and the quickstart.
    ///
    /// It needs Linux, root and Go. The first start builds Kubernetes, which takes about ten
    /// minutes on two cores; later ones take half a minute. Where something is missing it shows
    /// a simulated cluster instead, and says why.
    Demo(demo::Demo),
    /// Run all tests, those on a real cluster included.
    Test(test::Test),
    /// Try random clusters on virtual time, from a random seed on.
    Fuzz(fuzz::Fuzz),
    /// A real Kubernetes on this machine, without Docker: start it, end it.
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// The operator's container image as an OCI archive.
    ///
    /// It needs Rust's musl target and musl-gcc, which are installed where that is possible.
    Image(image::Image),
    /// Measure how good Drop's decisions are, and what they cost.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Write the files that are generated from the code.
    Gen,
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Demo(demo) => demo::run(&demo),
        Task::Test(test) => test::run(&test),
        Task::Fuzz(fuzz) => fuzz::run(&fuzz),
        Task::Cluster(command) => cluster::run(command),
        Task::Image(image) => image::run(&image),
        Task::Bench(bench) => bench::run(&bench),
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

/// The repository's root.
fn root() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    Ok(root.context("xtask lies in the repository's root")?.to_owned())
}
