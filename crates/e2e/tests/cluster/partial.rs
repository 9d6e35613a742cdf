//! Sources that answer in part. A part of an answer looks like a shorter list, so it could delete images, or it could
//! keep the lists of other sources from moving.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use drop_api::discovery_policy::QueryResult;
use drop_api::{CachedImage, DiscoveryPolicy};
use drop_e2e::{Bed, pass_on};
use drop_testbed::{Answer, FakeServer, ImageSpec, Request};
use serde_json::{Value, json};

use crate::discovery::{set, vector, wait_discovery};
use crate::sets::{children, wait_set};

const HOST: &str = "partial.test";
const NAME: &str = "partial";
/// The paths of the sources below the fake's address.
const THANOS: &str = "/thanos";
const OTHER: &str = "/other";
const UNUSED: &str = "/unused";

pub fn a_part_of_an_answer_removes_no_image_and_stops_no_other_source(bed: &Bed) -> Result<()> {
    let registry = bed.cluster.registry();
    for app in ["a", "b", "c", "d", "e", "app", "gone"] {
        registry.push_tags(&format!("partial/{app}"), &["1", "2"], &ImageSpec::runnable())?;
    }
    bed.cluster.mirror_host(HOST)?;
    bed.nodes(NAME, 1)?;
    let fake = FakeServer::start()?;
    let upstream = registry.address();
    fake.answer_with("/v2/", move |request| tags(upstream, request, &["1"]));
    let _front = bed.serve(HOST, fake.address())?;
    bed.apply(&set(NAME, NAME))?;

    partial_answers(bed, &fake).context("partial answers")?;
    a_missing_repository(bed, &fake, upstream).context("a missing repository")?;
    an_unused_query(bed, &fake).context("an unused query")?;
    bed.cluster.kubectl(&["delete", "cachedimageset/partial", "discoverypolicy/partial"])?;
    Ok(())
}

/// Answers for a registry whose repositories have these tags only.
fn tags(upstream: SocketAddr, request: &Request, tags: &[&str]) -> Answer {
    let answer = pass_on(upstream, request);
    match serde_json::from_slice::<Value>(&answer.body) {
        Ok(Value::Object(mut page)) if answer.status == 200 && page.contains_key("tags") => {
            let last = request.parameters("last");
            page.insert("tags".to_owned(), if last.is_empty() { json!(tags) } else { json!([]) });
            Answer::json(&page.into())
        }
        _ => answer,
    }
}

/// Returns the answer of a server that does not know all of it: `vector` with one more field.
fn part(images: &[(&str, u32)], field: &str, value: Value) -> Answer {
    let mut body: Value = serde_json::from_slice(&vector(images).body).unwrap_or_default();
    if let Some(fields) = body.as_object_mut() {
        fields.insert(field.to_owned(), value);
    }
    Answer::json(&body)
}

/// The set's children by image, each with its UID and all Pods that ever pulled the image.
type Known = BTreeMap<String, (String, Vec<String>)>;

/// Returns the set's children.
fn known(bed: &Bed) -> Known {
    let children = children(&bed.look(), NAME);
    let known = children.into_iter().filter_map(|child| {
        let image = name(&child);
        let pods = bed.pods_of(&image);
        Some((image, (child.metadata.uid?, pods)))
    });
    known.collect()
}

fn name(child: &CachedImage) -> String {
    let tag = child.spec.tag.iter().map(|tag| format!(":{tag}"));
    format!("{}{}", child.spec.image, tag.collect::<String>())
}

/// Returns the listed images without their registry.
fn listed(policy: &DiscoveryPolicy) -> BTreeSet<&str> {
    let images = policy.status.iter().flat_map(|status| &status.discovered_images);
    images.filter_map(|image| short(&image.image)).collect()
}

/// Returns an image's name without its registry.
fn short(image: &str) -> Option<&str> {
    image.split_once("/partial/").map(|(_, name)| name)
}

