//! Looks an image up at its registry: its digest, its platforms and its sizes.
//!
//! Manifests: <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests>.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use drop_core::Name;
use drop_core::discovery::{SourceFailure, SourceReason};
use drop_core::lookup::{Inquiry, LookedUp};
use drop_core::manifest::{Manifest, Variant};
use drop_core::newest::is_sha256;
use drop_core::reference::Reference;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use reqwest::Url;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::client::{Access, Client, Limits, Response, Wanted, host, invalid};
use super::credentials::Credentials;
use super::registry;
use super::run::secret;
use super::seat::Seat;
use super::session::Session;

/// How long a look-up may take in all, because first pulls wait for it.
const LIMIT: Duration = Duration::from_secs(15);
/// How many look-ups one registry gets at once.
const AT_ONCE: usize = 4;
/// How large a manifest may be: the most that registries have to accept.
const MAX_MANIFEST: usize = 4 << 20;
/// How long a registry that is out of reach is not tried again, so that the images of a set do not wait for it one
/// after another.
const OUT_OF_REACH: SignedDuration = SignedDuration::from_secs(30);

/// Registries by host: how many questions are under way, and which ones are left alone.
static HOSTS: LazyLock<Mutex<BTreeMap<String, Host>>> = LazyLock::new(Mutex::default);

/// One registry.
struct Host {
    slots: Arc<Semaphore>,
    /// Why it is left alone, and until when.
    left_alone: Option<(SourceFailure, Timestamp)>,
}

/// Asks the registry of an image. Secrets that cannot be used are passed over, as the kubelet does.
pub async fn look_up(inquiry: &Inquiry, secrets: &Api<Secret>, limits: Limits) -> LookedUp {
    let name = inquiry.reference.host();
    let (slots, left_alone) = of_host(name, |host| (host.slots.clone(), host.left_alone.clone()));
    let now = Timestamp::now();
    if let Some((failure, until)) = left_alone.filter(|(_, until)| *until > now) {
        let retry_after = Some(until.duration_since(now));
        return unavailable(SourceFailure { retry_after, ..failure });
    }
    let address = registry::address(&format!("https://{name}")).to_owned();
    let limits = Limits { body: MAX_MANIFEST, request: limits.request.min(LIMIT), ..limits };
    let asked = async {
        // The semaphore is never closed.
        let _slot = slots.acquire().await.ok();
        let candidates = credentials(inquiry, &address, secrets, limits).await?;
        ask_with(&address, inquiry, &candidates, limits).await
    };
    let asked = timeout(LIMIT, asked).await.unwrap_or_else(|_| {
        let message = format!("timeout waiting for {name}");
        Err(SourceFailure::new(SourceReason::Timeout, message))
    });
    asked.unwrap_or_else(|failure| {
        let wait = match failure.reason {
            SourceReason::DnsError | SourceReason::ConnectionRefused | SourceReason::Timeout => Some(OUT_OF_REACH),
            _ => failure.retry_after,
        };
        if let Some(until) = wait.and_then(|wait| now.checked_add(wait).ok()) {
            of_host(name, |host| host.left_alone = Some((failure.clone(), until)));
        }
        unavailable(failure)
    })
}

fn of_host<T>(name: &str, look: impl FnOnce(&mut Host) -> T) -> T {
    let mut hosts = HOSTS.lock().unwrap_or_else(PoisonError::into_inner);
    let new = || Host { slots: Arc::new(Semaphore::new(AT_ONCE)), left_alone: None };
    look(hosts.entry(name.to_owned()).or_insert_with(new))
}

fn unavailable(failure: SourceFailure) -> LookedUp {
    LookedUp::Unavailable { message: failure.message.into(), retry_after: failure.retry_after }
}

