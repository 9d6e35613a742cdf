//! Turns of nodes, and which nodes get the slots that become free.

use drop_api::CachedImageSpec;
use drop_core::reference::Reference;
use drop_sim::{Kubelet, Outcome, Trouble, secs, under};
use jiff::SignedDuration;

use crate::common::{Lab, duration};
use crate::nodes;

/// Makes pulls from this host or repository take this many seconds.
fn takes(lab: &mut Lab, what: &str, seconds: u64) {
    lab.knobs.troubles.push(Trouble::new(what, Outcome::Takes(duration(&format!("{seconds}s")))));
}

/// Puts an image under the policy `p`, and on this node only.
fn on(lab: &mut Lab, node: &str) -> impl FnOnce(&mut CachedImageSpec) + use<> {
    lab.edit_node(node, |it| drop(it.labels.insert("host".into(), node.into())));
    let selector = [("host".to_owned(), node.to_owned())].into();
    move |spec| {
        under("p")(spec);
        spec.node_selector = selector;
    }
}

/// Returns how long after the beginning the first Pod of an image began, if one did.
pub fn first_start(lab: &Lab, reference: &str) -> Option<SignedDuration> {
    let pods = lab.pods_of(reference);
    pods.first().map(|pod| secs(pod.second() as f64))
}

#[test]
fn a_turn_that_waits_for_its_registry_takes_no_slot_of_another_node() {
    let mut lab = nodes(3);
    lab.policy("p", |policy| {
        policy.max_concurrent_nodes = 2;
        policy.max_concurrent_pulls_per_registry = Some(1);
        policy.min_delay_between_pulls = duration("0s");
    });
    takes(&mut lab, "quay.io/x/big", 3000);
    let on_a = on(&mut lab, "a");
    lab.image_with("big-a", "quay.io/x/big:1", on_a);
    lab.run(secs(2.0));
    let on_b = on(&mut lab, "b");
    lab.image_with("big-b", "quay.io/x/big:2", on_b);
    let on_b = on(&mut lab, "b");
    lab.image_with("s1", "s1", on_b);
    lab.run(secs(2.0));
    let on_c = on(&mut lab, "c");
    lab.image_with("s2", "ghcr.io/x/s2:1", on_c);
    lab.run(secs(60.0));
    assert_eq!(lab.shows("s2"), "Cached 1/1", "{:?}", lab.starts());
    lab.settle();
    assert_eq!(lab.shows("big-b"), "Cached 1/1", "its turn goes on: {:?}", lab.starts());
}

#[test]
fn the_most_urgent_image_of_a_registry_gets_its_slot_although_turns_go_on() {
    let mut lab = nodes(10);
    lab.policy("p", |policy| {
        policy.max_concurrent_nodes = 20;
        policy.max_concurrent_pulls_per_registry = Some(1);
        policy.min_delay_between_pulls = duration("0s");
    });
    takes(&mut lab, "h.example", 60);
    for image in ["docker.io/library/g:1", "h.example/h1:1", "h.example/h2:1"] {
        lab.image_with(&image.replace(['/', ':'], "-"), image, |spec| {
            under("p")(spec);
            spec.node_selector = [("pool".to_owned(), "all".to_owned())].into();
        });
    }
    for node in ["a", "b", "c", "d", "e", "f", "g", "h", "i"] {
        lab.edit_node(node, |node| drop(node.labels.insert("pool".into(), "all".into())));
    }
    lab.run(secs(200.0));
    let on_j = on(&mut lab, "j");
    lab.image_with("urgent", "h.example/urgent:1", |spec| {
        on_j(spec);
        spec.priority = -100;
    });
    lab.run(secs(600.0));
    let began_after = first_start(&lab, "h.example/urgent:1");
    assert!(began_after.is_some_and(|at| at <= secs(270.0)), "{:#?}", lab.starts());
}

#[test]
fn a_retry_gets_a_slot_of_its_registry_although_turns_go_on() {
    let mut lab = nodes(10);
    lab.policy("p", |policy| {
        policy.max_concurrent_nodes = 20;
        policy.max_concurrent_pulls_per_registry = Some(1);
        policy.min_delay_between_pulls = duration("0s");
        policy.failure_backoff.max = duration("2m");
    });
    takes(&mut lab, "h.example/good", 60);
    lab.knobs.troubles.push(Trouble::new("h.example/bad", Outcome::Status(500)));
    lab.image_with("bad", "h.example/bad:1", under("p"));
    for n in 0..8 {
        lab.image_with(&format!("good-{n}"), &format!("h.example/good/g{n}:1"), under("p"));
    }
    lab.run(secs(3600.0));
    // At least one attempt in twice the longest backoff.
    let tries = lab.pods_of("h.example/bad:1").len();
    assert!(tries >= 14, "{tries} tries in an hour: {:#?}", lab.starts());
}

#[test]
fn a_node_for_which_images_keep_coming_lets_others_have_their_turns() {
    for count in [2, 3] {
        let mut lab = nodes(count);
        lab.knobs.pull = secs(60.0);
        for n in 0..72 {
            lab.image(&format!("x{n}"), &format!("x{n}"));
            lab.run(secs(50.0));
        }
        for node in ["a", "b", "c"].iter().take(usize::from(count)) {
            let pods = lab.record.pods.iter().filter(|pod| *pod.order.node == **node).count();
            assert!(pods >= 5, "{pods} Pods on {node} in an hour: {:#?}", lab.starts());
        }
    }
}

