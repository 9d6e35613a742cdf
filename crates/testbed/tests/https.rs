//! Host names and HTTPS without a network.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use anyhow::Result;
use drop_testbed::{Answer, Authority, Certificate, Clients, FakeServer, ForwardProxy, TlsFront};
use ureq::Proxy;
use ureq::tls::{ClientCert, PrivateKey, RootCerts, TlsConfig};

const NAME: &str = "mimir.example.com";

/// A server behind TLS that a proxy finds by its name.
struct Site {
    authority: Authority,
    proxy: ForwardProxy,
    _front: TlsFront,
    server: FakeServer,
}

impl Site {
    fn start(clients: Clients) -> Result<Self> {
        let server = FakeServer::start()?;
        server.answer("/", Answer::ok("hello"));
        let authority = Authority::new()?;
        let front = TlsFront::start(&authority, &[NAME], clients, server.address())?;
        let proxy = ForwardProxy::start()?;
        proxy.route(&format!("{NAME}:443"), front.address());
        Ok(Self { authority, proxy, _front: front, server })
    }

    /// What a client gets that trusts `authority` and has `own` for a certificate.
    fn get(&self, url: &str, authority: &Authority, own: Option<&Certificate>) -> Result<String> {
        let pem = |pem: &str| ureq::tls::Certificate::from_pem(pem.as_bytes());
        let root = pem(&authority.certificate())?;
        let own = match own {
            Some(own) => {
                Some(ClientCert::new_with_certs(&[pem(&own.certificate)?], PrivateKey::from_pem(own.key.as_bytes())?))
            }
            None => None,
        };
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&[root]))
            .client_cert(own)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let proxy = Proxy::new(&self.proxy.url())?;
        let agent = ureq::Agent::config_builder().tls_config(tls).proxy(Some(proxy)).build().new_agent();
        Ok(agent.get(url).call()?.body_mut().read_to_string()?)
    }
}

#[test]
fn a_named_host_is_reached_by_those_who_trust_its_authority() {
    let site = Site::start(Clients::Anybody).unwrap();
    let url = format!("https://{NAME}/prometheus");
    assert_eq!(site.get(&url, &site.authority, None).unwrap(), "hello");
    assert_eq!(site.server.requests()[0].header("host"), Some(NAME));
    let stranger = Authority::new().unwrap();
    let error = site.get(&url, &stranger, None).unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    let error = site.get("https://elsewhere.example.com/", &site.authority, None).unwrap_err().to_string();
    assert!(error.contains("502"), "{error}");
    let asked = ["mimir.example.com:443", "mimir.example.com:443", "elsewhere.example.com:443"];
    assert_eq!(site.proxy.asked(), asked);
    assert_eq!(site.server.requests().len(), 1);
}

#[test]
fn a_host_can_ask_for_a_certificate() {
    let site = Site::start(Clients::Certified).unwrap();
    let url = format!("https://{NAME}/");
    assert!(site.get(&url, &site.authority, None).is_err());
    let foreign = Authority::new().unwrap().issue(&["drop"]).unwrap();
    assert!(site.get(&url, &site.authority, Some(&foreign)).is_err());
    assert!(site.server.requests().is_empty());
    let own = site.authority.issue(&["drop"]).unwrap();
    assert_eq!(site.get(&url, &site.authority, Some(&own)).unwrap(), "hello");
}

#[test]
fn plain_requests_go_through_the_proxy_too() {
    let site = Site::start(Clients::Anybody).unwrap();
    site.proxy.route("loki.example.com:80", site.server.address());
    let ask = |url: &str| {
        let mut client = TcpStream::connect(site.proxy.url().trim_start_matches("http://")).unwrap();
        client.write_all(format!("GET {url} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
        let mut reply = String::new();
        client.read_to_string(&mut reply).unwrap();
        reply
    };
    assert!(ask("http://loki.example.com/loki?x=1").ends_with("\r\n\r\nhello"));
    assert!(ask(&site.server.url()).ends_with("\r\n\r\nhello"));
    assert!(ask("http://loki.example.com:81/").starts_with("HTTP/1.1 502 "));
    let paths: Vec<String> = site.server.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(paths, ["/loki", "/"]);
}
