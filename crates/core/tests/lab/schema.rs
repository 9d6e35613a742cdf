//! What the API server refuses: the CRDs' schemas, applied to what Drop writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use drop_core::Effect;
use serde_json::{Value, json};

/// The schemas by kind.
static SCHEMAS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    let crds = drop_api::crds().into_iter().map(|crd| {
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
        (crd.spec.names.kind, schema["openAPIV3Schema"].clone())
    });
    crds.collect()
});

/// Why the API server refuses what `effect` writes; none if it accepts it.
pub fn violations_of(effect: &Effect) -> Vec<String> {
    match effect {
        Effect::RecordNode { cache, .. } => violations("NodeCache", &serde_json::to_value(cache).unwrap()),
        Effect::PatchImage { status, .. } => status_violations("CachedImage", &serde_json::to_value(status).unwrap()),
        Effect::PatchPolicy { status, .. } => status_violations("PullPolicy", &serde_json::to_value(status).unwrap()),
        Effect::PatchSet { status, .. } => status_violations("CachedImageSet", &serde_json::to_value(status).unwrap()),
        Effect::PatchDiscovery { status, .. } => {
            status_violations("DiscoveryPolicy", &serde_json::to_value(status).unwrap())
        }
        Effect::CreateChild { child, .. } => violations("CachedImage", &serde_json::to_value(child).unwrap()),
        Effect::UpdateChild { .. }
        | Effect::DeleteChild { .. }
        | Effect::Discover(_)
        | Effect::Tell(_)
        | Effect::CreatePod(_)
        | Effect::DeletePod { .. }
        | Effect::CheckPod { .. } => Vec::new(),
    }
}

/// Why the API server refuses an object of this kind.
pub fn violations(kind: &str, object: &Value) -> Vec<String> {
    let mut object = object.clone();
    for general in ["apiVersion", "kind", "metadata"] {
        object.as_object_mut().unwrap().remove(general);
    }
    let mut found = Vec::new();
    check(&SCHEMAS[kind], &object, kind, &mut found);
    found
}

fn status_violations(kind: &str, status: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(&SCHEMAS[kind]["properties"]["status"], status, &format!("{kind}.status"), &mut found);
    found
}

/// Adds to `found` where and how `value` violates `schema`.
fn check(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    if value.is_null() {
        if schema["nullable"] != json!(true) {
            found.push(format!("{path} is null"));
        }
        return;
    }
    for (keyword, bound) in schema.as_object().unwrap() {
        let length = || value.as_str().map(|text| text.chars().count()).unwrap_or_default();
        let items = value.as_array().map(Vec::len).unwrap_or_default();
        let fields = value.as_object().map(serde_json::Map::len).unwrap_or_default();
        let holds = match keyword.as_str() {
            "type" => is_a(value, bound.as_str().unwrap()),
            "enum" => bound.as_array().unwrap().contains(value),
            "maxLength" => length() <= size(bound),
            "minLength" => length() >= size(bound),
            "maxItems" => items <= size(bound),
            "minItems" => items >= size(bound),
            "maxProperties" => fields <= size(bound),
            "minProperties" => fields >= size(bound),
            "maximum" => value.as_f64() <= bound.as_f64(),
            "minimum" => value.as_f64() >= bound.as_f64(),
            "required" => bound.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some()),
            "x-kubernetes-list-map-keys" => keys_are_unique(value, bound),
            "format" => match bound.as_str().unwrap() {
                "date-time" => value.as_str().unwrap_or_default().parse::<jiff::Timestamp>().is_ok(),
                "int32" => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
                "int64" => value.as_i64().is_some(),
                other => panic!("{path}: format {other} is not checked yet"),
            },
            "properties" => {
                for (name, field) in value.as_object().into_iter().flatten() {
                    match bound.get(name) {
                        Some(schema) => check(schema, field, &format!("{path}.{name}"), found),
                        None => found.push(format!("{path}.{name} is not in the schema")),
                    }
                }
                true
            }
            "additionalProperties" => {
                for (name, field) in value.as_object().into_iter().flatten() {
                    check(bound, field, &format!("{path}.{name}"), found);
                }
                true
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(bound, item, &format!("{path}[{index}]"), found);
                }
                true
            }
            // CEL rules concern what users write; the others say nothing about values.
            "x-kubernetes-validations"
            | "x-kubernetes-list-type"
            | "nullable"
            | "title"
            | "description"
            | "default" => true,
            other => panic!("{path}: {other} is not checked yet"),
        };
        if !holds {
            found.push(format!("{path} violates {keyword}: {bound}"));
        }
    }
}

fn size(bound: &Value) -> usize {
    usize::try_from(bound.as_u64().unwrap()).unwrap()
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        other => panic!("type {other} is not checked yet"),
    }
}

/// Whether no two items of a list map have the same keys.
fn keys_are_unique(value: &Value, keys: &Value) -> bool {
    let key_of = |item: &Value| -> Vec<String> {
        keys.as_array().unwrap().iter().map(|key| item[key.as_str().unwrap()].to_string()).collect()
    };
    let mut seen = BTreeSet::new();
    value.as_array().into_iter().flatten().all(|item| seen.insert(key_of(item)))
}
