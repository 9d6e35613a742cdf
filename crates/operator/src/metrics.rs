//! The operator's metrics for Prometheus.

mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use drop_core::Name;
use drop_core::memory::Settlement;
use drop_core::policy::BUILT_IN;
use drop_core::reference::Reference;
use drop_core::survey::Summary;
use jiff::SignedDuration;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use process::Process;

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
    /// The policies for which `pulls` has series.
    pulled_under: Mutex<BTreeSet<Name>>,
    pull_errors: Family<Labels, Counter>,
    pull_duration: Histogram,
    pull_bytes: Counter,
    /// Pulls whose image no node has listed yet, so that their size is unknown.
    unweighed: Mutex<BTreeMap<Reference, u64>>,
    evictions: Counter,
    plan_duration: Histogram,
    api_requests: Family<Labels, Counter>,
    active_pulls: Family<Labels, Gauge<i64>>,
    waiting_pulls: Family<Labels, Gauge<i64>>,
    nodes_targeted: Family<Labels, Gauge<i64>>,
    nodes_cached: Family<Labels, Gauge<i64>>,
    nodes_failed: Family<Labels, Gauge<i64>>,
    consecutive_failures: Family<Labels, Gauge<i64>>,
    set_health: Family<Labels, Gauge<i64>>,
    discovery_health: Family<Labels, Gauge<i64>>,
    source_health: Family<Labels, Gauge<i64>>,
    discovery_images: Family<Labels, Gauge<i64>>,
    discovery_latency: Family<Labels, Histogram>,
    /// The policies and sources for which `discovery_latency` has series.
    asked: Mutex<BTreeSet<(Name, Name)>>,
    /// The number of known images, policies and sources at which deleted ones are looked for.
    room: AtomicUsize,
    leading: Gauge<i64>,
}

/// The least number of deleted images, policies and sources that are known before they are forgotten.
const ROOM: usize = 1000;

