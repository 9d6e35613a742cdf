//! DiscoveryPolicy: finds the images that matter, by the data of monitoring and registries.

use std::fmt;

use jiff::Timestamp;
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::cached_image::LocalObjectReference;
use crate::condition::{self, Condition};
use crate::duration::GoDuration;
use crate::scheduling::NodeSelector;

/// Finds images in Prometheus, Loki and registries, and ranks them.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "drop.corewire.io",
    version = "v1alpha1",
    kind = "DiscoveryPolicy",
    plural = "discoverypolicies",
    doc = "Finds images in Prometheus, Loki and registries, and ranks them.",
    category = "drop",
    shortname = "dp",
    status = "DiscoveryPolicyStatus",
    derive = "PartialEq",
    printcolumn(json_path = ".status.conditions[?(@.type==\"Ready\")].reason", name = "STATUS", type_ = "string"),
    printcolumn(json_path = ".status.sourceCount", name = "SOURCES", type_ = "integer"),
    printcolumn(json_path = ".status.imageCount", name = "IMAGES", type_ = "integer"),
    printcolumn(json_path = ".status.lastSyncTime", name = "LASTSYNC", type_ = "date"),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "AGE", type_ = "date"),
    printcolumn(
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        name = "MESSAGE",
        type_ = "string",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "has(self.sources) != has(self.queries)",
        "message": "write either sources (the short form) or queries with signals and ranking (the full form)",
    },
    {
        "rule": "!has(self.sources) || !(has(self.signals) || has(self.ranking))",
        "message": "signals and ranking belong to queries: write queries instead of sources, or remove signals and ranking",
    },
    {
        "rule": "!has(self.signals) || !has(self.queries) || self.signals.all(s, self.queries.exists(q, q.name == s.query))",
        "message": "signals[].query must be the name of one of queries[]",
    },
    {
        "rule": "!has(self.signals) || !has(self.queries) || self.signals.all(s, s.type != 'eventPullTime' || self.queries.exists(q, q.name == s.query && q.type == 'loki'))",
        "message": "a signal of type eventPullTime needs a query of type loki",
    },
    {
        "rule": "!has(self.ranking) || has(self.signals)",
        "message": "ranking needs signals: write at least one, or remove ranking to order images by their highest value",
    },
    {
        "rule": "!has(self.ranking) || !has(self.ranking.signal) || !has(self.signals) || self.signals.exists(s, s.name == self.ranking.signal)",
        "message": "ranking.signal must be the name of one of signals[]",
    },
    {
        "rule": "!has(self.ranking) || !has(self.ranking.weightedSum) || !has(self.signals) || self.ranking.weightedSum.terms.all(t, self.signals.exists(s, s.name == t.signal))",
        "message": "ranking.weightedSum.terms[].signal must be the name of one of signals[]",
    },
    {
        "rule": "!has(self.ranking) || !has(self.ranking.modelExposure) || !has(self.signals) || [self.ranking.modelExposure.preWindowUsageSignal, self.ranking.modelExposure.targetWindowUsageSignal, self.ranking.modelExposure.pullTimeSignal].all(n, self.signals.exists(s, s.name == n))",
        "message": "the three signals of ranking.modelExposure must be names of signals[]",
    },
    {
        "rule": "!has(self.ranking) || !has(self.ranking.expectedSavings) || !has(self.signals) || [self.ranking.expectedSavings.preWindowUsageSignal, self.ranking.expectedSavings.targetWindowUsageSignal, self.ranking.expectedSavings.pullTimeSignal].all(n, self.signals.exists(s, s.name == n))",
        "message": "the three signals of ranking.expectedSavings must be names of signals[]",
    },
    {
        "rule": "!has(self.syncInterval) || duration(self.syncInterval) >= duration('1s')",
        "message": "syncInterval must be at least 1s, such as 30m",
    },
]))]
pub struct DiscoveryPolicySpec {
    /// The short form: the sources of images. Each image's score is its
    /// highest over all sources.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub sources: Vec<Source>,
    /// The full form: queries for samples, each with a name for `signals`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub queries: Vec<Query>,
    /// Numbers per image, derived from queries, each with a name for `ranking`.
    /// Without any, each query is a signal of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub signals: Vec<Signal>,
    /// How signals make one score. Without it an image's score is its highest signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranking: Option<Ranking>,
    /// Only images that match this regular expression are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub image_filter: Option<String>,
    /// How often the sources are asked.
    pub sync_interval: GoDuration,
    /// How many images are kept, the best first.
    #[schemars(range(min = 1, max = 500))]
    pub max_images: i32,
}

