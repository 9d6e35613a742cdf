//! The newest pulls of an image, which tell whether another node's copy is outdated.
//!
//! IDs are compared only where equal content has equal IDs. Some runtimes report the digest of what
//! their platform got instead of the tag's own, so platforms are kept apart; CRI-O reports an ID that
//! is no digest of the registry, so the kinds of IDs are kept apart as well.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::Name;

/// Whether a text is a digest of the kind that Drop writes: `sha256:` and 64 hexadecimal digits.
#[must_use]
pub fn is_sha256(digest: &str) -> bool {
    digest.strip_prefix("sha256:").is_some_and(is_hex)
}

fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What a runtime calls an image that it has pulled (`imageID` of a container's status).
///
/// containerd and Docker report the digest in the registry (`repo@sha256:…`). CRI-O reports a bare ID,
/// which is the digest of the image's configuration: it changes with the image, but no node's list
/// shows it, and it is not what a registry calls the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageId(Name);

impl ImageId {
    /// Reads an `imageID`. `None` for digests other than sha256, which are too long for what Drop
    /// writes, and for what is no ID.
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
    /// By platform and by whether the ID is a bare one.
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
    /// Ties go to the node with the lower name, so that the order in which pulls become known
    /// does not matter.
    fn order(&self) -> (Timestamp, Reverse<&Name>) {
        (self.at, Reverse(&self.node))
    }
}

/// What follows from a node's record of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// A pull of this node was among the newest and is not any more: look for these again.
    pub is_stale: bool,
    /// IDs have changed, which concerns every node.
    pub is_news: bool,
    /// The node that [asked](View::asks) until now, where another one may ask from now on.
    pub former: Option<Name>,
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
        let is_bare = key.1;
        let last = self.last(is_bare).map(|last| last.id.clone());
        let is_alone = self.pulls.len() == 1;
        match self.pulls.get_mut(&key) {
            Some(known) if known.order() <= pull.order() => {
                let known = std::mem::replace(known, pull);
                update.is_news = known.id != *id;
                update.former = Some(known.node).filter(|former| former != node && !is_alone);
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

    /// What counts for a node.
    #[must_use]
    pub fn seen_from<'a>(&'a self, node: &'a str, platform: &'a str) -> View<'a> {
        View { newest: Some(self), node, platform }
    }

    /// The newest pull of any platform that got this kind of ID.
    fn last(&self, is_bare: bool) -> Option<&Pull> {
        let pulls = self.pulls.iter().filter(|((_, kind), _)| *kind == is_bare);
        pulls.map(|(_, pull)| pull).max_by_key(|pull| pull.order())
    }
}

/// The newest pulls, as far as they count for one node.
#[derive(Clone, Copy, Debug, Default)]
pub struct View<'a> {
    newest: Option<&'a Newest>,
    node: &'a str,
    platform: &'a str,
}

impl<'a> View<'a> {
    /// The digest that the newest pull on the node's platform got. Before anybody of its platform has
    /// pulled, that of any other: most runtimes report the tag's own digest, which all platforms share.
    /// Where that is wrong, one pull on the platform corrects it.
    #[must_use]
    pub fn digest(&self) -> Option<&'a str> {
        let of_any = || self.newest?.last(false);
        self.of_platform(false).or_else(of_any)?.id.digest()
    }

    /// The bare ID that the newest pull on the node's platform got, if its runtime reported one.
    #[must_use]
    pub fn bare(&self) -> Option<&'a str> {
        self.of_platform(true)?.id.bare()
    }

    /// Whether the node pulls the tag again on behalf of its platform.
    ///
    /// Where platforms differ in their IDs, the answer to one tells nothing to the others, so each has
    /// to ask whether its tag has moved: the node that asked last asks again. If it gets what it
    /// got before, the rest of its platform stays as it is. Nodes with another kind of ID ask then, too, because those
    /// that ask leave no turn to anybody else.
    ///
    /// Where only the kinds of IDs differ, nobody has to ask in addition: all nodes take turns, the one with
    /// the oldest copy first, and once those of one kind have followed a tag, the other kind has the oldest.
    #[must_use]
    pub fn asks(&self) -> bool {
        let Some(newest) = self.newest.filter(|newest| newest.pulls.len() > 1) else { return false };
        let differs = |is_bare, id: &ImageId| newest.last(is_bare).is_some_and(|last| last.id != *id);
        let is_mixed =
            |bare| newest.pulls.iter().any(|((_, is_bare), pull)| *is_bare == bare && differs(bare, &pull.id));
        let mut own = newest.pulls.iter().filter(|(_, pull)| *pull.node == *self.node);
        own.any(|((_, is_bare), pull)| differs(*is_bare, &pull.id) || is_mixed(!is_bare))
    }

    /// NodeCaches of earlier versions do not tell their platform: they may be of any.
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

    /// What pulls got, in the order of time.
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
        let digest = |platform| newest.seen_from("x", platform).digest().map(|digest| digest.replace("sha256:", ""));
        assert_eq!(digest(AMD), Some("3".repeat(64)));
        assert_eq!(digest(ARM), Some("2".repeat(64)));
        assert_eq!(digest("linux/s390x"), Some("3".repeat(64)), "nobody there has pulled yet");
        assert_eq!(newest.seen_from("x", AMD).bare(), None);
    }

    #[test]
    fn the_last_node_of_a_platform_asks_where_another_platform_got_another_id() {
        let asks = |newest: &Newest| ["a", "b", "c"].map(|node| newest.seen_from(node, AMD).asks());
        assert_eq!(asks(&pulls(&[("a", AMD, id("1")), ("b", AMD, id("1"))])), [false; 3]);
        assert_eq!(asks(&pulls(&[("a", AMD, id("1")), ("b", ARM, id("1"))])), [false; 3], "the tag's own digest");
        let mixed = [("a", AMD, id("1")), ("b", AMD, id("1")), ("c", ARM, id("2"))];
        assert_eq!(asks(&pulls(&mixed)), [false, true, false]);
        let runtimes = [("a", AMD, id("1")), ("b", AMD, bare("2"))];
        assert_eq!(asks(&pulls(&runtimes)), [false; 3], "both move together");
        let both = [("a", AMD, bare("3")), ("b", AMD, id("1")), ("c", ARM, id("2"))];
        assert_eq!(asks(&pulls(&both)), [true, true, false], "no turn is left to the other kind");
    }

    #[test]
    fn what_changes_is_told() {
        let mut newest = pulls(&[("c", ARM, id("9")), ("a", AMD, id("1"))]);
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut update = |node: &str, second, id| newest.update(&node.into(), &AMD.into(), Some((at(second), &id)));
        let nothing = Update::default();
        assert_eq!(update("a", 1, id("1")), nothing);
        assert_eq!(update("b", 2, id("1")), Update { former: Some("a".into()), ..nothing.clone() });
        assert_eq!(update("a", 1, id("1")), nothing, "an older pull changes nothing");
        assert_eq!(update("b", 3, id("2")), Update { is_news: true, ..nothing.clone() });
        assert_eq!(newest.update(&"a".into(), &AMD.into(), None), nothing);
        assert_eq!(newest.update(&"b".into(), &AMD.into(), None), Update { is_stale: true, ..nothing });
    }
}
