//! Finds out why a request brought no answer, from the types of the underlying errors.

use std::error::Error;
use std::io;
use std::iter::successors;

use drop_core::discovery::{SourceFailure, SourceReason};
use rustls::{AlertDescription, CertificateError};

/// Returns the failure between Drop and `host`.
pub fn failure(error: &reqwest::Error, host: &str) -> SourceFailure {
    let (reason, message) = classify(error, host);
    SourceFailure::new(reason, message)
}

fn classify(error: &reqwest::Error, host: &str) -> (SourceReason, String) {
    if let Some(error) = find::<rustls::Error>(error) {
        return (SourceReason::TlsError, format!("TLS: {}", describe_tls(error, host)));
    }
    if error.is_dns() {
        return (SourceReason::DnsError, format!("cannot resolve {host}"));
    }
    if error.is_timeout() {
        let doing = if error.is_connect() { "connecting to" } else { "waiting for" };
        return (SourceReason::Timeout, format!("timeout {doing} {host}"));
    }
    if let Some(error) = find::<hyper::Error>(error) {
        return if error.is_parse() {
            (SourceReason::InvalidResponse, format!("{host} does not speak HTTP: {error}"))
        } else {
            (SourceReason::ConnectionRefused, format!("{host} cut the connection"))
        };
    }
    if error.is_decode() {
        return (SourceReason::InvalidResponse, format!("the answer of {host} is damaged"));
    }
    match find::<io::Error>(error) {
        Some(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            (SourceReason::ConnectionRefused, format!("connection refused: {host}"))
        }
        Some(error) => (SourceReason::ConnectionRefused, format!("cannot connect to {host}: {error}")),
        None if error.is_connect() => (SourceReason::ConnectionRefused, format!("cannot connect to {host}")),
        None => (SourceReason::InvalidResponse, format!("no answer of {host} that can be understood")),
    }
}

fn describe_tls(error: &rustls::Error, host: &str) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            format!("the certificate of {host} is signed by an unknown authority: put it into ca.crt of the Secret")
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!("the certificate is not one for {host}"),
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            format!("the certificate of {host} has expired")
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            format!("{host} wants a client certificate: put tls.crt and tls.key into the Secret")
        }
        rustls::Error::InvalidMessage(_) => format!("{host} does not speak it: write http:// or another port"),
        error => format!("{host}: {error}"),
    }
}

/// Returns the outermost error of type `T` among `error` and its causes.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    successors(Some(error), |error| cause(*error)).find_map(|error| error.downcast_ref())
}

/// Returns the cause of `error`. An `io::Error` only returns the cause of the error that it wraps, so the wrapped one
/// comes first.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}
