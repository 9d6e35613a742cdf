//! Tasks of this repository; see `cargo xtask --help`.

#![allow(clippy::print_stdout, reason = "a command-line tool talks to its user")]

mod bench;
mod book;
mod cluster;
mod curve;
mod dashboard;
mod demo;
mod dev;
mod fuzz;
mod generate;
mod image;
mod interrupt;
mod operator;
mod reference;
mod svg;
mod test;
mod timeline;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

/// Tasks of this repository.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Task {
    /// Show Drop at work: a real cluster with two nodes, the operator and the quickstart.
    ///
    /// It needs Linux, root and Go. The first start builds Kubernetes, which takes about ten
    /// minutes on two cores; later ones take half a minute. Where something is missing it shows
    /// a simulated cluster instead, and says why.
    Demo(demo::Demo),
    /// Work on the operator: run it on a real cluster, and again after every change.
    ///
    /// It needs Linux, root and Go. Ctrl-C ends the operator and the cluster.
    Dev(dev::Dev),
    /// Run all tests, those on a real cluster included.
    Test(test::Test),
    /// Build Kubernetes and everything else that the tests start, as far as it is not built yet.
    ///
    /// It needs Linux, root and Go, and installs missing Debian packages. After a failure it goes
    /// on where it stopped.
    Tools(tools::Names),
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
    /// Build the documentation as a site, in target/book.
    Book,
    /// Write the files that are generated from the code.
    Gen,
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Demo(demo) => demo::run(&demo),
        Task::Dev(dev) => dev::run(&dev),
        Task::Test(test) => test::run(&test),
        Task::Tools(names) => tools::run(&names),
        Task::Fuzz(fuzz) => fuzz::run(&fuzz),
        Task::Cluster(command) => cluster::run(command),
        Task::Image(image) => image::run(&image),
        Task::Bench(bench) => bench::run(&bench),
        Task::Book => book::run(),
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::Task;

    #[test]
    fn the_tasks_of_the_documentation_are_understood() {
        let commands = drop_docs::commands("cargo").unwrap();
        let tasks = commands.iter().filter(|command| command.words.get(1).is_some_and(|word| word == "xtask"));
        assert!(tasks.clone().count() > 3, "{commands:#?}");
        for task in tasks {
            match Task::try_parse_from(&task.words[1..]) {
                Err(error) if error.use_stderr() => panic!("{task}: {error}"),
                _ => {}
            }
        }
    }
}
