//! The credentials in a Secret for requests to a source.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use drop_core::discovery::{SourceFailure, SourceReason};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::docker_config::{self, Entry, Shown};

/// The field of a CachedImage that names its pull secrets.
const PULL_SECRETS: &str = "imagePullSecrets";
/// The prefix of the keys of custom headers: `headers.X-Scope-OrgID`.
const HEADER_PREFIX: &str = "headers.";
/// Headers that belong to the connection, and not to the backend.
const CONNECTION_HEADERS: [HeaderName; 4] =
    [header::HOST, header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING];

/// The trusted authorities if a Secret names none. These are the system's (`SSL_CERT_FILE`, `SSL_CERT_DIR` or the usual
/// places), so that its administrator decides. If the system has none, as in an image made from scratch, they are
/// Mozilla's, which are built in.
static PUBLIC_ROOTS: LazyLock<RootCertStore> = LazyLock::new(|| {
    let (mut roots, _) = system_roots();
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
});

/// Returns the system's authorities, and why some of them cannot be read.
fn system_roots() -> (RootCertStore, Vec<rustls_native_certs::Error>) {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    (roots, found.errors)
}

/// Checks that the authorities which the environment names exist, so that no others are trusted in their place.
///
/// # Errors
/// If `SSL_CERT_FILE` or `SSL_CERT_DIR` names no certificate.
pub fn check_authorities() -> anyhow::Result<()> {
    let named = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().find_map(|name| Some((name, std::env::var_os(name)?)));
    let Some((name, path)) = named else { return Ok(()) };
    let (roots, errors) = system_roots();
    let why = errors.first().map_or_else(|| "no certificate is in it".to_owned(), ToString::to_string);
    anyhow::ensure!(!roots.is_empty(), "{name}={}: {why}: name certificates of authorities in PEM", path.display());
    Ok(())
}

/// The credentials for a backend, and the authorities that it must prove itself by.
///
/// All but the trusted authorities is for the backend's own origin only.
#[derive(Clone)]
pub struct Credentials {
    /// The field that names the Secret.
    pub named_in: &'static str,
    /// The login for the backend.
    pub login: Option<Login>,
    /// The logins for a registry, by host and repository, which replace `login`.
    docker_logins: Arc<[(Entry, Login)]>,
    /// Custom headers.
    pub headers: HeaderMap,
    /// For connections to the backend: trusts only `ca.crt` if there is one, and sends the client certificate.
    pub tls: ClientConfig,
    /// For connections to other hosts that the backend refers to: trusts `ca.crt` and the public authorities, and sends
    /// no certificate.
    pub tls_elsewhere: ClientConfig,
    /// Texts that no message may contain.
    secrets: Vec<String>,
}

/// A login for a backend.
#[derive(Clone)]
pub enum Login {
    /// `Authorization` of user and password, which a registry's token service also gets.
    Basic(HeaderValue),
    /// Any other `Authorization`: a token for the backend itself.
    Other(HeaderValue),
    /// A token for a registry's token service only, which exchanges it for others.
    Identity(String),
}

impl Login {
    /// Returns `Authorization`, marked as sensitive.
    pub fn header(&self) -> Option<&HeaderValue> {
        match self {
            Self::Basic(value) | Self::Other(value) => Some(value),
            Self::Identity(_) => None,
        }
    }
}

