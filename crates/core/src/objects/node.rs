//! The fields of a Node that planning needs.

use std::collections::BTreeMap;
use std::fmt;

use drop_api::scheduling::TaintEffect;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::Name;
use crate::objects::inventory::Inventory;
pub use crate::objects::virtual_node::is_virtual;

/// The taint that only repeats `spec.unschedulable`.
const TAINT_UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// A node, as the API server shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`.
    pub name: Name,
    /// `metadata.uid`. A different UID means another machine under the same name.
    pub uid: Name,
    /// `metadata.creationTimestamp`, in whole seconds.
    pub created_at: Timestamp,
    /// `metadata.labels`. Nodes share the texts of keys and of most values.
    pub labels: BTreeMap<Name, Name>,
    /// `spec.taints`, without the one that only repeats `unschedulable`.
    pub taints: Vec<Taint>,
    /// Whether it can run Pods.
    pub readiness: Readiness,
    /// Operating system and architecture, such as `linux/amd64`.
    pub platform: Name,
    /// The images that it lists.
    pub inventory: Inventory,
    /// Whether its kubelet reports that a Pod's sandbox is up before it pulls.
    pub tells_sandbox: bool,
    /// Cordoned.
    pub unschedulable: bool,
    /// `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// Not a machine (virtual kubelet).
    pub is_virtual: bool,
    /// The condition `DiskPressure` is True.
    pub disk_pressure: bool,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            name: "".into(),
            uid: "".into(),
            created_at: Timestamp::UNIX_EPOCH,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            readiness: Readiness::Ready,
            platform: "".into(),
            inventory: Inventory::default(),
            tells_sandbox: true,
            unschedulable: false,
            deleting: false,
            is_virtual: false,
            disk_pressure: false,
        }
    }
}

impl Node {
    /// Returns the owner reference that makes an object go with the node.
    #[must_use]
    pub fn owner_reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: self.name.to_string(),
            uid: self.uid.to_string(),
            ..OwnerReference::default()
        }
    }
}

/// Whether a node can run Pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// The node can run Pods.
    Ready,
    /// The node reports that it cannot.
    NotReady {
        /// Whether the network for Pods is up. Without it, only Pods that use the node's network start.
        network: bool,
    },
    /// The control plane says that the kubelet no longer reports.
    Lost,
}

/// Whether a node is short of disk space.
#[must_use]
pub fn has_disk_pressure(conditions: &[k8s::NodeCondition]) -> bool {
    conditions.iter().any(|condition| condition.type_ == "DiskPressure" && condition.status == "True")
}

/// Whether a node can run Pods. A node that has not reported yet has no network.
#[must_use]
pub fn readiness(conditions: &[k8s::NodeCondition]) -> Readiness {
    let find = |type_: &str| conditions.iter().find(|condition| condition.type_ == type_);
    let Some(ready) = find("Ready") else { return Readiness::NotReady { network: false } };
    match ready.status.as_str() {
        "True" => Readiness::Ready,
        "Unknown" => Readiness::Lost,
        _ => {
            // The kubelet's words; see `runtimeState.networkErrors` in Kubernetes.
            let message = ready.message.as_deref().unwrap_or_default();
            let is_down = message.contains("NetworkReady=false") || message.contains("NetworkPluginNotReady");
            let is_unrouted = find("NetworkUnavailable").is_some_and(|condition| condition.status == "True");
            Readiness::NotReady { network: !is_down && !is_unrouted }
        }
    }
}

/// A taint (core/v1 `Taint`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value; empty where there is none.
    pub value: String,
    /// Its effect on Pods that do not tolerate it.
    pub effect: TaintEffect,
}

impl Taint {
    /// Reads a taint; `None` if it only repeats `spec.unschedulable`, or if Kubernetes does not have its effect.
    #[must_use]
    pub fn from_api(taint: k8s::Taint) -> Option<Self> {
        let effect = match taint.effect.as_str() {
            "NoSchedule" => TaintEffect::NoSchedule,
            "PreferNoSchedule" => TaintEffect::PreferNoSchedule,
            "NoExecute" => TaintEffect::NoExecute,
            _ => return None,
        };
        let taint = Self { key: taint.key, value: taint.value.unwrap_or_default(), effect };
        (taint.key != TAINT_UNSCHEDULABLE).then_some(taint)
    }
}

impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value.as_str() {
            "" => write!(f, "{}:{:?}", self.key, self.effect),
            value => write!(f, "{}={value}:{:?}", self.key, self.effect),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_cannot_run_pods_says_why() {
        let condition = |type_: &str, status: &str, message: &str| k8s::NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            message: Some(message.to_owned()),
            ..k8s::NodeCondition::default()
        };
        let no_cni = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady";
        let cases = [
            (vec![], Readiness::NotReady { network: false }),
            (vec![condition("Ready", "True", "")], Readiness::Ready),
            (vec![condition("Ready", "False", no_cni)], Readiness::NotReady { network: false }),
            (vec![condition("Ready", "False", "PLEG is not healthy")], Readiness::NotReady { network: true }),
            (vec![condition("Ready", "Unknown", "")], Readiness::Lost),
        ];
        for (conditions, expected) in cases {
            assert_eq!(readiness(&conditions), expected, "{conditions:?}");
        }
    }
}
