//! A cluster of nodes without machines, with a release build of the operator.

use std::fmt::Write;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use drop_testbed::{AuditEvent, Cluster, ClusterOptions, Kwok, Tools};

use super::requests;
use crate::operator::{self, NAMESPACE, Operator};

const NODES_WITHIN: Duration = Duration::from_secs(600);
/// The set and the policy.
const NAME: &str = "bench";

pub(super) struct Lab {
    // First, so that it ends before what it talks to.
    pub(super) operator: Operator,
    kwok: Kwok,
    pub(super) cluster: Cluster,
}

impl Lab {
    /// Starts a cluster with so many nodes, where the pull of an image takes `pull` and each node lists `listed` images
    /// from the start, and then the operator.
    pub(super) fn start(binary: &Path, nodes: usize, listed: usize, pull: Duration) -> Result<Self> {
        Tools::build(&[&Tools::CLUSTER[..], &["kwok"]].concat(), &say)?;
        let cluster = Cluster::start(ClusterOptions::new("bench").patient(), &say)?;
        operator::install(&cluster)?;
        let kwok = cluster.start_kwok(pull)?;
        say(&format!("adding {nodes} nodes"));
        kwok.add_nodes(&names("node", nodes), listed)?;
        kwok.wait_ready(nodes, NODES_WITHIN)?;
        let operator = Operator::start(binary, &cluster, operator::free_address()?)?;
        Ok(Self { operator, kwok, cluster })
    }

    /// Adds nodes as fast as the API server takes them.
    pub(super) fn join(&self, prefix: &str, count: usize) -> Result<()> {
        self.kwok.add_nodes_at_once(&names(prefix, count))
    }

    /// Applies a set of so many images under a policy with this spec, YAML on one line.
    pub(super) fn apply(&self, images: usize, policy: &str) -> Result<()> {
        let mut manifests = format!(
            "{{apiVersion: drop.corewire.io/v1alpha1, kind: PullPolicy, metadata: {{name: {NAME}}}, spec: {policy}}}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImageSet
metadata: {{name: {NAME}}}
spec:
  policyRef: {{name: {NAME}}}
  tolerations: [{{key: node.kubernetes.io/not-ready, operator: Exists}}]
  images:
"
        );
        for image in 0..images {
            writeln!(manifests, "  - {{image: docker.io/bench/app-{image}, tag: '1'}}")?;
        }
        self.cluster.apply(&manifests)
    }

    /// Waits until every image is on so many nodes and no Pod is left.
    pub(super) fn wait_cached(&self, nodes: usize, limit: Duration) -> Result<()> {
        let began = Instant::now();
        let cached = "{range .items[*]}{.status.ready}{\"\\n\"}{end}";
        let output = format!("--output=jsonpath={cached}");
        let everywhere = format!("{nodes}/{nodes}");
        loop {
            let ready = self.cluster.kubectl(&["get", "cachedimages", &output])?;
            if !ready.is_empty() && ready.lines().all(|line| line == everywhere) {
                let pods = self.cluster.kubectl(&["get", "pods", "--namespace", NAMESPACE, "--output=name"])?;
                if pods.is_empty() {
                    return Ok(());
                }
            }
            if began.elapsed() > limit {
                let first = ready.lines().next().unwrap_or("no CachedImage");
                bail!("not cached after {limit:?}: {first}; see {}", self.operator.log().display());
            }
            // Each look costs the machine that is measured; the makespan is told by the audit log.
            sleep(Duration::from_secs(5));
        }
    }

    /// The requests of the operator so far.
    pub(super) fn requests(&self) -> Result<Vec<AuditEvent>> {
        Ok(requests::of_operator(self.cluster.audit()?))
    }
}

pub(super) fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}-{number}")).collect()
}

pub(super) fn say(line: &str) {
    println!("==> {line}");
}
