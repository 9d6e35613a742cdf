//! DiscoveryPolicies on virtual time, and the sets that use them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "these are tests")]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod common;

use common::Lab;
use drop_api::DiscoveryPolicySpec;
use drop_api::cached_image::LocalObjectReference;
use drop_api::cached_image_set::ImageEntry;
use drop_api::condition;
use drop_api::discovery_policy::{BackendType, DiscoveryPolicyStatus, QueryStatus, RegistryQuery, Source};
use drop_core::discovery::{Answer, End, Repository, Sample, Series, SourceFailure, SourceReason};
use drop_core::effect::EffectKey;
use drop_core::event::Kind;
use drop_sim::secs;
use jiff::SignedDuration;
use serde_json::json;

const ONE: &str = "http://one.example";
const TWO: &str = "http://two.example";

/// Makes a source at this address, with a Secret of the name `creds`.
fn source(endpoint: &str) -> Source {
    common::source(endpoint, Some("creds"))
}

/// Makes the source at `endpoint` name these images, with these scores.
fn answer(lab: &mut Lab, endpoint: &str, images: &[(&str, f64)]) {
    let at = lab.now;
    let series = images
        .iter()
        .map(|(image, value)| Series { image: (*image).to_owned(), samples: vec![Sample { at, value: *value }] });
    lab.knobs.sources.insert(endpoint.to_owned(), Ok(Answer::Series(series.collect())));
}

fn fail(lab: &mut Lab, endpoint: &str, reason: SourceReason) {
    let failure = SourceFailure::new(reason, "it went wrong");
    lab.knobs.sources.insert(endpoint.to_owned(), Err(failure));
}

/// Makes a lab with a policy `ci` over these sources, and a set `web` of its images.
fn lab_with(sources: &[&str]) -> Lab {
    let mut lab = Lab::with_nodes(&["a"]);
    lab.secret("creds");
    lab.discovery("ci", |spec| spec.sources = sources.iter().map(|endpoint| source(endpoint)).collect());
    lab.set("web", |spec| spec.discovery_policy_ref = Some(LocalObjectReference { name: "ci".to_owned() }));
    lab
}

fn status(lab: &Lab) -> DiscoveryPolicyStatus {
    lab.api.discoveries["ci"].status.clone().unwrap_or_default()
}

/// Returns the reason of the policy's Ready condition, and its list.
fn found(lab: &Lab) -> (String, Vec<String>) {
    let status = status(lab);
    let ready = condition::ready(&status.conditions).map(|ready| ready.reason.clone()).unwrap_or_default();
    let images = status.discovered_images.iter().map(|image| format!("{} {}", image.image, image.final_score));
    (ready, images.collect())
}

fn reason_of_set(lab: &Lab) -> String {
    let status = lab.api.sets["web"].status.clone().unwrap_or_default();
    let ready = condition::ready(&status.conditions).map(|ready| ready.reason.clone()).unwrap_or_default();
    format!("{ready} {}", status.ready.unwrap_or_default())
}

/// Returns how often sources were asked.
fn runs(lab: &Lab) -> usize {
    lab.record.requests.iter().filter(|(_, key)| matches!(key, EffectKey::Discovery(_))).count()
}

fn minutes(minutes: i64) -> SignedDuration {
    SignedDuration::from_mins(minutes)
}

#[test]
fn what_is_discovered_is_cached_in_the_order_of_its_rank() {
    let mut lab = Lab::with_nodes(&["a"]);
    lab.secret("creds");
    answer(&mut lab, ONE, &[("low.example/x:1", 1.0), ("high.example/y:2", 9.5)]);
    lab.discovery("ci", |spec| spec.sources = vec![source(ONE)]);
    lab.policy("one", |spec| spec.images_per_pod = 1);
    lab.set("web", |spec| {
        spec.discovery_policy_ref = Some(LocalObjectReference { name: "ci".to_owned() });
        spec.policy_ref = Some(LocalObjectReference { name: "one".to_owned() });
        spec.images = vec![ImageEntry { image: "static:1".to_owned(), ..ImageEntry::default() }];
    });
    lab.run(minutes(5));
    assert_eq!(
        found(&lab),
        ("Synced".to_owned(), vec!["high.example/y:2 9.5".to_owned(), "low.example/x:1 1".to_owned()])
    );
    assert_eq!(reason_of_set(&lab), "AllReady 3/3");
    let order: Vec<_> = lab.record.pods.iter().map(|pod| pod.order.pulls[0].reference.as_str().to_owned()).collect();
    assert_eq!(order, ["docker.io/library/static:1", "high.example/y:2", "low.example/x:1"]);
    let ranks: Vec<i32> = status(&lab).discovered_images.iter().map(|image| image.rank).collect();
    assert_eq!(ranks, [1, 2]);
}

