//! The time constants and defaults that hold for the whole cluster.

use drop_api::PullPolicySpec;
use jiff::SignedDuration;

/// Drop's own constants; tests shorten them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a kubelet may take to acknowledge a Pod.
    pub acknowledge_within: SignedDuration,
    /// How long the kubelet may take after the acknowledgement to bring up the sandbox.
    pub sandbox_within: SignedDuration,
    /// How long after a kubelet was declared lost Drop deletes its Pods by force.
    pub lost_within: SignedDuration,
    /// The least time between two writes of one object's status.
    pub status_interval: SignedDuration,
    /// The least time between two writes of one object's status that only show progress: numbers that changed, not a
    /// condition. It doubles with every such write, up to six times this time.
    pub progress_interval: SignedDuration,
    /// How long a NodeCache may differ from Drop's memory while no outcome could be lost.
    pub record_within: SignedDuration,
    /// How long a Pod that the API server has confirmed may stay unseen by the watch before Drop looks it up.
    pub confirm_within: SignedDuration,
    /// The first wait after a failed request; doubled up to `retry_max`.
    pub retry_initial: SignedDuration,
    /// The longest wait after failed requests.
    pub retry_max: SignedDuration,
    /// The least time after a pull before an image that the node does not list
    /// counts as gone: the kubelet refreshes its list every 30 seconds.
    pub listed_within: SignedDuration,
    /// How many images every node lists at least, if it has them: the smallest `nodeStatusMaxImages` of any kubelet, or
    /// 0 if unknown. A shorter list is complete. Whether a longer list is complete follows from the node's own lists.
    pub listed_images: usize,
    /// The wait before an image that was evicted is pulled again; doubled with
    /// every further eviction, up to `repair_max`.
    pub repair_initial: SignedDuration,
    /// The longest wait before a repair. An image that stayed for longer starts over.
    pub repair_max: SignedDuration,
    /// The wait before Drop asks failed sources again; doubled up to the policy's `syncInterval`.
    pub discovery_retry: SignedDuration,
    /// Whether Drop can ask registries for the images of policies with `lookup: Auto`.
    pub looks_up: bool,
    /// The policy of images that name none.
    pub built_in_policy: PullPolicySpec,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            acknowledge_within: SignedDuration::from_mins(2),
            sandbox_within: SignedDuration::from_mins(2),
            lost_within: SignedDuration::from_mins(2),
            status_interval: SignedDuration::from_secs(1),
            progress_interval: SignedDuration::from_secs(10),
            record_within: SignedDuration::from_secs(10),
            confirm_within: SignedDuration::from_secs(30),
            retry_initial: SignedDuration::from_secs(1),
            retry_max: SignedDuration::from_secs(60),
            listed_within: SignedDuration::from_secs(120),
            listed_images: 0,
            repair_initial: SignedDuration::from_mins(1),
            repair_max: SignedDuration::from_hours(6),
            discovery_retry: SignedDuration::from_secs(30),
            looks_up: false,
            built_in_policy: PullPolicySpec::default(),
        }
    }
}
