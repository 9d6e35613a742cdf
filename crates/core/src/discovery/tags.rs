//! The newest tags of repositories, as images.

use drop_api::cached_image::TAG;
use drop_api::discovery_policy::RegistryQuery;
use regex::Regex;

use super::answer::Repository;
use super::left_out::{LeftOut, Why};
use super::query::host;
use super::tag_order::{Neighbours, SortKey};
use super::{InvalidSpec, regex};
use crate::objects::reference::Reference;

/// Selects the tags of a registry that are images, and makes the images' names.
#[derive(Clone, Debug)]
pub struct Tags {
    registry: String,
    grammar: Regex,
    /// Matches tags that hold signatures and other artifacts. <https://github.com/sigstore/cosign> adds an ending such
    /// as `.sig`; the referrers tags of the OCI distribution specification have no ending.
    signature: Regex,
    filter: Option<Regex>,
    version: Option<Regex>,
    top: usize,
    template: Vec<Part>,
}

/// A part of an image's name.
#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Registry,
    Repository,
    Tag,
}

/// The longest tag, in bytes.
const MAX_TAG: usize = 128;

/// Host names that people write for Docker Hub.
const DOCKER_HUB: [&str; 7] = [
    "docker.io",
    "hub.docker.com",
    "index.docker.io",
    "registry-1.docker.io",
    "registry.docker.io",
    "registry.hub.docker.com",
    "www.docker.io",
];

const DEFAULT_TEMPLATE: &str = "{{.Registry}}/{{.Repository}}:{{.Tag}}";

impl Tags {
    /// Compiles the query in the field `path`.
    ///
    /// # Errors
    /// If a regular expression or the template is not valid.
    pub fn compile(path: &str, query: &RegistryQuery) -> Result<Self, InvalidSpec> {
        let field = |name: &str| format!("{path}.registry.{name}");
        let top = query.top_x.map(|top| usize::try_from(top).ok().filter(|top| *top > 0));
        let template = query.image_template.as_deref().unwrap_or(DEFAULT_TEMPLATE);
        let version = query.version_pattern.as_deref();
        let version = version.map(|pattern| regex(&field("versionPattern"), pattern)).transpose()?;
        if version.as_ref().is_some_and(|pattern| pattern.captures_len() < 2) {
            let message = "its first group is the version, and it has none: write one such as ^release-(.+)$";
            return Err(InvalidSpec::new(field("versionPattern"), message));
        }
        Ok(Self {
            registry: registry_name(&query.url).to_owned(),
            grammar: regex("", TAG)?,
            signature: regex("", "^sha(256|512)-[0-9a-f]{64}")?,
            filter: query.tag_filter.as_deref().map(|pattern| regex(&field("tagFilter"), pattern)).transpose()?,
            version,
            top: top
                .unwrap_or(Some(usize::MAX))
                .ok_or_else(|| InvalidSpec::new(field("topX"), "it must be above 0"))?,
            template: parse_template(&field("imageTemplate"), template)?,
        })
    }

    /// Returns the images of a repository, the newest first, and the tags that are no images. Of tags that are equally
    /// new, as hashes are, the last one in the registry's list comes first.
    pub fn images(&self, repository: &Repository) -> (Vec<String>, Vec<LeftOut>) {
        let mut left_out = Vec::new();
        let image = |tag: &str| self.image(&repository.path, tag);
        let mut tags = Vec::new();
        for tag in &repository.tags {
            match self.why_not(tag) {
                Some(why) => left_out.push(LeftOut { image: image(tag).into(), why }),
                None => tags.push(tag.as_str()),
            }
        }
        let mut tags = self.keys(&tags);
        tags.sort_by(|(left, _), (right, _)| left.cmp(right));
        let mut images: Vec<_> = tags.into_iter().rev().map(|(_, tag)| image(tag)).collect();
        let older = images.split_off(images.len().min(self.top));
        left_out.extend(older.into_iter().map(|image| LeftOut { image: image.into(), why: Why::TopX }));
        (images, left_out)
    }

    /// Returns the reason why a tag is not ordered.
    fn why_not(&self, tag: &str) -> Option<Why> {
        if !self.grammar.is_match(tag) || tag.len() > MAX_TAG {
            return Some(Why::NotATag);
        }
        if self.signature.is_match(tag) {
            return Some(Why::Signature);
        }
        self.filter.as_ref().filter(|filter| !filter.is_match(tag)).map(|_| Why::TagFilter)
    }

