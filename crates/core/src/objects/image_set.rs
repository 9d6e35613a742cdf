//! The fields of a CachedImageSet that planning needs, and the CachedImages that it asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use drop_api::cached_image::{DIGEST, NOT_AN_ID, TAG};
use drop_api::cached_image_set::ImageEntry;
use drop_api::discovery_policy::DiscoveredImage;
use drop_api::names::{LABEL_IMAGE_SET, LABEL_ORIGIN, bounded, label_value, short_hash};
use drop_api::{CachedImage, CachedImageSet, CachedImageSetSpec, CachedImageSpec, GROUP};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use regex::Regex;

use crate::Name;
use crate::objects::image::{Image, Origin};
use crate::objects::reference::{NotAName, Reference, check_name};

/// The longest name of an object, in bytes.
const NAME_MAX: usize = 253;

/// A set of wanted images.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageSet {
    /// `metadata.name`.
    pub name: Name,
    /// `metadata.uid`.
    pub uid: Name,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// The spec.
    pub spec: CachedImageSetSpec,
}

/// The CachedImages that a set asks for, in the order in which they are pulled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Members {
    /// One for each distinct image.
    pub children: Vec<Child>,
    /// Entries of `images` that are not valid, as sentences.
    pub invalid: Vec<String>,
    /// Entries of `images` that repeat others, as sentences.
    pub repeated: Vec<String>,
}

/// A CachedImage that a set asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// The whole object.
    pub object: CachedImage,
    /// The fields of it that planning needs.
    pub image: Image,
}

impl Members {
    /// Uses CachedImages that the set owns under other names, which an older operator gave them, as the children for
    /// their images.
    pub fn adopt(&mut self, owned: &[&Image]) {
        let names: BTreeSet<Name> = self.children.iter().map(|child| child.image.name.clone()).collect();
        let strays = owned.iter().filter(|image| !names.contains(&image.name));
        let strays: BTreeMap<&Reference, &Name> = strays.map(|image| (&image.reference, &image.name)).collect();
        let owned: BTreeSet<&Name> = owned.iter().map(|image| &image.name).collect();
        for child in self.children.iter_mut().filter(|child| !owned.contains(&child.image.name)) {
            if let Some(name) = strays.get(&child.image.reference) {
                child.object.metadata.name = Some(name.to_string());
                child.image.name = (*name).clone();
            }
        }
    }
}

impl ImageSet {
    /// Reads a CachedImageSet; `None` if it has no name or UID, or is being deleted and so asks for nothing any more.
    #[must_use]
    pub fn from_api(object: &CachedImageSet) -> Option<Self> {
        let meta = &object.metadata;
        if meta.deletion_timestamp.is_some() {
            return None;
        }
        Some(Self {
            name: meta.name.as_deref()?.into(),
            uid: meta.uid.as_deref()?.into(),
            generation: meta.generation,
            spec: object.spec.clone(),
        })
    }

    /// The set's images: the static ones in their order, then `discovered` ones by rank.
    #[must_use]
    pub fn members(&self, discovered: &[DiscoveredImage]) -> Members {
        let mut members = Members::default();
        let mut seen = BTreeSet::new();
        for (index, entry) in self.spec.images.iter().enumerate() {
            if let Err(why) = check(entry) {
                members.invalid.push(format!("images[{index}] ({}): {why}", entry.image));
                continue;
            }
            let reference = Reference::new(&entry.image, entry.tag.as_deref(), entry.digest.as_deref());
            if seen.insert(reference.clone()) {
                members.children.extend(self.child(&reference, entry.clone(), Origin::Static));
            } else {
                members.repeated.push(format!("images[{index}] repeats {reference}"));
            }
        }
        for image in discovered {
            let reference = Reference::parse(&image.image);
            if check(&entry_of(&reference)).is_ok() && seen.insert(reference.clone()) {
                members.children.extend(self.discovered(&reference));
            }
        }
        members
    }

    /// Returns the CachedImage for an image that is not in the list.
    #[must_use]
    pub fn discovered(&self, reference: &Reference) -> Option<Child> {
        self.child(reference, entry_of(reference), Origin::Discovered)
    }

