//! What Drop costs at scale: docs/scale.md.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use super::lab::{Lab, say};
use super::{plan_time, requests, usage, write_table};
use crate::{image, root};

const PAGE: &str = "docs/scale.md";
const DATA: &str = "docs/scale.json";
/// What the table stands between.
const MARKS: [&str; 2] = ["<!-- Written by `cargo xtask bench scale`. -->\n", "<!-- End. -->\n"];

/// Writes that may lag behind have come by then: the operator's longest delay is 10 s.
const SETTLED_AFTER: Duration = Duration::from_secs(15);
/// How long the idle operator is watched.
const IDLE: Duration = Duration::from_secs(60);

/// How long the pull of one image takes where the API server is to be the limit, and where the pulls are.
const PULLS: [Duration; 2] = [Duration::from_millis(150), Duration::from_secs(3)];
/// The runs of the page: nodes, images, images per Pod, the time of a pull.
const RUNS: [(usize, usize, usize, Duration); 7] = [
    (50, 20, 10, PULLS[0]),
    (500, 20, 10, PULLS[0]),
    (500, 20, 10, PULLS[1]),
    (500, 20, 1, PULLS[0]),
    (1000, 50, 10, PULLS[0]),
    (5000, 20, 10, PULLS[0]),
    (10_000, 20, 10, PULLS[0]),
];

#[derive(Args)]
pub(crate) struct Scale {
    /// Nodes and images of each run, such as 50x20,500x20; without, those of docs/scale.md, which are written there.
    #[arg(long, value_delimiter = ',')]
    runs: Vec<Size>,
    /// With --runs: images per Pod.
    #[arg(long, default_value_t = 10)]
    images_per_pod: usize,
    /// With --runs: milliseconds that the pull of an image takes.
    #[arg(long, default_value_t = 150)]
    pull_ms: u64,
}

/// `NODESxIMAGES`.
#[derive(Clone, Copy)]
struct Size(usize, usize);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('x').and_then(|(nodes, images)| Some((nodes.parse().ok()?, images.parse().ok()?)));
        match parsed {
            Some((nodes, images)) if nodes > 0 && images > 0 => Ok(Self(nodes, images)),
            _ => Err(format!("{text:?}: write nodes and images, such as 500x20")),
        }
    }
}

/// A run and what it cost.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Figures {
    nodes: usize,
    images: usize,
    images_per_pod: usize,
    pull_seconds: f64,
    max_concurrent_nodes: usize,
    pods: usize,
    /// Of the operator, from its start to the end of the run.
    requests_by_kind: BTreeMap<String, usize>,
    requests_per_pull: f64,
    peak_rss_bytes: u64,
    /// To the end of the last pull.
    cpu_seconds: f64,
    makespan_seconds: f64,
    optimal_seconds: f64,
    plans: u64,
    plan_p50_seconds: f64,
    plan_p99_seconds: f64,
    /// etcd's log (`etcd_disk_wal_write_bytes_total`), by everybody: kubelets too.
    etcd_bytes: u64,
    /// In a minute with nothing to do, besides those that keep the Lease and the watches.
    idle_requests: usize,
    idle_lease_requests: usize,
    idle_watches_resumed: usize,
    idle_cpu_seconds: f64,
}

pub(super) fn run(scale: &Scale) -> Result<()> {
    let binary = image::build()?;
    let pull = Duration::from_millis(scale.pull_ms);
    let chosen = scale.runs.iter().map(|Size(nodes, images)| (*nodes, *images, scale.images_per_pod, pull));
    let runs: Vec<_> = if scale.runs.is_empty() { RUNS.to_vec() } else { chosen.collect() };
    let mut figures = Vec::new();
    for (nodes, images, images_per_pod, pull) in runs {
        say(&format!("{nodes} nodes × {images} images, {images_per_pod} per Pod, {pull:?} per image"));
        figures.push(measure(&binary, nodes, images, images_per_pod, pull)?);
        print!("{}", table(&figures)?);
    }
    let data = serde_json::to_string_pretty(&figures)? + "\n";
    if scale.runs.is_empty() {
        let root = root()?;
        fs::write(root.join(DATA), data).with_context(|| format!("cannot write {DATA}"))?;
        write_table(PAGE, MARKS, &table(&figures)?)?;
    } else {
        print!("{data}");
    }
    Ok(())
}

