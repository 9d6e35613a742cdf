//! A DiscoveryPolicy, compiled to run.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};

use drop_api::discovery_policy::DiscoveryPolicySpec;
use drop_api::scheduling::NodeSelector;
use jiff::Timestamp;

use super::answer::{Answer, End, Repository, Sample};
use super::left_out::{LeftOut, Why};
use super::names::{Names, Reader};
use super::query::{self, Backend, Query};
use super::ranking::{Ranking, Values, rounded};
use super::signal::{self, Evidence, Signal};
use super::tags::Tags;
use super::{InvalidSpec, SourceFailure};
use crate::Name;

/// The most images that a signal keeps: those with the highest values. It is also the most that a query names as left
/// out, because an answer may name any number of images.
pub const MOST_IMAGES: usize = 5_000;

/// How much higher the score of another image must be, as a part of its own, before a listed image loses its place.
pub const MARGIN: f64 = 0.1;

/// The queries of a DiscoveryPolicy, and the steps from their answers to its list. The short form
/// (`sources`) is read as the full one, so that there is one pipeline.
#[derive(Clone, Debug)]
pub struct Pipeline {
    queries: Vec<Query>,
    /// One per query; `Some` for registries only.
    tags: Vec<Option<Tags>>,
    signals: Vec<Signal>,
    ranking: Ranking,
    names: Names,
    max_images: usize,
}

/// The values of an answer: a finite number per signal and image. Drop keeps those of a query's last success. They mean
/// nothing to another [`Pipeline`] than the one that measured them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// By the signal's position in [`Pipeline::signals`].
    pub signals: BTreeMap<usize, BTreeMap<Name, f64>>,
    /// The names in the answer that are not images, or that the filters leave out.
    pub left_out: Vec<LeftOut>,
    /// A note for people about the answer, such as repositories that were not read to their end.
    pub note: Option<String>,
    /// The repositories that failed beside others, with the failure of each.
    pub failed: Vec<(String, SourceFailure)>,
    /// The repositories without a tag.
    pub empty: Vec<String>,
    /// The repositories of which only some tags were read, each with the reason.
    pub cut: Vec<(String, Why)>,
}

/// Images by their score.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranked {
    /// At most `maxImages`, best first, ties by name.
    pub images: Vec<RankedImage>,
    /// All other images that queries named, by name.
    pub left_out: Vec<LeftOut>,
}

/// An image with its score.
#[derive(Clone, Debug, PartialEq)]
pub struct RankedImage {
    /// The full reference.
    pub image: Name,
    /// Finite and not negative.
    pub score: f64,
    /// The value of each signal, by its position in [`Pipeline::signals`].
    pub signals: Vec<Option<f64>>,
    /// The positions of the queries that named it.
    pub found_by: Vec<usize>,
    /// Whether a better image is left out, because this one was listed before and is not much worse.
    pub is_held: bool,
}

impl Measured {
    /// How many images have a value.
    #[must_use]
    pub fn image_count(&self) -> usize {
        self.signals.values().flat_map(BTreeMap::keys).collect::<BTreeSet<_>>().len()
    }
}

impl Pipeline {
    /// Compiles either form of the spec.
    ///
    /// # Errors
    /// The field that is wrong, even if the API server validates it too.
    pub fn compile(spec: &DiscoveryPolicySpec) -> Result<Self, InvalidSpec> {
        let queries = query::compile(spec)?;
        let list = if spec.queries.is_empty() { "sources" } else { "queries" };
        let tags = queries.iter().enumerate().map(|(at, query)| match &query.backend {
            Backend::Registry(registry) => Tags::compile(&format!("{list}[{at}]"), registry).map(Some),
            Backend::Prometheus(_) | Backend::Loki(_) => Ok(None),
        });
        let tags = tags.collect::<Result<_, _>>()?;
        let signals = signal::compile(spec, &queries)?;
        if spec.ranking.is_some() && spec.signals.is_empty() {
            let message = "ranking needs signals: write at least one, or remove ranking to order images by their \
                           highest value";
            return Err(InvalidSpec::new("ranking", message));
        }
        let max_images = usize::try_from(spec.max_images).ok().filter(|max| *max > 0);
        Ok(Self {
            ranking: Ranking::compile(spec.ranking.as_ref(), &signals)?,
            names: Names::compile(spec.image_filter.as_deref())?,
            max_images: max_images.ok_or_else(|| InvalidSpec::new("maxImages", "it must be above 0"))?,
            queries,
            tags,
            signals,
        })
    }

