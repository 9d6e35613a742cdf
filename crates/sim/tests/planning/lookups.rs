//! Registries that answer look-ups, so that no node has to find out by pulling.

use std::collections::BTreeSet;

use crate::common::{Lab, duration};
use crate::{NOT_FOUND, TOO_MANY_REQUESTS};
use drop_api::pull_policy::LookupMode;
use drop_core::Settings;
use drop_core::effect::EffectKey;
use drop_sim::{Registry, secs, under};

const ALPINE: &str = "docker.io/library/alpine:1";
const OLD: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const NEW: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// Makes a cluster whose operator asks registries.
fn asking(nodes: &[&str]) -> Lab {
    let mut lab = Lab::with(Settings { looks_up: true, ..Settings::default() });
    nodes.iter().for_each(|node| lab.node(node));
    lab.policy("p", |policy| {
        policy.repull_interval = Some(duration("5m"));
        policy.min_delay_between_pulls = duration("0s");
    });
    lab.knobs.digests.insert(ALPINE.to_owned(), OLD.to_owned());
    lab
}

fn questions(lab: &drop_sim::Lab) -> usize {
    lab.record.requests.iter().filter(|(_, key)| matches!(key, EffectKey::LookUp(_))).count()
}

fn resolved(lab: &Lab, image: &str) -> Option<String> {
    lab.api.images[image].status.as_ref()?.resolved_digest.clone()
}

#[test]
fn a_tag_that_stays_costs_one_question_per_interval_and_no_pod() {
    let mut lab = asking(&["a", "b", "c"]);
    lab.image_with("alpine", "alpine:1", under("p"));
    lab.run(secs(60.0));
    assert_eq!((lab.shows("alpine").as_str(), lab.record.pods.len(), questions(&lab)), ("Cached 3/3", 3, 1));
    lab.run(secs(3000.0));
    assert_eq!(lab.record.pods.len(), 3);
    let asked = questions(&lab);
    assert!((10..=11).contains(&asked), "fifty minutes have nine or ten intervals: {asked}");
}

#[test]
fn a_tag_that_moves_is_pulled_once_by_each_node() {
    let mut lab = asking(&["a", "b", "c"]);
    lab.image_with("alpine", "alpine:1", under("p"));
    lab.run(secs(60.0));
    lab.push(ALPINE, NEW);
    lab.run(secs(400.0));
    assert_eq!((lab.record.pods.len(), resolved(&lab, "alpine").as_deref()), (6, Some(NEW)));
    let reasons = lab.reasons("alpine");
    let since_cached = reasons.iter().skip_while(|reason| *reason != "Cached");
    assert_eq!(since_cached.collect::<Vec<_>>(), ["Cached"], "an image is there all the time");
    lab.run(secs(3000.0));
    assert_eq!(lab.record.pods.len(), 6);
}

#[test]
fn a_set_of_thirty_images_costs_thirty_questions_per_interval() {
    let mut lab = asking(&["a", "b"]);
    for number in 0..30 {
        lab.image_with(&format!("app-{number}"), &format!("registry.example/app-{number}:1"), under("p"));
    }
    lab.run(secs(299.0));
    assert_eq!(questions(&lab), 30);
    lab.run(secs(300.0));
    assert_eq!((lab.record.pods.len(), questions(&lab)), (60, 60));
}

#[test]
fn a_digest_is_asked_for_once_and_a_policy_may_forbid_it() {
    let mut lab = asking(&["a"]);
    lab.policy("silent", |policy| policy.lookup = LookupMode::Never);
    lab.image_with("pinned", &format!("alpine@{OLD}"), under("p"));
    lab.image_with("other", "busybox:1", under("silent"));
    lab.run(secs(3600.0));
    assert_eq!((lab.record.pods.len(), questions(&lab)), (2, 1));
}

#[test]
fn a_missing_image_is_told_without_a_pod_and_pulled_once_it_is_there() {
    let mut lab = asking(&["a", "b"]);
    lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), NOT_FOUND.into());
    lab.image_with("nope", "nope:1", under("p"));
    lab.run(secs(2.0));
    assert_eq!(lab.shows("nope"), "ErrImagePull 0/2");
    lab.run(secs(3600.0));
    assert_eq!(lab.record.pods.len(), 0);
    lab.knobs.broken_images.clear();
    lab.run(secs(330.0));
    assert_eq!((lab.shows("nope").as_str(), lab.record.pods.len()), ("Cached 2/2", 2));
}

