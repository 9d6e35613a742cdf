//! A door in front of a registry that can be closed for a repository: its blobs wait until it is
//! opened again. Tests hold a pull in the middle with it, for as long as they like.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};

#[derive(Debug)]
pub(crate) struct Gate {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    doors: Mutex<Doors>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Doors {
    held: BTreeSet<String>,
    /// How many requests wait, by repository.
    waiting: BTreeMap<String, usize>,
    /// Nobody waits any more, and no request is served.
    stopped: bool,
}

impl Gate {
    pub(crate) fn start(upstream: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { upstream, doors: Mutex::default(), changed: Condvar::new() });
        let server = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if server.doors().stopped {
                    return;
                }
                let server = Arc::clone(&server);
                thread::spawn(move || {
                    // What fails here, a client that has gone or a registry that is
                    // down, the client sees as a closed connection.
                    let _ = client.and_then(|client| server.serve(client));
                });
            }
        });
        Ok(Self { address, shared })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn hold(&self, repository: &str) {
        self.shared.doors().held.insert(repository.to_owned());
    }

    pub(crate) fn release(&self, repository: &str) {
        self.shared.doors().held.remove(repository);
        self.shared.changed.notify_all();
    }

    /// Waits until at least one request waits for `repository`.
    pub(crate) fn wait_held(&self, repository: &str, limit: Duration) -> Result<()> {
        let nobody = |doors: &mut Doors| !doors.waiting.contains_key(repository);
        let (_doors, timeout) = self
            .shared
            .changed
            .wait_timeout_while(self.shared.doors(), limit, nobody)
            .unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            bail!("no pull of {repository} within {} s", limit.as_secs());
        }
        Ok(())
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shared.doors().stopped = true;
        self.shared.changed.notify_all();
        // Wakes the listener, which then sees that it shall end.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    /// One request; the connection ends with the reply, so that replies need not be understood.
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let head = read_head(&mut client)?;
        if let Some(repository) = blob_repository(&head)
            && !self.pass(repository)
        {
            return Ok(());
        }
        let mut upstream = TcpStream::connect(self.upstream)?;
        upstream.write_all(last_request(&head).as_bytes())?;
        io::copy(&mut upstream, &mut client)?;
        client.shutdown(Shutdown::Both)
    }

    /// Waits until the door is open; false if the gate has stopped.
    fn pass(&self, repository: &str) -> bool {
        let mut doors = self.doors();
        let closed = |doors: &mut Doors| !doors.stopped && doors.held.contains(repository);
        if closed(&mut doors) {
            *doors.waiting.entry(repository.to_owned()).or_default() += 1;
            self.changed.notify_all();
            doors = self.changed.wait_while(doors, closed).unwrap_or_else(PoisonError::into_inner);
            if let Some(waiting) = doors.waiting.get_mut(repository) {
                *waiting -= 1;
                if *waiting == 0 {
                    doors.waiting.remove(repository);
                }
            }
        }
        !doors.stopped
    }

    fn doors(&self) -> MutexGuard<'_, Doors> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The request line and headers, up to the empty line; pulls have no body.
fn read_head(client: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.ends_with(b"\r\n\r\n") {
        let length = client.read(&mut buffer)?;
        if length == 0 || head.len() > 64 * 1024 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend(buffer.iter().take(length));
    }
    String::from_utf8(head).map_err(io::Error::other)
}

/// The repository of a request for a blob.
fn blob_repository(head: &str) -> Option<&str> {
    let path = head.split(' ').nth(1)?;
    Some(path.strip_prefix("/v2/")?.rsplit_once("/blobs/")?.0)
}

/// The same request, with the wish that the connection ends after it.
pub(crate) fn last_request(head: &str) -> String {
    let mut lines: Vec<&str> =
        head.trim_end().lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:")).collect();
    lines.extend(["Connection: close", "", ""]);
    lines.join("\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "GET /v2/library/app/blobs/sha256:12?ns=docker.io HTTP/1.1\r\n\
                        Host: a\r\nConnection: keep-alive\r\nAccept: */*\r\n\r\n";

    #[test]
    fn requests_are_understood() {
        assert_eq!(blob_repository(HEAD), Some("library/app"));
        assert_eq!(blob_repository("GET /v2/a/manifests/blobs HTTP/1.1\r\n\r\n"), None);
        let last = HEAD.replace("Connection: keep-alive\r\n", "");
        assert_eq!(last_request(HEAD), last.replace("*/*\r\n", "*/*\r\nConnection: close\r\n"));
    }

    #[test]
    fn a_held_blob_waits_for_its_release_and_for_no_longer_than_the_gate() {
        let registry = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let gate = Gate::start(registry.local_addr().unwrap()).unwrap();
        let request = || {
            let mut client = TcpStream::connect(gate.address()).unwrap();
            client.write_all(HEAD.as_bytes()).unwrap();
            client
        };
        let limit = Duration::from_secs(10);
        gate.hold("library/app");
        let mut first = request();
        gate.wait_held("library/app", limit).unwrap();
        gate.release("library/app");
        let (mut upstream, _) = registry.accept().unwrap();
        read_head(&mut upstream).unwrap();
        upstream.write_all(b"reply").unwrap();
        drop(upstream);
        let mut reply = String::new();
        first.read_to_string(&mut reply).unwrap();
        assert_eq!(reply, "reply");

        gate.hold("library/app");
        let mut second = request();
        gate.wait_held("library/app", limit).unwrap();
        drop(gate);
        assert_eq!(second.read(&mut [0; 8]).unwrap(), 0);
    }
}
