//! Scenarios: what Drop does, told by what happens in a small cluster.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "these are tests")]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{Lab, duration};
use drop_api::cached_image::{ImagePullPolicy, LocalObjectReference, Phase};
use drop_api::cached_image_set::ImageEntry;
use drop_api::condition::{self, ConditionStatus};
use drop_api::node_cache::{ImageRecord, NodeCacheSpec};
use drop_api::{CachedImageSpec, NodeCache};
use drop_core::effect::EffectKey;
use drop_core::event::{Kind, Report};
use drop_core::inventory::{Inventory, Listed};
use drop_core::memory::MAX_IMAGES;
use drop_core::reference::Reference;
use drop_core::{Effect, Event, Name};
use drop_sim::{Failure, Fate, Kubelet, schema, secs, under};

const NOT_FOUND: (&str, &str) =
    ("ErrImagePull", "failed to resolve reference \"docker.io/library/nope:1\": docker.io/library/nope:1: not found");
const TOO_MANY_REQUESTS: (&str, &str) = ("ErrImagePull", "unexpected status: 429 Too Many Requests");
const NO_SUCH_HOST: (&str, &str) = (
    "ErrImagePull",
    "failed to do request: Head \"https://registry.bad/v2/x\": dial tcp: lookup registry.bad: no such host",
);

/// Nodes called a, b, c and so on.
fn nodes(count: u8) -> Lab {
    let mut lab = Lab::new();
    (0..count).for_each(|n| lab.node(&char::from(b'a' + n).to_string()));
    lab
}

// ---- A roll-out -------------------------------------------------------------

#[test]
fn quickstart() {
    let mut lab = nodes(2);
    lab.image("alpine", "alpine:3.20");
    lab.settle();
    assert_eq!(lab.starts(), ["0s a: alpine", "10s b: alpine"]);
    let reasons = lab.reasons("alpine");
    assert_eq!((reasons[0].as_str(), reasons.last().unwrap().as_str()), ("Pulling", "Cached"), "{reasons:?}");
    assert_eq!(lab.shows("alpine"), "Cached 2/2");
    assert_eq!(lab.message("alpine"), "on all 2 target nodes");
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
    assert_eq!(lab.message("alpine"), "0 of 2 nodes have it; pulling on a");
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
    assert_eq!(lab.starts(), ["0s a: hub", "0s b: quay", "21s a: quay", "21s b: hub"]);
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
    let begins = lab.record.pods.iter().filter(|pod| pod.order.begins_turn);
    let begins: Vec<_> = begins.map(ToString::to_string).collect();
    assert_eq!(begins, ["0s a: x0", "10s b: x0"], "the delay counts from the beginning of a turn");
}

#[test]
fn the_node_of_the_last_start_does_not_wait_for_itself() {
    let mut lab = nodes(2);
    lab.policy("p", |policy| policy.min_delay_between_pulls = duration("60s"));
    lab.image_with("x", "x", under("p"));
    lab.run(secs(20.0));
    lab.image_with("y", "y", under("p"));
    lab.run(secs(20.0));
    assert_eq!(lab.starts(), ["0s a: x", "20s a: y"], "b has waited for longer, but must wait for the delay");
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
    lab.edit_node("b", |node| drop(node.labels.insert("pool".to_owned(), "gpu".to_owned())));
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

// ---- Failures ---------------------------------------------------------------

#[test]
fn a_failing_image_is_tried_by_one_node_at_a_time_and_delays_no_other() {
    let mut lab = nodes(3);
    lab.policy("p", |policy| {
        policy.max_concurrent_nodes = 3;
        policy.min_delay_between_pulls = duration("0s");
    });
    lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), NOT_FOUND.into());
    lab.image_with("nope", "nope:1", under("p"));
    lab.image_with("zebra", "zebra", under("p"));
    lab.run(secs(2000.0));
    assert_eq!(lab.shows("zebra"), "Cached 3/3");
    assert_eq!(lab.shows("nope"), "ImagePullBackOff 0/3");

    // Each try after the first ones waits at least 0.9 times the backoff.
    let tries: Vec<_> = lab.pods_of("nope:1").into_iter().map(|pod| (pod.at, pod.gone_at.unwrap())).collect();
    let probes = &tries[3..];
    assert!(probes.len() >= 5, "{tries:?}");
    for pair in probes.windows(2) {
        assert!(pair[1].0 > pair[0].1, "one at a time: {tries:?}");
        let apart = pair[1].0.duration_since(pair[0].0).as_secs_f64();
        assert!(apart >= 0.9 * 30.0, "{tries:?}");
    }
    let last = probes.windows(2).last().unwrap();
    let apart = last[1].0.duration_since(last[0].0).as_secs_f64();
    assert!((270.0..=335.0).contains(&apart), "the backoff is capped at 5 minutes: {apart}");
}

#[test]
fn a_failing_image_says_where_and_why() {
    let mut lab = nodes(1);
    lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), NOT_FOUND.into());
    lab.knobs.broken_images.insert("registry.bad/x:latest".to_owned(), NO_SUCH_HOST.into());
    lab.image("nope", "nope:1");
    lab.image("lost", "registry.bad/x");
    lab.run(secs(20.0));
    assert_eq!((lab.shows("nope").as_str(), lab.message("nope").as_str()), ("ErrImagePull 0/1", "a: image not found"));
    assert_eq!(lab.message("lost"), "a: cannot resolve registry.bad");
    let status = lab.status("nope");
    assert_eq!((status.phase, status.nodes_failed, status.consecutive_failures), (Some(Phase::Degraded), 1, 1));
    assert_eq!((status.failures[0].node.as_str(), status.failures[0].attempts), ("a", 1));
    let wait = status.failures[0].retry_at.unwrap().duration_since(status.last_attempted_at.unwrap()).as_secs_f64();
    assert!((27.0..=33.0).contains(&wait), "{wait}");
    lab.run(secs(30.0));
    assert_eq!(
        (lab.shows("nope").as_str(), lab.message("nope").as_str()),
        ("ImagePullBackOff 0/1", "a: image not found")
    );
    assert_eq!(lab.status("nope").failures[0].attempts, 2);
}

#[test]
fn a_registry_that_fails_three_images_is_tried_by_one_pull_at_a_time() {
    let mut lab = nodes(4);
    lab.policy("p", |policy| {
        policy.max_concurrent_nodes = 4;
        policy.min_delay_between_pulls = duration("0s");
    });
    for n in 0..6 {
        let image = format!("registry.bad/x{n}:1");
        lab.knobs.broken_images.insert(image.clone(), NO_SUCH_HOST.into());
        lab.image_with(&format!("bad{n}"), &image, under("p"));
    }
    lab.image_with("good", "quay.io/good:1", under("p"));
    lab.run(secs(25.0));
    assert_eq!(lab.shows("good"), "Cached 4/4", "other registries go on");
    let tried = |lab: &Lab| lab.starts().iter().filter(|start| start.contains("bad")).count();
    let at_first = tried(&lab);
    assert_eq!(at_first, 12, "three images on each node, then it is paused: {:?}", lab.starts());
    lab.run(secs(275.0));
    let probes = tried(&lab) - at_first;
    assert!((2..=4).contains(&probes), "one probe at 30 s, 60 s, 120 s: {:?}", lab.starts());
    let waiting = lab.shows("bad5");
    assert!(waiting.starts_with("Waiting") || waiting.starts_with("ErrImagePull"), "{waiting}");
    lab.repair();
    lab.settle();
    for n in 0..6 {
        assert_eq!(lab.shows(&format!("bad{n}")), "Cached 4/4");
    }
}

#[test]
fn a_long_pull_is_no_try_of_a_registry_that_failed_since() {
    let mut lab = nodes(2);
    lab.policy("p", |policy| {
        policy.max_concurrent_nodes = 2;
        policy.min_delay_between_pulls = duration("1s");
    });
    lab.edit_node("a", |node| drop(node.labels.insert("pool".to_owned(), "a".to_owned())));
    lab.knobs.pulls.insert("r.example/large:1".to_owned(), secs(45.0 * 60.0));
    lab.image_with("large", "r.example/large:1", |image| {
        under("p")(image);
        image.node_selector = [("pool".to_owned(), "a".to_owned())].into();
    });
    lab.run(secs(5.0));
    for name in ["u", "v", "w"] {
        let reference = format!("r.example/{name}:1");
        lab.knobs.broken_images.insert(reference.clone(), TOO_MANY_REQUESTS.into());
        lab.image_with(name, &reference, under("p"));
    }
    lab.run(secs(60.0));
    lab.knobs.broken_images.clear();
    lab.run(secs(300.0));
    for name in ["u", "v", "w"] {
        assert_eq!(lab.status(name).ready.as_deref(), Some("1/2"), "{}", lab.message(name));
    }
}

#[test]
fn a_pull_that_hangs_is_no_try_once_it_has_failed() {
    let mut lab = nodes(2);
    lab.policy("p", |policy| {
        policy.pull_timeout = duration("1m");
        policy.max_concurrent_nodes = 2;
    });
    lab.knobs.pull = secs(4.0 * 3600.0);
    lab.image_with("x", "registry.bad/x:1", under("p"));
    lab.run(secs(5.0));
    lab.knobs.pull = secs(5.0);
    lab.knobs.broken_images.insert("registry.bad/x:1".to_owned(), NO_SUCH_HOST.into());
    lab.run(secs(30.0));
    lab.knobs.broken_images.clear();
    lab.run(secs(600.0));
    assert_eq!(lab.status("x").ready.as_deref(), Some("1/2"), "{}", lab.message("x"));
}

