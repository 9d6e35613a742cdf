//! Times that do not overflow.

use jiff::{SignedDuration, Timestamp};

/// `wait` after `at`, or the end of time where that comes first.
pub(crate) fn after(at: Timestamp, wait: SignedDuration) -> Timestamp {
    at.checked_add(wait).unwrap_or(Timestamp::MAX)
}