#[test]
fn sources_are_asked_once_per_interval_and_not_for_a_restart() {
    let mut lab = lab_with(&[ONE]);
    answer(&mut lab, ONE, &[("x:1", 1.0)]);
    lab.run(minutes(5));
    assert_eq!(runs(&lab), 1);
    let before = status(&lab);
    lab.restart(true);
    lab.run(minutes(20));
    assert_eq!((runs(&lab), status(&lab)), (1, before), "a restart changes nothing");
    lab.run(minutes(10));
    assert_eq!(runs(&lab), 2, "the default interval is half an hour");
}

#[test]
fn no_failure_empties_the_list_and_recovery_pulls_nothing_again() {
    let mut lab = lab_with(&[ONE]);
    answer(&mut lab, ONE, &[("x:1", 1.0), ("y:1", 2.0)]);
    lab.run(minutes(5));
    let (_, images) = found(&lab);
    let pods = lab.record.pods.len();
    for reason in [SourceReason::ConnectionRefused, SourceReason::Unauthorized, SourceReason::InvalidResponse] {
        fail(&mut lab, ONE, reason);
        lab.run(minutes(35));
        assert_eq!(found(&lab), (reason.to_string(), images.clone()));
        assert_eq!(reason_of_set(&lab), format!("{reason} 2/2"));
        assert_eq!(lab.api.images.len(), 2);
    }
    answer(&mut lab, ONE, &[]);
    lab.run(minutes(35));
    assert_eq!(found(&lab), ("EmptyResult".to_owned(), images.clone()));
    assert_eq!(lab.api.images.len(), 2);
    answer(&mut lab, ONE, &[("x:1", 1.0), ("y:1", 2.0)]);
    lab.run(minutes(35));
    assert_eq!(found(&lab), ("Synced".to_owned(), images));
    assert_eq!(reason_of_set(&lab), "AllReady 2/2");
    assert_eq!(lab.record.pods.len(), pods);
}

#[test]
fn a_first_answer_without_images_is_no_failure() {
    let mut lab = lab_with(&[ONE]);
    answer(&mut lab, ONE, &[]);
    lab.run(minutes(5));
    assert_eq!(found(&lab), ("Synced".to_owned(), Vec::new()));
    assert_eq!(reason_of_set(&lab), "AllReady 0/0");
}

#[test]
fn the_images_of_a_source_that_fails_stay_beside_those_of_the_others() {
    let mut lab = lab_with(&[ONE, TWO]);
    answer(&mut lab, ONE, &[("x:1", 1.0), ("both:1", 5.0)]);
    answer(&mut lab, TWO, &[("y:1", 2.0), ("both:1", 3.0)]);
    lab.run(minutes(5));
    fail(&mut lab, TWO, SourceReason::Timeout);
    answer(&mut lab, ONE, &[("new:1", 7.0)]);
    // A restart in between: the status has the images of the failing source.
    lab.restart(true);
    lab.run(minutes(35));
    let (reason, images) = found(&lab);
    assert_eq!(reason, "PartiallyFailed");
    let kept = ["new:1 7", "both:1 5", "y:1 2"].map(|image| format!("docker.io/library/{image}"));
    assert_eq!(images, kept, "what only the other had found is gone");
    assert_eq!(reason_of_set(&lab), "AllReady 3/3");
    let results: Vec<_> = status(&lab).query_results.iter().map(|result| (result.status, result.images)).collect();
    assert_eq!(results, [(QueryStatus::Success, 1), (QueryStatus::Failed, 2)]);
}

/// Makes the registry at [`ONE`] list these tags of each repository, or fail.
fn registry(lab: &mut Lab, repositories: &[(&str, Result<&[&str], SourceReason>)]) {
    let repository = |(path, tags): &(&str, Result<&[&str], SourceReason>)| {
        let (tags, end) = match tags {
            Ok(tags) => (tags.iter().map(ToString::to_string).collect(), End::Whole),
            Err(reason) => (Vec::new(), End::Failed(SourceFailure::new(*reason, "it went wrong"))),
        };
        Repository { path: (*path).to_owned(), tags, end }
    };
    let answer = Answer::Tags(repositories.iter().map(repository).collect());
    lab.knobs.sources.insert(ONE.to_owned(), Ok(answer));
}

