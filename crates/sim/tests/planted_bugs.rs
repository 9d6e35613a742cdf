//! Each invariant notices the bug that it is for: plans are spoilt as a broken planner
//! would make them, and the lab has to say what is wrong.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "these are tests")]

use drop_api::cached_image::ImagePullPolicy;
use drop_api::node_cache::ImageRecord;
use drop_core::effect::{PodOrder, Pull};
use drop_core::reference::Reference;
use drop_core::{Effect, Plan};
use drop_sim::pacing::Pace;
use drop_sim::{Fate, Lab, secs, under};
use jiff::{SignedDuration, Timestamp};

/// Nodes a, b and c, of which c is no target, and a policy that allows one at once.
fn lab() -> Lab {
    let mut lab = Lab::default();
    for node in ["a", "b", "c"] {
        lab.node(node);
    }
    lab.edit_node("c", |node| node.unschedulable = true);
    lab.policy("one", |policy| policy.min_delay_between_pulls = "5s".parse().unwrap());
    lab.policy("wide", |policy| {
        policy.max_concurrent_nodes = 3;
        policy.min_delay_between_pulls = "60s".parse().unwrap();
    });
    lab.policy("paused", |policy| policy.paused = true);
    lab.policy("pulls", |policy| {
        policy.max_concurrent_nodes = 3;
        policy.max_concurrent_pulls = Some(1);
        policy.min_delay_between_pulls = "0s".parse().unwrap();
    });
    lab.policy("hosts", |policy| {
        policy.max_concurrent_nodes = 3;
        policy.max_concurrent_pulls_per_registry = Some(1);
        policy.min_delay_between_pulls = "0s".parse().unwrap();
    });
    lab.image_with("alpine", "alpine", under("one"));
    lab.image_with("never", "busybox", |image| image.image_pull_policy = ImagePullPolicy::Never);
    lab
}

/// What the lab says of a planner that spoils its plans so.
fn noticed(tamper: impl FnMut(&mut Plan) + 'static) -> Vec<String> {
    let mut lab = lab();
    lab.knobs.tamper = Box::new(tamper);
    lab.run(secs(60.0));
    lab.violations.iter().map(ToString::to_string).collect()
}

/// Spoils every Pod that is asked for.
fn each_pod(mut spoil: impl FnMut(&mut PodOrder) + 'static) -> Vec<String> {
    noticed(move |plan| {
        for effect in &mut plan.effects {
            if let Effect::CreatePod(order) = effect {
                spoil(order);
            }
        }
    })
}

/// Asks for another Pod beside each that is asked for.
fn beside(mut spoil: impl FnMut(&mut PodOrder) + 'static) -> Vec<String> {
    noticed(move |plan| {
        let orders = plan.effects.iter().filter_map(|effect| match effect {
            Effect::CreatePod(order) => Some(order.clone()),
            _ => None,
        });
        for mut order in orders.collect::<Vec<_>>() {
            order.name = format!("{}-too", order.name).into();
            spoil(&mut order);
            plan.effects.push(Effect::CreatePod(order));
        }
    })
}

fn pull(name: &str, reference: &str) -> Pull {
    Pull { cached_image: name.into(), reference: Reference::parse(reference), policy: ImagePullPolicy::Always }
}

#[track_caller]
fn assert_says(noticed: &[String], what: &str) {
    assert!(noticed.iter().any(|violation| violation.contains(what)), "nobody says {what:?}: {noticed:#?}");
}

#[test]
fn a_sound_planner_is_not_blamed() {
    assert_eq!(noticed(|_| {}), Vec::<String>::new());
}

#[test]
fn two_pods_on_a_node() {
    let noticed = beside(|_| {});
    assert_says(&noticed, "more than one pull Pod on a");
    assert_says(&noticed, "one Pod per node");
}

#[test]
fn more_nodes_than_the_policy_allows() {
    let to_b = |order: &mut PodOrder| {
        order.node = "b".into();
        order.node_uid = "node-2".into();
    };
    let noticed = beside(to_b);
    assert_says(&noticed, "2 nodes pull, 1 may");
    assert_says(&noticed, "2 nodes begin at once");
    assert_says(&noticed, "2 nodes pull\"");
    assert_says(
        &each_pod(move |order| (order.begins_turn, order.policy) = (true, "gone".into())),
        "its policy does not exist",
    );
}

