//! Computes times without overflow, and stores them in little memory.

use std::fmt;
use std::num::NonZeroU64;

use jiff::{SignedDuration, Timestamp};

/// Returns the time `wait` after `at`, or the greatest time if that would overflow.
pub(crate) fn after(at: Timestamp, wait: SignedDuration) -> Timestamp {
    at.checked_add(wait).unwrap_or(Timestamp::MAX)
}

/// A time between the years 1677 and 2262, to the nanosecond. It takes 8 bytes, also as an option, where a [`Timestamp`]
/// takes 16 and an option of it 24: memories hold two for each image on each node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CompactTime(NonZeroU64);

/// Maps numbers from `i64::MIN` to numbers from zero, in the same order.
const SIGN: u64 = 1 << 63;

impl From<Timestamp> for CompactTime {
    /// Earlier and later times become the first and the last one.
    fn from(at: Timestamp) -> Self {
        let bound = if at < Timestamp::UNIX_EPOCH { i64::MIN } else { i64::MAX };
        let nanoseconds = i64::try_from(at.as_nanosecond()).unwrap_or(bound);
        Self(NonZeroU64::new(nanoseconds.cast_unsigned() ^ SIGN).unwrap_or(NonZeroU64::MIN))
    }
}

impl From<CompactTime> for Timestamp {
    fn from(at: CompactTime) -> Self {
        let nanoseconds = (at.0.get() ^ SIGN).cast_signed();
        Self::from_nanosecond(nanoseconds.into()).unwrap_or_default()
    }
}

impl fmt::Debug for CompactTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Timestamp::from(*self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compact_times_keep_their_order_and_are_not_lost() {
        let texts = [
            "1677-09-22T00:00:00Z",
            "1969-12-31T23:59:59.999999999Z",
            "1970-01-01T00:00:00Z",
            "1970-01-01T00:00:00.000000001Z",
            "2026-11-29T12:00:00.123456789Z",
            "2262-04-11T00:00:00Z",
        ];
        let times = texts.map(|text| text.parse::<Timestamp>().unwrap());
        for one in times {
            assert_eq!(Timestamp::from(CompactTime::from(one)), one);
            for other in times {
                assert_eq!(CompactTime::from(one).cmp(&other.into()), one.cmp(&other));
            }
        }
        for (far, near) in [(Timestamp::MIN, times[0]), (Timestamp::MAX, times[5])] {
            let kept = Timestamp::from(CompactTime::from(far));
            assert!(kept.duration_since(near).abs() < SignedDuration::from_hours(48), "{kept}");
        }
        assert_eq!(size_of::<Option<CompactTime>>(), 8);
    }
}
