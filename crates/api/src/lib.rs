//! The `drop.corewire.io/v1alpha1` API.
//!
//! The CustomResourceDefinitions under `deploy/crds/` are generated from these
//! types (`cargo xtask gen`). Nothing here talks to a cluster.
//!
//! Conventions: every string, list and map is bounded, so that one object stays
//! small and the CEL rules stay within the API server's cost limits; a rule's
//! message says what to write instead.

#![allow(clippy::duplicated_attributes, reason = "each printcolumn(…) repeats the names of its fields")]

pub mod cached_image;
pub mod cached_image_set;
pub mod condition;
pub mod discovery_policy;
pub mod duration;
pub mod names;
pub mod node_cache;
pub mod pull_policy;
pub mod scheduling;
pub mod strict;

pub use cached_image::{CachedImage, CachedImageSpec, CachedImageStatus};
pub use cached_image_set::{CachedImageSet, CachedImageSetSpec, CachedImageSetStatus};
pub use condition::{Condition, ConditionStatus};
pub use discovery_policy::{DiscoveryPolicy, DiscoveryPolicySpec, DiscoveryPolicyStatus};
pub use duration::GoDuration;
pub use node_cache::{NodeCache, NodeCacheSpec, NodeCacheStatus};
pub use pull_policy::{PullPolicy, PullPolicySpec, PullPolicyStatus};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The API group of every Drop resource.
pub const GROUP: &str = "drop.corewire.io";

/// Every CustomResourceDefinition that Drop needs, in the order of their names.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![CachedImage::crd(), CachedImageSet::crd(), DiscoveryPolicy::crd(), node_cache::crd(), PullPolicy::crd()]
}
