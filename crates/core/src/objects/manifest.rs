//! The manifest that a registry serves under a reference: its digest, and the variant for each platform.

use crate::Name;
use crate::objects::newest::ImageId;

/// A manifest or an index of manifests
/// (<https://github.com/opencontainers/image-spec/blob/main/image-index.md>).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The digest under which the registry serves the reference, `sha256:…`.
    pub digest: Name,
    /// The variant for each platform; empty if the look-up asked only for the digest.
    pub platforms: Vec<Variant>,
    /// The platforms of nodes for which configurations and sizes were asked.
    pub detailed_for: Vec<Name>,
}

/// The image for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Operating system and architecture, such as `linux/arm64`. It leaves out the variant of the architecture and the
    /// version of the operating system, because nodes do not report theirs. `None` if the reference has one manifest
    /// and no list, or if its list names no platform: some runtimes pull such a manifest on every platform.
    pub platform: Option<Name>,
    /// The digest of the platform's manifest, `sha256:…`.
    pub digest: Name,
    /// The digest of the image's configuration, 64 hexadecimal digits. Some runtimes use it as the image's ID.
    pub config: Option<Name>,
    /// The sum of the compressed sizes of its layers, in bytes.
    pub size: Option<u64>,
}

impl Manifest {
    /// Whether nodes of this platform can run the image, as far as known.
    #[must_use]
    pub fn serves(&self, platform: &str) -> bool {
        // A node that has not reported its platform yet has "/".
        let is_known = platform.len() > 1 && !self.platforms.is_empty();
        !is_known || self.of(platform).next().is_some()
    }

    /// Whether nodes of this platform can run the image, and nobody has asked for its details for them.
    #[must_use]
    pub fn lacks_details(&self, platform: &Name) -> bool {
        self.serves(platform) && !self.detailed_for.contains(platform)
    }

    /// Returns how many bytes a node of this platform downloads if it has none of the layers.
    #[must_use]
    pub fn size(&self, platform: &str) -> Option<u64> {
        self.of(platform).find_map(|variant| variant.size)
    }

    /// Whether the ID `id`, which a runtime on this platform reports, means this image; `None` if unknown.
    #[must_use]
    pub fn is(&self, id: &ImageId, platform: &str) -> Option<bool> {
        if let Some(digest) = id.digest() {
            // While the platforms are unknown, another digest may be that of a platform.
            let is_known = !self.platforms.is_empty();
            return self.is_digest(digest).then_some(true).or(is_known.then_some(false));
        }
        if self.platforms.iter().any(|variant| variant.config.is_some() && variant.config.as_deref() == id.bare()) {
            return Some(true);
        }
        // An unknown configuration may have this ID.
        let mut candidates = self.of(platform).peekable();
        let is_known = candidates.peek().is_some() && candidates.all(|variant| variant.config.is_some());
        is_known.then_some(false)
    }

    /// Whether a digest is that of the index or of the manifest for a platform. Runtimes report either.
    #[must_use]
    pub fn is_digest(&self, digest: &str) -> bool {
        *self.digest == *digest || self.platforms.iter().any(|variant| *variant.digest == *digest)
    }

    /// Returns the variants that nodes of this platform may pull: those for the platform itself, or else those that
    /// some runtimes fall back to.
    fn of(&self, platform: &str) -> impl Iterator<Item = &Variant> {
        let is_own = move |variant: &&Variant| variant.platform.as_deref().is_none_or(|other| other == platform);
        let has_own = self.platforms.iter().any(|variant| is_own(&variant));
        self.platforms.iter().filter(move |variant| match variant.platform.as_deref() {
            Some(other) if !has_own => runs(platform, other),
            _ => is_own(variant),
        })
    }
}

