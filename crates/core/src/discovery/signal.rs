//! Computes a number per image from the answer to one query.

use drop_api::discovery_policy::{
    self as api, AggregationMethod, DiscoveryPolicySpec, EventMetric, EventStatistic, LokiQuery, PrometheusQuery,
    QueryType, SignalType,
};
use jiff::{SignedDuration, Timestamp};

use super::InvalidSpec;
use super::aggregate::{aggregate, statistic};
use super::answer::{PullEvent, Sample};
use super::query::{Backend, Query};
use super::window::Times;
use crate::Name;

/// A signal.
#[derive(Clone, Debug, PartialEq)]
pub struct Signal {
    /// The name by which the ranking refers to it.
    pub name: Name,
    /// The position of its query.
    pub query: usize,
    rule: Rule,
}

#[derive(Clone, Debug, PartialEq)]
enum Rule {
    /// The samples, each times its weight.
    Aggregate(AggregationMethod, Times),
    /// A statistic over the kubelets' pull events.
    PullEvents(EventMetric, EventStatistic),
}

/// Everything that one answer says about one image.
pub enum Evidence {
    /// In the order of time.
    Samples(Vec<Sample>),
    /// In any order. An aggregate treats each as a sample of value 1, so the sum is the number of pulls.
    Pulls(Vec<PullEvent>),
}

impl Signal {
    /// Returns the signal's value for the image that `evidence` is about; `None` if no sample counts.
    pub fn value(&self, evidence: &Evidence, now: Timestamp) -> Option<f64> {
        match (&self.rule, evidence) {
            (Rule::Aggregate(method, times), Evidence::Samples(samples)) => {
                aggregate(*method, weighed(times, now, samples.iter().map(|sample| (sample.at, sample.value))))
            }
            (Rule::Aggregate(method, times), Evidence::Pulls(pulls)) => {
                aggregate(*method, weighed(times, now, pulls.iter().map(|pull| (pull.at, 1.0))))
            }
            // A count counts events, including those without a size.
            (Rule::PullEvents(_, EventStatistic::Count), Evidence::Pulls(pulls)) => Some(pulls.len() as f64),
            (Rule::PullEvents(metric, method), Evidence::Pulls(pulls)) => {
                statistic(*method, pulls.iter().filter_map(|pull| measure(*metric, pull)).collect())
            }
            (Rule::PullEvents(..), Evidence::Samples(_)) => None,
        }
    }
}

/// Returns the finite values times their weights, without those of weight 0.
fn weighed(
    times: &Times,
    now: Timestamp,
    samples: impl Iterator<Item = (Timestamp, f64)>,
) -> impl Iterator<Item = f64> {
    samples.filter_map(move |(at, value)| {
        let weight = times.weight(at, now);
        (weight > 0.0).then_some(value * weight)
    })
}

/// Returns the value in seconds or bytes.
fn measure(metric: EventMetric, pull: &PullEvent) -> Option<f64> {
    match metric {
        EventMetric::PullTime => pull.pull_time.map(|time| time.as_secs_f64()),
        EventMetric::ImageSize => pull.size.map(|bytes| bytes as f64),
    }
}

/// Compiles the signals of either form. Without `signals[]`, each query makes one signal under its own name: the sum of
/// its samples, unless its source sets `aggregationMethod`. For Loki that is the number of pulls of each image.
///
/// # Errors
/// If a signal is not complete, or refers to a query that does not exist.
pub fn compile(spec: &DiscoveryPolicySpec, queries: &[Query]) -> Result<Vec<Signal>, InvalidSpec> {
    if spec.signals.is_empty() {
        let signals = queries.iter().enumerate().map(|(at, query)| {
            let prometheus = spec.sources.get(at).and_then(|source| source.prometheus.as_ref());
            let method = prometheus.and_then(|source| source.aggregation_method).unwrap_or_default();
            Signal { name: query.name.as_str().into(), query: at, rule: Rule::Aggregate(method, Times::All) }
        });
        return Ok(signals.collect());
    }
    if spec.queries.is_empty() {
        let message = "signals belong to queries: write queries instead of sources, or remove signals";
        return Err(InvalidSpec::new("signals", message));
    }
    let signals = spec.signals.iter().enumerate().map(|(at, signal)| {
        let path = format!("signals[{at}]");
        if spec.signals.iter().take(at).any(|other| other.name == signal.name) {
            let message = format!("another signal is called {:?}: give each a name of its own", signal.name);
            return Err(InvalidSpec::new(format!("{path}.name"), message));
        }
        let query = queries.iter().enumerate().find(|(_, query)| query.name == signal.query);
        let Some((query, Query { backend, .. })) = query else {
            let message = format!("{:?} is not the name of one of queries[]", signal.query);
            return Err(InvalidSpec::new(format!("{path}.query"), message));
        };
        Ok(Signal { name: signal.name.as_str().into(), query, rule: rule(&path, signal, backend)? })
    });
    signals.collect()
}

fn rule(path: &str, signal: &api::Signal, backend: &Backend) -> Result<Rule, InvalidSpec> {
    let missing = |block: &str| InvalidSpec::new(format!("{path}.{block}"), "it is missing: type names it");
    let of_type = |message: &str| InvalidSpec::new(format!("{path}.type"), message);
    let is_registry = matches!(backend, Backend::Registry(_));
    match signal.type_ {
        SignalType::TimeWeightedAggregate | SignalType::WindowAggregate if is_registry => {
            Err(of_type("the tags of a registry have no time: write a signal of type aggregate"))
        }
        SignalType::Aggregate => {
            let block = signal.aggregate.as_ref().ok_or_else(|| missing("aggregate"))?;
            Ok(Rule::Aggregate(block.method, Times::All))
        }
        SignalType::TimeWeightedAggregate => {
            let block = signal.time_weighted_aggregate.as_ref().ok_or_else(|| missing("timeWeightedAggregate"))?;
            Ok(Rule::Aggregate(block.method, Times::of_weights(&format!("{path}.timeWeightedAggregate"), block)?))
        }
        SignalType::WindowAggregate => {
            let block = signal.window_aggregate.as_ref().ok_or_else(|| missing("windowAggregate"))?;
            let times = Times::of_window(&format!("{path}.windowAggregate"), block, lookback(backend))?;
            Ok(Rule::Aggregate(block.method, times))
        }
        SignalType::EventPullTime => {
            let block = signal.event_pull_time.as_ref().ok_or_else(|| missing("eventPullTime"))?;
            match backend {
                Backend::Loki(_) => Ok(Rule::PullEvents(block.metric, block.statistic)),
                _ => Err(of_type("a signal of type eventPullTime needs a query of type loki")),
            }
        }
    }
}

/// Returns how far back the samples go, if they have different times.
fn lookback(backend: &Backend) -> Option<SignedDuration> {
    match backend {
        Backend::Prometheus(PrometheusQuery { query_type: QueryType::Range, lookback, .. })
        | Backend::Loki(LokiQuery { lookback, .. }) => Some(lookback.get()),
        Backend::Prometheus(_) | Backend::Registry(_) => None,
    }
}