#[test]
fn after_one_success_every_node_pulls_what_failed() {
    let mut lab = nodes(4);
    lab.policy("p", |policy| policy.max_concurrent_nodes = 2);
    lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), NOT_FOUND.into());
    lab.image_with("nope", "nope:1", under("p"));
    lab.run(secs(600.0));
    lab.repair();
    let repaired_at = lab.now;
    let tries = lab.record.pods.len();
    lab.settle();
    assert_eq!(lab.shows("nope"), "Cached 4/4");
    let status = lab.status("nope");
    assert_eq!((status.nodes_failed, status.consecutive_failures, status.failures.len()), (0, 0, 0));
    let starts: Vec<_> = lab.record.pods[tries..].iter().map(|pod| pod.at.duration_since(repaired_at)).collect();
    assert_eq!(starts.len(), 4);
    assert!(starts[3] - starts[0] < secs(40.0), "the others do not wait for their own backoff: {starts:?}");
}

#[test]
fn a_node_that_cannot_pull_waits_and_the_others_go_on() {
    let broken = [
        Kubelet::CannotPull(("ErrImagePull", "dial unix /run/containerd/containerd.sock: connection refused").into()),
        Kubelet::Rejects(("OutOfpods", "Node didn't have enough resource: pods").into()),
        Kubelet::Silent,
        Kubelet::NoSandbox,
    ];
    for kubelet in broken {
        let mut lab = nodes(3);
        lab.title = format!("{kubelet:?}");
        lab.knobs.kubelets.insert("a".to_owned(), kubelet.clone());
        lab.image("alpine", "alpine");
        lab.image("busybox", "busybox");
        lab.run(secs(290.0));
        assert_eq!(lab.shows("alpine").split(' ').next_back(), Some("2/3"), "{kubelet:?}");
        assert_eq!(lab.shows("busybox").split(' ').next_back(), Some("2/3"), "{kubelet:?}");
        let failure = lab.api.caches["a"].status.as_ref().unwrap().node_failure.clone().unwrap();
        let expected = match &kubelet {
            Kubelet::Silent => ("Unacknowledged", "the kubelet does not acknowledge Pods"),
            Kubelet::NoSandbox => ("SandboxNotReady", "the kubelet cannot start Pods: runtime or network not ready"),
            Kubelet::Rejects(Failure { reason, message }) => (&**reason, &**message),
            _ => ("ErrImagePull", "the container runtime does not answer"),
        };
        assert_eq!((failure.reason.as_str(), failure.message.as_str()), expected);
        let on_a: Vec<_> = lab.record.pods.iter().filter(|pod| &*pod.order.node == "a").collect();
        for pair in on_a.windows(2) {
            let wait = pair[1].at.duration_since(pair[0].gone_at.unwrap()).as_secs_f64();
            assert!(wait >= 25.0, "{kubelet:?}: {wait}");
        }
        lab.until(|lab| {
            lab.message("alpine").contains(&format!("a: {}", expected.1)) || lab.message("alpine").ends_with(expected.1)
        });
        lab.repair();
        lab.settle();
        assert_eq!((lab.shows("alpine"), lab.shows("busybox")), ("Cached 3/3".to_owned(), "Cached 3/3".to_owned()));
        assert_eq!(lab.api.caches["a"].status.as_ref().unwrap().node_failure, None);
    }
}

#[test]
fn an_image_that_failed_is_tried_again_after_its_node_failed_too() {
    let mut lab = nodes(1);
    lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), NOT_FOUND.into());
    lab.image("nope", "nope:1");
    lab.run(secs(20.0));
    lab.repair();
    lab.knobs.kubelets.insert("a".to_owned(), Kubelet::Rejects(("OutOfpods", "full").into()));
    lab.run(secs(20.0));
    lab.repair();
    lab.settle();
    assert_eq!((lab.record.pods.len(), lab.shows("nope").as_str()), (3, "Cached 1/1"));
}

#[test]
fn a_node_in_trouble_gives_its_turn_to_others() {
    let mut lab = nodes(2);
    lab.knobs.kubelets.insert("a".to_owned(), Kubelet::Silent);
    lab.image("alpine", "alpine");
    lab.run(secs(155.0));
    assert_eq!(lab.starts(), ["0s a: alpine", "150s b: alpine"], "its backoff has passed when its Pod is gone");
}

#[test]
fn a_pod_in_doubt_is_not_asked_for_again_once_its_policy_is_paused() {
    for fate_of_creations in [Fate::AnswerLost, Fate::RequestLost] {
        let mut lab = nodes(1);
        lab.title = format!("{fate_of_creations:?}");
        lab.policy("p", |_| {});
        lab.knobs.watch = secs(1.0);
        fate(&mut lab, fate_of_creations.clone(), 1, creates);
        lab.image_with("alpine", "alpine", under("p"));
        lab.run(secs(5.0));
        lab.policy("p", |policy| policy.paused = true);
        lab.run(secs(60.0));
        let expected = if fate_of_creations == Fate::AnswerLost { "Cached 1/1" } else { "Paused 0/1" };
        assert_eq!(lab.shows("alpine"), expected, "what runs goes on, and nothing new is started");
        lab.policy("p", |policy| policy.paused = false);
        lab.settle();
        assert_eq!((lab.record.pods.len(), lab.shows("alpine").as_str()), (1, "Cached 1/1"));
    }
}

#[test]
fn an_edit_to_another_image_that_is_there_is_recorded() {
    let mut lab = nodes(1);
    lab.image("one", "alpine");
    lab.image("two", "busybox");
    lab.settle();
    lab.edit_image("two", |spec| spec.image = "alpine".to_owned());
    lab.settle();
    let cache = lab.api.caches["a"].status.clone().unwrap();
    assert_eq!((cache.ready.as_str(), cache.images.len()), ("1/1", 1), "busybox is forgotten");
}

#[test]
fn an_image_that_is_replaced_at_once_is_counted_right() {
    let mut lab = nodes(2);
    lab.image("one", "alpine");
    lab.image("two", "alpine");
    lab.settle();
    // Both watch events come at the same moment, and so into one plan.
    lab.delete_image("one");
    lab.image("one", "alpine");
    lab.settle();
    assert_eq!(lab.shows("one"), "Cached 2/2");
}

#[test]
fn a_pod_of_a_deleted_image_does_not_stay_on_record_as_pulling() {
    let mut lab = nodes(1);
    lab.image("alpine", "alpine");
    lab.settle();
    lab.knobs.pull = secs(60.0);
    lab.image("huge", "huge");
    lab.run(secs(5.0));
    lab.delete_image("huge");
    lab.settle();
    assert_eq!(lab.api.caches["a"].status.as_ref().unwrap().images_pulling, 0);
}

#[test]
fn where_an_image_matches_nowhere_the_message_follows_the_nodes() {
    let mut lab = nodes(1);
    lab.image_with("gpu", "cuda", |spec| drop(spec.node_selector.insert("pool".to_owned(), "gpu".to_owned())));
    lab.settle();
    lab.node("b");
    lab.settle();
    assert_eq!(lab.message("gpu"), "none of 2 nodes is a target; a: label pool=gpu is missing");
    lab.remove_node("a");
    lab.settle();
    assert_eq!(lab.message("gpu"), "none of 1 node is a target; b: label pool=gpu is missing");
}

/// Nodes a and b, and no operator yet; a NodeCache holds `count` images of a, which nobody pulls.
fn remembering(count: usize) -> Lab {
    let mut lab = nodes(2);
    lab.edit_node("a", |node| drop(node.labels.insert("pool".to_owned(), "full".to_owned())));
    lab.stop(false);
    lab.knobs.json = false;
    let spec = NodeCacheSpec { node_uid: lab.api.nodes["a"].uid.to_string() };
    let mut cache = NodeCache::new("a", spec);
    let status = cache.status.get_or_insert_default();
    for n in 0..count {
        lab.image_with(&format!("old-{n}"), &format!("old:{n}"), |image| {
            image.image_pull_policy = ImagePullPolicy::Never;
            image.node_selector = [("pool".to_owned(), "full".to_owned())].into();
        });
        let image = Reference::parse(&format!("old:{n}")).to_string();
        status.images.push(ImageRecord { image, found_at: Some(lab.now), ..ImageRecord::default() });
    }
    lab.api.caches.insert("a".to_owned(), cache);
    lab
}

/// Node a, of which a NodeCache holds as many images as it can, and node b, which is busy; `new`
/// is wanted on a.
fn full() -> Lab {
    let mut lab = remembering(MAX_IMAGES);
    lab.edit_node("b", |node| drop(node.labels.insert("pool".to_owned(), "busy".to_owned())));
    lab.knobs.pull = secs(600.0);
    let only_on = |pool: &str| [("pool".to_owned(), pool.to_owned())].into();
    lab.image_with("huge", "huge", |image| image.node_selector = only_on("busy"));
    lab.image_with("new", "new", |image| image.node_selector = only_on("full"));
    lab.start();
    lab.run(secs(30.0));
    assert_eq!(lab.message("new"), "0 of 1 nodes have it; a: more than 2000 images are wanted on the node");
    lab
}

fn remembered(lab: &Lab, node: &str) -> usize {
    lab.api.caches[node].status.as_ref().unwrap().images.len()
}

#[test]
fn a_pod_of_several_images_does_not_overfill_a_node_cache() {
    let mut lab = remembering(MAX_IMAGES - 1);
    let images = ["x:1", "x:2", "x:3"].map(|image| ImageEntry { image: image.to_owned(), ..ImageEntry::default() });
    lab.set("new", |set| set.images = images.into());
    lab.start();
    lab.run(secs(60.0));
    assert_eq!(remembered(&lab, "a"), MAX_IMAGES);
}

