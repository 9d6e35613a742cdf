//! A DNS server that knows no name, so that nothing leaves the machine and a registry that does
//! not exist fails at once, with the answer that the Internet would give.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};

const HEADER: usize = 12;

/// The server, and with it the number that keeps this cluster's networks apart from those of
/// other clusters: whoever has bound the address owns the number.
#[derive(Debug)]
pub(crate) struct Dns {
    slot: u8,
    stop: Arc<AtomicBool>,
}

impl Dns {
    /// Takes the first number that no other cluster has and whose networks are not in use.
    pub(crate) fn start() -> Result<Self> {
        let routes = Command::new("ip").args(["-4", "route", "show"]).output()?;
        let routes = String::from_utf8_lossy(&routes.stdout).into_owned();
        let mut last = None;
        for slot in 1..=99 {
            if routes.contains(&format!("10.{}.", network(slot))) {
                continue;
            }
            match UdpSocket::bind((address(slot), 53)) {
                Ok(socket) => return Ok(Self::serve(slot, socket)),
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) => Err(error).context("UDP port 53 of a loopback address"),
            None => bail!("all networks from 10.101.0.0/16 to 10.199.0.0/16 are in use"),
        }
    }

    fn serve(slot: u8, socket: UdpSocket) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        thread::spawn(move || {
            let mut buffer = [0; 1500];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, client)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                if let Some(reply) = buffer.get(..length).and_then(unknown) {
                    // A client that has gone asks again or does not need it.
                    let _ = socket.send_to(&reply, client);
                }
            }
        });
        Self { slot, stop }
    }

    /// Different for every cluster on this machine; 1 to 99.
    pub(crate) fn slot(&self) -> u8 {
        self.slot
    }

    /// The second byte of the cluster's networks, 10.X.0.0/16.
    pub(crate) fn network(&self) -> u8 {
        network(self.slot)
    }

    /// Writes the resolv.conf that names this server only.
    pub(crate) fn write_resolv_conf(&self, path: &std::path::Path) -> Result<()> {
        fs::write(path, format!("nameserver {}\n", address(self.slot))).with_context(|| path.display().to_string())
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the server, which then sees that it shall end.
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) {
            let _ = socket.send_to(&[], (address(self.slot), 53));
        }
    }
}

fn address(slot: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 77, slot, 53)
}

fn network(slot: u8) -> u8 {
    100 + slot
}

/// The reply to `query` that says that there is no such name (RFC 1035, section 4.1); none if
/// it is not a query with one question.
fn unknown(query: &[u8]) -> Option<Vec<u8>> {
    let (id, flags) = (query.get(..2)?, query.get(2)?);
    if flags & 0x80 != 0 || query.get(4..6)? != [0, 1] {
        return None;
    }
    let mut end = HEADER;
    while let length @ 1.. = *query.get(end)? {
        end += 1 + usize::from(length);
    }
    // The end of the name, then the type and the class; extensions that follow are left out.
    let question = query.get(HEADER..end + 5)?;
    let recursion_desired = flags & 0x01;
    let mut reply = id.to_vec();
    // Response; recursion available, NXDOMAIN; one question and no records.
    reply.extend([0x80 | recursion_desired, 0x83, 0, 1, 0, 0, 0, 0, 0, 0]);
    reply.extend(question);
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_unknown() {
        let mut query = vec![7, 9, 0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, 1];
        let question = b"\x08registry\x03bad\x00\x00\x01\x00\x01";
        query.extend(question);
        query.extend(b"\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00");
        let mut reply = vec![7, 9, 0x81, 0x83, 0, 1, 0, 0, 0, 0, 0, 0];
        reply.extend(question);
        assert_eq!(unknown(&query), Some(reply));
    }

    #[test]
    fn nonsense_gets_no_reply() {
        assert_eq!(unknown(&[]), None);
        assert_eq!(unknown(&[0; HEADER]), None);
        assert_eq!(unknown(b"\0\0\0\0\0\x01\0\0\0\0\0\0\x3fcut"), None);
    }
}
