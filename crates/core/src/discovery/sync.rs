//! One run of a DiscoveryPolicy, and the list that it leads to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use drop_api::condition::{self, Condition, ConditionStatus};
use drop_api::discovery_policy::{DiscoveredImage, DiscoveryPolicyStatus, QueryResult, QueryStatus};
use jiff::{SignedDuration, Timestamp};

use super::pipeline::best_first;
use super::{InvalidSpec, Measured, Pipeline, Query, RankedImage, SourceFailure, SourceReason, Why, score_text};
use crate::Name;
use crate::text::count;
use crate::text::shortened;

/// The most images of a list, including those that stay because their source fails.
const MOST_LISTED: usize = 1000;

/// An order to run the queries of a DiscoveryPolicy.
#[derive(Clone, Debug)]
pub struct Order {
    /// The DiscoveryPolicy.
    pub policy: Name,
    /// Its UID and generation: the result of a run of another spec does not count.
    pub spec: SpecId,
    /// Its queries, and the steps from their answers to its list.
    pub pipeline: Arc<Pipeline>,
    /// How many Ready nodes its ranking counts.
    pub nodes: usize,
    /// The images that are listed, but for those that have been held for [`HELD_FOR`] runs.
    pub listed: BTreeSet<Name>,
}

/// The number of runs in a row for which an image keeps its place before a slightly better one.
pub const HELD_FOR: u32 = 2;

impl PartialEq for Order {
    fn eq(&self, other: &Self) -> bool {
        let Self { policy, spec, nodes, listed, .. } = self;
        *policy == other.policy && *spec == other.spec && *nodes == other.nodes && *listed == other.listed
    }
}

/// One state of a DiscoveryPolicy's spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecId {
    /// `metadata.uid`.
    pub uid: Name,
    /// `metadata.generation`.
    pub generation: Option<i64>,
}

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Discovered {
    /// The spec that was run.
    pub spec: SpecId,
    /// Per query, in their order.
    pub sources: Vec<SourceOutcome>,
    /// From all queries that were answered.
    pub images: Vec<RankedImage>,
}

/// The result of one query.
#[derive(Clone, Debug)]
pub struct SourceOutcome {
    /// How long it took.
    pub elapsed: SignedDuration,
    /// How many images it named, or why it failed.
    pub result: Result<usize, SourceFailure>,
    /// A note for people about its answer.
    pub note: Option<String>,
    /// Its repositories that failed beside others.
    pub failed: Vec<(String, SourceFailure)>,
    /// Its repositories without a tag.
    pub empty: Vec<String>,
    /// Its repositories of which only a part of the tags was read, and why.
    pub cut: Vec<(String, Why)>,
}

impl SourceOutcome {
    /// The outcome of a query that measured `values`.
    #[must_use]
    pub fn new(elapsed: SignedDuration, measured: &Result<Measured, SourceFailure>) -> Self {
        let result = measured.as_ref().map(Measured::image_count).map_err(SourceFailure::clone);
        let told = |it: &Measured| (it.note.clone(), it.failed.clone(), it.empty.clone(), it.cut.clone());
        let (note, failed, empty, cut) = measured.as_ref().map(told).unwrap_or_default();
        Self { elapsed, result, note, failed, empty, cut }
    }

    /// Returns the reason why its answer is not complete, as one failure; `None` if it is.
    #[must_use]
    pub fn failure(&self) -> Option<SourceFailure> {
        let of_repositories =
            || self.failed.first().map(|(path, failure)| failure.of_repository(path, self.failed.len() - 1));
        // `maxScan` is a choice of the spec, not a failure.
        let stuck = || {
            let (path, why) = self.cut.iter().find(|(_, why)| *why == Why::NoNextPage)?;
            Some(SourceFailure::new(SourceReason::InvalidResponse, format!("{path}: {why}")))
        };
        self.result.as_ref().err().cloned().or_else(of_repositories).or_else(stuck)
    }

