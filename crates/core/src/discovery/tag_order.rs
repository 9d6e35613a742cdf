//! Orders the tags of a repository from the oldest to the newest, by the tags' own text.
//!
//! A tag becomes a [`SortKey`]: bytes that compare as people compare the tags. So the order is total, a comparison
//! costs no more than the length of two tags, and a key is a few times as long as its tag. `docs/newest-versions.md`
//! shows the order as a table.

mod dates;
mod tokens;
mod words;

use std::collections::BTreeSet;
use std::ops::Range;

use dates::{compact_date, is_day, pairs};
use tokens::{Before, Kind, Token};
use words::Stage;

/// How new a tag is among the tags of its list: the greater, the newer. Keys of different lists do not compare.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SortKey(Vec<u8>);

/// The properties of a list's tags that help to read each tag.
#[derive(Debug, Default)]
pub struct Neighbours<'a> {
    /// The first numbers of versions with dots: 22 of `22.9.0` and of `release-22.9`.
    leads: BTreeSet<&'a str>,
    /// The segments of tags that are hashes, with the length of the hash. The hash of a commit may consist of digits
    /// alone, as `6028143` beside `a41e8f9`.
    hashes: BTreeSet<(usize, usize)>,
    /// Whether a `versionPattern` found the texts, so that each number is a version.
    are_versions: bool,
}

/// The kind of a tag, the newest last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// A build without a version: `sha-1234567`, `pr-123`, or a number without dots beside versions with dots.
    Build,
    /// A name: `latest`, `main`, `trixie`.
    Name,
    /// A date or a long number is in it: `nightly-20250907`, `staging-1552613297`.
    Dated,
    /// A version is in it: `ubuntu-v13.2.1`.
    Versioned,
    /// It begins with a version: `v13.2.1`, `3.20-alpine`, `2025-09-07`.
    Version,
}

/// How surely the number at some place is the version of the tag, the surest last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Strength {
    /// `release-v5`, or the version of the base image: `ubuntu22.04`.
    Weak,
    Date,
    /// `release1.9`
    Glued,
    /// `release-1.9`
    Dotted,
    /// `release-v1.9`
    Marked,
    /// The tag begins with it.
    Whole,
}

/// A number of several parts, perhaps a date with its time.
struct Version<'a> {
    parts: Vec<&'a str>,
    tokens: Range<usize>,
    is_dotted: bool,
    is_date: bool,
}

// The kinds of tokens behind a version, from the oldest to the newest tag. A bare tag (`END`) is newer than a tag with
// a word behind its version, and older than one with a revision. Hashes and architectures do not affect the order.
const UNORDERED: u8 = 1;
const WORD: u8 = 2;
const END: u8 = 3;
const NUMBER: u8 = 4;
const REVISION: u8 = 5;

/// Comes after all pre-releases.
const RELEASE: u8 = u8::MAX;

/// The shortest number without dots that may be a build instead of a version. `1809` is no version beside
/// `10.0.20348.2227`, but `22` is one beside `20.18.0`.
const LONG: usize = 4;

/// The shortest number that is a time or a build count at any place: `1552613297`.
const LONGEST: usize = 9;

impl<'a> Neighbours<'a> {
    /// Collects the properties of the tags of one repository.
    pub fn of(tags: impl Iterator<Item = &'a str>) -> Self {
        let mut neighbours = Self::default();
        for tag in tags {
            let tokens = tokens::of(tag);
            let hashes = tokens.iter().filter(|token| token.kind == Kind::Hash);
            neighbours.hashes.extend(hashes.map(|token| (token.segment, token.text.len())));
            let is_told = |at: usize| {
                let word = at.checked_sub(1).and_then(|at| tokens.get(at));
                is_mark(&tokens, at) || word.is_some_and(|word| words::is_release(word.text))
            };
            let told = (0..tokens.len()).filter(|at| begin(&tokens) == Some(*at) || is_told(*at));
            let versions = told.filter_map(|at| version(&tokens, at));
            let dotted = versions.filter(|version| version.is_dotted && !version.is_date);
            neighbours.leads.extend(dotted.filter_map(|version| version.parts.first().copied()));
        }
        neighbours
    }

    /// The properties of texts that a `versionPattern` found.
    pub fn of_versions() -> Self {
        Self { are_versions: true, ..Self::default() }
    }

