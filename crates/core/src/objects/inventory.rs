//! The list of images in a node's own status.
//!
//! `node.status.images` holds the largest images of the node, as many as the
//! kubelet's `nodeStatusMaxImages` allows (50 unless configured), each with its
//! first [`MAX_NAMES`] names: first those by digest, of which a pull makes one per
//! repository, then those by tag. See `Images` in Kubernetes'
//! `pkg/kubelet/nodestatus/setters.go`. It follows the node within about a minute.
//!
//! No kubelet reports its limit. So the only proof that a list is complete is that it is shorter than another list of
//! the same node: see [`Inventory::shortest_full_list`].

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::look_up::look_up;
use crate::objects::reference::Reference;

/// The most names of one image that a kubelet lists (`MaxNamesPerImageInNodeStatus`).
pub const MAX_NAMES: usize = 5;

/// Every kubelet lists at least this many images, unless the administrator configures less: no cluster is known to set
/// `nodeStatusMaxImages` lower.
const LEAST: usize = 3;

/// An image that a node lists. Nodes that list the same image share one value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its names, by digest and by tag.
    pub names: Box<[Reference]>,
    /// Whether it may have further names that are not listed.
    pub is_cut: bool,
    /// Its size in bytes, as the runtime counts it.
    pub size: u64,
}

impl Listed {
    /// Returns every `sha256:…` under which the image is known in `image`'s repository. There may be several if an
    /// index was pushed again with the same content.
    pub fn digests<'a>(&'a self, image: &'a Reference) -> impl Iterator<Item = &'a str> {
        self.names.iter().filter(|name| name.repository() == image.repository()).filter_map(Reference::digest)
    }

    /// Whether `image`, which is not among the names, may be one that was cut off.
    fn may_be(&self, image: &Reference) -> bool {
        let shows_tags = self.names.iter().any(|name| name.digest().is_none());
        // If a kubelet lists a tag, it lists all digests too, and so the repository of every pull.
        let is_of_repository = || self.names.iter().any(|name| name.repository() == image.repository());
        self.is_cut && (!shows_tags || (image.digest().is_none() && is_of_repository()))
    }
}

/// The images that a node lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory(Vec<Arc<Listed>>);

/// The evidence of a node's list about an image: present, absent, or neither.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sighting<'a> {
    /// The node has the image.
    Present(&'a Listed),
    /// The node lacks the image: the list is complete, or would show it.
    Absent,
    /// The list does not show either.
    Unknown,
}

impl Inventory {
    /// Makes the inventory of a node that lists these images.
    #[must_use]
    pub fn new(images: Vec<Arc<Listed>>) -> Self {
        Self(images)
    }

    /// The images, in the node's order.
    #[must_use]
    pub fn images(&self) -> &[Arc<Listed>] {
        &self.0
    }

    /// Returns how many images the node lists at least, if it has them. A shorter list is complete.
    ///
    /// The number is the length of the node's longest list so far, or `configured` (if not 0) if that is greater.
    /// `before` is the list before this one, with the number known at that time. If a list lost several images, and only
    /// images that are no larger than its smallest one, it may be full as well: the kubelet may have got a lower limit.
    #[must_use]
    pub fn shortest_full_list(&self, before: Option<(&Self, usize)>, configured: usize) -> usize {
        let length = self.0.len();
        let holds = |before: &Self| length >= before.0.len() || !self.may_be_cut_from(before);
        let known = before.filter(|(before, _)| holds(before)).map_or(0, |(_, known)| known);
        known.max(length).max(if configured == 0 { LEAST } else { configured })
    }

    /// Whether the images that `before` has and this list lacks may be missing only because of their sizes. One image is
    /// more likely gone, even if it was the smallest.
    fn may_be_cut_from(&self, before: &Self) -> bool {
        // A kubelet that has just started, perhaps with another limit, first lists nothing.
        let Some(smallest) = self.0.iter().map(|listed| listed.size).min() else { return true };
        let gone: Vec<u64> =
            before.0.iter().filter(|listed| !self.0.contains(listed)).map(|listed| listed.size).collect();
        gone.len() > 1 && gone.iter().all(|size| *size <= smallest)
    }

    /// Whether the list contains `image`.
    #[must_use]
    pub fn lists(&self, image: &Reference) -> bool {
        self.find(image).is_some()
    }

