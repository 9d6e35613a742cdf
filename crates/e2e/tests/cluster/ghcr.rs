//! A registry that answers as ghcr.io does. The real registry stands behind a front that forbids logins without a
//! challenge, gives every client a token for public repositories, and gives guests no token for private ones.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use drop_api::cached_image::LookupStatus;
use drop_e2e::{Bed, pass_on};
use drop_testbed::{Answer, FakeServer, ImageSpec, Registry, RegistryAuth, RegistryOptions, Request, Tools};
use serde_json::json;

use crate::discovery::wait_discovery;

const HOST: &str = "ghcr.test";
/// The server that the registry sends clients to for the content of [`MOVED`].
const STORAGE: &str = "storage.test";
const MOVED: &str = "private/moved";
const REPOSITORIES: [&str; 6] =
    ["public/listed", "public/looked-up", "private/listed", "private/looked-up", "private/closed", MOVED];
/// A secret header of the DiscoveryPolicy's Secret.
const TENANT: &str = "tenant-s3cr3t";

pub fn a_registry_that_forbids_logins_without_a_challenge_is_asked_as_it_wants(bed: &Bed) -> Result<()> {
    let tools = Tools::built(&["tiny", "registry"])?;
    let auth = RegistryAuth::Token { realm: Some(format!("https://{HOST}/token")) };
    let options = RegistryOptions { auth, ..RegistryOptions::new(HOST) };
    let registry = Registry::start(bed.cluster.home(), &tools, "ghcr-registry", options)?;
    for repository in REPOSITORIES {
        registry.push(repository, "1", &ImageSpec::scratch())?;
    }
    let storage = Arc::new(FakeServer::start()?);
    let front = front(&registry, &storage)?;
    let _fronts = [bed.serve(HOST, front.address())?, bed.serve(STORAGE, storage.address())?];
    let (user, password) = registry.credentials().context("it wants credentials")?;
    bed.cluster.kubectl(&[
        "create",
        "secret",
        "docker-registry",
        "ghcr-pull",
        "--namespace=drop-system",
        &format!("--docker-server={HOST}"),
        &format!("--docker-username={user}"),
        &format!("--docker-password={password}"),
    ])?;
    bed.apply(&format!(
        "
apiVersion: v1
kind: Secret
metadata: {{name: ghcr, namespace: drop-system}}
stringData: {{username: '{user}', password: '{password}', headers.X-Tenant: {TENANT}}}
---
# No node is to pull anything.
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {{name: ghcr}}
spec: {{paused: true}}
"
    ))?;

    tags_are_listed(bed, &front).context("a DiscoveryPolicy")?;
    images_are_looked_up(bed, &front).context("look-ups")?;

    let requests = front.requests();
    let early = requests.iter().find(|request| shown(request) == "Basic" && request.path != "/token");
    ensure!(early.is_none(), "the registry did not ask for a login: {early:#?}");
    let elsewhere = storage.requests();
    let count = |method: &str, end: &str| {
        elsewhere.iter().filter(|request| request.method == method && request.path.ends_with(end)).count()
    };
    ensure!(count("GET", "/tags/list") > 0, "{elsewhere:#?}");
    ensure!(count("HEAD", "/manifests/1") == 1 && count("GET", "/manifests/1") == 1, "{elsewhere:#?}");
    let tells = |request: &&Request| {
        let values = || request.headers.iter().map(|(_, value)| value.as_str()).chain([request.query.as_str()]);
        request.header("authorization").is_some() || values().any(|value| value.contains(TENANT))
    };
    let told = elsewhere.iter().find(tells);
    ensure!(told.is_none(), "credentials are for {HOST} alone: {told:#?}");

    let pods = bed.look();
    let pulled = pods.all_pods.values().flat_map(|pod| &pod.images).find(|image| image.starts_with(HOST));
    ensure!(pulled.is_none(), "{pulled:?}");
    Ok(())
}

/// Answers for a registry as ghcr.io does.
fn front(registry: &Registry, storage: &Arc<FakeServer>) -> Result<FakeServer> {
    let upstream = registry.address();
    let tokens = registry.token_server().context("it has a token server")?.address();
    let storage = Arc::clone(storage);
    let front = FakeServer::start()?;
    front.answer_with("/", move |request| match shown(request) {
        "Basic" => denied("invalid token"),
        _ => content(upstream, &storage, request),
    });
    front.answer_with("/token", move |request| {
        let is_public = |scope: &String| scope.starts_with("repository:public/");
        if shown(request) == "-" && !request.parameters("scope").iter().all(is_public) {
            return denied("requested access to the resource is denied");
        }
        match pass_on(tokens, request) {
            Answer { status: 401, .. } => denied("denied"),
            answer => answer,
        }
    });
    Ok(front)
}

/// Returns the registry's answer, or for [`MOVED`] the address of a server that has it.
fn content(upstream: SocketAddr, storage: &FakeServer, request: &Request) -> Answer {
    let answer = pass_on(upstream, request);
    if answer.status != 200 || !request.path.contains(MOVED) {
        return answer;
    }
    storage.answer(&request.path, answer);
    Answer::redirect(&format!("https://{STORAGE}{}?{}", request.path, request.query))
}

