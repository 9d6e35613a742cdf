//! Simulates unusual pulls: the images and nodes that they affect, their outcomes, and the messages of runtimes.

use std::fmt;

use drop_api::GoDuration;
use drop_core::Name;
use drop_core::reference::Reference;
use jiff::SignedDuration;
use serde::Deserialize;

use crate::{Kubelet, Lab};

/// A kubelet's reason for not pulling or starting something, in its own words.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "Said")]
pub struct Failure {
    /// Such as `ErrImagePull`.
    pub reason: Name,
    /// The message of the runtime.
    pub message: Name,
}

/// The form of a [`Failure`] in documents.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    reason: Option<String>,
    message: String,
}

impl From<Said> for Failure {
    fn from(Said { reason, message }: Said) -> Self {
        (reason.as_deref().unwrap_or(ERR_IMAGE_PULL), message.as_str()).into()
    }
}

impl From<(&str, &str)> for Failure {
    fn from((reason, message): (&str, &str)) -> Self {
        Self { reason: reason.into(), message: message.into() }
    }
}

/// The kubelet's reason for almost every pull that fails.
const ERR_IMAGE_PULL: &str = "ErrImagePull";

/// Unusual pulls.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Trouble {
    /// The images: a reference, a repository, or the host of a registry; empty: all of them.
    #[serde(default)]
    pub of: String,
    /// The nodes, by name; empty: all of them.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// The outcome of these pulls.
    pub outcome: Outcome,
}

/// The outcome of an unusual pull. The messages are those of containerd.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It takes this long, and then succeeds. If it takes longer than any timeout, it hangs.
    Takes(GoDuration),
    /// It fails with this message.
    Fails(Failure),
    /// The node's DNS server is broken: no host resolves.
    NoDns,
    /// The registry accepts no credentials of the node (401).
    Unauthorized,
    /// The registry accepts the node's credentials, and denies it the image (403).
    Forbidden,
    /// The registry closes the connection without an answer.
    Eof,
    /// The registry answers with this HTTP status.
    Status(u16),
    /// Another server answers in the registry's place, with an HTML page instead of a manifest.
    Garbage,
    /// It fills the disk, so that the kubelet evicts its Pod.
    Evicts,
}

impl Trouble {
    /// Affects pulls of these images on every node.
    #[must_use]
    pub fn new(of: &str, outcome: Outcome) -> Self {
        Self { of: of.to_owned(), nodes: Vec::new(), outcome }
    }

    /// Limits the effect to these nodes.
    #[must_use]
    pub fn on(mut self, nodes: &[&str]) -> Self {
        self.nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
        self
    }

    /// Whether it affects the image on any node.
    #[must_use]
    pub fn is_of(&self, image: &Reference) -> bool {
        let named = Reference::parse(&self.of);
        let has_version = self.of.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
        self.of.is_empty()
            || self.of == image.host()
            || *image == named
            || (!has_version && image.repository() == named.repository())
    }

    fn concerns(&self, node: &str, image: &Reference) -> bool {
        (self.nodes.is_empty() || self.nodes.iter().any(|name| name == node)) && self.is_of(image)
    }
}

impl Trouble {
    /// Describes the images and nodes for people.
    fn subject(&self) -> String {
        let of = if self.of.is_empty() { "everything" } else { &self.of };
        if self.nodes.is_empty() { of.to_owned() } else { format!("{of} on {}", self.nodes.join(", ")) }
    }

    /// Describes its end, as a sentence for people.
    #[must_use]
    pub fn end(&self) -> String {
        match self.outcome {
            Outcome::Takes(_) => format!("{} takes no longer than usual to pull", self.subject()),
            _ => format!("{} can be pulled again", self.subject()),
        }
    }
}

/// Describes its beginning, as a sentence for people.
impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = self.subject();
        let why = match &self.outcome {
            Outcome::Takes(time) => return write!(f, "{subject} takes {time} to pull"),
            Outcome::Fails(failure) => &*failure.message,
            Outcome::NoDns => "DNS is broken",
            Outcome::Unauthorized => "the registry answers 401",
            Outcome::Forbidden => "the registry answers 403",
            Outcome::Eof => "the registry closes connections",
            Outcome::Status(status) => return write!(f, "{subject} cannot be pulled: the registry answers {status}"),
            Outcome::Garbage => "the registry answers with a page of HTML",
            Outcome::Evicts => "it fills the disk, and its Pod is evicted",
        };
        write!(f, "{subject} cannot be pulled: {why}")
    }
}

