//! The newest pulls of an image, which tell whether another node's copy is outdated.
//!
//! IDs are compared only where equal content has equal IDs. Some runtimes report the digest of the manifest for their
//! platform instead of the tag's own digest, so platforms are kept apart. CRI-O reports an ID that is no digest of the
//! registry, so the kinds of IDs are kept apart as well.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::Name;

/// Whether a text is a digest in the form that Drop writes: `sha256:` and 64 hexadecimal digits.
#[must_use]
pub fn is_sha256(digest: &str) -> bool {
    digest.strip_prefix("sha256:").is_some_and(is_hex)
}

fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The ID that a runtime reports for an image that it has pulled (`imageID` of a container's status).
///
/// containerd and Docker report the digest in the registry (`repo@sha256:…`). CRI-O reports a bare ID, which is the
/// digest of the image's configuration. It changes with the image, but no node's list shows it, and the registry does
/// not use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageId(Name);

impl ImageId {
    /// Reads an `imageID`. `None` for digests other than sha256, which are too long for a NodeCache, and for texts that
    /// are no ID.
    #[must_use]
    pub fn parse(reported: &str) -> Option<Self> {
        if let Some((_, digest)) = reported.split_once('@') {
            return is_sha256(digest).then(|| Self(digest.into()));
        }
        // `docker://sha256:…`
        let id = reported.rsplit_once("://").map_or(reported, |(_, id)| id);
        let id = id.strip_prefix("sha256:").unwrap_or(id);
        is_hex(id).then(|| Self(id.into()))
    }

    /// An ID as [`digest`](Self::digest) or [`bare`](Self::bare) returns it.
    #[must_use]
    pub const fn new(id: Name) -> Self {
        Self(id)
    }

    /// The digest in the registry, `sha256:…`, if it is one.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        (!self.is_bare()).then_some(&*self.0)
    }

    /// The runtime's own ID, 64 hexadecimal digits, if it is one.
    #[must_use]
    pub fn bare(&self) -> Option<&str> {
        self.is_bare().then_some(&*self.0)
    }

    fn is_bare(&self) -> bool {
        !self.0.contains(':')
    }
}

/// The newest pulls of one image on all nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Newest {
    /// By platform, and by whether the ID is a bare one.
    pulls: BTreeMap<(Name, bool), Pull>,
}

/// A pull whose runtime reported the image's ID.
#[derive(Clone, Debug, PartialEq)]
struct Pull {
    at: Timestamp,
    node: Name,
    id: ImageId,
}

impl Pull {
    /// Of equal times the node with the lower name wins, so that the order in which pulls become known does not matter.
    fn order(&self) -> (Timestamp, Reverse<&Name>) {
        (self.at, Reverse(&self.node))
    }
}

/// The consequences of a node's new record of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// A pull of this node was among the newest and no longer is: search for these again.
    pub is_stale: bool,
    /// IDs have changed, which affects every node.
    pub is_news: bool,
}

impl Newest {
    /// Records the ID that the last pull on `node` got, and when; `None` if there is none.
    pub fn update(&mut self, node: &Name, platform: &Name, pulled: Option<(Timestamp, &ImageId)>) -> Update {
        let mut update = Update::default();
        let key = pulled.map(|(_, id)| (platform.clone(), id.is_bare()));
        let elsewhere = self.pulls.iter().filter(|(other, _)| Some(*other) != key.as_ref());
        update.is_stale = elsewhere.map(|(_, pull)| pull).any(|pull| pull.node == *node);
        let Some((key, (at, id))) = key.zip(pulled) else { return update };
        let pull = Pull { at, node: node.clone(), id: id.clone() };
        let last = self.last(key.1).map(|last| last.id.clone());
        let is_bare = key.1;
        match self.pulls.get_mut(&key) {
            Some(known) if known.order() <= pull.order() => {
                let known = std::mem::replace(known, pull);
                update.is_news = known.id != *id;
            }
            Some(known) => update.is_stale |= known.node == *node,
            None => {
                update.is_news = true;
                self.pulls.insert(key, pull);
            }
        }
        update.is_news |= last.as_ref() != self.last(is_bare).map(|last| &last.id);
        update
    }

