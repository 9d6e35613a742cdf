//! Pages of the documentation, followed from top to bottom on a real cluster.
//!
//! The test first prepares the environment of a reader: it labels nodes, and fills registries with the images. One of
//! these is the operator's own, made of the binary that the other tests use.
#![allow(clippy::unwrap_used, clippy::panic, reason = "this is a test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_docs::Block;
use drop_e2e::root;
use drop_testbed::{Cluster, ClusterOptions, ImageSpec, NodeOptions, Tools, wait_for};

/// The pages, in an order in which each finds its prerequisites. Pages about discovery are left out, because their
/// sources do not exist, and so are pages that need another operator or another cluster. The last page uninstalls.
const PAGES: [&str; 8] =
    ["one-image", "toolchain", "private-registry", "pacing", "alerts", "security", "troubleshooting", "upgrade"];
/// The images in the pages.
const IMAGES: [(&str, &str); 5] = [
    ("library/alpine", "3.19"),
    ("library/alpine", "3.20"),
    ("library/golang", "1.22-bookworm"),
    ("library/node", "20-alpine"),
    ("ci/builder", "v3.1.0"),
];
/// The host in the pages whose images are in the cluster's registry.
const REGISTRY: &str = "registry.example.com";
/// The address of published charts.
const PUBLISHED: &str = "oci://ghcr.io/corewire/";
/// Ends the background jobs of a block, and leaves out the commands that build the operator's image.
const PRELUDE: &str = "set -euo pipefail; trap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n\
                       cargo() { :; }; skopeo() { :; }\n";
/// How long the output of a page may take to appear.
const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn pages_hold_what_they_promise_to_whoever_follows_them() {
    let reader = Reader::new().unwrap();
    let result = reader.quickstart().and_then(|()| PAGES.into_iter().try_for_each(|page| reader.follow(page)));
    if let Err(error) = result {
        let objects = reader.cluster.kubectl(&["get", "drop", "-o", "wide"]).unwrap_or_default();
        let pods = reader.cluster.kubectl(&["-n", "drop-system", "get", "pods"]).unwrap_or_default();
        panic!("{error:#}\n{objects}\n{pods}");
    }
}

struct Reader {
    cluster: Cluster,
    tools: Tools,
    /// The path of `drop`.
    operator: PathBuf,
    blocks: Vec<Block>,
}

impl Reader {
    fn new() -> Result<Self> {
        let tools = Tools::built(&["helm", "kubernetes"])?;
        let options = ClusterOptions { api_for_pods: true, ..ClusterOptions::new("e2e-pages") };
        let cluster = Cluster::start(options, &|line| eprintln!("[e2e-pages] {line}"))?;
        let operator = drop_e2e::operator_binary()?;
        let registry = cluster.registry();
        for repository in ["corewire/drop", "drop"] {
            registry.push_program(repository, env!("CARGO_PKG_VERSION"), &operator)?;
        }
        for (repository, tag) in IMAGES {
            registry.push(repository, tag, &ImageSpec::runnable())?;
        }
        cluster.mirror_host(REGISTRY)?;
        cluster.add_nodes(vec![NodeOptions::new("node-1"), NodeOptions::new("node-2")])?;
        cluster.kubectl(&["label", "nodes", "--all", "node-role.kubernetes.io/build=true"])?;
        let operator = operator.parent().context("it lies in a directory")?.to_owned();
        Ok(Self { cluster, tools, operator, blocks: drop_docs::blocks()? })
    }

    fn page(&self, name: &str) -> impl Iterator<Item = &Block> {
        let path = Path::new("docs").join(name).with_extension("md");
        self.blocks.iter().filter(move |block| block.page == path)
    }

    /// Follows the quickstart to its end, where nothing is left, and installs once more.
    fn quickstart(&self) -> Result<()> {
        self.follow("quickstart")?;
        let install = self.page("quickstart").find(|block| block.language == "bash").context("a block of commands")?;
        self.run(install, &install.text).map(drop)
    }

    /// Follows the page, and waits for the images that are cached then.
    fn follow(&self, page: &str) -> Result<()> {
        eprintln!("[e2e-pages] {page}");
        for block in self.page(page).filter(|block| !block.is("values")) {
            match block.language.as_str() {
                "yaml" => drop(self.run(block, &format!("kubectl apply -f - <<'EOF'\n{}\nEOF", block.text))?),
                "bash" => drop(self.run(block, &block.text)?),
                "console" => self.see(block)?,
                _ => {}
            }
        }
        let images = self.cluster.kubectl(&["get", "cachedimages", "-o", "name", "--ignore-not-found"]);
        for image in images.unwrap_or_default().split_whitespace() {
            self.cluster.kubectl(&["wait", "--for=condition=Ready", image, "--timeout=180s"])?;
        }
        Ok(())
    }

    /// Returns the output of a shell.
    fn run(&self, block: &Block, script: &str) -> Result<String> {
        let path = std::env::var("PATH").unwrap_or_default();
        let bin = self.tools.path("kubectl");
        let bin = bin.parent().context("it lies in a directory")?;
        let script = format!("{PRELUDE}{}", script.replace(PUBLISHED, ""));
        let output = Command::new("timeout")
            .args(["600", "bash", "-c", &script])
            .env("PATH", format!("{}:{}:{path}", bin.display(), self.operator.display()))
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .current_dir(root())
            .stdin(Stdio::null())
            .output()?;
        let (told, complained) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
        ensure!(output.status.success(), "{block}: {}\n{script}\n{told}\n{complained}", output.status);
        Ok(told)
    }

    /// Runs the command behind a prompt, until it prints the table of the page, except for ages.
    fn see(&self, block: &Block) -> Result<()> {
        let (command, table) = block.text.split_once('\n').context("a command and what it prints")?;
        let command = command.strip_prefix("$ ").with_context(|| format!("{block} has no prompt"))?;
        let mut seen = String::new();
        let result = wait_for(&format!("{block}: {command}"), LIMIT, || {
            seen = self.run(block, command)?;
            let found = rows(&seen);
            Ok(rows(table).iter().all(|row| found.contains(row)).then_some(()))
        });
        result.with_context(|| format!("it printed\n{seen}and not\n{table}"))
    }
}

/// Returns the words of each row of a table.
fn rows(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(but_the_age).collect()
}

/// Returns the words of a row whose last column is an age, without the age.
fn but_the_age(row: &str) -> Vec<&str> {
    let mut words: Vec<&str> = row.split_whitespace().collect();
    words.pop();
    words
}
