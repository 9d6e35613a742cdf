//! The little that is needed of `/proc`.

use std::fs;

use serde::{Deserialize, Serialize};

/// A process that cannot be mistaken for a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: u32,
    /// Clock ticks from the boot to the start of the process.
    pub(crate) started: u64,
}

impl Identity {
    /// The identity of the running process `pid`; none if it has ended, also if it was not yet
    /// reaped.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let (state, started) = parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        (state != 'Z' && state != 'X').then_some(Self { pid, started })
    }

    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// State and start time out of `/proc/<pid>/stat`; the command's name before them, in
/// parentheses, may hold anything.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

/// Every running process.
pub(crate) fn processes() -> Vec<Identity> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            Identity::of(name.to_str()?.parse().ok()?)
        })
        .collect()
}

/// The file systems that the process sees, a line per mount.
pub(crate) fn mounts(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_of_a_process_with_an_awkward_name() {
        let stat = "17 (a ) S (b) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        assert_eq!(parse_stat(stat), Some(('R', 4711)));
        assert_eq!(parse_stat("17 (cut"), None);
    }

    #[test]
    fn identity_of_this_process() {
        let own = Identity::of(std::process::id()).unwrap();
        assert!(own.is_alive());
        let earlier = Identity { started: own.started - 1, ..own };
        assert!(!earlier.is_alive());
    }
}
