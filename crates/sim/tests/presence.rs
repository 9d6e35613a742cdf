//! Scenarios: the conclusions from a node's list of images.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "these are tests")]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod common;

use std::sync::Arc;

use common::{Lab, duration};
use drop_api::cached_image_set::ImageEntry;
use drop_api::node_cache::ImageRecord;
use drop_core::inventory::{Inventory, Listed, MAX_NAMES};
use drop_core::reference::Reference;
use drop_core::{Event, Settings};
use drop_sim::{secs, under};

const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000007";

/// Makes a node list images of these names and sizes.
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
    // Without an entry that could be the image, the image is gone.
    list(&mut lab, "a", &[(&names[..4], 100)]);
    lab.run(secs(1.0));
    assert_eq!(lab.shows("app-5"), "Evicted 0/1");
}

/// Makes a cluster whose kubelets list three images.
fn with_short_lists() -> Lab {
    Lab::with(Settings { listed_images: 3, ..Settings::default() })
}

#[test]
fn the_size_on_one_platform_proves_nothing_on_another() {
    let mut lab = with_short_lists();
    ["a", "b", "c"].iter().for_each(|node| lab.node(node));
    lab.edit_node("b", |node| node.platform = "linux/arm64".into());
    lab.image("x", "x:1");
    lab.run(secs(120.0));
    assert_eq!(lab.shows("x"), "Cached 3/3");
    assert!(lab.evict("c", &Reference::parse("x:1")));
    // An image that is large on one platform may be too small for the list on the other.
    list(&mut lab, "a", &[(&["x:1"], 500), (&["y:1"], 400), (&["y:2"], 300)]);
    for node in ["b", "c"] {
        list(&mut lab, node, &[(&["y:3"], 1000), (&["y:4"], 900), (&["y:5"], 200)]);
    }
    lab.run(secs(250.0));
    let again: Vec<&str> = lab.record.pods[3..].iter().map(|pod| &*pod.order.node).collect();
    assert_eq!(again, ["c"], "{:?}", lab.starts());
}

#[test]
fn the_order_of_events_does_not_decide_what_a_list_proves() {
    for image_comes_first in [true, false] {
        let mut lab = with_short_lists();
        if image_comes_first {
            lab.image("x", "x:1");
        }
        ["a", "b", "c"].iter().for_each(|node| lab.node(node));
        list(&mut lab, "a", &[(&["y:1"], 900), (&["y:2"], 800), (&["x:1"], 500)]);
        list(&mut lab, "b", &[(&["y:1"], 900), (&["y:2"], 800), (&["x:1"], 90)]);
        // Here the image may be as small as on b, and not listed.
        list(&mut lab, "c", &[(&["y:1"], 900), (&["y:2"], 800), (&["y:3"], 200)]);
        if !image_comes_first {
            lab.run(secs(1.0));
            lab.image("x", "x:1");
        }
        lab.run(secs(400.0));
        assert_eq!(lab.record.pods.len(), 3, "{:?}", lab.starts());
    }
}

#[test]
fn a_list_proves_to_be_complete_by_being_shorter_than_another_one_of_its_node() {
    // The kubelets list 20 images, 50, and all of them.
    for limit in [20, 50, usize::MAX] {
        let mut lab = Lab::with_nodes(&["a"]);
        let larger: Vec<String> = (0..60).map(|number| format!("larger:{number}")).collect();
        let larger: Vec<([&str; 1], u64)> =
            larger.iter().zip(0..).map(|(name, n)| ([name.as_str()], 1000 - n)).collect();
        let show = |lab: &mut Lab, images: &[([&str; 1], u64)]| {
            let images: Vec<(&[&str], u64)> =
                images.iter().take(limit).map(|(names, size)| (names.as_slice(), *size)).collect();
            list(lab, "a", &images);
        };
        show(&mut lab, &larger);
        lab.image("small", "small:1");
        lab.run(secs(30.0));
        let with_small: Vec<_> = larger.iter().copied().chain([(["small:1"], 7)]).collect();
        show(&mut lab, &with_small);
        lab.run(secs(12.0 * 3600.0));
        assert_eq!((lab.shows("small").as_str(), lab.record.pods.len()), ("Cached 1/1", 1), "limit {limit}");
        // Many images are removed, among them the small one.
        show(&mut lab, &larger[45..]);
        lab.run(secs(1.0));
        assert_eq!(lab.shows("small"), "Evicted 0/1", "limit {limit}");
    }
}