/// Waits until the policy shows `reason` and this list, and the set has followed. The children that existed before and
/// are still listed must be the same objects, and no node may have pulled their images again.
fn wait(bed: &Bed, reason: &str, images: &[&str], before: &Known) -> Result<DiscoveryPolicy> {
    let expected: BTreeSet<&str> = images.iter().copied().collect();
    let policy = wait_discovery(bed, NAME, reason, |policy| listed(policy) == expected)
        .with_context(|| format!("{reason} with {images:?}"))?;
    wait_set(bed, NAME, &format!("AllReady {0}/{0}", images.len()))?;
    bed.wait(&format!("the children for {images:?}"), |sight| {
        let children: Vec<String> = children(sight, NAME).iter().map(name).collect();
        let children: BTreeSet<&str> = children.iter().filter_map(|image| short(image)).collect();
        (children == expected).then_some(())
    })?;
    for (image, child) in known(bed) {
        let is_same = before.get(&image).is_none_or(|before| *before == child);
        ensure!(is_same, "{image}: {child:?} instead of {:?}", before.get(&image));
    }
    Ok(policy)
}

/// Returns the result of a policy's source.
fn result(policy: &DiscoveryPolicy, at: usize) -> Result<QueryResult> {
    let results = policy.status.as_ref().map(|status| &status.query_results);
    results.and_then(|results| results.get(at)).cloned().context("a result per source")
}

fn partial_answers(bed: &Bed, fake: &FakeServer) -> Result<()> {
    let whole = vector(&[("partial/a:1", 9), ("partial/b:1", 8)]);
    fake.answer(THANOS, whole.clone());
    fake.answer(OTHER, vector(&[("partial/c:1", 7)]));
    let url = fake.url();
    bed.apply(&format!(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: DiscoveryPolicy
metadata: {{name: {NAME}}}
spec:
  syncInterval: 1s
  sources:
  - {{type: prometheus, prometheus: {{endpoint: '{url}{THANOS}', query: up}}}}
  - {{type: prometheus, prometheus: {{endpoint: '{url}{OTHER}', query: up}}}}
  - {{type: registry, registry: {{url: 'https://{HOST}', repositories: [partial/app, partial/gone], topX: 1}}}}
"
    ))?;
    wait(bed, "Synced", &["a:1", "b:1", "c:1", "app:1", "gone:1"], &Known::new())?;
    let asked = fake.requests();
    let of_thanos = asked.iter().find(|request| request.path.starts_with(THANOS)).context("it was asked")?;
    ensure!(of_thanos.parameters("partial_response") == ["false"], "Drop wants whole answers: {of_thanos:#?}");

    let lost = "proxy Series(): rpc error: code = Aborted desc = fetch series for {replica=\"a\"} Addr: store-1:10901 \
                LabelSets: {replica=\"a\"}: receive series: rpc error: code = Unavailable desc = error reading from server";
    let error = json!({ "status": "error", "errorType": "execution", "error": format!("expanding series: {lost}") });
    // Each fault leaves this part of the answer, or puts an error in its place.
    let left = [("partial/a:1", 9)];
    let faults = [
        // Thanos Query that is asked for whole answers, or has them switched off; a store without this time range;
        // the cluster version of VictoriaMetrics.
        Answer { status: 422, ..Answer::json(&error) },
        part(&left, "warnings", json!([lost])),
        part(&[], "warnings", json!(["No StoreAPIs matched for this query"])),
        part(&left, "isPartial", json!(true)),
    ];
    for (at, fault) in faults.into_iter().enumerate() {
        let before = known(bed);
        fake.answer(THANOS, fault);
        let all = ["a:1", "b:1", "c:1", "app:1", "gone:1"];
        let policy = wait(bed, "PartiallyFailed", &all, &before).with_context(|| format!("fault {at}"))?;
        let result = result(&policy, 0)?;
        ensure!(result.reason.is_some(), "fault {at}: {result:#?}");
        // The other source goes on: one image comes, and then another one goes.
        fake.answer(OTHER, vector(&[("partial/c:1", 7), ("partial/d:1", 6)]));
        let more = ["a:1", "b:1", "c:1", "d:1", "app:1", "gone:1"];
        wait(bed, "PartiallyFailed", &more, &before).with_context(|| format!("fault {at}"))?;
        fake.answer(OTHER, vector(&[("partial/c:1", 7)]));
        wait(bed, "PartiallyFailed", &all, &before).with_context(|| format!("fault {at}"))?;
        fake.answer(THANOS, whole.clone());
        wait(bed, "Synced", &all, &before).with_context(|| format!("after fault {at}"))?;
    }
    Ok(())
}

