//! Tests of the simulated cluster itself: it behaves as Kubernetes does.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "these are tests")]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod common;

use common::{Lab, duration};
use drop_core::Settings;
use drop_core::pull_pod::ContainerState;
use drop_core::reference::Reference;
use drop_sim::{Bandwidth, Kubelet, Machine, Outcome, Registry, Trouble, secs, under};

const MB: u64 = 1_000_000;

/// Returns how many seconds each Pod took from its creation until it was gone.
fn took(lab: &Lab) -> Vec<i64> {
    let pods = lab.record.pods.iter();
    pods.map(|pod| pod.gone_at.unwrap().duration_since(pod.at).as_secs()).collect()
}

/// Returns a lab whose nodes begin at once.
fn side_by_side(nodes: &[&str]) -> Lab {
    let mut lab = Lab::with_nodes(nodes);
    lab.policy("all", |policy| {
        policy.max_concurrent_nodes = 9;
        policy.min_delay_between_pulls = duration("0s");
    });
    lab
}

#[test]
fn pulls_share_the_bandwidth_of_their_registry() {
    let mut lab = side_by_side(&["a", "b"]);
    lab.knobs.bandwidth = Some(Bandwidth { node: 100_000_000, registry: 10_000_000 });
    lab.image_with("alpine", "alpine", under("all"));
    lab.settle();
    // 100 MB each at 5 MB/s, and 1.6 s for the steps before and after.
    assert_eq!(took(&lab), [21, 21]);
}

#[test]
fn a_pull_is_faster_once_another_has_ended() {
    let mut lab = side_by_side(&["a", "b"]);
    lab.knobs.bandwidth = Some(Bandwidth { node: 100_000_000, registry: 10_000_000 });
    lab.edit_node("b", |node| drop(node.labels.insert("pool".into(), "gpu".into())));
    lab.knobs.sizes.insert("docker.io/library/small:latest".to_owned(), 20 * MB);
    for (name, selected) in [("alpine", false), ("small", true)] {
        lab.image_with(name, name, |spec| {
            if selected {
                spec.node_selector.insert("pool".to_owned(), "gpu".to_owned());
                spec.priority = -1;
            }
            under("all")(spec);
        });
    }
    lab.settle();
    let on_a = lab.record.pods.iter().find(|pod| &*pod.order.node == "a").unwrap();
    // 4 s at 5 MB/s beside the small image, and then again beside that node's next one.
    let took = on_a.gone_at.unwrap().duration_since(on_a.at);
    assert!(secs(17.0) < took && took < secs(21.0), "{took:?}");
}

#[test]
fn a_kubelet_pulls_one_image_after_another_and_backs_off_within_a_pod() {
    let mut lab = Lab::with_nodes(&["a"]);
    lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), ("ErrImagePull", "not found").into());
    lab.stop(false);
    lab.stray_pod("first", "a", "alpine");
    lab.stray_pod("second", "a", "nope:1");
    let state = |lab: &Lab| match &lab.api.pods["second"].pod.containers[0].state {
        ContainerState::Waiting { reason, .. } => reason.to_string(),
        other => format!("{other:?}"),
    };
    lab.run(secs(5.6));
    assert_eq!(state(&lab), "", "the other Pod's pull goes first");
    lab.run(secs(1.0));
    assert_eq!(state(&lab), "ErrImagePull");
    lab.run(secs(2.0));
    assert_eq!(state(&lab), "ImagePullBackOff");
    // It failed first after 6.5 s; each try takes 1 s.
    let mut failed_at = 6.5;
    for wait in [10.0, 20.0, 40.0] {
        let until = |lab: &mut Lab, second: f64| {
            let rest = secs(second) - lab.elapsed();
            lab.run(rest);
        };
        until(&mut lab, failed_at + wait + 0.9);
        assert_eq!(state(&lab), "ImagePullBackOff", "before the end of the try after {wait} s");
        failed_at += wait + 1.0;
        until(&mut lab, failed_at + 0.1);
        assert_eq!(state(&lab), "ErrImagePull", "after the try after {wait} s");
    }
}

