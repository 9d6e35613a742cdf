//! What the audit log tells of the operator.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use drop_testbed::AuditEvent;
use jiff::Timestamp;

/// The requests that the operator has sent.
pub(super) fn of_operator(audit: Vec<AuditEvent>) -> Vec<AuditEvent> {
    // A watch is logged when it begins and when it ends.
    let counts = |event: &AuditEvent| (event.verb == "watch") == (event.stage == "ResponseStarted");
    audit.into_iter().filter(|event| event.user_agent.starts_with("drop/") && counts(event)).collect()
}

/// How many there are of each kind, such as `create pods`.
pub(super) fn by_kind(requests: &[AuditEvent]) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for request in requests {
        *kinds.entry(format!("{} {}", request.verb, request.resource)).or_default() += 1;
    }
    kinds
}

/// When each pull Pod's creation and its deletion were asked for, by name.
pub(super) fn lives(requests: &[AuditEvent]) -> BTreeMap<&str, (Timestamp, Option<Timestamp>)> {
    let mut lives = BTreeMap::new();
    for event in requests.iter().filter(|event| event.resource == "pods" && event.subresource.is_empty()) {
        match (event.verb.as_str(), event.code) {
            ("create", 201) => drop(lives.insert(event.name.as_str(), (event.request_received, None))),
            ("delete", 200) => {
                if let Some((_, until)) = lives.get_mut(event.name.as_str()) {
                    *until = Some(event.request_received);
                }
            }
            _ => {}
        }
    }
    lives
}

/// Seconds from the first creation of a Pod to the deletion of the last one.
pub(super) fn makespan(lives: &BTreeMap<&str, (Timestamp, Option<Timestamp>)>) -> Result<f64> {
    let first = lives.values().map(|(from, _)| *from).min().context("no Pod was created")?;
    let last = lives.values().filter_map(|(_, until)| *until).max().context("no Pod was deleted")?;
    Ok(last.duration_since(first).as_secs_f64())
}

/// The most Pods that were there at one instant. As no node has two, that is the most nodes too.
pub(super) fn most_at_once(lives: &BTreeMap<&str, (Timestamp, Option<Timestamp>)>) -> i64 {
    let starts = lives.values().map(|(from, _)| (*from, 1));
    let ends = lives.values().filter_map(|(_, until)| Some(((*until)?, -1)));
    let mut changes: Vec<(Timestamp, i64)> = starts.chain(ends).collect();
    changes.sort_unstable();
    let running = changes.into_iter().scan(0, |alive, (_, change)| {
        *alive += change;
        Some(*alive)
    });
    running.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(verb: &str, name: &str, code: u16, second: i64) -> AuditEvent {
        AuditEvent {
            user: "admin".to_owned(),
            user_agent: "drop/1".to_owned(),
            verb: verb.to_owned(),
            group: String::new(),
            resource: "pods".to_owned(),
            subresource: String::new(),
            namespace: "drop-system".to_owned(),
            name: name.to_owned(),
            code,
            request_received: Timestamp::from_second(second).unwrap(),
            answered: Timestamp::from_second(second).unwrap(),
            stage: "ResponseComplete".to_owned(),
        }
    }

    #[test]
    fn pods_live_from_their_creation_to_their_deletion() {
        let requests = [
            request("create", "a", 201, 0),
            request("create", "b", 201, 2),
            request("create", "b", 409, 3),
            request("delete", "a", 200, 4),
            request("create", "c", 201, 4),
            request("delete", "b", 200, 7),
            request("delete", "c", 200, 9),
        ];
        let lives = lives(&requests);
        assert_eq!(most_at_once(&lives), 2);
        assert_eq!(makespan(&lives).unwrap(), 9.0);
        assert_eq!(by_kind(&requests)["create pods"], 4);
    }

    #[test]
    fn a_watch_counts_once_and_others_not_at_all() {
        let begun = AuditEvent { stage: "ResponseStarted".to_owned(), ..request("watch", "", 200, 0) };
        let other = AuditEvent { user_agent: "kubectl/1".to_owned(), ..request("get", "a", 200, 0) };
        let requests = vec![begun, request("watch", "", 200, 9), request("get", "a", 200, 1), other];
        assert_eq!(of_operator(requests).len(), 2);
    }
}
