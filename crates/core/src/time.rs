//! Computes times without overflow.

use jiff::{SignedDuration, Timestamp};

/// Returns the time `wait` after `at`, or the greatest time if that would overflow.
pub(crate) fn after(at: Timestamp, wait: SignedDuration) -> Timestamp {
    at.checked_add(wait).unwrap_or(Timestamp::MAX)
}
