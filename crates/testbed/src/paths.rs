//! Where things are: everything below `<workspace>/target/testbed`, except the
//! sockets of the nodes, whose paths the kernel limits to 108 bytes.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::image::sha256;

/// `<workspace>/target/testbed`.
pub(crate) fn testbed() -> PathBuf {
    let krate = Path::new(env!("CARGO_MANIFEST_DIR"));
    // crates/testbed is two levels below the workspace.
    let workspace = krate.ancestors().nth(2).unwrap_or(krate);
    workspace.join("target/testbed")
}

/// The built tools.
pub(crate) fn bin() -> PathBuf {
    testbed().join("bin")
}

/// The go.mod files of the tools, one directory per project.
pub(crate) fn tool_projects() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools")
}

/// The directories of one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Dirs {
    name: String,
}

impl Dirs {
    /// Fails unless `name` is 1 to 32 lower-case letters, digits and dashes.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 32 || !name.chars().all(valid) {
            bail!("cluster name {name:?}: use 1 to 32 lower-case letters, digits and dashes");
        }
        Ok(Self { name: name.to_owned() })
    }

    pub(crate) fn root(&self) -> PathBuf {
        testbed().join("clusters").join(&self.name)
    }

    /// Locked for as long as a cluster runs; beside its directory, which each start removes.
    pub(crate) fn lock(&self) -> PathBuf {
        testbed().join("clusters").join(format!("{}.lock", self.name))
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.root().join("state.jsonl")
    }

    /// Configuration files and kubeconfigs.
    pub(crate) fn etc(&self) -> PathBuf {
        self.root().join("etc")
    }

    /// containerd's table of registries.
    pub(crate) fn hosts(&self) -> PathBuf {
        self.etc().join("hosts")
    }

    /// What the processes print, and the audit log. Kept when the cluster stops.
    pub(crate) fn logs(&self) -> PathBuf {
        self.root().join("logs")
    }

    /// Databases, images, volumes. Removed when the cluster stops.
    pub(crate) fn data(&self) -> PathBuf {
        self.root().join("data")
    }

    /// A directory per node, for its sockets.
    pub(crate) fn run(&self) -> PathBuf {
        run(&testbed(), &self.name)
    }
}

/// Apart from that of a cluster of the same name in another clone of the repository, whose lock and state are its own.
fn run(testbed: &Path, name: &str) -> PathBuf {
    let clone = sha256(testbed.as_os_str().as_encoded_bytes());
    Path::new("/run/drop-testbed").join(format!("{name}-{clone:.8}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::run;

    #[test]
    fn clusters_of_the_same_name_in_two_clones_share_no_directory() {
        let [one, other] = ["/home/a/drop/target/testbed", "/home/b/drop/target/testbed"].map(Path::new);
        assert_ne!(run(one, "dev"), run(other, "dev"));
        assert_ne!(run(one, "dev"), run(one, "demo"));
        assert_eq!(run(one, "dev"), run(one, "dev"));
    }

    #[test]
    fn the_longest_name_leaves_room_for_a_socket() {
        let socket = run(Path::new("/a"), &"a".repeat(32)).join("250/containerd.sock.ttrpc");
        assert!(socket.as_os_str().len() < 108, "{}", socket.display());
    }
}
