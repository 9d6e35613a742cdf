//! Checks the chart's dashboard and alerts with a working operator and a real Prometheus.
//!
//! With `BLESS=1` in the environment, the results are written to `docs/dashboard.json`, from which `cargo xtask gen`
//! makes a picture.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_e2e::{Bed, Fleet, root};
use drop_testbed::{Answer, FakeServer, Prometheus, PrometheusOptions, Tools};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::discovery::{vector, wait_discovery};
use crate::presence::wait_listed;

const IMAGES: usize = 8;
/// How long Prometheus may take to know the operator's metrics.
const LIMIT: Duration = Duration::from_secs(60);
/// The value of Grafana's `$__interval` with a data source of this scrape interval, in seconds.
const STEP: u32 = 5;
/// The value of its `$__rate_interval`: the greater of four scrape intervals and an interval plus one.
const RATE_INTERVAL: &str = "20s";
/// The result of a query: series with labels, and either `value` or `values`.
type Found = Vec<Value>;

pub fn each_panel_shows_data_of_a_working_operator(bed: &Bed) -> Result<()> {
    let operator = bed.operator().as_ref().context("the operator runs")?.address.clone();
    let tools = Tools::built(&["prometheus"])?;
    let options = PrometheusOptions { scrape: Some(operator.parse()?), ..PrometheusOptions::default() };
    let prometheus = Prometheus::start(bed.cluster.home(), &tools, "dashboard-prometheus", options)?;
    prometheus.wait_data("drop_build_info", LIMIT)?;
    let from = Timestamp::now();
    let backend = FakeServer::start()?;
    work(bed, &backend, &prometheus)?;
    let to = Timestamp::now();

    let mut recorded = Vec::new();
    for panel in
        file("charts/drop/files/dashboard.json")?.pointer("/panels").and_then(Value::as_array).context("panels")?
    {
        let title = text(panel, "/title");
        for target in panel.pointer("/targets").and_then(Value::as_array).into_iter().flatten() {
            let written = text(target, "/expr");
            // The series of a single cluster have no label for the cluster.
            let query = written.replace("$__rate_interval", RATE_INTERVAL).replace("$cluster", "");
            ensure!(!query.contains('$'), "{title}: Grafana alone knows what stands for the variable in {query}");
            let found = if target.pointer("/instant") == Some(&Value::Bool(true)) {
                prometheus.query(&query)
            } else {
                prometheus.query_range(&query, from, to, STEP)
            };
            let found: Found = serde_json::from_value(found.with_context(|| format!("{title}: {query}"))?)?;
            ensure!(found.iter().any(|series| numbers(series).next().is_some()), "{title} is empty: {query}");
            recorded.push((written.to_owned(), found));
        }
    }
    if std::env::var_os("BLESS").is_some() {
        record(from, to, &recorded)?;
    }

    let rules = fs::read_to_string(root().join("charts/drop/files/alerts.yaml"))?;
    let rules: Value = serde_saphyr::from_str(&rules)?;
    for rule in rules.pointer("/groups/0/rules").and_then(Value::as_array).context("rules")? {
        let (name, query) = (text(rule, "/alert"), text(rule, "/expr"));
        let found: Found = serde_json::from_value(prometheus.query(query).with_context(|| name.to_owned())?)?;
        let fires = ["DropImageFails", "DropSetFails", "DropDiscoveryFails"].contains(&name);
        let is_quiet = ["DropDown", "DropRestarts", "DropWithoutLeader"].contains(&name);
        ensure!(!fires || !found.is_empty(), "{name} does not fire: {query}");
        ensure!(!is_quiet || found.is_empty(), "{name} fires: {found:?}");
    }

    let told = told(&operator)?;
    every_metric_is_written(&told)?;
    ensure!(told.contains("panel-") && !told.contains("dashboard-"), "an image has series, a node has none:\n{told}");
    let mut delete = vec!["delete", "discoverypolicy/panel-good", "discoverypolicy/panel-bad", "pullpolicy/panel"];
    let images: Vec<String> = (0..IMAGES).map(|image| format!("cachedimage/panel-{image}")).collect();
    delete.extend(images.iter().map(String::as_str));
    delete.extend(["cachedimage/panel-missing", "cachedimageset/panel"]);
    bed.cluster.kubectl(&delete)?;
    bed.wait("the objects to go", |sight| {
        (!sight.images.keys().chain(sight.discoveries.keys()).any(|name| name.starts_with("panel"))).then_some(())
    })?;
    // Its Pod may be in another attempt.
    bed.wait_no_pod("docker.io/panel/missing:latest")?;
    prometheus.wait_data("absent(drop_nodes_targeted{cachedimage=~\"panel.*\"})", LIMIT)?;
    let told = self::told(&operator)?;
    ensure!(!told.contains("\"panel"), "series outlive their objects:\n{told}");
    Ok(())
}

