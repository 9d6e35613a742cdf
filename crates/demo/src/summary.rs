//! What a simulation took.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use drop_core::Name;
use drop_core::effect::EffectKey;
use drop_core::image_set::ImageSet;
use drop_sim::{Created, Lab};
use jiff::{SignedDuration, Timestamp};

/// Says how long it took until everything was at rest, if it ever was, and what it cost.
pub(crate) fn print(lab: &Lab, rested_at: Option<SignedDuration>, out: &mut dyn Write) -> io::Result<()> {
    let is_missing = |image: &&String| lab.reasons(image).last().is_none_or(|reason| reason != "Cached");
    let missing = lab.api.images.keys().filter(is_missing).count();
    let left = match missing {
        0 if !invalid_entries(lab).is_empty() => "every valid image is on its nodes".to_owned(),
        0 => "every image is on its nodes".to_owned(),
        1 => "one CachedImage is not on all its nodes: see MESSAGE".to_owned(),
        more => format!("{more} CachedImages are not on all their nodes: see MESSAGE"),
    };
    match rested_at {
        Some(at) => writeln!(out, "\nAt rest after {at:#} of virtual time; {left}.")?,
        None => writeln!(out, "\nNot at rest after a week of virtual time; {left}.")?,
    }
    let pods = &lab.record.pods;
    let pulls: usize = pods.iter().map(|pod| pod.order.pulls.len()).sum();
    writeln!(out, "Pull Pods: {}, with {pulls} images", pods.len())?;
    writeln!(out, "Most nodes that pulled at once: {}", most_at_once(pods.iter()))?;
    let policies: BTreeSet<&Name> = pods.iter().map(|pod| &pod.order.policy).collect();
    for policy in policies.into_iter().filter(|policy| !policy.is_empty()) {
        let most = most_at_once(pods.iter().filter(|pod| pod.order.policy == *policy));
        let allowed = lab.api.policies.get(&**policy).map(|object| object.spec.max_concurrent_nodes);
        let allowed = allowed.map(|allowed| format!(", of {allowed} allowed")).unwrap_or_default();
        writeln!(out, "PullPolicy {policy}: at most {most} nodes at once{allowed}")?;
    }
    let mut requests: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, key) in &lab.record.requests {
        *requests.entry(resource(key)).or_default() += 1;
    }
    let by_resource: Vec<String> = requests.iter().map(|(resource, count)| format!("{resource} {count}")).collect();
    let total = lab.record.requests.len();
    writeln!(out, "Requests to the API server: {total} ({})", by_resource.join(", "))
}

/// Entries of CachedImageSets that name no image, as sentences.
pub(crate) fn invalid_entries(lab: &Lab) -> Vec<String> {
    let entries = lab.api.sets.iter().flat_map(|(name, set)| {
        let invalid = ImageSet::from_api(set).map(|set| set.members(&[]).invalid).unwrap_or_default();
        invalid.into_iter().map(move |why| format!("CachedImageSet {name:?}: spec.{why}"))
    });
    entries.collect()
}

/// The most Pods that there were at once; there is never more than one on a node.
fn most_at_once<'a>(pods: impl Iterator<Item = &'a Created>) -> i32 {
    // What ends at a moment ends before what begins then.
    let changes = pods.flat_map(|pod| [(pod.at, 1), (pod.gone_at.unwrap_or(Timestamp::MAX), -1)]);
    let mut changes: Vec<_> = changes.collect();
    changes.sort_unstable();
    let counts = changes.into_iter().scan(0, |count, (_, change)| {
        *count += change;
        Some(*count)
    });
    counts.max().unwrap_or_default()
}

/// What a request is about.
fn resource(key: &EffectKey) -> &'static str {
    match key {
        EffectKey::CreatePod(_) | EffectKey::DeletePod(_) | EffectKey::KillPod(_) | EffectKey::CheckPod(_) => "Pods",
        EffectKey::Record(_) => "NodeCaches",
        EffectKey::Child { .. } => "CachedImages",
        EffectKey::Tell(..) => "Events",
        EffectKey::Image(_) | EffectKey::Set(_) | EffectKey::Policy(_) | EffectKey::DiscoveryStatus(_) => "statuses",
        EffectKey::Discovery(_) => "discoveries",
        EffectKey::LookUp(_) => "lookups",
    }
}
