//! Lines of pull events as shippers of Kubernetes events write them into Loki. Each is found without a parser and with
//! the default one, and a policy for one shipper finds the pulls of another.

use drop_api::discovery_policy::{LokiParser, LokiQuery};
use drop_core::discovery::{Answer, PullEvent};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::credentials::secret;
use super::{Fetched, Limits, Seat, loki};
use crate::fake::{Fake, reply};

const IMAGE: &str = "registry.example.com/team/app:1.2";
const MESSAGE: &str = "Successfully pulled image \"registry.example.com/team/app:1.2\" in 1m21.3s (1m30s including waiting). \
                       Image size: 7340032 bytes.";

/// An Event of the core API, as the API server writes it.
fn event(reason: &str, message: &str) -> Value {
    json!({
        "metadata": {"name": "runner-1.17d0", "namespace": "ci", "uid": "11cf530c", "resourceVersion": "758942",
            "creationTimestamp": "2026-01-02T03:04:05Z", "managedFields": [{"manager": "kubelet"}]},
        "involvedObject": {"kind": "Pod", "namespace": "ci", "name": "runner-1", "uid": "008cf918", "apiVersion": "v1",
            "resourceVersion": "758900", "fieldPath": "spec.containers{build}"},
        "reason": reason, "message": message, "source": {"component": "kubelet", "host": "node-1"},
        "firstTimestamp": "2026-01-02T03:04:05Z", "lastTimestamp": "2026-01-02T03:04:05Z", "count": 1, "type": "Normal",
        "eventTime": null, "reportingComponent": "kubelet", "reportingInstance": "node-1",
    })
}

/// An Event of events.k8s.io as OpenTelemetry's k8sobjects watches it.
fn watched(change: &str, note: &str) -> Value {
    json!({"object": {"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": note, "reason": "Pulled",
        "regarding": {"kind": "Pod", "name": "runner-1", "namespace": "ci"}, "type": "Normal",
        "metadata": {"name": "runner-1.17d0", "resourceVersion": "758942"}}, "type": change})
}

/// A line of Alloy.
fn logfmt(keys: &str, message: &str) -> String {
    format!("{keys} msg={message:?} ")
}

