//! PullPolicy: how fast images may be pulled.

use jiff::Timestamp;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::{self, Condition};
use crate::duration::GoDuration;
use crate::scheduling::{NodeLabels, Toleration, node_labels_schema};

/// Paces the pulls of every CachedImage that refers to it, over the whole cluster.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "drop.corewire.io",
    version = "v1alpha1",
    kind = "PullPolicy",
    plural = "pullpolicies",
    doc = "Paces the pulls of every CachedImage that refers to it, over the whole cluster.",
    category = "drop",
    status = "PullPolicyStatus",
    derive = "PartialEq",
    printcolumn(json_path = ".spec.maxConcurrentNodes", name = "MAXNODES", type_ = "integer"),
    printcolumn(json_path = ".spec.minDelayBetweenPulls", name = "MINDELAY", type_ = "string"),
    printcolumn(json_path = ".spec.repullInterval", name = "REPULL", type_ = "string"),
    printcolumn(json_path = ".status.nodesPulling", name = "PULLING", type_ = "integer"),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "AGE", type_ = "date")
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "!has(self.pullTimeout) || duration(self.pullTimeout) >= duration('1s')",
        "message": "pullTimeout must be at least 1s: write the longest time that a pull may take, such as 1h",
    },
    {
        "rule": "!has(self.repullInterval) || duration(self.repullInterval) >= duration('1s')",
        "message": "repullInterval must be at least 1s: remove it to never ask again, or write one such as 6h",
    },
]))]
pub struct PullPolicySpec {
    /// On how many nodes images may be pulled at once.
    #[schemars(range(min = 1, max = 100000))]
    pub max_concurrent_nodes: i32,
    /// How many pull Pods may be there at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100000))]
    pub max_concurrent_pulls: Option<i32>,
    /// How many pull Pods may be pulling from one registry host at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100000))]
    pub max_concurrent_pulls_per_registry: Option<i32>,
    /// The least time between starting on one node and starting on another.
    pub min_delay_between_pulls: GoDuration,
    /// How long a failed pull waits before the next try.
    pub failure_backoff: FailureBackoff,
    /// How often a tag that is there already is looked up again; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repull_interval: Option<GoDuration>,
    /// Whether Drop asks registries for digests, platforms and sizes, so that a moved tag, a missing image or a
    /// missing platform needs no Pod.
    pub lookup: LookupMode,
    /// How long a pull Pod may take from the moment its node starts on it.
    pub pull_timeout: GoDuration,
    /// How many images of one set are pulled by one Pod.
    #[schemars(range(min = 1, max = 50))]
    pub images_per_pod: i32,
    /// While true, Drop starts no pull Pods; running pull Pods go on.
    pub paused: bool,
    /// Whether pull Pods use the node's network.
    pub host_network: HostNetwork,
    /// Labels that a node must have, besides those that the image asks for.
    #[serde(skip_serializing_if = "NodeLabels::is_empty")]
    #[schemars(schema_with = "node_labels_schema")]
    pub node_selector: NodeLabels,
    /// Taints that a target may have, besides those that the image tolerates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
}

impl Default for PullPolicySpec {
    /// The built-in policy, which holds for images that name none.
    fn default() -> Self {
        Self {
            max_concurrent_nodes: 1,
            max_concurrent_pulls: None,
            max_concurrent_pulls_per_registry: None,
            min_delay_between_pulls: GoDuration::from_secs(10),
            failure_backoff: FailureBackoff::default(),
            repull_interval: None,
            lookup: LookupMode::Auto,
            pull_timeout: GoDuration::from_secs(3600),
            images_per_pod: 10,
            paused: false,
            host_network: HostNetwork::Never,
            node_selector: NodeLabels::new(),
            tolerations: Vec::new(),
        }
    }
}

/// Exponential backoff: `initial`, doubled with every failure, up to `max`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "!has(self.initial) || duration(self.initial) >= duration('1s')",
        "message": "initial must be at least 1s, such as 30s",
    },
    {
        "rule": "!has(self.initial) || !has(self.max) || duration(self.initial) <= duration(self.max)",
        "message": "max must not be shorter than initial: raise max, or lower initial",
    },
]))]
pub struct FailureBackoff {
    /// The wait after the first failure.
    pub initial: GoDuration,
    /// The longest wait.
    pub max: GoDuration,
}

impl Default for FailureBackoff {
    fn default() -> Self {
        Self { initial: GoDuration::from_secs(30), max: GoDuration::from_secs(300) }
    }
}

/// Whether Drop asks registries for the images of a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LookupMode {
    /// Drop asks, with the image's pull secrets. Where a registry cannot be asked, one node finds out by pulling.
    #[default]
    Auto,
    /// Drop never asks.
    Never,
}

/// Whether pull Pods use the node's network, which works before the network
/// plugin does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HostNetwork {
    /// They do not.
    #[default]
    Never,
    /// They do on nodes that are not Ready.
    NotReadyNodes,
    /// They do everywhere.
    Always,
}

/// The state of the policy and of its pulls.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("default" = condition::unobserved()))]
pub struct PullPolicyStatus {
    /// The `metadata.generation` that this was derived from.
    pub observed_generation: Option<i64>,
    /// `Ready`: the policy is in force (False while paused).
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Nodes with a pull Pod of this policy.
    pub nodes_pulling: i32,
    /// Pairs of image and node that are missing and not being pulled.
    pub pulls_waiting: i32,
    /// When a turn of pulls last began on a node. `minDelayBetweenPulls` counts from this time.
    pub last_pull_started_at: Option<Timestamp>,
}
