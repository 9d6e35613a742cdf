//! The answers of backends, independent of the backends' protocols.

use jiff::{SignedDuration, Timestamp};

use super::{SourceFailure, Why};

/// The answer to one query.
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

/// One pull, as a kubelet reports it.
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
    /// How the list of them ended.
    pub end: End,
}

/// How the list of a repository's tags ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The registry has no more.
    Whole,
    /// `maxScan` ended it, and the registry has more.
    MaxScan,
    /// The registry links to another page, but does not show it.
    Stuck,
    /// It could not be read, so there are no tags.
    Failed(SourceFailure),
}

impl Repository {
    /// Returns its path with the failure, if the repository could not be read.
    #[must_use]
    pub fn failure(&self) -> Option<(&str, &SourceFailure)> {
        match &self.end {
            End::Failed(failure) => Some((&self.path, failure)),
            End::Whole | End::MaxScan | End::Stuck => None,
        }
    }
}

impl End {
    /// Returns the reason why newer tags may be missing, if the list was cut.
    #[must_use]
    pub fn why(&self) -> Option<Why> {
        match self {
            Self::Whole | Self::Failed(_) => None,
            Self::MaxScan => Some(Why::MaxScan),
            Self::Stuck => Some(Why::NoNextPage),
        }
    }
}