/// The credentials that the image's pull secrets have for its registry, or none at all.
async fn credentials(
    inquiry: &Inquiry,
    address: &str,
    secrets: &Api<Secret>,
    limits: Limits,
) -> Result<Vec<Credentials>, SourceFailure> {
    let host = Url::parse(address).map(|url| host(&url)).unwrap_or_default();
    let mut candidates = Vec::new();
    for name in &inquiry.secrets {
        let Ok(data) = secret(name, secrets, limits.request).await else { continue };
        let Ok(credentials) = Credentials::from_secret(&data) else { continue };
        if credentials.login_for(&host, path(&inquiry.reference)).is_some() {
            candidates.push(credentials);
        }
    }
    if candidates.is_empty() {
        candidates.push(Credentials::none()?);
    }
    Ok(candidates)
}

/// Asks with one credential after another while the registry refuses them.
async fn ask_with(
    address: &str,
    inquiry: &Inquiry,
    candidates: &[Credentials],
    limits: Limits,
) -> Result<LookedUp, SourceFailure> {
    let mut refused = None;
    for credentials in candidates {
        let asked = ask(address, inquiry, credentials, limits).await;
        match asked {
            Err(failure) if matches!(failure.reason, SourceReason::Unauthorized | SourceReason::Forbidden) => {
                refused = refused.or(Some(failure));
            }
            asked => return asked,
        }
    }
    Err(refused.unwrap_or_else(|| invalid("there is nothing to ask with".to_owned())))
}

/// The repository of an image without the registry's host.
fn path(image: &Reference) -> &str {
    let path = image.repository().strip_prefix(image.host()).unwrap_or_default();
    path.trim_start_matches('/')
}

/// A manifest, or a list of manifests.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    manifests: Vec<Entry>,
    config: Option<Blob>,
    layers: Vec<Blob>,
}

/// A manifest in a list.
#[derive(Deserialize)]
struct Entry {
    digest: String,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

#[derive(Deserialize)]
struct Blob {
    digest: String,
    #[serde(default)]
    size: u64,
}

/// What a registry says against a request.
#[derive(Deserialize)]
struct Complaints {
    errors: Vec<Complaint>,
}

#[derive(Deserialize)]
struct Complaint {
    code: String,
}

impl Platform {
    /// As nodes report it; `None` for what is no platform, such as that of attestations (`unknown/unknown`).
    fn name(&self) -> Option<Name> {
        let architecture = match self.architecture.as_str() {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            "armhf" | "armel" => "arm",
            "i386" => "386",
            other => other,
        };
        let is_known = |text: &str| !text.is_empty() && text != "unknown";
        (is_known(&self.os) && is_known(architecture)).then(|| format!("{}/{architecture}", self.os).into())
    }
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
    // Registries that know no HEAD are asked by GET, and those that refuse it say why only then.
    let asks_again = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED];
    if !head.status.is_success() && !asks_again.contains(&head.status) {
        return Err(client.refusal(&head));
    }
    if head.status.is_success() && inquiry.known.is_some() && digest(&head) == inquiry.known {
        return Ok(LookedUp::Unchanged);
    }
    let mut response = session.ask(&url(version), Wanted::Manifest).await?;
    if is_missing(&response) {
        let message = format!("image not found: {} has no {}", host(&response.url), in_registry(image));
        return Ok(LookedUp::NotFound { message: message.into() });
    }
    let named = digest(&response);
    let computed = sha256(&response.body);
    let document: Document = client.json(&mut response).await?;
    let digest = named.unwrap_or(computed);
    if inquiry.known.as_ref() == Some(&digest) {
        return Ok(LookedUp::Unchanged);
    }
    let mut platforms = Vec::new();
    if document.manifests.is_empty() {
        platforms.push(variant(None, &digest, Some(&document)));
    }
    for Entry { digest, platform } in document.manifests {
        let Some(platform) = platform.and_then(|platform| platform.name()) else { continue };
        // Of several variants of an architecture the first counts.
        let is_new = platforms.iter().all(|known: &Variant| known.platform.as_ref() != Some(&platform));
        let details = if is_new && inquiry.platforms.contains(&platform) {
            let mut response = session.ask(&url(&digest), Wanted::Manifest).await?;
            Some(client.json::<Document>(&mut response).await?)
        } else {
            None
        };
        platforms.push(variant(Some(platform), &digest, details.as_ref()));
    }
    Ok(LookedUp::Found(Box::new(Manifest { digest, platforms })))
}