    /// Whether a score combines several signals, so that none can be missing.
    #[must_use]
    pub fn is_ranked(&self) -> bool {
        !matches!(self.ranking, Ranking::Highest)
    }

    /// Whether the scores depend on query number `query`.
    #[must_use]
    pub fn uses(&self, query: usize) -> bool {
        let of_query = self.signals.iter().enumerate().filter(|(_, signal)| signal.query == query);
        of_query.map(|(at, _)| at).any(|signal| self.ranking.uses(signal))
    }

    /// Whether query number `query` may have named `image` as a tag of this repository.
    #[must_use]
    pub fn may_be_of(&self, query: usize, repository: &str, image: &str) -> bool {
        let tags = self.tags.get(query).and_then(Option::as_ref);
        tags.is_none_or(|tags| tags.may_be_of(repository, image))
    }

    /// Returns the newest of `images`, if they may be tags of a repository: as many as the policy allows per
    /// repository.
    #[must_use]
    pub fn newest<'a>(&self, query: usize, repository: &str, images: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
        let images = images.filter(|image| self.names.read(image).is_ok());
        let tags = self.tags.get(query).and_then(Option::as_ref);
        tags.map(|tags| tags.newest(repository, images, self.max_images)).unwrap_or_default()
    }

    /// The queries, in the order of the spec.
    #[must_use]
    pub fn queries(&self) -> &[Query] {
        &self.queries
    }

    /// The names of the signals, in the order of the spec.
    pub fn signals(&self) -> impl ExactSizeIterator<Item = &Name> {
        self.signals.iter().map(|signal| &signal.name)
    }

    /// Measures the answer to query number `query`.
    #[must_use]
    pub fn measure(&self, query: usize, answer: Answer, now: Timestamp) -> Measured {
        let mut reader = self.names.reader();
        let mut left_out = Vec::new();
        let (mut note, mut failed, mut empty, mut cut) = (None, Vec::new(), Vec::new(), Vec::new());
        let evidence = match answer {
            Answer::Series(series) => {
                samples(&mut reader, series.into_iter().map(|series| (series.image, series.samples)))
            }
            Answer::Tags(repositories) => {
                let tags = self.tags.get(query).and_then(Option::as_ref);
                let (images, others) = tags.map(|tags| positions(tags, &repositories, now)).unwrap_or_default();
                left_out.extend(others);
                let failures = repositories.iter().filter_map(Repository::failure);
                failed.extend(failures.map(|(path, failure)| (path.to_owned(), failure.clone())));
                let without = |listed: &&Repository| listed.tags.is_empty() && matches!(listed.end, End::Whole);
                empty.extend(repositories.iter().filter(without).map(|repository| repository.path.clone()));
                let cuts = repositories.iter().filter_map(|listed| Some((listed.path.clone(), listed.end.why()?)));
                cut.extend(cuts);
                note = remark(&cut);
                samples(&mut reader, images.into_iter().map(|(image, sample)| (image, vec![sample])))
            }
            Answer::Pulls(pulls) => {
                let mut by_image: BTreeMap<Name, Vec<_>> = BTreeMap::new();
                for pull in pulls {
                    if let Some(image) = reader.read(&pull.image) {
                        by_image.entry(image).or_default().push(pull);
                    }
                }
                by_image.into_iter().map(|(image, pulls)| (image, Evidence::Pulls(pulls))).collect()
            }
        };
        left_out.extend(reader.left_out());

        let mut signals: BTreeMap<usize, Values> = BTreeMap::new();
        for (image, evidence) in evidence {
            let of_query = self.signals.iter().enumerate().filter(|(_, signal)| signal.query == query);
            let values: Vec<_> =
                of_query.filter_map(|(at, signal)| Some((at, signal.value(&evidence, now)?))).collect();
            if values.is_empty() {
                left_out.push(LeftOut { image: image.clone(), why: Why::NoValue });
            }
            for (at, value) in values {
                signals.entry(at).or_default().insert(image.clone(), value);
            }
        }
        for values in signals.values_mut() {
            left_out.extend(highest(values));
        }
        left_out.truncate(MOST_IMAGES);
        Measured { signals, left_out, note, failed, empty, cut }
    }

    /// Ranks the images by the values of every query: those of this run, or of the query's last success. A query that
    /// never answered is `None`. `nodes` counts the Ready nodes that a selector selects, or all Ready nodes. An image
    /// that is `listed` gives its place to one with a score that is [`MARGIN`] higher: two images of nearly the same
    /// score at the cut of `maxImages` would come and go with every run.
    #[must_use]
    pub fn rank(
        &self,
        measured: &[Option<&Measured>],
        nodes: impl Fn(Option<&NodeSelector>) -> usize,
        listed: &BTreeSet<Name>,
    ) -> Ranked {
        let none = Values::new();
        let of_query = |query: usize| measured.get(query).copied().flatten();
        let values = self
            .signals
            .iter()
            .enumerate()
            .map(|(at, signal)| of_query(signal.query).map(|measured| measured.signals.get(&at).unwrap_or(&none)));
        let values: Vec<Option<&Values>> = values.collect();

        let mut ranked = Vec::new();
        let mut left_out: BTreeSet<LeftOut> = BTreeSet::new();
        for (image, score) in self.ranking.scores(&self.signals, &values, nodes) {
            match score {
                Ok(score) => ranked.push((score, image)),
                Err(why) => drop(left_out.insert(LeftOut { image, why })),
            }
        }
        ranked
            .sort_by(|(left, left_image), (right, right_image)| best_first((*left, left_image), (*right, right_image)));
        // One query may leave out an image that another one ranks.
        let names: BTreeSet<&Name> = ranked.iter().map(|(_, image)| image).collect();
        let others = (0..self.queries.len()).filter_map(of_query).flat_map(|measured| &measured.left_out);
        left_out.extend(others.filter(|other| !names.contains(&other.image)).cloned());
        let kept = ranked.len().min(self.max_images);
        let (best, beyond) = ranked.split_at_mut(kept);
        let held = hold(best, beyond, listed);
        let beyond = ranked.split_off(kept);
        left_out.extend(beyond.into_iter().map(|(_, image)| LeftOut { image, why: Why::MaxImages }));

        let images = ranked.into_iter().map(|(score, image)| {
            let is_held = held.contains(&image);
            let signals: Vec<_> =
                values.iter().map(|values| values.and_then(|values| values.get(&image).copied())).collect();
            // A signal without a part in the score has not named the image.
            let used = self.signals.iter().zip(&signals).enumerate().filter(|(at, _)| self.ranking.uses(*at));
            let of_signals = used.map(|(_, of_signal)| of_signal);
            let found_by: BTreeSet<_> =
                of_signals.filter(|(_, value)| value.is_some()).map(|(signal, _)| signal.query).collect();
            RankedImage { image, score, signals, found_by: found_by.into_iter().collect(), is_held }
        });
        Ranked { images: images.collect(), left_out: left_out.into_iter().collect() }
    }
}

