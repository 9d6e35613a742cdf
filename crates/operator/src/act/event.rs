//! Writes notices of the planner as Kubernetes Events.

use drop_api::names::{API_VERSION, MANAGER, bounded, short_hash};
use drop_core::notice::{NODE, Notice};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::ObjectMeta;

/// The namespace of Events about objects that have none.
pub const NAMESPACE: &str = "default";
/// The `action` of all of Drop's Events.
const ACTION: &str = "Cache";
/// The longest name of an object.
const MAX_NAME: usize = 253;

/// Returns the Event for `notice`, reported by the Pod `instance`.
///
/// Each notice is an Event of its own, not part of a series: a series keeps the note of its first Event, and notices
/// with the same reason have different notes.
pub fn event(notice: &Notice, instance: &str, now: Timestamp) -> Event {
    let what = format!("{} {} {} {}", notice.uid, notice.reason, notice.message, now.as_nanosecond());
    let hash = short_hash(what.as_bytes());
    Event {
        metadata: ObjectMeta {
            namespace: Some(NAMESPACE.to_owned()),
            name: Some(format!("{}.{hash}", bounded(&notice.name, MAX_NAME - hash.len() - 1))),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some(if notice.is_warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(notice.reason.clone()),
        note: Some(notice.message.clone()),
        action: Some(ACTION.to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some(if notice.kind == NODE { "v1" } else { API_VERSION }.to_owned()),
            kind: Some(notice.kind.to_owned()),
            name: Some(notice.name.to_string()),
            uid: Some(notice.uid.to_string()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(MANAGER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(name: &str, message: &str) -> Notice {
        Notice {
            kind: "DiscoveryPolicy",
            name: name.into(),
            uid: "uid".into(),
            is_warning: false,
            reason: "DiscoveryChanged".to_owned(),
            message: message.to_owned(),
        }
    }

    #[test]
    fn notices_of_one_reason_are_events_with_their_own_words() {
        let first = event(&notice("a", "1 image: +1 −0"), "drop-0", Timestamp::UNIX_EPOCH);
        let second = event(&notice("a", "2 images: +1 −0"), "drop-0", Timestamp::UNIX_EPOCH);
        assert_ne!(first.metadata.name, second.metadata.name);
        assert_eq!(second.note.as_deref(), Some("2 images: +1 −0"));
        let again = event(&notice("a", "1 image: +1 −0"), "drop-0", Timestamp::MAX);
        assert_ne!(first.metadata.name, again.metadata.name);
    }

    #[test]
    fn the_longest_name_of_an_object_leaves_room_for_that_of_its_event() {
        let name = "n".repeat(MAX_NAME);
        let event = event(&notice(&name, ""), "drop-0", Timestamp::UNIX_EPOCH);
        let called = event.metadata.name.unwrap();
        assert!(called.len() <= MAX_NAME && called.starts_with("nnn"), "{called}");
        assert_eq!(event.regarding.unwrap().name, Some(name));
    }
}
