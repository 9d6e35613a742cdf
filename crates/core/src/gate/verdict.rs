//! The reasons why an image is not on a node yet: one vocabulary for conditions, metrics and `/debug/plan`.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use crate::Name;
use crate::objects::memory::MAX_IMAGES;
use crate::objects::policy::title;

/// The state of one image on one node: cached, being pulled, next, or the reason why no pull begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "camelCase")]
pub enum Verdict {
    /// The node has the image.
    Cached,
    /// A Pod is pulling it.
    Pulling {
        /// The Pod.
        pod: Name,
    },
    /// The pull begins when the operator carries out this plan.
    Next,
    /// The node is not a target of the image.
    NotATarget {
        /// The reason.
        why: String,
    },
    /// The node lacks the image, and `imagePullPolicy: Never` forbids a pull.
    NeverPulled,
    /// Drop is asking the registry for the image.
    LookingUp,
    /// Its registry has no such image.
    NotFound {
        /// The registry's message.
        cause: Name,
        /// When Drop asks again.
        at: Option<Timestamp>,
    },
    /// The image's registry has no image for the node's platform.
    NoImageForPlatform {
        /// The platform.
        platform: Name,
    },
    /// The PullPolicy that it names does not exist.
    PullPolicyNotFound {
        /// The name of the missing PullPolicy.
        policy: Name,
    },
    /// The PullPolicy is paused.
    Paused {
        /// Its name.
        policy: Name,
    },
    /// Another Pod is pulling on the node.
    NodeBusy {
        /// The Pod.
        pod: Name,
    },
    /// The node has waited so long for another PullPolicy that it pulls for that one next.
    NodeReserved {
        /// The name of the other PullPolicy; empty for the built-in one.
        policy: Name,
    },
    /// As many nodes are pulling as the PullPolicy allows.
    WaitingForNodeSlot {
        /// Its name; empty for the built-in one.
        policy: Name,
        /// `maxConcurrentNodes`.
        limit: usize,
    },
    /// As many Pods are pulling as the PullPolicy allows.
    WaitingForPullSlot {
        /// Its name.
        policy: Name,
        /// `maxConcurrentPulls`.
        limit: usize,
    },
    /// As many Pods are pulling from the registry as the PullPolicy allows.
    WaitingForRegistrySlot {
        /// The registry.
        host: Name,
        /// `maxConcurrentPullsPerRegistry`.
        limit: usize,
    },
    /// A pull was started on another node less than `minDelayBetweenPulls` ago.
    WaitingForDelay {
        /// When that has passed; `None` while that start is not confirmed.
        until: Option<Timestamp>,
    },
    /// The node's kubelet is lost.
    NodeLost,
    /// The node's network for Pods is not up, and the policy does not allow the
    /// node's own.
    NodeWithoutNetwork,
    /// The node failed, and Drop backs off from it.
    NodeBackingOff {
        /// The end of the backoff.
        until: Timestamp,
        /// The cause of the failure.
        cause: Name,
    },
    /// The image failed on this node, and Drop backs off from it there.
    BackingOff {
        /// The end of the backoff.
        until: Timestamp,
        /// The cause of the failure.
        cause: Name,
    },
    /// The image failed, and one node at a time probes it.
    WaitingForProbe {
        /// The next probe; `None` while one is due or under way.
        at: Option<Timestamp>,
        /// The cause of the failure.
        cause: Name,
    },
    /// The node's kubelet evicted the image. Drop waits before it pulls the image again, so that it does not fight the
    /// kubelet's garbage collector.
    Evicted {
        /// The end of the wait.
        until: Timestamp,
    },
    /// More images are wanted on the node than its NodeCache can hold.
    TooManyImages,
    /// The registry does not answer, and one pull at a time probes it.
    RegistryPaused {
        /// Its host.
        host: Name,
        /// The next probe; `None` while one is due or under way.
        at: Option<Timestamp>,
    },
    /// CachedImages of the image's set are being created. The images of a set share Pods, so the first Pod waits for
    /// all of them.
    SetIncomplete {
        /// The CachedImageSet.
        set: Name,
    },
    /// The API server denies the pull Pod.
    Refused {
        /// The next try.
        until: Timestamp,
        /// The API server's message.
        message: Name,
    },
}

/// A rule that a pull does not meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// The reason that people read.
    pub(crate) verdict: Verdict,
    /// The time from which the answer may differ without an event.
    pub(crate) until: Option<Timestamp>,
}

impl Held {
    /// Fails until an event.
    pub(crate) fn by(verdict: Verdict) -> Result<(), Self> {
        Err(Self { verdict, until: None })
    }

    /// Fails while `until` has not passed.
    pub(crate) fn before(
        until: Option<Timestamp>,
        now: Timestamp,
        verdict: impl FnOnce(Timestamp) -> Verdict,
    ) -> Result<(), Self> {
        let until = until.filter(|until| *until > now);
        until.map_or(Ok(()), |until| Err(Self { verdict: verdict(until), until: Some(until) }))
    }
}

