//! A proxy by which a process of this machine finds servers of the testbed under any host name.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;

use crate::head::{last_request, read_head};
use crate::listener::Listener;

/// An HTTP proxy for clients with `HTTPS_PROXY` or `HTTP_PROXY` set to [`ForwardProxy::url`]. It
/// knows the hosts that a test names, and loopback addresses as they are; for all others it
/// answers 502. It stops when it is dropped.
#[derive(Debug)]
pub struct ForwardProxy {
    listener: Listener,
    routes: Arc<Routes>,
}

#[derive(Debug, Default)]
struct Routes {
    /// By `host:port`.
    targets: Mutex<BTreeMap<String, SocketAddr>>,
    /// What it was asked for, `host:port`.
    asked: Mutex<Vec<String>>,
}

impl ForwardProxy {
    /// Starts a proxy that knows no host, on a free port.
    ///
    /// # Errors
    /// If there is none.
    pub fn start() -> Result<Self> {
        let routes = Arc::new(Routes::default());
        let shared = Arc::clone(&routes);
        let listener = Listener::start(move |client| {
            let routes = Arc::clone(&shared);
            async move {
                // Whatever fails, the client sees as the end of its connection.
                drop(routes.serve(client).await);
            }
        })?;
        Ok(Self { listener, routes })
    }

    /// The value for `HTTPS_PROXY` and `HTTP_PROXY`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.listener.address())
    }

    /// From the next connection on, takes clients who want `host:port` to `target`.
    pub fn route(&self, host_and_port: &str, target: SocketAddr) {
        lock(&self.routes.targets).insert(host_and_port.to_owned(), target);
    }

    /// What clients have asked for so far, as `host:port`, known or not.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        lock(&self.routes.asked).clone()
    }
}

impl Routes {
    /// One tunnel (RFC 9110, section 9.3.6), or one request for an absolute URL (RFC 9112,
    /// section 3.2.2).
    async fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let head = read_head(&mut client).await?;
        let Some((method, target, rest)) = split(&head) else {
            return refuse(&mut client, "400 Bad Request").await;
        };
        let (name, path) = if method == "CONNECT" { (target.to_owned(), None) } else { absolute(target) };
        lock(&self.asked).push(name.clone());
        let Some(address) = self.target(&name) else {
            return refuse(&mut client, "502 Bad Gateway").await;
        };
        let Ok(mut server) = TcpStream::connect(address).await else {
            return refuse(&mut client, "502 Bad Gateway").await;
        };
        match path {
            None => client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?,
            Some(path) => {
                let request = last_request(&format!("{method} {path} {rest}"));
                server.write_all(request.as_bytes()).await?;
            }
        }
        copy_bidirectional(&mut client, &mut server).await?;
        Ok(())
    }

    fn target(&self, name: &str) -> Option<SocketAddr> {
        let itself = || name.parse().ok().filter(|address: &SocketAddr| address.ip().is_loopback());
        lock(&self.targets).get(name).copied().or_else(itself)
    }
}

/// Method, target, and all that follows.
fn split(head: &str) -> Option<(&str, &str, &str)> {
    let (method, rest) = head.split_once(' ')?;
    let (target, rest) = rest.split_once(' ')?;
    Some((method, target, rest))
}

/// `host:port` and path of a plain HTTP URL.
fn absolute(url: &str) -> (String, Option<&str>) {
    let url = url.strip_prefix("http://").unwrap_or(url);
    let (authority, path) = url.split_at(url.find('/').unwrap_or(url.len()));
    let name = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
    (name, Some(if path.is_empty() { "/" } else { path }))
}

async fn refuse(client: &mut TcpStream, status: &str) -> io::Result<()> {
    let reply = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    client.write_all(reply.as_bytes()).await
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
