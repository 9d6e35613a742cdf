//! Edits of CachedImages, and several CachedImages that want the same image.

use crate::common::Lab;
use crate::{NOT_FOUND, nodes};
use drop_api::cached_image::ImagePullPolicy;
use drop_api::condition;
use drop_sim::secs;

#[test]
fn an_edit_to_another_image_that_is_there_is_recorded() {
    let mut lab = nodes(1);
    lab.image("one", "alpine");
    lab.image("two", "busybox");
    lab.settle();
    lab.edit_image("two", |spec| spec.image = "alpine".to_owned());
    lab.settle();
    let cache = lab.api.caches["a"].status.clone().unwrap();
    let wanted = cache.images.iter().filter(|record| record.unwanted_since.is_none()).count();
    assert_eq!((cache.ready.as_str(), wanted), ("1/1", 1), "nobody wants busybox any more");
}

#[test]
fn an_image_that_is_replaced_at_once_is_counted_right() {
    let mut lab = nodes(2);
    lab.image("one", "alpine");
    lab.image("two", "alpine");
    lab.settle();
    // Both watch events come at the same moment, and so into one plan.
    lab.delete_image("one");
    lab.image("one", "alpine");
    lab.settle();
    assert_eq!(lab.shows("one"), "Cached 2/2");
}

#[test]
fn a_pod_of_a_deleted_image_does_not_stay_on_record_as_pulling() {
    let mut lab = nodes(1);
    lab.image("alpine", "alpine");
    lab.settle();
    lab.knobs.pull = secs(60.0);
    lab.image("huge", "huge");
    lab.run(secs(5.0));
    lab.delete_image("huge");
    lab.settle();
    assert_eq!(lab.api.caches["a"].status.as_ref().unwrap().images_pulling, 0);
}

#[test]
fn an_image_that_is_edited_while_it_is_pulled_is_pulled_anew() {
    let mut lab = nodes(1);
    lab.knobs.pull = secs(30.0);
    lab.image("alpine", "alpine:3.20");
    lab.run(secs(5.0));
    lab.edit_image("alpine", |spec| spec.image = "alpine:3.21".to_owned());
    lab.settle();
    let pods = &lab.record.pods;
    assert!(pods[0].deleted_at.unwrap() < pods[0].at + secs(6.0));
    assert_eq!(pods[1].order.pulls[0].reference.as_str(), "docker.io/library/alpine:3.21");
    assert!(pods[1].at >= pods[0].gone_at.unwrap(), "one Pod per node, Terminating included");
    assert_eq!((pods.len(), lab.shows("alpine").as_str()), (2, "Cached 1/1"));
    let images = lab.api.caches["a"].status.clone().unwrap().images;
    assert_eq!(images.len(), 1, "what is not wanted any more is forgotten: {images:?}");
}

#[test]
fn an_image_that_is_deleted_while_it_is_pulled_counts_until_its_pod_is_gone() {
    let mut lab = nodes(2);
    lab.knobs.pull = secs(30.0);
    lab.image("alpine", "alpine");
    lab.image("busybox", "busybox");
    lab.run(secs(5.0));
    lab.delete_image("alpine");
    lab.settle();
    let pod = &lab.record.pods[0];
    assert!(pod.deleted_at.unwrap() < pod.at + secs(6.0));
    assert_eq!(lab.starts(), ["0s a: alpine", "30s a: busybox", "62s b: busybox"]);
}

#[test]
fn a_spec_edit_that_does_not_concern_the_reference_pulls_nothing_again() {
    let mut lab = nodes(2);
    lab.image("alpine", "alpine:3.20");
    lab.settle();
    let pods = lab.record.pods.len();
    lab.edit_image("alpine", |spec| spec.priority = 7);
    lab.settle();
    lab.edit_image("alpine", |spec| {
        spec.image = "docker.io/library/alpine".to_owned();
        spec.tag = Some("3.20".to_owned());
    });
    lab.settle();
    assert_eq!(lab.record.pods.len(), pods);
    assert_eq!(lab.status("alpine").observed_generation, Some(3));
    let conditions = lab.status("alpine").conditions;
    assert_eq!(condition::ready(&conditions).unwrap().observed_generation, Some(3));
}

#[test]
fn two_objects_that_want_one_image_share_its_pulls() {
    let mut lab = nodes(2);
    lab.image("one", "alpine:3.20");
    lab.image("two", "docker.io/library/alpine:3.20");
    lab.settle();
    assert_eq!(lab.record.pods.len(), 2);
    assert_eq!((lab.shows("one").as_str(), lab.shows("two").as_str()), ("Cached 2/2", "Cached 2/2"));
    lab.delete_image("one");
    lab.settle();
    lab.restart(true);
    lab.settle();
    assert_eq!(lab.record.pods.len(), 2, "the image stays known while one wants it");
}

#[test]
fn two_objects_that_want_one_failing_image_try_it_once() {
    let mut lab = nodes(2);
    lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), NOT_FOUND.into());
    lab.image("one", "nope:1");
    lab.image("two", "nope:1");
    lab.run(secs(25.0));
    assert_eq!(lab.record.pods.len(), 1, "{:?}", lab.starts());
    assert_eq!((lab.shows("one").as_str(), lab.shows("two").as_str()), ("ErrImagePull 0/2", "ErrImagePull 0/2"));
}

#[test]
fn a_digest_is_pulled_as_it_is() {
    let mut lab = nodes(1);
    let digest = format!("sha256:{}", "ab".repeat(32));
    lab.image_with("pinned", "nginx", |spec| spec.digest = Some(digest.clone()));
    lab.settle();
    let pull = &lab.record.pods[0].order.pulls[0];
    assert_eq!(pull.reference.as_str(), format!("docker.io/library/nginx@{digest}"));
    assert_eq!(lab.shows("pinned"), "Cached 1/1");
}

#[test]
fn the_longest_names_make_valid_pod_names() {
    let longest = |first: &str, c: &str| format!("{first}{}", c.repeat(253 - first.len()));
    let node = format!("{}.example.com", "n".repeat(63));
    let mut lab = Lab::with_nodes(&[&node]);
    lab.image(&longest("a", "x"), "one");
    lab.image(&longest("a", "y"), "two");
    lab.image(&longest(&format!("{}.", "d".repeat(49)), "z"), "three");
    lab.image_of_set(&longest("set.", "s"), &longest("b", "x"), "four", |_| {});
    lab.settle();
    let names: std::collections::BTreeSet<_> = lab.record.pods.iter().map(|pod| pod.order.name.clone()).collect();
    assert_eq!(names.len(), 4, "and the lab checks that they are DNS labels");
}

#[test]
fn never_pulls_nothing_and_reports() {
    let mut lab = nodes(2);
    lab.image_with("never", "alpine", |spec| spec.image_pull_policy = ImagePullPolicy::Never);
    lab.settle();
    assert!(lab.starts().is_empty());
    assert_eq!(lab.shows("never"), "Waiting 0/2");
    assert_eq!(lab.message("never"), "0/2 nodes cached; imagePullPolicy: Never only reports");
    // Another object may cause a pull.
    lab.image("alpine", "alpine");
    lab.settle();
    assert_eq!((lab.record.pods.len(), lab.shows("never").as_str()), (2, "Cached 2/2"));
}
