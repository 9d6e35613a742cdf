//! How effects ended, taken in.

use jiff::Timestamp;

use super::{PodEntry, Refused, Stage, World};
use crate::Name;
use crate::io::effect::EffectKey;
use crate::io::event::{Kind, Report};
use crate::objects::pull_pod::PullPod;
use crate::pace::backoff::Backoff;
use crate::text::shortened;
use crate::time::after;

/// After so many answers in doubt a creation counts as refused.
const MOST_DOUBTS: u32 = 5;

impl World {
    pub(super) fn report(&mut self, key: EffectKey, report: Report, now: Timestamp) {
        let is_overtaken = self.flights.get(&key).is_some_and(|flight| flight.is_overtaken);
        match &report {
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
            // A webhook that fails for one image answers in doubt each time: that is the image's.
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
                    self.remove(Kind::Pod, &name, now);
                }
            }
            (EffectKey::DeletePod(name), Report::Done) => {
                // It did exist; the watch may have missed it for good.
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
            (EffectKey::Child { set, .. }, _) if is_overtaken => drop(self.stale.sets.insert(set)),
            (EffectKey::Child { set, child }, report) => self.child_reported(&set, &child, report, now),
            (EffectKey::Discovery(policy), report) => self.discovery_reported(&policy, report, now),
            // If it was written anew, the watch shows that.
            (EffectKey::Record(_), Report::Recorded(cache)) if !is_overtaken => self.set_cache(*cache, false, now),
            _ => {}
        }
    }

    /// Whether a creation was answered in doubt so often that it is not asked for again at once.
    fn is_given_up(&self, pod: &Name) -> bool {
        let flight = self.flights.get(&EffectKey::CreatePod(pod.clone()));
        flight.is_some_and(|flight| flight.failures >= MOST_DOUBTS)
    }

    /// Takes in that what an effect is about is gone: an answer tells of what was there before.
    pub(super) fn overtake(&mut self, key: &EffectKey) {
        match self.flights.get_mut(key) {
            Some(flight) if flight.is_under_way() => flight.is_overtaken = true,
            _ => drop(self.flights.remove(key)),
        }
    }

    /// Takes in whether a status was written.
    pub(super) fn answered(&mut self, key: &EffectKey, is_written: bool) {
        match key {
            EffectKey::Image(name) => {
                if let Some(entry) = self.images.get_mut(name) {
                    entry.published.answer(is_written);
                    self.stale.images.insert(name.clone());
                }
            }
            EffectKey::Set(name) => {
                if let Some(entry) = self.sets.get_mut(name) {
                    entry.published.answer(is_written);
                    self.stale.sets.insert(name.clone());
                }
            }
            EffectKey::DiscoveryStatus(name) => {
                if let Some(entry) = self.discoveries.get_mut(name) {
                    entry.published.answer(is_written);
                }
            }
            EffectKey::Policy(name) => {
                if let Some(entry) = self.policies.get_mut(name) {
                    entry.published.answer(is_written);
                    self.stale.policies.insert(name.clone());
                }
            }
            EffectKey::CreatePod(_)
            | EffectKey::DeletePod(_)
            | EffectKey::KillPod(_)
            | EffectKey::CheckPod(_)
            | EffectKey::Record(_)
            | EffectKey::Discovery(_)
            | EffectKey::Child { .. }
            | EffectKey::Tell(..) => {}
        }
    }

    pub(super) fn pod_created(&mut self, name: &Name, uid: Name, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(name) else { return };
        if !matches!(entry.stage, Stage::Requested(_)) {
            return;
        }
        entry.stage = Stage::Created(now);
        entry.started_at = Some(now);
        entry.pod.uid = Some(uid);
        let (pod, begins_turn) = (entry.pod.clone(), entry.begins_turn);
        if begins_turn {
            self.note_start(&pod.policy, &pod.node, now);
        }
        self.accepted(&pod);
    }

    /// Takes in that the API server accepts Pods for these images.
    pub(super) fn accepted(&mut self, pod: &PullPod) {
        for container in &pod.containers {
            for name in self.wanted.get(&container.image).into_iter().flatten() {
                if let Some(entry) = self.images.get_mut(name)
                    && entry.refused.take().is_some()
                {
                    self.dirty.images.insert(name.clone());
                }
            }
        }
    }

    pub(super) fn pod_refused(&mut self, name: &Name, message: &str, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(name) else { return };
        let Stage::Requested(order) = &entry.stage else { return };
        let order = order.clone();
        let flight = self.flights.remove(&EffectKey::CreatePod(name.clone()));
        if flight.is_some_and(|flight| flight.in_doubt) {
            // An earlier request may have created it: it counts until that is known.
            entry.stage = Stage::Created(Timestamp::MIN);
        } else {
            self.remove(Kind::Pod, name, now);
        }
        if order.begins_turn {
            // Other nodes would be refused as well, so they are asked for no faster than
            // they may start. It was a start on no node: none is exempt from the delay.
            self.note_start(&order.policy, &"".into(), now);
        }
        let backoff = Backoff { initial: self.settings.retry_initial, max: self.settings.retry_max };
        for pull in &order.pulls {
            let Some(entry) = self.images.get_mut(&pull.cached_image) else { continue };
            let count = entry.refused.as_ref().map_or(0, |refused| refused.count).saturating_add(1);
            let until = after(now, backoff.delay(count, &pull.cached_image));
            entry.refused = Some(Refused { count, until, message: shortened(message, 512).into() });
            self.dirty.images.insert(pull.cached_image.clone());
        }
    }
}