#[test]
fn a_repository_that_fails_keeps_its_images_and_holds_up_no_other() {
    let mut lab = lab_with(&[]);
    let repositories = || ["app", "web", "web/deep"].map(str::to_owned).to_vec();
    lab.discovery("ci", |spec| {
        let query = RegistryQuery {
            url: ONE.to_owned(),
            repositories: repositories(),
            top_x: Some(1),
            max_scan: 100,
            ..RegistryQuery::default()
        };
        let registry = Some(query);
        spec.sources = vec![Source { type_: BackendType::Registry, prometheus: None, registry, ..source(ONE) }];
    });
    let deep: (&str, Result<&[&str], SourceReason>) = ("web/deep", Ok(&["7"]));
    registry(&mut lab, &[("app", Ok(&["1", "2"])), ("web", Ok(&["1"])), deep]);
    lab.run(minutes(5));
    let images = |names: &[&str]| names.iter().map(|name| format!("one.example/{name} 1")).collect::<Vec<_>>();
    assert_eq!(found(&lab), ("Synced".to_owned(), images(&["app:2", "web/deep:7", "web:1"])));
    let uids = |lab: &Lab| {
        let child = |image: &drop_api::CachedImage| (image.spec.image.clone(), image.metadata.uid.clone());
        lab.api.images.values().map(child).collect::<std::collections::BTreeMap<_, _>>()
    };
    let before = uids(&lab);
    registry(&mut lab, &[("app", Ok(&["2", "3"])), ("web", Err(SourceReason::NotFound)), deep]);
    lab.restart(true);
    lab.run(minutes(35));
    assert_eq!(found(&lab), ("PartiallyFailed".to_owned(), images(&["app:3", "web/deep:7", "web:1"])));
    let result = status(&lab).query_results.remove(0);
    assert_eq!((result.status, result.reason.as_deref()), (QueryStatus::PartiallyFailed, Some("NotFound")));
    assert_eq!((result.failed_repositories, result.images), (vec!["web".to_owned()], 2));
    assert_eq!(result.message.as_deref(), Some("web: it went wrong"));
    assert_eq!(reason_of_set(&lab), "AllReady 3/3");
    let after = uids(&lab);
    assert!(before.iter().filter(|(image, _)| image.contains("web")).all(|(image, uid)| after.get(image) == Some(uid)));
    // A repository that has lost all its tags counts as failed too.
    registry(&mut lab, &[("app", Ok(&["2", "3"])), ("web", Ok(&[])), deep]);
    lab.run(minutes(35));
    assert_eq!(found(&lab), ("PartiallyFailed".to_owned(), images(&["app:3", "web/deep:7", "web:1"])));
    assert_eq!(status(&lab).query_results[0].reason.as_deref(), Some("EmptyResult"));
    registry(&mut lab, &[("app", Ok(&["2", "3"])), ("web", Err(SourceReason::NotFound)), deep]);
    // Neither an edit nor a lost status changes that.
    lab.discovery("ci", |spec| spec.max_images = 10);
    lab.run(minutes(5));
    assert_eq!(found(&lab), ("PartiallyFailed".to_owned(), images(&["app:3", "web/deep:7", "web:1"])));
    lab.api.discoveries.get_mut("ci").unwrap().status = None;
    lab.discovery("ci", |spec| spec.max_images = 11);
    lab.run(minutes(35));
    let kept = uids(&lab);
    assert!(before.iter().filter(|(image, _)| image.contains("web")).all(|(image, uid)| kept.get(image) == Some(uid)));
    registry(&mut lab, &[("app", Ok(&["3"])), ("web", Ok(&["2"])), deep]);
    lab.run(minutes(35));
    assert_eq!(found(&lab), ("Synced".to_owned(), images(&["app:3", "web/deep:7", "web:2"])));
    assert_eq!(lab.api.images.len(), 3);
}

#[test]
fn a_server_is_left_alone_for_as_long_as_it_asks_for() {
    for asked in [1, 90, 60 * 24] {
        let mut lab = lab_with(&[ONE]);
        let failure = SourceFailure::new(SourceReason::RateLimited, "slow down");
        let failure = SourceFailure { retry_after: Some(minutes(asked)), ..failure };
        lab.knobs.sources.insert(ONE.to_owned(), Err(failure));
        lab.run(secs(20.0));
        assert_eq!(runs(&lab), 1);
        lab.run(minutes(asked) - secs(25.0));
        assert_eq!(runs(&lab), 1, "{asked} minutes");
        lab.run(minutes(3));
        assert!(runs(&lab) > 1, "{asked} minutes");
    }
}

