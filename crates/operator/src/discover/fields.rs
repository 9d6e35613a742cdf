//! Finds fields of a log line: among its labels, then in the line itself, as JSON or as logfmt.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::iter::from_fn;

use drop_core::discovery::PullEvent;
use jiff::Timestamp;
use serde_json::{Map, Value};

/// The most braces of a line that are tried as the beginning of JSON: `I0826 10:58:53.717599 6 glogsink.go:42]
/// {"verb":…`.
const MOST_STARTS: usize = 4;
/// The most levels of JSON within strings of JSON. A shipper of container logs wraps the line of a shipper of events in
/// JSON.
const MOST_NESTED: usize = 4;

/// A log line with its labels.
pub struct Fields<'a> {
    labels: [&'a BTreeMap<String, String>; 2],
    line: &'a str,
    json: Option<Value>,
}

/// The pull in a text.
#[derive(Debug)]
pub enum Pull {
    /// This pull, and the identity of its event, if the text has one.
    Of(PullEvent, Option<String>),
    /// A pull that another line has reported already.
    Again,
    /// No pull.
    Untold,
}

impl<'a> Fields<'a> {
    /// Collects the fields of a line. The first of `labels` take precedence.
    pub fn new(labels: [&'a BTreeMap<String, String>; 2], line: &'a str) -> Self {
        Self { labels, line, json: json(line) }
    }

    /// The line.
    pub fn line(&self) -> &'a str {
        self.line
    }

    /// Returns the field's value. In JSON, `a.b` and `a_b` also name the field `b` of the object `a`, as in Loki's own
    /// parser.
    pub fn get(&self, name: &str) -> Option<String> {
        if let Some(value) = self.labels.iter().find_map(|labels| labels.get(name)) {
            return Some(value.clone());
        }
        let in_json = || nested(self.json.as_ref()?, name);
        let in_pairs = || logfmt(self.line).find_map(|(key, value)| (key == name).then(|| value.into_owned()));
        match self.line.trim_start().starts_with('{') && self.json.is_some() {
            true => in_json(),
            false => in_json().or_else(in_pairs),
        }
    }

    /// Returns the pull that any field of the line reports.
    pub fn pull(&self, at: Timestamp) -> Pull {
        match pull_in_text(self.line, self.json.as_ref(), at, MOST_NESTED) {
            Pull::Of(event, None) => Pull::Of(event, self.identity()),
            pull => pull,
        }
    }

    /// Returns the identity of the event from the fields of the line, as Alloy and OpenTelemetry's k8s_events write
    /// them.
    fn identity(&self) -> Option<String> {
        let of = |id: &str, more: &str| Some(format!("{} {}", self.get(id)?, self.get(more).unwrap_or_default()));
        of("eventRV", "name").or_else(|| of("k8s_event_uid", "k8s_event_count"))
    }
}

/// Finds a pull in a text: as a kubelet's message, in JSON at any depth, or in a text with escaped quotes.
pub fn pull_in(text: &str, at: Timestamp) -> Pull {
    pull_in_text(text, json(text).as_ref(), at, MOST_NESTED)
}

fn pull_in_text(text: &str, json: Option<&Value>, at: Timestamp, depth: usize) -> Pull {
    if !text.contains(PullEvent::TEXT) {
        return Pull::Untold;
    }
    if let Some(event) = PullEvent::from_message(at, text) {
        return Pull::Of(event, None);
    }
    match json.map(|json| pull_in_json(json, at, depth)) {
        Some(pull @ (Pull::Of(..) | Pull::Again)) => pull,
        // No image has a backslash in its name.
        _ => PullEvent::from_message(at, &text.replace('\\', "")).map_or(Pull::Untold, |event| Pull::Of(event, None)),
    }
}