fn a_missing_repository(bed: &Bed, fake: &FakeServer, upstream: SocketAddr) -> Result<()> {
    let before = known(bed);
    let unknown = json!({ "errors": [{ "code": "NAME_UNKNOWN", "message": "repository name not known to registry" }] });
    fake.answer("/v2/partial/gone/", Answer { status: 404, ..Answer::json(&unknown) });
    let policy = wait(bed, "PartiallyFailed", &["a:1", "b:1", "c:1", "app:1", "gone:1"], &before)?;
    let result = result(&policy, 2)?;
    ensure!(result.failed_repositories == ["partial/gone"], "{result:#?}");
    // The other repository goes on.
    fake.answer_with("/v2/partial/app/", move |request| tags(upstream, request, &["1", "2"]));
    wait(bed, "PartiallyFailed", &["a:1", "b:1", "c:1", "app:2", "gone:1"], &before)?;
    fake.answer_with("/v2/partial/gone/", move |request| tags(upstream, request, &["1"]));
    wait(bed, "Synced", &["a:1", "b:1", "c:1", "app:2", "gone:1"], &before)?;
    Ok(())
}

fn an_unused_query(bed: &Bed, fake: &FakeServer) -> Result<()> {
    let url = fake.url();
    fake.answer(UNUSED, vector(&[("partial/e:1", 5)]));
    let query = |name: &str, path: &str| {
        format!(
            "{{name: {name}, type: prometheus, prometheus: {{endpoint: '{url}{path}', query: up, queryType: instant}}}}"
        )
    };
    let signal = |name: &str, query: &str| {
        format!("{{name: {name}, query: {query}, type: aggregate, aggregate: {{method: sum}}}}")
    };
    let before = known(bed);
    // `sources` and `queries` exclude each other.
    let spec = format!(
        "{{syncInterval: 1s, queries: [{}, {}], signals: [{}, {}], ranking: {{strategy: signal, signal: runs}}}}",
        query("used", THANOS),
        query("unused", UNUSED),
        signal("runs", "used"),
        signal("ignored", "unused")
    );
    bed.apply(&format!(
        "{{apiVersion: drop.corewire.io/v1alpha1, kind: DiscoveryPolicy, metadata: {{name: {NAME}}}, spec: {spec}}}"
    ))?;
    wait(bed, "Synced", &["a:1", "b:1"], &before)?;
    let before = known(bed);
    fake.answer(UNUSED, Answer::status(500));
    let policy = wait(bed, "PartiallyFailed", &["a:1", "b:1"], &before)?;
    let result = result(&policy, 1)?;
    ensure!(result.reason.as_deref() == Some("ServerError"), "{result:#?}");
    // The list is not frozen: an image comes, and another one goes.
    fake.answer(THANOS, vector(&[("partial/a:1", 9), ("partial/d:2", 8)]));
    wait(bed, "PartiallyFailed", &["a:1", "d:2"], &before)?;
    fake.answer(UNUSED, vector(&[("partial/e:1", 5)]));
    wait(bed, "Synced", &["a:1", "d:2"], &before)?;
    Ok(())
}
