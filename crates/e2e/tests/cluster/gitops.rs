//! Checks how Argo CD, Flux and kubectl see Drop's objects, with the health checks of the examples.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_e2e::{Bed, root};
use drop_testbed::{ImageSpec, Tools};
use serde::Deserialize;

use crate::discovery::wait_discovery;
use crate::sets::wait_set;

const OBJECTS: &str = "
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {name: gitops}
spec: {maxConcurrentNodes: 2, minDelayBetweenPulls: 0s}
---
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {name: gitops-paused}
spec: {paused: true}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: gitops-cached}
spec: {image: docker.io/gitops/app, tag: '1', policyRef: {name: gitops}, nodeSelector: {scenario: gitops}}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: gitops-failing}
spec: {image: docker.io/gitops/nowhere, tag: '1', policyRef: {name: gitops}, nodeSelector: {scenario: gitops}}
---
apiVersion: drop.corewire.io/v1alpha1
kind: DiscoveryPolicy
metadata: {name: gitops-unreachable}
spec: {sources: [{type: registry, registry: {url: 'http://127.0.0.1:9', repositories: [gitops/app]}}]}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImageSet
metadata: {name: gitops-ready}
spec:
  policyRef: {name: gitops}
  nodeSelector: {scenario: gitops}
  images: [{image: docker.io/gitops/app, tag: '1'}]
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImageSet
metadata: {name: gitops-degraded}
spec:
  policyRef: {name: gitops}
  nodeSelector: {scenario: gitops}
  images: [{image: docker.io/gitops/app, tag: '1'}, {image: docker.io/gitops/nowhere, tag: '1'}]
";
const SLOW: &str = "
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: gitops-pulling}
spec: {image: docker.io/gitops/slow, tag: '1', policyRef: {name: gitops}, nodeSelector: {scenario: gitops}}
";
/// An object, and its state according to kstatus, to Flux with the Kustomization's expressions, and to Argo CD.
const SEEN: [(&str, &str, &str, &str); 9] = [
    ("alpine-3-20", "InProgress", "InProgress", "Progressing"),
    ("cachedimage/gitops-pulling", "InProgress", "InProgress", "Progressing"),
    ("cachedimage/gitops-cached", "Current", "Current", "Healthy"),
    ("cachedimage/gitops-failing", "InProgress", "Failed", "Degraded"),
    ("cachedimageset/gitops-ready", "Current", "Current", "Healthy"),
    ("cachedimageset/gitops-degraded", "InProgress", "Failed", "Degraded"),
    ("discoverypolicy/gitops-unreachable", "InProgress", "Failed", "Degraded"),
    ("pullpolicy/gitops", "Current", "Current", "Healthy"),
    ("pullpolicy/gitops-paused", "InProgress", "Current", "Suspended"),
];

#[derive(Deserialize)]
struct Verdict {
    name: String,
    kstatus: String,
    flux: String,
    argo: String,
    message: String,
}

pub fn argo_cd_flux_and_kubectl_see_what_is_true(bed: &Bed) -> Result<()> {
    let registry = bed.cluster.registry();
    for repository in ["gitops/app", "gitops/slow"] {
        registry.push(repository, "1", &ImageSpec::runnable())?;
    }
    registry.hold("gitops/slow");
    bed.nodes("gitops", 1)?;
    bed.apply(OBJECTS)?;
    bed.cluster.kubectl(&["wait", "--for=condition=Ready", "cachedimage/gitops-cached", "--timeout=180s"])?;
    bed.cluster.kubectl(&["wait", "--for=condition=Ready", "cachedimageset/gitops-ready", "--timeout=180s"])?;
    bed.cluster.kubectl(&["wait", "--for=condition=Ready=false", "pullpolicy/gitops-paused", "--timeout=180s"])?;
    bed.cluster.kubectl(&["wait", "--for=condition=Ready", "pullpolicy/gitops", "--timeout=180s"])?;
    bed.wait_image("gitops-failing", |status, _| status.nodes_failed == 1)?;
    wait_set(bed, "gitops-degraded", "Degraded 1/2")?;
    wait_discovery(bed, "gitops-unreachable", "ConnectionRefused", |_| true)?;
    bed.apply(SLOW)?;
    registry.wait_held("gitops/slow", Duration::from_secs(120))?;
    bed.wait_image("gitops-pulling", |_, ready| ready.reason == "Pulling")?;

    // The object as it is created, before the operator has seen it.
    let quickstart = examples().join("quickstart.yaml").display().to_string();
    let mut objects = bed.cluster.kubectl(&["create", "--dry-run=server", "-o", "json", "-f", &quickstart])?;
    for (object, ..) in SEEN.iter().skip(1) {
        objects += &bed.cluster.kubectl(&["get", object, "-o", "json"])?;
    }
    let verdicts = verdicts(&objects)?;
    for (object, kstatus, flux, argo) in SEEN {
        let name = object.rsplit('/').next().unwrap_or(object);
        let verdict = verdicts.iter().find(|verdict| verdict.name == name).context(object)?;
        let found = (&*verdict.kstatus, &*verdict.flux, &*verdict.argo);
        ensure!(found == (kstatus, flux, argo), "{object}: {found:?}, {}", verdict.message);
    }
    // An edit that the operator has not seen yet.
    let edited = objects.replace("\"generation\": ", "\"generation\": 9");
    let edited: BTreeMap<String, String> =
        self::verdicts(&edited)?.into_iter().map(|verdict| (verdict.name, verdict.argo + &verdict.flux)).collect();
    ensure!(edited.values().all(|seen| seen == "ProgressingInProgress"), "{edited:#?}");

    registry.release("gitops/slow");
    bed.wait_cached("gitops-pulling", 1)?;
    bed.cluster.kubectl(&["delete", "cachedimage", "gitops-cached", "gitops-failing", "gitops-pulling"])?;
    bed.cluster.kubectl(&["delete", "cachedimageset", "gitops-ready", "gitops-degraded"])?;
    bed.cluster.kubectl(&["delete", "discoverypolicy", "gitops-unreachable"])?;
    bed.cluster.kubectl(&["delete", "pullpolicy", "gitops", "gitops-paused"])?;
    Ok(())
}

fn examples() -> PathBuf {
    root().join("examples")
}

/// Returns the verdicts on objects, which are JSON documents one after another.
fn verdicts(objects: &str) -> Result<Vec<Verdict>> {
    let tools = Tools::built(&["health"])?;
    let mut health = Command::new(tools.path("health"))
        .arg(examples().join("gitops/argocd/argocd-cm.yaml"))
        .arg(examples().join("gitops/flux/images.yaml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    health.stdin.take().context("its input is a pipe")?.write_all(objects.as_bytes())?;
    let output = health.wait_with_output()?;
    ensure!(output.status.success(), "health: {}", output.status);
    String::from_utf8(output.stdout)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}
