//! Registries that are asked for images.

use drop_core::lookup::{Inquiry, LookedUp};
use drop_core::manifest::{Manifest, Variant};
use drop_core::reference::Reference;

use crate::Lab;
use crate::kubelet::{bare_id, platform_digest, repository};

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

    fn manifest(&self, image: &Reference, inquiry: &Inquiry) -> Manifest {
        let digest = image.digest().map_or_else(|| self.served_digest(image), str::to_owned);
        let served = self.knobs.platforms.get(image.as_str());
        let is_served = |platform: &str| served.is_none_or(|served| served.iter().any(|other| other == platform));
        let of = inquiry.platforms.iter().filter(|platform| is_served(platform)).cloned();
        // What no node is of has a platform, too, so that it is known that there are others.
        let others = served.into_iter().flatten().map(|platform| platform.as_str().into());
        let mut platforms: Vec<_> = of.chain(others).collect();
        platforms.sort();
        platforms.dedup();
        let variant = |platform: drop_core::Name| {
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
        Manifest { platforms: platforms.into_iter().map(variant).collect(), digest: digest.as_str().into() }
    }
}
