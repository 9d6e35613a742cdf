//! How soon nodes that join get their first Pod: docs/scale.md.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_testbed::AuditEvent;
use jiff::Timestamp;

use super::lab::{Lab, say};
use super::{requests, write_table};
use crate::image;

const PAGE: &str = "docs/scale.md";
/// What the table stands between.
const MARKS: [&str; 2] = ["<!-- Written by `cargo xtask bench joins`. -->\n", "<!-- End of joins. -->\n"];

const NODES: usize = 100;
const IMAGES: usize = 20;
/// How long the pull of one image takes.
const PULL: Duration = Duration::from_millis(150);
const LIMIT: Duration = Duration::from_secs(120);

/// The nodes that may pull at once: all of them, and fewer.
const CAPS: [i64; 2] = [100, 30];

/// Measures, shows the table and writes it into the page.
pub(super) fn run() -> Result<()> {
    let binary = image::build()?;
    let mut table =
        "| nodes at once: allowed | seen | 100 nodes joined within | first Pod of a node after: median | worst \
        | the first node's |\n|---|---|---|---|---|---|\n"
            .to_owned();
    for cap in CAPS {
        say(&format!("{NODES} nodes join, {cap} may pull at once"));
        let joined = measure(&binary, cap)?;
        let waits = &joined.waits;
        let at = |index: usize| waits.get(index).copied().unwrap_or_default();
        let [median, worst] = [at(waits.len() / 2), at(waits.len() - 1)];
        writeln!(
            table,
            "| {cap} | {} | {:.2} s | {median:.2} s | {worst:.2} s | {:.2} s |",
            joined.most, joined.within, joined.first
        )?;
    }
    print!("{table}");
    write_table(PAGE, MARKS, &table)
}

struct Joined {
    /// The most nodes that pulled at once.
    most: i64,
    /// Seconds from the first node's creation to the last one's.
    within: f64,
    /// Seconds from each node's creation to that of its first Pod, the shortest first.
    waits: Vec<f64>,
    /// Seconds from the first node's creation to that of the first Pod.
    first: f64,
}

fn measure(binary: &Path, cap: i64) -> Result<Joined> {
    let lab = Lab::start(binary, 0, 0, PULL)?;
    // A node counts from its creation on, not from the moment that it loses the taint not-ready.
    let policy = format!(
        "{{maxConcurrentNodes: {cap}, minDelayBetweenPulls: 0s, imagesPerPod: {IMAGES}, hostNetwork: NotReadyNodes}}"
    );
    lab.apply(IMAGES, &policy)?;
    let children = format!("--for=jsonpath={{.status.imagesManaged}}={IMAGES}");
    lab.cluster.kubectl(&["wait", &children, "--timeout=60s", "cachedimageset", "--all"])?;
    lab.join("node", NODES)?;
    lab.wait_cached(NODES, LIMIT)?;

    let audit = lab.cluster.audit()?;
    let nodes = creations(&audit);
    let begun = nodes.values().min().copied().context("no node was created")?;
    let ended = nodes.values().max().copied().context("no node was created")?;
    let requests = requests::of_operator(audit);
    let lives = requests::lives(&requests);
    let most = requests::most_at_once(&lives);
    ensure!(most <= cap, "{most} nodes at once, {cap} allowed");
    let mut waits = Vec::new();
    for (pod, node) in starts(&fs::read_to_string(lab.operator.log())?) {
        let (from, _) = lives.get(pod.as_str()).with_context(|| format!("{pod} was not created"))?;
        let node = nodes.get(&node).with_context(|| format!("{node} was not created"))?;
        waits.push(from.duration_since(*node).as_secs_f64());
    }
    ensure!(waits.len() == NODES, "{} Pods for {NODES} nodes", waits.len());
    waits.sort_by(f64::total_cmp);
    let first = lives.values().map(|(from, _)| *from).min().context("no Pod was created")?;
    Ok(Joined {
        most,
        within: ended.duration_since(begun).as_secs_f64(),
        waits,
        first: first.duration_since(begun).as_secs_f64(),
    })
}

/// When the creation of each node was asked for.
fn creations(audit: &[AuditEvent]) -> BTreeMap<String, Timestamp> {
    let created = audit.iter().filter(|event| event.verb == "create" && event.resource == "nodes" && event.code == 201);
    created.map(|event| (event.name.clone(), event.request_received)).collect()
}

/// Pods and their nodes, as the operator's log tells.
fn starts(log: &str) -> Vec<(String, String)> {
    let field = |line: &str, name: &str| line.split(' ').find_map(|word| word.strip_prefix(name)).map(str::to_owned);
    let lines = log.lines().filter(|line| line.contains("pull started"));
    lines.filter_map(|line| Some((field(line, "pod=")?, field(line, "node=")?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_which_pod_is_on_which_node() {
        let log = "2026-01-01T00:00:00Z  INFO pull started pod=bench-x node=node-1 policy=bench images=[\"a\"]\n\
                   2026-01-01T00:00:00Z  INFO pull Pod deleted pod=bench-x force=false\n";
        assert_eq!(starts(log), [("bench-x".to_owned(), "node-1".to_owned())]);
    }
}
