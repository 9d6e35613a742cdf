//! Nodes that fail as a whole while many images are wanted there: the reports of it, and their number.

use crate::common::{Lab, duration};
use crate::nodes;
use drop_core::effect::EffectKey;
use drop_sim::{Failure, Kubelet, Outcome, Trouble, secs, under};

/// Creates this many images.
fn create(lab: &mut Lab, count: usize) {
    (0..count).for_each(|number| lab.image(&format!("i{number:03}"), &format!("i{number:03}")));
}

/// Returns how often the statuses of CachedImages were written.
fn writes(lab: &Lab) -> usize {
    lab.record.requests.iter().filter(|(_, key)| matches!(key, EffectKey::Image(_))).count()
}

fn warnings(lab: &Lab) -> Vec<String> {
    let told = lab.record.told.iter().filter(|(_, notice)| notice.is_warning);
    told.map(|(_, notice)| format!("{}: {}", notice.name, notice.message)).collect()
}

#[test]
fn one_rejected_pod_is_told_once_and_costs_few_writes() {
    for reason in ["OutOfpods", "OutOfcpu"] {
        for (count, images) in [(1, 30), (2, 30), (1, 200)] {
            let play = |is_rejected: bool| {
                let mut lab = nodes(count);
                lab.knobs.pull = secs(1.0);
                if is_rejected {
                    let failure: Failure = (reason, "Node didn't have enough resource").into();
                    lab.knobs.kubelets.insert("a".to_owned(), Kubelet::RejectsNext(failure));
                }
                create(&mut lab, images);
                lab.run(secs(3600.0));
                lab
            };
            let (usual, lab) = (play(false), play(true));
            assert_eq!(lab.shows("i029"), format!("Cached {count}/{count}"));
            let told = warnings(&lab);
            assert!(told.len() <= 1, "{reason}, {count} nodes: {} warnings: {:?}", told.len(), &told[..2]);
            let (more, most) = (writes(&lab), writes(&usual) + 20);
            assert!(more <= most, "{reason}, {count} nodes, {images} images: {more} writes instead of {most}");
        }
    }
}

#[test]
fn a_node_that_stays_sick_costs_few_writes() {
    let socket = "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing: dial \
                  unix /run/containerd/containerd.sock: connect: connection refused\"";
    let failure: Failure = ("ErrImagePull", socket).into();
    for (kubelet, trouble) in [
        (Some(Kubelet::Rejects(("OutOfpods", "too many Pods").into())), None),
        (Some(Kubelet::CannotPull(failure.clone())), None),
        (None, Some(Trouble::new("docker.io/library/i000", Outcome::Fails(failure)).on(&["a"]))),
    ] {
        let mut lab = nodes(3);
        lab.title = format!("{kubelet:?} {trouble:?}");
        kubelet.into_iter().for_each(|kubelet| drop(lab.knobs.kubelets.insert("a".to_owned(), kubelet)));
        lab.knobs.troubles.extend(trouble);
        create(&mut lab, 30);
        lab.run(secs(86_400.0));
        let told = warnings(&lab);
        assert!(told.len() <= 10, "{}: {} warnings: {:?}", lab.title, told.len(), &told[..2]);
        let writes = writes(&lab);
        assert!(writes <= 1400, "{}: {writes} writes in a day", lab.title);
        for number in 1..30 {
            assert!(lab.status(&format!("i{number:03}")).nodes_ready >= 2, "{}: {:?}", lab.title, lab.shows("i001"));
        }
    }
}

#[test]
fn a_roll_out_of_many_images_is_told_by_statuses_and_few_events() {
    let mut lab = nodes(2);
    create(&mut lab, 30);
    lab.settle();
    assert!((0..30).all(|number| lab.shows(&format!("i{number:03}")) == "Cached 2/2"));
    assert_eq!(lab.record.told.len(), 3, "{:#?}", lab.record.told);
    lab.run(secs(900.0));
    lab.image("later", "later");
    lab.settle();
    assert_eq!(lab.record.told.len(), 4, "{:#?}", lab.record.told);
}

#[test]
fn what_fails_with_its_node_shows_why_and_is_told_about_the_node() {
    let mut lab = nodes(1);
    let failure = "failed to extract layer sha256:aa: mkdir /var/lib/containerd/1: read-only file system";
    lab.knobs.kubelets.insert("a".to_owned(), Kubelet::CannotPull(("ErrImagePull", failure).into()));
    create(&mut lab, 2);
    lab.run(secs(10.0));
    let cause = "the container runtime failed: mkdir /var/lib/containerd/1: read-only file system";
    assert_eq!((lab.shows("i000").as_str(), lab.message("i000")), ("ErrImagePull 0/1", format!("a: {cause}")));
    assert_eq!(lab.shows("i001"), "Waiting 0/1");
    lab.run(secs(3600.0));
    assert_eq!(warnings(&lab), [format!("a: no image can be pulled: {cause}")]);
    lab.repair();
    lab.settle();
    assert_eq!((lab.shows("i000").as_str(), lab.shows("i001").as_str()), ("Cached 1/1", "Cached 1/1"));
}

#[test]
fn an_image_that_no_node_can_unpack_holds_up_no_other() {
    let mut lab = nodes(2);
    lab.policy("p", |policy| policy.min_delay_between_pulls = duration("0s"));
    let failure: Failure = ("ErrImagePull", "failed to extract layer sha256:aa: file exists").into();
    lab.knobs.troubles.push(Trouble::new("docker.io/library/i000", Outcome::Fails(failure)));
    (0..5).for_each(|number| lab.image_with(&format!("i{number:03}"), &format!("i{number:03}"), under("p")));
    lab.run(secs(7200.0));
    lab.image_with("new", "new", under("p"));
    lab.run(secs(120.0));
    assert_eq!((lab.shows("new").as_str(), lab.shows("i001").as_str()), ("Cached 2/2", "Cached 2/2"));
    assert_eq!(lab.shows("i000"), "ImagePullBackOff 0/2");
    let on_nodes = lab.api.caches.values().filter_map(|cache| cache.status.as_ref()?.node_failure.as_ref()).count();
    assert_eq!(on_nodes, 0, "it is the image's: {:#?}", lab.status("i000").failures);
}

#[test]
fn a_kubelet_that_limits_pulls_per_second_is_asked_again_soon() {
    let mut lab = nodes(1);
    lab.policy("p", |policy| policy.failure_backoff.initial = duration("5m"));
    let failure: Failure = ("ErrImagePull", "pull QPS exceeded").into();
    lab.knobs.kubelets.insert("a".to_owned(), Kubelet::CannotPull(failure));
    lab.image_with("app", "app", under("p"));
    lab.run(secs(5.0));
    assert_eq!(lab.shows("app"), "ErrImagePull 0/1");
    assert!(lab.message("app").contains("QPS"), "{}", lab.message("app"));
    lab.repair();
    lab.run(secs(40.0));
    assert_eq!((lab.shows("app").as_str(), warnings(&lab)), ("Cached 1/1", Vec::new()));
}
