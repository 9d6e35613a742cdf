//! CachedImage: keeps one image on the target nodes.

use jiff::Timestamp;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::{self, Condition};
use crate::scheduling::{NodeLabels, NodeSelector, Toleration, node_labels_schema};

/// The most entries of [`CachedImageStatus::failures`].
pub const MAX_FAILURES: usize = 10;

/// A regular expression for an image's name, perhaps with a tag and a digest: the grammar of
/// <https://github.com/distribution/reference>, with digests of sha256 alone.
pub const IMAGE_NAME: &str = r"^((([a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?\.)*[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?|\[[a-fA-F0-9:]+\])(:[0-9]{1,5})?/)?[a-z0-9]+((\.|_{1,2}|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_{1,2}|-+)[a-z0-9]+)*)*(:[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127})?(@sha256:[a-f0-9]{64})?$";

/// A regular expression for the ID of an image on a node. Container runtimes refuse it as a name.
pub const IMAGE_ID: &str = r"^(sha256:)?[a-f0-9]{64}([:@].*)?$";

/// A regular expression for a tag. A tag has at most 128 characters.
pub const TAG: &str = r"^[a-zA-Z0-9_][a-zA-Z0-9_.-]*$";

/// A regular expression for a digest.
pub const DIGEST: &str = r"^sha256:[a-f0-9]{64}$";

/// The message for a user who writes the ID of an image instead of its name.
pub const NOT_AN_ID: &str = "this is the ID of an image on a node, which no registry knows: write the image's name, such as docker.io/library/nginx";

/// The CEL rule that a text matches `pattern`.
fn matches(pattern: &str) -> String {
    format!("self.matches(r'{pattern}')")
}

/// Keeps one container image on every node that the spec selects.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "drop.corewire.io",
    version = "v1alpha1",
    kind = "CachedImage",
    plural = "cachedimages",
    doc = "Keeps one container image on every node that the spec selects.",
    category = "drop",
    shortname = "ci",
    status = "CachedImageStatus",
    derive = "Default",
    derive = "PartialEq",
    printcolumn(json_path = ".spec.image", name = "IMAGE", type_ = "string"),
    printcolumn(json_path = ".spec.tag", name = "TAG", type_ = "string"),
    printcolumn(json_path = ".status.conditions[?(@.type==\"Ready\")].reason", name = "STATUS", type_ = "string"),
    printcolumn(json_path = ".status.ready", name = "READY", type_ = "string"),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "AGE", type_ = "date"),
    printcolumn(json_path = ".status.resolvedDigest", name = "DIGEST", type_ = "string", priority = 1),
    printcolumn(
        json_path = ".metadata.labels.drop\\.corewire\\.io/imageset",
        name = "SET",
        type_ = "string",
        priority = 1
    ),
    printcolumn(json_path = ".spec.policyRef.name", name = "POLICY", type_ = "string", priority = 1),
    printcolumn(
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        name = "MESSAGE",
        type_ = "string",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "!(has(self.tag) && has(self.digest))",
        "message": "tag and digest exclude each other: keep digest to pin the image, or tag to follow it",
    },
    {
        "rule": "!(has(self.tag) || has(self.digest)) || !self.image.matches('(@|:[^/]*$)')",
        "message": "image already carries a tag or digest: write it without (docker.io/library/nginx), or remove tag and digest",
    },
]))]
pub struct CachedImageSpec {
    /// The image's name: `docker.io/library/alpine`. One that carries its own tag
    /// or digest is accepted while `tag` and `digest` are not set.
    #[schemars(length(min = 1, max = 512))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": matches(IMAGE_NAME),
        "message": "not an image name: write [registry[:port]/]path in lower case and without https://, such as docker.io/library/nginx or registry.example.com:5000/team/app",
    }, {
        "rule": format!("!{}", matches(IMAGE_ID)),
        "message": NOT_AN_ID,
    }]))]
    pub image: String,
    /// The tag. Neither tag nor digest means `latest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": matches(TAG),
        "message": "not a tag: letters, digits, _ . and -, not starting with . or -, such as 1.25-alpine",
    }]))]
    pub tag: Option<String>,
    /// The digest: `sha256:` and 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": matches(DIGEST),
        "message": "not a digest: write sha256: and 64 lower-case hexadecimal digits",
    }]))]
    pub digest: Option<String>,
    /// When nodes pull: Always (once on each node, for each change of the
    /// reference), IfNotPresent, or Never (only report where the image is).
    #[serde(default)]
    pub image_pull_policy: ImagePullPolicy,
    /// Secrets of type `kubernetes.io/dockerconfigjson` in the pod namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Labels that a node must have to be a target.
    #[serde(default, skip_serializing_if = "NodeLabels::is_empty")]
    #[schemars(schema_with = "node_labels_schema")]
    pub node_selector: NodeLabels,
    /// Terms of which a node must meet one to be a target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_affinity: Option<NodeSelector>,
    /// Taints that a target may have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// Images of lower priority values are pulled first.
    #[serde(default)]
    pub priority: i32,
    /// The PullPolicy that paces the pulls; absent: the built-in defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_ref: Option<LocalObjectReference>,
}

