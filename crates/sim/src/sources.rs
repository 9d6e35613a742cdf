//! Simulates the sources of DiscoveryPolicies, and checks the lists against a reference model, for sources with one
//! number per image.

use std::collections::{BTreeMap, BTreeSet};

use drop_api::condition::{self, ConditionStatus};
use drop_api::discovery_policy::{DiscoveredImage, QueryStatus};
use drop_api::{CachedImage, DiscoveryPolicy, DiscoveryPolicySpec, DiscoveryPolicyStatus};
use drop_core::discovery::{
    Answer, Backend, Discovered, Order, Pipeline, SourceFailure, SourceOutcome, SourceReason, score_text,
};
use drop_core::event::Report;
use drop_core::image::{Image, Origin};
use drop_core::reference::Reference;
use drop_core::{Effect, Name};
use jiff::Timestamp;

use crate::check::Faults;
use crate::{Lab, secs};

impl Lab {
    /// Asks the sources of a DiscoveryPolicy, as the operator does.
    pub(crate) fn discover(&mut self, order: &Order) -> Report {
        let mut measured = Vec::new();
        for (at, query) in order.pipeline.queries().iter().enumerate() {
            let address = match &query.backend {
                Backend::Prometheus(query) => &query.endpoint,
                Backend::Loki(query) => &query.endpoint,
                Backend::Registry(query) => &query.url,
            };
            let Some(answer) = self.answer_of(address, query.secret.as_deref()) else {
                let refused = format!("there is no source at {address}");
                self.violate(refused.clone());
                return Report::Refused(refused);
            };
            // The next answer is the one that alternates with it.
            if let (Some(now), Some(next)) =
                (self.knobs.sources.get_mut(address), self.knobs.alternates.get_mut(address))
            {
                std::mem::swap(now, next);
            }
            measured.push(answer.map(|answer| order.pipeline.measure(at, answer, self.now)));
        }
        let answered: Vec<_> = measured.iter().map(|measured| measured.as_ref().ok()).collect();
        let images = order.pipeline.rank(&answered, |_| order.nodes, &order.listed).images;
        let sources = measured.iter().map(|measured| SourceOutcome::new(secs(0.1), measured));
        Report::Discovered(Box::new(Discovered { spec: order.spec.clone(), sources: sources.collect(), images }))
    }

    /// Returns the answer of the source at this address to a client with this Secret; `None` if there is no source.
    fn answer_of(&self, address: &str, secret: Option<&str>) -> Option<Result<Answer, SourceFailure>> {
        let fail = |reason, message: &str| Some(Err(SourceFailure::new(reason, message)));
        match secret {
            Some(secret) if !self.api.secrets.contains_key(secret) => {
                fail(SourceReason::SecretNotFound, "there is no such Secret")
            }
            Some(secret) if self.knobs.wrong_secrets.contains(secret) => {
                fail(SourceReason::Unauthorized, "401 Unauthorized")
            }
            _ => self.knobs.sources.get(address).cloned(),
        }
    }

    /// Returns the answers that the sources of the short form would give now.
    fn answers_now(&self, spec: &DiscoveryPolicySpec) -> Vec<Option<Result<Answer, SourceFailure>>> {
        let answers = spec.sources.iter().map(|source| {
            let address = source.prometheus.as_ref().map(|prometheus| &prometheus.endpoint)?;
            self.answer_of(address, source.secret_ref.as_ref().map(|secret| &*secret.name))
        });
        answers.collect()
    }

    /// Returns the faults in the statuses of DiscoveryPolicies, as sentences, if every policy must have asked its
    /// sources since the last change.
    #[must_use]
    pub fn faults_of_discoveries(&self) -> Vec<String> {
        let policies = self.api.discoveries.iter();
        policies.flat_map(|(name, policy)| self.faults_of_discovery_at_rest(name, policy)).collect()
    }

