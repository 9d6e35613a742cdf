//! No image waits for ever because of a name, a policy, a restart or what fails beside it.

use drop_api::CachedImageSpec;
use drop_api::cached_image::LocalObjectReference;
use drop_api::cached_image_set::ImageEntry;
use drop_core::Effect;
use drop_core::reference::Reference;
use drop_sim::{Created, Fate, Kubelet, Outcome, Trouble, secs, under};

use crate::common::{Lab, duration};
use crate::turns::first_start;
use crate::{NOT_FOUND, fate, nodes};

const HOUR: f64 = 3600.0;

/// Has `node` be the only one that has an image.
fn only_on(lab: &mut Lab, node: &str, image: &str) {
    lab.edit_node(node, |it| drop(it.labels.insert("host".into(), node.into())));
    lab.edit_image(image, |spec| spec.node_selector = [("host".to_owned(), node.to_owned())].into());
}

#[test]
fn one_of_two_cached_images_of_a_reference_is_tried_although_the_other_fails() {
    for (bad, good) in [("x-a", "x-b"), ("x-b", "x-a")] {
        let mut lab = nodes(2);
        lab.secret("good");
        lab.knobs.private.insert("private.test/x:1".to_owned(), "good".to_owned());
        lab.image(bad, "private.test/x:1");
        only_on(&mut lab, "a", bad);
        lab.run(secs(60.0));
        lab.image_with(good, "private.test/x:1", |spec| {
            spec.image_pull_secrets = vec![LocalObjectReference { name: "good".to_owned() }];
            spec.node_selector = [("host".to_owned(), "b".to_owned())].into();
        });
        only_on(&mut lab, "b", good);
        lab.run(secs(HOUR));
        assert_eq!(lab.shows(good), "Cached 1/1", "{:?}", lab.starts());
    }
}

#[test]
fn an_impatient_policy_does_not_keep_a_paused_registry_from_others() {
    let mut lab = nodes(1);
    lab.policy("p", |policy| {
        policy.min_delay_between_pulls = duration("0s");
        policy.failure_backoff.initial = duration("1s");
        policy.failure_backoff.max = duration("10s");
    });
    lab.knobs.troubles.push(Trouble::new("r.example/proxy", Outcome::Status(500)));
    for number in 1..=3 {
        lab.image_with(&format!("b{number}"), &format!("r.example/proxy/b{number}"), under("p"));
    }
    lab.run(secs(HOUR));
    lab.image("good", "r.example/own/good:1");
    lab.run(secs(HOUR));
    assert_eq!(lab.shows("good"), "Cached 1/1", "{:?}", lab.starts().len());
}

#[test]
fn a_node_that_was_in_trouble_once_tries_what_fails_elsewhere() {
    let mut lab = nodes(2);
    lab.knobs.kubelets.insert("a".to_owned(), Kubelet::RejectsNext(("OutOfpods", "full").into()));
    lab.knobs.troubles.push(Trouble::new("r.example", Outcome::Forbidden).on(&["b"]));
    lab.image("x", "r.example/x:1");
    lab.run(secs(HOUR));
    assert_eq!(lab.status("x").nodes_ready, 1, "{:?}", lab.starts());
}

#[test]
fn a_policy_with_retries_alone_gets_its_turn_on_a_node_with_fresh_pulls_of_another() {
    let mut lab = nodes(1);
    lab.knobs.pull = secs(60.0);
    lab.policy("p", |_| {});
    lab.policy("q", |_| {});
    lab.knobs.broken_images.insert("docker.io/library/x:1".to_owned(), NOT_FOUND.into());
    lab.image_with("x", "x:1", under("p"));
    for number in 0..150 {
        if number == 20 {
            lab.knobs.broken_images.clear();
        }
        lab.image_with(&format!("q{number}"), &format!("q{number}"), under("q"));
        lab.run(secs(50.0));
    }
    assert_eq!(lab.shows("x"), "Cached 1/1", "{:?}", lab.starts());
}

