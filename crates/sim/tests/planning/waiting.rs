//! Every waiting pull gets its turn.

use crate::common::{Lab, duration};
use crate::{NOT_FOUND, nodes};
use drop_api::CachedImageSpec;
use drop_api::cached_image::LocalObjectReference;
use drop_sim::{secs, under};

/// Adds `count` nodes with the label `pool=fresh`, one every 40 s.
fn join(lab: &mut Lab, count: usize) {
    for n in 0..count {
        let name = format!("fresh-{n:02}");
        lab.node(&name);
        lab.edit_node(&name, |node| drop(node.labels.insert("pool".into(), "fresh".into())));
        lab.run(secs(40.0));
    }
}

#[test]
fn a_node_is_not_starved_by_nodes_that_join() {
    let mut lab = Lab::with_nodes(&["old"]);
    lab.image("alpine", "alpine");
    lab.run(secs(30.0));
    lab.knobs.pulls.insert("docker.io/library/big:latest".to_owned(), secs(50.0));
    lab.node("first");
    lab.run(secs(1.0));
    lab.image("big", "big");
    let since = lab.now;
    join(&mut lab, 20);
    let pods = lab.pods_of("big");
    let start = pods.iter().find(|pod| &*pod.order.node == "old").map(|pod| pod.at.duration_since(since));
    assert!(start.is_some_and(|start| start < secs(120.0)), "{:?}", lab.starts());
}

#[test]
fn an_image_does_not_yield_to_those_of_lesser_names_for_ever() {
    let mut lab = Lab::with_nodes(&["first"]);
    lab.edit_node("first", |node| drop(node.labels.insert("pool".into(), "fresh".into())));
    lab.knobs.pull = secs(50.0);
    for (image, pool) in [("alpha", "fresh"), ("zeta", "zeta")] {
        lab.image_with(image, image, |spec| drop(spec.node_selector.insert("pool".to_owned(), pool.to_owned())));
    }
    lab.run(secs(1.0));
    lab.node("z");
    lab.edit_node("z", |node| drop(node.labels.insert("pool".into(), "zeta".into())));
    join(&mut lab, 20);
    let start = lab.pods_of("zeta").first().map(|pod| pod.second());
    assert!(start.is_some_and(|start| start < 120), "{:?}", lab.starts());
}

#[test]
fn an_overdue_retry_is_not_starved_by_a_long_roll_out() {
    let names: Vec<String> = (0..60).map(|n| format!("n{n:02}")).collect();
    let mut lab = Lab::with_nodes(&names.iter().map(String::as_str).collect::<Vec<_>>());
    lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), NOT_FOUND.into());
    lab.knobs.broken_images.insert("docker.io/library/away:1".to_owned(), NOT_FOUND.into());
    lab.knobs.pull = secs(60.0);
    // This one is overdue too, but its node cannot try it.
    lab.edit_node("n07", |node| drop(node.labels.insert("away".into(), "yes".into())));
    lab.image_with("away", "away:1", |spec| drop(spec.node_selector.insert("away".to_owned(), "yes".to_owned())));
    lab.until(|lab| !lab.pods_of("away:1").is_empty());
    lab.run(secs(5.0));
    lab.edit_node("n07", |node| node.unschedulable = true);
    lab.image("good", "good");
    lab.image("nope", "nope:1");
    lab.run(secs(3600.0));
    let tries: Vec<i64> = lab.pods_of("nope:1").iter().map(|pod| pod.second()).collect();
    assert!(tries.len() >= 5, "{tries:?}");
    let retries: Vec<i64> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(retries.iter().all(|wait| *wait <= 330 + 330 + 2 * 65), "{tries:?}");
    assert!(lab.status("good").nodes_ready >= 40, "and the roll-out goes on: {}", lab.shows("good"));
}

#[test]
fn retries_that_take_all_the_time_there_is_do_not_starve_what_was_never_tried() {
    let mut lab = nodes(2);
    lab.policy("p", |policy| {
        policy.min_delay_between_pulls = duration("0s");
        policy.failure_backoff.initial = duration("1s");
        policy.failure_backoff.max = duration("2s");
    });
    let on_a = |spec: &mut CachedImageSpec| {
        spec.policy_ref = Some(LocalObjectReference { name: "p".to_owned() });
        spec.node_selector.insert("on".to_owned(), "a".to_owned());
    };
    lab.edit_node("a", |node| drop(node.labels.insert("on".into(), "a".into())));
    for n in 0..20 {
        let image = format!("registry-{n}.example/nope:1");
        lab.knobs.broken_images.insert(image.clone(), NOT_FOUND.into());
        lab.image_with(&format!("nope-{n}"), &image, on_a);
    }
    lab.run(secs(120.0));
    lab.image_with("good", "good", under("p"));
    lab.run(secs(120.0));
    assert_eq!(lab.shows("good"), "Cached 2/2", "{:?}", lab.starts());
    let retries = lab.pods_of("registry-7.example/nope:1");
    assert!(retries.len() >= 3, "and every retry has its turn: {retries:?}");
}

#[test]
fn retries_take_every_other_turn_at_most_where_the_delay_is_longer_than_their_backoff() {
    let mut lab = nodes(3);
    lab.watch_fairness();
    lab.policy("p", |policy| {
        policy.min_delay_between_pulls = duration("10m");
        policy.failure_backoff.initial = duration("1s");
        policy.failure_backoff.max = duration("2s");
    });
    for n in 0..20 {
        let image = format!("registry-{n}.example/nope:1");
        lab.knobs.broken_images.insert(image.clone(), NOT_FOUND.into());
        lab.image_with(&format!("nope-{n}"), &image, under("p"));
    }
    lab.run(secs(4.0 * 3600.0));
    let tries = lab.record.pods.len();
    lab.image_with("good", "good", under("p"));
    lab.run(secs(4.0 * 3600.0));
    assert_eq!(lab.shows("good"), "Cached 3/3", "{:?}", lab.starts().split_off(tries));
}
