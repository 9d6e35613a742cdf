//! What a kubelet's failure message means: the cause in a few words, and whose
//! failure it is.

pub use drop_api::node_cache::FailureScope;

use crate::objects::reference::Reference;
use crate::text::shortened;

/// A failure, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Whose failure it is.
    pub scope: FailureScope,
    /// The cause in a short form, for people.
    pub message: String,
}

/// The longest message of a [`Cause`], in characters; the CRDs allow more.
pub const MAX_MESSAGE: usize = 300;

/// The short text for an image that does not fit. The node may have room for a smaller image.
pub const NO_SPACE: &str = "no space left on node";

/// Understands why an image could not be pulled.
///
/// `reason` and `message` are the kubelet's (a container's `state.waiting`);
/// `image` is what was to be pulled; `platform` is the node's (`linux/arm64`).
#[must_use]
pub fn classify(reason: &str, message: &str, image: &Reference, platform: &str) -> Cause {
    use FailureScope::{Image, Node, Registry, Unknown};
    let host = image.host();
    let text = without_names(&message.to_lowercase(), image);
    let says = |any_of: &[&str]| any_of.iter().any(|part| text.contains(part));
    let cause = |scope, message: String| Cause { scope, message: shortened(&message, MAX_MESSAGE) };

    if reason == "InvalidImageName" {
        return cause(Image, "invalid image name".to_owned());
    }
    if reason == "ErrImageNeverPull" {
        return cause(Node, "the node may not pull images".to_owned());
    }
    if says(&["the signature validation failed"]) {
        return cause(Image, "the signature is not valid".to_owned());
    }
    // The order matters: the first match is the most specific one. A missing
    // platform also says "not found", and a token server that answers 401 is
    // reached through a chain of errors that may name anything.
    if says(&["no space left on device", "disk quota exceeded"]) {
        return cause(Node, NO_SPACE.to_owned());
    }
    if says(&["dial unix", "error reading from server: eof"]) {
        return cause(Node, "the container runtime does not answer".to_owned());
    }
    if says(&[
        "no match for platform",
        "no matching manifest",
        "no image found in image index for architecture",
        "no image found in manifest list for architecture",
    ]) {
        return cause(Image, format!("no image for {platform}"));
    }
    if says(&["x509:", "tls: ", "server gave http response to https client"]) {
        return cause(Registry, format!("TLS: {}", after_last(message, &["x509: ", "tls: ", "http: "])));
    }
    if says(&["toomanyrequests", "too many requests", "status code 429", "statuscode: 429", "rate limit"]) {
        return cause(Registry, format!("rate limited by {host}"));
    }
    if says(&["no such host", "server misbehaving", "temporary failure in name resolution"]) {
        return cause(Registry, format!("cannot resolve {}", looked_up(message).unwrap_or(host)));
    }
    if says(&["connection refused"]) {
        return cause(Registry, format!("connection refused: {}", dialled(message).unwrap_or(host)));
    }
    if says(&[
        "i/o timeout",
        "deadline exceeded",
        "handshake timeout",
        "timeout awaiting",
        "timeout exceeded",
        "timed out",
        // What runtimes say when they gave up because nothing came any more.
        "context canceled",
    ]) {
        return cause(Registry, format!("timeout connecting to {host}"));
    }
    // Go's HTTP client says no more than EOF where the connection ends without an answer.
    let ends_early = text.trim_end().ends_with(": eof");
    if ends_early
        || says(&["connection reset", "unexpected eof", "broken pipe", "network is unreachable", "no route to host"])
    {
        return cause(Registry, format!("connection lost: {host}"));
    }
    if says(&["500 internal", "502 bad gateway", "503 service", "504 gateway", "status code 5", "statuscode: 5"]) {
        return cause(Registry, format!("server error at {host}"));
    }
    if says(&[
        "unauthorized",
        "status code 401",
        "statuscode: 401",
        "authentication required",
        "authorization failed",
        "insufficient_scope",
        "pull access denied",
        "no basic auth credentials",
    ]) {
        return cause(Image, "unauthorized: check imagePullSecrets".to_owned());
    }
    if says(&["forbidden", "status code 403", "statuscode: 403", "denied"]) {
        return cause(Image, "forbidden".to_owned());
    }
    if says(&["not found", "status code 404", "statuscode: 404", "manifest unknown", "name unknown"]) {
        return cause(Image, "image not found".to_owned());
    }
    if says(&["the registry is unavailable"]) {
        return cause(Registry, format!("{host} is not available"));
    }
    cause(Unknown, message.to_owned())
}