/// Exchanges the worst of the `best` images that are not listed for listed ones from `beyond` that are not much worse.
/// Both are in order, and stay so. Returns the images that came in.
fn hold(best: &mut [(f64, Name)], beyond: &mut [(f64, Name)], listed: &BTreeSet<Name>) -> BTreeSet<Name> {
    let mut held = BTreeSet::new();
    let mut newcomers = best.iter_mut().rev().filter(|(_, image)| !listed.contains(image));
    for other in beyond.iter_mut().filter(|(_, image)| listed.contains(image)) {
        let Some(newcomer) = newcomers.next().filter(|(score, _)| *score < other.0 * (1.0 + MARGIN)) else { break };
        held.insert(other.1.clone());
        std::mem::swap(newcomer, other);
    }
    best.sort_by(|(left, left_image), (right, right_image)| best_first((*left, left_image), (*right, right_image)));
    held
}

/// Compares two images by their score or value, the higher first, and then by name.
pub(super) fn best_first((left, left_image): (f64, &str), (right, right_image): (f64, &str)) -> Ordering {
    right.total_cmp(&left).then_with(|| left_image.cmp(right_image))
}

/// Returns the samples of each image in the order of time. It merges several series of one image, and sorts samples of
/// the same time by value: backends send series in any order, but the sum of the same numbers must not depend on it.
fn samples(reader: &mut Reader, series: impl Iterator<Item = (String, Vec<Sample>)>) -> BTreeMap<Name, Evidence> {
    let mut by_image: BTreeMap<Name, Vec<Sample>> = BTreeMap::new();
    for (image, samples) in series {
        // There may be millions of series, so none is copied without need.
        match reader.read(&image).map(|image| by_image.entry(image)) {
            Some(Entry::Occupied(mut of_image)) => of_image.get_mut().extend(samples),
            Some(Entry::Vacant(none)) => drop(none.insert(samples)),
            None => {}
        }
    }
    let in_order = |(image, mut samples): (Name, Vec<Sample>)| {
        samples.sort_unstable_by(|left, right| left.at.cmp(&right.at).then(left.value.total_cmp(&right.value)));
        (image, Evidence::Samples(samples))
    };
    by_image.into_iter().map(in_order).collect()
}