impl Default for DiscoveryPolicySpec {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            queries: Vec::new(),
            signals: Vec::new(),
            ranking: None,
            image_filter: None,
            sync_interval: GoDuration::from_secs(30 * 60),
            max_images: 50,
        }
    }
}

/// A backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum BackendType {
    /// Prometheus, Thanos, Mimir or VictoriaMetrics.
    Prometheus,
    /// Loki.
    Loki,
    /// An OCI registry.
    Registry,
}

/// One source of the short form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [BLOCK_OF_TYPE]))]
pub struct Source {
    /// The kind of backend. Write the block of the same name below, and no other.
    #[serde(rename = "type")]
    pub type_: BackendType,
    /// Images by the `image` label of a query's result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusSource>,
    /// Images by the kubelets' pull events; the score is how often each was pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loki: Option<LokiQuery>,
    /// The newest tags of repositories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<RegistryQuery>,
    /// A Secret in the pod namespace with the keys `token`, or `username` and `password`, or for a registry
    /// `.dockerconfigjson`; `ca.crt`; `tls.crt` and `tls.key`; `headers.NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalObjectReference>,
}

/// One query of the full form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [BLOCK_OF_TYPE]))]
pub struct Query {
    /// The name by which signals refer to the query.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The kind of backend. Write the block of the same name below, and no other.
    #[serde(rename = "type")]
    pub type_: BackendType,
    /// Samples by the `image` label of a query's result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusQuery>,
    /// The kubelets' pull events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loki: Option<LokiQuery>,
    /// The newest tags of repositories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<RegistryQuery>,
    /// A Secret in the pod namespace with the keys `token`, or `username` and `password`, or for a registry
    /// `.dockerconfigjson`; `ca.crt`; `tls.crt` and `tls.key`; `headers.NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalObjectReference>,
}

/// Of the blocks `prometheus`, `loki` and `registry` the one that `type` names must be there.
const BLOCK_OF_TYPE: Rule = Rule {
    rule: "has(self.prometheus) == (self.type == 'prometheus') && has(self.loki) == (self.type == 'loki') && has(self.registry) == (self.type == 'registry')",
    message: "write the block that type names (prometheus, loki or registry), and no other",
};

/// A CEL rule, and a message with the text to write instead.
#[derive(Serialize)]
struct Rule {
    rule: &'static str,
    message: &'static str,
}

/// A Prometheus query of the short form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrometheusSource {
    /// The API's address with its base path: `https://mimir.example.com/prometheus`.
    #[schemars(length(min = 1, max = 1024))]
    #[schemars(extend("x-kubernetes-validations" = [HTTP_URL]))]
    pub endpoint: String,
    /// PromQL whose result has an `image` label; its values make the score.
    #[schemars(length(min = 1, max = 8192))]
    pub query: String,
    /// How far a range query looks back; absent: an instant query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookback: Option<GoDuration>,
    /// Time between the points of a range query.
    #[serde(default = "default_step")]
    pub step: GoDuration,
    /// Instant or range; absent: range where there is a `lookback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_type: Option<QueryType>,
    /// How the points of an image make its score; absent: their sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregation_method: Option<AggregationMethod>,
}

/// A Prometheus query of the full form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrometheusQuery {
    /// The API's address with its base path: `https://mimir.example.com/prometheus`.
    #[schemars(length(min = 1, max = 1024))]
    #[schemars(extend("x-kubernetes-validations" = [HTTP_URL]))]
    pub endpoint: String,
    /// PromQL whose result has an `image` label.
    #[schemars(length(min = 1, max = 8192))]
    pub query: String,
    /// Instant or range.
    #[serde(default)]
    pub query_type: QueryType,
    /// How far a range query looks back.
    #[serde(default = "default_lookback")]
    pub lookback: GoDuration,
    /// Time between the points of a range query.
    #[serde(default = "default_step")]
    pub step: GoDuration,
}

