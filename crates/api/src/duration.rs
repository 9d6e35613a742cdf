//! Durations as Kubernetes users write them: `30s`, `1h30m`, `168h`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use jiff::SignedDuration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A regular expression for the durations that Go's `time.ParseDuration` accepts, without a sign: one or more decimal
/// numbers, each with a unit.
/// The digits are limited so that no text of [`MAX_LENGTH`] exceeds the 292 years that fit into the `duration()` of
/// CEL.
const PATTERN: &str = r"^([0-9]{1,5}(\.[0-9]+)?h|[0-9]{1,7}(\.[0-9]+)?m|[0-9]{1,9}(\.[0-9]+)?(s|ms|us|µs|ns))+$";

/// The longest accepted text, in characters.
const MAX_LENGTH: usize = 32;

/// A non-negative duration in the notation of Go's `time.ParseDuration`.
///
/// The text is kept as written, so that an object read and written back does
/// not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoDuration {
    text: Cow<'static, str>,
    value: SignedDuration,
}

/// The text is no duration.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a duration: write one such as 30s, 5m or 1h30m, of at most 99999h")]
pub struct InvalidDuration(String);

impl GoDuration {
    /// A number of whole seconds, for defaults.
    #[must_use]
    pub fn from_secs(secs: u32) -> Self {
        let value = SignedDuration::from_secs(i64::from(secs));
        let text = match secs {
            s if s > 0 && s % 3600 == 0 => format!("{}h", s / 3600),
            s if s > 0 && s % 60 == 0 => format!("{}m", s / 60),
            s => format!("{s}s"),
        };
        Self { text: text.into(), value }
    }

    /// Its length.
    #[must_use]
    pub fn get(&self) -> SignedDuration {
        self.value
    }
}

impl FromStr for GoDuration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        let invalid = || InvalidDuration(text.chars().take(MAX_LENGTH).collect());
        if text.chars().count() > MAX_LENGTH {
            return Err(invalid());
        }
        let value = parse(text).ok_or_else(invalid)?;
        Ok(Self { text: text.to_owned().into(), value })
    }
}

/// The sum of `text`'s components, or `None` where [`PATTERN`] does not match it.
fn parse(text: &str) -> Option<SignedDuration> {
    if text.is_empty() {
        return None;
    }
    let mut rest = text;
    let mut nanos = 0_f64;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let (nanos_per_unit, max_digits) = unit_of(unit)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let are_digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
        if !are_digits(whole) || !are_digits(fraction) || whole.len() > max_digits {
            return None;
        }
        nanos += number.parse::<f64>().ok()? * nanos_per_unit;
        rest = tail;
    }
    SignedDuration::try_from_secs_f64(nanos / 1e9).ok()
}

/// A unit's length in nanoseconds, and how many digits its number may have.
fn unit_of(unit: &str) -> Option<(f64, usize)> {
    Some(match unit {
        "ns" => (1.0, 9),
        "us" | "µs" => (1e3, 9),
        "ms" => (1e6, 9),
        "s" => (1e9, 9),
        "m" => (60e9, 7),
        "h" => (3600e9, 5),
        _ => return None,
    })
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for GoDuration {
    fn schema_name() -> Cow<'static, str> {
        "GoDuration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // A CEL rule rather than `pattern`: its message says what to write.
        json_schema!({
            "type": "string",
            "maxLength": MAX_LENGTH,
            "x-kubernetes-validations": [{
                "rule": format!("self.matches('{}')", PATTERN.replace('\\', "\\\\")),
                "message": "write a duration such as 30s, 5m or 1h30m, of at most 99999h",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_are_read_in_full() {
        let cases = [
            ("30s", 30_000),
            ("1h30m", 5_400_000),
            ("168h", 604_800_000),
            ("1m21.3s", 81_300),
            ("250ms", 250),
            ("1500us", 1),
            ("0s", 0),
        ];
        for (text, millis) in cases {
            let parsed: GoDuration = text.parse().unwrap();
            assert_eq!(parsed.get().as_millis(), millis, "{text}");
            assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "30", "s", "-5s", "5 s", "1d", "1.s", ".5s", "1h 30m", "99999999999999999999h"] {
            let error = text.parse::<GoDuration>().unwrap_err().to_string();
            assert!(error.contains("30s, 5m or 1h30m"), "{text}: {error}");
        }
    }

    /// Texts at the edges of what the schema allows, with `|` between them.
    const EDGES: &str = "|0s|0h|00001h|1h|30|h|s|.5s|1.s|1.5s|1..5s|1.5.5s|1.h5m|-5s|+5s|5 s| 5s|5s |1h 30m|1h30m|\
        30m1h|1h1h|1m1ms1us1µs1ns|1μs|1S|1d|1sm|1e3s|１s|99999h|100000h|000001h|9999999m|10000000m|999999999s|\
        1000000000s|999999999ns|99999999999999999999h|99999h99999h99999h99999h99999h9h|\
        99999h99999h99999h99999h99999h99h|0.99999999999999999999999999999s";

    /// Whether the API server accepts `text`.
    fn is_accepted(text: &str) -> bool {
        let pattern = regex::Regex::new(PATTERN).unwrap();
        text.chars().count() <= MAX_LENGTH && pattern.is_match(text)
    }

    #[test]
    fn what_the_api_server_accepts_is_read_and_nothing_else() {
        for text in EDGES.split('|') {
            assert_eq!(text.parse::<GoDuration>().is_ok(), is_accepted(text), "{text:?}");
        }
    }

    #[test]
    fn the_longest_durations_fit_into_cel() {
        // As many of the largest numbers as there is room for, of each unit.
        for largest in ["99999h", "9999999m", "999999999s"] {
            let text = largest.repeat(MAX_LENGTH / largest.len());
            let years = text.parse::<GoDuration>().unwrap().get().as_hours() / (24 * 366);
            assert!(is_accepted(&text) && (50..290).contains(&years), "{text}: {years} years");
        }
    }

    #[test]
    fn defaults_are_written_in_their_largest_whole_unit() {
        let texts = [10, 300, 3600, 5400, 0].map(|s| GoDuration::from_secs(s).to_string());
        assert_eq!(texts, ["10s", "5m", "1h", "90m", "0s"]);
    }
}