#[test]
fn more_pods_or_pulls_from_a_registry_than_the_policy_allows() {
    for (policy, planned, done) in [
        ("pulls", "2 Pods pull, Some(1) may", "1 Pods pull already"),
        ("hosts", "2 Pods pull from docker.io, 1 may", "1 Pods pull from docker.io already"),
    ] {
        let noticed = noticed(move |plan| {
            let orders = plan.effects.iter_mut().filter_map(|effect| match effect {
                Effect::CreatePod(order) => Some(order),
                _ => None,
            });
            let mut others = Vec::new();
            for order in orders {
                order.policy = policy.into();
                let mut other = order.clone();
                (other.name, other.node, other.node_uid) = ("other".into(), "b".into(), "node-2".into());
                others.push(Effect::CreatePod(other));
            }
            plan.effects.extend(others);
        });
        assert_says(&noticed, planned);
        assert_says(&noticed, done);
    }
}

#[test]
fn a_beginning_before_the_delay_is_over() {
    let noticed = each_pod(|order| order.policy = "wide".into());
    assert_says(&noticed, "b begins too soon after a");
    assert_says(&noticed, "too soon after 0s a: alpine");
}

#[test]
fn effects_of_a_new_leader_that_has_not_listed_yet() {
    let mut lab = lab();
    lab.run(secs(60.0));
    lab.hand_over(secs(1.0));
    lab.run(secs(10.9));
    let mut tampered = false;
    lab.knobs.tamper = Box::new(move |plan| {
        if !std::mem::replace(&mut tampered, true) {
            plan.effects.push(Effect::CheckPod { pod: "any".into() });
        }
    });
    lab.run(secs(10.0));
    let noticed: Vec<String> = lab.violations.iter().map(ToString::to_string).collect();
    assert_says(&noticed, "effects before every watch has synced");
}

#[test]
fn a_request_that_is_made_again_and_again() {
    let noticed = noticed(|plan| plan.effects.push(Effect::CheckPod { pod: "any".into() }));
    assert_says(&noticed, "CheckPod(\"any\") is asked for 30 times");
}

#[test]
fn a_pace_that_is_too_fast() {
    let mut lab = lab();
    lab.knobs.tamper = Box::new(|plan| {
        for effect in &mut plan.effects {
            if let Effect::CreatePod(order) = effect {
                order.policy = "wide".into();
            }
        }
    });
    lab.run(secs(60.0));
    let pace = lab.record.pace("wide");
    assert_eq!((pace.nodes, pace.pods), (2, 2));
    assert!(pace.delay.is_some_and(|delay| delay < secs(1.0)), "{pace:?}");
    assert_eq!(lab.record.pace("one"), Pace::default());
}

#[test]
fn an_image_that_starves() {
    let mut lab = lab();
    let mut refused = 0;
    lab.knobs.fate = Box::new(move |effect| match effect {
        Effect::CreatePod(order) if &*order.node == "b" && refused < 100 => {
            refused += 1;
            Fate::Refused("not now")
        }
        _ => Fate::Answered,
    });
    let began_at = lab.now;
    lab.settle();
    let late = lab.late_starts(began_at, SignedDuration::from_mins(30));
    assert!(late.len() == 1 && late[0].ends_with("s b: alpine"), "{late:?}");
}

#[test]
fn pods_that_should_not_be() {
    assert_says(&each_pod(|order| order.policy = "paused".into()), "its policy is paused");
    assert_says(&each_pod(|order| order.node_uid = "other".into()), "its node is another machine");
    assert_says(&each_pod(|order| order.node = "z".into()), "its node does not exist");
    assert_says(&each_pod(|order| order.node = "c".into()), "the node is not a target of alpine");
    assert_says(&each_pod(|order| order.pulls.push(pull("never", "busybox"))), "never is never to be pulled");
    assert_says(&each_pod(|order| order.pulls.push(pull("gone", "gone"))), "gone does not exist");
    assert_says(&each_pod(|order| order.pulls.clear()), "a Pod pulls something");
    assert_says(&each_pod(|order| order.name = "Alpine_".into()), "a Pod's name is a DNS label");
    assert_says(&each_pod(|order| order.begins_turn = false), "a turn goes on that never began");
}