/// Whether some runtime on a node pulls this image, which is for the node's platform or for another one.
///
/// containerd falls back from `amd64` to `386` and from `arm64` to `arm`
/// (<https://github.com/containerd/platforms/blob/main/compare.go>). CRI-O does not. Drop does not check which runtime
/// a node has: denying an image that the node can run is worse than a failed pull.
#[must_use]
pub fn runs(node: &str, image: &str) -> bool {
    let falls_back = |(node_os, node): (&str, &str), (os, image): (&str, &str)| {
        node_os == os && matches!((node, image), ("amd64", "386") | ("arm64", "arm"))
    };
    node == image
        || node.split_once('/').zip(image.split_once('/')).is_some_and(|(node, image)| falls_back(node, image))
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
            detailed_for: Vec::new(),
            digest: format!("sha256:{}", hex("0")).into(),
            platforms: vec![variant("linux/amd64", "1", 7), variant("linux/arm", "2", 0)],
        }
    }

    #[test]
    fn platforms_are_served_unless_known_otherwise() {
        let manifest = manifest();
        let served =
            ["linux/amd64", "linux/arm", "linux/arm64", "windows/amd64", "/", ""].map(|it| manifest.serves(it));
        assert_eq!(served, [true, true, true, false, true, true]);
        let unknown = Manifest { platforms: Vec::new(), ..manifest.clone() };
        assert!(unknown.serves("linux/s390x"));
        let single = Variant { platform: None, ..manifest.platforms[0].clone() };
        let single = Manifest { platforms: vec![single], ..manifest.clone() };
        assert_eq!((single.serves("linux/s390x"), single.size("linux/s390x")), (true, Some(7)));
        assert_eq!((manifest.size("linux/amd64"), manifest.size("linux/s390x")), (Some(7), None));
    }

    #[test]
    fn an_image_is_known_by_any_of_its_ids() {
        let manifest = manifest();
        let is = |id: String| manifest.is(&ImageId::parse(&id).unwrap(), "linux/amd64");
        assert_eq!(is(format!("app@sha256:{}", hex("0"))), Some(true));
        assert_eq!(is(format!("app@sha256:{}", hex("2"))), Some(true));
        assert_eq!(is(format!("app@sha256:{}", hex("c"))), Some(false), "a configuration is no manifest");
        assert_eq!((is(hex("c")), is(hex("1"))), (Some(true), Some(false)));
        let unknown = Manifest { platforms: Vec::new(), ..manifest };
        for id in [hex("c"), format!("app@sha256:{}", hex("2"))] {
            assert_eq!(unknown.is(&ImageId::parse(&id).unwrap(), "linux/amd64"), None, "{id}");
        }
    }

    #[test]
    fn a_configuration_that_is_not_known_is_no_other_one() {
        let manifest = manifest();
        let is = |id: &str, platform: &str| manifest.is(&ImageId::parse(&hex(id)).unwrap(), platform);
        assert_eq!((is("1", "linux/amd64"), is("c", "linux/arm")), (Some(false), Some(true)));
        assert_eq!((is("1", "linux/arm"), is("1", "linux/arm64")), (None, None), "that of linux/arm is not known");
        assert_eq!(is("1", "linux/s390x"), None, "no configuration is for it");
        let fallback = Variant { platform: Some("linux/386".into()), config: None, ..manifest.platforms[1].clone() };
        let both = Manifest { platforms: vec![manifest.platforms[0].clone(), fallback], ..manifest };
        let is_one = both.is(&ImageId::parse(&hex("1")).unwrap(), "linux/amd64");
        assert_eq!(is_one, Some(false), "a node takes what is for its own platform");
    }

    #[test]
    fn an_image_is_denied_only_where_every_runtime_denies_it() {
        let cases = [
            ("linux/amd64", "linux/amd64", true),
            ("linux/amd64", "linux/386", true),
            ("linux/386", "linux/amd64", false),
            ("linux/arm64", "linux/arm", true),
            ("linux/arm", "linux/arm64", false),
            ("linux/amd64", "linux/arm64", false),
            ("windows/amd64", "linux/386", false),
            ("windows/arm64", "windows/arm", true),
            ("linux/riscv64", "linux/riscv64", true),
        ];
        for (node, image, expected) in cases {
            assert_eq!(runs(node, image), expected, "{image} on {node}");
        }
    }
}