/// Returns the lines of shippers: the name, the labels of the stream, and a line with a pull of [`IMAGE`].
fn shippers() -> Vec<(&'static str, Value, String)> {
    let event = event("Pulled", MESSAGE);
    let alloy = "name=runner-1 kind=Pod objectAPIversion=v1 objectRV=758900 eventRV=758942 reportinginstance=node-1 \
                 reportingcontroller=kubelet sourcecomponent=kubelet sourcehost=node-1 reason=Pulled type=Normal count=1";
    let labels = json!({"job": "loki.source.kubernetes_events", "namespace": "ci"});
    let routed = json!({"verb": "ADDED", "event": event});
    let klog = format!("I0826 10:58:53.717599       6 glogsink.go:42] {routed}");
    let old = self::event("Pulled", &MESSAGE.replace("1.2", "0"));
    let mut updated = json!({"verb": "UPDATED", "event": event, "old_event": old});
    updated["old_event"]["metadata"]["resourceVersion"] = json!("758000");
    let of_otel = json!({"k8s_event_reason": "Pulled", "k8s_pod_name": "runner-1", "severity_text": "Normal"});
    let fluent_bit =
        format!("reason=\"Pulled\" message=\"{MESSAGE}\" involvedObject={{\"kind\":\"Pod\"}} type=\"Normal\"");
    let cri = format!("2026-01-02T03:04:05.123456789Z stderr F {klog}");
    vec![
        ("Alloy", labels.clone(), logfmt(alloy, MESSAGE)),
        (
            "Alloy, log_format = \"json\"",
            labels.clone(),
            json!({"name": "runner-1", "kind": "Pod", "objectAPIversion": "v1", "sourcecomponent": "kubelet",
                "reason": "Pulled", "type": "Normal", "count": 1, "msg": MESSAGE})
            .to_string(),
        ),
        ("Agent, eventhandler", json!({"job": "integrations/kubernetes/eventhandler"}), logfmt(alloy, MESSAGE)),
        ("kubernetes-event-exporter", json!({"foo": "bar"}), event.to_string()),
        (
            "kubernetes-event-exporter with a layout",
            json!({"reason": "Pulled"}),
            json!({"what": "Normal", "details": {"text": MESSAGE}, "pod": "runner-1"}).to_string(),
        ),
        ("kubernetes-event-exporter, pretty", json!({}), serde_json::to_string_pretty(&event).unwrap()),
        ("eventrouter", json!({"app": "eventrouter"}), klog.clone()),
        ("eventrouter, stdout", json!({}), routed.to_string()),
        ("eventrouter, an update", json!({}), updated.to_string()),
        ("eventrouter by Promtail without the stage cri", json!({"container": "eventrouter"}), cri),
        (
            "eventrouter by Docker's log driver",
            json!({}),
            json!({"log": format!("{klog}\n"), "stream": "stderr", "time": "2026-01-02T03:04:05Z"}).to_string(),
        ),
        ("OpenTelemetry k8s_events by OTLP", of_otel, MESSAGE.to_owned()),
        ("OpenTelemetry k8sobjects by OTLP", json!({"event_domain": "k8s"}), watched("ADDED", MESSAGE).to_string()),
        (
            "OpenTelemetry k8s_events by lokiexporter",
            json!({"exporter": "OTLP"}),
            json!({"body": MESSAGE, "severity": "Normal", "attributes": {"k8s.event.reason": "Pulled"},
                "resources": {"k8s.node.name": "node-1"}})
            .to_string(),
        ),
        (
            "OpenTelemetry k8sobjects by lokiexporter",
            json!({"exporter": "OTLP"}),
            json!({"body": watched("ADDED", MESSAGE).to_string(), "severity": "Normal"}).to_string(),
        ),
        (
            "OpenTelemetry k8s_events by lokiexporter, logfmt",
            json!({"exporter": "OTLP"}),
            format!("msg={MESSAGE:?} severity=Normal attribute_k8s.event.reason=Pulled resource_k8s.node.name=node-1"),
        ),
        ("Fluent Bit kubernetes_events", json!({"job": "fluentbit"}), event.to_string()),
        ("Fluent Bit kubernetes_events, key_value", json!({"job": "fluentbit"}), fluent_bit),
        (
            "Vector around kubernetes-event-exporter",
            json!({"forwarder": "vector"}),
            json!({"message": event.to_string(), "stream": "stdout", "kubernetes": {"pod_name": "exporter-1"}})
                .to_string(),
        ),
        (
            "Vector around Fluentd around eventrouter",
            json!({"forwarder": "vector"}),
            json!({"message": json!({"log": klog}).to_string()}).to_string(),
        ),
        (
            "the log of a kubelet",
            json!({"unit": "kubelet.service"}),
            format!(
                "I0102 03:04:05.717599    1234 event.go:307] \"Event occurred\" object=\"ci/runner-1\" \
                 fieldPath=\"spec.containers{{build}}\" kind=\"Pod\" apiVersion=\"v1\" type=\"Normal\" reason=\"Pulled\" \
                 message={MESSAGE:?}"
            ),
        ),
        (
            "a line that was cut",
            json!({}),
            format!("{}…", json!({"message": MESSAGE, "metadata": {}}).to_string().replace('}', "")),
        ),
        ("quotes as code points", json!({}), json!({"message": MESSAGE}).to_string().replace("\\\"", "\\u0022")),
    ]
}

/// Returns all lines, with and without pulls.
pub fn lines() -> Vec<String> {
    let of_pulls = shippers().into_iter().map(|(_, _, line)| line);
    of_pulls.chain(others().into_iter().map(|(_, line)| line)).collect()
}

/// Returns lines that report no pull, or a pull that another line has reported.
fn others() -> Vec<(&'static str, String)> {
    let event = event("Pulled", MESSAGE);
    let present = "Container image \"registry.example.com/team/app:1.2\" already present on machine";
    vec![
        (
            "eventrouter, when it compares its cache",
            json!({"verb": "UPDATED", "event": event, "old_event": event}).to_string(),
        ),
        ("OpenTelemetry k8sobjects, an hour later", watched("DELETED", MESSAGE).to_string()),
        ("the same within a string", json!({"body": watched("DELETED", MESSAGE).to_string()}).to_string()),
        ("an image that was there", self::event("Pulled", present).to_string()),
        ("the same of Alloy", logfmt("name=runner-1 kind=Pod reason=Pulled", present)),
        ("a pull that begins", self::event("Pulling", &MESSAGE.replace("Successfully pulled", "Pulling")).to_string()),
        (
            "a pull that failed",
            self::event("Failed", &MESSAGE.replace("Successfully pulled", "Failed to pull")).to_string(),
        ),
        ("an event that quotes one", logfmt("name=runner-1 reason=Audited", MESSAGE)),
        ("text", "Successfully pulled image".to_owned()),
    ]
}

