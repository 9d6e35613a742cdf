//! The operator as a process of its own.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// A running `drop operator`; killed when dropped.
#[derive(Debug)]
pub struct Operator {
    child: Child,
    /// The address of `/metrics` and the other endpoints.
    pub address: String,
}

/// The environment variable with the path of a binary that was built before the tests.
const BINARY: &str = "DROP_BINARY";

/// Returns the path of the operator's binary, which `cargo xtask tools` builds: `DROP_BINARY`, or `target/debug/drop`.
///
/// # Errors
/// If it is not there.
pub fn binary() -> Result<PathBuf> {
    if let Some(binary) = std::env::var_os(BINARY) {
        return Ok(PathBuf::from(binary));
    }
    // The test binary lies in `target/debug/deps`, the operator in `target/debug`.
    let test = std::env::current_exe()?;
    let profile = test.parent().and_then(Path::parent).context("a test binary lies in target/PROFILE/deps")?;
    let binary = profile.join("drop");
    ensure!(binary.exists(), "{} is not there: `cargo xtask tools` builds it", binary.display());
    Ok(binary)
}

impl Operator {
    /// Starts the binary of `drop` with extra `flags`; it logs to `log`.
    pub(crate) fn start(mut drop: Command, kubeconfig: &Path, flags: &[String], log: &Path) -> Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let log = File::options().create(true).append(true).open(log)?;
        drop.args(["operator", "--log-format", "text", "--listen", &address])
            .args(flags)
            .env("KUBECONFIG", kubeconfig)
            .env("NO_COLOR", "1")
            .stderr(log);
        let child = drop.spawn().with_context(|| format!("cannot start {}", drop.get_program().display()))?;
        Ok(Self { child, address })
    }

    /// Ends it at once, like a crash.
    ///
    /// # Errors
    /// If it has ended already.
    pub fn kill(&mut self) -> Result<()> {
        ensure!(self.child.try_wait()?.is_none(), "the operator has ended by itself");
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end, waits until it has, and returns whether it ended without an error.
    ///
    /// # Errors
    /// If it has ended already.
    pub fn terminate(&mut self) -> Result<bool> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM)?;
        Ok(self.child.wait()?.success())
    }

    /// Waits until it reports that it is ready, or that it is not.
    ///
    /// # Errors
    /// If it does not within a few minutes.
    pub fn wait_ready(&self, ready: bool) -> Result<()> {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
        let asked_at = Instant::now();
        while asked_at.elapsed() < Duration::from_secs(180) {
            // A process that has just started does not listen yet.
            let answer = agent.get(format!("http://{}/readyz", self.address)).call();
            if answer.is_ok_and(|answer| answer.status().is_success() == ready) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("the operator does not become {}", if ready { "ready" } else { "unready" })
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
