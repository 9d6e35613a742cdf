//! DiscoveryPolicies with real Prometheus, Loki and registries, and with faulty servers.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_api::{CachedImageSet, DiscoveryPolicy, condition};
use drop_e2e::{Bed, Sight};
use drop_testbed::{
    Answer, Delivery, FakeServer, ImageSpec, Loki, Prometheus, PrometheusOptions, Registry, RegistryAuth,
    RegistryOptions, Request, Series, Tools,
};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::sets::{children, wait_set};

/// How long a server waits for a request.
const LIMIT: Duration = Duration::from_secs(180);

/// Waits until the DiscoveryPolicy `name` shows this reason, and `is_so` holds for it.
pub fn wait_discovery(
    bed: &Bed,
    name: &str,
    reason: &str,
    is_so: impl Fn(&DiscoveryPolicy) -> bool,
) -> Result<DiscoveryPolicy> {
    let found = bed.wait(&format!("{name} to show {reason}"), |sight| {
        let policy = sight.discoveries.get(name)?;
        let status = policy.status.as_ref()?;
        let current = status.observed_generation == policy.metadata.generation;
        let ready = condition::ready(&status.conditions)?;
        (current && ready.reason == reason && is_so(policy)).then(|| policy.clone())
    });
    found.with_context(|| format!("{name}: {:#?}", bed.look().discoveries.get(name).map(|policy| &policy.status)))
}

/// Returns the discovered images, the best first.
fn list(policy: &DiscoveryPolicy) -> Vec<&str> {
    let images = policy.status.iter().flat_map(|status| &status.discovered_images);
    images.map(|image| image.image.as_str()).collect()
}

/// Returns the line of a JSON log in which a kubelet reports that it has pulled an image.
pub fn pulled(image: &str, took: &str) -> String {
    let message =
        format!("Successfully pulled image \"{image}\" in {took} (1m30s including waiting). Image size: 7 bytes.");
    json!({ "reason": "Pulled", "message": message, "involvedObject": { "kind": "Pod", "name": "job-1", "namespace": "ci" } })
        .to_string()
}

/// Makes a series with the same number every `step` minutes of the last `days` up to now, within `hours` of each day
/// (UTC).
pub fn recorded(metric: &str, labels: &[(&str, &str)], step: i64, days: i64, hours: (i8, i8), value: f64) -> Series {
    let now = Timestamp::now();
    let times = (0..days * 24 * 60 / step).rev().map(|at| now - SignedDuration::from_mins(step * at));
    let within = |time: &Timestamp| (hours.0..hours.1).contains(&time.to_zoned(TimeZone::UTC).hour());
    Series {
        name: metric.to_owned(),
        labels: labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect(),
        samples: times.filter(within).map(|time| (time, value)).collect(),
    }
}

/// Returns a set `name` with the images of the policy of that name, for the nodes of a scenario.
pub fn set(name: &str, scenario: &str) -> String {
    format!(
        "
---
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {{name: {name}}}
spec: {{minDelayBetweenPulls: 0s}}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImageSet
metadata: {{name: {name}}}
spec: {{policyRef: {{name: {name}}}, discoveryPolicyRef: {{name: {name}}}, nodeSelector: {{scenario: {scenario}}}}}
"
    )
}