#[test]
fn a_platform_without_an_image_gets_no_pod() {
    let mut lab = asking(&["amd", "arm"]);
    lab.edit_node("arm", |node| node.platform = "linux/arm64".into());
    lab.knobs.platforms.insert(ALPINE.to_owned(), vec!["linux/amd64".to_owned()]);
    lab.image_with("alpine", "alpine:1", under("p"));
    lab.run(secs(3600.0));
    assert_eq!(lab.shows("alpine"), "NoImageForPlatform 1/2");
    let nodes: BTreeSet<&str> = lab.record.pods.iter().map(|pod| &*pod.order.node).collect();
    assert_eq!((nodes, lab.record.pods.len()), (BTreeSet::from(["amd"]), 1));
    // The registry gets an image for the other platform too.
    lab.knobs.platforms.clear();
    lab.push(ALPINE, NEW);
    lab.run(secs(600.0));
    assert_eq!(lab.shows("alpine"), "Cached 2/2");
}

#[test]
fn a_registry_on_each_node_is_not_asked() {
    let mut lab = asking(&["a"]);
    for (name, host) in [("one", "localhost:32000"), ("two", "127.0.0.1:5000"), ("three", "[::1]:5000")] {
        lab.image_with(name, &format!("{host}/app:1"), under("p"));
    }
    lab.run(secs(60.0));
    assert_eq!((lab.shows("one").as_str(), lab.record.pods.len(), questions(&lab)), ("Cached 1/1", 3, 0));
}

#[test]
fn what_mirrors_still_have_is_pulled_whatever_the_registry_says() {
    let mut lab = asking(&["amd", "arm"]);
    lab.edit_node("arm", |node| node.platform = "linux/arm64".into());
    lab.knobs.lists = true;
    lab.image_with("alpine", "alpine:1", under("p"));
    lab.image_with("busybox", "busybox:1", under("p"));
    lab.run(secs(300.0));
    let (busybox, not_found) = ("docker.io/library/busybox:1", "manifest unknown: not found");
    lab.knobs.on_mirrors.extend([ALPINE, busybox].map(ToOwned::to_owned));
    lab.knobs.broken_images.insert(busybox.to_owned(), ("ErrImagePull", not_found).into());
    lab.knobs.platforms.insert(ALPINE.to_owned(), vec!["linux/amd64".to_owned()]);
    lab.push(ALPINE, NEW);
    lab.run(secs(600.0));
    lab.node("another");
    lab.edit_node("another", |node| node.platform = "linux/arm64".into());
    lab.run(secs(300.0));
    assert_eq!((lab.shows("alpine"), lab.shows("busybox")), ("Cached 3/3".to_owned(), "Cached 3/3".to_owned()));
}

#[test]
fn a_platform_that_an_image_is_pushed_for_later_gets_it_although_nobody_follows_the_tag() {
    let mut lab = asking(&["amd"]);
    lab.policy("p", |policy| policy.repull_interval = None);
    lab.knobs.platforms.insert(ALPINE.to_owned(), vec!["linux/amd64".to_owned()]);
    lab.image_with("alpine", "alpine:1", under("p"));
    lab.run(secs(7200.0));
    assert_eq!(questions(&lab), 1);
    lab.node("arm");
    lab.edit_node("arm", |node| node.platform = "linux/arm64".into());
    lab.run(secs(60.0));
    assert_eq!(lab.shows("alpine"), "NoImageForPlatform 1/2");
    lab.knobs.platforms.clear();
    lab.push(ALPINE, NEW);
    lab.run(secs(4000.0));
    assert_eq!((lab.shows("alpine").as_str(), lab.record.pods.len()), ("Cached 2/2", 2));
    let asked = questions(&lab);
    lab.run(secs(7200.0));
    assert_eq!(questions(&lab), asked, "nothing is missing any more");
}

