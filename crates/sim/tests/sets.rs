//! CachedImageSets on virtual time.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "these are tests")]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod common;

use std::collections::BTreeSet;

use common::{Lab, duration};
use drop_api::cached_image::{ImagePullPolicy, LocalObjectReference};
use drop_api::cached_image_set::ImageEntry;
use drop_api::condition;
use drop_api::scheduling::Toleration;
use drop_core::Effect;
use drop_core::effect::EffectKey;
use drop_core::event::Kind;
use drop_sim::{Fate, Rng, secs};

fn entries(images: &[&str]) -> Vec<ImageEntry> {
    images.iter().map(|image| ImageEntry { image: (*image).to_owned(), ..ImageEntry::default() }).collect()
}

/// Returns the reason of a set's Ready condition, and the number of ready images.
fn shows(lab: &drop_sim::Lab, set: &str) -> String {
    let status = lab.api.sets[set].status.clone().unwrap_or_default();
    let reason = condition::ready(&status.conditions).map(|ready| ready.reason.clone());
    format!("{} {}", reason.unwrap_or_default(), status.ready.unwrap_or_default())
}

fn message(lab: &Lab, set: &str) -> String {
    let status = lab.api.sets[set].status.clone().unwrap_or_default();
    condition::ready(&status.conditions).map(|ready| ready.message.clone()).unwrap_or_default()
}

/// Returns the images of all CachedImages.
fn images(lab: &Lab) -> BTreeSet<String> {
    lab.api.images.values().map(|image| image.spec.image.clone()).collect()
}

#[test]
fn a_set_becomes_ready_and_its_images_share_pods() {
    let mut lab = Lab::with_nodes(&["a", "b"]);
    lab.set("web", |spec| spec.images = entries(&["a.example/x:1", "a.example/y:1", "a.example/z:1"]));
    lab.settle();
    assert_eq!(shows(&lab, "web"), "AllReady 3/3");
    assert_eq!(lab.record.pods.len(), 2, "one Pod on each node: {:?}", lab.starts());
    let children = lab.record.requests.iter().filter(|(_, key)| matches!(key, EffectKey::Child { .. })).count();
    assert_eq!(children, 3);
    let labels = lab
        .api
        .images
        .values()
        .map(|image| image.metadata.labels.clone().unwrap()["drop.corewire.io/imageset"].clone());
    assert_eq!(labels.collect::<BTreeSet<_>>(), ["web".to_owned()].into());
}

#[test]
fn a_late_answer_about_a_child_confirms_no_status_that_was_refused() {
    let mut lab = Lab::new();
    let mut refusals = 3;
    lab.knobs.fate = Box::new(move |effect| match effect {
        Effect::CreateChild { .. } => Fate::Late(secs(4.9)),
        Effect::PatchImage { .. } if refusals > 0 => {
            refusals -= 1;
            Fate::Refused("not now")
        }
        _ => Fate::Answered,
    });
    lab.set("web", |spec| spec.images = entries(&["a.example/x:1"]));
    lab.settle();
    let child = lab.api.images.keys().next().unwrap();
    assert_eq!(lab.shows(child), "NoMatchingNodes 0/0");
}

#[test]
fn a_late_answer_brings_no_child_back_that_is_gone() {
    let mut lab = Lab::with_nodes(&["a"]);
    let mut fates = vec![Fate::Late(secs(4.9))];
    lab.knobs.fate = Box::new(move |effect| match effect {
        Effect::CreateChild { .. } => fates.pop().unwrap_or(Fate::Answered),
        _ => Fate::Answered,
    });
    lab.set("web", |spec| spec.images = entries(&["a.example/x:1"]));
    // The child exists after 4.9 seconds, and the answer comes after 9.8.
    lab.run(secs(6.0));
    let child = lab.api.images.keys().next().unwrap().clone();
    lab.delete_image(&child);
    lab.settle();
    assert_eq!((lab.api.images.len(), shows(&lab, "web").as_str()), (1, "AllReady 1/1"));
}

