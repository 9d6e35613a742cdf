//! An API server that denies, loses or delays requests, and Pods whose existence is uncertain.

use crate::common::duration;
use crate::{NO_SUCH_HOST, NOT_FOUND, creates, deletes, fate, nodes, publishes, records};
use drop_core::effect::EffectKey;
use drop_core::event::{Kind, Report};
use drop_core::{Effect, Event, Name};
use drop_sim::{Fate, secs, under};

#[test]
fn a_pod_in_doubt_is_not_asked_for_again_once_its_policy_is_paused() {
    for fate_of_creations in [Fate::AnswerLost, Fate::RequestLost] {
        let mut lab = nodes(1);
        lab.title = format!("{fate_of_creations:?}");
        lab.policy("p", |_| {});
        lab.knobs.watch = secs(1.0);
        fate(&mut lab, fate_of_creations.clone(), 1, creates);
        lab.image_with("alpine", "alpine", under("p"));
        lab.run(secs(5.0));
        lab.policy("p", |policy| policy.paused = true);
        lab.run(secs(60.0));
        let expected = if fate_of_creations == Fate::AnswerLost { "Cached 1/1" } else { "Paused 0/1" };
        assert_eq!(lab.shows("alpine"), expected, "what runs goes on, and nothing new is started");
        lab.policy("p", |policy| policy.paused = false);
        lab.settle();
        assert_eq!((lab.record.pods.len(), lab.shows("alpine").as_str()), (1, "Cached 1/1"));
    }
}

#[test]
fn a_pod_that_is_refused_is_tried_again_later_and_the_status_says_so() {
    let mut lab = nodes(1);
    fate(&mut lab, Fate::Refused("exceeded quota"), 4, creates);
    lab.policy("p", |policy| policy.min_delay_between_pulls = duration("0s"));
    lab.image_with("alpine", "alpine", under("p"));
    lab.run(secs(5.0));
    assert_eq!(lab.shows("alpine"), "Waiting 0/1");
    assert_eq!(lab.message("alpine"), "0/1 nodes cached; a: the pull Pod was refused: exceeded quota");
    lab.settle();
    let tries: Vec<_> = lab.record.requests.iter().filter(|(_, key)| matches!(key, EffectKey::CreatePod(_))).collect();
    let waits: Vec<_> = tries.windows(2).map(|pair| pair[1].0.duration_since(pair[0].0).as_secs_f64()).collect();
    assert_eq!(waits.len(), 4);
    for (wait, nominal) in waits.iter().zip([1.0, 2.0, 4.0, 8.0]) {
        assert!((nominal * 0.9..nominal * 1.1 + 0.1).contains(wait), "{waits:?}");
    }
    assert_eq!(lab.shows("alpine"), "Cached 1/1");
}

#[test]
fn a_refusal_is_the_reason_until_a_pod_is_accepted() {
    let mut lab = nodes(3);
    fate(&mut lab, Fate::Refused("exceeded quota"), u32::MAX, creates);
    lab.policy("p", |policy| policy.min_delay_between_pulls = duration("5m"));
    lab.image_with("alpine", "alpine", under("p"));
    lab.run(secs(5.0));
    for _ in 0..900 {
        lab.run(secs(1.0));
        let message = lab.message("alpine");
        let is_asked_for = lab.explained().iter().any(|line| line.ends_with("is pulling"));
        assert!(is_asked_for || message.ends_with("the pull Pod was refused: exceeded quota"), "{message}");
    }
}

#[test]
fn a_registry_that_does_not_answer_is_the_reason_until_it_does() {
    let mut lab = nodes(2);
    lab.policy("p", |policy| policy.min_delay_between_pulls = duration("7m"));
    for n in 0..3 {
        let image = format!("registry.bad/x{n}:1");
        lab.knobs.broken_images.insert(image.clone(), NO_SUCH_HOST.into());
        lab.image_with(&format!("bad{n}"), &image, under("p"));
    }
    // Two nodes are needed to show that the registry is at fault.
    lab.until(|lab| lab.message("bad0").contains("registry.bad") && lab.api.caches.len() == 2);
    let answers =
        |lab: &mut crate::common::Lab| lab.explained().iter().all(|line| line.contains("registry.bad does not answer"));
    let seconds = (0..3600).take_while(|_| {
        lab.run(secs(1.0));
        !answers(&mut lab)
    });
    assert!(seconds.count() < 3600);
    for _ in 0..1800 {
        lab.run(secs(1.0));
        let explained = lab.explained();
        let waits = |line: &&String| !line.ends_with("is pulling");
        let mut waiting = explained.iter().filter(waits);
        // A probe that is due waits for the delay.
        let answers = |line: &String| {
            line.contains("registry.bad does not answer") || line.ends_with("the delay between nodes has not passed")
        };
        assert!(waiting.all(answers), "{explained:?}");
    }
}

