//! What there is when a simulation begins, and what happens later.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use drop_api::scheduling::TaintEffect;
use drop_api::{GoDuration, strict};
use drop_core::node::{Readiness, Taint};
use drop_core::reference::Reference;
use drop_sim::manifest::{self, Object, Spec};
use drop_sim::{Kubelet, Lab, Machine, Outcome, Trouble};
use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::Value;

use crate::Args;

/// The demo that is shown where nobody asks for another.
const DEMO: &str = include_str!("demo.yaml");
/// The name of a file that stands for it.
const STANDARD_INPUT: &str = "-";
/// How many nodes there are where nobody says so.
const NODES: u16 = 3;
/// The taint of a node that is not Ready; the control plane sets it with two effects.
const TAINT_NOT_READY: &str = "node.kubernetes.io/not-ready";
/// The version of [`Simulation`].
const API_VERSION: &str = "simulation.drop.corewire.io/v1";

/// What there is when a simulation begins, and what happens later.
#[derive(Debug, Default)]
pub struct Story {
    objects: Vec<Object>,
    simulation: Simulation,
    /// Objects that are not simulated: kind and name.
    pub(crate) passed_over: BTreeSet<String>,
    /// What happens later, the last first.
    happenings: Vec<Happening>,
}

/// A document that says how long things take, and what goes wrong. Times count from the beginning.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Simulation {
    /// How long a node takes to pull these images.
    pull_times: BTreeMap<String, GoDuration>,
    /// What cannot be pulled for a while, or more slowly.
    outages: Vec<Outage>,
    /// Kubelets that do not work as they should for a while.
    kubelets: Vec<Behaviour>,
    /// Sizes of images in bytes, if not 100 MB.
    sizes: BTreeMap<String, u64>,
    /// Machines that differ from the others, by the names of their nodes.
    machines: BTreeMap<String, Machine>,
    /// Nodes among the objects that join later.
    joins: Vec<Join>,
}

/// Pulls that do not go as usual.
#[derive(Clone, Debug, Deserialize)]
struct Outage {
    /// A reference, a repository or the host of a registry; absent: everything.
    #[serde(default)]
    of: String,
    /// The nodes where it is so; absent: all of them.
    #[serde(default)]
    nodes: Vec<String>,
    /// What the container runtime says.
    message: Option<String>,
    /// What becomes of the pulls, instead of a failure with this message.
    outcome: Option<Outcome>,
    /// When it begins; absent: at once.
    from: Option<GoDuration>,
    /// When it ends; absent: never.
    until: Option<GoDuration>,
}

/// A kubelet that does not work as it should.
#[derive(Clone, Debug, Deserialize)]
struct Behaviour {
    node: String,
    is: Kubelet,
    /// When it begins; absent: at once.
    from: Option<GoDuration>,
    /// When it ends; absent: never.
    until: Option<GoDuration>,
}

/// A node that joins later.
#[derive(Clone, Debug, Deserialize)]
struct Join {
    node: String,
    /// When it joins, not Ready yet.
    at: GoDuration,
    /// When it becomes Ready.
    ready: GoDuration,
}

/// Something that happens to the cluster.
#[derive(Debug)]
struct Happening {
    at: SignedDuration,
    what: What,
}

#[derive(Debug)]
enum What {
    Joins(Box<Object>),
    IsReady(Box<Object>),
    Begins(Trouble),
    Ends(Trouble),
    Behaves(String, Kubelet),
}

impl Story {
    /// The embedded demo, or what the files hold, with the nodes that are asked for.
    ///
    /// # Errors
    /// The file, the object and the field that is wrong.
    pub fn new(args: &Args) -> anyhow::Result<Self> {
        let mut story = Self::default();
        for path in &args.files {
            let name =
                if path.as_os_str() == STANDARD_INPUT { "standard input".into() } else { path.to_string_lossy() };
            let text = read(path).with_context(|| format!("cannot read {name}"))?;
            story.add(&text).with_context(|| name.into_owned())?;
        }
        if args.files.is_empty() {
            story.add(DEMO)?;
        } else if story.references().is_empty() {
            bail!("the files have no image to pull: write a CachedImage, or a CachedImageSet with images");
        }
        story.complete(args)
    }

    /// What a text holds, with the nodes that are asked for.
    #[cfg(test)]
    pub(crate) fn of(text: &str, args: &Args) -> anyhow::Result<Self> {
        let mut story = Self::default();
        story.add(text)?;
        story.complete(args)
    }