impl From<PrometheusSource> for PrometheusQuery {
    /// A source is a range query where it says so, or where it has a lookback.
    fn from(source: PrometheusSource) -> Self {
        let of_lookback = if source.lookback.is_some() { QueryType::Range } else { QueryType::Instant };
        Self {
            endpoint: source.endpoint,
            query: source.query,
            query_type: source.query_type.unwrap_or(of_lookback),
            lookback: source.lookback.unwrap_or_else(default_lookback),
            step: source.step,
        }
    }
}

/// The rule for an address.
const HTTP_URL: Rule = Rule {
    rule: "self.matches('^https?://[^/?#@]+(/[^?#]*)?$')",
    message: "not an address: write http:// or https://, a host and perhaps a port and a base path, such as https://mimir.example.com/prometheus; credentials belong into the Secret",
};

/// How Prometheus evaluates a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum QueryType {
    /// At every step of the lookback.
    #[default]
    Range,
    /// Now.
    Instant,
}

/// A Loki query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LokiQuery {
    /// Loki's address with its base path, without `/loki/api/v1`.
    #[schemars(length(min = 1, max = 1024))]
    #[schemars(extend("x-kubernetes-validations" = [HTTP_URL]))]
    pub endpoint: String,
    /// LogQL that selects the kubelets' events.
    #[schemars(length(min = 1, max = 8192))]
    pub query: String,
    /// Only `range` is there.
    #[serde(default)]
    pub query_type: LokiQueryType,
    /// How far it looks back.
    #[serde(default = "default_lookback")]
    pub lookback: GoDuration,
    /// Where in a log line the parts of an event are; absent: pull events are found wherever they are, and every other
    /// line counts for the image in its label `image`, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parser: Option<LokiParser>,
}

/// How Loki evaluates a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LokiQueryType {
    /// Over the lookback.
    #[default]
    Range,
}

/// How log lines are read. A field is looked for among the labels of the line and
/// its stream, then in the line, as JSON or as logfmt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LokiParser {
    /// The kind of log lines.
    #[serde(rename = "type")]
    pub type_: LokiParserType,
    /// The field with the Pod's name. No signal depends on it.
    #[schemars(length(min = 1, max = 128))]
    pub pod_field: String,
    /// The field with the event's reason.
    #[schemars(length(min = 1, max = 128))]
    pub reason_field: String,
    /// The field with the event's message. If it tells of no pull, the message is looked for in the whole line.
    #[schemars(length(min = 1, max = 128))]
    pub message_field: String,
    /// The field whose text names the image: all of it, or in quotes, as kubelets' messages do. Absent: the message
    /// names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub image_field: Option<String>,
}

impl Default for LokiParser {
    fn default() -> Self {
        Self {
            type_: LokiParserType::KubernetesEvents,
            pod_field: "involvedObject_name".to_owned(),
            reason_field: "reason".to_owned(),
            message_field: "message".to_owned(),
            image_field: None,
        }
    }
}

/// A kind of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LokiParserType {
    /// Events of kubelets: `Successfully pulled image "X" in 1m21.3s …`.
    #[default]
    KubernetesEvents,
}

/// Tags of repositories in one registry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryQuery {
    /// The registry's address, without a repository: `https://ghcr.io`.
    #[schemars(length(min = 1, max = 1024))]
    #[schemars(extend("x-kubernetes-validations" = [HTTP_URL]))]
    pub url: String,
    /// Repositories whose tags are listed: `team/app`.
    #[schemars(length(min = 1, max = 100), inner(length(min = 1, max = 255)))]
    pub repositories: Vec<String>,
    /// Only tags that match this regular expression are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub tag_filter: Option<String>,
    /// Only tags after this text, in the registry's order, are read at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub tag_seek: Option<String>,
    /// How many tags of each repository are kept, the newest version first; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 500))]
    pub top_x: Option<i32>,
    /// How many tags of each repository are read.
    #[serde(default = "default_max_scan")]
    #[schemars(range(min = 1, max = 100000))]
    pub max_scan: i32,
    /// A regular expression whose first group is the version in a tag; absent: the version
    /// is found as docs/newest-versions.md says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub version_pattern: Option<String>,
    /// How a tag becomes an image, with `{{.Registry}}`, `{{.Repository}}` and
    /// `{{.Tag}}`; absent: `{{.Registry}}/{{.Repository}}:{{.Tag}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub image_template: Option<String>,
}

