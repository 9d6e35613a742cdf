//! How nodes get an image, at which pace, and how many requests it takes.

use std::collections::BTreeMap;

use crate::common::duration;
use crate::nodes;
use drop_api::cached_image::{ImagePullPolicy, Phase};
use drop_core::effect::EffectKey;
use drop_sim::{secs, under};

#[test]
fn quickstart() {
    let mut lab = nodes(2);
    lab.image("alpine", "alpine:3.20");
    lab.settle();
    assert_eq!(lab.starts(), ["0s a: alpine", "10s b: alpine"]);
    let reasons = lab.reasons("alpine");
    assert_eq!((reasons[0].as_str(), reasons.last().unwrap().as_str()), ("Pulling", "Cached"), "{reasons:?}");
    assert_eq!(lab.shows("alpine"), "Cached 2/2");
    assert_eq!(lab.message("alpine"), "cached on 2/2 nodes");
    let status = lab.status("alpine");
    assert_eq!((status.nodes_pulling, status.nodes_failed, status.consecutive_failures), (0, 0, 0));
    assert_eq!((status.phase, status.observed_generation), (Some(Phase::Ready), Some(1)));
    assert!(status.resolved_digest.unwrap().starts_with("sha256:"));
    assert!(status.last_pulled_at.is_some() && status.last_attempted_at == status.last_pulled_at);
    let cache = lab.api.caches["b"].status.clone().unwrap();
    assert_eq!((cache.ready.as_str(), cache.images[0].attempts), ("1/1", 1));
    assert_eq!(cache.images[0].image, "docker.io/library/alpine:3.20");
    assert_eq!(cache.images[0].pull_duration.as_ref().unwrap().to_string(), "5s");
}

#[test]
fn while_a_node_pulls_the_status_says_where() {
    let mut lab = nodes(2);
    lab.knobs.pull = secs(60.0);
    lab.image("alpine", "alpine:3.20");
    lab.run(secs(30.0));
    assert_eq!(lab.shows("alpine"), "Pulling 0/2");
    assert_eq!(lab.message("alpine"), "0/2 nodes cached; pulling on a");
    assert_eq!(lab.status("alpine").nodes_pulling, 1);
    assert_eq!(lab.explained()[1], "alpine on b: the built-in pull policy allows 1 nodes at once");
}

#[test]
fn no_more_nodes_pull_at_once_than_the_policy_allows() {
    let mut lab = nodes(5);
    lab.knobs.pull = secs(100.0);
    lab.policy("two", |policy| policy.max_concurrent_nodes = 2);
    lab.image_with("alpine", "alpine", under("two"));
    lab.settle();
    // From the plan to the record of a Pod it takes 100 s of pull, 0.5 s before and 1 s after.
    assert_eq!(lab.starts(), ["0s a: alpine", "10s b: alpine", "101s c: alpine", "111s d: alpine", "203s e: alpine"]);
}

#[test]
fn no_more_pods_pull_at_once_than_the_policy_allows() {
    let mut lab = nodes(3);
    lab.knobs.pull = secs(20.0);
    lab.policy("p", |policy| {
        policy.max_concurrent_nodes = 3;
        policy.max_concurrent_pulls = Some(2);
        policy.min_delay_between_pulls = duration("0s");
    });
    lab.image_with("alpine", "alpine", under("p"));
    lab.settle();
    assert_eq!(lab.starts(), ["0s a: alpine", "0s b: alpine", "21s c: alpine"]);
}

#[test]
fn one_registry_that_is_busy_does_not_keep_nodes_from_pulling_from_another() {
    let mut lab = nodes(2);
    lab.knobs.pull = secs(20.0);
    lab.policy("p", |policy| {
        policy.max_concurrent_nodes = 2;
        policy.max_concurrent_pulls_per_registry = Some(1);
        policy.min_delay_between_pulls = duration("0s");
    });
    lab.image_with("hub", "alpine", under("p"));
    lab.image_with("quay", "quay.io/a/b", under("p"));
    lab.settle();
    assert_eq!(lab.starts(), ["0s a: hub", "0s b: quay", "21s b: hub", "21s a: quay"]);
}

#[test]
fn a_turn_has_one_delay_however_many_pods_it_takes() {
    let mut lab = nodes(2);
    lab.image("x1", "x1");
    lab.image("x2", "x2");
    lab.image("x3", "x3");
    lab.knobs.pull = secs(2.0);
    lab.settle();
    let starts = lab.starts();
    assert_eq!(starts[..3], ["0s a: x1", "3s a: x2", "7s a: x3"], "no delay inside a turn");
    assert!(starts[3..].iter().all(|start| start.contains(" b: ")), "{starts:?}");
    let (a, b) = (&lab.record.pods[0], &lab.record.pods[3]);
    assert!(b.at.duration_since(a.at) >= secs(10.0), "{starts:?}");
}

