//! The answers of registries about the wanted images, and when Drop asks for each.
//!
//! Drop asks for each reference once in the whole cluster: when a CachedImage first wants it, and then every
//! `repullInterval` if its tag is followed. While a registry cannot be asked, nodes find out by pulling, as without
//! look-ups. Its earlier answers then decide nothing.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use drop_api::cached_image::LookupStatus;
use jiff::{SignedDuration, Timestamp};

use super::{ImageEntry, World};
use crate::Name;
use crate::io::effect::EffectKey;
use crate::io::flights::Flight;
use crate::io::lookup::{Inquiry, LookedUp};
use crate::objects::image::ImagePullPolicy;
use crate::objects::manifest::Manifest;
use crate::objects::memory::Record;
use crate::objects::node::Node;
use crate::objects::policy::Policy;
use crate::objects::reference::Reference;
use crate::pace::backoff::{Backoff, stretched};
use crate::time::after;

/// How long pulls of an image wait for its registry's first answer, which usually comes within a second. A registry
/// that cannot be asked delays them no longer than this.
const WAIT: SignedDuration = SignedDuration::from_secs(3);

/// The longest wait before Drop asks a registry again that could not be asked, or that has no image for a platform.
const RETRY_MAX: SignedDuration = SignedDuration::from_hours(1);

/// The look-ups of one image.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Lookup {
    /// The last known answer of the registry.
    served: Option<Served>,
    /// Why the last question failed.
    failure: Option<Failure>,
    /// When the last answer came.
    answered_at: Option<Timestamp>,
    /// When the registry last answered with a manifest.
    told_at: Option<Timestamp>,
    /// Whether to ask again although the answer is not old, because it was for other credentials.
    asks_again: bool,
    /// Whether pulls wait for the first answer.
    hold: Hold,
    /// Names of the pull secrets of the CachedImages on whose behalf the registry is asked.
    secrets: Vec<Name>,
}

/// Whether pulls wait for a registry's first answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Hold {
    /// Pulls do not wait, because the registry has failed to answer for another image.
    #[default]
    Never,
    /// This replica may not ask yet.
    UntilAsked,
    /// Pulls wait until this time at the latest.
    Until(Timestamp),
}

/// The answer of a registry.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Served {
    pub(crate) manifest: Arc<Manifest>,
    /// Since when the answer is known. A node that pulled later got the state of its mirror at that time.
    pub(crate) since: Timestamp,
}

/// Failed questions in a row.
#[derive(Clone, Debug, PartialEq)]
struct Failure {
    /// Whether the registry says that there is no such image.
    is_missing: bool,
    message: Name,
    count: u32,
    retry_after: Option<SignedDuration>,
}

impl Lookup {
    /// Returns the registry's answer, while the registry works. A registry that fails may serve something else by now,
    /// so nodes find out.
    pub(crate) fn current(&self) -> Option<&Served> {
        self.served.as_ref().filter(|_| self.works())
    }

    /// Returns the registry's message, if its last answer was that there is no such image.
    pub(crate) fn missing(&self) -> Option<&Name> {
        self.failure.as_ref().filter(|failure| failure.is_missing).map(|failure| &failure.message)
    }

    /// Whether the last question got a manifest.
    pub(crate) fn works(&self) -> bool {
        self.told_at.is_some() && self.failure.is_none()
    }

    /// Whether the first answer has not come yet.
    pub(crate) fn is_pending(&self) -> bool {
        self.answered_at.is_none()
    }

    /// Whether pulls wait until this replica may ask.
    pub(crate) fn waits_to_be_asked(&self) -> bool {
        self.is_pending() && self.hold == Hold::UntilAsked
    }

    /// Returns until when pulls wait for the first answer, if they do.
    pub(crate) fn holds_until(&self) -> Option<Timestamp> {
        match self.hold {
            Hold::Until(at) if self.is_pending() => Some(at),
            _ => None,
        }
    }

    /// Returns the look-up for the status of a CachedImage; `None` before the first answer.
    pub(crate) fn status(&self) -> Option<LookupStatus> {
        let served = self.served.as_ref();
        (served.is_some() || self.failure.is_some()).then(|| LookupStatus {
            digest: served.map(|served| served.manifest.digest.to_string()),
            since: served.map(|served| served.since),
            message: self.failure.as_ref().map(|failure| failure.message.to_string()),
        })
    }
}

