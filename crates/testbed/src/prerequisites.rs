//! What the machine must have before anything can be built or started.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::Progress;
use crate::process::search_path;

/// Programs of the system, and the Debian package of each.
const PROGRAMS: [(&str, &str); 7] = [
    ("ip", "iproute2"),
    ("mount", "mount"),
    ("nsenter", "util-linux"),
    ("openssl", "openssl"),
    ("runc", "runc"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
];

/// How many inotify instances each kubelet and containerd needs room for: about
/// six a node, and Linux allows 128 unless told otherwise.
const INOTIFY_INSTANCES: (&str, u32) = ("/proc/sys/fs/inotify/max_user_instances", 1024);

/// Makes sure of everything that builds and clusters need, installing Debian packages where that
/// is possible. The error names all that is missing and the command that installs it.
pub(crate) fn ensure(needed_go: &str, progress: Progress<'_>) -> Result<()> {
    ensure_root()?;
    let mut wanted: Vec<String> = install_missing(&PROGRAMS, progress)?.into_iter().collect();
    match go_version() {
        Some(found) if at_least(&found, needed_go) => {}
        found => wanted.push(format!(
            "Go {needed_go} or newer, found {} (unpack a release of Go to /usr/local and add \
             /usr/local/go/bin to PATH)",
            found.as_deref().unwrap_or("none")
        )),
    }
    wanted.extend(missing_rights(progress));
    none_missing(&wanted)
}

/// Makes sure of everything that a cluster needs to run, and installs nothing.
pub(crate) fn ensure_to_run(progress: Progress<'_>) -> Result<()> {
    ensure_root()?;
    let mut wanted: Vec<String> = missing_programs(&PROGRAMS).into_iter().collect();
    wanted.extend(missing_rights(progress));
    none_missing(&wanted)
}

fn ensure_root() -> Result<()> {
    if !cfg!(target_os = "linux") {
        bail!("the testbed runs containers: it needs Linux");
    }
    if !rustix::process::geteuid().is_root() {
        // sudo alone forgets where cargo and Go are.
        bail!(r#"the testbed runs containers: it needs root (sudo env "PATH=$PATH" "HOME=$HOME" before the command)"#);
    }
    Ok(())
}

/// What this process may not do; raises the limit of inotify instances until the next boot.
fn missing_rights(progress: Progress<'_>) -> Vec<String> {
    let mut wanted = Vec::new();
    if let Err(error) = raise_inotify_limit(progress) {
        let (path, needed) = INOTIFY_INSTANCES;
        wanted.push(format!("{needed} inotify instances (echo {needed} > {path}): {error:#}"));
    }
    if let Err(error) = make_namespaces() {
        wanted.push(format!("the right to make namespaces (in a container: --privileged): {error:#}"));
    }
    wanted
}

fn none_missing(wanted: &[String]) -> Result<()> {
    match wanted {
        [] => Ok(()),
        wanted => bail!("the testbed needs\n  {}", wanted.join("\n  ")),
    }
}

/// Makes sure of programs, each with the Debian package that has it, installing what is missing
/// where that is possible.
///
/// # Errors
/// If one is missing and cannot be installed; tells how to.
pub fn ensure_programs(programs: &[(&str, &str)], progress: Progress<'_>) -> Result<()> {
    match install_missing(programs, progress)? {
        None => Ok(()),
        Some(missing) => bail!("missing: {missing}"),
    }
}

/// Installs the packages of missing programs where that is possible; returns what is missing
/// then.
fn install_missing(programs: &[(&str, &str)], progress: Progress<'_>) -> Result<Option<String>> {
    let missing = packages(programs);
    if !missing.is_empty() && exists("apt-get") {
        progress(&format!("installing {}", missing.join(" ")));
        install(&missing)?;
    }
    Ok(missing_programs(programs))
}

/// The missing programs, by their packages, with the command that installs them.
fn missing_programs(programs: &[(&str, &str)]) -> Option<String> {
    let names = packages(programs).join(" ");
    (!names.is_empty()).then(|| format!("programs of these packages: {names} (apt-get install {names})"))
}

/// Lets many kubelets run side by side; until the next boot.
fn raise_inotify_limit(progress: Progress<'_>) -> Result<()> {
    let (path, needed) = INOTIFY_INSTANCES;
    let limit: u32 = fs::read_to_string(path)?.trim().parse()?;
    if limit < needed {
        progress(&format!("raising {path} from {limit} to {needed}"));
        fs::write(path, needed.to_string())?;
    }
    Ok(())
}

/// Root of a container may be without this right.
fn make_namespaces() -> Result<()> {
    let output = Command::new("unshare").args(["--mount", "--net", "true"]).output().context("unshare")?;
    match output.status.success() {
        true => Ok(()),
        false => bail!("{}", String::from_utf8_lossy(&output.stderr).trim()),
    }
}

/// The version of the installed Go, such as `1.26.8`.
pub(crate) fn go_version() -> Option<String> {
    let output = Command::new("go").args(["env", "GOVERSION"]).output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    Some(version.trim().strip_prefix("go")?.to_owned())
}

/// Compares versions number by number.
pub(crate) fn at_least(found: &str, needed: &str) -> bool {
    let numbers = |version: &str| -> Vec<u32> {
        version.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok()).collect()
    };
    numbers(found) >= numbers(needed)
}

/// The packages of the missing programs.
fn packages<'a>(programs: &[(&str, &'a str)]) -> Vec<&'a str> {
    let mut packages: Vec<_> =
        programs.iter().filter(|(program, _)| !exists(program)).map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn exists(program: &str) -> bool {
    search_path().split(':').any(|directory| Path::new(directory).join(program).is_file())
}

fn install(packages: &[&str]) -> Result<()> {
    let quietly = |program: &str, arguments: &[&str]| {
        Command::new(program)
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output()
            .with_context(|| program.to_owned())
    };
    let apt = |arguments: &[&str]| quietly("apt-get", arguments);
    let install = [&["install", "-y", "--no-install-recommends"], packages].concat();
    if apt(&install)?.status.success() {
        return Ok(());
    }
    // An installation that was cut off must be ended first, and the package lists may be missing or too old.
    quietly("dpkg", &["--configure", "-a"])?;
    apt(&["update"])?;
    let output = apt(&install)?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("apt-get install {}: {error}", packages.join(" "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::at_least;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(at_least("1.26.10", "1.26.6"));
        assert!(at_least("1.27", "1.26.6"));
        assert!(at_least("1.26.6", "1.26.6"));
        assert!(!at_least("1.26", "1.26.6"));
        assert!(!at_least("1.9", "1.26.6"));
    }
}