    /// Returns how new each tag is; `None`, the oldest, if `versionPattern` finds nothing in it.
    fn keys<'a>(&self, tags: &[&'a str]) -> Vec<(Option<SortKey>, &'a str)> {
        let neighbours = match self.version {
            None => Neighbours::of(tags.iter().copied()),
            Some(_) => Neighbours::of_versions(),
        };
        let version = |tag: &'a str| match &self.version {
            None => Some(tag),
            Some(pattern) => pattern.captures(tag)?.get(1).map(|version| version.as_str()),
        };
        tags.iter().map(|&tag| (version(tag).map(|version| neighbours.key(version)), tag)).collect()
    }

    /// Returns the reason why a repository may have newer tags that Drop did not read; `None` if it has none.
    pub fn beyond(&self, repository: &Repository) -> Option<LeftOut> {
        let name = format!("{}/{}", self.registry, repository.path);
        Some(LeftOut { image: name.into(), why: repository.end.why()? })
    }

    /// Whether `image`, a full reference, may be a tag of the repository.
    pub fn may_be_of(&self, repository: &str, image: &str) -> bool {
        self.tag_of(repository, image).is_some()
    }

    /// Returns the tag of the repository that `image`, a full reference, may be; empty if the template has no tag.
    fn tag_of<'a>(&self, repository: &str, image: &'a str) -> Option<&'a str> {
        /// A placeholder for any tag. No part of a reference changes how another part is spelled.
        const ANY: &str = "any-tag-of-it";
        let full = Reference::parse(&self.image(repository, ANY));
        match (full.as_str().split_once(ANY), full.as_str().rsplit_once(ANY)) {
            (Some((start, _)), Some((_, end))) => {
                let tag = image.strip_prefix(start)?.strip_suffix(end)?;
                (!tag.is_empty()).then_some(tag)
            }
            _ => (image == full.as_str()).then_some(""),
        }
    }

    /// Returns the newest of `images` of the repository that the policy still allows: at most `topX`, and at most
    /// `most`.
    pub fn newest<'a>(&self, repository: &str, images: impl Iterator<Item = &'a str>, most: usize) -> Vec<&'a str> {
        let tags = images.filter_map(|image| Some((self.tag_of(repository, image)?, image)));
        let (tags, images): (Vec<_>, Vec<_>) = tags.filter(|(tag, _)| self.why_not(tag).is_none()).unzip();
        let keys = self.keys(&tags).into_iter().map(|(key, _)| key);
        let mut images: Vec<_> = keys.zip(images).collect();
        images.sort_by(|left, right| right.cmp(left));
        images.into_iter().take(self.top.min(most)).map(|(_, image)| image).collect()
    }

    fn image(&self, repository: &str, tag: &str) -> String {
        let text = |part: &'_ Part| match part {
            Part::Text(text) => text.clone(),
            Part::Registry => self.registry.clone(),
            Part::Repository => repository.to_owned(),
            Part::Tag => tag.to_owned(),
        };
        self.template.iter().map(text).collect()
    }
}

/// Returns the name of the registry at `url` in image references: its host, and its port unless that is 443. Docker Hub
/// has several names.
#[must_use]
pub fn registry_name(url: &str) -> &str {
    let host = host(url).unwrap_or_default();
    let host = host.strip_suffix(":443").filter(|_| url.starts_with("https://")).unwrap_or(host);
    if DOCKER_HUB.iter().any(|name| name.eq_ignore_ascii_case(host)) { "docker.io" } else { host }
}

fn parse_template(path: &str, template: &str) -> Result<Vec<Part>, InvalidSpec> {
    let invalid = |what: &str| {
        let message = format!("{what} in {template:?}: write {{{{.Registry}}}}, {{{{.Repository}}}} and {{{{.Tag}}}}");
        InvalidSpec::new(path, message)
    };
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((text, tail)) = rest.split_once("{{") {
        let (field, tail) = tail.split_once("}}").ok_or_else(|| invalid("{{ without }}"))?;
        parts.push(Part::Text(text.to_owned()));
        parts.push(match field.trim() {
            ".Registry" => Part::Registry,
            ".Repository" => Part::Repository,
            ".Tag" => Part::Tag,
            other => return Err(invalid(&format!("unknown {{{{{other}}}}}"))),
        });
        rest = tail;
    }
    parts.push(Part::Text(rest.to_owned()));
    let has_brace = |part: &Part| matches!(part, Part::Text(text) if text.contains(['{', '}']));
    if parts.iter().any(has_brace) { Err(invalid("a single brace")) } else { Ok(parts) }
}
