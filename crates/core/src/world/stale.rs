//! Objects whose written state may differ from what it should be.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::Name;
use crate::io::plan::Looks;

/// Names of objects to be looked at, and from when on: a plan looks at those that are due
/// only, however many wait.
#[derive(Debug, Default)]
pub(crate) struct Stale {
    due: BTreeMap<Name, Timestamp>,
    /// Before when some of them are not to be looked at, whatever changes.
    held: BTreeMap<Name, Timestamp>,
    by_time: BTreeSet<(Timestamp, Name)>,
}

impl Stale {
    /// Something about it changed: it is to be looked at with the next plan.
    pub(crate) fn insert(&mut self, name: Name) {
        self.insert_at(name, Timestamp::MIN);
    }

    /// It is to be looked at from `at` on, or from earlier on if that was said before.
    pub(crate) fn insert_at(&mut self, name: Name, at: Timestamp) {
        let at = self.not_before(&name, at);
        if self.due.get(&name).is_none_or(|due| at < *due) {
            self.put(name, at);
        }
    }

    /// It was looked at, and need not be before `at` unless something changes.
    pub(crate) fn defer(&mut self, name: Name, at: Timestamp) {
        let at = self.not_before(&name, at);
        self.put(name, at);
    }

    /// It was looked at, and is not to be before `until`, even if something changes.
    pub(crate) fn hold(&mut self, name: Name, until: Timestamp) {
        self.held.insert(name.clone(), until);
        if let Some(due) = self.due.get(&name).copied() {
            self.put(name, due.max(until));
        }
    }

    /// They were looked at; those that differ are held until then.
    pub(crate) fn looked_at(&mut self, looks: &Looks, held_until: Timestamp) {
        looks.clean.iter().for_each(|name| self.remove(name));
        looks.differing.iter().for_each(|name| self.hold(name.clone(), held_until));
        looks.deferred.iter().for_each(|(name, at)| self.defer(name.clone(), *at));
    }

    fn not_before(&self, name: &Name, at: Timestamp) -> Timestamp {
        self.held.get(name).map_or(at, |until| at.max(*until))
    }

    fn put(&mut self, name: Name, at: Timestamp) {
        self.take(&name);
        self.due.insert(name.clone(), at);
        self.by_time.insert((at, name));
    }

    fn take(&mut self, name: &Name) {
        if let Some(at) = self.due.remove(name) {
            self.by_time.remove(&(at, name.clone()));
        }
    }

    /// It is as it should be.
    pub(crate) fn remove(&mut self, name: &Name) {
        self.held.remove(name);
        self.take(name);
    }

    /// Whether it is to be looked at, now or later.
    pub(crate) fn contains(&self, name: &Name) -> bool {
        self.due.contains_key(name)
    }

    pub(crate) fn extend(&mut self, names: impl IntoIterator<Item = Name>) {
        names.into_iter().for_each(|name| self.insert(name));
    }

    /// Those to be looked at now.
    pub(crate) fn due(&self, now: Timestamp) -> impl Iterator<Item = &Name> {
        self.by_time.iter().take_while(move |(at, _)| *at <= now).map(|(_, name)| name)
    }

    /// When the first of the others is due.
    pub(crate) fn next_after(&self, now: Timestamp) -> Option<Timestamp> {
        self.by_time.iter().map(|(at, _)| *at).find(|at| *at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_deferred_is_due_again_in_time_or_when_it_changes() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let due = |stale: &Stale, now| stale.due(at(now)).map(ToString::to_string).collect::<Vec<_>>();
        let mut stale = Stale::default();
        stale.extend(["a".into(), "b".into()]);
        assert_eq!(due(&stale, 0), ["a", "b"]);
        stale.defer("a".into(), at(10));
        assert_eq!((due(&stale, 9), stale.next_after(at(0))), (vec!["b".to_owned()], Some(at(10))));
        stale.insert_at("a".into(), at(20));
        assert_eq!(due(&stale, 10), ["b", "a"], "what is due is not put off");
        stale.insert("a".into());
        assert_eq!(due(&stale, 9), ["a", "b"]);
        stale.hold("a".into(), at(15));
        assert_eq!(due(&stale, 14), ["b"], "what is held is put off");
        stale.insert("a".into());
        assert_eq!((due(&stale, 14), due(&stale, 15)), (vec!["b".to_owned()], vec!["b".to_owned(), "a".to_owned()]));
        stale.remove(&"a".into());
        assert_eq!((due(&stale, 99), stale.next_after(at(0))), (vec!["b".to_owned()], None));
    }
}