    /// Adds the nodes that are asked for, and what happens.
    fn complete(mut self, args: &Args) -> anyhow::Result<Self> {
        let nodes = self.objects.iter().filter(|object| matches!(object.spec, Spec::Node(_)));
        let taken: BTreeSet<String> = nodes.map(|node| node.name.clone()).collect();
        let count = args.nodes.unwrap_or(if taken.is_empty() { NODES } else { 0 });
        let labels: BTreeMap<&String, &String> = args.labels.iter().map(|(key, value)| (key, value)).collect();
        let names = (1..).map(|number: u32| format!("node-{number}")).filter(|name| !taken.contains(name));
        for name in names.take(count.into()) {
            let metadata = serde_json::json!({ "name": name, "labels": labels });
            let node = serde_json::json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata });
            self.objects.extend(Object::read(node)?);
        }
        self.schedule()?;
        Ok(self)
    }

    /// Adds the documents of a text.
    fn add(&mut self, text: &str) -> anyhow::Result<()> {
        for document in manifest::documents(text)? {
            let field = |pointer| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let (version, kind, name) = (field("/apiVersion"), field("/kind"), field("/metadata/name"));
            if kind == "Simulation" {
                if version != API_VERSION {
                    bail!("Simulation: apiVersion: write {API_VERSION}");
                }
                let spec = document.get("spec").cloned().unwrap_or_default();
                self.simulation = strict::read(spec, "spec").map_err(|why| anyhow!("Simulation: {why}"))?;
                continue;
            }
            let title = format!("{kind} {name}");
            match Object::read(document)? {
                Some(object) => self.objects.push(object),
                None => drop(self.passed_over.insert(title)),
            }
        }
        Ok(())
    }

    /// Every image that is asked for.
    fn references(&self) -> BTreeSet<Reference> {
        let objects = self.objects.iter().flat_map(|object| match &object.spec {
            Spec::CachedImage(spec) => vec![Reference::new(&spec.image, spec.tag.as_deref(), spec.digest.as_deref())],
            Spec::CachedImageSet(spec) => {
                let entries = spec.images.iter();
                entries
                    .map(|entry| Reference::new(&entry.image, entry.tag.as_deref(), entry.digest.as_deref()))
                    .collect()
            }
            Spec::PullPolicy(_) | Spec::Node(_) => Vec::new(),
        });
        objects.collect()
    }

    /// Turns what the [`Simulation`] says into happenings.
    fn schedule(&mut self) -> anyhow::Result<()> {
        let mut happenings = Vec::new();
        for (number, join) in self.simulation.joins.iter().enumerate() {
            let is_meant = |object: &Object| object.name == join.node && matches!(object.spec, Spec::Node(_));
            let position = self.objects.iter().position(is_meant);
            let Some(position) = position else {
                bail!("Simulation: spec.joins[{number}].node: add a Node {:?}", join.node);
            };
            let node = Box::new(self.objects.remove(position));
            happenings.push(Happening { at: join.at.get(), what: What::Joins(node.clone()) });
            happenings.push(Happening { at: join.at.get().max(join.ready.get()), what: What::IsReady(node) });
        }
        for (number, outage) in self.simulation.outages.iter().enumerate() {
            let outcome = match (&outage.message, &outage.outcome) {
                (Some(message), None) => Outcome::Fails(("ErrImagePull", message.as_str()).into()),
                (None, Some(outcome)) => outcome.clone(),
                _ => bail!("Simulation: spec.outages[{number}]: write either message or outcome"),
            };
            let trouble = Trouble { of: outage.of.clone(), nodes: outage.nodes.clone(), outcome };
            if !self.references().iter().any(|image| trouble.is_of(image)) {
                bail!(
                    "Simulation: spec.outages[{number}].of: {:?} is neither an image of the files nor its registry",
                    outage.of
                );
            }
            let from = outage.from.as_ref().map(GoDuration::get).unwrap_or_default();
            let until = outage.until.as_ref().map(|until| until.get().max(from));
            happenings.extend(until.map(|at| Happening { at, what: What::Ends(trouble.clone()) }));
            happenings.push(Happening { at: from, what: What::Begins(trouble) });
        }
        for Behaviour { node, is, from, until } in &self.simulation.kubelets {
            let from = from.as_ref().map(GoDuration::get).unwrap_or_default();
            happenings.push(Happening { at: from, what: What::Behaves(node.clone(), is.clone()) });
            let until = until.as_ref().map(|until| until.get().max(from));
            let works = || What::Behaves(node.clone(), Kubelet::Works);
            happenings.extend(until.map(|at| Happening { at, what: works() }));
        }
        // The last one happens first, and of two at the same time the one that was added first.
        happenings.sort_by_key(|happening| happening.at);
        happenings.reverse();
        self.happenings = happenings;
        Ok(())
    }

    /// Lets a new cluster begin with all this.
    pub(crate) fn begin(&self, args: &Args) -> Lab {
        let mut lab = Lab::default();
        if let Some(pull) = &args.pull_time {
            lab.knobs.pull = pull.get();
        }
        for (image, time) in &self.simulation.pull_times {
            lab.knobs.pulls.insert(Reference::parse(image).as_str().to_owned(), time.get());
        }
        for (image, size) in &self.simulation.sizes {
            lab.knobs.sizes.insert(Reference::parse(image).as_str().to_owned(), *size);
        }
        // What a full disk loses is seen in a node's list.
        lab.knobs.lists = !self.simulation.machines.is_empty();
        lab.knobs.machines.clone_from(&self.simulation.machines);
        self.objects.iter().for_each(|object| lab.apply(object));
        lab
    }

    /// When the next thing happens, from the beginning on.
    pub(crate) fn next_at(&self) -> Option<SignedDuration> {
        self.happenings.last().map(|happening| happening.at)
    }

    /// Lets happen what is due after so long. Returns what that was, as sentences.
    pub(crate) fn happen(&mut self, lab: &mut Lab, elapsed: SignedDuration) -> Vec<String> {
        let mut told = Vec::new();
        while self.next_at().is_some_and(|at| at <= elapsed) {
            let Some(happening) = self.happenings.pop() else { break };
            told.push(match happening.what {
                What::Joins(node) => {
                    lab.apply(&node);
                    lab.edit_node(&node.name, |node| {
                        node.readiness = Readiness::NotReady { network: false };
                        let effects = [TaintEffect::NoSchedule, TaintEffect::NoExecute].into_iter();
                        node.taints.extend(effects.map(|effect| Taint {
                            key: TAINT_NOT_READY.to_owned(),
                            value: String::new(),
                            effect,
                        }));
                    });
                    format!("node {} joins and is not Ready", node.name)
                }
                What::IsReady(node) => {
                    lab.apply(&node);
                    format!("node {} is Ready", node.name)
                }
                What::Begins(trouble) => {
                    let sentence = trouble.to_string();
                    lab.knobs.troubles.push(trouble);
                    sentence
                }
                What::Ends(trouble) => {
                    let at = lab.knobs.troubles.iter().position(|other| *other == trouble);
                    at.map(|at| lab.knobs.troubles.remove(at));
                    trouble.end()
                }
                What::Behaves(node, kubelet) => {
                    let sentence = format!("the kubelet of {node} {kubelet}");
                    lab.knobs.kubelets.insert(node, kubelet);
                    sentence
                }
            });
        }
        told
    }
}

