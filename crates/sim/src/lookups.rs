//! Simulates registries that answer look-ups.

use std::collections::BTreeSet;

use drop_api::GoDuration;
use drop_core::Name;
use drop_core::effect::Pull;
use drop_core::lookup::{Inquiry, LookedUp};
use drop_core::manifest::{Manifest, Variant};
use drop_core::reference::Reference;
use jiff::{SignedDuration, Timestamp};

use crate::Lab;
use crate::kubelet::{bare_id, platform_digest, repository};
use crate::record::{Success, Told};

impl Lab {
    /// Asks a registry for an image, as the operator does.
    pub(crate) fn look_up(&self, inquiry: &Inquiry) -> LookedUp {
        let image = &inquiry.reference;
        let knobs = &self.knobs;
        let unavailable = |message: &str| LookedUp::Unavailable { message: message.into(), retry_after: None };
        let is_down = knobs.registries.get(image.host()).is_some_and(|registry| registry.is_down);
        if is_down || knobs.out_of_reach.contains(image.host()) {
            return unavailable("connection refused");
        }
        if self.lacks_secret(&inquiry.secrets, image).is_some() {
            return unavailable("unauthorized");
        }
        match knobs.broken_images.get(image.as_str()) {
            Some(failure) if failure.message.ends_with("not found") => {
                return LookedUp::NotFound { message: format!("image not found: {image}").into() };
            }
            Some(failure) => return unavailable(&failure.message),
            None => {}
        }
        let mut troubles = knobs.troubles.iter().filter(|trouble| trouble.nodes.is_empty() && trouble.is_of(image));
        if let Some(failure) = troubles.find_map(|trouble| trouble.outcome.failure(image)) {
            return unavailable(&failure.message);
        }
        let manifest = self.manifest(image, inquiry);
        if inquiry.known.as_ref() == Some(&manifest.digest) {
            return LookedUp::Unchanged;
        }
        LookedUp::Found(Box::new(manifest))
    }

    /// Returns the fault of a pull although its registry answered that the pull cannot succeed.
    pub(crate) fn faults_of_pull(&self, pull: &Pull, node_uid: &Name, planned_at: Timestamp) -> Option<String> {
        let told = self.record.answers.get(&pull.reference).filter(|told| told.at < planned_at)?;
        if self.record.asked_at(&pull.reference) > Some(told.asked_at) {
            // The answer is no longer known, or may be outdated.
            return None;
        }
        let platform = &self.api.node_of_uid(node_uid)?.platform;
        // A node may have got from a mirror what the registry does not have.
        let listed = self.record.listed.iter().filter(|(_, image)| *image == pull.reference);
        let listed_on: BTreeSet<&Name> = listed.map(|(platform, _)| platform).collect();
        let was_pulled = || self.record.pulled.keys().any(|(_, image)| *image == pull.reference);
        if told.is_missing && listed_on.is_empty() && !was_pulled() {
            return Some(format!("its registry has no such image as {}", pull.reference));
        }
        let served = told.served.as_ref().filter(|_| told.works)?;
        (!served.serves(platform) && !listed_on.contains(platform))
            .then(|| format!("its registry has no {} for {platform}", pull.reference))
    }

    /// Returns the fault of a look-up that is sent now.
    pub(crate) fn faults_of_question(&self, image: &Reference) -> Option<String> {
        let told = self.record.answers.get(image)?;
        let changed_at = self.record.questions_changed_at;
        if changed_at.is_some_and(|at| told.asked_at <= at + self.hearsay()) {
            // The previous look-up was for another CachedImage, or used other Secrets.
            return None;
        }
        let lacks_details =
            |served: &Manifest| self.api.nodes.values().any(|node| !served.detailed_for.contains(&node.platform));
        if told.served.as_ref().is_some_and(lacks_details) {
            // A node of another platform has joined since.
            return None;
        }
        let differs = |(what, pulled): (&(Name, Reference), &Success)| {
            let digest = pulled.image_id.rsplit('@').next().unwrap_or_default();
            let is_served = told.served.as_ref().is_none_or(|served| served.is_digest(digest));
            what.1 == *image && !is_served
        };
        if self.record.pulled.iter().any(differs) {
            // A node has pulled something else, perhaps since.
            return None;
        }
        let policies = || self.api.policies.values().map(|policy| &policy.spec);
        let wait = match told {
            Told { works: true, .. } => {
                let intervals = policies().filter_map(|policy| policy.repull_interval.as_ref()).map(GoDuration::get);
                intervals.chain([SignedDuration::from_hours(1)]).min()
            }
            Told { is_missing: true, .. } => {
                let built_in = &self.settings.built_in_policy;
                policies().chain([built_in]).map(|policy| policy.failure_backoff.initial.get()).min()
            }
            Told { .. } => None,
        };
        // Waits vary by ten percent.
        let is_early = wait.is_some_and(|wait| {
            self.now.duration_since(told.at).as_secs_f64() < 0.89 * self.at_least(wait).as_secs_f64()
        });
        is_early
            .then(|| format!("the registry of {image} is asked again too soon after it was asked at {}", told.asked_at))
    }

    fn manifest(&self, image: &Reference, inquiry: &Inquiry) -> Manifest {
        let digest = image.digest().map_or_else(|| self.served_digest(image), str::to_owned);
        // A platform without nodes has a manifest too: an index does not depend on the client.
        let all = ["linux/amd64", "linux/arm64"].map(Name::from).into_iter();
        let of_nodes = self.api.nodes.values().map(|node| &node.platform).chain(&inquiry.platforms).cloned();
        let served = self.knobs.platforms.get(image.as_str());
        let mut platforms: Vec<Name> = match served {
            Some(served) => served.iter().map(|platform| platform.as_str().into()).collect(),
            None => all.chain(of_nodes).filter(|platform| platform.len() > 1).collect(),
        };
        platforms.sort();
        platforms.dedup();
        let variant = |platform: Name| {
            let own = platform_digest(&digest, &platform);
            let by_platform = self.knobs.digests_by_platform.contains(image.as_str());
            let reported = if by_platform { &own } else { &digest };
            let id = bare_id(&format!("{}@{reported}", repository(image)));
            Variant {
                digest: own.as_str().into(),
                config: id.strip_prefix("sha256:").map(Into::into),
                size: Some(self.size_of(image)),
                platform: Some(platform),
            }
        };
        Manifest {
            platforms: platforms.into_iter().map(variant).collect(),
            digest: digest.as_str().into(),
            detailed_for: inquiry.platforms.clone(),
        }
    }
}
