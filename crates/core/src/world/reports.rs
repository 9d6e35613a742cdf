//! Records how effects ended.

use jiff::Timestamp;

use super::{PodEntry, Stage, World};
use crate::Name;
use crate::io::effect::EffectKey;
use crate::io::event::Report;
use crate::io::flights::Flight;
use crate::pace::backoff::Backoff;
use crate::text::shortened;
use crate::time::after;

/// After this many unclear answers, a creation counts as denied.
const MOST_DOUBTS: u32 = 5;

impl World {
    pub(super) fn report(&mut self, key: EffectKey, report: Report, now: Timestamp) {
        let is_overtaken = self.flights.get(&key).is_some_and(|flight| flight.is_overtaken);
        match &report {
            // A failed write of an Event is not retried.
            _ if matches!(key, EffectKey::Tell(..)) => drop(self.flights.remove(&key)),
            Report::Refused(_) | Report::Unknown(_) if !is_overtaken => {
                let backoff = Backoff { initial: self.settings.retry_initial, max: self.settings.retry_max };
                if let Some(flight) = self.flights.get_mut(&key) {
                    flight.failures = flight.failures.saturating_add(1);
                    flight.in_doubt |= matches!(report, Report::Unknown(_));
                    if let Report::Refused(message) = &report {
                        flight.refusal = Some(shortened(message, 512).into());
                    }
                    let wait = backoff.delay(flight.failures, &format!("{key:?}"));
                    flight.not_before = Some(after(now, wait));
                }
                self.answered(&key, false);
            }
            // A deletion that was accepted is under way until the Pod is gone.
            Report::Done if matches!(key, EffectKey::DeletePod(_) | EffectKey::KillPod(_)) => {}
            _ => {
                self.flights.remove(&key);
                self.answered(&key, true);
            }
        }
        match (key, report) {
            (EffectKey::CreatePod(name), Report::PodCreated { uid }) => self.pod_created(&name, uid, now),
            (EffectKey::CreatePod(name), Report::Refused(message)) => self.pod_refused(&name, &message, now),
            // A webhook that fails for one image gives an unclear answer each time, so the failure is the image's.
            (EffectKey::CreatePod(name), Report::Unknown(message)) if self.is_given_up(&name) => {
                self.pod_refused(&name, &message, now);
            }
            (
                EffectKey::DeletePod(name) | EffectKey::KillPod(name) | EffectKey::CheckPod(name),
                Report::PodGone { uid },
            ) => {
                // Another Pod may have got the name meanwhile.
                let is_other = |entry: &PodEntry| uid.is_some() && entry.pod.uid != uid;
                if !self.pods.get(&name).is_some_and(is_other) {
                    self.remove_pod(&name, now);
                }
            }
            (EffectKey::DeletePod(name), Report::Done) => {
                // The Pod did exist, but the watch may never show it.
                if let Some(entry) = self.pods.get_mut(&name).filter(|entry| matches!(entry.stage, Stage::Requested(_)))
                {
                    entry.stage = Stage::Created(now);
                }
            }
            (EffectKey::CheckPod(name), Report::Done) => {
                if let Some(PodEntry { stage: Stage::Created(at), .. }) = self.pods.get_mut(&name) {
                    *at = now;
                }
            }
            (EffectKey::Child { set, .. }, _) if is_overtaken => self.outbox.note_set(&set),
            (EffectKey::Child { set, child }, report) => self.child_reported(&set, &child, report, now),
            // The question used other credentials, or no CachedImage wants the image any more.
            (EffectKey::LookUp(image), _) if is_overtaken => self.schedule_lookup(&image),
            (EffectKey::LookUp(image), Report::LookedUp(answer)) => self.looked_up(&image, answer, now),
            // No registry was asked; the flight says when to retry.
            (EffectKey::LookUp(image), _) => self.schedule_lookup(&image),
            (EffectKey::Discovery(policy), report) => self.discovery_reported(&policy, report, now),
            // If the object was written again, the watch shows that.
            (EffectKey::Record(_), Report::Recorded(cache)) if !is_overtaken => self.set_cache(*cache, false, now),
            _ => {}
        }
    }

    /// Whether a creation got so many unclear answers that it is not requested again at once.
    fn is_given_up(&self, pod: &Name) -> bool {
        let flight = self.flights.get(&EffectKey::CreatePod(pod.clone()));
        flight.is_some_and(|flight| flight.failures >= MOST_DOUBTS)
    }

    /// Notes that the subject of an effect is gone: a later answer is about the previous object.
    pub(super) fn overtake(&mut self, key: &EffectKey) {
        match self.flights.get_mut(key) {
            Some(flight) if flight.is_under_way() => flight.is_overtaken = true,
            _ => drop(self.flights.remove(key)),
        }
    }

    /// Records whether a status was written, and has a plan look at it again.
    fn answered(&mut self, key: &EffectKey, is_written: bool) {
        let known = match key {
            EffectKey::Image(name) => self.images.get_mut(name).map(|entry| entry.published.answer(is_written)),
            EffectKey::Set(name) => self.sets.get_mut(name).map(|entry| entry.published.answer(is_written)),
            EffectKey::Policy(name) => self.policies.get_mut(name).map(|entry| entry.published.answer(is_written)),
            EffectKey::DiscoveryStatus(name) => {
                self.discoveries.get_mut(name).map(|entry| entry.published.answer(is_written))
            }
            _ => None,
        };
        if known.is_some() {
            self.outbox.note(key.clone());
        }
    }

    /// Returns the effects about a set's CachedImages that are under way or failed.
    pub(crate) fn flights_of<'a>(&'a self, set: &'a Name) -> impl Iterator<Item = (&'a EffectKey, &'a Flight)> {
        let first = EffectKey::Child { set: set.clone(), child: "".into() };
        self.flights
            .range(first..)
            .take_while(move |(key, _)| matches!(key, EffectKey::Child { set: of, .. } if of == set))
    }

    /// Returns the effects about CachedImages of any set that are under way or failed.
    pub(super) fn flights_of_sets(&self) -> impl Iterator<Item = (&EffectKey, &Flight)> {
        let first = EffectKey::Child { set: "".into(), child: "".into() };
        self.flights.range(first..).take_while(|(key, _)| matches!(key, EffectKey::Child { .. }))
    }

    /// Whether CachedImages of a set are being created.
    pub(crate) fn is_being_filled(&self, set: &Name) -> bool {
        self.filling.contains(set)
    }

    /// Whether an effect about `key` may be issued at `now`.
    pub(crate) fn is_free(&self, key: &EffectKey, now: Timestamp) -> bool {
        self.flights.get(key).is_none_or(|flight| flight.not_before.is_some_and(|at| at <= now))
    }

    /// Returns when a failed effect may be issued again; `None` if none waits for that.
    pub(crate) fn retry_at(&self, key: &EffectKey) -> Option<Timestamp> {
        self.flights.get(key)?.not_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::event::Event;
    use crate::settings::Settings;

    #[test]
    fn an_event_that_could_not_be_written_leaves_nothing_behind() {
        let mut world = World::new(Settings::default());
        for report in [Report::Unknown("no answer".to_owned()), Report::Refused("forbidden".to_owned())] {
            let key = EffectKey::Tell("Node", "a".into());
            world.flights.insert(key.clone(), Flight::default());
            world.apply(Event::Report(key, report), Timestamp::UNIX_EPOCH);
            assert!(world.flights.is_empty());
        }
    }
}
