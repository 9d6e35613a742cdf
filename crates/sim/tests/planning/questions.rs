//! Questions whether a tag has moved: which nodes ask, how often, and the cost of a failing question.

use std::collections::BTreeMap;

use crate::common::{Lab, duration};
use crate::nodes;
use drop_sim::{Kubelet, Outcome, Trouble, secs, under};

const NEW: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// Makes a lab with this many nodes that have an image whose tag is looked up every quarter of an hour.
fn followed(count: usize) -> Lab {
    let mut lab = Lab::new();
    (0..count).for_each(|number| lab.node(&format!("n{number:02}")));
    lab.policy("p", |policy| {
        policy.repull_interval = Some(duration("15m"));
        policy.max_concurrent_nodes = 5;
        policy.min_delay_between_pulls = duration("0s");
    });
    lab.image_with("app", "r.example/app:1", under("p"));
    lab.run(secs(600.0));
    assert_eq!(lab.shows("app"), format!("Cached {count}/{count}"));
    lab
}

#[test]
fn a_question_that_fails_backs_off_for_the_image_and_not_node_by_node() {
    let late = Outcome::Takes(duration("2h"));
    for outcome in [Outcome::Eof, Outcome::Status(500), Outcome::NoDns, Outcome::Forbidden, Outcome::Status(418), late]
    {
        let mut lab = followed(20);
        lab.title = format!("{outcome:?}");
        lab.knobs.troubles.push(Trouble::new("r.example", outcome));
        let before = lab.record.pods.len();
        lab.run(secs(7200.0));
        let asked = lab.record.pods.len() - before;
        // After 30 s, 1, 2, 4 and then 5 minutes: 27, less a tenth of each wait.
        assert!((1..=35).contains(&asked), "{}: {asked} questions in two hours", lab.title);
    }
}

#[test]
fn a_tag_that_moved_during_an_outage_is_followed_afterwards() {
    let mut lab = followed(5);
    lab.knobs.troubles.push(Trouble::new("r.example", Outcome::Eof));
    lab.run(secs(7200.0));
    lab.push("r.example/app:1", NEW);
    lab.knobs.troubles.clear();
    lab.run(secs(3600.0));
    let caches = lab.api.caches.values().filter_map(|cache| cache.status.as_ref());
    let digests: Vec<_> = caches.map(|status| status.images[0].digest.clone().unwrap_or_default()).collect();
    assert_eq!(digests, [NEW; 5], "{:?}", lab.starts());
}

#[test]
fn the_image_that_was_not_asked_about_for_longest_comes_first() {
    let mut lab = nodes(2);
    lab.policy("p", |policy| policy.repull_interval = Some(duration("15m")));
    lab.knobs.pull = secs(12.0);
    for number in 0..100 {
        lab.image_with(&format!("i{number:02}"), &format!("r.example/i{number:02}:1"), under("p"));
    }
    lab.run(secs(3.0 * 3600.0));
    assert_eq!(lab.shows("i99"), "Cached 2/2");
    let since = lab.now;
    lab.run(secs(4.0 * 3600.0));
    let mut asked: BTreeMap<&str, usize> = lab.api.images.keys().map(|name| (name.as_str(), 0)).collect();
    for pull in lab.record.pods.iter().filter(|pod| pod.at > since).flat_map(|pod| &pod.order.pulls) {
        *asked.entry(&pull.cached_image).or_default() += 1;
    }
    // A question takes some fourteen seconds: a thousand in four hours, ten for each image.
    let (least, most) = (asked.values().min().unwrap(), asked.values().max().unwrap());
    assert!(*least >= 5 && *most <= 2 * least, "{asked:?}");
}

#[test]
fn a_question_whose_pod_tells_nothing_of_the_image_backs_off_for_the_image_too() {
    let rejects = Kubelet::Rejects(("OutOfpods", "too many Pods").into());
    for kubelet in [rejects, Kubelet::NoSandbox, Kubelet::Silent] {
        let mut lab = followed(20);
        lab.title = format!("{kubelet:?}");
        for number in 0..20 {
            lab.knobs.kubelets.insert(format!("n{number:02}"), kubelet.clone());
        }
        let before = lab.record.pods.len();
        lab.run(secs(7200.0));
        let asked = lab.record.pods.len() - before;
        assert!((1..=35).contains(&asked), "{}: {asked} questions in two hours", lab.title);
        assert_eq!(lab.shows("app"), "Cached 20/20");
        assert!(lab.message("app").contains("could not ask for a newer one"), "{}: {}", lab.title, lab.message("app"));
        lab.repair();
        lab.push("r.example/app:1", NEW);
        lab.run(secs(3600.0));
        assert_eq!((lab.shows("app"), lab.message("app").contains("could not")), ("Cached 20/20".to_owned(), false));
        let caches = lab.api.caches.values().filter_map(|cache| cache.status.as_ref());
        let digests: Vec<_> = caches.map(|status| status.images[0].digest.clone().unwrap_or_default()).collect();
        assert_eq!(digests, [NEW; 20], "{}: {:?}", lab.title, lab.starts());
    }
}