#[test]
fn the_node_of_the_last_start_passes_nobody_who_waits_for_the_delay() {
    let mut lab = nodes(2);
    lab.policy("p", |policy| policy.min_delay_between_pulls = duration("60s"));
    for n in 0..10 {
        lab.image_with(&format!("x{n}"), &format!("x{n}"), under("p"));
        lab.run(secs(40.0));
    }
    assert_eq!(lab.starts()[..2], ["0s a: x0", "60s b: x0"], "each start on a would put off that on b");
}

#[test]
fn an_image_of_another_policy_goes_first_on_a_node_by_its_priority() {
    let mut lab = nodes(1);
    lab.knobs.pull = secs(60.0);
    for n in 0..10 {
        lab.image_with(&format!("x{n}"), &format!("x{n}"), under("p"));
    }
    lab.policy("p", |_| {});
    lab.policy("q", |_| {});
    lab.run(secs(30.0));
    lab.image_with("urgent", "urgent", |spec| {
        under("q")(spec);
        spec.priority = -10;
    });
    lab.run(secs(100.0));
    assert!(first_start(&lab, "docker.io/library/urgent:latest").is_some(), "{:?}", lab.starts());
}

#[test]
fn two_policies_share_a_node_although_images_of_both_keep_coming() {
    let mut lab = nodes(1);
    lab.knobs.pull = secs(60.0);
    lab.policy("p", |_| {});
    lab.policy("q", |_| {});
    for n in 0..72 {
        for policy in ["p", "q"] {
            lab.image_with(&format!("{policy}{n}"), &format!("{policy}{n}"), under(policy));
        }
        lab.run(secs(50.0));
    }
    for policy in ["p", "q"] {
        let pods = lab.record.pods.iter().filter(|pod| *pod.order.policy == *policy).count();
        assert!(pods >= 20, "{pods} Pods under {policy} in an hour: {:?}", lab.starts());
    }
}

#[test]
fn a_node_that_rejects_pods_puts_off_no_other_where_the_delay_is_longer_than_its_backoff() {
    for delay in ["7m", "15m", "1h"] {
        let mut lab = nodes(3);
        lab.title = format!("a delay of {delay}");
        lab.policy("p", |policy| policy.min_delay_between_pulls = duration(delay));
        lab.knobs.kubelets.insert("a".to_owned(), Kubelet::Rejects(("OutOfpods", "full").into()));
        lab.image_with("x", "x", under("p"));
        lab.run(secs(5.0 * 3600.0));
        assert_eq!(lab.status("x").nodes_ready, 2, "{}: {:#?}", lab.title, lab.starts());
    }
}

#[test]
fn a_turn_goes_on_although_a_more_urgent_image_comes() {
    let mut lab = nodes(2);
    lab.knobs.pull = secs(60.0);
    lab.policy("p", |policy| {
        policy.min_delay_between_pulls = duration("1h");
        policy.images_per_pod = 1;
    });
    for n in 0..30 {
        lab.image_of_set("web", &format!("web-{n}"), &format!("web{n}"), under("p"));
    }
    lab.run(secs(400.0));
    lab.image_with("new", "new", under("p"));
    lab.run(secs(2400.0));
    let on_a = lab.record.pods.iter().filter(|pod| *pod.order.node == *"a").count();
    assert!(on_a >= 30, "its turn did not end: {:#?}", lab.starts());
}

#[test]
fn a_node_that_gets_an_image_each_minute_puts_off_no_other() {
    let mut lab = nodes(2);
    lab.knobs.pull = secs(10.0);
    lab.policy("p", |policy| policy.min_delay_between_pulls = duration("60s"));
    for n in 0..2 {
        let on_b = on(&mut lab, "b");
        lab.image_of_set("web", &format!("web-{n}"), &format!("web{n}"), on_b);
    }
    for n in 0..20 {
        let on_a = on(&mut lab, "a");
        lab.image_with(&format!("x{n}"), &format!("x{n}"), on_a);
        lab.run(secs(50.0));
    }
    for name in ["web-0", "web-1"] {
        assert_eq!(lab.shows(name), "Cached 1/1", "{:#?}", lab.starts());
    }
}

#[test]
fn a_node_that_evicts_its_images_again_and_again_lets_others_have_their_turns() {
    let mut lab = nodes(2);
    lab.knobs.pull = secs(60.0);
    lab.knobs.lists = true;
    let images: Vec<String> = (0..60).map(|n| format!("x{n}")).collect();
    for image in &images {
        let on_a = on(&mut lab, "a");
        lab.image_with(image, image, on_a);
    }
    lab.policy("p", |_| {});
    for _ in 0..12 {
        lab.run(secs(600.0));
        for image in &images {
            lab.evict("a", &Reference::parse(image));
        }
    }
    let on_b = on(&mut lab, "b");
    lab.image_with("late", "late", on_b);
    lab.run(secs(3600.0 + 600.0));
    assert_eq!(lab.shows("late"), "Cached 1/1", "{:#?}", lab.starts());
}
