//! `cargo xtask bench`: how good Drop's decisions are, and what they cost.

mod core;
mod fleet;
mod joins;
mod lab;
mod plan_time;
mod ranking;
mod requests;
mod scale;
mod start;
mod usage;

use std::fs;

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::root;

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// How much pull time each ranking saves on a synthetic CI fleet; writes the tables of docs/ranking.md.
    Ranking,
    /// What the operator costs on up to 5,000 nodes without machines; writes the table of docs/scale.md.
    ///
    /// It needs Linux, root and Go, as the demo does.
    Scale(scale::Scale),
    /// How soon 100 nodes that join within a second get their first Pod; writes the table of docs/scale.md.
    ///
    /// It needs Linux, root and Go, as the demo does.
    Joins,
    /// How long the operator takes from its start until it is ready at 5,000 nodes, and how much memory; writes the
    /// table of docs/scale.md.
    ///
    /// It needs Linux, root and Go, as the demo does.
    Start,
    /// How long plans take at 5,000 nodes and 500 images, and how much memory they need; writes the table of
    /// docs/scale.md.
    Core,
}

pub(crate) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Ranking => ranking::run(),
        Bench::Scale(scale) => scale::run(scale),
        Bench::Joins => joins::run(),
        Bench::Start => start::run(),
        Bench::Core => core::run(),
    }
}

/// Writes `table` between `marks` of a page of the docs.
fn write_table(page: &str, marks: [&str; 2], table: &str) -> Result<()> {
    let path = root()?.join(page);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {page}"))?;
    let text = with_table(&text, marks, table).with_context(|| page.to_owned())?;
    fs::write(&path, text).with_context(|| format!("cannot write {page}"))
}

/// `page` with `table` between the marks.
fn with_table(page: &str, [start, end]: [&str; 2], table: &str) -> Result<String> {
    let parts = page.split_once(start).and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
    let (before, after) = parts.context("the marks of the table are missing")?;
    Ok(format!("{before}{start}{table}{end}{after}"))
}
