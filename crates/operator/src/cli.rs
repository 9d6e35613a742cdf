//! Flags and environment variables.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use drop_api::pull_policy::FailureBackoff;
use drop_api::{GoDuration, PullPolicySpec};
use drop_core::Settings;

use crate::discover::Limits;
use crate::discover::command::DiscoverArgs;
use crate::serve::tls::Certificate;

/// A query has the time of this many slow requests.
const REQUESTS_PER_QUERY: u32 = 5;

/// Pre-pulls container images onto Kubernetes nodes.
#[derive(Debug, Parser)]
#[command(version, name = "drop")]
pub struct Cli {
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands of the binary.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator, with the kubeconfig or the service account of its environment
    Operator(Box<OperatorArgs>),
    /// Run DiscoveryPolicies from files once, against their real sources, and print the images that they find
    ///
    /// No cluster is needed. Fails if no source of a policy answers.
    Discover(Box<DiscoverArgs>),
    /// Show the planner at work on a simulated cluster, or how long a roll-out of your own would take
    ///
    /// No cluster is needed, and no image is pulled. Ends when everything is at rest.
    #[cfg(feature = "demo")]
    Demo(Box<drop_demo::Args>),
}

/// The options of `drop operator`. Each also has an environment variable.
#[derive(Debug, Args)]
pub struct OperatorArgs {
    /// Namespace in which pull Pods run and from which Secrets are read
    #[arg(long, env = "DROP_POD_NAMESPACE", default_value = "drop-system")]
    pub pod_namespace: String,
    /// Addresses for /healthz, /readyz, /metrics and /debug/plan; the operator uses the first one that works. The
    /// default is every address of the machine, or every IPv4 address if the machine has no IPv6
    #[arg(long, env = "DROP_LISTEN", value_delimiter = ',', default_value = "[::]:8080,0.0.0.0:8080")]
    pub listen: Vec<SocketAddr>,
    /// Priority class of pull Pods
    #[arg(long, env = "DROP_POD_PRIORITY_CLASS")]
    pub pod_priority_class: Option<String>,
    /// Elect one of several replicas as the leader, with the Lease `drop` in the pod namespace
    #[arg(long, env = "DROP_LEADER_ELECTION", default_value_t = true, action = ArgAction::Set)]
    pub leader_election: bool,
    /// Ask registries for the digests, platforms and sizes of wanted images, unless a PullPolicy sets `lookup: Never`
    #[arg(long, env = "DROP_LOOKUP", default_value_t = false, action = ArgAction::Set)]
    pub lookup: bool,
    /// How long a standby waits for a silent leader before it takes over, at least 3s. If there has never been a Lease,
    /// the first replica waits equally long
    #[arg(long, env = "DROP_LEASE_DURATION", default_value = "15s")]
    pub lease_duration: GoDuration,
    /// Format of the log on standard error
    #[arg(long, env = "DROP_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
    /// Log level, or directives such as `info,drop=debug`
    #[arg(long, env = "DROP_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// The options for the HTTP server.
    #[command(flatten)]
    pub serving: Serving,
    #[command(flatten)]
    policy: DefaultPolicy,
    #[command(flatten)]
    timing: Timing,
}

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Lines of text for people.
    Text,
}

/// The options that protect the HTTP server.
#[derive(Debug, Args)]
#[command(next_help_heading = "Serving")]
pub struct Serving {
    /// Certificate in PEM; with it, all endpoints use TLS. The operator reads it again after a renewal
    #[arg(long, env = "DROP_TLS_CERT_FILE", value_name = "FILE", requires = "tls_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// Private key of the certificate in PEM
    #[arg(long, env = "DROP_TLS_KEY_FILE", value_name = "FILE", requires = "tls_cert_file")]
    tls_key_file: Option<PathBuf>,
    /// Require a token for /metrics and /debug/plan: the API server must know it, and a ClusterRole must allow its user
    /// to `get` these nonResourceURLs. Requires TLS, because tokens are secret
    #[arg(long, env = "DROP_METRICS_AUTH", default_value_t = false, action = ArgAction::Set, requires_if("true", "tls_cert_file"))]
    pub metrics_auth: bool,
}

