//! Exponential backoff with deterministic jitter.

use drop_api::names::stable_hash;
use jiff::SignedDuration;

/// The wait after failures: `initial`, doubled with each further failure, at most `max`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub initial: SignedDuration,
    /// The longest wait, before jitter.
    pub max: SignedDuration,
}

impl Backoff {
    /// The wait after `failures` failures in a row (at least one), without jitter.
    #[must_use]
    pub fn nominal(&self, failures: u32) -> SignedDuration {
        let doublings = failures.saturating_sub(1).min(62);
        let factor = 1_i64 << doublings;
        SignedDuration::try_from_secs_f64(self.initial.as_secs_f64() * factor as f64)
            .unwrap_or(SignedDuration::MAX)
            .min(self.max)
    }

    /// The wait after `failures` failures in a row (at least one), ±10 %.
    ///
    /// The jitter comes from a hash of `who` and `failures`. The same failure always waits equally long, and different
    /// ones do not retry at the same time.
    #[must_use]
    pub fn delay(&self, failures: u32, who: &str) -> SignedDuration {
        let nominal = self.nominal(failures);
        let mut seed = who.as_bytes().to_vec();
        seed.extend(failures.to_le_bytes());
        scaled(nominal, 0.9 + 0.2 * fraction(&seed))
    }
}

/// Returns a time between half of `wait` and all of it, always the same for the same `who`, so that work that is due
/// for many at once is spread out.
pub(crate) fn spread(wait: SignedDuration, who: &str) -> SignedDuration {
    scaled(wait, 0.5 + 0.5 * fraction(who.as_bytes()))
}

/// Returns a time between nine tenths of `interval` and all of it, always the same for the same `who`, so that work of
/// the same interval drifts apart.
pub(crate) fn jittered(interval: SignedDuration, who: &str) -> SignedDuration {
    scaled(interval, 0.9 + 0.1 * fraction(who.as_bytes()))
}

/// Returns a time between `interval` and a tenth more, always the same for the same `who`, so that work of the same
/// interval drifts apart without becoming more frequent.
pub(crate) fn stretched(interval: SignedDuration, who: &str) -> SignedDuration {
    scaled(interval, 1.0 + 0.1 * fraction(who.as_bytes()))
}

fn scaled(wait: SignedDuration, factor: f64) -> SignedDuration {
    SignedDuration::try_from_secs_f64(wait.as_secs_f64() * factor).unwrap_or(SignedDuration::MAX)
}

/// Returns the upper 53 bits of a hash of `seed`, as a fraction in [0, 1).
fn fraction(seed: &[u8]) -> f64 {
    (stable_hash(seed) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_of_different_names_drift_apart_and_are_never_longer() {
        let hour = SignedDuration::from_hours(1);
        let intervals: Vec<_> = (0..10).map(|at| jittered(hour, &format!("policy-{at}"))).collect();
        assert!(intervals.iter().all(|interval| (SignedDuration::from_mins(54)..=hour).contains(interval)));
        assert!(intervals.iter().enumerate().all(|(at, interval)| !intervals[..at].contains(interval)));
        assert_eq!(intervals[3], jittered(hour, "policy-3"));
    }

    const BACKOFF: Backoff = Backoff { initial: SignedDuration::from_secs(30), max: SignedDuration::from_secs(300) };

    #[test]
    fn waits_double_up_to_the_maximum_within_ten_percent() {
        for (failures, nominal) in [(1, 30.0), (2, 60.0), (3, 120.0), (4, 240.0), (5, 300.0), (u32::MAX, 300.0)] {
            for who in ["a", "b", "c"] {
                let delay = BACKOFF.delay(failures, who).as_secs_f64();
                assert!((nominal * 0.9..=nominal * 1.1).contains(&delay), "{failures}: {delay}");
            }
        }
    }

    #[test]
    fn the_same_failure_waits_equally_long_and_others_do_not() {
        assert_eq!(BACKOFF.delay(2, "a"), BACKOFF.delay(2, "a"));
        let delays: std::collections::BTreeSet<_> = (0..100).map(|n| BACKOFF.delay(1, &n.to_string())).collect();
        assert!(delays.len() > 95);
    }
}
