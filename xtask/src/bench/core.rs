//! `cargo xtask bench core`: runs the benchmark of `drop-core`, and writes the table of its fleets.
//!
//! A second fleet has four times the nodes of the first, a third eight times, and a fourth ten times the images on
//! each: the cost of an event must not depend on pairs that it does not concern.

use std::process::Stdio;

use anyhow::{Result, ensure};

use super::write_table;
use crate::{image, root};

/// Nodes, and pools that share 500 images.
const FLEETS: [(usize, usize); 4] = [(1_250, 10), (5_000, 10), (10_000, 5), (5_000, 1)];

const PAGE: &str = "docs/scale.md";
/// The table stands between them.
const MARKS: [&str; 2] = ["<!-- Written by `cargo xtask bench core`. -->\n", "<!-- End of core. -->\n"];

/// The rows of a fleet: names and values.
type Rows = Vec<(String, String)>;

pub(super) fn run() -> Result<()> {
    let mut columns = Vec::new();
    for (nodes, pools) in FLEETS {
        // Built as the binary of the image is, so that it has the same optimisation and the same allocator.
        let output = drop_testbed::cargo()
            .args(["bench", "--quiet", "--package", "drop-core", "--bench", "fleets", "--target", image::target()?])
            .args(["--", &nodes.to_string(), &pools.to_string()])
            .current_dir(root()?)
            .stderr(Stdio::inherit())
            .output()?;
        ensure!(output.status.success(), "{nodes} nodes: {}", output.status);
        let rows = String::from_utf8(output.stdout)?;
        let rows = rows.lines().filter_map(|line| line.split_once('\t'));
        let rows: Rows = rows.map(|(what, cell)| (what.to_owned(), cell.to_owned())).collect();
        columns.push((format!("{nodes} nodes"), rows));
    }
    let table = table(&columns);
    print!("{table}");
    write_table(PAGE, MARKS, &table)
}

/// A column for each fleet.
fn table(columns: &[(String, Rows)]) -> String {
    let titles: String = columns.iter().map(|(title, _)| format!(" {title} |")).collect();
    let mut table = format!("| |{titles}\n|---|{}\n", "---|".repeat(columns.len()));
    let first = columns.first().map(|(_, rows)| rows.as_slice()).unwrap_or_default();
    for (index, (what, _)) in first.iter().enumerate() {
        let cells = columns.iter().filter_map(|(_, rows)| rows.get(index));
        let cells: String = cells.map(|(_, cell)| format!(" {cell} |")).collect();
        table += &format!("| {what} |{cells}\n");
    }
    table
}
