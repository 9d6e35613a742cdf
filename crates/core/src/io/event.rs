//! The events that change a [`World`](crate::World).

use std::collections::BTreeSet;

use drop_api::{CachedImage, CachedImageSetStatus, CachedImageStatus, DiscoveryPolicy, NodeCache, PullPolicyStatus};

use crate::Name;
use crate::discovery::Discovered;
use crate::io::effect::EffectKey;
use crate::io::lookup::LookedUp;
use crate::objects::image::Image;
use crate::objects::image_set::ImageSet;
use crate::objects::node::Node;
use crate::objects::policy::Policy;
use crate::objects::pull_pod::PullPod;

/// A kind of watched object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// CachedImages.
    Image,
    /// CachedImageSets.
    Set,
    /// DiscoveryPolicies.
    Discovery,
    /// Secrets of the pod namespace.
    Secret,
    /// PullPolicies.
    Policy,
    /// Nodes.
    Node,
    /// Pull Pods.
    Pod,
    /// NodeCaches.
    Cache,
}

impl Kind {
    /// Every kind; planning starts when all of them are synced.
    pub const ALL: [Self; 8] =
        [Self::Image, Self::Set, Self::Discovery, Self::Secret, Self::Policy, Self::Node, Self::Pod, Self::Cache];
}

/// A report from a watch or from the executor.
#[derive(Clone, Debug)]
pub enum Event {
    /// A CachedImage exists, with this status.
    Image(Box<Image>, Box<CachedImageStatus>),
    /// A CachedImageSet exists, with this status.
    Set(Box<ImageSet>, Box<CachedImageSetStatus>),
    /// A DiscoveryPolicy exists.
    Discovery(Box<DiscoveryPolicy>),
    /// A Secret exists, in this version.
    Secret(Name, Name),
    /// A PullPolicy exists, with this status.
    Policy(Box<Policy>, Box<PullPolicyStatus>),
    /// A node exists.
    Node(Box<Node>),
    /// A pull Pod exists.
    Pod(Box<PullPod>),
    /// A NodeCache exists.
    Cache(Box<NodeCache>),
    /// An object is gone.
    Gone(Kind, Name),
    /// A kind was listed in full: an object that is not among the names is gone.
    Listed(Kind, BTreeSet<Name>),
    /// An effect ended.
    Report(EffectKey, Report),
}

/// How an effect ended.
#[derive(Clone, Debug)]
pub enum Report {
    /// The Pod was created, or existed already and is Drop's.
    PodCreated {
        /// Its UID.
        uid: Name,
    },
    /// The current state of a set's CachedImage.
    Child(Box<CachedImage>),
    /// The sources were asked.
    Discovered(Box<Discovered>),
    /// The registry was asked.
    LookedUp(LookedUp),
    /// The current state of the NodeCache.
    Recorded(Box<NodeCache>),
    /// Done, or not needed because the object is gone.
    Done,
    /// There is no such Pod.
    PodGone {
        /// The UID that was looked for, if one was.
        uid: Option<Name>,
    },
    /// The API server denied the effect, and has not carried it out.
    Refused(String),
    /// The effect may have been carried out or not: no answer came, or the answer leaves it open.
    Unknown(String),
}
