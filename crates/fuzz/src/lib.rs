//! Foreign text for tests: real texts, changed at random.
//!
//! Random bytes are refused by the first check of a parser. A real text of which a part is cut, repeated or exchanged
//! reaches the deep branches. A test runs some thousand cases; `DROP_FUZZ_MINUTES` lets each run for so long.

use std::time::{Duration, Instant};

/// How many cases a test has, unless `DROP_FUZZ_MINUTES` says for how long it runs.
const CASES: u64 = 2_000;
/// The longest text, in characters.
const LONGEST: usize = 20_000;
/// The most changes of a text.
const CHANGES: usize = 8;
/// Texts that are put in: what separates and quotes, numbers at their limits, and characters of several bytes.
const PIECES: [&str; 40] = [
    "",
    " ",
    "\t",
    "\n",
    "\r\n",
    "\0",
    "\"",
    "\\",
    "\\\"",
    "'",
    ",",
    ";",
    "=",
    ":",
    "://",
    "/",
    "@",
    "<",
    ">",
    "{",
    "}",
    "[",
    "]",
    "{}",
    "[]",
    "null",
    "-",
    "_",
    ".",
    "..",
    "0",
    "-1",
    "1e309",
    "NaN",
    "9223372036854775808",
    "18446744073709551616",
    "99999999999999999999999999",
    "ß",
    "١",
    "🦀",
];

/// Numbers at random: <https://www.jstatsoft.org/article/view/v008i14>.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end.max(1)).unwrap_or(1)).unwrap_or(0)
    }
}

/// Shows the text at which a check panics.
struct Shown<'a>(&'a str, &'a str);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: this text fails: {:?}", self.0, self.1);
        }
    }
}

/// Hands `check` each of `seeds`, and then texts that come from them by random changes. `name` decides which.
pub fn each(name: &str, seeds: &[&str], check: impl Fn(&str)) {
    let minutes = std::env::var("DROP_FUZZ_MINUTES").ok().and_then(|minutes| minutes.parse().ok());
    let until = minutes.map(|minutes: u64| Instant::now() + Duration::from_secs(60 * minutes));
    let seed = name.bytes().fold(88_172_645_463_325_252, |seed: u64, byte| seed.rotate_left(5) ^ u64::from(byte));
    let mut random = Random(seed | 1);
    let run = |text: &str| {
        let shown = Shown(name, text);
        check(text);
        drop(shown);
    };
    seeds.iter().for_each(|seed| run(seed));
    let mut cases = 0;
    while until.map_or(cases < CASES, |until| Instant::now() < until) {
        run(&changed(seeds, &mut random));
        cases += 1;
    }
    eprintln!("{name}: {cases} cases");
}

/// One of `seeds` with some changes.
fn changed(seeds: &[&str], random: &mut Random) -> String {
    let any = |random: &mut Random| -> Vec<char> {
        seeds.get(random.below(seeds.len())).map(|seed| seed.chars().collect()).unwrap_or_default()
    };
    let mut text = any(random);
    for _ in 0..=random.below(CHANGES) {
        let from = random.below(text.len() + 1);
        let most = 1 + random.below(40);
        let to = from + random.below(most.min(text.len() - from + 1));
        let other = any(random);
        let begin = random.below(other.len() + 1);
        let part = match random.below(6) {
            0 => Vec::new(),
            1 => text.get(from..to).unwrap_or_default().repeat(2 + random.below(30)),
            2 => other.get(begin..).unwrap_or_default().iter().copied().take(random.below(80)).collect(),
            3 => text.get(from..to).unwrap_or_default().iter().rev().copied().collect(),
            4 => char::from_u32(u32::try_from(random.below(0x11_0000)).unwrap_or(0)).into_iter().collect(),
            _ => PIECES.get(random.below(PIECES.len())).unwrap_or(&"").repeat(1 + random.below(3)).chars().collect(),
        };
        text.splice(from..to, part);
        text.truncate(LONGEST);
    }
    text.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_differ_from_their_seeds_and_stay_short() {
        let seeds = ["one two three", "<a>; rel=next"];
        let mut random = Random(1);
        let texts: Vec<_> = (0..1_000).map(|_| changed(&seeds, &mut random)).collect();
        assert!(texts.iter().all(|text| text.chars().count() <= LONGEST));
        let different: std::collections::BTreeSet<_> = texts.iter().collect();
        assert!(different.len() > 900, "{}", different.len());
    }
}
