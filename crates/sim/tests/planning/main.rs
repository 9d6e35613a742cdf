//! Drop's behaviour in a small cluster: one module for each topic.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "these are tests")]

#[allow(dead_code, reason = "each test binary uses a part of it")]
#[path = "../common/mod.rs"]
mod common;

mod bounds;
mod clocks;
mod edits;
mod evictions;
mod failures;
mod fairness;
mod lists;
mod lookups;
mod nodes;
mod policies;
mod questions;
mod reasons;
mod registries;
mod reports;
mod requests;
mod restarts;
mod retries;
mod roll_out;
mod room;
mod secrets;
mod sick_nodes;
mod slow_pulls;
mod tags;
mod turns;
mod waiting;

use common::Lab;
use drop_core::Effect;
use drop_sim::Fate;

const NOT_FOUND: (&str, &str) =
    ("ErrImagePull", "failed to resolve reference \"docker.io/library/nope:1\": docker.io/library/nope:1: not found");
const TOO_MANY_REQUESTS: (&str, &str) = ("ErrImagePull", "unexpected status: 429 Too Many Requests");
const NO_SUCH_HOST: (&str, &str) = (
    "ErrImagePull",
    "failed to do request: Head \"https://registry.bad/v2/x\": dial tcp: lookup registry.bad: no such host",
);

fn nodes(count: u8) -> Lab {
    let mut lab = Lab::new();
    (0..count).for_each(|n| lab.node(&char::from(b'a' + n).to_string()));
    lab
}

/// Gives this fate to the first `count` requests for which `concerns` holds.
fn fate(lab: &mut Lab, fate: Fate, mut count: u32, concerns: impl Fn(&Effect) -> bool + 'static) {
    lab.knobs.fate = Box::new(move |effect| {
        if count > 0 && concerns(effect) {
            count -= 1;
            return fate.clone();
        }
        Fate::Answered
    });
}

fn creates(effect: &Effect) -> bool {
    matches!(effect, Effect::CreatePod(_))
}

fn records(effect: &Effect) -> bool {
    matches!(effect, Effect::RecordNode { .. })
}

fn deletes(effect: &Effect) -> bool {
    matches!(effect, Effect::DeletePod { .. })
}

fn publishes(effect: &Effect) -> bool {
    matches!(effect, Effect::PatchImage { .. })
}

/// Returns the reasons of the Events about an object.
fn told(lab: &Lab, object: &str) -> Vec<String> {
    let told = lab.record.told.iter().filter(|(_, notice)| &*notice.name == object);
    told.map(|(_, notice)| notice.reason.clone()).collect()
}
