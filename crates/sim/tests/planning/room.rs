//! Images that do not fit the disk of a node, beside others that do.

use crate::common::{Lab, duration};
use crate::nodes;
use drop_api::CachedImageSpec;
use drop_sim::{Machine, secs};

const MB: u64 = 1_000_000;

/// Gives nodes room for three images of the usual size, and creates `huge`, which needs more.
fn too_small(lab: &mut Lab, nodes: &[String]) {
    for node in nodes {
        lab.knobs.machines.insert(node.clone(), Machine { disk: Some(300 * MB), ..Machine::default() });
    }
    lab.knobs.sizes.insert("docker.io/library/huge:latest".to_owned(), 500 * MB);
}

/// Creates a CachedImage, alone or in a set.
fn create(lab: &mut Lab, is_in_set: bool, name: &str, image: &str, priority: i32) {
    let edit = |spec: &mut CachedImageSpec| spec.priority = priority;
    if is_in_set { lab.image_of_set("web", name, image, edit) } else { lab.image_with(name, image, edit) }
}

#[test]
fn an_image_that_never_fits_blocks_no_other() {
    for (huge, small) in [("a-huge", "b-small"), ("z-huge", "b-small")] {
        for (count, is_in_set, urgency) in [(1, false, 0), (1, true, 0), (1, false, -1), (2, false, 0), (3, true, 0)] {
            let mut lab = nodes(count);
            lab.title = format!("{huge} before {small} on {count} nodes, in a set: {is_in_set}, priority {urgency}");
            let all: Vec<String> = lab.api.nodes.keys().cloned().collect();
            too_small(&mut lab, &all);
            create(&mut lab, is_in_set, huge, "huge", urgency);
            create(&mut lab, is_in_set, small, "small", 0);
            // Two backoffs of 30 s, and a turn of two Pods for each node.
            lab.run(secs(2.0 * 33.0 + 30.0 * f64::from(count)));
            assert_eq!(lab.shows(small), format!("Cached {count}/{count}"), "{}: {:?}", lab.title, lab.starts());
            assert!(!lab.message(small).contains("no space"), "{}", lab.message(small));
        }
    }
}

#[test]
fn an_image_that_does_not_fit_one_node_is_soon_on_the_others() {
    for full in ["a", "b", "c"] {
        let mut lab = nodes(3);
        too_small(&mut lab, &[full.to_owned()]);
        lab.image("huge", "huge");
        lab.image("small", "small");
        lab.run(secs(180.0));
        assert_eq!(lab.shows("small"), "Cached 3/3", "without room on {full}: {:?}", lab.starts());
        assert_eq!(lab.status("huge").nodes_ready, 2, "without room on {full}: {:?}", lab.starts());
    }
}

#[test]
fn the_success_of_another_image_does_not_let_one_that_never_fits_be_tried_again_at_once() {
    let mut lab = nodes(1);
    lab.policy("p", |policy| policy.min_delay_between_pulls = duration("0s"));
    too_small(&mut lab, &["a".to_owned()]);
    lab.image("huge", "huge");
    lab.run(secs(3600.0));
    let since = lab.now;
    // Each image is small enough to be pulled, and is then deleted again.
    for number in 0..60 {
        let name = format!("small-{number}");
        lab.knobs.sizes.insert(format!("docker.io/library/{name}:latest"), MB);
        lab.image(&name, &name);
        lab.run(secs(60.0));
        assert_eq!(lab.shows(&name), "Cached 1/1");
        lab.delete_image(&name);
    }
    let again = lab.pods_of("huge").iter().filter(|pod| pod.at > since).count();
    assert!((6..=16).contains(&again), "its backoff is 5 minutes by now: {again} tries in an hour");
}
