//! Scenarios: what a node's list of images proves.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "these are tests")]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod common;

use std::sync::Arc;

use common::Lab;
use drop_core::inventory::{Inventory, Listed, MAX_NAMES};
use drop_core::reference::Reference;
use drop_sim::secs;

const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000007";

/// Lets a node list images of these names and sizes.
fn list(lab: &mut Lab, node: &str, images: &[(&[&str], u64)]) {
    let listed = images.iter().map(|(names, size)| {
        let is_cut = names.len() >= MAX_NAMES;
        Arc::new(Listed { names: names.iter().map(|name| Reference::parse(name)).collect(), is_cut, size: *size })
    });
    let inventory = Inventory::new(listed.collect());
    lab.edit_node(node, |node| node.inventory = inventory);
}

#[test]
fn a_tag_beyond_the_names_that_a_kubelet_lists_is_not_evicted() {
    let mut lab = Lab::with_nodes(&["a"]);
    let tags = ["1", "1.2", "1.2.3", "latest", "main", "stable"].map(|tag| format!("r.example/app:{tag}"));
    for (number, tag) in tags.iter().enumerate() {
        lab.image(&format!("app-{number}"), tag);
    }
    lab.run(secs(120.0));
    assert_eq!(lab.record.pods.len(), 6, "{:?}", lab.starts());
    let by_digest = format!("r.example/app@{DIGEST}");
    let names: Vec<&str> = [&by_digest].into_iter().chain(&tags[..4]).map(String::as_str).collect();
    list(&mut lab, "a", &[(&names, 100)]);
    lab.run(secs(12.0 * 3600.0));
    assert_eq!(lab.record.pods.len(), 6, "{:?}", lab.starts());
    let shown: Vec<String> = (0..6).map(|number| lab.shows(&format!("app-{number}"))).collect();
    assert_eq!(shown, ["Cached 1/1"; 6]);
    // Without an entry that could be it, it is gone.
    list(&mut lab, "a", &[(&names[..4], 100)]);
    lab.run(secs(1.0));
    assert_eq!(lab.shows("app-5"), "Evicted 0/1");
}
