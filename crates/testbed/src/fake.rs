//! An HTTP server that answers what a test tells it to and remembers what it was asked.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Formatter};
use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::task::spawn_blocking;

use crate::answer::{Answer, Content, Delivery};
use crate::listener::Listener;

/// A plain HTTP/1.1 server on loopback: at first it answers 404 to everything. It stops, and
/// cuts its connections, when it is dropped.
#[derive(Debug)]
pub struct FakeServer {
    listener: Listener,
    script: Arc<Script>,
}

/// One request, as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`, ...
    pub method: String,
    /// Without the query.
    pub path: String,
    /// What follows the question mark, still encoded; empty if there is none.
    pub query: String,
    /// Names in lower case, in the order of the request.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Request {
    /// The first header of this name (in lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The values of a parameter of the query, decoded.
    #[must_use]
    pub fn parameters(&self, name: &str) -> Vec<String> {
        let parameters = form_urlencoded::parse(self.query.as_bytes());
        parameters.filter(|(other, _)| other == name).map(|(_, value)| value.into_owned()).collect()
    }
}

type Handler = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;

#[derive(Default)]
struct Script {
    /// By the beginning of the path.
    handlers: Mutex<BTreeMap<String, Handler>>,
    requests: Mutex<Vec<Request>>,
    received: Condvar,
}

impl FakeServer {
    /// Starts a server on a free port.
    ///
    /// # Errors
    /// If there is none.
    pub fn start() -> Result<Self> {
        let script = Arc::new(Script::default());
        let shared = Arc::clone(&script);
        let listener = Listener::start(move |connection| {
            let script = Arc::clone(&shared);
            let service = service_fn(move |request| {
                let script = Arc::clone(&script);
                async move { script.serve(request).await }
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(connection), service);
            // An error is a client that has gone, or an answer that shall look like one.
            async move { drop(connection.await) }
        })?;
        Ok(Self { listener, script })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Its root, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// From now on, answers this to requests whose path begins with `path`; where several do,
    /// the longest counts.
    pub fn answer(&self, path: &str, answer: Answer) {
        self.answer_with(path, move |_| answer.clone());
    }

    /// The same with an answer that depends on the request.
    pub fn answer_with(&self, path: &str, handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
        lock(&self.script.handlers).insert(path.to_owned(), Arc::new(handler));
    }

    /// Every request so far, in the order of their arrival; also those that never get an answer.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.script.requests).clone()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        lock(&self.script.requests).clear();
    }

    /// Waits until `find` finds something in the requests so far.
    ///
    /// # Errors
    /// If it does not within `limit`; shows the requests then.
    pub fn wait<Found>(&self, limit: Duration, mut find: impl FnMut(&[Request]) -> Option<Found>) -> Result<Found> {
        let mut found = None;
        let missing = |requests: &mut Vec<Request>| {
            found = find(requests);
            found.is_none()
        };
        let waited = self.script.received.wait_timeout_while(lock(&self.script.requests), limit, missing);
        let (requests, _) = waited.unwrap_or_else(PoisonError::into_inner);
        found.ok_or_else(|| anyhow!("not within {} s: {:#?}", limit.as_secs(), *requests))
    }
}

impl Script {
    async fn serve(&self, request: hyper::Request<Incoming>) -> Result<hyper::Response<Content>> {
        let (head, body) = request.into_parts();
        let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let request = Request {
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            headers: head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
            body: body.collect().await?.to_bytes().to_vec(),
        };
        lock(&self.requests).push(request.clone());
        self.received.notify_all();
        let handler = {
            let handlers = lock(&self.handlers);
            let matching = handlers.iter().filter(|(path, _)| request.path.starts_with(path.as_str()));
            matching.max_by_key(|(path, _)| path.len()).map(|(_, handler)| Arc::clone(handler))
        };
        // A handler may ask another of these servers, which have one thread together.
        let answer = match handler {
            Some(handler) => spawn_blocking(move || handler(&request)).await?,
            None => Answer::status(404),
        };
        match answer.delivery {
            Delivery::Never => pending().await,
            Delivery::HangUp => bail!("the connection ends here"),
            Delivery::Whole | Delivery::Stall => answer.into_response(),
        }
    }
}

impl Debug for Script {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Script").field("requests", &self.requests).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    /// Sends a request and reads up to the end of the connection or `limit` bytes.
    fn ask(server: &FakeServer, path: &str, limit: u64) -> String {
        let mut client = TcpStream::connect(server.address()).unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Token: secret\r\nConnection: close\r\n\r\n");
        client.write_all(head.as_bytes()).unwrap();
        let mut reply = Vec::new();
        client.take(limit).read_to_end(&mut reply).unwrap();
        String::from_utf8(reply).unwrap()
    }

    #[test]
    fn the_longest_path_decides_and_every_request_is_remembered() {
        let server = FakeServer::start().unwrap();
        server.answer("/v2/", Answer::status(401).header("WWW-Authenticate", "Basic"));
        server.answer_with("/v2/app/", |request| Answer::ok(request.parameters("n").join("+")));
        assert!(ask(&server, "/v2/", 1024).contains("401 Unauthorized\r\nwww-authenticate: Basic\r\n"));
        assert!(ask(&server, "/v2/app/tags?n=1%2C2&n=3", 1024).ends_with("\r\n\r\n1,2+3"));
        assert!(ask(&server, "/", 1024).starts_with("HTTP/1.1 404 "));
        let requests = server.requests();
        assert_eq!(requests.len(), 3);
        assert_eq!((requests[1].path.as_str(), requests[1].query.as_str()), ("/v2/app/tags", "n=1%2C2&n=3"));
        assert_eq!(requests[1].header("x-token"), Some("secret"));
    }

    #[test]
    fn answers_can_be_endless_or_not_come() {
        let server = FakeServer::start().unwrap();
        server.answer("/huge", Answer::ok("{}").padded(200_000_000));
        server.answer("/stall", Answer { delivery: Delivery::Stall, ..Answer::ok("{") });
        server.answer("/hang-up", Answer { delivery: Delivery::HangUp, ..Answer::status(200) });
        server.answer("/never", Answer::never());
        assert_eq!(ask(&server, "/huge", 10_000_000).len(), 10_000_000);
        assert!(ask(&server, "/stall", 20).starts_with("HTTP/1.1 200 OK"));
        assert_eq!(ask(&server, "/hang-up", 1024), "");
        // It waits for its answer until the server has gone.
        let mut client = TcpStream::connect(server.address()).unwrap();
        client.write_all(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let arrived = |requests: &[Request]| requests.iter().find(|request| request.path == "/never").cloned();
        server.wait(Duration::from_secs(10), arrived).unwrap();
        drop(server);
        assert!(!matches!(client.read(&mut [0; 8]), Ok(1..)));
    }
}
