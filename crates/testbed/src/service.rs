//! Servers for tests that are programs of their own: with data, at a loopback port.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::control_plane::free_address;
use crate::home::Home;
use crate::process::{Process, Program};
use crate::wait::wait_for;
use crate::{cleanup, http};

/// Where a service will run.
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    /// A directory of its own, removed when the service is dropped.
    pub(crate) data: PathBuf,
    log: PathBuf,
}

impl Place {
    /// Fails if the home has a service of that name.
    pub(crate) fn new(home: &Home, name: &str) -> Result<Self> {
        let data = home.dirs.data().join(name);
        if data.exists() {
            bail!("there is a server {name:?} already");
        }
        std::fs::create_dir_all(&data)?;
        let log = home.dirs.logs().join(format!("{name}.log"));
        Ok(Self { name: name.to_owned(), address: free_address()?, data, log })
    }
}

/// A running service; ended when it is dropped.
#[derive(Debug)]
pub(crate) struct Service {
    process: Process,
    pub(crate) address: SocketAddr,
    data: PathBuf,
    probe: String,
    authorization: String,
}

impl Service {
    /// Runs the command and waits until `GET probe` is answered by anything but "service
    /// unavailable".
    pub(crate) fn start(
        home: &Home,
        place: Place,
        command: Vec<String>,
        probe: &str,
        authorization: String,
    ) -> Result<Self> {
        let Place { name, address, data, log } = place;
        let process = Process::start_new(Program { name, command, log }, &home.state)?;
        let probe = format!("http://{address}{probe}");
        let service = Self { process, address, data, probe, authorization };
        service.wait_ready()?;
        Ok(service)
    }

    /// Kills it; its data stays.
    pub(crate) fn stop(&self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again at the same address, with its data.
    pub(crate) fn resume(&self) -> Result<()> {
        self.process.start()?;
        self.wait_ready()
    }

    fn wait_ready(&self) -> Result<()> {
        let client = http::client();
        wait_for(&format!("{} is ready", self.process.name()), Duration::from_secs(60), || {
            self.process.check()?;
            let reply = client.get(&self.probe).header("Authorization", &self.authorization).call();
            Ok(reply.ok().filter(|reply| reply.status() != 503).map(drop))
        })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Nobody is left to tell; the home removes what stays.
        let _ = self.process.kill();
        let _ = cleanup::remove(&self.data);
    }
}
