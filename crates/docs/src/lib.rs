//! The documentation as tests see it.
//!
//! Whoever can judge a part of it does so in a test of their own: `crates/operator` the commands
//! of `drop`, `xtask` its own, `crates/e2e` those of Helm and kubectl, and this crate links and
//! objects.

mod block;
mod command;
mod page;

use std::io;
use std::path::{Path, PathBuf};

pub use block::Block;
pub use command::Command;
pub use page::{Page, pages};

/// The repository's root.
#[must_use]
pub fn root() -> PathBuf {
    let krate = Path::new(env!("CARGO_MANIFEST_DIR"));
    // crates/docs is two levels below it.
    krate.ancestors().nth(2).unwrap_or(krate).to_owned()
}

/// Every block of code in the documentation.
///
/// # Errors
/// A page, or a file that one includes, cannot be read.
pub fn blocks() -> io::Result<Vec<Block>> {
    pages()?.iter().map(Page::blocks).collect::<io::Result<Vec<_>>>().map(|blocks| blocks.concat())
}

/// Every command in the documentation that runs `program`.
///
/// # Errors
/// A page, or a file that one includes, cannot be read.
pub fn commands(program: &str) -> io::Result<Vec<Command>> {
    let commands = blocks()?.into_iter().flat_map(|block| block.commands());
    Ok(commands.filter(|command| command.words.first().is_some_and(|word| word == program)).collect())
}