    /// Returns the time of the pull to repeat first, to find out whether the tag has moved; `None` before the first
    /// pull that got an ID.
    ///
    /// If all pulls got the same ID, the tag's own digest, one answer is valid for all nodes. If IDs differ, the answer
    /// to nodes of one platform and kind of ID tells the others nothing, so each of these groups asks for itself.
    #[must_use]
    pub fn oldest_answer(&self) -> Option<Timestamp> {
        let answers = self.pulls.values().map(|pull| pull.at);
        if self.is_one() { answers.max() } else { answers.min() }
    }

    /// Whether all pulls got the same ID.
    fn is_one(&self) -> bool {
        let mut ids = self.pulls.values().map(|pull| &pull.id);
        ids.next().is_none_or(|first| ids.all(|id| id == first))
    }

    /// Returns the newest pulls that count for a node of this platform.
    #[must_use]
    pub fn seen_from<'a>(&'a self, platform: &'a str) -> View<'a> {
        View { newest: Some(self), platform }
    }

    /// Returns the newest pull on any platform that got this kind of ID.
    fn last(&self, is_bare: bool) -> Option<&Pull> {
        let pulls = self.pulls.iter().filter(|((_, kind), _)| *kind == is_bare);
        pulls.map(|(_, pull)| pull).max_by_key(|pull| pull.order())
    }
}

/// The newest pulls, as far as they count for one node.
#[derive(Clone, Copy, Debug, Default)]
pub struct View<'a> {
    newest: Option<&'a Newest>,
    platform: &'a str,
}

