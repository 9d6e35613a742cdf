//! HTTP with one backend: decides where credentials are sent, and how much of an answer is read.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use drop_core::discovery::{SourceFailure, SourceReason};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use jiff::Timestamp;
use reqwest::Url;
use reqwest::redirect::Policy;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};

use super::complaint::{complaint, web_page};
use super::credentials::{Credentials, Login};
use super::isolation::on_a_thread;
use super::left_alone::LeftAlone;
use super::retry_after::retry_after;
use super::seat::{Portion, Seat};
use super::transport;

/// Drop's name in requests.
const USER_AGENT: &str = concat!("drop/", env!("CARGO_PKG_VERSION"));
/// The most redirects that one request follows.
const MAX_REDIRECTS: usize = 5;
/// How much of an error answer is read, in bytes.
const MAX_ERROR_BODY: usize = 64 << 10;
/// How much of a backend's words a message repeats, in characters.
const MAX_EXCERPT: usize = 256;

/// The servers that have asked to be left alone, by origin and [secrets](Credentials::fingerprint): a server counts the
/// requests of each login apart.
static LEFT_ALONE: LeftAlone<(String, u64)> = LeftAlone::new();

/// Lets the server at this origin be asked again.
#[cfg(test)]
pub fn forget(origin: &str) {
    LEFT_ALONE.forget(|(other, _)| other == origin);
}

/// The limits on the time and size of a backend's answers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a connection: name, TCP and TLS.
    pub connect: Duration,
    /// For one request until the last byte of its answer, without the wait for memory.
    pub request: Duration,
    /// For all requests of a query, from its first answer on.
    pub query: Duration,
    /// For one answer, in bytes after decompression.
    pub body: usize,
    /// For the data that is kept of all answers to a query, in bytes.
    pub kept: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            request: Duration::from_secs(60),
            query: Duration::from_secs(300),
            // 5,000 lines of 3 kB, 600 series of 1,000 points, or 100,000 tags of 128 characters.
            body: 16 << 20,
            // 2.8 million samples, 200,000 pulls, or 200,000 tags.
            kept: 64 << 20,
        }
    }
}

/// A backend at its address, for one query.
///
/// Client certificate and custom headers are only sent to its origin: the same scheme, host and port. So no secret is
/// sent without TLS by a redirect either.
pub struct Client<'a> {
    address: Url,
    credentials: &'a Credentials,
    limits: Limits,
    seat: &'a Seat,
    /// How many more bytes of answers the query may keep.
    room: AtomicUsize,
    /// Tokens that were issued for the query, and that no message may contain.
    issued: Mutex<Vec<String>>,
    own: reqwest::Client,
    elsewhere: reqwest::Client,
}

/// The content that a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Any content.
    #[default]
    Content,
    /// The manifest of an image.
    Manifest,
    /// The digest of an image's manifest, from the headers.
    Digest,
}

/// The manifests that Drop can read: for one platform, and lists of them.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// One request.
pub struct Request<'a> {
    /// Its URL.
    pub url: Url,
    /// Its content: a digest takes a HEAD, everything else a GET.
    pub wanted: Wanted,
    /// A form to post instead.
    pub form: Option<String>,
    /// Whether the form may only be sent to the origin of `url`.
    pub is_private: bool,
    /// `Authorization`, for the origin of `url` only, and not for another one that it redirects to.
    pub authorization: Option<&'a HeaderValue>,
}

/// An answer with any status.
pub struct Response {
    /// The URL that answered.
    pub url: Url,
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, decompressed.
    pub body: Vec<u8>,
    /// The credentials that its server has seen.
    pub access: Access,
    /// The memory that it takes.
    _memory: Portion,
}

/// The credentials that a server has seen. They decide the meaning of a denial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// There are no credentials.
    None,
    /// The login, or a token that a token service has issued for it.
    Login,
    /// A token of the Secret. The registry denied it, so the request also used a token that the token service issues to
    /// every client.
    Token,
    /// A token that a token service issues to every client.
    Guest,
    /// No credentials, because the login is not for the server at this address.
    HeldBack(Url),
}