fn len<T>(known: &Mutex<T>, len: fn(&T) -> usize) -> usize {
    len(&known.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Metrics {
    /// Makes all metrics, at zero.
    pub fn new() -> Self {
        // In seconds: images take from one to thousands of them, plans fractions.
        let pull_buckets = [1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0, 2560.0];
        let plan_buckets = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0];
        let mut metrics = Self {
            registry: Registry::default(),
            pulls: Family::default(),
            pulled_under: Mutex::default(),
            pull_errors: Family::default(),
            pull_duration: Histogram::new(pull_buckets),
            pull_bytes: Counter::default(),
            unweighed: Mutex::default(),
            evictions: Counter::default(),
            plan_duration: Histogram::new(plan_buckets),
            api_requests: Family::default(),
            active_pulls: Family::default(),
            waiting_pulls: Family::default(),
            nodes_targeted: Family::default(),
            nodes_cached: Family::default(),
            nodes_failed: Family::default(),
            consecutive_failures: Family::default(),
            set_health: Family::default(),
            discovery_health: Family::default(),
            source_health: Family::default(),
            discovery_images: Family::default(),
            discovery_latency: Family::new_with_constructor(latency),
            asked: Mutex::default(),
            room: AtomicUsize::new(ROOM),
            leading: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        self.registry.register_collector(Box::new(Process::started_now()));
        let registry = self.registry.sub_registry_with_prefix("drop");
        // The encoder adds `_total` to counters and `_info` to infos.
        registry.register("pulls", "Image pulls that ended, by PullPolicy and result", self.pulls.clone());
        registry.register("pull_errors", "Image pulls that failed, by the kubelet's reason", self.pull_errors.clone());
        registry.register("pull_duration_seconds", "How long image pulls took", self.pull_duration.clone());
        registry.register(
            "pull_bytes",
            "Sizes of the images that were pulled, once nodes list them",
            self.pull_bytes.clone(),
        );
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
            "Images missing on target nodes and not being pulled, by PullPolicy and reason, on the replica that works",
            self.waiting_pulls.clone(),
        );
        registry.register("nodes_targeted", "Nodes that should have the image", self.nodes_targeted.clone());
        registry.register("nodes_cached", "Nodes that have the image", self.nodes_cached.clone());
        registry.register(
            "nodes_failed",
            "Nodes that do not have the image because the last pull there failed",
            self.nodes_failed.clone(),
        );
        registry.register(
            "consecutive_failures",
            "Rounds of pulls that failed for the image's or its registry's sake, with no success since",
            self.consecutive_failures.clone(),
        );
        registry.register(
            "set_health",
            "Whether a CachedImageSet can have all of its CachedImages, on the replica that works",
            self.set_health.clone(),
        );
        registry.register(
            "discovery_health",
            "Whether a DiscoveryPolicy is Ready, or has not run yet",
            self.discovery_health.clone(),
        );
        registry.register(
            "discovery_source_health",
            "Whether a source of a DiscoveryPolicy answered well when it was last asked",
            self.source_health.clone(),
        );
        registry.register("discovery_images", "Images that a DiscoveryPolicy has found", self.discovery_images.clone());
        registry.register(
            "discovery_latency_seconds",
            "How long a source of a DiscoveryPolicy took to answer",
            self.discovery_latency.clone(),
        );
        registry.register(
            "leading",
            "Whether this replica works: it holds the Lease, and has seen the cluster",
            self.leading.clone(),
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
                let mut unweighed = self.unweighed.lock().unwrap_or_else(PoisonError::into_inner);
                *unweighed.entry(settlement.image.clone()).or_default() += 1;
                SUCCESS
            }
            Err(reason) => {
                self.pull_errors.get_or_create(&labels([("reason", reason)])).inc();
                FAILURE
            }
        };
        self.pulls_under(&settlement.policy, result).inc();
    }

    /// Returns the counter of a policy's pulls with this result.
    fn pulls_under(&self, policy: &Name, result: &'static str) -> impl Deref<Target = Counter> {
        self.pulled_under.lock().unwrap_or_else(PoisonError::into_inner).insert(policy.clone());
        self.pulls.get_or_create(&pull_labels(policy, result))
    }

    /// Counts evicted images.
    pub fn evicted(&self, evictions: usize) {
        self.evictions.inc_by(u64::try_from(evictions).unwrap_or(u64::MAX));
    }

    /// Records how long a plan took.
    pub fn planned(&self, elapsed: Duration) {
        self.plan_duration.observe(elapsed.as_secs_f64());
    }

    /// Counts a request to the API server.
    pub fn requested(&self, method: &http::Method, uri: &http::Uri) {
        let (verb, resource) = verb_and_resource(method, uri);
        self.api_requests.get_or_create(&labels([("verb", verb), ("resource", resource)])).inc();
    }

    /// Records how long a source took to answer.
    pub fn answered(&self, policy: &Name, source: &str, elapsed: SignedDuration) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.insert((policy.clone(), source.into()));
        self.discovery_latency.get_or_create(&source_labels(policy, source)).observe(elapsed.as_secs_f64());
    }

    /// Encodes all metrics in the text format, with gauges as of `summary`, and whether this replica leads. A standby
    /// leaves out the metrics that only a leader knows.
    ///
    /// # Errors
    /// None in practice: text is written to memory.
    pub fn encode(&self, summary: &Summary, leads: bool) -> Result<String, std::fmt::Error> {
        self.leading.set(leads.into());
        self.forget(summary);
        for family in [
            &self.active_pulls,
            &self.waiting_pulls,
            &self.nodes_targeted,
            &self.nodes_cached,
            &self.nodes_failed,
            &self.consecutive_failures,
            &self.set_health,
            &self.discovery_health,
            &self.source_health,
            &self.discovery_images,
        ] {
            // A series ends with its object.
            family.clear();
        }
        for (policy, active) in &summary.active {
            self.active_pulls.get_or_create(&labels([("policy", policy_label(policy))])).set(gauge(*active));
            // An event that has not happened yet counts zero: rates need a start.
            for result in [SUCCESS, FAILURE] {
                self.pulls_under(policy, result).inc_by(0);
            }
        }
        for ((policy, reason), waiting) in summary.waiting.iter().filter(|_| leads) {
            let labels = labels([("policy", policy_label(policy)), ("reason", reason)]);
            self.waiting_pulls.get_or_create(&labels).set(gauge(*waiting));
        }
        for (image, counts) in &summary.images {
            let labels = labels([("cachedimage", image)]);
            self.nodes_targeted.get_or_create(&labels).set(gauge(counts.targeted));
            self.nodes_cached.get_or_create(&labels).set(gauge(counts.cached));
            self.nodes_failed.get_or_create(&labels).set(gauge(counts.failed));
            self.consecutive_failures.get_or_create(&labels).set(gauge(counts.consecutive_failures));
        }
        for (set, is_whole) in summary.sets.iter().filter(|_| leads) {
            self.set_health.get_or_create(&labels([("set", set)])).set((*is_whole).into());
        }
        for (policy, counts) in &summary.discoveries {
            self.discovery_health.get_or_create(&labels([("policy", policy)])).set(counts.is_well.into());
            self.discovery_images.get_or_create(&labels([("policy", policy)])).set(gauge(counts.images));
            for (source, is_well) in &counts.sources {
                self.source_health.get_or_create(&source_labels(policy, source)).set((*is_well).into());
            }
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Whether so many are known that some may be deleted, although no client asks for metrics.
    pub fn is_full(&self) -> bool {
        self.known() > self.room.load(Ordering::Relaxed)
    }

    fn known(&self) -> usize {
        len(&self.unweighed, BTreeMap::len) + len(&self.asked, BTreeSet::len) + len(&self.pulled_under, BTreeSet::len)
    }

    /// Forgets images, policies and sources that were deleted.
    pub fn forget(&self, summary: &Summary) {
        self.weigh(summary);
        self.forget_sources(summary);
        self.forget_policies(summary);
        // The remaining ones are not checked again before twice as many are known.
        self.room.store(2 * self.known() + ROOM, Ordering::Relaxed);
    }

    /// Counts the bytes of pulls whose image is listed by now, and forgets those whose image is no longer wanted.
    fn weigh(&self, summary: &Summary) {
        let mut unweighed = self.unweighed.lock().unwrap_or_else(PoisonError::into_inner);
        unweighed.retain(|image, pulls| match summary.sizes.get(image) {
            Some(Some(size)) => {
                self.pull_bytes.inc_by(pulls.saturating_mul(*size));
                false
            }
            size => size.is_some(),
        });
    }

    /// Ends the series of deleted sources.
    fn forget_sources(&self, summary: &Summary) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|(policy, source)| {
            let stays = summary.discoveries.get(policy).is_some_and(|counts| counts.sources.contains_key(source));
            if !stays {
                self.discovery_latency.remove(&source_labels(policy, source));
            }
            stays
        });
    }

    /// Ends the series of deleted policies.
    fn forget_policies(&self, summary: &Summary) {
        let mut policies = self.pulled_under.lock().unwrap_or_else(PoisonError::into_inner);
        policies.retain(|policy| {
            let stays = summary.active.contains_key(policy);
            if !stays {
                for result in [SUCCESS, FAILURE] {
                    self.pulls.remove(&pull_labels(policy, result));
                }
            }
            stays
        });
    }
}