fn read(path: &Path) -> io::Result<String> {
    if path.as_os_str() == STANDARD_INPUT { io::read_to_string(io::stdin()) } else { fs::read_to_string(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &str = "
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: a}
spec: {image: alpine}
---
apiVersion: simulation.drop.corewire.io/v1
kind: Simulation
spec:
  outages: [{of: docker.io, message: 'no', until: 1m}]
";

    fn parse(text: &str) -> anyhow::Result<Story> {
        let mut story = Story::default();
        story.add(text)?;
        story.schedule()?;
        Ok(story)
    }

    #[test]
    fn what_is_wrong_with_a_simulation_is_named_with_its_field() {
        assert!(parse(IMAGE).is_ok());
        let cases = [
            ("of: docker.io", "of: quay.io", "spec.outages[0].of: \"quay.io\" is neither an image of the files nor"),
            ("outages", "outage", "spec.outage: there is no such field"),
            ("1m}", "soon}", "spec.outages[0].until: \"soon\" is not a duration"),
            (
                "  outages:",
                "  joins: [{node: b, at: 1s, ready: 2s}]\n  outages:",
                "spec.joins[0].node: add a Node \"b\"",
            ),
            ("io/v1\n", "io/v2\n", "apiVersion: write simulation.drop.corewire.io/v1"),
        ];
        for (from, to, says) in cases {
            let error = parse(&IMAGE.replace(from, to)).unwrap_err().to_string();
            assert!(error.starts_with("Simulation: ") && error.contains(says), "{says}: {error}");
        }
    }

    #[test]
    fn files_without_images_are_refused() {
        let path = std::env::temp_dir().join(format!("drop-demo-{}.yaml", std::process::id()));
        fs::write(&path, "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n").unwrap();
        let error = Story::new(&Args { files: vec![path.clone()], ..Args::default() }).unwrap_err();
        fs::remove_file(&path).unwrap();
        assert!(error.to_string().starts_with("the files have no image to pull: write a CachedImage"), "{error}");
        let error = Story::new(&Args { files: vec![path], ..Args::default() }).unwrap_err();
        assert!(error.to_string().starts_with("cannot read"), "{error}");
    }
}
