//! OCI registries: lists the tags of repositories.
//!
//! Tags: <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#content-discovery>.

use std::collections::HashSet;

use drop_api::discovery_policy::RegistryQuery;
use drop_core::discovery::{Answer, End, Repository, SourceFailure, registry_name};
use futures::stream::{self, StreamExt as _};
use http::header;
use reqwest::Url;
use serde::de::{Deserialize, Deserializer, IgnoredAny};
use serde_json::value::RawValue;
use tracing::warn;

use super::PER_NAME;
use super::at_most::AtMost;
use super::client::{Client, Limits, Response, Wanted, host, invalid};
use super::complaint::complaint;
use super::credentials::Credentials;
use super::link;
use super::seat::Seat;
use super::session::Session;

/// The most repositories that are listed at once.
const AT_ONCE: usize = 4;
/// Tags per page: the most that registries commonly allow.
const PAGE: usize = 1000;
/// Tags per page that every registry must allow, for registries that deny more.
const SMALL_PAGE: usize = 100;
/// The most pages in a row without a new tag.
const MOST_IDLE: usize = 10;
/// The most tags of a page that are kept: the greatest `maxScan`.
const MAX_SCAN: usize = 100_000;
/// The longest tag: <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests>.
const MAX_TAG: usize = 128;
/// Docker Hub's name in image references.
const DOCKER_HUB_NAME: &str = "docker.io";
/// The address of its registry.
const DOCKER_HUB: &str = "https://registry-1.docker.io";

/// Lists the tags of all repositories, up to `maxScan` of each. If a repository fails, only its own tags are missing.
///
/// # Errors
/// If every repository fails.
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
        let listed = Listing { client, session: Session::new(client, name.clone()), name }.tags(query).await;
        let (tags, end) = listed.unwrap_or_else(|failure| (Vec::new(), End::Failed(failure)));
        Repository { path: path.clone(), tags, end }
    });
    let repositories: Vec<_> = stream::iter(repositories.collect::<Vec<_>>()).buffered(AT_ONCE).collect().await;
    for Repository { path, end, .. } in &repositories {
        if let Some(why) = end.why() {
            warn!(registry = query.url, repository = path, "{why}");
        }
    }
    let failures: Vec<_> = repositories.iter().filter_map(Repository::failure).collect();
    match &failures[..] {
        [(path, failure), others @ ..] if failures.len() == repositories.len() => Err(match others.len() {
            0 => (*failure).clone(),
            others => failure.of_repository(path, others),
        }),
        _ => Ok(Answer::Tags(repositories)),
    }
}

/// Returns the address of a registry, by its URL or its name in image references.
pub fn address(url: &str) -> &str {
    if registry_name(url) == DOCKER_HUB_NAME { DOCKER_HUB } else { url }
}

/// A list of one repository's tags in progress.
struct Listing<'a> {
    client: &'a Client<'a>,
    session: Session<'a>,
    name: String,
}

/// A page of tags.
#[derive(Default, serde::Deserialize)]
struct Page {
    /// Some registries send `null` for an empty list.
    #[serde(default, deserialize_with = "present")]
    tags: Option<Option<AtMost<String, MAX_SCAN>>>,
    /// Some leave out `tags` for an empty list.
    name: Option<IgnoredAny>,
    /// Some proxies send an error with status 200.
    errors: Option<Box<RawValue>>,
}