#[test]
fn an_image_whose_pods_are_evicted_takes_no_turn_of_another() {
    for (huge, small) in [("z-huge", "b-small"), ("a-huge", "b-small")] {
        let mut lab = nodes(1);
        lab.knobs.troubles.push(Trouble::new("docker.io/library/huge", Outcome::Evicts));
        lab.image_with(huge, "huge", |spec| spec.priority = -1);
        lab.image(small, "small");
        lab.run(secs(1800.0));
        assert_eq!(lab.shows(small), "Cached 1/1", "{:?}", lab.starts());
        for number in 0..20 {
            lab.image(&format!("c{number}"), &format!("c{number}"));
            lab.run(secs(60.0));
        }
        let tries = lab.pods_of("docker.io/library/huge:latest").len();
        assert!(tries < 15, "{tries} evictions in 50 minutes");
        assert!(lab.status(huge).consecutive_failures > 1, "{:?}", lab.status(huge));
    }
}

#[test]
fn a_failure_elsewhere_that_repeats_puts_off_no_doubted_image() {
    let mut lab = nodes(2);
    lab.knobs.pull = secs(55.0);
    lab.policy("p", |policy| {
        policy.failure_backoff.initial = duration("1s");
        policy.failure_backoff.max = duration("10s");
    });
    lab.policy("q", |_| {});
    let failure = ("ErrImagePull", "something that nobody has seen before");
    lab.knobs.troubles.push(Trouble::new("docker.io/library/x", Outcome::Fails(failure.into())).on(&["a"]));
    lab.image_with("x-a", "x:1", under("p"));
    only_on(&mut lab, "a", "x-a");
    lab.run(secs(60.0));
    lab.image_with("x-b", "x:1", under("q"));
    only_on(&mut lab, "b", "x-b");
    for number in 0..100 {
        let name = format!("q{number}");
        lab.image_with(&name, &name, under("q"));
        only_on(&mut lab, "b", &name);
        lab.run(secs(50.0));
    }
    assert_eq!(lab.shows("x-b"), "Cached 1/1", "{:?}", lab.starts());
}

#[test]
fn restarts_of_the_operator_renew_no_turn() {
    let mut lab = nodes(2);
    lab.knobs.pull = secs(50.0);
    for number in 0..240 {
        let name = format!("i{number}");
        lab.image(&name, &name);
        only_on(&mut lab, "a", &name);
        if number == 10 {
            lab.image("other", "other");
            only_on(&mut lab, "b", "other");
        }
        lab.run(secs(60.0));
        if number % 4 == 3 {
            lab.restart(true);
        }
    }
    let began = first_start(&lab, "docker.io/library/other:latest");
    assert!(began.is_some_and(|began| began < secs(3600.0)), "{began:?}");
}

#[test]
fn an_old_image_goes_before_new_ones_of_its_node_whatever_their_names() {
    let mut lab = nodes(1);
    lab.knobs.pull = secs(60.0);
    lab.policy("p", |_| {});
    lab.policy("q", |_| {});
    for number in 0..120 {
        let name = format!("a{number:03}");
        lab.image_with(&name, &name, under("p"));
        if number == 3 {
            lab.image_with("zeta", "zeta", under("p"));
        }
        if number % 2 == 0 {
            let name = format!("q{number:03}");
            lab.image_with(&name, &name, |spec| {
                under("q")(spec);
                spec.priority = -1;
            });
        }
        lab.run(secs(60.0));
    }
    let began = first_start(&lab, "docker.io/library/zeta:latest");
    assert!(began.is_some_and(|began| began < secs(4500.0)), "{began:?}");
}

