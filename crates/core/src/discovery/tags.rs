//! The newest tags of repositories, as images.

use drop_api::discovery_policy::RegistryQuery;
use regex::Regex;

use super::answer::Repository;
use super::left_out::{LeftOut, Why};
use super::query::host;
use super::version::{Versions, newest_first};
use super::{InvalidSpec, regex};

/// Which tags of a registry are images, and what these are called.
#[derive(Clone, Debug)]
pub struct Tags {
    registry: String,
    filter: Option<Regex>,
    versions: Versions,
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

const DEFAULT_TEMPLATE: &str = "{{.Registry}}/{{.Repository}}:{{.Tag}}";

impl Tags {
    /// Of the query in the field `path`.
    ///
    /// # Errors
    /// Where a regular expression or the template cannot be read.
    pub fn compile(path: &str, query: &RegistryQuery) -> Result<Self, InvalidSpec> {
        let field = |name: &str| format!("{path}.registry.{name}");
        let top = query.top_x.map(|top| usize::try_from(top).ok().filter(|top| *top > 0));
        let template = query.image_template.as_deref().unwrap_or(DEFAULT_TEMPLATE);
        Ok(Self {
            registry: registry_name(&query.url).to_owned(),
            filter: query.tag_filter.as_deref().map(|pattern| regex(&field("tagFilter"), pattern)).transpose()?,
            versions: Versions::compile(&field("versionPattern"), query.version_pattern.as_deref())?,
            top: top
                .unwrap_or(Some(usize::MAX))
                .ok_or_else(|| InvalidSpec::new(field("topX"), "it must be above 0"))?,
            template: parse_template(&field("imageTemplate"), template)?,
        })
    }

    /// The images of a repository, the newest first, and the tags that are none. Tags of
    /// one version stay in the registry's order, as do those without a version, at the end.
    pub fn images(&self, repository: &Repository) -> (Vec<String>, Vec<LeftOut>) {
        let mut left_out = Vec::new();
        let image = |tag: &str| self.image(&repository.path, tag);
        let mut tags = Vec::new();
        for tag in &repository.tags {
            match &self.filter {
                Some(filter) if !filter.is_match(tag) => {
                    left_out.push(LeftOut { image: image(tag).into(), why: Why::TagFilter });
                }
                _ => tags.push((self.versions.of(tag), tag)),
            }
        }
        tags.sort_by(|(left, _), (right, _)| newest_first(left.as_ref(), right.as_ref()));
        let mut images: Vec<_> = tags.into_iter().map(|(_, tag)| image(tag)).collect();
        let older = images.split_off(images.len().min(self.top));
        left_out.extend(older.into_iter().map(|image| LeftOut { image: image.into(), why: Why::TopX }));
        (images, left_out)
    }

    /// That a repository may have newer tags, which were not read.
    pub fn beyond(&self, repository: &Repository) -> Option<LeftOut> {
        let name = || format!("{}/{}", self.registry, repository.path);
        repository.is_cut.then(|| LeftOut { image: name().into(), why: Why::MaxScan })
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

/// How images name the registry at `url`, by its host and port. Docker Hub has several.
#[must_use]
pub fn registry_name(url: &str) -> &str {
    match host(url).unwrap_or_default() {
        "registry-1.docker.io" | "index.docker.io" | "hub.docker.com" => "docker.io",
        host => host,
    }
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
