//! Looks an image up at its registry: its digest, its platforms and its sizes.
//!
//! Manifests: <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests>.

mod document;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use drop_core::Name;
use drop_core::discovery::{SourceFailure, SourceReason};
use drop_core::lookup::{Inquiry, LookedUp};
use drop_core::manifest::{Manifest, Variant, runs};
use drop_core::newest::is_sha256;
use drop_core::reference::Reference;
use http::StatusCode;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use reqwest::Url;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::document::{Blob, Document, Entry, Offer};
use super::client::{Client, Limits, Response, Wanted, host, invalid};
use super::credentials::Credentials;
use super::isolation::isolated;
use super::left_alone::LeftAlone;
use super::registry;
use super::run::{data, get};
use super::seat::Seat;
use super::session::Session;

/// The time limit of one look-up at a registry. It is short, because first pulls wait for it.
const LIMIT: Duration = Duration::from_secs(15);
/// The most concurrent look-ups at one registry.
const AT_ONCE: usize = 4;
/// The largest manifest: every registry must accept this size.
const MAX_MANIFEST: usize = 4 << 20;
/// How long Drop leaves a registry alone that it cannot reach, so that the images of a set do not wait for it one after
/// another.
const LEFT_ALONE_FOR: SignedDuration = SignedDuration::from_secs(30);

/// The questions under way, by the registry's host.
static SLOTS: LazyLock<Mutex<BTreeMap<String, Arc<Semaphore>>>> = LazyLock::new(Mutex::default);
/// The registries that are out of reach, by host.
static OUT_OF_REACH: LeftAlone<String> = LeftAlone::new();

/// Asks the registry of an image, with each of the image's pull secrets in turn. A panic is a failure of this question.
pub async fn look_up(inquiry: &Inquiry, secrets: &Api<Secret>, limits: Limits) -> LookedUp {
    let address = format!("https://{}", inquiry.reference.host());
    let asked = isolated(look_up_at(registry::address(&address), inquiry, secrets, limits)).await;
    asked.unwrap_or_else(|SourceFailure { message, retry_after, .. }| LookedUp::Unavailable {
        message: message.into(),
        retry_after,
    })
}

async fn look_up_at(
    address: &str,
    inquiry: &Inquiry,
    secrets: &Api<Secret>,
    limits: Limits,
) -> Result<LookedUp, SourceFailure> {
    let limits = Limits { body: MAX_MANIFEST, request: limits.request.min(LIMIT), ..limits };
    let logins = Logins::read(inquiry, address, secrets, limits).await?;
    let asked = in_turn(inquiry.reference.host(), ask_with(address, inquiry, &logins.known, limits));
    logins.judge(asked.await)
}

/// Does `work` as soon as the registry has a free slot, unless the registry is out of reach. Only the time of `work`
/// counts against the registry: a slow registry is not out of reach because many questions wait for each other.
async fn in_turn(
    name: &str,
    work: impl Future<Output = Result<LookedUp, SourceFailure>>,
) -> Result<LookedUp, SourceFailure> {
    let slots = slots(name);
    // The semaphore is never closed.
    let _slot = slots.acquire().await.ok();
    OUT_OF_REACH.check(&name.to_owned())?;
    let mut done = timeout(LIMIT, work).await.unwrap_or_else(|_| {
        let message = format!("timeout waiting for {name}");
        Err(SourceFailure::new(SourceReason::Timeout, message))
    });
    if let Err(failure) = &mut done
        && matches!(failure.reason, SourceReason::DnsError | SourceReason::ConnectionRefused | SourceReason::Timeout)
    {
        failure.retry_after = Some(LEFT_ALONE_FOR);
        OUT_OF_REACH.note(name.to_owned(), failure);
    }
    done
}

/// Returns the slots for questions to one registry.
fn slots(name: &str) -> Arc<Semaphore> {
    let mut all = SLOTS.lock().unwrap_or_else(PoisonError::into_inner);
    all.entry(name.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE))).clone()
}

/// The logins for a registry.
struct Logins {
    /// The logins by the names of their Secrets, in the order in which the image names these. If no Secret has a login
    /// for the registry, there is one entry without a login.
    known: Vec<(Option<Name>, Credentials)>,
    /// Why a Secret cannot be read.
    unreadable: Option<SourceFailure>,
}