#[test]
fn the_age_of_a_wait_under_one_policy_survives_the_pods_of_another() {
    let mut lab = nodes(3);
    lab.knobs.pull = secs(60.0);
    lab.policy("p", |policy| {
        policy.max_concurrent_nodes = 1;
        policy.min_delay_between_pulls = duration("0s");
    });
    lab.policy("q", |policy| policy.min_delay_between_pulls = duration("0s"));
    lab.knobs.pulls.extend((0..120).map(|number| (format!("docker.io/library/q{number}:latest"), secs(5.0))));
    for number in 0..120 {
        for node in ["a", "b", "c"] {
            let name = format!("p{number}-{node}");
            lab.image_with(&name, &name, under("p"));
            only_on(&mut lab, node, &name);
        }
        let name = format!("q{number}");
        lab.image_with(&name, &name, under("q"));
        only_on(&mut lab, "b", &name);
        lab.run(secs(50.0));
    }
    let of_p = |pod: &&drop_sim::Created| pod.order.policy.as_ref() == "p" && pod.order.node.as_ref() == "b";
    let turns = lab.record.pods.iter().filter(of_p).filter(|pod| pod.order.begins_turn()).count();
    assert!(turns >= 2, "{turns} turns under p on b: {:?}", lab.starts());
}

#[test]
fn a_pull_that_waits_for_its_registry_hides_no_other_of_its_policy() {
    let mut lab = nodes(2);
    lab.policy("p", |policy| {
        policy.max_concurrent_nodes = 5;
        policy.max_concurrent_pulls_per_registry = Some(1);
        policy.min_delay_between_pulls = duration("0s");
    });
    lab.policy("q", |policy| policy.min_delay_between_pulls = duration("0s"));
    lab.node("c");
    lab.knobs.troubles.push(Trouble::new("h.example/big", Outcome::Takes(duration("1h"))));
    lab.image_with("big", "h.example/big:1", under("p"));
    only_on(&mut lab, "c", "big");
    lab.run(secs(5.0));
    for image in ["a1", "h.example/a2"] {
        let name = image.replace(['/', '.'], "-");
        lab.image_with(&name, image, |spec| {
            under("p")(spec);
            spec.priority = 100;
        });
        only_on(&mut lab, "a", &name);
    }
    lab.run(secs(30.0));
    lab.knobs.pull = secs(60.0);
    let mut most = secs(0.0);
    for number in 0..20 {
        let name = format!("q{number}");
        lab.image_with(&name, &name, under("q"));
        only_on(&mut lab, "b", &name);
        if number == 5 {
            lab.image_with("urgent", "urgent", |spec| {
                under("p")(spec);
                spec.priority = -100;
            });
            only_on(&mut lab, "b", "urgent");
            most = lab.elapsed() + secs(300.0);
        }
        lab.run(secs(50.0));
    }
    let began = first_start(&lab, "docker.io/library/urgent:latest");
    assert!(began.is_some_and(|began| began < most), "{began:?} of {most}: {:?}", lab.starts());
    let big = Reference::parse("h.example/big:1");
    assert!(lab.is_on_disk("c", &big) || lab.live("c").is_some());
}

/// A failure that the kubelet's text does not explain.
fn unexplained() -> Outcome {
    Outcome::Fails(("ErrImagePull", "something that nobody has seen before").into())
}

#[test]
fn the_retries_of_a_node_do_not_prolong_its_turn() {
    let mut lab = nodes(2);
    lab.knobs.pull = secs(60.0);
    lab.knobs.troubles.push(Trouble::new("docker.io/library/w", unexplained()));
    lab.image("w", "w:1");
    only_on(&mut lab, "a", "w");
    for number in 0..72 {
        lab.image(&format!("x{number}"), &format!("x{number}"));
        lab.run(secs(50.0));
    }
    let on_b = lab.record.pods.iter().filter(|pod| *pod.order.node == *"b").count();
    assert!(on_b >= 5, "{on_b} Pods: {:?}", lab.starts());
}

#[test]
fn a_node_that_never_tried_an_image_goes_before_the_one_that_fails_whatever_the_names() {
    for (narrow, wide) in [("x-a", "x-b"), ("x-b", "x-a")] {
        let mut lab = nodes(2);
        lab.knobs.troubles.push(Trouble::new("r.example", Outcome::Forbidden).on(&["a"]));
        lab.image(narrow, "r.example/x:1");
        only_on(&mut lab, "a", narrow);
        lab.image(wide, "r.example/x:1");
        lab.run(secs(HOUR));
        assert_eq!(lab.status(wide).nodes_ready, 1, "{:?}", lab.starts());
    }
}