fn default_step() -> GoDuration {
    GoDuration::from_secs(5 * 60)
}

fn default_lookback() -> GoDuration {
    GoDuration::from_secs(24 * 3600)
}

fn default_max_scan() -> i32 {
    1000
}

/// A number per image, derived from the samples of one query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [Rule {
    rule: "has(self.aggregate) == (self.type == 'aggregate') && has(self.timeWeightedAggregate) == (self.type == 'timeWeightedAggregate') && has(self.windowAggregate) == (self.type == 'windowAggregate') && has(self.eventPullTime) == (self.type == 'eventPullTime')",
    message: "write the block that type names (aggregate, timeWeightedAggregate, windowAggregate or eventPullTime), and no other",
}]))]
pub struct Signal {
    /// The name by which the ranking refers to the signal.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The name of its query.
    #[schemars(length(min = 1, max = 63))]
    pub query: String,
    /// The kind of signal. Write the block of the same name below, and no other.
    #[serde(rename = "type")]
    pub type_: SignalType,
    /// Over all samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregate: Option<Aggregate>,
    /// Over all samples, each times the weight of its hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_weighted_aggregate: Option<TimeWeightedAggregate>,
    /// Over the samples within a window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_aggregate: Option<WindowAggregate>,
    /// Over the kubelets' pull events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_pull_time: Option<EventPullTime>,
}

/// How a signal is derived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SignalType {
    /// [`Aggregate`].
    Aggregate,
    /// [`TimeWeightedAggregate`].
    TimeWeightedAggregate,
    /// [`WindowAggregate`].
    WindowAggregate,
    /// [`EventPullTime`].
    EventPullTime,
}

/// How samples make one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AggregationMethod {
    /// Their sum.
    #[default]
    Sum,
    /// How many there are.
    Count,
    /// Their arithmetic mean.
    Avg,
    /// The largest.
    Max,
    /// The smallest.
    Min,
}

/// All samples of an image in one number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Aggregate {
    /// How samples make one number.
    pub method: AggregationMethod,
}

/// All samples of an image in one number, after each is multiplied by the weight of
/// its hour of the day.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TimeWeightedAggregate {
    /// How weighted samples make one number.
    pub method: AggregationMethod,
    /// The IANA time zone of the hours: `Europe/Berlin`.
    #[schemars(length(min = 1, max = 64))]
    pub timezone: String,
    /// The weight outside of all windows. Samples of weight 0 are left out.
    pub default_weight: Weight,
    /// Hours with a weight of their own; the first that holds counts.
    #[schemars(length(min = 1, max = 24))]
    pub windows: Vec<WeightedWindow>,
}

/// Hours of each day, and the weight of a sample in them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WeightedWindow {
    /// The first hour, local time.
    #[schemars(range(min = 0, max = 23))]
    pub start_hour: i32,
    /// The hour at which it ends, not included; not after `startHour`, it is one of the next day.
    #[schemars(range(min = 0, max = 24))]
    pub end_hour: i32,
    /// The factor for each sample in these hours. Samples of weight 0 are left out.
    pub weight: Weight,
}

/// The samples of an image within a window, in one number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "has(self.relativeWindow) != has(self.window)",
        "message": "write either relativeWindow (such as 2h) or window with timezone",
    },
    {
        "rule": "has(self.window) == has(self.timezone)",
        "message": "window needs a timezone such as Europe/Berlin; relativeWindow takes none",
    },
]))]
pub struct WindowAggregate {
    /// How samples make one number.
    pub method: AggregationMethod,
    /// The last part of the lookback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative_window: Option<GoDuration>,
    /// A part of each day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<DayWindow>,
    /// The IANA time zone of `window`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub timezone: Option<String>,
}