/// Whether a host means another registry on each node, and none that Drop could ask: `localhost:32000`.
fn is_of_each_node(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.ends_with(']') { host } else { name });
    let is_loopback = name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback());
    is_loopback || name == "localhost" || name.ends_with(".localhost") || name == "[::1]"
}

impl World {
    /// Returns the look-up of an image; `None` if Drop does not ask on behalf of this CachedImage. Another CachedImage
    /// may want the same image under a policy that lets Drop ask.
    pub(crate) fn lookup_of(&self, entry: &ImageEntry) -> Option<&Lookup> {
        let policy = self.policy_of(&entry.image).filter(|policy| policy.looks_up());
        policy.and_then(|_| self.lookups.get(&entry.image.reference))
    }

    /// Returns the registry's message if it has no such image, and no node has ever had one. Otherwise nodes find out:
    /// they may pull from a mirror that still has the image.
    pub(crate) fn missing(&self, image: &ImageEntry) -> Option<&Name> {
        let reference = &image.image.reference;
        let was_pulled = || self.health.get(reference).is_some_and(|health| health.success.is_some());
        let missing = self.lookup_of(image).and_then(Lookup::missing);
        missing.filter(|_| !self.sizes.contains_key(reference) && !was_pulled())
    }

    /// Whether the registry has no image for a node's platform, and no node of that platform has ever had one.
    pub(crate) fn lacks_platform(&self, image: &ImageEntry, node: &Node) -> bool {
        let served = self.lookup_of(image).and_then(Lookup::current);
        let was_listed = || self.sizes.get(&image.image.reference).is_some_and(|it| it.contains_key(&node.platform));
        served.is_some_and(|served| !served.manifest.serves(&node.platform)) && !was_listed()
    }

    /// Returns when the registry last answered with a manifest, as far as known. An earlier process may have asked.
    pub(crate) fn looked_up_at(&self, entry: &ImageEntry) -> Option<Timestamp> {
        let published = entry.published.status.lookup.as_ref().and_then(|lookup| lookup.since);
        self.lookup_of(entry)?.told_at.max(published)
    }

    /// Lets pulls wait for the first answers from now on, because this replica can only ask now.
    pub(crate) fn begin_to_ask(&mut self, now: Timestamp) {
        if self.asks || !self.is_synced() {
            return;
        }
        self.asks = true;
        let mut changed = Vec::new();
        for (image, lookup) in &mut self.lookups {
            if lookup.waits_to_be_asked() {
                lookup.hold = Hold::Until(after(now, WAIT));
                changed.push(image.clone());
            }
        }
        changed.iter().for_each(|image| self.lookup_changed(image));
    }

    /// Begins or stops look-ups, after these references, their CachedImages or policies have changed.
    pub(super) fn choose_lookups(&mut self, images: BTreeSet<Reference>, now: Timestamp) {
        for image in images {
            let is_asked =
                self.settings.looks_up && !is_of_each_node(image.host()) && self.asking(&image).next().is_some();
            let secrets = Self::secrets_of(self.asking(&image).map(|(entry, _)| entry));
            let was_asked = self.lookups.contains_key(&image);
            match self.lookups.get_mut(&image) {
                Some(_) if !is_asked => {
                    self.lookups.remove(&image);
                    self.overtake(&EffectKey::LookUp(image.clone()));
                }
                Some(lookup) if lookup.secrets != secrets => {
                    lookup.secrets = secrets;
                    self.ask_again(&image);
                }
                None if is_asked => {
                    let hold = match (self.may_be_asked(image.host()), self.asks) {
                        (false, _) => Hold::Never,
                        (true, false) => Hold::UntilAsked,
                        (true, true) => Hold::Until(after(now, WAIT)),
                    };
                    self.lookups.insert(image.clone(), Lookup { hold, secrets, ..Lookup::default() });
                }
                Some(_) | None => {}
            }
            if is_asked != was_asked {
                self.lookup_changed(&image);
            }
            self.schedule_lookup(&image);
        }
    }

