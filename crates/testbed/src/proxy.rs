//! A TCP proxy that goes wrong when it is told to. Tests put it before a registry or before the
//! API server.

use std::io;
use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::head::read_head;
use crate::listener::Listener;

/// What a [`Proxy`] does instead of passing on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// New connections get this HTTP status line, such as `429 Too Many Requests`.
    Answer(&'static str),
    /// New connections are reset when their first byte has come.
    Reset,
    /// New connections are closed when their first request has come.
    Close,
    /// Connections stay open, new ones are accepted, and nothing passes in either direction.
    /// What was sent meanwhile passes when the fault ends.
    Stall,
    /// As [`Fault::Stall`], but what was sent meanwhile never arrives: connections of that time are
    /// reset when the fault ends.
    Cut,
}

/// A proxy on a port of its own. It ends with this value, and its connections with it.
#[derive(Debug)]
pub struct Proxy {
    listener: Listener,
    state: watch::Sender<State>,
}

#[derive(Debug)]
struct State {
    /// Where new connections lead.
    upstream: SocketAddr,
    fault: Option<Fault>,
}

impl Proxy {
    /// Starts a proxy that passes everything on to `upstream`.
    pub(crate) fn start(upstream: SocketAddr) -> Result<Self> {
        let (state, seen) = watch::channel(State { upstream, fault: None });
        let listener = Listener::start(move |client| {
            let state = seen.clone();
            async move {
                // What fails here both sides see as the end of their connection.
                drop(serve(client, state).await);
            }
        })?;
        Ok(Self { listener, state })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Goes wrong, until [`Proxy::heal`].
    pub fn fail(&self, fault: Fault) {
        self.state.send_modify(|state| state.fault = Some(fault));
    }

    /// Passes everything on again.
    pub fn heal(&self) {
        self.state.send_modify(|state| state.fault = None);
    }

    /// Leads new connections elsewhere.
    pub(crate) fn lead_to(&self, upstream: SocketAddr) {
        self.state.send_modify(|state| state.upstream = upstream);
    }
}

async fn serve(mut client: TcpStream, state: watch::Receiver<State>) -> io::Result<()> {
    let (upstream, fault) = {
        let state = state.borrow();
        (state.upstream, state.fault)
    };
    match fault {
        Some(Fault::Answer(status)) => {
            read_head(&mut client).await?;
            let headers = "Retry-After: 1\r\nContent-Length: 0\r\nConnection: close";
            client.write_all(format!("HTTP/1.1 {status}\r\n{headers}\r\n\r\n").as_bytes()).await
        }
        Some(Fault::Close) => read_head(&mut client).await.map(drop),
        // The system resets a connection that is closed with data unread.
        Some(Fault::Reset) => client.peek(&mut [0]).await.map(drop),
        Some(Fault::Stall | Fault::Cut) | None => {
            wait_pass(&mut state.clone()).await?;
            let mut server = TcpStream::connect(upstream).await?;
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            let there = copy(from_client, to_server, state.clone());
            tokio::try_join!(there, copy(from_server, to_client, state)).map(drop)
        }
    }
}

/// Passes on from one side to the other, until the first of them ends.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        wait_pass(&mut state).await?;
        match buffer.get(..length) {
            None | Some([]) => return to.shutdown().await,
            Some(read) => to.write_all(read).await?,
        }
    }
}

/// Waits while nothing passes. Fails if what waited is lost.
async fn wait_pass(state: &mut watch::Receiver<State>) -> io::Result<()> {
    let mut is_lost = false;
    let passes = state.wait_for(|state| {
        is_lost |= state.fault == Some(Fault::Cut);
        !matches!(state.fault, Some(Fault::Stall | Fault::Cut))
    });
    drop(passes.await.map_err(io::Error::other)?);
    if is_lost { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::thread;

    use super::*;

    /// An upstream that answers each line with itself.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                thread::spawn(move || io::copy(&mut &client, &mut &client));
            }
        });
        address
    }

    fn ask(client: &mut TcpStream) -> io::Result<[u8; 4]> {
        let mut answer = [0; 4];
        client.write_all(b"ping")?;
        client.read_exact(&mut answer)?;
        Ok(answer)
    }

    /// Fails if something comes.
    fn assert_silent(mut client: &TcpStream) {
        client.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        client.set_read_timeout(None).unwrap();
    }

    /// Fails if the connection goes on.
    fn assert_ended(mut client: &TcpStream) {
        let ended = client.read(&mut [0]);
        assert!(ended.as_ref().is_ok_and(|length| *length == 0) || ended.is_err(), "{ended:?}");
    }

    #[test]
    fn a_stalled_connection_goes_on_where_it_was() {
        let proxy = Proxy::start(echo()).unwrap();
        let mut client = TcpStream::connect(proxy.address()).unwrap();
        assert_eq!(ask(&mut client).unwrap(), *b"ping");
        proxy.fail(Fault::Stall);
        client.write_all(b"more").unwrap();
        let mut new = TcpStream::connect(proxy.address()).unwrap();
        assert_silent(&client);
        assert_silent(&new);
        proxy.heal();
        let mut answer = [0; 4];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"more");
        assert_eq!(ask(&mut new).unwrap(), *b"ping");
        drop(proxy);
        assert_ended(&client);
    }

    #[test]
    fn what_is_sent_during_a_cut_never_arrives() {
        let proxy = Proxy::start(echo()).unwrap();
        let mut client = TcpStream::connect(proxy.address()).unwrap();
        assert_eq!(ask(&mut client).unwrap(), *b"ping");
        proxy.fail(Fault::Cut);
        client.write_all(b"more").unwrap();
        assert_silent(&client);
        proxy.heal();
        assert_ended(&client);
        let mut new = TcpStream::connect(proxy.address()).unwrap();
        assert_eq!(ask(&mut new).unwrap(), *b"ping");
    }

    #[test]
    fn new_connections_are_reset_closed_or_answered() {
        let proxy = Proxy::start(echo()).unwrap();
        proxy.fail(Fault::Reset);
        let mut client = TcpStream::connect(proxy.address()).unwrap();
        assert_eq!(ask(&mut client).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        proxy.fail(Fault::Close);
        let mut client = TcpStream::connect(proxy.address()).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        proxy.fail(Fault::Answer("503 Service Unavailable"));
        let mut client = TcpStream::connect(proxy.address()).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    }
}
