//! The CachedImages of sets, and the sets' statuses.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Plan, writes};
use crate::discovery::sync;
use crate::effect::Effect;
use crate::image::Image;
use crate::notice;
use crate::status;
use crate::world::{SetEntry, World};

/// Creates, changes and deletes CachedImages so that each set has those that it asks
/// for, and writes the statuses of sets.
pub(super) fn tend_sets(world: &World, now: Timestamp, plan: &mut Plan) {
    for name in &world.stale.sets {
        let Some(entry) = world.sets.get(name) else {
            plan.clean.sets.push(name.clone());
            continue;
        };
        let is_current = tend_children(world, entry, now, plan);
        let status = status::cached_image_set(world, entry, is_current, now);
        let notice = notice::of_set(&entry.set, &entry.published.status, &status);
        let is_written = writes::publish(world, &entry.published, status, notice, now, plan, |status| {
            Effect::PatchSet { set: name.clone(), status }
        });
        if is_current && is_written {
            plan.clean.sets.push(name.clone());
        }
    }
}

/// Returns whether nothing is left to be done.
fn tend_children(world: &World, entry: &SetEntry, now: Timestamp, plan: &mut Plan) -> bool {
    let set = &entry.set;
    let mut effects = Vec::new();
    for child in &entry.members.children {
        let Some(wanted) = Image::from_api(child) else { continue };
        match world.images.get(&wanted.name).map(|entry| &entry.image) {
            None => effects.push(Effect::CreateChild { set: set.name.clone(), child: Box::new(child.clone()) }),
            // It is somebody else's, and stays as it is.
            Some(image) if !image.is_owned_by(&set.uid) => {}
            Some(image) if !image.asks_for_the_same_as(&wanted) => effects.push(Effect::UpdateChild {
                set: set.name.clone(),
                child: image.name.clone(),
                uid: image.uid.clone(),
                spec: Box::new(child.spec.clone()),
            }),
            Some(_) => {}
        }
    }
    let wanted: BTreeSet<&str> =
        entry.members.children.iter().filter_map(|child| child.metadata.name.as_deref()).collect();
    // What discovery has not named any more, or could not be asked about, is not gone.
    let is_exhaustive = match world.discovery_of(set) {
        None => true,
        Some(discovery) => discovery.is_some_and(|discovery| sync::is_exhaustive(&discovery.published.status)),
    };
    let owned = world.children.get(&set.uid).into_iter().flatten().filter(|_| is_exhaustive);
    for image in owned.filter(|name| !wanted.contains(&***name)).filter_map(|name| world.images.get(name)) {
        let (child, uid) = (image.image.name.clone(), image.image.uid.clone());
        effects.push(Effect::DeleteChild { set: set.name.clone(), child, uid });
    }
    let is_current = effects.is_empty();
    for effect in effects {
        plan.add(world, effect, now);
    }
    is_current
}
