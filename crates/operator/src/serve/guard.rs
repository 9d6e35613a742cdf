//! Asks the API server which clients may read a path: a TokenReview identifies the client's user, and a
//! SubjectAccessReview decides whether this user may `get` the path
//! (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/#referring-to-resources>).

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use ring::digest::{SHA256, digest};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::listen::Peer;

/// How long a positive answer is kept. A negative one is not kept, so that a newly granted permission works at once.
const ALLOWED: Duration = Duration::from_secs(60);
/// The most positive answers that are kept, and the most addresses.
const ANSWERS: usize = 1000;
/// How many requests of unknown clients are reviewed at once. A denied request keeps its turn for [`REFUSED`], so this
/// is also the number of denials in that time: no client can flood the API server. As many again are for addresses from
/// which a request was allowed before, because their token may be a new one.
const REVIEWS: usize = 4;
const REFUSED: Duration = Duration::from_secs(1);
/// The time limit for an answer of the API server, and for a request that waits for its turn.
const REVIEW: Duration = Duration::from_secs(10);

/// Passes on the requests that the API server allows.
pub struct Guard {
    client: Client,
    /// The time until which the holder of a token may `get` the path. Afterwards Drop asks about the holder again, but
    /// not as about an unknown client.
    allowed: Mutex<HashMap<Question, Instant>>,
    strangers: Arc<Semaphore>,
    /// The addresses from which a request was allowed.
    addresses: Mutex<HashSet<IpAddr>>,
    neighbours: Arc<Semaphore>,
}

/// The SHA-256 of a token, and the requested path.
type Question = (Vec<u8>, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Allowed,
    /// The API server does not know the token.
    Unknown,
    /// The user of the token lacks the permission.
    Forbidden,
}

/// Passes a request on, or answers with the denial.
pub async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let verdict = match bearer(request.headers()) {
        Some(token) => {
            let peer = request.extensions().get::<Peer>().copied();
            guard.verdict(token, request.uri().path(), peer).await
        }
        None => Ok(Verdict::Unknown),
    };
    match verdict {
        Ok(Verdict::Allowed) => next.run(request).await,
        Ok(Verdict::Unknown) => {
            let text = "send the token of a ServiceAccount: Authorization: Bearer TOKEN";
            (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], text).into_response()
        }
        Ok(Verdict::Forbidden) => {
            let text = format!("a ClusterRole must grant `get` on the nonResourceURL {}", request.uri().path());
            (StatusCode::FORBIDDEN, text).into_response()
        }
        Err(error) => {
            warn!("the API server does not tell who may read {}: {error:#}", request.uri().path());
            (StatusCode::SERVICE_UNAVAILABLE, "the API server does not tell whether you may").into_response()
        }
    }
}

/// The token of a request (RFC 6750, section 2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

impl Guard {
    /// Makes a guard that asks the API server of `client`.
    pub fn new(client: Client) -> Self {
        let [strangers, neighbours] = [(); 2].map(|()| Arc::new(Semaphore::new(REVIEWS)));
        Self { client, allowed: Mutex::default(), strangers, addresses: Mutex::default(), neighbours }
    }

    async fn verdict(&self, token: &str, path: &str, peer: Option<Peer>) -> anyhow::Result<Verdict> {
        // Tokens themselves are not kept.
        let question = (digest(&SHA256, token.as_bytes()).as_ref().to_vec(), path.to_owned());
        let until = self.allowed().get(&question).copied();
        if until.is_some_and(|until| Instant::now() < until) {
            return Ok(Verdict::Allowed);
        }
        let asked = async {
            match until {
                // Clients that were allowed before do not wait behind unknown ones.
                Some(_) => self.review(token, path).await,
                None if self.is_neighbour(peer) => Self::in_turn(&self.neighbours, self.review(token, path)).await,
                None => Self::in_turn(&self.strangers, self.review(token, path)).await,
            }
        };
        let verdict = timeout(REVIEW, asked).await??;
        match verdict {
            Verdict::Allowed => {
                self.keep(question);
                self.meet(peer);
            }
            Verdict::Unknown | Verdict::Forbidden => drop(self.allowed().remove(&question)),
        }
        Ok(verdict)
    }

