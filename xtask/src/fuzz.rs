//! `cargo xtask fuzz`: random clusters for as long as one likes.

use anyhow::{Context, Result, ensure};
use clap::Args;
use drop_testbed::cargo;

use crate::root;

#[derive(Args)]
pub(crate) struct Fuzz {
    /// For how long.
    #[arg(long, default_value_t = 10)]
    minutes: u32,
    /// The seed of the first cluster; a random one otherwise.
    #[arg(long)]
    seed: Option<u32>,
}

/// Runs the test of random clusters, which names the seed of one that fails.
pub(crate) fn run(fuzz: &Fuzz) -> Result<()> {
    let seed = fuzz.seed.unwrap_or_else(|| fastrand::u32(..));
    let test = [
        "test",
        "--profile",
        "fuzz",
        "--package",
        "drop-sim",
        "--test",
        "properties",
        "random_clusters",
        "--",
        "--nocapture",
    ];
    let status = cargo()
        .args(test)
        .env("DROP_SEED", seed.to_string())
        .env("DROP_FUZZ_MINUTES", fuzz.minutes.to_string())
        .current_dir(root()?)
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "a random cluster broke a promise; its seed stands above");
    Ok(())
}