#[test]
fn a_retry_does_not_overfill_a_node_cache() {
    let mut lab = remembering(MAX_IMAGES);
    lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), NOT_FOUND.into());
    lab.image("nope", "nope:1");
    lab.start();
    lab.run(secs(300.0));
    assert!(lab.starts().len() > 1 && lab.starts().iter().all(|start| start.contains(" b: ")), "{:?}", lab.starts());
    assert_eq!(remembered(&lab, "a"), MAX_IMAGES);
}

#[test]
fn where_there_is_room_again_no_status_speaks_of_too_many_images() {
    let next = "0 of 1 nodes have it; next under the built-in pull policy: 1 node at once, 10s apart";
    let mut lab = full();
    lab.delete_image("old-7");
    lab.run(secs(30.0));
    assert_eq!(lab.message("new"), next);

    // The watch breaks off while another machine takes the name.
    let mut lab = full();
    let labels = lab.api.nodes["a"].labels.clone();
    lab.remove_node("a");
    lab.node("a");
    lab.edit_node("a", |node| node.labels = labels);
    lab.relist_kind(Kind::Node);
    lab.run(secs(30.0));
    assert_eq!(lab.message("new"), next);
}

#[test]
fn a_pull_that_takes_too_long_fails_and_counts_until_its_pod_is_gone() {
    let mut lab = nodes(2);
    lab.policy("p", |policy| policy.pull_timeout = duration("1m"));
    lab.knobs.pull = secs(200.0);
    lab.image_with("huge", "huge", under("p"));
    lab.run(secs(70.0));
    assert_eq!(lab.shows("huge"), "PullTimeout 0/2");
    assert_eq!(lab.message("huge"), "a: the pull took longer than pullTimeout");
    lab.run(secs(130.0));
    assert_eq!(lab.starts(), ["0s a: huge"], "the kubelet is still pulling on a");
    lab.run(secs(2.0));
    assert_eq!(lab.starts(), ["0s a: huge", "200s b: huge"]);
    lab.repair();
    lab.settle();
    assert_eq!(lab.shows("huge"), "Cached 2/2");
}

// ---- Policies ---------------------------------------------------------------

#[test]
fn a_paused_policy_starts_nothing_and_lets_run_what_runs() {
    let mut lab = nodes(2);
    lab.policy("p", |_| {});
    lab.image_with("alpine", "alpine", under("p"));
    lab.run(secs(3.0));
    lab.policy("p", |policy| policy.paused = true);
    lab.run(secs(600.0));
    assert_eq!(lab.starts(), ["0s a: alpine"]);
    assert_eq!(lab.shows("alpine"), "Paused 1/2");
    assert_eq!(lab.message("alpine"), "PullPolicy p is paused");
    let conditions = lab.api.policies["p"].status.clone().unwrap().conditions;
    assert_eq!(condition::ready(&conditions).unwrap().reason, "Paused");
    lab.policy("p", |policy| policy.paused = false);
    lab.settle();
    assert_eq!(lab.starts(), ["0s a: alpine", "603s b: alpine"]);
}

#[test]
fn without_its_policy_an_image_waits_for_it() {
    let mut lab = nodes(1);
    lab.image_with("alpine", "alpine", under("late"));
    lab.run(secs(60.0));
    assert_eq!(lab.shows("alpine"), "PullPolicyNotFound 0/1");
    assert!(lab.message("alpine").contains("PullPolicy late does not exist"), "{}", lab.message("alpine"));
    assert!(lab.starts().is_empty());
    lab.policy("late", |_| {});
    lab.settle();
    assert_eq!(lab.shows("alpine"), "Cached 1/1");
}

#[test]
fn an_edit_of_the_policy_takes_effect_at_once() {
    let mut lab = nodes(4);
    lab.knobs.pull = secs(100.0);
    lab.policy("p", |_| {});
    lab.image_with("alpine", "alpine", under("p"));
    lab.run(secs(20.0));
    assert_eq!(lab.starts(), ["0s a: alpine"]);
    lab.policy("p", |policy| policy.max_concurrent_nodes = 3);
    lab.run(secs(15.0));
    assert_eq!(lab.starts(), ["0s a: alpine", "20s b: alpine", "30s c: alpine"]);
    lab.policy("p", |policy| policy.max_concurrent_nodes = 1);
    lab.settle();
    assert_eq!(lab.starts()[3..], ["131s d: alpine"], "when all the others are done");
}

#[test]
fn a_lowered_limit_holds_for_turns_that_go_on() {
    let mut lab = nodes(3);
    lab.policy("p", |policy| {
        policy.max_concurrent_nodes = 3;
        policy.min_delay_between_pulls = duration("0s");
    });
    for n in 0..4 {
        lab.image_with(&format!("x{n}"), &format!("x{n}"), under("p"));
    }
    lab.run(secs(2.0));
    assert_eq!(lab.starts().len(), 3);
    lab.policy("p", |policy| policy.max_concurrent_nodes = 1);
    // The lab sees to it that no Pod comes beside another from now on.
    lab.settle();
    assert_eq!(lab.starts().len(), 12);
}

#[test]
fn a_policy_that_is_replaced_still_keeps_its_delay() {
    let mut lab = nodes(2);
    lab.knobs.pull = secs(100.0);
    lab.policy("p", |policy| policy.max_concurrent_nodes = 2);
    lab.image_with("alpine", "alpine", under("p"));
    lab.run(secs(3.0));
    lab.delete_policy("p");
    lab.run(secs(1.0));
    lab.policy("p", |policy| policy.max_concurrent_nodes = 2);
    lab.settle();
    assert_eq!(lab.starts(), ["0s a: alpine", "10s b: alpine"]);
}

#[test]
fn policies_do_not_share_their_limits() {
    let mut lab = nodes(2);
    lab.policy("p", |_| {});
    lab.policy("q", |_| {});
    lab.image_with("one", "one", under("p"));
    lab.image_with("two", "two", under("q"));
    lab.settle();
    assert_eq!(lab.starts(), ["0s a: one", "0s b: two", "10s a: two", "10s b: one"]);
}

// ---- Edits ------------------------------------------------------------------

#[test]
fn an_image_that_is_edited_while_it_is_pulled_is_pulled_anew() {
    let mut lab = nodes(1);
    lab.knobs.pull = secs(30.0);
    lab.image("alpine", "alpine:3.20");
    lab.run(secs(5.0));
    lab.edit_image("alpine", |spec| spec.image = "alpine:3.21".to_owned());
    lab.settle();
    let pods = &lab.record.pods;
    assert!(pods[0].deleted_at.unwrap() < pods[0].at + secs(6.0));
    assert_eq!(pods[1].order.pulls[0].reference.as_str(), "docker.io/library/alpine:3.21");
    assert!(pods[1].at >= pods[0].gone_at.unwrap(), "one Pod per node, Terminating included");
    assert_eq!((pods.len(), lab.shows("alpine").as_str()), (2, "Cached 1/1"));
    let images = lab.api.caches["a"].status.clone().unwrap().images;
    assert_eq!(images.len(), 1, "what is not wanted any more is forgotten: {images:?}");
}

#[test]
fn an_image_that_is_deleted_while_it_is_pulled_counts_until_its_pod_is_gone() {
    let mut lab = nodes(2);
    lab.knobs.pull = secs(30.0);
    lab.image("alpine", "alpine");
    lab.image("busybox", "busybox");
    lab.run(secs(5.0));
    lab.delete_image("alpine");
    lab.settle();
    let pod = &lab.record.pods[0];
    assert!(pod.deleted_at.unwrap() < pod.at + secs(6.0));
    assert_eq!(lab.starts(), ["0s a: alpine", "30s a: busybox", "62s b: busybox"]);
}

#[test]
fn a_spec_edit_that_does_not_concern_the_reference_pulls_nothing_again() {
    let mut lab = nodes(2);
    lab.image("alpine", "alpine:3.20");
    lab.settle();
    let pods = lab.record.pods.len();
    lab.edit_image("alpine", |spec| spec.priority = 7);
    lab.settle();
    lab.edit_image("alpine", |spec| {
        spec.image = "docker.io/library/alpine".to_owned();
        spec.tag = Some("3.20".to_owned());
    });
    lab.settle();
    assert_eq!(lab.record.pods.len(), pods);
    assert_eq!(lab.status("alpine").observed_generation, Some(3));
    let conditions = lab.status("alpine").conditions;
    assert_eq!(condition::ready(&conditions).unwrap().observed_generation, Some(3));
}

#[test]
fn two_objects_that_want_one_image_share_its_pulls() {
    let mut lab = nodes(2);
    lab.image("one", "alpine:3.20");
    lab.image("two", "docker.io/library/alpine:3.20");
    lab.settle();
    assert_eq!(lab.record.pods.len(), 2);
    assert_eq!((lab.shows("one").as_str(), lab.shows("two").as_str()), ("Cached 2/2", "Cached 2/2"));
    lab.delete_image("one");
    lab.settle();
    lab.restart(true);
    lab.settle();
    assert_eq!(lab.record.pods.len(), 2, "the image stays known while one wants it");
}

#[test]
fn two_objects_that_want_one_failing_image_try_it_once() {
    let mut lab = nodes(2);
    lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), NOT_FOUND.into());
    lab.image("one", "nope:1");
    lab.image("two", "nope:1");
    lab.run(secs(25.0));
    assert_eq!(lab.record.pods.len(), 1, "{:?}", lab.starts());
    assert_eq!((lab.shows("one").as_str(), lab.shows("two").as_str()), ("ErrImagePull 0/2", "ErrImagePull 0/2"));
}

