//! Reads the lives of pull Pods from the audit log.

use std::collections::{BTreeMap, BTreeSet};

use drop_testbed::AuditEvent;
use jiff::{SignedDuration, Timestamp};

use crate::sight::SeenPod;

/// The life of one pull Pod, as the API server logged it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// Its name.
    pub pod: String,
    /// Its node.
    pub node: String,
    /// The time of the request that created it.
    pub from: Timestamp,
    /// The time of the first request to delete it. Drop sends it after it has recorded the outcome.
    pub recorded: Option<Timestamp>,
    /// The time of the last request to delete it. It is the kubelet's, after the Pod has ended, or the only request if
    /// the Pod had ended before. `None` while it lives.
    pub until: Option<Timestamp>,
}

/// Returns the lives of the Pods in `pods`, by creation. Pods that have ended must be gone.
#[must_use]
pub fn lives(audit: &[AuditEvent], pods: &BTreeMap<String, SeenPod>) -> Vec<Life> {
    let mut lives: Vec<Life> = pods
        .iter()
        .filter_map(|(name, pod)| {
            let events = || audit.iter().filter(|event| event.resource == "pods" && event.subresource.is_empty());
            let created = events().find(|event| event.verb == "create" && event.code == 201 && event.name == *name)?;
            // If the client of a deletion goes away before the answer, the log shows an error of the server, but the
            // server may have carried out the deletion.
            let deletions = || {
                let deleted = events().filter(|event| event.verb == "delete" && !matches!(event.code, 400..499));
                deleted.filter(|event| event.name == *name).map(|event| event.request_received)
            };
            Some(Life {
                pod: name.clone(),
                node: pod.node.clone(),
                from: created.request_received,
                recorded: deletions().min(),
                until: deletions().max(),
            })
        })
        .collect();
    lives.sort_by_key(|life| life.from);
    lives
}

/// Returns the largest number of nodes that had a live Pod at the same time.
#[must_use]
pub fn most_nodes_at_once(lives: &[Life]) -> usize {
    most_at_once(lives, |life| life.until)
}

/// Returns the largest number of nodes that tried at the same time. A try ends when its outcome is recorded, although
/// the kubelet may take longer to remove the Pod.
#[must_use]
pub fn most_tries_at_once(lives: &[Life]) -> usize {
    most_at_once(lives, |life| life.recorded)
}

fn most_at_once(lives: &[Life], end: impl Fn(&Life) -> Option<Timestamp>) -> usize {
    let at = |instant: Timestamp| {
        let alive = lives.iter().filter(|life| life.from <= instant && end(life).is_none_or(|end| end > instant));
        alive.map(|life| &life.node).collect::<BTreeSet<_>>().len()
    };
    lives.iter().map(|life| at(life.from)).max().unwrap_or_default()
}

/// Returns the first Pod of each node, by creation. If every node had one turn, these are the beginnings of the turns.
#[must_use]
pub fn first_on_each_node(lives: &[Life]) -> Vec<&Life> {
    let mut seen = BTreeSet::new();
    lives.iter().filter(|life| seen.insert(&life.node)).collect()
}

/// Returns the shortest time between one of `lives` and the next.
#[must_use]
pub fn shortest_gap(lives: &[&Life]) -> SignedDuration {
    let gaps = lives.iter().zip(lives.iter().skip(1)).map(|(one, next)| next.from.duration_since(one.from));
    gaps.min().unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(node: &str, from: i64, until: Option<i64>) -> Life {
        let at = |second| Timestamp::from_second(second).unwrap();
        // The outcome of each is recorded a second after its creation.
        let recorded = until.map(|_| at(from + 1));
        Life { pod: format!("{node}-{from}"), node: node.to_owned(), from: at(from), recorded, until: until.map(at) }
    }

    #[test]
    fn overlaps_and_gaps_are_counted_per_node() {
        let lives = [life("a", 0, Some(4)), life("b", 3, Some(8)), life("a", 4, Some(5)), life("c", 9, None)];
        assert_eq!(most_nodes_at_once(&lives), 2);
        assert_eq!(most_tries_at_once(&lives), 1);
        let firsts = first_on_each_node(&lives);
        assert_eq!(firsts.iter().map(|life| life.node.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(shortest_gap(&firsts), SignedDuration::from_secs(3));
    }
}
