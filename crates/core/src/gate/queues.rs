//! Places each node that can start a pull in the queues of the policies.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::Name;
use crate::gate::{Pair, Purpose};
use crate::objects::image::ImagePullPolicy;
use crate::objects::presence::Standing;
use crate::pace::order::{Candidate, Urgency};
use crate::time::after;
use crate::world::{LONG_WAIT, NodeEntry, Places, World};

impl World {
    /// Brings the derived state up to date, as of `now`.
    pub fn settle(&mut self, now: Timestamp) {
        if !self.is_synced() {
            return;
        }
        self.derive(now);
        for name in self.take_unplaced() {
            let places = self.node(&name).map(|node| places(self, node, now));
            self.place_node(&name, places.unwrap_or_default(), now);
        }
    }
}

/// Returns a node's places. For each policy under which the node could start a pull now, there is one place for each of
/// these: its most urgent fresh pull of the turn that goes on, its most urgent other fresh pull, and its most urgent
/// late pull.
fn places(world: &World, node: &NodeEntry, now: Timestamp) -> Places {
    let mut places = Places::default();
    let name = &node.node.name;
    if world.pod_on(name).is_some() {
        return places;
    }
    let mut best: BTreeMap<(&Name, bool, bool), (Urgency, &Name)> = BTreeMap::new();
    let alarm = &mut places.alarm;
    let mut wait = |until: Timestamp| *alarm = Some(alarm.map_or(until, |alarm| alarm.min(until)));
    // Since when the fresh pull waits that will first have waited for long.
    let mut first_brief: Option<Timestamp> = None;
    let (here, nothing) = (world.on_node(node), BTreeSet::new());
    for (image, standing) in world.images_on(node, Standing::wants_pull) {
        if image.image.pull != ImagePullPolicy::Never && !places.lacking.contains(&image.image.policy) {
            places.lacking.insert(image.image.policy.clone());
        }
        let Some(pair) = Pair::new(&here, image, standing, now) else { continue };
        if let Err(held) = pair.check_alone(Purpose::Pull, &nothing) {
            held.until.into_iter().for_each(&mut wait);
            continue;
        }
        let found = (pair.urgency(), &image.image.name);
        let is_late = found.0.is_late();
        if !is_late {
            first_brief = here.waits_briefly_since(image, now).into_iter().chain(first_brief).min();
        }
        let begins_turn = pair.begins_turn(is_late);
        let kept = best.entry((&image.image.policy, is_late, begins_turn)).or_insert(found);
        if found.0.compare(found.1, &kept.0, kept.1).is_lt() {
            *kept = found;
        }
    }
    first_brief.map(|since| after(since, LONG_WAIT)).into_iter().for_each(&mut wait);
    for ((policy, _, begins_turn), (urgency, image)) in best {
        let waiting_since = node.waiting_since.get(policy).copied().unwrap_or(now);
        // If the API server refuses Pods on one node alone, other nodes have their turns. A refused retry says nothing
        // of fresh pulls.
        let refused_at = node.refused_at.late.filter(|_| urgency.is_late()).max(node.refused_at.fresh);
        let waiting_since = refused_at.map_or(waiting_since, |at| at.max(waiting_since));
        places.candidates.push((
            policy.clone(),
            Candidate { begins_turn, urgency, waiting_since, image: image.clone(), node: name.clone() },
        ));
    }
    places
}