#[test]
fn a_late_answer_brings_no_child_of_a_set_back_that_is_gone() {
    let mut lab = Lab::new();
    lab.knobs.fate = Box::new(|effect| match effect {
        Effect::CreateChild { .. } => Fate::Late(secs(4.9)),
        _ => Fate::Answered,
    });
    lab.set("web", |spec| spec.images = entries(&["a.example/x:1"]));
    lab.run(secs(1.2));
    // The child exists after 4.9 seconds, is collected after 5.2, and the answer comes after 9.8.
    lab.delete_set("web");
    lab.settle();
    lab.node("a");
    lab.settle();
    assert_eq!((lab.starts(), lab.api.images.len()), (Vec::new(), 0));
}

#[test]
fn a_watch_that_lags_brings_no_child_back_that_was_deleted() {
    let mut lab = Lab::with_nodes(&["a"]);
    lab.set("web", |spec| spec.images = entries(&["a.example/x:1", "a.example/y:1"]));
    lab.lag(Kind::Image, secs(5.0), true);
    lab.run(secs(8.0));
    // The status with its progress is on its way when it is deleted.
    lab.set("web", |spec| spec.images = entries(&["a.example/x:1"]));
    let before = lab.record.requests.len();
    lab.settle();
    assert_eq!(shows(&lab, "web"), "AllReady 1/1");
    let of_children = lab.record.requests[before..].iter().filter(|(_, key)| matches!(key, EffectKey::Child { .. }));
    assert_eq!(of_children.count(), 1, "one deletion");
}

#[test]
fn a_refusal_does_not_outlive_what_was_refused() {
    let mut lab = Lab::with_nodes(&["a"]);
    // The second request is carried out, but only the watch shows that.
    let mut fates = vec![Fate::AnswerLost, Fate::Refused("not now")];
    lab.knobs.fate = Box::new(move |effect| match effect {
        Effect::CreateChild { .. } => fates.pop().unwrap_or(Fate::Answered),
        _ => Fate::Answered,
    });
    lab.set("web", |spec| spec.images = entries(&["a.example/x:1"]));
    lab.settle();
    assert_eq!(shows(&lab, "web"), "AllReady 1/1");
}

#[test]
fn images_are_pulled_in_the_order_of_the_list() {
    let mut lab = Lab::with_nodes(&["a"]);
    lab.policy("one", |spec| spec.images_per_pod = 1);
    lab.set("web", |spec| {
        spec.policy_ref = Some(LocalObjectReference { name: "one".to_owned() });
        spec.images = entries(&["z:1", "m:1", "a:1"]);
    });
    lab.settle();
    let order: Vec<String> = lab.record.pods.iter().map(|pod| pod.order.pulls[0].reference.to_string()).collect();
    assert_eq!(order, ["docker.io/library/z:1", "docker.io/library/m:1", "docker.io/library/a:1"]);
}

#[test]
fn every_field_of_a_set_reaches_its_children() {
    let mut lab = Lab::with_nodes(&["a"]);
    lab.set("web", |spec| spec.images = entries(&["x:1", "y:1"]));
    lab.settle();
    lab.policy("slow", |_| {});
    lab.set("web", |spec| {
        spec.policy_ref = Some(LocalObjectReference { name: "slow".to_owned() });
        spec.image_pull_policy = ImagePullPolicy::IfNotPresent;
        spec.image_pull_secrets = vec![LocalObjectReference { name: "creds".to_owned() }];
        spec.node_selector = [("pool".to_owned(), "build".to_owned())].into();
        spec.tolerations = vec![Toleration { key: Some("build".to_owned()), ..Toleration::default() }];
        spec.priority = 7;
    });
    lab.settle();
    let set = lab.api.sets["web"].spec.clone();
    for child in lab.api.images.values().map(|image| image.spec.clone()) {
        assert_eq!(child.policy_ref, set.policy_ref);
        assert_eq!(child.image_pull_policy, set.image_pull_policy);
        assert_eq!(child.image_pull_secrets, set.image_pull_secrets);
        assert_eq!(child.node_selector, set.node_selector);
        assert_eq!(child.tolerations, set.tolerations);
        assert_eq!(child.priority, 7);
    }
    assert_eq!(shows(&lab, "web"), "Progressing 0/2");
    assert!(message(&lab, "web").contains("NoMatchingNodes"), "{}", message(&lab, "web"));
}

