//! A door in front of a registry that can be closed for a repository: its blobs wait until it is
//! opened again. Tests hold a pull in the middle with it, for as long as they like. It can also
//! throttle a repository.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::head::{last_request, read_head};
use crate::listener::Listener;
use crate::wait::wait_for;

#[derive(Debug)]
pub(crate) struct Gate {
    listener: Listener,
    doors: watch::Sender<Doors>,
}

#[derive(Debug, Default)]
struct Doors {
    held: BTreeSet<String>,
    /// The most bytes of a blob that pass in a second, by repository.
    rates: BTreeMap<String, usize>,
    /// How many requests wait, by repository.
    waiting: BTreeMap<String, usize>,
    /// How many pulls have begun, by repository.
    pulls: BTreeMap<String, usize>,
}

impl Gate {
    pub(crate) fn start(upstream: SocketAddr) -> Result<Self> {
        let doors = watch::Sender::new(Doors::default());
        let shared = doors.clone();
        let listener = Listener::start(move |client| {
            let doors = shared.clone();
            async move {
                // What fails here, a client that has gone or a registry that is down, the
                // client sees as a closed connection.
                drop(serve(client, upstream, &doors).await);
            }
        })?;
        Ok(Self { listener, doors })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    pub(crate) fn hold(&self, repository: &str) {
        self.doors.send_if_modified(|doors| doors.held.insert(repository.to_owned()));
    }

    pub(crate) fn release(&self, repository: &str) {
        self.doors.send_if_modified(|doors| doors.held.remove(repository));
    }

    /// Lets at most so many bytes of a blob of `repository` pass in a second, from the next request on.
    pub(crate) fn throttle(&self, repository: &str, bytes_per_second: usize) {
        self.doors.send_modify(|doors| doors.rates.extend([(repository.to_owned(), bytes_per_second)]));
    }

    /// How many pulls from `repository` have begun.
    pub(crate) fn pulls(&self, repository: &str) -> usize {
        self.doors.borrow().pulls.get(repository).copied().unwrap_or_default()
    }

    /// Waits until at least one request waits for `repository`.
    pub(crate) fn wait_held(&self, repository: &str, limit: Duration) -> Result<()> {
        wait_for(&format!("a pull of {repository}"), limit, || {
            Ok(self.doors.borrow().waiting.contains_key(repository).then_some(()))
        })
    }
}

/// One request; the connection ends with the reply, so that replies need not be understood.
async fn serve(mut client: TcpStream, upstream: SocketAddr, doors: &watch::Sender<Doors>) -> io::Result<()> {
    let head = read_head(&mut client).await?;
    if let Some(repository) = pulled_repository(&head) {
        doors.send_modify(|doors| *doors.pulls.entry(repository.to_owned()).or_default() += 1);
    }
    if let Some(repository) = blob_repository(&head) {
        pass(repository, doors).await?;
    }
    let mut upstream = TcpStream::connect(upstream).await?;
    upstream.write_all(last_request(&head).as_bytes()).await?;
    let rate = blob_repository(&head).and_then(|repository| doors.borrow().rates.get(repository).copied());
    match rate {
        Some(rate) => trickle(&mut upstream, &mut client, rate).await?,
        None => drop(copy(&mut upstream, &mut client).await?),
    }
    client.shutdown().await
}

/// Passes on at most so many bytes in a second.
async fn trickle(from: &mut TcpStream, to: &mut TcpStream, bytes_per_second: usize) -> io::Result<()> {
    let mut buffer = vec![0; bytes_per_second.div_ceil(10)];
    loop {
        let length = from.read(&mut buffer).await?;
        match buffer.get(..length) {
            None | Some([]) => return Ok(()),
            Some(read) => to.write_all(read).await?,
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until the door is open.
async fn pass(repository: &str, doors: &watch::Sender<Doors>) -> io::Result<()> {
    let closed = |doors: &Doors| doors.held.contains(repository);
    if !closed(&doors.borrow()) {
        return Ok(());
    }
    doors.send_modify(|doors| *doors.waiting.entry(repository.to_owned()).or_default() += 1);
    let open = doors.subscribe().wait_for(|doors| !closed(doors)).await.map(drop);
    doors.send_modify(|doors| {
        if let Some(waiting) = doors.waiting.get_mut(repository) {
            *waiting -= 1;
            if *waiting == 0 {
                doors.waiting.remove(repository);
            }
        }
    });
    open.map_err(io::Error::other)
}

/// The repository of the request with which containerd begins each pull: what a tag stands for.
fn pulled_repository(head: &str) -> Option<&str> {
    let path = head.strip_prefix("HEAD ")?.split(' ').next()?;
    Some(path.strip_prefix("/v2/")?.rsplit_once("/manifests/")?.0)
}

/// The repository of a request for a blob.
fn blob_repository(head: &str) -> Option<&str> {
    let path = head.split(' ').nth(1)?;
    Some(path.strip_prefix("/v2/")?.rsplit_once("/blobs/")?.0)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    const HEAD: &str = "GET /v2/library/app/blobs/sha256:12?ns=docker.io HTTP/1.1\r\n\
                        Host: a\r\nConnection: keep-alive\r\nAccept: */*\r\n\r\n";

    #[test]
    fn requests_for_blobs_are_understood() {
        assert_eq!(blob_repository(HEAD), Some("library/app"));
        assert_eq!(blob_repository("GET /v2/a/manifests/blobs HTTP/1.1\r\n\r\n"), None);
        let tag = "HEAD /v2/library/app/manifests/1?ns=docker.io HTTP/1.1\r\n\r\n";
        assert_eq!(pulled_repository(tag), Some("library/app"));
        assert_eq!(pulled_repository(HEAD), None);
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
        assert!(upstream.read(&mut [0; 4096]).unwrap() > 0);
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