fn measure(binary: &Path, nodes: usize, images: usize, images_per_pod: usize, pull: Duration) -> Result<Figures> {
    let max_concurrent_nodes = (nodes / 10).clamp(1, 100);
    let optimal = optimal(nodes, images, max_concurrent_nodes, pull);
    let lab = Lab::start(binary, nodes, 0, pull)?;
    let pid = lab.operator.pid();
    let written = lab.cluster.etcd_written()?;
    let policy = format!(
        "{{maxConcurrentNodes: {max_concurrent_nodes}, minDelayBetweenPulls: 0s, imagesPerPod: {images_per_pod}}}"
    );
    lab.apply(images, &policy)?;
    lab.wait_cached(nodes, 20 * optimal + Duration::from_secs(60))?;
    let cpu_seconds = usage::cpu_seconds(pid)?;
    sleep(SETTLED_AFTER);
    let etcd_bytes = lab.cluster.etcd_written()?.saturating_sub(written);
    let plan_times = plan_time::PlanTimes::parse(&lab.operator.get("metrics")?)?;
    let requests = lab.requests()?;

    let idle_from = usage::cpu_seconds(pid)?;
    sleep(IDLE);
    let idle_cpu_seconds = usage::cpu_seconds(pid)? - idle_from;
    let all = lab.requests()?;
    let idle = all.get(requests.len()..).unwrap_or_default();
    let idle_lease_requests = idle.iter().filter(|request| request.resource == "leases").count();
    let idle_watches_resumed = idle.iter().filter(|request| request.verb == "watch").count();

    let lives = requests::lives(&requests);
    let most = requests::most_at_once(&lives);
    ensure!(most <= i64::try_from(max_concurrent_nodes)?, "{most} nodes at once, {max_concurrent_nodes} allowed");
    Ok(Figures {
        nodes,
        images,
        images_per_pod,
        pull_seconds: pull.as_secs_f64(),
        max_concurrent_nodes,
        pods: lives.len(),
        requests_by_kind: requests::by_kind(&requests),
        requests_per_pull: requests.len() as f64 / (nodes * images) as f64,
        peak_rss_bytes: usage::peak_rss(pid)?,
        cpu_seconds,
        makespan_seconds: requests::makespan(&lives)?,
        optimal_seconds: optimal.as_secs_f64(),
        plans: plan_times.count(),
        plan_p50_seconds: plan_times.quantile(0.5),
        plan_p99_seconds: plan_times.quantile(0.99),
        etcd_bytes,
        idle_requests: idle.len() - idle_lease_requests - idle_watches_resumed,
        idle_lease_requests,
        idle_watches_resumed,
        idle_cpu_seconds,
    })
}

/// The shortest time that the policy allows, without a delay between nodes: a node pulls its
/// images one after another, however they are spread over Pods, and so many nodes are at it at
/// once that there are this many rounds.
fn optimal(nodes: usize, images: usize, max_concurrent_nodes: usize, pull: Duration) -> Duration {
    let rounds = nodes.div_ceil(max_concurrent_nodes);
    pull.mul_f64((rounds * images) as f64)
}

fn table(figures: &[Figures]) -> Result<String> {
    let mut table =
        "| nodes × images | per Pod | a pull takes | nodes at once | requests per pull | peak RSS | CPU | makespan \
        | of the optimum | plan p50 | plan p99 | etcd | idle minute: requests | CPU |\n\
        |---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for run in figures {
        writeln!(
            table,
            "| {} × {} | {} | {} s | {} | {:.2} | {:.1} MB | {:.1} s | {:.1} s | {:.2} | {:.2} ms | {:.2} ms | {:.0} MB | {} | {:.3} % |",
            run.nodes,
            run.images,
            run.images_per_pod,
            run.pull_seconds,
            run.max_concurrent_nodes,
            run.requests_per_pull,
            run.peak_rss_bytes as f64 / 1e6,
            run.cpu_seconds,
            run.makespan_seconds,
            run.makespan_seconds / run.optimal_seconds,
            run.plan_p50_seconds * 1e3,
            run.plan_p99_seconds * 1e3,
            run.etcd_bytes as f64 / 1e6,
            run.idle_requests,
            100.0 * run.idle_cpu_seconds / IDLE.as_secs_f64(),
        )?;
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_optimum_is_rounds_of_whole_nodes() {
        assert_eq!(optimal(500, 20, 50, PULLS[0]), Duration::from_secs(30));
        assert_eq!(optimal(51, 20, 50, PULLS[0]), Duration::from_secs(6));
    }

    #[test]
    fn sizes_are_written_with_an_x() {
        assert!(matches!("500x20".parse(), Ok(Size(500, 20))));
        for wrong in ["500", "x20", "0x20", "500x"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }
}
