//! PullPolicies, and when each last started a pull.

use drop_api::PullPolicyStatus;
use jiff::{SignedDuration, Timestamp};

use super::{Moment, Published, World};
use crate::Name;
use crate::io::effect::EffectKey;
use crate::objects::image::Image;
use crate::objects::policy::{BUILT_IN, Policy};
use crate::pace::starts::Starts;
use crate::time::after;

/// How long Drop remembers when a deleted policy last started a pull: the policy may be created again.
const STARTS_KEPT: SignedDuration = SignedDuration::from_hours(24);

/// A PullPolicy.
#[derive(Debug)]
pub(crate) struct PolicyEntry {
    pub(crate) policy: Policy,
    pub(crate) published: Published<PullPolicyStatus>,
}

impl World {
    pub(super) fn set_policy(&mut self, policy: Policy, status: PullPolicyStatus) {
        let name = policy.name.clone();
        self.outbox.note_policy(&name);
        match self.policies.get_mut(&name) {
            Some(entry) => {
                entry.published.observe(status);
                if entry.policy == policy {
                    return;
                }
                entry.policy = policy;
            }
            None => {
                let published = Published::new(status);
                self.policies.insert(name.clone(), PolicyEntry { policy, published });
            }
        }
        self.policy_changed(&name);
    }

    pub(super) fn policy_changed(&mut self, name: &Name) {
        for entry in self.images.values().filter(|entry| entry.image.policy == *name) {
            self.dirty.images.insert(entry.image.name.clone());
            self.dirty.lookups.insert(entry.image.reference.clone());
        }
    }

    /// Records that pulls began under a policy.
    pub(super) fn note_start(&mut self, policy: &Name, node: &Name, at: Timestamp) {
        self.starts.entry(policy.clone()).or_default().note(node, at);
        if !self.policies.contains_key(policy) {
            self.agenda.set_at_the_latest(Moment::Starts, after(at, STARTS_KEPT));
        }
        self.outbox.note_policy(policy);
    }

    /// The image's policy, if it exists.
    pub(crate) fn policy_of(&self, image: &Image) -> Option<&Policy> {
        self.policies.get(&image.policy).map(|entry| &entry.policy)
    }

    /// Returns the policy called `name`, or the built-in one if that is gone, for Pods that outlive their policy.
    pub(crate) fn policy_or_built_in(&self, name: &str) -> Option<&Policy> {
        self.policies.get(name).or_else(|| self.policies.get(BUILT_IN)).map(|entry| &entry.policy)
    }

    pub(super) fn remove_policy(&mut self, name: &Name, now: Timestamp) {
        if self.policies.remove(name).is_some() {
            let key = EffectKey::Policy(name.clone());
            self.outbox.remove(&key);
            self.flights.remove(&key);
            self.policy_changed(name);
            self.forget_starts(now);
        }
    }

    /// Forgets when deleted policies started pulls, once no delay counts from that any more.
    pub(super) fn forget_starts(&mut self, now: Timestamp) {
        let policies = &self.policies;
        let forgotten_at = |starts: &Starts| starts.last().map_or(now, |(_, at)| after(*at, STARTS_KEPT));
        self.starts.retain(|policy, starts| policies.contains_key(policy) || forgotten_at(starts) > now);
        let of_gone = self.starts.iter().filter(|(policy, _)| !policies.contains_key(*policy));
        if let Some(at) = of_gone.map(|(_, starts)| forgotten_at(starts)).min() {
            self.agenda.set(Moment::Starts, at);
        }
    }

    /// The policy called `name`; the empty name is that of the built-in one.
    pub(crate) fn policy(&self, name: &str) -> Option<&PolicyEntry> {
        self.policies.get(name)
    }

    /// Returns every policy, including the built-in one, by name.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &PolicyEntry> {
        self.policies.values()
    }

    /// Returns when pulls last began under a policy; `None` if none has.
    pub(crate) fn starts(&self, policy: &str) -> Option<&Starts> {
        self.starts.get(policy)
    }
}

#[cfg(test)]
mod tests {
    use drop_api::PullPolicySpec;

    use super::*;
    use crate::io::event::{Event, Kind};
    use crate::settings::Settings;

    #[test]
    fn the_starts_of_policies_that_are_gone_are_forgotten() {
        let mut world = World::new(Settings::default());
        for minute in 0..5000 {
            let (name, now) = (Name::from(format!("p{minute}")), Timestamp::from_second(60 * minute).unwrap());
            let policy = Policy::new(name.clone(), None, &PullPolicySpec::default());
            world.apply(Event::Policy(Box::new(policy), Box::default()), now);
            world.note_start(&name, &"node".into(), now);
            world.apply(Event::Gone(Kind::Policy, name.clone()), now);
            assert!(world.starts(&name).is_some(), "it may be there again before the delay has passed");
        }
        assert_eq!(world.starts.len(), 24 * 60);
        world.derive(Timestamp::from_second(60 * 5000 + 24 * 3600).unwrap());
        assert!(world.starts.is_empty(), "no other policy has to go for that");
    }
}
