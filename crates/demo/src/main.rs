//! `drop demo` alone: for systems that the operator is not made for, such as Windows.

use clap::Parser;

/// Drop's planner on a simulated cluster
#[derive(Parser)]
#[command(version, name = "drop-demo")]
struct Cli {
    #[command(flatten)]
    args: drop_demo::Args,
}

fn main() -> anyhow::Result<()> {
    drop_demo::run(&Cli::parse().args)
}
