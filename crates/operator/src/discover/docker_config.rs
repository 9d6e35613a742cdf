//! Logins of a Secret of type `kubernetes.io/dockerconfigjson`, as the kubelet reads it:
//! <https://kubernetes.io/docs/concepts/containers/images/#config-json>.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use drop_core::discovery::registry_name;
use serde::Deserialize;

/// Base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A login for a registry.
#[derive(PartialEq, Eq)]
pub enum Shown {
    /// User and password.
    User(String, String),
    /// A token that a token service exchanges for another.
    Identity(String),
    /// A token for the registry itself.
    Registry(String),
}

/// An entry of a config, with the host and the path of its repositories.
pub struct Entry {
    host: String,
    path: String,
    /// The login.
    pub shown: Shown,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// Reads the entries of `.dockerconfigjson`, or of the older `.dockercfg`, which has no `auths` around them; `None` if
/// the text is neither.
pub fn entries(json: &[u8]) -> Option<Vec<Entry>> {
    let auths = match serde_json::from_slice::<BTreeMap<String, serde_json::Value>>(json).ok()?.contains_key("auths") {
        true => serde_json::from_slice::<Config>(json).ok()?.auths,
        false => serde_json::from_slice(json).ok()?,
    };
    let entry = |(key, auth): (String, Auth)| {
        let (host, path) = split(&key);
        Some(Entry { host: host.to_owned(), path: path.to_owned(), shown: shown(auth)? })
    };
    Some(auths.into_iter().filter_map(entry).collect())
}

/// Returns the entry for a repository of a registry: the one with the longest path, and of two such entries the one
/// with fewer `*`.
pub fn find<'a, T>(entries: &'a [(Entry, T)], host: &str, repository: &str) -> Option<&'a T> {
    let fits = |entry: &Entry| {
        let rest = repository.strip_prefix(&entry.path);
        let is_below = entry.path.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        is_below && matches(&entry.host, host)
    };
    let fitting = entries.iter().filter(|(entry, _)| fits(entry));
    let best = fitting.max_by_key(|(entry, _)| (entry.path.len(), std::cmp::Reverse(entry.host.matches('*').count())));
    best.map(|(_, value)| value)
}

fn shown(auth: Auth) -> Option<Shown> {
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    if let Some(token) = filled(auth.identitytoken) {
        return Some(Shown::Identity(token));
    }
    if let Some(token) = filled(auth.registrytoken) {
        return Some(Shown::Registry(token));
    }
    let decoded = filled(auth.auth).and_then(|auth| String::from_utf8(BASE64.decode(auth.trim()).ok()?).ok());
    match decoded.as_deref().and_then(|decoded| decoded.trim_end_matches(['\0', '\n']).split_once(':')) {
        // Docker marks a password that is an identity token in this way.
        Some(("<token>", identity)) => Some(Shown::Identity(identity.to_owned())),
        Some((user, password)) => Some(Shown::User(user.to_owned(), password.to_owned())),
        None => Some(Shown::User(filled(auth.username)?, auth.password?)),
    }
}

/// Splits a key such as `https://index.docker.io/v1/` or `registry.example.com:5000/team` into host and path.
fn split(key: &str) -> (&str, &str) {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.trim_matches('/');
    let below = |version: &str| path.strip_prefix(version).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let path = below("v1").or_else(|| below("v2")).unwrap_or(path).trim_matches('/');
    (host, path)
}

/// Whether `host` matches an entry's host, in which `*` stands for a part of a label: `*.azurecr.io`.
fn matches(pattern: &str, host: &str) -> bool {
    let name = |host: &str| registry_name(&format!("https://{host}")).to_ascii_lowercase();
    let (pattern, host) = (name(pattern), name(host));
    let labels = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (patterns, labels) = (labels(&pattern), labels(&host));
    let fits = |(pattern, label): (&String, &String)| match pattern.split_once('*') {
        None => pattern == label,
        Some((start, end)) => {
            label.len() >= start.len() + end.len() && label.starts_with(start) && label.ends_with(end)
        }
    };
    patterns.len() == labels.len() && patterns.iter().zip(&labels).all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find_in(json: &str, host: &str, repository: &str) -> Option<String> {
        let entries: Vec<_> = entries(json.as_bytes())?
            .into_iter()
            .map(|entry| {
                let said = match &entry.shown {
                    Shown::User(user, password) => format!("{user}:{password}"),
                    Shown::Identity(token) => format!("identity {token}"),
                    Shown::Registry(token) => format!("registry {token}"),
                };
                (entry, said)
            })
            .collect();
        find(&entries, host, repository).cloned()
    }

    #[test]
    fn the_entry_of_the_longest_path_is_taken() {
        let json = r#"{"auths": {
            "r.example": {"auth": "YTox"},
            "r.example/team": {"auth": "Yjoy"},
            "r.example/team/app": {"username": "c", "password": "3"},
            "https://index.docker.io/v1/": {"auth": "ZDo0"},
            "*.azurecr.io": {"auth": "MDAwMDo="},
            "one.azurecr.io": {"identitytoken": "t0k", "auth": "MDAwMDo="},
            "https://r.example:5000/v2/deep": {"registrytoken": "r3g"},
            "tls.example:443": {"auth": "ZTo1"},
            "empty.example": {}
        }}"#;
        let cases = [
            ("r.example", "other", Some("a:1")),
            ("r.example", "teams/app", Some("a:1")),
            ("r.example", "team/web", Some("b:2")),
            ("r.example", "team/app", Some("c:3")),
            ("r.example", "team/app/deep", Some("c:3")),
            ("registry-1.docker.io", "library/alpine", Some("d:4")),
            ("docker.io", "grafana/loki", Some("d:4")),
            ("two.azurecr.io", "x", Some("0000:")),
            ("one.azurecr.io", "x", Some("identity t0k")),
            ("a.b.azurecr.io", "x", None),
            ("r.example:5000", "deep/x", Some("registry r3g")),
            ("r.example:5000", "other", None),
            ("tls.example", "x", Some("e:5")),
            ("registry.hub.docker.com", "x", Some("d:4")),
            ("empty.example", "x", None),
            ("evil-r.example", "team/app", None),
            ("r.example.evil", "team/app", None),
        ];
        for (host, repository, expected) in cases {
            assert_eq!(find_in(json, host, repository).as_deref(), expected, "{host}/{repository}");
        }
    }

    #[test]
    fn configs_of_every_age_are_read_and_others_are_not() {
        let cases = [
            (r#"{"r": {"auth": "YTox", "email": "x@y"}}"#, Some("a:1")),
            (r#"{"auths": {"r": {"auth": "YTox"}}, "credsStore": "x", "HttpHeaders": {"a": "b"}}"#, Some("a:1")),
            // With a colon in the password, without padding, with the zeros of old Docker, with a token.
            (r#"{"auths": {"r": {"auth": "YToxOjI"}}}"#, Some("a:1:2")),
            (r#"{"auths": {"r": {"auth": "YToxAAA="}}}"#, Some("a:1")),
            (r#"{"auths": {"r": {"auth": "PHRva2VuPjp4"}}}"#, Some("identity x")),
            (r#"{"auths": {"r": {"auth": "!", "username": "a", "password": "1"}}}"#, Some("a:1")),
            (r#"{"auths": {"r": {"auth": "bm9jb2xvbg=="}}}"#, None),
            (r#"{"auths": {}}"#, None),
            ("[]", None),
            ("", None),
        ];
        for (json, expected) in cases {
            assert_eq!(find_in(json, "r", "x").as_deref(), expected, "{json}");
        }
    }
}
