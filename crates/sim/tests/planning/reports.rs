//! The contents of NodeCaches and Events.

use crate::{nodes, told};
use drop_sim::secs;

#[test]
fn a_long_pull_shows_in_the_node_cache_and_a_short_one_costs_no_write() {
    let mut lab = nodes(2);
    lab.image("alpine", "alpine");
    lab.settle();
    assert_eq!(lab.record.cache_writes.len(), 2, "{:?}", lab.record.cache_writes);

    let mut lab = nodes(2);
    lab.knobs.pull = secs(60.0);
    lab.image("big", "big");
    lab.run(secs(30.0));
    assert_eq!(lab.api.caches["a"].status.as_ref().unwrap().images_pulling, 1);
    assert!(!lab.api.caches.contains_key("b"), "nothing is known of b");
    lab.settle();
    for node in ["a", "b"] {
        assert_eq!(lab.api.caches[node].status.as_ref().unwrap().images_pulling, 0);
    }
    assert_eq!(lab.record.cache_writes.len(), 4, "{:?}", lab.record.cache_writes);
}

#[test]
fn people_are_told_of_changes_once_and_not_node_by_node() {
    let mut lab = nodes(3);
    lab.knobs
        .broken_images
        .insert("docker.io/library/bad:latest".to_owned(), ("ErrImagePull", "bad: not found").into());
    lab.image("bad", "bad");
    lab.image("good", "good");
    lab.run(secs(600.0));
    assert_eq!(told(&lab, "good"), ["Cached"]);
    assert_eq!(told(&lab, "bad"), ["ErrImagePull"]);
    let (_, notice) = lab.record.told.iter().find(|(_, notice)| notice.is_warning).unwrap();
    assert_eq!(Some(&*notice.uid), lab.api.images["bad"].metadata.uid.as_deref());
    assert_eq!(notice.message, "a: image not found");
    lab.restart(true);
    lab.run(secs(600.0));
    assert_eq!(told(&lab, "bad"), ["ErrImagePull"], "another leader tells nothing again");

    lab.knobs.broken_images.clear();
    lab.settle();
    assert_eq!(told(&lab, "bad"), ["ErrImagePull", "Recovered"]);
    assert_eq!(lab.record.told.last().unwrap().1.message, "cached on 3/3 nodes");
    lab.restart(true);
    lab.settle();
    assert_eq!(lab.record.told.len(), 3, "{:#?}", lab.record.told);
}