/// Reads a field that exists, whether it is `null` or not.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl Listing<'_> {
    /// Returns up to `maxScan` tags, and how the list ended.
    async fn tags(mut self, query: &RegistryQuery) -> Result<(Vec<String>, End), SourceFailure> {
        let most = usize::try_from(query.max_scan).unwrap_or_default();
        let mut per_page = most.min(PAGE);
        let mut url = self.page(per_page, query.tag_seek.as_deref());
        let (mut tags, mut seen, mut asked) = (Vec::new(), HashSet::new(), HashSet::new());
        let (mut idle, mut has_links) = (0, false);
        // The tag after which the list continues if a registry sends no link, and whether it has to continue.
        let mut behind: Option<(String, bool)> = None;
        loop {
            let mut response = self.session.ask(&url, Wanted::Content).await?;
            if asked.is_empty() && per_page > SMALL_PAGE && matches!(response.status.as_u16(), 400 | 422) {
                per_page = SMALL_PAGE;
                url = self.page(per_page, query.tag_seek.as_deref());
                asked.insert(url.clone());
                response = self.session.ask(&url, Wanted::Content).await?;
            }
            asked.insert(url.clone());
            // Some registries do not support `last`, or deny it behind the last tag.
            let is_refused = behind.is_some() && matches!(response.status.as_u16(), 400 | 404 | 405 | 422);
            let page = if is_refused { Page::default() } else { self.read(&mut response).await? };
            let mut page = page.tags.flatten().unwrap_or_default();
            let (length, last) = (page.items.len(), page.items.last().cloned());
            let is_itself = page.items.iter().all(|tag| behind.as_ref().is_some_and(|(behind, _)| tag == behind));
            page.items.retain(|tag| tag.len() <= MAX_TAG && seen.insert(tag.clone()));
            idle = if page.items.is_empty() { idle + 1 } else { 0 };
            let is_cut = page.is_cut || page.items.len() > most - tags.len();
            page.items.truncate(most - tags.len());
            self.client.keep(page.items.iter().map(|tag| PER_NAME + tag.len()).sum(), &response.url)?;
            tags.extend(page.items);
            let next = self.next(&response);
            has_links |= next.is_some();
            let end = match (next, last) {
                _ if is_cut => End::MaxScan,
                (Some(_), _) if tags.len() == most => End::MaxScan,
                (Some(next), _) if idle < MOST_IDLE && !asked.contains(&next) => {
                    url = next;
                    continue;
                }
                (Some(_), _) => End::Stuck,
                // The last page of a registry that links its pages; or a registry that does not divide its list at all.
                (None, _) if has_links || length > per_page && !is_round(length) => End::Whole,
                // Behind the last tag there is no tag, or a registry lists the last tag again.
                (None, _) if is_itself && !is_refused => End::Whole,
                // The registry ignores `last`, so the list cannot continue.
                (None, _) if is_refused || idle > 0 => match behind {
                    Some((_, true)) => End::Stuck,
                    _ => End::Whole,
                },
                // Registries without `Link` continue with `last`. A short page may be the longest that they send, so
                // Drop asks once more. One more tag shows whether there are more than maxScan.
                (None, last) => {
                    let is_full = length == per_page || is_round(length);
                    per_page = per_page.min(most - tags.len()).max(1);
                    url = self.page(per_page, last.as_deref());
                    behind = last.map(|last| (last, is_full));
                    continue;
                }
            };
            return Ok((tags, end));
        }
    }

    /// Reads a page.
    async fn read(&self, response: &mut Response) -> Result<Page, SourceFailure> {
        let page: Page = self.client.json(response).await?;
        let host = host(&response.url);
        let errors = page.errors.as_ref().map(|errors| errors.get()).filter(|errors| !matches!(*errors, "null" | "[]"));
        if let Some(errors) = errors {
            let said = complaint(&response.headers, errors).and_then(|said| self.client.excerpt(&said));
            return Err(invalid(format!("{host} reports an error: {}", said.unwrap_or_else(|| "no words".to_owned()))));
        }
        if page.tags.is_none() && page.name.is_none() {
            let remedy = "is it the address of a registry?";
            return Err(invalid(format!("{host} answers without a list of tags: {remedy}")));
        }
        Ok(page)
    }

    /// Returns the URL of the first page, or of the page behind the tag `last`.
    fn page(&self, per_page: usize, last: Option<&str>) -> Url {
        let mut parameters = vec![("n", per_page.to_string())];
        parameters.extend(last.map(|last| ("last", last.to_owned())));
        self.client.url(&format!("v2/{}/tags/list", self.name), &parameters)
    }

    /// Returns the page that an answer links to. Behind a proxy that ends TLS or changes the path, the registry may not
    /// know its own address: of a link to the registry itself only the query counts.
    fn next(&self, response: &Response) -> Option<Url> {
        let links = response.headers.get_all(header::LINK).iter().filter_map(|value| value.to_str().ok());
        let next = links.filter_map(link::next).next()?;
        let next = response.url.join(next).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
        let Some(mut own) = self.client.as_own(&next) else { return Some(next) };
        if own.path().ends_with("/tags/list") {
            own.set_path(self.page(1, None).path());
        }
        Some(own)
    }
}

