//! Connections under TLS, with a certificate that may be renewed at any time.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::serve::Listener;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{info, warn};

/// How long a client may take to agree on keys.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many clients may be about that at once. One more ends the oldest of them, so that nobody keeps others out by
/// being silent: an honest one takes milliseconds.
const HANDSHAKES: usize = 64;

/// A certificate with its key, in two PEM files that may change.
#[derive(Debug)]
pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    /// What the files were when they were last looked at.
    seen: Files,
    /// By the last ones that were good.
    config: Arc<ServerConfig>,
}

/// The bytes of the chain and of the key, or why they cannot be read.
type Files = Result<(Vec<u8>, Vec<u8>), String>;

impl Certificate {
    /// The certificate in these files.
    ///
    /// # Errors
    /// If they cannot be read, are not PEM, or do not belong together.
    pub fn open(chain: PathBuf, key: PathBuf) -> anyhow::Result<Self> {
        let seen = read(&chain, &key);
        let config = config(&seen).with_context(|| {
            format!("--tls-cert-file {} with --tls-key-file {} cannot be used", chain.display(), key.display())
        })?;
        Ok(Self { chain, key, seen, config: Arc::new(config) })
    }

    /// As the files are now. The former certificate stays until they are good again, because
    /// they may not change at the same instant.
    fn current(&mut self) -> Arc<ServerConfig> {
        let seen = read(&self.chain, &self.key);
        if seen != self.seen {
            match config(&seen) {
                Ok(config) => {
                    self.config = Arc::new(config);
                    info!(file = %self.chain.display(), "the certificate was renewed");
                }
                Err(error) => warn!(file = %self.chain.display(), "the former certificate stays: {error:#}"),
            }
            self.seen = seen;
        }
        self.config.clone()
    }
}

fn read(chain: &PathBuf, key: &PathBuf) -> Files {
    let read = |file: &PathBuf| fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()));
    Ok((read(chain)?, read(key)?))
}

fn config(files: &Files) -> anyhow::Result<ServerConfig> {
    let (chain, key) = files.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().context("the certificate is not PEM")?;
    let key = PrivateKeyDer::from_pem_slice(key).context("the key is not PEM")?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Accepts connections under TLS.
pub struct TlsListener {
    listener: TcpListener,
    certificate: Certificate,
    /// Clients that are not heard before they have agreed on keys.
    handshakes: JoinSet<Option<(TlsStream<TcpStream>, SocketAddr)>>,
    /// The same, the oldest first, with some that have ended.
    order: VecDeque<AbortHandle>,
}

impl TlsListener {
    /// Connections to `listener`, under `certificate`.
    pub fn new(listener: TcpListener, certificate: Certificate) -> Self {
        Self { listener, certificate, handshakes: JoinSet::new(), order: VecDeque::new() }
    }

    fn shake_hands(&mut self, stream: TcpStream, address: SocketAddr) {
        self.order.retain(|handshake| !handshake.is_finished());
        if self.order.len() == HANDSHAKES
            && let Some(oldest) = self.order.pop_front()
        {
            oldest.abort();
        }
        // Two small files for each connection need no watch and no clock.
        let acceptor = TlsAcceptor::from(self.certificate.current());
        self.order.push_back(self.handshakes.spawn(async move {
            let stream = timeout(HANDSHAKE, acceptor.accept(stream)).await.ok()?.ok()?;
            Some((stream, address))
        }));
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                (stream, address) = Listener::accept(&mut self.listener) => self.shake_hands(stream, address),
                Some(shaken) = self.handshakes.join_next() => {
                    if let Ok(Some(connection)) = shaken {
                        return connection;
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use reqwest::{Certificate as Root, Client};
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::discover::fake::{Authority, Identity};

    /// A folder with a certificate of `authority`, and the paths of the two files.
    fn files(name: &str, authority: &Authority) -> (PathBuf, PathBuf) {
        let folder = std::env::temp_dir().join(format!("drop-tls-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (chain, key) = (folder.join("tls.crt"), folder.join("tls.key"));
        write(&chain, &key, authority);
        (chain, key)
    }

    fn write(chain: &PathBuf, key: &PathBuf, authority: &Authority) {
        let Identity { certificate, key: secret } = authority.identity("localhost");
        fs::write(chain, certificate).unwrap();
        fs::write(key, secret).unwrap();
    }

    /// Whether `https://localhost:PORT` is answered to someone who trusts `authority` alone.
    async fn answers(port: u16, authority: &Authority) -> bool {
        drop(rustls::crypto::ring::default_provider().install_default());
        let root = Root::from_pem(authority.pem.as_bytes()).unwrap();
        let client = Client::builder().tls_certs_only([root]).no_proxy().build().unwrap();
        client.get(format!("https://localhost:{port}")).send().await.is_ok_and(|reply| reply.status() == 200)
    }

    async fn serve(certificate: Certificate) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().route("/", get(|| async { "ok" }));
        tokio::spawn(async move { axum::serve(TlsListener::new(listener, certificate), router).await });
        port
    }

    #[tokio::test]
    async fn a_renewed_certificate_is_served_and_a_broken_one_is_not() {
        let (old, new) = (Authority::new(), Authority::new());
        let (chain, key) = files("renewed", &old);
        let port = serve(Certificate::open(chain.clone(), key.clone()).unwrap()).await;
        assert!(answers(port, &old).await && !answers(port, &new).await);
        // The key is another one already, and the certificate is not.
        fs::write(&key, new.identity("localhost").key).unwrap();
        assert!(answers(port, &old).await);
        fs::remove_file(&chain).unwrap();
        assert!(answers(port, &old).await);
        write(&chain, &key, &new);
        assert!(answers(port, &new).await && !answers(port, &old).await);
    }

    #[tokio::test]
    async fn clients_that_say_nothing_hold_up_nobody_and_end_the_oldest_of_them() {
        let authority = Authority::new();
        let (chain, key) = files("silent", &authority);
        let port = serve(Certificate::open(chain, key).unwrap()).await;
        let mut silent = Vec::new();
        for _ in 0..2 * HANDSHAKES {
            silent.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
        }
        assert!(answers(port, &authority).await);
        let mut newest = silent.split_off(HANDSHAKES + 1);
        for ended in &mut silent {
            assert_eq!(ended.read(&mut [0]).await.unwrap_or_default(), 0);
        }
        for waiting in &mut newest {
            let nothing = waiting.try_read(&mut [0]).unwrap_err();
            assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let authority = Authority::new();
        let (chain, key) = files("unusable", &authority);
        let error = |chain: &PathBuf, key: &PathBuf| {
            format!("{:#}", Certificate::open(chain.clone(), key.clone()).unwrap_err())
        };
        let missing = chain.with_file_name("missing");
        assert!(error(&missing, &key).contains("cannot read"), "{}", error(&missing, &key));
        assert!(error(&chain, &chain).contains("the key is not PEM"), "{}", error(&chain, &chain));
        fs::write(&key, Authority::new().identity("localhost").key).unwrap();
        let mixed = error(&chain, &key);
        assert!(mixed.contains("tls.crt") && mixed.contains("tls.key"), "{mixed}");
    }
}
