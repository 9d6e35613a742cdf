//! What a cluster has started, on disk, so that it can be cleaned up after a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::procfs::Identity;

/// One line of the state file. Lines are only ever added: what is gone already is no problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Entry {
    /// The process that exists only to keep the cluster.
    Daemon(Identity),
    Process(Identity),
    /// A network bridge's name.
    Bridge(String),
}

/// Appends to the state file.
#[derive(Debug)]
pub(crate) struct StateFile(File);

impl StateFile {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Self(file.with_context(|| path.display().to_string())?))
    }

    /// Adds a line, by a single write: side by side and in a crash, lines stay whole.
    pub(crate) fn add(&self, entry: &Entry) -> Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        (&self.0).write_all(&line).context("state file")
    }
}

/// Everything that the file at `path` tells; nothing if there is none.
pub(crate) fn read(path: &Path) -> Result<Vec<Entry>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(parse(&text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Lines that are not entries (cut off by a full disk) are left out.
fn parse(text: &str) -> Vec<Entry> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_line_does_not_hide_the_others() {
        let process = Identity { pid: 12, started: 34 };
        let text = "{\"process\":{\"pid\":12,\"started\":34}}\n{\"bridge\":\"dt1n1\"}\n{\"proc";
        let expected = [Entry::Process(process), Entry::Bridge("dt1n1".to_owned())];
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn entries_are_read_back() {
        let path = std::env::temp_dir().join(format!("drop-state-{}", std::process::id()));
        let state = StateFile::create(&path).unwrap();
        let entry = Entry::Daemon(Identity { pid: 1, started: 2 });
        state.add(&entry).unwrap();
        assert_eq!(read(&path).unwrap(), [entry]);
        fs::remove_file(&path).unwrap();
        assert_eq!(read(&path).unwrap(), []);
    }
}
