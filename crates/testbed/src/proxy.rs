//! A TCP proxy that goes wrong when it is told to. Tests put it before a registry or before the
//! API server.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::Result;

use crate::gate::read_head;

/// What a [`Proxy`] does instead of passing on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// New connections get this HTTP status line, such as `429 Too Many Requests`.
    Answer(&'static str),
    /// New connections are reset when their first byte has come.
    Reset,
    /// Connections stay open, new ones are accepted, and nothing passes in either direction.
    /// What was sent meanwhile passes when the fault ends, as on a network that was cut.
    Stall,
}

/// A proxy on a port of its own. It ends with this value.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Where new connections lead.
    upstream: SocketAddr,
    fault: Option<Fault>,
    stopped: bool,
}

impl Proxy {
    /// Starts a proxy that passes everything on to `upstream`.
    pub(crate) fn start(upstream: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let state = Mutex::new(State { upstream, fault: None, stopped: false });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let server = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if server.state().stopped {
                    return;
                }
                let server = Arc::clone(&server);
                thread::spawn(move || {
                    // What fails here both sides see as the end of their connection.
                    let _ = client.and_then(|client| server.serve(client));
                });
            }
        });
        Ok(Self { address, shared })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Goes wrong, until [`Proxy::heal`].
    pub fn fail(&self, fault: Fault) {
        self.shared.change(|state| state.fault = Some(fault));
    }

    /// Passes everything on again.
    pub fn heal(&self) {
        self.shared.change(|state| state.fault = None);
    }

    /// Leads new connections elsewhere.
    pub(crate) fn lead_to(&self, upstream: SocketAddr) {
        self.shared.change(|state| state.upstream = upstream);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.change(|state| state.stopped = true);
        // Wakes the listener, which then sees that it shall end.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let state = self.state();
        let (upstream, fault) = (state.upstream, state.fault);
        drop(state);
        match fault {
            Some(Fault::Answer(status)) => {
                read_head(&mut client)?;
                let headers = "Retry-After: 1\r\nContent-Length: 0\r\nConnection: close";
                write!(client, "HTTP/1.1 {status}\r\n{headers}\r\n\r\n")
            }
            // The system resets a connection that is closed with data unread.
            Some(Fault::Reset) => client.peek(&mut [0]).map(drop),
            Some(Fault::Stall) | None => {
                self.wait_pass()?;
                let upstream = TcpStream::connect(upstream)?;
                thread::scope(|scope| {
                    scope.spawn(|| self.copy(&upstream, &client));
                    self.copy(&client, &upstream);
                });
                Ok(())
            }
        }
    }

    /// Passes on from one side to the other, until one of them ends.
    fn copy(&self, mut from: &TcpStream, mut to: &TcpStream) {
        let mut pass = || -> io::Result<()> {
            let mut buffer = [0; 16 * 1024];
            loop {
                let length = from.read(&mut buffer)?;
                self.wait_pass()?;
                let read = buffer.get(..length).unwrap_or_default();
                if read.is_empty() {
                    return Ok(());
                }
                to.write_all(read)?;
            }
        };
        let half = if pass().is_ok() { Shutdown::Write } else { Shutdown::Both };
        // The other side may have gone already.
        let _ = to.shutdown(half);
    }

    /// Waits while nothing passes; an error if the proxy has stopped.
    fn wait_pass(&self) -> io::Result<()> {
        let stalls = |state: &mut State| state.fault == Some(Fault::Stall) && !state.stopped;
        let state = self.changed.wait_while(self.state(), stalls).unwrap_or_else(PoisonError::into_inner);
        if state.stopped { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_stalled_connection_goes_on_where_it_was() {
        let proxy = Proxy::start(echo()).unwrap();
        let mut client = TcpStream::connect(proxy.address()).unwrap();
        assert_eq!(ask(&mut client).unwrap(), *b"ping");
        proxy.fail(Fault::Stall);
        client.write_all(b"more").unwrap();
        let mut new = TcpStream::connect(proxy.address()).unwrap();
        for client in [&client, &new] {
            client.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
            assert_eq!((&mut &*client).read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            client.set_read_timeout(None).unwrap();
        }
        proxy.heal();
        let mut answer = [0; 4];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"more");
        assert_eq!(ask(&mut new).unwrap(), *b"ping");
        drop(proxy);
        // Both directions end with the proxy, at the next thing that passes.
        assert!(ask(&mut client).is_err());
    }

    #[test]
    fn new_connections_are_reset_or_answered() {
        let proxy = Proxy::start(echo()).unwrap();
        proxy.fail(Fault::Reset);
        let mut client = TcpStream::connect(proxy.address()).unwrap();
        assert_eq!(ask(&mut client).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        proxy.fail(Fault::Answer("503 Service Unavailable"));
        let mut client = TcpStream::connect(proxy.address()).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    }
}