pub fn real_backends_tell_which_images_matter(bed: &Bed) -> Result<()> {
    let home = bed.cluster.home();
    let tools = Tools::built(&["prometheus", "loki", "tiny", "registry"])?;
    let node = bed.nodes("discovered", 1)?;
    for app in ["often", "late", "quick"] {
        bed.cluster.registry().push(&format!("discovered/{app}"), "1", &ImageSpec::runnable())?;
    }

    // Prometheus has a day of jobs, and goes on scraping a server. `often` runs all day, the other two in the second
    // half only.
    let jobs = |app: &str, hours, value| {
        recorded("jobs_started", &[("image", &format!("discovered/{app}:1"))], 5, 1, hours, value)
    };
    let metrics = FakeServer::start()?;
    let show = |often: u32, late: u32| {
        let text =
            format!("jobs{{image=\"discovered/often:1\"}} {often}\njobs{{image=\"discovered/late:1\"}} {late}\n");
        metrics.answer("/metrics", Answer::ok(text).header("Content-Type", "text/plain"));
    };
    show(5, 1);
    let options = PrometheusOptions {
        base_path: "/prometheus".to_owned(),
        password: false,
        history: vec![jobs("often", (0, 24), 3.5), jobs("late", (12, 24), 0.2), jobs("quick", (12, 24), 0.2)],
        scrape: Some(metrics.address()),
    };
    let prometheus = Prometheus::start(home, &tools, "discovered-prometheus", options)?;
    let loki = Loki::start(home, &tools, "discovered-loki")?;
    let yesterday = Timestamp::now() - SignedDuration::from_hours(20);
    let lines = [("often", "1m40s"), ("late", "1m21.3s"), ("quick", "2.1s")]
        .map(|(app, took)| (yesterday, pulled(&format!("discovered/{app}:1"), took)));
    loki.push(&[("job", "kubernetes-events")], &lines)?;
    bed.apply(&format!(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: DiscoveryPolicy
metadata: {{name: discovered}}
spec:
  syncInterval: 2s
  queries:
  - {{name: jobs, type: prometheus, prometheus: {{endpoint: '{prometheus}', query: sum by (image) (jobs_started)}}}}
  - {{name: pulls, type: loki, loki: {{endpoint: '{loki}', query: '{{job=\"kubernetes-events\"}} |= \"pulled image\"'}}}}
  signals:
  - {{name: before, query: jobs, type: windowAggregate,
      windowAggregate: {{method: sum, window: {{start: '00:00', end: '12:00'}}, timezone: UTC}}}}
  - {{name: within, query: jobs, type: windowAggregate,
      windowAggregate: {{method: sum, window: {{start: '12:00', end: '00:00'}}, timezone: UTC}}}}
  - {{name: pullTime, query: pulls, type: eventPullTime, eventPullTime: {{metric: pullTime, statistic: avg}}}}
  ranking:
    strategy: expectedSavings
    expectedSavings:
      nodes: {{count: 100}}
      preWindowUsageSignal: before
      targetWindowUsageSignal: within
      pullTimeSignal: pullTime
{}",
        set("discovered", "discovered"),
        prometheus = prometheus.url(),
        loki = loki.url(),
    ))?;
    wait_set(bed, "discovered", "AllReady 3/3")?;
    let found = wait_discovery(bed, "discovered", "Synced", |_| true)?;
    // `often` has most jobs and the longest pull, but every node has it by noon.
    let expected = ["late", "often", "quick"].map(|app| format!("docker.io/discovered/{app}:1"));
    ensure!(list(&found) == expected, "{found:#?}");
    let status = found.status.unwrap_or_default();
    let best = status.discovered_images.first().context("the best image")?;
    // 100 nodes, less those that stay cold after 144 steps of 0.2 jobs, times 81.3 s.
    let score: f64 = best.final_score.parse()?;
    ensure!((2000.0..2100.0).contains(&score), "{best:?}");
    for image in &expected {
        let images = node.first().context("a node")?.ctr(&["images", "ls", "-q"])?;
        ensure!(images.contains(image), "{image} is not among\n{images}");
    }

    // The policy follows the scraped values.
    bed.apply(&format!(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: DiscoveryPolicy
metadata: {{name: scraped}}
spec:
  syncInterval: 1s
  sources: [{{type: prometheus, prometheus: {{endpoint: '{}', query: jobs}}}}]
",
        prometheus.url()
    ))?;
    let before = expected.each_ref().map(String::as_str);
    let [late, often, _] = before;
    wait_discovery(bed, "scraped", "Synced", |policy| list(policy) == [often, late])?;
    show(5, 7);
    wait_discovery(bed, "scraped", "Synced", |policy| list(policy) == [late, often])?;
    bed.cluster.kubectl(&["delete", "discoverypolicy", "scraped"])?;

    // One of two real backends fails and recovers.
    let owned = owned(&bed.look(), "discovered");
    prometheus.stop()?;
    wait_discovery(bed, "discovered", "PartiallyFailed", |policy| list(policy) == before)?;
    wait_set(bed, "discovered", "AllReady 3/3")?;
    prometheus.resume()?;
    wait_discovery(bed, "discovered", "Synced", |policy| list(policy) == before)?;
    ensure!(self::owned(&bed.look(), "discovered") == owned, "the children are others");
    let pods = bed.pods_of(late);
    ensure!(pods.len() == 1, "pulled again: {pods:?}");
    bed.cluster.kubectl(&["delete", "cachedimageset/discovered", "discoverypolicy/discovered"])?;
    Ok(())
}

