//! Compares the next try and the failures in statuses with the record.

use crate::common::{Lab, duration};
use crate::nodes;
use drop_api::CachedImageStatus;
use drop_sim::{Failure, Kubelet, Outcome, Trouble, secs, under};
use jiff::{SignedDuration, Timestamp};

/// Outcomes in which the image, its registry, the node, or an unknown part is at fault.
fn failures() -> Vec<Outcome> {
    let fails = |message: &str| Outcome::Fails(("ErrImagePull", message).into());
    vec![
        fails("r.example/x:1: not found"),
        Outcome::Status(500),
        Outcome::NoDns,
        fails("write /var/lib/containerd/tmp: no space left on device"),
        fails("something that nobody has seen before"),
        Outcome::Takes(duration("90s")),
    ]
}

/// Makes a lab with this many nodes that cannot pull an image, for some hours.
fn failing(count: u8, outcome: &Outcome) -> Lab {
    let mut lab = nodes(count);
    lab.title = format!("{outcome:?} on {count} nodes");
    lab.policy("p", |policy| policy.pull_timeout = duration("1m"));
    lab.knobs.troubles.push(Trouble::new("r.example", outcome.clone()));
    lab.image_with("x", "r.example/x:1", under("p"));
    lab.run(secs(3.0 * 3600.0));
    lab
}

fn statuses(lab: &Lab) -> &[(Timestamp, CachedImageStatus)] {
    &lab.record.statuses["x"]
}

#[test]
fn the_next_try_is_when_the_status_says() {
    for count in [1, 2, 3] {
        for outcome in failures() {
            let lab = failing(count, &outcome);
            let mut told = 0;
            // The status that was shown until the next Pod named the time of that Pod.
            for pair in lab.record.pods.windows(2) {
                let Some((at, status)) = statuses(&lab).iter().rfind(|(at, _)| *at < pair[1].at) else { continue };
                let gone_at = pair[0].gone_at.unwrap();
                // Progress alone is written at intervals: a status from before the last failure proves nothing.
                if *at < pair[0].settled_at.unwrap_or(gone_at) {
                    continue;
                }
                let retries = status.failures.iter().filter_map(|failure| failure.retry_at);
                let is_first_round = lab.pods_of("r.example/x:1").iter().position(|pod| pod.at == pair[1].at).unwrap()
                    < usize::from(count);
                let Some(retry_at) = retries.min().filter(|_| !is_first_round) else { continue };
                told += 1;
                let (from, until) = (retry_at - SignedDuration::from_secs(1), retry_at.max(gone_at) + secs(15.0));
                let is_so = (from..=until).contains(&pair[1].at);
                assert!(is_so, "{}: {} is not between {from} and {until}", lab.title, pair[1].at);
            }
            assert!(told >= 20, "{}: {told} tries", lab.title);
        }
    }
}

#[test]
fn failures_in_a_row_are_counted_whoever_is_at_fault() {
    for count in [1, 2] {
        for outcome in failures() {
            let lab = failing(count, &outcome);
            let (_, status) = statuses(&lab).last().unwrap();
            assert!(status.consecutive_failures >= 10, "{}: {status:#?}", lab.title);
        }
    }
}

#[test]
fn wherever_nodes_fail_the_status_tells_of_one() {
    let rejects: Failure = ("OutOfpods", "too many Pods").into();
    let full: Failure = ("ErrImagePull", "write /var/lib/containerd/tmp: no space left on device").into();
    // Where the kubelet does not get as far as a pull, no image has failed.
    for (kubelet, of, fails) in [
        (Kubelet::Rejects(rejects), None, false),
        (Kubelet::Silent, None, false),
        (Kubelet::NoSandbox, None, false),
        (Kubelet::CannotPull(full.clone()), None, true),
        (Kubelet::Works, Some("docker.io/library/x"), true),
        (Kubelet::Works, Some("docker.io/library/z"), true),
    ] {
        let mut lab = nodes(2);
        lab.title = format!("{kubelet:?} {of:?}");
        lab.knobs.kubelets.insert("a".to_owned(), kubelet);
        let trouble = of.map(|of| Trouble::new(of, Outcome::Fails(full.clone())).on(&["a"]));
        lab.knobs.troubles.extend(trouble);
        lab.policy("p", |_| {});
        ["x", "y", "z"].iter().for_each(|name| lab.image_with(name, name, under("p")));
        lab.run(secs(3600.0));
        lab.policy("p", |policy| policy.paused = true);
        lab.run(secs(600.0));
        let mut has_failed = false;
        for (name, statuses) in &lab.record.statuses {
            for (_, status) in statuses.iter().filter(|(_, status)| status.nodes_failed > 0) {
                has_failed = true;
                assert!(!status.failures.is_empty(), "{}: {name}: {status:#?}", lab.title);
            }
        }
        assert_eq!(has_failed, fails, "{}", lab.title);
    }
}
