//! Failing pulls: which node retries, and the status meanwhile.

use crate::common::{Lab, duration};
use crate::{NO_SUCH_HOST, NOT_FOUND, TOO_MANY_REQUESTS, nodes};
use drop_api::cached_image::{ImagePullPolicy, Phase};
use drop_sim::{Failure, Kubelet, secs, under};

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
    lab.edit_node("a", |node| drop(node.labels.insert("pool".into(), "a".into())));
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

#[test]
fn a_node_that_rejects_every_pod_shows_up_in_the_status() {
    let mut lab = nodes(2);
    lab.knobs.kubelets.insert("a".to_owned(), Kubelet::Rejects(("OutOfpods", "too many Pods").into()));
    lab.image("alpine", "alpine");
    lab.run(secs(1000.0));
    // The failure is the node's, not the image's.
    assert_eq!(lab.shows("alpine"), "Waiting 1/2");
    assert_eq!(lab.message("alpine"), "1/2 nodes cached; a: the node failed: too many Pods");
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

#[test]
fn an_image_that_is_never_pulled_does_not_fail_where_its_twin_does() {
    for (fails, watched) in [("a", "b"), ("b", "a")] {
        let mut lab = nodes(1);
        lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), NOT_FOUND.into());
        lab.image(fails, "nope:1");
        lab.image_with(watched, "nope:1", |spec| spec.image_pull_policy = ImagePullPolicy::Never);
        lab.run(secs(60.0));
        let status = lab.status(watched);
        assert_eq!((status.ready.as_deref(), status.nodes_failed, status.failures.len()), (Some("0/1"), 0, 0));
        let status = lab.status(fails);
        assert_eq!((status.nodes_failed, status.failures.len()), (1, 1));
        let failed = lab.api.caches["a"].status.as_ref().map(|status| status.images_failed);
        assert_eq!(failed, Some(1), "the NodeCache counts the image, whichever CachedImage comes last");
    }
}