#[test]
fn a_limit_that_is_lowered_makes_no_evictions() {
    let mut lab = Lab::with_nodes(&["a"]);
    let images: Vec<String> = (0..40).map(|number| format!("larger:{number}")).collect();
    let images: Vec<([&str; 1], u64)> = images.iter().zip(0..).map(|(name, n)| ([name.as_str()], 1000 - n)).collect();
    let images: Vec<(&[&str], u64)> = images.iter().map(|(names, size)| (names.as_slice(), *size)).collect();
    list(&mut lab, "a", &images);
    lab.image("small", "small:1");
    lab.run(secs(30.0));
    list(&mut lab, "a", &images[..25]);
    lab.run(secs(12.0 * 3600.0));
    assert_eq!((lab.shows("small").as_str(), lab.record.pods.len()), ("Cached 1/1", 1));
}

// ---- Images that leave a list and come back ---------------------------------

/// Makes the set `s` ask for these images.
fn ask_for(lab: &mut Lab, images: &[&str]) {
    let entry = |image: &&str| ImageEntry { image: (*image).to_owned(), ..ImageEntry::default() };
    lab.set("s", |set| set.images = images.iter().map(entry).collect());
}

fn records(lab: &Lab, node: &str) -> Vec<ImageRecord> {
    lab.api.caches[node].status.as_ref().unwrap().images.clone()
}

#[test]
fn an_image_that_comes_back_within_a_day_is_not_pulled_again_where_it_still_is() {
    for lists in [true, false] {
        let mut lab = Lab::with_nodes(&["a", "b", "c"]);
        lab.knobs.lists = lists;
        for image in ["x:1", "y:1", "x:1", "y:1"] {
            ask_for(&mut lab, &[image, "z:1"]);
            lab.run(secs(3600.0));
        }
        assert_eq!(lab.record.pods.len(), 6, "{:?}", lab.starts());
        lab.restart(true);
        ask_for(&mut lab, &["x:1", "z:1"]);
        lab.run(secs(3600.0));
        assert_eq!(lab.record.pods.len(), 6, "{:?}", lab.starts());
        let shown: Vec<String> = lab.api.images.keys().map(|name| lab.shows(name)).collect();
        assert_eq!(shown, ["Cached 3/3"; 2]);
    }
}

#[test]
fn an_image_that_was_removed_meanwhile_is_pulled_at_once_and_was_not_evicted() {
    let mut lab = Lab::with_nodes(&["a", "b"]);
    lab.knobs.lists = true;
    ask_for(&mut lab, &["x:1", "z:1"]);
    lab.run(secs(600.0));
    ask_for(&mut lab, &["z:1"]);
    lab.run(secs(600.0));
    assert!(lab.evict("a", &Reference::parse("x:1")));
    lab.run(secs(600.0));
    let before = lab.record.pods.len();
    ask_for(&mut lab, &["x:1", "z:1"]);
    lab.run(secs(20.0));
    let again: Vec<&str> = lab.record.pods[before..].iter().map(|pod| &*pod.order.node).collect();
    assert_eq!(again, ["a"]);
    lab.run(secs(600.0));
    assert!(records(&lab, "a").iter().all(|record| record.eviction.is_none()), "{:?}", records(&lab, "a"));
}

