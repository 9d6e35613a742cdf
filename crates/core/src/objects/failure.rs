//! Reads a kubelet's failure message: a short cause, and its scope (node, image, registry or unknown).
//!
//! The stage decides first. If a runtime fails to unpack, mount or store an image, it is the node's failure, whatever
//! the message says: `blob not found` in the content store does not mean a missing image. If it fails to resolve or
//! fetch the image, the words decide, from the most specific to the least.

pub use drop_api::node_cache::FailureScope;
use drop_api::node_cache::FailureScope::{Image, Node, Registry, Unknown};

use crate::objects::reference::Reference;

/// The scope and the cause of a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The part of the system that caused the failure.
    pub scope: FailureScope,
    /// The cause in a short form, for people.
    pub message: String,
}

/// The longest message of a [`Cause`], in characters; the CRDs allow more.
pub const MAX_MESSAGE: usize = 120;

/// The short text for an image that does not fit. The node may have room for a smaller image.
pub const NO_SPACE: &str = "no space left on node";

/// The short text for a kubelet that denies a pull because of too many pulls within a second. It allows the next pull
/// within seconds.
pub const THROTTLED: &str = "pull QPS exceeded: registryPullQPS of the kubelet limits this node";

/// The scope, the message for people, and the words. One of the words is enough. The words are in lower case and match
/// whole words. `http-404` matches that status, and `http-5xx` any above 499.
type Sign = (FailureScope, &'static str, &'static [&'static str]);

/// Words of the stages that happen on the node: a runtime unpacks, mounts, stores or inspects.
const ON_THE_NODE: &[&str] = &[
    // containerd and its snapshotters.
    "failed to extract layer",
    "extraction layer",
    "extraction snapshot",
    "create snapshot",
    "stat snapshot",
    "commit snapshot",
    "snapshotter",
    "unpack image on",
    "diff id",
    "mount callback failed",
    "failed to mount",
    "failed to unmount",
    "content store",
    "content digest",
    "failed to open writer",
    "lease",
    // Docker, and Windows.
    "register layer",
    "processing tar file",
    "hcsshim",
    "failed in win32",
    "access is denied",
    // CRI-O.
    "storing blob to file",
    "adding layer with blob",
    "committing the finished image",
    "container storage",
    "image not known",
    "layer not known",
    "temp auth file",
    // The kubelet.
    "inspect image",
    "image pull intent",
    "image volume",
    "imagevolumemountfailed",
    // Errors of the node's files, in Go's words.
    "open /",
    "mkdir /",
    "write /",
    "stat /",
    "lstat /",
    "fstatat /",
    "statfs /",
    "rename /",
    "remove /",
    "unlinkat /",
    "unlink /",
    "rmdir /",
    "link /",
    "symlink /",
    "readlink /",
    "chmod /",
    "fchmodat /",
    "chown /",
    "chtimes /",
    "lsetxattr /",
    "mknod /",
    "truncate /",
    "sync /",
    "fork/exec",
    "executable file not found",
    "exec format error",
    "read-only file system",
    "input/output error",
    "structure needs cleaning",
    "stale file handle",
    "too many open files",
    "cannot allocate memory",
];

/// Signs of a failed connection or a wrong answer, whatever the stage. CRI-O reports the first one if the connection
/// failed while CRI-O stored a layer. The second one is a web page, which no store of a node contains.
const FROM_THE_NETWORK: &[&str] = &["happened during read", "text/html"];

const FULL: Sign = (
    Node,
    NO_SPACE,
    &["no space left on device", "disk quota exceeded", "not enough space on the disk", "the disk is full"],
);
const NO_RUNTIME: Sign = (
    Node,
    "the container runtime does not answer",
    &["dial unix", "open //./pipe", "error reading from server: eof", "transport is closing", "ttrpc: closed"],
);
const NO_PLATFORM: Sign = (
    Image,
    "no image for {platform}",
    &[
        "no match for platform",
        "no matching manifest",
        "no image found in image index for architecture",
        "no image found in manifest list for architecture",
        "does not match the specified platform",
        "does not support platform",
        "cannot be used on this platform",
        "cannot download image with operating system",
        "does not match the host operating system",
        "image is incompatible with a",
    ],
);
const UNKNOWN_FORMAT: &str = "the runtime does not know the image's format: build it as an OCI image";
/// Either the image is broken for all nodes or its copy on one of them.
const CORRUPT: Sign = (
    Unknown,
    "the download is corrupt or incomplete: {cause}",
    &[
        "unexpected commit digest",
        "failed size validation",
        "verification failed for digest",
        "wrong diff id",
        "mismatched image rootfs",
        "does not match config's diffid",
        "digest mismatch",
        "size mismatch",
        "content mismatch",
        "invalid tar header",
        "invalid header",
        "invalid checksum",
        "magic number mismatch",
    ],
);

/// The signs of failures that happen on the node. A failure without any of them gets the last one: the scope is the
/// node.
const LOCAL: &[Sign] = &[
    FULL,
    NO_RUNTIME,
    NO_PLATFORM,
    CORRUPT,
    (Unknown, CORRUPT.1, &["unexpected eof"]),
    (Image, "the image has more layers than the node can stack", &["max depth exceeded"]),
    (Image, UNKNOWN_FORMAT, &["no processor for media-type"]),
    // User namespaces: the owner of a file of the image is not mapped.
    (Unknown, "{cause}", &["lchown"]),
    (Node, "the container runtime failed: {cause}", &[""]),
];

/// The signs of failures while an image is resolved and fetched.
const REMOTE: &[Sign] = &[
    (Node, THROTTLED, &["pull qps exceeded"]),
    FULL,
    NO_RUNTIME,
    // A firewall or an egress policy on the node, or no free port there. Beyond the network, a server answers or is
    // silent.
    (
        Node,
        "the node does not let its runtime connect to {address}",
        &[
            "connect: permission denied",
            "connect: operation not permitted",
            "connect: cannot assign requested address",
            "bind: address already in use",
            "sendto: operation not permitted",
            "write: operation not permitted",
            "socket: operation not permitted",
            "socket: permission denied",
            "forbidden by its access permissions",
        ],
    ),
    (Image, "the node's signature policy rejects the image", &["rejected by policy"]),
    (Image, "the node's image verifier rejects the image", &["blocked pull of"]),
    (
        Image,
        "the signature is not valid",
        &["signature validation failed", "source image rejected", "a signature was required"],
    ),
    NO_PLATFORM,
    CORRUPT,
    (Registry, "server error at {server}", &["http-5xx"]),
    (
        Registry,
        "{host} answers with a web page: a proxy or a login page is in between",
        &["text/html", "invalid character '<' looking for beginning of value"],
    ),
    (
        Image,
        UNKNOWN_FORMAT,
        &[
            "no longer supported since containerd",
            "manifest.v1+prettyjws",
            "schema v1",
            "schema 1",
            "schema1",
            "unsupported image-specific operation on artifact",
            "unsupported config media type",
            "unsupported manifest media type",
            "unsupported media type",
            "unsupported mime type",
            "unexpected media type",
            "unexpected mime type",
            "invalid media type",
            "encountered remote",
        ],
    ),
    (
        Registry,
        "the proxy wants credentials: set them where the runtime names its proxy",
        &["http-407", "proxy authentication required"],
    ),
    // The certificate is not valid yet, by the clock of a node that has lost its time.
    (Node, "TLS: the certificate is not valid yet, or the node's clock is wrong", &["is before"]),
    (Registry, "TLS: {tls}", &["x509: ", "tls: ", "server gave http response to https client"]),
    (
        Registry,
        "rate limited by {server}",
        &[
            "http-429",
            "toomanyrequests",
            "too many requests",
            "rate limit",
            "rate exceeded",
            "quota exceeded",
            "throttled",
            "throttling",
        ],
    ),
    (
        Registry,
        "cannot resolve {name}",
        &["name-lookup", "no such host", "server misbehaving", "temporary failure in name resolution"],
    ),
    (Registry, "connection refused: {address}", &["connection refused", "actively refused it"]),
    (
        Registry,
        "timeout connecting to {server}",
        &[
            "http-408",
            "i/o timeout",
            "deadline exceeded",
            "handshake timeout",
            "timeout awaiting",
            "timeout exceeded",
            "client.timeout",
            "timed out",
            "did not properly respond",
            // Runtimes report this when they gave up because no more data came.
            "context canceled",
        ],
    ),
    (
        Registry,
        "connection lost: {server}",
        &[
            "eof",
            "goaway",
            "connection reset",
            "connection lost",
            "connection broken",
            "connection aborted",
            "forcibly closed",
            "broken pipe",
            "stream error",
            "malformed http response",
            "closed idle connection",
            "use of closed network connection",
            "network is unreachable",
            "network is down",
            "unreachable network",
            "unreachable host",
            "no route to host",
            "host is down",
        ],
    ),
    (
        Registry,
        "server error at {server}",
        &["internal server error", "bad gateway", "service unavailable", "gateway timeout"],
    ),
    (Registry, "the node's configuration blocks {host}", &["is blocked in"]),
    (
        Registry,
        "the login at {host} does not work: {cause}",
        &[
            "did not include a token",
            "no realm specified",
            "unable to decode token response",
            "failed to find supported auth scheme",
            "stopped after 10 redirects",
        ],
    ),
    (
        Image,
        "the credentials have expired: renew imagePullSecrets",
        &["token has expired", "token is expired", "credentials have expired"],
    ),
    (
        Image,
        "unauthorized: check imagePullSecrets",
        &[
            "http-401",
            "unauthorized",
            "authentication required",
            "authorization failed",
            "insufficient_scope",
            "pull access denied",
            "no basic auth credentials",
            "invalid username/password",
            // Some token servers answer 403 to a client without credentials.
            "failed to fetch anonymous token",
        ],
    ),
    (
        Image,
        "a policy of {host} forbids the image",
        &["http-412", "projectpolicyviolation", "cannot be pulled due to configured policy"],
    ),
    (Image, "forbidden", &["http-402", "http-403", "http-451", "forbidden", "denied"]),
    (Image, "the image's manifest is too large for the node's runtime", &["byte manifest"]),
    (
        Image,
        "a part of the image is missing at {host}",
        &["missing in your target registry", "blob unknown", "unknown blob", "could not fetch content descriptor"],
    ),
    (
        Image,
        "image not found",
        &[
            "http-404",
            "http-410",
            "not found",
            "manifest unknown",
            "manifest_unknown",
            "unknown manifest",
            "name unknown",
            "name_unknown",
            "repository name not known",
        ],
    ),
    (Image, INVALID_NAME, &["invalid reference format", "returns ambiguous list", "parse image reference"]),
    (Registry, "{host} is not available", &["the registry is unavailable"]),
    (Unknown, "{cause}", &[""]),
];

const INVALID_NAME: &str = "invalid image name";

/// Reads why a node could not pull an image.
///
/// `reason` and `message` are the kubelet's (a container's `state.waiting`); `image` is the image to pull; `platform`
/// is the node's (`linux/arm64`).
#[must_use]
pub fn classify(reason: &str, message: &str, image: &Reference, platform: &str) -> Cause {
    let cause = |scope, message: &str| Cause { scope, message: within(message, MAX_MESSAGE) };
    match reason {
        "InvalidImageName" => return cause(Image, INVALID_NAME),
        "ErrImageNeverPull" => return cause(Node, "the node may not pull images"),
        _ => {}
    }
    let said = said(message, image);
    let says = |words: &&str| has_words(&said, words);
    let is_local = reason == "ImageInspectError" || ON_THE_NODE.iter().any(says);
    let signs = if is_local && !FROM_THE_NETWORK.iter().any(says) { LOCAL } else { REMOTE };
    let sign = signs.iter().find(|(_, _, any_of)| any_of.iter().any(says));
    let (scope, text, _) = sign.copied().unwrap_or((Unknown, "{cause}", &[]));
    let text = filled_in(text, message, image, platform);
    let proxy = if signs == REMOTE && has_words(&said, "proxyconnect") { "proxy: " } else { "" };
    cause(scope, &format!("{proxy}{text}"))
}

/// Whether this is a kubelet's reason for a container that waits because its image could not be pulled; see
/// `pkg/kubelet/images/types.go` in Kubernetes.
#[must_use]
pub fn is_pull_failure(reason: &str) -> bool {
    matches!(
        reason,
        "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "ImageInspectError"
            | "RegistryUnavailable"
            | "SignatureValidationFailed"
    )
}

/// Returns `text` with values in place of its names in braces.
fn filled_in(text: &str, message: &str, image: &Reference, platform: &str) -> String {
    let Some((before, rest)) = text.split_once('{') else { return text.to_owned() };
    let (name, after) = rest.split_once('}').unwrap_or((rest, ""));
    let value = match name {
        "platform" => platform.to_owned(),
        "host" => image.host().to_owned(),
        "server" => server(message, image.host()),
        "name" => looked_up(message).unwrap_or(image.host()).to_owned(),
        "address" => dialled(message).unwrap_or(image.host()).to_owned(),
        "tls" => after_last(message, &["x509: ", "tls: ", "http: "]).to_owned(),
        _ => plain(message),
    };
    format!("{before}{value}{}", filled_in(after, message, image, platform))
}

/// The start and the end of each text that wraps the cause in a message.
const WRAPPING: &[(&str, &str)] = &[
    ("Back-off pulling image ", ": "),
    ("ErrImagePull: ", ""),
    ("ImageInspectError: ", ""),
    ("Failed to pull image ", ": "),
    ("Failed to inspect image ", ": "),
    ("Failed to record image pull intent for container image ", ": "),
    ("rpc error: code = ", " desc = "),
    ("Error response from daemon: ", ""),
    ("failed to pull and unpack image ", ": "),
    ("failed to resolve reference ", ": "),
    ("failed to resolve image: ", ""),
    ("failed to do request: ", ""),
    ("failed to copy: ", ""),
    ("httpReadSeeker: ", ""),
    ("failed open: ", ""),
    ("failed to authorize: ", ""),
    ("failed to extract layer ", ": "),
    ("failed to prepare extraction snapshot ", ": "),
    ("failed to open writer: ", ""),
    ("failed to get reader from content store: ", ""),
    ("failed to register layer: ", ""),
    ("unable to pull image or OCI artifact: pull image err: ", ""),
    ("initializing source ", ": "),
    ("copying system image from manifest list: ", ""),
    ("Error committing the finished image: ", ""),
    ("writing blob: ", ""),
];

/// Returns a message without the texts that wrap the cause, without secrets, and on one line.
fn plain(message: &str) -> String {
    let mut rest = message.trim();
    while let Some(inner) = unwrapped(rest) {
        rest = inner;
    }
    // Some storage services take a signature in the query instead of a password.
    let url = |url: &str| {
        let (address, query) = url.split_once('?').map_or((url, ""), |(address, query)| (address, query));
        let (authority, path) = address.split_at(address.find('/').unwrap_or(address.len()));
        let authority = authority.rsplit_once('@').map_or(authority, |(_, authority)| authority);
        format!("://{authority}{path}{}", if query.ends_with(':') { ":" } else { "" })
    };
    let text = replaced(rest, "://", |c| c.is_whitespace() || c == '"', url);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns `text` without its outermost wrapping; `None` if there is none.
fn unwrapped(text: &str) -> Option<&str> {
    let inner = |(start, end): &(&str, &str)| Some(text.strip_prefix(start)?.split_once(end)?.1.trim_start());
    WRAPPING.iter().find_map(inner).filter(|inner| !inner.is_empty())
}

/// Returns `text` with at most `max` characters. A longer text loses its middle, because Go names the cause last.
fn within(text: &str, max: usize) -> String {
    let length = text.chars().count();
    if length <= max {
        return text.to_owned();
    }
    let head = max.saturating_sub(1) / 2;
    let tail = max.saturating_sub(head + 1);
    text.chars().take(head).chain(['…']).chain(text.chars().skip(length - tail)).collect()
}

/// Returns the server that a message's last URL names. Layers may come from another host than the registry's. A mirror
/// of the registry (`?ns=`) and hosts below the registry's own are called by the registry's name.
fn server(message: &str, host: &str) -> String {
    let urls = message.match_indices("://").filter(|(at, _)| {
        let scheme = message.get(..*at).unwrap_or_default();
        scheme.ends_with("http") || scheme.ends_with("https")
    });
    let url = urls.last().and_then(|(at, mark)| message.get(at + mark.len()..)).unwrap_or_default();
    let url = url.split(|c: char| c.is_whitespace() || c == '"').next().unwrap_or_default();
    let authority = url.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default().trim_end_matches([':', ',', ';']);
    let is_of_host = authority.strip_suffix(host).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    match authority.is_empty() || is_of_host || url.contains("ns=") {
        true => host.to_owned(),
        false => format!("{authority} (for {host})"),
    }
}

/// Returns the text behind the last of `marks`.
fn after_last<'a>(message: &'a str, marks: &[&str]) -> &'a str {
    let start = marks.iter().filter_map(|mark| message.rfind(mark).map(|at| at + mark.len())).max();
    start.and_then(|start| message.get(start..)).unwrap_or(message)
}

/// Returns the host in Go's `lookup HOST: …` or `lookup HOST on SERVER: …`.
fn looked_up(message: &str) -> Option<&str> {
    message.split("lookup ").skip(1).find_map(|tail| {
        let (host, rest) = tail.split_at(tail.find([' ', ':'])?);
        (!host.is_empty() && (rest.starts_with(": ") || rest.starts_with(" on "))).then_some(host)
    })
}

/// Returns the address in Go's `dial tcp ADDRESS: …`.
fn dialled(message: &str) -> Option<&str> {
    let (_, tail) = message.split_once("dial tcp ")?;
    tail.split([' ']).next().map(|address| address.trim_end_matches(':')).filter(|address| !address.is_empty())
}

/// Returns a message in lower case, without URLs, digests and the image's name, and with words for the HTTP status
/// and for a name that was looked up.
fn said(message: &str, image: &Reference) -> String {
    let mut text = without_names(&message.to_lowercase(), image);
    if let Some(status) = http_status(&text) {
        let class = if status >= 500 { " http-5xx" } else { "" };
        text.push_str(&format!(" http-{status}{class}"));
    }
    if looked_up(message).is_some() {
        text.push_str(" name-lookup");
    }
    text
}

/// How many words may stand between `status` and its number, as in `status from GET request to https 503`.
const STATUS_WITHIN: usize = 8;

/// Returns the HTTP status of an error in a message, such as `status code 503` or `HTTP 404`.
fn http_status(text: &str) -> Option<u16> {
    let marks = ["status", "http "].into_iter().flat_map(|mark| text.match_indices(mark));
    let of_servers = marks.filter(|(at, _)| !text.get(..*at).unwrap_or_default().ends_with("exit "));
    let tails = of_servers.filter_map(|(at, mark)| text.get(at + mark.len()..));
    let statuses = tails.filter_map(|tail| {
        let words = tail.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let mut numbers = words.take(STATUS_WITHIN).filter(|word| word.len() == 3).filter_map(|word| word.parse().ok());
        numbers.find(|status| (400..600).contains(status))
    });
    statuses.max()
}

/// Returns `message`, which is in lower case, without URLs, digests and the image's name. A name may contain any of the
/// words that distinguish failures.
fn without_names(message: &str, image: &Reference) -> String {
    let mut text = without_urls(message);
    let image = image.as_str().to_lowercase();
    let (name, tag) = match image.split_once('@') {
        Some((name, _)) => (name, None),
        None => image.rsplit_once(':').map_or((image.as_str(), None), |(name, tag)| (name, Some(tag))),
    };
    let (host, path) = name.split_once('/').unwrap_or(("", name));
    // Docker's spelling of its official images.
    let short = path.strip_prefix("library/").unwrap_or(path);
    let mut names = vec![image.clone(), name.to_owned()];
    if let Some(tag) = tag {
        let of_tag = [format!("{path}:{tag}"), format!("{short}:{tag}"), format!("manifest {tag} in")];
        names.extend(of_tag.into_iter().chain([format!("manifests {tag}")]));
    }
    // A path of one word may be the word that describes the failure.
    if path.contains('/') {
        names.push(path.to_owned());
    }
    if !host.is_empty() {
        names.push(host.to_owned());
    }
    for name in names {
        text = without_name(&text, &name);
    }
    without_digests(&text)
}

/// Whether `text` contains `words`, and not as a part of a longer word. Empty `words` are in no text.
fn has_words(text: &str, words: &str) -> bool {
    words.is_empty() || places(text, words).next().is_some()
}

/// Returns where `name` begins and ends in `text`, except as a part of a longer word.
fn places<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = (usize, usize)> {
    let in_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let (starts_word, ends_word) = (name.starts_with(in_word), name.ends_with(in_word));
    text.match_indices(name).map(|(at, name)| (at, at + name.len())).filter(move |(start, end)| {
        let (before, after) = (text.get(..*start).unwrap_or_default(), text.get(*end..).unwrap_or_default());
        let is_part = starts_word && before.ends_with(in_word) || ends_word && after.starts_with(in_word);
        !is_part
    })
}

/// Returns `text` without `name`, except as a part of a longer word.
fn without_name(text: &str, name: &str) -> String {
    let mut rest = String::with_capacity(text.len());
    let mut end = 0;
    for (start, after) in places(text, name) {
        rest.push_str(text.get(end..start).unwrap_or_default());
        end = after;
    }
    rest.push_str(text.get(end..).unwrap_or_default());
    rest
}

/// Returns `text` without URLs, up to the space or the quotation mark behind each.
fn without_urls(text: &str) -> String {
    replaced(text, "://", |c| c.is_whitespace() || c == '"', |_| String::new())
}

/// Returns `text` without the hexadecimal digits of digests.
fn without_digests(text: &str) -> String {
    replaced(text, "sha256:", |c| !c.is_ascii_hexdigit(), |_| String::new())
}

/// Replaces `start` and the text behind it, up to a character that `ends` it. `by` makes the replacement from the text
/// behind `start`.
fn replaced(text: &str, start: &str, ends: impl Fn(char) -> bool, by: impl Fn(&str) -> String) -> String {
    let mut parts = text.split(start);
    let mut rest = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (named, tail) = part.split_at(part.find(&ends).unwrap_or(part.len()));
        rest.push_str(&by(named));
        rest.push_str(tail);
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages of containerd, CRI-O, Docker and Windows as the kubelet shows them, from their sources and from public
    /// reports. The columns are: image (`h.example/p:v1` if none), reason, message, scope and cause.
    const MESSAGES: &str = include_str!("failure/messages.tsv");

    struct Row<'a> {
        image: Reference,
        reason: &'a str,
        message: &'a str,
        scope: FailureScope,
        text: &'a str,
    }

    fn rows() -> impl Iterator<Item = Row<'static>> {
        MESSAGES.lines().skip(1).map(|line| {
            let [image, reason, message, scope, text] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("not five columns: {line}");
            };
            let image = Reference::parse(if image.is_empty() { "h.example/p:v1" } else { image });
            let scope = scope_of(scope);
            Row { image, reason, message, scope, text }
        })
    }

    fn scope_of(name: &str) -> FailureScope {
        match name.to_lowercase().as_str() {
            "node" => Node,
            "image" => Image,
            "registry" => Registry,
            "unknown" => Unknown,
            _ => panic!("{name} is no scope"),
        }
    }

    #[test]
    fn kubelet_messages_are_understood() {
        let wrong = rows().filter_map(|row| {
            let cause = classify(row.reason, row.message, &row.image, "linux/arm64");
            let is_right = (cause.scope, cause.message.as_str()) == (row.scope, row.text);
            (!is_right).then(|| format!("{}\n  {cause:?}\n  {:?} {:?}", row.message, row.scope, row.text))
        });
        let wrong: Vec<_> = wrong.collect();
        assert!(wrong.is_empty(), "{} messages:\n{}", wrong.len(), wrong.join("\n"));
    }

    #[test]
    fn the_kubelets_backoff_hides_no_cause() {
        let not_pulled = ["InvalidImageName", "ErrImageNeverPull", "ImageInspectError"];
        for row in rows().filter(|row| !not_pulled.contains(&row.reason) && !row.message.starts_with("Back-off")) {
            let message = format!(r#"Back-off pulling image "{}": {}: {}"#, row.image, row.reason, row.message);
            let cause = classify("ImagePullBackOff", &message, &row.image, "linux/arm64");
            assert_eq!((cause.scope, cause.message.as_str()), (row.scope, row.text), "{message}");
        }
    }

    /// If a folder of cases lies beside the project, its messages hold as well.
    #[test]
    fn messages_of_cases_are_understood() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/cases/kubelet-messages.tsv");
        let Ok(cases) = std::fs::read_to_string(path) else { return };
        let image = Reference::parse("registry.example/team/app:1");
        for line in cases.lines().skip(1) {
            let [message, reason, runtime, scope, text, ..] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("not five columns: {line}");
            };
            let platform = if runtime == "docker" { "windows/amd64" } else { "linux/amd64" };
            let cause = classify(reason, message, &image, platform);
            assert!(scope.split('|').any(|scope| scope_of(scope) == cause.scope), "{message}: {cause:?}, not {scope}");
            // Removes the look-aheads of the regular expressions, which this engine does not support.
            let text = text.trim_start_matches("^(?=.{1,120}$).*").trim_start_matches("^(?=.{1,120}$)");
            let is_right = match text.strip_prefix("^(?!").and_then(|text| text.strip_suffix(')')) {
                Some(other) => !cause.message.starts_with(other),
                None => regex::Regex::new(&format!("(?i){text}")).unwrap().is_match(&cause.message),
            };
            assert!(is_right && cause.message.chars().count() <= MAX_MESSAGE, "{message}: {cause:?}, not {text}");
        }
    }

    #[test]
    fn every_cause_fits_and_is_cut_at_a_character() {
        let long = "ü".repeat(1000);
        let image = Reference::parse(&format!("{long}.example/p:v1"));
        let messages = [
            long.clone(),
            format!("tls: {long}"),
            format!("lookup {long}: no such host"),
            format!("dial tcp {long}: connect: connection refused"),
            format!("failed to extract layer {long}"),
            "no match for platform in manifest".to_owned(),
            "i/o timeout".to_owned(),
            "toomanyrequests".to_owned(),
            "unexpected EOF".to_owned(),
            "503 Service Unavailable".to_owned(),
        ];
        for message in messages {
            let cause = classify("ErrImagePull", &message, &image, &long);
            assert_eq!(cause.message.chars().count(), MAX_MESSAGE, "{message}");
            assert!(cause.message.contains('…'), "{message}");
        }
    }

    #[test]
    fn a_text_loses_its_middle_where_it_is_too_long() {
        let cases = [("", 0, ""), ("ab", 1, "…"), ("ab", 2, "ab"), ("üöäß", 3, "ü…ß"), ("abcdef", 4, "a…ef")];
        for (text, max, short) in cases {
            assert_eq!(within(text, max), short, "{text:?} in {max}");
        }
    }
}