fn variant(platform: Option<Name>, digest: &str, details: Option<&Document>) -> Variant {
    let config = details.and_then(|details| details.config.as_ref()?.digest.strip_prefix("sha256:").map(Into::into));
    let size = details.map(|details| details.layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add));
    Variant { platform, digest: digest.into(), config, size: size.filter(|size| *size > 0) }
}

/// The image as its registry calls it: `team/app:1.2`.
fn in_registry(image: &Reference) -> String {
    let version = image.digest().map(|digest| format!("@{digest}"));
    let version = version.or_else(|| image.tag().map(|tag| format!(":{tag}"))).unwrap_or_default();
    format!("{}{version}", path(image))
}

/// Whether the registry says that there is no such image. One that hides private repositories from strangers says
/// that there is no such repository, so this counts only if it has seen a login, or asks for none.
fn is_missing(response: &Response) -> bool {
    if response.status != StatusCode::NOT_FOUND {
        return false;
    }
    let Ok(Complaints { errors }) = serde_json::from_slice(&response.body) else { return false };
    let has = |codes: &[&str]| errors.iter().any(|error| codes.contains(&error.code.as_str()));
    let is_let_in = matches!(response.access, Access::None | Access::Login);
    has(&["MANIFEST_UNKNOWN"]) || (has(&["NAME_UNKNOWN"]) && is_let_in)
}

