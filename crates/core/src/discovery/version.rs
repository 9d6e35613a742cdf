//! Versions in tags.

use std::cmp::Ordering;

use regex::Regex;
use semver::{BuildMetadata, Prerelease, Version};

use super::{InvalidSpec, regex};

/// A version: major, then minor and patch, then a pre-release and build metadata. `_`
/// stands for the `+` that tags cannot hold, as Helm writes it. `minor` is `?` where
/// major alone is a version too.
fn semantic(minor: &str) -> String {
    let numbers = format!(r"(?<major>[0-9]+)(?:\.(?<minor>[0-9]+)){minor}(?:\.(?<patch>[0-9]+))?");
    format!(r"{numbers}(?:-(?<pre>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:[_+].*)?")
}

/// How the version of a tag is found.
#[derive(Clone, Debug)]
pub struct Versions {
    pattern: Option<Regex>,
    /// Find a version within a text.
    within: [Regex; 2],
    /// Reads a text that is a version.
    whole: Regex,
}

impl Versions {
    /// `pattern` is the spec's `versionPattern`, in the field `path`.
    ///
    /// # Errors
    /// Where it is no regular expression, or has no group.
    pub fn compile(path: &str, pattern: Option<&str>) -> Result<Self, InvalidSpec> {
        let pattern = pattern.map(|pattern| regex(path, pattern)).transpose()?;
        if pattern.as_ref().is_some_and(|pattern| pattern.captures_len() < 2) {
            let message = "its first group is the version, and it has none: write one such as ^release-(.+)$";
            return Err(InvalidSpec::new(path, message));
        }
        Ok(Self {
            pattern,
            // Digits within a word, as those of a commit's hash, are no version; but the end of
            // a word is, if it has a dot: go1.22.
            within: [
                regex(path, &format!(r"(?:^|[^0-9A-Za-z.])[vV]?{}(?:$|[^0-9A-Za-z])", semantic("?")))?,
                regex(path, &format!(r"[A-Za-z]{}(?:$|[^0-9A-Za-z])", semantic("")))?,
            ],
            whole: regex(path, &format!("^[vV]?{}$", semantic("?")))?,
        })
    }

    /// The version of `tag`: the first group of `versionPattern`, or the first semantic
    /// version in it, with or without `v`, and without minor and patch if need be.
    pub fn of(&self, tag: &str) -> Option<Version> {
        let found = match &self.pattern {
            Some(pattern) => self.whole.captures(pattern.captures(tag)?.get(1)?.as_str())?,
            None => {
                let found = self.within.iter().filter_map(|version| version.captures(tag));
                found.min_by_key(|found| found.get(0).map(|all| all.start()))?
            }
        };
        let number = |group| found.name(group).map_or(Some(0), |number| number.as_str().parse().ok());
        let pre = found.name("pre").map_or(String::new(), |pre| without_leading_zeros(pre.as_str()));
        Some(Version {
            major: number("major")?,
            minor: number("minor")?,
            patch: number("patch")?,
            pre: Prerelease::new(&pre).ok()?,
            build: BuildMetadata::EMPTY,
        })
    }
}

/// `rc.01` is no pre-release to semver.org, but tags are written that way.
fn without_leading_zeros(pre: &str) -> String {
    let identifier = |text: &str| match text.trim_start_matches('0') {
        _ if !text.chars().all(|c| c.is_ascii_digit()) => text.to_owned(),
        "" => "0".to_owned(),
        digits => digits.to_owned(),
    };
    pre.split('.').map(identifier).collect::<Vec<_>>().join(".")
}

/// The newest first by the precedence of <https://semver.org/#spec-item-11>, so a
/// pre-release after its release; whatever has no version comes last.
pub fn newest_first(left: Option<&Version>, right: Option<&Version>) -> Ordering {
    match (left, right) {
        (Some(left), Some(right)) => right.cmp_precedence(left),
        (left, right) => right.is_some().cmp(&left.is_some()),
    }
}
