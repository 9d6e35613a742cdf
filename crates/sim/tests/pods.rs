//! Scenarios: what becomes of pull Pods that an older operator left, that others change or delete, or that hang.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod common;

use common::{Lab, duration};
use drop_sim::{secs, under};

/// A Pod of an older operator, which belongs to no machine that is known.
fn older_pod(lab: &mut Lab, node: &str) {
    lab.stray_pod("old", node, "old:1");
    lab.api.pods.get_mut("old").unwrap().pod.node_uid = "".into();
}

#[test]
fn a_pod_of_an_older_operator_on_a_lost_node_frees_its_slot() {
    let mut lab = Lab::with_nodes(&["a", "b"]);
    lab.stop(false);
    older_pod(&mut lab, "a");
    lab.lose("a");
    lab.image("x", "x:1");
    lab.start();
    lab.run(secs(3600.0));
    assert_eq!(lab.shows("x"), "Waiting 1/2");
    assert!(lab.api.pods.is_empty(), "its kubelet will never say that it is over");
}

#[test]
fn a_machine_that_takes_the_name_of_another_waits_for_the_delay() {
    let mut lab = Lab::with_nodes(&["a"]);
    lab.policy("p", |policy| policy.min_delay_between_pulls = duration("10m"));
    lab.image_with("x", "x:1", under("p"));
    lab.run(secs(30.0));
    lab.remove_node("a");
    lab.run(secs(10.0));
    lab.node("a");
    lab.run(secs(60.0));
    assert_eq!(lab.starts(), ["0s a: x"]);
    lab.run(secs(600.0));
    assert_eq!(lab.starts(), ["0s a: x", "600s a: x"]);
}
