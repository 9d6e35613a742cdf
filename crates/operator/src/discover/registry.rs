//! OCI registries: the tags of repositories.
//!
//! Tags: <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#content-discovery>.
//! Tokens: <https://distribution.github.io/distribution/spec/auth/token/>.

use drop_api::discovery_policy::RegistryQuery;
use drop_core::discovery::{Answer, Repository, SourceFailure, registry_name};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};
use reqwest::Url;
use serde::Deserialize;
use tracing::warn;

use super::PER_NAME;
use super::at_most::AtMost;
use super::client::{Client, Limits, Request, Response, host, invalid};
use super::credentials::{Credentials, Login};
use super::link;
use super::seat::Seat;

/// How many repositories are listed at once.
const AT_ONCE: usize = 4;
/// Tags per page: the most that registries commonly allow.
const PAGE: usize = 1000;
/// The most tags of a page that are kept: as many as `maxScan` may say.
const MAX_SCAN: usize = 100_000;
/// How long a tag may be: <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests>.
const MAX_TAG: usize = 128;
/// How images name Docker Hub.
const DOCKER_HUB_NAME: &str = "docker.io";
/// Where its registry is.
const DOCKER_HUB: &str = "https://registry-1.docker.io";

/// The tags of all repositories, up to `maxScan` of each.
pub async fn fetch(
    query: &RegistryQuery,
    credentials: &Credentials,
    limits: Limits,
    seat: &Seat,
) -> Result<Answer, SourceFailure> {
    let address = address(&query.url);
    let client = &Client::new(address, credentials, limits, seat)?;
    let repositories = query.repositories.iter().map(|path| async move {
        let name = if address == DOCKER_HUB && !path.contains('/') { format!("library/{path}") } else { path.clone() };
        let (tags, is_cut) = Listing { client, name, token: None }.tags(query).await?;
        Ok(Repository { path: path.clone(), tags, is_cut })
    });
    let repositories: Vec<_> = stream::iter(repositories.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect().await?;
    for repository in repositories.iter().filter(|repository| repository.is_cut) {
        let (registry, repository, max_scan) = (&query.url, &repository.path, query.max_scan);
        warn!(registry, repository, max_scan, "maxScan is reached: newer tags may lie beyond");
    }
    Ok(Answer::Tags(repositories))
}

fn address(url: &str) -> &str {
    if registry_name(url) == DOCKER_HUB_NAME { DOCKER_HUB } else { url }
}

/// The tags of one repository on their way.
struct Listing<'a> {
    client: &'a Client<'a>,
    name: String,
    /// What the registry's token service issued for the repository.
    token: Option<HeaderValue>,
}

/// A page of tags.
#[derive(Deserialize)]
struct Page {
    /// Registries say `null` for none.
    tags: Option<AtMost<String, MAX_SCAN>>,
}

/// What a token service issues, under the one name, the other, or both.
#[derive(Deserialize)]
struct Issued {
    token: Option<String>,
    access_token: Option<String>,
}

/// How to get a token: `Bearer realm="…",service="…",scope="…"`.
struct Challenge {
    realm: Url,
    parameters: Vec<(&'static str, String)>,
}

impl Listing<'_> {
    /// Up to `maxScan` tags, and whether there are more.
    async fn tags(&mut self, query: &RegistryQuery) -> Result<(Vec<String>, bool), SourceFailure> {
        let most = usize::try_from(query.max_scan).unwrap_or_default();
        let mut parameters = vec![("n", most.min(PAGE).to_string())];
        parameters.extend(query.tag_seek.clone().map(|tag| ("last", tag)));
        let mut url = self.client.url(&format!("v2/{}/tags/list", self.name), &parameters);
        let mut tags = Vec::new();
        let is_cut = loop {
            let mut response = self.ask(url).await?;
            let page: Page = self.client.json(&mut response).await?;
            let mut page = page.tags.unwrap_or_default();
            page.is_cut |= page.items.len() > most - tags.len();
            page.items.truncate(most - tags.len());
            page.items.retain(|tag| tag.len() <= MAX_TAG);
            self.client.keep(page.items.iter().map(|tag| PER_NAME + tag.len()).sum(), &response.url)?;
            tags.extend(page.items);
            match next(&response) {
                Some(next) if tags.len() < most && !page.is_cut => url = next,
                next => break next.is_some() || page.is_cut,
            }
        };
        Ok((tags, is_cut))
    }