#[test]
fn a_pull_of_what_is_there() {
    let mut first = None;
    let noticed = noticed(move |plan| {
        for effect in &plan.effects {
            if let (Effect::CreatePod(order), None) = (effect, &first) {
                first = Some(order.clone());
            }
        }
        let is_quiet = plan.effects.is_empty() && plan.wake_at.is_none();
        if let Some(mut order) = first.clone().filter(|_| is_quiet) {
            order.name = "again".into();
            plan.effects.push(Effect::CreatePod(order));
        }
    });
    assert_says(&noticed, "alpine is there already");
    assert_says(&noticed, "docker.io/library/alpine:latest was pulled already");
}

#[test]
fn a_deletion_before_the_outcome_is_recorded() {
    let mut pod = None;
    let noticed = noticed(move |plan| {
        if let Some(pod) = pod.take() {
            plan.effects.push(Effect::DeletePod { pod, uid: None, force: false });
        }
        for effect in &plan.effects {
            if let Effect::CreatePod(order) = effect {
                pod = Some(order.name.clone());
            }
        }
    });
    assert_says(&noticed, "its outcome is not recorded");
}

#[test]
fn a_status_that_is_not_kept_up_to_date() {
    let noticed = noticed(|plan| {
        let is_alpines =
            |effect: &mut Effect| matches!(effect, Effect::PatchImage { image, .. } if **image == *"alpine");
        for effect in plan.effects.extract_if(.., is_alpines) {
            if let Effect::PatchImage { image, .. } = effect {
                plan.clean.images.push(image);
            }
        }
    });
    assert_says(&noticed, "CachedImage alpine shows");
}

#[test]
fn two_effects_about_the_same() {
    let noticed = noticed(|plan| {
        let again = plan.effects.clone();
        plan.effects.extend(again);
    });
    assert_says(&noticed, "two effects about CreatePod");
    assert_says(&noticed, "is written too often");
}

#[test]
fn a_nodecache_that_lies() {
    let noticed = noticed(|plan| {
        for effect in &mut plan.effects {
            if let Effect::RecordNode { cache, .. } = effect {
                let pulled_at = Some(Timestamp::UNIX_EPOCH);
                let record =
                    ImageRecord { image: "docker.io/library/other:1".to_owned(), pulled_at, ..Default::default() };
                cache.status.as_mut().unwrap().images.push(record);
            }
        }
    });
    assert_says(&noticed, "docker.io/library/other:1 was never pulled onto a");
}

#[test]
fn statuses_that_make_no_sense() {
    let spoilt = |spoil: fn(&mut drop_api::CachedImageStatus)| {
        noticed(move |plan| {
            for effect in &mut plan.effects {
                if let Effect::PatchImage { status, .. } = effect {
                    spoil(status);
                }
            }
        })
    };
    assert_says(&spoilt(|status| status.nodes_ready += 3), "more nodes are ready than targeted");
    assert_says(&spoilt(|status| status.ready = Some("7/7".to_owned())), "READY is what the counts say");
    assert_says(&spoilt(|status| status.conditions.clear()), "there is no condition Ready");
    assert_says(&spoilt(|status| status.conditions[0].message.clear()), "Ready has no message");
    assert_says(&spoilt(|status| status.conditions[0].reason = "Cached".to_owned()), "Ready and its reason differ");
    assert_says(&spoilt(|status| status.conditions[0].reason = "x".repeat(2000)), "the API server refuses");
    let mut clock = 0;
    let moved = noticed(move |plan| {
        for effect in &mut plan.effects {
            if let Effect::PatchImage { status, .. } = effect {
                clock += 1;
                status.conditions[0].last_transition_time = Timestamp::from_second(clock).unwrap();
            }
        }
    });
    assert_says(&moved, "lastTransitionTime moved");
}
