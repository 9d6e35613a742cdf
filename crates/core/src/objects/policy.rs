//! The fields of a PullPolicy that planning needs.

use drop_api::pull_policy::{HostNetwork, LookupMode};
use drop_api::scheduling::{NodeLabels, Toleration};
use drop_api::{PullPolicy, PullPolicySpec};
use jiff::SignedDuration;

use crate::Name;
use crate::pace::backoff::Backoff;

/// The name under which the built-in policy is kept; no object can have it.
pub const BUILT_IN: &str = "";

/// The limits on pulls of the images that refer to the policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// `metadata.name`, or [`BUILT_IN`].
    pub name: Name,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// Distinct nodes with a pull Pod.
    pub max_nodes: usize,
    /// Pull Pods, if capped.
    pub max_pulls: Option<usize>,
    /// Pull Pods with an open pull from one registry host, if capped.
    pub max_pulls_per_registry: Option<usize>,
    /// The minimum time between a start on one node and a start on another.
    pub min_delay: SignedDuration,
    /// The waits after failures.
    pub backoff: Backoff,
    /// How often a tag that a node already has is looked up again, if at all.
    pub repull_interval: Option<SignedDuration>,
    /// Whether Drop asks registries for its images.
    pub lookup: LookupMode,
    /// How long a Pod may pull.
    pub pull_timeout: SignedDuration,
    /// The most images of one set in one Pod.
    pub images_per_pod: usize,
    /// Whether no new pull starts.
    pub paused: bool,
    /// Whether Pods use the node's network.
    pub host_network: HostNetwork,
    /// Further labels that a node must have.
    pub labels: NodeLabels,
    /// Further taints that a node may have.
    pub tolerations: Vec<Toleration>,
}

impl Policy {
    /// Whether Drop asks registries for its images.
    #[must_use]
    pub fn looks_up(&self) -> bool {
        self.lookup == LookupMode::Auto
    }

    /// Reads a PullPolicy; `None` where it has no name or is being deleted.
    #[must_use]
    pub fn from_api(object: &PullPolicy) -> Option<Self> {
        let meta = &object.metadata;
        if meta.deletion_timestamp.is_some() {
            return None;
        }
        Some(Self::new(meta.name.as_deref()?.into(), meta.generation, &object.spec))
    }

    /// The policy `name` with this spec.
    #[must_use]
    pub fn new(name: Name, generation: Option<i64>, spec: &PullPolicySpec) -> Self {
        // The API server enforces a minimum of 1 on all of these.
        let count = |value: i32| usize::try_from(value).unwrap_or(1).max(1);
        Self {
            name,
            generation,
            max_nodes: count(spec.max_concurrent_nodes),
            max_pulls: spec.max_concurrent_pulls.map(count),
            max_pulls_per_registry: spec.max_concurrent_pulls_per_registry.map(count),
            min_delay: spec.min_delay_between_pulls.get(),
            backoff: Backoff { initial: spec.failure_backoff.initial.get(), max: spec.failure_backoff.max.get() },
            repull_interval: spec.repull_interval.as_ref().map(drop_api::GoDuration::get),
            lookup: spec.lookup,
            pull_timeout: spec.pull_timeout.get(),
            images_per_pod: count(spec.images_per_pod),
            paused: spec.paused,
            host_network: spec.host_network,
            labels: spec.node_selector.clone(),
            tolerations: spec.tolerations.clone(),
        }
    }

    /// Returns the name that messages use.
    #[must_use]
    pub fn title(&self) -> String {
        title(&self.name)
    }
}

/// Returns the name that messages use for the policy called `name`.
#[must_use]
pub fn title(name: &str) -> String {
    match name {
        BUILT_IN => "the built-in pull policy".to_owned(),
        name => format!("PullPolicy {name}"),
    }
}
