//! Scenarios: pull Pods that an older operator left behind, that other clients change or delete, or that hang.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod common;

use std::sync::Arc;

use common::{Lab, duration};
use drop_api::NodeCache;
use drop_api::cached_image::LocalObjectReference;
use drop_api::cached_image_set::ImageEntry;
use drop_api::node_cache::{Failure, FailureScope, ImageRecord, NodeCacheSpec, PullStart};
use drop_core::Event;
use drop_core::inventory::{Inventory, Listed};
use drop_core::reference::Reference;
use drop_sim::{Kubelet, secs, under};
use jiff::SignedDuration;

/// Adds a Pod of an older operator, which belongs to no known machine.
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

#[test]
fn what_a_leader_wrote_whose_clock_was_ahead_delays_nothing_for_longer() {
    let mut lab = Lab::with_nodes(&["a", "b"]);
    lab.stop(false);
    let spec = NodeCacheSpec { node_uid: lab.api.nodes["a"].uid.to_string() };
    let mut cache = NodeCache::new("a", spec);
    let at = lab.now + SignedDuration::from_hours(1);
    let status = cache.status.get_or_insert_default();
    status.pull_starts.push(PullStart { policy: String::new(), at });
    let failure = Failure {
        reason: "ErrImagePull".to_owned(),
        message: "image not found".to_owned(),
        scope: FailureScope::Image,
        count: 1,
        rounds: None,
        since: None,
        at,
        retry_at: None,
    };
    let image = "docker.io/library/x:1".to_owned();
    status.images.push(ImageRecord { image, attempts: 1, failure: Some(failure), ..ImageRecord::default() });
    lab.api.caches.insert("a".to_owned(), cache);
    lab.image("x", "x:1");
    lab.start();
    lab.run(secs(120.0));
    assert_eq!(lab.shows("x"), "Cached 2/2");
}

#[test]
fn a_pod_that_was_created_by_a_clock_ahead_delays_nothing_for_longer() {
    let mut lab = Lab::with_nodes(&["a", "b"]);
    lab.stop(false);
    lab.knobs.kubelets.insert("a".to_owned(), Kubelet::Silent);
    lab.policy("p", |policy| policy.max_concurrent_nodes = 2);
    lab.stray_pod("early", "a", "x:1");
    let created_at = lab.now + SignedDuration::from_hours(1);
    let pod = &mut lab.api.pods.get_mut("early").unwrap().pod;
    (pod.created_at, pod.policy) = (created_at, "p".into());
    lab.image_with("x", "x:1", under("p"));
    lab.start();
    lab.run(secs(30.0));
    assert_eq!(lab.starts(), ["10s b: x"]);
}

#[test]
fn an_image_that_hangs_does_not_fail_those_that_share_its_pod() {
    for images in [["fine:1", "fine:2", "hang:1"], ["hang:1", "fine:1", "fine:2"]] {
        let mut lab = Lab::with_nodes(&["a"]);
        lab.policy("p", |policy| policy.pull_timeout = duration("1m"));
        lab.knobs.pulls.insert("docker.io/library/hang:1".to_owned(), secs(90.0));
        lab.set("s", |set| {
            set.images = images.map(|image| ImageEntry { image: image.to_owned(), ..ImageEntry::default() }).into();
            set.policy_ref = Some(LocalObjectReference { name: "p".to_owned() });
        });
        lab.run(secs(600.0));
        let counts: Vec<_> = lab.record.pods.iter().map(|pod| pod.order.pulls.len()).collect();
        assert_eq!(counts[..4], [3, 1, 1, 1], "a Pod that shows no progress does not tell which image hangs");
        assert!(counts[4..].iter().all(|count| *count == 1));
        for name in lab.api.images.keys() {
            let has_timed_out = lab.reasons(name).contains(&"PullTimeout".to_owned());
            assert_eq!(has_timed_out, name.contains("hang"), "{name}: {:?}", lab.reasons(name));
            assert!(has_timed_out || lab.shows(name) == "Cached 1/1", "{name}: {}", lab.shows(name));
        }
    }
}

#[test]
fn what_admission_lets_a_node_pull_from_a_proxy_is_there_under_the_name_of_the_proxy() {
    let mut lab = Lab::with_nodes(&["a"]);
    let proxied = Reference::parse("proxy.local/library/x:1");
    let name = proxied.clone();
    lab.knobs.mishear = Box::new(move |event| {
        if let Event::Pod(pod) = event {
            pod.containers.iter_mut().for_each(|container| container.pulled_as = Some(name.clone()));
        }
    });
    let list = |lab: &mut Lab, name: &Reference| {
        let listed = Arc::new(Listed { names: [name.clone()].into(), is_cut: false, size: 7 });
        lab.edit_node("a", |node| node.inventory = Inventory::new(vec![listed]));
    };
    lab.image("x", "x:1");
    lab.run(secs(10.0));
    list(&mut lab, &proxied);
    lab.run(secs(600.0));
    assert_eq!((lab.record.pods.len(), lab.shows("x").as_str()), (1, "Cached 1/1"));
    let record = lab.api.caches["a"].status.as_ref().unwrap().images[0].clone();
    assert_eq!((record.image.as_str(), record.pulled_as), ("docker.io/library/x:1", Some(proxied.to_string())));
    list(&mut lab, &Reference::parse("other:1"));
    lab.run(secs(1.0));
    assert_eq!(lab.shows("x"), "Evicted 0/1");
}

#[test]
fn a_pod_that_somebody_deletes_each_time_is_made_again_ever_more_slowly() {
    let mut lab = Lab::with_nodes(&["a"]);
    lab.knobs.pulls.insert("docker.io/library/x:1".to_owned(), secs(2.0));
    lab.image("x", "x:1");
    for _ in 0..1200 {
        lab.run(secs(0.5));
        let pods: Vec<_> = lab.api.pods.keys().cloned().collect();
        pods.iter().for_each(|pod| lab.delete_pod(pod));
    }
    assert_eq!(lab.shows("x"), "PodDeleted 0/1");
    assert_eq!(lab.message("x"), "a: its Pod was deleted by somebody else");
    assert!((3..8).contains(&lab.record.pods.len()), "{:?}", lab.starts());
    lab.image("y", "quay.io/y:1");
    lab.run(secs(20.0));
    assert_eq!(lab.shows("y"), "Cached 1/1");
    lab.settle();
    assert_eq!(lab.shows("x"), "Cached 1/1");
}
