//! `cargo xtask test`: everything that must hold before a change lands.

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
    if !test.offline {
        println!("==> the tools that tests start: cargo xtask tools");
        tools::build_all()?;
    }
    cargo("the code is formatted", &["fmt", "--all", "--check"])?;
    cargo("no lints", &["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"])?;
    cargo("tests without a cluster", &["test", "--workspace", "--exclude", "drop-e2e", "--quiet"])?;
    println!("==> the book: cargo xtask book");
    book::run()?;
    if test.offline {
        return Ok(());
    }
    let servers = ["test", "--package", "drop-testbed", "--tests", "--", "--ignored"];
    cargo("tests of real servers", &servers)?;
    cargo("tests on a real cluster", &["test", "--package", "drop-e2e"])?;
    println!("==> the demo: cargo xtask demo --exit");
    demo::real(operator::free_address()?, true)
}

/// Runs cargo for a step that is named by what it shows.
fn cargo(what: &str, arguments: &[&str]) -> Result<()> {
    println!("==> {what}: cargo {}", arguments.join(" "));
    let status = drop_testbed::cargo().args(arguments).current_dir(root()?).status().context("cannot run cargo")?;
    ensure!(status.success(), "failed: cargo {}", arguments.join(" "));
    Ok(())
}
