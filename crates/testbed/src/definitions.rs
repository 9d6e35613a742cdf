//! CustomResourceDefinitions of others, as the modules of their projects have them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::paths;

/// Files in the modules that `tools/definitions/go.mod` pins.
const FILES: [(&str, &str); 5] = [
    ("github.com/argoproj/argo-cd/v3", "manifests/crds/application-crd.yaml"),
    ("github.com/fluxcd/kustomize-controller", "config/crd/bases/kustomize.toolkit.fluxcd.io_kustomizations.yaml"),
    ("github.com/fluxcd/source-controller", "config/crd/bases/source.toolkit.fluxcd.io_helmrepositories.yaml"),
    (PROMETHEUS, "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"),
    (PROMETHEUS, "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml"),
];
const PROMETHEUS: &str = "github.com/prometheus-operator/prometheus-operator";

/// What `go mod download -json` says of a module.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Module {
    path: String,
    dir: PathBuf,
}

/// Downloads the modules with the definitions of Argo CD's, Flux's and the Prometheus operator's
/// kinds that Drop's charts and examples use, except HelmReleases.
///
/// # Errors
/// Go is missing, or cannot get a module.
pub fn download_definitions() -> Result<()> {
    modules(&[]).map(drop)
}

/// The files that [`download_definitions`] has downloaded.
///
/// # Errors
/// Go is missing, or a module is not downloaded: `cargo xtask tools` does it.
pub fn definitions() -> Result<Vec<PathBuf>> {
    let modules = modules(&[("GOPROXY", "off")]).context("run: cargo xtask tools")?;
    let file = |(path, file): &(&str, &str)| {
        let module = modules.iter().find(|module| module.path == *path);
        Ok(module.with_context(|| format!("tools/definitions/go.mod lacks {path}"))?.dir.join(file))
    };
    FILES.iter().map(file).collect()
}

fn modules(environment: &[(&str, &str)]) -> Result<Vec<Module>> {
    let project = paths::tool_projects().join("definitions");
    let pins = std::fs::read_to_string(project.join("go.mod"))?;
    let pins = pins.lines().filter_map(|line| line.strip_prefix('\t')).map(|pin| pin.replace(' ', "@"));
    let mut download = Command::new("go");
    download.args(["mod", "download", "-json"]).args(pins).current_dir(&project).envs(environment.iter().copied());
    let output = download.output().context("go mod download")?;
    ensure!(output.status.success(), "go mod download: {}", String::from_utf8_lossy(&output.stdout));
    let modules = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Module>();
    modules.collect::<Result<_, _>>().context("go mod download")
}
