//! The meaning of words in tags.

/// How far a pre-release is from its release, the furthest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Development,
    Alpha,
    Beta,
    /// Milestones and previews, and unknown pre-releases.
    Other,
    Candidate,
}

/// Releases of Debian and Ubuntu, the oldest first.
const CODE_NAMES: [&str; 34] = [
    "wheezy", "trusty", "utopic", "vivid", "jessie", "wily", "xenial", "yakkety", "zesty", "stretch", "artful",
    "bionic", "cosmic", "disco", "buster", "eoan", "focal", "groovy", "hirsute", "bullseye", "impish", "jammy",
    "kinetic", "lunar", "bookworm", "mantic", "noble", "oracular", "plucky", "trixie", "questing", "resolute", "forky",
    "sid",
];

/// Distributions and runtimes that images are built on. A number right behind such a word is the version of that base
/// image, not of the image itself.
const BASES: [&str; 29] = [
    "alma",
    "almalinux",
    "alpine",
    "base",
    "busybox",
    "centos",
    "cuda",
    "debian",
    "fedora",
    "go",
    "golang",
    "java",
    "jdk",
    "jre",
    "ltsc",
    "nanoserver",
    "node",
    "openjdk",
    "php",
    "py",
    "python",
    "rhel",
    "rocky",
    "rockylinux",
    "rocm",
    "ruby",
    "ubi",
    "ubuntu",
    "windowsservercore",
];

/// The months as dates in digits write them, with their names.
const MONTHS: [(&str, &str); 12] = [
    ("01", "january"),
    ("02", "february"),
    ("03", "march"),
    ("04", "april"),
    ("05", "may"),
    ("06", "june"),
    ("07", "july"),
    ("08", "august"),
    ("09", "september"),
    ("10", "october"),
    ("11", "november"),
    ("12", "december"),
];

const DEVELOPMENT: [&str; 19] = [
    "canary",
    "daily",
    "dev",
    "develop",
    "edge",
    "experimental",
    "head",
    "insiders",
    "main",
    "master",
    "mr",
    "next",
    "nightly",
    "pr",
    "snapshot",
    "testing",
    "trunk",
    "unstable",
    "wip",
];
/// `ctp` is SQL Server's, `ec` and `fc` are OpenShift's.
const OTHER: [&str; 9] = ["ctp", "ea", "eap", "ec", "fc", "milestone", "pre", "prerelease", "preview"];
/// `cu` is SQL Server's.
const REVISIONS: [&str; 15] =
    ["build", "cu", "fix", "hotfix", "p", "patch", "pl", "post", "r", "rev", "revision", "sp", "u", "up", "update"];
const RELEASES: [&str; 4] = ["final", "ga", "release", "rtm"];
const BUILDS: [&str; 8] = ["build", "commit", "git", "merge", "mr", "pr", "pull", "sha"];

fn is_one_of(words: &[&str], word: &str) -> bool {
    words.iter().any(|other| other.eq_ignore_ascii_case(word))
}

/// Returns the pre-release that `word` means at any place. `M3` is one, `M` is none.
pub fn stage(word: &str, has_number: bool) -> Option<Stage> {
    match word {
        _ if is_one_of(&DEVELOPMENT, word) => Some(Stage::Development),
        _ if is_one_of(&["alpha"], word) => Some(Stage::Alpha),
        _ if is_one_of(&["beta"], word) => Some(Stage::Beta),
        _ if is_one_of(&OTHER, word) || has_number && is_one_of(&["m"], word) => Some(Stage::Other),
        _ if is_one_of(&["rc", "cr", "candidate"], word) => Some(Stage::Candidate),
        _ => None,
    }
}

/// Returns the pre-release that `word` means right behind a number. With a number behind it every word means one,
/// except for words that mean a revision (`2.0.0p247`). Without a number only known words do: `1.1.1w`, `0.9.8zg` and
/// `1.2.3lts` are no pre-releases.
pub fn glued(word: &str, has_number: bool) -> Option<Stage> {
    match word {
        _ if is_one_of(&["a"], word) => Some(Stage::Alpha),
        _ if is_one_of(&["b"], word) => Some(Stage::Beta),
        _ if is_one_of(&["c"], word) => Some(Stage::Candidate),
        _ if is_one_of(&REVISIONS, word) || is_one_of(&RELEASES, word) => None,
        _ => stage(word, has_number).or(has_number.then_some(Stage::Other)),
    }
}

/// Whether versions have `word` right behind a number: `1.2b`, `1.2rc1`.
pub fn is_known(word: &str) -> bool {
    is_one_of(&["a", "b", "c"], word) || is_one_of(&REVISIONS, word) || stage(word, true).is_some()
}

/// Whether `word` with a number behind it counts changes after the release: `r10`, `post1`.
pub fn is_revision(word: &str) -> bool {
    is_one_of(&REVISIONS, word)
}

/// Whether `word` says that this is the release itself: `4.2.21.Final`.
pub fn is_release(word: &str) -> bool {
    is_one_of(&RELEASES, word)
}

/// Whether `word` marks a build without a version: `pr-123`, `sha-1234567`.
pub fn is_build(word: &str) -> bool {
    is_one_of(&BUILDS, word)
}

/// Returns the month that `word` names, in full or by its first letters (`sep`, `sept`), as two digits.
pub fn month(word: &str) -> Option<&'static str> {
    let is_named =
        |name: &str| word.len() >= 3 && name.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word));
    MONTHS.iter().find(|(_, name)| is_named(name)).map(|(digits, _)| *digits)
}

/// Whether `word` names a base that images are built on.
pub fn is_base(word: &str) -> bool {
    is_one_of(&BASES, word)
}

/// Returns the rank of `word`: `latest` is the newest, then the code names of distributions by their release.
pub fn rank(word: &str) -> u8 {
    if word.eq_ignore_ascii_case("latest") {
        return u8::MAX;
    }
    let code_name = CODE_NAMES.iter().position(|name| name.eq_ignore_ascii_case(word));
    code_name.map_or(0, |at| u8::try_from(at + 1).unwrap_or(u8::MAX - 1))
}
