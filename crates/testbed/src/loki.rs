//! A real Loki.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::control_plane::free_address;
use crate::home::Home;
use crate::http;
use crate::service::{Place, Service};
use crate::tools::Tools;

/// A Loki, which ends and loses its data when it is dropped. Its project is `loki`.
#[derive(Debug)]
pub struct Loki {
    service: Service,
}

impl Loki {
    /// Starts one, and waits until it takes and gives lines.
    ///
    /// # Errors
    /// If the home has a server of that name, or it does not start.
    pub fn start(home: &Home, tools: &Tools, name: &str) -> Result<Self> {
        let place = Place::new(home, name)?;
        let config_path = home.dirs.etc().join(format!("{name}.json"));
        fs::write(&config_path, serde_json::to_vec_pretty(&config(&place, free_address()?))?)?;
        let command = vec![
            tools.path("loki").display().to_string(),
            "-target=all".to_owned(),
            format!("-config.file={}", config_path.display()),
        ];
        Ok(Self { service: Service::start(home, place, command, "/ready", String::new())? })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.service.address
    }

    /// Its URL, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Stores lines of the stream with these labels, not older than a month and in any order;
    /// they are found at once.
    ///
    /// # Errors
    /// If it refuses them or does not run.
    pub fn push(&self, labels: &[(&str, &str)], lines: &[(Timestamp, String)]) -> Result<()> {
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        let values: Vec<[String; 2]> =
            lines.iter().map(|(time, line)| [time.as_nanosecond().to_string(), line.clone()]).collect();
        let body = json!({ "streams": [{ "stream": labels, "values": values }] });
        let request = http::client().post(format!("{}/loki/api/v1/push", self.url()));
        http::succeeded(request.content_type("application/json").send(&serde_json::to_vec(&body)?)?)?;
        Ok(())
    }

    /// The streams that a query finds between two times, as in the `data.result` of its HTTP
    /// API; at most 5,000 lines.
    ///
    /// # Errors
    /// If it refuses the query or does not run.
    pub fn query(&self, query: &str, from: Timestamp, to: Timestamp) -> Result<Value> {
        let request = http::client()
            .get(format!("{}/loki/api/v1/query_range", self.url()))
            .query("query", query)
            .query("start", from.as_nanosecond().to_string())
            .query("end", to.as_nanosecond().to_string())
            .query("limit", "5000");
        let reply: Value = serde_json::from_reader(http::succeeded(request.call()?)?.into_body().into_reader())?;
        Ok(reply.pointer("/data/result").context("no result")?.clone())
    }

    /// Kills it; its data stays.
    ///
    /// # Errors
    /// If the system refuses it.
    pub fn stop(&self) -> Result<()> {
        self.service.stop()
    }

    /// Starts it again after [`Loki::stop`], at the same address.
    ///
    /// # Errors
    /// If it does not get ready.
    pub fn resume(&self) -> Result<()> {
        self.service.resume()
    }
}

fn config(place: &Place, grpc: SocketAddr) -> Value {
    let loopback = place.address.ip();
    json!({
        "auth_enabled": false,
        "analytics": { "reporting_enabled": false },
        "server": {
            "http_listen_address": loopback,
            "http_listen_port": place.address.port(),
            "grpc_listen_address": loopback,
            "grpc_listen_port": grpc.port(),
            "log_level": "warn",
        },
        "common": {
            "path_prefix": place.data,
            "replication_factor": 1,
            "instance_addr": loopback,
            "ring": { "kvstore": { "store": "inmemory" } },
            "storage": { "filesystem": {
                "chunks_directory": place.data.join("chunks"),
                "rules_directory": place.data.join("rules"),
            } },
        },
        "schema_config": { "configs": [{
            "from": "2020-01-01",
            "store": "tsdb",
            "object_store": "filesystem",
            "schema": "v13",
            "index": { "prefix": "index_", "period": "24h" },
        }] },
        // Lines of a week ago, at once, as many as a test likes.
        "limits_config": {
            "reject_old_samples": false,
            "ingestion_rate_mb": 100,
            "ingestion_burst_size_mb": 100,
            "per_stream_rate_limit": "100MB",
            "per_stream_rate_limit_burst": "100MB",
        },
        // What the ingester still has in memory may be of any age.
        "querier": { "query_ingesters_within": "0s" },
        "ingester": {
            "lifecycler": { "min_ready_duration": "0s", "final_sleep": "0s" },
            // Lines are found at once, and may come in any order, within half of this.
            "max_chunk_age": "1440h",
        },
    })
}