    /// Returns the CachedImage for one image.
    fn child(&self, reference: &Reference, entry: ImageEntry, origin: Origin) -> Option<Child> {
        let ImageEntry { image, tag, digest } = entry;
        let spec = CachedImageSpec {
            image,
            tag,
            digest,
            image_pull_policy: self.spec.image_pull_policy,
            image_pull_secrets: self.spec.image_pull_secrets.clone(),
            node_selector: self.spec.node_selector.clone(),
            node_affinity: self.spec.node_affinity.clone(),
            tolerations: self.spec.tolerations.clone(),
            priority: self.spec.priority,
            policy_ref: self.spec.policy_ref.clone(),
        };
        let mut child = CachedImage::new(&self.child_name(reference), spec);
        let labels = [(LABEL_IMAGE_SET, label_value(&self.name)), (LABEL_ORIGIN, origin.label().to_owned())];
        child.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value)).into());
        child.metadata.owner_references = Some(vec![OwnerReference {
            api_version: format!("{GROUP}/v1alpha1"),
            kind: CachedImageSet::kind(&()).into_owned(),
            name: self.name.to_string(),
            uid: self.uid.to_string(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]);
        Some(Child { image: Image::from_api(&child)?, object: child })
    }

    /// Returns `<set>-<last path segment>-<tag>-<hash of the full reference>`. The name is readable, and the same for
    /// the same image.
    fn child_name(&self, reference: &Reference) -> String {
        let repository = reference.repository();
        let segment = repository.rsplit('/').next().unwrap_or(repository);
        let version = match reference.digest() {
            // Twelve digits, as many as people compare.
            Some(digest) => digest.trim_start_matches("sha256:").chars().take(12).collect(),
            None => reference.tag().unwrap_or_default().to_lowercase(),
        };
        let name = format!("{}-{segment}-{version}", self.name);
        // Some characters of tags are not allowed in the name of an object, and some not at its end.
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
        let name = name.replace("..", "-").replace(".-", "-").replace("-.", "-");
        let hash = short_hash(reference.as_str().as_bytes());
        bounded(&format!("{}-{hash}", name.trim_end_matches(['-', '.'])), NAME_MAX)
    }
}

/// Returns the entry for a reference.
fn entry_of(reference: &Reference) -> ImageEntry {
    ImageEntry {
        image: reference.repository().to_owned(),
        tag: reference.tag().map(str::to_owned),
        digest: reference.digest().map(str::to_owned),
    }
}