/// Whether a list is as long as the longest pages of registries usually are.
fn is_round(length: usize) -> bool {
    length.is_multiple_of(SMALL_PAGE)
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

    /// Returns the result of each repository.
    async fn list(query: &RegistryQuery) -> Vec<Repository> {
        let answer = fetch(query, &secret(&[]), Limits::default(), &Seat::default()).await.unwrap();
        let Answer::Tags(repositories) = answer else { panic!() };
        repositories
    }

    /// Returns a page of 10,000 tags, two per page whatever `n` says, as registries may do.
    fn page(got: &Got, link: impl Fn(u32) -> String) -> Response {
        let last = got.parameter("last").map_or(0, |last| last.trim_start_matches('v').parse::<u32>().unwrap());
        let tags: Vec<_> = (last + 1..=last + 2).map(|tag| format!("v{tag:05}")).collect();
        let link = format!("<{}>; rel=\"next\"", link(last + 2));
        reply(200, &[("link", &link)], json!({"name": "team/app", "tags": tags}).to_string())
    }

    /// The answer of a registry that requires a login.
    fn basic() -> Response {
        reply(401, &[("www-authenticate", "Basic realm=\"registry\"")], "")
    }

    #[tokio::test]
    async fn pages_are_read_until_max_scan_and_a_login_is_shown_once_it_is_asked_for() {
        let backend = Fake::start(|got| match got.authorization() {
            None => basic(),
            Some(_) => page(got, |last| format!("list?last=v{last:05}&n=2")),
        })
        .await;
        let query = RegistryQuery { max_scan: 5, tag_seek: Some("v00007".to_owned()), ..query(&backend.url) };
        let tags = ask(&query, &LOGIN).await.unwrap();
        assert_eq!(tags, ["v00008", "v00009", "v00010", "v00011", "v00012"]);
        let got = backend.got();
        let targets: Vec<_> = got.iter().map(|got| got.target.trim_start_matches("/v2/team/app/tags/")).collect();
        assert_eq!(
            targets,
            ["list?n=5&last=v00007", "list?n=5&last=v00007", "list?last=v00009&n=2", "list?last=v00011&n=2"]
        );
        let shown: Vec<_> = got.iter().map(Got::authorization).collect();
        assert_eq!(shown, [None, BASIC, BASIC, BASIC]);
    }

    #[tokio::test]
    async fn a_listing_that_max_scan_ends_is_told_from_a_whole_one() {
        let whole = Fake::start(|_| reply(200, &[], r#"{"tags":["a","b"]}"#)).await;
        let linked = Fake::start(|_| reply(200, &[("link", "</more>; rel=next")], r#"{"tags":["a","b"]}"#)).await;
        for (backend, max_scan, expected) in
            [(&whole, 2, End::Whole), (&whole, 1, End::MaxScan), (&linked, 2, End::MaxScan)]
        {
            let query = RegistryQuery { max_scan, ..query(&backend.url) };
            assert_eq!(list(&query).await[0].end, expected, "{max_scan}");
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
        let backend = Fake::start(|got| match got.parameter("last") {
            Some(_) => reply(200, &[], r#"{"tags":[]}"#),
            None => reply(200, &[], json!({"tags": [got.target]}).to_string()),
        })
        .await;
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
        let answer = fetch(&query, &secret(&[]), limits, &Seat::default()).await.unwrap();
        let Answer::Tags(repositories) = answer else { panic!() };
        let failures: Vec<_> = repositories.iter().filter_map(Repository::failure).collect();
        assert_eq!((failures.len(), failures[0].1.reason), (1, SourceReason::InvalidResponse));
    }

    #[tokio::test]
    async fn of_a_page_of_a_million_no_more_is_kept_than_max_scan() {
        let page = |tags: &str| gzip(format!(r#"{{"tags":[{tags}""]}}"#).as_bytes());
        let same = page(&"\"\",".repeat(1_000_000));
        let others = page(&(0..200_000).map(|tag| format!("\"{tag}\",")).collect::<String>());
        for (body, max_scan, kept) in [(same, 1000, 1), (others.clone(), 1000, 1000), (others, 100_000, 100_000)] {
            let backend = Fake::start(move |_| {
                reply(200, &[("content-encoding", "gzip"), ("link", "</more>; rel=next")], body.clone())
            })
            .await;
            let repositories = list(&RegistryQuery { max_scan, ..query(&backend.url) }).await;
            assert_eq!((repositories[0].tags.len(), &repositories[0].end), (kept, &End::MaxScan));
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
        let backend = Fake::start(move |got| match got.authorization() {
            None => basic(),
            Some(_) => reply(200, &[("link", &format!("<{away}/next>; rel=next"))], r#"{"tags":["a"]}"#),
        })
        .await;
        let data = [LOGIN[0], LOGIN[1], ("headers.X-Key", "k3y")];
        assert_eq!(ask(&query(&backend.url), &data).await.unwrap(), ["a", "b"]);
        assert_eq!((backend.got()[1].authorization(), backend.got()[1].header("x-key")), (BASIC, Some("k3y")));
        assert_eq!((stranger.got()[0].authorization(), stranger.got()[0].header("x-key")), (None, None));
    }

    /// Answers as `got` asks, with `n` and `last` as the distribution specification defines them.
    fn by_last(got: &Got, count: u32) -> Response {
        let last = got.parameter("last").unwrap_or_default();
        let n = got.parameter("n").map_or(usize::MAX, |n| n.parse().unwrap());
        let tags: Vec<_> = (0..count).map(|tag| format!("v{tag:05}")).filter(|tag| *tag > last).take(n).collect();
        reply(200, &[], json!({"name": "team/app", "tags": tags}).to_string())
    }

    #[tokio::test]
    async fn a_registry_that_knows_no_link_is_read_by_the_last_tag() {
        for (count, max_scan, end, requests) in [
            (2500, 5000, End::Whole, 4),
            (2000, 5000, End::Whole, 3),
            (999, 5000, End::Whole, 2),
            (0, 5000, End::Whole, 1),
            (1000, 1000, End::Whole, 2),
            (1001, 1000, End::MaxScan, 2),
            (2500, 1500, End::MaxScan, 3),
        ] {
            let backend = Fake::start(move |got| by_last(got, count)).await;
            let listed = list(&RegistryQuery { max_scan, ..query(&backend.url) }).await.remove(0);
            assert_eq!(
                (listed.tags.len(), listed.end),
                (count.min(max_scan as u32) as usize, end),
                "{count} of {max_scan}"
            );
            assert_eq!(backend.got().len(), requests, "{count} of {max_scan}");
        }
    }

    #[tokio::test]
    async fn a_registry_that_gives_less_than_was_asked_for_is_read_to_its_end() {
        // The number of tags, the most per page, and the number of requests.
        for (count, most, requests) in [(250, 100, 4), (200, 100, 3), (7, 3, 4), (7, 7, 2)] {
            let backend = Fake::start(move |got| {
                let last = got.parameter("last").unwrap_or_default();
                let tags = (0..count).map(|tag| format!("v{tag:05}")).filter(|tag| *tag > last).take(most);
                reply(200, &[], json!({"tags": tags.collect::<Vec<_>>()}).to_string())
            })
            .await;
            let listed = list(&query(&backend.url)).await.remove(0);
            assert_eq!((listed.tags.len(), listed.end), (count, End::Whole), "{count} by {most}");
            assert_eq!(backend.got().len(), requests, "{count} by {most}");
        }
    }

    #[tokio::test]
    async fn a_registry_that_does_not_go_on_by_the_last_tag_has_shown_all_unless_a_page_is_round() {
        type Served = fn(&Got, Vec<String>) -> Response;
        let deaf: Served = |_, tags| reply(200, &[], json!({"tags": tags}).to_string());
        let refusing: Served = |got, tags| match got.parameter("last") {
            Some(_) => reply(404, &[], r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#),
            None => reply(200, &[], json!({"tags": tags}).to_string()),
        };
        let inclusive: Served = |got, tags| {
            let last = got.parameter("last").unwrap_or_default();
            let tags: Vec<_> = tags.into_iter().filter(|tag| *tag >= last).collect();
            reply(200, &[], json!({"tags": tags}).to_string())
        };
        for (serve, count, end) in [
            (deaf, 30, End::Whole),
            (deaf, 100, End::Stuck),
            (deaf, 1000, End::Stuck),
            (deaf, 1234, End::Whole),
            (refusing, 30, End::Whole),
            (refusing, 200, End::Stuck),
            (inclusive, 30, End::Whole),
            (inclusive, 100, End::Whole),
        ] {
            let backend =
                Fake::start(move |got| serve(got, (0..count).map(|tag| format!("v{tag:05}")).collect())).await;
            let listed = list(&RegistryQuery { max_scan: 5000, ..query(&backend.url) }).await.remove(0);
            assert_eq!((listed.tags.len(), listed.end), (count, end), "{count}");
        }
    }

    #[tokio::test]
    async fn an_error_with_the_status_of_success_is_one() {
        for (body, says) in [
            (
                r#"{"errors":[{"code":"NAME_UNKNOWN","message":"no such repository"}],"name":"team/app"}"#,
                "no such repository",
            ),
            (r#"{"errors":[{"code":"DENIED"}],"tags":null}"#, "DENIED"),
            (r#"{"errors":{"message":"slow down"},"tags":[]}"#, "slow down"),
        ] {
            let backend = Fake::start(move |_| reply(200, &[], body)).await;
            let failure = ask(&query(&backend.url), &[]).await.unwrap_err();
            assert_eq!(failure.reason, SourceReason::InvalidResponse);
            assert!(failure.message.contains("reports an error") && failure.message.ends_with(says), "{failure}");
        }
        let backend = Fake::start(|_| reply(200, &[], r#"{"errors":[],"tags":["a"]}"#)).await;
        assert_eq!(ask(&query(&backend.url), &[]).await.unwrap(), ["a"; 1]);
    }

    #[tokio::test]
    async fn links_of_every_kind_lead_to_the_next_page() {
        let rest = "n=1000&last=a";
        let own = "/artifactory/api/docker/virt/v2/team/app/tags/list";
        let links = [
            format!("<{own}?{rest}>; rel=\"next\""),
            format!("<HOST{own}?{rest}>; rel=\"next\""),
            // The path is that of the registry behind the proxy, and so are its scheme and its port.
            format!("</v2/team/app/tags/list?{rest}>; rel=\"next\""),
            format!("<http://127.0.0.1/v2/team/app/tags/list?{rest}>; rel=\"next\""),
            format!("<https://127.0.0.1/v2/team/app/tags/list?{rest}>; rel=next"),
            format!("<list?{rest}>; rel=next"),
            format!("<?{rest}>; rel=next"),
            format!("HOST{own}?{rest}; rel=\"next\""),
        ];
        for link in links {
            let base = Arc::new(OnceLock::<String>::new());
            let (host, shown) = (base.clone(), link.clone());
            let backend = Fake::start(move |got| match got.target.strip_prefix(own) {
                Some("?n=1000") => {
                    reply(200, &[("link", &shown.replace("HOST", host.get().unwrap()))], r#"{"tags":["a"]}"#)
                }
                Some("?n=1000&last=a") => reply(200, &[], r#"{"tags":["b"]}"#),
                _ => reply(404, &[], ""),
            })
            .await;
            base.set(backend.url.clone()).unwrap();
            let query = query(&format!("{}/artifactory/api/docker/virt/", backend.url));
            assert_eq!(ask(&query, &[]).await.unwrap(), ["a", "b"], "{link}");
        }
    }

    #[tokio::test]
    async fn a_registry_that_repeats_itself_is_asked_a_few_times_and_that_is_told() {
        type Served = fn(&Got) -> Response;
        let itself: Served =
            |got| reply(200, &[("link", &format!("<{}>; rel=next", got.target))], r#"{"tags":["a","b"]}"#);
        let two: Served = |got| {
            let other = if got.parameter("x").is_some() { "?n=1000" } else { "?x=1" };
            let link = format!("</v2/team/app/tags/list{other}>; rel=next");
            reply(200, &[("link", &link)], r#"{"tags":["a","b"]}"#)
        };
        let counted: Served = |got| {
            let at: u32 = got.parameter("page").map_or(0, |page| page.parse().unwrap());
            let link = format!("<?page={}>; rel=next", at + 1);
            let tags = if at == 0 { r#"{"tags":["a","b"]}"# } else { r#"{"tags":null}"# };
            reply(200, &[("link", &link)], tags)
        };
        // It supports n, but not last.
        let deaf: Served = |_| {
            reply(
                200,
                &[],
                json!({"tags": (0..1000).collect::<Vec<_>>().iter().map(ToString::to_string).collect::<Vec<_>>()})
                    .to_string(),
            )
        };
        for (serve, tags, requests) in [(itself, 2, 1), (two, 2, 2), (counted, 2, 11), (deaf, 1000, 2)] {
            let backend = Fake::start(serve).await;
            let listed = list(&RegistryQuery { max_scan: 5000, ..query(&backend.url) }).await.remove(0);
            assert_eq!((listed.tags.len(), listed.end, backend.got().len()), (tags, End::Stuck, requests));
        }
    }

    #[tokio::test]
    async fn a_registry_that_allows_small_pages_only_is_asked_for_them() {
        let backend = Fake::start(|got| match got.parameter("n").unwrap().as_str() {
            "100" => by_last(got, 250),
            _ => reply(
                400,
                &[],
                r#"{"errors":[{"code":"PAGINATION_NUMBER_INVALID","message":"invalid number of results"}]}"#,
            ),
        })
        .await;
        assert_eq!(ask(&query(&backend.url), &[]).await.unwrap().len(), 250);
        assert_eq!(backend.got().len(), 5);
    }

    #[tokio::test]
    async fn maps_of_manifests_are_read_over_and_an_answer_without_tags_is_no_list() {
        let manifest = json!({"imageSizeBytes": "1", "tag": ["a"], "timeCreatedMs": "1700000000000"});
        let google = json!({"child": [], "manifest": {"sha256:0": manifest}, "name": "p/app", "tags": ["a", "b"]});
        for (body, expected) in [(google.to_string(), &["a", "b"][..]), (r#"{"name":"p/app"}"#.to_owned(), &[])] {
            let backend = Fake::start(move |_| reply(200, &[], body.clone())).await;
            assert_eq!(ask(&query(&backend.url), &[]).await.unwrap(), expected);
        }
        let page = "<!doctype html><title>Sign in</title>";
        for (body, says) in
            [("{}", "without a list of tags"), (r#"{"status":"ok"}"#, "without a list"), (page, "a web page (Sign in)")]
        {
            let backend = Fake::start(move |_| reply(200, &[], body)).await;
            let failure = ask(&query(&backend.url), &[]).await.unwrap_err();
            assert_eq!(failure.reason, SourceReason::InvalidResponse);
            assert!(failure.message.contains(says), "{failure}");
        }
    }

    #[tokio::test]
    async fn a_repository_that_fails_costs_its_own_tags_only() {
        let backend = Fake::start(|got| match got.target.split('/').nth(2).unwrap() {
            "gone" => reply(404, &[], r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known"}]}"#),
            "cut" if got.parameter("last").is_some() => reply(500, &[], ""),
            "cut" => reply(200, &[("link", "<?last=a>; rel=next")], r#"{"tags":["a"]}"#),
            "busy" => reply(429, &[("retry-after", "90")], ""),
            _ => reply(200, &[], r#"{"tags":["a"]}"#),
        })
        .await;
        let of = |paths: &[&str]| RegistryQuery {
            repositories: paths.iter().map(ToString::to_string).collect(),
            ..query(&backend.url)
        };
        let listed = list(&of(&["gone", "app", "cut"])).await;
        let reasons: Vec<_> = listed.iter().map(|listed| listed.failure().map(|(_, failure)| failure.reason)).collect();
        assert_eq!(reasons, [Some(SourceReason::NotFound), None, Some(SourceReason::ServerError)]);
        let tags: Vec<_> = listed.iter().map(|listed| listed.tags.len()).collect();
        assert_eq!(tags, [0, 1, 0], "what was read of a list that breaks off is no list");
        let failure = ask(&of(&["gone", "busy", "cut"]), &[]).await.unwrap_err();
        assert_eq!(failure.reason, SourceReason::NotFound);
        assert!(
            failure.message.starts_with("gone: not found") && failure.message.ends_with("(and 2 more)"),
            "{failure}"
        );
        let failure = ask(&of(&["busy"]), &[]).await.unwrap_err();
        assert_eq!(failure.reason, SourceReason::RateLimited);
        assert!(failure.retry_after.is_some_and(|wait| (1..=90).contains(&wait.as_secs())), "{failure:?}");
        assert!(failure.message.contains("leaves it alone for 1m 30s"), "{failure}");
    }

    /// A registry that requires the token `t0k3n` of the service at `realm`, and has two pages.
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
            "https://registry.hub.docker.com:443",
        ] {
            assert_eq!(address(url), DOCKER_HUB);
        }
        assert_eq!(address("https://ghcr.io"), "https://ghcr.io");
    }
}
