//! How a restarted operator continues from the state in the API.

use crate::common::Lab;
use crate::{NOT_FOUND, nodes};
use drop_api::condition;
use drop_api::condition::ConditionStatus;
use drop_sim::{secs, under};

/// A roll-out of two images on three nodes, one of which fails at first.
fn roll_out() -> Lab {
    let mut lab = nodes(3);
    lab.policy("p", |policy| policy.max_concurrent_nodes = 2);
    lab.image_with("alpine", "alpine", under("p"));
    lab.image_with("busybox", "busybox", under("p"));
    lab
}

#[test]
fn a_restart_at_any_step_changes_nothing() {
    let mut undisturbed = roll_out();
    let mut steps = 0;
    while undisturbed.step() {
        steps += 1;
    }
    for step in 0..steps {
        for requests_arrive in [true, false] {
            let mut lab = roll_out();
            lab.title = format!("restart after step {step}, requests under way arrive: {requests_arrive}");
            (0..step).for_each(|_| assert!(lab.step()));
            lab.restart(requests_arrive);
            lab.settle();
            assert_eq!(lab.record.pods.len(), 6, "{}: nothing is pulled twice", lab.title);
            for image in ["alpine", "busybox"] {
                assert_eq!(lab.shows(image), "Cached 3/3", "{}", lab.title);
                assert_eq!(lab.message(image), undisturbed.message(image));
                let ready: Vec<i32> = lab.record.statuses[image].iter().map(|(_, status)| status.nodes_ready).collect();
                assert!(ready.is_sorted(), "{}: {image} goes backwards: {ready:?}", lab.title);
            }
        }
    }
}

#[test]
fn failures_are_remembered_over_a_restart() {
    let mut lab = nodes(2);
    lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), NOT_FOUND.into());
    lab.image("nope", "nope:1");
    lab.run(secs(200.0));
    let (status, tries) = (lab.status("nope"), lab.record.pods.len());
    lab.restart(true);
    lab.run(secs(1.0));
    assert_eq!(lab.status("nope"), status);
    assert_eq!(lab.record.pods.len(), tries);
}

#[test]
fn a_downtime_delays_and_loses_nothing() {
    let mut lab = roll_out();
    lab.run(secs(12.0));
    lab.stop(true);
    lab.run(secs(3600.0));
    lab.start();
    lab.settle();
    assert_eq!(lab.record.pods.len(), 6);
    assert_eq!(lab.shows("alpine"), "Cached 3/3");
    let status = lab.status("alpine");
    let ready = condition::ready(&status.conditions).unwrap();
    assert_eq!(ready.status, ConditionStatus::True);
}

#[test]
fn nothing_is_done_before_every_kind_is_listed() {
    let lab = roll_out();
    let events = lab.list();
    for count in 0..events.len() {
        let mut world = drop_core::World::new(drop_core::Settings::default());
        events.iter().take(count).for_each(|event| world.apply(event.clone(), lab.now));
        world.settle(lab.now);
        let plan = drop_core::plan(&world, lab.now);
        assert!(plan.effects.is_empty() && plan.wake_at.is_none());
    }
    assert!(events.len() > 5);
}
