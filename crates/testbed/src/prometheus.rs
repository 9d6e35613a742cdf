//! A real Prometheus.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::home::Home;
use crate::registry::{PASSWORD, PASSWORD_HASH, USER};
use crate::service::{Place, Service};
use crate::tools::Tools;
use crate::wait::wait_for;
use crate::{cleanup, http};

/// What a Prometheus shall be like.
#[derive(Clone, Debug, Default)]
pub struct PrometheusOptions {
    /// What its paths begin with, such as `/prometheus`; empty for nothing.
    pub base_path: String,
    /// Whether it wants a user and a password, [`Prometheus::credentials`].
    pub password: bool,
    /// What it knows from the start.
    pub history: Vec<Series>,
    /// A server whose `/metrics` it reads every second; their label `pod` is `pod-0`.
    pub scrape: Option<SocketAddr>,
}

/// A time series.
#[derive(Clone, Debug)]
pub struct Series {
    /// Name of the metric.
    pub name: String,
    /// Names and values, without the metric's name.
    pub labels: Vec<(String, String)>,
    /// In ascending order of time.
    pub samples: Vec<(Timestamp, f64)>,
}

/// A Prometheus, which ends and loses its data when it is dropped. Its project is `prometheus`.
#[derive(Debug)]
pub struct Prometheus {
    service: Service,
    options: PrometheusOptions,
}

impl Prometheus {
    /// Starts one, and waits until it answers queries.
    ///
    /// # Errors
    /// If the home has a server of that name, the history is refused, or it does not start.
    pub fn start(home: &Home, tools: &Tools, name: &str, options: PrometheusOptions) -> Result<Self> {
        let place = Place::new(home, name)?;
        let etc = home.dirs.etc();
        let path = |file: &str| etc.join(format!("{name}-{file}"));
        if !options.history.is_empty() {
            backfill(tools, &options.history, &path("history.txt"), &place.data)?;
        }
        let targets: Vec<String> = options.scrape.iter().map(SocketAddr::to_string).collect();
        let config = json!({
            "global": { "scrape_interval": "1s" },
            "scrape_configs": [{ "job_name": "test", "static_configs": [{ "targets": targets, "labels": { "pod": "pod-0" } }] }],
        });
        fs::write(path("config.json"), serde_json::to_vec_pretty(&config)?)?;
        let users = if options.password { json!({ USER: PASSWORD_HASH }) } else { json!({}) };
        fs::write(path("web.json"), serde_json::to_vec_pretty(&json!({ "basic_auth_users": users }))?)?;
        let command = vec![
            tools.path("prometheus").display().to_string(),
            format!("--config.file={}", path("config.json").display()),
            format!("--web.config.file={}", path("web.json").display()),
            format!("--web.listen-address={}", place.address),
            format!("--web.external-url=http://{}{}", place.address, options.base_path),
            format!("--storage.tsdb.path={}", place.data.display()),
            "--log.level=warn".to_owned(),
        ];
        let probe = format!("{}/-/ready", options.base_path);
        let service = Service::start(home, place, command, &probe, http::basic((USER, PASSWORD)))?;
        Ok(Self { service, options })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.service.address
    }

    /// Its URL with the base path, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}{}", self.address(), self.options.base_path)
    }

    /// User and password, if it wants them.
    #[must_use]
    pub fn credentials(&self) -> Option<(&'static str, &'static str)> {
        self.options.password.then_some((USER, PASSWORD))
    }

    /// The result of an instant query, as in the `data.result` of its HTTP API.
    ///
    /// # Errors
    /// If it refuses the query or does not run.
    pub fn query(&self, query: &str) -> Result<Value> {
        self.get("query", &[("query", query)])
    }

    /// The result of a range query with a step in whole seconds, in the same form.
    ///
    /// # Errors
    /// If it refuses the query or does not run.
    pub fn query_range(&self, query: &str, from: Timestamp, to: Timestamp, step: u32) -> Result<Value> {
        let (from, to, step) = (from.to_string(), to.to_string(), step.to_string());
        self.get("query_range", &[("query", query), ("start", &from), ("end", &to), ("step", &step)])
    }

    fn get(&self, endpoint: &str, parameters: &[(&str, &str)]) -> Result<Value> {
        let url = format!("{}/api/v1/{endpoint}", self.url());
        let request = http::client().get(url).query_pairs(parameters.iter().copied());
        let reply = request.header("Authorization", http::basic((USER, PASSWORD))).call()?;
        let reply: Value = serde_json::from_reader(http::succeeded(reply)?.into_body().into_reader())?;
        Ok(reply.pointer("/data/result").context("no result")?.clone())
    }

    /// Waits until an instant query finds something.
    ///
    /// # Errors
    /// If it does not within `limit`, or is refused.
    pub fn wait_data(&self, query: &str, limit: Duration) -> Result<()> {
        wait_for(&format!("data for {query}"), limit, || {
            let result = self.query(query)?;
            Ok(result.as_array().is_some_and(|series| !series.is_empty()).then_some(()))
        })
    }

    /// Kills it; its data stays.
    ///
    /// # Errors
    /// If the system refuses it.
    pub fn stop(&self) -> Result<()> {
        self.service.stop()
    }

    /// Starts it again after [`Prometheus::stop`], at the same address.
    ///
    /// # Errors
    /// If it does not get ready.
    pub fn resume(&self) -> Result<()> {
        self.service.resume()
    }
}

/// Writes the history into the data directory of a Prometheus that does not run yet.
fn backfill(tools: &Tools, history: &[Series], file: &Path, data: &Path) -> Result<()> {
    fs::write(file, open_metrics(history)?)?;
    let mut promtool = Command::new(tools.path("promtool"));
    cleanup::run(promtool.args(["tsdb", "create-blocks-from", "--quiet", "openmetrics"]).arg(file).arg(data))
}

/// OpenMetrics text 1.0: the samples of one metric must follow each other.
fn open_metrics(history: &[Series]) -> Result<String> {
    let mut series: Vec<&Series> = history.iter().collect();
    series.sort_by_key(|series| &series.name);
    let mut text = String::new();
    for Series { name, labels, samples } in series {
        // The escapes are those of a Rust string: backslash, quote and line feed.
        let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}={value:?}")).collect();
        let labels = labels.join(",");
        for (time, value) in samples {
            let seconds = time.as_duration().as_secs_f64();
            writeln!(text, "{name}{{{labels}}} {value} {seconds:.3}")?;
        }
    }
    text.push_str("# EOF\n");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_become_lines() {
        let series = Series {
            name: "up".to_owned(),
            labels: vec![("image".to_owned(), "a\"b".to_owned())],
            samples: vec![("2026-01-02T03:04:05.25Z".parse().unwrap(), 1.5)],
        };
        let text = "up{image=\"a\\\"b\"} 1.5 1767323045.250\n# EOF\n";
        assert_eq!(open_metrics(&[series]).unwrap(), text);
    }
}
