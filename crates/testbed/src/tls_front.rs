//! HTTPS in front of a server that speaks HTTP.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::authority::Authority;
use crate::listener::Listener;

/// Ends TLS and passes on what is in it, byte for byte. It stops when it is dropped.
#[derive(Debug)]
pub struct TlsFront {
    listener: Listener,
}

/// Who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Everybody.
    Anybody,
    /// Those with a certificate of the same authority.
    Certified,
}

impl TlsFront {
    /// Starts on a free port, with a certificate for these names, in front of `upstream`.
    ///
    /// # Errors
    /// If a name is not one of a host, or there is no free port.
    pub fn start(authority: &Authority, names: &[&str], clients: Clients, upstream: SocketAddr) -> Result<Self> {
        let acceptor = TlsAcceptor::from(Arc::new(authority.server(names, clients)?));
        let listener = Listener::start(move |connection| {
            let acceptor = acceptor.clone();
            async move {
                // Whatever fails, the client sees as the end of its connection.
                drop(pass(connection, &acceptor, upstream).await);
            }
        })?;
        Ok(Self { listener })
    }

    /// Where it listens; a client must ask for one of the names, see [`crate::ForwardProxy`].
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }
}

async fn pass(connection: TcpStream, acceptor: &TlsAcceptor, upstream: SocketAddr) -> Result<()> {
    let mut client = acceptor.accept(connection).await?;
    let mut server = TcpStream::connect(upstream).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
