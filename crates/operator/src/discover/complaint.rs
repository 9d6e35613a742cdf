//! Extracts the message for people from an error answer.

use http::header::{CONTENT_TYPE, HeaderMap};
use serde_json::Value;

/// How deep the search for words goes into an object: `{"error":{"errors":[{"detail":{"message":…`.
const DEEPEST: usize = 6;
/// The fields that hold words, or an object or list with words. The first field with words wins.
const FIELDS: [&str; 12] = [
    "errors",
    "error",
    "message",
    "error_description",
    "detail",
    "details",
    "msg",
    "errorMessage",
    "reason",
    "title",
    "error_code",
    "code",
];

/// Returns the words of an answer: of JSON in any of the shapes that servers write, of plain text, or of a web page's
/// title.
pub fn complaint(headers: &HeaderMap, text: &str) -> Option<String> {
    if let Ok(json) = serde_json::from_str::<Value>(text) {
        return words(&json, DEEPEST);
    }
    if let Some(page) = web_page(headers, text) {
        return Some(page);
    }
    // Object stores write `<Error><Code>AccessDenied</Code><Message>…`.
    if text.trim_start().starts_with('<') {
        return element(text, "message").or_else(|| element(text, "code"));
    }
    let is_text = content_type(headers).is_none_or(|kind| kind.starts_with("text/plain"));
    (is_text && !text.contains('\u{fffd}')).then(|| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Describes the text with its title, if it is a web page.
pub fn web_page(headers: &HeaderMap, text: &str) -> Option<String> {
    let start: String = text.trim_start_matches('\u{feff}').trim_start().chars().take(15).collect();
    let start = start.to_ascii_lowercase();
    let is_named = content_type(headers).is_some_and(|kind| kind.starts_with("text/html") || kind.contains("xhtml"));
    if !(start.starts_with("<!doctype html") || start.starts_with("<html") || is_named && start.starts_with('<')) {
        return None;
    }
    Some(match element(text, "title") {
        Some(title) => format!("a web page ({title})"),
        None => "a web page".to_owned(),
    })
}

fn content_type(headers: &HeaderMap) -> Option<String> {
    Some(headers.get(CONTENT_TYPE)?.to_str().ok()?.trim().to_ascii_lowercase())
}

/// Returns the text of the first element of this name, in one line.
fn element(text: &str, name: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let begin = lower.find(&format!("<{name}"))?;
    let begin = begin + lower.get(begin..)?.find('>')? + 1;
    let end = begin + lower.get(begin..)?.find('<')?;
    let words: Vec<_> = text.get(begin..end)?.split_whitespace().collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// Returns the words of a value. `{"error":"invalid_grant","error_description":"…"}` has both.
fn words(value: &Value, depth: usize) -> Option<String> {
    let depth = depth.checked_sub(1)?;
    match value {
        Value::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        Value::Array(values) => values.iter().find_map(|value| words(value, depth)),
        Value::Object(fields) => {
            let field = |name: &&str| {
                let mut fields = fields.iter();
                fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).and_then(|(_, value)| words(value, depth))
            };
            let found = FIELDS.iter().find_map(field)?;
            match field(&"error_description").filter(|description| *description != found) {
                Some(description) => Some(format!("{found}: {description}")),
                None => Some(found),
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: Option<&str>, body: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.extend(kind.map(|kind| (CONTENT_TYPE, kind.parse().unwrap())));
        complaint(&headers, body)
    }

    #[test]
    fn the_words_of_every_common_shape_are_found() {
        let cases = [
            // Distribution and registries derived from it; Artifactory; servers that send a code alone, or a list of
            // texts.
            (r#"{"errors":[{"code":"NAME_UNKNOWN","message":"unknown name","detail":{"name":"a"}}]}"#, "unknown name"),
            (r#"{"errors":[{"status":404,"message":"no such repository"}]}"#, "no such repository"),
            (r#"{"errors":[{"code":"DENIED","message":""}]}"#, "DENIED"),
            (r#"{"errors":[{"code":"TOKEN_REVOKED","message":null,"detail":null}]}"#, "TOKEN_REVOKED"),
            (r#"{"errors":["first","second"]}"#, "first"),
            (r#"{"errors":[],"message":"said elsewhere"}"#, "said elsewhere"),
            // Google; OAuth; Docker's token service; gateways; AWS; problem documents; Grafana; Quay; a bare text.
            (
                r#"{"error":{"code":403,"message":"permission denied","status":"PERMISSION_DENIED"}}"#,
                "permission denied",
            ),
            (r#"{"error":"invalid_grant","error_description":"expired"}"#, "invalid_grant: expired"),
            (r#"{"details":"incorrect username or password"}"#, "incorrect username or password"),
            (r#"{"message":"no route"}"#, "no route"),
            (r#"{"__type":"Denied","Message":"no identity"}"#, "no identity"),
            (
                r#"{"type":"about:blank","title":"Forbidden","detail":"not on the list","status":403}"#,
                "not on the list",
            ),
            (r#"{"message":"","title":"Too slow"}"#, "Too slow"),
            (r#"{"error_message":"","error":"Invalid robot"}"#, "Invalid robot"),
            (r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#, "parse error"),
            (r#"{"message":["one","two"]}"#, "one"),
            (r#""plainly no""#, "plainly no"),
            // No JSON.
            ("query too long\n", "query too long"),
            ("<html><head><title>403 Forbidden</title></head></html>", "a web page (403 Forbidden)"),
            ("\u{feff}  <!DOCTYPE html>\n<title>\n Sign in\n </title>", "a web page (Sign in)"),
            ("<HTML><body>Oh no</body>", "a web page"),
            ("<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>not you</Message></Error>", "not you"),
            ("<Error><Code>AccessDenied</Code></Error>", "AccessDenied"),
        ];
        for (body, expected) in cases {
            assert_eq!(of(None, body).as_deref(), Some(expected), "{body}");
        }
        assert_eq!(of(Some("text/html; charset=utf-8"), "<p>x").as_deref(), Some("a web page"));
        assert_eq!(of(Some("text/plain; charset=utf-8"), "no").as_deref(), Some("no"));
    }

    #[test]
    fn what_is_not_for_people_is_left_out() {
        let deep = format!("{}\"x\"{}", "[".repeat(50), "]".repeat(50));
        for body in ["", " \n", "{}", "[]", "null", "7", r#"{"errors":[{}]}"#, r#"{"status":403}"#, "<", "<a", &deep] {
            assert_eq!(of(None, body), None, "{body}");
        }
        assert_eq!(of(Some("application/octet-stream"), "\u{1}binary"), None);
        assert_eq!(of(None, "\u{fffd}\u{0}"), None);
    }
}
