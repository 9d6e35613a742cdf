//! The effects of a plan. They are data; the operator executes them.

use drop_api::scheduling::Toleration;
use drop_api::{
    CachedImage, CachedImageSetStatus, CachedImageSpec, CachedImageStatus, DiscoveryPolicyStatus, NodeCache,
    PullPolicyStatus,
};
use jiff::Timestamp;

use crate::Name;
use crate::discovery::Order;
use crate::io::lookup::Inquiry;
use crate::io::notice::Notice;
use crate::objects::image::{ImagePullPolicy, Origin};
use crate::objects::memory::Settlement;
use crate::objects::reference::Reference;

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Create a pull Pod.
    CreatePod(Box<PodOrder>),
    /// Delete a pull Pod.
    DeletePod {
        /// Its name.
        pod: Name,
        /// Only if it still has this UID.
        uid: Option<Name>,
        /// Whether to delete the object at once, before the kubelet has confirmed that the Pod has ended. This happens
        /// only if the kubelet is lost.
        force: bool,
    },
    /// Check whether a Pod exists that was created, but that no watch has shown.
    CheckPod {
        /// Its name.
        pod: Name,
    },
    /// Write a NodeCache.
    RecordNode {
        /// The whole object.
        cache: Box<NodeCache>,
        /// The outcomes that it records for the first time.
        settlements: Vec<Settlement>,
        /// How many evictions it records for the first time.
        evictions: usize,
    },
    /// Write a CachedImage's status.
    PatchImage {
        /// Its name.
        image: Name,
        /// The whole status.
        status: Box<CachedImageStatus>,
    },
    /// Create the CachedImage of one of a set's images.
    CreateChild {
        /// The set.
        set: Name,
        /// The whole object.
        child: Box<CachedImage>,
    },
    /// Replace the spec of a set's CachedImage.
    UpdateChild {
        /// The set.
        set: Name,
        /// The CachedImage's name.
        child: Name,
        /// Only if it still has this UID.
        uid: Name,
        /// The whole spec.
        spec: Box<CachedImageSpec>,
        /// The value of its label of origin, if it gets one.
        origin: Option<Origin>,
    },
    /// Delete the CachedImage of an image that is no longer in its set.
    DeleteChild {
        /// The set.
        set: Name,
        /// The CachedImage's name.
        child: Name,
        /// Only if it still has this UID.
        uid: Name,
    },
    /// Write a CachedImageSet's status.
    PatchSet {
        /// Its name.
        set: Name,
        /// The whole status.
        status: Box<CachedImageSetStatus>,
    },
    /// Ask the sources of a DiscoveryPolicy.
    Discover(Box<Order>),
    /// Ask a registry for an image.
    LookUp(Box<Inquiry>),
    /// Write a DiscoveryPolicy's status.
    PatchDiscovery {
        /// Its name.
        policy: Name,
        /// The whole status.
        status: Box<DiscoveryPolicyStatus>,
    },
    /// Write a PullPolicy's status.
    PatchPolicy {
        /// Its name.
        policy: Name,
        /// The whole status.
        status: Box<PullPolicyStatus>,
    },
    /// Report a change as an Event. A failure is not retried.
    Tell(Box<Notice>),
}

/// The subject of an effect. At most one effect per subject is under way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EffectKey {
    /// A Pod's creation.
    CreatePod(Name),
    /// A Pod's deletion.
    DeletePod(Name),
    /// A Pod's deletion by force.
    KillPod(Name),
    /// A look at a Pod.
    CheckPod(Name),
    /// A node's NodeCache.
    Record(Name),
    /// A CachedImage's status.
    Image(Name),
    /// A CachedImageSet's CachedImage.
    Child {
        /// The set.
        set: Name,
        /// The CachedImage.
        child: Name,
    },
    /// A CachedImageSet's status.
    Set(Name),
    /// A run of a DiscoveryPolicy.
    Discovery(Name),
    /// A question to an image's registry.
    LookUp(Reference),
    /// A DiscoveryPolicy's status.
    DiscoveryStatus(Name),
    /// A PullPolicy's status.
    Policy(Name),
    /// A notice about an object of this kind and name.
    Tell(&'static str, Name),
}

impl Effect {
    /// The subject of the effect.
    #[must_use]
    pub fn key(&self) -> EffectKey {
        match self {
            Self::CreatePod(order) => EffectKey::CreatePod(order.name.clone()),
            Self::DeletePod { pod, force: true, .. } => EffectKey::KillPod(pod.clone()),
            Self::DeletePod { pod, .. } => EffectKey::DeletePod(pod.clone()),
            Self::CheckPod { pod } => EffectKey::CheckPod(pod.clone()),
            Self::RecordNode { cache, .. } => {
                EffectKey::Record(cache.metadata.name.as_deref().unwrap_or_default().into())
            }
            Self::PatchImage { image, .. } => EffectKey::Image(image.clone()),
            Self::CreateChild { set, child } => {
                EffectKey::Child { set: set.clone(), child: child.metadata.name.as_deref().unwrap_or_default().into() }
            }
            Self::UpdateChild { set, child, .. } | Self::DeleteChild { set, child, .. } => {
                EffectKey::Child { set: set.clone(), child: child.clone() }
            }
            Self::PatchSet { set, .. } => EffectKey::Set(set.clone()),
            Self::Discover(order) => EffectKey::Discovery(order.policy.clone()),
            Self::LookUp(inquiry) => EffectKey::LookUp(inquiry.reference.clone()),
            Self::PatchDiscovery { policy, .. } => EffectKey::DiscoveryStatus(policy.clone()),
            Self::PatchPolicy { policy, .. } => EffectKey::Policy(policy.clone()),
            Self::Tell(notice) => EffectKey::Tell(notice.kind, notice.name.clone()),
        }
    }
}

/// An order to create a pull Pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodOrder {
    /// Its name. It is a function of the node's UID, the images and the attempt, so asking twice creates one Pod.
    pub name: Name,
    /// The node that it is bound to.
    pub node: Name,
    /// That node's UID, which owns the Pod.
    pub node_uid: Name,
    /// The policy that it counts against; empty for the built-in one.
    pub policy: Name,
    /// The CachedImageSet of its images, if they have one.
    pub set: Option<Name>,
    /// The pulls, in this order.
    pub pulls: Vec<Pull>,
    /// Names of pull secrets.
    pub secrets: Vec<Name>,
    /// Taints that the Pod tolerates.
    pub tolerations: Vec<Toleration>,
    /// Whether it uses the node's network.
    pub host_network: bool,
    /// When the turn of its node began that it goes on with; `None` if it begins one.
    pub goes_on_since: Option<Timestamp>,
    /// Whether it is a retry, a probe or a question for a tag.
    pub is_late: bool,
}

impl PodOrder {
    /// Whether it begins a turn of its node.
    #[must_use]
    pub fn begins_turn(&self) -> bool {
        self.goes_on_since.is_none()
    }
}

/// One image of a [`PodOrder`].
#[derive(Clone, Debug, PartialEq)]
pub struct Pull {
    /// The CachedImage.
    pub cached_image: Name,
    /// The image.
    pub reference: Reference,
    /// Whether the kubelet asks the registry even if the image is present.
    pub policy: ImagePullPolicy,
}