#[test]
fn where_the_registry_cannot_be_asked_one_node_asks() {
    let mut lab = asking(&["a", "b", "c"]);
    lab.knobs.out_of_reach.insert("docker.io".to_owned());
    lab.image_with("alpine", "alpine:1", under("p"));
    lab.run(secs(60.0));
    assert_eq!((lab.shows("alpine").as_str(), lab.record.pods.len()), ("Cached 3/3", 3));
    let status = lab.api.images["alpine"].status.clone().unwrap();
    assert_eq!(status.lookup.and_then(|lookup| lookup.message).as_deref(), Some("connection refused"));
    lab.run(secs(3000.0));
    let asked = lab.record.pods.len() - 3;
    assert!((9..=10).contains(&asked), "fifty minutes have ten intervals: {asked}");
    // The registry is in reach again, so no node pulls to find out any more.
    lab.knobs.out_of_reach.clear();
    lab.run(secs(3700.0));
    let pods = lab.record.pods.len();
    lab.run(secs(1500.0));
    assert_eq!(lab.record.pods.len(), pods);
}

#[test]
fn a_registry_that_limits_questions_holds_up_no_pull() {
    let mut lab = asking(&["a"]);
    lab.knobs.broken_images.insert(ALPINE.to_owned(), TOO_MANY_REQUESTS.into());
    lab.image_with("alpine", "alpine:1", under("p"));
    lab.run(secs(10.0));
    assert!(!lab.record.pods.is_empty());
    lab.repair();
    lab.run(secs(600.0));
    assert_eq!(lab.shows("alpine"), "Cached 1/1");
}

#[test]
fn a_private_image_is_asked_for_with_its_secret_as_soon_as_that_works() {
    let mut lab = asking(&["a"]);
    lab.knobs.private.insert(ALPINE.to_owned(), "login".to_owned());
    lab.image_with("alpine", "alpine:1", |image| {
        under("p")(image);
        image.image_pull_secrets = vec![drop_api::cached_image::LocalObjectReference { name: "login".to_owned() }];
    });
    lab.run(secs(10.0));
    assert_eq!(resolved(&lab, "alpine"), None);
    assert_eq!(questions(&lab), 1);
    lab.secret("login");
    lab.run(secs(2.0));
    assert_eq!(questions(&lab), 2);
    lab.run(secs(28.0));
    assert_eq!(resolved(&lab, "alpine").as_deref(), Some(OLD));
}

#[test]
fn a_restart_pulls_nothing_again_where_mirrors_lag() {
    let mut lab = asking(&["a", "b"]);
    lab.image_with("alpine", "alpine:1", under("p"));
    lab.run(secs(60.0));
    // The mirror of one node keeps the old image for ever.
    lab.knobs.digests_on.insert("b".to_owned(), [(ALPINE.to_owned(), OLD.to_owned())].into());
    lab.push(ALPINE, NEW);
    lab.run(secs(450.0));
    let pods = lab.record.pods.len();
    for _ in 0..5 {
        lab.restart(true);
        lab.run(secs(10.0));
    }
    assert_eq!(lab.record.pods.len(), pods, "{:?}", lab.starts());
}

#[test]
fn a_registry_that_is_down_delays_a_first_pull_by_no_more_than_the_question() {
    let mut lab = asking(&["a"]);
    lab.knobs.registries.insert("docker.io".to_owned(), Registry { is_down: true, ..Registry::default() });
    lab.image_with("alpine", "alpine:1", under("p"));
    lab.run(secs(2.0));
    assert_eq!(lab.record.pods.len(), 1, "the node may have a mirror");
}

#[test]
fn where_a_registry_refuses_drop_its_earlier_answer_decides_nothing() {
    let mut lab = asking(&["a", "b", "c"]);
    lab.image_with("alpine", "alpine:1", under("p"));
    lab.run(secs(60.0));
    lab.knobs.out_of_reach.insert("docker.io".to_owned());
    lab.push(ALPINE, NEW);
    lab.run(secs(900.0));
    // One node asked with a pull, and two followed. One of them may have asked again since.
    let pods = lab.record.pods.len();
    assert!((6..=8).contains(&pods), "{:?}", lab.starts());
    assert_eq!(resolved(&lab, "alpine").as_deref(), Some(NEW), "as the newest pull says");
    lab.knobs.out_of_reach.clear();
    lab.run(secs(3700.0));
    let pods = lab.record.pods.len();
    lab.run(secs(1500.0));
    assert_eq!(lab.record.pods.len(), pods, "the registry answers again");
}