    /// Returns how new `tag` is among these tags.
    pub fn key(&self, tag: &str) -> SortKey {
        let mut tokens = tokens::of(tag);
        for token in &mut tokens {
            let is_hash = token.kind == Kind::Number
                && token.is_segment
                && self.hashes.contains(&(token.segment, token.text.len()))
                && compact_date(token.text).is_none();
            if is_hash {
                token.kind = Kind::Hash;
            }
        }
        match self.find(&tokens) {
            Some((version, strength)) => with_version(&tokens, &version, strength),
            None => without_version(&tokens),
        }
    }

    /// Returns the version of a tag: the surest number in it, and the first of equally sure ones.
    fn find<'t>(&self, tokens: &[Token<'t>]) -> Option<(Version<'t>, Strength)> {
        let mut best: Option<(Version<'t>, Strength)> = None;
        for (at, token) in tokens.iter().enumerate().filter(|(_, token)| token.kind == Kind::Number) {
            // A version does not begin in the middle of another one.
            if token.before == Before::Separator('.') && at > 0 && is_number(tokens.get(at - 1)) {
                continue;
            }
            let Some(found) = version(tokens, at) else { continue };
            let Some(strength) = self.strength(tokens, at, &found) else { continue };
            if best.as_ref().is_none_or(|(_, other)| strength > *other) {
                best = Some((found, strength));
            }
        }
        best
    }

    /// Returns how surely the number at `at` is the version; `None` if it is no version.
    fn strength(&self, tokens: &[Token<'_>], at: usize, version: &Version<'_>) -> Option<Strength> {
        let first = version.parts.first().copied().unwrap_or_default();
        if begin(tokens) == Some(at) && self.is_version(tokens, version, first) {
            return Some(Strength::Whole);
        }
        if version.is_date || !version.is_dotted && first.len() >= LONGEST {
            return Some(Strength::Date);
        }
        let word = at.checked_sub(1).and_then(|at| tokens.get(at));
        match (version.is_dotted, is_mark(tokens, at)) {
            (true, true) => Some(Strength::Marked),
            (true, false) if word.is_some_and(|word| words::is_base(word.text)) => Some(Strength::Weak),
            (true, false) if tokens.get(at)?.before == Before::Nothing => Some(Strength::Glued),
            (true, false) => Some(Strength::Dotted),
            (false, true) if begin(tokens) != Some(at) => Some(Strength::Weak),
            (false, _) => None,
        }
    }

    /// Whether a tag that begins with a number begins with a version. It does not if the number is a commit hash or a
    /// build count (`6028143` beside `1.5.0`), a snapshot's date (`20240923` or `2024-09-23` beside it), or like 89 in
    /// `89-1.5`.
    fn is_version(&self, tokens: &[Token<'_>], version: &Version<'_>, first: &str) -> bool {
        let is_one_number = !version.is_dotted && (version.tokens.len() == 1 || version.is_date);
        if !is_one_number || self.are_versions || self.leads.is_empty() || self.leads.contains(first) {
            return true;
        }
        let next = tokens.get(version.tokens.end);
        // `3355.v388858a_47b_33`, where the hash of a commit takes the place of the second number.
        if next.is_some_and(|next| next.before == Before::Separator('.') && next.kind != Kind::Number) {
            return true;
        }
        let glued = next.filter(|token| token.before == Before::Nothing);
        let is_clear = glued.is_none_or(|word| words::is_known(word.text));
        let following = self::version(tokens, version.tokens.end).filter(|following| following.is_dotted);
        let follows_another =
            following.is_some_and(|it| it.parts.first().is_some_and(|part| self.leads.contains(part)));
        first.len() < LONG && is_clear && !follows_another
    }
}

/// Returns the position of the number that a tag begins with, with or without `v`.
fn begin(tokens: &[Token<'_>]) -> Option<usize> {
    match (tokens.first()?.kind, is_mark(tokens, 1)) {
        (Kind::Number, _) => Some(0),
        (_, true) => Some(1),
        _ => None,
    }
}

/// Whether the number at `at` has a `v` before it that stands alone. A `v` that a dot joins to a number is a part of that
/// version.
fn is_mark(tokens: &[Token<'_>], at: usize) -> bool {
    let mark = at.checked_sub(1).and_then(|at| tokens.get(at));
    let number = tokens.get(at).filter(|number| number.kind == Kind::Number && number.before == Before::Nothing);
    let is_joined = |mark: &Token<'_>| {
        mark.before == Before::Separator('.') && at > 1 && is_number(tokens.get(at.saturating_sub(2)))
    };
    mark.zip(number).is_some_and(|(mark, _)| {
        mark.text.eq_ignore_ascii_case("v") && mark.before != Before::Nothing && !is_joined(mark)
    })
}

fn is_number(token: Option<&Token<'_>>) -> bool {
    token.is_some_and(|token| token.kind == Kind::Number)
}

/// Reads the version that begins with the number at `at`.
fn version<'a>(tokens: &[Token<'a>], at: usize) -> Option<Version<'a>> {
    let first = tokens.get(at).filter(|token| token.kind == Kind::Number)?;
    if let Some((parts, length)) = date(tokens, at) {
        let is_dotted = length > 1 && tokens.get(at + 1)?.before == Before::Separator('.');
        return Some(Version { parts, tokens: at..at + length, is_dotted, is_date: true });
    }
    let mut parts = vec![first.text];
    let mut end = at + 1;
    while let Some(next) = tokens.get(end) {
        if next.kind == Kind::Number && next.before == Before::Separator('.') {
            parts.push(next.text);
            end += 1;
        } else if parts.len() == 1 && next.before == Before::Nothing && next.text == "u" {
            // Java's 8u392 means 8.0.392.
            let Some(update) = tokens.get(end + 1).filter(|_| is_number(tokens.get(end + 1))) else { break };
            parts.push(update.text);
            end += 2;
        } else {
            break;
        }
    }
    Some(Version { is_dotted: parts.len() > 1, parts, tokens: at..end, is_date: false })
}

