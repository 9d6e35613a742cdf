//! Drop never writes values beyond the limits of the schemas.

use crate::common::{Lab, duration};
use crate::{NOT_FOUND, creates, fate, nodes};
use drop_api::NodeCache;
use drop_api::cached_image::ImagePullPolicy;
use drop_api::cached_image_set::ImageEntry;
use drop_api::node_cache::{ImageRecord, NodeCacheSpec};
use drop_core::event::Kind;
use drop_core::inventory::{Inventory, Listed};
use drop_core::memory::MAX_IMAGES;
use drop_core::reference::Reference;
use drop_sim::{Fate, Kubelet, schema, secs, under};
use std::sync::Arc;

/// Makes nodes a and b, without an operator yet. A NodeCache of a holds `count` images that no node pulls.
fn remembering(count: usize) -> Lab {
    let mut lab = nodes(2);
    lab.edit_node("a", |node| drop(node.labels.insert("pool".into(), "full".into())));
    lab.stop(false);
    lab.knobs.json = false;
    let spec = NodeCacheSpec { node_uid: lab.api.nodes["a"].uid.to_string() };
    let mut cache = NodeCache::new("a", spec);
    let status = cache.status.get_or_insert_default();
    for n in 0..count {
        lab.image_with(&format!("old-{n}"), &format!("old:{n}"), |image| {
            image.image_pull_policy = ImagePullPolicy::Never;
            image.node_selector = [("pool".to_owned(), "full".to_owned())].into();
        });
        let image = Reference::parse(&format!("old:{n}")).to_string();
        status.images.push(ImageRecord { image, found_at: Some(lab.now), ..ImageRecord::default() });
    }
    lab.api.caches.insert("a".to_owned(), cache);
    lab
}

/// Makes a node a, whose NodeCache holds as many images as possible, and a node b, which is busy. `new` is wanted on a.
fn full() -> Lab {
    let mut lab = remembering(MAX_IMAGES);
    lab.edit_node("b", |node| drop(node.labels.insert("pool".into(), "busy".into())));
    lab.knobs.pull = secs(600.0);
    let only_on = |pool: &str| [("pool".to_owned(), pool.to_owned())].into();
    lab.image_with("huge", "huge", |image| image.node_selector = only_on("busy"));
    lab.image_with("new", "new", |image| image.node_selector = only_on("full"));
    lab.start();
    lab.run(secs(30.0));
    assert_eq!(lab.message("new"), "0/1 nodes cached; a: more than 2000 images are wanted on the node");
    lab
}

fn remembered(lab: &Lab, node: &str) -> usize {
    lab.api.caches[node].status.as_ref().unwrap().images.len()
}

#[test]
fn a_pod_of_several_images_does_not_overfill_a_node_cache() {
    let mut lab = remembering(MAX_IMAGES - 1);
    let images = ["x:1", "x:2", "x:3"].map(|image| ImageEntry { image: image.to_owned(), ..ImageEntry::default() });
    lab.set("new", |set| set.images = images.into());
    lab.start();
    lab.run(secs(60.0));
    assert_eq!(remembered(&lab, "a"), MAX_IMAGES);
}

#[test]
fn a_retry_does_not_overfill_a_node_cache() {
    let mut lab = remembering(MAX_IMAGES);
    lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), NOT_FOUND.into());
    lab.image("nope", "nope:1");
    lab.start();
    lab.run(secs(300.0));
    assert!(lab.starts().len() > 1 && lab.starts().iter().all(|start| start.contains(" b: ")), "{:?}", lab.starts());
    assert_eq!(remembered(&lab, "a"), MAX_IMAGES);
}

#[test]
fn where_there_is_room_again_no_status_speaks_of_too_many_images() {
    let next = "0/1 nodes cached; queued (built-in defaults: at most 1 node at once, 10s apart)";
    let mut lab = full();
    lab.delete_image("old-7");
    lab.run(secs(30.0));
    assert_eq!(lab.message("new"), next);

    // The watch is interrupted while another machine takes the name.
    let mut lab = full();
    let labels = lab.api.nodes["a"].labels.clone();
    lab.remove_node("a");
    lab.node("a");
    lab.edit_node("a", |node| node.labels = labels);
    lab.relist_kind(Kind::Node);
    lab.run(secs(30.0));
    assert_eq!(lab.message("new"), next);
}

/// Returns a text that is longer than any bound of the API.
fn long_text(start: &str) -> &'static str {
    format!("{start}{}", "x".repeat(3000)).leak()
}

#[test]
fn the_labs_checker_finds_what_the_api_server_refuses() {
    let mut lab = nodes(1);
    lab.image("alpine", "alpine");
    lab.settle();
    let good = serde_json::to_value(&lab.api.caches["a"]).unwrap();
    assert_eq!(schema::violations("NodeCache", &good), Vec::<String>::new());
    type Spoil = fn(&mut serde_json::Value);
    let bad: [(&str, Spoil); 8] = [
        ("images[0].digest violates maxLength", |cache| cache["status"]["images"][0]["digest"] = "d".repeat(72).into()),
        ("pullStarts violates maxItems", |cache| {
            let starts = (0..65).map(|n| serde_json::json!({"policy": n.to_string(), "at": "2026-01-01T00:00:00Z"}));
            cache["status"]["pullStarts"] = starts.collect::<Vec<_>>().into();
        }),
        ("images violates x-kubernetes-list-map-keys", |cache| {
            let image = cache["status"]["images"][0].clone();
            cache["status"]["images"].as_array_mut().unwrap().push(image);
        }),
        ("images[0].image is null", |cache| cache["status"]["images"][0]["image"] = serde_json::Value::Null),
        ("conditions[0].status violates enum", |cache| cache["status"]["conditions"][0]["status"] = "Maybe".into()),
        ("imagesPulling violates type", |cache| cache["status"]["imagesPulling"] = "1".into()),
        ("spec violates required", |cache| drop(cache["spec"].as_object_mut().unwrap().remove("nodeUID"))),
        ("status.more is not in the schema", |cache| cache["status"]["more"] = 1.into()),
    ];
    for (expected, spoil) in bad {
        let mut cache = good.clone();
        spoil(&mut cache);
        let violations = schema::violations("NodeCache", &cache);
        assert!(violations.iter().any(|violation| violation.contains(expected)), "{expected}: {violations:?}");
    }
}

