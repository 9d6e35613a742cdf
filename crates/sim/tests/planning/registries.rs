//! Registries that fail in part, or that one node cannot reach.

use crate::common::{Lab, duration};
use crate::nodes;
use drop_api::CachedImageSpec;
use drop_api::scheduling::TaintEffect;
use drop_core::node::{Readiness, Taint};
use drop_sim::{Kubelet, Outcome, Trouble, secs};

const IMAGES: [&str; 3] = ["x", "y", "z"];

/// A day.
const DAY: f64 = 86_400.0;

/// Creates three images of one registry.
fn create(lab: &mut Lab) {
    IMAGES.iter().for_each(|name| lab.image(name, &format!("r.example/team/{name}:1")));
}

/// Checks that a registry that `outcome` makes fail for these nodes serves all others, and a node that joins later.
fn stays_with(count: u8, broken: &[&str], outcome: &Outcome) {
    let mut lab = nodes(count);
    lab.title = format!("{outcome:?} on {broken:?} of {count} nodes");
    lab.knobs.troubles.push(Trouble::new("r.example", outcome.clone()).on(broken));
    create(&mut lab);
    // A turn of three Pods for each node, and half as much again.
    lab.run(secs(f64::from(count) * 45.0));
    let healthy = i32::from(count) - i32::try_from(broken.len()).unwrap();
    for name in IMAGES {
        let ready = lab.status(name).nodes_ready;
        assert_eq!(ready, healthy, "{}: {name}: {:#?}", lab.title, lab.starts());
    }
    lab.run(secs(3600.0));
    lab.node("joiner");
    lab.run(secs(120.0));
    for name in IMAGES {
        let ready = lab.status(name).nodes_ready;
        assert_eq!(ready, healthy + 1, "{}: {name} on the joiner: {:?}", lab.title, lab.starts());
    }
    let since = lab.now;
    lab.run(secs(DAY));
    let tries = lab.record.pods.iter().filter(|pod| pod.at > since).count();
    // Each image on each of these nodes, by its own backoff of 5 minutes, less a tenth.
    assert!(tries <= 3 * broken.len() * 320, "{}: {tries} Pods in a day", lab.title);
}

#[test]
fn a_node_with_broken_dns_pauses_no_registry() {
    for broken in ["a", "d", "h"] {
        stays_with(8, &[broken], &Outcome::NoDns);
    }
}

#[test]
fn nodes_without_rights_at_a_registry_keep_no_other_from_it() {
    for outcome in [Outcome::Unauthorized, Outcome::Forbidden] {
        for broken in [&["a"][..], &["h"], &["a", "b"], &["c", "g"]] {
            stays_with(8, broken, &outcome);
        }
    }
}

#[test]
fn repositories_that_fail_do_not_keep_another_of_their_registry_waiting() {
    let outcomes = [Outcome::Status(500), Outcome::Eof, Outcome::Status(418), Outcome::Garbage];
    for outcome in &outcomes {
        for good in ["z-good", "a-good", "m-good"] {
            for (count, priority) in [(1, 0), (3, 0), (3, 5)] {
                let mut lab = nodes(count);
                lab.title = format!("{outcome:?}, {good} of priority {priority} on {count} nodes");
                for broken in ["b1", "b2", "n3"] {
                    let repository = format!("r.example/proxy/{broken}");
                    lab.knobs.troubles.push(Trouble::new(&repository, outcome.clone()));
                    lab.image(broken, &format!("{repository}:1"));
                }
                let edit = |spec: &mut CachedImageSpec| spec.priority = priority;
                lab.image_with(good, "r.example/own/good:1", edit);
                lab.run(secs(600.0));
                assert_eq!(lab.shows(good), format!("Cached {count}/{count}"), "{}: {:#?}", lab.title, lab.starts());
            }
        }
    }
}

#[test]
fn an_image_that_comes_while_its_registry_is_paused_has_its_turn() {
    let mut lab = nodes(2);
    lab.policy("p", |policy| policy.min_delay_between_pulls = duration("0s"));
    for broken in ["b1", "b2", "b3"] {
        let repository = format!("r.example/proxy/{broken}");
        lab.knobs.troubles.push(Trouble::new(&repository, Outcome::Status(500)));
        lab.image(broken, &format!("{repository}:1"));
    }
    lab.run(secs(3600.0));
    for name in ["z-good", "a-good"] {
        lab.image(name, &format!("r.example/own/{name}:1"));
        // Within the longest backoff, a probe tries the image that was never tried.
        lab.run(secs(600.0));
        assert_eq!(lab.shows(name), "Cached 2/2", "{:#?}", lab.starts());
    }
}

