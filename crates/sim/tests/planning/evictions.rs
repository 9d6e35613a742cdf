//! Images that are removed from nodes.

use crate::{NOT_FOUND, nodes, told};
use drop_api::cached_image::ImagePullPolicy;
use drop_core::reference::Reference;
use drop_sim::secs;

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
