//! Small servers of the testbed itself, on loopback.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::OnceLock;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinHandle, JoinSet};

/// A loopback port whose connections are served in the background. When it is dropped, the port
/// is closed and every connection is cut.
#[derive(Debug)]
pub(crate) struct Listener {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Listener {
    /// Serves each connection to a free port with `serve`.
    pub(crate) fn start<Served>(serve: impl Fn(TcpStream) -> Served + Send + 'static) -> Result<Self>
    where
        Served: Future<Output = ()> + Send + 'static,
    {
        let runtime = runtime()?;
        // Callers may be asynchronous themselves, and must not wait for another runtime then.
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let entered = runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        drop(entered);
        let task = runtime.spawn(async move {
            let mut connections = JoinSet::new();
            // What can fail here, such as too many open files, shows as a connection that is
            // never served.
            while let Ok((connection, _)) = listener.accept().await {
                connections.spawn(serve(connection));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, task })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Tests are not asynchronous; their servers share this.
fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<Result<Runtime, std::io::Error>> = OnceLock::new();
    let start = || Builder::new_multi_thread().worker_threads(1).enable_all().build();
    RUNTIME.get_or_init(start).as_ref().context("the threads of the testbed's servers")
}