    /// Asks for a page, and for a token when the registry wants one.
    async fn ask(&mut self, url: Url) -> Result<Response, SourceFailure> {
        let response = self.send(url.clone()).await?;
        let is_own = self.client.is_own(&response.url);
        let challenge = if response.status == StatusCode::UNAUTHORIZED && is_own {
            challenge(&response.headers, &self.name)
        } else {
            None
        };
        match challenge {
            Some(challenge) => {
                self.token = Some(self.token(&response.url, challenge).await?);
                self.send(url).await
            }
            None => Ok(response),
        }
    }

    /// A token, or the login, goes to the registry itself only.
    async fn send(&mut self, url: Url) -> Result<Response, SourceFailure> {
        let login = self.client.credentials().authorization();
        let authorization = self.token.as_ref().or(login).filter(|_| self.client.is_own(&url));
        self.client.send(Request { url, form: None, authorization }).await
    }

    /// A token from the service that the registry names. User and password go there if
    /// it is the registry itself, or if both speak TLS: then nobody else named it.
    async fn token(&mut self, registry: &Url, challenge: Challenge) -> Result<HeaderValue, SourceFailure> {
        let Challenge { realm: mut url, parameters } = challenge;
        url.query_pairs_mut().extend_pairs(parameters);
        let is_trusted = self.client.is_own(&url) || (registry.scheme() == "https" && url.scheme() == "https");
        let authorization = match &self.client.credentials().login {
            Some(Login::Basic(value)) if is_trusted => Some(value),
            _ => None,
        };
        let mut response = self.client.send(Request { url, form: None, authorization }).await?;
        let issued: Issued = self.client.json(&mut response).await?;
        let token = issued.token.or(issued.access_token);
        let header = token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
        let mut header = header.ok_or_else(|| invalid(format!("{} issues no token", host(&response.url))))?;
        header.set_sensitive(true);
        Ok(header)
    }
}

/// The next page. Its address may be relative.
fn next(response: &Response) -> Option<Url> {
    let links = response.headers.get_all(header::LINK).iter().filter_map(|value| value.to_str().ok());
    let next = links.filter_map(link::next).next()?;
    response.url.join(next).ok().filter(|url| matches!(url.scheme(), "http" | "https"))
}

