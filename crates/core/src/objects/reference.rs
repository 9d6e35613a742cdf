//! Normalises image references to one spelling.

use std::fmt;
use std::sync::LazyLock;

use drop_api::cached_image::{IMAGE_ID, IMAGE_NAME};
use regex::Regex;
use serde::{Serialize, Serializer};

use crate::Name;
use crate::interner::Texts;

/// A full image reference, normalised as container runtimes do: with registry
/// host and with tag or digest, so that `alpine:3.20` and
/// `docker.io/library/alpine:3.20` compare equal.
///
/// The rules are those of <https://github.com/distribution/reference>. A digest takes precedence over a tag beside it,
/// because container runtimes then ignore the tag.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference(Name);

const DEFAULT_HOST: &str = "docker.io";

impl Reference {
    /// Combines an image name, which may carry its own tag or digest, with a separate tag or digest. Without either,
    /// the tag is `latest`.
    ///
    /// Never fails: an invalid text stays a reference that no node can pull, and the kubelet reports that
    /// (`InvalidImageName`).
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

    /// Reads a reference from one text, such as a container's `image`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self::new(text, None, None)
    }

    /// Returns the same reference, which shares its text with all others of `texts`.
    #[must_use]
    pub fn shared(&self, texts: &mut Texts) -> Self {
        Self(texts.share(&self.0))
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

    /// The digest that pins the image, if any: `sha256:…`.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.0.split_once('@').map(|(_, digest)| digest)
    }

    /// The tag; `None` if a digest pins the image.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        let rest = self.0.strip_prefix(self.repository())?;
        rest.strip_prefix(':')
    }

    /// The registry host with its port, if it has one: `docker.io`.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(host, _)| host)
    }
}

/// The reasons why container runtimes reject a text as the name of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAName {
    /// It is the ID of an image on a node: 64 hexadecimal digits, with or without `sha256:`. Behind a host, such digits
    /// are a name.
    Id,
    /// It has another form.
    Form,
}

/// The longest path of a repository, in bytes, by <https://github.com/distribution/reference>.
const MAX_PATH: usize = 255;

/// Checks that `text` is the name of an image, perhaps with a tag and a digest.
///
/// # Errors
/// The reason why it is not.
pub fn check_name(text: &str) -> Result<(), NotAName> {
    static PATTERNS: LazyLock<[Option<Regex>; 2]> =
        LazyLock::new(|| [IMAGE_ID, IMAGE_NAME].map(|pattern| Regex::new(pattern).ok()));
    let [id, name] = &*PATTERNS;
    let is = |pattern: &Option<Regex>, text: &str| pattern.as_ref().is_some_and(|pattern| pattern.is_match(text));
    if is(id, text) {
        return Err(NotAName::Id);
    }
    let reference = Reference::parse(text);
    // `[200]` has the form of an IPv6 address, but no colon, so runtimes treat it as a part of the path.
    let is_name = is(name, text) && is(name, reference.as_str());
    let path =
        reference.repository().strip_prefix(reference.host()).map_or(0, |path| path.trim_start_matches('/').len());
    if is_name && path <= MAX_PATH { Ok(()) } else { Err(NotAName::Form) }
}