#[test]
fn a_whole_registry_that_answers_nonsense_for_a_time_is_served_again_soon_after() {
    for outcome in [Outcome::Status(500), Outcome::Eof, Outcome::Status(418), Outcome::Garbage, Outcome::NoDns] {
        let mut lab = nodes(3);
        lab.title = format!("{outcome:?}");
        lab.knobs.troubles.push(Trouble::new("r.example", outcome));
        create(&mut lab);
        lab.run(secs(7200.0));
        let tries = lab.record.pods.len();
        assert!(tries <= 9 * 30, "{}: {tries} Pods in two hours", lab.title);
        lab.knobs.troubles.clear();
        lab.run(secs(900.0));
        for name in IMAGES {
            assert_eq!(lab.shows(name), "Cached 3/3", "{}: {:#?}", lab.title, lab.starts());
        }
    }
}

/// Creates fifty images of one registry.
fn create_fifty(lab: &mut Lab) {
    (0..50).for_each(|number| lab.image(&format!("i{number:02}"), &format!("r.example/i{number:02}:1")));
}

/// Checks that one Pod at a time asks the registry of [`create_fifty`], which does not answer.
fn is_asked_seldom(lab: &mut Lab) {
    let tries = |lab: &Lab| lab.record.pods.iter().filter(|pod| pod.hosts().contains("r.example")).count();
    let before = tries(lab);
    lab.run(secs(7200.0));
    let tries = tries(lab) - before;
    // Three until it is paused, then after 30 s, 1, 2, 4 and every 5 minutes, less a tenth.
    assert!((10..=35).contains(&tries), "{}: {tries} Pods in two hours: {:?}", lab.title, lab.starts());
}

#[test]
fn one_node_pauses_a_registry_where_no_other_is_a_target() {
    let mut lab = nodes(2);
    let key = "node-role.kubernetes.io/control-plane".to_owned();
    let taint = Taint { key, value: String::new(), effect: TaintEffect::NoSchedule };
    lab.edit_node("a", |node| node.taints.push(taint));
    lab.knobs.troubles.push(Trouble::new("r.example", Outcome::Status(503)));
    create_fifty(&mut lab);
    is_asked_seldom(&mut lab);
    // Another target node may show that the fault is the first node's own.
    lab.node("c");
    lab.knobs.troubles.clear();
    lab.knobs.troubles.push(Trouble::new("r.example", Outcome::Status(503)).on(&["b"]));
    lab.run(secs(1800.0));
    assert!((0..50).all(|number| lab.shows(&format!("i{number:02}")).ends_with("1/2")), "{}", lab.shows("i00"));
}

#[test]
fn one_node_pauses_a_registry_where_no_other_can_try() {
    for trouble in ["rejects Pods", "is lost"] {
        let mut lab = nodes(2);
        lab.title = trouble.to_owned();
        match trouble {
            "rejects Pods" => {
                drop(lab.knobs.kubelets.insert("b".into(), Kubelet::Rejects(("OutOfpods", "full").into())))
            }
            _ => lab.edit_node("b", |node| node.readiness = Readiness::Lost),
        }
        lab.image("alpine", "alpine");
        lab.run(secs(600.0));
        lab.knobs.troubles.push(Trouble::new("r.example", Outcome::Status(503)));
        create_fifty(&mut lab);
        is_asked_seldom(&mut lab);
    }
}

#[test]
fn one_node_pauses_a_registry_where_all_others_have_its_images() {
    let mut lab = nodes(3);
    create_fifty(&mut lab);
    lab.settle();
    assert_eq!(lab.shows("i49"), "Cached 3/3");
    lab.knobs.troubles.push(Trouble::new("r.example", Outcome::Status(503)));
    lab.node("joiner");
    is_asked_seldom(&mut lab);
    lab.knobs.troubles.clear();
    lab.run(secs(1800.0));
    assert!((0..50).all(|number| lab.shows(&format!("i{number:02}")) == "Cached 4/4"), "{}", lab.shows("i00"));
}
