//! Statuses as the API server last showed them, and the changes of them that are news.

use drop_api::condition::{self, Condition};
use drop_api::{CachedImageSetStatus, CachedImageStatus, DiscoveryPolicyStatus, PullPolicyStatus};
use jiff::Timestamp;

use crate::objects::image::Image;

/// The most writes of one status by which a watch may lag. At one write a second, a greater lag means a very slow
/// watch; then a status is written once more.
const MAX_OVERTAKEN: usize = 16;

/// Ready reasons that only describe the progress of a roll-out.
const PROGRESS: [&str; 3] = ["Waiting", "Pulling", "Progressing"];

/// Whether conditions only describe the progress of a roll-out.
pub(crate) fn is_progress(conditions: &[Condition]) -> bool {
    condition::ready(conditions).is_some_and(|ready| PROGRESS.contains(&ready.reason.as_str()))
}

/// Whether a change of conditions is more than a step of progress.
fn is_news(before: &[Condition], after: &[Condition]) -> bool {
    let progresses = is_progress(before) && is_progress(after);
    match (condition::ready(before), condition::ready(after)) {
        (Some(before), Some(after)) => before.status != after.status || (before.reason != after.reason && !progresses),
        (before, after) => before != after,
    }
}

/// The properties that all statuses share.
pub(crate) trait Status: Clone + PartialEq {
    fn conditions(&self) -> &[Condition];

    fn observed_generation(&self) -> Option<i64>;

    /// Whether it shows an end state, and no progress.
    fn is_at_rest(&self) -> bool;

    /// Whether it must be written at once, and not with the next progress.
    fn is_urgent_after(&self, before: &Self) -> bool {
        is_news(before.conditions(), self.conditions())
            || before.observed_generation() != self.observed_generation()
            || self.is_at_rest()
    }
}

/// Implements [`Status`]; the function says whether a status is an end state.
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
    // Each run writes it once.
    DiscoveryPolicyStatus: |_| true,
    PullPolicyStatus: |status| status.nodes_pulling == 0 && status.pulls_waiting == 0,
}

/// A status, as the API server last showed it.
#[derive(Debug)]
pub(crate) struct Published<S> {
    pub(crate) status: S,
    /// Whether the API server is known to have it: no write of it failed.
    pub(crate) is_confirmed: bool,
    /// Whether a write of it is under way.
    pub(super) is_under_way: bool,
    /// The statuses before each of the last writes. The watch may still show them.
    overtaken: Vec<S>,
    pub(crate) written_at: Option<Timestamp>,
    /// Whether it belongs to a larger object that shows the progress.
    pub(crate) is_part: bool,
    /// Writes since the last news; these only showed progress.
    pub(crate) progress: u32,
}

impl<S: Status> Published<S> {
    /// Records the status that the watch shows. That status is older than a write under way, and possibly also for a
    /// while after the write's answer. Returns whether the status differs from the known one.
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

    /// Records the answer to a write.
    pub(super) fn answer(&mut self, is_written: bool) {
        self.is_under_way = false;
        self.is_confirmed = is_written;
    }

    /// A status that the watch shows, and that this process has not written.
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

    /// Treats a requested write as done.
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

    /// Whether the API server has this status, as far as known.
    pub(crate) fn is(&self, status: &S) -> bool {
        self.is_confirmed && self.status == *status
    }
}

impl Published<CachedImageStatus> {
    /// The status of a CachedImage. If it belongs to a set, the set shows its progress.
    pub(super) fn of(image: &Image, status: CachedImageStatus) -> Self {
        Self { is_part: image.set.is_some(), ..Self::new(status) }
    }
}
