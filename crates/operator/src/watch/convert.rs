//! Converts Kubernetes objects, and keeps only the fields that planning needs. This bounds the operator's memory.

use drop_api::names::{ANNOTATION_GOES_ON_SINCE, ANNOTATION_IMAGES, ANNOTATION_POLICY, LABEL_NODE};
use drop_core::interner::{Interner, Texts};
use drop_core::inventory::{Inventory, Listed, MAX_NAMES};
use drop_core::node::{self, Node, Taint};
use drop_core::policy::BUILT_IN;
use drop_core::pull_pod::{Container, ContainerState, PullPod, Rejection};
use drop_core::reference::Reference;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as k8s;

use crate::cluster::{container_name, lean};

/// Reads one image of a node's list.
fn listed(image: k8s::ContainerImage) -> Listed {
    let names = image.names.unwrap_or_default();
    Listed {
        is_cut: names.len() >= MAX_NAMES,
        // Docker lists images without a name as `<none>@<none>`.
        names: names.iter().filter(|name| !name.contains('<')).map(|name| Reference::parse(name)).collect(),
        size: image.size_bytes.and_then(|size| u64::try_from(size).ok()).unwrap_or_default(),
    }
}

/// Reads a Node; `None` if it lacks a name or UID.
pub fn node(object: lean::Node, images: &mut Interner<Listed>, texts: &mut Texts) -> Option<Node> {
    let meta = object.metadata;
    let lean::NodeSpec { taints, unschedulable } = object.spec;
    let lean::NodeStatus { conditions, images: on_disk, node_info } = object.status;
    let labels = meta.labels.unwrap_or_default().into_iter();
    let labels = labels.map(|(key, value)| (texts.share(&key), texts.share(&value))).collect();
    let taints = taints.unwrap_or_default();
    let listed = on_disk.unwrap_or_default().into_iter().map(|image| images.share(listed(image)));
    let inventory = Inventory::new(listed.collect());
    let conditions = conditions.unwrap_or_default();
    Some(Node {
        name: meta.name?.into(),
        uid: meta.uid?.into(),
        created_at: meta.creation_timestamp.map_or(Timestamp::UNIX_EPOCH, |created| created.0),
        is_virtual: node::is_virtual(&labels, &taints),
        labels,
        taints: taints.into_iter().filter_map(Taint::from_api).collect(),
        inventory,
        platform: texts.share(&format!("{}/{}", node_info.operating_system, node_info.architecture)),
        tells_sandbox: minor_version(&node_info.kubelet_version).is_none_or(|minor| minor >= 36),
        unschedulable,
        deleting: meta.deletion_timestamp.is_some(),
        disk_pressure: node::has_disk_pressure(&conditions),
        readiness: node::readiness(&conditions),
    })
}

/// Returns the minor version: 36 for `v1.36.3`.
fn minor_version(version: &str) -> Option<u32> {
    version.split('.').nth(1)?.parse().ok()
}

/// Reads a pull Pod; `None` for a Pod that is not Drop's, or lacks a field that every pull Pod has.
pub fn pull_pod(object: lean::Pod) -> Option<PullPod> {
    let lean::Pod { metadata: meta, spec, status } = object;
    let owner = meta.owner_references.into_iter().flatten().find(|owner| owner.kind == "Node");
    // A Pod of an older operator has a label instead of an owner, so its machine is unknown.
    let node = meta.labels.as_ref().and_then(|labels| labels.get(LABEL_NODE));
    if owner.is_none() && node.is_none_or(|node| Some(node) != spec.node_name.as_ref()) {
        return None;
    }
    let acknowledged_at = status.start_time.as_ref().map(|time| time.0);
    let mut annotations = meta.annotations.unwrap_or_default();
    // Pods of an older operator lack the annotation.
    let ordered = annotations.remove(ANNOTATION_IMAGES);
    let ordered: Option<Vec<&str>> = ordered.as_deref().map(|images| images.split(' ').collect());
    let mut statuses = status.container_statuses.unwrap_or_default();
    // A Pod that the kubelet rejects at admission has neither conditions nor statuses of containers.
    let was_started = !statuses.is_empty() || status.phase.as_deref() != Some("Failed");
    let containers = spec.containers.into_iter().filter_map(|container| {
        let found = Reference::parse(container.image.as_deref().unwrap_or_default());
        let image = match &ordered {
            Some(ordered) => Reference::parse(ordered.get(container_name::place(&container.name)?)?),
            None => found.clone(),
        };
        let at = statuses.iter().position(|status| status.name == container.name);
        let status = at.map(|at| statuses.swap_remove(at));
        Some(self::container(image.clone(), Some(found).filter(|found| *found != image), status))
    });
    let containers: Vec<Container> = containers.collect();
    Some(PullPod {
        uid: Some(meta.uid?.into()),
        node: spec.node_name?.into(),
        node_uid: owner.map(|owner| owner.uid).unwrap_or_default().into(),
        policy: annotations.remove(ANNOTATION_POLICY).map_or_else(|| BUILT_IN.into(), Into::into),
        created_at: meta.creation_timestamp?.0,
        goes_on_since: annotations.remove(ANNOTATION_GOES_ON_SINCE).and_then(|at| at.parse().ok()),
        terminating: meta.deletion_timestamp.is_some(),
        acknowledged_at,
        sandbox_up_at: sandbox_up_at(status.conditions.unwrap_or_default(), acknowledged_at.filter(|_| was_started)),
        rejection: rejection(status.phase.as_deref(), status.reason, status.message, &containers),
        containers,
        name: meta.name?.into(),
    })
}