    /// The outcome as a status shows it.
    #[must_use]
    pub fn shown(&self, query: &Query) -> QueryResult {
        let failure = self.failure();
        let message = failure.as_ref().map(|failure| &failure.message).or(self.note.as_ref());
        QueryResult {
            name: query.name.clone(),
            type_: query.backend.type_(),
            status: match (&self.result, &failure) {
                (Err(_), _) => QueryStatus::Failed,
                (Ok(_), Some(_)) => QueryStatus::PartiallyFailed,
                (Ok(_), None) => QueryStatus::Success,
            },
            reason: failure.as_ref().map(|failure| failure.reason.to_string()),
            message: message.map(|message| shortened(message, 1024)),
            images: count(*self.result.as_ref().unwrap_or(&0)),
            failed_repositories: self.failed.iter().map(|(path, _)| path.clone()).collect(),
        }
    }

    /// Returns how long its server asks clients to wait.
    fn retry_after(&self) -> Option<SignedDuration> {
        let failures = self.result.as_ref().err().into_iter().chain(self.failed.iter().map(|(_, failure)| failure));
        failures.filter_map(|failure| failure.retry_after).max()
    }
}

impl Discovered {
    /// Returns how long to wait before the next run, because every source that failed has asked to be left alone: until
    /// the first of these waits ends. If another source has answered, that is at most `interval`. `None` if no source
    /// failed, or one of those that did has not asked.
    #[must_use]
    pub fn left_alone_for(&self, interval: SignedDuration) -> Option<SignedDuration> {
        let failed = self.sources.iter().filter(|source| source.failure().is_some());
        let wait = failed.map(SourceOutcome::retry_after).min().flatten()?;
        let is_any_answered = self.sources.iter().any(|source| source.result.is_ok());
        Some(if is_any_answered { wait.min(interval) } else { wait })
    }
}

/// Returns the status of a policy whose spec is invalid: the list stays.
pub(crate) fn invalid(
    error: &InvalidSpec,
    spec: &SpecId,
    before: &DiscoveryPolicyStatus,
    now: Timestamp,
) -> DiscoveryPolicyStatus {
    let message = shortened(&format!("spec.{error}"), 1024);
    let previous = condition::ready(&before.conditions);
    DiscoveryPolicyStatus {
        observed_generation: spec.generation,
        conditions: vec![Condition::ready(false, "InvalidSpec", message, spec.generation, previous, now)],
        query_results: Vec::new(),
        next_sync_time: None,
        ..before.clone()
    }
}

/// Returns the status after a run, without the time of the next one.
pub(crate) fn outcome(
    pipeline: &Pipeline,
    discovered: &Discovered,
    before: &DiscoveryPolicyStatus,
    now: Timestamp,
) -> DiscoveryPolicyStatus {
    let generation = discovered.spec.generation;
    let same_spec = before.observed_generation == generation;
    let sources = emptied(pipeline, &discovered.sources, before, same_spec);
    // A query that the scores do not depend on has named no image by itself.
    let counting = sources.iter().enumerate().filter(|(query, _)| pipeline.uses(*query));
    let missing = counting.clone().filter_map(|(query, source)| Some((query, Missing::of(source)?))).collect();
    let cut = counting.flat_map(|(query, source)| source.cut.iter().map(move |(path, _)| (query, path.as_str())));
    let cut: Vec<_> = cut.collect();
    let images = merge(pipeline, &discovered.images, before, &missing, &cut, same_spec);
    let failures: Vec<_> = sources.iter().map(SourceOutcome::failure).collect();
    let tell = |(query, failure): (usize, &SourceFailure)| {
        let name = pipeline.queries().get(query).map(|query| query.name.as_str()).unwrap_or_default();
        match pipeline.queries().len() {
            1 => failure.message.clone(),
            _ => format!("{name}: {failure}"),
        }
    };
    let kept = match images.len() {
        0 => String::new(),
        1 => "; the last good image stays".to_owned(),
        number => format!("; the last {number} good images stay"),
    };
    let first_failure = failures.iter().enumerate().find_map(|(query, failure)| Some((query, failure.as_ref()?)));
    let is_emptied = discovered.images.is_empty() && !before.discovered_images.is_empty();
    let (ready, reason, message) = match first_failure {
        None if is_emptied => {
            let reason = SourceReason::EmptyResult.as_str();
            (false, reason, format!("the sources answer, but no image of theirs has a score{kept}"))
        }
        None => {
            let message = match (images.len(), discovered.sources.iter().find_map(|source| source.note.as_ref())) {
                (0, Some(note)) => format!("0 images: {note}"),
                (1, _) => "1 image".to_owned(),
                (number, _) => format!("{number} images"),
            };
            (true, "Synced", message)
        }
        Some(failure) if sources.iter().any(|source| source.result.is_ok()) => {
            let others = match failures.iter().flatten().count() - 1 {
                0 => String::new(),
                others => format!(" (and {others} more)"),
            };
            (true, "PartiallyFailed", format!("{}{others}; what it found last stays", tell(failure)))
        }
        Some((query, failure)) => (false, failure.reason.as_str(), format!("{}{kept}", tell((query, failure)))),
    };
    let previous = condition::ready(&before.conditions);
    let query_results = pipeline.queries().iter().zip(&sources).enumerate().map(|(at, (query, source))| {
        let of_query = images.iter().filter(|image| found_by(image).any(|by| by == at)).count();
        let images = count(*source.result.as_ref().unwrap_or(&of_query));
        QueryResult { images, ..source.shown(query) }
    });
    DiscoveryPolicyStatus {
        observed_generation: generation,
        conditions: vec![Condition::ready(ready, reason, shortened(&message, 1024), generation, previous, now)],
        image_count: count(images.len()),
        source_count: count(sources.len()),
        query_results: query_results.collect(),
        last_sync_time: if ready { Some(now) } else { before.last_sync_time },
        next_sync_time: None,
        discovered_images: images,
    }
}

