//! The API server's audit log: who asked for what, exactly.

use jiff::Timestamp;
use serde::Deserialize;

/// One request that the API server has answered, or begun to answer in the case of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// The user that the request acted as (the impersonated one, if any).
    pub user: String,
    /// The client's `User-Agent`.
    pub user_agent: String,
    /// `get`, `list`, `watch`, `create`, `patch`, ...
    pub verb: String,
    /// API group of the resource; empty for the core group and for paths.
    pub group: String,
    /// Plural name of the resource; empty for a path such as `/readyz`.
    pub resource: String,
    /// `status`, `binding`, ...; empty if none.
    pub subresource: String,
    /// Empty for cluster-scoped resources and requests over all namespaces.
    pub namespace: String,
    /// Empty for collections, and for a creation with a generated name.
    pub name: String,
    /// HTTP status; 0 if the log does not tell.
    pub code: u16,
    /// When the API server received the request.
    pub request_received: Timestamp,
    /// When the API server had answered, or begun to answer in the case of a watch.
    pub answered: Timestamp,
    /// `ResponseStarted` (long-running requests), `ResponseComplete` or `Panic`.
    pub stage: String,
}

/// Parses the log; lines that are no event (the last one may be half-written) are left out.
pub(crate) fn parse(log: &str) -> Vec<AuditEvent> {
    log.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok()).map(AuditEvent::from).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    stage: String,
    verb: String,
    user: User,
    impersonated_user: Option<User>,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    object_ref: ObjectRef,
    #[serde(default)]
    response_status: ResponseStatus,
    request_received_timestamp: Timestamp,
    stage_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ObjectRef {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResponseStatus {
    code: u16,
}

impl From<Line> for AuditEvent {
    fn from(line: Line) -> Self {
        Self {
            user: line.impersonated_user.unwrap_or(line.user).username,
            user_agent: line.user_agent,
            verb: line.verb,
            group: line.object_ref.api_group,
            resource: line.object_ref.resource,
            subresource: line.object_ref.subresource,
            namespace: line.object_ref.namespace,
            name: line.object_ref.name,
            code: line.response_status.code,
            request_received: line.request_received_timestamp,
            answered: line.stage_timestamp,
            stage: line.stage,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"1","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/drop-system/pods/a/status","verb":"patch","user":{"username":"admin","groups":["system:masters"]},"impersonatedUser":{"username":"system:node:a"},"sourceIPs":["127.0.0.1"],"userAgent":"kubelet/v1.36.3","objectRef":{"resource":"pods","namespace":"drop-system","name":"a","apiVersion":"v1","subresource":"status"},"responseStatus":{"metadata":{},"code":200},"requestReceivedTimestamp":"2026-01-02T03:04:05.678901Z","stageTimestamp":"2026-01-02T03:04:05.700000Z"}
{"kind":"Event","level":"Metadata","stage":"ResponseComplete","requestURI":"/version","verb":"get","user":{"username":"drop"},"requestReceivedTimestamp":"2026-01-02T03:04:06.000000Z","stageTimestamp":"2026-01-02T03:04:06.000000Z"}
{"kind":"Event","level":"Meta"#;

    #[test]
    fn events_are_parsed_and_a_half_written_line_is_left_out() {
        let events = parse(LOG);
        let status = AuditEvent {
            user: "system:node:a".to_owned(),
            user_agent: "kubelet/v1.36.3".to_owned(),
            verb: "patch".to_owned(),
            group: String::new(),
            resource: "pods".to_owned(),
            subresource: "status".to_owned(),
            namespace: "drop-system".to_owned(),
            name: "a".to_owned(),
            code: 200,
            request_received: "2026-01-02T03:04:05.678901Z".parse().unwrap(),
            answered: "2026-01-02T03:04:05.700000Z".parse().unwrap(),
            stage: "ResponseComplete".to_owned(),
        };
        assert_eq!(events.len(), 2);
        assert_eq!(events[0], status);
        assert_eq!((events[1].user.as_str(), events[1].resource.as_str()), ("drop", ""));
    }
}