impl Verdict {
    /// Whether a limit or delay of the policy holds the pull, and with it the whole line of the policy.
    #[must_use]
    pub fn holds_the_line(&self) -> bool {
        matches!(self, Self::WaitingForNodeSlot { .. } | Self::WaitingForPullSlot { .. } | Self::WaitingForDelay { .. })
    }

    /// Whether a limit or delay of the policy holds the pull.
    #[must_use]
    pub fn is_of_pace(&self) -> bool {
        self.holds_the_line() || matches!(self, Self::WaitingForRegistrySlot { .. })
    }

    /// Returns the verdict as one CamelCase word.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Cached => "Cached",
            Self::Pulling { .. } => "Pulling",
            Self::Next => "Next",
            Self::NotATarget { .. } => "NotATarget",
            Self::NeverPulled => "NeverPulled",
            Self::LookingUp => "LookingUp",
            Self::NotFound { .. } => "NotFound",
            Self::NoImageForPlatform { .. } => "NoImageForPlatform",
            Self::PullPolicyNotFound { .. } => "PullPolicyNotFound",
            Self::Paused { .. } => "Paused",
            Self::NodeBusy { .. } => "NodeBusy",
            Self::NodeReserved { .. } => "NodeReserved",
            Self::WaitingForNodeSlot { .. } => "WaitingForNodeSlot",
            Self::WaitingForPullSlot { .. } => "WaitingForPullSlot",
            Self::WaitingForRegistrySlot { .. } => "WaitingForRegistrySlot",
            Self::WaitingForDelay { .. } => "WaitingForDelay",
            Self::NodeLost => "NodeLost",
            Self::NodeWithoutNetwork => "NodeWithoutNetwork",
            Self::NodeBackingOff { .. } => "NodeBackingOff",
            Self::BackingOff { .. } => "BackingOff",
            Self::WaitingForProbe { .. } => "WaitingForProbe",
            Self::Evicted { .. } => "Evicted",
            Self::TooManyImages => "TooManyImages",
            Self::RegistryPaused { .. } => "RegistryPaused",
            Self::SetIncomplete { .. } => "SetIncomplete",
            Self::Refused { .. } => "Refused",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cached => f.write_str("cached"),
            Self::Pulling { pod } => write!(f, "Pod {pod} is pulling"),
            Self::Next => f.write_str("about to be pulled"),
            Self::NotATarget { why } => f.write_str(why),
            Self::NeverPulled => f.write_str("not on the node, and imagePullPolicy is Never"),
            Self::LookingUp => f.write_str("asking its registry for it"),
            Self::NotFound { cause, .. } => write!(f, "{cause}"),
            Self::NoImageForPlatform { platform } => write!(f, "no image for {platform}"),
            Self::PullPolicyNotFound { policy } => {
                write!(
                    f,
                    "PullPolicy {policy} does not exist: create it, or remove policyRef to use the built-in defaults"
                )
            }
            Self::Paused { policy } => write!(f, "{} is paused", title(policy)),
            Self::NodeBusy { pod } => write!(f, "Pod {pod} is pulling other images there"),
            Self::NodeReserved { policy } => {
                write!(f, "the node has waited for {} for an hour, and pulls for it next", title(policy))
            }
            Self::WaitingForNodeSlot { policy, limit } => {
                write!(f, "{} allows {limit} nodes at once", title(policy))
            }
            Self::WaitingForPullSlot { policy, limit } => {
                write!(f, "{} allows {limit} pulls at once", title(policy))
            }
            Self::WaitingForRegistrySlot { host, limit } => write!(f, "{limit} pulls at once from {host} are allowed"),
            Self::WaitingForDelay { .. } => f.write_str("the delay between nodes has not passed"),
            Self::NodeLost => f.write_str("the kubelet does not report: waiting for it"),
            Self::NodeWithoutNetwork => f.write_str(
                "the network for Pods is not up yet: waiting for it, or set hostNetwork: NotReadyNodes in the PullPolicy",
            ),
            Self::NodeBackingOff { cause, .. } => write!(f, "the node failed: {cause}"),
            Self::BackingOff { cause, .. } | Self::WaitingForProbe { cause, .. } => write!(f, "{cause}"),
            Self::Evicted { .. } => f.write_str("evicted; it will be pulled again"),
            Self::TooManyImages => write!(f, "more than {MAX_IMAGES} images are wanted on the node"),
            Self::RegistryPaused { host, .. } => write!(f, "{host} does not answer: one pull at a time tries it"),
            Self::SetIncomplete { set } => write!(f, "CachedImages of the set {set} are still being created"),
            Self::Refused { message, .. } => write!(f, "the pull Pod was refused: {message}"),
        }
    }
}