/// When nodes pull an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    /// Once on each node, for each change of the reference.
    #[default]
    Always,
    /// Where the image is not on the node.
    IfNotPresent,
    /// Nowhere: only report where the image is.
    Never,
}

/// The name of another object.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct LocalObjectReference {
    /// Its `metadata.name`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The state of the image on the nodes, as Drop observes it. Its size does not grow with the number of nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("default" = condition::unobserved()))]
pub struct CachedImageStatus {
    /// The `metadata.generation` that this was derived from.
    pub observed_generation: Option<i64>,
    /// `Ready`: the image is on every target node.
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// A summary of the conditions, in one word.
    pub phase: Option<Phase>,
    /// Nodes that have the image, of those that should: `2/2`.
    #[schemars(length(max = 32))]
    pub ready: Option<String>,
    /// Nodes that should have the image.
    pub nodes_targeted: i32,
    /// Nodes that have it.
    pub nodes_ready: i32,
    /// Nodes that are pulling it.
    pub nodes_pulling: i32,
    /// Nodes where the last pull failed.
    pub nodes_failed: i32,
    /// The digest of the image: the one that pins it, if a node has it; the one that the registry last served to Drop
    /// (see `lookup`); or else the one that the newest pull got.
    #[schemars(length(max = 71))]
    pub resolved_digest: Option<String>,
    /// The result of asking the registry; absent if Drop does not ask (`lookup: Never` in the PullPolicy) or has no
    /// result yet.
    pub lookup: Option<LookupStatus>,
    /// When a pull last succeeded.
    pub last_pulled_at: Option<Timestamp>,
    /// When a pull last ended, well or not.
    pub last_attempted_at: Option<Timestamp>,
    /// Failed pulls since the last one that succeeded.
    pub consecutive_failures: i32,
    /// The nodes that failed most recently, at most ten.
    #[schemars(length(max = 10))]
    pub failures: Vec<NodeFailure>,
}

/// The result of asking an image's registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LookupStatus {
    /// The digest that the registry serves.
    #[schemars(length(max = 71))]
    pub digest: Option<String>,
    /// Since when Drop has known this digest.
    pub since: Option<Timestamp>,
    /// The reason why Drop got no digest from the registry the last time: the registry has no such image, or could not
    /// be asked, so that nodes find out by pulling. Absent if Drop got one.
    #[schemars(length(max = 512))]
    pub message: Option<String>,
}

/// One node's failure to pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeFailure {
    /// The node's name.
    #[schemars(length(max = 253))]
    pub node: String,
    /// The kubelet's reason.
    #[schemars(length(max = 128))]
    pub reason: String,
    /// The cause in a short form.
    #[schemars(length(max = 512))]
    pub message: String,
    /// Failed pulls there in a row.
    pub attempts: i32,
    /// The earliest next try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
}

/// A summary of a CachedImage's conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Nothing is being pulled yet.
    Pending,
    /// At least one node is pulling.
    Pulling,
    /// The image is on every target node.
    Ready,
    /// At least one node failed.
    Degraded,
}