pub fn a_registry_with_tokens_and_pages_tells_the_newest_versions(bed: &Bed) -> Result<()> {
    let home = bed.cluster.home();
    let tools = Tools::built(&["tiny", "registry"])?;
    let node = bed.nodes("newest", 1)?;
    let auth = RegistryAuth::Token { realm: Some("https://auth.example.com/token".to_owned()) };
    let options = RegistryOptions { auth, page: 20, ..RegistryOptions::new("registry.example.com") };
    let registry = Registry::start(home, &tools, "newest-registry", options)?;
    let tokens = registry.token_server().context("it has a token server")?;
    let _fronts =
        [bed.serve("registry.example.com", registry.address())?, bed.serve("auth.example.com", tokens.address())?];
    let tags: Vec<String> = (0..50).map(|minor| format!("v18.{minor}.0")).collect();
    let tags: Vec<&str> = tags.iter().map(String::as_str).chain(["latest", "v19.0.0"]).collect();
    registry.push_tags("newest/app", &tags, &ImageSpec::scratch())?;
    let expected = ["v19.0.0", "v18.49.0", "v18.48.0"];
    bed.cluster.registry().push_tags("newest/app", &expected, &ImageSpec::runnable())?;
    let (user, password) = registry.credentials().context("it wants credentials")?;
    bed.cluster.kubectl(&[
        "create",
        "secret",
        "generic",
        "newest",
        "-n",
        "drop-system",
        &format!("--from-literal=username={user}"),
        &format!("--from-literal=password={password}"),
    ])?;
    bed.apply(&format!(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: DiscoveryPolicy
metadata: {{name: newest}}
spec:
  syncInterval: 2s
  sources:
  - type: registry
    registry: {{url: 'https://registry.example.com', repositories: [newest/app], tagFilter: '^v[0-9]+\\.', topX: 3}}
    secretRef: {{name: newest}}
{}",
        set("newest", "newest")
    ))?;
    wait_set(bed, "newest", "AllReady 3/3")?;
    let expected = expected.map(|tag| format!("registry.example.com/newest/app:{tag}"));
    let found = wait_discovery(bed, "newest", "Synced", |_| true)?;
    ensure!(list(&found) == expected, "{found:#?}");
    for image in &expected {
        let images = node.first().context("a node")?.ctr(&["images", "ls", "-q"])?;
        ensure!(images.contains(image), "{image} is not among\n{images}");
    }

    // The registry fails and recovers.
    let owned = owned(&bed.look(), "newest");
    let pods: Vec<_> = expected.iter().map(|image| bed.pods_of(image)).collect();
    registry.stop()?;
    wait_discovery(bed, "newest", "ConnectionRefused", |policy| list(policy) == expected)?;
    wait_set(bed, "newest", "ConnectionRefused 3/3")?;
    registry.resume()?;
    wait_discovery(bed, "newest", "Synced", |policy| list(policy) == expected)?;
    wait_set(bed, "newest", "AllReady 3/3")?;
    ensure!(self::owned(&bed.look(), "newest") == owned, "the children are others");
    ensure!(expected.iter().map(|image| bed.pods_of(image)).collect::<Vec<_>>() == pods, "pulled again");
    bed.cluster.kubectl(&["delete", "cachedimageset/newest", "discoverypolicy/newest"])?;
    Ok(())
}

/// Returns the UIDs of a set's children.
fn owned(sight: &Sight, set: &str) -> BTreeSet<String> {
    children(sight, set).into_iter().filter_map(|child| child.metadata.uid).collect()
}

/// Returns the answer of a Prometheus that knows images with these numbers.
pub fn vector(images: &[(&str, u32)]) -> Answer {
    let result =
        images.iter().map(|(image, value)| json!({ "metric": { "image": image }, "value": [1, value.to_string()] }));
    let result: Vec<_> = result.collect();
    Answer::json(&json!({ "status": "success", "data": { "resultType": "vector", "result": result } }))
}

