//! What Prometheus sees.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use drop_core::explain::Summary;
use drop_core::memory::Settlement;
use drop_core::policy::BUILT_IN;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Label names with their values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Labels(Vec<(&'static str, String)>);

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, value) in &self.0 {
            let pair = (*name, value.as_str());
            prometheus_client::encoding::EncodeLabel::encode(&pair, encoder.encode_label())?;
        }
        Ok(())
    }
}

fn labels<const N: usize>(pairs: [(&'static str, &str); N]) -> Labels {
    Labels(pairs.map(|(name, value)| (name, value.to_owned())).into())
}

/// Every metric of the operator.
pub struct Metrics {
    registry: Registry,
    pulls: Family<Labels, Counter>,
    pull_errors: Family<Labels, Counter>,
    pull_duration: Histogram,
    evictions: Counter,
    plan_duration: Histogram,
    api_requests: Family<Labels, Counter>,
    active_pulls: Family<Labels, Gauge<i64>>,
    waiting_pulls: Family<Labels, Gauge<i64>>,
    nodes_targeted: Family<Labels, Gauge<i64>>,
    nodes_cached: Family<Labels, Gauge<i64>>,
    consecutive_failures: Family<Labels, Gauge<i64>>,
    start_time: Gauge<f64, AtomicU64>,
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Self {
        // Seconds: images take from one to thousands of them, plans fractions.
        let pull_buckets = [1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0, 2560.0];
        let plan_buckets = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0];
        let mut metrics = Self {
            registry: Registry::with_prefix("drop"),
            pulls: Family::default(),
            pull_errors: Family::default(),
            pull_duration: Histogram::new(pull_buckets),
            evictions: Counter::default(),
            plan_duration: Histogram::new(plan_buckets),
            api_requests: Family::default(),
            active_pulls: Family::default(),
            waiting_pulls: Family::default(),
            nodes_targeted: Family::default(),
            nodes_cached: Family::default(),
            consecutive_failures: Family::default(),
            start_time: Gauge::default(),
        };
        metrics.start_time.set(jiff::Timestamp::now().as_duration().as_secs_f64());
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        // The encoder adds `_total` to counters and `_info` to infos.
        registry.register("pulls", "Image pulls that ended, by result", self.pulls.clone());
        registry.register("pull_errors", "Image pulls that failed, by the kubelet's reason", self.pull_errors.clone());
        registry.register("pull_duration_seconds", "How long image pulls took", self.pull_duration.clone());
        registry.register(
            "evictions",
            "Images that were removed from nodes that should have them",
            self.evictions.clone(),
        );
        registry.register("plan_duration_seconds", "How long one plan took", self.plan_duration.clone());
        registry.register("api_requests", "Requests to the API server", self.api_requests.clone());
        registry.register("active_pulls", "Images being pulled, by PullPolicy", self.active_pulls.clone());
        registry.register(
            "waiting_pulls",
            "Images missing on target nodes and not being pulled, by PullPolicy and reason",
            self.waiting_pulls.clone(),
        );
        registry.register("nodes_targeted", "Nodes that should have the image", self.nodes_targeted.clone());
        registry.register("nodes_cached", "Nodes that have the image", self.nodes_cached.clone());
        registry.register(
            "consecutive_failures",
            "Failed pulls since the last one that succeeded",
            self.consecutive_failures.clone(),
        );
        registry.register(
            "start_time_seconds",
            "When the operator started, in seconds since 1970",
            self.start_time.clone(),
        );
        let version = Info::new(labels([("version", env!("CARGO_PKG_VERSION"))]));
        registry.register("build", "The operator's version", version);
    }

    /// Counts how the pull of an image ended.
    pub fn settled(&self, settlement: &Settlement) {
        let result = match &settlement.result {
            Ok(duration) => {
                if let Some(duration) = duration {
                    self.pull_duration.observe(duration.as_secs_f64());
                }
                "success"
            }
            Err(reason) => {
                self.pull_errors.get_or_create(&labels([("reason", reason)])).inc();
                "failure"
            }
        };
        self.pulls.get_or_create(&labels([("result", result)])).inc();
    }

    /// Counts images that were removed from nodes.
    pub fn evicted(&self, evictions: usize) {
        self.evictions.inc_by(u64::try_from(evictions).unwrap_or(u64::MAX));
    }

    /// Notes how long a plan took.
    pub fn planned(&self, elapsed: Duration) {
        self.plan_duration.observe(elapsed.as_secs_f64());
    }

    /// Counts a request to the API server.
    pub fn requested(&self, method: &http::Method, uri: &http::Uri) {
        let (verb, resource) = verb_and_resource(method, uri);
        self.api_requests.get_or_create(&labels([("verb", verb), ("resource", resource)])).inc();
    }

    /// All metrics in the text format, with gauges as of `summary`.
    ///
    /// # Errors
    /// None in practice: text is written to memory.
    pub fn encode(&self, summary: &Summary) -> Result<String, std::fmt::Error> {
        for family in [
            &self.active_pulls,
            &self.waiting_pulls,
            &self.nodes_targeted,
            &self.nodes_cached,
            &self.consecutive_failures,
        ] {
            // Series go with their objects.
            family.clear();
        }
        for (policy, active) in &summary.active {
            self.active_pulls.get_or_create(&labels([("policy", policy_label(policy))])).set(gauge(*active));
        }
        for ((policy, reason), waiting) in &summary.waiting {
            let labels = labels([("policy", policy_label(policy)), ("reason", reason)]);
            self.waiting_pulls.get_or_create(&labels).set(gauge(*waiting));
        }
        for (image, counts) in &summary.images {
            let labels = labels([("cachedimage", image)]);
            self.nodes_targeted.get_or_create(&labels).set(gauge(counts.targeted));
            self.nodes_cached.get_or_create(&labels).set(gauge(counts.cached));
            self.consecutive_failures.get_or_create(&labels).set(gauge(counts.consecutive_failures));
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn policy_label(policy: &str) -> &str {
    if policy == BUILT_IN { "built-in" } else { policy }
}

/// The Kubernetes verb and resource of a request; see
/// <https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-uris>.
fn verb_and_resource<'a>(method: &http::Method, uri: &'a http::Uri) -> (&'static str, &'a str) {
    let mut segments = uri.path().trim_matches('/').split('/').peekable();
    // `api/v1/…` and `apis/GROUP/VERSION/…`.
    let skipped = if segments.next() == Some("api") { 1 } else { 2 };
    let mut segments = segments.skip(skipped).peekable();
    let mut resource = segments.next().unwrap_or("other");
    let mut name = segments.next();
    if resource == "namespaces" && segments.peek().is_some() {
        resource = segments.next().unwrap_or(resource);
        name = segments.next();
    }
    let watches = uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
    let verb = match (method.as_str(), name) {
        ("GET", _) if watches => "watch",
        ("GET", None) => "list",
        ("GET", Some(_)) => "get",
        ("POST", _) => "create",
        ("PATCH", _) => "patch",
        ("PUT", _) => "update",
        ("DELETE", _) => "delete",
        _ => "other",
    };
    (verb, resource)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    #[test]
    fn requests_are_counted_by_verb_and_resource() {
        let cases = [
            (Method::GET, "/api/v1/nodes?limit=500", ("list", "nodes")),
            (Method::GET, "/api/v1/nodes?watch=true&timeoutSeconds=290", ("watch", "nodes")),
            (Method::POST, "/api/v1/namespaces/drop-system/pods?", ("create", "pods")),
            (Method::DELETE, "/api/v1/namespaces/drop-system/pods/x", ("delete", "pods")),
            (Method::PATCH, "/apis/drop.corewire.io/v1alpha1/nodecaches/n1?force=true", ("patch", "nodecaches")),
            (Method::PATCH, "/apis/drop.corewire.io/v1alpha1/cachedimages/a/status", ("patch", "cachedimages")),
            (Method::GET, "/api/v1/namespaces/drop-system", ("get", "namespaces")),
        ];
        for (method, uri, expected) in cases {
            assert_eq!(verb_and_resource(&method, &uri.parse().unwrap()), expected, "{uri}");
        }
    }

    #[test]
    fn series_go_with_their_objects() {
        let metrics = Metrics::new();
        let mut summary = Summary::default();
        summary.images.insert("alpine".into(), Default::default());
        assert!(metrics.encode(&summary).unwrap().contains(r#"drop_nodes_cached{cachedimage="alpine"} 0"#));
        assert!(!metrics.encode(&Summary::default()).unwrap().contains("alpine"));
    }
}