impl Logins {
    async fn read(
        inquiry: &Inquiry,
        address: &str,
        secrets: &Api<Secret>,
        limits: Limits,
    ) -> Result<Self, SourceFailure> {
        let host = Url::parse(address).map(|url| host(&url)).unwrap_or_default();
        let mut logins = Self { known: Vec::new(), unreadable: None };
        for name in &inquiry.secrets {
            match get(name, secrets, limits.request).await.and_then(|secret| of_secret(name, secret)) {
                Ok(credentials) if credentials.login_for(&host, path(&inquiry.reference)).is_some() => {
                    logins.known.push((Some(name.clone()), credentials));
                }
                Ok(_) => {}
                Err(failure) => logins.unreadable = logins.unreadable.or(Some(failure)),
            }
        }
        if logins.known.is_empty() {
            logins.known.push((None, Credentials::without_pull_secret()?));
        }
        Ok(logins)
    }

    /// Judges an answer. A Secret that cannot be read may have the login that lets Drop see the image.
    fn judge(&self, asked: Result<LookedUp, SourceFailure>) -> Result<LookedUp, SourceFailure> {
        let hides = match &asked {
            Ok(answer) => matches!(answer, LookedUp::NotFound { .. }),
            Err(failure) => is_refusal(failure),
        };
        match &self.unreadable {
            Some(unreadable) if hides => Err(unreadable.clone()),
            _ => asked,
        }
    }
}

fn of_secret(name: &str, secret: Secret) -> Result<Credentials, SourceFailure> {
    let type_ = secret.type_.clone();
    let read = Credentials::from_pull_secret(type_.as_deref(), &data(secret));
    read.map_err(|failure| of(Some(name), failure))
}

/// Returns a failure with the name of its Secret.
fn of(secret: Option<&str>, failure: SourceFailure) -> SourceFailure {
    let message = secret.map(|name| format!("Secret {name}: {}", failure.message));
    SourceFailure { message: message.unwrap_or_else(|| failure.message.clone()), ..failure }
}

/// Whether a registry hides the image from this client. It may show the image to others.
fn is_refusal(failure: &SourceFailure) -> bool {
    matches!(failure.reason, SourceReason::Unauthorized | SourceReason::Forbidden | SourceReason::NotFound)
}

/// Asks with one login after another until the registry shows the image. The image is missing only if it is missing for
/// all logins.
async fn ask_with(
    address: &str,
    inquiry: &Inquiry,
    logins: &[(Option<Name>, Credentials)],
    limits: Limits,
) -> Result<LookedUp, SourceFailure> {
    let (mut refused, mut missing) = (None, None);
    for (secret, credentials) in logins {
        match ask(address, inquiry, credentials, limits).await {
            Ok(answer @ LookedUp::NotFound { .. }) => missing = Some(answer),
            Err(failure) if is_refusal(&failure) => {
                refused = refused.or_else(|| Some(of(secret.as_deref(), failure)));
            }
            asked => return asked,
        }
    }
    match (refused, missing) {
        (None, Some(missing)) => Ok(missing),
        (refused, _) => Err(refused.unwrap_or_else(|| invalid("there is nothing to ask with".to_owned()))),
    }
}

/// Returns the repository of an image without the registry's host.
fn path(image: &Reference) -> &str {
    let path = image.repository().strip_prefix(image.host()).unwrap_or_default();
    path.trim_start_matches('/')
}