pub fn an_outage_empties_no_list(bed: &Bed) -> Result<()> {
    for app in ["a", "b", "c"] {
        bed.cluster.registry().push(&format!("outage/{app}"), "1", &ImageSpec::runnable())?;
    }
    bed.nodes("outage", 1)?;
    let backend = FakeServer::start()?;
    let good = vector(&[("outage/a:1", 2), ("outage/b:1", 1)]);
    backend.answer("/", good.clone());
    let source =
        |base: &str| format!("{{type: prometheus, prometheus: {{endpoint: '{}{base}', query: up}}}}", backend.url());
    bed.apply(&format!(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: DiscoveryPolicy
metadata: {{name: outage}}
spec: {{syncInterval: 1s, sources: [{}]}}
{}",
        source("/one"),
        set("outage", "outage")
    ))?;
    wait_set(bed, "outage", "AllReady 2/2")?;
    let images = ["docker.io/outage/a:1", "docker.io/outage/b:1"];
    let owned = owned(&bed.look(), "outage");
    let pods = || images.map(|image| bed.pods_of(image));
    let pulled = pods();

    let faults = [
        (Answer::status(500), "ServerError"),
        (Answer::status(401), "Unauthorized"),
        (Answer::status(403), "Forbidden"),
        (Answer::status(404), "NotFound"),
        (Answer::status(429), "RateLimited"),
        (Answer::ok("<html>Hello</html>"), "InvalidResponse"),
        (vector(&[]), "EmptyResult"),
        (good.clone().padded(200_000_000), "InvalidResponse"),
        (Answer { delivery: Delivery::HangUp, ..Answer::status(200) }, "ConnectionRefused"),
        (Answer::never(), "Timeout"),
        (Answer { delivery: Delivery::Stall, ..Answer::ok("{") }, "Timeout"),
    ];
    for (fault, reason) in faults {
        backend.answer("/one", fault.clone());
        let shown = wait_discovery(bed, "outage", reason, |policy| list(policy) == images)
            .with_context(|| format!("{:?} {}", fault.delivery, fault.status))?;
        let status = shown.status.unwrap_or_default();
        ensure!(status.next_sync_time.is_some() && status.image_count == 2, "{status:#?}");
        let shown = wait_set(bed, "outage", &format!("{reason} 2/2"))?;
        ensure!(phase(&shown) == "Degraded", "{shown:#?}");
        ensure!(self::owned(&bed.look(), "outage") == owned, "{reason}: the children are others");
        backend.answer("/one", good.clone());
        wait_discovery(bed, "outage", "Synced", |policy| list(policy) == images)?;
        wait_set(bed, "outage", "AllReady 2/2")?;
    }
    ensure!(self::owned(&bed.look(), "outage") == owned, "the children are others");
    ensure!(pods() == pulled, "pulled again");

    // One of two sources fails: its images stay, and the other source is still followed.
    backend.answer("/two", vector(&[("outage/c:1", 5)]));
    bed.apply(&format!(
        "{{apiVersion: drop.corewire.io/v1alpha1, kind: DiscoveryPolicy, metadata: {{name: outage}},
          spec: {{syncInterval: 1s, sources: [{}, {}]}}}}",
        source("/one"),
        source("/two")
    ))?;
    wait_set(bed, "outage", "AllReady 3/3")?;
    backend.answer("/two", Answer::status(500));
    let [a, b] = images;
    wait_discovery(bed, "outage", "PartiallyFailed", |policy| list(policy) == ["docker.io/outage/c:1", a, b])?;
    backend.answer("/one", vector(&[("outage/b:1", 1)]));
    wait_discovery(bed, "outage", "PartiallyFailed", |policy| list(policy) == ["docker.io/outage/c:1", b])?;
    wait_set(bed, "outage", "AllReady 2/2")?;
    bed.cluster.kubectl(&["delete", "cachedimageset/outage", "discoverypolicy/outage"])?;
    Ok(())
}

fn phase(set: &CachedImageSet) -> String {
    set.status.as_ref().and_then(|status| status.phase.as_ref()).map(|phase| format!("{phase:?}")).unwrap_or_default()
}