    fn allowed(&self) -> MutexGuard<'_, HashMap<Question, Instant>> {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, question: Question) {
        let now = Instant::now();
        let mut allowed = self.allowed();
        if allowed.len() >= ANSWERS {
            allowed.retain(|_, until| now < *until);
        }
        if allowed.len() < ANSWERS {
            allowed.insert(question, now + ALLOWED);
        }
    }

    fn addresses(&self) -> MutexGuard<'_, HashSet<IpAddr>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request from this address was allowed before.
    fn is_neighbour(&self, peer: Option<Peer>) -> bool {
        peer.is_some_and(|Peer(address)| self.addresses().contains(&address))
    }

    fn meet(&self, peer: Option<Peer>) {
        let mut addresses = self.addresses();
        if addresses.len() >= ANSWERS {
            // The addresses that are still in use come back within a minute.
            addresses.clear();
        }
        addresses.extend(peer.map(|Peer(address)| address));
    }

    /// Reviews a request when its turn has come. A denied request keeps its turn for [`REFUSED`].
    async fn in_turn(
        turns: &Arc<Semaphore>,
        review: impl Future<Output = anyhow::Result<Verdict>>,
    ) -> anyhow::Result<Verdict> {
        let turn = Arc::clone(turns).acquire_owned().await?;
        let verdict = review.await;
        if !matches!(verdict, Ok(Verdict::Allowed)) {
            tokio::spawn(async move {
                sleep(REFUSED).await;
                drop(turn);
            });
        }
        verdict
    }

    async fn review(&self, token: &str, path: &str) -> anyhow::Result<Verdict> {
        let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let review = Api::<TokenReview>::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        let status = review.status.unwrap_or_default();
        let Some(user) = status.user.filter(|_| status.authenticated == Some(true)) else {
            return Ok(Verdict::Unknown);
        };
        let attributes = NonResourceAttributes { path: Some(path.to_owned()), verb: Some("get".to_owned()) };
        let spec = SubjectAccessReviewSpec {
            user: user.username,
            uid: user.uid,
            groups: user.groups,
            extra: user.extra,
            non_resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let reviews = Api::<SubjectAccessReview>::all(self.client.clone());
        let status = reviews.create(&PostParams::default(), &review).await?.status.unwrap_or_default();
        Ok(if status.allowed { Verdict::Allowed } else { Verdict::Forbidden })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use serde_json::{Value, json};
    use tower::ServiceExt as _;

    use super::*;
    use crate::fake::{Fake, Got, reply};

    /// Starts an API server that knows two tokens by name: `reader`, whose user may read /metrics, and `other`.
    async fn api_server() -> Fake {
        Fake::start(|got: &Got| {
            let mut review: Value = serde_json::from_str(&got.body).unwrap();
            let spec = review["spec"].clone();
            review["status"] = match (got.target.split('?').next().unwrap(), spec["token"].as_str()) {
                ("/apis/authentication.k8s.io/v1/tokenreviews", Some(token @ ("reader" | "other"))) => {
                    json!({ "authenticated": true, "user": { "username": token, "groups": ["readers"] } })
                }
                ("/apis/authentication.k8s.io/v1/tokenreviews", _) => json!({ "authenticated": false }),
                _ => {
                    let attributes = json!({ "path": "/metrics", "verb": "get" });
                    let may = spec["user"] == "reader" && spec["groups"] == json!(["readers"]);
                    json!({ "allowed": may && spec["nonResourceAttributes"] == attributes })
                }
            };
            reply(201, &[("content-type", "application/json")], review.to_string())
        })
        .await
    }

    fn guarded(url: &str) -> Router {
        let client = Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap();
        let guard = Arc::new(Guard::new(client));
        let router = Router::new().route("/metrics", get(|| async { "numbers" }));
        router.route("/debug/plan", get(|| async { "plan" })).route_layer(from_fn_with_state(guard, check))
    }

    async fn ask(router: &Router, path: &str, authorization: Option<&str>) -> Response {
        let mut request = http::Request::builder().uri(path);
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn only_who_has_the_right_passes() {
        let server = api_server().await;
        let router = guarded(&server.url);
        let cases = [
            ("/metrics", None, 401),
            ("/metrics", Some("Basic cmVhZGVyOg=="), 401),
            ("/metrics", Some("Bearer "), 401),
            ("/metrics", Some("Bearer stranger"), 401),
            ("/metrics", Some("Bearer other"), 403),
            ("/debug/plan", Some("Bearer reader"), 403),
            ("/metrics", Some("bearer reader"), 200),
        ];
        for (path, authorization, expected) in cases {
            let status = ask(&router, path, authorization).await.status();
            assert_eq!(status, expected, "{path} {authorization:?}");
        }
        let refused = ask(&router, "/metrics", None).await;
        assert_eq!(refused.headers().get(WWW_AUTHENTICATE).unwrap(), "Bearer");
    }

    #[tokio::test]
    async fn a_yes_is_remembered_for_its_path_and_a_no_is_not() {
        let server = api_server().await;
        let router = guarded(&server.url);
        for _ in 0..3 {
            ask(&router, "/metrics", Some("Bearer reader")).await;
        }
        assert_eq!(server.got().len(), 2, "a TokenReview and a SubjectAccessReview");
        ask(&router, "/debug/plan", Some("Bearer reader")).await;
        assert_eq!(server.got().len(), 4);
        for _ in 0..2 {
            ask(&router, "/metrics", Some("Bearer stranger")).await;
        }
        assert_eq!(server.got().len(), 6);
    }

    /// Makes all allowed requests so old that they have expired.
    fn expire(guard: &Guard) {
        for until in guard.allowed().values_mut() {
            *until = Instant::now();
        }
    }

    #[tokio::test]
    async fn answers_are_bounded_and_do_not_count_for_ever() {
        let server = api_server().await;
        let client = Client::try_from(kube::Config::new(server.url.parse().unwrap())).unwrap();
        let guard = Guard::new(client);
        for _ in 0..2 {
            assert_eq!(guard.verdict("reader", "/metrics", None).await.unwrap(), Verdict::Allowed);
            expire(&guard);
        }
        assert_eq!(server.got().len(), 4, "each time a TokenReview and a SubjectAccessReview");
        let question = |number: usize| (vec![0], number.to_string());
        for number in 0..2 * ANSWERS {
            guard.keep(question(number));
        }
        assert_eq!(guard.allowed().len(), ANSWERS);
        expire(&guard);
        guard.keep(question(0));
        assert_eq!(guard.allowed().len(), 1);
    }

    const NEAR: Option<Peer> = Some(Peer(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1))));
    const FAR: Option<Peer> = Some(Peer(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2))));

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_strangers_reaches_the_api_server_at_a_bounded_rate_and_keeps_nobody_out_who_is_known() {
        let strangers = Arc::new(AtomicUsize::new(0));
        let asked = Arc::clone(&strangers);
        let answer = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let asked = Arc::clone(&asked);
            async move {
                let review = request.into_body().collect_bytes().await?;
                let mut review: Value = serde_json::from_slice(&review)?;
                let token = review["spec"]["token"].as_str().unwrap_or("reader");
                let is_known = token.starts_with("reader");
                if !is_known {
                    asked.fetch_add(1, Ordering::Relaxed);
                }
                let user = json!({ "username": "reader" });
                review["status"] = json!({ "authenticated": is_known, "user": user, "allowed": is_known });
                Ok::<_, tower::BoxError>(http::Response::new(kube::client::Body::from(serde_json::to_vec(&review)?)))
            }
        });
        let guard = Arc::new(Guard::new(Client::new(answer, "default")));
        assert_eq!(guard.verdict("reader", "/metrics", NEAR).await.unwrap(), Verdict::Allowed);
        expire(&guard);
        for number in 0..100 * REVIEWS {
            let guard = Arc::clone(&guard);
            tokio::spawn(async move { guard.verdict(&number.to_string(), "/metrics", FAR).await });
        }
        for second in 1..=5 {
            sleep(REFUSED - Duration::from_millis(1)).await;
            assert_eq!(strangers.load(Ordering::Relaxed), second * REVIEWS);
            assert_eq!(guard.verdict("reader", "/metrics", FAR).await.unwrap(), Verdict::Allowed);
            expire(&guard);
            // A renewed token is a new one, and comes from the same address as the previous one.
            let renewed = format!("reader-{second}");
            let began = tokio::time::Instant::now();
            assert_eq!(guard.verdict(&renewed, "/metrics", NEAR).await.unwrap(), Verdict::Allowed);
            assert_eq!(began.elapsed(), Duration::ZERO);
            sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn nobody_passes_while_the_api_server_does_not_answer() {
        let server = Fake::start(|_: &Got| reply(500, &[], "no")).await;
        let router = guarded(&server.url);
        assert_eq!(ask(&router, "/metrics", Some("Bearer reader")).await.status(), 503);
    }
}
