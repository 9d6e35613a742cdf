//! How long the operator takes until it is ready, and how much memory: docs/scale.md.

use std::time::Duration;

use anyhow::Result;

use super::lab::{Lab, say};
use super::{usage, write_table};
use crate::image;

const PAGE: &str = "docs/scale.md";
/// What the table stands between.
const MARKS: [&str; 2] = ["<!-- Written by `cargo xtask bench start`. -->\n", "<!-- End of start. -->\n"];

const NODES: usize = 5_000;
/// Images that each node lists: the kubelet's usual limit.
const LISTED: usize = 50;
/// Nothing is pulled.
const PULL: Duration = Duration::from_millis(150);

/// Measures, shows the table and writes it into the page.
pub(super) fn run() -> Result<()> {
    let binary = image::build()?;
    say(&format!("{NODES} nodes that list {LISTED} images each"));
    let lab = Lab::start(&binary, NODES, LISTED, PULL)?;
    let page = lab.cluster.kubectl(&["get", "--raw", "/api/v1/nodes?limit=100"])?;
    let table = format!(
        "| nodes | images that each lists | JSON of a Node | start to `/readyz` | CPU | peak RSS |\n|---|---|---|---|---|---|\n\
         | {NODES} | {LISTED} | {:.1} kB | {:.2} s | {:.2} s | {:.1} MB |\n",
        page.len() as f64 / 100.0 / 1e3,
        lab.operator.ready_after().as_secs_f64(),
        usage::cpu_seconds(lab.operator.pid())?,
        usage::peak_rss(lab.operator.pid())? as f64 / 1e6,
    );
    print!("{table}");
    write_table(PAGE, MARKS, &table)
}
