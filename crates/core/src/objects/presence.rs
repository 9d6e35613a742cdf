//! Decides whether an image is on a node: by the node's list, and if the list does not show it, by the node's record.

use jiff::{SignedDuration, Timestamp};

use crate::objects::image::{Image, ImagePullPolicy};
use crate::objects::inventory::{Listed, Sighting};
use crate::objects::manifest::Manifest;
use crate::objects::memory::{Failure, Record};
use crate::objects::newest::{ImageId, View};
use crate::time::after;

/// The longest wait before a node whose mirror lags pulls again, unless `repullInterval` is longer.
const MIRROR_MAX: SignedDuration = SignedDuration::from_hours(6);

/// The standing of an image on a node that should have it, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// The node has it.
    Cached,
    /// The node has it, but its tag has moved on.
    Outdated,
    /// The node lacks it, and did not try it or is to try it again.
    Missing,
    /// The node lacks it, and the last pull failed.
    Failed,
    /// The node had it and evicted it.
    Evicted,
}

impl Standing {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [Self::Cached, Self::Outdated, Self::Missing, Self::Failed, Self::Evicted];

    /// Whether a pull is wanted: the node lacks the image, or has an old one.
    #[must_use]
    pub fn wants_pull(self) -> bool {
        self != Self::Cached
    }

    /// Whether the node has the image.
    #[must_use]
    pub fn is_there(self) -> bool {
        matches!(self, Self::Cached | Self::Outdated)
    }
}

/// The facts that decide how an image stands on a node.
#[derive(Clone, Debug)]
pub struct Evidence<'a> {
    /// The image.
    pub image: &'a Image,
    /// The record of the image on the node.
    pub record: Option<&'a Record>,
    /// The evidence of the node's list.
    pub sighting: Sighting<'a>,
    /// The newest pulls, as far as they count for the node.
    pub newest: View<'a>,
    /// The manifest that its registry serves, and since when that is known, while the registry answers.
    pub served: Option<(&'a Manifest, Timestamp)>,
    /// The platform of the node.
    pub platform: &'a str,
    /// The interval after which its policy has a tag looked up again, if it does.
    pub repull_interval: Option<SignedDuration>,
    /// When the node last failed as a whole, while it does.
    pub node_failed_at: Option<Timestamp>,
    /// For how long after a pull the node may not list it yet.
    pub listed_within: SignedDuration,
}

/// Judges one image on one node as of `now`. Also returns when to judge again, if nothing happens before.
#[must_use]
pub fn standing(evidence: &Evidence<'_>, now: Timestamp) -> (Standing, Option<Timestamp>) {
    let record = evidence.record.filter(|_| !evidence.was_removed_unwanted(now));
    let since = record.and_then(|record| match evidence.image.pull {
        // Only a pull shows whether the image is the newest of its tag.
        ImagePullPolicy::Always => record.current_since(),
        ImagePullPolicy::IfNotPresent | ImagePullPolicy::Never => record.present_since(),
    });
    let is_absent = evidence.sighting == Sighting::Absent;
    let standing = match (since, &evidence.sighting) {
        (Some(since), Sighting::Absent) => {
            let listed_by = after(since, evidence.listed_within);
            return if now < listed_by { (Standing::Cached, Some(listed_by)) } else { (Standing::Evicted, None) };
        }
        (Some(since), _) => {
            let outdated_at = evidence.outdated_at(since);
            let is_outdated = outdated_at.is_some_and(|at| at <= now);
            return if is_outdated { (Standing::Outdated, None) } else { (Standing::Cached, outdated_at) };
        }
        (None, Sighting::Present(listed)) if evidence.suffices(listed) => Standing::Cached,
        (None, _) => match record {
            Some(Record { failure: Some(failure), .. }) if evidence.shows(failure) => Standing::Failed,
            // An image that another CachedImage found on the node again is not evicted, although this one wants it
            // pulled.
            Some(record) if record.eviction.is_some() && (is_absent || record.present_since().is_none()) => {
                Standing::Evicted
            }
            _ => Standing::Missing,
        },
    };
    (standing, None)
}