#[test]
fn a_standby_that_takes_over_asks_before_it_pulls() {
    let mut lab = asking(&["a", "b"]);
    lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), NOT_FOUND.into());
    lab.knobs.asking = secs(1.0);
    lab.hand_over(secs(30.0));
    lab.run(secs(20.0));
    lab.image_with("nope", "nope:1", under("p"));
    lab.run(secs(60.0));
    assert_eq!((lab.shows("nope").as_str(), lab.record.pods.len()), ("ErrImagePull 0/2", 0));
    assert!(questions(&lab) >= 2, "both operators asked");
}

#[test]
fn a_node_whose_mirror_lags_pulls_ever_more_seldom() {
    let mut lab = asking(&["a", "b"]);
    lab.image_with("alpine", "alpine:1", under("p"));
    lab.run(secs(60.0));
    lab.knobs.digests_on.insert("b".to_owned(), [(ALPINE.to_owned(), OLD.to_owned())].into());
    lab.push(ALPINE, NEW);
    lab.run(secs(86_400.0));
    let again = lab.record.pods.iter().filter(|pod| &*pod.order.node == "b").count() - 1;
    // After 0, 5, 10, 20, … minutes, and then every six hours.
    assert!((9..=12).contains(&again), "{again} pulls in a day: {:?}", lab.starts());
    assert_eq!(lab.shows("alpine"), "Cached 2/2");
}

#[test]
fn a_node_whose_mirror_lags_lets_fresh_pulls_go_first() {
    let mut lab = asking(&["a", "b"]);
    lab.image_with("alpine", "alpine:1", under("p"));
    lab.run(secs(60.0));
    lab.knobs.digests_on.insert("b".to_owned(), [(ALPINE.to_owned(), OLD.to_owned())].into());
    lab.push(ALPINE, NEW);
    lab.until(|lab| lab.record.pods.len() == 4);
    lab.run(secs(60.0));
    lab.policy("p", |policy| policy.paused = true);
    // Its next pull is due meanwhile.
    lab.run(secs(320.0));
    lab.image_with("busybox", "busybox:1", under("p"));
    lab.run(secs(10.0));
    lab.policy("p", |policy| policy.paused = false);
    lab.run(secs(60.0));
    let on_b = lab.record.pods.iter().filter(|pod| &*pod.order.node == "b").skip(2);
    let images: Vec<&str> = on_b.flat_map(|pod| &pod.order.pulls).map(|pull| &*pull.cached_image).collect();
    assert_eq!(images, ["busybox", "alpine"]);
}

#[test]
fn a_secret_that_changes_while_the_registry_is_asked_lets_drop_ask_again() {
    let mut lab = asking(&["a"]);
    lab.knobs.private.insert(ALPINE.to_owned(), "login".to_owned());
    lab.knobs.asking = secs(2.0);
    lab.image_with("alpine", "alpine:1", |image| {
        under("p")(image);
        image.image_pull_secrets = vec![drop_api::cached_image::LocalObjectReference { name: "login".to_owned() }];
    });
    lab.run(secs(1.0));
    lab.secret("login");
    lab.run(secs(20.0));
    assert_eq!((questions(&lab), resolved(&lab, "alpine").as_deref()), (2, Some(OLD)));
}

#[test]
fn an_edit_that_names_a_secret_lets_drop_ask_again() {
    for asking_takes in [0.01, 2.0] {
        let mut lab = asking(&["a"]);
        lab.knobs.private.insert(ALPINE.to_owned(), "login".to_owned());
        lab.secret("login");
        lab.knobs.asking = secs(asking_takes);
        lab.image_with("alpine", "alpine:1", under("p"));
        lab.run(secs(1.0));
        assert_eq!(questions(&lab), 1);
        lab.edit_image("alpine", |image| {
            image.image_pull_secrets = vec![drop_api::cached_image::LocalObjectReference { name: "login".to_owned() }];
        });
        lab.run(secs(20.0));
        assert_eq!((questions(&lab), resolved(&lab, "alpine").as_deref()), (2, Some(OLD)), "{asking_takes} s");
    }
}