#[test]
fn the_smallest_image_of_a_node_is_missed_like_any_other() {
    let mut lab = Lab::with_nodes(&["a"]);
    lab.knobs.lists = true;
    lab.knobs.sizes.insert("docker.io/library/x:1".to_owned(), 1000);
    ask_for(&mut lab, &["o:1", "p:1", "x:1", "y:1", "z:1"]);
    lab.run(secs(600.0));
    let before = lab.record.pods.len();
    assert!(lab.evict("a", &Reference::parse("x:1")));
    lab.run(secs(600.0));
    assert_eq!(lab.record.pods.len() - before, 1, "{:?}", lab.starts());
}

#[test]
fn what_nobody_wants_any_more_is_forgotten_after_a_day() {
    let mut lab = Lab::with_nodes(&["a"]);
    ask_for(&mut lab, &["x:1", "y:1", "z:1"]);
    lab.run(secs(600.0));
    ask_for(&mut lab, &["y:1", "z:1"]);
    lab.run(secs(3600.0));
    lab.delete_set("s");
    lab.run(secs(600.0));
    let writes = lab.record.cache_writes.len();
    lab.run(secs(23.5 * 3600.0));
    assert_eq!(records(&lab, "a").len(), 3, "they go together");
    assert!(records(&lab, "a").iter().all(|record| record.unwanted_since.is_some()));
    assert_eq!(lab.record.cache_writes.len(), writes, "that takes no request");
    lab.run(secs(3600.0));
    assert_eq!((records(&lab, "a").len(), lab.record.cache_writes.len()), (0, writes + 1));
}

#[test]
fn what_was_unwanted_for_a_day_goes_with_a_write_that_is_made_anyway() {
    let mut lab = Lab::with_nodes(&["a"]);
    ask_for(&mut lab, &["x:1", "y:1", "z:1"]);
    lab.run(secs(600.0));
    ask_for(&mut lab, &["y:1", "z:1"]);
    lab.run(secs(20.0 * 3600.0));
    ask_for(&mut lab, &["z:1"]);
    lab.run(secs(5.0 * 3600.0));
    let known = |lab: &Lab| records(lab, "a").into_iter().map(|record| record.image).collect::<Vec<_>>();
    assert_eq!(known(&lab).len(), 3);
    ask_for(&mut lab, &["w:1", "z:1"]);
    lab.run(secs(60.0));
    assert_eq!(known(&lab), ["w:1", "y:1", "z:1"].map(|image| format!("docker.io/library/{image}")));
}

#[test]
fn a_failure_of_an_image_that_nobody_wants_any_more_is_forgotten() {
    let mut lab = Lab::with_nodes(&["a"]);
    for image in ["x:1", "y:1", "z:1"] {
        let reference = Reference::parse(image).to_string();
        lab.knobs.broken_images.insert(reference, ("ErrImagePull", "unexpected status: 503").into());
    }
    ask_for(&mut lab, &["x:1", "y:1", "z:1"]);
    lab.run(secs(600.0));
    ask_for(&mut lab, &["w:1"]);
    lab.run(secs(600.0));
    let records = records(&lab, "a");
    let known: Vec<&str> = records.iter().map(|record| record.image.as_str()).collect();
    assert_eq!(known, ["docker.io/library/w:1"], "{:?}", lab.starts());
}

// ---- Tags that move on nodes that differ -------------------------------------

const OLD: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const NEW: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const OLD_ARM: &str = "sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";
const NEW_ARM: &str = "sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd";
const FOLLOWED: &str = "docker.io/library/followed:1";

/// Makes the runtimes of the ARM nodes report this digest.
fn push_for_arm(lab: &mut Lab, digest: &str) {
    for node in ["c", "d", "e"] {
        lab.knobs.digests_on.insert(node.to_owned(), [(FOLLOWED.to_owned(), digest.to_owned())].into());
    }
}