#[test]
fn a_refused_retry_costs_its_node_no_place_in_the_line() {
    let mut lab = Lab::new();
    let only = |pool: &'static str| {
        move |spec: &mut CachedImageSpec| {
            spec.policy_ref = Some(LocalObjectReference { name: "p".to_owned() });
            spec.node_selector = [("pool".to_owned(), pool.to_owned())].into();
        }
    };
    lab.node("b");
    lab.edit_node("b", |it| drop(it.labels.insert("pool".into(), "b".into())));
    for number in 0..20 {
        let name = format!("n{number:02}");
        lab.node(&name);
        lab.edit_node(&name, |it| drop(it.labels.insert("pool".into(), "others".into())));
    }
    lab.knobs.pull = secs(60.0);
    lab.policy("p", |policy| policy.min_delay_between_pulls = duration("0s"));
    let is_w = |effect: &Effect| matches!(effect, Effect::CreatePod(order) if *order.pulls[0].cached_image == *"w");
    fate(&mut lab, Fate::Refused("denied by policy"), u32::MAX, is_w);
    lab.image_with("w", "w:1", only("b"));
    (0..3).for_each(|number| lab.image_with(&format!("x{number}"), &format!("x{number}"), only("others")));
    lab.run(secs(1800.0));
    lab.image_with("mine", "mine:1", only("b"));
    for number in 3..15 {
        lab.image_with(&format!("x{number}"), &format!("x{number}"), only("others"));
        lab.run(secs(1200.0));
    }
    assert_eq!(lab.shows("mine"), "Cached 1/1");
}

#[test]
fn a_node_that_is_busy_under_another_policy_gets_a_slot_of_its_own() {
    for priority in [100, -200] {
        let mut lab = Lab::new();
        (0..40).for_each(|number| lab.node(&format!("n{number:02}")));
        lab.node("b");
        lab.knobs.pull = secs(60.0);
        lab.policy("p", |policy| policy.min_delay_between_pulls = duration("10s"));
        lab.policy("q", |_| {});
        for number in 0..200 {
            let (name, image) = (format!("q{number}"), format!("q{number}"));
            lab.knobs.pulls.insert(format!("docker.io/library/{image}:latest"), secs(47.0));
            lab.image_with(&name, &image, under("q"));
            lab.edit_image(&name, |spec| spec.priority = priority);
            only_on(&mut lab, "b", &name);
        }
        lab.run(secs(10.0));
        for number in 0..3 {
            lab.image_with(&format!("big{number}"), &format!("big{number}"), under("p"));
        }
        lab.run(secs(290.0));
        lab.image_with("urgent", "urgent", under("p"));
        lab.edit_image("urgent", |spec| spec.priority = -100);
        only_on(&mut lab, "b", "urgent");
        lab.run(secs(1.5 * HOUR));
        assert_eq!(lab.shows("urgent"), "Cached 1/1", "{priority}");
    }
}

#[test]
fn a_pod_of_another_policy_ends_no_turn() {
    let mut lab = nodes(2);
    lab.knobs.pull = secs(60.0);
    lab.policy("p", |policy| policy.min_delay_between_pulls = duration("1h"));
    lab.policy("q", |_| {});
    (0..20).for_each(|number| lab.image_with(&format!("p{number:02}"), &format!("p{number:02}"), under("p")));
    lab.run(secs(200.0));
    lab.image_with("q", "q", under("q"));
    lab.run(secs(3000.0));
    let is_of_p = |pod: &&Created| *pod.order.node == *"a" && *pod.order.policy == *"p";
    let of_p = lab.record.pods.iter().filter(is_of_p).count();
    assert!(of_p >= 20, "{of_p}: {:?}", lab.starts());
}

