//! The pull Pod: small, unprivileged (Pod Security "restricted"), bound to its node without the scheduler, and deleted
//! with the node.

use std::collections::BTreeMap;

use drop_api::cached_image::ImagePullPolicy;
use drop_api::names::{
    ANNOTATION_GOES_ON_SINCE, ANNOTATION_IMAGES, ANNOTATION_POLICY, ANNOTATION_SAFE_TO_EVICT, LABEL_CACHED_IMAGE,
    LABEL_IMAGE_SET, LABEL_MANAGED_BY, LABEL_NODE, LABEL_PREFIX_CACHED_IMAGE, MANAGER, label_value,
};
use drop_api::scheduling::Toleration;
use drop_core::effect::{PodOrder, Pull};
use drop_core::policy::BUILT_IN;
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::cluster::container_name;

/// The user that pull containers run as: `nobody` by convention.
const UID: i64 = 65534;

/// How long a container may go on after its Pod is deleted. Never 0: the Pod would vanish while the pull goes on.
pub const TERMINATION_GRACE_SECONDS: u32 = 1;

/// Returns the Pod for `order`.
pub fn pod(order: &PodOrder, namespace: &str, priority_class: Option<&str>) -> k8s::Pod {
    k8s::Pod {
        metadata: metadata(order, namespace),
        spec: Some(k8s::PodSpec {
            node_name: Some(order.node.to_string()),
            containers: containers(order),
            image_pull_secrets: Some(
                order.secrets.iter().map(|name| k8s::LocalObjectReference { name: name.to_string() }).collect(),
            ),
            tolerations: Some(order.tolerations.iter().map(toleration).collect()),
            host_network: order.host_network.then_some(true),
            priority_class_name: priority_class.map(str::to_owned),
            restart_policy: Some("Never".to_owned()),
            termination_grace_period_seconds: Some(TERMINATION_GRACE_SECONDS.into()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            // The container needs no name resolution; the kubelet pulls, not the Pod.
            dns_policy: Some("Default".to_owned()),
            security_context: Some(k8s::PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(UID),
                run_as_group: Some(UID),
                seccomp_profile: Some(k8s::SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    ..k8s::SeccompProfile::default()
                }),
                ..k8s::PodSecurityContext::default()
            }),
            ..k8s::PodSpec::default()
        }),
        status: None,
    }
}

fn metadata(order: &PodOrder, namespace: &str) -> ObjectMeta {
    let mut labels = BTreeMap::from([
        (LABEL_MANAGED_BY.to_owned(), MANAGER.to_owned()),
        (LABEL_NODE.to_owned(), label_value(&order.node)),
    ]);
    if let Some(set) = &order.set {
        labels.insert(LABEL_IMAGE_SET.to_owned(), label_value(set));
    }
    if let [only] = order.pulls.as_slice() {
        labels.insert(LABEL_CACHED_IMAGE.to_owned(), label_value(&only.cached_image));
    }
    for pull in &order.pulls {
        let key = format!("{LABEL_PREFIX_CACHED_IMAGE}{}", label_value(&pull.cached_image));
        labels.insert(key, String::new());
    }
    let images: Vec<&str> = order.pulls.iter().map(|pull| pull.reference.as_str()).collect();
    let mut annotations = BTreeMap::from([
        (ANNOTATION_SAFE_TO_EVICT.to_owned(), "true".to_owned()),
        (ANNOTATION_IMAGES.to_owned(), images.join(" ")),
    ]);
    if &*order.policy != BUILT_IN {
        annotations.insert(ANNOTATION_POLICY.to_owned(), order.policy.to_string());
    }
    if let Some(at) = order.goes_on_since {
        annotations.insert(ANNOTATION_GOES_ON_SINCE.to_owned(), at.to_string());
    }
    ObjectMeta {
        name: Some(order.name.to_string()),
        namespace: Some(namespace.to_owned()),
        labels: Some(labels),
        annotations: Some(annotations),
        // Kubernetes deletes the Pod with its node, and autoscalers ignore it.
        owner_references: Some(vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: order.node.to_string(),
            uid: order.node_uid.to_string(),
            ..OwnerReference::default()
        }]),
        ..ObjectMeta::default()
    }
}

