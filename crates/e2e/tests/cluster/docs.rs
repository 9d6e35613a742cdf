//! Checks the objects that readers copy from the documentation, on a real API server.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use drop_docs::root;
use drop_e2e::Bed;
use drop_testbed::definitions;
use serde_json::Value;

/// Groups of the API whose definitions are not available: HelmReleases, and the simulator's files.
const FOREIGN: [&str; 2] = ["helm.toolkit.fluxcd.io/", "simulation.drop."];

pub fn what_readers_may_copy_is_accepted(bed: &Bed) -> Result<()> {
    for definition in definitions()? {
        bed.cluster.define(&definition)?;
    }
    for block in drop_docs::blocks()?.into_iter().filter(|block| block.language == "yaml") {
        let accepted = accept(bed, &block.text);
        if block.is("refused") {
            ensure!(accepted.is_err(), "{block} is accepted");
        } else {
            accepted.with_context(|| block.to_string())?;
        }
    }
    accept_all(bed, &root().join("examples"))?;
    // The chart with the kinds of the Prometheus operator, which no other test installs.
    let chart = fs::read_to_string(root().join("crates/e2e/tests/charts/everything.rendered.yaml"))?;
    accept(bed, &chart).context("the chart with all that can be switched on")
}

fn accept_all(bed: &Bed, folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            accept_all(bed, &path)?;
        } else {
            accept(bed, &fs::read_to_string(&path)?).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// Has the API server validate objects strictly, without storing them.
fn accept(bed: &Bed, text: &str) -> Result<()> {
    for mut object in serde_saphyr::from_multiple::<Value>(text)? {
        let Some(version) = object.get("apiVersion").and_then(Value::as_str) else { continue };
        if FOREIGN.iter().any(|group| version.contains(group)) {
            continue;
        }
        // The namespace of Argo CD does not exist here.
        if let Some(namespace) = object.pointer_mut("/metadata/namespace") {
            *namespace = "drop-system".into();
        }
        let file = bed.cluster.kubeconfig().with_file_name("docs.json");
        fs::write(&file, object.to_string())?;
        let file = file.display().to_string();
        bed.cluster.kubectl(&["apply", "--dry-run=server", "--validate=strict", "-f", &file])?;
    }
    Ok(())
}