/// Returns the outcomes, in which a source or a repository counts as failed if it names no image although it did
/// before: a list must not become empty because monitoring has just lost its data.
fn emptied(
    pipeline: &Pipeline,
    sources: &[SourceOutcome],
    before: &DiscoveryPolicyStatus,
    same_spec: bool,
) -> Vec<SourceOutcome> {
    let nobody_found_any = sources.iter().all(|source| source.result == Ok(0));
    let found_before =
        |query: usize| before.discovered_images.iter().any(|image| found_by(image).any(|by| by == query));
    let had_any = |query: usize| match same_spec {
        true => found_before(query),
        // The positions belong to another spec.
        false => nobody_found_any && !before.discovered_images.is_empty(),
    };
    let outcome = |(query, source): (usize, &SourceOutcome)| {
        let had_tags = |path: &&String| {
            let mut images = before.discovered_images.iter();
            let is_of_query = |image| !same_spec || found_by(image).any(|by| by == query);
            images.any(|image| is_of_query(image) && pipeline.may_be_of(query, path, &image.image))
        };
        let mut source = source.clone();
        let emptied = source.empty.iter().filter(had_tags).map(|path| {
            let failure = SourceFailure::new(SourceReason::EmptyResult, "it has no tag, although it had some before");
            (path.clone(), failure)
        });
        source.failed.extend(emptied.collect::<Vec<_>>());
        let failure = match (&source.result, source.failure()) {
            // The other repositories are empty, so the failure is the result.
            (Ok(0), Some(failure)) => failure,
            (Ok(0), None) if had_any(query) => {
                let note = source.note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
                let message = format!("it named no image, although it did before{note}");
                SourceFailure::new(SourceReason::EmptyResult, message)
            }
            _ => return source,
        };
        SourceOutcome { result: Err(failure), ..source }
    };
    sources.iter().enumerate().map(outcome).collect()
}

/// The images that a failed query may not have named.
enum Missing<'a> {
    /// Anything.
    All,
    /// Tags of these repositories.
    Of(&'a [(String, SourceFailure)]),
}

impl<'a> Missing<'a> {
    fn of(source: &'a SourceOutcome) -> Option<Self> {
        match (&source.result, &source.failed[..]) {
            (Err(_), _) => Some(Self::All),
            (Ok(_), []) => None,
            (Ok(_), failed) => Some(Self::Of(failed)),
        }
    }

    /// Whether query number `query` might have named this image.
    fn has(&self, pipeline: &Pipeline, query: usize, image: &str) -> bool {
        match self {
            Self::All => true,
            Self::Of(failed) => failed.iter().any(|(path, _)| pipeline.may_be_of(query, path, image)),
        }
    }
}