impl Serving {
    /// Returns the serving certificate, if any.
    ///
    /// # Errors
    /// If it is not usable.
    pub fn certificate(&self) -> anyhow::Result<Option<Certificate>> {
        let files = self.tls_cert_file.clone().zip(self.tls_key_file.clone());
        files.map(|(chain, key)| Certificate::open(chain, key)).transpose()
    }
}

/// The policy of images that name none.
#[derive(Debug, Args)]
#[command(next_help_heading = "Policy of images without a policyRef")]
struct DefaultPolicy {
    /// How many nodes may pull images at once
    #[arg(long, env = "DROP_MAX_CONCURRENT_NODES", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=100_000))]
    max_concurrent_nodes: i32,
    /// Least time between a start on one node and a start on another
    #[arg(long, env = "DROP_MIN_DELAY_BETWEEN_PULLS", default_value = "10s")]
    min_delay_between_pulls: GoDuration,
    /// Wait after the first failure
    #[arg(long, env = "DROP_FAILURE_BACKOFF_INITIAL", default_value = "30s")]
    failure_backoff_initial: GoDuration,
    /// Longest wait after failures
    #[arg(long, env = "DROP_FAILURE_BACKOFF_MAX", default_value = "5m")]
    failure_backoff_max: GoDuration,
    /// How long a pull Pod may take, from the moment its node starts it
    #[arg(long, env = "DROP_PULL_TIMEOUT", default_value = "1h")]
    pull_timeout: GoDuration,
    /// How many images of one set one Pod pulls
    #[arg(long, env = "DROP_IMAGES_PER_POD", default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=50))]
    images_per_pod: i32,
}

/// Time constants.
#[derive(Debug, Args)]
#[command(next_help_heading = "Timing")]
struct Timing {
    /// How long a kubelet may take to acknowledge a pull Pod
    #[arg(long, env = "DROP_ACKNOWLEDGE_WITHIN", default_value = "2m")]
    acknowledge_within: GoDuration,
    /// How long a kubelet may take to bring up a pull Pod's sandbox
    #[arg(long, env = "DROP_SANDBOX_WITHIN", default_value = "2m")]
    sandbox_within: GoDuration,
    /// How long after a kubelet was declared lost Drop deletes its pull Pods by force
    #[arg(long, env = "DROP_LOST_WITHIN", default_value = "2m")]
    lost_within: GoDuration,
    /// Least time between two writes of one object's status
    #[arg(long, env = "DROP_STATUS_INTERVAL", default_value = "1s")]
    status_interval: GoDuration,
    /// Least time between two writes of one object's status that only show progress
    #[arg(long, env = "DROP_PROGRESS_INTERVAL", default_value = "10s")]
    progress_interval: GoDuration,
    /// How long after a pull a node may not list the image yet
    #[arg(long, env = "DROP_LISTED_WITHIN", default_value = "2m")]
    listed_within: GoDuration,
    /// Smallest nodeStatusMaxImages of any kubelet, -1 if no kubelet has a limit, 0 if unknown. A node's list with
    /// fewer images is complete. For other lists, Drop learns the limit from earlier lists of the node
    #[arg(long, env = "DROP_NODE_STATUS_MAX_IMAGES", default_value_t = 0, allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(-1..))]
    node_status_max_images: i32,
    /// Wait before Drop asks failed sources of a DiscoveryPolicy again
    #[arg(long, env = "DROP_DISCOVERY_RETRY", default_value = "30s")]
    discovery_retry: GoDuration,
    /// How long a source of a DiscoveryPolicy may take to answer a request. All requests of a query together may take
    /// five times as long, and at least 5m
    #[arg(long, env = "DROP_DISCOVERY_TIMEOUT", default_value = "60s")]
    discovery_timeout: GoDuration,
    /// Wait before Drop pulls an evicted image again
    #[arg(long, env = "DROP_REPAIR_INITIAL", default_value = "1m")]
    repair_initial: GoDuration,
    /// Longest wait before Drop pulls an evicted image again
    #[arg(long, env = "DROP_REPAIR_MAX", default_value = "6h")]
    repair_max: GoDuration,
    /// How long a NodeCache may be out of date while no pull's outcome could be lost
    #[arg(long, env = "DROP_RECORD_WITHIN", default_value = "10s")]
    record_within: GoDuration,
    /// How long a watch may be silent before Drop resumes it on a new connection, at the cost of one request. An API
    /// server is also silent while no object of the kind changes
    #[arg(long, env = "DROP_MAX_SILENCE", default_value = "90s")]
    max_silence: GoDuration,
}