#[test]
fn a_digest_is_pulled_as_it_is() {
    let mut lab = nodes(1);
    let digest = format!("sha256:{}", "ab".repeat(32));
    lab.image_with("pinned", "nginx", |spec| spec.digest = Some(digest.clone()));
    lab.settle();
    let pull = &lab.record.pods[0].order.pulls[0];
    assert_eq!(pull.reference.as_str(), format!("docker.io/library/nginx@{digest}"));
    assert_eq!(lab.shows("pinned"), "Cached 1/1");
}

#[test]
fn the_longest_names_make_valid_pod_names() {
    let longest = |first: &str, c: &str| format!("{first}{}", c.repeat(253 - first.len()));
    let node = format!("{}.example.com", "n".repeat(63));
    let mut lab = Lab::with_nodes(&[&node]);
    lab.image(&longest("a", "x"), "one");
    lab.image(&longest("a", "y"), "two");
    lab.image(&longest(&format!("{}.", "d".repeat(49)), "z"), "three");
    lab.image_of_set(&longest("set.", "s"), &longest("b", "x"), "four", |_| {});
    lab.settle();
    let names: std::collections::BTreeSet<_> = lab.record.pods.iter().map(|pod| pod.order.name.clone()).collect();
    assert_eq!(names.len(), 4, "and the lab checks that they are DNS labels");
}

#[test]
fn never_pulls_nothing_and_reports() {
    let mut lab = nodes(2);
    lab.image_with("never", "alpine", |spec| spec.image_pull_policy = ImagePullPolicy::Never);
    lab.settle();
    assert!(lab.starts().is_empty());
    assert_eq!(lab.shows("never"), "Waiting 0/2");
    assert_eq!(lab.message("never"), "0 of 2 nodes have it; imagePullPolicy: Never only reports");
    // Another object may have it pulled.
    lab.image("alpine", "alpine");
    lab.settle();
    assert_eq!((lab.record.pods.len(), lab.shows("never").as_str()), (2, "Cached 2/2"));
}

// ---- Nodes ------------------------------------------------------------------

#[test]
fn an_image_that_no_node_matches_says_so() {
    let mut lab = nodes(2);
    lab.image_with("gpu", "cuda", |spec| drop(spec.node_selector.insert("pool".to_owned(), "gpu".to_owned())));
    lab.settle();
    assert_eq!(lab.shows("gpu"), "NoMatchingNodes 0/0");
    assert_eq!(lab.message("gpu"), "none of 2 nodes is a target; a: label pool=gpu is missing");
    lab.edit_node("b", |node| drop(node.labels.insert("pool".to_owned(), "gpu".to_owned())));
    lab.settle();
    assert_eq!(lab.shows("gpu"), "Cached 1/1");
}

#[test]
fn labels_of_image_and_policy_must_both_hold() {
    let mut lab = nodes(2);
    lab.edit_node("a", |node| drop(node.labels.insert("pool".to_owned(), "gpu".to_owned())));
    lab.edit_node("b", |node| drop(node.labels.insert("pool".to_owned(), "build".to_owned())));
    lab.policy("p", |policy| drop(policy.node_selector.insert("pool".to_owned(), "build".to_owned())));
    lab.image_with("x", "x:1", |image| {
        under("p")(image);
        image.node_selector.insert("pool".to_owned(), "gpu".to_owned());
    });
    lab.settle();
    assert_eq!((lab.starts(), lab.shows("x").as_str()), (vec![], "NoMatchingNodes 0/0"));
    assert_eq!(lab.message("x"), "none of 2 nodes is a target; a: label pool=build is missing");
}

#[test]
fn what_is_not_tried_does_not_fail_with_its_node() {
    let mut lab = nodes(1);
    lab.knobs.kubelets.insert("a".to_owned(), Kubelet::Rejects(("OutOfpods", "full").into()));
    lab.image("x", "x:1");
    lab.image_with("never", "y:1", |image| image.image_pull_policy = ImagePullPolicy::Never);
    lab.policy("idle", |policy| policy.paused = true);
    lab.image_with("idle", "z:1", under("idle"));
    lab.run(secs(60.0));
    assert_eq!(lab.status("never").nodes_failed, 0);
    assert_eq!(lab.shows("idle"), "Paused 0/1");
}

#[test]
fn without_nodes_nothing_matches() {
    let mut lab = nodes(0);
    lab.image("alpine", "alpine");
    lab.settle();
    assert_eq!(
        (lab.shows("alpine").as_str(), lab.message("alpine").as_str()),
        ("NoMatchingNodes 0/0", "the cluster has no nodes")
    );
}

#[test]
fn a_cordoned_node_is_left_out_and_loses_nothing() {
    let mut lab = nodes(2);
    lab.edit_node("b", |node| node.unschedulable = true);
    lab.image("alpine", "alpine");
    lab.settle();
    assert_eq!((lab.starts(), lab.shows("alpine")), (vec!["0s a: alpine".to_owned()], "Cached 1/1".to_owned()));
    lab.edit_node("a", |node| node.unschedulable = true);
    lab.edit_node("b", |node| node.unschedulable = false);
    lab.settle();
    lab.edit_node("a", |node| node.unschedulable = false);
    lab.settle();
    assert_eq!((lab.record.pods.len(), lab.shows("alpine").as_str()), (2, "Cached 2/2"));
}

#[test]
fn a_node_that_is_no_target_now_forgets_what_is_not_wanted_there_any_more() {
    let remembers = |lab: &Lab| !lab.api.caches["a"].status.as_ref().unwrap().images.is_empty();
    let ends: [fn(&mut Lab); 2] = [
        |lab| lab.delete_image("alpine"),
        |lab| lab.edit_image("alpine", |image| drop(image.node_selector.insert("pool".to_owned(), "gpu".to_owned()))),
    ];
    for end in ends {
        let mut lab = nodes(1);
        lab.image("alpine", "alpine");
        lab.settle();
        lab.disconnect("a");
        lab.settle();
        assert!(remembers(&lab), "its network may come back");
        end(&mut lab);
        lab.settle();
        assert!(!remembers(&lab));
    }
}

#[test]
fn a_node_that_is_deleted_mid_pull_frees_its_slot() {
    let mut lab = nodes(2);
    lab.knobs.pull = secs(600.0);
    lab.image("alpine", "alpine");
    lab.run(secs(20.0));
    lab.remove_node("a");
    lab.run(secs(40.0));
    assert_eq!(lab.starts(), ["0s a: alpine", "24s b: alpine"]);
    assert_eq!(lab.shows("alpine"), "Pulling 0/1");
    lab.settle();
    assert_eq!(lab.shows("alpine"), "Cached 1/1");
}

#[test]
fn another_machine_under_the_same_name_starts_empty() {
    let mut lab = nodes(1);
    lab.image("alpine", "alpine");
    lab.settle();
    lab.remove_node("a");
    lab.run(secs(1.0));
    lab.node("a");
    lab.settle();
    assert_eq!(lab.record.pods.len(), 2);
    assert_ne!(lab.record.pods[0].order.name, lab.record.pods[1].order.name);
    assert_eq!(lab.shows("alpine"), "Cached 1/1");
    let cache = &lab.api.caches["a"];
    assert_eq!(cache.spec.node_uid, *lab.api.nodes["a"].uid);
    assert_eq!(cache.status.clone().unwrap().images[0].attempts, 1, "nothing is inherited");
}

#[test]
fn an_answer_that_comes_after_its_node_cache_is_gone_tells_nothing() {
    let mut lab = nodes(1);
    fate(&mut lab, Fate::Late(secs(4.5)), 1, records);
    lab.image("alpine", "alpine");
    lab.run(secs(10.3));
    assert!(lab.api.caches.contains_key("a"), "it was written, and the answer is on its way");
    lab.remove_node("a");
    lab.node("a");
    lab.settle();
    assert_eq!((lab.shows("alpine").as_str(), lab.record.pods.len()), ("Cached 1/1", 2));
}

#[test]
fn what_was_pulled_onto_a_machine_is_not_recorded_for_its_successor() {
    let mut lab = nodes(1);
    lab.image("alpine", "alpine");
    // The Pod has ended, but its outcome is not recorded when the machine changes.
    fate(&mut lab, Fate::Refused("not now"), 2, records);
    lab.run(secs(6.0));
    lab.remove_node("a");
    lab.node("a");
    lab.settle();
    assert_eq!(lab.record.pods.len(), 2, "the successor pulls for itself");
    assert_eq!(lab.shows("alpine"), "Cached 1/1");
}

// ---- An API server that does not do as it is told ---------------------------

/// Gives the first `count` requests that `concerns` picks this fate.
fn fate(lab: &mut Lab, fate: Fate, mut count: u32, concerns: impl Fn(&Effect) -> bool + 'static) {
    lab.knobs.fate = Box::new(move |effect| {
        if count > 0 && concerns(effect) {
            count -= 1;
            return fate.clone();
        }
        Fate::Answered
    });
}

fn creates(effect: &Effect) -> bool {
    matches!(effect, Effect::CreatePod(_))
}

fn records(effect: &Effect) -> bool {
    matches!(effect, Effect::RecordNode { .. })
}

fn deletes(effect: &Effect) -> bool {
    matches!(effect, Effect::DeletePod { .. })
}

fn publishes(effect: &Effect) -> bool {
    matches!(effect, Effect::PatchImage { .. })
}