#[test]
fn an_entry_that_is_removed_takes_its_child_along_and_nothing_else() {
    let mut lab = Lab::with_nodes(&["a"]);
    lab.set("web", |spec| spec.images = entries(&["x:1", "y:1"]));
    lab.image("mine", "z:1");
    lab.settle();
    let pods = lab.record.pods.len();
    lab.set("web", |spec| spec.images.truncate(1));
    lab.settle();
    assert_eq!(images(&lab), ["x:1", "z:1"].map(str::to_owned).into());
    assert_eq!(shows(&lab, "web"), "AllReady 1/1");
    assert_eq!(lab.record.pods.len(), pods, "nothing is pulled for it");
}

#[test]
fn a_child_that_somebody_deletes_or_edits_is_restored() {
    let mut lab = Lab::with_nodes(&["a"]);
    lab.set("web", |spec| spec.images = entries(&["x:1", "y:1"]));
    lab.settle();
    let names: Vec<String> = lab.api.images.keys().cloned().collect();
    lab.delete_image(&names[0]);
    lab.edit_image(&names[1], |spec| spec.priority = 99);
    lab.settle();
    assert_eq!(lab.api.images.keys().cloned().collect::<Vec<_>>(), names);
    assert_eq!(lab.api.images[&names[1]].spec.priority, 0);
    assert_eq!(shows(&lab, "web"), "AllReady 2/2");
}

#[test]
fn a_child_under_another_name_is_kept() {
    let mut lab = Lab::with_nodes(&["a"]);
    lab.set("web", |_| {});
    lab.image_of_set("web", "web-x-1-a1b2c3", "docker.io/library/x:1", |spec| spec.priority = 5);
    lab.image_of_set("web", "web-y-1-a1b2c3", "y:1", |_| {});
    let uid = lab.api.images["web-x-1-a1b2c3"].metadata.uid.clone();
    lab.set("web", |spec| spec.images = entries(&["x:1", "z:1"]));
    lab.settle();
    assert_eq!(shows(&lab, "web"), "AllReady 2/2");
    let kept = &lab.api.images["web-x-1-a1b2c3"];
    assert_eq!((&kept.metadata.uid, kept.spec.priority), (&uid, 0));
    assert_eq!(images(&lab), ["x:1", "z:1"].map(str::to_owned).into(), "what the set does not name goes");

    lab.restart(true);
    lab.settle();
    assert_eq!(lab.api.images["web-x-1-a1b2c3"].metadata.uid, uid);
    assert_eq!(lab.api.images.len(), 2);
}

#[test]
fn somebody_elses_cachedimage_is_never_touched() {
    let mut lab = Lab::with_nodes(&["a"]);
    lab.set("web", |spec| spec.images = entries(&["x:1"]));
    lab.settle();
    let name = lab.api.images.keys().next().unwrap().clone();
    lab.delete_set("web");
    lab.settle();
    assert!(lab.api.images.is_empty());

    lab.image(&name, "other:1");
    lab.set("web", |spec| spec.images = entries(&["x:1", "y:1"]));
    lab.settle();
    assert_eq!(lab.api.images[&name].spec.image, "other:1");
    assert_eq!(shows(&lab, "web"), "Degraded 1/1");
    assert!(message(&lab, "web").contains(&format!("CachedImage {name} is there and not the set's")));
    lab.delete_image(&name);
    lab.settle();
    assert_eq!(shows(&lab, "web"), "AllReady 2/2");
}

