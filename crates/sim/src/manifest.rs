//! Reads objects as users write them: YAML documents, as strictly as `kubectl apply` does.

use drop_api::cached_image_set::ImageEntry;
use drop_api::{CachedImageSetSpec, CachedImageSpec, PullPolicySpec, strict};
use drop_core::image_set;
use drop_core::node::{Readiness, Taint, has_disk_pressure, is_virtual, readiness};
use k8s_openapi::api::core::v1 as k8s;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

use crate::{Lab, schema};

/// The API group and version of Drop's objects.
const API_VERSION: &str = drop_api::names::API_VERSION;

/// The longest name of an object, in bytes.
const MAX_NAME: usize = 253;

/// The API server's message about other names (`IsDNS1123Subdomain` of `k8s.io/apimachinery`).
const NO_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
                            '.', must start and end with an alphanumeric character, and has at most 253 characters";

/// The reasons why a manifest cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// The text is not YAML.
    #[error("not YAML: {0}")]
    Syntax(String),
    /// An object does not match its kind.
    #[error("{kind} {name:?}: {problem}")]
    Object {
        /// Its kind.
        kind: String,
        /// Its `metadata.name`; empty if it has none.
        name: String,
        /// The field, and its fault.
        problem: String,
    },
}

/// An object that a lab can create.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// `metadata.name`.
    pub name: String,
    /// Its spec.
    pub spec: Spec,
}

/// The part of an object that a user writes, besides its name.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    /// Of a CachedImage.
    CachedImage(CachedImageSpec),
    /// Of a CachedImageSet.
    CachedImageSet(CachedImageSetSpec),
    /// Of a PullPolicy.
    PullPolicy(PullPolicySpec),
    /// A whole Node. All fields count that decide whether it can pull images.
    Node(Box<k8s::Node>),
}

/// Splits a YAML text into its documents. A `List`, which `kubectl get -o yaml` prints, is split into its items.
///
/// # Errors
/// If the text is not YAML.
pub fn documents(text: &str) -> Result<Vec<Value>, Error> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| Error::Syntax(error.to_string()))?;
    let flat = documents.into_iter().flat_map(|mut document| match document.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items,
        _ => vec![document],
    });
    Ok(flat.filter(|document| !document.is_null()).collect())
}

impl Object {
    /// Reads a document; `None` if labs do not have its kind.
    ///
    /// # Errors
    /// The field that is wrong, and how to fix it.
    pub fn read(mut document: Value) -> Result<Option<Self>, Error> {
        let text = |pointer| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
        let fail = |problem: String| Error::Object { kind: kind.clone(), name: name.clone(), problem };
        let is_drops = version.split('/').next() == Some(drop_api::GROUP);
        if is_drops && version != API_VERSION {
            return Err(fail(format!("apiVersion: there is no {version}: write {API_VERSION}")));
        }
        let spec = match (version.as_str(), kind.as_str()) {
            (API_VERSION, "CachedImage") => {
                let spec: CachedImageSpec = spec(&document, &kind).map_err(fail)?;
                let CachedImageSpec { image, tag, digest, .. } = spec.clone();
                image_set::check(&ImageEntry { image, tag, digest }).map_err(|why| fail(format!("spec: {why}")))?;
                Spec::CachedImage(spec)
            }
            (API_VERSION, "CachedImageSet") => Spec::CachedImageSet(spec(&document, &kind).map_err(fail)?),
            (API_VERSION, "PullPolicy") => Spec::PullPolicy(spec(&document, &kind).map_err(fail)?),
            (API_VERSION, "DiscoveryPolicy" | "NodeCache") => return Ok(None),
            (API_VERSION, _) => {
                return Err(fail("kind: write CachedImage, CachedImageSet or PullPolicy".to_owned()));
            }
            ("v1", "Node") => {
                let node = serde_json::from_value(document.take());
                Spec::Node(Box::new(node.map_err(|error| fail(error.to_string()))?))
            }
            ("", _) => return Err(fail(format!("apiVersion: it is missing: write {API_VERSION}, or v1 for a Node"))),
            _ => return Ok(None),
        };
        if name.is_empty() {
            return Err(fail("metadata.name: it is missing: write a name".to_owned()));
        }
        if !is_subdomain(&name) {
            return Err(fail(format!("metadata.name: {NO_SUBDOMAIN}")));
        }
        Ok(Some(Self { name, spec }))
    }
}

/// Whether the API server accepts a name.
fn is_subdomain(name: &str) -> bool {
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_part = |part: &str| {
        part.starts_with(is_alphanumeric)
            && part.ends_with(is_alphanumeric)
            && part.chars().all(|c| is_alphanumeric(c) || c == '-')
    };
    name.len() <= MAX_NAME && name.split('.').all(is_part)
}

/// Reads the spec of one of Drop's objects, or returns the field that is wrong.
fn spec<T: DeserializeOwned>(document: &Value, kind: &str) -> Result<T, String> {
    let spec = document.get("spec").cloned().ok_or("spec: it is missing")?;
    let read = strict::read(spec.clone(), "spec")?;
    let refused = schema::violations(kind, &serde_json::json!({ "spec": spec }));
    match refused.first() {
        Some(first) => Err(first.strip_prefix(&format!("{kind}.")).unwrap_or(first).to_owned()),
        None => Ok(read),
    }
}

