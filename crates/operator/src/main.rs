//! The `drop` binary.

mod answers;
mod cli;
mod convert;
mod discover;
mod engine;
mod event;
mod execute;
mod guard;
mod http;
mod lean;
mod lease;
mod listen;
mod metrics;
mod observe;
mod operator;
mod patience;
mod pod;
mod process;
mod tls;
mod virtual_node;

use clap::Parser;

fn main() -> anyhow::Result<()> {
    let cli = cli::Cli::parse();
    match cli.command {
        cli::Command::Operator(args) => operator::run(&args),
        cli::Command::Discover(args) => discover::command::run(&args),
        #[cfg(feature = "demo")]
        cli::Command::Demo(args) => drop_demo::run(&args),
    }
}
