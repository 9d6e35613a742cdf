//! The operator as a process of its own, on a cluster of the testbed.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use drop_testbed::{Cluster, cargo};

use crate::root;

/// The namespace of pull Pods.
pub(crate) const NAMESPACE: &str = "drop-system";
/// Where the operator serves, unless told otherwise.
pub(crate) const LISTEN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8080));
/// How long the operator may take to see everything.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How often it is asked whether it has.
const LOOK: Duration = Duration::from_millis(20);

/// Builds the operator for this machine, unoptimised, and returns its path.
pub(crate) fn build() -> Result<PathBuf> {
    let built = cargo().args(["build", "--package", "drop"]).current_dir(root()?).status()?;
    ensure!(built.success(), "the operator does not build");
    // This program lies in `target/PROFILE`.
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(2).context("this program lies in target/PROFILE")?;
    Ok(target.join("debug/drop"))
}

/// Where nobody serves now.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Fails where the operator could not serve at `listen`, before all else that takes time.
pub(crate) fn ensure_free(listen: SocketAddr) -> Result<()> {
    TcpListener::bind(listen)
        .map(drop)
        .with_context(|| format!("the operator cannot serve at {listen} (choose another address by --listen)"))
}

/// The directory of the CustomResourceDefinitions.
pub(crate) fn crds() -> Result<PathBuf> {
    Ok(root()?.join("deploy/crds"))
}

/// Makes the cluster know Drop's kinds, and the namespace.
pub(crate) fn install(cluster: &Cluster) -> Result<()> {
    cluster.define(&crds()?)?;
    cluster.kubectl(&["create", "namespace", NAMESPACE])?;
    Ok(())
}

/// A running operator; killed when it is dropped.
pub(crate) struct Operator {
    child: Child,
    listen: SocketAddr,
    log: PathBuf,
    ready_after: Duration,
}

impl Operator {
    /// Starts `binary` as the cluster's administrator and waits until it has seen everything.
    pub(crate) fn start(binary: &Path, cluster: &Cluster, listen: SocketAddr) -> Result<Self> {
        let log = cluster.kubeconfig().with_file_name("operator.log");
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let began = Instant::now();
        // It ends with this process, however that ends, and by nothing else: Ctrl-C is for this process.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(binary)
            .process_group(0)
            .args(["operator", "--listen", &listen.to_string(), "--log-format", "text"])
            .env("KUBECONFIG", cluster.kubeconfig())
            .env("NO_COLOR", "1")
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let mut operator = Self { child, listen, log, ready_after: Duration::ZERO };
        while operator.get("readyz").is_err() {
            operator.check()?;
            ensure!(began.elapsed() < READY_WITHIN, "the operator is not ready: see {}", operator.log.display());
            std::thread::sleep(LOOK);
        }
        operator.ready_after = began.elapsed();
        Ok(operator)
    }

    /// Fails if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        let ended = self.child.try_wait()?;
        ended.map_or(Ok(()), |status| bail!("the operator ended ({status}): see {}", self.log.display()))
    }

    /// How long it took from its start until it had seen everything.
    pub(crate) fn ready_after(&self) -> Duration {
        self.ready_after
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it logs to.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// What it answers at this path.
    pub(crate) fn get(&self, path: &str) -> Result<String> {
        let url = format!("http://{}/{path}", self.listen);
        let client = ureq::Agent::config_builder().proxy(None).build().new_agent();
        match client.get(&url).call() {
            Ok(mut reply) => Ok(reply.body_mut().read_to_string()?),
            Err(error) => bail!("{url}: {error}"),
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::ensure_free;

    #[test]
    fn an_address_in_use_is_named_with_the_option_that_changes_it() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        let error = ensure_free(address).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("--listen"), "{error}");
        drop(other);
        ensure_free(address).unwrap();
    }
}
