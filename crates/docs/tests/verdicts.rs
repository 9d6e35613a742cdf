//! The verdicts of `/debug/plan` are those that docs/troubleshooting.md explains.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeSet;
use std::fs;

use drop_docs::root;

#[test]
fn every_verdict_is_explained_and_no_other() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    // `Self::Paused { .. } => "Paused",`
    let code = read("crates/core/src/gate/verdict.rs");
    let known: BTreeSet<&str> = code
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Self::")?.split_once(" => \"")?.1.strip_suffix("\","))
        .collect();
    let page = read("docs/troubleshooting.md");
    let table = page.split_once("| verdict |").unwrap().1;
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let explained: BTreeSet<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
    assert!(known.len() > 20, "{known:?}");
    assert_eq!(explained, known);
}
