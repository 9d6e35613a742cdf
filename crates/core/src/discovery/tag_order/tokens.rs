//! The words and numbers of a tag.

use super::{dates, words};

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
    with_dates_in_digits(tokens)
}

/// The days of a month as dates in digits write them.
const DAYS: [&str; 31] = [
    "01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19",
    "20", "21", "22", "23", "24", "25", "26", "27", "28", "29", "30", "31",
];

/// Replaces dates with the name of a month by the tokens of the same dates in digits: `dec2023`, `2023-Dec` and
/// `01dec2023` by those of `2023-12-01`.
fn with_dates_in_digits(tokens: Vec<Token<'_>>) -> Vec<Token<'_>> {
    if !tokens.iter().any(|token| words::month(token.text).is_some()) {
        return tokens;
    }
    let mut replaced = Vec::with_capacity(tokens.len() + 1);
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let Some((date, length)) = named_date(&tokens, at) else {
            replaced.push(*token);
            at += 1;
            continue;
        };
        let befores = [token.before, Before::Separator('-'), Before::Separator('-')];
        replaced.extend(date.into_iter().zip(befores).map(|(text, before)| Token {
            text,
            kind: Kind::Number,
            before,
            segment: token.segment,
            is_segment: false,
        }));
        at += length;
    }
    replaced
}

/// Returns year, month and day of the date that begins at `at` with or before the name of a month, and the number of
/// its tokens. A date without a day stands for the first day of its month.
fn named_date<'a>(tokens: &[Token<'a>], at: usize) -> Option<([&'a str; 3], usize)> {
    let token = |offset: usize| tokens.get(at + offset);
    let year = |offset| token(offset).filter(|it| it.kind == Kind::Number && is_year(it.text)).map(|it| it.text);
    let month = |offset| token(offset).and_then(|it| words::month(it.text));
    let day = |offset| {
        let day: usize = token(offset).filter(|it| it.text.len() <= 2)?.text.parse().ok()?;
        DAYS.get(day.checked_sub(1)?).copied()
    };
    // In 1.2.3-jan-2024 the 3 is no day, and in jan-2024.1.2 the year is a version's.
    let is_joined =
        |at: usize| tokens.get(at).is_some_and(|it| it.kind == Kind::Number && it.before == Before::Separator('.'));
    let is_begin = token(0)?.before != Before::Nothing && !is_joined(at);
    let is_whole = |length: usize| is_begin && !is_joined(at + length);
    // The parts of 5-jan2024 do not belong together.
    let is_even = || token(1).map(|it| it.before) == token(2).map(|it| it.before);
    let year_first = || Some([year(0)?, month(1)?, day(2)?]);
    let day_first = || Some([year(2)?, month(1)?, day(0)?]);
    let month_first = || Some([year(2)?, month(0)?, day(1)?]);
    let year_and_month = || Some([year(0)?, month(1)?, "01"]);
    let month_and_year = || Some([year(1)?, month(0)?, "01"]);
    let with_day = year_first().or_else(day_first).or_else(month_first).filter(|_| is_even() && is_whole(3));
    let without = || year_and_month().or_else(month_and_year).filter(|_| is_whole(2));
    with_day.map(|date| (date, 3)).or_else(|| without().map(|date| (date, 2)))
}

fn is_year(text: &str) -> bool {
    text.len() == 4 && ("1990"..="2099").contains(&text)
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
    // 20250906a is the second image of a day, and b20240405 the build of one.
    let is_count = text.split_at_checked(8).is_some_and(|(day, letter)| letter.len() == 1 && dates::is_day(day));
    let is_build = text.strip_prefix(|c: char| c.is_ascii_alphabetic()).and_then(dates::compact_date).is_some();
    // dec2023, 2024feb29
    let month = text.trim_matches(|c: char| c.is_ascii_digit());
    let is_date = words::month(month).is_some() && text.split(month).any(is_year);
    is_hex(text) && is_mixed && !is_pre_release && !is_count && !is_build && !is_date
}