impl Access {
    /// Returns the access of the server at `url`. It has seen the login if there is one and it is sent there.
    pub fn of(has_login: bool, is_shown: bool, url: &Url) -> Self {
        match (has_login, is_shown) {
            (_, true) => Self::Login,
            (true, false) => Self::HeldBack(url.clone()),
            (false, false) => Self::None,
        }
    }
}

impl<'a> Client<'a> {
    /// Prepares requests to the backend at `address`: `https://mimir.example.com/prometheus`.
    ///
    /// # Errors
    /// If the host in the address is not valid.
    pub fn new(
        address: &str,
        credentials: &'a Credentials,
        limits: Limits,
        seat: &'a Seat,
    ) -> Result<Self, SourceFailure> {
        let address = Url::parse(address)
            .ok()
            .filter(Url::has_host)
            .ok_or_else(|| SourceFailure::new(SourceReason::DnsError, format!("not an address: {address}")))?;
        let client = |tls: &rustls::ClientConfig| {
            reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .redirect(Policy::none())
                .user_agent(USER_AGENT)
                .connect_timeout(limits.connect)
                .build()
                .map_err(|error| transport::failure(&error, &host(&address)))
        };
        let (own, elsewhere) = (client(&credentials.tls)?, client(&credentials.tls_elsewhere)?);
        let (room, issued) = (AtomicUsize::new(limits.kept), Mutex::default());
        Ok(Self { address, credentials, limits, seat, room, issued, own, elsewhere })
    }

    /// Returns the URL of `path` below the backend's address, with this query.
    pub fn url(&self, path: &str, query: &[(&str, String)]) -> Url {
        let mut url = self.address.clone();
        url.set_path(&format!("{}/{path}", self.address.path().trim_end_matches('/')));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// Whether `url` has the backend's own origin.
    pub fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.address.origin()
    }

    /// Returns `url` with the backend's own scheme and port, if it is on the backend's host. A backend behind a proxy
    /// that ends TLS names itself by `http`, and may not know its port.
    pub fn as_own(&self, url: &Url) -> Option<Url> {
        let own = &self.address;
        let is_port = url.port().is_none() || url.port_or_known_default() == own.port_or_known_default();
        let mut url = url.clone();
        let is_own = url.host() == own.host() && is_port;
        (is_own && url.set_scheme(own.scheme()).is_ok() && url.set_port(own.port()).is_ok()).then_some(url)
    }

