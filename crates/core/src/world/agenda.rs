//! Schedules the work that is due at a certain time, without an event.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

/// At most one time for each `K`, with quick access to the earliest.
#[derive(Debug)]
pub(crate) struct Agenda<K> {
    times: BTreeMap<K, Timestamp>,
    by_time: BTreeSet<(Timestamp, K)>,
}

impl<K> Default for Agenda<K> {
    fn default() -> Self {
        Self { times: BTreeMap::new(), by_time: BTreeSet::new() }
    }
}

impl<K: Clone + Ord> Agenda<K> {
    /// Sets the time of `what`, whatever it was before.
    pub(super) fn set(&mut self, what: K, at: Timestamp) {
        self.cancel(&what);
        self.times.insert(what.clone(), at);
        self.by_time.insert((at, what));
    }

    /// Sets the time of `what`, unless an earlier one is set.
    pub(super) fn set_at_the_latest(&mut self, what: K, at: Timestamp) {
        if self.time_of(&what).is_none_or(|known| at < known) {
            self.set(what, at);
        }
    }

    pub(super) fn cancel(&mut self, what: &K) {
        if let Some(at) = self.times.remove(what) {
            self.by_time.remove(&(at, what.clone()));
        }
    }

    pub(super) fn time_of(&self, what: &K) -> Option<Timestamp> {
        self.times.get(what).copied()
    }

    /// Returns the keys that are due at `now`, in order of time.
    pub(super) fn due(&self, now: Timestamp) -> impl Iterator<Item = &K> {
        self.by_time.iter().take_while(move |(at, _)| *at <= now).map(|(_, what)| what)
    }

    /// Removes and returns the first key that is due at `now`.
    pub(super) fn pop_due(&mut self, now: Timestamp) -> Option<K> {
        self.by_time.first().filter(|(at, _)| *at <= now)?;
        let (_, what) = self.by_time.pop_first()?;
        self.times.remove(&what);
        Some(what)
    }

    /// Returns the earliest time after `now` at which a key is due.
    pub(super) fn next_after(&self, now: Timestamp) -> Option<Timestamp> {
        self.by_time.iter().map(|(at, _)| *at).find(|at| *at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_has_one_time_and_the_earliest_is_due_first() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut agenda = Agenda::default();
        agenda.set("a", at(10));
        agenda.set("b", at(5));
        agenda.set_at_the_latest("a", at(20));
        assert_eq!((agenda.time_of(&"a"), agenda.next_after(at(5))), (Some(at(10)), Some(at(10))));
        agenda.set_at_the_latest("a", at(3));
        assert_eq!(agenda.due(at(5)).copied().collect::<Vec<_>>(), ["a", "b"]);
        agenda.set("a", at(7));
        assert_eq!((agenda.pop_due(at(6)), agenda.pop_due(at(6))), (Some("b"), None));
        agenda.cancel(&"a");
        assert_eq!((agenda.pop_due(at(99)), agenda.next_after(at(0))), (None, None));
    }
}