fn containers(order: &PodOrder) -> Vec<k8s::Container> {
    let count = order.pulls.len();
    order.pulls.iter().enumerate().map(|(place, pull)| container(container_name::at(place, count), pull)).collect()
}

fn container(name: String, pull: &Pull) -> k8s::Container {
    let requests = [("cpu", "1m"), ("memory", "1Mi")];
    let requests = requests.map(|(resource, quantity)| (resource.to_owned(), Quantity(quantity.to_owned())));
    k8s::Container {
        name,
        image: Some(pull.reference.to_string()),
        image_pull_policy: Some(
            match pull.policy {
                ImagePullPolicy::Always => "Always",
                ImagePullPolicy::IfNotPresent | ImagePullPolicy::Never => "IfNotPresent",
            }
            .to_owned(),
        ),
        // Most images have this command, and it ends at once. If an image lacks it, the container cannot start, which
        // proves the pull just as well.
        command: Some(vec!["true".to_owned()]),
        resources: Some(k8s::ResourceRequirements {
            requests: Some(requests.into()),
            ..k8s::ResourceRequirements::default()
        }),
        security_context: Some(k8s::SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(k8s::Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..k8s::Capabilities::default()
            }),
            ..k8s::SecurityContext::default()
        }),
        ..k8s::Container::default()
    }
}

fn toleration(toleration: &Toleration) -> k8s::Toleration {
    k8s::Toleration {
        key: toleration.key.clone(),
        operator: toleration.operator.map(|operator| format!("{operator:?}")),
        value: toleration.value.clone(),
        effect: toleration.effect.map(|effect| format!("{effect:?}")),
        toleration_seconds: toleration.toleration_seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drop_core::reference::Reference;

    fn order(pulls: &[&str]) -> PodOrder {
        PodOrder {
            name: "p".into(),
            node: "n1".into(),
            node_uid: "u".into(),
            policy: "slow".into(),
            set: None,
            pulls: pulls
                .iter()
                .map(|name| Pull {
                    cached_image: (*name).into(),
                    reference: Reference::parse("alpine:3.20"),
                    policy: ImagePullPolicy::Always,
                })
                .collect(),
            secrets: vec!["creds".into()],
            tolerations: vec![],
            host_network: false,
            goes_on_since: None,
            is_late: false,
        }
    }

    #[test]
    fn one_image_gets_the_labels_that_the_quickstart_selects_by() {
        let pod = pod(&order(&["alpine-3-20"]), "drop-system", None);
        let labels = pod.metadata.labels.unwrap();
        assert_eq!(labels["drop.corewire.io/cachedimage"], "alpine-3-20");
        assert_eq!(labels["app.kubernetes.io/managed-by"], "drop");
        assert_eq!(labels["drop.corewire.io/node"], "n1");
        assert!(labels.contains_key("cachedimage.drop.corewire.io/alpine-3-20"));
        assert_eq!(pod.spec.unwrap().containers[0].name, "pull");
    }

    #[test]
    fn several_images_are_told_apart_and_labels_always_fit() {
        let long = "x".repeat(253);
        let pod = pod(&order(&["a", &long]), "drop-system", None);
        let labels = pod.metadata.labels.unwrap();
        assert!(!labels.contains_key("drop.corewire.io/cachedimage"));
        for (key, value) in &labels {
            let name = key.rsplit('/').next().unwrap();
            assert!(name.len() <= 63 && value.len() <= 63, "{key}={value}");
        }
        let names: Vec<_> = pod.spec.unwrap().containers.into_iter().map(|container| container.name).collect();
        assert_eq!(names, ["pull-0", "pull-1"]);
    }
}