/// Merges the new list from the images that were found, and from the images that failing sources or repositories found
/// last. `cut` names the repositories of which only some tags were read, with their query.
fn merge(
    pipeline: &Pipeline,
    ranked: &[RankedImage],
    before: &DiscoveryPolicyStatus,
    missing: &BTreeMap<usize, Missing>,
    cut: &[(usize, &str)],
    same_spec: bool,
) -> Vec<DiscoveredImage> {
    // A ranking by some of the signals would be a different ranking, and an empty one must not replace a list.
    if (ranked.is_empty() || !missing.is_empty() && pipeline.is_ranked()) && !before.discovered_images.is_empty() {
        let mut images = before.discovered_images.clone();
        if !same_spec {
            // Any of the queries that fail now may have found the image; if none fails, any query at all.
            let all = 0..pipeline.queries().len();
            let found_by: Vec<_> = all.filter(|by| missing.is_empty() || missing.contains_key(by)).map(count).collect();
            images.iter_mut().for_each(|image| image.found_by.clone_from(&found_by));
        }
        return images;
    }
    let mut images: BTreeMap<&str, (f64, BTreeSet<usize>)> = BTreeMap::new();
    for image in ranked {
        images.insert(&image.image, (image.score, image.found_by.iter().copied().collect()));
    }
    // These may go over the limit: new images must not crowd out those of a source that fails.
    for image in &before.discovered_images {
        let before: BTreeSet<usize> = found_by(image).collect();
        // Under another spec, any of the queries that fail now may have found the image.
        let may_have = |(by, missing): &(&usize, &Missing)| {
            (!same_spec || before.contains(by)) && missing.has(pipeline, **by, &image.image)
        };
        let kept: Vec<usize> = missing.iter().filter(may_have).map(|(by, _)| *by).collect();
        if kept.is_empty() {
            continue;
        }
        let score = image.final_score.parse().unwrap_or(0.0);
        let (best, found_by) = images.entry(&image.image).or_insert((score, BTreeSet::new()));
        *best = best.max(score);
        found_by.extend(kept);
    }
    // Tags that were not read this time are ranked as if they had been read. A page that a registry cuts short, or new
    // tags before `maxScan`, are no reason to remove an image. So the list does not grow, and an older tag takes no
    // newer one's place.
    for (query, path) in cut {
        let is_known = |image: &&DiscoveredImage| !same_spec || found_by(image).any(|by| by == *query);
        let known = || before.discovered_images.iter().filter(is_known);
        let is_read = |image: &str| images.get(image).is_some_and(|(_, found_by)| found_by.contains(query));
        let read: Vec<&str> = images.keys().copied().filter(|image| is_read(image)).collect();
        let unread = known().map(|image| image.image.as_str()).filter(|image| !is_read(image));
        let all: Vec<&str> = read.iter().copied().chain(unread).collect();
        let newest: BTreeSet<&str> = pipeline.newest(*query, path, all.into_iter()).into_iter().collect();
        for image in known().filter(|image| newest.contains(image.image.as_str())) {
            let score = image.final_score.parse().unwrap_or(0.0);
            images.entry(&image.image).or_insert((score, BTreeSet::new())).1.insert(*query);
        }
        let is_outdone = |image: &&str| pipeline.may_be_of(*query, path, image) && !newest.contains(image);
        for image in read.into_iter().filter(|_| !pipeline.is_ranked()).filter(is_outdone) {
            if images.get(image).is_some_and(|(_, found_by)| found_by.len() == 1) {
                images.remove(image);
            }
        }
    }
    let mut images: Vec<_> = images.into_iter().collect();
    images.sort_by(|(left_image, (left, _)), (right_image, (right, _))| {
        best_first((*left, left_image), (*right, right_image))
    });
    images.truncate(MOST_LISTED);
    let discovered =
        |(position, (image, (score, found_by))): (usize, (&str, (f64, BTreeSet<usize>)))| DiscoveredImage {
            image: image.to_owned(),
            rank: count(position + 1),
            final_score: score_text(score),
            found_by: found_by.into_iter().map(count).collect(),
        };
    images.into_iter().enumerate().map(discovered).collect()
}

/// Returns the positions of the queries that named an image.
fn found_by(image: &DiscoveredImage) -> impl Iterator<Item = usize> {
    image.found_by.iter().filter_map(|by| usize::try_from(*by).ok())
}

