//! Conclusions from lists of nodes and of sources that have different lengths, or that flap.

use crate::common::{self, Lab, duration};
use crate::nodes;
use drop_api::cached_image::LocalObjectReference;
use drop_core::discovery::{Answer, Sample, Series};
use drop_core::reference::Reference;
use drop_sim::{Machine, secs};

const SOURCE: &str = "http://one.example";

#[test]
fn an_image_that_swaps_in_and_out_of_a_list_is_not_pulled_again_where_it_is() {
    for (first, second) in [("a:1", "b:1"), ("z:1", "b:1")] {
        let mut lab = nodes(5);
        lab.knobs.lists = true;
        let at = lab.now;
        let name = |image: &str, value: f64| Series { image: image.to_owned(), samples: vec![Sample { at, value }] };
        let answer = |best: &str, other: &str| Ok(Answer::Series(vec![name(best, 2.0), name(other, 1.0)]));
        lab.knobs.sources.insert(SOURCE.to_owned(), answer(first, second));
        lab.knobs.alternates.insert(SOURCE.to_owned(), answer(second, first));
        lab.discovery("ci", |spec| {
            spec.sources = vec![common::source(SOURCE, None)];
            (spec.max_images, spec.sync_interval) = (1, duration("5m"));
        });
        lab.set("web", |spec| spec.discovery_policy_ref = Some(LocalObjectReference { name: "ci".to_owned() }));
        lab.run(secs(1200.0));
        let pods = lab.record.pods.len();
        assert_eq!(pods, 10, "each is on each node once: {:?}", lab.starts());
        lab.run(secs(6.0 * 3600.0));
        assert_eq!(lab.record.pods.len(), pods, "{:?}", &lab.starts()[pods..]);
    }
}

/// Creates images of 60 MB and less, each a little smaller than the one before.
fn images(lab: &mut Lab, count: u64) {
    for number in 0..count {
        lab.knobs.sizes.insert(format!("r.example/i{number:02}:1"), 60_000_000 - number * 1_000_000);
        lab.image(&format!("i{number:02}"), &format!("r.example/i{number:02}:1"));
    }
}

#[test]
fn what_a_kubelet_with_a_shorter_list_leaves_out_is_not_evicted() {
    for (short, limit) in [("a", 20), ("b", 20), ("a", 3)] {
        let mut lab = nodes(2);
        lab.title = format!("{short} lists {limit} images");
        lab.knobs.lists = true;
        lab.knobs.pull = secs(1.0);
        lab.knobs.machines.insert(short.to_owned(), Machine { listed_images: Some(limit), ..Machine::default() });
        images(&mut lab, 30);
        lab.run(secs(12.0 * 3600.0));
        assert_eq!(lab.record.pods.len(), 60, "{}: {:?}", lab.title, &lab.starts()[60..]);
        for number in 0..30 {
            let name = format!("i{number:02}");
            let was_evicted = lab.reasons(&name).contains(&"Evicted".to_owned());
            assert!(lab.shows(&name) == "Cached 2/2" && !was_evicted, "{}: {:?}", lab.title, lab.reasons(&name));
        }
    }
}

#[test]
fn a_list_without_a_limit_shows_that_an_image_is_gone() {
    let mut lab = nodes(2);
    lab.knobs.lists = true;
    lab.knobs.pull = secs(1.0);
    for node in ["a", "b"] {
        lab.knobs.machines.insert(node.to_owned(), Machine { listed_images: Some(-1), ..Machine::default() });
    }
    images(&mut lab, 55);
    lab.run(secs(3600.0));
    // The smallest one: fifty are larger.
    assert!(lab.evict("a", &Reference::parse("r.example/i54:1")));
    lab.run(secs(60.0));
    assert_eq!(lab.shows("i54"), "Evicted 1/2");
}

#[test]
fn a_kubelet_with_a_longer_list_than_others_is_believed_as_they_are() {
    let mut lab = nodes(2);
    lab.knobs.lists = true;
    lab.knobs.pull = secs(1.0);
    lab.knobs.machines.insert("a".to_owned(), Machine { listed_images: Some(200), ..Machine::default() });
    images(&mut lab, 55);
    lab.run(secs(12.0 * 3600.0));
    assert_eq!(lab.record.pods.len(), 110, "{:?}", lab.starts().get(110..));
}