/// Where the registry sends for a token to `repository`.
fn challenge(headers: &HeaderMap, repository: &str) -> Option<Challenge> {
    let values = headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    let challenges = values.filter_map(|value| http_auth::parse_challenges(value).ok()).flatten();
    let bearer = challenges.into_iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer"))?;
    let parameter = |name: &str| {
        let mut parameters = bearer.params.iter();
        parameters.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_unescaped())
    };
    let realm = Url::parse(&parameter("realm")?).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    let scope = parameter("scope").unwrap_or_else(|| format!("repository:{repository}:pull"));
    let service = parameter("service").map(|service| ("service", service));
    Some(Challenge { realm, parameters: service.into_iter().chain([("scope", scope)]).collect() })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, OnceLock};

    use axum::response::Response;
    use drop_core::discovery::SourceReason;
    use serde_json::json;

    use super::super::credentials::secret;
    use super::*;
    use crate::fake::{Authority, Fake, Got, gzip, reply};

    const LOGIN: [(&str, &str); 2] = [("username", "me"), ("password", "pw")];
    const BASIC: Option<&str> = Some("Basic bWU6cHc=");

    fn query(url: &str) -> RegistryQuery {
        RegistryQuery {
            url: url.to_owned(),
            repositories: vec!["team/app".to_owned()],
            max_scan: 1000,
            ..RegistryQuery::default()
        }
    }

    async fn ask(query: &RegistryQuery, data: &[(&str, &str)]) -> Result<Vec<String>, SourceFailure> {
        let Answer::Tags(repositories) = fetch(query, &secret(data), Limits::default(), &Seat::default()).await? else {
            panic!()
        };
        Ok(repositories.into_iter().flat_map(|repository| repository.tags).collect())
    }

    /// A page of 10,000 tags, two per page whatever `n` says, as registries may.
    fn page(got: &Got, link: impl Fn(u32) -> String) -> Response {
        let last = got.parameter("last").map_or(0, |last| last.trim_start_matches('v').parse::<u32>().unwrap());
        let tags: Vec<_> = (last + 1..=last + 2).map(|tag| format!("v{tag:05}")).collect();
        let link = format!("<{}>; rel=\"next\"", link(last + 2));
        reply(200, &[("link", &link)], json!({"name": "team/app", "tags": tags}).to_string())
    }

    #[tokio::test]
    async fn pages_are_read_until_max_scan() {
        let backend = Fake::start(|got| page(got, |last| format!("list?last=v{last:05}&n=2"))).await;
        let query = RegistryQuery { max_scan: 5, tag_seek: Some("v00007".to_owned()), ..query(&backend.url) };
        let tags = ask(&query, &LOGIN).await.unwrap();
        assert_eq!(tags, ["v00008", "v00009", "v00010", "v00011", "v00012"]);
        let got = backend.got();
        let targets: Vec<_> = got.iter().map(|got| got.target.as_str()).collect();
        let expected = ["n=5&last=v00007", "last=v00009&n=2", "last=v00011&n=2"];
        assert_eq!(targets, expected.map(|query| format!("/v2/team/app/tags/list?{query}")));
        assert!(got.iter().all(|got| got.authorization() == BASIC));
    }

    #[tokio::test]
    async fn a_listing_that_max_scan_ends_is_told_from_a_whole_one() {
        let whole = Fake::start(|_| reply(200, &[], r#"{"tags":["a","b"]}"#)).await;
        let linked = Fake::start(|_| reply(200, &[("link", "</more>; rel=next")], r#"{"tags":["a","b"]}"#)).await;
        for (backend, max_scan, expected) in [(&whole, 2, false), (&whole, 1, true), (&linked, 2, true)] {
            let query = RegistryQuery { max_scan, ..query(&backend.url) };
            let answer = fetch(&query, &secret(&[]), Limits::default(), &Seat::default()).await.unwrap();
            let Answer::Tags(repositories) = answer else { panic!() };
            assert_eq!(repositories[0].is_cut, expected, "{max_scan}");
        }
    }

    #[tokio::test]
    async fn the_last_page_has_no_link_and_a_repository_may_be_empty() {
        let backend = Fake::start(|got| match got.target.as_str() {
            "/v2/team/app/tags/list?n=1000" => reply(200, &[("link", "</more>; rel=next")], r#"{"tags":["a"]}"#),
            "/more" => reply(200, &[("link", "</more>; rel=prev")], r#"{"tags":["b"]}"#),
            _ => reply(200, &[], r#"{"name":"empty","tags":null}"#),
        })
        .await;
        let mut query = query(&backend.url);
        query.repositories.push("empty".to_owned());
        assert_eq!(ask(&query, &[]).await.unwrap(), ["a", "b"]);
    }

    #[tokio::test]
    async fn repositories_keep_their_order() {
        let backend = Fake::start(|got| reply(200, &[], json!({"tags": [got.target]}).to_string())).await;
        let repositories: Vec<_> = (0..10).map(|at| format!("r{at}")).collect();
        let tags = ask(&RegistryQuery { repositories, ..query(&backend.url) }, &[]).await.unwrap();
        let expected: Vec<_> = (0..10).map(|at| format!("/v2/r{at}/tags/list?n=1000")).collect();
        assert_eq!(tags, expected);
    }

    #[tokio::test]
    async fn repositories_share_the_room_of_the_query() {
        let backend = Fake::start(|_| reply(200, &[], r#"{"tags":["a","b"]}"#)).await;
        let limits = Limits { kept: 3 * (PER_NAME + 1), ..Limits::default() };
        let mut query = query(&backend.url);
        assert!(fetch(&query, &secret(&[]), limits, &Seat::default()).await.is_ok());
        query.repositories.push("other".to_owned());
        let failure = fetch(&query, &secret(&[]), limits, &Seat::default()).await.unwrap_err();
        assert_eq!(failure.reason, SourceReason::InvalidResponse);
    }

    #[tokio::test]
    async fn of_a_page_of_a_million_no_more_is_kept_than_max_scan() {
        let page = |tag: &str| gzip(format!(r#"{{"tags":[{}{tag}]}}"#, format!("{tag},").repeat(1_000_000)).as_bytes());
        for (body, max_scan, kept) in [(page("\"\""), 1000, 1000), (page("\"a\""), 100_000, 100_000)] {
            let backend = Fake::start(move |_| {
                reply(200, &[("content-encoding", "gzip"), ("link", "</more>; rel=next")], body.clone())
            })
            .await;
            let query = RegistryQuery { max_scan, ..query(&backend.url) };
            let Answer::Tags(repositories) =
                fetch(&query, &secret(&[]), Limits::default(), &Seat::default()).await.unwrap()
            else {
                panic!()
            };
            assert_eq!((repositories[0].tags.len(), repositories[0].is_cut), (kept, true));
            assert_eq!(backend.got().len(), 1);
        }
    }

    #[tokio::test]
    async fn what_is_longer_than_a_tag_can_be_is_none() {
        let (longest, longer) = ("t".repeat(MAX_TAG), "t".repeat(MAX_TAG + 1));
        let body = json!({"tags": [longest, longer]}).to_string();
        let backend = Fake::start(move |_| reply(200, &[], body.clone())).await;
        assert_eq!(ask(&query(&backend.url), &[]).await.unwrap(), [longest]);
    }

    #[tokio::test]
    async fn a_link_to_another_host_is_followed_without_credentials() {
        let stranger = Fake::start(|_| reply(200, &[], r#"{"tags":["b"]}"#)).await;
        let away = stranger.url.clone();
        let backend =
            Fake::start(move |_| reply(200, &[("link", &format!("<{away}/next>; rel=next"))], r#"{"tags":["a"]}"#))
                .await;
        let data = [LOGIN[0], LOGIN[1], ("headers.X-Key", "k3y")];
        assert_eq!(ask(&query(&backend.url), &data).await.unwrap(), ["a", "b"]);
        assert_eq!((backend.got()[0].authorization(), backend.got()[0].header("x-key")), (BASIC, Some("k3y")));
        assert_eq!((stranger.got()[0].authorization(), stranger.got()[0].header("x-key")), (None, None));
    }

    /// A registry that wants the token `t0k3n` of the service at `realm`, and has two pages.
    fn guarded(got: &Got, realm: &str) -> Response {
        if got.authorization() != Some("Bearer t0k3n") {
            let challenge =
                format!(r#"Bearer realm="{realm}/token?a=b",service="my, registry",scope="repository:team/app:pull""#);
            let headers = [("www-authenticate", "Negotiate"), ("www-authenticate", challenge.as_str())];
            return reply(401, &headers, r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#);
        }
        match got.target.as_str() {
            "/v2/team/app/tags/list?n=1000" => reply(200, &[("link", "</more>; rel=next")], r#"{"tags":["a"]}"#),
            _ => reply(200, &[], r#"{"tags":["b"]}"#),
        }
    }

    fn issue(got: &Got) -> Response {
        let (token, expires_in) = ("t0k3n", 300);
        let issued = match got.authorization() {
            Some(_) => json!({"token": token, "access_token": token, "expires_in": expires_in}),
            None => json!({"access_token": token}),
        };
        reply(200, &[], issued.to_string())
    }

    #[tokio::test]
    async fn a_token_of_the_registry_itself_is_got_with_the_credentials_and_used_for_all_pages() {
        let own = Arc::new(OnceLock::new());
        let realm: Arc<OnceLock<String>> = own.clone();
        let backend =
            Fake::start(
                move |got| {
                    if got.target.starts_with("/token") { issue(got) } else { guarded(got, realm.get().unwrap()) }
                },
            )
            .await;
        own.set(backend.url.clone()).unwrap();
        assert_eq!(ask(&query(&backend.url), &LOGIN).await.unwrap(), ["a", "b"]);
        let got = backend.got();
        assert_eq!(got.len(), 4, "list, token, list, next page");
        assert_eq!(got[1].authorization(), BASIC);
        let parameters = ["a", "service", "scope"].map(|name| got[1].parameter(name).unwrap());
        assert_eq!(parameters, ["b", "my, registry", "repository:team/app:pull"]);
    }

    #[tokio::test]
    async fn a_realm_elsewhere_gets_credentials_only_when_it_was_named_over_tls() {
        let authority = Authority::new();
        let ca = ("ca.crt", authority.pem.as_str());
        let data = [LOGIN[0], LOGIN[1], ("headers.X-Key", "k3y"), ca];
        let plain_service = Fake::start(issue).await;
        let tls_service = Fake::start_tls(authority.server("127.0.0.1", None), issue).await;
        for (service, over_tls, expected) in [
            (&plain_service, false, None),
            (&plain_service, true, None),
            (&tls_service, false, None),
            (&tls_service, true, BASIC),
        ] {
            let realm = service.url.clone();
            let answer = move |got: &Got| guarded(got, &realm);
            let registry = if over_tls {
                Fake::start_tls(authority.server("127.0.0.1", None), answer).await
            } else {
                Fake::start(answer).await
            };
            assert_eq!(ask(&query(&registry.url), &data).await.unwrap(), ["a", "b"]);
            let got = service.got().pop().unwrap();
            assert_eq!(got.authorization(), expected, "{} named by {}", service.url, registry.url);
            assert_eq!(got.header("x-key"), None);
        }
    }

    #[tokio::test]
    async fn a_realm_that_redirects_does_not_pass_credentials_on() {
        let authority = Authority::new();
        let stranger = Fake::start_tls(authority.server("127.0.0.1", None), issue).await;
        let away = stranger.url.clone();
        let service =
            Fake::start_tls(authority.server("127.0.0.1", None), move |_| reply(307, &[("location", &away)], "")).await;
        let realm = service.url.clone();
        let registry = Fake::start_tls(authority.server("127.0.0.1", None), move |got| guarded(got, &realm)).await;
        let data = [LOGIN[0], LOGIN[1], ("ca.crt", authority.pem.as_str())];
        assert_eq!(ask(&query(&registry.url), &data).await.unwrap(), ["a", "b"]);
        assert_eq!((service.got()[0].authorization(), stranger.got()[0].authorization()), (BASIC, None));
    }

    #[tokio::test]
    async fn anonymous_tokens_do_where_the_secret_has_no_user() {
        let service = Fake::start(issue).await;
        let realm = service.url.clone();
        let registry = Fake::start(move |got| guarded(got, &realm)).await;
        assert_eq!(ask(&query(&registry.url), &[]).await.unwrap(), ["a", "b"]);
        assert_eq!(service.got()[0].authorization(), None);
    }

    #[tokio::test]
    async fn who_is_refused_is_told_by_whom() {
        let service = Fake::start(|_| reply(401, &[], r#"{"details":"incorrect username or password"}"#)).await;
        let realm = service.url.clone();
        let refused = Fake::start(move |got| guarded(got, &realm)).await;
        let service = Fake::start(|_| reply(200, &[], r#"{"token":"wrong"}"#)).await;
        let realm = service.url.clone();
        let useless = Fake::start(move |got| guarded(got, &realm)).await;
        let service = Fake::start(|_| reply(200, &[], "{}")).await;
        let realm = service.url.clone();
        let silent = Fake::start(move |got| guarded(got, &realm)).await;
        let basic = Fake::start(|_| reply(401, &[("www-authenticate", "Basic realm=\"x\"")], "")).await;
        let cases = [
            (&refused, SourceReason::Unauthorized, "do not follow it to"),
            (&useless, SourceReason::Unauthorized, "authentication required"),
            (&silent, SourceReason::InvalidResponse, "issues no token"),
            (&basic, SourceReason::Unauthorized, "refuses the credentials"),
        ];
        for (registry, reason, says) in cases {
            let failure = ask(&query(&registry.url), &LOGIN).await.unwrap_err();
            assert_eq!(failure.reason, reason, "{failure}");
            assert!(failure.message.contains(says), "{failure}");
            assert!(registry.got().len() <= 2, "it is asked once more, not again and again");
        }
    }

    #[tokio::test]
    async fn a_missing_repository_is_named() {
        let backend = Fake::start(|_| {
            reply(404, &[], r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}"#)
        })
        .await;
        let failure = ask(&query(&backend.url), &[]).await.unwrap_err();
        assert_eq!(failure.reason, SourceReason::NotFound);
        assert!(failure.message.contains("/v2/team/app/tags/list: repository name not known"), "{failure}");
    }

    #[test]
    fn docker_hub_goes_by_several_names() {
        for url in [
            "https://docker.io",
            "https://index.docker.io/v1/",
            "https://hub.docker.com",
            "https://registry-1.docker.io/",
        ] {
            assert_eq!(address(url), DOCKER_HUB);
        }
        assert_eq!(address("https://ghcr.io"), "https://ghcr.io");
    }
}
