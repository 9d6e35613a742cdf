//! Clocks of nodes that differ from the operator's.

use crate::common::duration;
use crate::{NOT_FOUND, nodes};
use drop_sim::{Kubelet, secs, under};

/// Kubelets whose clocks are behind, right, and ahead.
const SKEWS: [f64; 3] = [-300.0, 0.0, 300.0];

#[test]
fn a_skewed_kubelet_clock_lets_no_failing_image_be_tried_without_pause() {
    for skew in SKEWS {
        let mut lab = nodes(1);
        lab.title = format!("kubelets' clocks are {skew} s ahead");
        lab.knobs.kubelet_clock = secs(skew);
        lab.image("alpine", "alpine:1");
        lab.run(secs(20.0));
        lab.knobs.broken_images.insert("docker.io/library/alpine:1".to_owned(), NOT_FOUND.into());
        lab.node("b");
        lab.run(secs(200.0));
        let tries = lab.record.pods.iter().filter(|pod| &*pod.order.node == "b").count();
        assert!((3..=4).contains(&tries), "{}: {:?}", lab.title, lab.starts());
        assert_eq!(lab.shows("alpine"), "ImagePullBackOff 1/2", "{}", lab.title);
    }
}

#[test]
fn after_a_success_all_nodes_pull_whatever_the_kubelets_clocks_say() {
    for skew in SKEWS {
        let mut lab = nodes(6);
        lab.title = format!("kubelets' clocks are {skew} s ahead");
        lab.knobs.kubelet_clock = secs(skew);
        lab.policy("p", |policy| {
            policy.max_concurrent_nodes = 6;
            policy.min_delay_between_pulls = duration("0s");
        });
        lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), NOT_FOUND.into());
        lab.image_with("nope", "nope:1", under("p"));
        lab.run(secs(60.0));
        lab.repair();
        let tries = lab.record.pods.len();
        lab.settle();
        let starts: Vec<_> = lab.record.pods[tries..].iter().map(|pod| pod.at).collect();
        assert_eq!((starts.len(), lab.shows("nope").as_str()), (6, "Cached 6/6"), "{}", lab.title);
        assert!(starts[5].duration_since(starts[0]) < secs(10.0), "{}: {:?}", lab.title, lab.starts());
        let pulled_at = lab.status("nope").last_pulled_at.unwrap();
        assert!(lab.now.duration_since(pulled_at).abs() < secs(60.0), "{}: {pulled_at}", lab.title);
    }
}

#[test]
fn deadlines_hold_whatever_the_kubelets_clocks_say() {
    for skew in SKEWS {
        let of = |skew: f64| {
            let mut lab = nodes(1);
            lab.title = format!("kubelets' clocks are {skew} s ahead");
            lab.knobs.kubelet_clock = secs(skew);
            lab
        };
        let mut lab = of(skew);
        lab.knobs.pull = secs(100.0);
        lab.image("alpine", "alpine");
        lab.settle();
        assert_eq!((lab.starts().len(), lab.shows("alpine").as_str()), (1, "Cached 1/1"), "{}", lab.title);

        let mut lab = of(skew);
        lab.knobs.kubelets.insert("a".to_owned(), Kubelet::NoSandbox);
        lab.image("alpine", "alpine");
        lab.until(|lab| lab.record.pods.first().is_some_and(|pod| pod.deleted_at.is_some()));
        let after = lab.record.pods[0].deleted_at.unwrap().duration_since(lab.record.pods[0].at).as_secs_f64();
        assert!((119.0..123.0).contains(&after), "{}: no sandbox for {after} s", lab.title);

        let mut lab = of(skew);
        lab.policy("p", |policy| policy.pull_timeout = duration("1m"));
        lab.knobs.pull = secs(200.0);
        lab.image_with("huge", "huge", under("p"));
        lab.until(|lab| lab.record.pods.first().is_some_and(|pod| pod.deleted_at.is_some()));
        let after = lab.record.pods[0].deleted_at.unwrap().duration_since(lab.record.pods[0].at).as_secs_f64();
        assert!((59.0..63.0).contains(&after), "{}: it pulled for {after} s", lab.title);
    }
}

/// By how many minutes the operator's clock is set while it runs.
const JUMPS: [f64; 4] = [-30.0, -5.0, 5.0, 30.0];

#[test]
fn an_operator_whose_clock_is_set_goes_on_as_before() {
    for jump in JUMPS {
        let mut lab = nodes(4);
        lab.title = format!("the clock is set by {jump} minutes");
        lab.image("x", "x");
        lab.run(secs(12.0));
        lab.set_clocks(secs(jump * 60.0));
        lab.run(secs(28.0));
        assert_eq!(lab.starts(), ["0s a: x", "10s b: x", "20s c: x", "30s d: x"], "{}", lab.title);
        assert_eq!(lab.shows("x"), "Cached 4/4", "{}: no status is written", lab.title);
        lab.image("y", "y");
        lab.run(secs(60.0));
        assert_eq!(lab.shows("y"), "Cached 4/4", "{}: {:?}", lab.title, lab.starts());
    }
}

#[test]
fn no_pull_times_out_because_a_clock_is_set() {
    for jump in JUMPS {
        let mut lab = nodes(1);
        lab.title = format!("the clock is set by {jump} minutes");
        lab.policy("p", |policy| policy.pull_timeout = duration("10m"));
        lab.knobs.pull = secs(300.0);
        lab.image_with("x", "x", under("p"));
        lab.run(secs(60.0));
        lab.set_clocks(secs(jump * 60.0));
        lab.run(secs(300.0));
        assert_eq!(lab.shows("x"), "Cached 1/1", "{}: {:?}", lab.title, lab.reasons("x"));
        assert_eq!(lab.record.pods.len(), 1, "{}: {:?}", lab.title, lab.starts());
        assert!(!lab.reasons("x").contains(&"PullTimeout".to_owned()), "{}: {:?}", lab.title, lab.reasons("x"));
    }
}

#[test]
fn a_retry_waits_as_long_as_before_when_a_clock_is_set() {
    for jump in JUMPS {
        let mut lab = nodes(1);
        lab.title = format!("the clock is set by {jump} minutes");
        lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), NOT_FOUND.into());
        lab.image("nope", "nope:1");
        lab.run(secs(5.0));
        lab.set_clocks(secs(jump * 60.0));
        lab.run(secs(60.0));
        let tries: Vec<i64> = lab.record.pods.iter().map(|pod| pod.second()).collect();
        assert!(matches!(tries[..], [0, 27..=37]), "{}: {tries:?}", lab.title);
    }
}