impl Lab {
    /// Creates an object, or changes the existing one of this kind and name.
    pub fn apply(&mut self, object: &Object) {
        let name = object.name.as_str();
        match &object.spec {
            Spec::CachedImage(spec) if self.api.images.contains_key(name) => {
                self.edit_image(name, |before| *before = spec.clone());
            }
            Spec::CachedImage(spec) => self.image_with(name, "", |new| *new = spec.clone()),
            Spec::CachedImageSet(spec) => self.set(name, |before| *before = spec.clone()),
            Spec::PullPolicy(spec) => self.policy(name, |before| *before = spec.clone()),
            Spec::Node(node) => {
                if !self.api.nodes.contains_key(name) {
                    self.node(name);
                }
                self.edit_node(name, |before| {
                    let spec = node.spec.clone().unwrap_or_default();
                    let status = node.status.clone().unwrap_or_default();
                    let taints = spec.taints.unwrap_or_default();
                    let conditions = status.conditions.unwrap_or_default();
                    let labels = node.metadata.labels.iter().flatten();
                    before.labels = labels.map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect();
                    before.unschedulable = spec.unschedulable.unwrap_or_default();
                    before.deleting = node.metadata.deletion_timestamp.is_some();
                    before.is_virtual = is_virtual(&before.labels, &taints);
                    before.disk_pressure = has_disk_pressure(&conditions);
                    // Without a condition Ready the node is ready, because people leave out usual values.
                    let tells = conditions.iter().any(|condition| condition.type_ == "Ready");
                    before.readiness = if tells { readiness(&conditions) } else { Readiness::Ready };
                    if let Some(info) = status.node_info.filter(|info| !info.architecture.is_empty()) {
                        before.platform = format!("{}/{}", info.operating_system, info.architecture).into();
                    }
                    before.taints = taints.into_iter().filter_map(Taint::from_api).collect();
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECTS: &str = "
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {name: gentle}
spec: {maxConcurrentNodes: 2, minDelayBetweenPulls: 0s}
---
# nothing
---
apiVersion: v1
kind: List
items:
  - apiVersion: v1
    kind: Node
    metadata: {name: gpu-1, labels: {pool: gpu}, uid: some, resourceVersion: '7'}
    spec: {taints: [{key: gpu, effect: NoSchedule}]}
    status: {conditions: [{type: Ready, status: 'True'}], nodeInfo: {}}
  - apiVersion: v1
    kind: Node
    metadata: {name: worker-1}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: alpine}
spec: {image: alpine, tag: '3.20', policyRef: {name: gentle}}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImageSet
metadata: {name: tools}
spec:
  images: [{image: busybox}]
  policyRef: {name: gentle}
  tolerations: [{key: gpu, operator: Exists}]
---
apiVersion: drop.corewire.io/v1alpha1
kind: DiscoveryPolicy
metadata: {name: popular}
---
apiVersion: v1
kind: Namespace
metadata: {name: drop-system}
";

    fn read(text: &str) -> Result<Vec<Object>, Error> {
        documents(text)?.into_iter().filter_map(|document| Object::read(document).transpose()).collect()
    }

    #[test]
    fn a_lab_does_what_a_manifest_asks_for() {
        let objects = read(OBJECTS).unwrap();
        let names: Vec<&str> = objects.iter().map(|object| object.name.as_str()).collect();
        assert_eq!(names, ["gentle", "gpu-1", "worker-1", "alpine", "tools"]);
        let mut lab = Lab::default();
        objects.iter().for_each(|object| lab.apply(object));
        lab.settle();
        assert_eq!(lab.shows("alpine"), "Cached 1/1", "gpu-1 is tainted");
        let child = lab.api.images.keys().find(|name| name.starts_with("tools-busybox")).unwrap();
        assert_eq!(lab.shows(child), "Cached 2/2");
        assert_eq!(lab.violations, []);
    }

    #[test]
    fn applying_once_more_changes_what_is_there() {
        let mut lab = Lab::default();
        read(OBJECTS).unwrap().iter().for_each(|object| lab.apply(object));
        lab.settle();
        let uid = lab.api.nodes["worker-1"].uid.clone();
        read(&OBJECTS.replace("3.20", "3.21").replace("worker-1}", "worker-1, labels: {a: b}}"))
            .unwrap()
            .iter()
            .for_each(|object| lab.apply(object));
        lab.settle();
        assert_eq!(lab.pods_of("alpine:3.21").len(), 1);
        assert_eq!((&lab.api.nodes["worker-1"].uid, lab.api.nodes["worker-1"].labels.len()), (&uid, 1));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_object_and_field() {
        let cases = [
            ("tag: '3.20'", "tagg: x", "CachedImage \"alpine\": spec.tagg: there is no such field"),
            ("image: alpine,", "", "CachedImage \"alpine\": spec: missing field `image`"),
            ("image: alpine,", "image: 'https://a',", "CachedImage \"alpine\": spec: not an image name: write"),
            ("Nodes: 2", "Nodes: 0", "PullPolicy \"gentle\": spec.maxConcurrentNodes violates minimum: 1"),
            (
                "Pulls: 0s",
                "Pulls: soon",
                "PullPolicy \"gentle\": spec.minDelayBetweenPulls: \"soon\" is not a duration",
            ),
            ("v1alpha1", "v1", "PullPolicy \"gentle\": apiVersion: there is no drop.corewire.io/v1: write"),
            ("kind: PullPolicy", "kind: PulPolicy", "PulPolicy \"gentle\": kind: write CachedImage"),
            (
                "{name: gentle}",
                "{name: Gentle}",
                "PullPolicy \"Gentle\": metadata.name: a lowercase RFC 1123 subdomain",
            ),
            ("metadata: {name: gentle}", "", "PullPolicy \"\": metadata.name: it is missing"),
            ("spec: {max", "spek: {max", "PullPolicy \"gentle\": spec: it is missing"),
            ("taints: [", "taints: {", "not YAML"),
        ];
        for (from, to, says) in cases {
            let error = read(&OBJECTS.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.starts_with(says), "{says}: {error}");
        }
    }
}