/// Returns `name` with its registry host, and with `library/` if Docker Hub implies it.
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

    /// Cases from the tests of <https://github.com/distribution/reference>, and from bug reports.
    #[test]
    fn names_are_those_that_container_runtimes_accept() {
        let hex = "1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a";
        let good = [
            "alpine",
            "test_com",
            "test.com:tag",
            "test.com:5000",
            "lowercase:Uppercase",
            "a",
            "d/docker",
            "docker---rules/dock__er",
            "192.168.0.1:80",
            "192.168.1.1:5000/repo:5050",
            "localhost/debian",
            "localhost:5000/app",
            "LOCALDOMAIN/library/debian",
            "Docker/docker",
            "Asdf.com/app",
            "xn--n3h.com/myimage:xn--n3h.com",
            "b.gcr.io/test.example.com/my-app:test.example.com",
            "123456789012.dkr.ecr.eu-north-1.amazonaws.com/app:1",
            "registry.local:9001/quay.io/team/app:8a1638098f88d92bf799ef4934abe569789b885e-ubuntu_bionic",
            "[::1]/repo",
            "[fc00::1]:5000/docker/docker",
            "[2001:db8:1:2:3:4:5:6]/repo:tag",
            "foo_bar.com:8080",
            "foo/foo_bar.com:8080",
            "a_b.c/d",
            "sha256",
            "b19406328e70",
            "thisisthesongthatneverendsitgoesonandonandonthisisthesongthatnev",
        ];
        let pinned = format!("test:5000/repo:tag@sha256:{hex}");
        let on_host = format!("docker.io/{hex}");
        let longest = format!("registry.example.com/{}a:tag-puts-this-over-the-limit", "a/".repeat(127));
        for name in good.into_iter().chain([pinned.as_str(), &on_host, &longest]) {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        let bad = [
            "",
            " ",
            "nginx:1.25 ",
            ":justtag",
            "Uppercase:tag",
            "test:5000/Uppercase/lowercase:tag",
            "docker/Docker",
            "https://github.com/docker/docker",
            "docker://nginx:1",
            "docker///docker",
            "docker/",
            "/docker",
            "-docker",
            "-docker.io/docker/docker",
            "docker-/docker/x",
            "ab-.com/docker",
            "a..b.com/docker",
            "a.-b.com/docker",
            "_docker/_docker",
            "____/____",
            "dock..er/docker",
            "dock_.er/docker",
            "dock___er/docker",
            "gcr.io/p/app:",
            "gcr.io/p/app@",
            "gcr.io/p/app:1:2",
            "aa/asdf$$^/aa",
            "app:-1",
            "[200]/app",
            "[fc00::1]",
            "[fc00::1]:5000",
            "[2001:db8::1]:tag",
            "fc00::1:5000/debian",
            "[fe80::1%eth0]:5000/debian",
            "[2001:db8:3:4::192.0.2.33]:5000/debian",
            "repo@sha256:ffffffffffffffffffffffffffffffffff",
            "host:port/app",
            "nginx\n",
            "<none>@<none>",
            "ngínx",
        ];
        let sha512 = format!("validname@sha512:{}", "f".repeat(128));
        let upper = format!("validname@sha256:{}", "F".repeat(64));
        let long_tag = format!("app:{}", "x".repeat(129));
        let too_long = format!("registry.example.com/{}", "a".repeat(256));
        for name in bad.into_iter().chain([sha512.as_str(), &upper, &long_tag, &too_long]) {
            assert_eq!(check_name(name), Err(NotAName::Form), "{name}");
        }
        // With sha256 as a name and the digits as a tag, it would have the form of a name.
        for id in [hex.to_owned(), format!("sha256:{hex}"), format!("{hex}:latest"), format!("{hex}@sha256:{hex}")] {
            assert_eq!(check_name(&id), Err(NotAName::Id), "{id}");
        }
    }

    #[test]
    fn parts_of_a_reference_are_found_whatever_its_host() {
        let hex = "f".repeat(64);
        let cases = [
            ("[2001:db8::1]:5000/team/app:1", "[2001:db8::1]:5000", "[2001:db8::1]:5000/team/app", Some("1")),
            ("[::1]/app", "[::1]", "[::1]/app", Some("latest")),
            ("localhost/app", "localhost", "localhost/app", Some("latest")),
            ("LOCALDOMAIN/app:2", "LOCALDOMAIN", "LOCALDOMAIN/app", Some("2")),
            ("test:5000/repo", "test:5000", "test:5000/repo", Some("latest")),
            ("test.com:5000", "docker.io", "docker.io/library/test.com", Some("5000")),
            ("foo/foo_bar.com:8080", "docker.io", "docker.io/foo/foo_bar.com", Some("8080")),
        ];
        for (text, host, repository, tag) in cases {
            let found = Reference::parse(text);
            assert_eq!((found.host(), found.repository(), found.tag()), (host, repository, tag), "{text}");
            let pinned = Reference::parse(&format!("{text}@sha256:{hex}"));
            let digest = format!("sha256:{hex}");
            assert_eq!((pinned.host(), pinned.repository()), (host, repository), "{pinned}");
            assert_eq!((pinned.digest(), pinned.tag()), (Some(digest.as_str()), None), "{pinned}");
        }
    }
}