#[test]
fn a_pod_that_is_refused_is_tried_again_later_and_the_status_says_so() {
    let mut lab = nodes(1);
    fate(&mut lab, Fate::Refused("exceeded quota"), 4, creates);
    lab.policy("p", |policy| policy.min_delay_between_pulls = duration("0s"));
    lab.image_with("alpine", "alpine", under("p"));
    lab.run(secs(5.0));
    assert_eq!(lab.shows("alpine"), "Waiting 0/1");
    assert_eq!(lab.message("alpine"), "0 of 1 nodes have it; a: the pull Pod was refused: exceeded quota");
    lab.settle();
    let tries: Vec<_> = lab.record.requests.iter().filter(|(_, key)| matches!(key, EffectKey::CreatePod(_))).collect();
    let waits: Vec<_> = tries.windows(2).map(|pair| pair[1].0.duration_since(pair[0].0).as_secs_f64()).collect();
    assert_eq!(waits.len(), 4);
    for (wait, nominal) in waits.iter().zip([1.0, 2.0, 4.0, 8.0]) {
        assert!((nominal * 0.9..nominal * 1.1 + 0.1).contains(wait), "{waits:?}");
    }
    assert_eq!(lab.shows("alpine"), "Cached 1/1");
}

#[test]
fn a_refusal_is_the_reason_until_a_pod_is_accepted() {
    let mut lab = nodes(3);
    fate(&mut lab, Fate::Refused("exceeded quota"), u32::MAX, creates);
    lab.policy("p", |policy| policy.min_delay_between_pulls = duration("5m"));
    lab.image_with("alpine", "alpine", under("p"));
    lab.run(secs(5.0));
    for _ in 0..900 {
        lab.run(secs(1.0));
        let message = lab.message("alpine");
        let is_asked_for = lab.explained().iter().any(|line| line.ends_with("is pulling"));
        assert!(is_asked_for || message.ends_with("the pull Pod was refused: exceeded quota"), "{message}");
    }
}

#[test]
fn a_registry_that_does_not_answer_is_the_reason_until_it_does() {
    let mut lab = nodes(2);
    lab.policy("p", |policy| policy.min_delay_between_pulls = duration("7m"));
    for n in 0..3 {
        let image = format!("registry.bad/x{n}:1");
        lab.knobs.broken_images.insert(image.clone(), NO_SUCH_HOST.into());
        lab.image_with(&format!("bad{n}"), &image, under("p"));
    }
    // Two nodes are needed to tell that it is the registry.
    lab.until(|lab| {
        lab.api.caches.len() == 2 && (0..3).all(|n| lab.status(&format!("bad{n}")).consecutive_failures > 0)
    });
    lab.until(|lab| lab.record.live().next().is_none());
    lab.run(secs(1.0));
    for _ in 0..1800 {
        lab.run(secs(1.0));
        let explained = lab.explained();
        let waits = |line: &&String| !line.ends_with("is pulling");
        let mut waiting = explained.iter().filter(waits);
        assert!(waiting.all(|line| line.contains("registry.bad does not answer")), "{explained:?}");
    }
}

#[test]
fn a_refused_pod_does_not_keep_other_nodes_from_starting() {
    let mut lab = nodes(2);
    fate(
        &mut lab,
        Fate::Refused("no"),
        u32::MAX,
        |effect| matches!(effect, Effect::CreatePod(order) if &*order.node == "a"),
    );
    lab.image("alpine", "alpine");
    lab.run(secs(30.0));
    assert_eq!(lab.starts(), ["10s b: alpine"], "a refusal counts as a start, and then another node is next");
}

#[test]
fn a_pod_is_deleted_only_when_its_outcome_is_recorded() {
    for fate_of_records in [Fate::Refused("no"), Fate::AnswerLost, Fate::RequestLost] {
        let mut lab = nodes(2);
        lab.title = format!("{fate_of_records:?}");
        fate(&mut lab, fate_of_records, 3, records);
        lab.image("alpine", "alpine");
        lab.until(|lab| lab.record.pods.first().is_some_and(|pod| pod.deleted_at.is_some()));
        let images = lab.api.caches["a"].status.clone().unwrap().images;
        assert!(images[0].pulled_at.is_some(), "{}", lab.title);
        lab.settle();
        assert_eq!((lab.record.pods.len(), lab.shows("alpine").as_str()), (2, "Cached 2/2"), "{}", lab.title);
        assert_eq!(images[0].attempts, 1, "{}: it is recorded once", lab.title);
    }
}

#[test]
fn a_status_that_could_not_be_written_is_written_later() {
    for fate_of_statuses in [Fate::Refused("no"), Fate::AnswerLost, Fate::RequestLost] {
        let mut lab = nodes(1);
        lab.title = format!("{fate_of_statuses:?}");
        fate(&mut lab, fate_of_statuses, 3, publishes);
        lab.image("alpine", "alpine");
        lab.settle();
        assert_eq!(lab.shows("alpine"), "Cached 1/1", "{}", lab.title);
    }
}

#[test]
fn what_a_slow_watch_shows_does_not_undo_a_later_write() {
    let mut lab = nodes(1);
    lab.knobs.pull = secs(0.5);
    lab.lag(Kind::Image, secs(4.0), true);
    lab.image("alpine", "alpine");
    lab.settle();
    assert_eq!(lab.reasons("alpine"), ["Pulling", "Cached"]);
    let writes = lab.record.requests.iter().filter(|(_, key)| matches!(key, EffectKey::Image(_)));
    assert_eq!(writes.count(), 2);
}

#[test]
fn a_pod_whose_creation_is_in_doubt_is_created_once() {
    for (fate_of_creations, watch) in
        [(Fate::AnswerLost, 0.001), (Fate::AnswerLost, 60.0), (Fate::RequestLost, 0.001), (Fate::RequestLost, 60.0)]
    {
        let mut lab = nodes(2);
        lab.title = format!("{fate_of_creations:?}, watches show things after {watch} s");
        lab.knobs.watch = secs(watch);
        lab.run(secs(100.0));
        fate(&mut lab, fate_of_creations, 3, creates);
        lab.image("alpine", "alpine");
        lab.settle();
        assert_eq!((lab.record.pods.len(), lab.shows("alpine").as_str()), (2, "Cached 2/2"), "{}", lab.title);
    }
}

#[test]
fn a_deletion_in_doubt_is_asked_for_again() {
    for fate_of_deletions in [Fate::Refused("no"), Fate::AnswerLost, Fate::RequestLost] {
        let mut lab = nodes(2);
        lab.title = format!("{fate_of_deletions:?}");
        fate(&mut lab, fate_of_deletions, 2, deletes);
        lab.image("alpine", "alpine");
        lab.settle();
        assert_eq!((lab.record.pods.len(), lab.shows("alpine").as_str()), (2, "Cached 2/2"), "{}", lab.title);
    }
}

#[test]
fn an_image_deleted_while_its_pods_creation_is_in_doubt_leaves_no_pod() {
    for fate_of_creations in [Fate::AnswerLost, Fate::RequestLost] {
        let mut lab = nodes(1);
        lab.title = format!("{fate_of_creations:?}");
        lab.knobs.watch = secs(30.0);
        lab.run(secs(100.0));
        fate(&mut lab, fate_of_creations, 1, creates);
        lab.image("alpine", "alpine");
        lab.run(secs(35.0));
        lab.delete_image("alpine");
        lab.settle();
        assert!(lab.record.pods.iter().all(|pod| pod.deleted_at.is_some()));
    }
}

#[test]
fn a_pod_that_someone_deletes_is_made_again() {
    let mut lab = nodes(1);
    lab.knobs.pull = secs(30.0);
    lab.image("alpine", "alpine");
    lab.run(secs(10.0));
    let name = lab.live("a").unwrap().pod.name.clone();
    lab.delete_pod(&name);
    lab.settle();
    assert_eq!((lab.record.pods.len(), lab.shows("alpine").as_str()), (2, "Cached 1/1"));
}

#[test]
fn watches_and_reports_may_come_in_any_order() {
    for (reply, watch) in [(0.001, 3.0), (3.0, 0.001), (8.0, 8.0), (0.001, 0.001)] {
        let mut lab = nodes(3);
        lab.title = format!("answers after {reply} s, watches after {watch} s");
        (lab.knobs.reply, lab.knobs.watch) = (secs(reply), secs(watch));
        lab.run(secs(20.0));
        lab.image("alpine", "alpine");
        lab.image("busybox", "busybox");
        lab.settle();
        assert_eq!(lab.record.pods.len(), 6, "{}", lab.title);
        assert_eq!((lab.shows("alpine"), lab.shows("busybox")), ("Cached 3/3".to_owned(), "Cached 3/3".to_owned()));
        let writes: Vec<_> = lab.record.cache_writes.iter().filter(|(_, node)| node == "a").collect();
        // Where all is so slow, a Pod pulls for long enough to be shown as pulling.
        let limit = if watch > 5.0 { 5 } else { 3 };
        assert!(writes.len() <= limit, "{}: {writes:?}", lab.title);
    }
}

// ---- Tags that move ---------------------------------------------------------

const OLD: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const NEW: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// Three nodes with an image whose tag is looked up every five minutes.
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
    // The next node that follows fails once, for its registry's sake.
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
    // It pulls nothing where an older copy is there.
    lab.edit_node("d", |node| drop(node.labels.insert("pool".to_owned(), "stale".to_owned())));
    let stale = [("docker.io/library/alpine:1".to_owned(), OLD.to_owned())];
    lab.knobs.digests_on.insert("d".to_owned(), stale.into());
    for node in ["a", "b", "c"] {
        lab.edit_node(node, |node| drop(node.labels.insert("pool".to_owned(), "new".to_owned())));
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

/// A node joins that has the newest image, and then that is pushed anew.
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

// ---- Restarts ---------------------------------------------------------------

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

// ---- What is written stays within bounds --------------------------------------

/// A text that is longer than any bound of the API.
fn long_text(start: &str) -> &'static str {
    format!("{start}{}", "x".repeat(3000)).leak()
}

