//! Combines signals to one score per image.

use std::collections::{BTreeMap, BTreeSet};

use drop_api::discovery_policy::{self as api, MissingSignal, NodeCount, RankingStrategy, UsageModel};
use drop_api::scheduling::NodeSelector;

use super::InvalidSpec;
use super::left_out::Why;
use super::signal::Signal;
use crate::Name;

/// The values of one signal.
pub type Values = BTreeMap<Name, f64>;

/// How signals combine to one score. Their positions name the signals.
#[derive(Clone, Debug, PartialEq)]
pub enum Ranking {
    /// The highest value of all signals.
    Highest,
    /// The value of one signal.
    Signal(usize),
    /// The sum of normalised signals, each times its weight.
    WeightedSum { terms: Vec<(usize, f64)>, missing: MissingSignal },
    /// A model of jobs that land on nodes at random.
    Usage { model: Model, nodes: NodeCount, pre: usize, target: usize, pull_time: usize },
}

/// The model that turns an image's pulls into a score. Each of the N nodes takes a job with the same probability. So
/// the probability that a node has not run the image after J jobs is q^J with q = 1 − 1/N. A pull takes p.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// `J_target · q^J_pre · p`: the pull time of the window's jobs, if each found its node in the state that the
    /// window's first job found. A node that stays cold for several jobs counts several times.
    Exposure,
    /// `N · q^J_pre · (1 − q^J_target) · p`: the expected number of nodes that run the image within the window and not
    /// before, times p. This is the time that a warm image saves.
    Savings,
}

impl Ranking {
    /// Whether the score depends on a signal.
    #[must_use]
    pub fn uses(&self, signal: usize) -> bool {
        match self {
            Self::Highest => true,
            Self::Signal(used) => *used == signal,
            Self::WeightedSum { terms, .. } => terms.iter().any(|(used, _)| *used == signal),
            Self::Usage { pre, target, pull_time, .. } => [*pre, *target, *pull_time].contains(&signal),
        }
    }

    /// Compiles the ranking of the spec over `signals`.
    ///
    /// # Errors
    /// If it is not complete, or refers to a signal that does not exist.
    pub fn compile(spec: Option<&api::Ranking>, signals: &[Signal]) -> Result<Self, InvalidSpec> {
        let Some(spec) = spec else { return Ok(Self::Highest) };
        let missing = |field: &str| InvalidSpec::new(format!("ranking.{field}"), "it is missing: strategy names it");
        let find = |path: String, name: &str| {
            let found = signals.iter().position(|signal| &*signal.name == name);
            found.ok_or_else(|| InvalidSpec::new(path, format!("{name:?} is not the name of one of signals[]")))
        };
        let usage = |field: &str, model, spec: &Option<UsageModel>| {
            let spec = spec.as_ref().ok_or_else(|| missing(field))?;
            let find = |name: &str, signal: &str| find(format!("ranking.{field}.{name}"), signal);
            Ok(Self::Usage {
                model,
                nodes: spec.nodes.clone().unwrap_or_default(),
                pre: find("preWindowUsageSignal", &spec.pre_window_usage_signal)?,
                target: find("targetWindowUsageSignal", &spec.target_window_usage_signal)?,
                pull_time: find("pullTimeSignal", &spec.pull_time_signal)?,
            })
        };
        match spec.strategy {
            RankingStrategy::Signal => {
                let name = spec.signal.as_ref().ok_or_else(|| missing("signal"))?;
                Ok(Self::Signal(find("ranking.signal".to_owned(), name)?))
            }
            RankingStrategy::WeightedSum => {
                let sum = spec.weighted_sum.as_ref().ok_or_else(|| missing("weightedSum"))?;
                let terms = sum.terms.iter().enumerate().map(|(at, term)| {
                    let signal = find(format!("ranking.weightedSum.terms[{at}].signal"), &term.signal)?;
                    Ok((signal, term.weight.get()))
                });
                let terms: Vec<_> = terms.collect::<Result<_, _>>()?;
                if terms.iter().all(|(_, weight)| *weight == 0.0) {
                    let message = "all weights are 0, so that all images are equal: give one a weight above 0";
                    return Err(InvalidSpec::new("ranking.weightedSum.terms", message));
                }
                Ok(Self::WeightedSum { terms, missing: sum.missing_signal })
            }
            RankingStrategy::ModelExposure => usage("modelExposure", Model::Exposure, &spec.model_exposure),
            RankingStrategy::ExpectedSavings => usage("expectedSavings", Model::Savings, &spec.expected_savings),
        }
    }