#[test]
fn an_image_at_the_cut_keeps_its_place_for_two_syncs_before_a_slightly_better_one() {
    let mut lab = lab_with(&[ONE]);
    lab.discovery("ci", |spec| {
        (spec.sources, spec.max_images) = (vec![source(ONE)], 1);
    });
    answer(&mut lab, ONE, &[("a:1", 1.0)]);
    lab.run(minutes(1));
    let mut listed = Vec::new();
    for _ in 0..4 {
        answer(&mut lab, ONE, &[("a:1", 1.0), ("b:1", 1.05)]);
        lab.run(minutes(30));
        listed.push(found(&lab).1[0].clone());
    }
    assert_eq!(listed.iter().map(|image| &image[18..19]).collect::<String>(), "aabb", "{listed:?}");
    // Much better ones take the place at once.
    answer(&mut lab, ONE, &[("b:1", 1.0), ("c:1", 2.0)]);
    lab.run(minutes(30));
    assert_eq!(found(&lab).1, ["docker.io/library/c:1 2"]);
}

#[test]
fn a_server_that_wants_to_be_left_alone_changes_nothing_for_other_sources() {
    let mut lab = lab_with(&[ONE, TWO]);
    let failure = SourceFailure::new(SourceReason::RateLimited, "slow down");
    lab.knobs.sources.insert(ONE.to_owned(), Err(SourceFailure { retry_after: Some(minutes(24 * 60)), ..failure }));
    answer(&mut lab, TWO, &[("x:1", 1.0)]);
    lab.run(minutes(1));
    assert_eq!(found(&lab), ("PartiallyFailed".to_owned(), vec!["docker.io/library/x:1 1".to_owned()]));
    answer(&mut lab, TWO, &[("y:1", 1.0)]);
    lab.run(minutes(30));
    assert_eq!(found(&lab).1, ["docker.io/library/y:1 1"], "after the interval of the policy");
    lab.run(minutes(10 * 30));
    assert!((11..=14).contains(&runs(&lab)), "{} runs in 5.5 hours", runs(&lab));
}

#[test]
fn the_images_of_sources_that_have_changed_places_stay_while_one_of_them_fails() {
    let mut lab = lab_with(&[ONE, TWO]);
    answer(&mut lab, ONE, &[]);
    answer(&mut lab, TWO, &[("x:1", 1.0)]);
    lab.run(minutes(1));
    // Both fail after the edit. Then the source that is now the second one answers.
    [ONE, TWO].into_iter().for_each(|source| fail(&mut lab, source, SourceReason::Timeout));
    lab.discovery("ci", |spec| spec.sources.reverse());
    lab.run(secs(5.0));
    answer(&mut lab, ONE, &[("new:1", 7.0)]);
    lab.run(minutes(5));
    let kept = ["new:1 7", "x:1 1"].map(|image| format!("docker.io/library/{image}"));
    assert_eq!(found(&lab), ("PartiallyFailed".to_owned(), kept.to_vec()));
}

#[test]
fn failures_are_retried_with_growing_waits() {
    let mut lab = lab_with(&[ONE]);
    fail(&mut lab, ONE, SourceReason::ServerError);
    lab.run(secs(25.0));
    assert_eq!(runs(&lab), 1);
    lab.run(minutes(29));
    let runs = runs(&lab);
    assert!((5..=7).contains(&runs), "{runs} runs in half an hour: 30 s, 1, 2, 4, 8, 16 min");
    assert_eq!(found(&lab), ("ServerError".to_owned(), Vec::new()));
    assert_eq!(status(&lab).last_sync_time, None);
}

#[test]
fn an_edit_of_the_spec_or_its_secret_asks_at_once() {
    let mut lab = lab_with(&[ONE]);
    answer(&mut lab, ONE, &[("x:1", 1.0)]);
    lab.run(minutes(1));
    assert_eq!(runs(&lab), 1);
    lab.secret("creds");
    lab.run(secs(5.0));
    assert_eq!(runs(&lab), 2);
    lab.secret("another");
    lab.run(secs(5.0));
    assert_eq!(runs(&lab), 2);
    lab.discovery("ci", |spec| spec.max_images = 1);
    lab.run(secs(5.0));
    assert_eq!(runs(&lab), 3);
}