/// The kubelet's reasons for a container that waits because its image could not
/// be pulled; see `pkg/kubelet/images/types.go` in Kubernetes.
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

/// The text behind the last of `marks`.
fn after_last<'a>(message: &'a str, marks: &[&str]) -> &'a str {
    let start = marks.iter().filter_map(|mark| message.rfind(mark).map(|at| at + mark.len())).max();
    start.and_then(|start| message.get(start..)).unwrap_or(message)
}

/// The host in Go's `lookup HOST: …` or `lookup HOST on SERVER: …`.
fn looked_up(message: &str) -> Option<&str> {
    let (_, tail) = message.split_once("lookup ")?;
    tail.split([' ', ':']).next().filter(|host| !host.is_empty())
}

/// The address in Go's `dial tcp ADDRESS: …`.
fn dialled(message: &str) -> Option<&str> {
    let (_, tail) = message.split_once("dial tcp ")?;
    tail.split([' ']).next().map(|address| address.trim_end_matches(':')).filter(|address| !address.is_empty())
}

/// `message`, which is in lower case, without what others have named: URLs,
/// digests and the image. A name may contain any word that failures are told by.
fn without_names(message: &str, image: &Reference) -> String {
    let mut text = without_urls(message);
    let image = image.as_str().to_lowercase();
    let (name, tag) = match image.split_once('@') {
        Some((name, _)) => (name, None),
        None => image.rsplit_once(':').map_or((image.as_str(), None), |(name, tag)| (name, Some(tag))),
    };
    let (host, path) = name.split_once('/').unwrap_or(("", name));
    // Docker's spelling of the images that it makes itself.
    let short = path.strip_prefix("library/").unwrap_or(path);
    let mut names = vec![image.clone(), name.to_owned()];
    if let Some(tag) = tag {
        names.extend([format!("{path}:{tag}"), format!("{short}:{tag}"), format!("manifest {tag} in")]);
    }
    // A path of one word may be just the word that tells the failure.
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

/// `text` without `name`, except where it is a part of a longer word.
fn without_name(text: &str, name: &str) -> String {
    let in_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let mut rest = String::with_capacity(text.len());
    let mut end = 0;
    for (at, _) in text.match_indices(name) {
        let (before, after) = (text.get(..at).unwrap_or_default(), text.get(at + name.len()..).unwrap_or_default());
        if !before.ends_with(in_word) && !after.starts_with(in_word) {
            rest.push_str(text.get(end..at).unwrap_or_default());
            end = at + name.len();
        }
    }
    rest.push_str(text.get(end..).unwrap_or_default());
    rest
}

/// `text` without URLs, up to the space or the quotation mark behind each.
fn without_urls(text: &str) -> String {
    without(text, "://", |c| c.is_whitespace() || c == '"')
}

/// `text` without the hexadecimal digits of digests.
fn without_digests(text: &str) -> String {
    without(text, "sha256:", |c| !c.is_ascii_hexdigit())
}

/// `text` without `start` and what follows each, up to a character that `ends` it.
fn without(text: &str, start: &str, ends: impl Fn(char) -> bool) -> String {
    let mut parts = text.split(start);
    let mut rest = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        rest.push_str(part.find(&ends).and_then(|end| part.get(end..)).unwrap_or_default());
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use FailureScope::{Image, Node, Registry, Unknown};

    /// The image that the messages below are about, unless they name another.
    const IMAGE: &str = "h.example/p:v1";

    /// Messages of containerd 2.x, CRI-O and Docker as the kubelet shows them:
    /// image, reason, message; whose failure it is, and the cause.
    const MESSAGES: [(&str, &str, &str, FailureScope, &str); 58] = [
        (
            "nope:1",
            "ErrImagePull",
            r#"rpc error: code = NotFound desc = failed to pull and unpack image "docker.io/library/nope:1": failed to resolve reference "docker.io/library/nope:1": docker.io/library/nope:1: not found"#,
            Image,
            "image not found",
        ),
        (
            "registry.bad/x",
            "ErrImagePull",
            r#"failed to pull and unpack image "registry.bad/x:latest": failed to resolve reference "registry.bad/x:latest": failed to do request: Head "https://registry.bad/v2/x/manifests/latest": dial tcp: lookup registry.bad on 127.0.0.1:53: no such host"#,
            Registry,
            "cannot resolve registry.bad",
        ),
        (
            "127.0.0.1:5001/app:v1",
            "ErrImagePull",
            r#"failed to pull and unpack image "127.0.0.1:5001/app:v1": failed to resolve reference: failed to do request: Head "http://127.0.0.1:5001/v2/app/manifests/v1": dial tcp 127.0.0.1:5001: connect: connection refused"#,
            Registry,
            "connection refused: 127.0.0.1:5001",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"failed to resolve reference "h.example/p:v1": pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials"#,
            Image,
            "unauthorized: check imagePullSecrets",
        ),
        (
            "private.test/team/secret:1",
            "ErrImagePull",
            r#"failed to pull and unpack image "private.test/team/secret:1": failed to resolve image: pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials"#,
            Image,
            "unauthorized: check imagePullSecrets",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"failed to resolve reference "h.example/p:v1": pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed"#,
            Image,
            "unauthorized: check imagePullSecrets",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"failed to authorize: failed to fetch anonymous token: unexpected status from GET request to https://auth.h.example/token?scope=repository%3Ap%3Apull&service=h.example: 401 Unauthorized"#,
            Image,
            "unauthorized: check imagePullSecrets",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"initializing source docker://h.example/p:v1: pinging container registry h.example: Get "https://h.example/v2/": unexpected status code 401"#,
            Image,
            "unauthorized: check imagePullSecrets",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"failed to do request: Head "https://h.example/v2/": tls: failed to verify certificate: x509: certificate signed by unknown authority"#,
            Registry,
            "TLS: certificate signed by unknown authority",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"failed to do request: Head "https://h.example/v2/p/manifests/v1": remote error: tls: bad certificate"#,
            Registry,
            "TLS: bad certificate",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"failed to do request: Head "https://h.example/v2/p/manifests/v1": http: server gave HTTP response to HTTPS client"#,
            Registry,
            "TLS: server gave HTTP response to HTTPS client",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"failed to resolve reference "h.example/p:v1": failed to do request: Head "https://h.example/v2/p/manifests/v1": dial tcp 10.1.2.3:443: i/o timeout"#,
            Registry,
            "timeout connecting to h.example",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"unexpected status from HEAD request to https://h.example/v2/p/manifests/v1: 403 Forbidden"#,
            Image,
            "forbidden",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"unexpected status from HEAD request to https://h.example/v2/p/manifests/v1: 429 Too Many Requests: toomanyrequests: You have reached your pull rate limit"#,
            Registry,
            "rate limited by h.example",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"unexpected status from GET request to https://h.example/v2/p/blobs/sha256:1: 503 Service Unavailable"#,
            Registry,
            "server error at h.example",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"failed to pull and unpack image "h.example/p:v1": no match for platform in manifest: not found"#,
            Image,
            "no image for linux/arm64",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"rpc error: code = NotFound desc = get image config descriptor: no match for platform in manifest sha256:abc: not found"#,
            Image,
            "no image for linux/arm64",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"failed to extract layer: write /var/lib/containerd/tmp: no space left on device"#,
            Node,
            "no space left on node",
        ),
        (
            "h.example/p:v9",
            "ErrImagePull",
            "reading manifest v9 in h.example/p: manifest unknown",
            Image,
            "image not found",
        ),
        (
            "nope:1",
            "ErrImagePull",
            "Error response from daemon: manifest for nope:1 not found: manifest unknown: manifest unknown",
            Image,
            "image not found",
        ),
        ("A:b:c", "InvalidImageName", r#"Failed to apply default image tag "A:b:c""#, Image, "invalid image name"),
        (IMAGE, "ErrImageNeverPull", "Container image is not present", Node, "the node may not pull images"),
        (IMAGE, "ErrImagePull", "something new", Unknown, "something new"),
        (
            IMAGE,
            "ImagePullBackOff",
            r#"Back-off pulling image "h.example/p:v1""#,
            Unknown,
            r#"Back-off pulling image "h.example/p:v1""#,
        ),
        // Seen by a kubelet 1.36 with containerd 2.4, and a registry that fails.
        (
            "busy.test/refused/app-1:1",
            "ErrImagePull",
            r#"failed to pull and unpack image "busy.test/refused/app-1:1": failed to resolve image: unexpected status from HEAD request to http://127.0.0.1:41437/v2/refused/app-1/manifests/1?ns=busy.test: 429 Too Many Requests"#,
            Registry,
            "rate limited by busy.test",
        ),
        (
            "broken.test/refused/app-3:1",
            "ErrImagePull",
            r#"failed to pull and unpack image "broken.test/refused/app-3:1": failed to resolve image: unexpected status from HEAD request to http://127.0.0.1:35723/v2/refused/app-3/manifests/1?ns=broken.test: 503 Service Unavailable"#,
            Registry,
            "server error at broken.test",
        ),
        (
            "reset.test/refused/app-2:1",
            "ErrImagePull",
            r#"failed to pull and unpack image "reset.test/refused/app-2:1": failed to resolve image: failed to do request: Head "http://127.0.0.1:33381/v2/refused/app-2/manifests/1?ns=%5BREDACTED%5D": read tcp 127.0.0.1:54144->127.0.0.1:33381: read: connection reset by peer"#,
            Registry,
            "connection lost: reset.test",
        ),
        (
            "eof.test/asked/app:1",
            "ErrImagePull",
            r#"failed to pull and unpack image "eof.test/asked/app:1": failed to resolve image: failed to do request: Head "http://127.0.0.1:40207/v2/asked/app/manifests/1?ns=%5BREDACTED%5D": EOF"#,
            Registry,
            "connection lost: eof.test",
        ),
        (
            "eof.test/asked/app:1",
            "ImagePullBackOff",
            r#"Back-off pulling image "eof.test/asked/app:1": ErrImagePull: initializing source docker://eof.test/asked/app:1: pinging container registry eof.test: Get "https://eof.test/v2/": EOF"#,
            Registry,
            "connection lost: eof.test",
        ),
        (
            "forged.test/refused/app-1:1",
            "ErrImagePull",
            r#"failed to pull and unpack image "forged.test/refused/app-1:1": failed to resolve image: failed to do request: Head "https://127.0.0.1:34409/v2/refused/app-1/manifests/1?ns=%5BREDACTED%5D": tls: failed to verify certificate: x509: certificate signed by unknown authority"#,
            Registry,
            "TLS: certificate signed by unknown authority",
        ),
        (
            "stalled.test/stalled/app-1:1",
            "ErrImagePull",
            r#"failed to pull and unpack image "stalled.test/stalled/app-1:1": failed to resolve image: failed to do request: Head "https://127.0.0.1:41181/v2/stalled/app-1/manifests/1?ns=%5BREDACTED%5D": net/http: TLS handshake timeout"#,
            Registry,
            "timeout connecting to stalled.test",
        ),
        // Told by containerd's and the kubelet's source: no headers, no progress, no runtime.
        (
            IMAGE,
            "ErrImagePull",
            r#"failed to pull and unpack image "h.example/p:v1": failed to resolve image: failed to do request: Head "http://h.example/v2/p/manifests/v1": net/http: timeout awaiting response headers"#,
            Registry,
            "timeout connecting to h.example",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"rpc error: code = Canceled desc = failed to pull and unpack image "h.example/p:v1": context canceled"#,
            Registry,
            "timeout connecting to h.example",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"rpc error: code = Unavailable desc = connection error: desc = "transport: Error while dialing: dial unix /run/containerd/containerd.sock: connect: connection refused""#,
            Node,
            "the container runtime does not answer",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"rpc error: code = Unavailable desc = error reading from server: EOF"#,
            Node,
            "the container runtime does not answer",
        ),
        // CRI-O 1.34 and containers/image 5.36, by their source.
        (
            IMAGE,
            "ErrImagePull",
            r#"initializing source docker://h.example/p:v1: reading manifest v1 in h.example/p: toomanyrequests: too many requests"#,
            Registry,
            "rate limited by h.example",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"initializing source docker://h.example/p:v1: pinging container registry h.example: too many requests to registry"#,
            Registry,
            "rate limited by h.example",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"initializing source docker://h.example/p:v1: pinging container registry h.example: received unexpected HTTP status: 503 Service Unavailable"#,
            Registry,
            "server error at h.example",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"initializing source docker://h.example/p:v1: reading manifest v1 in h.example/p: StatusCode: 502, "<html>\r\n<head><title>Bad Gateway</title></head>...""#,
            Registry,
            "server error at h.example",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"initializing source docker://h.example/p:v1: reading manifest v1 in h.example/p: StatusCode: 404, "404 page""#,
            Image,
            "image not found",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"initializing source docker://h.example/p:v1: unable to retrieve auth token: invalid username/password: unauthorized: authentication required"#,
            Image,
            "unauthorized: check imagePullSecrets",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"initializing source docker://h.example/p:v1: reading manifest v1 in h.example/p: requested access to the resource is denied"#,
            Image,
            "forbidden",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"initializing source docker://h.example/p:v1: pinging container registry h.example: Get "https://h.example/v2/": dial tcp: lookup h.example: Temporary failure in name resolution"#,
            Registry,
            "cannot resolve h.example",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"choosing an image from manifest list docker://h.example/p:v1: no image found in manifest list for architecture "arm64", variant "v8", OS "linux""#,
            Image,
            "no image for linux/arm64",
        ),
        (
            IMAGE,
            "ErrImagePull",
            r#"copying system image from manifest list: writing blob: storing blob to file "/var/tmp/container_images_storage1/1": write /var/tmp/container_images_storage1/1: no space left on device"#,
            Node,
            "no space left on node",
        ),
        (
            IMAGE,
            "RegistryUnavailable",
            r#"image pull failed for h.example/p:v1 because the registry is unavailable: initializing source docker://h.example/p:v1: pinging container registry h.example: Get "https://h.example/v2/": dial tcp 10.1.2.3:443: connect: connection refused"#,
            Registry,
            "connection refused: 10.1.2.3:443",
        ),
        (
            IMAGE,
            "RegistryUnavailable",
            r#"image pull failed for h.example/p:v1 because the registry is unavailable"#,
            Registry,
            "h.example is not available",
        ),
        (
            IMAGE,
            "SignatureValidationFailed",
            r#"image pull failed for h.example/p:v1 because the signature validation failed: Source image rejected: A signature was required, but no signature exists"#,
            Image,
            "the signature is not valid",
        ),
        // Names that say something else than the message.
        (
            "h.example/certificate-manager:1",
            "ErrImagePull",
            r#"failed to resolve reference "h.example/certificate-manager:1": h.example/certificate-manager:1: not found"#,
            Image,
            "image not found",
        ),
        (
            "nginx@sha256:0040100000000000000000000000000000000000000000000000000000000000",
            "ErrImagePull",
            r#"failed to resolve reference "docker.io/library/nginx@sha256:0040100000000000000000000000000000000000000000000000000000000000": docker.io/library/nginx@sha256:0040100000000000000000000000000000000000000000000000000000000000: not found"#,
            Image,
            "image not found",
        ),
        (
            "h.example/access-denied-page:1",
            "ErrImagePull",
            r#"failed to resolve reference "h.example/access-denied-page:1": h.example/access-denied-page:1: not found"#,
            Image,
            "image not found",
        ),
        (
            "quay.io/denied:unauthorized",
            "ErrImagePull",
            "reading manifest unauthorized in quay.io/denied: manifest unknown",
            Image,
            "image not found",
        ),
        (
            "quay.io/denied",
            "ErrImagePull",
            r#"failed to resolve reference "quay.io/denied:latest": pull access denied, repository does not exist or may require authorization"#,
            Image,
            "unauthorized: check imagePullSecrets",
        ),
        (
            "team/unauthorized-proxy:2",
            "ErrImagePull",
            "unexpected status from GET request to https://auth.docker.io/token?scope=repository%3Ateam%2Funauthorized-proxy%3Apull: 403 Forbidden",
            Image,
            "forbidden",
        ),
        (
            "rate-limit.example/no-such-host:5",
            "ErrImagePull",
            r#"failed to do request: Head "https://rate-limit.example/v2/no-such-host/manifests/5": dial tcp 10.1.2.3:443: i/o timeout"#,
            Registry,
            "timeout connecting to rate-limit.example",
        ),
        (
            "team/forbidden-city:1",
            "ErrImagePull",
            r#"Error response from daemon: manifest for team/forbidden-city:1 not found: manifest unknown"#,
            Image,
            "image not found",
        ),
        (
            "H.example/Denied:V1",
            "ErrImagePull",
            r#"failed to resolve reference "H.example/Denied:V1": H.example/Denied:V1: not found"#,
            Image,
            "image not found",
        ),
        (
            "h.example/p:not-found",
            "ErrImagePull",
            r#"failed to resolve reference "h.example/p:not-found": unexpected status from HEAD request to https://h.example/v2/p/manifests/not-found: 500 Internal Server Error"#,
            Registry,
            "server error at h.example",
        ),
    ];

    #[test]
    fn kubelet_messages_are_understood() {
        for (image, reason, message, scope, short) in MESSAGES {
            let cause = classify(reason, message, &Reference::parse(image), "linux/arm64");
            assert_eq!((cause.scope, cause.message.as_str()), (scope, short), "{message}");
        }
    }

    #[test]
    fn the_kubelets_backoff_hides_no_cause() {
        let not_pulled = ["InvalidImageName", "ErrImageNeverPull"];
        let pulled =
            MESSAGES.iter().filter(|(_, reason, _, scope, _)| !not_pulled.contains(reason) && *scope != Unknown);
        for (image, reason, message, scope, short) in pulled {
            let image = Reference::parse(image);
            let message = format!(r#"Back-off pulling image "{image}": {reason}: {message}"#);
            let cause = classify("ImagePullBackOff", &message, &image, "linux/arm64");
            assert_eq!((cause.scope, cause.message.as_str()), (*scope, *short), "{message}");
        }
    }

    #[test]
    fn every_cause_is_cut_at_a_character() {
        let long = "ü".repeat(1000);
        let image = Reference::parse(&format!("{long}.example/p:v1"));
        let messages = [
            long.clone(),
            format!("tls: {long}"),
            format!("lookup {long}: no such host"),
            format!("dial tcp {long}: connect: connection refused"),
            "no match for platform in manifest".to_owned(),
            "i/o timeout".to_owned(),
            "toomanyrequests".to_owned(),
            "unexpected EOF".to_owned(),
            "503 Service Unavailable".to_owned(),
        ];
        for message in messages {
            let cause = classify("ErrImagePull", &message, &image, &long);
            assert_eq!(cause.message.chars().count(), MAX_MESSAGE, "{message}");
            assert!(cause.message.ends_with('…'), "{message}");
        }
    }

    #[test]
    fn a_text_is_shortened_to_what_fits() {
        let cases = [("", 0, ""), ("ab", 0, ""), ("ab", 1, "…"), ("ab", 2, "ab"), ("üöä", 2, "ü…"), ("üöä", 3, "üöä")];
        for (text, max, short) in cases {
            assert_eq!(shortened(text, max), short, "{text:?} in {max}");
        }
    }
}