    /// Whether a registry answers, as far as known.
    fn may_be_asked(&self, host: &str) -> bool {
        let mut of_host = self.lookups.iter().filter(|(image, _)| image.host() == host).map(|(_, lookup)| lookup);
        !of_host.any(|lookup| lookup.failure.is_some() && lookup.missing().is_none())
    }

    /// Returns since when the registry has served a digest, according to the statuses of CachedImages: an earlier
    /// process may have asked.
    fn published_since(&self, image: &Reference, digest: &str) -> Option<Timestamp> {
        let told = self.wanted_by(image).filter_map(|entry| entry.published.status.lookup.as_ref());
        told.filter(|lookup| lookup.digest.as_deref() == Some(digest)).filter_map(|lookup| lookup.since).min()
    }

    /// Returns the CachedImages on whose behalf Drop asks for an image, with their policies.
    fn asking(&self, image: &Reference) -> impl Iterator<Item = (&ImageEntry, &Policy)> {
        self.wanted_by(image).filter(|entry| entry.image.pull != ImagePullPolicy::Never).filter_map(|entry| {
            let policy = self.policy_of(&entry.image).filter(|policy| policy.looks_up())?;
            Some((entry, policy))
        })
    }

    /// Returns the shortest interval after which a tag is looked up again. A tag that is not followed may still get an
    /// image for a missing platform, and only a look-up would find it.
    fn lookup_interval(&self, image: &Reference) -> Option<SignedDuration> {
        let following = self.asking(image).filter(|(entry, _)| entry.image.pull == ImagePullPolicy::Always);
        let following = following.filter_map(|(_, policy)| policy.repull_interval);
        let served = self.lookups.get(image).and_then(Lookup::current);
        let lacks = |served: &Served| self.nodes.values().any(|entry| !served.manifest.serves(&entry.node.platform));
        following.chain(served.is_some_and(lacks).then_some(RETRY_MAX)).min().filter(|_| image.digest().is_none())
    }

    /// Schedules the look-up of an image for the time when it is due.
    pub(super) fn schedule_lookup(&mut self, image: &Reference) {
        let key = EffectKey::LookUp(image.clone());
        match self.lookup_at(image) {
            Some(at) => self.outbox.schedule(key, at),
            None => self.outbox.remove(&key),
        }
    }

    /// Returns when the next look-up of an image is due; `None` if never.
    pub(crate) fn lookup_at(&self, image: &Reference) -> Option<Timestamp> {
        let lookup = self.lookups.get(image)?;
        let Some(answered_at) = lookup.answered_at.filter(|_| !lookup.asks_again) else { return Some(Timestamp::MIN) };
        let interval = self.lookup_interval(image);
        let Some(failure) = &lookup.failure else {
            return interval.map(|interval| after(answered_at, stretched(interval, image.as_str())));
        };
        let wait = if failure.is_missing {
            let waits = self.asking(image).map(|(_, policy)| policy.backoff.delay(failure.count, image.as_str()));
            waits.min().unwrap_or(RETRY_MAX)
        } else {
            let max = interval.unwrap_or(RETRY_MAX).min(RETRY_MAX).max(self.settings.discovery_retry);
            Backoff { initial: self.settings.discovery_retry, max }.delay(failure.count, image.as_str())
        };
        Some(after(answered_at, wait.max(failure.retry_after.unwrap_or_default())))
    }

    /// Returns the question to an image's registry.
    pub(crate) fn inquiry(&self, image: &Reference) -> Inquiry {
        let lookup = self.lookups.get(image);
        let served = lookup.and_then(|lookup| lookup.served.as_ref());
        let platforms: BTreeSet<&Name> = self.nodes.values().map(|entry| &entry.node.platform).collect();
        let has_details =
            |manifest: &Manifest| platforms.iter().all(|platform| manifest.detailed_for.contains(platform));
        let known = served.map(|served| &served.manifest).filter(|manifest| has_details(manifest));
        Inquiry {
            reference: image.clone(),
            secrets: lookup.map(|lookup| lookup.secrets.clone()).unwrap_or_default(),
            known: known.map(|manifest| manifest.digest.clone()),
            platforms: platforms.into_iter().cloned().collect(),
        }
    }