impl Credentials {
    /// Makes empty credentials.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn none() -> Result<Self, SourceFailure> {
        Self::from_secret(&BTreeMap::new())
    }

    /// Reads the keys of a Secret: `token`, or `username` and `password`; `.dockerconfigjson`; `ca.crt`; `tls.crt` and
    /// `tls.key`; `headers.NAME`. Other keys are ignored.
    ///
    /// # Errors
    /// `SecretNotFound`, with the key that is not usable, and the reason.
    pub fn from_secret(data: &BTreeMap<String, Vec<u8>>) -> Result<Self, SourceFailure> {
        let mut secrets = Vec::new();
        let mut login = login(data, &mut secrets)?;
        let mut headers = HeaderMap::new();
        for (key, value) in data {
            let Some(name) = key.strip_prefix(HEADER_PREFIX) else { continue };
            let value = text(key, value)?;
            let name =
                name.parse::<HeaderName>().ok().filter(|name| !CONNECTION_HEADERS.contains(name)).ok_or_else(|| {
                    unusable(key, "write the name of a header after \"headers.\", such as X-Scope-OrgID")
                })?;
            if name == header::AUTHORIZATION {
                // With a login it would be a second header of the same name.
                if login.is_some() {
                    return Err(unusable(key, "keep either it, or token, or username and password"));
                }
                login = Some(authorization(key, value, &mut secrets)?);
                continue;
            }
            headers.insert(name, sensitive(key, value)?);
            hide(value, &mut secrets);
        }
        let docker_logins = docker_logins(data, &mut secrets)?;
        let authority = data.get("ca.crt").map(|pem| authority(pem)).transpose()?;
        let mut everywhere = PUBLIC_ROOTS.clone();
        everywhere.extend(authority.iter().flat_map(|roots| roots.roots.iter().cloned()));
        Ok(Self {
            login,
            docker_logins: docker_logins.into(),
            headers,
            tls: tls(authority.unwrap_or_else(|| PUBLIC_ROOTS.clone()), identity(data)?)?,
            tls_elsewhere: tls(everywhere, None)?,
            secrets,
            named_in: "secretRef",
        })
    }

    /// Reads a pull secret as the kubelet does: only the two types with a Docker config, and only that config. Other
    /// keys are not meant for the registry of an image.
    ///
    /// # Errors
    /// `SecretNotFound`, with the reason why the Secret is no pull secret.
    pub fn from_pull_secret(type_: Option<&str>, data: &BTreeMap<String, Vec<u8>>) -> Result<Self, SourceFailure> {
        let key = match type_ {
            Some("kubernetes.io/dockerconfigjson") => ".dockerconfigjson",
            Some("kubernetes.io/dockercfg") => ".dockercfg",
            _ => return Err(no_pull_secret(type_.unwrap_or("Opaque"))),
        };
        let config = data.get(key).ok_or_else(|| unusable(key, "it is missing"))?;
        Ok(Self { named_in: PULL_SECRETS, ..Self::from_secret(&[(key.to_owned(), config.clone())].into())? })
    }

    /// Makes credentials without a login for the registry of an image.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn without_pull_secret() -> Result<Self, SourceFailure> {
        Ok(Self { named_in: PULL_SECRETS, ..Self::none()? })
    }

    /// Returns a number that credentials with the same secrets share, and others do not. It changes with the process.
    pub fn fingerprint(&self) -> u64 {
        static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        HASHER.hash_one(&self.secrets)
    }

    /// Returns `Authorization` for requests to the backend.
    pub fn authorization(&self) -> Option<&HeaderValue> {
        self.login.as_ref().and_then(Login::header)
    }

    /// Returns the login for a repository of the registry at `host`.
    pub fn login_for(&self, host: &str, repository: &str) -> Option<&Login> {
        self.login.as_ref().or_else(|| docker_config::find(&self.docker_logins, host, repository))
    }

    /// Returns `text` without secrets and without `issued` tokens, for backends that repeat the request.
    pub fn redact(&self, text: &str, issued: &[String]) -> String {
        let mut secrets: Vec<_> = self.secrets.iter().chain(issued).filter(|secret| !secret.is_empty()).collect();
        // One secret may be a part of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.into_iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "[redacted]"))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

fn login(data: &BTreeMap<String, Vec<u8>>, secrets: &mut Vec<String>) -> Result<Option<Login>, SourceFailure> {
    let value = |key| data.get(key).map(|value| text(key, value)).transpose();
    match (value("token")?, value("username")?, value("password")?) {
        (None, None, None) => Ok(None),
        (Some(token), None, None) => Ok(Some(bearer("token", token, secrets)?)),
        (None, Some(username), Some(password)) => Ok(Some(basic("password", username, password, secrets)?)),
        (None, Some(_), None) => Err(unusable("username", "add the key password")),
        (None, None, Some(_)) => Err(unusable("password", "add the key username")),
        (Some(_), ..) => Err(unusable("token", "keep either token, or username and password")),
    }
}

fn bearer(key: &str, token: &str, secrets: &mut Vec<String>) -> Result<Login, SourceFailure> {
    hide(token, secrets);
    Ok(Login::Other(sensitive(key, &format!("Bearer {token}"))?))
}

fn basic(key: &str, username: &str, password: &str, secrets: &mut Vec<String>) -> Result<Login, SourceFailure> {
    let encoded = STANDARD.encode(format!("{username}:{password}"));
    hide(password, secrets);
    hide(&encoded, secrets);
    Ok(Login::Basic(sensitive(key, &format!("Basic {encoded}"))?))
}

/// Reads `Authorization` as the user has written it.
fn authorization(key: &str, value: &str, secrets: &mut Vec<String>) -> Result<Login, SourceFailure> {
    let header = sensitive(key, value)?;
    let (scheme, shown) = value.split_once(' ').unwrap_or(("", value));
    hide(shown.trim(), secrets);
    if !scheme.eq_ignore_ascii_case("basic") {
        return Ok(Login::Other(header));
    }
    let decoded = STANDARD.decode(shown.trim()).ok().and_then(|decoded| String::from_utf8(decoded).ok());
    if let Some((_, password)) = decoded.as_deref().and_then(|decoded| decoded.split_once(':')) {
        hide(password, secrets);
    }
    Ok(Login::Basic(header))
}

/// Reads the logins of a Secret that Docker or `kubectl create secret docker-registry` made.
fn docker_logins(
    data: &BTreeMap<String, Vec<u8>>,
    secrets: &mut Vec<String>,
) -> Result<Vec<(Entry, Login)>, SourceFailure> {
    let key = [".dockerconfigjson", ".dockercfg"].into_iter().find(|key| data.contains_key(*key));
    let Some((key, json)) = key.and_then(|key| Some((key, data.get(key)?))) else { return Ok(Vec::new()) };
    let wanted = "write a Docker config, as kubectl create secret docker-registry does";
    let entries = docker_config::entries(json).ok_or_else(|| unusable(key, wanted))?;
    let login = |entry: Entry| {
        let login = match &entry.shown {
            Shown::User(username, password) => basic(key, username, password, secrets)?,
            Shown::Registry(token) => bearer(key, token, secrets)?,
            Shown::Identity(token) => {
                hide(token, secrets);
                Login::Identity(token.clone())
            }
        };
        Ok((entry, login))
    };
    entries.into_iter().map(login).collect()
}

/// Records a text that no message may repeat, also in the encoding of a form.
fn hide(secret: &str, secrets: &mut Vec<String>) {
    let mut form = Url::parse("http://form").ok();
    if let Some(form) = &mut form {
        form.query_pairs_mut().append_key_only(secret);
    }
    let encoded = form.as_ref().and_then(Url::query).filter(|encoded| *encoded != secret).map(str::to_owned);
    secrets.extend([secret.to_owned()].into_iter().chain(encoded));
}

/// Returns a value as text, without the line break that many editors add.
fn text<'a>(key: &str, value: &'a [u8]) -> Result<&'a str, SourceFailure> {
    let value = std::str::from_utf8(value).map_err(|_| unusable(key, "it is not UTF-8 text"))?;
    Ok(value.trim_end_matches(['\r', '\n']))
}

