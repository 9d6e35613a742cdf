//! The clock of this process's decisions.

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use drop_core::clock::Clock;
use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

static CLOCK: LazyLock<Mutex<Clock>> = LazyLock::new(|| Mutex::new(Clock::new(Timestamp::now(), uptime())));

/// Returns the time. It goes on evenly even if the system's clock is set.
pub fn now() -> Timestamp {
    CLOCK.lock().unwrap_or_else(PoisonError::into_inner).now(Timestamp::now(), uptime())
}

/// A deadline for the Lease. It has passed when either clock says so: tokio's clock does not count the time for which
/// the machine sleeps, while another replica may take the Lease.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    /// By the clock of tokio's timers.
    pub instant: Instant,
    uptime: SignedDuration,
}

impl Deadline {
    /// Returns the current time as a deadline.
    pub fn now() -> Self {
        Self { instant: Instant::now(), uptime: uptime() }
    }

    /// Returns the deadline this much later.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        let uptime = SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
        Self { instant: self.instant + span, uptime: self.uptime.saturating_add(uptime) }
    }

    /// Whether it has passed.
    pub fn has_passed(&self) -> bool {
        self.instant <= Instant::now() || self.uptime <= uptime()
    }
}

/// Returns the time since the machine started, including sleep. This clock cannot be set.
fn uptime() -> SignedDuration {
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    let time = clock_gettime(clock);
    SignedDuration::new(time.tv_sec, i32::try_from(time.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_passes_while_the_machine_sleeps() {
        let (now, minute) = (Deadline::now(), Duration::from_secs(60));
        let ahead = now.after(minute);
        assert!(!ahead.has_passed() && now.has_passed());
        // While the machine slept for an hour, only one of the clocks went on.
        let slept = Deadline { uptime: ahead.uptime - SignedDuration::from_hours(1), ..ahead };
        assert!(slept.has_passed());
    }
}
