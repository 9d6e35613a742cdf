//! A clock that never jumps, even if the system's clock does.

use jiff::{SignedDuration, Timestamp};

/// Drop's clock may run faster or slower than real time by one part in this many: 1 s in 1000 s. A delay that it
/// measures is wrong by no more than that.
const RATE: i32 = 1000;

/// The time that Drop's decisions use.
///
/// The system's clock may be set while Drop runs. Set 30 minutes back, it would make every delay last 30 minutes
/// longer; set 30 minutes forward, it would let every running pull time out. So this clock counts the time that has
/// passed since its start, and approaches the system's clock by running a little slower or faster. It never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    told: Timestamp,
    uptime: SignedDuration,
}

impl Clock {
    /// Starts a clock. `wall` is the system's time, and `uptime` a counter that cannot be set, such as Linux'
    /// `CLOCK_BOOTTIME`.
    #[must_use]
    pub fn new(wall: Timestamp, uptime: SignedDuration) -> Self {
        Self { told: wall, uptime }
    }

    /// Returns the time, when the system's clock shows `wall` and the counter shows `uptime`.
    pub fn now(&mut self, wall: Timestamp, uptime: SignedDuration) -> Timestamp {
        let passed = uptime.saturating_sub(self.uptime).max(SignedDuration::ZERO);
        let steady = self.told.saturating_add(passed).unwrap_or(self.told);
        let most = passed / RATE;
        let correction = wall.duration_since(steady).clamp(-most, most);
        self.uptime = self.uptime.max(uptime);
        self.told = steady.saturating_add(correction).unwrap_or(steady);
        self.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: SignedDuration = SignedDuration::from_secs(1);
    const HALF_AN_HOUR: SignedDuration = SignedDuration::from_mins(30);

    #[test]
    fn a_clock_that_is_set_delays_nothing_and_times_out_nothing() {
        let begin = Timestamp::from_second(1_000_000).unwrap();
        for jump in [HALF_AN_HOUR, -HALF_AN_HOUR] {
            let mut clock = Clock::new(begin, SignedDuration::ZERO);
            let mut before = begin;
            for second in 1..=3600 {
                let uptime = SECOND * second;
                let now = clock.now(begin + uptime + jump, uptime);
                let step = now.duration_since(before);
                assert!((SECOND * 999 / 1000..=SECOND * 1001 / 1000).contains(&step), "{jump}: {step}");
                before = now;
            }
        }
    }

    #[test]
    fn it_comes_back_to_the_time_of_the_system() {
        let begin = Timestamp::from_second(1_000_000).unwrap();
        let mut clock = Clock::new(begin, SignedDuration::ZERO);
        let wall = |hours: i64| begin + SignedDuration::from_hours(hours) - SECOND * 10;
        let told = (1..=6).map(|hours| clock.now(wall(hours), SignedDuration::from_hours(hours))).last();
        assert_eq!(told, Some(wall(6)));
    }
}