#[test]
fn a_refused_pod_does_not_keep_other_nodes_from_starting() {
    let mut lab = nodes(2);
    fate(
        &mut lab,
        Fate::Refused("no"),
        u32::MAX,
        |effect| matches!(effect, Effect::CreatePod(order) if &*order.node == "a"),
    );
    lab.image("alpine", "alpine");
    lab.run(secs(30.0));
    assert_eq!(lab.starts(), ["10s b: alpine"], "a refusal counts as a start, and then another node is next");
}

#[test]
fn a_pod_is_deleted_only_when_its_outcome_is_recorded() {
    for fate_of_records in [Fate::Refused("no"), Fate::AnswerLost, Fate::RequestLost] {
        let mut lab = nodes(2);
        lab.title = format!("{fate_of_records:?}");
        fate(&mut lab, fate_of_records, 3, records);
        lab.image("alpine", "alpine");
        lab.until(|lab| lab.record.pods.first().is_some_and(|pod| pod.deleted_at.is_some()));
        let images = lab.api.caches["a"].status.clone().unwrap().images;
        assert!(images[0].pulled_at.is_some(), "{}", lab.title);
        lab.settle();
        assert_eq!((lab.record.pods.len(), lab.shows("alpine").as_str()), (2, "Cached 2/2"), "{}", lab.title);
        assert_eq!(images[0].attempts, 1, "{}: it is recorded once", lab.title);
    }
}

#[test]
fn a_status_that_could_not_be_written_is_written_later() {
    for fate_of_statuses in [Fate::Refused("no"), Fate::AnswerLost, Fate::RequestLost] {
        let mut lab = nodes(1);
        lab.title = format!("{fate_of_statuses:?}");
        fate(&mut lab, fate_of_statuses, 3, publishes);
        lab.image("alpine", "alpine");
        lab.settle();
        assert_eq!(lab.shows("alpine"), "Cached 1/1", "{}", lab.title);
    }
}

#[test]
fn what_a_slow_watch_shows_does_not_undo_a_later_write() {
    let mut lab = nodes(1);
    lab.knobs.pull = secs(0.5);
    lab.lag(Kind::Image, secs(4.0), true);
    lab.image("alpine", "alpine");
    lab.settle();
    assert_eq!(lab.reasons("alpine"), ["Pulling", "Cached"]);
    let writes = lab.record.requests.iter().filter(|(_, key)| matches!(key, EffectKey::Image(_)));
    assert_eq!(writes.count(), 2);
}

#[test]
fn a_pod_whose_creation_is_in_doubt_is_created_once() {
    for (fate_of_creations, watch) in
        [(Fate::AnswerLost, 0.001), (Fate::AnswerLost, 60.0), (Fate::RequestLost, 0.001), (Fate::RequestLost, 60.0)]
    {
        let mut lab = nodes(2);
        lab.title = format!("{fate_of_creations:?}, watches show things after {watch} s");
        lab.knobs.watch = secs(watch);
        lab.run(secs(100.0));
        fate(&mut lab, fate_of_creations, 3, creates);
        lab.image("alpine", "alpine");
        lab.settle();
        assert_eq!((lab.record.pods.len(), lab.shows("alpine").as_str()), (2, "Cached 2/2"), "{}", lab.title);
    }
}

#[test]
fn a_deletion_in_doubt_is_asked_for_again() {
    for fate_of_deletions in [Fate::Refused("no"), Fate::AnswerLost, Fate::RequestLost] {
        let mut lab = nodes(2);
        lab.title = format!("{fate_of_deletions:?}");
        fate(&mut lab, fate_of_deletions, 2, deletes);
        lab.image("alpine", "alpine");
        lab.settle();
        assert_eq!((lab.record.pods.len(), lab.shows("alpine").as_str()), (2, "Cached 2/2"), "{}", lab.title);
    }
}