    fn faults_of_discovery_at_rest(&self, name: &str, policy: &DiscoveryPolicy) -> Vec<String> {
        let mut faults = Faults::default();
        let Some(status) = &policy.status else { return vec![format!("DiscoveryPolicy {name} has no status")] };
        let is_observed = status.observed_generation == policy.metadata.generation;
        faults.unless(is_observed, || "its status is that of an older generation".to_owned());
        let reason = condition::ready(&status.conditions).map_or("", |ready| &*ready.reason);
        if policy.spec.image_filter.as_deref() == Some("(") {
            faults.unless(reason == "InvalidSpec", || format!("its filter cannot be read, and it shows {reason}"));
            return faults.at(|| format!("DiscoveryPolicy {name}: {status:#?}"));
        }
        let answers = self.answers_now(&policy.spec);
        let mut found: BTreeMap<String, f64> = BTreeMap::new();
        let mut is_complete = true;
        faults.unless(status.query_results.len() == answers.len(), || "it shows another number of sources".to_owned());
        for (result, answer) in status.query_results.iter().zip(&answers) {
            let shown = result.reason.as_deref().unwrap_or_default();
            let is_true = match answer {
                Some(Err(failure)) => shown == failure.reason.as_str() && result.status == QueryStatus::Failed,
                Some(Ok(Answer::Series(series))) if !series.is_empty() => {
                    for series in series {
                        let best = found.entry(Reference::parse(&series.image).to_string()).or_default();
                        *best = series.samples.iter().map(|sample| sample.value).fold(*best, f64::max);
                    }
                    shown.is_empty() && result.status == QueryStatus::Success
                }
                // The meaning depends on whether the source named any before.
                _ => shown.is_empty() || shown == SourceReason::EmptyResult.as_str(),
            };
            is_complete &= shown.is_empty();
            faults.unless(is_true, || format!("source {} is shown as {shown:?}, and says {answer:?}", result.name));
        }
        if is_complete {
            let most = usize::try_from(policy.spec.max_images).unwrap_or(0);
            let shown: Vec<_> = status.discovered_images.iter().map(|it| (&it.image, &it.final_score)).collect();
            let is_shown = |image: &&String| shown.iter().any(|(other, _)| other == image);
            let (listed, left): (Vec<_>, Vec<_>) = found.iter().partition(|(image, _)| is_shown(image));
            let mut expected = listed.clone();
            expected.sort_by(|(left, a), (right, b)| b.total_cmp(a).then_with(|| left.cmp(right)));
            let texts: Vec<_> = expected.iter().map(|(image, score)| (*image, score_text(**score))).collect();
            let is_ranked = shown.iter().map(|(image, score)| (*image, (*score).clone())).eq(texts);
            // A listed image keeps its place for two runs if the better image is less than a tenth better.
            let worst = expected.last().map_or(f64::INFINITY, |(_, score)| **score);
            let is_much_better = |(_, score): &(&String, &f64)| **score >= worst * 1.1 && **score > worst;
            let is_full = listed.len() == found.len().min(most);
            let is_right = is_ranked && is_full && !left.iter().any(is_much_better);
            faults.unless(is_right, || format!("it lists {shown:?}, and its sources name {found:?}"));
            faults.unless(reason == "Synced", || format!("all is well, and it shows {reason}"));
        } else {
            faults.unless(reason != "Synced", || "a source fails, and it shows Synced".to_owned());
        }
        faults.at(|| format!("DiscoveryPolicy {name}: {status:#?}"))
    }

    /// Checks that a status of a DiscoveryPolicy, which is about to be written, keeps the images that it must keep.
    pub(crate) fn faults_of_list(&self, policy: &str, status: &DiscoveryPolicyStatus) -> Vec<String> {
        let mut faults = Faults::default();
        let images = &status.discovered_images;
        let is_counted = usize::try_from(status.image_count) == Ok(images.len())
            && images.iter().zip(1..).all(|(image, rank)| image.rank == rank);
        faults.unless(is_counted, || "its images are not counted from 1 on".to_owned());
        let nothing = DiscoveryPolicyStatus::default();
        let before = self.api.discoveries.get(policy).and_then(|policy| policy.status.as_ref()).unwrap_or(&nothing);
        let is_emptied = images.is_empty() && !before.discovered_images.is_empty();
        faults.unless(!is_emptied, || "its list is emptied".to_owned());
        let listed: BTreeSet<&str> = images.iter().map(|image| &*image.image).collect();
        let failed = |by: &i32| {
            let result = usize::try_from(*by).ok().and_then(|by| status.query_results.get(by));
            result.is_some_and(|result| result.status == QueryStatus::Failed)
        };
        // Positions belong to one spec.
        let is_same_spec = before.observed_generation == status.observed_generation;
        let is_kept = |image: &&DiscoveredImage| is_same_spec && image.found_by.iter().any(failed);
        for image in before.discovered_images.iter().filter(is_kept) {
            let is_listed = listed.contains(&*image.image);
            faults.unless(is_listed, || format!("{} is dropped, and the source that named it fails", image.image));
        }
        faults.at(|| format!("DiscoveryPolicy {policy}: {status:#?}, after {before:#?}"))
    }