#[test]
fn a_long_rejection_is_shortened() {
    let mut lab = nodes(1);
    lab.knobs.kubelets.insert("a".to_owned(), Kubelet::Rejects(("OutOfpods", long_text("full")).into()));
    lab.image("alpine", "alpine");
    lab.run(secs(60.0));
    let failure = lab.api.caches["a"].status.clone().unwrap().node_failure.unwrap();
    assert!(failure.message.starts_with("fullx") && failure.message.ends_with('…'), "{}", failure.message);
    lab.repair();
    lab.settle();
    assert_eq!(lab.shows("alpine"), "Cached 1/1");
}

#[test]
fn a_long_reason_of_a_failed_pull_is_shortened() {
    for message in [long_text("tls: "), long_text("something new "), long_text("lookup "), long_text("dial tcp ")] {
        let mut lab = nodes(1);
        lab.title = message[..10].to_owned();
        lab.knobs.broken_images.insert("docker.io/library/nope:1".to_owned(), (long_text("Err"), message).into());
        lab.knobs.broken_images.insert("docker.io/library/none:1".to_owned(), ("ErrImagePull", message).into());
        lab.image("nope", "nope:1");
        lab.image("none", "none:1");
        lab.run(secs(60.0));
        assert_eq!(lab.status("none").nodes_failed, 1, "{}", lab.title);
        assert!(lab.message("none").len() > 100, "{}", lab.title);
    }
}

#[test]
fn a_node_cache_holds_no_more_starts_than_it_may() {
    let mut lab = nodes(1);
    lab.knobs.pull = secs(1.0);
    for n in 0..70 {
        let policy = format!("p{n:02}");
        lab.policy(&policy, |policy| policy.min_delay_between_pulls = duration("24h"));
        lab.image_with(&format!("x{n:02}"), &format!("x{n:02}"), under(&policy));
    }
    lab.settle();
    assert_eq!(lab.record.pods.len(), 70);
    let starts = lab.api.caches["a"].status.clone().unwrap().pull_starts;
    assert_eq!(starts.len(), 64);
    let latest = lab.record.pods.iter().map(|pod| pod.at).max().unwrap();
    assert!(starts.iter().any(|start| latest.duration_since(start.at) < secs(1.0)), "the latest are kept: {starts:?}");
}

#[test]
fn the_start_of_a_policy_that_is_gone_is_forgotten() {
    let mut lab = nodes(1);
    lab.policy("p", |_| {});
    lab.policy("q", |_| {});
    lab.image_with("alpine", "alpine", under("p"));
    lab.run(secs(60.0));
    lab.delete_policy("p");
    lab.image_with("busybox", "busybox", under("q"));
    lab.settle();
    let starts = lab.api.caches["a"].status.clone().unwrap().pull_starts;
    let policies: Vec<&str> = starts.iter().map(|start| start.policy.as_str()).collect();
    assert_eq!(policies, ["q"]);
}

#[test]
fn an_image_that_is_found_resolves_to_the_digest_that_pins_it() {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let mut lab = nodes(1);
    lab.stop(false);
    let names = [Reference::parse(&format!("docker.io/library/alpine@{digest}"))].into();
    let listed = Arc::new(Listed { names, is_cut: false, size: 1 });
    lab.edit_node("a", |node| node.inventory = Inventory::new(vec![listed]));
    lab.image_with("alpine", "alpine", |image| image.digest = Some(digest.clone()));
    lab.start();
    lab.settle();
    assert_eq!((lab.shows("alpine").as_str(), lab.status("alpine").resolved_digest), ("Cached 1/1", Some(digest)));
    assert_eq!(lab.record.pods.len(), 0, "{:?}", lab.starts());
}

#[test]
fn a_digest_of_another_kind_is_not_recorded() {
    let mut lab = nodes(1);
    let digest = format!("sha512:{}", "ab".repeat(64));
    lab.knobs.digests.insert("docker.io/library/alpine:latest".to_owned(), digest);
    lab.image("alpine", "alpine");
    lab.settle();
    assert_eq!((lab.shows("alpine").as_str(), lab.status("alpine").resolved_digest), ("Cached 1/1", None));
}

#[test]
fn a_long_refusal_is_shortened() {
    let mut lab = nodes(1);
    fate(&mut lab, Fate::Refused(long_text("quota")), 3, creates);
    lab.image("alpine", "alpine");
    lab.run(secs(3.0));
    assert!(lab.message("alpine").contains("refused: quotax"), "{}", lab.message("alpine"));
    lab.settle();
    assert_eq!(lab.shows("alpine"), "Cached 1/1");
}
