//! `cargo xtask dev`: the operator on a real cluster, built and started again after every change.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use clap::Args;
use drop_testbed::{Cluster, ClusterOptions, ImageSpec, NodeOptions, Tools};

use crate::interrupt::Interrupt;
use crate::operator::{self, Operator};
use crate::root;

#[derive(Args)]
pub(crate) struct Dev {
    /// How many nodes there are; they are called node-1, node-2, ...
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=50))]
    nodes: u8,
    /// Where the operator serves /metrics, /debug/plan and probes.
    #[arg(long, default_value_t = operator::LISTEN)]
    listen: SocketAddr,
}

const NAME: &str = "inner-loop";
/// What the operator is made of.
const SOURCES: [&str; 4] = ["crates", "deploy/crds", "Cargo.toml", "Cargo.lock"];
/// How often they are looked at.
const EVERY: Duration = Duration::from_millis(500);

pub(crate) fn run(dev: &Dev) -> Result<()> {
    let interrupt = Interrupt::new()?;
    let result = work(dev, &interrupt);
    interrupt.judge(result)
}

fn work(dev: &Dev, interrupt: &Interrupt) -> Result<()> {
    operator::ensure_free(dev.listen)?;
    Tools::build(&Tools::CLUSTER, &say)?;
    let root = root()?;
    let sources = SOURCES.map(|path| root.join(path));
    say("building the operator");
    let mut seen = Fingerprint::of(&sources)?;
    let binary = operator::build()?;

    let cluster = Cluster::start(ClusterOptions::new(NAME), &say)?;
    say("starting the nodes");
    cluster.add_nodes((1..=dev.nodes).map(|number| NodeOptions::new(format!("node-{number}"))).collect())?;
    cluster.registry().push("library/alpine", "3.20", &ImageSpec::runnable())?;
    operator::install(&cluster)?;
    println!(
        "\nexport KUBECONFIG={}\nalias kubectl={}\nkubectl apply -f examples/quickstart.yaml\n",
        cluster.kubeconfig().display(),
        cluster.kubectl_path().display()
    );

    let mut running = start(&binary, &cluster, dev.listen);
    while !interrupt.is_wanted() {
        thread::sleep(EVERY);
        if let Some(Err(error)) = running.as_mut().map(Operator::check) {
            say(&format!("{error:#}"));
            running = None;
        }
        let now = Fingerprint::of(&sources)?;
        if now == seen {
            continue;
        }
        seen = now;
        say("building the operator");
        match operator::build() {
            Ok(binary) => {
                // The address is free only when the former one has ended.
                drop(running);
                cluster.define(&operator::crds()?)?;
                running = start(&binary, &cluster, dev.listen);
            }
            Err(error) => say(&format!("{error:#}; the former one goes on")),
        }
    }
    say("stopping");
    drop(running);
    cluster.stop()
}

/// An operator that does not start is no reason to end: the next change may mend it.
fn start(binary: &Path, cluster: &Cluster, listen: SocketAddr) -> Option<Operator> {
    match Operator::start(binary, cluster, listen) {
        Ok(operator) => {
            say(&format!("the operator runs; its log is {}", operator.log().display()));
            Some(operator)
        }
        Err(error) => {
            say(&format!("{error:#}"));
            None
        }
    }
}

/// Differs when a file was changed, added or removed.
#[derive(Debug, PartialEq, Eq)]
struct Fingerprint {
    files: usize,
    newest: SystemTime,
}

impl Fingerprint {
    fn of(paths: &[PathBuf]) -> Result<Self> {
        let mut fingerprint = Self { files: 0, newest: SystemTime::UNIX_EPOCH };
        for path in paths {
            fingerprint.add(path).with_context(|| path.display().to_string())?;
        }
        Ok(fingerprint)
    }

    fn add(&mut self, path: &Path) -> io::Result<()> {
        let metadata = match fs::metadata(path) {
            // Editors write a new file and rename it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            metadata => metadata?,
        };
        if metadata.is_dir() {
            return fs::read_dir(path)?.try_for_each(|entry| self.add(&entry?.path()));
        }
        self.files += 1;
        self.newest = self.newest.max(metadata.modified()?);
        Ok(())
    }
}

fn say(line: &str) {
    println!("==> {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_changed_added_or_removed_is_noticed() {
        let folder = std::env::temp_dir().join(format!("drop-xtask-dev-{}", std::process::id()));
        fs::create_dir_all(folder.join("src")).unwrap();
        let look = || Fingerprint::of(std::slice::from_ref(&folder)).unwrap();
        let write = |name: &str, second| {
            let file = fs::File::create(folder.join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(second)).unwrap();
        };
        write("src/a.rs", 10);
        let before = look();
        assert_eq!(before, look());
        write("src/a.rs", 11);
        let changed = look();
        assert_ne!(before, changed);
        write("src/b.rs", 5);
        let added = look();
        assert_ne!(changed, added);
        fs::remove_file(folder.join("src/b.rs")).unwrap();
        assert_ne!(added, look());
        fs::remove_dir_all(&folder).unwrap();
    }
}