impl<'a> View<'a> {
    /// Returns the digest that the newest pull on the node's platform got. Before the first pull on its platform, it is
    /// the digest of any other platform: most runtimes report the tag's own digest, which all platforms share. If that
    /// is wrong, one pull on the platform corrects it.
    #[must_use]
    pub fn digest(&self) -> Option<&'a str> {
        let of_any = || self.newest?.last(false);
        self.of_platform(false).or_else(of_any)?.id.digest()
    }

    /// Returns the bare ID that the newest pull on the node's platform got, if its runtime reported one.
    #[must_use]
    pub fn bare(&self) -> Option<&'a str> {
        self.of_platform(true)?.id.bare()
    }

    /// Returns the time of the newest pull whose answer is valid for a node with this ID: a pull on its platform with
    /// its kind of ID, or any pull if all got the same ID. `None` before the first one.
    #[must_use]
    pub fn answered_at(&self, id: Option<&ImageId>) -> Option<Timestamp> {
        let newest = self.newest?;
        if newest.is_one() {
            return newest.oldest_answer();
        }
        self.of_platform(id.is_some_and(ImageId::is_bare)).map(|pull| pull.at)
    }

    /// NodeCaches of earlier versions do not name their platform, so they may be of any.
    fn of_platform(&self, is_bare: bool) -> Option<&'a Pull> {
        let counts = |platform: &str| platform == self.platform || platform.is_empty();
        let pulls = self.newest?.pulls.iter();
        let pulls = pulls.filter(|((platform, kind), _)| *kind == is_bare && counts(platform));
        pulls.map(|(_, pull)| pull).max_by_key(|pull| pull.order())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMD: &str = "linux/amd64";
    const ARM: &str = "linux/arm64";

    fn id(digit: &str) -> ImageId {
        ImageId::parse(&format!("repo@sha256:{}", digit.repeat(64))).unwrap()
    }

    fn bare(digit: &str) -> ImageId {
        ImageId::parse(&digit.repeat(64)).unwrap()
    }

    /// Records pulls with these IDs, in the order of time.
    fn pulls(pulls: &[(&str, &str, ImageId)]) -> Newest {
        let mut newest = Newest::default();
        for (second, (node, platform, id)) in (0..).zip(pulls) {
            let at = Timestamp::from_second(second).unwrap();
            assert!(!newest.update(&(*node).into(), &(*platform).into(), Some((at, id))).is_stale);
        }
        newest
    }

    #[test]
    fn the_kinds_of_image_ids_are_told_apart() {
        let hex = "a".repeat(64);
        let digest = format!("sha256:{hex}");
        let cases = [
            (format!("docker.io/library/alpine@{digest}"), Some((Some(&*digest), None))),
            (format!("docker-pullable://alpine@{digest}"), Some((Some(&*digest), None))),
            (digest.clone(), Some((None, Some(&*hex)))),
            (format!("docker://{digest}"), Some((None, Some(&*hex)))),
            (hex.clone(), Some((None, Some(&*hex)))),
            (format!("alpine@sha512:{hex}{hex}"), None),
            ("sha256:abc".to_owned(), None),
            (String::new(), None),
        ];
        for (reported, expected) in cases {
            let id = ImageId::parse(&reported);
            assert_eq!(id.as_ref().map(|id| (id.digest(), id.bare())), expected, "{reported}");
        }
    }

    #[test]
    fn a_platform_keeps_its_own_newest_digest() {
        let newest = pulls(&[("a", AMD, id("1")), ("b", ARM, id("2")), ("c", AMD, id("3"))]);
        let digest = |platform| newest.seen_from(platform).digest().map(|digest| digest.replace("sha256:", ""));
        assert_eq!(digest(AMD), Some("3".repeat(64)));
        assert_eq!(digest(ARM), Some("2".repeat(64)));
        assert_eq!(digest("linux/s390x"), Some("3".repeat(64)), "nobody there has pulled yet");
        assert_eq!(newest.seen_from(AMD).bare(), None);
    }

    #[test]
    fn one_answer_counts_for_all_nodes_unless_their_ids_differ() {
        let second = |at: Option<Timestamp>| at.map(Timestamp::as_second);
        let answers = |newest: &Newest| {
            let answer = |platform, id: &ImageId| second(newest.seen_from(platform).answered_at(Some(id)));
            (second(newest.oldest_answer()), answer(AMD, &id("1")), answer(ARM, &id("1")), answer(AMD, &bare("1")))
        };
        assert_eq!(answers(&pulls(&[])), (None, None, None, None));
        let same = [("a", AMD, id("1")), ("b", ARM, id("1"))];
        assert_eq!(answers(&pulls(&same)), (Some(1), Some(1), Some(1), Some(1)), "the tag's own digest");
        let mixed = [("a", AMD, id("1")), ("c", ARM, id("2")), ("b", AMD, id("1"))];
        assert_eq!(answers(&pulls(&mixed)), (Some(1), Some(2), Some(1), None));
        let runtimes = [("a", AMD, id("1")), ("b", AMD, bare("2"))];
        assert_eq!(answers(&pulls(&runtimes)), (Some(0), Some(0), None, Some(1)));
    }

    #[test]
    fn what_changes_is_told() {
        let mut newest = pulls(&[("c", ARM, id("9")), ("a", AMD, id("1"))]);
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut update = |node: &str, second, id| newest.update(&node.into(), &AMD.into(), Some((at(second), &id)));
        let nothing = Update::default();
        assert_eq!(update("a", 1, id("1")), nothing);
        assert_eq!(update("b", 2, id("1")), nothing);
        assert_eq!(update("a", 1, id("1")), nothing, "an older pull changes nothing");
        assert_eq!(update("b", 3, id("2")), Update { is_news: true, ..nothing });
        assert_eq!(newest.update(&"a".into(), &AMD.into(), None), nothing);
        assert_eq!(newest.update(&"b".into(), &AMD.into(), None), Update { is_stale: true, ..nothing });
    }
}