#[test]
fn a_long_turn_does_not_keep_other_nodes_from_beginning() {
    let mut lab = nodes(2);
    lab.knobs.pull = secs(2.0);
    lab.policy("p", |policy| policy.max_concurrent_nodes = 2);
    for n in 0..10 {
        lab.image_with(&format!("x{n}"), &format!("x{n}"), under("p"));
    }
    lab.settle();
    let begins = lab.record.pods.iter().filter(|pod| pod.order.begins_turn());
    let begins: Vec<_> = begins.map(ToString::to_string).collect();
    assert_eq!(begins, ["0s a: x0", "10s b: x0"], "the delay counts from the beginning of a turn");
}

#[test]
fn images_of_a_set_share_pods_and_others_do_not() {
    let mut lab = nodes(1);
    lab.policy("p", |policy| policy.images_per_pod = 3);
    for n in 0..5 {
        lab.image_of_set("web", &format!("web-{n}"), &format!("web{n}"), under("p"));
    }
    lab.image_with("alone-1", "alone1", under("p"));
    lab.image_with("alone-2", "alone2", under("p"));
    lab.settle();
    // The four Pods take 5, 5, 15 and 10 seconds of pulls, one after another.
    assert_eq!(lab.starts(), ["0s a: alone-1", "6s a: alone-2", "13s a: web-0 web-1 web-2", "29s a: web-3 web-4"]);
    assert_eq!(lab.record.pods[2].order.set.as_deref(), Some("web"));
    assert_eq!(lab.shows("web-4"), "Cached 1/1");
}

#[test]
fn the_node_with_the_most_urgent_image_goes_first() {
    let mut lab = nodes(2);
    lab.policy("p", |policy| policy.paused = true);
    lab.image_with("everywhere", "alpine", under("p"));
    lab.edit_node("b", |node| drop(node.labels.insert("pool".into(), "gpu".into())));
    lab.image_with("urgent", "cuda", |spec| {
        spec.priority = -1;
        spec.node_selector.insert("pool".to_owned(), "gpu".to_owned());
        under("p")(spec);
    });
    lab.run(secs(1.0));
    lab.policy("p", |policy| policy.paused = false);
    lab.settle();
    assert_eq!(lab.starts()[..2], ["1s b: urgent", "7s b: everywhere"]);
}

#[test]
fn one_image_on_one_node_costs_three_requests_and_few_status_writes() {
    let mut lab = nodes(1);
    lab.policy("p", |_| {});
    lab.run(secs(20.0));
    let before = lab.record.requests.len();
    lab.image_with("alpine", "alpine", under("p"));
    lab.settle();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, key) in &lab.record.requests[before..] {
        *counts
            .entry(match key {
                EffectKey::CreatePod(_) => "create",
                EffectKey::DeletePod(_) | EffectKey::KillPod(_) => "delete",
                EffectKey::CheckPod(_) => "check",
                EffectKey::Record(_) => "record",
                EffectKey::Image(_) => "image status",
                EffectKey::Policy(_) => "policy status",
                EffectKey::Child { .. } => "child",
                EffectKey::Set(_) => "set status",
                EffectKey::Discovery(_) => "discovery",
                EffectKey::LookUp(_) => "lookup",
                EffectKey::DiscoveryStatus(_) => "discovery status",
                EffectKey::Tell(..) => "event",
            })
            .or_default() += 1;
    }
    let few = counts.remove("policy status").unwrap();
    assert!(few <= 3, "{few} writes of the policy's status");
    let expected = [("create", 1), ("delete", 1), ("event", 1), ("image status", 2), ("record", 1)];
    assert_eq!(counts, expected.into());
}

#[test]
fn a_converged_world_does_nothing_and_wakes_never() {
    let mut lab = nodes(3);
    lab.image("alpine", "alpine");
    lab.image("never", "never");
    lab.edit_image("never", |spec| spec.image_pull_policy = ImagePullPolicy::Never);
    lab.settle();
    let requests = lab.record.requests.len();
    lab.run(secs(86_400.0));
    assert_eq!(lab.record.requests.len(), requests);
    lab.restart(true);
    lab.settle();
    let new = &lab.record.requests[requests..];
    assert!(new.is_empty(), "a restart writes nothing: {new:?}");
}

#[test]
fn of_nodes_with_images_of_one_priority_the_one_with_the_more_urgent_image_goes_first() {
    for (first, second) in [("a", "b"), ("b", "a")] {
        let mut lab = nodes(2);
        lab.policy("p", |policy| policy.paused = true);
        for (node, image) in [(first, "alpha"), (second, "beta")] {
            lab.edit_node(node, |it| drop(it.labels.insert("on".into(), node.into())));
            lab.image_with(image, image, |spec| {
                spec.node_selector.insert("on".to_owned(), node.to_owned());
                under("p")(spec);
            });
        }
        lab.run(secs(1.0));
        lab.policy("p", |policy| policy.paused = false);
        lab.settle();
        let expected = [format!("1s {first}: alpha"), format!("11s {second}: beta")];
        assert_eq!(lab.starts(), expected, "alpha is the more urgent one of the two");
    }
}
