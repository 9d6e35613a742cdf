//! `cargo xtask tools`: everything that tests start and that is not Drop itself.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use drop_testbed::Tools;

use crate::{book, operator};

#[derive(Args)]
pub(crate) struct Names {
    /// Build only these projects of crates/testbed/tools, such as kubernetes or prometheus.
    names: Vec<String>,
}

pub(crate) fn run(Names { names }: &Names) -> Result<()> {
    if names.is_empty() {
        return build_all().map(drop);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Tools::build(&names, &say).map(drop)
}

/// Builds and downloads all that the tests need, so that none of them has to wait for a compiler or
/// a download; says how long it took. Returns the path of the operator's binary.
pub(crate) fn build_all() -> Result<PathBuf> {
    let began = Instant::now();
    Tools::build(&Tools::all().collect::<Vec<_>>(), &say)?;
    say("downloading the definitions of other projects");
    drop_testbed::download_definitions()?;
    book::mdbook()?;
    say("building the operator");
    let operator = operator::build()?;
    say(&format!("all tools are there after {} s", began.elapsed().as_secs()));
    Ok(operator)
}

fn say(line: &str) {
    println!("==> {line}");
}