/// Values the newest tag of each repository at 1, the next at 1/2, then 1/3, so that the newest tags of all
/// repositories come first. If two repositories name the same image, the greater value counts.
fn positions(tags: &Tags, repositories: &[Repository], now: Timestamp) -> (BTreeMap<String, Sample>, Vec<LeftOut>) {
    let mut positions: BTreeMap<String, Sample> = BTreeMap::new();
    let mut left_out: Vec<_> = repositories.iter().filter_map(|repository| tags.beyond(repository)).collect();
    for repository in repositories {
        let (images, others) = tags.images(repository);
        left_out.extend(others);
        for (position, image) in images.into_iter().enumerate() {
            let sample = Sample { at: now, value: 1.0 / (position as f64 + 1.0) };
            let best = positions.entry(image).or_insert(sample);
            best.value = best.value.max(sample.value);
        }
    }
    (positions, left_out)
}

/// Returns a note that names the repositories that were not read to their end.
fn remark(cut: &[(String, Why)]) -> Option<String> {
    let ((path, why), others) = cut.split_first()?;
    Some(match others.len() {
        0 => format!("{path}: {why}"),
        others => format!("{path} (and {others} more): {why}"),
    })
}

/// Keeps the [`MOST_IMAGES`] highest of `values`, and returns the others.
fn highest(values: &mut Values) -> Vec<LeftOut> {
    if values.len() <= MOST_IMAGES {
        return Vec::new();
    }
    let mut ordered: Vec<_> = std::mem::take(values).into_iter().collect();
    ordered.sort_by(|(left_image, left), (right_image, right)| best_first((*left, left_image), (*right, right_image)));
    let others = ordered.split_off(MOST_IMAGES);
    values.extend(ordered);
    others.into_iter().map(|(image, _)| LeftOut { image, why: Why::TooMany }).collect()
}

/// The score for a status: a decimal number with at most 12 significant digits, and without an exponent.
#[must_use]
pub fn score_text(score: f64) -> String {
    rounded(score).to_string()
}