    /// The credentials for the backend.
    pub fn credentials(&self) -> &'a Credentials {
        self.credentials
    }

    /// The login for a repository of the backend.
    pub fn login(&self, repository: &str) -> Option<&'a Login> {
        self.credentials.login_for(&host(&self.address), repository)
    }

    /// Removes an issued token from later messages.
    pub fn hide(&self, token: Option<String>) {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner).extend(token);
    }

    /// Returns `text` without secrets.
    fn redact(&self, text: &str) -> String {
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        self.credentials.redact(text, &issued)
    }

    /// Sends a request and reads the answer. It follows redirects, without credentials if they lead to another origin.
    ///
    /// # Errors
    /// If no answer comes, the answer is too large, or the server has asked to be left alone. An answer with any status
    /// is no error.
    pub async fn send(&self, request: Request<'_>) -> Result<Response, SourceFailure> {
        let mut memory = self.seat.answer();
        loop {
            match self.try_send(&request, memory).await? {
                Ok(response) => return Ok(response),
                Err(none) => memory = none.whole(self.limits.body).await,
            }
        }
    }

    /// Sends a request and reads the answer, as far as there is memory for it.
    async fn try_send(
        &self,
        request: &Request<'_>,
        memory: Portion,
    ) -> Result<Result<Response, Portion>, SourceFailure> {
        let origin = request.url.origin();
        let mut url = request.url.clone();
        let mut form = request.form.as_ref();
        for _ in 0..=MAX_REDIRECTS {
            LEFT_ALONE.check(&self.server(&url))?;
            let is_own = self.is_own(&url);
            let client = if is_own { &self.own } else { &self.elsewhere };
            let method = match request.wanted {
                _ if form.is_some() => Method::POST,
                Wanted::Digest => Method::HEAD,
                Wanted::Content | Wanted::Manifest => Method::GET,
            };
            let mut builder = client.request(method, url.clone());
            if is_own {
                builder = builder.headers(self.credentials.headers.clone());
            }
            if request.wanted != Wanted::Content {
                builder = builder.header(header::ACCEPT, MANIFESTS);
            }
            let authorization = request.authorization.filter(|_| url.origin() == origin);
            if let Some(authorization) = authorization {
                builder = builder.header(header::AUTHORIZATION, authorization);
            }
            if let Some(form) = form {
                let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
                builder = builder.header(header::CONTENT_TYPE, form_type).body(form.clone());
            }
            let began = Instant::now();
            let response = timeout(self.limits.request, builder.send()).await.map_err(|_| too_late(&url))?;
            let response = response.map_err(|error| transport::failure(&error, &host(&url)))?;
            let next = redirect(&response, &url);
            if next.is_some() && is_answered(response.status(), request.is_private) {
                form = None;
            }
            match next {
                Some(next) if form.is_some() && request.is_private && next.origin() != origin => {
                    let (from, to) = (host(&url), host(&next));
                    let message = format!("unauthorized: {from} redirects to {to}, where the credentials do not go");
                    return Err(SourceFailure::new(SourceReason::Unauthorized, message));
                }
                Some(next) => url = next,
                None => {
                    let access = Access::of(self.credentials.login.is_some(), authorization.is_some(), &url);
                    let left = self.limits.request.saturating_sub(began.elapsed());
                    let late = too_late(&url);
                    return timeout(left, self.read(response, url, access, memory)).await.map_err(|_| late)?;
                }
            }
        }
        Err(invalid(format!("{} redirects more than {MAX_REDIRECTS} times", host(&self.address))))
    }

    async fn read(
        &self,
        mut response: reqwest::Response,
        url: Url,
        access: Access,
        mut memory: Portion,
    ) -> Result<Result<Response, Portion>, SourceFailure> {
        self.seat.begin();
        let (status, headers) = (response.status(), response.headers().clone());
        let is_success = status.is_success();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| transport::failure(&error, &host(&url)))? {
            if is_success && body.len() + chunk.len() > self.limits.body {
                let most = self.limits.body >> 20;
                return Err(invalid(format!("{} answers with more than {most} MiB: ask for less", host(&url))));
            }
            if !is_success && body.len() + chunk.len() > MAX_ERROR_BODY {
                // The message repeats nothing of it, because a cut may leave a part of a secret.
                body.clear();
                break;
            }
            if is_success && !memory.grow(chunk.len()) {
                return Ok(Err(memory));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Ok(Response { url, status, headers, body, access, _memory: memory }))
    }

    /// Reserves room for a part of an answer that is kept until the query is measured.
    ///
    /// # Errors
    /// If the query has no room for this many bytes.
    pub fn keep(&self, bytes: usize, url: &Url) -> Result<(), SourceFailure> {
        let taken = self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(bytes));
        self.seat.keep(bytes);
        taken.map(drop).map_err(|_| {
            let most = self.limits.kept >> 20;
            invalid(format!("{} has more to say than {most} MiB hold: ask for less", host(url)))
        })
    }

    /// Reads the content of an answer, and frees its body.
    ///
    /// # Errors
    /// If the status is not a success, or the body is no JSON of this type.
    pub async fn json<T: DeserializeOwned + Send + 'static>(
        &self,
        response: &mut Response,
    ) -> Result<T, SourceFailure> {
        if !response.status.is_success() {
            return Err(self.refusal(response));
        }
        let host = host(&response.url);
        if let Some(page) = self.web_page(response) {
            let what = "perhaps a login page: check the address and the credentials";
            return Err(invalid(format!("{host} answers with {page}, {what}")));
        }
        let body = std::mem::take(&mut response.body);
        // An answer may be large; other tasks go on meanwhile.
        let parsed = on_a_thread(move || serde_json::from_slice(&body).map_err(|error| error.to_string())).await?;
        parsed.map_err(|error| {
            let error = self.excerpt(&error).unwrap_or_default();
            invalid(format!("the answer of {host} is not what it should be: {error}"))
        })
    }

    /// Describes an answer that is a web page; `None` for other answers.
    pub fn web_page(&self, response: &Response) -> Option<String> {
        let is_json = response.body.trim_ascii_start().starts_with(b"{") || response.body.starts_with(b"[");
        // The title is within this size; the rest of a large answer is not searched.
        let head = response.body.get(..MAX_ERROR_BODY).unwrap_or(&response.body);
        let head = (!is_json).then(|| self.redact(&String::from_utf8_lossy(head)))?;
        self.excerpt(&web_page(&response.headers, &head)?)
    }

    /// Returns the key of the server at `url` among those that are left alone.
    fn server(&self, url: &Url) -> (String, u64) {
        (url.origin().ascii_serialization(), self.credentials.fingerprint())
    }

    /// Returns why there is no content, by the status. If the server asks to be left alone, no query with the same
    /// secrets asks it until then.
    pub fn refusal(&self, response: &Response) -> SourceFailure {
        let status = response.status;
        let host = host(&response.url);
        let reason = match (status, &response.access) {
            (StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED, _) => SourceReason::Unauthorized,
            // The server requires a login, and has seen none.
            (StatusCode::FORBIDDEN, Access::Guest | Access::Token | Access::HeldBack(_)) => SourceReason::Unauthorized,
            (StatusCode::FORBIDDEN, _) => SourceReason::Forbidden,
            (StatusCode::NOT_FOUND, _) => SourceReason::NotFound,
            (StatusCode::TOO_MANY_REQUESTS, _) => SourceReason::RateLimited,
            _ if status.is_server_error() => SourceReason::ServerError,
            _ => SourceReason::InvalidResponse,
        };
        let named_in = self.credentials.named_in;
        let origin = |url: &Url| url.origin().ascii_serialization();
        let (own, asked) = (origin(&self.address), origin(&response.url));
        let is_moved = self.address.scheme() != response.url.scheme() && self.address.host() == response.url.host();
        let what = match (reason, &response.access) {
            (SourceReason::Unauthorized, Access::None | Access::HeldBack(_)) if is_moved => {
                let remedy = format!("write {asked} in the spec");
                format!("unauthorized: {own} redirects to {asked}, and credentials are for {own} alone: {remedy}")
            }
            (SourceReason::Unauthorized, Access::None) => {
                format!("unauthorized: {host} wants credentials, name a Secret in {named_in}")
            }
            (SourceReason::Unauthorized, Access::Guest) => {
                let remedy = format!("check the name, or name a Secret in {named_in}");
                format!("unauthorized: {host} wants credentials, or there is no such repository: {remedy}")
            }
            (SourceReason::Unauthorized, Access::Login) => {
                format!("unauthorized: {host} refuses the credentials of the Secret")
            }
            (SourceReason::Unauthorized, Access::Token) => {
                let remedy = "write a personal access token into the key password, beside username";
                format!("unauthorized: {host} refuses the token of the Secret: {remedy}")
            }
            (SourceReason::Unauthorized, Access::HeldBack(other)) => {
                let remedy = match (self.address.scheme(), other.scheme()) {
                    ("https", "http") => ", which the registry has to name with https://",
                    _ => "",
                };
                let other = origin(other);
                format!("unauthorized: credentials are for {own} and do not follow it to {other}{remedy}")
            }
            (SourceReason::Forbidden, _) => format!("forbidden by {host}"),
            (SourceReason::NotFound, _) => format!("not found: {host}{}", self.redact(response.url.path())),
            _ => format!("{host} answers {status}"),
        };
        let retry_after = retry_after(&response.headers, Timestamp::now());
        // Without the time at which it ends: each further failure would write the statuses of all its images anew.
        let wait = retry_after.map(|wait| format!("; Drop leaves it alone for {wait:#}")).unwrap_or_default();
        // The words may be changed later so that a secret is no longer found, as in the title of a page.
        let body = self.redact(&String::from_utf8_lossy(&response.body));
        let message = match complaint(&response.headers, &body).and_then(|said| self.excerpt(&said)) {
            Some(said) => format!("{what}: {said}{wait}"),
            None => format!("{what}{wait}"),
        };
        let failure = SourceFailure { retry_after, ..SourceFailure::new(reason, message) };
        LEFT_ALONE.note(self.server(&response.url), &failure);
        failure
    }

    /// Returns the part of a backend's words that a message can repeat: the first line, without control characters, of
    /// bounded length. Secrets are removed first, because a cut would leave the beginning of one.
    pub fn excerpt(&self, said: &str) -> Option<String> {
        let said = self.redact(said);
        let line = said.trim().lines().next()?.chars().filter(|c| !c.is_control());
        let line: String = line.take(MAX_EXCERPT).collect();
        (!line.is_empty()).then_some(line)
    }
}

