//! Reads the serving certificate, and reads it again whenever its files change.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tracing::{info, warn};

/// A certificate with its key, in two PEM files that may change.
#[derive(Debug)]
pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    /// The content of the files when they were last read.
    seen: Files,
    /// The configuration from the last good files.
    config: Arc<ServerConfig>,
}

/// The bytes of the chain and of the key, or why they cannot be read.
type Files = Result<(Vec<u8>, Vec<u8>), String>;

impl Certificate {
    /// Opens the certificate in these files.
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

    /// Returns the configuration from the current files. While the two files do not match, because one of them changes
    /// first, the last good certificate stays in use.
    pub fn current(&mut self) -> Arc<ServerConfig> {
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

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use reqwest::{Certificate as Root, Client};
    use tokio::net::TcpListener;

    use super::super::listen;
    use super::*;
    use crate::fake::{Authority, Identity};

    /// Makes a folder with a certificate of `authority`, and returns the paths of the two files.
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

    /// Whether `https://localhost:PORT` answers a client that trusts `authority` only.
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
        tokio::spawn(listen::serve(listener, Some(certificate), router));
        port
    }

    #[tokio::test]
    async fn a_renewed_certificate_is_served_and_a_broken_one_is_not() {
        let (old, new) = (Authority::new(), Authority::new());
        let (chain, key) = files("renewed", &old);
        let port = serve(Certificate::open(chain.clone(), key.clone()).unwrap()).await;
        assert!(answers(port, &old).await && !answers(port, &new).await);
        // The key has changed already, but the certificate has not.
        fs::write(&key, new.identity("localhost").key).unwrap();
        assert!(answers(port, &old).await);
        fs::remove_file(&chain).unwrap();
        assert!(answers(port, &old).await);
        write(&chain, &key, &new);
        assert!(answers(port, &new).await && !answers(port, &old).await);
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