pub fn a_secret_is_used_as_soon_as_it_is_there(bed: &Bed) -> Result<()> {
    let backend = FakeServer::start()?;
    backend.answer_with("/", |request| match request.header("authorization") {
        Some("Bearer right") => vector(&[("secrets/app:1", 1)]),
        _ => Answer::status(401),
    });
    bed.apply(&format!(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: DiscoveryPolicy
metadata: {{name: secrets}}
spec:
  syncInterval: 10h
  sources: [{{type: prometheus, prometheus: {{endpoint: '{}', query: up}}, secretRef: {{name: secrets}}}}]
",
        backend.url()
    ))?;
    let secret = |token: &str| {
        bed.apply(&format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{name: secrets, namespace: drop-system}}, stringData: {{token: {token}}}}}"
        ))
    };
    wait_discovery(bed, "secrets", "SecretNotFound", |_| true)?;
    ensure!(backend.requests().is_empty(), "asked without the Secret: {:?}", backend.requests());
    // The operator follows each edit long before the time in the status.
    let mut planned = next_sync(bed, "secrets")?;
    for (token, reason) in [("wrong", "Unauthorized"), ("right", "Synced"), ("wrong", "Unauthorized")] {
        secret(token)?;
        wait_discovery(bed, "secrets", reason, |_| true)?;
        ensure!(Timestamp::now() < planned, "{reason} at {planned} at the earliest: nobody waited for the edit");
        planned = next_sync(bed, "secrets")?;
    }
    secret("right")?;
    let found = wait_discovery(bed, "secrets", "Synced", |_| true)?;
    let status = found.status.unwrap_or_default();
    let (last, next) = (status.last_sync_time.context("lastSyncTime")?, status.next_sync_time.context("nextSyncTime")?);
    let wait = next.duration_since(last);
    ensure!(wait >= SignedDuration::from_hours(9) && wait <= SignedDuration::from_hours(10), "{status:#?}");
    bed.cluster.kubectl(&["delete", "discoverypolicy", "secrets"])?;
    Ok(())
}

/// Returns when the policy asks next, according to its status.
fn next_sync(bed: &Bed, policy: &str) -> Result<Timestamp> {
    bed.wait("nextSyncTime", |sight| sight.discoveries.get(policy)?.status.as_ref()?.next_sync_time)
}

pub fn credentials_stay_with_their_host(bed: &Bed) -> Result<()> {
    let (own, other) = (FakeServer::start()?, FakeServer::start()?);
    let elsewhere = other.url();
    own.answer("/redirects", Answer::redirect(&format!("{elsewhere}/redirected")));
    let first = Answer::json(&json!({ "tags": ["v1.0.0"] }));
    own.answer("/v2/links", first.header("Link", &format!("<{elsewhere}/linked>; rel=\"next\"")));
    let challenge = format!("Bearer realm=\"{elsewhere}/realm\",service=\"other\"");
    own.answer("/v2/asks", Answer::status(401).header("WWW-Authenticate", &challenge));
    bed.apply(&format!(
        "
apiVersion: v1
kind: Secret
metadata: {{name: credentials, namespace: drop-system}}
stringData: {{username: somebody, password: secret-password, headers.X-Tenant: secret-tenant}}
---
apiVersion: drop.corewire.io/v1alpha1
kind: DiscoveryPolicy
metadata: {{name: credentials}}
spec:
  sources:
  - {{type: prometheus, prometheus: {{endpoint: '{0}/redirects', query: up}}, secretRef: {{name: credentials}}}}
  - {{type: registry, registry: {{url: '{0}', repositories: [links]}}, secretRef: {{name: credentials}}}}
  - {{type: registry, registry: {{url: '{0}', repositories: [asks]}}, secretRef: {{name: credentials}}}}
",
        own.url()
    ))?;
    let has_secrets = |request: &Request| {
        let headers = || request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        headers().any(|(name, value)| name == "authorization" || value.contains("secret-"))
    };
    for path in ["/redirected", "/linked", "/realm"] {
        let got = other.wait(LIMIT, |requests| requests.iter().find(|request| request.path == path).cloned())?;
        ensure!(!has_secrets(&got), "{got:#?}");
    }
    let asked = own.requests();
    ensure!(asked.len() >= 3 && asked.iter().all(has_secrets), "{asked:#?}");
    bed.cluster.kubectl(&["delete", "discoverypolicy", "credentials"])?;
    Ok(())
}