/// Returns the reason and message if a list may not be complete; `None` if it is.
pub(crate) fn trouble(status: &DiscoveryPolicyStatus) -> Option<(&str, &str)> {
    let ready = condition::ready(&status.conditions)?;
    (ready.status != ConditionStatus::True).then_some((&ready.reason, &ready.message))
}

/// Whether all sources that the scores depend on have answered in full. A failing query that the ranking does not use
/// delays no other query.
pub(crate) fn is_well(pipeline: &Pipeline, status: &DiscoveryPolicyStatus) -> bool {
    let mut results = status.query_results.iter().enumerate();
    trouble(status).is_none() && results.all(|(query, result)| result.reason.is_none() || !pipeline.uses(query))
}

/// Whether an image has left the list. It has not while the list is empty, or while a source or repository that may
/// have named it has not answered.
pub(crate) fn has_left(status: &DiscoveryPolicyStatus, pipeline: Option<&Pipeline>, image: &str) -> bool {
    let counts = |query: usize| pipeline.is_none_or(|pipeline| pipeline.uses(query));
    let may_have_named = |(at, result): (usize, &QueryResult)| {
        let is_of = |path: &String| pipeline.is_none_or(|pipeline| pipeline.may_be_of(at, path, image));
        let is_silent = result.status == QueryStatus::Failed && result.images == 0;
        counts(at) && (is_silent || result.failed_repositories.iter().any(is_of))
    };
    let mut results = status.query_results.iter().enumerate();
    !status.discovered_images.is_empty() && trouble(status).is_none() && !results.any(may_have_named)
}

#[cfg(test)]
mod tests {
    use drop_api::DiscoveryPolicySpec;
    use serde_json::json;

    use super::super::{Answer, End, Repository};
    use super::*;

    /// A run of the first spec.
    fn discovered(sources: Vec<SourceOutcome>, images: Vec<RankedImage>) -> Discovered {
        Discovered { spec: SpecId { uid: "u".into(), generation: Some(1) }, sources, images }
    }

    /// An image that the first query named.
    fn image() -> RankedImage {
        RankedImage { image: "a:1".into(), score: 1.0, signals: vec![Some(1.0)], found_by: vec![0], is_held: false }
    }

    #[test]
    fn what_a_source_says_by_the_way_is_in_its_result_and_explains_an_empty_list() {
        let source = json!({"type": "loki", "loki": {"endpoint": "http://loki", "query": "{job=\"events\"}"}});
        let spec: DiscoveryPolicySpec = serde_json::from_value(json!({"sources": [source]})).unwrap();
        let pipeline = Pipeline::compile(&spec).unwrap();
        let result = |count: usize, before: &DiscoveryPolicyStatus| {
            let note = Some("4 of 4 lines tell of no pull".to_owned());
            let sources = vec![SourceOutcome {
                elapsed: SignedDuration::ZERO,
                result: Ok(count),
                note,
                failed: vec![],
                empty: vec![],
                cut: vec![],
            }];
            let discovered = discovered(sources, vec![image(); count]);
            let status = outcome(&pipeline, &discovered, before, Timestamp::UNIX_EPOCH);
            let ready = condition::ready(&status.conditions).unwrap().clone();
            (status.query_results[0].message.clone().unwrap(), ready.reason, ready.message, status)
        };
        let (message, reason, ready, _) = result(0, &DiscoveryPolicyStatus::default());
        assert_eq!(message, "4 of 4 lines tell of no pull");
        assert_eq!((&*reason, &*ready), ("Synced", "0 images: 4 of 4 lines tell of no pull"));
        let (message, reason, ready, status) = result(1, &DiscoveryPolicyStatus::default());
        assert_eq!(message, "4 of 4 lines tell of no pull");
        assert_eq!((&*reason, &*ready), ("Synced", "1 image"));
        let (message, reason, _, status) = result(0, &status);
        assert_eq!((&*reason, status.image_count), ("EmptyResult", 1));
        assert_eq!(message, "it named no image, although it did before: 4 of 4 lines tell of no pull");
    }