impl Evidence<'_> {
    /// Whether a failure of the image counts as its own. An image with `imagePullPolicy: Never` does not fail: the
    /// failure belongs to another CachedImage of the same image. While its node fails as a whole, only the images that
    /// were tried last show the failure. Those tried before wait like all others, so that a retry on a node changes few
    /// statuses.
    fn shows(&self, failure: &Failure) -> bool {
        self.image.pull != ImagePullPolicy::Never
            && self.node_failed_at.is_none_or(|at| !failure.is_of_node() || failure.at >= at)
    }

    /// Whether an image that the node has, but that Drop has not pulled, is good enough.
    fn suffices(&self, listed: &Listed) -> bool {
        match self.image.pull {
            ImagePullPolicy::IfNotPresent | ImagePullPolicy::Never => true,
            ImagePullPolicy::Always => self.newest_of(listed).is_some(),
        }
    }

    /// Whether the image was removed from the node while no CachedImage wanted it there. That is no eviction and needs
    /// no repair: the image is missing, as on any node that never had it.
    #[must_use]
    pub fn was_removed_unwanted(&self, now: Timestamp) -> bool {
        let record = self.record.filter(|record| record.unwanted_since.is_some());
        let since = record.filter(|_| self.sighting == Sighting::Absent).and_then(Record::present_since);
        since.is_some_and(|since| after(since, self.listed_within) <= now)
    }

    /// Returns the digest for which a listed image counts as pulled; `None` if it does not, or need not. A digest
    /// cannot move. A tag counts as pulled if it is known to be new.
    #[must_use]
    pub fn counts_as_pulled(&self) -> Option<&str> {
        match self.sighting {
            Sighting::Present(listed) if self.image.pull == ImagePullPolicy::Always => self.newest_of(listed),
            _ => None,
        }
    }

    fn newest_of<'b>(&'b self, listed: &'b Listed) -> Option<&'b str> {
        let reference = &self.image.reference;
        let is_newest = |digest: &str| match self.served {
            Some((manifest, _)) => manifest.is_digest(digest),
            None => self.newest.digest() == Some(digest),
        };
        reference.digest().or_else(|| listed.digests(reference).find(|digest| is_newest(digest)))
    }

    /// Returns the time from which the image, which came onto the node at `since`, is outdated, if a pull elsewhere got
    /// another ID. It is never before the node's own interval has passed: nodes may get different digests from mirrors
    /// that lag, and would pull in turns for ever.
    fn outdated_at(&self, since: Timestamp) -> Option<Timestamp> {
        let reference = &self.image.reference;
        let is_followed = self.image.pull == ImagePullPolicy::Always && reference.digest().is_none();
        let interval = self.repull_interval.filter(|_| is_followed)?;
        let listed = match self.sighting {
            Sighting::Present(listed) => Some(listed),
            Sighting::Absent | Sighting::Unknown => None,
        };
        let pulled = self.record.and_then(|record| record.id.as_ref());
        if let Some((manifest, known_since)) = self.served {
            let listed = listed.into_iter().flat_map(|listed| listed.digests(reference));
            let listed = listed.map(|digest| ImageId::new(digest.into()));
            let ids = listed.chain(pulled.cloned());
            let are_newest: Vec<Option<bool>> = ids.map(|id| manifest.is(&id, self.platform)).collect();
            return if are_newest.contains(&Some(true)) {
                None
            } else if are_newest.contains(&Some(false)) {
                Some(pulled_again_at(since, known_since, interval))
            } else {
                // If IDs cannot be compared, as with a manifest that does not name its platforms, a copy that is older
                // than the registry's digest may be another image.
                (!are_newest.is_empty() && since < known_since).then_some(known_since)
            };
        }
        let digests = listed.into_iter().flat_map(|listed| listed.digests(reference));
        let digests = digests.chain(pulled.and_then(ImageId::digest)).map(|digest| (digest, self.newest.digest()));
        let bare = pulled.and_then(ImageId::bare).map(|id| (id, self.newest.bare()));
        // The list lags behind a pull, and some runtimes list other digests than they report. So any ID that is the
        // newest of its kind is enough.
        let mut known = digests.chain(bare).filter_map(|(id, newest)| Some(id == newest?)).peekable();
        let differs = known.peek().is_some() && !known.any(|is_newest| is_newest);
        differs.then(|| after(since, interval))
    }
}

