//! The `drop` binary.

mod cli;
mod convert;
#[expect(dead_code, reason = "for the command `drop discover`")]
mod discover;
mod engine;
mod execute;
mod http;
mod lease;
mod metrics;
mod observe;
mod operator;
mod pod;

use clap::Parser;

fn main() -> anyhow::Result<()> {
    let cli = cli::Cli::parse();
    match cli.command {
        cli::Command::Operator(args) => operator::run(&args),
    }
}