async fn ask(
    address: &str,
    inquiry: &Inquiry,
    credentials: &Credentials,
    limits: Limits,
) -> Result<LookedUp, SourceFailure> {
    let seat = Seat::default();
    let client = Client::new(address, credentials, limits, &seat)?;
    let image = &inquiry.reference;
    let repository = path(image);
    let mut session = Session::new(&client, repository.to_owned());
    let url = |version: &str| client.url(&format!("v2/{repository}/manifests/{version}"), &[]);
    let version = image.digest().or(image.tag()).unwrap_or("latest");

    let head = session.ask(&url(version), Wanted::Digest).await?;
    // Registries without HEAD are asked with GET. Registries that deny a HEAD only give the reason in answer to a GET.
    let asks_again = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED];
    if !head.status.is_success() && !asks_again.contains(&head.status) {
        return Err(client.refusal(&head));
    }
    if head.status.is_success() && inquiry.known.is_some() && digest(&head) == inquiry.known {
        return Ok(LookedUp::Unchanged);
    }
    let mut response = session.ask(&url(version), Wanted::Manifest).await?;
    if says_missing(&response) {
        let what = format!("{} has no {}", host(&response.url), in_registry(image));
        let is_certain = session.is_logged_in() || lists_tags(&mut session, &client, repository).await?;
        return if is_certain {
            Ok(LookedUp::NotFound { message: format!("image not found: {what}").into() })
        } else {
            Err(hidden(&what, client.login(repository).is_some()))
        };
    }
    let named = digest(&response);
    let computed = sha256(&response.body);
    let document: Document = client.json(&mut response).await?;
    // The digest of such a manifest is not that of its text, which contains signatures.
    let is_old = matches!(document, Document::Old);
    let digest = named.or_else(|| Some(computed).filter(|_| !is_old));
    let digest = digest.ok_or_else(|| invalid(format!("{} names no digest", host(&response.url))))?;
    if inquiry.known.as_ref() == Some(&digest) {
        return Ok(LookedUp::Unchanged);
    }
    let platforms = match document {
        Document::Old => Vec::new(),
        Document::Image { config, layers } => vec![variant(None, &digest, Some((&config, &layers)))],
        // The images for platforms are in the nested indexes.
        Document::Index(entries) if entries.iter().any(Entry::is_index) => Vec::new(),
        Document::Index(entries) => {
            let mut offers: Vec<(Option<Name>, String)> = Vec::new();
            for entry in entries {
                match entry.offer() {
                    Offer::Nobody => {}
                    Offer::Anybody => offers.push((None, entry.digest)),
                    Offer::Platform(platform) => offers.push((Some(platform), entry.digest)),
                }
            }
            let detailed = detailed(&offers, &inquiry.platforms);
            let mut variants = Vec::new();
            for (at, (platform, digest)) in offers.into_iter().enumerate() {
                let image = match detailed.contains(&at) {
                    true => details(&mut session, &client, &url(&digest)).await,
                    false => None,
                };
                variants.push(variant(platform, &digest, image.as_ref().map(|(config, layers)| (config, &**layers))));
            }
            variants
        }
    };
    let detailed_for = inquiry.platforms.clone();
    Ok(LookedUp::Found(Box::new(Manifest { digest, platforms, detailed_for })))
}

/// Returns the image of an entry of an index; `None` if the registry does not give it. The entry is known all the same:
/// copies of an index may lack some of its images, and a registry may be busy by then.
async fn details(session: &mut Session<'_>, client: &Client<'_>, url: &Url) -> Option<(Blob, Vec<Blob>)> {
    let mut response = session.ask(url, Wanted::Manifest).await.ok()?;
    client.json::<Document>(&mut response).await.ok()?.image()
}

/// Returns the places of the offers in an index whose details are needed: for each platform of nodes the first offer
/// for that platform, or else the first one that some runtimes fall back to.
fn detailed(offers: &[(Option<Name>, String)], nodes: &[Name]) -> BTreeSet<usize> {
    let first = |fits: &dyn Fn(&str) -> bool| {
        offers.iter().position(|(platform, _)| platform.as_ref().is_some_and(|platform| fits(platform)))
    };
    let of = |node: &Name| first(&|platform| *platform == **node).or_else(|| first(&|platform| runs(node, platform)));
    nodes.iter().filter_map(of).collect()
}

fn variant(platform: Option<Name>, digest: &str, image: Option<(&Blob, &[Blob])>) -> Variant {
    let config = image.and_then(|(config, _)| config.digest.strip_prefix("sha256:").map(Into::into));
    let size = image.map(|(_, layers)| layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add));
    Variant { platform, digest: digest.into(), config, size: size.filter(|size| *size > 0) }
}

/// Returns the image as its registry names it: `team/app:1.2`.
fn in_registry(image: &Reference) -> String {
    let version = image.digest().map(|digest| format!("@{digest}"));
    let version = version.or_else(|| image.tag().map(|tag| format!(":{tag}"))).unwrap_or_default();
    format!("{}{version}", path(image))
}

/// The errors in a registry's answer.
#[derive(Deserialize)]
struct Complaints {
    errors: Vec<Complaint>,
}

#[derive(Deserialize)]
struct Complaint {
    code: String,
}

