//! What registries say of the wanted images, and when each is asked.
//!
//! A registry is asked once for each reference in the whole cluster: when it is first wanted, and as often as
//! `repullInterval` says where its tag is followed. While it cannot be asked, nodes find out by pulling, as without
//! look-ups.

use std::collections::BTreeSet;
use std::sync::Arc;

use drop_api::cached_image::LookupStatus;
use drop_api::pull_policy::LookupMode;
use jiff::{SignedDuration, Timestamp};

use super::World;
use crate::Name;
use crate::io::effect::EffectKey;
use crate::io::lookup::{Inquiry, LookedUp};
use crate::objects::image::ImagePullPolicy;
use crate::objects::manifest::Manifest;
use crate::objects::node::Node;
use crate::objects::reference::Reference;
use crate::pace::backoff::Backoff;
use crate::time::after;

/// How long pulls of an image wait for its registry's first answer, which usually comes within a second. A registry
/// that cannot be asked delays them no longer.
const WAIT: SignedDuration = SignedDuration::from_secs(3);

/// The longest wait before a registry that could not be asked is asked again.
const RETRY_MAX: SignedDuration = SignedDuration::from_hours(1);

/// One image at its registry.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Lookup {
    /// What the registry serves, as far as it ever said.
    served: Option<Served>,
    /// Why the last question failed.
    failure: Option<Failure>,
    /// When the last answer came.
    answered_at: Option<Timestamp>,
    /// Until when pulls wait for the first answer.
    held_until: Option<Timestamp>,
}

/// What the registry serves.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Served {
    pub(crate) manifest: Arc<Manifest>,
    /// Since when this is known. A node that pulled later got what its mirror had then.
    pub(crate) since: Timestamp,
}

/// Questions that failed in a row.
#[derive(Clone, Debug, PartialEq)]
struct Failure {
    /// Whether the registry says that there is no such image.
    is_missing: bool,
    message: Name,
    count: u32,
    retry_after: Option<SignedDuration>,
}

impl Lookup {
    /// What the registry serves, as far as it is known.
    pub(crate) fn served(&self) -> Option<&Served> {
        self.served.as_ref()
    }

    /// The registry's words, if it said at the last question that there is no such image.
    pub(crate) fn missing(&self) -> Option<&Name> {
        self.failure.as_ref().filter(|failure| failure.is_missing).map(|failure| &failure.message)
    }

    /// Whether the registry told at the last question what it serves.
    pub(crate) fn works(&self) -> bool {
        self.answered_at.is_some() && self.failure.is_none()
    }

    /// Whether nothing is known yet.
    pub(crate) fn is_pending(&self) -> bool {
        self.answered_at.is_none() && self.served.is_none() && self.failure.is_none()
    }

    /// Until when pulls wait for the first answer, if they do.
    pub(crate) fn holds_until(&self) -> Option<Timestamp> {
        self.held_until.filter(|_| self.is_pending())
    }

    /// What a CachedImage's status says of it; `None` before the first answer.
    pub(crate) fn status(&self) -> Option<LookupStatus> {
        let served = self.served.as_ref();
        (served.is_some() || self.failure.is_some()).then(|| LookupStatus {
            digest: served.map(|served| served.manifest.digest.to_string()),
            since: served.map(|served| served.since),
            message: self.failure.as_ref().map(|failure| failure.message.to_string()),
        })
    }
}

impl World {
    /// The look-up of an image; `None` where the registry is not asked.
    pub(crate) fn lookup(&self, image: &Reference) -> Option<&Lookup> {
        self.lookups.get(image)
    }

    /// Whether the registry of an image has none for a node's platform.
    pub(crate) fn lacks_platform(&self, image: &Reference, node: &Node) -> bool {
        let served = self.lookup(image).and_then(Lookup::served);
        served.is_some_and(|served| !served.manifest.serves(&node.platform))
    }

    /// Begins to ask registries for images, or stops, after these references, their CachedImages or policies have
    /// changed.
    pub(super) fn choose_lookups(&mut self, images: BTreeSet<Reference>, now: Timestamp) {
        for image in images {
            let is_asked = self.settings.looks_up && self.lookup_policies(&image).next().is_some();
            let was_asked = self.lookups.contains_key(&image);
            match is_asked {
                true if was_asked => {}
                true => {
                    let held_until = self.may_be_asked(image.host()).then(|| after(now, WAIT));
                    self.lookups.insert(image.clone(), Lookup { held_until, ..Lookup::default() });
                }
                false => drop(self.lookups.remove(&image)),
            }
            if is_asked != was_asked {
                self.lookup_changed(&image);
            }
            self.schedule_lookup(&image);
        }
    }

