//! Tags that move to another digest.

use std::sync::Arc;

use crate::common::{Lab, duration};
use crate::{creates, fate, nodes};
use drop_api::cached_image::ImagePullPolicy;
use drop_core::inventory::{Inventory, Listed};
use drop_core::reference::Reference;
use drop_sim::{Fate, Kubelet, Machine, secs, under};

const OLD: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const NEW: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// Makes three nodes with an image whose tag is looked up every five minutes.
fn followed() -> Lab {
    let mut lab = nodes(3);
    lab.policy("p", |policy| policy.repull_interval = Some(duration("5m")));
    lab.knobs.digests.insert("docker.io/library/alpine:1".to_owned(), OLD.to_owned());
    lab.image_with("alpine", "alpine:1", under("p"));
    lab.run(secs(60.0));
    assert_eq!((lab.shows("alpine").as_str(), lab.record.pods.len()), ("Cached 3/3", 3));
    lab
}

fn digests(lab: &drop_sim::Lab) -> Vec<String> {
    let images = lab.api.caches.values().filter_map(|cache| cache.status.as_ref()?.images.first()?.digest.clone());
    images.collect()
}

#[test]
fn a_tag_that_stays_costs_one_pod_per_interval_in_the_whole_cluster() {
    let mut lab = followed();
    lab.run(secs(3600.0));
    let asked = lab.record.pods.len() - 3;
    assert!((10..=12).contains(&asked), "an hour has twelve intervals: {:?}", lab.starts());
    let nodes: std::collections::BTreeSet<_> = lab.record.pods[3..].iter().map(|pod| &pod.order.node).collect();
    assert_eq!(nodes.len(), 3, "they take turns");
}

#[test]
fn a_tag_that_moves_is_followed_by_all_and_a_failure_on_the_way_is_overcome() {
    let mut lab = followed();
    lab.knobs.digests.insert("docker.io/library/alpine:1".to_owned(), NEW.to_owned());
    lab.until(|lab| digests(lab).contains(&NEW.to_owned()));
    // The next node that follows fails once, because of its registry.
    let rate_limited = ("ErrImagePull", "unexpected status: 429 Too Many Requests");
    lab.knobs.broken_images.insert("docker.io/library/alpine:1".to_owned(), rate_limited.into());
    lab.run(secs(20.0));
    lab.repair();
    lab.run(secs(120.0));
    assert_eq!(digests(&lab), [NEW, NEW, NEW], "{:?}", lab.starts());
    let reasons = lab.reasons("alpine");
    let since_cached = reasons.iter().skip_while(|reason| *reason != "Cached");
    assert!(since_cached.clone().all(|reason| reason == "Cached"), "an image is there all the time: {reasons:?}");
}

#[test]
fn a_node_that_has_only_just_pulled_follows_when_its_own_interval_is_over() {
    let mut lab = nodes(3);
    lab.policy("p", |policy| policy.repull_interval = Some(duration("5m")));
    lab.push("docker.io/library/alpine:1", OLD);
    lab.image_with("alpine", "alpine:1", under("p"));
    lab.run(secs(7.0));
    lab.push("docker.io/library/alpine:1", NEW);
    lab.run(secs(290.0));
    assert_eq!((digests(&lab), lab.record.pods.len()), ([OLD, NEW, NEW].map(str::to_owned).to_vec(), 3));
    lab.run(secs(20.0));
    assert_eq!((digests(&lab), lab.record.pods.len()), ([NEW; 3].map(str::to_owned).to_vec(), 4));
}

#[test]
fn nodes_that_get_different_digests_pull_once_per_interval() {
    let mut lab = nodes(3);
    lab.policy("p", |policy| policy.repull_interval = Some(duration("5m")));
    let of_b = [("docker.io/library/alpine:1".to_owned(), NEW.to_owned())];
    lab.knobs.digests_on.insert("b".to_owned(), of_b.into());
    lab.image_with("alpine", "alpine:1", under("p"));
    lab.run(secs(3600.0));
    for node in ["a", "b", "c"] {
        let pods: Vec<i64> =
            lab.record.pods.iter().filter(|pod| &*pod.order.node == node).map(|pod| pod.second()).collect();
        assert!(pods.windows(2).all(|pair| pair[1] - pair[0] >= 300), "{node}: {pods:?}");
        assert!(pods.len() >= 4, "{node} follows: {pods:?}");
    }
    let reasons = lab.reasons("alpine");
    let since_cached = reasons.iter().skip_while(|reason| *reason != "Cached");
    assert_eq!(since_cached.collect::<Vec<_>>(), ["Cached"], "{reasons:?}");
}