/// The codes for a missing image or repository. Harbor has a code of its own, and so has quay for expired tags.
const MISSING: [&str; 4] = ["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "NOT_FOUND", "TAG_EXPIRED"];

/// Whether the registry itself, and not a proxy in front of it, says that there is no such image.
fn says_missing(response: &Response) -> bool {
    let complaints: Option<Complaints> = serde_json::from_slice(&response.body).ok();
    let mut errors = complaints.into_iter().flat_map(|complaints| complaints.errors);
    response.status == StatusCode::NOT_FOUND && errors.any(|error| MISSING.contains(&error.code.as_str()))
}

#[derive(Deserialize)]
struct Tags {
    tags: Option<Vec<IgnoredAny>>,
}

/// Whether the registry shows tags of a repository, so that it does not hide a single tag. Some registries answer 404
/// for everything that a guest may not see.
async fn lists_tags(session: &mut Session<'_>, client: &Client<'_>, repository: &str) -> Result<bool, SourceFailure> {
    let url = client.url(&format!("v2/{repository}/tags/list"), &[("n", "1".to_owned())]);
    let mut response = session.ask(&url, Wanted::Content).await?;
    if response.status == StatusCode::TOO_MANY_REQUESTS {
        return Err(client.refusal(&response));
    }
    if !response.status.is_success() {
        return Ok(false);
    }
    let Tags { tags } = client.json(&mut response).await?;
    Ok(tags.is_some_and(|tags| !tags.is_empty()))
}

/// A failure for an image that is missing or private.
fn hidden(what: &str, has_login: bool) -> SourceFailure {
    let message = match has_login {
        true => format!("{what}, or the login may not pull it: check the name and the login"),
        false => format!("{what}, or only for a login: check the name, or name a Secret in imagePullSecrets"),
    };
    SourceFailure::new(SourceReason::NotFound, message)
}

/// Returns the digest in an answer.
fn digest(response: &Response) -> Option<Name> {
    let digest = response.headers.get("docker-content-digest")?.to_str().ok()?;
    is_sha256(digest).then(|| digest.into())
}

fn sha256(body: &[u8]) -> Name {
    let digest = ring::digest::digest(&ring::digest::SHA256, body);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}").into()
}

#[cfg(test)]
mod tests {
    use axum::response::Response as Reply;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::{Value, json};
    use tokio::time::sleep;

    use super::super::credentials::secret;
    use super::*;
    use crate::fake::{Fake, Got, reply};

    const LOGIN: [(&str, &str); 2] = [("username", "me"), ("password", "pw")];
    const BASIC: &str = "Basic bWU6cHc=";
    const NO_MANIFEST: &str = r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#;
    const NO_NAME: &str = r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#;

    fn hex(digit: &str) -> String {
        format!("sha256:{}", digit.repeat(64))
    }

    fn inquiry(image: &str, known: Option<&str>) -> Inquiry {
        Inquiry {
            reference: Reference::parse(image),
            secrets: Vec::new(),
            known: known.map(Into::into),
            platforms: vec!["linux/amd64".into()],
        }
    }

    async fn ask_at(backend: &Fake, inquiry: &Inquiry, data: &[(&str, &str)]) -> Result<LookedUp, SourceFailure> {
        ask(&backend.url, inquiry, &secret(data), Limits::default()).await
    }

    async fn found(backend: &Fake, inquiry: &Inquiry) -> Manifest {
        match ask_at(backend, inquiry, &[]).await.unwrap() {
            LookedUp::Found(manifest) => *manifest,
            other => panic!("it is there: {other:?}"),
        }
    }

    fn asked(backend: &Fake) -> Vec<String> {
        backend.got().iter().map(|got| format!("{} {}", got.method, got.target)).collect()
    }

    fn entry(digit: &str, os: &str, architecture: &str) -> Value {
        json!({ "digest": hex(digit), "platform": { "os": os, "architecture": architecture } })
    }

    fn image_manifest() -> String {
        let layers = json!([{ "digest": hex("d"), "size": 5 }, { "digest": hex("e"), "size": 7 }]);
        json!({ "schemaVersion": 2, "config": { "digest": hex("c") }, "layers": layers }).to_string()
    }

    /// A registry with an index of these manifests under the tag 1.0.
    fn with_entries(got: &Got, manifests: &Value) -> Reply {
        let digest = hex("a");
        let headers = [("docker-content-digest", digest.as_str())];
        let index = json!({ "schemaVersion": 2, "manifests": manifests }).to_string();
        let listed: Vec<&str> = manifests.as_array().unwrap().iter().map(|it| it["digest"].as_str().unwrap()).collect();
        match got.target.rsplit('/').next() {
            Some("1.0") => reply(200, &headers, if got.method == "HEAD" { String::new() } else { index }),
            Some(version) if listed.contains(&version) => reply(200, &[], image_manifest()),
            _ => reply(404, &[], NO_MANIFEST),
        }
    }

    /// A registry with an index for two platforms and an attestation.
    fn with_index(got: &Got) -> Reply {
        let entries =
            json!([entry("1", "linux", "amd64"), entry("2", "linux", "arm64"), entry("3", "unknown", "unknown")]);
        with_entries(got, &entries)
    }