    /// Records a registry's answer.
    pub(super) fn looked_up(&mut self, image: &Reference, answer: LookedUp, now: Timestamp) {
        let known_since = match &answer {
            LookedUp::Found(manifest) => self.published_since(image, &manifest.digest),
            _ => None,
        };
        let Some(lookup) = self.lookups.get_mut(image) else { return };
        let before = lookup.clone();
        lookup.asks_again = false;
        if answer == LookedUp::Unchanged && before.served.is_none() {
            // The digest to compare with is no longer known.
            return self.schedule_lookup(image);
        }
        lookup.answered_at = Some(now);
        if matches!(answer, LookedUp::Found(_) | LookedUp::Unchanged) {
            lookup.told_at = Some(now);
        }
        let is_missing = matches!(answer, LookedUp::NotFound { .. });
        let same = lookup.failure.as_ref().filter(|failure| failure.is_missing == is_missing);
        let count = same.map_or(0, |failure| failure.count).saturating_add(1);
        lookup.failure = match answer {
            LookedUp::Found(manifest) => {
                let since = before.served.as_ref().filter(|served| served.manifest.digest == manifest.digest);
                let since = since.map(|served| served.since).or(known_since).unwrap_or(now);
                lookup.served = Some(Served { manifest: Arc::from(manifest), since });
                None
            }
            LookedUp::Unchanged => None,
            LookedUp::NotFound { message } => Some(Failure { is_missing, message, count, retry_after: None }),
            LookedUp::Unavailable { message, retry_after } => Some(Failure { is_missing, message, count, retry_after }),
        };
        // A node of another platform may have joined while the registry was asked.
        lookup.asks_again = lookup
            .current()
            .is_some_and(|served| self.nodes.values().any(|entry| served.manifest.lacks_details(&entry.node.platform)));
        let shown = |lookup: &Lookup| {
            (lookup.is_pending(), lookup.served.clone(), lookup.failure.as_ref().map(|it| it.message.clone()))
        };
        if shown(&before) != shown(lookup) {
            self.lookup_changed(image);
        }
        self.schedule_lookup(image);
    }

    /// Asks again for an image if a node has pulled something else than its registry last told: the tag has moved, or
    /// the node's mirror lags.
    pub(super) fn compare_with_served(&mut self, image: &Reference, platform: &Name, record: &Record) {
        let Some((pulled, id)) = record.pulled.zip(record.id.as_ref()) else { return };
        let Some(lookup) = self.lookups.get_mut(image) else { return };
        let differs = lookup.current().is_some_and(|served| served.manifest.is(id, platform) == Some(false));
        // A digest does not move.
        if differs && image.digest().is_none() && lookup.told_at < Some(pulled.at.into()) {
            lookup.asks_again = true;
            self.schedule_lookup(image);
        }
    }

    /// Asks again for images that serve nodes of a new platform, of which nothing but the digest was asked for these.
    pub(super) fn platform_appeared(&mut self, platform: &Name) {
        for (image, lookup) in &mut self.lookups {
            lookup.asks_again |= lookup.current().is_some_and(|served| served.manifest.lacks_details(platform));
            self.dirty.lookups.insert(image.clone());
        }
    }

    /// Asks again at once where a Secret that has changed may let the registry answer.
    pub(super) fn lookup_secret_changed(&mut self, secret: &Name) {
        let concerned = self.lookups.iter().filter(|(_, lookup)| lookup.secrets.contains(secret));
        let concerned: Vec<Reference> = concerned.map(|(image, _)| image.clone()).collect();
        concerned.iter().for_each(|image| self.ask_again(image));
    }

    /// Asks again at once if the last question failed, or if one is under way: an edit may have fixed the cause.
    pub(super) fn ask_again(&mut self, image: &Reference) {
        let key = EffectKey::LookUp(image.clone());
        let is_under_way = self.flights.get(&key).is_some_and(Flight::is_under_way);
        let Some(lookup) = self.lookups.get_mut(image) else { return };
        if is_under_way || lookup.failure.is_some() {
            lookup.asks_again = true;
            self.overtake(&key);
            self.schedule_lookup(image);
        }
    }

    /// Examines an image anew where its registry's answer, or what nodes have of it, decides whether pulls begin.
    pub(super) fn lookup_changed(&mut self, image: &Reference) {
        self.dirty.images.extend(self.wanted.get(image).into_iter().flatten().cloned());
    }
}
