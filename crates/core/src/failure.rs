//! What a kubelet's failure message means: the cause in a few words, and whose
//! failure it is.

pub use drop_api::node_cache::FailureScope;

/// A failure, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Whose failure it is.
    pub scope: FailureScope,
    /// The cause in a short form, for people.
    pub message: String,
}

/// The longest message that is passed on as it is, in characters.
const MAX_MESSAGE: usize = 300;

/// Understands why an image could not be pulled.
///
/// `reason` and `message` are the kubelet's (a container's `state.waiting`);
/// `host` is the registry of the image; `platform` is the node's (`linux/arm64`).
#[must_use]
pub fn classify(reason: &str, message: &str, host: &str, platform: &str) -> Cause {
    use FailureScope::{Image, Node, Registry, Unknown};
    let text = message.to_lowercase();
    let says = |any_of: &[&str]| any_of.iter().any(|part| text.contains(part));
    let cause = |scope, message: String| Cause { scope, message };

    if reason == "InvalidImageName" {
        return cause(Image, "invalid image name".to_owned());
    }
    if reason == "ErrImageNeverPull" {
        return cause(Node, "the node may not pull images".to_owned());
    }
    // The order matters: the first match is the most specific one. A missing
    // platform also says "not found", and a token server that answers 401 is
    // reached through a chain of errors that may name anything.
    if says(&["no space left on device", "disk quota exceeded"]) {
        return cause(Node, "no space left on node".to_owned());
    }
    if says(&["no match for platform", "no matching manifest", "no image found in image index for architecture"]) {
        return cause(Image, format!("no image for {platform}"));
    }
    if says(&["x509:", "tls: ", "server gave http response to https client", "certificate"]) {
        return cause(Registry, format!("TLS: {}", after_last(message, &["x509: ", "tls: ", "http: "])));
    }
    if says(&["toomanyrequests", "429 too many requests", "status code 429", "rate limit"]) {
        return cause(Registry, format!("rate limited by {host}"));
    }
    if says(&["no such host", "server misbehaving", "temporary failure in name resolution"]) {
        return cause(Registry, format!("cannot resolve {}", looked_up(message).unwrap_or(host)));
    }
    if says(&["connection refused"]) {
        return cause(Registry, format!("connection refused: {}", dialled(message).unwrap_or(host)));
    }
    if says(&["i/o timeout", "deadline exceeded", "handshake timeout", "timeout exceeded", "timed out"]) {
        return cause(Registry, format!("timeout connecting to {host}"));
    }
    if says(&["connection reset", "unexpected eof", "broken pipe", "network is unreachable", "no route to host"]) {
        return cause(Registry, format!("connection lost: {host}"));
    }
    if says(&["500 internal", "502 bad gateway", "503 service", "504 gateway", "status code 5"]) {
        return cause(Registry, format!("server error at {host}"));
    }
    if says(&[
        "401",
        "unauthorized",
        "authentication required",
        "insufficient_scope",
        "pull access denied",
        "no basic auth credentials",
    ]) {
        return cause(Image, "unauthorized: check imagePullSecrets".to_owned());
    }
    if says(&["403 forbidden", "forbidden", "denied"]) {
        return cause(Image, "forbidden".to_owned());
    }
    if says(&["not found", "manifest unknown", "name unknown"]) {
        return cause(Image, "image not found".to_owned());
    }
    cause(Unknown, shortened(message))
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

fn shortened(message: &str) -> String {
    match message.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}…", message.get(..end).unwrap_or_default()),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FailureScope::{Image, Node, Registry, Unknown};

    /// Messages of containerd 2.x and CRI-O as the kubelet shows them.
    #[test]
    fn kubelet_messages_are_understood() {
        let table = [
            (
                "ErrImagePull",
                r#"rpc error: code = NotFound desc = failed to pull and unpack image "docker.io/library/nope:1": failed to resolve reference "docker.io/library/nope:1": docker.io/library/nope:1: not found"#,
                Image,
                "image not found",
            ),
            (
                "ErrImagePull",
                r#"failed to pull and unpack image "registry.bad/x:latest": failed to resolve reference "registry.bad/x:latest": failed to do request: Head "https://registry.bad/v2/x/manifests/latest": dial tcp: lookup registry.bad on 127.0.0.1:53: no such host"#,
                Registry,
                "cannot resolve registry.bad",
            ),
            (
                "ErrImagePull",
                r#"failed to pull and unpack image "h/p/app:v1": failed to resolve reference: failed to do request: Head "http://127.0.0.1:5001/v2/app/manifests/v1": dial tcp 127.0.0.1:5001: connect: connection refused"#,
                Registry,
                "connection refused: 127.0.0.1:5001",
            ),
            (
                "ErrImagePull",
                r#"failed to resolve reference "h/p:v1": pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials"#,
                Image,
                "unauthorized: check imagePullSecrets",
            ),
            (
                "ErrImagePull",
                r#"failed to authorize: failed to fetch anonymous token: unexpected status from GET request to https://auth.h/token: 401 Unauthorized"#,
                Image,
                "unauthorized: check imagePullSecrets",
            ),
            (
                "ErrImagePull",
                r#"failed to do request: Head "https://h/v2/": tls: failed to verify certificate: x509: certificate signed by unknown authority"#,
                Registry,
                "TLS: certificate signed by unknown authority",
            ),
            (
                "ErrImagePull",
                r#"failed to resolve reference "h/p:v1": failed to do request: Head "https://h/v2/p/manifests/v1": dial tcp 10.1.2.3:443: i/o timeout"#,
                Registry,
                "timeout connecting to h",
            ),
            (
                "ErrImagePull",
                r#"unexpected status from HEAD request to https://h/v2/p/manifests/v1: 403 Forbidden"#,
                Image,
                "forbidden",
            ),
            (
                "ErrImagePull",
                r#"unexpected status from HEAD request to https://h/v2/p/manifests/v1: 429 Too Many Requests: toomanyrequests: You have reached your pull rate limit"#,
                Registry,
                "rate limited by h",
            ),
            (
                "ErrImagePull",
                r#"unexpected status from GET request to https://h/v2/p/blobs/sha256:1: 503 Service Unavailable"#,
                Registry,
                "server error at h",
            ),
            (
                "ErrImagePull",
                r#"failed to pull and unpack image "h/p:v1": no match for platform in manifest: not found"#,
                Image,
                "no image for linux/arm64",
            ),
            (
                "ErrImagePull",
                r#"failed to extract layer: write /var/lib/containerd/tmp: no space left on device"#,
                Node,
                "no space left on node",
            ),
            ("ErrImagePull", r#"reading manifest v9 in h/p: manifest unknown"#, Image, "image not found"),
            ("InvalidImageName", r#"Failed to apply default image tag "A:b:c""#, Image, "invalid image name"),
            ("ErrImagePull", "something new", Unknown, "something new"),
        ];
        for (reason, message, scope, short) in table {
            let cause = classify(reason, message, "h", "linux/arm64");
            assert_eq!((cause.scope, cause.message.as_str()), (scope, short), "{message}");
        }
    }

    #[test]
    fn an_unknown_message_is_cut_at_a_character() {
        let cause = classify("ErrImagePull", &"ü".repeat(1000), "h", "linux/amd64");
        assert_eq!(cause.message.chars().count(), MAX_MESSAGE + 1);
    }
}
