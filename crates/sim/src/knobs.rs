//! How long things take in a lab, and what goes wrong.

use std::collections::{BTreeMap, BTreeSet};

use drop_core::discovery::{Answer, SourceFailure};
use drop_core::{Effect, Event, Plan};
use jiff::SignedDuration;
use serde::Deserialize;

use crate::{Bandwidth, Failure, Kubelet, Registry, Rng, Trouble, secs};

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is carried out, and answered.
    Answered,
    /// The API server refuses it.
    Refused(&'static str),
    /// The API server refuses it, even where an earlier one like it was carried out:
    /// admission comes before the look whether the object exists.
    RefusedAnyway(&'static str),
    /// It is carried out, but the answer is lost.
    AnswerLost,
    /// It never arrives.
    RequestLost,
    /// It arrives only after so long, at most after the executor's time limit, and the answer
    /// takes as long again: it may come too late.
    Late(SignedDuration),
}

/// What distinguishes a machine from the others, besides what its Node says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Machine {
    /// How much room it has for images, in bytes, if not as much as all others.
    pub disk: Option<u64>,
    /// The kubelet's `nodeStatusMaxImages`, if not that of the cluster; -1: no limit.
    pub listed_images: Option<i32>,
    /// Whether its runtime reports the bare ID of an image (`sha256:…`) as a container's `imageID`, as CRI-O
    /// does. The node lists the digest all the same.
    pub bare_image_ids: bool,
}

/// How long things take, and what goes wrong.
pub struct Knobs {
    /// From the plan until a request takes effect.
    pub request: SignedDuration,
    /// From there until its answer arrives.
    pub reply: SignedDuration,
    /// From a change until a watch shows it.
    pub watch: SignedDuration,
    /// How long a pull takes.
    pub pull: SignedDuration,
    /// How long a pull takes of these references.
    pub pulls: BTreeMap<String, SignedDuration>,
    /// References that cannot be pulled, and why.
    pub broken_images: BTreeMap<String, Failure>,
    /// Pulls that do not go as usual, by image and node; of two the first one counts.
    pub troubles: Vec<Trouble>,
    /// How fast images come, if that follows from their sizes and from who pulls beside them,
    /// instead of `pull` and `pulls`.
    pub bandwidth: Option<Bandwidth>,
    /// Sizes of references, in bytes, if not 100 MB.
    pub sizes: BTreeMap<String, u64>,
    /// How much room nodes have for images, in bytes, if that is limited.
    pub disk: Option<u64>,
    /// Machines that differ from the others, by the names of their nodes.
    pub machines: BTreeMap<String, Machine>,
    /// What registries allow, by host.
    pub registries: BTreeMap<String, Registry>,
    /// What runtimes tell of references, if it is not a sha256 digest.
    pub digests: BTreeMap<String, String>,
    /// References whose digests differ by platform, because runtimes tell that of the manifest for
    /// their platform instead of that of the index.
    pub digests_by_platform: BTreeSet<String>,
    /// What runtimes of some nodes tell instead, by node and reference: their mirrors lag behind.
    pub digests_on: BTreeMap<String, BTreeMap<String, String>>,
    /// The platforms for which registries have references, if not for all.
    pub platforms: BTreeMap<String, Vec<String>>,
    /// Registries that nodes reach and the operator does not, by host.
    pub out_of_reach: BTreeSet<String>,
    /// What sources answer, by their addresses.
    pub sources: BTreeMap<String, Result<Answer, SourceFailure>>,
    /// What sources answer every other time, by their addresses: it takes turns with what is in `sources`.
    pub alternates: BTreeMap<String, Result<Answer, SourceFailure>>,
    /// How long sources take to answer.
    pub asking: SignedDuration,
    /// References that are pulled only with the Secret of this name.
    pub private: BTreeMap<String, String>,
    /// Secrets that nobody accepts.
    pub wrong_secrets: BTreeSet<String>,
    /// By how much the kubelets' clocks are ahead.
    pub kubelet_clock: SignedDuration,
    /// Nodes whose kubelets do not work as they should.
    pub kubelets: BTreeMap<String, Kubelet>,
    /// Whether objects go to the API server as JSON, and are checked against the CRDs' schemas
    /// there, which takes half of a lab's time.
    pub json: bool,
    /// Whether nodes list their images.
    pub lists: bool,
    /// What becomes of each request.
    pub fate: Box<dyn FnMut(&Effect) -> Fate>,
    /// What a broken planner would make of each plan, to see that it is noticed.
    pub tamper: Box<dyn FnMut(&mut Plan)>,
    /// What a broken planner would understand of each event, to see that it is noticed.
    pub mishear: Box<dyn FnMut(&mut Event)>,
    /// Delays and fates of requests are drawn from this, if set.
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
