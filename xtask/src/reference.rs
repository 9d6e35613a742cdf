//! `docs/reference.md`: every field of the API, from the CRDs' schemas.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde_json::Value;

/// The page for `crds`, each a CustomResourceDefinition as JSON.
pub(crate) fn page(crds: &[Value]) -> Result<String> {
    let mut page = "# API reference\n\n\
        Generated from `crates/api` by `cargo xtask gen`. Everything is cluster-scoped, in the group\n\
        `drop.corewire.io/v1alpha1`. Fields marked * are required.\n"
        .to_owned();
    for crd in crds {
        let kind = crd.pointer("/spec/names/kind").and_then(Value::as_str).context("a kind")?;
        let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema").context("a schema")?;
        let description = schema.get("description").and_then(Value::as_str).unwrap_or_default();
        write!(page, "\n## {kind}\n\n{description}\n")?;
        for part in ["spec", "status"] {
            let Some(schema) = schema.pointer(&format!("/properties/{part}")) else { continue };
            write!(page, "\n### {kind} {part}\n\n| field | type | default, limits | meaning |\n|---|---|---|---|\n")?;
            rows(&mut page, "", schema)?;
            for message in messages(schema) {
                write!(page, "\n- {message}\n")?;
            }
        }
    }
    Ok(page)
}

/// A row for each property of an object, and for those within.
fn rows(page: &mut String, prefix: &str, schema: &Value) -> Result<()> {
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let items = field.get("items").filter(|items| items.get("properties").is_some());
        let path = format!("{prefix}{name}{}", if items.is_some() { "[]" } else { "" });
        let star = if required.contains(&name.as_str()) { "*" } else { "" };
        let meaning = field.get("description").and_then(Value::as_str).unwrap_or_default();
        let meaning = meaning.replace('\n', " ").replace('|', "\\|");
        writeln!(page, "| `{path}`{star} | {} | {} | {meaning} |", type_of(field), limits(field))?;
        rows(page, &format!("{path}."), items.unwrap_or(field))?;
    }
    Ok(())
}

fn type_of(field: &Value) -> String {
    let type_ = field.get("type").and_then(Value::as_str).unwrap_or("any");
    match (type_, field.get("enum").and_then(Value::as_array), field.get("items")) {
        (_, Some(values), _) => {
            let values: Vec<String> =
                values.iter().filter_map(Value::as_str).map(|value| format!("`{value}`")).collect();
            values.join(", ")
        }
        ("array", _, Some(items)) => format!("list of {}", type_of(items)),
        (type_, ..) => type_.to_owned(),
    }
}

fn limits(field: &Value) -> String {
    let mut limits = Vec::new();
    if let Some(default) = field.get("default").filter(|default| !default.is_null()) {
        limits.push(format!("default `{}`", default.as_str().map_or_else(|| default.to_string(), str::to_owned)));
    }
    let names = [
        ("minimum", "at least"),
        ("maximum", "at most"),
        ("maxLength", "characters up to"),
        ("maxItems", "items up to"),
        ("maxProperties", "entries up to"),
    ];
    for (key, name) in names {
        if let Some(limit) = field.get(key).and_then(Value::as_f64) {
            limits.push(format!("{name} {limit}"));
        }
    }
    limits.join("; ")
}

/// What the rules on the whole object say.
fn messages(schema: &Value) -> impl Iterator<Item = &str> {
    let rules = schema.get("x-kubernetes-validations").and_then(Value::as_array);
    rules.into_iter().flatten().filter_map(|rule| rule.get("message").and_then(Value::as_str))
}
