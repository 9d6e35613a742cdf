//! NodeCache: the memory of one node.

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResource, CustomResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::Condition;
use crate::duration::GoDuration;

/// The pulls, evictions and failures of one node. Written by Drop only.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "drop.corewire.io",
    version = "v1alpha1",
    kind = "NodeCache",
    plural = "nodecaches",
    doc = "The pulls, evictions and failures of one node. Written by Drop only.",
    status = "NodeCacheStatus",
    derive = "Default",
    derive = "PartialEq",
    printcolumn(json_path = ".status.ready", name = "READY", type_ = "string"),
    printcolumn(json_path = ".status.imagesPulling", name = "PULLING", type_ = "integer"),
    printcolumn(json_path = ".status.imagesFailed", name = "FAILED", type_ = "integer"),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "AGE", type_ = "date")
)]
#[serde(rename_all = "camelCase")]
pub struct NodeCacheSpec {
    /// The UID of the Node that this is about. A node that is re-created under
    /// the same name has another one, and starts empty.
    #[serde(rename = "nodeUID")]
    #[schemars(length(min = 1, max = 64))]
    pub node_uid: String,
}

/// The node's images, as Drop knows them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeCacheStatus {
    /// `Ready`: every image that is wanted on the node is there.
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Images that are there, of those that should be: `18/20`.
    #[schemars(length(max = 32))]
    pub ready: String,
    /// Images that are being pulled, by Pods that have been at it for ten seconds.
    pub images_pulling: i32,
    /// Images whose last pull failed.
    pub images_failed: i32,
    /// The UID of the last pull Pod whose outcome is recorded here, so that it is
    /// recorded once.
    #[serde(rename = "lastPodUID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub last_pod_uid: Option<String>,
    /// Operating system and architecture of the node, such as `linux/amd64`, when a pull Pod last came to its
    /// end there. Nodes of different platforms may rightly get different digests of one tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub platform: Option<String>,
    /// When each PullPolicy last began a turn of pulls on this node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["policy"]))]
    pub pull_starts: Vec<PullStart>,
    /// Consecutive Pods that the node itself failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_failure: Option<Failure>,
    /// The records of images that are wanted on the node, or were within the last day.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2000), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["image"]))]
    pub images: Vec<ImageRecord>,
}

/// When a PullPolicy last began a turn of pulls on the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PullStart {
    /// The policy's name; empty for the built-in defaults.
    #[schemars(length(max = 253))]
    pub policy: String,
    /// The start of that turn.
    pub at: Timestamp,
}

/// The record of one image on the node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageRecord {
    /// The full reference, normalised: `docker.io/library/alpine:3.20`.
    #[schemars(length(min = 1, max = 768))]
    pub image: String,
    /// The digest that was pulled, or found where it was the newest of its tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71))]
    pub digest: Option<String>,
    /// The ID that the runtime itself gave the image that was pulled, where it does not report the digest.
    #[serde(rename = "imageID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub image_id: Option<String>,
    /// The reference that was really pulled, where admission rewrote the one in the Pod: the node
    /// lists the image under this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 768))]
    pub pulled_as: Option<String>,
    /// When it was pulled; absent until a pull succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulled_at: Option<Timestamp>,
    /// How long that pull took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_duration: Option<GoDuration>,
    /// Since when the image is known to be on the node without a pull.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found_at: Option<Timestamp>,
    /// The evictions of the image; absent if there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eviction: Option<Eviction>,
    /// Its size on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// Pulls that were tried here, which makes the next Pod's name a new one.
    #[serde(default)]
    pub attempts: i32,
    /// Whether the next pull gets a Pod of its own: the Pod of the last one took longer than
    /// `pullTimeout`, which does not tell which of its images hangs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alone: Option<bool>,
    /// Why the last pull failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Since when no CachedImage wants the image on this node. It is remembered for a day, so that an image
    /// that comes back is not pulled again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwanted_since: Option<Timestamp>,
}

/// An image that was on the node and was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Eviction {
    /// The number of evictions, without a long stay of the image in between.
    pub count: i32,
    /// When Drop last noticed an eviction.
    pub at: Timestamp,
}

/// A failure that has not been overcome yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The kubelet's reason.
    #[schemars(length(max = 128))]
    pub reason: String,
    /// The cause in a short form.
    #[schemars(length(max = 512))]
    pub message: String,
    /// The part of the system that caused the failure.
    pub scope: FailureScope,
    /// Failures in a row on this node.
    pub count: i32,
    /// Rounds of failures of the image over all nodes, where the image or its registry fails. Nodes
    /// that fail side by side are one round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounds: Option<i32>,
    /// When the first of these failures was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When it last failed.
    pub at: Timestamp,
    /// The earliest next try, as of then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
}

/// The part of the system that caused a failure. It decides which pulls wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FailureScope {
    /// The node's: that node waits.
    Node,
    /// The image's: one node at a time tries it.
    Image,
    /// The registry's: one node at a time tries the image.
    Registry,
    /// Unknown: the image waits on that node.
    Unknown,
}

/// The CustomResourceDefinition of [`NodeCache`], without the status subresource:
/// one request then creates or updates a whole NodeCache, which halves the
/// writes of a pull. The status stays where people look for it.
#[must_use]
pub fn crd() -> CustomResourceDefinition {
    let mut crd = NodeCache::crd();
    for version in &mut crd.spec.versions {
        version.subresources = None;
    }
    crd
}
