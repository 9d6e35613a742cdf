//! Image references in one spelling.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::interner::Texts;

/// A full image reference, normalised as container runtimes do: with registry
/// host and with tag or digest, so that `alpine:3.20` and
/// `docker.io/library/alpine:3.20` compare equal.
///
/// The rules are those of <https://github.com/distribution/reference>. A digest
/// wins over a tag beside it, because the tag then has no say in what is pulled.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference(Arc<str>);

const DEFAULT_HOST: &str = "docker.io";

impl Reference {
    /// Puts a reference together from an image name, which may carry its own tag
    /// or digest, and a separate tag or digest. Neither means `latest`.
    ///
    /// Never fails: a text that is no reference stays one that no node can pull,
    /// and the kubelet says so (`InvalidImageName`).
    #[must_use]
    pub fn new(image: &str, tag: Option<&str>, digest: Option<&str>) -> Self {
        let (image, own_digest) = match image.split_once('@') {
            Some((image, digest)) => (image, Some(digest)),
            None => (image, None),
        };
        let path_start = image.rfind('/').map_or(0, |slash| slash + 1);
        let own_tag_at = image.get(path_start..).and_then(|path| path.find(':'));
        let (name, own_tag) = match own_tag_at {
            Some(colon) => {
                let (name, tag) = image.split_at(path_start + colon);
                (name, tag.get(1..))
            }
            None => (image, None),
        };
        let name = full_name(name);
        let text = match (digest.or(own_digest), tag.or(own_tag)) {
            (Some(digest), _) => format!("{name}@{digest}"),
            (None, tag) => format!("{name}:{}", tag.unwrap_or("latest")),
        };
        Self(text.into())
    }

    /// Reads a reference that stands in one piece, as in a container's `image`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self::new(text, None, None)
    }

    /// The same reference, sharing its text with all others of `texts`.
    #[must_use]
    pub fn shared(&self, texts: &mut Texts) -> Self {
        Self(texts.share(&*self.0))
    }

    /// The whole text: `docker.io/library/alpine:3.20`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text without tag and digest: `docker.io/library/alpine`.
    #[must_use]
    pub fn repository(&self) -> &str {
        let name = self.0.split_once('@').map_or(&*self.0, |(name, _)| name);
        let path_start = name.rfind('/').map_or(0, |slash| slash + 1);
        let colon = name.get(path_start..).and_then(|path| path.find(':'));
        colon.and_then(|colon| name.get(..path_start + colon)).unwrap_or(name)
    }

    /// The digest that pins the image, if one does: `sha256:…`.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.0.split_once('@').map(|(_, digest)| digest)
    }

    /// The tag that is followed; `None` where a digest pins the image.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        let rest = self.0.strip_prefix(self.repository())?;
        rest.strip_prefix(':')
    }

    /// The registry host with its port, if any: `docker.io`.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(host, _)| host)
    }
}

/// `name` with its registry host, and with `library/` where Docker Hub implies it.
fn full_name(name: &str) -> String {
    let (host, path) = match name.split_once('/') {
        Some((first, rest)) if is_host(first) => (first, rest),
        _ => (DEFAULT_HOST, name),
    };
    let host = if host == "index.docker.io" { DEFAULT_HOST } else { host };
    if host == DEFAULT_HOST && !path.contains('/') {
        format!("{host}/library/{path}")
    } else {
        format!("{host}/{path}")
    }
}

/// Whether the first component of a name is a host and not a part of the path.
fn is_host(component: &str) -> bool {
    component == "localhost" || component.contains(['.', ':']) || component.chars().any(char::is_uppercase)
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_image_are_equal() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let pinned = format!("docker.io/library/nginx@{digest}");
        let cases = [
            (("alpine", Some("3.20"), None), "docker.io/library/alpine:3.20"),
            (("docker.io/library/alpine", Some("3.20"), None), "docker.io/library/alpine:3.20"),
            (("docker.io/alpine:3.20", None, None), "docker.io/library/alpine:3.20"),
            (("index.docker.io/grafana/loki", None, None), "docker.io/grafana/loki:latest"),
            (("grafana/loki", None, None), "docker.io/grafana/loki:latest"),
            (("localhost/app", Some("1"), None), "localhost/app:1"),
            (("registry.example.com:5000/team/app:v1", None, None), "registry.example.com:5000/team/app:v1"),
            (("registry.bad/x", Some("latest"), None), "registry.bad/x:latest"),
            (("nginx", None, Some(digest.as_str())), pinned.as_str()),
        ];
        for ((image, tag, digest), expected) in cases {
            assert_eq!(Reference::new(image, tag, digest).as_str(), expected);
        }
        let both = Reference::parse(&format!("nginx:1.25@{digest}"));
        assert_eq!(both.as_str(), pinned, "a digest wins over the tag beside it");
    }

    #[test]
    fn the_host_keeps_its_port() {
        assert_eq!(Reference::parse("alpine").host(), "docker.io");
        let local = Reference::parse("127.0.0.1:5000/a/b:c");
        assert_eq!((local.host(), local.repository(), local.digest()), ("127.0.0.1:5000", "127.0.0.1:5000/a/b", None));
        let pinned = Reference::parse("alpine@sha256:abc");
        assert_eq!((pinned.repository(), pinned.digest()), ("docker.io/library/alpine", Some("sha256:abc")));
    }
}