/// Makes the operator pull, fail, discover, and pull images again that a node has removed.
fn work(bed: &Bed, backend: &FakeServer, prometheus: &Prometheus) -> Result<()> {
    let nodes = bed.nodes("dashboard", 2)?;
    backend.answer("/good", vector(&[("panel/app-0:1", 2), ("panel/app-1:1", 1)]));
    backend.answer("/bad", Answer::status(500));
    let policy = |name: &str| {
        format!(
            "---
apiVersion: drop.corewire.io/v1alpha1
kind: DiscoveryPolicy
metadata: {{name: panel-{name}}}
spec: {{syncInterval: 2s, sources: [{{type: prometheus, prometheus: {{endpoint: '{}/{name}', query: up}}}}]}}
",
            backend.url()
        )
    };
    let fleet = Fleet {
        name: "panel",
        images: IMAGES,
        policy: "{minDelayBetweenPulls: 3s, failureBackoff: {initial: 3s, max: 10s}}",
        selector: "{scenario: dashboard}",
    };
    fleet.push(bed)?;
    bed.apply(&format!(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {{name: panel-missing}}
spec: {{image: docker.io/panel/missing, policyRef: {{name: panel}}, nodeSelector: {{scenario: dashboard}}}}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImageSet
metadata: {{name: panel}}
spec: {{discoveryPolicyRef: {{name: panel-none}}, nodeSelector: {{scenario: dashboard}}}}
{}{}",
        policy("good"),
        policy("bad")
    ))?;
    fleet.apply(bed)?;
    wait_discovery(bed, "panel-good", "Synced", |_| true)?;
    wait_discovery(bed, "panel-bad", "ServerError", |_| true)?;
    fleet.wait_cached(bed, 2)?;
    bed.wait_image("panel-missing", |status, _| status.consecutive_failures >= 5)?;

    let image = "docker.io/panel/app-0:1";
    let node = nodes.first().context("a node")?;
    wait_listed(bed, node, image, true)?;
    node.remove_image(image)?;
    wait_listed(bed, node, image, false)?;
    bed.wait_image("panel-0", |_, ready| ready.reason == "Evicted")?;
    bed.wait_cached("panel-0", 2)?;
    let known = [
        "drop_evictions_total > 0",
        "drop_pull_bytes_total > 0",
        "min_over_time(drop_set_health[20s]) == 0",
        "drop_nodes_failed{cachedimage=\"panel-missing\"} > 0",
        "drop_discovery_health{policy=\"panel-bad\"} == 0",
        "drop_pulls_total{policy=\"panel\", result=\"success\"} > 0",
        // Long enough to see the recovery in graphs.
        "min_over_time(drop_nodes_cached{cachedimage=\"panel-0\"}[20s]) == 2",
    ];
    known.iter().try_for_each(|query| prometheus.wait_data(query, LIMIT))
}

fn file(path: &str) -> Result<Value> {
    Ok(serde_json::from_str(&fs::read_to_string(root().join(path))?)?)
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Returns the times and values of a series, as far as they are numbers.
fn numbers(series: &Value) -> impl Iterator<Item = (f64, f64)> {
    let many = series.pointer("/values").and_then(Value::as_array).into_iter().flatten();
    many.chain(series.pointer("/value")).filter_map(|sample| {
        let value: f64 = sample.pointer("/1")?.as_str()?.parse().ok()?;
        Some((sample.pointer("/0")?.as_f64()?, value)).filter(|_| value.is_finite())
    })
}

fn told(operator: &str) -> Result<String> {
    Ok(ureq::get(format!("http://{operator}/metrics")).call()?.body_mut().read_to_string()?)
}

/// Checks that each metric has series, and that each counter has counted something.
fn every_metric_is_written(told: &str) -> Result<()> {
    let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
    for sample in told.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = sample.rsplit_once(' ').with_context(|| sample.to_owned())?;
        let name = series.split('{').next().unwrap_or_default();
        *sums.entry(name).or_default() += value.parse::<f64>()?;
    }
    for metric in told.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = metric.split_once(' ').with_context(|| metric.to_owned())?;
        let (suffix, counts) = match kind {
            "counter" => ("_total", true),
            "histogram" => ("_count", true),
            "info" => ("_info", true),
            _ => ("", false),
        };
        let sum = sums.get(format!("{name}{suffix}").as_str());
        let sum = sum.with_context(|| format!("{name} has no series:\n{told}"))?;
        ensure!(!counts || *sum > 0.0, "{name} has counted nothing:\n{told}");
    }
    Ok(())
}

/// Writes the results of the dashboard's queries, one per line.
fn record(from: Timestamp, to: Timestamp, found: &[(String, Found)]) -> Result<()> {
    let from = from.as_duration().as_secs_f64();
    let steps = ((to.as_duration().as_secs_f64() - from) / f64::from(STEP)) as usize + 1;
    let series = |series: &Value| {
        let mut values = vec![Value::Null; steps];
        for (time, value) in numbers(series) {
            let step = ((time - from).max(0.0) / f64::from(STEP)).round() as usize;
            // The result of the last instant came a moment later than the instant.
            if let Some(slot) = values.get_mut(step.min(steps - 1)) {
                // A picture shows at most four digits.
                *slot = json!(format!("{value:.3e}").parse::<f64>().unwrap_or(value));
            }
        }
        json!({ "labels": series.get("metric"), "values": values })
    };
    let lines = found.iter().map(|(query, found)| {
        let series: Vec<Value> = found.iter().map(series).collect();
        json!({ "query": query, "series": series }).to_string()
    });
    let lines: Vec<String> = lines.collect();
    let text = format!("{{\"step\": {STEP}, \"steps\": {steps}, \"queries\": [\n{}\n]}}\n", lines.join(",\n"));
    Ok(fs::write(root().join("docs/dashboard.json"), text)?)
}