#[test]
fn invalid_entries_are_named_and_the_others_are_cached() {
    let mut lab = Lab::with_nodes(&["a"]);
    lab.set("web", |spec| spec.images = entries(&["https://x", "y:1", "docker.io/library/y:1"]));
    lab.settle();
    assert_eq!(shows(&lab, "web"), "Degraded 1/1");
    assert!(message(&lab, "web").starts_with("images[0] (https://x): not an image name"), "{}", message(&lab, "web"));
    lab.set("web", |spec| drop(spec.images.remove(0)));
    lab.settle();
    assert_eq!(shows(&lab, "web"), "AllReady 1/1");
    assert!(message(&lab, "web").ends_with("images[1] repeats docker.io/library/y:1"), "{}", message(&lab, "web"));
}

#[test]
fn the_worst_child_is_named() {
    let mut lab = Lab::with_nodes(&["a"]);
    lab.knobs.broken_images.insert("docker.io/library/bad:1".to_owned(), ("ErrImagePull", "not found").into());
    lab.set("web", |spec| spec.images = entries(&["good:1", "bad:1"]));
    lab.until(|lab| shows(lab, "web") == "Degraded 1/2");
    assert!(message(&lab, "web").starts_with("docker.io/library/bad:1: ErrImagePull: a: "), "{}", message(&lab, "web"));
}

#[test]
fn lost_answers_and_restarts_make_no_child_twice() {
    let mut lab = Lab::with_nodes(&["a"]);
    let mut requests = 0;
    lab.knobs.fate = Box::new(move |effect| {
        if !matches!(effect.key(), EffectKey::Child { .. }) {
            return Fate::Answered;
        }
        requests += 1;
        if requests % 2 == 1 { Fate::AnswerLost } else { Fate::RequestLost }
    });
    lab.set("web", |spec| spec.images = entries(&["x:1", "y:1", "z:1"]));
    lab.until(|lab| lab.api.images.len() == 2);
    lab.restart(true);
    lab.knobs.fate = Box::new(|_| Fate::Answered);
    lab.settle();
    assert_eq!(lab.api.images.len(), 3);
    assert_eq!(shows(&lab, "web"), "AllReady 3/3");
    let before = lab.record.requests.len();
    lab.restart(true);
    lab.settle();
    assert_eq!(lab.record.requests.len(), before, "a restart changes nothing");
}

#[test]
fn a_refused_child_is_shown_and_asked_for_again() {
    let mut lab = Lab::with_nodes(&["a"]);
    lab.knobs.fate = Box::new(|effect| match effect.key() {
        EffectKey::Child { .. } => Fate::Refused("exceeded quota"),
        _ => Fate::Answered,
    });
    lab.set("web", |spec| spec.images = entries(&["x:1"]));
    lab.until(|lab| shows(lab, "web") == "Degraded 0/0");
    assert!(message(&lab, "web").ends_with("was refused: exceeded quota"), "{}", message(&lab, "web"));
    lab.knobs.fate = Box::new(|_| Fate::Answered);
    lab.settle();
    assert_eq!(shows(&lab, "web"), "AllReady 1/1");
}

#[test]
fn a_set_is_not_ready_by_what_its_children_were_before_an_edit() {
    let mut lab = Lab::with_nodes(&["a", "b"]);
    lab.edit_node("a", |node| drop(node.labels.insert("pool".into(), "x".into())));
    lab.edit_node("b", |node| drop(node.labels.insert("pool".into(), "y".into())));
    lab.set("web", |spec| {
        spec.images = entries(&["x:1"]);
        spec.node_selector = [("pool".to_owned(), "x".to_owned())].into();
    });
    lab.settle();
    assert_eq!(shows(&lab, "web"), "AllReady 1/1");
    lab.set("web", |spec| spec.node_selector = [("pool".to_owned(), "y".to_owned())].into());
    let mut claims = 0;
    lab.until(|lab| {
        let status = lab.api.sets["web"].status.clone().unwrap_or_default();
        let is_new = status.observed_generation == Some(2);
        claims += usize::from(is_new && shows(lab, "web").starts_with("AllReady") && lab.pods_of("x:1").len() < 2);
        is_new && shows(lab, "web") == "AllReady 1/1"
    });
    assert_eq!(claims, 0);
    assert_eq!(lab.pods_of("x:1").len(), 2, "it was pulled where it is wanted now");
}

