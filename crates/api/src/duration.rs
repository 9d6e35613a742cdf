//! Durations as Kubernetes users write them: `30s`, `1h30m`, `168h`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use jiff::SignedDuration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What Go's `time.ParseDuration` accepts, without a sign: one or more decimal
/// numbers, each with a unit.
const PATTERN: &str = r"^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$";

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
#[error("{0:?} is not a duration: write one such as 30s, 5m or 1h30m")]
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

/// The sum of `text`'s components, or `None` where it is malformed or too large.
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
        let well_formed =
            number.starts_with(|c: char| c.is_ascii_digit()) && number.ends_with(|c: char| c.is_ascii_digit());
        if !well_formed {
            return None;
        }
        nanos += number.parse::<f64>().ok()? * nanos_per(unit)?;
        rest = tail;
    }
    SignedDuration::try_from_secs_f64(nanos / 1e9).ok()
}

fn nanos_per(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1.0,
        "us" | "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "h" => 3600e9,
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
                "message": "write a duration such as 30s, 5m or 1h30m",
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

    #[test]
    fn defaults_are_written_in_their_largest_whole_unit() {
        let texts = [10, 300, 3600, 5400, 0].map(|s| GoDuration::from_secs(s).to_string());
        assert_eq!(texts, ["10s", "5m", "1h", "90m", "0s"]);
    }
}