fn pull_in_json(value: &Value, at: Timestamp, depth: usize) -> Pull {
    let told = |value| Some(pull_in_json(value, at, depth)).filter(|pull| !matches!(pull, Pull::Untold));
    match value {
        Value::String(text) => {
            let json = (depth > 0 && text.contains(PullEvent::TEXT)).then(|| json(text)).flatten();
            pull_in_text(text, json.as_ref(), at, depth.saturating_sub(1))
        }
        Value::Array(values) => values.iter().find_map(told).unwrap_or(Pull::Untold),
        Value::Object(object) if tells_again(object) => Pull::Again,
        Value::Object(object) => {
            let mut values = object.iter().filter(|(key, _)| *key != OLD_EVENT).map(|(_, value)| value);
            match values.find_map(told) {
                Some(Pull::Of(event, None)) => Pull::Of(event, identity(object)),
                pull => pull.unwrap_or(Pull::Untold),
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Pull::Untold,
    }
}

/// The previous state of an updated event, in lines of eventrouter.
const OLD_EVENT: &str = "old_event";

/// Whether an object is about an event that was reported before. OpenTelemetry's k8sobjects reports an event again when
/// the event is deleted, an hour later; eventrouter reports all events again whenever it compares its cache.
fn tells_again(object: &Map<String, Value>) -> bool {
    let is_deleted = |key| object.get(key).and_then(Value::as_str) == Some("DELETED");
    let version = |event| object.get(event)?.get("metadata")?.get("resourceVersion")?.as_str();
    let is_unchanged = version(OLD_EVENT).is_some_and(|old| version("event") == Some(old));
    is_deleted("type") || is_deleted("verb") || is_unchanged
}

/// Returns the identity of an event of the API: its UID with its version, or with its count and last time, which change
/// when it happens again. Shippers that restart or list events repeatedly ship the same event more than once.
fn identity(event: &Map<String, Value>) -> Option<String> {
    let metadata = event.get("metadata")?;
    let uid = metadata.get("uid")?.as_str().filter(|uid| !uid.is_empty())?;
    let version = metadata.get("resourceVersion").and_then(Value::as_str).filter(|version| !version.is_empty());
    Some(match version {
        Some(version) => format!("{uid} {version}"),
        None => {
            let field = |name| event.get(name).map(Value::to_string).unwrap_or_default();
            format!("{uid} {} {}", field("count"), field("lastTimestamp"))
        }
    })
}

/// Returns the first object of JSON in a text. An empty one is ignored.
fn json(text: &str) -> Option<Value> {
    let starts = text.match_indices('{').take(MOST_STARTS).filter_map(|(at, _)| text.get(at..));
    let mut objects = starts.filter_map(|text| serde_json::Deserializer::from_str(text).into_iter().next()?.ok());
    objects.find(|value: &Value| value.as_object().is_some_and(|object| !object.is_empty()))
}

fn nested(value: &Value, name: &str) -> Option<String> {
    match value {
        Value::Object(object) => match object.get(name) {
            Some(value) => text(value),
            None => object.iter().find_map(|(key, value)| match behind(key, name)? {
                "" => text(value),
                rest => nested(value, rest.strip_prefix(['.', '_'])?),
            }),
        },
        Value::String(text) => nested(&json(text)?, name),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// Returns the rest of a field's name behind `key`: `_reason` of `event_reason`, and of `a_b_reason` for a key `a.b`,
/// because Loki's labels have no dots.
fn behind<'a>(key: &str, name: &'a str) -> Option<&'a str> {
    let mut rest = name.chars();
    for wanted in key.chars() {
        let char = rest.next()?;
        if char != wanted && (char != '_' || wanted.is_alphanumeric()) {
            return None;
        }
    }
    Some(rest.as_str())
}

/// Splits a line such as `reason=Pulled msg="pulled \"x\""` into its pairs; see
/// <https://pkg.go.dev/github.com/kr/logfmt>. Words without `=` are ignored.
fn logfmt(line: &str) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
    let mut rest = line;
    from_fn(move || {
        loop {
            rest = rest.trim_start();
            let end = rest.find([' ', '\t', '='])?;
            let (key, tail) = rest.split_at(end);
            let Some(tail) = tail.strip_prefix('=') else {
                rest = tail;
                continue;
            };
            let (value, tail) = match tail.strip_prefix('"') {
                Some(quoted) => unquote(quoted),
                None => {
                    let (value, tail) = tail.split_at(tail.find([' ', '\t']).unwrap_or(tail.len()));
                    (value.into(), tail)
                }
            };
            rest = tail;
            return Some((key, value));
        }
    })
}

/// Returns the text up to the closing quote, and the rest.
fn unquote(text: &str) -> (Cow<'_, str>, &str) {
    let mut escaped = false;
    let end = text.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    let (value, tail) = end.and_then(|end| Some((text.get(..end)?, text.get(end + 1..)?))).unwrap_or((text, ""));
    // The escapes are those of JSON strings, or some that only Go has.
    let unescaped = || serde_json::from_str(&format!("\"{value}\"")).unwrap_or_else(|_| value.replace('\\', ""));
    (if value.contains('\\') { Cow::Owned(unescaped()) } else { Cow::Borrowed(value) }, tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(line: &str, name: &str) -> Option<String> {
        let labels = BTreeMap::from([("reason".to_owned(), "of the line".to_owned())]);
        let of_stream =
            BTreeMap::from([("reason".to_owned(), "hidden".to_owned()), ("pod".to_owned(), "p".to_owned())]);
        Fields::new([&labels, &of_stream], line).get(name)
    }

    #[test]
    fn fields_are_found_in_every_kind_of_line() {
        let json = r#"{"reason":"x","message":"a \"b\"","event":{"involvedObject":{"name":"pod-1"},"count":3,"x":null},"a_b":"whole"}"#;
        let logfmt = r#"time=1 word name=pod-1 msg="a \"b\" = c" go="a\x41 \"b\"" empty= open="un closed"#;
        let prefixed = r#"I0826 10:58:53.717599       6 sink.go:42] {"verb":"ADDED","event":{"reason":"Pulled"}}"#;
        let within = r#"{"body":"{\"object\":{\"note\":\"n\"}}","attributes":{"k8s.event.reason":"Pulled"}}"#;
        let mixed = r#"labels={} attributes={"a":1} msg=text"#;
        let cases = [
            (json, "reason", Some("of the line")),
            (json, "pod", Some("p")),
            (json, "message", Some("a \"b\"")),
            (json, "event_involvedObject_name", Some("pod-1")),
            (json, "event.involvedObject.name", Some("pod-1")),
            (json, "event.count", Some("3")),
            (json, "event.x", None),
            (json, "a_b", Some("whole")),
            (json, "involvedObject_name", None),
            (logfmt, "name", Some("pod-1")),
            (logfmt, "msg", Some("a \"b\" = c")),
            (logfmt, "go", Some("ax41 \"b\"")),
            (prefixed, "event_reason", Some("Pulled")),
            (within, "body_object_note", Some("n")),
            (within, "attributes_k8s_event_reason", Some("Pulled")),
            (within, "attributes.k8s.event.reason", Some("Pulled")),
            (mixed, "msg", Some("text")),
            (mixed, "attributes_a", None),
            (logfmt, "empty", Some("")),
            (logfmt, "open", Some("un closed")),
            (logfmt, "word", None),
            ("{no json", "name", None),
            ("", "name", None),
        ];
        for (line, name, expected) in cases {
            assert_eq!(get(line, name).as_deref(), expected, "{name} in {line}");
        }
    }
}