async fn ask(labels: &Value, line: &str, parser: Option<LokiParser>) -> Vec<PullEvent> {
    let streams = json!([{"stream": labels, "values": [["1000000000", line]]}]);
    let body =
        json!({"status": "success", "data": {"resultType": "streams", "result": streams, "stats": {}}}).to_string();
    let backend = Fake::start(move |_| reply(200, &[], body.clone())).await;
    let query = json!({"endpoint": backend.url, "query": "{job=\"events\"}"});
    let query = LokiQuery { parser, ..serde_json::from_value(query).unwrap() };
    let now = Timestamp::from_second(1000).unwrap();
    let fetched = loki::fetch(&query, &secret(&[]), now, Limits::default(), &Seat::default()).await.unwrap();
    let Fetched { answer: Answer::Pulls(pulls), note } = fetched else { panic!("{fetched:?}") };
    assert_eq!(note.is_none(), !pulls.is_empty(), "{note:?}");
    pulls
}

/// Returns no parser, the default one, and that of policies for the Go operator.
fn parsers() -> [Option<LokiParser>; 3] {
    let go = LokiParser { image_field: Some("message".to_owned()), ..LokiParser::default() };
    [None, Some(LokiParser::default()), Some(go)]
}

#[tokio::test]
async fn the_pulls_of_every_shipper_are_found() {
    let expected = PullEvent {
        at: Timestamp::from_second(1).unwrap(),
        image: IMAGE.to_owned(),
        pull_time: Some(SignedDuration::from_millis(81_300)),
        size: Some(7_340_032),
    };
    for (shipper, labels, line) in shippers() {
        for parser in parsers() {
            assert_eq!(ask(&labels, &line, parser).await, std::slice::from_ref(&expected), "{shipper}: {line}");
        }
    }
}

#[tokio::test]
async fn what_is_no_pull_of_its_own_is_none() {
    for (what, line) in others() {
        for parser in parsers() {
            assert_eq!(ask(&json!({"job": "events"}), &line, parser).await, [], "{what}: {line}");
        }
    }
}

#[test]
fn messages_of_all_kubelets_since_1_20_are_read() {
    let read = |message: &str| {
        let event = PullEvent::from_message(Timestamp::UNIX_EPOCH, message)?;
        assert_eq!(event.image, "a:1", "{message}");
        Some((event.pull_time.map(|time| time.as_micros()), event.size))
    };
    let cases = [
        ("Successfully pulled image \"a:1\"", Some((None, None))),
        ("Successfully pulled image \"a:1\" in 49.657983991s", Some((Some(49_657_983), None))),
        (
            "Successfully pulled image \"a:1\" in 1m21.284220239s (2m7.876426944s including waiting)",
            Some((Some(81_284_220), None)),
        ),
        (
            "Successfully pulled image \"a:1\" in 324ms (324ms including waiting). Image size: 12345 bytes.",
            Some((Some(324_000), Some(12345))),
        ),
        (
            "Successfully pulled image \"a:1\" in 950µs (1ms including waiting). Image size: 1 bytes.",
            Some((Some(950), Some(1))),
        ),
        (
            "Successfully pulled image \"a:1\" in 1h2m3.5s (1h2m4s including waiting). Image size: 0 bytes.",
            Some((Some(3_723_500_000), None)),
        ),
        (
            "Successfully pulled image \"a:1\" in 0s (0s including waiting). Image size: 9 bytes.",
            Some((Some(0), Some(9))),
        ),
        ("(combined from similar events): Successfully pulled image \"a:1\" in 2s", Some((Some(2_000_000), None))),
        ("Successfully pulled image \"a:1\" in a moment", Some((None, None))),
        ("Container image \"a:1\" already present on machine", None),
        ("Container image \"a:1\" already present on machine and can be accessed by the pod", None),
        ("Successfully pulled image a:1", None),
        ("Successfully pulled image \"a:1", None),
    ];
    for (message, expected) in cases {
        assert_eq!(read(message), expected, "{message}");
    }
}