/// Returns the parts of a date and of the time behind it, and the number of their tokens: `20250907`, `20250907161309`,
/// `2025-09-07`, `2025-09-07T16-13-09Z`; `07-09-2025`, or `09-17-2025` where that is no day with the month in the middle.
fn date<'a>(tokens: &[Token<'a>], at: usize) -> Option<(Vec<&'a str>, usize)> {
    let texts = |count: usize| tokens.get(at..at + count).map(|tokens| tokens.iter().map(|token| token.text));
    let first = tokens.get(at)?;
    let (mut parts, mut length) = match compact_date(first.text) {
        Some(parts) => (parts, 1),
        None => {
            let separator = tokens.get(at + 1)?.before;
            if tokens.get(at + 2)?.before != separator {
                return None;
            }
            let parts: Vec<_> = texts(3)?.collect();
            let [one, two, three] = parts.as_slice() else { return None };
            let orders = match (separator, [one.len(), two.len(), three.len()]) {
                (Before::Separator('-' | '_' | '.'), [4, 2, 2]) => vec![[*one, *two, *three]],
                (Before::Separator('-' | '_'), [2, 2, 4]) => vec![[*three, *two, *one], [*three, *one, *two]],
                _ => return None,
            };
            let date = orders.into_iter().find(|date| is_day(date.concat().as_str()))?;
            (date.to_vec(), 3)
        }
    };
    let is_time = |token: &&Token<'_>| token.before == Before::Nothing && token.text.eq_ignore_ascii_case("t");
    if tokens.get(at + length).filter(is_time).is_some() {
        let time = tokens.get(at + length + 1..).unwrap_or_default();
        let time: Vec<_> = time.iter().take(3).take_while(|token| token.kind == Kind::Number).collect();
        length += if time.is_empty() { 0 } else { 1 + time.len() };
        for token in time {
            parts.extend(pairs(token.text));
        }
        let is_zulu = |token: &&Token<'_>| token.before == Before::Nothing && token.text.eq_ignore_ascii_case("z");
        length += usize::from(tokens.get(at + length).filter(is_zulu).is_some());
    }
    Some((parts, length))
}

