//! Kubernetes and its companions, built from the versions that the go.mod files pin.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::image::sha256;
use crate::{Progress, paths, prerequisites};

/// A directory with a go.mod, what is built of it, and the seconds that a first build takes
/// on two cores.
struct Project {
    name: &'static str,
    package: &'static str,
    expected: u64,
}

const PROJECTS: [Project; 12] = [
    Project::new("tiny", ".", 5),
    Project::new("cni", "tool", 20),
    Project::new("etcd", "tool", 45),
    Project::new("registry", "tool", 75),
    Project::new("containerd", "tool", 85),
    Project::new("kubernetes", "tool", 400),
    Project::new("prometheus", "tool", 260),
    Project::new("loki", "tool", 260),
    Project::new("kwok", "tool", 80),
    Project::new("helm", "tool", 110),
    Project::new("health", ".", 90),
    Project::new("actionlint", "tool", 20),
];

/// The built tools.
#[derive(Clone, Debug)]
pub struct Tools {
    bin: PathBuf,
}

impl Tools {
    /// The projects that every cluster consists of.
    pub const CLUSTER: [&str; 6] = ["tiny", "cni", "etcd", "registry", "containerd", "kubernetes"];

    /// The names of all projects.
    pub fn all() -> impl Iterator<Item = &'static str> {
        PROJECTS.iter().map(|project| project.name)
    }

    /// Builds the projects of these names (directories below `tools`) that are not built yet, and
    /// installs the Debian packages that they need. A second call goes on where a failed one stopped.
    ///
    /// # Errors
    /// If there is no such project, the machine lacks something (every missing thing is named,
    /// with the command that installs it) or a build fails.
    pub fn build(names: &[&str], progress: Progress<'_>) -> Result<Self> {
        let projects = projects(names)?;
        let bin = paths::bin();
        fs::create_dir_all(&bin).with_context(|| bin.display().to_string())?;
        prerequisites::ensure(&needed_go(&projects)?, progress)?;
        // Two commands may build side by side; the second waits for the first.
        let lock = File::create(bin.join(".lock"))?;
        lock.lock()?;
        for project in projects {
            project.ensure(&bin, progress)?;
        }
        Ok(Self { bin })
    }

    /// The projects of these names, which must be built already: a build that begins in the middle
    /// of a test takes minutes, and every time that the test has noted is old then.
    ///
    /// # Errors
    /// If there is no such project, or one is not built from its current files; the error says
    /// which command builds it.
    pub fn built(names: &[&str]) -> Result<Self> {
        let bin = paths::bin();
        let mut missing = Vec::new();
        for project in projects(names)? {
            if !project.is_built(&bin, &project.stamp()?) {
                missing.push(project.name);
            }
        }
        let names = missing.join(" ");
        ensure!(missing.is_empty(), "not built, or built from other files: {names}. Run: cargo xtask tools {names}");
        Ok(Self { bin })
    }

    /// The path of a tool, such as `kubectl`.
    #[must_use]
    pub fn path(&self, tool: &str) -> PathBuf {
        self.bin.join(tool)
    }
}

impl Project {
    const fn new(name: &'static str, package: &'static str, expected: u64) -> Self {
        Self { name, package, expected }
    }

    fn directory(&self) -> PathBuf {
        paths::tool_projects().join(self.name)
    }

    fn ensure(&self, bin: &Path, progress: Progress<'_>) -> Result<()> {
        let stamp = self.stamp()?;
        if self.is_built(bin, &stamp) {
            return Ok(());
        }
        self.build(bin, progress)?;
        let stamp_file = self.stamp_file(bin);
        fs::write(&stamp_file, stamp).with_context(|| stamp_file.display().to_string())
    }

    fn is_built(&self, bin: &Path, stamp: &str) -> bool {
        fs::read_to_string(self.stamp_file(bin)).is_ok_and(|found| found == stamp)
    }

    fn stamp_file(&self, bin: &Path) -> PathBuf {
        bin.join(format!(".{}.stamp", self.name))
    }