/// A part of each day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DayWindow {
    /// When it starts, local time: `09:00`.
    #[schemars(length(max = 5), extend("x-kubernetes-validations" = [TIME_OF_DAY]))]
    pub start: String,
    /// When it ends, not included; not after `start`, it is a time of the next day.
    #[schemars(length(max = 5), extend("x-kubernetes-validations" = [TIME_OF_DAY]))]
    pub end: String,
}

/// The rule for a time of the day.
const TIME_OF_DAY: Rule = Rule {
    rule: "self.matches('^([01][0-9]|2[0-3]):[0-5][0-9]$')",
    message: "not a time of the day: write HH:MM, such as 09:00",
};

/// A statistic over the kubelets' pull events of an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventPullTime {
    /// The property of an event that the statistic is over.
    #[serde(default)]
    pub metric: EventMetric,
    /// How events make one number. Percentiles are interpolated linearly.
    pub statistic: EventStatistic,
}

/// A property of a pull event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum EventMetric {
    /// How long the pull took, in seconds, without waiting.
    #[default]
    PullTime,
    /// The image's size in bytes.
    ImageSize,
}

/// How events make one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum EventStatistic {
    /// The median.
    P50,
    /// The 90th percentile.
    P90,
    /// The 95th percentile.
    P95,
    /// The arithmetic mean.
    Avg,
    /// The largest.
    Max,
    /// How many there are.
    Count,
}

/// How signals make one score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [Rule {
    rule: "has(self.signal) == (self.strategy == 'signal') && has(self.weightedSum) == (self.strategy == 'weightedSum') && has(self.modelExposure) == (self.strategy == 'modelExposure') && has(self.expectedSavings) == (self.strategy == 'expectedSavings')",
    message: "write the field that strategy names (signal, weightedSum, modelExposure or expectedSavings), and no other",
}]))]
pub struct Ranking {
    /// The kind of ranking. Write the field of the same name below, and no other.
    pub strategy: RankingStrategy,
    /// The name of the signal that is the score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub signal: Option<String>,
    /// The sum of several signals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weighted_sum: Option<WeightedSum>,
    /// How much pull time cold nodes are exposed to:
    /// `J_target · (1 − 1/N)^J_pre · p`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_exposure: Option<UsageModel>,
    /// How much pull time is saved by an image that is there before the window:
    /// `N · q^J_pre · (1 − q^J_target) · p` with `q = 1 − 1/N`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_savings: Option<UsageModel>,
}

/// How images are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RankingStrategy {
    /// By one signal.
    Signal,
    /// By a weighted sum of signals.
    WeightedSum,
    /// By the pull time that cold nodes are exposed to.
    ModelExposure,
    /// By the pull time that is expected to be saved.
    ExpectedSavings,
}

/// The sum of several signals, each normalised and times its weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WeightedSum {
    /// How a signal is brought to the scale from 0 to 1.
    #[serde(default)]
    pub normalize: Normalize,
    /// The treatment of an image that lacks a signal.
    #[serde(default)]
    pub missing_signal: MissingSignal,
    /// The signals.
    #[schemars(length(min = 1, max = 16))]
    pub terms: Vec<Term>,
}

/// How a signal is brought to the scale from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Normalize {
    /// `(x − min) / (max − min)`, and 1 where all values are equal.
    #[default]
    MinMax,
}

/// The treatment of an image that lacks a signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum MissingSignal {
    /// 0 for that signal.
    #[default]
    Zero,
    /// No rank at all.
    Drop,
}

/// One signal of a sum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Term {
    /// The signal's name.
    #[schemars(length(min = 1, max = 63))]
    pub signal: String,
    /// The factor for the normalised signal.
    pub weight: Weight,
}

/// A model of jobs that land on N nodes at random: J_pre of them use an image before
/// the window for which nodes are to be warm, J_target in it, and a pull takes p.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageModel {
    /// How many nodes there are (N); absent: every Ready node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCount>,
    /// The signal that is J_pre.
    #[schemars(length(min = 1, max = 63))]
    pub pre_window_usage_signal: String,
    /// The signal that is J_target.
    #[schemars(length(min = 1, max = 63))]
    pub target_window_usage_signal: String,
    /// The signal that is p.
    #[schemars(length(min = 1, max = 63))]
    pub pull_time_signal: String,
}