/// The digest that an answer names.
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
    use serde_json::json;

    use super::super::credentials::secret;
    use super::*;
    use crate::fake::{Fake, Got, reply};

    const LOGIN: [(&str, &str); 2] = [("username", "me"), ("password", "pw")];

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

    async fn look_up_at(backend: &Fake, inquiry: &Inquiry, data: &[(&str, &str)]) -> Result<LookedUp, SourceFailure> {
        ask(&backend.url, inquiry, &secret(data), Limits::default()).await
    }

    fn asked(backend: &Fake) -> Vec<String> {
        backend.got().iter().map(|got| format!("{} {}", got.method, got.target)).collect()
    }

    /// A registry with an index for two platforms and an attestation.
    fn with_index(got: &Got) -> axum::response::Response {
        let digest = hex("a");
        let headers = [("docker-content-digest", digest.as_str())];
        let entry = |digit: &str, os: &str, architecture: &str| json!({ "digest": hex(digit), "platform": { "os": os, "architecture": architecture } });
        let index = json!({ "manifests": [
            entry("1", "linux", "amd64"), entry("2", "linux", "arm64"), entry("3", "unknown", "unknown"),
        ] });
        let manifest = json!({ "config": { "digest": hex("c") }, "layers": [{ "digest": hex("d"), "size": 5 },
            { "digest": hex("e"), "size": 7 }] });
        match got.target.rsplit('/').next() {
            Some("1.0") => reply(200, &headers, if got.method == "HEAD" { String::new() } else { index.to_string() }),
            Some(version) if version == hex("1") => reply(200, &[], manifest.to_string()),
            _ => reply(404, &[], r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#),
        }
    }

    #[tokio::test]
    async fn an_index_tells_platforms_and_the_sizes_of_those_that_count() {
        let backend = Fake::start(with_index).await;
        let LookedUp::Found(manifest) =
            look_up_at(&backend, &inquiry("r.example/team/app:1.0", None), &[]).await.unwrap()
        else {
            panic!("it is there")
        };
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
    async fn what_is_known_costs_one_head() {
        let backend = Fake::start(with_index).await;
        let known = inquiry("r.example/team/app:1.0", Some(&hex("a")));
        assert_eq!(look_up_at(&backend, &known, &[]).await.unwrap(), LookedUp::Unchanged);
        assert_eq!(asked(&backend), ["HEAD /v2/team/app/manifests/1.0"]);
    }

    #[tokio::test]
    async fn a_manifest_alone_is_for_every_platform_and_has_a_digest_without_a_header() {
        let body =
            json!({ "config": { "digest": hex("c") }, "layers": [{ "digest": hex("d"), "size": 9 }] }).to_string();
        let computed = sha256(body.as_bytes());
        let backend = Fake::start(move |got| match got.method.as_str() {
            "HEAD" => reply(405, &[], ""),
            _ => reply(200, &[], body.clone()),
        })
        .await;
        let LookedUp::Found(manifest) = look_up_at(&backend, &inquiry("r.example/app", None), &[]).await.unwrap()
        else {
            panic!("it is there")
        };
        assert_eq!((&manifest.digest, manifest.size("linux/s390x")), (&computed, Some(9)));
        assert!(manifest.serves("windows/amd64"));
        let known = inquiry("r.example/app", Some(&computed));
        assert_eq!(look_up_at(&backend, &known, &[]).await.unwrap(), LookedUp::Unchanged);
    }

    #[tokio::test]
    async fn only_a_registry_that_lets_drop_in_knows_that_an_image_is_missing() {
        // The registry's answer, whether it hands out tokens to everybody, Drop's login, and whether that is certain.
        let cases = [
            (r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#, false, &[][..], true),
            (r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#, true, &[], true),
            (r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#, false, &[], true),
            (r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#, true, &[], false),
            (r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#, true, &LOGIN, true),
            ("<html>nothing here</html>", false, &[], false),
        ];
        for (body, has_tokens, login, expected) in cases {
            let backend = Fake::start(move |got| {
                if got.target.starts_with("/token") {
                    return reply(200, &[], r#"{"token":"t0k3n"}"#);
                }
                if has_tokens && got.authorization() != Some("Bearer t0k3n") {
                    return reply(401, &[("www-authenticate", r#"Bearer realm="/token",service="s""#)], "");
                }
                reply(404, &[], body)
            })
            .await;
            let outcome = look_up_at(&backend, &inquiry("r.example/team/app:9", None), login).await;
            match (expected, outcome) {
                (true, Ok(LookedUp::NotFound { message })) => {
                    assert!(
                        message.starts_with("image not found: ") && message.ends_with("has no team/app:9"),
                        "{message}"
                    );
                }
                (false, Err(_)) => {}
                (_, outcome) => panic!("{body}: {outcome:?}"),
            }
        }
    }

    #[tokio::test]
    async fn the_next_secret_is_tried_where_one_is_refused() {
        let backend = Fake::start(|got| match got.authorization() {
            Some("Basic bWU6cHc=") => with_index(got),
            Some(_) => reply(403, &[], ""),
            None => reply(401, &[("www-authenticate", r#"Basic realm="x""#)], ""),
        })
        .await;
        let image = inquiry("r.example/team/app:1.0", None);
        let wrong = secret(&[("username", "me"), ("password", "old")]);
        let found = ask_with(&backend.url, &image, &[wrong.clone(), secret(&LOGIN)], Limits::default()).await.unwrap();
        assert!(matches!(found, LookedUp::Found(_)));
        let failure = ask_with(&backend.url, &image, &[wrong], Limits::default()).await.unwrap_err();
        assert!(!failure.message.contains("old"), "{failure}");
    }

    #[tokio::test]
    async fn a_registry_that_is_busy_says_for_how_long() {
        let backend = Fake::start(|_| reply(429, &[("retry-after", "77")], "")).await;
        let failure = look_up_at(&backend, &inquiry("r.example/app:1", None), &[]).await.unwrap_err();
        assert_eq!(failure.retry_after, Some(SignedDuration::from_secs(77)));
        assert_eq!(backend.got().len(), 1);
    }

    #[test]
    fn platforms_are_named_as_nodes_name_them() {
        let name = |os: &str, architecture: &str| {
            Platform { os: os.to_owned(), architecture: architecture.to_owned() }.name().map(|name| name.to_string())
        };
        assert_eq!(name("linux", "x86_64").as_deref(), Some("linux/amd64"));
        assert_eq!(name("linux", "aarch64").as_deref(), Some("linux/arm64"));
        assert_eq!(name("windows", "amd64").as_deref(), Some("windows/amd64"));
        assert_eq!((name("unknown", "unknown"), name("", "")), (None, None));
    }
}
