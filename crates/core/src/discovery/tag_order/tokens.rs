//! The words and numbers of a tag.

/// A word or a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Token<'a> {
    pub text: &'a str,
    pub kind: Kind,
    /// The place right before it.
    pub before: Before,
    /// How many separators are before it.
    pub segment: usize,
    /// Whether it reaches from one separator to the next.
    pub is_segment: bool,
}

/// The kind of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Number,
    Word,
    /// Of a commit: `a41e8f9`, or `ged5bcde` as `git describe` writes it.
    Hash,
    /// `x86_64`, `arm64v8`
    Architecture,
}

/// The place right before a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// The begin of the tag.
    Begin,
    /// Another token.
    Nothing,
    Separator(char),
}

/// In lower case. A longer name stands before its prefixes.
const ARCHITECTURES: [&str; 37] = [
    "x86_64", "x86-64", "x86", "x64", "amd64", "i386", "i686", "arm64v8", "arm64-v8", "arm64_v8", "arm64", "aarch64",
    "arm32v5", "arm32v6", "arm32v7", "arm-v5", "arm-v6", "arm-v7", "arm_v6", "arm_v7", "armv5", "armv6", "armv6l",
    "armv7", "armv7l", "armv8", "armhf", "ppc64le", "ppc64", "s390x", "riscv64", "mips64le", "mips64", "mipsle",
    "loong64", "wasm32", "win64",
];

/// Splits `tag` into its tokens, in order.
pub fn of(tag: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = tag;
    let mut before = Before::Begin;
    let mut segment = 0;
    while let Some(first) = rest.chars().next() {
        if !first.is_ascii_alphanumeric() {
            before = Before::Separator(first);
            segment += 1;
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
            continue;
        }
        let whole = (before != Before::Nothing).then(|| length_while(rest, |c| c.is_ascii_alphanumeric()));
        let run = length_while(rest, |c| c.is_ascii_alphanumeric() && c.is_ascii_digit() == first.is_ascii_digit());
        let is_hash = |length: &usize| rest.get(..*length).is_some_and(|text| is_hash(text, before));
        let (kind, length) = if let Some(length) = whole.and_then(|_| architecture(rest)) {
            (Kind::Architecture, length)
        } else if let Some(length) = whole.filter(is_hash) {
            (Kind::Hash, length)
        } else {
            (if first.is_ascii_digit() { Kind::Number } else { Kind::Word }, run)
        };
        let is_segment = whole == Some(length);
        let (text, others) = rest.split_at_checked(length).unwrap_or((rest, ""));
        tokens.push(Token { text, kind, before, segment, is_segment });
        rest = others;
        before = Before::Nothing;
    }
    tokens
}

fn length_while(text: &str, fits: impl Fn(char) -> bool) -> usize {
    text.find(|c| !fits(c)).unwrap_or(text.len())
}

/// Returns the length of the architecture that `text` begins with.
fn architecture(text: &str) -> Option<usize> {
    let is_prefix = |name: &&&str| {
        let (begin, rest) = text.split_at_checked(name.len()).unwrap_or_default();
        begin.eq_ignore_ascii_case(name) && !rest.starts_with(|c: char| c.is_ascii_alphanumeric())
    };
    ARCHITECTURES.iter().find(is_prefix).map(|name| name.len())
}

/// Whether a segment is the hash of a commit. A hash of digits alone looks like a number.
fn is_hash(text: &str, before: Before) -> bool {
    let is_hex = |text: &str| text.len() >= 7 && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
    if text.strip_prefix('g').is_some_and(is_hex) {
        return true;
    }
    let has = |fits: fn(&char) -> bool| text.chars().any(|c| fits(&c));
    let is_mixed = has(char::is_ascii_digit) && has(char::is_ascii_alphabetic);
    // In 5.4.0a20240310 the end is a pre-release.
    let number = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let is_pre_release = before == Before::Separator('.')
        && text.len() - number.len() < 4
        && number.strip_prefix(['a', 'b', 'c']).is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit()));
    // 20250906a is the second image of a day.
    let is_count = text.split_at_checked(8).is_some_and(|(day, letter)| letter.len() == 1 && super::is_day(day));
    is_hex(text) && is_mixed && !is_pre_release && !is_count
}