#[test]
fn an_image_deleted_while_its_pods_creation_is_in_doubt_leaves_no_pod() {
    for fate_of_creations in [Fate::AnswerLost, Fate::RequestLost] {
        let mut lab = nodes(1);
        lab.title = format!("{fate_of_creations:?}");
        lab.knobs.watch = secs(30.0);
        lab.run(secs(100.0));
        fate(&mut lab, fate_of_creations, 1, creates);
        lab.image("alpine", "alpine");
        lab.run(secs(35.0));
        lab.delete_image("alpine");
        lab.settle();
        assert!(lab.record.pods.iter().all(|pod| pod.deleted_at.is_some()));
    }
}

#[test]
fn a_pod_that_someone_deletes_is_made_again() {
    let mut lab = nodes(1);
    lab.knobs.pull = secs(30.0);
    lab.image("alpine", "alpine");
    lab.run(secs(10.0));
    let name = lab.live("a").unwrap().pod.name.clone();
    lab.delete_pod(&name);
    lab.settle();
    assert_eq!((lab.record.pods.len(), lab.shows("alpine").as_str()), (2, "Cached 1/1"));
}

#[test]
fn watches_and_reports_may_come_in_any_order() {
    for (reply, watch) in [(0.001, 3.0), (3.0, 0.001), (8.0, 8.0), (0.001, 0.001)] {
        let mut lab = nodes(3);
        lab.title = format!("answers after {reply} s, watches after {watch} s");
        (lab.knobs.reply, lab.knobs.watch) = (secs(reply), secs(watch));
        lab.run(secs(20.0));
        lab.image("alpine", "alpine");
        lab.image("busybox", "busybox");
        lab.settle();
        assert_eq!(lab.record.pods.len(), 6, "{}", lab.title);
        assert_eq!((lab.shows("alpine"), lab.shows("busybox")), ("Cached 3/3".to_owned(), "Cached 3/3".to_owned()));
        let writes: Vec<_> = lab.record.cache_writes.iter().filter(|(_, node)| node == "a").collect();
        // With such delays, a Pod pulls for long enough to be shown as pulling.
        let limit = if watch > 5.0 { 5 } else { 3 };
        assert!(writes.len() <= limit, "{}: {writes:?}", lab.title);
    }
}

#[test]
fn a_pod_in_doubt_counts_though_its_creation_is_then_refused() {
    let mut lab = nodes(3);
    lab.policy("p", |policy| policy.min_delay_between_pulls = duration("0s"));
    lab.knobs.pull = secs(60.0);
    lab.run(secs(1.0));
    lab.knobs.watch = secs(40.0);
    let mut fates = vec![Fate::RefusedAnyway("exceeded quota"), Fate::AnswerLost];
    lab.knobs.fate = Box::new(move |effect| match creates(effect) {
        true => fates.pop().unwrap_or(Fate::Answered),
        false => Fate::Answered,
    });
    lab.image_with("alpine", "alpine", under("p"));
    // The lab checks that no second node pulls beside the first.
    lab.settle();
    assert_eq!((lab.record.pods.len(), lab.shows("alpine").as_str()), (3, "Cached 3/3"), "{:?}", lab.starts());
}

#[test]
fn a_pod_in_doubt_that_no_list_shows_frees_its_node() {
    let mut lab = nodes(1);
    fate(&mut lab, Fate::AnswerLost, 1, creates);
    lab.image("alpine", "alpine");
    lab.run(secs(0.055));
    lab.knobs.watch = secs(1000.0);
    lab.run(secs(3.0));
    assert!(lab.live("a").is_some(), "the Pod is there, but nobody told the operator");
    lab.knobs.watch = secs(0.05);
    lab.delete_image("alpine");
    lab.until(|lab| lab.record.pods[0].gone_at.is_some());
    lab.run(secs(1.0));
    lab.relist();
    lab.image("busybox", "busybox");
    lab.run(secs(120.0));
    assert_eq!(lab.shows("busybox"), "Cached 1/1", "{:?}", lab.explained());
    lab.settle();
}

