//! Scenarios as data: a cluster, and the events in it with their times.
//!
//! A scenario is a YAML file of this shape. Only `about` and `until` are required, and objects are written as users
//! write them:
//!
//! ```yaml
//! about: A node joins while an image is rolled out.
//! until: 10m                          # for how long to look
//! nodes: [{name: a}, {name: b, labels: {pool: gpu}}]
//! network: {node: 100000000, registry: 1000000000}   # bytes per second
//! sizes: {docker.io/library/alpine:3.20: 300000000}  # bytes, if not 100 MB
//! moments:
//!   - at: 0s
//!     apply: [{apiVersion: drop.corewire.io/v1alpha1, kind: CachedImage, metadata: {name: alpine}, spec: {…}}]
//!   - at: 30s
//!     join: [{name: c, machine: {disk: 50000000}}]
//!     troubles: [{of: docker.io, nodes: [a], outcome: noDns}]
//!     kubelets: {b: {rejectsNext: {reason: OutOfpods, message: too many Pods}}}
//! ```

use std::collections::{BTreeMap, BTreeSet};

use drop_api::GoDuration;
use drop_core::node::Node;
use drop_core::reference::Reference;
use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::Value;

use crate::kubelet::lacks_network;
use crate::manifest::Object;
use crate::{Bandwidth, Kubelet, Lab, Machine, Registry, Trouble};

/// A cluster, and the events in it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scenario {
    /// Its purpose, in a sentence.
    pub about: String,
    /// How long the lab runs.
    pub until: GoDuration,
    /// The nodes at the beginning.
    #[serde(default)]
    pub nodes: Vec<NodeSpec>,
    /// The bandwidth of pulls.
    pub network: Option<Bandwidth>,
    /// Sizes of images in bytes, if not 100 MB.
    #[serde(default)]
    pub sizes: BTreeMap<String, u64>,
    /// References for which runtimes report another digest on each platform.
    #[serde(default)]
    pub digests_by_platform: BTreeSet<String>,
    /// The events, in the order of time.
    #[serde(default)]
    pub moments: Vec<Moment>,
}

/// A node.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeSpec {
    /// Its name.
    pub name: String,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Operating system and architecture, if not `linux/amd64`.
    pub platform: Option<String>,
    /// The properties in which the machine differs from the others.
    #[serde(default)]
    pub machine: Machine,
    /// Whether its network is not up yet; it then has the taint that reports this.
    #[serde(default)]
    pub not_ready: bool,
}

/// A change of clocks.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Clocks {
    /// Back by this much.
    Back(GoDuration),
    /// Forward by this much.
    Forward(GoDuration),
}

/// The events at one time, in the order of these fields.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Moment {
    /// When, since the beginning.
    pub at: GoDuration,
    /// The limits of registries from then on, by host.
    #[serde(default)]
    pub registries: BTreeMap<String, Registry>,
    /// Unusual pulls from then on, instead of the previous ones.
    pub troubles: Option<Vec<Trouble>>,
    /// How the kubelets of these nodes behave from then on.
    #[serde(default)]
    pub kubelets: BTreeMap<String, Kubelet>,
    /// A change of the clocks of the machines on which operators run.
    pub set_clocks: Option<Clocks>,
    /// Images that are pushed anew, with their digests from then on.
    #[serde(default)]
    pub push: BTreeMap<String, String>,
    /// Nodes that join.
    #[serde(default)]
    pub join: Vec<NodeSpec>,
    /// Nodes whose networks come up.
    #[serde(default)]
    pub ready: Vec<String>,
    /// Nodes that leave.
    #[serde(default)]
    pub leave: Vec<String>,
    /// Objects that are created or changed.
    #[serde(default)]
    pub apply: Vec<Value>,
    /// Images that are removed from every node that has them.
    #[serde(default)]
    pub evict: Vec<String>,
    /// Another operator takes over; the leader goes on for this long.
    pub hand_over: Option<GoDuration>,
}

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// The fault in the text, and its line.
    pub fn from_yaml(text: &str) -> Result<Self, serde_saphyr::Error> {
        serde_saphyr::from_str(text)
    }

    /// Runs the scenario. A step that is not possible is a violation in the lab.
    #[must_use]
    pub fn run(&self) -> Lab {
        let mut lab = Lab::default();
        lab.title.clone_from(&self.about);
        lab.keep_journal();
        lab.knobs.lists = true;
        lab.knobs.bandwidth = self.network;
        lab.knobs.sizes.clone_from(&self.sizes);
        lab.knobs.digests_by_platform.clone_from(&self.digests_by_platform);
        self.nodes.iter().for_each(|node| lab.join(node));
        for moment in &self.moments {
            let wait = moment.at.get() - lab.elapsed();
            if wait.is_negative() {
                lab.violate(format!("the moment at {} comes after a later one", moment.at));
            }
            lab.run(wait.max(SignedDuration::ZERO));
            lab.live_through(moment);
        }
        lab.run(self.until.get() - lab.elapsed());
        lab
    }
}

impl Lab {
    fn live_through(&mut self, moment: &Moment) {
        for (host, registry) in &moment.registries {
            self.note(|| format!("{host} {registry}"));
            self.knobs.registries.insert(host.clone(), *registry);
        }
        if let Some(troubles) = &moment.troubles {
            troubles.iter().for_each(|trouble| self.note(|| trouble.to_string()));
            self.knobs.troubles.clone_from(troubles);
        }
        for (node, kubelet) in &moment.kubelets {
            self.note(|| format!("{node}: the kubelet {kubelet}"));
            self.knobs.kubelets.insert(node.clone(), kubelet.clone());
        }
        match &moment.set_clocks {
            Some(Clocks::Back(by)) => self.set_clocks(-by.get()),
            Some(Clocks::Forward(by)) => self.set_clocks(by.get()),
            None => {}
        }
        moment.push.iter().for_each(|(image, digest)| self.push(image, digest));
        moment.join.iter().for_each(|node| self.join(node));
        moment.ready.iter().for_each(|node| self.ready(node));
        moment.leave.iter().for_each(|node| self.remove_node(node));
        moment.apply.iter().for_each(|object| self.apply_written(object));
        for image in moment.evict.iter().map(|image| Reference::parse(image)) {
            let nodes: Vec<String> = self.api.nodes.keys().cloned().collect();
            for node in nodes {
                self.evict(&node, &image);
            }
        }
        if let Some(rest) = &moment.hand_over {
            self.hand_over(rest.get());
        }
    }

    fn join(&mut self, spec: &NodeSpec) {
        self.knobs.machines.insert(spec.name.clone(), spec.machine);
        self.node(&spec.name);
        self.edit_node(&spec.name, |node: &mut Node| {
            for (key, value) in &spec.labels {
                node.labels.insert(key.as_str().into(), value.as_str().into());
            }
            if let Some(platform) = &spec.platform {
                node.platform = platform.as_str().into();
            }
            if spec.not_ready {
                lacks_network(node);
            }
        });
    }

    /// Creates or changes an object, as `kubectl apply` does.
    fn apply_written(&mut self, document: &Value) {
        match Object::read(document.clone()) {
            Ok(Some(object)) => self.apply(&object),
            Ok(None) => self.violate(format!("a scenario cannot have such an object: {document}")),
            Err(error) => self.violate(error.to_string()),
        }
    }
}
