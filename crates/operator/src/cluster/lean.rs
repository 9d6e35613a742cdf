//! Kubernetes objects with only the fields that Drop reads. The JSON of a pull Pod with ten images has some 12 kB and
//! arrives five times; all other fields are skipped while it is read.

use std::borrow::Cow;
use std::collections::BTreeMap;

use drop_api::node_cache::{NodeCacheSpec, NodeCacheStatus};
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Resource;
use kube::core::PartialObjectMeta;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A Pod.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "k8s::Pod")]
pub struct Pod {
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: PodSpec,
    #[serde(default)]
    pub status: PodStatus,
}

/// The spec of a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    pub node_name: Option<String>,
    #[serde(default)]
    pub containers: Vec<Container>,
}

/// A container of a Pod.
#[derive(Clone, Debug, Deserialize)]
pub struct Container {
    pub name: String,
    pub image: Option<String>,
}

/// The status of a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    pub phase: Option<String>,
    pub reason: Option<String>,
    pub message: Option<String>,
    pub start_time: Option<Time>,
    pub conditions: Option<Vec<k8s::PodCondition>>,
    pub container_statuses: Option<Vec<ContainerStatus>>,
}

/// The status of a container.
#[derive(Clone, Debug, Deserialize)]
pub struct ContainerStatus {
    pub name: String,
    #[serde(rename = "imageID", default)]
    pub image_id: String,
    pub state: Option<k8s::ContainerState>,
}

/// A Node.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "k8s::Node")]
pub struct Node {
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: NodeSpec,
    #[serde(default)]
    pub status: NodeStatus,
}

/// The spec of a Node.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeSpec {
    pub taints: Option<Vec<k8s::Taint>>,
    #[serde(default)]
    pub unschedulable: bool,
}

/// The status of a Node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    pub conditions: Option<Vec<k8s::NodeCondition>>,
    pub images: Option<Vec<k8s::ContainerImage>>,
    #[serde(default)]
    pub node_info: NodeInfo,
}

/// The system information of a Node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeInfo {
    pub operating_system: String,
    pub architecture: String,
    pub kubelet_version: String,
}

/// A NodeCache without `managedFields`.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "drop_api::NodeCache")]
pub struct NodeCache {
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    pub spec: NodeCacheSpec,
    pub status: Option<NodeCacheStatus>,
}

impl From<NodeCache> for drop_api::NodeCache {
    fn from(NodeCache { metadata, spec, status }: NodeCache) -> Self {
        Self { metadata, spec, status }
    }
}

/// Reads the parts of the metadata that Drop uses. `managedFields` alone may be longer than all other fields.
fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        name: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        creation_timestamp: Option<Time>,
        deletion_timestamp: Option<Time>,
        labels: Option<BTreeMap<String, String>>,
        annotations: Option<BTreeMap<String, String>>,
        owner_references: Option<Vec<OwnerReference>>,
    }
    let read = Metadata::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: read.name,
        uid: read.uid,
        resource_version: read.resource_version,
        creation_timestamp: read.creation_timestamp,
        deletion_timestamp: read.deletion_timestamp,
        labels: read.labels,
        annotations: read.annotations,
        owner_references: read.owner_references,
        ..ObjectMeta::default()
    })
}

/// An object, or the reason why it cannot be read, so that one unusual object ends neither a list nor a watch. Unlike
/// kube's `DeserializeGuard`, this builds no tree of values, and so it only reads JSON.
#[derive(Clone, Debug)]
pub struct Guarded<K>(pub Result<K, Unreadable>);

/// An object that cannot be read.
#[derive(Clone, Debug)]
pub struct Unreadable {
    pub metadata: ObjectMeta,
    pub error: String,
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let read = serde_json::from_str(text.get());
        Ok(Self(match read {
            Ok(object) => Ok(object),
            Err(error) => {
                let object: PartialObjectMeta = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
                Err(Unreadable { metadata: object.metadata, error: error.to_string() })
            }
        }))
    }
}

impl<K: Resource> Resource for Guarded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(of: &K::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &K::DynamicType) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &K::DynamicType) -> Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &K::DynamicType) -> Cow<'_, str> {
        K::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|unreadable| &unreadable.metadata, K::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.as_mut().map_or_else(|unreadable| &mut unreadable.metadata, K::meta_mut)
    }
}

#[cfg(test)]
mod tests {
    use kube::api::WatchEvent;
    use kube::core::ObjectList;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_watch_and_a_list_go_on_past_an_object_that_cannot_be_read() {
        let broken = json!({ "metadata": { "name": "broken", "resourceVersion": "7" }, "spec": { "containers": 1 } });
        let event = format!(r#"{{"type":"MODIFIED","object":{broken}}}"#);
        let event: WatchEvent<Guarded<Pod>> = serde_json::from_str(&event).unwrap();
        let WatchEvent::Modified(read) = event else { panic!("{event:?}") };
        assert_eq!(read.meta().resource_version.as_deref(), Some("7"));
        assert!(read.0.unwrap_err().error.contains("sequence"), "says what is wrong");

        let whole = json!({ "metadata": { "name": "whole" } });
        let list = json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [broken, whole] });
        let list: ObjectList<Guarded<Pod>> = serde_json::from_str(&list.to_string()).unwrap();
        let names: Vec<_> = list.items.iter().map(|pod| (pod.meta().name.as_deref(), pod.0.is_ok())).collect();
        assert_eq!(names, [(Some("broken"), false), (Some("whole"), true)]);
    }

    #[test]
    fn who_wrote_which_field_is_not_read() {
        let object = json!({
            "metadata": { "name": "n1", "uid": "u", "resourceVersion": "7", "managedFields": [{ "fieldsV1": {} }] },
            "spec": { "nodeUID": "u" },
        });
        let cache: NodeCache = serde_json::from_value(object).unwrap();
        let cache = drop_api::NodeCache::from(cache);
        assert_eq!(cache.metadata.managed_fields, None);
        assert_eq!((cache.metadata.uid.as_deref(), cache.spec.node_uid.as_str()), (Some("u"), "u"));
    }
}