#[test]
fn a_watch_that_lags_drops_no_outcome_that_is_not_written_yet() {
    let mut lab = lab_with(&[ONE]);
    answer(&mut lab, ONE, &[("x:1", 1.0)]);
    lab.run(minutes(1));
    lab.lag(Kind::Discovery, secs(1.5), true);
    // While the second outcome waits for a second after the first, the watch shows neither of them. While the third one
    // waits, the watch shows the first.
    for (image, span) in [("y:1", 0.2), ("z:1", 1.0), ("last:1", 10.0)] {
        answer(&mut lab, ONE, &[(image, 1.0)]);
        lab.secret("creds");
        lab.run(secs(span));
    }
    assert_eq!(found(&lab), ("Synced".to_owned(), vec!["docker.io/library/last:1 1".to_owned()]));
}

#[test]
fn an_edit_drops_no_list_that_the_watch_has_not_shown_yet() {
    let mut lab = lab_with(&[ONE]);
    answer(&mut lab, ONE, &[("x:1", 1.0)]);
    lab.lag(Kind::Discovery, secs(1.0), true);
    lab.run(secs(0.06));
    // The outcome is about to be written, and the watch will show the edit without it.
    lab.discovery("ci", |spec| spec.image_filter = Some("(".to_owned()));
    lab.run(minutes(1));
    assert_eq!(found(&lab), ("InvalidSpec".to_owned(), vec!["docker.io/library/x:1 1".to_owned()]));
    assert_eq!(reason_of_set(&lab), "InvalidSpec 1/1");
}

#[test]
fn an_edit_while_the_sources_are_asked_asks_again() {
    let mut lab = lab_with(&[ONE]);
    lab.knobs.request = secs(3.0);
    answer(&mut lab, ONE, &[("x:1", 1.0), ("y:1", 2.0)]);
    lab.run(secs(1.0));
    lab.discovery("ci", |spec| spec.max_images = 1);
    lab.run(minutes(1));
    assert_eq!(runs(&lab), 2);
    assert_eq!(found(&lab).1, ["docker.io/library/y:1 2"]);
    assert_eq!(status(&lab).observed_generation, Some(2));
}

#[test]
fn an_invalid_spec_keeps_the_list_and_names_the_field() {
    let mut lab = lab_with(&[ONE]);
    answer(&mut lab, ONE, &[("x:1", 1.0)]);
    lab.run(minutes(1));
    lab.discovery("ci", |spec| spec.image_filter = Some("(".to_owned()));
    lab.run(minutes(1));
    let (reason, images) = found(&lab);
    assert_eq!((reason.as_str(), images.len()), ("InvalidSpec", 1));
    let message = status(&lab).conditions[0].message.clone();
    assert!(message.starts_with("spec.imageFilter: not a regular expression"), "{message}");
    assert_eq!(runs(&lab), 1);
    assert_eq!(reason_of_set(&lab), "InvalidSpec 1/1");
}

#[test]
fn a_policy_that_is_deleted_takes_no_child_along() {
    let mut lab = lab_with(&[ONE]);
    answer(&mut lab, ONE, &[("x:1", 1.0), ("y:1", 1.0)]);
    lab.run(minutes(1));
    lab.delete_discovery("ci");
    lab.run(minutes(1));
    assert_eq!(reason_of_set(&lab), "DiscoveryPolicyNotFound 2/2");
    // Another policy of the same name, which has found no image yet.
    fail(&mut lab, ONE, SourceReason::Timeout);
    lab.discovery("ci", |spec| spec.sources = vec![source(ONE)]);
    lab.run(minutes(1));
    assert_eq!(reason_of_set(&lab), "Timeout 2/2");
    answer(&mut lab, ONE, &[("x:1", 1.0)]);
    lab.run(minutes(10));
    assert_eq!(reason_of_set(&lab), "AllReady 1/1", "now it is known which are wanted");
}

#[test]
fn a_set_without_its_policy_any_more_keeps_only_static_images() {
    let mut lab = lab_with(&[ONE]);
    answer(&mut lab, ONE, &[("x:1", 1.0)]);
    lab.run(minutes(1));
    lab.set("web", |spec| {
        spec.discovery_policy_ref = None;
        spec.images = vec![ImageEntry { image: "static:1".to_owned(), ..ImageEntry::default() }];
    });
    lab.run(minutes(1));
    assert_eq!(reason_of_set(&lab), "AllReady 1/1");
    assert_eq!(lab.api.images.values().next().unwrap().spec.image, "static:1");
}