/// How many nodes there are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeCount {
    /// So many. With a `selector` too: where that selects none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000))]
    pub count: Option<i32>,
    /// The Ready nodes that it selects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<NodeSelector>,
}

/// A factor: a whole number, or a decimal one in quotes, `"0.7"` or `"700m"`.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    text: serde_json::Value,
    value: f64,
}

/// The text is no weight.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not a weight: write a number such as 2, \"0.7\" or \"700m\", not below 0")]
pub struct InvalidWeight(String);

impl Weight {
    /// Its value, finite and not negative.
    #[must_use]
    pub fn get(&self) -> f64 {
        self.value
    }
}

impl TryFrom<serde_json::Value> for Weight {
    type Error = InvalidWeight;

    fn try_from(text: serde_json::Value) -> Result<Self, InvalidWeight> {
        let value = match &text {
            serde_json::Value::Number(number) => number.as_f64(),
            serde_json::Value::String(text) => match text.strip_suffix('m') {
                Some(thousandths) => thousandths.parse().ok().map(|value: f64| value / 1000.0),
                None => text.parse().ok(),
            },
            _ => None,
        };
        match value.filter(|value| value.is_finite() && *value >= 0.0) {
            Some(value) => Ok(Self { text, value }),
            None => Err(InvalidWeight(text.to_string())),
        }
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.value, f)
    }
}

impl Serialize for Weight {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde_json::Value::deserialize(deserializer)?.try_into().map_err(de::Error::custom)
    }
}

impl JsonSchema for Weight {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Weight".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 16,
            "x-kubernetes-validations": [{
                "rule": "type(self) == int ? int(self) >= 0 : string(self).matches('^[0-9]+([.][0-9]+)?m?$')",
                "message": "not a weight: write a number such as 2, \"0.7\" or \"700m\", not below 0",
            }],
        })
    }
}

/// The images that Drop found, and the result of each source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("default" = condition::unobserved()))]
pub struct DiscoveryPolicyStatus {
    /// The `metadata.generation` that this was derived from.
    pub observed_generation: Option<i64>,
    /// `Ready`: the list is up to date.
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The images, best first: at most `maxImages`, and besides them the images that failing sources found last.
    #[schemars(length(max = 1000))]
    pub discovered_images: Vec<DiscoveredImage>,
    /// How many images there are.
    pub image_count: i32,
    /// How many sources or queries there are.
    pub source_count: i32,
    /// The result of each source or query.
    #[schemars(length(max = 16))]
    pub query_results: Vec<QueryResult>,
    /// When the list was last brought up to date.
    pub last_sync_time: Option<Timestamp>,
    /// When Drop asks the sources next.
    pub next_sync_time: Option<Timestamp>,
}

/// An image that was found. Older operators wrote neither rank nor final score.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiscoveredImage {
    /// The full reference.
    #[schemars(length(max = 1024))]
    pub image: String,
    /// 1 is the best.
    #[serde(default)]
    pub rank: i32,
    /// The score, as a decimal number with at most 12 significant digits.
    #[serde(default)]
    #[schemars(length(max = 512))]
    pub final_score: String,
    /// The sources or queries that named it, by their position.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub found_by: Vec<i32>,
}

/// The result of a source or query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueryResult {
    /// `queries[].name`, or `sources[0]` and so on.
    #[schemars(length(max = 63))]
    pub name: String,
    /// The backend.
    #[serde(rename = "type")]
    pub type_: BackendType,
    /// Whether it answered.
    pub status: QueryStatus,
    /// The reason why the source did not answer, or only for some repositories, as one CamelCase word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,
    /// The same reason as a sentence, or a note about the answer of a query that succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// The number of images that it named; of a source that failed, the number of its images that stay in the list.
    #[serde(default)]
    pub images: i32,
    /// The repositories that failed beside others; the images that they had last stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(max = 255)))]
    pub failed_repositories: Vec<String>,
}

/// Whether a query was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum QueryStatus {
    /// It was.
    Success,
    /// It was not.
    Failed,
    /// Some of its repositories were listed.
    PartiallyFailed,
}
