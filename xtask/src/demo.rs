//! `cargo xtask demo`: the quickstart on a real cluster, to watch and to play with; a simulated
//! one where no real one is possible.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use drop_testbed::{Cluster, ClusterOptions, ImageSpec, NodeOptions, Tools};

use crate::interrupt::Interrupt;
use crate::operator::{self, Operator};
use crate::root;

#[derive(Args)]
pub(crate) struct Demo {
    /// End when the image is cached, instead of waiting for Ctrl-C.
    #[arg(long)]
    exit: bool,
    /// Where the operator serves /metrics, /debug/plan and probes.
    #[arg(long, default_value_t = operator::LISTEN)]
    listen: SocketAddr,
    /// Show it on a simulated cluster, as `drop demo` does.
    #[arg(long)]
    simulated: bool,
    #[command(flatten, next_help_heading = "On a simulated cluster")]
    pace: drop_demo::Pace,
}

/// The cluster that is shown.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    Real,
    Simulated,
    /// No real one is possible, for this reason.
    OnlySimulated(String),
}

impl Choice {
    /// `prepare` makes ready what a real cluster needs, and fails where the machine lacks something.
    fn new(simulated: bool, prepare: impl FnOnce() -> Result<()>) -> Self {
        if simulated {
            return Self::Simulated;
        }
        prepare().map_or_else(|error| Self::OnlySimulated(format!("{error:#}")), |()| Self::Real)
    }
}

const NAME: &str = "demo";
/// What is shown of an image; without AGE, which always changes. A new one has no condition yet.
const COLUMNS: &str = "custom-columns=NAME:.metadata.name,STATUS:.status.conditions[?(@.type==\"Ready\")].reason,\
    READY:.status.ready,PULLING:.status.nodesPulling,MESSAGE:.status.conditions[?(@.type==\"Ready\")].message";
/// How often it is looked at.
const EVERY: Duration = Duration::from_millis(500);
/// How long the image may take to be cached.
const LIMIT: Duration = Duration::from_secs(180);

pub(crate) fn run(demo: &Demo) -> Result<()> {
    match Choice::new(demo.simulated, || Tools::build(&Tools::CLUSTER, &say).map(drop)) {
        Choice::Real => return real(demo.listen, demo.exit),
        Choice::Simulated => {}
        Choice::OnlySimulated(why) => say(&format!("a simulated cluster, because {why}")),
    }
    drop_demo::run(&drop_demo::Args { pace: demo.pace, ..drop_demo::Args::default() })
}

/// On a real cluster; to its end, or until Ctrl-C.
pub(crate) fn real(listen: SocketAddr, exit: bool) -> Result<()> {
    let interrupt = Interrupt::new()?;
    let result = show(&interrupt, listen, exit);
    interrupt.judge(result)
}

fn show(interrupt: &Interrupt, listen: SocketAddr, exit: bool) -> Result<()> {
    operator::ensure_free(listen)?;
    say("building the operator");
    let binary = operator::build()?;

    let cluster = Cluster::start(ClusterOptions::new(NAME), &say)?;
    say("starting two nodes");
    cluster.add_nodes(vec![NodeOptions::new("node-1"), NodeOptions::new("node-2")])?;
    // 150 MB, so that there is something to see.
    let alpine = ImageSpec::runnable().layer(150 << 20);
    cluster.registry().push("library/alpine", "3.20", &alpine)?;
    operator::install(&cluster)?;
    let operator = Operator::start(&binary, &cluster, listen)?;

    say("kubectl apply -f examples/quickstart.yaml");
    cluster.kubectl(&["apply", "-f", &root()?.join("examples/quickstart.yaml").display().to_string()])?;
    say("kubectl get cachedimages");
    watch(&cluster, interrupt)?;
    say("kubectl get nodecaches");
    println!("{}", cluster.kubectl(&["get", "nodecaches"])?);
    if !exit && !interrupt.is_wanted() {
        println!(
            "The cluster runs until you press Ctrl-C. In another terminal:\n\n  \
             export KUBECONFIG={}\n  \
             alias kubectl={}\n  \
             kubectl get drop -o wide\n  \
             kubectl delete cachedimage alpine-3-20\n  \
             curl -s {}/debug/plan\n\n\
             Any image of docker.io, quay.io, ghcr.io, gcr.io, registry.k8s.io and registry.example.com is looked\n\
             for in a registry of the demo, which has library/alpine:3.20 only. The operator logs to\n  {}",
            cluster.kubeconfig().display(),
            cluster.kubectl_path().display(),
            listen,
            operator.log().display(),
        );
        while !interrupt.is_wanted() {
            thread::sleep(EVERY);
        }
    }
    say("stopping");
    drop(operator);
    cluster.stop()
}

/// Prints the table whenever it changes, until the image is on both nodes, or Ctrl-C.
fn watch(cluster: &Cluster, interrupt: &Interrupt) -> Result<()> {
    let began = Instant::now();
    let mut last = String::new();
    while began.elapsed() < LIMIT {
        let table = cluster.kubectl(&["get", "cachedimages", "-o", COLUMNS])?;
        if table != last {
            println!("{:>4} s\n{table}", began.elapsed().as_secs());
        }
        if table.contains("Cached") || interrupt.is_wanted() {
            return Ok(());
        }
        last = table;
        thread::sleep(EVERY);
    }
    bail!("the image is not cached after {LIMIT:?}: see the operator's log beside {}", cluster.kubeconfig().display())
}

fn say(line: &str) {
    println!("==> {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_lacks_something_shows_the_simulation_and_says_why() {
        let refused = || bail!("the testbed runs containers: it needs root");
        let why = "the testbed runs containers: it needs root".to_owned();
        assert_eq!(Choice::new(false, refused), Choice::OnlySimulated(why));
        assert_eq!(Choice::new(false, || Ok(())), Choice::Real);
    }

    #[test]
    fn a_simulation_that_is_asked_for_prepares_nothing() {
        assert_eq!(Choice::new(true, || unreachable!("it builds Kubernetes")), Choice::Simulated);
    }
}