/// Returns why the Pod failed as a whole, if it did: the kubelet rejected or evicted it, or it ended without a
/// container's outcome.
fn rejection(
    phase: Option<&str>,
    reason: Option<String>,
    message: Option<String>,
    containers: &[Container],
) -> Option<Rejection> {
    let is_over = matches!(phase, Some("Failed" | "Succeeded"));
    let is_open = containers.iter().any(|container| container.outcome().is_none());
    let reason = match reason {
        Some(reason) if phase == Some("Failed") => reason,
        _ if is_over && is_open => "PodLost".to_owned(),
        _ => return None,
    };
    let message = message.unwrap_or_else(|| "the Pod ended without its kubelet's report".to_owned());
    Some(Rejection { reason: reason.into(), message: message.into() })
}

/// Returns when the Pod's sandbox came up. For a kubelet that does not report it: when the kubelet acknowledged the
/// Pod.
fn sandbox_up_at(conditions: Vec<k8s::PodCondition>, acknowledged_at: Option<Timestamp>) -> Option<Timestamp> {
    let condition = conditions.into_iter().find(|condition| condition.type_ == "PodReadyToStartContainers");
    match condition {
        None => acknowledged_at,
        Some(condition) if condition.status == "True" => {
            condition.last_transition_time.map(|time| time.0).or(acknowledged_at)
        }
        Some(_) => None,
    }
}