#[test]
fn the_labs_checker_finds_what_the_api_server_refuses() {
    let mut lab = nodes(1);
    lab.image("alpine", "alpine");
    lab.settle();
    let good = serde_json::to_value(&lab.api.caches["a"]).unwrap();
    assert_eq!(schema::violations("NodeCache", &good), Vec::<String>::new());
    type Spoil = fn(&mut serde_json::Value);
    let bad: [(&str, Spoil); 8] = [
        ("images[0].digest violates maxLength", |cache| cache["status"]["images"][0]["digest"] = "d".repeat(72).into()),
        ("pullStarts violates maxItems", |cache| {
            let starts = (0..65).map(|n| serde_json::json!({"policy": n.to_string(), "at": "2026-01-01T00:00:00Z"}));
            cache["status"]["pullStarts"] = starts.collect::<Vec<_>>().into();
        }),
        ("images violates x-kubernetes-list-map-keys", |cache| {
            let image = cache["status"]["images"][0].clone();
            cache["status"]["images"].as_array_mut().unwrap().push(image);
        }),
        ("images[0].image is null", |cache| cache["status"]["images"][0]["image"] = serde_json::Value::Null),
        ("conditions[0].status violates enum", |cache| cache["status"]["conditions"][0]["status"] = "Maybe".into()),
        ("imagesPulling violates type", |cache| cache["status"]["imagesPulling"] = "1".into()),
        ("spec violates required", |cache| drop(cache["spec"].as_object_mut().unwrap().remove("nodeUID"))),
        ("status.more is not in the schema", |cache| cache["status"]["more"] = 1.into()),
    ];
    for (expected, spoil) in bad {
        let mut cache = good.clone();
        spoil(&mut cache);
        let violations = schema::violations("NodeCache", &cache);
        assert!(violations.iter().any(|violation| violation.contains(expected)), "{expected}: {violations:?}");
    }
}

#[test]
fn a_long_rejection_is_shortened() {
    let mut lab = nodes(1);
    lab.knobs.kubelets.insert("a".to_owned(), Kubelet::Rejects(("OutOfpods", long_text("full")).into()));
    lab.image("alpine", "alpine");
    lab.run(secs(60.0));
    let failure = lab.api.caches["a"].status.clone().unwrap().node_failure.unwrap();
    assert!(failure.message.starts_with("fullx") && failure.message.ends_with('…'), "{}", failure.message);
    lab.repair();
    lab.settle();
    assert_eq!(lab.shows("alpine"), "Cached 1/1");
}

#[test]
fn a_long_reason_of_a_failed_pull_is_shortened() {
    for message in [long_text("tls: "), long_text("something new "), long_text("lookup "), long_text("dial tcp ")] {
        let mut lab = nodes(1);
        lab.title = message[..10].to_owned();
        lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), (long_text("Err"), message).into());
        lab.knobs.broken_images.insert("docker.io/library/none:1".to_owned(), ("ErrImagePull", message).into());
        lab.image("nope", "nope:1");
        lab.image("none", "none:1");
        lab.run(secs(60.0));
        assert_eq!(lab.status("none").nodes_failed, 1, "{}", lab.title);
        assert!(lab.message("none").len() > 100, "{}", lab.title);
    }
}

#[test]
fn a_node_cache_holds_no_more_starts_than_it_may() {
    let mut lab = nodes(1);
    lab.knobs.pull = secs(1.0);
    for n in 0..70 {
        let policy = format!("p{n:02}");
        lab.policy(&policy, |policy| policy.min_delay_between_pulls = duration("24h"));
        lab.image_with(&format!("x{n:02}"), &format!("x{n:02}"), under(&policy));
    }
    lab.settle();
    assert_eq!(lab.record.pods.len(), 70);
    let starts = lab.api.caches["a"].status.clone().unwrap().pull_starts;
    assert_eq!(starts.len(), 64);
    let latest = lab.record.pods.iter().map(|pod| pod.at).max().unwrap();
    assert!(starts.iter().any(|start| latest.duration_since(start.at) < secs(1.0)), "the latest are kept: {starts:?}");
}

#[test]
fn the_start_of_a_policy_that_is_gone_is_forgotten() {
    let mut lab = nodes(1);
    lab.policy("p", |_| {});
    lab.policy("q", |_| {});
    lab.image_with("alpine", "alpine", under("p"));
    lab.run(secs(60.0));
    lab.delete_policy("p");
    lab.image_with("busybox", "busybox", under("q"));
    lab.settle();
    let starts = lab.api.caches["a"].status.clone().unwrap().pull_starts;
    let policies: Vec<&str> = starts.iter().map(|start| start.policy.as_str()).collect();
    assert_eq!(policies, ["q"]);
}

#[test]
fn a_digest_of_another_kind_is_not_recorded() {
    let mut lab = nodes(1);
    let digest = format!("sha512:{}", "ab".repeat(64));
    lab.knobs.digests.insert("docker.io/library/alpine:latest".to_owned(), digest);
    lab.image("alpine", "alpine");
    lab.settle();
    assert_eq!((lab.shows("alpine").as_str(), lab.status("alpine").resolved_digest), ("Cached 1/1", None));
}

#[test]
fn a_long_refusal_is_shortened() {
    let mut lab = nodes(1);
    fate(&mut lab, Fate::Refused(long_text("quota")), 3, creates);
    lab.image("alpine", "alpine");
    lab.run(secs(3.0));
    assert!(lab.message("alpine").contains("refused: quotax"), "{}", lab.message("alpine"));
    lab.settle();
    assert_eq!(lab.shows("alpine"), "Cached 1/1");
}

// ---- Secrets ------------------------------------------------------------------

/// Adds a pull secret to a CachedImage.
fn with_secret(name: &str) -> impl FnOnce(&mut CachedImageSpec) + use<> {
    let name = name.to_owned();
    move |spec| spec.image_pull_secrets.push(LocalObjectReference { name })
}

#[test]
fn a_pod_has_the_secrets_of_all_who_want_its_image() {
    let mut lab = nodes(2);
    lab.edit_node("b", |node| drop(node.labels.insert("pool".to_owned(), "gpu".to_owned())));
    lab.image("a-without", "private.test/team/secret:1");
    lab.image_with("b-with", "private.test/team/secret:1", with_secret("good"));
    lab.image_with("c-on-b-only", "private.test/team/secret:1", |spec| {
        spec.node_selector.insert("pool".to_owned(), "gpu".to_owned());
        with_secret("gpu")(spec);
    });
    lab.settle();
    let secrets: Vec<_> = lab.record.pods.iter().map(|pod| (&*pod.order.node, pod.order.secrets.join(" "))).collect();
    assert_eq!(secrets, [("a", "good".to_owned()), ("b", "good gpu".to_owned())]);
}

#[test]
fn an_edit_of_the_secrets_lets_a_failing_image_be_tried_at_once() {
    let mut lab = nodes(1);
    let unauthorized = ("ErrImagePull", "failed to fetch anonymous token: 401 Unauthorized");
    lab.knobs.broken_images.insert("private.test/x:1".to_owned(), unauthorized.into());
    lab.image("x", "private.test/x:1");
    lab.run(secs(1000.0));
    let tries = lab.record.pods.len();
    lab.repair();
    let edited_at = lab.now;
    lab.edit_image("x", with_secret("good"));
    lab.run(secs(20.0));
    assert_eq!(lab.shows("x"), "Cached 1/1");
    let next = &lab.record.pods[tries];
    assert!(next.at.duration_since(edited_at) < secs(2.0), "{:?}", lab.starts());
    assert_eq!(next.order.secrets.join(" "), "good");
}

// ---- Clocks -------------------------------------------------------------------

/// Kubelets whose clocks are behind, right, and ahead.
const SKEWS: [f64; 3] = [-300.0, 0.0, 300.0];

#[test]
fn a_skewed_kubelet_clock_lets_no_failing_image_be_tried_without_pause() {
    for skew in SKEWS {
        let mut lab = nodes(1);
        lab.title = format!("kubelets' clocks are {skew} s ahead");
        lab.knobs.kubelet_clock = secs(skew);
        lab.image("alpine", "alpine:1");
        lab.run(secs(20.0));
        lab.knobs.broken_images.insert("docker.io/library/alpine:1".to_owned(), NOT_FOUND.into());
        lab.node("b");
        lab.run(secs(200.0));
        let tries = lab.record.pods.iter().filter(|pod| &*pod.order.node == "b").count();
        assert!((3..=4).contains(&tries), "{}: {:?}", lab.title, lab.starts());
        assert_eq!(lab.shows("alpine"), "ImagePullBackOff 1/2", "{}", lab.title);
    }
}