#[test]
fn a_full_disk_loses_what_was_not_used_for_longest() {
    let mut lab = Lab::with_nodes(&["a"]);
    lab.knobs.lists = true;
    lab.knobs.disk = Some(330 * MB);
    for name in ["first", "second", "third"] {
        lab.image(name, name);
        lab.run(secs(60.0));
    }
    assert_eq!(lab.shows("third"), "Cached 1/1");
    lab.run(secs(300.0));
    let is_there = |image: &str| lab.is_on_disk("a", &Reference::parse(image));
    assert_eq!((is_there("first"), is_there("second"), is_there("third")), (false, true, true));
}

#[test]
fn what_does_not_fit_cannot_be_pulled() {
    let mut lab = Lab::with_nodes(&["a"]);
    lab.knobs.disk = Some(50 * MB);
    lab.image("alpine", "alpine");
    lab.run(secs(20.0));
    assert_eq!(lab.message("alpine"), "a: no space left on node");
}

#[test]
fn only_the_largest_images_are_listed() {
    let mut lab = Lab::with(Settings { listed_images: 2, ..Settings::default() });
    lab.node("a");
    lab.knobs.lists = true;
    for (name, size) in [("small", 10), ("large", 300), ("middle", 200)] {
        lab.knobs.sizes.insert(format!("docker.io/library/{name}:latest"), size * MB);
        lab.image(name, name);
    }
    lab.settle();
    let listed = lab.api.nodes["a"].inventory.images().iter().map(|image| image.size / MB);
    assert_eq!(listed.collect::<Vec<_>>(), [300, 200]);
    assert!(!lab.would_list("a", &Reference::parse("small")) && lab.would_list("a", &Reference::parse("large")));
}

#[test]
fn a_kubelet_that_is_restarted_begins_its_pull_anew() {
    let mut lab = Lab::with_nodes(&["a"]);
    lab.knobs.pull = secs(30.0);
    lab.image("alpine", "alpine");
    lab.run(secs(20.0));
    lab.restart_kubelet("a");
    lab.settle();
    // 20 s without effect, 3 s for the restart, and the pull.
    assert_eq!((lab.shows("alpine").as_str(), took(&lab)), ("Cached 1/1", vec![54]));
}

#[test]
fn a_pod_on_a_node_that_is_lost_ends_by_force_or_when_the_node_is_back() {
    let mut lab = Lab::with_nodes(&["a"]);
    lab.knobs.pull = secs(30.0);
    lab.image("alpine", "alpine");
    lab.run(secs(20.0));
    lab.lose("a");
    lab.run(secs(110.0));
    assert!(lab.live("a").is_some(), "it is not lost for long enough");
    lab.run(secs(20.0));
    assert!(lab.live("a").is_none(), "nobody waits for it any more");
    lab.regain();
    lab.settle();
    assert_eq!(lab.shows("alpine"), "Cached 1/1");
}

#[test]
fn a_registry_refuses_what_is_too_much_for_it() {
    let mut lab = side_by_side(&["a", "b", "c"]);
    lab.knobs.registries.insert("docker.io".to_owned(), Registry { at_once: Some(1), ..Registry::default() });
    lab.image_with("alpine", "alpine", under("all"));
    lab.run(secs(4.0));
    assert_eq!(lab.message("alpine"), "b: rate limited by docker.io (and 1 more node)");
    lab.knobs.registries.insert("docker.io".to_owned(), Registry { is_down: true, ..Registry::default() });
    lab.run(secs(60.0));
    assert!(lab.message("alpine").contains("docker.io"), "{}", lab.message("alpine"));
    lab.repair();
    lab.settle();
    assert_eq!(lab.shows("alpine"), "Cached 3/3");
}