    /// Returns the image of this name.
    #[must_use]
    pub fn find(&self, image: &Reference) -> Option<&Listed> {
        self.0.iter().map(|listed| &**listed).find(|listed| listed.names.contains(image))
    }

    /// Prepares the inventory for this many look-ups.
    #[must_use]
    pub fn index(&self, questions: usize) -> Index<'_> {
        let by_name = || self.0.iter().rev().flat_map(|listed| listed.names.iter().map(move |name| (name, &**listed)));
        Index {
            inventory: self,
            by_name: (questions > FEW).then(|| by_name().collect()),
            cut: self.0.iter().map(|listed| &**listed).filter(|listed| listed.is_cut).collect(),
            smallest: self.0.iter().map(|listed| listed.size).min(),
        }
    }
}

/// For fewer look-ups than this, searching the list each time is faster than sorting it.
const FEW: usize = 8;

/// An [`Inventory`] prepared for look-ups.
#[derive(Debug)]
pub struct Index<'a> {
    inventory: &'a Inventory,
    by_name: Option<BTreeMap<&'a Reference, &'a Listed>>,
    /// Images that may have further names.
    cut: Vec<&'a Listed>,
    /// In bytes.
    smallest: Option<u64>,
}

impl<'a> Index<'a> {
    /// Returns the image of this name.
    #[must_use]
    pub fn find(&self, image: &Reference) -> Option<&'a Listed> {
        match &self.by_name {
            Some(by_name) => by_name.get(image).copied(),
            None => self.inventory.find(image),
        }
    }

    /// Returns the image of each of these names, which are in order.
    #[must_use]
    pub fn find_all(&self, images: &[&Reference]) -> Vec<Option<&'a Listed>> {
        match &self.by_name {
            Some(by_name) => look_up(by_name, images).into_iter().map(Option::<&&Listed>::copied).collect(),
            None => images.iter().map(|image| self.inventory.find(image)).collect(),
        }
    }

    /// Returns the evidence about `image`, which was found as `listed`. `size` is its size in bytes, if known. A list of
    /// `full` images or more may have been cut.
    #[must_use]
    pub fn sight(&self, image: &Reference, listed: Option<&'a Listed>, size: Option<u64>, full: usize) -> Sighting<'a> {
        if let Some(listed) = listed {
            return Sighting::Present(listed);
        }
        if self.cut.iter().any(|listed| listed.may_be(image)) {
            return Sighting::Unknown;
        }
        // A kubelet lists the largest images. An image that is larger than the smallest listed one would be listed too.
        // Of equally large images the cut may leave out any.
        match self.smallest {
            // Virtual kubelets and nodes that have just joined list nothing.
            None => Sighting::Unknown,
            Some(_) if self.inventory.0.len() < full => Sighting::Absent,
            // The runtime reports size zero if it does not know the size.
            Some(smallest) if smallest > 0 && size.is_some_and(|size| size > smallest) => Sighting::Absent,
            Some(_) => Sighting::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(names: &[&str], size: u64) -> Arc<Listed> {
        let is_cut = names.len() >= MAX_NAMES;
        Arc::new(Listed { names: names.iter().map(|name| Reference::parse(name)).collect(), is_cut, size })
    }

    fn inventory() -> Inventory {
        let digest = format!("docker.io/library/alpine@sha256:{}", "a".repeat(64));
        Inventory::new(vec![listed(&[&digest, "docker.io/library/alpine:3.20"], 500), listed(&["quay.io/x/y:1"], 100)])
    }

    #[test]
    fn a_list_tells_as_much_as_it_can() {
        let inventory = inventory();
        let sight = |image, size, limit| {
            let image = &Reference::parse(image);
            let [sighting, other] = [1, 100].map(|questions| {
                let index = inventory.index(questions);
                assert_eq!(index.find_all(&[image]), [index.find(image)]);
                index.sight(image, index.find(image), size, limit)
            });
            assert_eq!(sighting, other);
            sighting
        };
        let cases: [(&str, Option<u64>, usize, &str); 7] = [
            ("alpine:3.20", None, 2, "present"),
            ("docker.io/alpine:3.20", Some(1), 50, "present"),
            ("alpine:3.19", None, 50, "absent"),
            ("alpine:3.19", Some(101), 2, "absent"),
            ("alpine:3.19", Some(100), 2, "unknown"),
            ("alpine:3.19", None, 2, "unknown"),
            ("alpine:3.19", Some(1), 1, "unknown"),
        ];
        for (image, size, limit, expected) in cases {
            let found = match sight(image, size, limit) {
                Sighting::Present(_) => "present",
                Sighting::Absent => "absent",
                Sighting::Unknown => "unknown",
            };
            assert_eq!(found, expected, "{image} of {size:?} bytes in a list of at most {limit}");
        }
        let empty = Inventory::default();
        assert_eq!(empty.index(1).sight(&Reference::parse("alpine"), None, Some(1), 50), Sighting::Unknown);
    }

    #[test]
    fn a_list_is_full_if_no_longer_one_was_seen() {
        let list =
            |sizes: &[u64]| Inventory::new(sizes.iter().map(|size| listed(&[&format!("x:{size}")], *size)).collect());
        // Successive lists of one node, and the length from which a list may be full afterwards.
        let cases: [(&[&[u64]], usize); 9] = [
            (&[], 3),
            (&[&[9]], 3),
            (&[&[9, 8, 7, 6]], 4),
            (&[&[9, 8, 7], &[9, 8, 7, 6], &[9, 8, 6]], 4),
            // One image is gone, and another one came.
            (&[&[9, 8, 7, 6], &[9, 7, 6, 5]], 4),
            // The smallest image is gone.
            (&[&[9, 8, 7, 6, 5], &[9, 8, 7, 6]], 5),
            // The kubelet's limit may be three by now.
            (&[&[9, 8, 7, 6, 5], &[9, 8, 7]], 3),
            (&[&[9, 8, 7, 6, 5], &[9, 8, 7], &[9, 8, 7, 6]], 4),
            // The kubelet has just started, and may have another limit.
            (&[&[9, 8, 7, 6], &[], &[9, 8]], 3),
        ];
        for (lists, expected) in cases {
            let (_, full) = lists.iter().fold((Inventory::default(), LEAST), |(before, known), sizes| {
                let inventory = list(sizes);
                let full = inventory.shortest_full_list(Some((&before, known)), 0);
                (inventory, full)
            });
            assert_eq!(full, expected, "{lists:?}");
        }
    }

    #[test]
    fn a_list_tells_nothing_of_names_that_it_may_lack() {
        let by_digest = |repository: &str, digit: &str| format!("{repository}@sha256:{}", digit.repeat(64));
        let pinned = |digit| by_digest("quay.io/x/app", digit);
        let tagged = [&pinned("a"), &by_digest("quay.io/y/app", "a"), "quay.io/x/app:1", "quay.io/x/app:2", "z:3"];
        let digests = ["1", "2", "3", "4", "5"].map(|digit| by_digest("quay.io/y/app", digit));
        let digests = digests.each_ref().map(String::as_str);
        let (one_less, other) = (&tagged[..4], pinned("b"));
        let cases: [(&[&str], &str, bool); 9] = [
            (&tagged, "quay.io/x/app:3", true),
            (&tagged, "quay.io/y/app:3", true),
            (&tagged, "quay.io/x/other:3", false),
            // Every digest comes before a tag.
            (&tagged, &other, false),
            (one_less, "quay.io/x/app:3", false),
            (&digests, "quay.io/x/app:3", true),
            (&digests, &other, true),
            (&digests[..4], "quay.io/x/app:3", false),
            (&digests[..4], &other, false),
        ];
        for (names, image, is_unknown) in cases {
            let inventory = Inventory::new(vec![listed(names, 500), listed(&["alpine:3.20"], 100)]);
            let (index, reference) = (inventory.index(1), Reference::parse(image));
            let sighting = index.sight(&reference, index.find(&reference), Some(300), 50);
            assert_eq!(sighting == Sighting::Unknown, is_unknown, "{image} beside {names:?}: {sighting:?}");
        }
    }

    #[test]
    fn an_image_is_found_by_tag_and_by_digest_and_tells_its_digest() {
        let inventory = inventory();
        let digest = format!("sha256:{}", "a".repeat(64));
        for image in [Reference::parse("alpine:3.20"), Reference::new("alpine", None, Some(&digest))] {
            let listed = inventory.find(&image).unwrap_or_else(|| panic!("{image} is listed"));
            assert_eq!(listed.digests(&image).collect::<Vec<_>>(), [digest.as_str()]);
        }
    }
}
