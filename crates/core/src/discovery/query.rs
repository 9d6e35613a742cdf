//! The queries to backends, in one shape for both forms of the spec.

use drop_api::discovery_policy::{
    self as api, BackendType, DiscoveryPolicySpec, LokiQuery, PrometheusQuery, QueryType, RegistryQuery,
};

use super::InvalidSpec;

/// The most points of a series that a range query asks for. 30 days at a step of 15 s have 172,800 points, which take
/// 200 requests.
const MOST_POINTS: i128 = 200_000;

/// A query to a backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// `queries[].name`, or `sources[0]` and so on.
    pub name: String,
    /// The backend, and the request to it.
    pub backend: Backend,
    /// The name of the Secret in the pod namespace.
    pub secret: Option<String>,
}

/// A backend, and the request to it.
#[derive(Clone, Debug, PartialEq)]
pub enum Backend {
    /// Prometheus and its kin.
    Prometheus(PrometheusQuery),
    /// Loki.
    Loki(LokiQuery),
    /// An OCI registry.
    Registry(RegistryQuery),
}

impl Backend {
    /// Its type, as the status shows it.
    #[must_use]
    pub fn type_(&self) -> BackendType {
        match self {
            Self::Prometheus(_) => BackendType::Prometheus,
            Self::Loki(_) => BackendType::Loki,
            Self::Registry(_) => BackendType::Registry,
        }
    }

    /// Checks the values that all backends of the type share. `path` is that of the query.
    fn check(&self, path: &str) -> Result<(), InvalidSpec> {
        let (field, url) = match self {
            Self::Prometheus(query) => ("prometheus.endpoint", &query.endpoint),
            Self::Loki(query) => ("loki.endpoint", &query.endpoint),
            Self::Registry(query) => ("registry.url", &query.url),
        };
        if host(url).is_none() {
            let message = format!("{url:?} is not an address: write http:// or https:// and a host");
            return Err(InvalidSpec::new(format!("{path}.{field}"), message));
        }
        let durations: &[_] = match self {
            Self::Prometheus(PrometheusQuery { query_type: QueryType::Range, lookback, step, .. }) => {
                &[("prometheus.lookback", lookback), ("prometheus.step", step)]
            }
            Self::Loki(query) => &[("loki.lookback", &query.lookback)],
            Self::Prometheus(_) | Self::Registry(_) => &[],
        };
        if let Some((field, _)) = durations.iter().find(|(_, duration)| duration.get().is_zero()) {
            return Err(InvalidSpec::new(format!("{path}.{field}"), "it must be above 0s"));
        }
        match self {
            Self::Prometheus(PrometheusQuery { query_type: QueryType::Range, lookback, step, .. }) => {
                let points = lookback.get().as_nanos() / step.get().as_nanos();
                if points > MOST_POINTS {
                    let message = format!(
                        "{step} is too short for a lookback of {lookback}: a series would have {points} points, and may \
                         have {MOST_POINTS}"
                    );
                    return Err(InvalidSpec::new(format!("{path}.prometheus.step"), message));
                }
                Ok(())
            }
            Self::Prometheus(_) | Self::Loki(_) | Self::Registry(_) => Ok(()),
        }
    }
}

/// Compiles the queries of either form, in the order of the spec.
///
/// # Errors
/// If there are none, or if one is not complete.
pub fn compile(spec: &DiscoveryPolicySpec) -> Result<Vec<Query>, InvalidSpec> {
    if spec.sources.is_empty() == spec.queries.is_empty() {
        let message = "write either sources (the short form) or queries with signals and ranking (the full form)";
        return Err(InvalidSpec::new("sources", message));
    }
    let sources = spec.sources.iter().enumerate().map(|(at, source)| {
        let path = format!("sources[{at}]");
        let prometheus = source.prometheus.clone().map(PrometheusQuery::from);
        let backend = backend(&path, source.type_, prometheus, source.loki.clone(), source.registry.clone())?;
        Ok(Query { name: path, backend, secret: source.secret_ref.as_ref().map(|secret| secret.name.clone()) })
    });
    let queries = spec.queries.iter().enumerate().map(|(at, query)| {
        let path = format!("queries[{at}]");
        if spec.queries.iter().take(at).any(|other| other.name == query.name) {
            let message = format!("another query is called {:?}: give each a name of its own", query.name);
            return Err(InvalidSpec::new(format!("{path}.name"), message));
        }
        let api::Query { name, type_, prometheus, loki, registry, secret_ref } = query.clone();
        let backend = backend(&path, type_, prometheus, loki, registry)?;
        Ok(Query { name, backend, secret: secret_ref.map(|secret| secret.name) })
    });
    sources.chain(queries).collect()
}

/// Returns the block that `type_` names.
fn backend(
    path: &str,
    type_: BackendType,
    prometheus: Option<PrometheusQuery>,
    loki: Option<LokiQuery>,
    registry: Option<RegistryQuery>,
) -> Result<Backend, InvalidSpec> {
    let (block, backend) = match type_ {
        BackendType::Prometheus => ("prometheus", prometheus.map(Backend::Prometheus)),
        BackendType::Loki => ("loki", loki.map(Backend::Loki)),
        BackendType::Registry => ("registry", registry.map(Backend::Registry)),
    };
    let missing = || InvalidSpec::new(format!("{path}.{block}"), "it is missing: type names it");
    let backend = backend.ok_or_else(missing)?;
    backend.check(path)?;
    Ok(backend)
}

/// Returns the host of an address with its port: `ghcr.io`, `127.0.0.1:5000`.
pub fn host(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    rest.split(['/', '?', '#']).next().filter(|host| !host.is_empty() && !host.contains('@'))
}
