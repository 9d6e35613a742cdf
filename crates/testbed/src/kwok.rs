//! Nodes that exist in the API server alone. kwok plays their kubelets: every pull succeeds, after
//! a time that the test chooses.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::home::Home;
use crate::kubectl::Kubectl;
use crate::process::{Process, Program};
use crate::tools::Tools;
use crate::wait::wait_for;

const CONFIG: &str = include_str!("kwok.yaml");
/// What the nodes' kubelets call themselves.
const VERSION: &str = "v1.36.3";
/// How many kubectl add nodes at once: more than the API server has cores gain nothing.
const KUBECTLS: usize = 4;

/// A running kwok; ended when it is dropped. Its nodes have the label `type=kwok`, are Ready a
/// moment after they were added, list the same images for ever, and never say that they live: the cluster needs
/// [`crate::ClusterOptions::patient`].
#[derive(Debug)]
pub struct Kwok {
    process: Process,
    kubectl: Kubectl,
}

impl Kwok {
    pub(crate) fn start(home: &Home, kubectl: &Kubectl, tools: &Tools, pull_time: Duration) -> Result<Self> {
        let config = home.dirs.etc().join("kwok.yaml");
        let text = CONFIG.replace("@PULL_MS@", &pull_time.as_millis().to_string()).replace("@VERSION@", VERSION);
        fs::write(&config, text)?;
        let command = vec![
            tools.path("kwok").display().to_string(),
            format!("--config={}", config.display()),
            format!("--kubeconfig={}", kubectl.kubeconfig.display()),
        ];
        let log = home.dirs.logs().join("kwok.log");
        let process = Process::start_new(Program { name: "kwok".to_owned(), command, log }, &home.state)?;
        Ok(Self { process, kubectl: kubectl.clone() })
    }

    /// Adds nodes of these names, side by side, each of which lists so many images. They get Ready at once, see
    /// [`Kwok::wait_ready`].
    ///
    /// # Errors
    /// If the API server refuses one.
    pub fn add_nodes(&self, names: &[String], images: usize) -> Result<()> {
        let share = names.len().div_ceil(KUBECTLS).max(1);
        thread::scope(|scope| {
            let adding: Vec<_> =
                names.chunks(share).map(|names| scope.spawn(move || self.create(names, images))).collect();
            adding.into_iter().try_for_each(|share| share.join().map_err(|_| anyhow!("adding nodes panicked"))?)
        })
    }

    /// Waits until so many nodes of kwok are Ready and free of taints.
    ///
    /// # Errors
    /// If they are not within `limit`, or kwok has ended.
    pub fn wait_ready(&self, count: usize, limit: Duration) -> Result<()> {
        wait_for(&format!("{count} nodes of kwok"), limit, || {
            self.process.check()?;
            // A new node has the taint not-ready until the controller manager sees that it is Ready.
            let template = "{{range .items}}{{if not .spec.taints}}x{{end}}{{end}}";
            let template = format!("--output=go-template={template}");
            let ready = self.kubectl.run(&["get", "nodes", "--selector=type=kwok", &template], "")?;
            Ok((ready.len() >= count).then_some(()))
        })
    }

    /// The same, but that kwok takes notice of none of them before the last one is there: kubelets
    /// that join are on machines of their own, and do not slow each other down.
    ///
    /// # Errors
    /// If kwok has ended, or the API server refuses a node.
    pub fn add_nodes_at_once(&self, names: &[String]) -> Result<()> {
        self.process.signal(Signal::STOP)?;
        let added = self.add_nodes(names, 0);
        self.process.signal(Signal::CONT)?;
        added
    }

    fn create(&self, names: &[String], images: usize) -> Result<()> {
        let images: Vec<_> = (0..images).map(listed).collect();
        let node = |name: &String| {
            json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": { "name": name, "labels": {
                    "type": "kwok",
                    "kubernetes.io/arch": "amd64",
                    "kubernetes.io/hostname": name,
                    "kubernetes.io/os": "linux",
                } },
                "status": { "images": images },
            })
        };
        let nodes: Vec<_> = names.iter().map(node).collect();
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": nodes }).to_string();
        // Validation would download the schema of every API.
        self.kubectl.run(&["create", "--validate=false", "--filename=-"], &list)?;
        Ok(())
    }
}

/// An image of a node's list, as long as those of real registries: 50 of them have some 13 kB.
fn listed(number: usize) -> Value {
    let repository = format!("registry.example.com/platform/team-{}/service-{number:03}", number % 7);
    let digest = format!("{number:064x}");
    json!({
        "names": [format!("{repository}@sha256:{digest}"), format!("{repository}:v1.{number}.0-20260101")],
        "sizeBytes": 100_000_000 + number * 1_000_000,
    })
}