    /// Whether a registry answers, as far as is known.
    fn may_be_asked(&self, host: &str) -> bool {
        let mut of_host = self.lookups.iter().filter(|(image, _)| image.host() == host).map(|(_, lookup)| lookup);
        !of_host.any(|lookup| lookup.failure.is_some() && lookup.missing().is_none())
    }

    /// Since when the registry has served a digest, as the status of a CachedImage tells it: an earlier process asked.
    fn published_since(&self, image: &Reference, digest: &str) -> Option<Timestamp> {
        let told = self.wanted_by(image).filter_map(|entry| entry.published.status.lookup.as_ref());
        told.filter(|lookup| lookup.digest.as_deref() == Some(digest)).filter_map(|lookup| lookup.since).min()
    }

    /// The repull intervals of the policies on whose behalf the registry is asked for an image.
    fn lookup_policies(&self, image: &Reference) -> impl Iterator<Item = Option<SignedDuration>> {
        self.wanted_by(image).filter(|entry| entry.image.pull != ImagePullPolicy::Never).filter_map(|entry| {
            let policy = self.policy_of(&entry.image).filter(|policy| policy.lookup == LookupMode::Auto)?;
            Some(policy.repull_interval.filter(|_| entry.image.pull == ImagePullPolicy::Always))
        })
    }

    /// Has the registry asked when it is time.
    pub(super) fn schedule_lookup(&mut self, image: &Reference) {
        let key = EffectKey::LookUp(image.clone());
        match self.lookup_at(image) {
            Some(at) => self.outbox.schedule(key, at),
            None => self.outbox.remove(&key),
        }
    }

    /// When the registry is asked for an image next; `None` if never.
    pub(crate) fn lookup_at(&self, image: &Reference) -> Option<Timestamp> {
        let lookup = self.lookups.get(image)?;
        let Some(answered_at) = lookup.answered_at else { return Some(Timestamp::MIN) };
        let interval = self.lookup_policies(image).flatten().min().filter(|_| image.digest().is_none());
        let Some(failure) = &lookup.failure else { return interval.map(|interval| after(answered_at, interval)) };
        let max = interval.unwrap_or(RETRY_MAX).min(RETRY_MAX).max(self.settings.discovery_retry);
        let wait = Backoff { initial: self.settings.discovery_retry, max }.delay(failure.count, image.as_str());
        Some(after(answered_at, wait.max(failure.retry_after.unwrap_or_default())))
    }

    /// The question to an image's registry.
    pub(crate) fn inquiry(&self, image: &Reference) -> Inquiry {
        let known = self.lookups.get(image).and_then(Lookup::served);
        let platforms: BTreeSet<&Name> = self.nodes.values().map(|entry| &entry.node.platform).collect();
        Inquiry {
            reference: image.clone(),
            secrets: Self::secrets_of(self.wanted_by(image)),
            known: known.map(|served| served.manifest.digest.clone()),
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
        lookup.answered_at = Some(now);
        let failed = lookup.failure.as_ref().map_or(0, |failure| failure.count).saturating_add(1);
        lookup.failure = match answer {
            LookedUp::Found(manifest) => {
                let since = before.served.as_ref().filter(|served| served.manifest.digest == manifest.digest);
                let since = since.map(|served| served.since).or(known_since).unwrap_or(now);
                lookup.served = Some(Served { manifest: Arc::from(manifest), since });
                None
            }
            LookedUp::Unchanged => None,
            LookedUp::NotFound { message } => {
                Some(Failure { is_missing: true, message, count: failed, retry_after: None })
            }
            LookedUp::Unavailable { message, retry_after } => {
                Some(Failure { is_missing: false, message, count: failed, retry_after })
            }
        };
        let shown = |lookup: &Lookup| {
            (lookup.is_pending(), lookup.served.clone(), lookup.failure.as_ref().map(|it| it.message.clone()))
        };
        if shown(&before) != shown(lookup) {
            self.lookup_changed(image);
        }
        self.schedule_lookup(image);
    }

    /// Asks again at once where a Secret that has changed may let the registry answer.
    pub(super) fn lookup_secret_changed(&mut self, secret: &Name) {
        let uses = |image: &Reference| self.wanted_by(image).any(|entry| entry.image.secrets.contains(secret));
        let failing = self.lookups.iter().filter(|(_, lookup)| lookup.failure.is_some());
        let concerned: Vec<Reference> = failing.map(|(image, _)| image).filter(|image| uses(image)).cloned().collect();
        for image in concerned {
            if let Some(lookup) = self.lookups.get_mut(&image) {
                lookup.answered_at = None;
            }
            self.schedule_lookup(&image);
        }
    }

    fn lookup_changed(&mut self, image: &Reference) {
        self.dirty.images.extend(self.wanted.get(image).into_iter().flatten().cloned());
    }
}