/// Makes a cluster with two nodes, and three ARM nodes whose runtimes report the digest for their platform. The tag is
/// looked up every five minutes.
fn two_platforms() -> Lab {
    let mut lab = Lab::with_nodes(&["a", "b", "c", "d", "e"]);
    for node in ["c", "d", "e"] {
        lab.edit_node(node, |node| node.platform = "linux/arm64".into());
    }
    lab.policy("p", |policy| policy.repull_interval = Some(duration("5m")));
    lab.push(FOLLOWED, OLD);
    push_for_arm(&mut lab, OLD_ARM);
    lab.image_with("followed", FOLLOWED, under("p"));
    lab.run(secs(120.0));
    assert_eq!((lab.shows("followed").as_str(), lab.record.pods.len()), ("Cached 5/5", 5));
    lab
}

/// Returns the IDs that the runtimes of these nodes report for the image now.
fn ids(lab: &Lab, nodes: &[&str]) -> Vec<String> {
    let id = |node: &&str| lab.id_on_disk(&lab.api.nodes[*node].uid, &Reference::parse(FOLLOWED)).unwrap().to_string();
    let digest = |id: String| id.split_once('@').unwrap().1.to_owned();
    nodes.iter().map(id).map(digest).collect()
}

#[test]
fn a_tag_that_stays_costs_one_pod_per_interval_and_platform() {
    let mut lab = two_platforms();
    lab.run(secs(3600.0));
    let asked = lab.record.pods.len() - 5;
    assert!((20..=24).contains(&asked), "an hour has twelve intervals: {:?}", lab.starts());
}

#[test]
fn a_tag_that_moves_reaches_every_platform() {
    for is_restarted in [false, true] {
        let mut lab = two_platforms();
        push_for_arm(&mut lab, NEW_ARM);
        if is_restarted {
            lab.restart(true);
        }
        lab.run(secs(700.0));
        assert_eq!(ids(&lab, &["a", "b", "c", "d", "e"]), [OLD, OLD, NEW_ARM, NEW_ARM, NEW_ARM], "{:?}", lab.starts());
        lab.push(FOLLOWED, NEW);
        lab.run(secs(700.0));
        assert_eq!(ids(&lab, &["a", "b", "c", "d", "e"]), [NEW, NEW, NEW_ARM, NEW_ARM, NEW_ARM], "{:?}", lab.starts());
        let reasons = lab.reasons("followed");
        let since_cached = reasons.iter().skip_while(|reason| *reason != "Cached");
        assert_eq!(since_cached.collect::<Vec<_>>(), ["Cached"], "{reasons:?}");
    }
}

/// Makes runtimes report an ID of their own instead of the digest.
fn report_bare_ids(lab: &mut Lab) {
    lab.knobs.mishear = Box::new(|event| {
        let Event::Pod(pod) = event else { return };
        for container in &mut pod.containers {
            let bare = container.image_id.as_deref().and_then(|id| Some(id.split_once('@')?.1.into()));
            container.image_id = bare.or(container.image_id.take());
        }
    });
}

#[test]
fn a_tag_is_followed_where_runtimes_report_a_bare_id() {
    for lists in [true, false] {
        let mut lab = Lab::with_nodes(&["a", "b", "c"]);
        lab.knobs.lists = lists;
        report_bare_ids(&mut lab);
        lab.policy("p", |policy| policy.repull_interval = Some(duration("5m")));
        lab.push(FOLLOWED, OLD);
        lab.image_with("followed", FOLLOWED, under("p"));
        lab.run(secs(1000.0));
        let asked = lab.record.pods.len() - 3;
        assert!((2..=3).contains(&asked), "{:?}", lab.starts());
        lab.push(FOLLOWED, NEW);
        lab.run(secs(700.0));
        assert_eq!(ids(&lab, &["a", "b", "c"]), [NEW; 3], "{:?}", lab.starts());
        assert_eq!(lab.status("followed").resolved_digest, None, "a bare ID is no digest");
        let record = &records(&lab, "a")[0];
        assert_eq!((record.digest.as_deref(), record.image_id.as_deref()), (None, NEW.strip_prefix("sha256:")));
    }
}
