//! `cargo xtask cluster`: a cluster to try things in.
//!
//! A cluster ends with the process that started it, so `up` leaves one behind: itself, as
//! `serve`.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{self, Stdio};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use drop_testbed::{Cluster, ClusterOptions, ImageSpec, NodeOptions, Tools};

/// `serve` prints it when all is ready; what follows is for the user.
const READY: &str = "ready";
/// What installs the operator's image.
const HELM: [&str; 1] = ["helm"];

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Start a cluster and leave it running.
    ///
    /// It needs Linux, root and Go. The first start builds Kubernetes, which takes about ten
    /// minutes on two cores; later ones take half a minute.
    Up(Up),
    /// End a cluster, also what is left of one that crashed.
    Down(Name),
    /// Run a cluster until this process is killed.
    #[command(hide = true)]
    Serve(Up),
}

#[derive(Args)]
pub(crate) struct Up {
    #[command(flatten)]
    name: Name,
    /// How many nodes it has; they are called node-1, node-2, ...
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=50))]
    nodes: u8,
    /// The operator's image, by `cargo xtask image`, under the name that the chart has for it; Helm is built, too.
    #[arg(long)]
    image: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Name {
    /// Clusters of different names run side by side.
    #[arg(long, default_value = "dev")]
    name: String,
}

pub(crate) fn run(command: Command) -> Result<()> {
    match command {
        Command::Up(up) => start(&up),
        Command::Down(Name { name }) => Cluster::down(&name),
        Command::Serve(up) => serve(&up),
    }
}

fn start(up: &Up) -> Result<()> {
    // Before the tools are built, which takes time: the name must be a good one.
    Cluster::logs(&up.name.name)?;
    if let Some(image) = &up.image {
        ensure!(image.is_file(), "{} is not there; `cargo xtask image` makes it", image.display());
        Tools::build(&HELM, &say)?;
    }
    Tools::build(&Tools::CLUSTER, &say)?;
    let mut server = process::Command::new(std::env::current_exe()?)
        .args(["cluster", "serve", "--name", &up.name.name])
        .arg(format!("--nodes={}", up.nodes))
        .args(up.image.iter().flat_map(|image| [OsStr::new("--image"), image.as_os_str()]))
        // A group of its own: Ctrl-C in this terminal is not meant for it.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start the cluster's process")?;
    let output = server.stdout.take().context("no output")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        if line == READY {
            return Ok(());
        }
        say(&line);
    }
    let output = server.wait_with_output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    bail!("{}", error.trim_start_matches("Error: ").trim());
}

fn serve(up: &Up) -> Result<()> {
    let name = up.name.name.as_str();
    let options = ClusterOptions { daemon: true, api_for_pods: true, ..ClusterOptions::new(name) };
    let cluster = Cluster::start(options, &say)?;
    cluster.registry().push("library/alpine", "3.20", &ImageSpec::runnable())?;
    let mut programs = vec![("kubectl", cluster.kubectl_path().to_owned())];
    if let Some(image) = &up.image {
        cluster.registry().push_archive("corewire/drop", env!("CARGO_PKG_VERSION"), image)?;
        programs.push(("helm", Tools::built(&HELM)?.path("helm")));
    }
    let aliases: String = programs.iter().map(|(name, path)| format!("alias {name}={}\n", path.display())).collect();
    say("starting the nodes");
    let nodes = (1..=up.nodes).map(|number| NodeOptions::new(format!("node-{number}")));
    cluster.add_nodes(nodes.collect())?;
    // Fails where nobody waits for it any more: the cluster ends then.
    writeln!(
        io::stdout(),
        "the cluster runs; end it with: cargo xtask cluster down --name {name}\n\
         logs: {}\n\n\
         export KUBECONFIG={}\n\
         {aliases}\n\
         Its registry stands for docker.io, ghcr.io and so on, and has library/alpine:3.20.\n\
         {READY}",
        Cluster::logs(name)?.display(),
        cluster.kubeconfig().display(),
    )?;
    loop {
        thread::park();
    }
}

/// Prints a line; that nobody reads it any more is no reason to end.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
