//! Texts of others that are changed at random: nothing panics, and what is read obeys simple laws.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::collections::BTreeSet;

use drop_api::duration::GoDuration;
use drop_core::discovery::{Answer, End, Pipeline, PullEvent, Repository};
use drop_core::failure::{MAX_MESSAGE, classify};
use drop_core::reference::{Reference, check_name};
use drop_fuzz::each;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

#[test]
fn any_message_of_a_kubelet_has_a_short_cause() {
    let rows = include_str!("../src/objects/failure/messages.tsv");
    let seeds: Vec<_> = rows.lines().skip(1).filter_map(|row| row.split('\t').nth(2)).collect();
    each("kubelet messages", &seeds, |message| {
        for name in ["h.example/p:v1", "nginx", message] {
            for reason in ["ErrImagePull", "ImageInspectError"] {
                let cause = classify(reason, message, &Reference::parse(name), "linux/arm64");
                assert!(cause.message.chars().count() <= MAX_MESSAGE);
            }
        }
    });
}

#[test]
fn any_reference_prints_to_what_is_read_the_same() {
    let digest = format!("nginx:1.25@sha256:{}", "a".repeat(64));
    let seeds = [
        "alpine:3.20",
        "docker.io/library/alpine",
        "registry.example.com:5000/team/app:v1",
        "[2001:db8::1]:5000/team/app:1",
        "LOCALDOMAIN/app:2",
        "index.docker.io/grafana/loki",
        &digest,
    ];
    each("references", &seeds, |text| {
        let reference = Reference::parse(text);
        assert!(reference.as_str().len() <= text.len() + "docker.io/library/:latest".len());
        let parts = [reference.host(), reference.repository()];
        assert!(parts.iter().all(|part| reference.as_str().starts_with(part)));
        if check_name(text).is_ok() {
            let again = Reference::parse(reference.as_str());
            assert_eq!(again, reference);
            assert_eq!(check_name(reference.as_str()), Ok(()), "{reference}");
        }
    });
}

#[test]
fn any_message_of_a_pull_is_read_or_passed_over() {
    let seeds = [
        "Successfully pulled image \"a:1\" in 1m21.3s (1m30s including waiting). Image size: 7340032 bytes.",
        "(combined from similar events): Successfully pulled image \"a:1\" in 2s",
        "Container image \"a:1\" already present on machine",
    ];
    each("pull events", &seeds, |message| {
        if let Some(event) = PullEvent::from_message(Timestamp::UNIX_EPOCH, message) {
            assert!(message.contains(&event.image));
            assert!(event.pull_time.is_none_or(|time| time >= SignedDuration::ZERO) && event.size != Some(0));
        }
    });
}

#[test]
fn any_duration_prints_to_what_is_read_the_same() {
    each("durations", &["1h2m3.5s", "30s", "168h", "1m21.284220239s", "950µs", "324ms", "0s"], |text| {
        if let Ok(duration) = text.parse::<GoDuration>() {
            let again: GoDuration = duration.to_string().parse().unwrap();
            assert_eq!(again.get(), duration.get());
            assert!(duration.get() >= SignedDuration::ZERO);
        }
    });
}

#[test]
fn any_tags_have_one_order() {
    // The rows of the tests of the order: the tags of one repository, the newest first.
    let rows = include_str!("tags.rs");
    let seeds: Vec<_> = rows.split('"').filter(|text| text.split_whitespace().count() > 2).collect();
    let registry = json!({"url": "https://r.example", "repositories": ["app"]});
    let spec = json!({"maxImages": 500, "sources": [{"type": "registry", "registry": registry}]});
    let pipeline = Pipeline::compile(&serde_json::from_value(spec).unwrap()).unwrap();
    let order = |tags: &[&str]| -> Vec<String> {
        let tags: Vec<_> = tags.iter().map(ToString::to_string).collect();
        let answer = Answer::Tags(vec![Repository { path: "app".to_owned(), tags, end: End::Whole }]);
        let measured = pipeline.measure(0, answer, Timestamp::UNIX_EPOCH);
        let ranked = pipeline.rank(&[Some(&measured)], |_| 1, &std::collections::BTreeSet::new());
        ranked.images.iter().map(|image| image.image.to_string()).collect()
    };
    each("tags", &seeds, |text| {
        let tags: BTreeSet<_> = text.split_whitespace().take(40).collect();
        let tags: Vec<_> = tags.into_iter().collect();
        let forward = order(&tags);
        assert!(forward.len() <= tags.len());
        let all: BTreeSet<_> = forward.iter().collect();
        assert_eq!(all.len(), forward.len(), "no image twice");
        // Listed in that order from the oldest to the newest, the tags keep it; ties are for the last one.
        let listed: Vec<_> = forward.iter().rev().map(|image| image.rsplit_once(':').unwrap().1).collect();
        assert_eq!(order(&listed), forward);
    });
}