/// Checks that the API server would accept a CachedImage of this entry.
///
/// # Errors
/// A message for people that names the fault, and in most cases the remedy.
pub fn check(entry: &ImageEntry) -> Result<(), &'static str> {
    static PATTERNS: LazyLock<[Option<Regex>; 2]> =
        LazyLock::new(|| [TAG, DIGEST].map(|pattern| Regex::new(pattern).ok()));
    let [tag, digest] = &*PATTERNS;
    let fits = |pattern: &Option<Regex>, text: &str| pattern.as_ref().is_some_and(|pattern| pattern.is_match(text));
    let has_own = entry.image.rsplit('/').next().is_some_and(|segment| segment.contains([':', '@']));
    check_name(&entry.image).map_err(|why| match why {
        NotAName::Id => NOT_AN_ID,
        NotAName::Form => "not an image name: write [registry[:port]/]path in lower case",
    })?;
    if entry.tag.as_deref().is_some_and(|text| !fits(tag, text)) {
        Err("not a tag: letters, digits, _ . and -")
    } else if entry.digest.as_deref().is_some_and(|text| !fits(digest, text)) {
        Err("not a digest: write sha256: and 64 hexadecimal digits")
    } else if entry.tag.is_some() && entry.digest.is_some() {
        Err("tag and digest exclude each other")
    } else if has_own && (entry.tag.is_some() || entry.digest.is_some()) {
        Err("image already carries a tag or digest: remove tag and digest")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, images: &[&str]) -> ImageSet {
        let images = images.iter().map(|image| ImageEntry { image: (*image).to_owned(), ..ImageEntry::default() });
        ImageSet {
            name: name.into(),
            uid: "uid".into(),
            generation: Some(1),
            spec: CachedImageSetSpec { images: images.collect(), ..CachedImageSetSpec::default() },
        }
    }

    fn names(members: &Members) -> Vec<&str> {
        members.children.iter().map(|child| &*child.image.name).collect()
    }

    #[test]
    fn children_have_readable_names_that_differ_for_different_images() {
        let digest = format!("a.example/app@sha256:{}", "0123456789abcdef".repeat(4));
        let members =
            set("web", &["a.example/x/app:V1.0_b", "b.example/y/app:V1.0_b", "c.example/app:V1.0_b", &digest])
                .members(&[]);
        let names = names(&members);
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 4, "{names:?}");
        for name in &names[..3] {
            assert!(name.starts_with("web-app-v1.0-b-"), "{name}");
        }
        assert!(names[3].starts_with("web-app-0123456789ab-"), "{names:?}");
    }

    #[test]
    fn names_are_valid_whatever_their_parts() {
        let label = Regex::new("^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$").unwrap();
        let long_tag = format!("a:{}", "x".repeat(128));
        let long_path = format!("{}/{}:1", "p".repeat(200), "q".repeat(200));
        let images = ["a:_.-", "a:1..2", "a:1.-2-.3", "a_b__c:v", &long_tag, &long_path, "a-b.c:x."];
        for name in ["s", &"n".repeat(253), "a.b-c"] {
            for name in names(&set(name, &images).members(&[])) {
                assert!(name.len() <= 253 && label.is_match(name), "{name}");
            }
        }
        let (one, other) =
            (set(&format!("{}1", "n".repeat(252)), &["a"]), set(&format!("{}2", "n".repeat(252)), &["a"]));
        assert_ne!(names(&one.members(&[])), names(&other.members(&[])), "the part that is cut off counts too");
    }

    #[test]
    fn entries_that_are_invalid_or_repeated_cost_only_themselves() {
        let mut set = set("s", &["alpine", "https://alpine", "docker.io/library/alpine:latest", "busybox"]);
        set.spec.images[3].tag = Some("1".to_owned());
        set.spec.images[3].digest = Some("sha256:12".to_owned());
        let members = set.members(&[]);
        assert_eq!(members.children.len(), 1);
        assert_eq!(members.repeated, ["images[2] repeats docker.io/library/alpine:latest"]);
        assert_eq!(members.invalid.len(), 2);
        assert!(members.invalid[0].starts_with("images[1] (https://alpine): not an image name"), "{members:?}");
        assert!(members.invalid[1].starts_with("images[3] (busybox): not a digest"), "{members:?}");
    }

    #[test]
    fn the_id_of_an_image_is_no_image() {
        let id = "0123456789abcdef".repeat(4);
        let mut set = set("s", &[&id, &format!("sha256:{id}"), &id, "alpine"]);
        set.spec.images[2].tag = Some("1".to_owned());
        let discovered = DiscoveredImage { image: id, ..DiscoveredImage::default() };
        let members = set.members(&[discovered]);
        assert_eq!((members.children.len(), members.invalid.len()), (2, 3), "{members:?}");
        assert!(members.invalid.iter().all(|invalid| invalid.contains("the ID of an image")), "{members:?}");
    }

    #[test]
    fn children_under_other_names_are_adopted_but_no_name_serves_twice() {
        let set = set("web", &["x:1", "y:1"]);
        let named = |name: &str, reference: &str| Image {
            name: name.into(),
            reference: Reference::parse(reference),
            ..set.members(&[]).children[0].image.clone()
        };
        let own = set.members(&[]).children[0].image.name.clone();
        let adopt = |owned: &[Image]| {
            let mut members = set.members(&[]);
            members.adopt(&owned.iter().collect::<Vec<_>>());
            names(&members).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let fresh = adopt(&[]);
        assert_eq!(adopt(&[named("web-x", "x:1")]), ["web-x", &fresh[1]]);
        assert_eq!(adopt(&[named("web-x", "x:1"), named(&own, "x:1")]), fresh, "the own name comes first");
        assert_eq!(adopt(&[named(&own, "y:1")]), fresh, "somebody has edited it");
    }

    #[test]
    fn discovered_images_follow_the_static_ones_and_are_not_repeated() {
        let discovered = |image: &str| DiscoveredImage { image: image.to_owned(), ..DiscoveredImage::default() };
        let members =
            set("s", &["alpine:3"]).members(&[discovered("b.example/z:1"), discovered("alpine:3"), discovered("c:2")]);
        let specs: Vec<_> = members
            .children
            .iter()
            .map(|child| (&*child.object.spec.image, child.object.spec.tag.as_deref()))
            .collect();
        assert_eq!(specs, [("alpine:3", None), ("b.example/z", Some("1")), ("docker.io/library/c", Some("2"))]);
    }
}