fn with_version(tokens: &[Token<'_>], version: &Version<'_>, strength: Strength) -> SortKey {
    let class = match strength {
        Strength::Whole => Class::Version,
        Strength::Date => Class::Dated,
        Strength::Weak | Strength::Glued | Strength::Dotted | Strength::Marked => Class::Versioned,
    };
    let mut key = SortKey(vec![class as u8]);
    // A missing part counts as 0.
    let length = version.parts.iter().rposition(|part| part.contains(|c| c != '0')).map_or(0, |last| last + 1);
    for part in version.parts.iter().take(length) {
        key.0.push(NUMBER);
        key.number(part);
    }
    key.0.push(END);
    let stage = stage(tokens, version);
    match &stage {
        Some((stage, at)) => key.pre_release(tokens, *stage, at.clone()),
        None => key.0.push(RELEASE),
    }
    let is_other = |at: &usize| !version.tokens.contains(at) && !stage.as_ref().is_some_and(|(_, of)| of.contains(at));
    let begin = if is_mark(tokens, version.tokens.start) { version.tokens.start - 1 } else { version.tokens.start };
    let (before, behind) = (0..begin, version.tokens.end..tokens.len());
    for part in [behind, before] {
        let others = part.filter(is_other).filter_map(|at| Some((at, tokens.get(at)?)));
        key.others(tokens, others, Some(version.tokens.end));
    }
    // Of 3 and 3.0.0, the shorter tag is the one that moves.
    key.0.push(u8::MAX.saturating_sub(u8::try_from(version.parts.len()).unwrap_or(u8::MAX)));
    key
}

fn without_version(tokens: &[Token<'_>]) -> SortKey {
    let is_build = tokens.first().is_some_and(|first| first.kind == Kind::Number)
        || tokens.iter().any(|token| token.kind == Kind::Hash || words::is_build(token.text));
    let mut key = SortKey(vec![if is_build { Class::Build } else { Class::Name } as u8]);
    key.others(tokens, tokens.iter().enumerate(), None);
    key
}

/// Returns the pre-release of a tag and its tokens: a letter right behind the version (`3.14.0a1`), or the first known
/// word for a pre-release (`1.0.0-alpine-rc1`, `beta-5.7.1`).
fn stage(tokens: &[Token<'_>], version: &Version<'_>) -> Option<(Stage, Range<usize>)> {
    let is_followed = |at: usize| {
        let next = tokens.get(at + 1).filter(|next| next.kind == Kind::Number && next.before == Before::Nothing);
        next.is_some() && !version.tokens.contains(&(at + 1))
    };
    let end = version.tokens.end;
    let glued = tokens.get(end).filter(|token| token.kind == Kind::Word && token.before == Before::Nothing);
    // 20250906a is the second image of that day.
    let is_count = |token: &&Token<'_>| version.is_date && token.text.len() == 1 && !is_followed(end);
    let of_glued = glued
        .filter(|token| !is_count(token))
        .and_then(|token| words::glued(token.text, is_followed(end)))
        .map(|stage| (stage, end));
    let (stage, at) = of_glued.or_else(|| {
        let others = tokens.iter().enumerate().filter(|(at, token)| {
            token.kind == Kind::Word && !version.tokens.contains(at) && (token.before != Before::Nothing || *at == end)
        });
        others.filter_map(|(at, token)| Some((words::stage(token.text, is_followed(at))?, at))).next()
    })?;
    // The number of the pre-release, and all tokens that dots join to it: rc.1, rc-1, alpha.beta.
    let mut last = at + 1;
    while let Some(next) = tokens.get(last).filter(|_| !version.tokens.contains(&last)) {
        let is_joined = matches!(next.before, Before::Nothing | Before::Separator('.'));
        if !(is_joined || last == at + 1 && next.kind == Kind::Number) {
            break;
        }
        last += 1;
    }
    Some((stage, at..last))
}

impl SortKey {
    /// Appends a number without leading zeros. Of two numbers, the one with more digits is the greater.
    fn number(&mut self, digits: &str) {
        let digits = digits.trim_start_matches('0');
        self.0.push(u8::try_from(digits.len()).unwrap_or(u8::MAX));
        self.0.extend(digits.bytes());
    }

    /// Appends a word: code names by their release, other words by the alphabet.
    fn word(&mut self, word: &str) {
        self.0.push(words::rank(word));
        self.0.extend(word.bytes().map(|byte| byte.to_ascii_lowercase()));
        self.0.push(0);
    }

    /// Appends a pre-release. By <https://semver.org/#spec-item-11> a missing part comes before numbers, and numbers
    /// before words. Python's `1.0a1.dev2` comes before `1.0a1`.
    fn pre_release(&mut self, tokens: &[Token<'_>], stage: Stage, at: Range<usize>) {
        const DEVELOPMENT: u8 = 0;
        const END: u8 = 1;
        const UNORDERED: u8 = 2;
        const NUMBER: u8 = 3;
        const WORD: u8 = 4;
        self.0.push(stage as u8);
        let mut tokens = tokens.get(at).unwrap_or_default().iter();
        let word = tokens.next().filter(|_| stage == Stage::Other);
        self.word(word.map_or("", |word| word.text));
        for token in tokens {
            match token.kind {
                Kind::Hash | Kind::Architecture => self.0.push(UNORDERED),
                Kind::Number => {
                    self.0.push(NUMBER);
                    self.number(token.text);
                }
                Kind::Word if words::stage(token.text, true) == Some(Stage::Development) => self.0.push(DEVELOPMENT),
                Kind::Word => {
                    self.0.push(WORD);
                    self.word(token.text);
                }
            }
        }
        self.0.push(END);
    }

    /// Appends the tokens before or behind a version that ends at `end`, or all of a tag without one, in natural order.
    fn others<'t>(
        &mut self,
        all: &[Token<'_>],
        tokens: impl Iterator<Item = (usize, &'t Token<'t>)>,
        end: Option<usize>,
    ) {
        for (at, token) in tokens {
            let is_revision = || {
                let is_glued = Some(at) == end && token.before == Before::Nothing && token.text.len() <= 2;
                is_glued || words::is_revision(token.text) && is_number(all.get(at + 1))
            };
            match token.kind {
                Kind::Hash | Kind::Architecture => self.0.push(UNORDERED),
                Kind::Number => {
                    self.0.push(NUMBER);
                    self.number(token.text);
                }
                Kind::Word if end.is_some() && words::is_release(token.text) => {}
                Kind::Word => {
                    self.0.push(if is_revision() { REVISION } else { WORD });
                    self.word(token.text);
                }
            }
        }
        self.0.push(END);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes random tags; some contain characters that tags cannot have.
    fn random_tags(count: usize) -> Vec<String> {
        const PARTS: [&str; 47] = [
            "1",
            "0",
            "00",
            "12",
            "2025",
            "20250907",
            "20259907",
            "2025-09-07",
            "161309",
            "1552613297",
            "6028143",
            "a41e8f9",
            "ged5bcde",
            "dec2023",
            "Jan",
            "b20240405",
            "v",
            "V",
            "u",
            "t",
            "T16-13-09Z",
            "z",
            "rc",
            "RC",
            "alpha",
            "b",
            "dev",
            "post",
            "r",
            "p",
            "w",
            "Final",
            "alpine",
            "x86_64",
            "amd64",
            "latest",
            "noble",
            "pr",
            "sha",
            ".",
            "-",
            "_",
            "..",
            "-",
            ".",
            "ß",
            "١",
        ];
        // https://www.jstatsoft.org/article/view/v008i14
        let mut state = 88_172_645_463_325_252_u64;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).unwrap()
        };
        (0..count).map(|_| (0..random(9)).map(|_| PARTS[random(PARTS.len())]).collect()).collect()
    }

    #[test]
    fn any_tags_have_one_order_and_keys_of_bounded_length() {
        let tags = random_tags(20_000);
        for tags in tags.chunks(200) {
            let of = |tags: &[String]| {
                let neighbours = Neighbours::of(tags.iter().map(String::as_str));
                let mut keys: Vec<_> = tags.iter().map(|tag| (neighbours.key(tag), tag.clone())).collect();
                keys.sort();
                keys
            };
            let keys = of(tags);
            let backwards: Vec<_> = tags.iter().rev().cloned().collect();
            assert_eq!(keys, of(&backwards), "the order of the registry does not matter");
            for (key, tag) in &keys {
                assert!(key.0.len() <= 4 * tag.len() + 16, "{tag}: {}", key.0.len());
            }
        }
    }

    #[test]
    fn long_tags_have_keys_too() {
        for part in ["1", "1.", "1-", "a", "a1", "0", "2025-09-07-", "x86_64-", "rc.", "v1-", "1u"] {
            let tag = part.repeat(20_000 / part.len());
            assert!(Neighbours::of([tag.as_str()].into_iter()).key(&tag).0.len() <= 4 * tag.len() + 16, "{part}");
        }
    }
}