#[test]
fn retries_on_a_node_that_rejects_pods_take_no_turn_of_others() {
    let mut lab = nodes(3);
    lab.policy("p", |policy| policy.min_delay_between_pulls = duration("10m"));
    lab.knobs.kubelets.insert("a".to_owned(), Kubelet::Rejects(("OutOfpods", "full").into()));
    lab.knobs.troubles.push(Trouble::new("docker.io/library/x", unexplained()).on(&["c"]));
    lab.knobs.troubles.push(Trouble::new("docker.io/library/y", unexplained()).on(&["b"]));
    for node in ["a", "c"] {
        lab.edit_node(node, |it| drop(it.labels.insert("pool".into(), "ac".into())));
    }
    lab.image_with("x", "x:1", under("p"));
    lab.edit_image("x", |spec| spec.node_selector = [("pool".to_owned(), "ac".to_owned())].into());
    lab.image_with("y", "y:1", under("p"));
    only_on(&mut lab, "b", "y");
    lab.run(secs(2500.0));
    lab.knobs.troubles.retain(|trouble| !trouble.of.ends_with("/y"));
    lab.run(secs(6.0 * HOUR));
    assert_eq!(lab.shows("y"), "Cached 1/1", "{:?}", lab.starts());
}

#[test]
fn a_node_on_which_every_pod_is_refused_holds_up_no_other() {
    let mut lab = nodes(3);
    let is_of_a = |effect: &Effect| matches!(effect, Effect::CreatePod(order) if *order.node == *"a");
    fate(&mut lab, Fate::Refused("denied by policy"), u32::MAX, is_of_a);
    (0..10).for_each(|number| lab.image(&format!("x{number}"), &format!("x{number}")));
    lab.run(secs(300.0));
    let cached = (0..10).filter(|number| lab.status(&format!("x{number}")).nodes_ready == 2).count();
    assert_eq!(cached, 10, "{:?}", lab.starts());
}

#[test]
fn a_turn_that_another_policy_interrupts_ends_when_another_node_begins_one() {
    let mut lab = nodes(2);
    lab.knobs.pull = secs(30.0);
    lab.policy("p", |policy| policy.min_delay_between_pulls = duration("10m"));
    lab.policy("q", |_| {});
    (0..40).for_each(|number| lab.image_with(&format!("p{number:02}"), &format!("p{number:02}"), under("p")));
    lab.run(secs(300.0));
    lab.knobs.pulls.insert("docker.io/library/q:latest".to_owned(), secs(900.0));
    lab.image_with("q", "q", under("q"));
    only_on(&mut lab, "a", "q");
    lab.run(secs(2.0 * HOUR));
    assert_eq!(lab.faults_of_pacing(), Vec::<String>::new());
    let is_of_p = |pod: &&Created| *pod.order.policy == *"p";
    let nodes: Vec<&str> = lab.record.pods.iter().filter(is_of_p).map(|pod| &*pod.order.node).collect();
    let changes = nodes.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(changes <= 2, "{changes} changes between nodes: {nodes:?}");
}

#[test]
fn the_place_in_a_set_keeps_no_node_from_trying() {
    let mut lab = nodes(2);
    lab.knobs.troubles.push(Trouble::new("r.example", Outcome::Forbidden).on(&["a"]));
    lab.edit_node("a", |it| drop(it.labels.insert("host".into(), "a".into())));
    let entries = |images: &[&str]| {
        images.iter().map(|image| ImageEntry { image: (*image).to_owned(), ..ImageEntry::default() }).collect()
    };
    lab.set("narrow", |set| {
        set.images = entries(&["first:1", "r.example/x:1"]);
        set.node_selector = [("host".to_owned(), "a".to_owned())].into();
    });
    lab.set("wide", |set| set.images = entries(&["r.example/x:1"]));
    lab.run(secs(HOUR));
    let wide = lab.api.images.keys().find(|name| name.starts_with("wide")).cloned().unwrap();
    assert_eq!(lab.status(&wide).nodes_ready, 1, "{:?}", lab.starts());
}
