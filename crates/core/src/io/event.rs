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

/// A kind of object that is watched.
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

/// Something that a watch or the executor tells.
#[derive(Clone, Debug)]
pub enum Event {
    /// A CachedImage is there, with the status that it has.
    Image(Box<Image>, Box<CachedImageStatus>),
    /// A CachedImageSet is there, with the status that it has.
    Set(Box<ImageSet>, Box<CachedImageSetStatus>),
    /// A DiscoveryPolicy is there.
    Discovery(Box<DiscoveryPolicy>),
    /// A Secret is there, in this version.
    Secret(Name, Name),
    /// A PullPolicy is there, with the status that it has.
    Policy(Box<Policy>, Box<PullPolicyStatus>),
    /// A node is there.
    Node(Box<Node>),
    /// A pull Pod is there.
    Pod(Box<PullPod>),
    /// A NodeCache is there.
    Cache(Box<NodeCache>),
    /// An object is gone.
    Gone(Kind, Name),
    /// A kind was listed in full: an object that is not among the names is gone.
    Listed(Kind, BTreeSet<Name>),
    /// An effect came to its end.
    Report(EffectKey, Report),
}

/// How an effect ended.
#[derive(Clone, Debug)]
pub enum Report {
    /// The Pod was created, or was there already and is Drop's.
    PodCreated {
        /// Its UID.
        uid: Name,
    },
    /// The CachedImage of a set is now this.
    Child(Box<CachedImage>),
    /// The sources were asked.
    Discovered(Box<Discovered>),
    /// The registry was asked.
    LookedUp(LookedUp),
    /// The NodeCache is now this.
    Recorded(Box<NodeCache>),
    /// Done, or needless because the object is gone.
    Done,
    /// There is no such Pod.
    PodGone {
        /// The UID that was looked for, if one was.
        uid: Option<Name>,
    },
    /// The API server refused it and has not done it.
    Refused(String),
    /// It may have been done or not: no answer came, or one that leaves it open.
    Unknown(String),
}
