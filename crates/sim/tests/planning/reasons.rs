//! Statuses and explanations, which both follow the gate.

use crate::common::{Lab, duration};
use crate::{NO_SUCH_HOST, NOT_FOUND, creates, fate, nodes, records, told};
use drop_api::CachedImageSpec;
use drop_api::cached_image::ImagePullPolicy;
use drop_core::Effect;
use drop_core::node::Readiness;
use drop_core::reference::Reference;
use drop_sim::{Failure, Fate, Kubelet, Outcome, Trouble, secs, under};

fn failing_under_p(lab: &mut Lab) {
    lab.policy("p", |_| {});
    lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), NOT_FOUND.into());
    lab.image_with("nope", "nope:1", under("p"));
}

#[test]
fn an_image_that_fails_under_a_paused_policy_shows_that_it_is_paused() {
    let mut lab = nodes(1);
    failing_under_p(&mut lab);
    lab.run(secs(120.0));
    assert_eq!(lab.shows("nope"), "ImagePullBackOff 0/1");
    assert!(lab.status("nope").failures[0].retry_at.is_some(), "{:#?}", lab.status("nope"));
    lab.policy("p", |policy| policy.paused = true);
    lab.run(secs(3600.0));
    assert_eq!((lab.shows("nope").as_str(), lab.message("nope").as_str()), ("Paused 0/1", "PullPolicy p is paused"));
    let failures = lab.status("nope").failures;
    assert_eq!((failures.len(), failures[0].retry_at), (1, None), "it is not tried again");
}

#[test]
fn an_evicted_image_whose_pod_is_refused_shows_the_refusal() {
    let mut lab = nodes(1);
    lab.knobs.lists = true;
    lab.image("alpine", "alpine");
    lab.settle();
    lab.run(secs(600.0));
    let refused = Fate::Refused("exceeded quota");
    fate(&mut lab, refused, u32::MAX, |effect| matches!(effect, Effect::CreatePod(_)));
    assert!(lab.evict("a", &Reference::parse("alpine")));
    lab.until(|lab| lab.shows("alpine") == "Evicted 0/1");
    assert_eq!(lab.message("alpine"), "0/1 nodes cached; removed from a, where it will be pulled again");
    lab.run(secs(300.0));
    assert_eq!(lab.shows("alpine"), "Evicted 0/1");
    let message = "0/1 nodes cached; removed from a: the pull Pod was refused: exceeded quota";
    assert_eq!(lab.message("alpine"), message);
}

#[test]
fn a_node_that_is_lost_shows_that_instead_of_an_older_failure() {
    let failure: Failure =
        ("ErrImagePull", "failed to extract layer sha256:aa: mkdir /x: read-only file system").into();
    for kubelet in [Kubelet::NoSandbox, Kubelet::CannotPull(failure)] {
        let mut lab = nodes(1);
        lab.title = format!("{kubelet:?}");
        lab.knobs.kubelets.insert("a".to_owned(), kubelet);
        lab.image("alpine", "alpine");
        lab.run(secs(1200.0));
        let before = lab.message("alpine");
        lab.edit_node("a", |node| node.readiness = Readiness::Lost);
        lab.run(secs(3600.0));
        assert_eq!(lab.shows("alpine"), "Waiting 0/1", "{}: {before}", lab.title);
        let message = "0/1 nodes cached; a: the kubelet does not report: waiting for it";
        assert_eq!(lab.message("alpine"), message, "{}: {before}", lab.title);
        assert!(told(&lab, "alpine").is_empty(), "{:?}", lab.record.told);
    }
}

#[test]
fn an_image_that_does_not_exist_is_told_though_its_node_is_lost() {
    let mut lab = nodes(1);
    failing_under_p(&mut lab);
    lab.run(secs(120.0));
    lab.edit_node("a", |node| node.readiness = Readiness::Lost);
    lab.run(secs(60.0));
    assert_eq!(lab.shows("nope"), "ImagePullBackOff 0/1");
    assert_eq!(told(&lab, "nope"), ["ErrImagePull"], "nothing has recovered");
}

#[test]
fn a_probe_that_waits_for_a_slot_says_so() {
    let mut lab = nodes(2);
    failing_under_p(&mut lab);
    lab.run(secs(10.0));
    lab.knobs.pull = secs(1200.0);
    lab.image_with("huge", "huge", under("p"));
    lab.until(|lab| !lab.pods_of("huge").is_empty());
    lab.run(secs(600.0));
    let explained = lab.explained();
    let waits = |line: &String| line.starts_with("nope on ") && line.ends_with("PullPolicy p allows 1 nodes at once");
    assert!(explained.iter().any(waits), "{explained:?}");
    assert_eq!(lab.shows("nope"), "ErrImagePull 0/2", "the status keeps the failure");
}