fn too_late(url: &Url) -> SourceFailure {
    SourceFailure::new(SourceReason::Timeout, format!("timeout waiting for {}", host(url)))
}

/// A failure because of an answer that is not usable.
pub fn invalid(message: String) -> SourceFailure {
    SourceFailure::new(SourceReason::InvalidResponse, message)
}

/// Returns a host with its port, unless that is the scheme's own.
pub fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether a redirect names the URL of the answer to a form, which takes a GET, instead of another URL to post the form
/// to: <https://www.rfc-editor.org/rfc/rfc9110#section-15.4>. Clients treat 301 and 302 differently. Drop does not post
/// a form with a token again for them. It does post a query again, because without it no answer is useful.
fn is_answered(status: StatusCode, is_private: bool) -> bool {
    match status {
        StatusCode::SEE_OTHER => true,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => is_private,
        _ => false,
    }
}

/// Returns the URL that `response` redirects to.
fn redirect(response: &reqwest::Response, url: &Url) -> Option<Url> {
    let redirects = [301, 302, 303, 307, 308];
    let location =
        response.headers().get(header::LOCATION).filter(|_| redirects.contains(&response.status().as_u16()))?;
    let next = url.join(location.to_str().ok()?).ok()?;
    matches!(next.scheme(), "http" | "https").then_some(next)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::body::Body;
    use futures::{StreamExt as _, stream};

    use super::super::credentials::secret;
    use super::*;
    use crate::fake::{Authority, Fake, gzip, raw, reply};

    const LIMITS: Limits = Limits {
        connect: Duration::from_secs(5),
        request: Duration::from_secs(30),
        query: Duration::from_secs(30),
        body: 16 << 20,
        kept: 64 << 20,
    };

    async fn get(url: &str, credentials: &Credentials, limits: Limits) -> Result<Response, SourceFailure> {
        let seat = Seat::default();
        let client = Client::new(url, credentials, limits, &seat)?;
        let request = Request {
            url: client.url("api", &[]),
            wanted: Wanted::Content,
            form: None,
            is_private: false,
            authorization: credentials.authorization(),
        };
        let response = client.send(request).await?;
        if response.status.is_success() { Ok(response) } else { Err(client.refusal(&response)) }
    }

    async fn reason(url: &str, data: &[(&str, &str)]) -> (SourceReason, String) {
        let failure = get(url, &secret(data), LIMITS).await.err().unwrap();
        (failure.reason, failure.message)
    }

    #[tokio::test]
    async fn statuses_become_reasons_with_what_the_backend_says() {
        let cases = [
            (401, SourceReason::Unauthorized, "wants credentials"),
            (403, SourceReason::Forbidden, "forbidden"),
            (404, SourceReason::NotFound, "/base/api"),
            (407, SourceReason::Unauthorized, ""),
            (429, SourceReason::RateLimited, "429 Too Many Requests"),
            (500, SourceReason::ServerError, "500 Internal Server Error"),
            (503, SourceReason::ServerError, "503 Service Unavailable"),
            (422, SourceReason::InvalidResponse, "422 Unprocessable Entity"),
            (304, SourceReason::InvalidResponse, "304 Not Modified"),
        ];
        for (status, expected, says) in cases {
            let backend = Fake::start(move |_| reply(status, &[], r#"{"error":"it is\nso"}"#)).await;
            let (reason, message) = reason(&format!("{}/base/", backend.url), &[]).await;
            assert_eq!(reason, expected, "{status}");
            assert!(message.contains(&backend.host) && message.contains(says), "{status}: {message}");
            assert!(status == 304 || message.ends_with(": it is"), "{message}");
        }
    }

    #[tokio::test]
    async fn excerpts_are_of_what_is_meant_for_people() {
        let cases = [
            ("application/json", r#"{"errors":[{"code":"NAME_UNKNOWN","message":"unknown name"}]}"#, ": unknown name"),
            ("application/json", r#"{"errors":[{"code":"DENIED"}]}"#, ": DENIED"),
            ("application/json", r#"{"message":"no route"}"#, ": no route"),
            ("text/plain; charset=utf-8", "query too long", ": query too long"),
            ("text/html", "<html>Oh no</html>", "400 Bad Request: a web page"),
            ("application/json", r#"{"error":"token s3cr3t is bad"}"#, ": token [redacted] is bad"),
        ];
        for (kind, body, expected) in cases {
            let backend = Fake::start(move |_| reply(400, &[("content-type", kind)], body)).await;
            let (_, message) = reason(&backend.url, &[("token", "s3cr3t")]).await;
            assert!(message.ends_with(expected), "{message}");
        }
    }

    #[tokio::test]
    async fn a_server_that_asks_for_it_is_left_alone_by_every_query_with_the_same_secrets() {
        let backend = Fake::start(|_| reply(503, &[("retry-after", "90")], "")).await;
        let ask = async |secrets: &[(&str, &str)]| get(&backend.url, &secret(secrets), LIMITS).await.err();
        for (secrets, asked) in [(&[][..], 1), (&[], 1), (&[("token", "a")], 2), (&[("token", "a")], 2), (&[], 2)] {
            let failure = ask(secrets).await.unwrap();
            assert_eq!((failure.reason, backend.got().len()), (SourceReason::ServerError, asked), "{failure}");
            assert!(failure.retry_after.is_some_and(|wait| wait.as_secs() <= 90), "{failure:?}");
        }
    }

    #[tokio::test]
    async fn no_part_of_a_secret_is_left_by_a_cut() {
        let token = "s3cr3t".repeat(100);
        let padding = "p".repeat(MAX_EXCERPT - 36);
        let long = format!("{padding}{token}");
        let cases = [
            (400, "application/json", format!(r#"{{"error":"{long}"}}"#)),
            (400, "text/plain", long.clone()),
            (400, "text/plain", format!("{}{}", " ".repeat(MAX_ERROR_BODY - 6), token)),
            (200, "application/json", format!(r#""{long}""#)),
        ];
        for (status, kind, body) in cases {
            let backend = Fake::start(move |_| reply(status, &[("content-type", kind)], body.clone())).await;
            let credentials = secret(&[("token", &token)]);
            let seat = Seat::default();
            let client = Client::new(&backend.url, &credentials, LIMITS, &seat).unwrap();
            let request = Request {
                url: client.url("api", &[]),
                wanted: Wanted::Content,
                form: None,
                is_private: false,
                authorization: None,
            };
            let mut response = client.send(request).await.unwrap();
            let failure = client.json::<Vec<u8>>(&mut response).await.unwrap_err();
            assert!(!failure.message.contains("s3c"), "{failure}");
        }
    }

    #[tokio::test]
    async fn what_the_network_refuses_is_told_apart() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let unresolvable = format!("{}.example", "a".repeat(64));
        let garbage = raw(b"\x00\x01 this is no HTTP\r\n\r\n", true).await;
        let cut = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", true).await;
        let silent = raw(b"", true).await;
        let cases = [
            (format!("http://{unresolvable}"), SourceReason::DnsError, format!("cannot resolve {unresolvable}")),
            (format!("http://{closed}"), SourceReason::ConnectionRefused, format!("connection refused: {closed}")),
            (format!("http://{garbage}"), SourceReason::InvalidResponse, format!("{garbage} does not speak HTTP")),
            (format!("http://{cut}"), SourceReason::ConnectionRefused, format!("{cut} cut the connection")),
            (format!("http://{silent}"), SourceReason::ConnectionRefused, format!("{silent} cut the connection")),
            (format!("https://{garbage}"), SourceReason::TlsError, format!("TLS: {garbage} does not speak it")),
            ("http://exa mple".to_owned(), SourceReason::DnsError, "not an address: http://exa mple".to_owned()),
        ];
        for (url, expected, says) in cases {
            let (reason, message) = reason(&url, &[]).await;
            assert_eq!(reason, expected, "{url}: {message}");
            assert!(message.starts_with(&says), "{message}");
        }
    }

    #[tokio::test]
    async fn who_never_answers_runs_into_the_time_limit() {
        let limits = Limits { request: Duration::from_millis(100), ..LIMITS };
        let mute = raw(b"", false).await;
        let slow = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", false).await;
        for host in [&mute, &slow] {
            let failure = get(&format!("http://{host}"), &secret(&[]), limits).await.err().unwrap();
            assert_eq!(
                (failure.reason, failure.message),
                (SourceReason::Timeout, format!("timeout waiting for {host}"))
            );
        }
        let limits = Limits { connect: Duration::from_millis(100), ..LIMITS };
        let failure = get(&format!("https://{mute}"), &secret(&[]), limits).await.err().unwrap();
        assert_eq!((failure.reason, failure.message), (SourceReason::Timeout, format!("timeout connecting to {mute}")));
    }

    #[tokio::test]
    async fn tls_is_trusted_by_the_authority_of_the_secret() {
        let (authority, stranger) = (Authority::new(), Authority::new());
        let backend = Fake::start_tls(authority.server("127.0.0.1", None), |_| reply(200, &[], "{}")).await;
        let misnamed = Fake::start_tls(authority.server("example.com", None), |_| reply(200, &[], "{}")).await;
        assert!(get(&backend.url, &secret(&[("ca.crt", &authority.pem)]), LIMITS).await.is_ok());
        let cases = [
            (&backend, None, "unknown authority: put it into ca.crt"),
            (&backend, Some(&stranger), "unknown authority"),
            (&misnamed, Some(&authority), "not one for"),
        ];
        for (backend, trusted, says) in cases {
            let data: Vec<_> = trusted.iter().map(|authority| ("ca.crt", authority.pem.as_str())).collect();
            let (reason, message) = reason(&backend.url, &data).await;
            assert_eq!(reason, SourceReason::TlsError, "{message}");
            assert!(message.contains(says), "{message}");
        }
    }

    #[tokio::test]
    async fn mutual_tls_shows_the_client_certificate() {
        let (authority, clients) = (Authority::new(), Authority::new());
        let backend = Fake::start_tls(authority.server("127.0.0.1", Some(&clients)), |_| reply(200, &[], "{}")).await;
        let client = clients.identity("client");
        let data = [("ca.crt", &*authority.pem), ("tls.crt", &*client.certificate), ("tls.key", &*client.key)];
        assert!(get(&backend.url, &secret(&data), LIMITS).await.is_ok());
        let (reason, message) = reason(&backend.url, &data[..1]).await;
        assert_eq!(reason, SourceReason::TlsError, "{message}");
        assert!(message.contains("tls.crt and tls.key"), "{message}");
    }

    #[tokio::test]
    async fn redirects_take_credentials_along_on_one_origin_only() {
        let data = [("token", "s3cr3t"), ("headers.X-Scope-OrgID", "tenant")];
        let stranger = Fake::start(|_| reply(401, &[], "")).await;
        let away = stranger.url.clone();
        let backend = Fake::start(move |got| match got.target.as_str() {
            "/api" => reply(307, &[("location", "/again?x=1")], ""),
            _ => reply(302, &[("location", &away)], ""),
        })
        .await;
        let (reason, message) = reason(&backend.url, &data).await;
        assert_eq!(reason, SourceReason::Unauthorized);
        assert!(message.contains(&backend.host) && message.contains(&stranger.host), "{message}");
        for got in backend.got() {
            assert_eq!(got.authorization(), Some("Bearer s3cr3t"), "{}", got.target);
            assert_eq!(got.header("x-scope-orgid"), Some("tenant"));
        }
        let got = stranger.got();
        assert_eq!((backend.got().len(), got.len()), (2, 1));
        let seen = format!("{:?}", got[0].headers);
        assert!(!seen.contains("s3cr3t") && !seen.contains("tenant") && !seen.contains(&backend.host), "{seen}");
    }

    #[tokio::test]
    async fn client_certificates_are_not_shown_to_whom_a_redirect_leads() {
        let (authority, clients) = (Authority::new(), Authority::new());
        let stranger = Fake::start_tls(authority.server("127.0.0.1", Some(&clients)), |_| reply(200, &[], "{}")).await;
        let away = stranger.url.clone();
        let backend = Fake::start_tls(authority.server("127.0.0.1", Some(&clients)), move |_| {
            reply(307, &[("location", &away)], "")
        })
        .await;
        let client = clients.identity("client");
        let data = [("ca.crt", &*authority.pem), ("tls.crt", &*client.certificate), ("tls.key", &*client.key)];
        let (reason, message) = reason(&backend.url, &data).await;
        assert_eq!(reason, SourceReason::TlsError, "{message}");
        assert_eq!((backend.got().len(), stranger.got().len()), (1, 0));
    }

    #[tokio::test]
    async fn an_address_that_has_moved_to_tls_is_named() {
        let authority = Authority::new();
        let moved = Fake::start_tls(authority.server("127.0.0.1", None), |_| reply(401, &[], "")).await;
        let away = moved.url.clone();
        let backend = Fake::start(move |_| reply(301, &[("location", &away)], "")).await;
        let ca = ("ca.crt", authority.pem.as_str());
        for data in [vec![ca], vec![ca, ("token", "s3cr3t")]] {
            let (reason, message) = reason(&backend.url, &data).await;
            assert_eq!(reason, SourceReason::Unauthorized);
            assert!(message.contains(&format!("write {} in the spec", moved.url)), "{message}");
        }
        assert!(moved.got().iter().all(|got| got.authorization().is_none()));
    }

    #[tokio::test]
    async fn redirects_without_end_are_given_up() {
        let backend = Fake::start(|_| reply(301, &[("location", "/api")], "")).await;
        let (reason, message) = reason(&backend.url, &[]).await;
        assert_eq!(reason, SourceReason::InvalidResponse);
        assert!(message.contains("redirects more than 5 times"), "{message}");
    }

    #[tokio::test]
    async fn answers_without_end_are_cut_off() {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = sent.clone();
        let backend = Fake::start(move |got| {
            let count = count.clone();
            let chunks = stream::iter(0..200).map(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
                Ok::<_, std::io::Error>(vec![b' '; 1 << 20])
            });
            let status = if got.target.contains("500") { 500 } else { 200 };
            reply(status, &[], Body::from_stream(chunks))
        })
        .await;
        let (reason, message) = reason(&backend.url, &[]).await;
        assert_eq!(reason, SourceReason::InvalidResponse);
        assert!(message.contains("more than 16 MiB"), "{message}");
        assert!(sent.load(Ordering::Relaxed) < 100, "it went on for {} MiB", sent.load(Ordering::Relaxed));
        sent.store(0, Ordering::Relaxed);
        let (reason, _) = self::reason(&format!("{}/500", backend.url), &[]).await;
        assert_eq!(reason, SourceReason::ServerError);
        assert!(sent.load(Ordering::Relaxed) < 100, "it went on for {} MiB", sent.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn compressed_answers_are_read_and_bounded_by_what_they_become() {
        let (small, bomb) = (gzip(b"[1]"), gzip(&vec![b' '; 17 << 20]));
        let backend = Fake::start(move |got| match got.target.as_str() {
            "/small/api" => reply(200, &[("content-encoding", "gzip")], small.clone()),
            "/bomb/api" => reply(200, &[("content-encoding", "gzip")], bomb.clone()),
            _ => reply(200, &[("content-encoding", "gzip")], "this is no gzip"),
        })
        .await;
        let small = get(&format!("{}/small", backend.url), &secret(&[]), LIMITS).await.unwrap();
        assert_eq!(small.body, b"[1]");
        let (reason, message) = reason(&format!("{}/bomb", backend.url), &[]).await;
        assert_eq!(reason, SourceReason::InvalidResponse);
        assert!(message.contains("more than 16 MiB"), "{message}");
        let (reason, message) = self::reason(&backend.url, &[]).await;
        assert_eq!(reason, SourceReason::InvalidResponse);
        assert!(message.contains("damaged"), "{message}");
    }
}
