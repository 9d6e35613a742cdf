//! The fields of a CachedImage that planning needs.

use drop_api::CachedImage;
pub use drop_api::cached_image::ImagePullPolicy;
use drop_api::names::{LABEL_ORIGIN, ORIGIN_DISCOVERED, ORIGIN_STATIC};
use jiff::Timestamp;

use crate::Name;
use crate::objects::placement::Placement;
use crate::objects::policy::BUILT_IN;
use crate::objects::reference::Reference;

/// A wanted image.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// `metadata.name` of the CachedImage.
    pub name: Name,
    /// `metadata.uid`.
    pub uid: Name,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// `metadata.creationTimestamp`, in whole seconds.
    pub created_at: Timestamp,
    /// The full reference.
    pub reference: Reference,
    /// When nodes pull it.
    pub pull: ImagePullPolicy,
    /// Names of pull secrets in the pod namespace.
    pub secrets: Vec<Name>,
    /// Its requirements on a node.
    pub placement: Placement,
    /// Lower is pulled first.
    pub priority: i32,
    /// The CachedImageSet that owns it; images of one set share Pods.
    pub set: Option<Owner>,
    /// The part of its set that lists it, if known.
    pub origin: Option<Origin>,
    /// Its PullPolicy; empty for the built-in one.
    pub policy: Name,
}

/// The part of a set that lists an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Its list.
    Static,
    /// Only its DiscoveryPolicy.
    Discovered,
}

impl Origin {
    /// Returns the value of the label of origin.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Static => ORIGIN_STATIC,
            Self::Discovered => ORIGIN_DISCOVERED,
        }
    }
}

/// The object that another belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its name.
    pub name: Name,
    /// Its UID.
    pub uid: Name,
}

impl Image {
    /// Whether the CachedImageSet of this UID owns it.
    #[must_use]
    pub fn is_owned_by(&self, uid: &str) -> bool {
        self.set.as_ref().is_some_and(|owner| *owner.uid == *uid)
    }

    /// Whether its spec asks for the same as the spec of `other`.
    #[must_use]
    pub fn asks_for_the_same_as(&self, other: &Self) -> bool {
        let Self {
            name: _,
            uid: _,
            generation: _,
            created_at: _,
            set: _,
            origin,
            reference,
            pull,
            secrets,
            placement,
            priority,
            policy,
        } = self;
        // An image whose label somebody has removed stays unchanged.
        (origin.is_none() || *origin == other.origin)
            && *reference == other.reference
            && *pull == other.pull
            && *secrets == other.secrets
            && *placement == other.placement
            && *priority == other.priority
            && *policy == other.policy
    }

    /// Reads a CachedImage; `None` if it has no name, or is being deleted and so wants nothing any more.
    #[must_use]
    pub fn from_api(object: &CachedImage) -> Option<Self> {
        let meta = &object.metadata;
        let spec = &object.spec;
        if meta.deletion_timestamp.is_some() {
            return None;
        }
        let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        Some(Self {
            name: meta.name.as_deref()?.into(),
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            generation: meta.generation,
            created_at: meta.creation_timestamp.as_ref().map_or(Timestamp::MAX, |created| created.0),
            reference: Reference::new(&spec.image, spec.tag.as_deref(), spec.digest.as_deref()),
            pull: spec.image_pull_policy,
            secrets: spec.image_pull_secrets.iter().map(|secret| secret.name.as_str().into()).collect(),
            placement: Placement {
                labels: spec.node_selector.clone().into_iter().collect(),
                affinity: spec.node_affinity.clone(),
                tolerations: spec.tolerations.clone(),
            },
            priority: spec.priority,
            set: owner
                .filter(|owner| owner.kind == "CachedImageSet")
                .map(|owner| Owner { name: owner.name.as_str().into(), uid: owner.uid.as_str().into() }),
            origin: meta.labels.as_ref().and_then(|labels| match labels.get(LABEL_ORIGIN)?.as_str() {
                ORIGIN_STATIC => Some(Origin::Static),
                ORIGIN_DISCOVERED => Some(Origin::Discovered),
                _ => None,
            }),
            policy: spec.policy_ref.as_ref().map_or(BUILT_IN, |policy| &policy.name).into(),
        })
    }
}
