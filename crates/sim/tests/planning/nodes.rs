//! Nodes that join, leave, are cordoned, or are no targets.

use crate::common::Lab;
use crate::{fate, nodes, records};
use drop_api::cached_image::ImagePullPolicy;
use drop_sim::{Fate, Kubelet, secs, under};

#[test]
fn where_an_image_matches_nowhere_the_message_follows_the_nodes() {
    let mut lab = nodes(1);
    lab.image_with("gpu", "cuda", |spec| drop(spec.node_selector.insert("pool".to_owned(), "gpu".to_owned())));
    lab.settle();
    lab.node("b");
    lab.settle();
    assert_eq!(lab.message("gpu"), "none of 2 nodes is a target; a: label pool=gpu is missing");
    lab.remove_node("a");
    lab.settle();
    assert_eq!(lab.message("gpu"), "none of 1 node is a target; b: label pool=gpu is missing");
}

#[test]
fn an_image_that_no_node_matches_says_so() {
    let mut lab = nodes(2);
    lab.image_with("gpu", "cuda", |spec| drop(spec.node_selector.insert("pool".to_owned(), "gpu".to_owned())));
    lab.settle();
    assert_eq!(lab.shows("gpu"), "NoMatchingNodes 0/0");
    assert_eq!(lab.message("gpu"), "none of 2 nodes is a target; a: label pool=gpu is missing");
    lab.edit_node("b", |node| drop(node.labels.insert("pool".into(), "gpu".into())));
    lab.settle();
    assert_eq!(lab.shows("gpu"), "Cached 1/1");
}

#[test]
fn labels_of_image_and_policy_must_both_hold() {
    let mut lab = nodes(2);
    lab.edit_node("a", |node| drop(node.labels.insert("pool".into(), "gpu".into())));
    lab.edit_node("b", |node| drop(node.labels.insert("pool".into(), "build".into())));
    lab.policy("p", |policy| drop(policy.node_selector.insert("pool".to_owned(), "build".to_owned())));
    lab.image_with("x", "x:1", |image| {
        under("p")(image);
        image.node_selector.insert("pool".to_owned(), "gpu".to_owned());
    });
    lab.settle();
    assert_eq!((lab.starts(), lab.shows("x").as_str()), (vec![], "NoMatchingNodes 0/0"));
    assert_eq!(lab.message("x"), "none of 2 nodes is a target; a: label pool=build is missing");
}

#[test]
fn what_is_not_tried_does_not_fail_with_its_node() {
    let mut lab = nodes(1);
    lab.knobs.kubelets.insert("a".to_owned(), Kubelet::Rejects(("OutOfpods", "full").into()));
    lab.image("x", "x:1");
    lab.image_with("never", "y:1", |image| image.image_pull_policy = ImagePullPolicy::Never);
    lab.policy("idle", |policy| policy.paused = true);
    lab.image_with("idle", "z:1", under("idle"));
    lab.run(secs(60.0));
    assert_eq!(lab.status("never").nodes_failed, 0);
    assert_eq!(lab.shows("idle"), "Paused 0/1");
}

#[test]
fn without_nodes_nothing_matches() {
    let mut lab = nodes(0);
    lab.image("alpine", "alpine");
    lab.settle();
    assert_eq!(
        (lab.shows("alpine").as_str(), lab.message("alpine").as_str()),
        ("NoMatchingNodes 0/0", "the cluster has no nodes")
    );
}

#[test]
fn a_cordoned_node_is_left_out_and_loses_nothing() {
    let mut lab = nodes(2);
    lab.edit_node("b", |node| node.unschedulable = true);
    lab.image("alpine", "alpine");
    lab.settle();
    assert_eq!((lab.starts(), lab.shows("alpine")), (vec!["0s a: alpine".to_owned()], "Cached 1/1".to_owned()));
    lab.edit_node("a", |node| node.unschedulable = true);
    lab.edit_node("b", |node| node.unschedulable = false);
    lab.settle();
    lab.edit_node("a", |node| node.unschedulable = false);
    lab.settle();
    assert_eq!((lab.record.pods.len(), lab.shows("alpine").as_str()), (2, "Cached 2/2"));
}

#[test]
fn a_node_that_is_no_target_now_records_what_is_not_wanted_there_any_more() {
    let remembers = |lab: &Lab| lab.api.caches["a"].status.as_ref().unwrap().images[0].unwanted_since.is_none();
    let ends: [fn(&mut Lab); 2] = [
        |lab| lab.delete_image("alpine"),
        |lab| lab.edit_image("alpine", |image| drop(image.node_selector.insert("pool".to_owned(), "gpu".to_owned()))),
    ];
    for end in ends {
        let mut lab = nodes(1);
        lab.image("alpine", "alpine");
        lab.settle();
        lab.disconnect("a");
        lab.settle();
        assert!(remembers(&lab), "its network may come back");
        end(&mut lab);
        lab.settle();
        assert!(!remembers(&lab));
    }
}

#[test]
fn a_node_that_is_deleted_mid_pull_frees_its_slot() {
    let mut lab = nodes(2);
    lab.knobs.pull = secs(600.0);
    lab.image("alpine", "alpine");
    lab.run(secs(20.0));
    lab.remove_node("a");
    lab.run(secs(40.0));
    assert_eq!(lab.starts(), ["0s a: alpine", "24s b: alpine"]);
    assert_eq!(lab.shows("alpine"), "Pulling 0/1");
    lab.settle();
    assert_eq!(lab.shows("alpine"), "Cached 1/1");
}

#[test]
fn another_machine_under_the_same_name_starts_empty() {
    let mut lab = nodes(1);
    lab.image("alpine", "alpine");
    lab.settle();
    lab.remove_node("a");
    lab.run(secs(1.0));
    lab.node("a");
    lab.settle();
    assert_eq!(lab.record.pods.len(), 2);
    assert_ne!(lab.record.pods[0].order.name, lab.record.pods[1].order.name);
    assert_eq!(lab.shows("alpine"), "Cached 1/1");
    let cache = &lab.api.caches["a"];
    assert_eq!(cache.spec.node_uid, *lab.api.nodes["a"].uid);
    assert_eq!(cache.status.clone().unwrap().images[0].attempts, 1, "nothing is inherited");
}

#[test]
fn an_answer_that_comes_after_its_node_cache_is_gone_tells_nothing() {
    let mut lab = nodes(1);
    fate(&mut lab, Fate::Late(secs(4.5)), 1, records);
    lab.image("alpine", "alpine");
    lab.run(secs(10.3));
    assert!(lab.api.caches.contains_key("a"), "it was written, and the answer is on its way");
    lab.remove_node("a");
    lab.node("a");
    lab.settle();
    assert_eq!((lab.shows("alpine").as_str(), lab.record.pods.len()), ("Cached 1/1", 2));
}

#[test]
fn what_was_pulled_onto_a_machine_is_not_recorded_for_its_successor() {
    let mut lab = nodes(1);
    lab.image("alpine", "alpine");
    // The Pod has ended, but its outcome is not recorded when the machine changes.
    fate(&mut lab, Fate::Refused("not now"), 2, records);
    lab.run(secs(6.0));
    lab.remove_node("a");
    lab.node("a");
    lab.settle();
    assert_eq!(lab.record.pods.len(), 2, "the successor pulls for itself");
    assert_eq!(lab.shows("alpine"), "Cached 1/1");
}
