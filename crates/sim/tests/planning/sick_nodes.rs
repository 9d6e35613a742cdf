//! Nodes that fail as a whole while many images are wanted there: who hears of it, and how often.

use crate::common::Lab;
use crate::nodes;
use drop_core::effect::EffectKey;
use drop_sim::{Failure, Kubelet, Outcome, Trouble, secs};

/// Creates so many images.
fn create(lab: &mut Lab, count: usize) {
    (0..count).for_each(|number| lab.image(&format!("i{number:03}"), &format!("i{number:03}")));
}

/// How often the statuses of CachedImages were written.
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
