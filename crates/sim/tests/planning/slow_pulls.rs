//! Pulls that always take longer than `pullTimeout`.

use crate::common::{Lab, duration};
use crate::nodes;
use drop_sim::{Outcome, Trouble, secs, under};

/// Creates an image whose pull takes this many minutes, and one whose pull is fast, under the policy `p`.
fn create(lab: &mut Lab, is_in_set: bool, minutes: u64, [slow, quick]: [&str; 2]) {
    let takes = Outcome::Takes(duration(&format!("{minutes}m")));
    lab.knobs.troubles.push(Trouble::new("docker.io/library/slow", takes));
    for (name, image) in [(slow, "slow"), (quick, "quick")] {
        match is_in_set {
            true => lab.image_of_set("web", name, image, under("p")),
            false => lab.image_with(name, image, under("p")),
        }
    }
}

#[test]
fn an_image_that_never_comes_in_time_blocks_no_other() {
    for (minutes, timeout) in [(25, "10m"), (70, "1h")] {
        for names in [["a-slow", "b-small"], ["b-slow", "a-small"]] {
            for (count, is_in_set) in [(1, false), (1, true), (2, false), (2, true), (3, false)] {
                let mut lab = nodes(count);
                lab.title = format!("{names:?} on {count} nodes, in a set: {is_in_set}, a pull of {minutes} minutes");
                lab.policy("p", |policy| policy.pull_timeout = duration(timeout));
                // A kubelet does not report how far it has come with a Pod, but it lists its images.
                lab.knobs.lists = true;
                create(&mut lab, is_in_set, minutes, names);
                // One node at a time, and each node may have one earlier Pod with the slow image.
                lab.run(secs(60.0 * f64::from(count) * (minutes as f64 + 3.0)));
                let (shown, starts) = (lab.shows(names[1]), lab.starts());
                assert_eq!(shown, format!("Cached {count}/{count}"), "{}: {starts:#?}", lab.title);
            }
        }
    }
}

#[test]
fn a_pull_that_hangs_on_one_node_keeps_its_image_off_no_other() {
    for hanging in ["a", "b", "c"] {
        let mut lab = nodes(3);
        lab.policy("p", |policy| policy.pull_timeout = duration("10m"));
        let hangs = Outcome::Takes(duration("30m"));
        lab.knobs.troubles.push(Trouble::new("", hangs).on(&[hanging]));
        for name in ["x", "y"] {
            lab.image_with(name, name, under("p"));
        }
        // One Pod of the hanging node, two of the working ones, and the Pods that follow.
        lab.run(secs(45.0 * 60.0));
        for name in ["x", "y"] {
            let ready = lab.status(name).nodes_ready;
            assert_eq!(ready, 2, "{name}, while pulls hang on {hanging}: {:#?}", lab.starts());
        }
    }
}