impl Outcome {
    /// Returns the kubelet's message about the image; `None` if it can be pulled.
    pub(crate) fn failure(&self, image: &Reference) -> Option<Failure> {
        let url = manifest_url(image);
        let why = match self {
            Self::Takes(_) | Self::Evicts => return None,
            Self::Fails(failure) => return Some(failure.clone()),
            Self::NoDns => {
                let host = image.host();
                format!(
                    "failed to do request: Head \"{url}\": dial tcp: lookup {host} on 10.96.0.10:53: server misbehaving"
                )
            }
            Self::Unauthorized => "pull access denied, repository does not exist or may require authorization: \
                                   authorization failed: no basic auth credentials"
                .to_owned(),
            Self::Forbidden => format!("unexpected status from HEAD request to {url}: 403 Forbidden"),
            Self::Eof => format!("failed to do request: Head \"{url}\": EOF"),
            Self::Status(status) => format!("unexpected status from HEAD request to {url}: {}", status_line(*status)),
            Self::Garbage => {
                let message = format!(
                    "failed to pull and unpack image \"{image}\": unexpected media type text/html for \
                     sha256:{:064x}: not found",
                    7
                );
                return Some((ERR_IMAGE_PULL, message.as_str()).into());
            }
        };
        Some(unresolved(image, &why))
    }
}

/// Returns a failure to resolve an image, in the words of containerd.
pub(crate) fn unresolved(image: &Reference, why: &str) -> Failure {
    let message = format!("failed to pull and unpack image \"{image}\": failed to resolve image: {why}");
    (ERR_IMAGE_PULL, message.as_str()).into()
}

/// Returns the URL of an image's manifest in its registry.
pub(crate) fn manifest_url(image: &Reference) -> String {
    let host = image.host();
    let path = image.repository().strip_prefix(host).unwrap_or_default();
    format!("https://{host}/v2{path}/manifests/{}", image.tag().unwrap_or("latest"))
}

/// Returns a status code with the text of Go's `net/http`.
fn status_line(status: u16) -> String {
    let words = match status {
        418 => "I'm a teapot",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "",
    };
    format!("{status} {words}").trim_end().to_owned()
}

impl Lab {
    /// Returns why a node cannot pull an image now, if it cannot; not considering its registry and its disk.
    pub(crate) fn failure_of(&self, node: &str, image: &Reference) -> Option<Failure> {
        if self.knobs.on_mirrors.contains(image.as_str()) {
            return None;
        }
        let of_all = || self.knobs.broken_images.get(image.as_str()).cloned();
        let mut troubles = self.knobs.troubles.iter().filter(|trouble| trouble.concerns(node, image));
        of_all()
            .or_else(|| troubles.find_map(|trouble| trouble.outcome.failure(image)))
            .or_else(|| self.lacks_platform(node, image))
    }

    /// Returns why a node cannot pull an image that its registry has only for other platforms.
    fn lacks_platform(&self, node: &str, image: &Reference) -> Option<Failure> {
        let served = self.knobs.platforms.get(image.as_str())?;
        let platform = &self.api.nodes.get(node)?.platform;
        let is_served = served.iter().any(|other| **other == **platform);
        (!is_served).then(|| unresolved(image, "no match for platform in manifest: not found"))
    }

    /// Returns how long a node takes to pull an image, if it can, and bandwidth does not decide that.
    pub(crate) fn time_of(&self, node: &str, image: &Reference) -> Option<SignedDuration> {
        let mut troubles = self.knobs.troubles.iter().filter(|trouble| trouble.concerns(node, image));
        troubles.find_map(|trouble| match &trouble.outcome {
            Outcome::Takes(time) => Some(time.get()),
            _ => None,
        })
    }

    /// Whether a node evicts the Pods that pull an image.
    pub(crate) fn evicts(&self, node: &str, image: &Reference) -> bool {
        let mut troubles = self.knobs.troubles.iter().filter(|trouble| trouble.concerns(node, image));
        troubles.any(|trouble| trouble.outcome == Outcome::Evicts)
    }

    /// Whether every try to pull an image onto a node fails as things are.
    #[must_use]
    pub fn cannot_pull(&self, node: &str, image: &Reference) -> bool {
        let works = matches!(self.kubelet(node), Kubelet::Works | Kubelet::RejectsNext(_));
        let is_too_large = || self.room_on(node).is_some_and(|room| self.size_of(image) > room);
        !works || self.failure_of(node, image).is_some() || self.evicts(node, image) || is_too_large()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_of_a_reference_a_repository_a_host_or_everything() {
        let image = Reference::parse("quay.io/a/b:1");
        let is_of = |of: &str| Trouble::new(of, Outcome::NoDns).is_of(&image);
        let found =
            ["", "quay.io", "quay.io/a/b", "quay.io/a/b:1", "quay.io/a/b:2", "quay.io/a", "docker.io"].map(is_of);
        assert_eq!(found, [true, true, true, true, false, false, false]);
        assert!(Trouble::new("127.0.0.1:5000", Outcome::Eof).is_of(&Reference::parse("127.0.0.1:5000/x")));
    }
}