#[test]
fn after_a_success_all_nodes_pull_whatever_the_kubelets_clocks_say() {
    for skew in SKEWS {
        let mut lab = nodes(6);
        lab.title = format!("kubelets' clocks are {skew} s ahead");
        lab.knobs.kubelet_clock = secs(skew);
        lab.policy("p", |policy| {
            policy.max_concurrent_nodes = 6;
            policy.min_delay_between_pulls = duration("0s");
        });
        lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), NOT_FOUND.into());
        lab.image_with("nope", "nope:1", under("p"));
        lab.run(secs(60.0));
        lab.repair();
        let tries = lab.record.pods.len();
        lab.settle();
        let starts: Vec<_> = lab.record.pods[tries..].iter().map(|pod| pod.at).collect();
        assert_eq!((starts.len(), lab.shows("nope").as_str()), (6, "Cached 6/6"), "{}", lab.title);
        assert!(starts[5].duration_since(starts[0]) < secs(10.0), "{}: {:?}", lab.title, lab.starts());
        let pulled_at = lab.status("nope").last_pulled_at.unwrap();
        assert!(lab.now.duration_since(pulled_at).abs() < secs(60.0), "{}: {pulled_at}", lab.title);
    }
}

#[test]
fn deadlines_hold_whatever_the_kubelets_clocks_say() {
    for skew in SKEWS {
        let of = |skew: f64| {
            let mut lab = nodes(1);
            lab.title = format!("kubelets' clocks are {skew} s ahead");
            lab.knobs.kubelet_clock = secs(skew);
            lab
        };
        let mut lab = of(skew);
        lab.knobs.pull = secs(100.0);
        lab.image("alpine", "alpine");
        lab.settle();
        assert_eq!((lab.starts().len(), lab.shows("alpine").as_str()), (1, "Cached 1/1"), "{}", lab.title);

        let mut lab = of(skew);
        lab.knobs.kubelets.insert("a".to_owned(), Kubelet::NoSandbox);
        lab.image("alpine", "alpine");
        lab.until(|lab| lab.record.pods.first().is_some_and(|pod| pod.deleted_at.is_some()));
        let after = lab.record.pods[0].deleted_at.unwrap().duration_since(lab.record.pods[0].at).as_secs_f64();
        assert!((119.0..123.0).contains(&after), "{}: no sandbox for {after} s", lab.title);

        let mut lab = of(skew);
        lab.policy("p", |policy| policy.pull_timeout = duration("1m"));
        lab.knobs.pull = secs(200.0);
        lab.image_with("huge", "huge", under("p"));
        lab.until(|lab| lab.record.pods.first().is_some_and(|pod| pod.deleted_at.is_some()));
        let after = lab.record.pods[0].deleted_at.unwrap().duration_since(lab.record.pods[0].at).as_secs_f64();
        assert!((59.0..63.0).contains(&after), "{}: it pulled for {after} s", lab.title);
    }
}

// ---- Doubts -------------------------------------------------------------------

#[test]
fn a_pod_in_doubt_counts_though_its_creation_is_then_refused() {
    let mut lab = nodes(3);
    lab.policy("p", |policy| policy.min_delay_between_pulls = duration("0s"));
    lab.knobs.pull = secs(60.0);
    lab.run(secs(1.0));
    lab.knobs.watch = secs(40.0);
    let mut fates = vec![Fate::RefusedAnyway("exceeded quota"), Fate::AnswerLost];
    lab.knobs.fate = Box::new(move |effect| match creates(effect) {
        true => fates.pop().unwrap_or(Fate::Answered),
        false => Fate::Answered,
    });
    lab.image_with("alpine", "alpine", under("p"));
    // The lab sees to it that no second node pulls beside the first.
    lab.settle();
    assert_eq!((lab.record.pods.len(), lab.shows("alpine").as_str()), (3, "Cached 3/3"), "{:?}", lab.starts());
}

#[test]
fn a_pod_in_doubt_that_no_list_shows_frees_its_node() {
    let mut lab = nodes(1);
    fate(&mut lab, Fate::AnswerLost, 1, creates);
    lab.image("alpine", "alpine");
    lab.run(secs(0.055));
    lab.knobs.watch = secs(1000.0);
    lab.run(secs(3.0));
    assert!(lab.live("a").is_some(), "the Pod is there, but nobody told the operator");
    lab.knobs.watch = secs(0.05);
    lab.delete_image("alpine");
    lab.until(|lab| lab.record.pods[0].gone_at.is_some());
    lab.run(secs(1.0));
    lab.relist();
    lab.image("busybox", "busybox");
    lab.run(secs(120.0));
    assert_eq!(lab.shows("busybox"), "Cached 1/1", "{:?}", lab.explained());
    lab.settle();
}

#[test]
fn two_pods_on_one_node_are_each_recorded_once() {
    for together in [true, false] {
        let mut lab = nodes(1);
        lab.title = format!("both end together: {together}");
        lab.image("alpine", "alpine");
        lab.image("busybox", "busybox");
        lab.image("zebra", "zebra");
        let stray = if together { "busybox" } else { "zebra" };
        lab.knobs.pulls.insert("docker.io/library/zebra:latest".to_owned(), secs(7.0));
        lab.run(secs(0.1));
        lab.stray_pod("stray", "a", stray);
        lab.settle();
        let images = lab.api.caches["a"].status.clone().unwrap().images;
        let attempts: Vec<i32> = images.iter().map(|image| image.attempts).collect();
        assert_eq!(attempts, [1, 1, 1], "{}", lab.title);
        assert_eq!(lab.record.pods.len(), 2, "{}: {:?}", lab.title, lab.starts());
        assert!(lab.record.cache_writes.len() <= 4, "{}: {:?}", lab.title, lab.record.cache_writes);
    }
}

#[test]
fn two_pods_on_one_node_that_fail_are_each_recorded_once() {
    let mut lab = nodes(1);
    for image in ["nope", "none"] {
        lab.knobs.broken_images.insert(format!("docker.io/library/{image}:1"), NOT_FOUND.into());
        lab.image(image, &format!("{image}:1"));
    }
    lab.run(secs(0.1));
    lab.stray_pod("stray", "a", "nope:1");
    lab.run(secs(15.0));
    assert!(lab.api.pods.is_empty(), "{:?}", lab.api.pods);
    let images = lab.api.caches["a"].status.clone().unwrap().images;
    let attempts: Vec<_> = images.iter().map(|image| (image.image.as_str(), image.attempts)).collect();
    assert_eq!(attempts, [("docker.io/library/none:1", 1), ("docker.io/library/nope:1", 1)]);
}

#[test]
fn a_late_answer_about_an_older_pod_does_not_remove_the_newer_one() {
    let mut lab = nodes(1);
    lab.knobs.pull = secs(60.0);
    lab.image("alpine", "alpine");
    lab.run(secs(5.0));
    let pod = lab.live("a").unwrap().pod.clone();
    let creations_after = |uid: Option<Name>, key: EffectKey| {
        let mut world = drop_core::World::new(drop_core::Settings::default());
        lab.list().into_iter().for_each(|event| world.apply(event, lab.now));
        world.apply(Event::Report(key, Report::PodGone { uid }), lab.now);
        let later = lab.now + secs(60.0);
        world.settle(later);
        drop_core::plan(&world, later).effects.iter().filter(|effect| creates(effect)).count()
    };
    let deletion = || EffectKey::DeletePod(pod.name.clone());
    assert_eq!(creations_after(Some("older".into()), deletion()), 0);
    assert_eq!(creations_after(pod.uid.clone(), deletion()), 1);
    assert_eq!(creations_after(None, EffectKey::CheckPod(pod.name.clone())), 1);
}

// ---- Waiting ------------------------------------------------------------------

/// Lets `count` nodes join that have the label `pool=fresh`, one every 40 s.
fn join(lab: &mut Lab, count: usize) {
    for n in 0..count {
        let name = format!("fresh-{n:02}");
        lab.node(&name);
        lab.edit_node(&name, |node| drop(node.labels.insert("pool".to_owned(), "fresh".to_owned())));
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
    lab.edit_node("first", |node| drop(node.labels.insert("pool".to_owned(), "fresh".to_owned())));
    lab.knobs.pull = secs(50.0);
    for (image, pool) in [("alpha", "fresh"), ("zeta", "zeta")] {
        lab.image_with(image, image, |spec| drop(spec.node_selector.insert("pool".to_owned(), pool.to_owned())));
    }
    lab.run(secs(1.0));
    lab.node("z");
    lab.edit_node("z", |node| drop(node.labels.insert("pool".to_owned(), "zeta".to_owned())));
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
    // One that is overdue, too, but whose node cannot try it.
    lab.edit_node("n07", |node| drop(node.labels.insert("away".to_owned(), "yes".to_owned())));
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
    lab.edit_node("a", |node| drop(node.labels.insert("on".to_owned(), "a".to_owned())));
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
    assert!(retries.len() >= 4, "and every retry has its turn: {retries:?}");
}

// ---- Rounds of failures -------------------------------------------------------

#[test]
fn failures_side_by_side_are_one_round() {
    let mut lab = nodes(8);
    lab.policy("p", |policy| {
        policy.max_concurrent_nodes = 8;
        policy.min_delay_between_pulls = duration("0s");
    });
    lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), NOT_FOUND.into());
    lab.image_with("nope", "nope:1", under("p"));
    lab.run(secs(25.0));
    assert_eq!(lab.starts().len(), 8);
    let status = lab.status("nope");
    assert_eq!((lab.shows("nope").as_str(), status.consecutive_failures), ("ErrImagePull 0/8", 1));
    assert_eq!((status.nodes_failed, status.failures[0].attempts), (8, 1));
    lab.run(secs(15.0));
    let starts = lab.starts();
    assert_eq!(starts.len(), 9, "{starts:?}");
    let failed_at = status.last_attempted_at.unwrap();
    let wait = lab.record.pods[8].at.duration_since(failed_at).as_secs_f64();
    assert!((26.0..=34.0).contains(&wait), "{wait}");
    assert_eq!(lab.reasons("nope").last().unwrap(), "ImagePullBackOff", "after the second round");
    assert_eq!(lab.status("nope").consecutive_failures, 2);
}