#[test]
fn trouble_of_a_node_is_told_once_although_it_cannot_be_recorded() {
    let mut lab = nodes(1);
    lab.knobs.kubelets.insert("a".to_owned(), Kubelet::Rejects(("OutOfpods", "too many Pods").into()));
    fate(&mut lab, Fate::Refused("forbidden"), u32::MAX, records);
    lab.image("alpine", "alpine");
    lab.run(secs(3600.0));
    assert_eq!(told(&lab, "a"), ["OutOfpods"]);
}

#[test]
fn a_node_cache_says_when_a_failed_image_is_tried_again() {
    let unknown: Failure = ("ErrImagePull", "something odd").into();
    let of_node: Failure =
        ("ErrImagePull", "failed to extract layer sha256:aa: mkdir /x: read-only file system").into();
    for failure in [NOT_FOUND.into(), NO_SUCH_HOST.into(), unknown, of_node] {
        let mut lab = nodes(1);
        lab.title = format!("{failure:?}");
        lab.knobs.broken_images.insert("registry.bad/nope:1".to_owned(), failure);
        lab.image("nope", "registry.bad/nope:1");
        for tries in 1..4 {
            lab.until(|lab| lab.record.pods.len() == tries);
            lab.run(secs(10.0));
            let cache = lab.api.caches["a"].status.as_ref().unwrap();
            let retry_at = cache.images[0].failure.as_ref().unwrap().retry_at.unwrap();
            lab.until(|lab| lab.record.pods.len() > tries);
            let late = lab.record.pods[tries].at.duration_since(retry_at).as_secs_f64();
            assert!((0.0..2.0).contains(&late), "{}: {late} s after {retry_at}", lab.title);
        }
    }
}

#[test]
fn what_waits_is_queued_under_the_pace_of_its_policy() {
    let mut lab = nodes(3);
    lab.policy("gentle", |policy| {
        policy.max_concurrent_nodes = 2;
        policy.min_delay_between_pulls = duration("10s");
    });
    lab.knobs.pull = secs(60.0);
    lab.image_with("one", "one", under("gentle"));
    lab.image_with("two", "two", under("gentle"));
    lab.run(secs(30.0));
    let message = "0/3 nodes cached; queued (gentle: at most 2 nodes at once, 10s apart)";
    assert_eq!(lab.message("two"), message);
}

#[test]
fn a_status_shows_no_failure_of_a_node_that_another_cached_image_has() {
    let mut lab = nodes(2);
    lab.policy("p", |policy| policy.repull_interval = Some(duration("30m")));
    lab.knobs.troubles.push(Trouble::new("r.example", Outcome::Forbidden).on(&["b"]));
    for (image, node) in [("good", "a"), ("bad", "b")] {
        lab.edit_node(node, |it| drop(it.labels.insert("host".into(), node.into())));
        lab.image_with(image, "r.example/x:1", |spec| {
            under("p")(spec);
            spec.image_pull_policy = ImagePullPolicy::Always;
            spec.node_selector = [("host".to_owned(), node.to_owned())].into();
        });
    }
    lab.run(secs(6.0 * 3600.0));
    let status = lab.status("good");
    assert_eq!((lab.message("good").as_str(), status.consecutive_failures), ("cached on 1/1 node", 0));
    assert_eq!(status.last_attempted_at, status.last_pulled_at);
    assert_eq!(lab.status("bad").failures.len(), 1);
}

#[test]
fn a_new_machine_shows_no_trouble_of_the_one_that_had_its_name() {
    let mut lab = nodes(2);
    let only = |host: &'static str| {
        move |spec: &mut CachedImageSpec| drop(spec.node_selector.insert("host".to_owned(), host.to_owned()))
    };
    let label = |lab: &mut Lab, name: &str| {
        lab.edit_node(name, |node| drop(node.labels.insert("host".into(), name.into())));
    };
    label(&mut lab, "a");
    label(&mut lab, "b");
    lab.knobs.kubelets.insert("a".to_owned(), Kubelet::Rejects(("OutOfpods", "full").into()));
    lab.image_with("alpine", "alpine", only("a"));
    lab.run(secs(3600.0));
    assert!(lab.message("alpine").contains("the node failed"), "{}", lab.message("alpine"));
    lab.remove_node("a");
    lab.knobs.pull = secs(600.0);
    lab.image_with("huge", "huge", only("b"));
    lab.run(secs(60.0));
    lab.node("a");
    label(&mut lab, "a");
    lab.run(secs(60.0));
    assert_eq!(lab.shows("alpine"), "Waiting 0/1");
    assert!(!lab.message("alpine").contains("the node failed"), "{}", lab.message("alpine"));
}

#[test]
fn a_pod_that_the_api_server_refuses_is_no_start() {
    let mut lab = nodes(1);
    lab.policy("p", |_| {});
    fate(&mut lab, Fate::Refused("denied by policy"), u32::MAX, creates);
    lab.image_with("alpine", "alpine", under("p"));
    lab.run(secs(600.0));
    assert_eq!(lab.api.policies["p"].status.clone().unwrap_or_default().last_pull_started_at, None);
}
