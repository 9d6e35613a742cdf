//! `cargo xtask test`: everything that must hold before a change lands.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{book, demo, operator, root, tools};

#[derive(Args)]
pub(crate) struct Test {
    /// Leave out what needs a real cluster, and with it root and Go.
    #[arg(long)]
    offline: bool,
}

pub(crate) fn run(test: &Test) -> Result<()> {
    let operator = if test.offline {
        None
    } else {
        println!("==> the tools that tests start: cargo xtask tools");
        Some(tools::build_all()?)
    };
    cargo("the code is formatted", &["fmt", "--all", "--check"])?;
    cargo("no lints", &["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"])?;
    cargo("tests without a cluster", &["test", "--workspace", "--exclude", "drop-e2e", "--quiet"])?;
    println!("==> the book: cargo xtask book");
    book::run()?;
    let Some(operator) = operator else { return Ok(()) };
    let servers = ["test", "--package", "drop-testbed", "--tests", "--", "--ignored"];
    cargo("tests of real servers", &servers)?;
    let cluster = ["test", "--package", "drop-e2e"];
    run_cargo("tests on a real cluster", drop_testbed::cargo().args(cluster).env("DROP_BINARY", operator))?;
    println!("==> the demo: cargo xtask demo --exit");
    demo::real(operator::free_address()?, true)
}

/// Runs cargo for a step that is named by what it shows.
fn cargo(what: &str, arguments: &[&str]) -> Result<()> {
    run_cargo(what, drop_testbed::cargo().args(arguments))
}

fn run_cargo(what: &str, command: &mut Command) -> Result<()> {
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    let arguments = arguments.join(" ");
    println!("==> {what}: cargo {arguments}");
    let status = command.current_dir(root()?).status().context("cannot run cargo")?;
    ensure!(status.success(), "failed: cargo {arguments}");
    Ok(())
}