/// Returns when a node whose copy came at `since` pulls again because the registry serves a different digest, which is
/// known since `known_since`.
///
/// A node that got its copy later got it from a mirror that lags. It waits for as long as the newer digest had been
/// known when it pulled, so each wait is twice the one before.
#[must_use]
pub fn pulled_again_at(since: Timestamp, known_since: Timestamp, interval: SignedDuration) -> Timestamp {
    if since < known_since {
        return known_since;
    }
    after(since, since.duration_since(known_since).min(MIRROR_MAX).max(interval))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::memory::{Eviction, Pulled};
    use crate::objects::newest::Newest;
    use crate::objects::placement::Placement;
    use crate::objects::reference::Reference;

    const OLD: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const NEW: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn image(pull: ImagePullPolicy) -> Image {
        Image {
            name: "alpine".into(),
            uid: "".into(),
            generation: None,
            created_at: Timestamp::UNIX_EPOCH,
            reference: Reference::parse("alpine:3.20"),
            pull,
            secrets: Vec::new(),
            placement: Placement::default(),
            priority: 0,
            set: None,
            origin: None,
            policy: "".into(),
        }
    }

    fn listed(digest: &str) -> Listed {
        let by_digest = Reference::new("alpine", None, Some(digest));
        Listed { names: [by_digest, Reference::parse("alpine:3.20")].into(), is_cut: false, size: 1 }
    }

    fn id(id: &str) -> Option<ImageId> {
        Some(ImageId::new(id.into()))
    }

    fn pulled(what: &str) -> Record {
        let pulled = Pulled { at: at(0).into(), seconds: None };
        Record { pulled: Some(pulled), id: id(what), ..Record::default() }
    }

    fn judge(
        pull: ImagePullPolicy,
        record: Option<&Record>,
        sighting: Sighting<'_>,
        newest: Option<&str>,
        now: i64,
    ) -> Standing {
        let image = image(pull);
        let mut newest_pulls = Newest::default();
        let id = newest.and_then(id);
        newest_pulls.update(&"elsewhere".into(), &"linux/amd64".into(), id.as_ref().map(|id| (at(0), id)));
        let evidence = Evidence {
            image: &image,
            record,
            sighting,
            newest: newest_pulls.seen_from("linux/amd64"),
            served: None,
            platform: "linux/amd64",
            repull_interval: Some(SignedDuration::from_secs(900)),
            node_failed_at: None,
            listed_within: SignedDuration::from_secs(120),
        };
        standing(&evidence, at(now)).0
    }

    #[test]
    fn what_the_node_lists_goes_before_what_is_remembered() {
        use ImagePullPolicy::{Always, IfNotPresent, Never};
        let (old, new) = (listed(OLD), listed(NEW));
        let (here, there) = (Sighting::Present(&old), Sighting::Present(&new));
        let (was_pulled, evicted) =
            (pulled(OLD), Record { eviction: Some(Box::new(Eviction { count: 1, at: at(0) })), ..Record::default() });
        let brought_back = Record { found_at: Some(at(10).into()), ..evicted.clone() };
        // The image counted as pulled when it was found.
        let found = Record { found_at: Some(at(10).into()), id: id(OLD), ..Record::default() };
        let cases = [
            // Nothing is remembered.
            (IfNotPresent, None, here.clone(), None, Standing::Cached),
            (Never, None, here.clone(), None, Standing::Cached),
            (Always, None, here.clone(), None, Standing::Missing),
            (Always, None, here.clone(), Some(OLD), Standing::Cached),
            (Always, None, here.clone(), Some(NEW), Standing::Missing),
            (IfNotPresent, None, Sighting::Absent, None, Standing::Missing),
            (IfNotPresent, None, Sighting::Unknown, None, Standing::Missing),
            // It was pulled long ago.
            (Always, Some(&was_pulled), here.clone(), Some(OLD), Standing::Cached),
            (Always, Some(&was_pulled), Sighting::Unknown, Some(OLD), Standing::Cached),
            (Always, Some(&was_pulled), Sighting::Absent, Some(OLD), Standing::Evicted),
            // The tag has moved.
            (Always, Some(&was_pulled), here.clone(), Some(NEW), Standing::Outdated),
            (Always, Some(&was_pulled), Sighting::Unknown, Some(NEW), Standing::Outdated),
            (Always, Some(&was_pulled), there, Some(NEW), Standing::Cached),
            (Always, Some(&pulled(NEW)), here.clone(), Some(NEW), Standing::Cached),
            (IfNotPresent, Some(&was_pulled), here.clone(), Some(NEW), Standing::Cached),
            (Always, Some(&found), here.clone(), Some(OLD), Standing::Cached),
            (Always, Some(&found), here.clone(), Some(NEW), Standing::Outdated),
            (Always, Some(&found), Sighting::Absent, Some(OLD), Standing::Evicted),
            // It was evicted, and another client brought it back, or not.
            (IfNotPresent, Some(&evicted), here.clone(), None, Standing::Cached),
            (IfNotPresent, Some(&evicted), Sighting::Absent, None, Standing::Evicted),
            (Always, Some(&evicted), here.clone(), None, Standing::Evicted),
            (Always, Some(&brought_back), here, None, Standing::Missing),
            (Always, Some(&brought_back), Sighting::Absent, None, Standing::Evicted),
        ];
        for (pull, record, sighting, newest, expected) in cases {
            let found = judge(pull, record, sighting.clone(), newest, 1000);
            assert_eq!(found, expected, "{pull:?} {record:?} {sighting:?} {newest:?}");
        }
    }

    #[test]
    fn a_copy_is_outdated_once_its_own_interval_has_passed() {
        let (record, old) = (pulled(OLD), listed(OLD));
        let judge = |now| judge(ImagePullPolicy::Always, Some(&record), Sighting::Present(&old), Some(NEW), now);
        assert_eq!((judge(899), judge(900)), (Standing::Cached, Standing::Outdated));
    }

    #[test]
    fn a_node_whose_mirror_lags_waits_twice_as_long_each_time() {
        let interval = SignedDuration::from_secs(300);
        let again = |since| pulled_again_at(at(since), at(1000), interval).as_second();
        assert_eq!(again(10), 1000, "the copy is older than the newer digest");
        assert_eq!((again(1000), again(1300), again(1600), again(2200)), (1300, 1600, 2200, 3400));
        assert_eq!(again(100_000), 100_000 + 6 * 3600);
        let daily = SignedDuration::from_hours(24);
        assert_eq!(pulled_again_at(at(2000), at(1000), daily), at(2000 + 24 * 3600));
    }

    #[test]
    fn a_copy_whose_id_cannot_be_compared_is_pulled_once_for_each_digest_of_the_registry() {
        let (image, record, listed) = (image(ImagePullPolicy::Always), pulled(OLD), listed(OLD));
        let serves = |digest: &str, known_since| {
            let manifest = Manifest { digest: digest.into(), platforms: Vec::new(), detailed_for: Vec::new() };
            let evidence = Evidence {
                image: &image,
                record: Some(&record),
                sighting: Sighting::Present(&listed),
                newest: View::default(),
                served: Some((&manifest, at(known_since))),
                platform: "linux/amd64",
                repull_interval: Some(SignedDuration::from_secs(900)),
                node_failed_at: None,
                listed_within: SignedDuration::from_secs(120),
            };
            standing(&evidence, at(10_000)).0
        };
        assert_eq!(serves(OLD, 100), Standing::Cached);
        assert_eq!(serves(NEW, 100), Standing::Outdated, "its manifest does not tell what platforms get");
        assert_eq!(serves(NEW, 0), Standing::Cached, "it was pulled since");
    }

    #[test]
    fn a_bare_id_is_compared_with_bare_ids_only() {
        use Standing::{Cached, Outdated};
        let (one, other) = ("a".repeat(64), "b".repeat(64));
        let (old, new) = (listed(OLD), listed(NEW));
        let judge = |record: &str, sighting, newest: &str| {
            judge(ImagePullPolicy::Always, Some(&pulled(record)), sighting, Some(newest), 1000)
        };
        assert_eq!(judge(&one, Sighting::Present(&old), &one), Cached);
        assert_eq!(judge(&one, Sighting::Present(&old), &other), Outdated);
        assert_eq!(judge(&one, Sighting::Unknown, &other), Outdated);
        // The node's list decides if the newest pull has an ID of another kind.
        assert_eq!(judge(&one, Sighting::Present(&old), NEW), Outdated);
        assert_eq!(judge(&one, Sighting::Present(&new), NEW), Cached);
        assert_eq!(judge(&one, Sighting::Unknown, NEW), Cached);
        assert_eq!(judge(OLD, Sighting::Present(&old), &other), Cached);
    }

    #[test]
    fn an_image_that_was_removed_while_nobody_wanted_it_is_missing_and_not_evicted() {
        for pull in [ImagePullPolicy::Always, ImagePullPolicy::IfNotPresent] {
            let unwanted = Record { unwanted_since: Some(at(10).into()), ..pulled(OLD) };
            let judge = |sighting, now| judge(pull, Some(&unwanted), sighting, Some(OLD), now);
            assert_eq!(judge(Sighting::Unknown, 1000), Standing::Cached);
            assert_eq!(judge(Sighting::Absent, 119), Standing::Cached, "the list may lag behind the pull");
            assert_eq!(judge(Sighting::Absent, 120), Standing::Missing);
        }
    }

    #[test]
    fn a_list_may_lag_behind_a_pull() {
        let record = pulled(OLD);
        let judge = |now| judge(ImagePullPolicy::Always, Some(&record), Sighting::Absent, Some(OLD), now);
        assert_eq!((judge(119), judge(120)), (Standing::Cached, Standing::Evicted));
    }
}
