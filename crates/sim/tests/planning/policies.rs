//! Edits of PullPolicies.

use crate::common::duration;
use crate::nodes;
use drop_api::condition;
use drop_sim::{secs, under};

#[test]
fn a_paused_policy_starts_nothing_and_lets_run_what_runs() {
    let mut lab = nodes(2);
    lab.policy("p", |_| {});
    lab.image_with("alpine", "alpine", under("p"));
    lab.run(secs(3.0));
    lab.policy("p", |policy| policy.paused = true);
    lab.run(secs(600.0));
    assert_eq!(lab.starts(), ["0s a: alpine"]);
    assert_eq!(lab.shows("alpine"), "Paused 1/2");
    assert_eq!(lab.message("alpine"), "PullPolicy p is paused");
    let conditions = lab.api.policies["p"].status.clone().unwrap().conditions;
    assert_eq!(condition::ready(&conditions).unwrap().reason, "Paused");
    lab.policy("p", |policy| policy.paused = false);
    lab.settle();
    assert_eq!(lab.starts(), ["0s a: alpine", "603s b: alpine"]);
}

#[test]
fn without_its_policy_an_image_waits_for_it() {
    let mut lab = nodes(1);
    lab.image_with("alpine", "alpine", under("late"));
    lab.run(secs(60.0));
    assert_eq!(lab.shows("alpine"), "PullPolicyNotFound 0/1");
    assert!(lab.message("alpine").contains("PullPolicy late does not exist"), "{}", lab.message("alpine"));
    assert!(lab.starts().is_empty());
    lab.policy("late", |_| {});
    lab.settle();
    assert_eq!(lab.shows("alpine"), "Cached 1/1");
}

#[test]
fn an_edit_of_the_policy_takes_effect_at_once() {
    let mut lab = nodes(4);
    lab.knobs.pull = secs(100.0);
    lab.policy("p", |_| {});
    lab.image_with("alpine", "alpine", under("p"));
    lab.run(secs(20.0));
    assert_eq!(lab.starts(), ["0s a: alpine"]);
    lab.policy("p", |policy| policy.max_concurrent_nodes = 3);
    lab.run(secs(15.0));
    assert_eq!(lab.starts(), ["0s a: alpine", "20s b: alpine", "30s c: alpine"]);
    lab.policy("p", |policy| policy.max_concurrent_nodes = 1);
    lab.settle();
    assert_eq!(lab.starts()[3..], ["131s d: alpine"], "when all the others are done");
}

#[test]
fn a_lowered_limit_holds_for_turns_that_go_on() {
    let mut lab = nodes(3);
    lab.policy("p", |policy| {
        policy.max_concurrent_nodes = 3;
        policy.min_delay_between_pulls = duration("0s");
    });
    for n in 0..4 {
        lab.image_with(&format!("x{n}"), &format!("x{n}"), under("p"));
    }
    lab.run(secs(2.0));
    assert_eq!(lab.starts().len(), 3);
    lab.policy("p", |policy| policy.max_concurrent_nodes = 1);
    // The lab checks that no two Pods exist at the same time from now on.
    lab.settle();
    assert_eq!(lab.starts().len(), 12);
}

#[test]
fn a_policy_that_is_replaced_still_keeps_its_delay() {
    let mut lab = nodes(2);
    lab.knobs.pull = secs(100.0);
    lab.policy("p", |policy| policy.max_concurrent_nodes = 2);
    lab.image_with("alpine", "alpine", under("p"));
    lab.run(secs(3.0));
    lab.delete_policy("p");
    lab.run(secs(1.0));
    lab.policy("p", |policy| policy.max_concurrent_nodes = 2);
    lab.settle();
    assert_eq!(lab.starts(), ["0s a: alpine", "10s b: alpine"]);
}

#[test]
fn policies_do_not_share_their_limits() {
    let mut lab = nodes(2);
    lab.policy("p", |_| {});
    lab.policy("q", |_| {});
    lab.image_with("one", "one", under("p"));
    lab.image_with("two", "two", under("q"));
    lab.settle();
    assert_eq!(lab.starts(), ["0s a: one", "0s b: two", "10s a: two", "10s b: one"]);
}
