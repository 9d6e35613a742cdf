//! The failures of a source.

use std::fmt;

use jiff::SignedDuration;

/// Why a query failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct SourceFailure {
    /// The kind of failure.
    pub reason: SourceReason,
    /// The cause, for people. It names the host, and never a credential.
    pub message: String,
    /// How long the server asks clients to wait, if it does.
    pub retry_after: Option<SignedDuration>,
}

impl SourceFailure {
    /// A failure after which Drop may ask the server again at any time.
    pub fn new(reason: SourceReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), retry_after: None }
    }

    /// Returns the failure with the name of a repository, and the number of `others` that failed.
    #[must_use]
    pub fn of_repository(&self, path: &str, others: usize) -> Self {
        let others = match others {
            0 => String::new(),
            others => format!(" (and {others} more)"),
        };
        Self { message: format!("{path}: {}{others}", self.message), ..self.clone() }
    }
}

/// Kinds of failures of a source, as the reason of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceReason {
    /// DNS does not know the host.
    DnsError,
    /// No process listens there, or the connection was cut.
    ConnectionRefused,
    /// No answer in time.
    Timeout,
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// 429.
    RateLimited,
    /// 5xx.
    ServerError,
    /// The certificate or the handshake.
    TlsError,
    /// The answer is too large, or Drop cannot read it.
    InvalidResponse,
    /// The answer names no image, although earlier ones did.
    EmptyResult,
    /// The Secret does not exist, or its contents are not usable.
    SecretNotFound,
}

impl SourceReason {
    /// The reason as one CamelCase word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DnsError => "DNSError",
            Self::ConnectionRefused => "ConnectionRefused",
            Self::Timeout => "Timeout",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::RateLimited => "RateLimited",
            Self::ServerError => "ServerError",
            Self::TlsError => "TLSError",
            Self::InvalidResponse => "InvalidResponse",
            Self::EmptyResult => "EmptyResult",
            Self::SecretNotFound => "SecretNotFound",
        }
    }
}

impl fmt::Display for SourceReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
