//! The manifests that the project started from, where they are at hand.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use drop_e2e::Bed;
use drop_testbed::{ImageSpec, NodeOptions};

/// Kinds whose manifests are applied; the others follow with their controllers.
const KINDS: [&str; 3] = ["CachedImage", "PullPolicy", "Secret"];

pub fn its_manifests_apply_unmodified(bed: &Bed) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/seed/manifests");
    if !folder.is_dir() {
        eprintln!("no manifests at {}: examples/ alone is tried", folder.display());
    }
    bed.cluster.registry().push("library/alpine", "3.20", &ImageSpec::runnable())?;
    bed.cluster.registry().push("library/golang", "1.22-bookworm", &ImageSpec::runnable())?;
    bed.cluster.add_node(NodeOptions {
        taints: vec!["node-role.kubernetes.io/build=true:NoSchedule".to_owned()],
        ..NodeOptions::new("seed-1")
    })?;
    // A kubelet may not give itself such a label.
    bed.cluster.kubectl(&["label", "node", "seed-1", "node-role.kubernetes.io/build=true"])?;

    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut applied = 0;
    for folder in [examples, folder].into_iter().filter(|folder| folder.is_dir()) {
        let mut files: Vec<_> = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        files.sort();
        for file in files {
            let text = fs::read_to_string(&file)?;
            for document in text.split("\n---\n") {
                let kind = document.lines().find_map(|line| line.strip_prefix("kind: ")).unwrap_or_default();
                if KINDS.contains(&kind) {
                    bed.apply(document).with_context(|| format!("{}", file.display()))?;
                    applied += 1;
                }
            }
        }
    }
    ensure!(applied > 0, "nothing was applied");
    bed.wait_cached("golang-ci", 1)?;
    bed.wait_cached("alpine-3-20", 2)?;
    Ok(())
}