/// Values of the label `result`.
const SUCCESS: &str = "success";
const FAILURE: &str = "failure";

/// In seconds: from a nearby registry to a query over weeks.
fn latency() -> Histogram {
    Histogram::new([0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0])
}

fn pull_labels(policy: &str, result: &str) -> Labels {
    labels([("policy", policy_label(policy)), ("result", result)])
}

fn source_labels(policy: &str, source: &str) -> Labels {
    labels([("policy", policy), ("source", source)])
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn policy_label(policy: &str) -> &str {
    if policy == BUILT_IN { "built-in" } else { policy }
}

/// Returns the Kubernetes verb and resource of a request; see
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
        let counts = summary.discoveries.entry("ci".into()).or_default();
        counts.sources.insert("loki".into(), true);
        metrics.answered(&"ci".into(), "loki", SignedDuration::from_secs(2));
        let text = metrics.encode(&summary, true).unwrap();
        assert!(text.contains(r#"drop_nodes_cached{cachedimage="alpine"} 0"#));
        assert!(text.contains(r#"drop_discovery_source_health{policy="ci",source="loki"} 1"#));
        assert!(text.contains(r#"drop_discovery_latency_seconds_sum{policy="ci",source="loki"} 2"#));
        let text = metrics.encode(&Summary::default(), true).unwrap();
        assert!(!text.contains("alpine") && !text.contains("loki"), "{text}");
    }

    #[test]
    fn pulls_are_counted_by_policy_from_zero_until_it_goes() {
        let metrics = Metrics::new();
        let mut summary = Summary::default();
        summary.active.insert("slow".into(), 0);
        summary.active.insert(BUILT_IN.into(), 0);
        let told = |summary: &Summary| metrics.encode(summary, true).unwrap();
        let text = told(&summary);
        for policy in ["slow", "built-in"] {
            for result in [SUCCESS, FAILURE] {
                let zero = format!("drop_pulls_total{{policy=\"{policy}\",result=\"{result}\"}} 0");
                assert!(text.contains(&zero), "{zero}:\n{text}");
            }
        }
        let image = Reference::parse("alpine:3.20");
        metrics.settled(&Settlement { image, policy: "slow".into(), result: Ok(None) });
        assert!(told(&summary).contains(r#"drop_pulls_total{policy="slow",result="success"} 1"#));
        summary.active.remove("slow");
        assert!(!told(&summary).contains("slow"), "{}", told(&summary));
    }

    #[test]
    fn a_standby_tells_nothing_that_only_the_leader_knows() {
        let metrics = Metrics::new();
        let mut summary = Summary::default();
        summary.images.insert("alpine".into(), Default::default());
        summary.waiting.insert((BUILT_IN.into(), "Refused"), 9);
        summary.sets.insert("toolchain".into(), false);
        for leads in [true, false] {
            let text = metrics.encode(&summary, leads).unwrap();
            assert!(text.contains("drop_nodes_cached{"), "{text}");
            for series in [r#"drop_waiting_pulls{policy="built-in",reason="Refused"} 9"#, r#"{set="toolchain"} 0"#] {
                assert_eq!(text.contains(series), leads, "{series}:\n{text}");
            }
        }
    }

    #[test]
    fn bytes_are_counted_once_when_the_size_is_known() {
        let metrics = Metrics::new();
        let image = Reference::parse("alpine:3.20");
        let settlement = Settlement { image: image.clone(), policy: BUILT_IN.into(), result: Ok(None) };
        let bytes = |size| {
            let sizes = [(image.clone(), size)].into();
            let text = metrics.encode(&Summary { sizes, ..Summary::default() }, true).unwrap();
            let line = text.lines().find(|line| line.starts_with("drop_pull_bytes_total")).unwrap();
            line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
        };
        metrics.settled(&settlement);
        metrics.settled(&settlement);
        assert_eq!(bytes(None), 0);
        assert_eq!(bytes(Some(7)), 14);
        assert_eq!(bytes(Some(7)), 14);
        metrics.settled(&settlement);
        assert_eq!(bytes(Some(7)), 21);
    }

    /// Encodes metrics in which everything has happened once.
    fn eventful() -> String {
        let metrics = Metrics::new();
        let image = Reference::parse("alpine:3.20");
        let name = || Name::from("a");
        for result in [Ok(Some(SignedDuration::from_secs(1))), Err("ErrImagePull".into())] {
            metrics.settled(&Settlement { image: image.clone(), policy: name(), result });
        }
        metrics.evicted(1);
        metrics.planned(Duration::from_millis(1));
        metrics.requested(&Method::GET, &"/api/v1/nodes".parse().unwrap());
        metrics.answered(&name(), "a", SignedDuration::from_secs(1));
        let mut summary = Summary::default();
        summary.active.insert(name(), 1);
        summary.waiting.insert((name(), "Next"), 1);
        summary.images.insert(name(), Default::default());
        summary.sets.insert(name(), true);
        summary.sizes.insert(image, Some(1));
        summary.discoveries.entry(name()).or_default().sources.insert(name(), true);
        metrics.encode(&summary, true).unwrap()
    }

    /// The names of series in a text of any kind.
    fn series(text: &str) -> BTreeSet<&str> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.filter(|word| word.starts_with("drop_") || word.starts_with("process_")).collect()
    }

    /// The names of metrics in a text of any kind: a histogram has one, and several series.
    fn names(text: &str) -> BTreeSet<&str> {
        let suffixes = ["_bucket", "_sum", "_count"];
        let plain = |word| suffixes.iter().find_map(|suffix| str::strip_suffix(word, *suffix)).unwrap_or(word);
        series(text).into_iter().map(plain).collect()
    }

    fn samples() -> Vec<String> {
        eventful().lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    fn file(path: &str) -> String {
        std::fs::read_to_string(format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    #[test]
    fn every_metric_that_is_registered_is_written() {
        let samples = samples().join("\n");
        let written = names(&samples);
        for line in eventful().lines() {
            let Some(registered) = line.strip_prefix("# TYPE ") else { continue };
            let (name, kind) = registered.split_once(' ').unwrap();
            let sample = match kind {
                "counter" => format!("{name}_total"),
                "info" => format!("{name}_info"),
                _ => name.to_owned(),
            };
            assert!(written.contains(sample.as_str()), "{line}: no sample in\n{}", eventful());
        }
    }

    /// The labels of a sample.
    fn labels_of(sample: &str) -> Vec<&str> {
        let labels = sample.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}'));
        let pairs = labels.into_iter().flat_map(|(labels, _)| labels.split(','));
        pairs.map(|pair| pair.split_once('=').unwrap().0).collect()
    }

    /// Labels whose values are names of objects, and which end with these. The values of all others are words of the
    /// code or of Kubernetes.
    const OF_OBJECTS: [&str; 4] = ["cachedimage", "policy", "set", "source"];
    const OF_WORDS: [&str; 6] = ["le", "reason", "resource", "result", "verb", "version"];

    #[test]
    fn labels_are_bounded_by_objects_and_by_words() {
        for sample in samples() {
            let labels = labels_of(&sample);
            assert!(labels.iter().all(|label| OF_OBJECTS.contains(label) || OF_WORDS.contains(label)), "{sample}");
            // Series for pairs of objects would grow with their product; a source is a part of its policy.
            let objects = labels.iter().filter(|label| ["cachedimage", "policy", "set"].contains(label)).count();
            assert!(objects <= 1, "{sample}");
        }
    }

    #[test]
    fn what_is_counted_makes_no_series_for_each_image_node_or_request() {
        let told = |images: usize| {
            let metrics = Metrics::new();
            for image in 0..images {
                for result in [Ok(Some(SignedDuration::from_secs(1))), Err("ErrImagePull".into())] {
                    let policy = format!("policy-{image}").into();
                    let image = Reference::parse(&format!("registry-{image}.example.com/app:{image}"));
                    metrics.settled(&Settlement { image, policy, result });
                }
                metrics.evicted(1);
                metrics.planned(Duration::from_millis(1));
                let pod = format!("/api/v1/namespaces/drop-{image}/pods/pull-{image}?fieldManager={image}");
                metrics.requested(&Method::DELETE, &pod.parse().unwrap());
                metrics.answered(&format!("policy-{image}").into(), "a", SignedDuration::from_secs(1));
            }
            let text = metrics.encode(&Summary::default(), true).unwrap();
            let samples = text.lines().filter(|line| !line.starts_with('#'));
            let samples: BTreeSet<String> = samples.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect();
            assert!(samples.iter().all(|sample| labels_of(sample).iter().all(|label| OF_WORDS.contains(label))));
            samples
        };
        assert_eq!(told(1), told(100));
    }

    #[test]
    fn what_has_gone_is_forgotten_although_nobody_asks() {
        let metrics = Metrics::new();
        let mut most = 0;
        for number in 0..10 * ROOM {
            let name: Name = format!("name-{number}").into();
            let image = Reference::parse(&format!("registry.example.com/app:{number}"));
            metrics.settled(&Settlement { image, policy: name.clone(), result: Ok(None) });
            metrics.answered(&name, "a", SignedDuration::from_secs(1));
            if metrics.is_full() {
                metrics.forget(&Summary::default());
            }
            most = most.max(metrics.known());
        }
        assert!(most <= ROOM + 2, "{most}");
        let series = metrics.encode(&Summary::default(), true).unwrap().lines().count();
        assert!(series < 200, "{series}");
    }

    #[test]
    fn the_dashboard_and_the_docs_name_every_metric_and_no_other() {
        let samples = samples().join("\n");
        let (dashboard, docs) = (file("charts/drop/files/dashboard.json"), file("docs/metrics.md"));
        let unknown: Vec<&str> = series(&dashboard).difference(&series(&samples)).copied().collect();
        assert!(unknown.is_empty(), "the dashboard has {unknown:?}, which the operator does not");
        assert_eq!(names(&dashboard), names(&samples), "the dashboard's (left) and the operator's");
        assert_eq!(names(&docs), names(&samples), "those of docs/metrics.md (left) and the operator's");
    }

    #[test]
    fn the_alerts_name_metrics_that_there_are() {
        let (samples, alerts) = (samples().join("\n"), file("charts/drop/files/alerts.yaml"));
        let (written, alerted) = (series(&samples), series(&alerts));
        assert!(alerted.len() > 5 && alerted.is_subset(&written), "{:?}", alerted.difference(&written));
    }
}
