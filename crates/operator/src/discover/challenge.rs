//! The header `WWW-Authenticate`: <https://www.rfc-editor.org/rfc/rfc9110#section-11.6.1>.

use http::header::{HeaderMap, WWW_AUTHENTICATE};

/// An authentication challenge of a server.
#[derive(Debug, PartialEq, Eq)]
pub struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// Whether the scheme is this one.
    pub fn is(&self, scheme: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(scheme)
    }

    /// A parameter, unless it is empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut parameters = self.parameters.iter();
        let (_, value) = parameters.find(|(key, value)| key.eq_ignore_ascii_case(name) && !value.is_empty())?;
        Some(value)
    }
}

/// Reads the challenges of an answer, in one header or in several.
///
/// Registries break the grammar: they write a realm without quotes, and semicolons instead of commas. This parser reads
/// both. It rejects no text; a challenge without a meaning has no realm.
pub fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(parse).collect()
}

fn parse(text: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    for part in split(text) {
        let end = part.find([' ', '\t', '=']).unwrap_or(part.len());
        let (word, rest) = part.split_at(end);
        let rest = rest.trim_start();
        let (scheme, parameter) = match rest.strip_prefix('=') {
            // A parameter of a challenge that began earlier.
            Some(value) if !challenges.is_empty() => (None, Some((word, value))),
            // `Bearer realm="…"`. A text without parameters, as behind `Negotiate`, does not matter.
            _ => (Some(word), rest.split_once('=')),
        };
        if let Some(scheme) = scheme.filter(|scheme| !scheme.is_empty()) {
            challenges.push(Challenge { scheme: scheme.to_owned(), parameters: Vec::new() });
        }
        if let (Some(challenge), Some((name, value))) = (challenges.last_mut(), parameter) {
            challenge.parameters.push((name.trim().to_owned(), unquote(value.trim())));
        }
    }
    challenges
}

/// Splits at commas or semicolons outside of quotes, and at spaces behind a closing quote.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped, mut was_closed) = (false, false, false);
    let separates = move |c: char| {
        let ends = c == '"' && !is_escaped;
        is_quoted ^= ends;
        is_escaped = c == '\\' && is_quoted && !is_escaped;
        let was_closed = std::mem::replace(&mut was_closed, ends && !is_quoted);
        !is_quoted && (matches!(c, ',' | ';') || was_closed && c.is_whitespace())
    };
    text.split(separates).map(str::trim).filter(|part| !part.is_empty())
}

fn unquote(value: &str) -> String {
    let Some(quoted) = value.strip_prefix('"') else { return value.to_owned() };
    let mut text = String::new();
    let mut rest = quoted.chars();
    while let Some(c) = rest.next() {
        match c {
            '"' => break,
            '\\' => text.extend(rest.next()),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the realm, service and scope of the Bearer challenge.
    fn bearer(text: &str) -> Option<[String; 3]> {
        let challenges = parse(text);
        let bearer = challenges.iter().find(|challenge| challenge.is("bearer"))?;
        Some(["realm", "service", "scope"].map(|name| bearer.get(name).unwrap_or_default().to_owned()))
    }

    #[test]
    fn a_bearer_challenge_is_found_however_it_is_written() {
        let scope = "repository:a/b:pull,push";
        let cases = [
            (r#"Bearer realm="https://r/t",service="s",scope="repository:a/b:pull,push""#, ["https://r/t", "s", scope]),
            // Forgejo and Gitea; Docker Hub; GitLab, which adds the reason.
            (
                r#"Bearer realm="https://r/v2/token",service="container_registry",scope="*""#,
                ["https://r/v2/token", "container_registry", "*"],
            ),
            (r#"bearer Realm = "https://r/t" , SERVICE="s""#, ["https://r/t", "s", ""]),
            (r#"Bearer realm="https://r/jwt/auth",service="s",error="invalid_token""#, ["https://r/jwt/auth", "s", ""]),
            // Without quotes, with semicolons, with empty values and with spaces.
            ("Bearer realm=https://r/t?a=b,service=s", ["https://r/t?a=b", "s", ""]),
            (r#"Bearer realm="https://r/t";service="s""#, ["https://r/t", "s", ""]),
            (r#"Bearer realm="https://r/t",service=s,scope="""#, ["https://r/t", "s", ""]),
            (r#"Bearer realm="https://r/t?x=1,2;3",service="a \"b\", c""#, ["https://r/t?x=1,2;3", "a \"b\", c", ""]),
            // With nothing but spaces between the parameters.
            (r#"Bearer realm="https://r/t" service="s"  scope="a b""#, ["https://r/t", "s", "a b"]),
            // Among other challenges, before and behind it.
            (r#"Basic realm="r, Bearer realm=no", Bearer realm="https://r/t",service="s""#, ["https://r/t", "s", ""]),
            (r#"Negotiate, NTLM TlRMTVNTUAAB==, Bearer realm="https://r/t", Basic realm="x""#, ["https://r/t", "", ""]),
            (",, Bearer realm=\"https://r/t\",", ["https://r/t", "", ""]),
            ("Bearer realm=\"https://r/t", ["https://r/t", "", ""]),
            ("Bearer", ["", "", ""]),
            ("Bearer realm", ["", "", ""]),
        ];
        for (text, expected) in cases {
            assert_eq!(bearer(text).unwrap(), expected, "{text}");
        }
        for text in ["", "=", "Basic realm=/", "Negotiate", "realm=\"https://r/t\"", "\"Bearer\"", "é", "Bear\\\"er x"]
        {
            assert_eq!(bearer(text), None, "{text}");
        }
    }

    #[test]
    fn challenges_of_several_headers_are_one_list() {
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, "Negotiate".parse().unwrap());
        headers.append(WWW_AUTHENTICATE, "Bearer realm=\"https://r/t\"".parse().unwrap());
        headers.append(WWW_AUTHENTICATE, "Basic realm=\"r\"".parse().unwrap());
        let challenges = challenges(&headers);
        let schemes: Vec<_> = challenges.iter().map(|challenge| challenge.scheme.as_str()).collect();
        assert_eq!(schemes, ["Negotiate", "Bearer", "Basic"]);
    }
}