    /// Returns the list, reason and message that a policy for the two newest tags of `app` shows after a run with
    /// `tags` and `end`, when it listed the tags `before` until then.
    fn registry(before: &[&str], end: &End, tags: &[&str]) -> (Vec<String>, String, String) {
        let registry = json!({"url": "https://r.example", "repositories": ["app"], "topX": 2, "tagFilter": "^[0-9]"});
        let spec: DiscoveryPolicySpec =
            serde_json::from_value(json!({"sources": [{"type": "registry", "registry": registry}]})).unwrap();
        let pipeline = Pipeline::compile(&spec).unwrap();
        let run = |before: &DiscoveryPolicyStatus, end: End, tags: &[&str]| {
            let tags = tags.iter().map(ToString::to_string).collect();
            let answer = Answer::Tags(vec![Repository { path: "app".to_owned(), tags, end }]);
            let measured = Ok(pipeline.measure(0, answer, Timestamp::UNIX_EPOCH));
            let sources = vec![SourceOutcome::new(SignedDuration::ZERO, &measured)];
            let images = pipeline.rank(&[measured.as_ref().ok()], |_| 1, &BTreeSet::new()).images;
            outcome(&pipeline, &discovered(sources, images), before, Timestamp::UNIX_EPOCH)
        };
        let status = run(&run(&DiscoveryPolicyStatus::default(), End::Whole, before), end.clone(), tags);
        let ready = condition::ready(&status.conditions).unwrap().clone();
        let tag = |image: &DiscoveredImage| image.image.rsplit_once(':').unwrap().1.to_owned();
        let mut listed: Vec<_> = status.discovered_images.iter().map(tag).collect();
        listed.sort();
        (listed, ready.reason, ready.message)
    }

    #[test]
    fn of_a_repository_that_was_not_read_to_its_end_the_newest_known_tags_stay() {
        let cases: [(End, &[&str], &[&str], &str); 8] = [
            // The registry lists new tags before the known ones, which lie behind the cut.
            (End::MaxScan, &["1"], &["2", "3"], "Synced"),
            (End::MaxScan, &["1", "4"], &["3", "4"], "Synced"),
            (End::MaxScan, &["1", "2", "4", "5"], &["4", "5"], "Synced"),
            (End::Stuck, &["1"], &["2", "3"], "PartiallyFailed"),
            (End::Stuck, &["1", "4"], &["3", "4"], "PartiallyFailed"),
            (End::Stuck, &[], &["2", "3"], "InvalidResponse"),
            (End::Whole, &["1"], &["1"], "Synced"),
            (End::Whole, &["1", "4"], &["1", "4"], "Synced"),
        ];
        for (end, tags, expected, why) in cases {
            let (listed, reason, message) = registry(&["2", "3"], &end, tags);
            assert_eq!(
                (&listed[..], &*reason),
                (&expected.iter().map(ToString::to_string).collect::<Vec<_>>()[..], why),
                "{end:?} {tags:?}"
            );
            assert_eq!(
                message.starts_with("app: the registry's next page brings no new tag"),
                end == End::Stuck,
                "{message}"
            );
        }
    }

    #[test]
    fn a_query_without_a_part_in_the_scores_makes_no_other_one_wait() {
        let prometheus = json!({"endpoint": "http://p.example", "query": "up"});
        let query = |name| json!({"name": name, "type": "prometheus", "prometheus": prometheus});
        let signal =
            |name, query| json!({"name": name, "query": query, "type": "aggregate", "aggregate": {"method": "sum"}});
        let spec: DiscoveryPolicySpec = serde_json::from_value(json!({
            "queries": [query("used"), query("unused")],
            "signals": [signal("a", "used"), signal("b", "unused")],
            "ranking": {"strategy": "signal", "signal": "a"},
        }))
        .unwrap();
        let pipeline = Pipeline::compile(&spec).unwrap();
        let failure = Err(SourceFailure::new(SourceReason::Timeout, "no answer"));
        for (failed, is_well) in [(0, false), (1, true)] {
            let source = |at| match at == failed {
                true => SourceOutcome::new(SignedDuration::ZERO, &failure),
                false => SourceOutcome {
                    result: Ok(1),
                    ..SourceOutcome::new(SignedDuration::ZERO, &Ok(Measured::default()))
                },
            };
            let discovered = discovered(vec![source(0), source(1)], vec![image()]);
            let status = outcome(&pipeline, &discovered, &DiscoveryPolicyStatus::default(), Timestamp::UNIX_EPOCH);
            assert_eq!(super::is_well(&pipeline, &status), is_well, "{failed}");
        }
    }
}
