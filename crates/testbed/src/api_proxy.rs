//! A proxy before the API server that understands requests, and goes wrong as a test tells it to.

use std::fmt::{self, Debug, Formatter};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::{Error, Result, anyhow, bail};
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::authority::Authority;
use crate::listener::Listener;
use crate::tls_front::Clients;

/// What an [`ApiProxy`] does instead of passing on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiFault {
    /// The connection ends, and the API server never sees the request.
    LoseRequest,
    /// The connection ends when the API server has done what it was asked for.
    LoseAnswer,
    /// The answer is held back, by up to so long.
    Delay(Duration),
    /// This HTTP status with its reason; the API server never sees the request. 429 and 503 ask
    /// for a second of patience.
    Answer(u16),
    /// A watch ends in the middle of an event.
    CutWatch,
    /// A watch stays open, and nothing more comes.
    FreezeWatch,
    /// A watch says in place of an event that it cannot go on from there (410), and ends.
    ExpireWatch,
}

/// How often something goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odds {
    /// So many times in a hundred, by dice that fall the same way for the same seed.
    Percent(u8),
    /// Always, but no more than so many times.
    Times(usize),
}

/// A request, in the audit log's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiRequest {
    /// `get`, `list`, `watch`, `create`, `update`, `patch` or `delete`.
    pub verb: &'static str,
    /// Plural name of the resource; empty for other paths.
    pub resource: String,
    /// `status`, ...; empty if none.
    pub subresource: String,
    /// Empty for collections, and so for creations.
    pub name: String,
    /// The HTTP status that the client got, as soon as it did.
    pub status: Option<u16>,
    /// What went wrong, if anything.
    pub fault: Option<ApiFault>,
}

impl ApiRequest {
    /// Whether it changes anything.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !["get", "list", "watch"].contains(&self.verb)
    }

    fn new(method: &Method, uri: &Uri) -> Self {
        let mut path = uri.path().split('/').skip(1);
        // /api/VERSION or /apis/GROUP/VERSION
        let depth = match path.next() {
            Some("api") => 1,
            Some("apis") => 2,
            _ => usize::MAX,
        };
        let mut path = path.skip(depth).peekable();
        let mut namespaced = path.clone();
        if namespaced.next() == Some("namespaces") && namespaced.nth(1).is_some() {
            path.nth(1);
        }
        let mut part = || path.next().unwrap_or_default().to_owned();
        let (resource, name, subresource) = (part(), part(), part());
        let watches = uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
        let verb = match method.as_str() {
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" => "delete",
            _ if watches => "watch",
            _ if name.is_empty() => "list",
            _ => "get",
        };
        Self { verb, resource, subresource, name, status: None, fault: None }
    }
}

type Choice = Box<dyn Fn(&ApiRequest) -> bool + Send>;

/// What goes wrong with which requests.
struct Rule {
    fault: ApiFault,
    odds: Odds,
    choice: Choice,
    dice: Dice,
}

/// Numbers that look random (SplitMix64, <https://prng.di.unimi.it/splitmix64.c>).
#[derive(Clone, Copy)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Rule {
    /// What goes wrong this time.
    fn strike(&mut self) -> Option<ApiFault> {
        match &mut self.odds {
            Odds::Percent(percent) => {
                if self.dice.roll() % 100 >= u64::from(*percent) {
                    return None;
                }
            }
            Odds::Times(left) => *left = left.checked_sub(1)?,
        }
        Some(match self.fault {
            ApiFault::Delay(limit) => {
                let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                ApiFault::Delay(Duration::from_millis(self.dice.roll() % limit.saturating_add(1)))
            }
            fault => fault,
        })
    }
}

/// A proxy on a port of its own, by TLS on both sides. It ends with this value, and its connections
/// with it.
#[derive(Debug)]
pub struct ApiProxy {
    listener: Listener,
    authority: Authority,
    script: Arc<Script>,
}

