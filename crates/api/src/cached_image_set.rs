//! CachedImageSet: images that share everything but their names.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cached_image::{ImagePullPolicy, LocalObjectReference};
use crate::condition::{self, Condition};
use crate::scheduling::{NodeLabels, NodeSelector, Toleration, node_labels_schema};

/// Keeps a list of images, static or discovered, on every node that the spec selects.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "drop.corewire.io",
    version = "v1alpha1",
    kind = "CachedImageSet",
    plural = "cachedimagesets",
    doc = "Keeps a list of images, static or discovered, on every node that the spec selects.",
    category = "drop",
    shortname = "cis",
    status = "CachedImageSetStatus",
    derive = "Default",
    derive = "PartialEq",
    printcolumn(json_path = ".status.conditions[?(@.type==\"Ready\")].reason", name = "STATUS", type_ = "string"),
    printcolumn(json_path = ".status.ready", name = "READY", type_ = "string"),
    printcolumn(json_path = ".status.imagesManaged", name = "MANAGED", type_ = "integer"),
    printcolumn(json_path = ".spec.discoveryPolicyRef.name", name = "SOURCE", type_ = "string"),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "AGE", type_ = "date"),
    printcolumn(
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        name = "MESSAGE",
        type_ = "string",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct CachedImageSetSpec {
    /// The PullPolicy that paces the pulls; absent: the built-in defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_ref: Option<LocalObjectReference>,
    /// The DiscoveryPolicy whose images belong to the set, besides `images`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery_policy_ref: Option<LocalObjectReference>,
    /// When nodes pull: Always (once on each node, for each change of the
    /// reference), IfNotPresent, or Never (only report where the images are).
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
    /// Images that belong to the set whatever is discovered. An entry that is not
    /// valid, or that another one repeats, is named in the status and costs only itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub images: Vec<ImageEntry>,
}

/// One image of a set: the same three fields as a CachedImage has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageEntry {
    /// The image's name: `docker.io/library/alpine`. One that carries its own tag
    /// or digest is accepted while `tag` and `digest` are not set.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// The tag. Neither tag nor digest means `latest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub tag: Option<String>,
    /// The digest: `sha256:` and 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71))]
    pub digest: Option<String>,
}

/// The state of the set's images and of its discovery, as Drop observes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("default" = condition::unobserved()))]
pub struct CachedImageSetStatus {
    /// The `metadata.generation` that this was derived from.
    pub observed_generation: Option<i64>,
    /// `Ready`: every image is on every target node, and the list is up to date.
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// A summary of the conditions, in one word.
    pub phase: Option<SetPhase>,
    /// Images that are on all their target nodes, of those in the set: `3/3`.
    #[schemars(length(max = 32))]
    pub ready: Option<String>,
    /// Images in the set, each with a CachedImage of its own.
    pub images_managed: i32,
    /// Images that are on all their target nodes.
    pub images_ready: i32,
}

/// A summary of a CachedImageSet's conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SetPhase {
    /// Images are still to be pulled.
    Pending,
    /// Every image is on every target node.
    Ready,
    /// An image or the discovery fails.
    Degraded,
}
