//! Fields of a log line: among the labels of its stream, then in the line itself, as
//! JSON or as logfmt.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::iter::from_fn;

use serde_json::Value;

/// A log line with the labels of its stream.
pub struct Fields<'a> {
    labels: &'a BTreeMap<String, String>,
    line: &'a str,
    json: Option<Value>,
}

impl<'a> Fields<'a> {
    /// Of a line.
    pub fn new(labels: &'a BTreeMap<String, String>, line: &'a str) -> Self {
        let json = line.trim_start().starts_with('{').then(|| serde_json::from_str(line).ok()).flatten();
        Self { labels, line, json }
    }

    /// The field's value. In JSON `a.b` and `a_b` are the field `b` of the object `a`
    /// too, as Loki's own parser calls it.
    pub fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        if let Some(value) = self.labels.get(name) {
            return Some(value.into());
        }
        match &self.json {
            Some(json) => match nested(json, name)? {
                Value::Null => None,
                Value::String(text) => Some(text.into()),
                other => Some(other.to_string().into()),
            },
            None => logfmt(self.line).find_map(|(key, value)| (key == name).then_some(value)),
        }
    }
}

fn nested<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let object = value.as_object()?;
    object.get(name).or_else(|| {
        object.iter().find_map(|(key, value)| nested(value, name.strip_prefix(key)?.strip_prefix(['.', '_'])?))
    })
}

/// The pairs of a line such as `reason=Pulled msg="pulled \"x\""`; see
/// <https://pkg.go.dev/github.com/kr/logfmt>. Words without `=` are none.
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

/// The text up to the closing quote, and what follows it.
fn unquote(text: &str) -> (Cow<'_, str>, &str) {
    let mut escaped = false;
    let end = text.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    let (value, tail) = end.and_then(|end| Some((text.get(..end)?, text.get(end + 1..)?))).unwrap_or((text, ""));
    // The escapes are those of JSON strings.
    let unescaped = value.contains('\\').then(|| serde_json::from_str(&format!("\"{value}\"")).ok()).flatten();
    (unescaped.map_or(Cow::Borrowed(value), Cow::Owned), tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(line: &str, name: &str) -> Option<String> {
        let labels = BTreeMap::from([("reason".to_owned(), "of the stream".to_owned())]);
        Fields::new(&labels, line).get(name).map(Cow::into_owned)
    }

    #[test]
    fn fields_are_found_in_every_kind_of_line() {
        let json = r#"{"reason":"x","message":"a \"b\"","event":{"involvedObject":{"name":"pod-1"},"count":3,"x":null},"a_b":"whole"}"#;
        let logfmt = r#"time=1 word name=pod-1 msg="a \"b\" = c" empty= open="un closed"#;
        let cases = [
            (json, "reason", Some("of the stream")),
            (json, "message", Some("a \"b\"")),
            (json, "event_involvedObject_name", Some("pod-1")),
            (json, "event.involvedObject.name", Some("pod-1")),
            (json, "event.count", Some("3")),
            (json, "event.x", None),
            (json, "a_b", Some("whole")),
            (json, "involvedObject_name", None),
            (logfmt, "name", Some("pod-1")),
            (logfmt, "msg", Some("a \"b\" = c")),
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