struct Script {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    rules: Vec<Rule>,
    /// The seeds of rules to come.
    dice: Dice,
    requests: Vec<ApiRequest>,
}

impl ApiProxy {
    /// Starts a proxy that passes everything on to `upstream`, whose certificate `ca` (PEM) must
    /// have issued. What goes wrong by [`Odds::Percent`] follows from `seed`.
    pub(crate) fn start(upstream: SocketAddr, ca: &[u8], seed: u64) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca) {
            roots.add(certificate?)?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        let authority = Authority::new()?;
        let acceptor = TlsAcceptor::from(Arc::new(authority.server(&["127.0.0.1"], Clients::Anybody)?));
        let state = State { rules: Vec::new(), dice: Dice(seed), requests: Vec::new() };
        let script = Arc::new(Script { state: Mutex::new(state), changed: Condvar::new() });
        let shared = Arc::clone(&script);
        let listener = Listener::start(move |client| {
            let acceptor = acceptor.clone();
            let way = Way {
                script: Arc::clone(&shared),
                upstream,
                connector: connector.clone(),
                server: tokio::sync::Mutex::default(),
            };
            async move {
                // Whatever fails, the client sees as the end of its connection.
                drop(way.serve(client, &acceptor).await);
            }
        })?;
        Ok(Self { listener, authority, script })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// The certificate of the authority that has issued its own, PEM.
    #[must_use]
    pub fn certificate(&self) -> String {
        self.authority.certificate()
    }

    /// From now on, goes wrong in this way with requests that `choice` chooses; for the ways of
    /// watches to end, with each of their events. The first rule that strikes decides.
    pub fn fail(&self, fault: ApiFault, odds: Odds, choice: impl Fn(&ApiRequest) -> bool + Send + 'static) {
        let mut state = self.script.lock();
        let dice = Dice(state.dice.roll());
        state.rules.push(Rule { fault, odds, choice: Box::new(choice), dice });
    }

    /// Passes everything on again; what is frozen stays so.
    pub fn heal(&self) {
        self.script.lock().rules.clear();
    }

    /// Every request so far, in the order of their arrival, and what became of it.
    #[must_use]
    pub fn requests(&self) -> Vec<ApiRequest> {
        self.script.lock().requests.clone()
    }

    /// Waits until `find` finds something in the requests so far.
    ///
    /// # Errors
    /// If it does not within `limit`.
    pub fn wait<Found>(&self, limit: Duration, mut find: impl FnMut(&[ApiRequest]) -> Option<Found>) -> Result<Found> {
        let mut found = None;
        let missing = |state: &mut State| {
            found = find(&state.requests);
            found.is_none()
        };
        let waited = self.script.changed.wait_timeout_while(self.script.lock(), limit, missing);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        found.ok_or_else(|| anyhow!("not among the requests within {} s", limit.as_secs()))
    }
}

impl Script {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a request; returns its number, and what goes wrong with it.
    fn received(&self, request: ApiRequest) -> (usize, Option<ApiFault>) {
        let number = {
            let mut state = self.lock();
            state.requests.push(request);
            state.requests.len() - 1
        };
        (number, self.strike(number, false))
    }

    /// What goes wrong with a request, or with an event of a watch.
    fn strike(&self, number: usize, is_event: bool) -> Option<ApiFault> {
        let mut state = self.lock();
        let State { rules, requests, .. } = &mut *state;
        let request = requests.get_mut(number).filter(|request| !is_event || request.verb == "watch")?;
        let concerned = |rule: &&mut Rule| {
            let of_events = matches!(rule.fault, ApiFault::CutWatch | ApiFault::FreezeWatch | ApiFault::ExpireWatch);
            of_events == is_event && (rule.choice)(request)
        };
        let fault = rules.iter_mut().filter(concerned).find_map(Rule::strike);
        if fault.is_some() {
            request.fault = fault;
            self.changed.notify_all();
        }
        fault
    }