#[test]
fn machines_have_disks_lists_and_runtimes_of_their_own() {
    let mut lab = side_by_side(&["a", "b", "c"]);
    lab.knobs.lists = true;
    let a = Machine { disk: Some(150 * MB), listed_images: Some(1), bare_image_ids: true };
    let c = Machine { listed_images: Some(-1), ..Machine::default() };
    lab.knobs.machines.extend([("a".to_owned(), a), ("c".to_owned(), c)]);
    lab.knobs.sizes.insert("docker.io/library/large:latest".to_owned(), 200 * MB);
    lab.image_with("alpine", "alpine", under("all"));
    lab.run(secs(60.0));
    lab.image_with("large", "large", under("all"));
    lab.run(secs(60.0));
    assert_eq!((lab.shows("alpine").as_str(), lab.status("large").nodes_ready), ("Cached 3/3", 2));
    assert_eq!(lab.message("large"), "a: no space left on node");
    let listed = |node: &str| lab.api.nodes[node].inventory.images().len();
    assert_eq!([listed("a"), listed("b"), listed("c")], [1, 3, 3], "each has the image of the pause container, too");
    let recorded = |node: &str| lab.api.caches[node].status.as_ref().unwrap().images[0].digest.is_some();
    assert!(!recorded("a") && recorded("b"), "a bare image ID is no digest");
}

#[test]
fn a_trouble_of_one_node_is_that_nodes_alone() {
    let outcomes = [
        (Outcome::NoDns, "cannot resolve quay.io"),
        (Outcome::Unauthorized, "unauthorized: check imagePullSecrets"),
        (Outcome::Forbidden, "forbidden"),
        (Outcome::Status(503), "server error at quay.io"),
    ];
    for (outcome, message) in outcomes {
        let mut lab = side_by_side(&["a", "b"]);
        lab.knobs.troubles.push(Trouble::new("quay.io", outcome).on(&["b"]));
        lab.image_with("here", "quay.io/a/b", under("all"));
        lab.image_with("there", "alpine", under("all"));
        lab.run(secs(25.0));
        assert_eq!((lab.shows("there").as_str(), lab.status("here").nodes_ready), ("Cached 2/2", 1));
        assert_eq!(lab.message("here"), format!("b: {message}"));
        lab.repair();
        lab.settle();
        assert_eq!(lab.shows("here"), "Cached 2/2");
    }
}

#[test]
fn a_slow_pull_takes_as_long_as_it_is_told_to() {
    let mut lab = side_by_side(&["a", "b"]);
    lab.knobs.troubles.push(Trouble::new("", Outcome::Takes(duration("2m"))).on(&["b"]));
    lab.image_with("alpine", "alpine", under("all"));
    lab.settle();
    assert_eq!(took(&lab), [6, 121]);
}

#[test]
fn a_kubelet_may_reject_one_pod_and_work_then() {
    let mut lab = Lab::with_nodes(&["a"]);
    lab.knobs.kubelets.insert("a".to_owned(), Kubelet::RejectsNext(("OutOfpods", "too many Pods").into()));
    lab.image("alpine", "alpine");
    lab.run(secs(5.0));
    let told: Vec<String> =
        lab.record.told.iter().map(|(_, it)| format!("{} {}: {}", it.kind, it.name, it.message)).collect();
    assert_eq!(told, ["Node a: no image can be pulled: too many Pods"]);
    lab.settle();
    assert_eq!((lab.shows("alpine").as_str(), lab.record.pods.len()), ("Cached 1/1", 2));
}

#[test]
fn the_digest_of_a_tag_may_differ_by_platform() {
    let mut lab = Lab::with_nodes(&["a", "b"]);
    lab.edit_node("b", |node| node.platform = "linux/arm64".into());
    let image = Reference::parse("alpine");
    let ids = |lab: &Lab| ["a", "b"].map(|node| lab.newest_id(node, &image));
    let [same, too] = ids(&lab);
    assert_eq!(same, too);
    lab.knobs.digests_by_platform.insert(image.to_string());
    let [amd, arm] = ids(&lab);
    assert_ne!(amd, arm);
    lab.push(image.as_str(), "sha256:1");
    assert!(ids(&lab)[0] != amd && ids(&lab)[1] != arm, "both move");
}
