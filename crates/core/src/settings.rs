//! The time constants and defaults that hold for the whole cluster.

use drop_api::PullPolicySpec;
use jiff::SignedDuration;

/// Drop's own constants; tests shorten them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a kubelet may take to acknowledge a Pod.
    pub acknowledge_within: SignedDuration,
    /// How long the kubelet may take from there to bring up the sandbox.
    pub sandbox_within: SignedDuration,
    /// The least time between two writes of one object's status.
    pub status_interval: SignedDuration,
    /// The least time between two writes of one object's status that only show
    /// progress: numbers that moved, not a condition that changed.
    pub progress_interval: SignedDuration,
    /// How long a NodeCache may differ from what Drop knows while no outcome is
    /// at stake.
    pub record_within: SignedDuration,
    /// How long a Pod that the API server has confirmed may stay unseen by the
    /// watch before it is looked up.
    pub confirm_within: SignedDuration,
    /// The first wait after a failed request; doubled up to `retry_max`.
    pub retry_initial: SignedDuration,
    /// The longest wait after failed requests.
    pub retry_max: SignedDuration,
    /// The policy of images that name none.
    pub built_in_policy: PullPolicySpec,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            acknowledge_within: SignedDuration::from_mins(2),
            sandbox_within: SignedDuration::from_mins(2),
            status_interval: SignedDuration::from_secs(1),
            progress_interval: SignedDuration::from_secs(10),
            record_within: SignedDuration::from_secs(10),
            confirm_within: SignedDuration::from_secs(30),
            retry_initial: SignedDuration::from_secs(1),
            retry_max: SignedDuration::from_secs(60),
            built_in_policy: PullPolicySpec::default(),
        }
    }
}