fn sensitive(key: &str, value: &str) -> Result<HeaderValue, SourceFailure> {
    let mut value =
        HeaderValue::from_str(value).map_err(|_| unusable(key, "it holds a character that no header may"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn authority(pem: &[u8]) -> Result<RootCertStore, SourceFailure> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("ca.crt", pem)? {
        roots.add(certificate).map_err(|error| unusable("ca.crt", &error.to_string()))?;
    }
    Ok(roots)
}

fn certificates(key: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, SourceFailure> {
    let wanted = "write certificates in PEM, from -----BEGIN CERTIFICATE----- on";
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    certificates.ok().filter(|found| !found.is_empty()).ok_or_else(|| unusable(key, wanted))
}

/// A client certificate with its chain, and its key.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(data: &BTreeMap<String, Vec<u8>>) -> Result<Option<Identity>, SourceFailure> {
    match (data.get("tls.crt"), data.get("tls.key")) {
        (None, None) => Ok(None),
        (Some(chain), Some(key)) => {
            let key = PrivateKeyDer::from_pem_slice(key)
                .map_err(|_| unusable("tls.key", "write a private key in PEM, without a passphrase"))?;
            Ok(Some((certificates("tls.crt", chain)?, key)))
        }
        (Some(_), None) => Err(unusable("tls.crt", "add the key tls.key")),
        (None, Some(_)) => Err(unusable("tls.key", "add the key tls.crt")),
    }
}

fn tls(roots: RootCertStore, identity: Option<Identity>) -> Result<ClientConfig, SourceFailure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let failed = |error: rustls::Error| unusable("tls.key", &error.to_string());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_root_certificates(roots);
    match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(failed),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// Kubelets ignore such a Secret.
fn no_pull_secret(type_: &str) -> SourceFailure {
    let remedy = "create it anew with kubectl create secret docker-registry";
    SourceFailure::new(SourceReason::SecretNotFound, format!("it is of type {type_}, so kubelets ignore it: {remedy}"))
}

fn unusable(key: &str, why: &str) -> SourceFailure {
    SourceFailure::new(SourceReason::SecretNotFound, format!("the Secret's key {key} cannot be used: {why}"))
}

/// Makes the credentials of a Secret with these keys.
#[cfg(test)]
pub fn secret(data: &[(&str, &str)]) -> Credentials {
    try_secret(data).unwrap()
}

/// Makes credentials that may be invalid.
#[cfg(test)]
pub fn try_secret(data: &[(&str, &str)]) -> Result<Credentials, SourceFailure> {
    let data = data.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()));
    Credentials::from_secret(&data.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Authority;

    #[test]
    fn what_a_secret_cannot_be_used_for_is_named_by_key() {
        let client = Authority::new().identity("client");
        let cases: [(&[(&str, &str)], &str); 13] = [
            (&[("token", "a"), ("username", "b"), ("password", "c")], "token"),
            (&[("username", "b")], "password"),
            (&[("password", "b")], "username"),
            (&[("token", "a\nb")], "token"),
            (&[("headers.", "x")], "headers."),
            (&[("headers.a b", "x")], "headers.a b"),
            (&[("headers.Host", "x")], "headers.Host"),
            (&[("headers.X", "a\nb")], "headers.X"),
            (&[("ca.crt", "nonsense")], "ca.crt"),
            (&[("tls.crt", &client.certificate)], "tls.key"),
            (&[("tls.key", &client.key)], "tls.crt"),
            (&[("tls.crt", "nonsense"), ("tls.key", &client.key)], "tls.crt"),
            (&[("tls.crt", &client.certificate), ("tls.key", &Authority::new().identity("client").key)], "tls.key"),
        ];
        for (data, key) in cases {
            let failure = try_secret(data).unwrap_err();
            assert_eq!(failure.reason, SourceReason::SecretNotFound);
            assert!(failure.message.contains(key), "{key}: {}", failure.message);
        }
    }

    #[test]
    fn line_breaks_at_the_end_of_values_do_not_matter() {
        let credentials = try_secret(&[("username", "me\n"), ("password", "pass word\r\n")]).unwrap();
        assert_eq!(credentials.authorization().unwrap(), "Basic bWU6cGFzcyB3b3Jk");
    }

    #[test]
    fn nothing_secret_is_shown() {
        let credentials = try_secret(&[("token", "s3cr3t"), ("headers.X-Key", "k3y")]).unwrap();
        assert!(!format!("{credentials:?} {:?} {:?}", credentials.headers, credentials.authorization()).contains("3"));
        assert_eq!(credentials.redact("s3cr3t and k3y", &[]), "[redacted] and [redacted]");
    }
}
