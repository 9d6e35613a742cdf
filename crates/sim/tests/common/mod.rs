//! A lab that fails its test on any violation.

use std::ops::{Deref, DerefMut};

use drop_api::GoDuration;
use drop_api::cached_image::LocalObjectReference;
use drop_api::discovery_policy::{AggregationMethod, BackendType, PrometheusSource, Source};
use drop_core::Settings;

/// How many lines of a timeline a failing test shows: the last ones.
const TOLD: usize = 2000;

/// A lab of a test.
#[derive(Default)]
pub struct Lab(drop_sim::Lab);

impl Lab {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn with(settings: Settings) -> Self {
        Self(drop_sim::Lab::new(settings))
    }

    /// Makes a cluster with these nodes.
    pub fn with_nodes(nodes: &[&str]) -> Self {
        let mut lab = Self::new();
        nodes.iter().for_each(|node| lab.node(node));
        lab
    }
}

impl Lab {
    /// Returns the violations so far, for tests that expect them.
    #[allow(dead_code, reason = "each test file uses a part of it")]
    pub fn take_violations(&mut self) -> Vec<String> {
        self.violations.drain(..).map(|violation| violation.to_string()).collect()
    }
}

impl Deref for Lab {
    type Target = drop_sim::Lab;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Lab {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() || !self.violations.is_empty() {
            let timeline = self.record.timeline();
            let lines = timeline.lines().count();
            timeline.lines().skip(lines.saturating_sub(TOLD)).for_each(|line| eprintln!("{line}"));
        }
        let violations: Vec<String> = self.violations.iter().map(ToString::to_string).collect();
        if std::thread::panicking() {
            violations.iter().for_each(|violation| eprintln!("{}: {violation}", self.title));
        } else {
            assert!(violations.is_empty(), "{}: {}", self.title, violations.join("\n"));
        }
    }
}

pub fn duration(text: &str) -> GoDuration {
    text.parse().unwrap()
}

/// Makes a source of a DiscoveryPolicy at this address, with the Secret of this name if there is one.
pub fn source(endpoint: &str, secret: Option<&str>) -> Source {
    Source {
        type_: BackendType::Prometheus,
        prometheus: Some(PrometheusSource {
            endpoint: endpoint.to_owned(),
            query: "images".to_owned(),
            lookback: None,
            step: duration("5m"),
            query_type: None,
            aggregation_method: Some(AggregationMethod::Max),
        }),
        loki: None,
        registry: None,
        secret_ref: secret.map(|name| LocalObjectReference { name: name.to_owned() }),
    }
}