#[test]
fn a_stale_copy_that_is_found_lets_no_other_node_pull_at_once() {
    let mut lab = nodes(4);
    lab.policy("p", |policy| policy.repull_interval = Some(duration("24h")));
    // A node with an older copy pulls nothing.
    lab.edit_node("d", |node| drop(node.labels.insert("pool".into(), "stale".into())));
    let stale = [("docker.io/library/alpine:1".to_owned(), OLD.to_owned())];
    lab.knobs.digests_on.insert("d".to_owned(), stale.into());
    for node in ["a", "b", "c"] {
        lab.edit_node(node, |node| drop(node.labels.insert("pool".into(), "new".into())));
    }
    lab.image_with("always", "alpine:1", |image| {
        under("p")(image);
        image.node_selector.insert("pool".to_owned(), "new".to_owned());
    });
    lab.run(secs(60.0));
    lab.image_with("once", "alpine:1", |image| {
        under("p")(image);
        image.node_selector.insert("pool".to_owned(), "stale".to_owned());
        image.image_pull_policy = ImagePullPolicy::IfNotPresent;
    });
    lab.run(secs(600.0));
    assert_eq!(lab.record.pods.len(), 4, "{:?}", lab.starts());
    lab.run(secs(30.0 * 3600.0));
    assert_eq!(lab.record.pods.len(), 5, "one node asks: {:?}", lab.starts());
}

/// Adds a node that has the newest image, and then pushes the image anew.
fn joins_with_the_newest_image(lab: &mut Lab, before: ImagePullPolicy) {
    lab.edit_image("alpine", |image| image.image_pull_policy = before);
    let names = [Reference::new("alpine", None, Some(OLD)), Reference::parse("alpine:1")].into();
    lab.node("d");
    lab.edit_node("d", |node| {
        node.inventory = Inventory::new(vec![Arc::new(Listed { names, is_cut: false, size: 1 })])
    });
    lab.run(secs(60.0));
    lab.edit_image("alpine", |image| image.image_pull_policy = ImagePullPolicy::Always);
    lab.run(secs(60.0));
    assert_eq!((lab.shows("alpine").as_str(), lab.pods_of("alpine:1").len()), ("Cached 4/4", 3));
    lab.push("docker.io/library/alpine:1", NEW);
    lab.run(secs(400.0));
}

#[test]
fn a_node_that_had_the_newest_image_already_stays_ready_while_it_follows() {
    for before in [ImagePullPolicy::Always, ImagePullPolicy::IfNotPresent] {
        let mut lab = followed();
        joins_with_the_newest_image(&mut lab, before);
        assert_eq!(digests(&lab), [NEW; 4], "{:?}", lab.starts());
        let reasons = lab.reasons("alpine");
        let since_cached = reasons.iter().skip_while(|reason| *reason != "Cached");
        assert_eq!(since_cached.collect::<Vec<_>>(), ["Cached"], "from {before:?}: {reasons:?}");
    }
}

#[test]
fn a_question_that_is_refused_or_times_out_is_not_asked_at_once_again() {
    let mut lab = followed();
    fate(&mut lab, Fate::Refused("quota"), u32::MAX, creates);
    let before = lab.record.requests.len();
    lab.run(secs(3600.0));
    let refused = lab.record.requests.len() - before;
    assert!(refused < 150, "{refused} requests in an hour");

    let mut lab = followed();
    lab.policy("p", |policy| {
        policy.repull_interval = Some(duration("5m"));
        policy.pull_timeout = duration("10s");
    });
    lab.knobs.pull = secs(30.0);
    lab.run(secs(3600.0));
    let asked = lab.record.pods.len() - 3;
    assert!(asked < 60, "{asked} Pods in an hour");
}

/// Makes this many nodes of each of two platforms, with an image whose digest differs by platform.
fn mixed(count: usize) -> Lab {
    let mut lab = nodes(u8::try_from(2 * count).unwrap());
    let arm: Vec<String> = lab.api.nodes.keys().skip(count).cloned().collect();
    arm.iter().for_each(|node| lab.edit_node(node, |node| node.platform = "linux/arm64".into()));
    lab.knobs.lists = true;
    lab.knobs.digests_by_platform.insert("docker.io/library/alpine:1".to_owned());
    lab.policy("p", |policy| policy.repull_interval = Some(duration("15m")));
    lab.image_with("alpine", "alpine:1", under("p"));
    lab.run(secs(600.0));
    lab
}

/// Returns the nodes whose copy differs from the image that they would pull now.
fn behind(lab: &Lab) -> Vec<&str> {
    let image = Reference::parse("alpine:1");
    let is_behind =
        |node: &&drop_core::node::Node| lab.id_on_disk(&node.uid, &image) != Some(&lab.newest_id(&node.name, &image));
    lab.api.nodes.values().filter(is_behind).map(|node| &*node.name).collect()
}

