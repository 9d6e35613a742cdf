//! Accepts connections to the port, plain or with TLS, and limits their number, their duration and the share of one
//! client.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;
use tracing::warn;

use super::tls::Certificate;

/// The most connections at once. One more ends an older one: see [`Connections::make_room`].
const CONNECTIONS: usize = 256;
/// How long a client may take for the TLS handshake, for the head of a request, and until its next request.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection accepts requests, and how long the last request and the reading of its answer may then take.
const LIFE: Duration = Duration::from_secs(30);
/// The largest head of a request, in bytes.
const HEAD: usize = 16 * 1024;
/// The pause after a failed `accept`, which fails when there is no free file descriptor.
const PAUSE: Duration = Duration::from_secs(1);
/// The shortest time between two log lines about too many connections.
const SAID: Duration = Duration::from_secs(60);

/// The address of the client, as an extension of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// Serves `router` on `listener`, with TLS if there is a `certificate`. Does not end.
pub async fn serve(listener: TcpListener, mut certificate: Option<Certificate>, router: Router) {
    let mut connections = Connections::default();
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                let peer = Peer(address.ip().to_canonical());
                // Reading two small files for each connection is cheap, and needs neither a watch nor a timer.
                let tls = certificate.as_mut().map(|certificate| TlsAcceptor::from(certificate.current()));
                connections.make_room();
                let task = tokio::spawn(converse(stream, peer, tls, router.clone()));
                connections.open.push((peer, task.abort_handle()));
            }
            // The client has gone.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
            Err(error) => {
                warn!("no connection can be accepted: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

/// The open connections, oldest first, and some that have ended.
#[derive(Default)]
struct Connections {
    open: Vec<(Peer, AbortHandle)>,
    said_at: Option<Instant>,
}

impl Connections {
    /// If there are too many connections, ends the oldest one of the address with the most. So no client keeps others
    /// out with silent or slow connections, or with many of them; a usual request takes milliseconds.
    fn make_room(&mut self) {
        self.open.retain(|(_, task)| !task.is_finished());
        if self.open.len() < CONNECTIONS {
            return;
        }
        let mut numbers: HashMap<IpAddr, usize> = HashMap::new();
        for (Peer(address), _) in &self.open {
            *numbers.entry(*address).or_default() += 1;
        }
        let Some((most, number)) = numbers.into_iter().max_by_key(|(_, number)| *number) else { return };
        if self.said_at.is_none_or(|at| at.elapsed() > SAID) {
            self.said_at = Some(Instant::now());
            warn!(address = %most, number, "{CONNECTIONS} connections are open: the oldest of this address is ended");
        }
        if let Some(oldest) = self.open.iter().position(|(peer, _)| *peer == Peer(most)) {
            self.open.remove(oldest).1.abort();
        }
    }
}

async fn converse(stream: TcpStream, peer: Peer, tls: Option<TlsAcceptor>, router: Router) {
    match tls {
        Some(tls) => {
            if let Ok(Ok(stream)) = timeout(PATIENCE, tls.accept(stream)).await {
                answer(stream, peer, router).await;
            }
        }
        None => answer(stream, peer, router).await,
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, peer: Peer, router: Router) {
    let service = service_fn(|mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.clone().oneshot(request)
    });
    // hyper counts the time for a head from the end of the previous request.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    if timeout(LIFE, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        // The result only matters to the client.
        drop(timeout(LIFE, connection).await);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::body::Body;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpSocket;

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    async fn port() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router =
            Router::new().route("/", get(|| async { "ok" })).route("/endless", get(|| async { Body::new(Endless) }));
        tokio::spawn(serve(listener, None, router));
        address
    }

    /// A body that does not end.
    struct Endless;

    impl hyper::body::Body for Endless {
        type Data = axum::body::Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
            let part = axum::body::Bytes::from_static(&[b'x'; 64 * 1024]);
            std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(part))))
        }
    }

    /// A connection from an address of this machine.
    async fn connect(from: &str, to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        socket.connect(to).await.unwrap()
    }

    async fn is_answered(stream: &mut TcpStream) -> bool {
        let mut answer = Vec::new();
        let mut is_open = stream.write_all(REQUEST).await.is_ok();
        while is_open && !answer.ends_with(b"\r\n\r\nok") {
            is_open = stream.read_buf(&mut answer).await.is_ok_and(|read| read > 0);
        }
        is_open
    }

    /// Reads until the other side ends the connection.
    async fn ended(stream: &mut TcpStream) {
        let mut buffer = vec![0; 64 * 1024];
        while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    }

    #[tokio::test]
    async fn whoever_has_the_most_connections_loses_the_oldest_of_them_and_others_lose_none() {
        let address = port().await;
        let mut honest = connect("127.0.0.2", address).await;
        assert!(is_answered(&mut honest).await);
        let mut many = Vec::new();
        for _ in 0..2 * CONNECTIONS {
            many.push(connect("127.0.0.1", address).await);
        }
        let mut another = connect("127.0.0.3", address).await;
        assert!(is_answered(&mut another).await);
        for oldest in many.iter_mut().take(CONNECTIONS) {
            ended(oldest).await;
        }
        let newest = many.last_mut().unwrap();
        assert!(is_answered(newest).await);
        assert!(is_answered(&mut honest).await);
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_no_whole_head_is_ended() {
        let address = port().await;
        let mut silent = connect("127.0.0.1", address).await;
        let mut partial = connect("127.0.0.1", address).await;
        partial.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").await.unwrap();
        let mut idle = connect("127.0.0.1", address).await;
        assert!(is_answered(&mut idle).await);
        let began = Instant::now();
        for client in [&mut silent, &mut partial, &mut idle] {
            ended(client).await;
        }
        assert!(began.elapsed() <= PATIENCE + PAUSE, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_refused() {
        let address = port().await;
        let mut client = connect("127.0.0.1", address).await;
        client.write_all(b"GET / HTTP/1.1\r\nX: ").await.unwrap();
        // The server may deny it before all of it is sent.
        drop(client.write_all(&[b'a'; 4 * HEAD]).await);
        let mut answer = Vec::new();
        drop(client.read_to_end(&mut answer).await);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_an_answer_to_its_end_is_ended() {
        let address = port().await;
        let mut slow = connect("127.0.0.1", address).await;
        slow.write_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let began = Instant::now();
        // The client reads nothing before the connection may have ended.
        sleep(2 * LIFE + PAUSE).await;
        ended(&mut slow).await;
        assert!(began.elapsed() <= 3 * LIFE, "{:?}", began.elapsed());
    }
}