#[test]
fn two_pods_on_one_node_are_each_recorded_once() {
    for together in [true, false] {
        let mut lab = nodes(1);
        lab.title = format!("both end together: {together}");
        lab.image("alpine", "alpine");
        lab.image("busybox", "busybox");
        lab.image("zebra", "zebra");
        let stray = if together { "busybox" } else { "zebra" };
        lab.knobs.pulls.insert("docker.io/library/zebra:latest".to_owned(), secs(7.0));
        lab.run(secs(0.1));
        lab.stray_pod("stray", "a", stray);
        lab.settle();
        let images = lab.api.caches["a"].status.clone().unwrap().images;
        let attempts: Vec<i32> = images.iter().map(|image| image.attempts).collect();
        assert_eq!(attempts, [1, 1, 1], "{}", lab.title);
        assert_eq!(lab.record.pods.len(), 2, "{}: {:?}", lab.title, lab.starts());
        assert!(lab.record.cache_writes.len() <= 4, "{}: {:?}", lab.title, lab.record.cache_writes);
    }
}

#[test]
fn two_pods_on_one_node_that_fail_are_each_recorded_once() {
    let mut lab = nodes(1);
    for image in ["nope", "none"] {
        lab.knobs.broken_images.insert(format!("docker.io/library/{image}:1"), NOT_FOUND.into());
        lab.image(image, &format!("{image}:1"));
    }
    lab.run(secs(0.1));
    lab.stray_pod("stray", "a", "nope:1");
    lab.run(secs(15.0));
    assert!(lab.api.pods.is_empty(), "{:?}", lab.api.pods);
    let images = lab.api.caches["a"].status.clone().unwrap().images;
    let attempts: Vec<_> = images.iter().map(|image| (image.image.as_str(), image.attempts)).collect();
    assert_eq!(attempts, [("docker.io/library/none:1", 1), ("docker.io/library/nope:1", 1)]);
}

#[test]
fn a_late_answer_about_an_older_pod_does_not_remove_the_newer_one() {
    let mut lab = nodes(1);
    lab.knobs.pull = secs(60.0);
    lab.image("alpine", "alpine");
    lab.run(secs(5.0));
    let pod = lab.live("a").unwrap().pod.clone();
    let creations_after = |uid: Option<Name>, key: EffectKey| {
        let mut world = drop_core::World::new(drop_core::Settings::default());
        lab.list().into_iter().for_each(|event| world.apply(event, lab.now));
        world.apply(Event::Report(key, Report::PodGone { uid }), lab.now);
        let later = lab.now + secs(60.0);
        world.settle(later);
        drop_core::plan(&world, later).effects.iter().filter(|effect| creates(effect)).count()
    };
    let deletion = || EffectKey::DeletePod(pod.name.clone());
    assert_eq!(creations_after(Some("older".into()), deletion()), 0);
    assert_eq!(creations_after(pod.uid.clone(), deletion()), 1);
    assert_eq!(creations_after(None, EffectKey::CheckPod(pod.name.clone())), 1);
}

#[test]
fn an_image_whose_pods_are_refused_keeps_no_other_off_its_nodes() {
    let mut lab = nodes(2);
    lab.policy("p", |policy| policy.max_concurrent_nodes = 2);
    let invalid = "Pod is invalid: spec.tolerations";
    fate(
        &mut lab,
        Fate::Refused(invalid),
        u32::MAX,
        |effect| matches!(effect, Effect::CreatePod(order) if &*order.pulls[0].cached_image == "bad"),
    );
    lab.image_with("bad", "bad", under("p"));
    lab.image_with("good", "good", under("p"));
    lab.run(secs(300.0));
    assert_eq!(lab.shows("good"), "Cached 2/2", "{:?}", lab.explained());
    assert_eq!(lab.shows("bad"), "Waiting 0/2");
    for _ in 0..100 {
        lab.run(secs(3.0));
        assert!(
            lab.message("bad").ends_with(&format!("the pull Pod was refused: {invalid}")),
            "{}",
            lab.message("bad")
        );
    }
}

#[test]
fn a_refusal_counts_as_a_start() {
    let mut lab = nodes(3);
    lab.policy("p", |policy| policy.max_concurrent_nodes = 3);
    fate(&mut lab, Fate::Refused("exceeded quota"), u32::MAX, creates);
    lab.image_with("alpine", "alpine", under("p"));
    lab.run(secs(120.0));
    let requests = lab.record.requests.iter().filter(|(_, key)| matches!(key, EffectKey::CreatePod(_)));
    let requests: Vec<_> = requests.collect();
    assert!(requests.len() > 5, "{requests:?}");
    for (index, (at, key)) in requests.iter().enumerate() {
        let elsewhere = requests[..index].iter().rfind(|(_, other)| other != key);
        assert!(elsewhere.is_none_or(|(before, _)| at.duration_since(*before) >= secs(10.0)), "{requests:#?}");
    }
}