// ---- Nodes that fail as a whole -------------------------------------------------

#[test]
fn a_node_that_rejects_every_pod_shows_up_in_the_status() {
    let mut lab = nodes(2);
    lab.knobs.kubelets.insert("a".to_owned(), Kubelet::Rejects(("OutOfpods", "too many Pods").into()));
    lab.image("alpine", "alpine");
    lab.run(secs(1000.0));
    // It is the node's trouble, and not the image's.
    assert_eq!(lab.shows("alpine"), "Waiting 1/2");
    assert_eq!(lab.message("alpine"), "1 of 2 nodes have it; a: the node failed: too many Pods");
    let status = lab.status("alpine");
    assert_eq!((status.phase, status.nodes_failed, status.failures.len()), (Some(Phase::Pending), 0, 0));
    let failure = lab.api.caches["a"].status.as_ref().unwrap().node_failure.clone().unwrap();
    assert!(failure.count > 1 && failure.retry_at.is_some(), "{failure:?}");
    lab.repair();
    lab.settle();
    let status = lab.status("alpine");
    assert_eq!((lab.shows("alpine").as_str(), status.nodes_failed), ("Cached 2/2", 0));
}

#[test]
fn a_node_whose_kubelet_works_has_not_failed_though_its_images_do() {
    let mut lab = nodes(1);
    lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), NOT_FOUND.into());
    lab.knobs.kubelets.insert("a".to_owned(), Kubelet::Rejects(("OutOfpods", "full").into()));
    lab.image("nope", "nope:1");
    lab.run(secs(10.0));
    assert!(lab.api.caches["a"].status.as_ref().unwrap().node_failure.is_some());
    lab.knobs.kubelets.clear();
    lab.run(secs(40.0));
    assert_eq!(lab.api.caches["a"].status.as_ref().unwrap().node_failure, None);
    assert_eq!(lab.shows("nope"), "ErrImagePull 0/1");
    assert_eq!(lab.message("nope"), "a: image not found");
}

// ---- Refusals -----------------------------------------------------------------

#[test]
fn an_image_whose_pods_are_refused_keeps_no_other_off_its_nodes() {
    let mut lab = nodes(2);
    lab.policy("p", |policy| policy.max_concurrent_nodes = 2);
    let invalid = "Pod is invalid: spec.tolerations";
    fate(
        &mut lab,
        Fate::Refused(invalid),
        u32::MAX,
        |effect| matches!(effect, Effect::CreatePod(order) if &*order.pulls[0].cached_image == "bad"),
    );
    lab.image_with("bad", "bad", under("p"));
    lab.image_with("good", "good", under("p"));
    lab.run(secs(300.0));
    assert_eq!(lab.shows("good"), "Cached 2/2", "{:?}", lab.explained());
    assert_eq!(lab.shows("bad"), "Waiting 0/2");
    for _ in 0..100 {
        lab.run(secs(3.0));
        assert!(
            lab.message("bad").ends_with(&format!("the pull Pod was refused: {invalid}")),
            "{}",
            lab.message("bad")
        );
    }
}

#[test]
fn a_refusal_counts_as_a_start() {
    let mut lab = nodes(3);
    lab.policy("p", |policy| policy.max_concurrent_nodes = 3);
    fate(&mut lab, Fate::Refused("exceeded quota"), u32::MAX, creates);
    lab.image_with("alpine", "alpine", under("p"));
    lab.run(secs(120.0));
    let requests = lab.record.requests.iter().filter(|(_, key)| matches!(key, EffectKey::CreatePod(_)));
    let requests: Vec<_> = requests.collect();
    assert!(requests.len() > 5, "{requests:?}");
    for (index, (at, key)) in requests.iter().enumerate() {
        let elsewhere = requests[..index].iter().rfind(|(_, other)| other != key);
        assert!(elsewhere.is_none_or(|(before, _)| at.duration_since(*before) >= secs(10.0)), "{requests:#?}");
    }
}

// ---- Long pulls ---------------------------------------------------------------

#[test]
fn a_long_pull_shows_in_the_node_cache_and_a_short_one_costs_no_write() {
    let mut lab = nodes(2);
    lab.image("alpine", "alpine");
    lab.settle();
    assert_eq!(lab.record.cache_writes.len(), 2, "{:?}", lab.record.cache_writes);

    let mut lab = nodes(2);
    lab.knobs.pull = secs(60.0);
    lab.image("big", "big");
    lab.run(secs(30.0));
    assert_eq!(lab.api.caches["a"].status.as_ref().unwrap().images_pulling, 1);
    assert!(!lab.api.caches.contains_key("b"), "nothing is known of b");
    lab.settle();
    for node in ["a", "b"] {
        assert_eq!(lab.api.caches[node].status.as_ref().unwrap().images_pulling, 0);
    }
    assert_eq!(lab.record.cache_writes.len(), 4, "{:?}", lab.record.cache_writes);
}

// ---- What people are told of ----------------------------------------------------

/// The reasons of what people were told of a CachedImage.
fn told(lab: &Lab, image: &str) -> Vec<String> {
    let told = lab.record.told.iter().filter(|(_, notice)| &*notice.name == image);
    told.map(|(_, notice)| notice.reason.clone()).collect()
}

#[test]
fn people_are_told_of_changes_once_and_not_node_by_node() {
    let mut lab = nodes(3);
    lab.knobs
        .broken_images
        .insert("docker.io/library/bad:latest".to_owned(), ("ErrImagePull", "bad: not found").into());
    lab.image("bad", "bad");
    lab.image("good", "good");
    lab.run(secs(600.0));
    assert_eq!(told(&lab, "good"), ["Cached"]);
    assert_eq!(told(&lab, "bad"), ["ErrImagePull"]);
    let (_, notice) = lab.record.told.iter().find(|(_, notice)| notice.is_warning).unwrap();
    assert_eq!(Some(&*notice.uid), lab.api.images["bad"].metadata.uid.as_deref());
    assert_eq!(notice.message, "a: image not found");
    lab.restart(true);
    lab.run(secs(600.0));
    assert_eq!(told(&lab, "bad"), ["ErrImagePull"], "another leader tells nothing again");

    lab.knobs.broken_images.clear();
    lab.settle();
    assert_eq!(told(&lab, "bad"), ["ErrImagePull", "Recovered"]);
    assert_eq!(lab.record.told.last().unwrap().1.message, "on all 3 target nodes");
    lab.restart(true);
    lab.settle();
    assert_eq!(lab.record.told.len(), 3, "{:#?}", lab.record.told);
}

// ---- Evictions --------------------------------------------------------------------

#[test]
fn an_image_that_is_removed_again_and_again_is_pulled_ever_more_slowly() {
    let mut lab = nodes(2);
    lab.knobs.lists = true;
    lab.image("alpine", "alpine:3.20");
    lab.settle();
    let image = Reference::parse("alpine:3.20");
    let mut waits = Vec::new();
    for _ in 0..4 {
        lab.run(secs(600.0));
        assert!(lab.evict("a", &image), "{:?}", lab.explained());
        lab.until(|lab| lab.shows("alpine") == "Evicted 1/2");
        let noticed_at = lab.now;
        lab.settle();
        assert_eq!(lab.shows("alpine"), "Cached 2/2");
        let pod = lab.record.pods.last().unwrap();
        assert_eq!(&*pod.order.node, "a", "it is missing nowhere else");
        waits.push(pod.at.duration_since(noticed_at));
    }
    for (wait, minutes) in waits.iter().zip([1, 2, 4, 8]) {
        let nominal = f64::from(minutes) * 60.0;
        assert!((secs(nominal * 0.9)..=secs(nominal * 1.1 + 1.0)).contains(wait), "{waits:#?}");
    }
    assert_eq!(
        told(&lab, "alpine"),
        ["Cached", "Evicted", "Cached", "Evicted", "Cached", "Evicted", "Cached", "Evicted", "Cached"]
    );
}

#[test]
fn a_retry_waits_as_an_eviction_asks() {
    let mut lab = nodes(2);
    lab.knobs.lists = true;
    lab.edit_node("b", |node| node.unschedulable = true);
    lab.image("x", "x:1");
    lab.settle();
    lab.run(secs(600.0));
    lab.knobs.broken_images.insert("docker.io/library/x:1".to_owned(), NOT_FOUND.into());
    lab.edit_node("b", |node| node.unschedulable = false);
    lab.until(|lab| lab.status("x").nodes_failed == 1);
    assert!(lab.evict("a", &Reference::parse("x:1")));
    lab.until(|lab| lab.api.caches["a"].status.as_ref().unwrap().images[0].eviction.is_some());
    let noticed_at = lab.now;
    lab.run(secs(120.0));
    let again = lab.record.pods.iter().find(|pod| &*pod.order.node == "a" && pod.at > noticed_at).unwrap();
    let wait = again.at.duration_since(noticed_at);
    assert!(wait >= secs(54.0), "{wait:?}");
}

#[test]
fn an_image_that_another_left_behind_is_found_without_a_pod() {
    let mut lab = nodes(1);
    lab.knobs.lists = true;
    lab.image("first", "alpine:3.20");
    lab.settle();
    lab.delete_image("first");
    lab.settle();
    let pods = lab.record.pods.len();
    lab.image_with("second", "alpine:3.20", |image| image.image_pull_policy = ImagePullPolicy::IfNotPresent);
    lab.settle();
    assert_eq!(lab.shows("second"), "Cached 1/1");
    assert_eq!(lab.record.pods.len(), pods);
}