#[test]
fn an_answer_decides_nothing_for_a_policy_that_forbids_the_question() {
    let mut lab = asking(&["a", "b"]);
    lab.policy("silent", |policy| policy.lookup = LookupMode::Never);
    lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), NOT_FOUND.into());
    let on = |node: &str| {
        let selector = [("kubernetes.io/hostname".to_owned(), node.to_owned())];
        move |image: &mut drop_api::CachedImageSpec| image.node_selector = selector.into()
    };
    for node in ["a", "b"] {
        lab.edit_node(node, |it| drop(it.labels.insert("kubernetes.io/hostname".into(), node.into())));
    }
    lab.image_with("loud", "nope:1", |image| (under("p")(image), on("a")(image)).0);
    lab.image_with("silent", "nope:1", |image| (under("silent")(image), on("b")(image)).0);
    lab.run(secs(30.0));
    let nodes: BTreeSet<&str> = lab.record.pods.iter().map(|pod| &*pod.order.node).collect();
    assert_eq!(nodes, BTreeSet::from(["b"]), "the node may have a mirror that has the image");
    assert_eq!((lab.status("silent").lookup, lab.status("loud").lookup.is_some()), (None, true));
}

#[test]
fn a_restart_writes_no_status_before_the_registry_has_answered() {
    let mut lab = asking(&["a", "b"]);
    lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), NOT_FOUND.into());
    lab.knobs.asking = secs(1.0);
    lab.image_with("nope", "nope:1", under("p"));
    lab.image_with("alpine", "alpine:1", under("p"));
    lab.run(secs(60.0));
    let reasons = (lab.reasons("nope"), lab.reasons("alpine"));
    assert_eq!(reasons.0.last().map(String::as_str), Some("ErrImagePull"));
    for _ in 0..3 {
        lab.restart(true);
        lab.run(secs(20.0));
    }
    assert_eq!((lab.reasons("nope"), lab.reasons("alpine")), reasons);
    assert_eq!(lab.shows("alpine"), "Cached 2/2");
}

#[test]
fn the_message_of_a_failed_question_goes_with_the_next_answer() {
    let mut lab = asking(&["a", "b"]);
    lab.image_with("alpine", "alpine:1", under("p"));
    lab.run(secs(60.0));
    lab.knobs.out_of_reach.insert("docker.io".to_owned());
    lab.run(secs(700.0));
    let lookup = lab.status("alpine").lookup.unwrap();
    assert_eq!(lookup.message.as_deref(), Some("connection refused"));
    lab.knobs.out_of_reach.clear();
    lab.run(secs(450.0));
    let lookup = lab.status("alpine").lookup.unwrap();
    assert_eq!((lookup.digest.as_deref(), lookup.message), (Some(OLD), None));
}

#[test]
fn a_time_that_a_clock_far_ahead_has_written_keeps_no_node_from_asking() {
    let mut lab = asking(&["a", "b"]);
    lab.image_with("alpine", "alpine:1", under("p"));
    lab.run(secs(60.0));
    lab.stop(true);
    let ahead = lab.now + secs(36_000.0);
    let status = lab.api.images.get_mut("alpine").and_then(|image| image.status.as_mut());
    status.and_then(|status| status.lookup.as_mut()).unwrap().since = Some(ahead);
    lab.knobs.out_of_reach.insert("docker.io".to_owned());
    let pods = lab.record.pods.len();
    lab.start();
    lab.run(secs(900.0));
    assert!(lab.record.pods.len() > pods, "a node asks in the operator's place");
}

#[test]
fn details_are_asked_for_a_platform_that_comes_later() {
    let mut lab = asking(&["a"]);
    lab.image_with("alpine", "alpine:1", under("p"));
    lab.run(secs(60.0));
    assert_eq!(questions(&lab), 1);
    lab.node("b");
    lab.edit_node("b", |node| node.platform = "linux/arm64".into());
    lab.run(secs(20.0));
    assert_eq!(questions(&lab), 2, "only the digest is known for nodes of that platform");
    lab.node("c");
    lab.edit_node("c", |node| node.platform = "linux/arm64".into());
    lab.run(secs(20.0));
    assert_eq!(questions(&lab), 2);
}

#[test]
fn a_node_that_pulls_something_newer_than_the_registry_told_has_it_asked_at_once() {
    let mut lab = asking(&["a", "b", "c"]);
    lab.knobs.pull = secs(20.0);
    lab.image_with("alpine", "alpine:1", under("p"));
    lab.run(secs(2.0));
    lab.push(ALPINE, NEW);
    lab.run(secs(120.0));
    assert_eq!((questions(&lab), resolved(&lab, "alpine").as_deref()), (2, Some(NEW)), "{:?}", lab.starts());
    let pods = lab.record.pods.len();
    lab.run(secs(1000.0));
    assert_eq!(lab.record.pods.len(), pods, "no node pulls in vain: {:?}", lab.starts());
}