    #[tokio::test]
    async fn an_index_tells_platforms_and_the_sizes_of_those_that_count() {
        let backend = Fake::start(with_index).await;
        let manifest = found(&backend, &inquiry("r.example/team/app:1.0", None)).await;
        assert_eq!(*manifest.digest, hex("a"));
        let platforms: Vec<_> = manifest.platforms.iter().filter_map(|it| it.platform.as_deref()).collect();
        assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
        assert_eq!((manifest.size("linux/amd64"), manifest.size("linux/arm64")), (Some(12), None));
        assert_eq!(manifest.platforms[0].config.as_deref(), Some("c".repeat(64).as_str()));
        assert!(!manifest.serves("windows/amd64"));
        let path = "/v2/team/app/manifests";
        let expected = [format!("HEAD {path}/1.0"), format!("GET {path}/1.0"), format!("GET {path}/{}", hex("1"))];
        assert_eq!(asked(&backend), expected);
        assert!(backend.got().iter().all(|got| got.header("accept").is_some_and(|it| it.contains("image.index"))));
    }

    #[tokio::test]
    async fn an_index_is_known_even_if_the_registry_does_not_give_its_images() {
        for status in [404, 429, 500] {
            let backend = Fake::start(move |got| match got.target.contains("sha256") {
                true => reply(status, &[], ""),
                false => with_index(got),
            })
            .await;
            let manifest = found(&backend, &inquiry("r.example/team/app:1.0", None)).await;
            assert_eq!((&*manifest.digest, manifest.size("linux/amd64")), (&*hex("a"), None), "{status}");
            assert!(manifest.serves("linux/amd64") && !manifest.serves("windows/amd64"), "{status}");
        }
    }

    #[tokio::test]
    async fn details_are_of_what_nodes_take() {
        let entries = json!([
            entry("1", "linux", "arm"),
            entry("2", "linux", "386"),
            entry("3", "Linux", "x86_64"),
            entry("4", "", "")
        ]);
        let backend = Fake::start(move |got| with_entries(got, &entries)).await;
        let mut question = inquiry("r.example/team/app:1.0", None);
        question.platforms.push("linux/arm64".into());
        let manifest = found(&backend, &question).await;
        let known: Vec<bool> = manifest.platforms.iter().map(|variant| variant.size.is_some()).collect();
        assert_eq!(known, [true, false, true, false], "arm64 takes arm, and amd64 its own");
        assert!(manifest.serves("linux/s390x"), "one entry does not tell its platform");
    }

    #[tokio::test]
    async fn an_index_of_indexes_does_not_tell_what_platforms_get() {
        let nested = json!([
            { "digest": hex("1"), "mediaType": "application/vnd.oci.image.index.v1+json" },
            entry("2", "linux", "arm64"),
        ]);
        let backend = Fake::start(move |got| with_entries(got, &nested)).await;
        let manifest = found(&backend, &inquiry("r.example/team/app:1.0", None)).await;
        assert_eq!((&*manifest.digest, manifest.platforms.len()), (&*hex("a"), 0));
        assert!(manifest.serves("linux/amd64"));
    }

