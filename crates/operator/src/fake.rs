//! A backend on loopback for tests: it answers by script and records its requests.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::Response;
use axum::serve::Listener;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{AUTHORIZATION, HeaderMap};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A server that runs until its test ends.
pub struct Fake {
    /// Its address without a path.
    pub url: String,
    /// Its host and port.
    pub host: String,
    got: Arc<Mutex<Vec<Got>>>,
}

/// A request that it got.
#[derive(Clone, Debug)]
pub struct Got {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: HeaderMap,
    pub body: String,
}

impl Got {
    /// A parameter of the URL or of the form.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let url = reqwest::Url::parse(&format!("http://host{}", self.target)).unwrap();
        let form = reqwest::Url::parse(&format!("http://host?{}", self.body)).unwrap();
        let mut pairs = url.query_pairs().chain(form.query_pairs());
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn authorization(&self) -> Option<&str> {
        self.header(AUTHORIZATION.as_str())
    }
}

impl Fake {
    /// Serves HTTP.
    pub async fn start(answer: impl Fn(&Got) -> Response + Clone + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve("http", listener.local_addr().unwrap(), listener, answer)
    }

    /// Serves HTTPS.
    pub async fn start_tls(
        config: ServerConfig,
        answer: impl Fn(&Got) -> Response + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self::serve("https", address, TlsListener { listener, acceptor: TlsAcceptor::from(Arc::new(config)) }, answer)
    }

    fn serve<L: Listener<Addr = SocketAddr>>(
        scheme: &str,
        address: SocketAddr,
        listener: L,
        answer: impl Fn(&Got) -> Response + Clone + Send + Sync + 'static,
    ) -> Self {
        let got = Arc::new(Mutex::new(Vec::new()));
        let record = got.clone();
        let handler = move |request: Request| {
            let (answer, record) = (answer.clone(), record.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = to_bytes(body, 1 << 20).await.unwrap();
                let got = Got {
                    method: parts.method.to_string(),
                    target: parts.uri.path_and_query().unwrap().to_string(),
                    headers: parts.headers,
                    body: String::from_utf8(body.to_vec()).unwrap(),
                };
                let response = answer(&got);
                record.lock().unwrap().push(got);
                response
            }
        };
        let router = axum::Router::new().fallback(handler);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url: format!("{scheme}://{address}"), host: address.to_string(), got }
    }

    /// Its scheme, host and port, as a URL names them.
    fn origin(&self) -> String {
        reqwest::Url::parse(&self.url).unwrap().origin().ascii_serialization()
    }

    /// Returns the requests so far.
    pub fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        crate::discover::forget(&self.origin());
    }
}

/// An answer.
pub fn reply(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}

/// Returns `bytes` as sent with `content-encoding: gzip`.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Starts a server without HTTP: it writes `bytes` to each client, and then closes the connection, or leaves it open.
pub async fn raw(bytes: &'static [u8], closes: bool) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(bytes).await;
            if !closes {
                open.push(stream);
            }
        }
    });
    address.to_string()
}

struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.listener.accept().await.unwrap();
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A certificate authority.
pub struct Authority {
    /// Its certificate in PEM.
    pub pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), certificate: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        (certificate, key)
    }

    /// A certificate for `name`.
    pub fn identity(&self, name: &str) -> Identity {
        let (certificate, key) = self.issue(name);
        Identity { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// A server with a certificate for `name` that wants clients with one of `clients`.
    pub fn server(&self, name: &str, clients: Option<&Authority>) -> ServerConfig {
        let (certificate, key) = self.issue(name);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.certificate.clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        builder.with_single_cert(vec![certificate.der().clone()], key).unwrap()
    }
}
