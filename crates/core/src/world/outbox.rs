//! The objects that may need a write, by the effect that writes them.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::World;
use super::agenda::Agenda;
use crate::Name;
use crate::io::effect::EffectKey;
use crate::io::plan::Look;
use crate::time::after;

/// The effects that may be due, and from when on. A plan looks only at those that are due, however many wait.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    due: Agenda<EffectKey>,
    /// The times before which a plan does not look at some of them, whatever changes.
    held: BTreeMap<EffectKey, Timestamp>,
}

impl Outbox {
    /// Notes that something changed: the next plan looks at the object.
    pub(super) fn note(&mut self, key: EffectKey) {
        self.note_by(key, Timestamp::MIN);
    }

    /// Notes that a plan looks at the object from `at` on, or earlier if that was noted before.
    pub(super) fn note_by(&mut self, key: EffectKey, at: Timestamp) {
        let at = self.not_before(&key, at);
        self.due.set_at_the_latest(key, at);
    }

    /// Notes that a plan looks at the object from `at` on, whatever was noted before.
    pub(super) fn schedule(&mut self, key: EffectKey, at: Timestamp) {
        self.due.set(key, at);
    }

    pub(super) fn note_image(&mut self, name: &Name) {
        self.note(EffectKey::Image(name.clone()));
    }

    pub(super) fn note_set(&mut self, name: &Name) {
        self.note(EffectKey::Set(name.clone()));
    }

    pub(super) fn note_policy(&mut self, name: &Name) {
        self.note(EffectKey::Policy(name.clone()));
    }

    /// Records a plan's finding. An object that was written is not looked at before `held_until`.
    pub(super) fn looked_at(&mut self, key: &EffectKey, look: Look, held_until: Timestamp) {
        if matches!(look, Look::Written | Look::Later(_)) {
            self.held.insert(key.clone(), held_until);
        }
        match look {
            Look::Clean => self.remove(key),
            Look::Written => {
                if let Some(due) = self.due.time_of(key) {
                    self.due.set(key.clone(), due.max(held_until));
                }
            }
            Look::Later(at) | Look::Deferred(at) => self.due.set(key.clone(), self.not_before(key, at)),
        }
    }

    fn not_before(&self, key: &EffectKey, at: Timestamp) -> Timestamp {
        self.held.get(key).map_or(at, |until| at.max(*until))
    }

    /// Drops an object that needs no write, or that can no longer be written.
    pub(super) fn remove(&mut self, key: &EffectKey) {
        self.held.remove(key);
        self.due.cancel(key);
    }

    /// Returns when the object is due, if it is.
    pub(super) fn time_of(&self, key: &EffectKey) -> Option<Timestamp> {
        self.due.time_of(key)
    }

    /// Returns the earliest time after `now` at which an object is due.
    pub(super) fn next_after(&self, now: Timestamp) -> Option<Timestamp> {
        self.due.next_after(now)
    }
}

impl World {
    /// Returns the effects that a plan has to look at.
    pub(crate) fn due(&self, now: Timestamp) -> impl Iterator<Item = &EffectKey> {
        self.outbox.due.due(now)
    }

    /// Whether a plan will look at the object that `key` writes, now or later.
    pub(crate) fn is_noted(&self, key: &EffectKey) -> bool {
        self.outbox.time_of(key).is_some()
    }

    /// Returns the next time after `now` at which a plan has to be made without an event.
    pub(crate) fn next_moment(&self, now: Timestamp) -> Option<Timestamp> {
        self.agenda.next_after(now).into_iter().chain(self.outbox.next_after(now)).min()
    }

    /// Records a plan's findings about objects that may have to be written.
    pub(super) fn looked_at(&mut self, looks: &[(EffectKey, Look)], now: Timestamp) {
        // A second look within this time would be wasted, because every step of a Pod changes the status.
        let held_until = after(now, self.settings.status_interval);
        for (key, look) in looks {
            self.outbox.looked_at(key, *look, held_until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_deferred_is_due_again_in_time_or_when_it_changes() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let key = |name: &str| EffectKey::Image(name.into());
        let due = |outbox: &Outbox, now| outbox.due.due(at(now)).cloned().collect::<Vec<_>>();
        let (a, b) = (key("a"), key("b"));
        let mut outbox = Outbox::default();
        outbox.note(a.clone());
        outbox.note(b.clone());
        assert_eq!(due(&outbox, 0), [a.clone(), b.clone()]);
        outbox.looked_at(&a, Look::Deferred(at(10)), at(1));
        assert_eq!((due(&outbox, 9), outbox.next_after(at(0))), (vec![b.clone()], Some(at(10))));
        outbox.note_by(a.clone(), at(20));
        assert_eq!(due(&outbox, 10), [b.clone(), a.clone()], "what is due is not put off");
        outbox.note(a.clone());
        assert_eq!(due(&outbox, 9), [a.clone(), b.clone()]);
        outbox.looked_at(&a, Look::Written, at(15));
        assert_eq!(due(&outbox, 14), vec![b.clone()], "what is held is put off");
        outbox.note(a.clone());
        assert_eq!((due(&outbox, 14), due(&outbox, 15)), (vec![b.clone()], vec![b.clone(), a.clone()]));
        outbox.looked_at(&a, Look::Clean, at(16));
        assert_eq!((due(&outbox, 99), outbox.next_after(at(0))), (vec![b], None));
    }
}