    #[tokio::test]
    async fn a_manifest_of_the_first_schema_tells_its_digest_alone() {
        for named in [true, false] {
            let backend = Fake::start(move |_| {
                let digest = hex("a");
                let headers = [("docker-content-digest", digest.as_str())];
                reply(200, if named { &headers } else { &[] }, r#"{"schemaVersion":1,"fsLayers":[]}"#)
            })
            .await;
            match ask_at(&backend, &inquiry("r.example/app:1", None), &[]).await {
                Ok(LookedUp::Found(manifest)) if named => assert!(manifest.platforms.is_empty()),
                Err(failure) if !named => assert!(failure.message.ends_with("names no digest"), "{failure}"),
                other => panic!("{named}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_manifest_is_no_answer() {
        for body in
            ["{}", "[]", r#"{"status":"ok"}"#, "<html><title>Sign in</title></html>", image_manifest().split_at(9).0]
        {
            let body = body.to_owned();
            let backend = Fake::start(move |_| reply(200, &[], body.clone())).await;
            let failure = ask_at(&backend, &inquiry("r.example/app:1", None), &[]).await.unwrap_err();
            assert_eq!(failure.reason, SourceReason::InvalidResponse, "{failure}");
        }
    }

    #[tokio::test]
    async fn what_is_known_costs_one_head() {
        let backend = Fake::start(with_index).await;
        let known = inquiry("r.example/team/app:1.0", Some(&hex("a")));
        assert_eq!(ask_at(&backend, &known, &[]).await.unwrap(), LookedUp::Unchanged);
        assert_eq!(asked(&backend), ["HEAD /v2/team/app/manifests/1.0"]);
    }

    #[tokio::test]
    async fn a_manifest_alone_is_for_every_platform_and_has_a_digest_without_a_header() {
        let computed = sha256(image_manifest().as_bytes());
        let backend = Fake::start(move |got| match got.method.as_str() {
            "HEAD" => reply(405, &[], ""),
            _ => reply(200, &[], image_manifest()),
        })
        .await;
        let manifest = found(&backend, &inquiry("r.example/app", None)).await;
        assert_eq!((&manifest.digest, manifest.size("linux/s390x")), (&computed, Some(12)));
        assert!(manifest.serves("windows/amd64"));
        let known = inquiry("r.example/app", Some(&computed));
        assert_eq!(ask_at(&backend, &known, &[]).await.unwrap(), LookedUp::Unchanged);
    }

    /// The access that a registry gives to a client without a login.
    #[derive(Clone, Copy, Debug)]
    enum Door {
        /// It requires no login.
        Open,
        /// It requires a user and a password.
        Basic,
        /// Its token service issues a token to every client.
        Tokens,
    }

    /// Starts a registry without the requested tag. It answers with `body`, and lists a tag or does not.
    async fn without_the_tag(door: Door, body: &'static str, lists: bool) -> Fake {
        Fake::start(move |got| {
            if got.target.starts_with("/token") {
                let is_wrong = got.authorization().is_some_and(|shown| shown != BASIC);
                return if is_wrong { reply(401, &[], "") } else { reply(200, &[], r#"{"token":"t0k3n"}"#) };
            }
            let challenge = match (door, got.authorization()) {
                (Door::Basic, shown) if shown != Some(BASIC) => Some(r#"Basic realm="x""#),
                (Door::Tokens, shown) if shown != Some("Bearer t0k3n") => Some(r#"Bearer realm="/token",service="s""#),
                _ => None,
            };
            match challenge {
                Some(challenge) => reply(401, &[("www-authenticate", challenge)], ""),
                None if got.target.ends_with("/tags/list?n=1") && lists => reply(200, &[], r#"{"tags":["1.0"]}"#),
                None => reply(404, &[], body),
            }
        })
        .await
    }

    #[tokio::test]
    async fn an_image_is_missing_only_where_the_registry_would_not_hide_it() {
        let expired = r#"{"errors":[{"code":"TAG_EXPIRED"}]}"#;
        let harbors = r#"{"errors":[{"code":"NOT_FOUND"}]}"#;
        // The registry, its answer, whether it lists tags of the repository, Drop's login, and whether the result is
        // certain.
        let cases = [
            (Door::Open, NO_MANIFEST, true, &[][..], true),
            (Door::Open, NO_MANIFEST, false, &[], false),
            (Door::Open, NO_NAME, false, &[], false),
            (Door::Open, NO_MANIFEST, false, &LOGIN, false),
            (Door::Open, NO_MANIFEST, true, &LOGIN, true),
            (Door::Basic, NO_NAME, false, &LOGIN, true),
            (Door::Basic, harbors, false, &LOGIN, true),
            (Door::Tokens, NO_MANIFEST, true, &[], true),
            (Door::Tokens, NO_MANIFEST, false, &[], false),
            (Door::Tokens, NO_NAME, false, &[], false),
            (Door::Tokens, NO_NAME, false, &LOGIN, true),
            (Door::Tokens, expired, false, &LOGIN, true),
            // It denies the token of the Secret, and answers a token for guests.
            (Door::Tokens, NO_NAME, false, &[("token", "s3cr3t")], false),
            (Door::Open, "<html>nothing here</html>", true, &[], false),
            (Door::Basic, "{}", true, &LOGIN, false),
        ];
        for (door, body, lists, login, expected) in cases {
            let backend = without_the_tag(door, body, lists).await;
            match (expected, ask_at(&backend, &inquiry("r.example/team/app:9", None), login).await) {
                (true, Ok(LookedUp::NotFound { message })) => {
                    let is_clear = message.starts_with("image not found: ") && message.ends_with("has no team/app:9");
                    assert!(is_clear, "{message}");
                }
                (false, Err(failure)) => assert!(is_refusal(&failure), "{failure}"),
                (_, outcome) => panic!("{door:?} {body} {lists} {login:?}: {outcome:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_hidden_image_is_told_with_the_remedy() {
        let backend = without_the_tag(Door::Open, NO_NAME, false).await;
        let failure = ask_at(&backend, &inquiry("r.example/team/app:9", None), &[]).await.unwrap_err();
        let expected = format!(
            "{} has no team/app:9, or only for a login: check the name, or name a Secret in imagePullSecrets",
            backend.host
        );
        assert_eq!(failure.message, expected);
    }

    /// A Secret as the API server has it.
    fn pull_secret(type_: &str, data: &[(&str, &str)]) -> Value {
        let data: serde_json::Map<_, _> =
            data.iter().map(|(key, value)| ((*key).to_owned(), json!(STANDARD.encode(value)))).collect();
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "x" }, "type": type_, "data": data })
    }

    /// A pull secret for a registry.
    fn docker_secret(host: &str, login: &str) -> Value {
        let config = json!({ "auths": { host: { "auth": STANDARD.encode(login) } } }).to_string();
        pull_secret("kubernetes.io/dockerconfigjson", &[(".dockerconfigjson", &config)])
    }

    /// Looks an image up with these Secrets. Names of missing Secrets come last.
    async fn with_secrets(
        registry: &Fake,
        image: &str,
        secrets: &[(&str, Option<Value>)],
    ) -> Result<LookedUp, SourceFailure> {
        drop(rustls::crypto::ring::default_provider().install_default());
        let known: BTreeMap<String, Value> =
            secrets.iter().filter_map(|(name, secret)| Some(((*name).to_owned(), secret.clone()?))).collect();
        let api = Fake::start(move |got| match known.get(got.target.rsplit('/').next().unwrap()) {
            Some(secret) => reply(200, &[("content-type", "application/json")], secret.to_string()),
            None => {
                let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
                    "message": "not found", "code": 404 });
                reply(404, &[("content-type", "application/json")], status.to_string())
            }
        })
        .await;
        let client = kube::Client::try_from(kube::Config::new(api.url.parse().unwrap())).unwrap();
        let secrets = secrets.iter().map(|(name, _)| Name::from(*name)).collect();
        let inquiry = Inquiry { secrets, ..inquiry(image, None) };
        look_up_at(&registry.url, &inquiry, &Api::namespaced(client, "drop-system"), Limits::default()).await
    }

    /// Starts a registry that shows an image to the login `me:pw` only, and hides it from others.
    async fn private() -> Fake {
        Fake::start(|got| match got.authorization() {
            Some(BASIC) => with_index(got),
            Some("Basic b3RoZXI6cHc=") => reply(404, &[], NO_NAME),
            Some(_) => reply(401, &[], ""),
            None => reply(401, &[("www-authenticate", r#"Basic realm="x""#)], ""),
        })
        .await
    }

    #[tokio::test]
    async fn every_secret_is_tried_until_one_is_shown_the_image() {
        let registry = private().await;
        let host = registry.host.clone();
        let login = |login: &str| Some(docker_secret(&host, login));
        for before in ["other:pw", "me:old"] {
            let secrets = [("first", login(before)), ("second", login("me:pw"))];
            let found = with_secrets(&registry, "every.example/team/app:1.0", &secrets).await.unwrap();
            assert!(matches!(found, LookedUp::Found(_)), "{before}: {found:?}");
        }
        let image = "every.example/team/app:9";
        let both = [("first", login("other:pw")), ("second", login("me:pw"))];
        let missing = with_secrets(&registry, image, &both).await.unwrap();
        assert!(matches!(missing, LookedUp::NotFound { .. }), "{missing:?}");
        let refused = [("first", login("me:old-s3cr3t")), ("second", login("me:pw"))];
        let failure = with_secrets(&registry, image, &refused).await.unwrap_err();
        let expected = format!("Secret first: unauthorized: {host} refuses the credentials of the Secret");
        assert_eq!(failure.message, expected);
    }

    #[tokio::test]
    async fn a_secret_that_cannot_be_read_is_the_reason_where_no_other_one_finds_the_image() {
        let registry = private().await;
        let host = registry.host.clone();
        let create = "create it anew with kubectl create secret docker-registry";
        let config = "the Secret's key .dockerconfigjson cannot be used: write a Docker config";
        let unreadable = [
            (None, "there is no Secret bad in the pod namespace: create it there".to_owned()),
            (Some(pull_secret("Opaque", &LOGIN)), format!("it is of type Opaque, so kubelets ignore it: {create}")),
            (Some(pull_secret("kubernetes.io/dockerconfigjson", &[(".dockerconfigjson", "{")])), config.to_owned()),
        ];
        for (bad, why) in unreadable {
            let image = "unreadable.example/team/app";
            let alone = [("bad", bad.clone())];
            let failure = with_secrets(&registry, &format!("{image}:1.0"), &alone).await.unwrap_err();
            assert!(failure.message.contains(&why) && failure.message.contains("bad"), "{failure}");
            let both = [("bad", bad), ("good", Some(docker_secret(&host, "me:pw")))];
            let found = with_secrets(&registry, &format!("{image}:1.0"), &both).await.unwrap();
            assert!(matches!(found, LookedUp::Found(_)), "{found:?}");
            let failure = with_secrets(&registry, &format!("{image}:9"), &both).await.unwrap_err();
            assert!(failure.message.contains(&why), "{failure}");
        }
        // A public image is not hidden.
        let public = Fake::start(with_index).await;
        let found = with_secrets(&public, "unreadable.example/team/app:1.0", &[("bad", None)]).await.unwrap();
        assert!(matches!(found, LookedUp::Found(_)), "{found:?}");
    }

    #[tokio::test]
    async fn a_registry_gets_nothing_but_its_login_of_a_docker_config() {
        let registry = private().await;
        let others = [
            ("token", "s3cr3t-token"),
            ("username", "me"),
            ("password", "s3cr3t-password"),
            ("headers.X-Key", "s3cr3t-key"),
            ("headers.Authorization", "Basic s3cr3t"),
        ];
        let config = json!({ "auths": { "elsewhere.example": { "auth": STANDARD.encode("me:s3cr3t-elsewhere") } } });
        let config = config.to_string();
        let with_config = |others: &[(&'static str, &'static str)]| {
            let data: Vec<(&str, &str)> = others.iter().copied().chain([(".dockerconfigjson", &*config)]).collect();
            pull_secret("kubernetes.io/dockerconfigjson", &data)
        };
        let secrets = [
            pull_secret("Opaque", &others[..1]),
            pull_secret("Opaque", &others[1..4]),
            pull_secret("kubernetes.io/basic-auth", &others[1..3]),
            pull_secret("kubernetes.io/service-account-token", &others[..1]),
            with_config(&others[..1]),
            with_config(&others[1..4]),
            with_config(&others[3..]),
        ];
        for secret in secrets {
            let image = "opaque.example/team/app:1.0";
            let failure = with_secrets(&registry, image, &[("pull", Some(secret.clone()))]).await.unwrap_err();
            assert!(!failure.message.contains("s3cr3t"), "{failure}");
            for got in registry.got() {
                assert_eq!((got.authorization(), got.header("x-key")), (None, None), "{secret}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_a_slot_is_not_the_registrys_time() {
        // Each look-up takes almost as long as a registry may, and only some run at once.
        let slow = || async {
            in_turn("slow.example", async {
                sleep(LIMIT - Duration::from_secs(1)).await;
                Ok(LookedUp::Unchanged)
            })
            .await
        };
        let done = futures::future::join_all((0..3 * AT_ONCE).map(|_| slow())).await;
        assert!(done.iter().all(Result::is_ok), "{done:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_out_of_reach_lets_those_that_wait_go_without_it() {
        let asked = std::sync::atomic::AtomicUsize::new(0);
        let dead = || async {
            in_turn("dead.example", async {
                asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                std::future::pending().await
            })
            .await
        };
        let done = futures::future::join_all((0..30).map(|_| dead())).await;
        assert!(done.iter().all(|done| done.as_ref().is_err_and(|it| it.reason == SourceReason::Timeout)), "{done:?}");
        assert_eq!(asked.into_inner(), AT_ONCE);
    }

    #[tokio::test]
    async fn a_panic_costs_one_question_and_no_slot() {
        for _ in 0..2 * AT_ONCE {
            let broken = isolated(in_turn("broken.example", async { panic!("foreign text") })).await;
            assert!(broken.unwrap_err().message.contains("a fault in Drop"));
        }
        assert_eq!(in_turn("broken.example", async { Ok(LookedUp::Unchanged) }).await.unwrap(), LookedUp::Unchanged);
    }

    #[tokio::test]
    async fn a_registry_that_is_busy_says_for_how_long() {
        let backend = Fake::start(|_| reply(429, &[("retry-after", "77")], "")).await;
        let failure = ask_at(&backend, &inquiry("r.example/app:1", None), &[]).await.unwrap_err();
        assert_eq!(failure.retry_after, Some(SignedDuration::from_secs(77)));
        assert_eq!(backend.got().len(), 1);
    }
}