    fn build(&self, bin: &Path, progress: Progress<'_>) -> Result<()> {
        let log_file = bin.join(format!(".{}.log", self.name));
        let log = File::create(&log_file)?;
        let mut build = Command::new("go")
            .args(["build", "-trimpath", "-buildvcs=false", "-ldflags", &self.linker_flags()?])
            .arg("-o")
            // With the slash it is a directory for any number of programs.
            .arg(bin.join(""))
            .arg(self.package)
            .current_dir(self.directory())
            .env("CGO_ENABLED", "0")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("go build")?;
        let (start, mut reported) = (Instant::now(), 0);
        progress(&format!("building {} (about {} s at first)", self.name, self.expected));
        let status = loop {
            if let Some(status) = build.try_wait()? {
                break status;
            }
            sleep(Duration::from_millis(200));
            let elapsed = start.elapsed().as_secs();
            if elapsed >= reported + 15 {
                reported = elapsed;
                progress(&format!("building {}: {elapsed} s of about {} s", self.name, self.expected));
            }
        };
        if !status.success() {
            let log = fs::read_to_string(&log_file).unwrap_or_default();
            bail!("building {}: {status}\n{log}", self.name);
        }
        progress(&format!("built {} in {} s", self.name, start.elapsed().as_secs()));
        Ok(())
    }

    /// Without debug information; Kubernetes also wants to be told its version, which its
    /// parts compare with each other's.
    fn linker_flags(&self) -> Result<String> {
        let small = "-s -w".to_owned();
        let go_mod = go_mod(self)?;
        let Some(version) = required_version(&go_mod, "k8s.io/kubernetes") else {
            return Ok(small);
        };
        let mut numbers = version.trim_start_matches('v').split('.');
        let (major, minor) = (numbers.next(), numbers.next());
        let package = "k8s.io/component-base/version";
        Ok(format!(
            "{small} -X {package}.gitVersion={version} -X {package}.gitMajor={} -X {package}.gitMinor={}",
            major.unwrap_or_default(),
            minor.unwrap_or_default()
        ))
    }

    /// Changes whenever the project must be built again.
    fn stamp(&self) -> Result<String> {
        let (flags, go) = (self.linker_flags()?, prerequisites::go_version().unwrap_or_default());
        let mut inputs = format!("{flags}\n{go}\n").into_bytes();
        let mut files: Vec<PathBuf> =
            fs::read_dir(self.directory())?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        files.sort();
        for file in files {
            inputs.extend(fs::read(&file).with_context(|| file.display().to_string())?);
        }
        Ok(sha256(&inputs))
    }
}

fn projects(names: &[&str]) -> Result<Vec<&'static Project>> {
    let find = |name: &&str| PROJECTS.iter().find(|project| project.name == *name);
    names.iter().map(|name| find(name).with_context(|| format!("there is no tool project {name:?}"))).collect()
}

fn go_mod(project: &Project) -> Result<String> {
    let path = project.directory().join("go.mod");
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The newest version of Go that any of the projects asks for.
fn needed_go(projects: &[&Project]) -> Result<String> {
    let mut newest = String::new();
    for project in projects {
        for line in go_mod(project)?.lines() {
            if let Some(version) = line.strip_prefix("go ")
                && prerequisites::at_least(version, &newest)
            {
                version.trim().clone_into(&mut newest);
            }
        }
    }
    Ok(newest)
}

/// The version of `module` in the `require` lines of a go.mod.
fn required_version<'a>(go_mod: &'a str, module: &str) -> Option<&'a str> {
    go_mod.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(module)).then(|| words.next())?
    })
}

#[cfg(test)]
mod tests {
    use super::{Tools, required_version};

    #[test]
    fn an_unknown_project_is_named() {
        let error = Tools::build(&["tiny", "docker"], &|_| ()).unwrap_err();
        assert_eq!(error.to_string(), "there is no tool project \"docker\"");
    }

    #[test]
    fn the_version_is_read_from_the_require_line() {
        let go_mod = "tool (\n\tk8s.io/kubernetes/cmd/kubelet\n)\nrequire (\n\tk8s.io/api v0.1.0\n\
                      \tk8s.io/kubernetes v1.36.3 // indirect\n)\n";
        assert_eq!(required_version(go_mod, "k8s.io/kubernetes"), Some("v1.36.3"));
        assert_eq!(required_version(go_mod, "k8s.io/kube"), None);
    }
}