impl OperatorArgs {
    /// Returns the settings that planning needs.
    pub fn settings(&self) -> Settings {
        let (policy, timing) = (&self.policy, &self.timing);
        Settings {
            acknowledge_within: timing.acknowledge_within.get(),
            sandbox_within: timing.sandbox_within.get(),
            lost_within: timing.lost_within.get(),
            status_interval: timing.status_interval.get(),
            progress_interval: timing.progress_interval.get(),
            record_within: timing.record_within.get(),
            listed_within: timing.listed_within.get(),
            listed_images: usize::try_from(timing.node_status_max_images).unwrap_or(usize::MAX),
            discovery_retry: timing.discovery_retry.get(),
            looks_up: self.lookup,
            repair_initial: timing.repair_initial.get(),
            repair_max: timing.repair_max.get(),
            built_in_policy: PullPolicySpec {
                max_concurrent_nodes: policy.max_concurrent_nodes,
                min_delay_between_pulls: policy.min_delay_between_pulls.clone(),
                failure_backoff: FailureBackoff {
                    initial: policy.failure_backoff_initial.clone(),
                    max: policy.failure_backoff_max.clone(),
                },
                pull_timeout: policy.pull_timeout.clone(),
                images_per_pod: policy.images_per_pod,
                ..PullPolicySpec::default()
            },
            ..Settings::default()
        }
    }

    /// Returns how long the API server may be silent, at least a second.
    pub fn max_silence(&self) -> Duration {
        self.timing.max_silence.get().unsigned_abs().max(Duration::from_secs(1))
    }

    /// Returns how long sources may take to answer.
    pub fn limits(&self) -> Limits {
        let limits = Limits::default();
        // A duration is never negative.
        let request = self.timing.discovery_timeout.get().unsigned_abs();
        let query = limits.query.max(request.saturating_mul(REQUESTS_PER_QUERY));
        Limits { connect: limits.connect.min(request), request, query, ..limits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_flags_the_operator_runs_on_the_documented_defaults() {
        let cli = Cli::try_parse_from(["drop", "operator"]).unwrap();
        let Command::Operator(args) = cli.command else { panic!("{cli:?}") };
        assert_eq!(args.settings().built_in_policy, PullPolicySpec::default());
        assert_eq!(args.pod_namespace, "drop-system");
    }

    #[test]
    fn a_query_has_time_for_slow_answers() {
        for (flag, request, query) in [("60s", 60, 300), ("5s", 5, 300), ("10m", 600, 3000)] {
            let cli = Cli::try_parse_from(["drop", "operator", "--discovery-timeout", flag]).unwrap();
            let Command::Operator(args) = cli.command else { panic!("{cli:?}") };
            let limits = args.limits();
            assert_eq!((limits.request.as_secs(), limits.query.as_secs()), (request, query), "{flag}");
        }
    }

    #[test]
    fn tokens_are_asked_for_under_tls_only() {
        let parse = |flags: &[&str]| Cli::try_parse_from([&["drop", "operator"], flags].concat());
        let error = parse(&["--metrics-auth=true"]).unwrap_err().to_string();
        assert!(error.contains("--tls-cert-file"), "{error}");
        let error = parse(&["--tls-cert-file=tls.crt"]).unwrap_err().to_string();
        assert!(error.contains("--tls-key-file"), "{error}");
        assert!(parse(&["--metrics-auth=false"]).is_ok());
        assert!(parse(&["--metrics-auth=true", "--tls-cert-file=tls.crt", "--tls-key-file=tls.key"]).is_ok());
    }

    #[test]
    fn a_bad_duration_is_refused_with_an_example() {
        let error = Cli::try_parse_from(["drop", "operator", "--pull-timeout", "soon"]).unwrap_err();
        assert!(error.to_string().contains("30s, 5m or 1h30m"), "{error}");
    }

    #[test]
    fn the_commands_of_the_documentation_are_understood() {
        let commands = drop_docs::commands("drop").unwrap();
        assert!(!commands.is_empty());
        for command in commands {
            match Cli::try_parse_from(&command.words) {
                Err(error) if error.use_stderr() => panic!("{command}: {error}"),
                _ => {}
            }
        }
    }
}
