//! Records when turns began, for the delay between nodes.

use jiff::{SignedDuration, Timestamp};

use crate::Name;
use crate::time::after;

/// When one policy last began to pull on a node, and on a different one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Starts {
    last: Option<(Name, Timestamp)>,
    /// The last start on a node other than that of `last`.
    other: Option<Timestamp>,
    /// When the API server last refused a Pod that would have begun a turn.
    refused_at: Option<Timestamp>,
    /// When a Pod with late pulls last existed, as far as this process knows.
    retried_at: Option<Timestamp>,
    /// Whether no fresh pull has begun since the last Pod with late pulls began.
    owes_fresh: bool,
}

impl Starts {
    /// Records a start. The order in which starts are recorded does not matter.
    pub fn note(&mut self, node: &Name, at: Timestamp) {
        match &self.last {
            Some((last, last_at)) if (*last_at, last) > (at, node) => {
                if last != node {
                    self.other = self.other.max(Some(at));
                }
            }
            previous => {
                if let Some((last, last_at)) = previous
                    && last != node
                {
                    self.other = self.other.max(Some(*last_at));
                }
                self.last = Some((node.clone(), at));
            }
        }
    }

    /// Records that a Pod was refused that would have begun a turn. No node is exempt from the delay after that.
    pub fn note_refusal(&mut self, now: Timestamp) {
        self.refused_at = self.refused_at.max(Some(now));
    }

    /// Records that another machine has the name `node` from now on, or none.
    pub fn replace(&mut self, node: &str) {
        if let Some((last, _)) = self.last.as_mut().filter(|(last, _)| **last == *node) {
            *last = "".into();
        }
    }

    /// Returns when a node may begin: `delay` after the last start on any node other than `own`, if that is given, and
    /// after the last refusal.
    #[must_use]
    pub fn free_at(&self, own: Option<&str>, delay: SignedDuration) -> Option<Timestamp> {
        let on_another = match &self.last {
            Some((last, _)) if own == Some(&**last) => self.other,
            last => last.as_ref().map(|(_, at)| *at),
        };
        on_another.max(self.refused_at).map(|at| after(at, delay))
    }

    /// Records that a Pod with late pulls existed at `now`.
    pub fn note_retry(&mut self, now: Timestamp) {
        self.retried_at = self.retried_at.max(Some(now));
    }

    /// Records that a Pod begins, with fresh pulls alone or not.
    pub fn begin(&mut self, is_fresh: bool) {
        self.owes_fresh = !is_fresh;
    }

    /// Whether a retry may go before fresh pulls, where one may in so long a time. It takes no two turns in a row while
    /// fresh pulls wait: a delay between nodes that is longer than the time would leave them no turn.
    #[must_use]
    pub fn lets_retry_first(&self, fresh_wait: bool, once_in: SignedDuration, now: Timestamp) -> bool {
        !(self.owes_fresh && fresh_wait) && self.retried_at.is_none_or(|at| after(at, once_in) <= now)
    }

    /// The last start.
    #[must_use]
    pub fn last(&self) -> Option<&(Name, Timestamp)> {
        self.last.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_delay_counts_from_the_last_start_on_a_different_node() {
        let delay = SignedDuration::from_secs(10);
        let mut starts = Starts::default();
        assert_eq!(starts.free_at(Some("a"), delay), None);
        starts.note(&"a".into(), at(5));
        assert_eq!(starts.free_at(Some("a"), delay), None, "a node does not wait for itself");
        assert_eq!(starts.free_at(Some("b"), delay), Some(at(15)));
        starts.note(&"b".into(), at(20));
        assert_eq!(starts.free_at(Some("b"), delay), Some(at(15)));
        assert_eq!(starts.free_at(Some("a"), delay), Some(at(30)));
        starts.replace("b");
        assert_eq!(starts.free_at(Some("b"), delay), Some(at(30)), "another machine of its name waits");
    }

    #[test]
    fn starts_may_come_in_any_order() {
        let noted = [("a", 5), ("b", 20), ("a", 25), ("c", 7)];
        let mut expected = Starts::default();
        noted.iter().for_each(|(node, second)| expected.note(&(*node).into(), at(*second)));
        for rotation in 1..noted.len() {
            let mut starts = Starts::default();
            let (late, early) = noted.split_at(rotation);
            early.iter().chain(late).rev().for_each(|(node, s)| starts.note(&(*node).into(), at(*s)));
            assert_eq!(starts, expected, "rotated by {rotation}");
        }
    }
}
