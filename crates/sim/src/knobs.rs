//! The settings of a lab: durations and faults.

use std::collections::{BTreeMap, BTreeSet};

use drop_core::discovery::{Answer, SourceFailure};
use drop_core::{Effect, Event, Plan};
use jiff::SignedDuration;
use serde::Deserialize;

use crate::{Bandwidth, Failure, Kubelet, Registry, Rng, Trouble, secs};

/// The fate of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The API server carries it out, and answers.
    Answered,
    /// The API server denies it.
    Refused(&'static str),
    /// The API server denies it, even if it carried out an equal request before: admission comes before the check
    /// whether the object exists.
    RefusedAnyway(&'static str),
    /// The API server carries it out, but the answer is lost.
    AnswerLost,
    /// It never arrives.
    RequestLost,
    /// It arrives after this time, at most after the executor's time limit. The answer takes as long again, so it may
    /// come too late.
    Late(SignedDuration),
}

/// The properties in which a machine differs from the others, besides those of its Node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Machine {
    /// Its room for images in bytes, if different from the others.
    pub disk: Option<u64>,
    /// The kubelet's `nodeStatusMaxImages`, if different from the cluster's; -1: no limit.
    pub listed_images: Option<i32>,
    /// Whether its runtime reports the bare ID of an image (`sha256:…`) as a container's `imageID`, as CRI-O does. The
    /// node still lists the digest.
    pub bare_image_ids: bool,
}

/// The durations and faults of a lab.
pub struct Knobs {
    /// From the plan until a request takes effect.
    pub request: SignedDuration,
    /// From then until its answer arrives.
    pub reply: SignedDuration,
    /// From a change until a watch shows it.
    pub watch: SignedDuration,
    /// How long a pull takes.
    pub pull: SignedDuration,
    /// How long a pull of each of these references takes.
    pub pulls: BTreeMap<String, SignedDuration>,
    /// References that no node can pull, and the failure.
    pub broken_images: BTreeMap<String, Failure>,
    /// References that nodes pull from a mirror, which has them whatever their registry has.
    pub on_mirrors: BTreeSet<String>,
    /// Unusual pulls, by image and node. If two match, the first one counts.
    pub troubles: Vec<Trouble>,
    /// Shared bandwidth. If set, the duration of a pull follows from the image's size and from concurrent pulls,
    /// instead of `pull` and `pulls`.
    pub bandwidth: Option<Bandwidth>,
    /// Sizes of references, in bytes, if not 100 MB.
    pub sizes: BTreeMap<String, u64>,
    /// The room for images on each node in bytes, if limited.
    pub disk: Option<u64>,
    /// Machines that differ from the others, by the names of their nodes.
    pub machines: BTreeMap<String, Machine>,
    /// The limits of registries, by host.
    pub registries: BTreeMap<String, Registry>,
    /// The IDs that runtimes report for references, if not a sha256 digest.
    pub digests: BTreeMap<String, String>,
    /// References whose digests differ by platform, because runtimes report the digest of the manifest for their
    /// platform instead of that of the index.
    pub digests_by_platform: BTreeSet<String>,
    /// The IDs that runtimes of some nodes report instead, by node and reference: their mirrors lag behind.
    pub digests_on: BTreeMap<String, BTreeMap<String, String>>,
    /// The platforms for which registries have references, if not for all.
    pub platforms: BTreeMap<String, Vec<String>>,
    /// Registries that nodes can reach, but the operator cannot, by host.
    pub out_of_reach: BTreeSet<String>,
    /// The answers of sources, by address.
    pub sources: BTreeMap<String, Result<Answer, SourceFailure>>,
    /// The answers that alternate with those in `sources`, by address.
    pub alternates: BTreeMap<String, Result<Answer, SourceFailure>>,
    /// How long sources take to answer.
    pub asking: SignedDuration,
    /// References that need the Secret of this name for a pull.
    pub private: BTreeMap<String, String>,
    /// Secrets that no registry accepts.
    pub wrong_secrets: BTreeSet<String>,
    /// By how much the kubelets' clocks are ahead.
    pub kubelet_clock: SignedDuration,
    /// Nodes with faulty kubelets.
    pub kubelets: BTreeMap<String, Kubelet>,
    /// Whether objects are sent to the API server as JSON and checked against the CRDs' schemas, which takes half of a
    /// lab's time.
    pub json: bool,
    /// Whether nodes list their images.
    pub lists: bool,
    /// Decides the fate of each request.
    pub fate: Box<dyn FnMut(&Effect) -> Fate>,
    /// Changes each plan as a broken planner would, to test that the lab notices.
    pub tamper: Box<dyn FnMut(&mut Plan)>,
    /// Changes each event as a broken planner would misread it, to test that the lab notices.
    pub mishear: Box<dyn FnMut(&mut Event)>,
    /// The source of random delays and fates of requests, if set.
    pub jitter: Option<Rng>,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            request: secs(0.01),
            reply: secs(0.01),
            watch: secs(0.05),
            pull: secs(5.0),
            pulls: BTreeMap::new(),
            broken_images: BTreeMap::new(),
            on_mirrors: BTreeSet::new(),
            troubles: Vec::new(),
            bandwidth: None,
            sizes: BTreeMap::new(),
            disk: None,
            machines: BTreeMap::new(),
            registries: BTreeMap::new(),
            digests: BTreeMap::new(),
            digests_by_platform: BTreeSet::new(),
            digests_on: BTreeMap::new(),
            platforms: BTreeMap::new(),
            out_of_reach: BTreeSet::new(),
            sources: BTreeMap::new(),
            alternates: BTreeMap::new(),
            asking: secs(0.01),
            private: BTreeMap::new(),
            wrong_secrets: BTreeSet::new(),
            kubelet_clock: SignedDuration::ZERO,
            kubelets: BTreeMap::new(),
            json: true,
            lists: false,
            fate: Box::new(|_| Fate::Answered),
            tamper: Box::new(|_| {}),
            mishear: Box::new(|_| {}),
            jitter: None,
        }
    }
}
