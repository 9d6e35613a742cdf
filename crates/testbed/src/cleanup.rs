//! Ends what a cluster or a node has left: its processes, containers, cgroups, bridges and files.
//!
//! All that runs on a node sees a mount that nothing else sees, below the node's run directory:
//! the node's own processes because they are in its mount namespace, its containers because
//! their root is an overlay of directories in there. By that they are found, whoever started
//! them. The mounts themselves need no cleaning; they end with the processes.

use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::paths::Dirs;
use crate::process::send;
use crate::procfs::{self, Identity};
use crate::state::{self, Entry};
use crate::wait::wait_for;

/// Where containerd keeps a directory per container, below a node's run directory.
const CONTAINERS: &str = "state/io.containerd.runtime.v2.task/k8s.io";

/// Ends everything that the state file of the cluster names and everything that runs on its nodes,
/// and removes its data; logs and configuration stay.
pub(crate) fn cluster(dirs: &Dirs) -> Result<()> {
    let entries = state::read(&dirs.state())?;
    let recorded: Vec<Identity> = entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::Process(identity) | Entry::Daemon(identity) => Some(*identity),
            Entry::Bridge(_) => None,
        })
        // The daemon itself gets here on its regular way out.
        .filter(|identity| identity.pid != std::process::id())
        .collect();
    end(&recorded)?;
    for run in subdirectories(&dirs.run()) {
        node(&run)?;
    }
    for entry in &entries {
        if let Entry::Bridge(name) = entry {
            bridge(name)?;
        }
    }
    remove(&dirs.run())?;
    remove(&dirs.data())
}

/// Ends what runs on the node with this run directory, and removes the directory.
pub(crate) fn node(run: &Path) -> Result<()> {
    let marker = format!(" {}/", run.display());
    // In an overlay's options, there is an equals sign instead of a space.
    let overlay = format!("={}/", run.display());
    wait_for("end of all containers", Duration::from_secs(30), || {
        let found: Vec<Identity> = procfs::processes()
            .into_iter()
            .filter(|process| {
                let mounts = procfs::mounts(process.pid);
                mounts.contains(&marker) || mounts.contains(&overlay)
            })
            .collect();
        end(&found)?;
        Ok(found.is_empty().then_some(()))
    })?;
    remove_cgroups(run)?;
    remove(run)
}

/// Makes a bridge on which the machine has an address of a /24 network.
pub(crate) fn add_bridge(name: &str, address: Ipv4Addr) -> Result<()> {
    let address = format!("{address}/24");
    for arguments in [
        &["link", "add", name, "type", "bridge"][..],
        &["address", "add", &address, "dev", name],
        &["link", "set", name, "up"],
    ] {
        run(Command::new("ip").args(arguments))?;
    }
    Ok(())
}

/// A bridge, gone or not.
pub(crate) fn bridge(name: &str) -> Result<()> {
    if !Path::new("/sys/class/net").join(name).exists() {
        return Ok(());
    }
    run(Command::new("ip").args(["link", "delete", name]))
}

/// A directory, gone or not.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Runs a short command; its error output is the error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| program.clone())?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn end(processes: &[Identity]) -> Result<()> {
    for process in processes.iter().filter(|process| process.is_alive()) {
        // It may end between the two lines; what counts is that it is gone below.
        let _ = send(process.pid, Signal::KILL);
    }
    for process in processes {
        let what = format!("end of process {}", process.pid);
        wait_for(&what, Duration::from_secs(30), || Ok((!process.is_alive()).then_some(())))?;
    }
    Ok(())
}

/// containerd puts containers into cgroups by their ids, beside those of any other containerd.
fn remove_cgroups(run: &Path) -> Result<()> {
    let hierarchies = subdirectories(Path::new("/sys/fs/cgroup"));
    for container in subdirectories(&run.join(CONTAINERS)) {
        let Some(id) = container.file_name() else {
            continue;
        };
        let relative = Path::new("k8s.io").join(id);
        // Version 1 has a hierarchy per controller, version 2 just one.
        remove_cgroup(&Path::new("/sys/fs/cgroup").join(&relative))?;
        for hierarchy in &hierarchies {
            remove_cgroup(&hierarchy.join(&relative))?;
        }
    }
    Ok(())
}

fn remove_cgroup(path: &Path) -> Result<()> {
    // A cgroup is busy for a moment after its last process has ended.
    let what = format!("remove {}", path.display());
    wait_for(&what, Duration::from_secs(10), || match fs::remove_dir(path) {
        Err(error) if error.kind() == ErrorKind::ResourceBusy => Ok(None),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(Some(())),
    })
}

/// None if there is no such directory.
fn subdirectories(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect()
}