fn container(image: Reference, pulled_as: Option<Reference>, status: Option<lean::ContainerStatus>) -> Container {
    let unseen = || ContainerState::Waiting { reason: "".into(), message: "".into() };
    let Some(status) = status else {
        return Container { image, pulled_as, image_id: None, state: unseen() };
    };
    let state = match status.state {
        Some(k8s::ContainerState { terminated: Some(end), .. }) => ContainerState::Terminated {
            reason: end.reason.unwrap_or_default().into(),
            at: end.finished_at.map(|time| time.0),
        },
        Some(k8s::ContainerState { running: Some(running), .. }) => {
            ContainerState::Running { since: running.started_at.map_or(Timestamp::UNIX_EPOCH, |time| time.0) }
        }
        Some(k8s::ContainerState { waiting: Some(waiting), .. }) => ContainerState::Waiting {
            reason: waiting.reason.unwrap_or_default().into(),
            message: waiting.message.unwrap_or_default().into(),
        },
        _ => unseen(),
    };
    let image_id = Some(status.image_id).filter(|id| !id.is_empty()).map(Into::into);
    Container { image, pulled_as, image_id, state }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use drop_core::pull_pod::Outcome;
    use serde_json::json;

    fn pod(status: serde_json::Value) -> PullPod {
        let object = json!({
            "metadata": {
                "name": "alpine-x", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z",
                "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "node-uid" }],
                "annotations": { "drop.corewire.io/policy": "slow" },
            },
            "spec": { "nodeName": "n1", "containers": [{ "name": "pull", "image": "docker.io/library/alpine:3.20" }] },
            "status": status,
        });
        pull_pod(serde_json::from_value(object).unwrap()).unwrap()
    }

    #[test]
    fn a_pod_is_followed_from_its_creation_to_its_end() {
        let fresh = pod(json!({}));
        assert_eq!((&*fresh.node, &*fresh.policy, fresh.acknowledged_at), ("n1", "slow", None));
        assert_eq!(fresh.containers[0].outcome(), None);

        let starting = pod(json!({
            "phase": "Pending", "startTime": "2026-01-01T00:00:01Z",
            "conditions": [{ "type": "PodReadyToStartContainers", "status": "False" }],
            "containerStatuses": [{ "name": "pull", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "waiting": { "reason": "ContainerCreating" } } }],
        }));
        assert!(starting.acknowledged_at.is_some() && starting.sandbox_up_at.is_none());
        assert_eq!(starting.containers[0].outcome(), None);

        let scratch = pod(json!({
            "phase": "Failed", "startTime": "2026-01-01T00:00:01Z",
            "containerStatuses": [{ "name": "pull", "image": "", "ready": false, "restartCount": 0,
                "imageID": format!("docker.io/library/alpine@sha256:{}", "a".repeat(64)),
                "state": { "terminated": { "reason": "StartError", "exitCode": 128, "startedAt": "1970-01-01T00:00:00Z" } } }],
        }));
        assert_eq!(scratch.rejection, None, "a container that cannot start is no rejected Pod");
        assert!(matches!(scratch.containers[0].outcome(), Some(Outcome::Pulled { .. })));
        assert!(scratch.containers[0].id().is_some());

        let lost = pod(json!({
            "phase": "Failed",
            "containerStatuses": [{ "name": "pull", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "terminated": { "reason": "ContainerStatusUnknown", "exitCode": 137 } } }],
        }));
        assert_eq!(lost.rejection.as_ref().map(|rejection| &*rejection.reason), Some("PodLost"));

        let evicted = pod(json!({ "phase": "Failed", "reason": "OutOfpods", "message": "full",
            "startTime": "2026-01-01T00:00:01Z" }));
        assert_eq!(evicted.rejection.as_ref().map(|rejection| &*rejection.reason), Some("OutOfpods"));
        assert_eq!(evicted.containers[0].outcome(), None, "a rejected Pod proves nothing");
        assert_eq!(evicted.sandbox_up_at, None, "it never started");
    }

    #[test]
    fn what_was_ordered_is_read_from_a_pod_that_admission_has_changed() {
        let object = json!({
            "metadata": {
                "name": "x", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z",
                "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "node-uid" }],
                "annotations": { "drop.corewire.io/images": "docker.io/library/x:1 quay.io/y:2" },
            },
            "spec": { "nodeName": "n1", "containers": [
                { "name": "istio-proxy", "image": "docker.io/istio/proxyv2:1" },
                { "name": "pull-0", "image": "proxy.local/library/x:1" },
                { "name": "pull-1", "image": "quay.io/y:2" },
            ] },
        });
        let pod = pull_pod(serde_json::from_value(object).unwrap()).unwrap();
        let read = |container: &Container| {
            (container.image.to_string(), container.pulled_as.as_ref().map(ToString::to_string))
        };
        let expected = [
            ("docker.io/library/x:1".to_owned(), Some("proxy.local/library/x:1".to_owned())),
            ("quay.io/y:2".to_owned(), None),
        ];
        assert_eq!(pod.containers.iter().map(read).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_pod_of_an_older_operator_belongs_to_no_machine_and_a_strangers_is_none() {
        let pod = |labels: serde_json::Value| {
            let meta = json!({
                "name": "pull-x", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": labels,
            });
            let spec = json!({ "nodeName": "n1", "containers": [{ "name": "pull", "image": "x:1" }] });
            pull_pod(serde_json::from_value(json!({ "metadata": meta, "spec": spec })).unwrap())
        };
        let old = pod(json!({ "drop.corewire.io/cachedimage": "x", "drop.corewire.io/node": "n1" })).unwrap();
        assert_eq!((&*old.node, &*old.node_uid), ("n1", ""));
        assert_eq!(pod(json!({})), None);
        assert_eq!(pod(json!({ "drop.corewire.io/node": "n2" })), None);
    }

    #[test]
    fn a_kubelet_that_does_not_report_sandboxes_is_trusted() {
        let old = pod(json!({ "phase": "Pending", "startTime": "2026-01-01T00:00:01Z" }));
        assert_eq!(old.sandbox_up_at, old.acknowledged_at);
    }

    #[test]
    fn an_image_with_as_many_names_as_a_kubelet_lists_may_have_more() {
        let read = |names: &[&str]| {
            let names = Some(names.iter().map(|name| (*name).to_owned()).collect());
            listed(k8s::ContainerImage { names, size_bytes: None })
        };
        let (few, many) = (read(&["x:1", "x:2", "x:3", "x:4"]), read(&["<none>@<none>", "x:1", "x:2", "x:3", "x:4"]));
        assert_eq!((few.is_cut, many.is_cut), (false, true), "what has no name counts too");
        assert_eq!(few.names, many.names);
    }

    #[test]
    fn nodes_keep_what_placement_needs() {
        let object = json!({
            "metadata": { "name": "n1", "uid": "u", "labels": { "pool": "build" } },
            "spec": { "unschedulable": true, "taints": [
                { "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule" },
                { "key": "gpu", "value": "yes", "effect": "NoExecute" },
            ] },
            "status": {
                "conditions": [{ "type": "DiskPressure", "status": "True" }],
                "images": [{ "names": ["docker.io/library/alpine:3.20", "<none>@<none>"], "sizeBytes": 7 }],
                "nodeInfo": { "operatingSystem": "linux", "architecture": "arm64", "bootID": "", "containerRuntimeVersion": "",
                    "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "v1.35.1", "machineID": "", "osImage": "", "systemUUID": "" },
            },
        });
        let (mut images, mut texts) = (Interner::default(), Texts::default());
        let mut read = || node(serde_json::from_value(object.clone()).unwrap(), &mut images, &mut texts).unwrap();
        let (node, twin) = (read(), read());
        assert!(Arc::ptr_eq(&node.inventory.images()[0], &twin.inventory.images()[0]), "kept once");
        assert!(std::ptr::eq(&*node.labels["pool"], &*twin.labels["pool"]), "kept once");
        assert!(node.unschedulable && node.disk_pressure && !node.is_virtual);
        assert_eq!(node.taints.len(), 1);
        assert_eq!(&*node.platform, "linux/arm64");
        assert!(!node.tells_sandbox);
        assert_eq!(minor_version("v1.36.3+k3s1"), Some(36));
    }
}