fn denied(message: &str) -> Answer {
    let errors = json!({ "errors": [{ "code": "DENIED", "message": message }] });
    Answer { status: 403, ..Answer::json(&errors) }
}

/// Returns the scheme of a request's credentials.
fn shown(request: &Request) -> &str {
    request.header("authorization").and_then(|value| value.split(' ').next()).unwrap_or("-")
}

/// Returns the requests about a repository, in order: method, what it asks for, and the scheme of its credentials.
fn asked(front: &FakeServer, repository: &str) -> Vec<String> {
    let scope = format!("repository:{repository}:pull");
    let is_about = |request: &&Request| {
        request.path.starts_with(&format!("/v2/{repository}/")) || request.parameters("scope").contains(&scope)
    };
    let requests = front.requests();
    let text = |request: &Request| {
        let what = ["token", "tags", "manifests"].into_iter().find(|what| request.path.contains(&format!("/{what}")));
        format!("{} {} {}", request.method, what.unwrap_or(&request.path), shown(request))
    };
    requests.iter().filter(is_about).map(text).collect()
}

fn tags_are_listed(bed: &Bed, front: &FakeServer) -> Result<()> {
    let source = |repository: &str, secret: &str| {
        format!("{{type: registry, registry: {{url: 'https://{HOST}', repositories: [{repository}]}}{secret}}}")
    };
    let secret = ", secretRef: {name: ghcr}";
    bed.apply(&format!(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: DiscoveryPolicy
metadata: {{name: ghcr}}
spec: {{syncInterval: 10h, sources: [{}, {}, {}]}}
---
apiVersion: drop.corewire.io/v1alpha1
kind: DiscoveryPolicy
metadata: {{name: ghcr-closed}}
spec: {{syncInterval: 10h, sources: [{}]}}
",
        source("public/listed", ""),
        source("private/listed", secret),
        source(MOVED, secret),
        source("private/closed", "")
    ))?;
    let found = wait_discovery(bed, "ghcr", "Synced", |_| true)?;
    let images = found.status.map(|status| status.discovered_images).unwrap_or_default();
    let images: BTreeSet<String> = images.into_iter().map(|image| image.image).collect();
    let expected = ["public/listed", "private/listed", MOVED].map(|repository| format!("{HOST}/{repository}:1"));
    ensure!(images == expected.into(), "{images:?}");
    let public = asked(front, "public/listed");
    ensure!(public.starts_with(&["GET tags -", "GET token -", "GET tags Bearer"].map(Into::into)), "{public:?}");
    let private = asked(front, "private/listed");
    ensure!(private.starts_with(&["GET tags -", "GET token Basic", "GET tags Bearer"].map(Into::into)), "{private:?}");

    wait_discovery(bed, "ghcr-closed", "Unauthorized", |policy| {
        let conditions = policy.status.iter().flat_map(|status| &status.conditions);
        conditions.into_iter().any(|ready| ready.message.contains("secretRef"))
    })?;
    bed.cluster.kubectl(&["delete", "discoverypolicy", "ghcr", "ghcr-closed"])?;
    Ok(())
}

fn images_are_looked_up(bed: &Bed, front: &FakeServer) -> Result<()> {
    let image = |name: &str, repository: &str, secret: &str| {
        format!(
            "
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {{name: {name}}}
spec: {{image: {HOST}/{repository}, tag: '1', policyRef: {{name: ghcr}}{secret}}}
"
        )
    };
    let secret = ", imagePullSecrets: [{name: ghcr-pull}]";
    bed.apply(&image("ghcr-public", "public/looked-up", ""))?;
    bed.apply(&image("ghcr-private", "private/looked-up", secret))?;
    bed.apply(&image("ghcr-moved", MOVED, secret))?;
    bed.apply(&image("ghcr-closed", "private/closed", ""))?;
    let wait = |name: &str, is_so: fn(&LookupStatus) -> bool| {
        bed.wait_image(name, |status, _| status.lookup.as_ref().is_some_and(is_so)).map(drop)
    };
    for name in ["ghcr-public", "ghcr-private", "ghcr-moved"] {
        wait(name, |lookup| lookup.digest.is_some() && lookup.message.is_none())?;
    }
    let is_told = |lookup: &LookupStatus| {
        let message = lookup.message.as_deref().unwrap_or_default();
        lookup.digest.is_none() && message.starts_with("unauthorized: ") && message.contains("imagePullSecrets")
    };
    wait("ghcr-closed", is_told)?;

    let public = asked(front, "public/looked-up");
    let expected = ["HEAD manifests -", "GET token -", "HEAD manifests Bearer", "GET manifests Bearer"];
    ensure!(public == expected, "{public:?}");
    let private = asked(front, "private/looked-up");
    let expected = ["HEAD manifests -", "GET token Basic", "HEAD manifests Bearer", "GET manifests Bearer"];
    ensure!(private == expected, "{private:?}");
    bed.cluster.kubectl(&["delete", "cachedimage", "ghcr-public", "ghcr-private", "ghcr-moved", "ghcr-closed"])?;
    Ok(())
}
