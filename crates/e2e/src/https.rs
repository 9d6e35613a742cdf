//! Requests under TLS, as a scraper of metrics sends them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use drop_testbed::Authority;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Error};

/// A client that trusts one authority only, and finds every host at one address.
#[derive(Debug)]
pub struct Scraper {
    agent: Agent,
}

impl Scraper {
    /// Makes a client that trusts `authority`, and sends its requests to `address`.
    ///
    /// # Errors
    /// If the authority's certificate is not valid.
    pub fn new(authority: &Authority, address: SocketAddr) -> Result<Self> {
        let root = Certificate::from_pem(authority.certificate().as_bytes())?;
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&[root]))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let config = Agent::config_builder().tls_config(tls).proxy(None).http_status_as_error(false);
        let config = config.timeout_global(Some(Duration::from_secs(10))).build();
        Ok(Self { agent: Agent::with_parts(config, DefaultConnector::new(), At(address)) })
    }

    /// Returns the status and the text of the answer to a request for `url` with this token.
    ///
    /// # Errors
    /// If no server answers, or if the authority did not sign its certificate.
    pub fn get(&self, url: &str, token: Option<&str>) -> Result<(u16, String)> {
        let mut request = self.agent.get(url);
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let mut reply = request.call()?;
        Ok((reply.status().as_u16(), reply.body_mut().read_to_string()?))
    }
}

/// Resolves every host to this address.
#[derive(Debug)]
struct At(SocketAddr);

impl Resolver for At {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let mut found = self.empty();
        found.push(self.0);
        Ok(found)
    }
}