#[test]
fn digests_that_differ_by_platform_are_no_move_of_the_tag() {
    for count in [1, 2, 3] {
        let mut lab = mixed(count);
        lab.run(secs(6.0 * 3600.0));
        let asked = lab.record.pods.len() - 2 * count;
        // One question per interval and platform at most.
        assert!((20..=50).contains(&asked), "{count} nodes each: {asked} Pods in 24 intervals: {:?}", lab.starts());
    }
}

#[test]
fn a_tag_that_moves_is_followed_on_every_platform() {
    let mut lab = mixed(2);
    lab.push("docker.io/library/alpine:1", NEW);
    lab.run(secs(3600.0));
    assert_eq!(behind(&lab), [""; 0], "{:?}", lab.starts());
    assert_eq!(lab.shows("alpine"), "Cached 4/4");
}

#[test]
fn a_tag_that_moves_is_followed_by_the_nodes_of_every_cached_image_that_wants_it() {
    let mut lab = nodes(4);
    lab.knobs.lists = true;
    for (node, pool) in [("a", "one"), ("b", "one"), ("c", "two"), ("d", "two")] {
        lab.edit_node(node, |node| node.labels = [("pool".into(), pool.into())].into());
        let machine = Machine { bare_image_ids: pool == "two", ..Machine::default() };
        lab.knobs.machines.insert(node.to_owned(), machine);
    }
    lab.policy("p", |policy| policy.repull_interval = Some(duration("15m")));
    lab.knobs.digests.insert("docker.io/library/alpine:1".to_owned(), OLD.to_owned());
    for pool in ["one", "two"] {
        lab.image_with(pool, "alpine:1", |image| {
            under("p")(image);
            image.node_selector = [("pool".to_owned(), pool.to_owned())].into();
        });
    }
    lab.run(secs(3600.0));
    lab.push("docker.io/library/alpine:1", NEW);
    lab.run(secs(3600.0));
    assert_eq!(behind(&lab), [""; 0], "{:?}", lab.starts());
}

#[test]
fn a_tag_that_moves_is_followed_by_bare_image_ids_beside_digests_that_differ_by_platform() {
    let mut lab = mixed(2);
    lab.knobs.machines.insert("b".to_owned(), Machine { bare_image_ids: true, ..Machine::default() });
    for digest in [NEW, OLD, NEW] {
        lab.push("docker.io/library/alpine:1", digest);
        lab.run(secs(3600.0));
        assert_eq!(behind(&lab), [""; 0], "{:?}", lab.starts());
    }
}

#[test]
fn a_tag_that_moves_is_followed_where_runtimes_report_bare_image_ids() {
    for bare in [&["a", "b", "c", "d", "e", "f", "g", "h"][..], &["a", "b", "c", "d"], &["h"]] {
        let mut lab = nodes(8);
        lab.title = format!("bare IDs on {bare:?}");
        lab.knobs.lists = true;
        for node in bare {
            lab.knobs.machines.insert((*node).to_owned(), Machine { bare_image_ids: true, ..Machine::default() });
        }
        lab.policy("p", |policy| policy.repull_interval = Some(duration("15m")));
        lab.knobs.digests.insert("docker.io/library/alpine:1".to_owned(), OLD.to_owned());
        lab.image_with("alpine", "alpine:1", under("p"));
        lab.run(secs(3600.0));
        lab.push("docker.io/library/alpine:1", NEW);
        // An interval until one node asks, another until the last node follows, and their pace.
        lab.run(secs(40.0 * 60.0));
        assert_eq!(behind(&lab), [""; 0], "{}: {:?}", lab.title, lab.starts());
        let before = lab.record.pods.len();
        lab.run(secs(6.0 * 3600.0));
        let asked = lab.record.pods.len() - before;
        // If runtimes differ, one node of each kind asks.
        let kinds = if bare.len() == 8 { 1 } else { 2 };
        let expected = 20 * kinds..=26 * kinds;
        assert!(expected.contains(&asked), "{}: {asked} questions in 24 intervals", lab.title);
    }
}

#[test]
fn a_node_that_was_in_trouble_follows_a_tag_whatever_its_ids() {
    let mut lab = nodes(2);
    lab.knobs.machines.insert("a".to_owned(), Machine { bare_image_ids: true, ..Machine::default() });
    lab.policy("p", |policy| policy.repull_interval = Some(duration("15m")));
    lab.image_with("alpine", "alpine:1", under("p"));
    lab.run(secs(60.0));
    // A rejected Pod, and then no further pull that would show that the node works again.
    lab.knobs.kubelets.insert("a".to_owned(), Kubelet::RejectsNext(("OutOfpods", "too many Pods").into()));
    lab.image_with("busybox", "busybox", under("p"));
    lab.run(secs(5.0));
    lab.delete_image("busybox");
    lab.run(secs(600.0));
    lab.push("docker.io/library/alpine:1", NEW);
    lab.run(secs(3600.0));
    assert_eq!(behind(&lab), [""; 0], "{:?}", lab.starts());
}
