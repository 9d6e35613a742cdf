//! Plans the CachedImages of sets, and the sets' statuses.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::writes;
use crate::Name;
use crate::discovery::sync;
use crate::io::effect::{Effect, EffectKey};
use crate::io::notice;
use crate::io::plan::{Look, Plan};
use crate::objects::image::{Image, Origin};
use crate::objects::image_set::{Child, ImageSet};
use crate::show::status;
use crate::world::{SetEntry, World};

/// Creates, changes and deletes CachedImages so that each set has those that it asks for, and writes the statuses of
/// sets.
pub(super) fn tend_sets(world: &World, now: Timestamp, plan: &mut Plan) {
    for key in world.due(now) {
        let EffectKey::Set(name) = key else { continue };
        let Some(entry) = world.set(name) else {
            plan.looks.push((key.clone(), Look::Clean));
            continue;
        };
        let is_current = tend_children(world, entry, now, plan);
        let status = status::cached_image_set(world, entry, is_current, now);
        let notice = notice::of_set(&entry.set, &entry.published.status, &status);
        let effect = |status| Effect::PatchSet { set: name.clone(), status };
        // The CachedImages of a set must never wait for its status, so no look at the set is held back.
        match writes::publish(world, &entry.published, status, notice, now, plan, effect) {
            Look::Later(at) if is_current => plan.looks.push((key.clone(), Look::Deferred(at))),
            Look::Clean if is_current => plan.looks.push((key.clone(), Look::Clean)),
            _ => {}
        }
    }
}

/// Returns whether the set's CachedImages are as it wants them.
fn tend_children(world: &World, entry: &SetEntry, now: Timestamp, plan: &mut Plan) -> bool {
    let set = &entry.set;
    // An image that is missing only because a source failed has not left the list.
    let has_left = |image: &Image| match world.discovery_of(set) {
        None => true,
        Some(discovery) => discovery.is_some_and(|discovery| {
            let pipeline = discovery.pipeline.as_deref().ok();
            sync::has_left(&discovery.published.status, pipeline, image.reference.as_str())
        }),
    };
    let mut effects: Vec<Effect> = Vec::new();
    for child in &entry.members.children {
        match world.image(&child.image.name).map(|entry| &entry.image) {
            None => effects.push(Effect::CreateChild { set: set.name.clone(), child: Box::new(child.object.clone()) }),
            // The CachedImage belongs to another owner, and stays unchanged.
            Some(image) if !image.is_owned_by(&set.uid) => {}
            Some(image) => effects.extend(update(set, image, child)),
        }
    }
    let wanted: BTreeSet<&Name> = entry.members.children.iter().map(|child| &child.image.name).collect();
    let owned = world.children_of(set).map(|entry| &entry.image);
    for image in owned.filter(|image| !wanted.contains(&image.name)) {
        if image.origin == Some(Origin::Static) || has_left(image) {
            let (child, uid) = (image.name.clone(), image.uid.clone());
            effects.push(Effect::DeleteChild { set: set.name.clone(), child, uid });
        } else if let Some(child) = set.discovered(&image.reference) {
            effects.extend(update(set, image, &child));
        }
    }
    let is_current = effects.is_empty();
    let keys: BTreeSet<EffectKey> = effects.iter().map(Effect::key).collect();
    // The set no longer wants the denied effects.
    let others = world.flights_of(&set.name).filter(|(key, flight)| !keys.contains(key) && !flight.is_under_way());
    plan.dropped.extend(others.map(|(key, _)| key.clone()));
    for effect in effects {
        plan.add(world, effect, now);
    }
    is_current
}

/// Returns the effect that makes `image` ask for the same as `child`; `None` if it already does.
fn update(set: &ImageSet, image: &Image, child: &Child) -> Option<Effect> {
    (!image.asks_for_the_same_as(&child.image)).then(|| Effect::UpdateChild {
        set: set.name.clone(),
        child: image.name.clone(),
        uid: image.uid.clone(),
        spec: Box::new(child.object.spec.clone()),
        origin: image.origin.and(child.image.origin),
    })
}
