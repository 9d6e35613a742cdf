//! Statuses as the API server last showed them, and which changes of them are news.

use drop_api::condition::{self, Condition};
use drop_api::{CachedImageSetStatus, CachedImageStatus, DiscoveryPolicyStatus, PullPolicyStatus};
use jiff::Timestamp;

use crate::objects::image::Image;

/// By how many writes of one status a watch may lag. At one write a second it is slow
/// indeed that lags further; then a status is written once more.
const MAX_OVERTAKEN: usize = 16;

/// Ready reasons that only tell how far a roll-out is.
const PROGRESS: [&str; 3] = ["Waiting", "Pulling", "Progressing"];

/// Whether conditions only tell how far a roll-out is.
pub(crate) fn is_progress(conditions: &[Condition]) -> bool {
    condition::ready(conditions).is_some_and(|ready| PROGRESS.contains(&ready.reason.as_str()))
}

/// Whether conditions changed in a way that people wait for, and not only from
/// one step of progress to another.
fn is_news(before: &[Condition], after: &[Condition]) -> bool {
    let progresses = is_progress(before) && is_progress(after);
    match (condition::ready(before), condition::ready(after)) {
        (Some(before), Some(after)) => before.status != after.status || (before.reason != after.reason && !progresses),
        (before, after) => before != after,
    }
}

/// The properties that all statuses have in common.
pub(crate) trait Status: Clone + PartialEq {
    fn conditions(&self) -> &[Condition];

    fn observed_generation(&self) -> Option<i64>;

    /// Whether it shows the end of something that people watch.
    fn is_at_rest(&self) -> bool;

    /// Whether it is to be written at once, and not with the next progress.
    fn is_urgent_after(&self, before: &Self) -> bool {
        is_news(before.conditions(), self.conditions())
            || before.observed_generation() != self.observed_generation()
            || self.is_at_rest()
    }
}

/// Implements [`Status`]; the function says whether a status is at rest.
macro_rules! statuses {
    ($($status:ty: $is_at_rest:expr,)*) => {$(
        impl Status for $status {
            fn conditions(&self) -> &[Condition] {
                &self.conditions
            }

            fn observed_generation(&self) -> Option<i64> {
                self.observed_generation
            }

            fn is_at_rest(&self) -> bool {
                let is_at_rest: fn(&Self) -> bool = $is_at_rest;
                is_at_rest(self)
            }
        }
    )*};
}

statuses! {
    CachedImageStatus: |_| false,
    CachedImageSetStatus: |_| false,
    // It is written once for each run.
    DiscoveryPolicyStatus: |_| true,
    PullPolicyStatus: |status| status.nodes_pulling == 0 && status.pulls_waiting == 0,
}

/// A status, as the API server last showed it.
#[derive(Debug)]
pub(crate) struct Published<S> {
    pub(crate) status: S,
    /// Whether the API server is known to have it: a write of it did not fail.
    pub(crate) is_confirmed: bool,
    /// Whether a write of it is under way.
    pub(super) is_under_way: bool,
    /// The status before each of the last writes that the watch has not shown yet. The watch may still show these.
    overtaken: Vec<S>,
    pub(crate) written_at: Option<Timestamp>,
    /// Whether another object shows the progress of the whole that it is a part of.
    pub(crate) is_part: bool,
    /// Writes since the last news, which only showed progress.
    pub(crate) progress: u32,
}

impl<S: Status> Published<S> {
    /// Takes in the status that the watch shows. While a write is under way, that status is older than
    /// the write, and it may be for a while after the answer. Returns whether the status differs from the known one.
    pub(super) fn observe(&mut self, status: S) -> bool {
        let is_same = status == self.status;
        let is_older = self.is_under_way || self.overtaken.contains(&status);
        if is_same || !is_older {
            self.overtaken.clear();
        }
        if !is_older {
            self.status = status;
            self.is_confirmed = true;
        }
        !is_same && !is_older
    }

    /// Takes in the answer to a write.
    pub(super) fn answer(&mut self, is_written: bool) {
        self.is_under_way = false;
        self.is_confirmed = is_written;
    }

    /// A status that the watch shows, and that nobody has written yet.
    pub(super) fn new(status: S) -> Self {
        Self {
            status,
            is_confirmed: true,
            is_under_way: false,
            overtaken: Vec::new(),
            written_at: None,
            is_part: false,
            progress: 0,
        }
    }

    /// Takes a write as done that was only just asked for.
    pub(super) fn write(&mut self, status: &S, now: Timestamp) {
        let is_news = is_news(self.status.conditions(), status.conditions());
        self.progress = if is_news { 0 } else { self.progress.saturating_add(1) };
        if self.status != *status {
            let before = std::mem::replace(&mut self.status, status.clone());
            let surplus = (self.overtaken.len() + 1).saturating_sub(MAX_OVERTAKEN);
            self.overtaken.drain(..surplus);
            self.overtaken.push(before);
        }
        self.is_confirmed = true;
        self.is_under_way = true;
        self.written_at = Some(now);
    }

    /// Whether the API server has this status, as far as is known.
    pub(crate) fn is(&self, status: &S) -> bool {
        self.is_confirmed && self.status == *status
    }
}

impl Published<CachedImageStatus> {
    /// The status of a CachedImage. Where it belongs to a set, the set shows its progress.
    pub(super) fn of(image: &Image, status: CachedImageStatus) -> Self {
        Self { is_part: image.set.is_some(), ..Self::new(status) }
    }
}