#[test]
fn a_ranking_without_a_result_keeps_the_list() {
    let mut lab = lab_with(&[ONE]);
    answer(&mut lab, ONE, &[("x:1", 1.0)]);
    lab.run(minutes(1));
    // The source names an image, but a negative score never ranks.
    answer(&mut lab, ONE, &[("y:1", -1.0)]);
    lab.run(minutes(35));
    assert_eq!(found(&lab), ("EmptyResult".to_owned(), vec!["docker.io/library/x:1 1".to_owned()]));
    assert_eq!(reason_of_set(&lab), "EmptyResult 1/1");
}

#[test]
fn images_of_a_failing_source_are_not_crowded_out() {
    let mut lab = lab_with(&[ONE, TWO]);
    lab.discovery("ci", |spec| spec.max_images = 3);
    answer(&mut lab, ONE, &[("x:1", 10.0)]);
    answer(&mut lab, TWO, &[("y:1", 2.0), ("z:1", 2.0)]);
    lab.run(minutes(1));
    fail(&mut lab, TWO, SourceReason::Timeout);
    answer(&mut lab, ONE, &[("x:1", 10.0), ("n:1", 10.0), ("m:1", 10.0)]);
    lab.run(minutes(35));
    assert_eq!(reason_of_set(&lab), "AllReady 5/5");
    answer(&mut lab, TWO, &[("y:1", 2.0), ("z:1", 2.0)]);
    lab.run(minutes(35));
    assert_eq!(reason_of_set(&lab), "AllReady 3/3");
}

#[test]
fn edits_reach_children_whose_discovery_is_gone_and_removed_entries_go() {
    let mut lab = lab_with(&[ONE]);
    lab.set("web", |spec| spec.images = vec![ImageEntry { image: "static:1".to_owned(), ..ImageEntry::default() }]);
    answer(&mut lab, ONE, &[("x:1", 1.0)]);
    lab.run(minutes(1));
    lab.delete_discovery("ci");
    lab.set("web", |spec| {
        spec.priority = 9;
        spec.images.clear();
    });
    lab.run(minutes(1));
    let left: Vec<_> = lab.api.images.values().map(|image| (&*image.spec.image, image.spec.priority)).collect();
    assert_eq!(left, [("docker.io/library/x", 9)]);
}

#[test]
fn an_entry_that_is_discovered_too_is_protected_when_it_leaves_the_list() {
    let mut lab = lab_with(&[ONE]);
    lab.set("web", |spec| spec.images = vec![ImageEntry { image: "x:1".to_owned(), ..ImageEntry::default() }]);
    answer(&mut lab, ONE, &[("x:1", 1.0)]);
    lab.run(minutes(1));
    lab.set("web", |spec| spec.images.clear());
    lab.run(minutes(1));
    lab.delete_discovery("ci");
    lab.run(minutes(1));
    assert_eq!(reason_of_set(&lab), "DiscoveryPolicyNotFound 1/1");
}

#[test]
fn a_query_that_the_ranking_does_not_use_keeps_nothing_in_the_list_when_it_fails() {
    for is_a_signal in [false, true] {
        let mut lab = lab_with(&[]);
        let query = |name: &str, endpoint: &str| json!({"name": name, "type": "prometheus", "prometheus": {"endpoint": endpoint, "query": "images"}});
        let signal =
            |query: &str| json!({"name": query, "query": query, "type": "aggregate", "aggregate": {"method": "max"}});
        let mut signals = vec![signal("used")];
        signals.extend(is_a_signal.then(|| signal("unused")));
        let spec = json!({
            "queries": [query("used", ONE), query("unused", TWO)],
            "signals": signals,
            "ranking": {"strategy": "signal", "signal": "used"},
        });
        let spec: DiscoveryPolicySpec = serde_json::from_value(spec).unwrap();
        lab.discovery("ci", |before| *before = spec);
        answer(&mut lab, ONE, &[("x:1", 1.0), ("y:1", 2.0)]);
        answer(&mut lab, TWO, &[("x:1", 1.0), ("y:1", 1.0)]);
        lab.run(minutes(5));
        fail(&mut lab, TWO, SourceReason::Timeout);
        answer(&mut lab, ONE, &[("z:1", 1.0)]);
        lab.run(minutes(35));
        let (_, images) = found(&lab);
        assert_eq!(images, ["docker.io/library/z:1 1"], "{:#?}", status(&lab));
        assert_eq!(lab.api.images.len(), 1);
    }
}
