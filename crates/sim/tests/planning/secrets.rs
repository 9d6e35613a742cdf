//! The Secrets of pull Pods.

use crate::nodes;
use drop_api::CachedImageSpec;
use drop_api::cached_image::LocalObjectReference;
use drop_sim::secs;

/// Adds a pull secret to a CachedImage.
fn with_secret(name: &str) -> impl FnOnce(&mut CachedImageSpec) + use<> {
    let name = name.to_owned();
    move |spec| spec.image_pull_secrets.push(LocalObjectReference { name })
}

#[test]
fn a_pod_has_the_secrets_of_all_who_want_its_image() {
    let mut lab = nodes(2);
    lab.edit_node("b", |node| drop(node.labels.insert("pool".into(), "gpu".into())));
    lab.image("a-without", "private.test/team/secret:1");
    lab.image_with("b-with", "private.test/team/secret:1", with_secret("good"));
    lab.image_with("c-on-b-only", "private.test/team/secret:1", |spec| {
        spec.node_selector.insert("pool".to_owned(), "gpu".to_owned());
        with_secret("gpu")(spec);
    });
    lab.settle();
    let secrets: Vec<_> = lab.record.pods.iter().map(|pod| (&*pod.order.node, pod.order.secrets.join(" "))).collect();
    assert_eq!(secrets, [("a", "good".to_owned()), ("b", "good gpu".to_owned())]);
}

#[test]
fn an_edit_of_the_secrets_lets_a_failing_image_be_tried_at_once() {
    let mut lab = nodes(1);
    let unauthorized = ("ErrImagePull", "failed to fetch anonymous token: 401 Unauthorized");
    lab.knobs.broken_images.insert("private.test/x:1".to_owned(), unauthorized.into());
    lab.image("x", "private.test/x:1");
    lab.run(secs(1000.0));
    let tries = lab.record.pods.len();
    lab.repair();
    let edited_at = lab.now;
    lab.edit_image("x", with_secret("good"));
    lab.run(secs(20.0));
    assert_eq!(lab.shows("x"), "Cached 1/1");
    let next = &lab.record.pods[tries];
    assert!(next.at.duration_since(edited_at) < secs(2.0), "{:?}", lab.starts());
    assert_eq!(next.order.secrets.join(" "), "good");
}
