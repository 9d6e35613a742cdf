//! Weights samples by their time.

use drop_api::discovery_policy::{DayWindow as ApiWindow, TimeWeightedAggregate, WindowAggregate};
use jiff::civil::Time;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};

use super::InvalidSpec;

/// The rule for the weight of a sample, by its time.
#[derive(Clone, Debug, PartialEq)]
pub enum Times {
    /// All samples count.
    All,
    /// Samples of the last part of the lookback count: those later than now minus this duration.
    Last(SignedDuration),
    /// Samples within a part of each day count, by the local time of a zone.
    Daily(TimeZone, DayWindow),
    /// Each sample has the weight of the first window that contains it, or the default.
    Weighted(TimeZone, Vec<(DayWindow, f64)>, f64),
}

impl Times {
    /// Returns the factor for a sample at `at`. A sample of weight 0 does not count at all.
    pub fn weight(&self, at: Timestamp, now: Timestamp) -> f64 {
        match self {
            Self::All => 1.0,
            Self::Last(window) => f64::from(now.duration_since(at) < *window),
            Self::Daily(zone, window) => f64::from(window.holds(minute_of_day(zone, at))),
            Self::Weighted(zone, windows, default) => {
                let minute = minute_of_day(zone, at);
                windows.iter().find(|(window, _)| window.holds(minute)).map_or(*default, |(_, weight)| *weight)
            }
        }
    }

    /// Reads the weights of a windowAggregate signal in the field `path`, over a query that looks back for `lookback`.
    pub fn of_window(
        path: &str,
        spec: &WindowAggregate,
        lookback: Option<SignedDuration>,
    ) -> Result<Self, InvalidSpec> {
        match (&spec.relative_window, &spec.window, &spec.timezone) {
            (Some(window), None, None) => {
                let path = format!("{path}.relativeWindow");
                if window.get().is_zero() {
                    return Err(InvalidSpec::new(path, "it must be above 0s, such as 2h"));
                }
                if let Some(lookback) = lookback.filter(|lookback| *lookback < window.get()) {
                    let message = format!("{window} is longer than the lookback of its query, {lookback:#}");
                    return Err(InvalidSpec::new(path, message));
                }
                Ok(Self::Last(window.get()))
            }
            (None, Some(window), Some(timezone)) => {
                let zone = zone(&format!("{path}.timezone"), timezone)?;
                Ok(Self::Daily(zone, DayWindow::compile(&format!("{path}.window"), window)?))
            }
            _ => Err(InvalidSpec::new(path, "write either relativeWindow (such as 2h) or window with timezone")),
        }
    }

    /// Reads the weights of a timeWeightedAggregate signal in the field `path`.
    pub fn of_weights(path: &str, spec: &TimeWeightedAggregate) -> Result<Self, InvalidSpec> {
        let zone = zone(&format!("{path}.timezone"), &spec.timezone)?;
        let windows = spec.windows.iter().enumerate().map(|(at, window)| {
            let path = format!("{path}.windows[{at}]");
            let start = hour(&format!("{path}.startHour"), window.start_hour, 23)?;
            let end = hour(&format!("{path}.endHour"), window.end_hour, 24)?;
            Ok((DayWindow { start, end }, window.weight.get()))
        });
        let windows: Vec<_> = windows.collect::<Result<_, _>>()?;
        let default = spec.default_weight.get();
        if default == 0.0 && windows.iter().all(|(_, weight)| *weight == 0.0) {
            let message = "all weights are 0, so that no sample counts: give one a weight above 0";
            return Err(InvalidSpec::new(format!("{path}.windows"), message));
        }
        Ok(Self::Weighted(zone, windows, default))
    }
}

/// A part of each day, in minutes since midnight. The start belongs to it, the end does not. If the end is not after
/// the start, the end is on the next day, so a window with equal ends is the whole day.
///
/// Times are local. An hour that clocks show twice, when daylight saving time ends, counts twice. An hour that they
/// skip does not occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayWindow {
    start: i32,
    end: i32,
}

impl DayWindow {
    fn compile(path: &str, spec: &ApiWindow) -> Result<Self, InvalidSpec> {
        let minute = |field, text: &str| {
            let time = Time::strptime("%H:%M", text).ok();
            let message = || format!("{text:?} is not a time of the day: write HH:MM, such as 09:00");
            time.map(minute_of).ok_or_else(|| InvalidSpec::new(format!("{path}.{field}"), message()))
        };
        Ok(Self { start: minute("start", &spec.start)?, end: minute("end", &spec.end)? })
    }

    fn holds(self, minute: i32) -> bool {
        if self.start < self.end {
            (self.start..self.end).contains(&minute)
        } else {
            minute >= self.start || minute < self.end
        }
    }
}

fn minute_of(time: Time) -> i32 {
    i32::from(time.hour()) * 60 + i32::from(time.minute())
}

fn minute_of_day(zone: &TimeZone, at: Timestamp) -> i32 {
    minute_of(zone.to_datetime(at).time())
}

/// Returns `hour` in minutes.
fn hour(path: &str, hour: i32, last: i32) -> Result<i32, InvalidSpec> {
    let out_of_range = || InvalidSpec::new(path, format!("{hour} is not an hour from 0 to {last}"));
    hour.checked_mul(60).filter(|_| (0..=last).contains(&hour)).ok_or_else(out_of_range)
}

/// Returns a time zone by its IANA name.
///
/// The binary contains its own copy of the time zone database. The machine's copy is not used: the image of a release
/// contains only the binary, and the same input must give the same ranking everywhere.
fn zone(path: &str, name: &str) -> Result<TimeZone, InvalidSpec> {
    let unknown =
        |_| InvalidSpec::new(path, format!("{name:?} is not an IANA time zone: write one such as Europe/Berlin"));
    TimeZoneDatabase::bundled().get(name).map_err(unknown)
}