    /// Returns the score of each image that `values` names, or the reason why it has none. There is one entry per
    /// signal; it is `None` if its query never answered. `nodes` counts the Ready nodes that a selector selects, or all
    /// Ready nodes.
    pub fn scores(
        &self,
        signals: &[Signal],
        values: &[Option<&Values>],
        nodes: impl Fn(Option<&NodeSelector>) -> usize,
    ) -> BTreeMap<Name, Result<f64, Why>> {
        let of_signal = |signal: usize| values.get(signal).copied().flatten();
        let of = |signal: usize, image: &str| of_signal(signal).and_then(|values| values.get(image).copied());
        let missing =
            |signal: usize| Why::NoSignal(signals.get(signal).map_or("".into(), |signal| signal.name.clone()));
        let needed = |signal: usize, image: &str| of(signal, image).ok_or_else(|| missing(signal));
        let images: BTreeSet<&Name> = values.iter().flatten().flat_map(|values| values.keys()).collect();
        let scales: Vec<_> = values.iter().map(|values| values.map(Scale::of)).collect();
        let nodes = match self {
            Self::Usage { nodes: spec, .. } => count_nodes(spec, nodes),
            Self::Highest | Self::Signal(_) | Self::WeightedSum { .. } => 0.0,
        };
        let score = |image: &str| match self {
            Self::Highest => {
                let all = values.iter().flatten().filter_map(|values| values.get(image).copied());
                all.reduce(f64::max).ok_or(Why::NoValue)
            }
            Self::Signal(signal) => needed(*signal, image),
            Self::WeightedSum { terms, missing } => {
                let terms = terms.iter().map(|(signal, weight)| {
                    let value = match missing {
                        MissingSignal::Zero => of(*signal, image),
                        MissingSignal::Drop => Some(needed(*signal, image)?),
                    };
                    let scale = scales.get(*signal).and_then(Option::as_ref);
                    let normal = scale.zip(value).map_or(0.0, |(scale, value)| scale.normal(value));
                    Ok(normal * weight)
                });
                terms.sum()
            }
            Self::Usage { model, pre, target, pull_time, .. } => {
                // An image without a job before the window is cold on every node, unless that signal is missing as a
                // whole. An image without a job within the window, or whose pull time is not known, is not ranked.
                of_signal(*pre).ok_or_else(|| missing(*pre))?;
                let pre = of(*pre, image).unwrap_or(0.0);
                let (target, pull_time) = (needed(*target, image)?, needed(*pull_time, image)?);
                if pre.min(target).min(pull_time) < 0.0 {
                    return Err(Why::Negative);
                }
                Ok(model.score(nodes, pre, target, pull_time))
            }
        };
        images.into_iter().map(|image| (image.clone(), score(image).and_then(rankable))).collect()
    }
}

/// NaN, infinities and negative numbers never rank.
fn rankable(score: f64) -> Result<f64, Why> {
    match score {
        score if !score.is_finite() => Err(Why::NotFinite),
        score if score < 0.0 => Err(Why::Negative),
        // Of 0 and −0, 0.
        score => Ok(rounded(score) + 0.0),
    }
}

/// Rounds `number` to 12 significant digits, as a calculator shows it: arithmetic in `f64` gives 0.5000000000000001
/// instead of 0.5, and 0.30000000000000004 for 0.1 + 0.2.
pub fn rounded(number: f64) -> f64 {
    format!("{number:.11e}").parse().unwrap_or(number)
}

/// Returns N. If a selector selects no Ready node, `count` is used instead.
fn count_nodes(spec: &NodeCount, nodes: impl Fn(Option<&NodeSelector>) -> usize) -> f64 {
    let count = spec.count.map(f64::from);
    let selected = match (&spec.selector, count) {
        (None, Some(count)) => return count,
        (selector, _) => nodes(selector.as_ref()) as f64,
    };
    if selected == 0.0 { count.unwrap_or(0.0) } else { selected }
}

impl Model {
    /// Returns the score for N nodes, the numbers of jobs before and within the window, and the duration of a pull.
    /// None of them is below 0.
    ///
    /// Without nodes (N = 0) it is `J_target · p`, the limit of both models as N grows: no node is warm, and every job
    /// would wait. So while no node is Ready, images are still ordered by use and pull time.
    pub fn score(self, nodes: f64, pre: f64, target: f64, pull_time: f64) -> f64 {
        if nodes == 0.0 {
            return target * pull_time;
        }
        // ln_1p keeps the digits that 1 − 1/N loses for many nodes, and exp_m1 those that 1 − q^J loses for few jobs.
        let ln_q = (-1.0 / nodes).ln_1p();
        // For N = 1, ln q is −∞, and 0 · −∞ is NaN; but q^0 = 1 for every q.
        let exponent = |jobs: f64| if jobs == 0.0 { 0.0 } else { jobs * ln_q };
        let cold = exponent(pre).exp();
        match self {
            Self::Exposure => target * cold * pull_time,
            Self::Savings => nodes * cold * -exponent(target).exp_m1() * pull_time,
        }
    }
}

/// The range of a signal over all images that have it.
struct Scale {
    min: f64,
    max: f64,
}

impl Scale {
    fn of(values: &Values) -> Self {
        let min = values.values().copied().fold(f64::INFINITY, f64::min);
        let max = values.values().copied().fold(f64::NEG_INFINITY, f64::max);
        Self { min, max }
    }

    /// `(x − min) / (max − min)`; 1 where all values are equal.
    fn normal(&self, value: f64) -> f64 {
        // Halves, because the difference of two large numbers may overflow.
        let range = self.max / 2.0 - self.min / 2.0;
        if range == 0.0 { 1.0 } else { (value / 2.0 - self.min / 2.0) / range }
    }
}
