//! The time by which this process decides.

use std::sync::{LazyLock, Mutex, PoisonError};

use drop_core::clock::Clock;
use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};

static CLOCK: LazyLock<Mutex<Clock>> = LazyLock::new(|| Mutex::new(Clock::new(Timestamp::now(), uptime())));

/// The time. It goes on evenly although somebody sets the system's clock.
pub fn now() -> Timestamp {
    CLOCK.lock().unwrap_or_else(PoisonError::into_inner).now(Timestamp::now(), uptime())
}

/// The time since the machine started, sleep included, which nobody can set.
fn uptime() -> SignedDuration {
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    let time = clock_gettime(clock);
    SignedDuration::new(time.tv_sec, i32::try_from(time.tv_nsec).unwrap_or_default())
}
