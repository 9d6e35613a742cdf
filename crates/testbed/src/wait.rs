//! Bounded waiting for something to become ready.

use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::process::Process;

/// Asks `probe` until it answers, fails, or `limit` has passed.
///
/// # Errors
/// If it fails or the time is over; names `what` was waited for.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = probe()? {
            return Ok(answer);
        }
        if start.elapsed() > limit {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        sleep(Duration::from_millis(50));
    }
}

/// Waits until `process` accepts connections at `address`; fails as soon as it has ended.
pub(crate) fn wait_for_port(process: &Process, address: SocketAddr) -> Result<()> {
    let what = format!("{} listens on {address}", process.name());
    wait_for(&what, Duration::from_secs(60), || {
        process.check()?;
        Ok(TcpStream::connect(address).ok().map(drop))
    })
}