    /// Records a status that a DiscoveryPolicy shows, or is to show.
    pub(crate) fn lists(&mut self, policy: &str, status: Option<DiscoveryPolicyStatus>) {
        self.record.lists.entry(policy.to_owned()).or_default().push((self.now, status));
    }

    /// Checks the deletion of a set's child, which is about to happen and was requested at `sent_at`.
    pub(crate) fn faults_of_deletion(&self, set: &Name, child: &CachedImage, sent_at: Timestamp) -> Vec<String> {
        let mut faults = Faults::default();
        let changed_at = self.record.set_changed_at.get(&**set);
        let is_known = changed_at.is_none_or(|at| sent_at.duration_since(*at) > self.hearsay());
        let image = Image::from_api(child).filter(|_| is_known);
        let (Some(image), Some(object)) = (image, self.api.sets.get(&**set)) else { return Vec::new() };
        let is_twin = |other: &Image| other.reference == image.reference && other.name != image.name;
        if self.api.images.values().filter_map(Image::from_api).any(|other| is_twin(&other) && other.set == image.set) {
            return Vec::new();
        }
        let mut entries = object.spec.images.iter();
        let is_asked_for = entries.any(|entry| crate::rest::reference_of(&entry.image, &entry.tag) == image.reference);
        faults.unless(!is_asked_for, || "it is asked for".to_owned());
        if let Some(policy) = &object.spec.discovery_policy_ref
            && image.origin == Some(Origin::Discovered)
        {
            let shown = self.api.discoveries.get(&policy.name).and_then(|policy| policy.status.as_ref());
            let history = self.record.lists.get(&policy.name).map(Vec::as_slice).unwrap_or_default();
            let since = history.partition_point(|(at, _)| *at < sent_at - self.hearsay()).saturating_sub(1);
            let in_force = history.iter().skip(since).filter_map(|(_, status)| status.as_ref());
            let statuses: Vec<_> = in_force.chain(shown).collect();
            let spec = self.api.discoveries.get(&policy.name).map(|policy| &policy.spec);
            let pipeline = spec.and_then(|spec| Pipeline::compile(spec).ok());
            let has_left = statuses.iter().any(|status| has_left(status, &image.reference, pipeline.as_ref()));
            faults.unless(has_left, || format!("its policy does not say that it is gone: {statuses:#?}"));
        }
        faults.at(|| format!("{} of {set}", image.name))
    }

    /// Records the status that a plan writes to a DiscoveryPolicy: it counts as shown.
    pub(crate) fn note_list(&mut self, effect: &Effect) {
        if let Effect::PatchDiscovery { policy, status } = effect {
            self.lists(policy, Some((**status).clone()));
        }
    }
}

/// Whether a DiscoveryPolicy with this status has found everything but this image.
pub(crate) fn has_left(status: &DiscoveryPolicyStatus, image: &Reference, pipeline: Option<&Pipeline>) -> bool {
    is_exhaustive(status, pipeline)
        && status.discovered_images.iter().all(|found| Reference::parse(&found.image) != *image)
}

/// Whether the list of a DiscoveryPolicy with this status is complete. A query that the scores do not depend on names
/// no image by itself.
pub(crate) fn is_exhaustive(status: &DiscoveryPolicyStatus, pipeline: Option<&Pipeline>) -> bool {
    let is_ready = condition::ready(&status.conditions).is_some_and(|ready| ready.status == ConditionStatus::True);
    let counts = |at: usize| pipeline.is_none_or(|pipeline| pipeline.uses(at));
    let results = status.query_results.iter().enumerate();
    let mut silent = results.filter(|(at, it)| it.status == QueryStatus::Failed && it.images == 0 && counts(*at));
    is_ready && !status.discovered_images.is_empty() && silent.next().is_none()
}