    fn answered(&self, number: usize, status: u16) {
        if let Some(request) = self.lock().requests.get_mut(number) {
            request.status = Some(status);
        }
        self.changed.notify_all();
    }
}

impl Debug for Script {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Script").field("requests", &self.lock().requests).finish_non_exhaustive()
    }
}

/// A client's connection, and its counterpart to the API server.
struct Way {
    script: Arc<Script>,
    upstream: SocketAddr,
    connector: TlsConnector,
    server: tokio::sync::Mutex<Option<SendRequest<Incoming>>>,
}

impl Way {
    async fn serve(self, client: TcpStream, acceptor: &TlsAcceptor) -> Result<()> {
        let client = TokioIo::new(acceptor.accept(client).await?);
        let way = Arc::new(self);
        let service = service_fn(move |request| {
            let way = Arc::clone(&way);
            async move { way.pass(request).await }
        });
        Ok(hyper::server::conn::http1::Builder::new().serve_connection(client, service).await?)
    }

    /// An error ends the connection.
    async fn pass(&self, request: Request<Incoming>) -> Result<Response<Passed>> {
        let (number, fault) = self.script.received(ApiRequest::new(request.method(), request.uri()));
        let response = match fault {
            Some(ApiFault::LoseRequest) => bail!("the request is lost"),
            Some(ApiFault::Answer(status)) => refusal(status)?,
            Some(ApiFault::LoseAnswer) => {
                self.ask(request).await?.into_body().collect().await?;
                bail!("the answer is lost");
            }
            fault => {
                let response = self.ask(request).await?;
                if let Some(ApiFault::Delay(time)) = fault {
                    tokio::time::sleep(time).await;
                }
                let script = Arc::clone(&self.script);
                response.map(|body| Passed::On { body, script, number, between_events: true })
            }
        };
        self.script.answered(number, response.status().as_u16());
        Ok(response)
    }

    async fn ask(&self, request: Request<Incoming>) -> Result<Response<Incoming>> {
        let mut server = self.server.lock().await;
        let sender = match server.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let sender = server.insert(sender);
        sender.ready().await?;
        Ok(sender.send_request(request).await?)
    }

