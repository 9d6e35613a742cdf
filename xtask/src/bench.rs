//! `cargo xtask bench`: how good and how fast Drop's decisions are.

mod core;
mod fleet;
mod ranking;

use anyhow::Result;
use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// How much pull time each ranking saves on a synthetic CI fleet; writes the tables of docs/ranking.md.
    Ranking,
    /// How long plans take at 5,000 nodes and 500 images, and how much memory they need.
    Core,
}

pub(crate) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Ranking => ranking::run(),
        Bench::Core => core::run(),
    }
}
