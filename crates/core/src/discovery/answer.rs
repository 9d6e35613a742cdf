//! What backends answer, in terms that no backend's protocol shows through.

use jiff::{SignedDuration, Timestamp};

/// What one query brought.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Of Prometheus, or of a metric query to Loki.
    Series(Vec<Series>),
    /// Of Loki.
    Pulls(Vec<PullEvent>),
    /// Of a registry.
    Tags(Vec<Repository>),
}

/// The samples of one image. There may be several series for one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// The value of the label `image`.
    pub image: String,
    /// In the order of time.
    pub samples: Vec<Sample>,
}

/// A number at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When.
    pub at: Timestamp,
    /// The number; NaN and infinities included, as backends send them.
    pub value: f64,
}

/// One pull, as the kubelet told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct PullEvent {
    /// When the event was logged.
    pub at: Timestamp,
    /// The image.
    pub image: String,
    /// How long the pull took, without waiting.
    pub pull_time: Option<SignedDuration>,
    /// The image's size in bytes.
    pub size: Option<u64>,
}

/// The tags of a repository, in the order in which the registry lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// Its path in the registry: `team/app`.
    pub path: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Whether `maxScan` ended the list, so that the registry may have more.
    pub is_cut: bool,
}