    async fn connect(&self) -> Result<SendRequest<Incoming>> {
        let name = ServerName::from(self.upstream.ip());
        let server = self.connector.connect(name, TcpStream::connect(self.upstream).await?).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(server)).await?;
        // It ends with the sender, and with the last answer.
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// What the API server would say with this status.
fn refusal(status: u16) -> Result<Response<Passed>> {
    let reason = match status {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    let mut response = Response::builder().status(status).header("Content-Type", "application/json");
    if [429, 503].contains(&status) {
        response = response.header("Retry-After", "1");
    }
    Ok(response.body(Passed::Own(Some(Bytes::from(failure(status, reason).to_string()))))?)
}

/// A failure as the API server tells it
/// (<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/>).
fn failure(code: u16, reason: &str) -> serde_json::Value {
    let message = "so the test wants it";
    json!({ "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code })
}

/// The body of an answer, on its way to the client.
enum Passed {
    /// The API server's. A watch may be disturbed between two events.
    On { body: Incoming, script: Arc<Script>, number: usize, between_events: bool },
    /// The proxy's own: the rest, or nothing any more.
    Own(Option<Bytes>),
    /// It ends here, although there would be more; `true` once all before has been sent.
    Cut(bool),
    /// Nothing more comes.
    Frozen,
}

impl Body for Passed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        let (event, fault) = match &mut *self {
            Self::On { body, script, number, between_events } => {
                let frame = match ready!(Pin::new(body).poll_frame(context)) {
                    Some(frame) => frame?,
                    None => return Poll::Ready(None),
                };
                let Some(data) = frame.data_ref() else { return Poll::Ready(Some(Ok(frame))) };
                let begins = std::mem::replace(between_events, data.ends_with(b"\n"));
                match begins.then(|| script.strike(*number, true)).flatten() {
                    None => return Poll::Ready(Some(Ok(frame))),
                    Some(fault) => (data.clone(), fault),
                }
            }
            Self::Own(rest) => return Poll::Ready(rest.take().map(|rest| Ok(Frame::data(rest)))),
            Self::Cut(true) => return Poll::Ready(Some(Err(anyhow!("the watch is cut")))),
            Self::Cut(sent) => {
                *sent = true;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            // Nobody will wake the task, other than the end of the connection.
            Self::Frozen => return Poll::Pending,
        };
        let (next, data) = match fault {
            ApiFault::CutWatch => (Self::Cut(false), event.slice(..event.len() / 2)),
            ApiFault::ExpireWatch => {
                let event = json!({ "type": "ERROR", "object": failure(410, "Expired") });
                (Self::Own(None), Bytes::from(format!("{event}\n")))
            }
            _ => {
                *self = Self::Frozen;
                return Poll::Pending;
            }
        };
        *self = next;
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::On { body, .. } => body.size_hint(),
            Self::Own(rest) => SizeHint::with_exact(rest.as_ref().map_or(0, |rest| rest.len() as u64)),
            Self::Cut(_) | Self::Frozen => SizeHint::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use crate::answer::{Answer, Delivery};
    use crate::fake::FakeServer;
    use crate::tls_front::TlsFront;
    use ureq::tls::{Certificate, RootCerts, TlsConfig};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);
    const PODS: &str = "/api/v1/namespaces/drop-system/pods";

    struct Site {
        server: FakeServer,
        _front: TlsFront,
        proxy: ApiProxy,
    }

    impl Site {
        fn start() -> Self {
            let server = FakeServer::start().unwrap();
            server.answer(PODS, Answer::ok("done"));
            let authority = Authority::new().unwrap();
            let front = TlsFront::start(&authority, &["127.0.0.1"], Clients::Anybody, server.address()).unwrap();
            let proxy = ApiProxy::start(front.address(), authority.certificate().as_bytes(), 1).unwrap();
            Self { server, _front: front, proxy }
        }

        fn agent(&self) -> ureq::Agent {
            let root = Certificate::from_pem(self.proxy.certificate().as_bytes()).unwrap();
            let tls = TlsConfig::builder()
                .root_certs(RootCerts::new_with_certs(&[root]))
                .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
                .build();
            let config = ureq::Agent::config_builder().tls_config(tls).proxy(None).http_status_as_error(false);
            config.timeout_global(Some(LIMIT)).build().new_agent()
        }

        fn url(&self, target: &str) -> String {
            format!("https://{}{target}", self.proxy.address())
        }

        fn create(&self) -> Result<u16, ureq::Error> {
            Ok(self.agent().post(self.url(PODS)).send("{}")?.status().as_u16())
        }

        /// Begins a watch; then reads until it ends, or until there are so many bytes.
        fn watch(&self) -> impl FnOnce(u64) -> (String, bool) + use<> {
            let reply = self.agent().get(self.url(&format!("{PODS}?limit=1&watch=true"))).call().unwrap();
            |limit| {
                let mut text = Vec::new();
                let ended_well = reply.into_body().into_reader().take(limit).read_to_end(&mut text).is_ok();
                (String::from_utf8(text).unwrap(), ended_well)
            }
        }
    }

    #[test]
    fn requests_are_told_apart_as_the_audit_log_does() {
        let parse = |method: Method, target: &'static str| {
            let request = ApiRequest::new(&method, &Uri::from_static(target));
            [request.verb.to_owned(), request.resource, request.name, request.subresource].join(" ").trim().to_owned()
        };
        assert_eq!(parse(Method::POST, "/api/v1/namespaces/a/pods?x=y"), "create pods");
        assert_eq!(parse(Method::GET, "/api/v1/namespaces/a/pods/b"), "get pods b");
        assert_eq!(parse(Method::GET, "/api/v1/namespaces/a"), "get namespaces a");
        assert_eq!(parse(Method::GET, "/api/v1/nodes?a=b&watch=true"), "watch nodes");
        let status = "/apis/drop.corewire.io/v1alpha1/cachedimages/b/status";
        assert_eq!(parse(Method::PATCH, status), "patch cachedimages b status");
        assert_eq!(parse(Method::GET, "/version"), "list");
    }

    #[test]
    fn requests_and_answers_are_lost_held_back_or_replaced_as_often_as_it_is_told() {
        let site = Site::start();
        let seen = |expected: usize| assert_eq!(site.server.requests().len(), expected);
        site.proxy.fail(ApiFault::LoseRequest, Odds::Times(1), |request| request.verb == "create");
        site.create().unwrap_err();
        seen(0);
        site.proxy.fail(ApiFault::LoseAnswer, Odds::Times(1), ApiRequest::is_write);
        site.create().unwrap_err();
        seen(1);
        site.proxy.fail(ApiFault::Answer(429), Odds::Times(1), ApiRequest::is_write);
        let reply = site.agent().post(site.url(PODS)).send("{}").unwrap();
        assert_eq!(reply.headers().get("retry-after").unwrap(), "1");
        assert_eq!(reply.status(), 429);
        seen(1);
        site.proxy.fail(ApiFault::Delay(Duration::from_millis(9)), Odds::Percent(100), |_| true);
        assert_eq!(site.create().unwrap(), 200);
        seen(2);
        let became: Vec<_> = site.proxy.requests().iter().map(|request| (request.status, request.fault)).collect();
        assert_eq!(
            became[..3],
            [
                (None, Some(ApiFault::LoseRequest)),
                (None, Some(ApiFault::LoseAnswer)),
                (Some(429), Some(ApiFault::Answer(429)))
            ]
        );
        assert!(matches!(became[3], (Some(200), Some(ApiFault::Delay(_)))), "{became:?}");
    }

    #[test]
    fn chance_is_the_same_for_the_same_seed() {
        let fall = |seed| {
            let mut rule = Rule {
                fault: ApiFault::LoseRequest,
                odds: Odds::Percent(20),
                choice: Box::new(|_| true),
                dice: Dice(seed),
            };
            (0..1000).map(|_| rule.strike().is_some()).collect::<Vec<_>>()
        };
        assert_eq!(fall(1), fall(1));
        assert_ne!(fall(1), fall(2));
        let count = fall(1).into_iter().filter(|strikes| *strikes).count();
        assert!((150..250).contains(&count), "{count}");
    }

    #[test]
    fn watches_are_cut_in_an_event_expire_or_fall_silent() {
        let site = Site::start();
        const EVENT: &str = "{\"type\":\"ADDED\"}\n";
        let events = Answer { delivery: Delivery::Stall, ..Answer::ok(EVENT) };
        site.server.answer(PODS, events);
        assert_eq!(site.watch()(EVENT.len() as u64), (EVENT.to_owned(), true));
        site.proxy.fail(ApiFault::CutWatch, Odds::Times(1), |request| request.resource == "pods");
        assert_eq!(site.watch()(1024), (EVENT[..EVENT.len() / 2].to_owned(), false));
        site.proxy.fail(ApiFault::ExpireWatch, Odds::Times(1), |_| true);
        let (text, ended_well) = site.watch()(1024);
        assert!(ended_well && text.starts_with("{\"object\":{") && text.contains("\"code\":410"), "{text}");
        site.proxy.fail(ApiFault::FreezeWatch, Odds::Times(1), |_| true);
        let watch = site.watch();
        let silence = std::thread::spawn(move || watch(1024));
        let frozen = |requests: &[ApiRequest]| (requests.last()?.fault == Some(ApiFault::FreezeWatch)).then_some(());
        site.proxy.wait(LIMIT, frozen).unwrap();
        assert!(!silence.is_finished());
        drop(site.proxy);
        assert_eq!(silence.join().unwrap(), (String::new(), false));
    }
}
