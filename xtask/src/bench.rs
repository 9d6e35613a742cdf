//! `cargo xtask bench`: how good Drop's decisions are.

mod fleet;
mod ranking;

use anyhow::Result;
use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// How much pull time each ranking saves on a synthetic CI fleet; writes the tables of docs/ranking.md.
    Ranking,
}

pub(crate) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Ranking => ranking::run(),
    }
}