#[test]
fn a_set_costs_one_creation_and_one_status_for_each_image() {
    let mut lab = Lab::with_nodes(&["a", "b"]);
    lab.policy("fast", |spec| {
        spec.max_concurrent_nodes = 2;
        spec.min_delay_between_pulls = duration("0s");
        spec.images_per_pod = 20;
    });
    lab.knobs.pull = secs(0.2);
    lab.set("web", |spec| {
        spec.policy_ref = Some(LocalObjectReference { name: "fast".to_owned() });
        spec.images = (0..20).map(|image| entries(&[&format!("x{image}:1")]).remove(0)).collect();
    });
    lab.settle();
    let count = |is: fn(&EffectKey) -> bool| lab.record.requests.iter().filter(|(_, key)| is(key)).count();
    assert_eq!(count(|key| matches!(key, EffectKey::Child { .. })), 20);
    assert_eq!(count(|key| matches!(key, EffectKey::Image(_))), 20);
    assert_eq!(count(|key| matches!(key, EffectKey::CreatePod(_))), 2);
    assert_eq!(count(|key| matches!(key, EffectKey::Tell(..))), 1, "the set tells that all is ready");
}

#[test]
fn pulls_of_a_new_set_wait_until_all_its_images_are_known() {
    let mut lab = Lab::with_nodes(&["a"]);
    // Answers to the creations come one after another.
    lab.knobs.jitter = Some(Rng::new(7));
    lab.knobs.request = secs(0.5);
    lab.set("web", |spec| spec.images = (0..8).map(|image| entries(&[&format!("x{image}:1")]).remove(0)).collect());
    lab.settle();
    assert_eq!(lab.record.pods.len(), 1, "{:?}", lab.starts());
}

#[test]
fn what_was_refused_is_forgotten_when_it_is_not_wanted_any_more() {
    let mut lab = Lab::with_nodes(&["a"]);
    lab.set("web", |spec| spec.images = entries(&["x:1", "y:1"]));
    lab.settle();
    lab.knobs.fate = Box::new(|effect| match effect {
        Effect::UpdateChild { .. } | Effect::CreateChild { .. } => Fate::Refused("a policy says no"),
        _ => Fate::Answered,
    });
    lab.set("web", |spec| spec.priority = 5);
    lab.until(|lab| shows(lab, "web") == "Degraded 2/2");
    lab.set("web", |spec| spec.priority = 0);
    lab.settle();
    assert_eq!(shows(&lab, "web"), "AllReady 2/2");
    lab.set("web", |spec| spec.images.extend(entries(&["refused:1"])));
    lab.until(|lab| shows(lab, "web") == "Degraded 2/2");
    lab.set("web", |spec| spec.images.truncate(1));
    lab.settle();
    assert_eq!(shows(&lab, "web"), "AllReady 1/1");
}

#[test]
fn a_set_that_is_made_anew_waits_for_the_children_of_the_old_one_to_go() {
    let mut lab = Lab::with_nodes(&["a"]);
    lab.set("web", |spec| spec.images = entries(&["x:1"]));
    lab.settle();
    lab.delete_set("web");
    lab.set("web", |spec| spec.images = entries(&["x:1"]));
    let mut reasons = BTreeSet::new();
    lab.until(|lab| {
        reasons.insert(shows(lab, "web").split(' ').next().unwrap().to_owned());
        shows(lab, "web") == "AllReady 1/1"
    });
    assert!(!reasons.contains("Degraded"), "{reasons:?}");
}
