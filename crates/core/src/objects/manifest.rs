//! What a registry serves under a reference: the digest, and what each platform gets.

use crate::Name;
use crate::objects::newest::ImageId;

/// A manifest or an index of manifests
/// (<https://github.com/opencontainers/image-spec/blob/main/image-index.md>).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The digest under which the registry serves the reference, `sha256:…`.
    pub digest: Name,
    /// What each platform gets; empty if the registry was only asked for the digest.
    pub platforms: Vec<Variant>,
}

/// What one platform gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Operating system and architecture, such as `linux/arm64`; without the variant of the architecture, because
    /// nodes do not report theirs. `None` if the reference has one manifest and no list: some runtimes pull that
    /// whatever its platform is.
    pub platform: Option<Name>,
    /// The digest of the platform's manifest, `sha256:…`.
    pub digest: Name,
    /// The digest of the image's configuration, 64 hexadecimal digits: some runtimes call the image so.
    pub config: Option<Name>,
    /// The sum of the compressed sizes of its layers, in bytes.
    pub size: Option<u64>,
}

impl Manifest {
    /// Whether nodes of this platform can run the image, as far as that is known.
    #[must_use]
    pub fn serves(&self, platform: &str) -> bool {
        // A node that has not reported its platform yet has "/".
        let is_known = platform.len() > 1 && !self.platforms.is_empty();
        !is_known || self.of(platform).next().is_some()
    }

    /// How many bytes a node of this platform downloads if it has none of the layers.
    #[must_use]
    pub fn size(&self, platform: &str) -> Option<u64> {
        self.of(platform).find_map(|variant| variant.size)
    }

    /// Whether an image that a runtime calls `id` is this one; `None` where that cannot be told.
    #[must_use]
    pub fn is(&self, id: &ImageId) -> Option<bool> {
        if let Some(digest) = id.digest() {
            // Without the platforms, another digest may be that of one of them.
            let is_known = !self.platforms.is_empty();
            return self.is_digest(digest).then_some(true).or(is_known.then_some(false));
        }
        let mut configs = self.platforms.iter().filter_map(|variant| variant.config.as_deref()).peekable();
        configs.peek()?;
        Some(configs.any(|config| Some(config) == id.bare()))
    }

    /// Whether a digest is that of the index or of the manifest for a platform: runtimes report either.
    #[must_use]
    pub fn is_digest(&self, digest: &str) -> bool {
        *self.digest == *digest || self.platforms.iter().any(|variant| *variant.digest == *digest)
    }

    fn of(&self, platform: &str) -> impl Iterator<Item = &Variant> {
        let is_for = move |variant: &&Variant| variant.platform.as_deref().is_none_or(|other| other == platform);
        self.platforms.iter().filter(is_for)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(digit: &str) -> String {
        digit.repeat(64)
    }

    fn manifest() -> Manifest {
        let variant = |platform: &str, digit: &str, size| Variant {
            platform: Some(platform.into()),
            digest: format!("sha256:{}", hex(digit)).into(),
            config: Some(hex("c").into()).filter(|_| size > 0),
            size: Some(size),
        };
        Manifest {
            digest: format!("sha256:{}", hex("0")).into(),
            platforms: vec![variant("linux/amd64", "1", 7), variant("linux/arm", "2", 0)],
        }
    }

    #[test]
    fn platforms_are_served_unless_known_otherwise() {
        let manifest = manifest();
        let served =
            ["linux/amd64", "linux/arm", "linux/arm64", "windows/amd64", "/", ""].map(|it| manifest.serves(it));
        assert_eq!(served, [true, true, false, false, true, true]);
        let unknown = Manifest { platforms: Vec::new(), ..manifest.clone() };
        assert!(unknown.serves("linux/s390x"));
        let single = Variant { platform: None, ..manifest.platforms[0].clone() };
        let single = Manifest { platforms: vec![single], ..manifest.clone() };
        assert_eq!((single.serves("linux/s390x"), single.size("linux/s390x")), (true, Some(7)));
        assert_eq!((manifest.size("linux/amd64"), manifest.size("linux/arm64")), (Some(7), None));
    }

    #[test]
    fn an_image_is_known_by_any_of_its_ids() {
        let manifest = manifest();
        let is = |id: String| manifest.is(&ImageId::parse(&id).unwrap());
        assert_eq!(is(format!("app@sha256:{}", hex("0"))), Some(true));
        assert_eq!(is(format!("app@sha256:{}", hex("2"))), Some(true));
        assert_eq!(is(format!("app@sha256:{}", hex("c"))), Some(false), "a configuration is no manifest");
        assert_eq!((is(hex("c")), is(hex("1"))), (Some(true), Some(false)));
        let unknown = Manifest { platforms: Vec::new(), ..manifest };
        for id in [hex("c"), format!("app@sha256:{}", hex("2"))] {
            assert_eq!(unknown.is(&ImageId::parse(&id).unwrap()), None, "{id}");
        }
    }
}
