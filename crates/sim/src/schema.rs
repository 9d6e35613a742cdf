//! Validates the objects that Drop writes against the CRDs' schemas, as the API server does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use drop_core::Effect;
use serde_json::{Value, json};

/// The schemas by kind.
static SCHEMAS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    let crds = drop_api::crds().into_iter().map(|crd| {
        let schema = crd.spec.versions.first().map(|version| written(&version.schema)).unwrap_or_default();
        (crd.spec.names.kind, field(&schema, "openAPIV3Schema").clone())
    });
    crds.collect()
});

/// Returns the reasons why the API server denies the objects that `effect` writes; none if it accepts them.
#[must_use]
pub fn violations_of(effect: &Effect) -> Vec<String> {
    match effect {
        Effect::RecordNode { cache, .. } => violations("NodeCache", &written(cache)),
        Effect::PatchImage { status, .. } => status_violations("CachedImage", &written(status)),
        Effect::PatchPolicy { status, .. } => status_violations("PullPolicy", &written(status)),
        Effect::PatchSet { status, .. } => status_violations("CachedImageSet", &written(status)),
        Effect::PatchDiscovery { status, .. } => status_violations("DiscoveryPolicy", &written(status)),
        Effect::CreateChild { child, .. } => violations("CachedImage", &written(child)),
        Effect::UpdateChild { .. }
        | Effect::DeleteChild { .. }
        | Effect::Discover(_)
        | Effect::LookUp(_)
        | Effect::Tell(_)
        | Effect::CreatePod(_)
        | Effect::DeletePod { .. }
        | Effect::CheckPod { .. } => Vec::new(),
    }
}

/// Returns the reasons why the API server denies an object of this kind.
#[must_use]
pub fn violations(kind: &str, object: &Value) -> Vec<String> {
    let mut object = object.clone();
    for general in ["apiVersion", "kind", "metadata"] {
        if let Some(fields) = object.as_object_mut() {
            fields.remove(general);
        }
    }
    let mut found = Vec::new();
    check(schema_of(kind), &object, kind, &mut found);
    found
}

fn status_violations(kind: &str, status: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(field(field(schema_of(kind), "properties"), "status"), status, &format!("{kind}.status"), &mut found);
    found
}

fn schema_of(kind: &str) -> &'static Value {
    SCHEMAS.get(kind).unwrap_or(&Value::Null)
}

/// Returns an object as it is sent. If it cannot be serialised, the result is no object, which no schema allows.
fn written(object: &impl serde::Serialize) -> Value {
    serde_json::to_value(object).unwrap_or_else(|error| Value::String(error.to_string()))
}

/// Returns a field of an object; null if the object lacks it.
fn field<'a>(object: &'a Value, name: &str) -> &'a Value {
    object.get(name).unwrap_or(&Value::Null)
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Adds to `found` each place where `value` violates `schema`, with the reason.
fn check(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    if value.is_null() {
        if *field(schema, "nullable") != json!(true) {
            found.push(format!("{path} is null"));
        }
        return;
    }
    for (keyword, bound) in schema.as_object().into_iter().flatten() {
        let length = || value.as_str().map(|text| text.chars().count()).unwrap_or_default();
        let items = value.as_array().map(Vec::len).unwrap_or_default();
        let fields = value.as_object().map(serde_json::Map::len).unwrap_or_default();
        let holds = match keyword.as_str() {
            "type" => is_a(value, bound.as_str().unwrap_or_default()),
            "enum" => bound.as_array().is_some_and(|values| values.contains(value)),
            "maxLength" => length() <= size(bound),
            "minLength" => length() >= size(bound),
            "maxItems" => items <= size(bound),
            "minItems" => items >= size(bound),
            "maxProperties" => fields <= size(bound),
            "minProperties" => fields >= size(bound),
            "maximum" => value.as_f64() <= bound.as_f64(),
            "minimum" => value.as_f64() >= bound.as_f64(),
            "required" => strings(bound).all(|name| value.get(name).is_some()),
            "x-kubernetes-list-map-keys" => keys_are_unique(value, bound),
            "format" => match bound.as_str().unwrap_or_default() {
                "date-time" => value.as_str().unwrap_or_default().parse::<jiff::Timestamp>().is_ok(),
                "int32" => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
                "int64" => value.as_i64().is_some(),
                other => {
                    found.push(format!("{path}: format {other} is unknown to this check"));
                    true
                }
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
            // CEL rules are about objects of users; the other keys say nothing about values.
            "x-kubernetes-validations"
            | "x-kubernetes-list-type"
            | "nullable"
            | "title"
            | "description"
            | "default" => true,
            other => {
                found.push(format!("{path}: {other} is unknown to this check"));
                true
            }
        };
        if !holds {
            found.push(format!("{path} violates {keyword}: {bound}"));
        }
    }
}

fn size(bound: &Value) -> usize {
    bound.as_u64().and_then(|bound| usize::try_from(bound).ok()).unwrap_or(usize::MAX)
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => false,
    }
}

/// Whether no two items of a list map have the same keys.
fn keys_are_unique(value: &Value, keys: &Value) -> bool {
    let key_of = |item: &Value| -> Vec<String> { strings(keys).map(|key| field(item, key).to_string()).collect() };
    let mut seen = BTreeSet::new();
    value.as_array().into_iter().flatten().all(|item| seen.insert(key_of(item)))
}
