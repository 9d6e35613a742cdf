//! `cargo xtask gen`: files that are generated from the code. A test fails where
//! one that is checked in differs.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{curve, dashboard, reference, root, timeline};

/// Writes every generated file.
pub fn run() -> Result<()> {
    for (path, text) in files()? {
        let parent = path.parent().context("a generated file lies in a folder")?;
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

/// Every generated file with its text.
fn files() -> Result<Vec<(PathBuf, String)>> {
    let root = root()?;
    // Through JSON, so that the keys are in one order.
    let crds: Vec<Value> = drop_api::crds().into_iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
    let mut files = timeline::files()?;
    files.push((root.join("docs/reference.md"), reference::page(&crds)?));
    let read = |path: &str| fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {path}"));
    let picture = dashboard::picture(&read("charts/drop/files/dashboard.json")?, &read("docs/dashboard.json")?)?;
    files.push((root.join("docs/dashboard.svg"), picture));
    files.push((root.join("docs/ranking.svg"), curve::picture()?));
    for mut crd in crds {
        let plural = crd.pointer("/spec/names/plural").and_then(Value::as_str).context("a CRD has a plural")?;
        let file = format!("{plural}.yaml");
        files.push((root.join("deploy/crds").join(&file), yaml(&crd)?));
        let metadata = crd.get_mut("metadata").and_then(Value::as_object_mut).context("a CRD has metadata")?;
        // Without its definition every object of a kind would go, too.
        metadata.insert("annotations".to_owned(), json!({ "helm.sh/resource-policy": "keep" }));
        metadata.insert("labels".to_owned(), json!({ "app.kubernetes.io/part-of": "drop" }));
        for chart in ["charts/drop-crds", "charts/drop"] {
            files.push((root.join(chart).join("files/crds").join(&file), yaml(&crd)?));
        }
    }
    Ok(files)
}

fn yaml(crd: &Value) -> Result<String> {
    Ok(format!("# Generated from crates/api by `cargo xtask gen`.\n{}", serde_saphyr::to_string(crd)?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn checked_in_files_are_up_to_date() {
        for (path, text) in super::files().unwrap() {
            let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(checked_in == text, "{} differs: run `cargo xtask gen`", path.display());
        }
    }
}
