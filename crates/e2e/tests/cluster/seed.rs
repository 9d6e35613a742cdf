//! The examples, and the manifests from the start of the project, if they are available.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use drop_e2e::{Bed, root};
use drop_testbed::{
    ImageSpec, Loki, NodeOptions, Prometheus, PrometheusOptions, Registry, RegistryAuth, RegistryOptions, Series,
    TlsFront, Tools,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::discovery::{pulled, recorded, wait_discovery};
use crate::sets::wait_set;

/// The images that the manifests discover in Prometheus.
const RUNNER_IMAGES: [&str; 3] = ["ci/deploy", "ci/lint", "ci/unit"];
const APPS: [&str; 3] = ["team/frontend", "team/backend", "team/worker"];
const EXAMPLE: &str = "discover-what-saves-most.yaml";

pub fn its_manifests_apply_unmodified(bed: &Bed) -> Result<()> {
    push_images(bed)?;
    bed.cluster.add_node(NodeOptions {
        taints: vec!["node-role.kubernetes.io/build=true:NoSchedule".to_owned()],
        ..NodeOptions::new("seed-1")
    })?;
    // A kubelet may not set such a label on its own node.
    bed.cluster.kubectl(&["label", "node", "seed-1", "node-role.kubernetes.io/build=true"])?;

    let _backends = serve_examples(bed)?;
    let examples = root().join("examples");
    apply_all(bed, &examples)?;
    // The manifests contain the Secrets of these policies.
    for policy in ["newest-applications", "popular-images"] {
        wait_discovery(bed, policy, "SecretNotFound", |_| true)?;
    }
    bed.wait_cached("golang-ci", 1)?;
    bed.wait_cached("alpine-3-20", 2)?;
    bed.wait_cached("builder", 2)?;
    wait_set(bed, "toolchain", "AllReady 3/3")?;
    wait_set(bed, "what-saves-most", "AllReady 2/2")?;
    discover_from_the_command_line(bed, &examples.join(EXAMPLE))?;

    let seed = root().join("../shared/seed/manifests");
    if seed.is_dir() {
        apply_seed(bed, &seed)
    } else {
        eprintln!("no manifests at {}: examples/ alone was tried", seed.display());
        Ok(())
    }
}

fn push_images(bed: &Bed) -> Result<()> {
    let tagged = [
        ("library/alpine", "3.19"),
        ("library/alpine", "3.20"),
        ("library/golang", "1.22-bookworm"),
        ("library/node", "20-alpine"),
        ("ci/builder", "v3.1.0"),
        ("ci/test-runner", "v2.8.4"),
    ];
    let registry = bed.cluster.registry();
    for (repository, tag) in tagged {
        registry.push(repository, tag, &ImageSpec::runnable())?;
    }
    for repository in RUNNER_IMAGES {
        registry.push(repository, "1", &ImageSpec::runnable())?;
    }
    for app in APPS {
        registry.push_tags(app, &["v1.9.0", "v1.10.0", "v2.0.0"], &ImageSpec::runnable())?;
    }
    Ok(())
}

fn apply_all(bed: &Bed, folder: &Path) -> Result<()> {
    // Only the files of the folder itself, without subfolders.
    bed.cluster.kubectl(&["apply", "-f", &folder.display().to_string()])?;
    Ok(())
}

/// Serves the hosts that the examples name: two images, one of which is slow to pull.
fn serve_examples(bed: &Bed) -> Result<(Prometheus, Loki, [TlsFront; 2])> {
    let tools = Tools::built(&["prometheus", "loki"])?;
    let options = PrometheusOptions {
        history: RUNNER_IMAGES[..2].iter().map(|image| started(image)).collect(),
        ..PrometheusOptions::default()
    };
    let prometheus = Prometheus::start(bed.cluster.home(), &tools, "prometheus", options)?;
    let loki = Loki::start(bed.cluster.home(), &tools, "loki")?;
    let [slow, quick] = [("ci/lint", "1m21.3s"), ("ci/deploy", "2.5s")];
    let lines = [slow, quick].map(|(image, took)| {
        (Timestamp::now() - SignedDuration::from_hours(100), pulled(&format!("registry.example.com/{image}:1"), took))
    });
    loki.push(&[("job", "kubernetes-events")], &lines)?;
    let fronts =
        [bed.serve("prometheus.example.com", prometheus.address())?, bed.serve("loki.example.com", loki.address())?];
    Ok((prometheus, loki, fronts))
}

/// A counter that has grown by one every minute for two days.
fn started(image: &str) -> Series {
    let image = format!("registry.example.com/{image}:1");
    let mut series = recorded("ci_job_containers_started_total", &[("image", &image)], 1, 2, (0, 24), 0.0);
    for (count, (_, value)) in series.samples.iter_mut().enumerate() {
        *value = count as f64;
    }
    series
}

fn discover_from_the_command_line(bed: &Bed, file: &Path) -> Result<()> {
    let run = |format: &str| {
        let mut command = bed.drop_command();
        let output = command.args(["discover", "--nodes", "100", "-o", format, "-f"]).arg(file).output()?;
        ensure!(output.status.success(), "{output:?}");
        anyhow::Ok(String::from_utf8(output.stdout)?)
    };
    let table = run("table")?;
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let head = ["RANK", "IMAGE", "SCORE", "before", "within", "pullTime"];
    let at = rows.iter().position(|row| *row == head).with_context(|| format!("no {head:?} in\n{table}"))?;
    let best = rows.get(at + 1).context("a row")?;
    ensure!(best.starts_with(&["1", "registry.example.com/ci/lint:1"]) && best.last() == Some(&"81.3"), "{table}");
    let results: Value = serde_json::from_str(&run("json")?)?;
    let images = results.pointer("/0/discoveredImages").and_then(Value::as_array).into_iter().flatten();
    let ranked: Vec<_> = images.filter_map(|image| image.get("image")?.as_str()).collect();
    ensure!(ranked == ["registry.example.com/ci/lint:1", "registry.example.com/ci/deploy:1"], "{results:#}");
    Ok(())
}

fn apply_seed(bed: &Bed, folder: &Path) -> Result<()> {
    // No server answers for the hosts yet.
    apply_all(bed, folder)?;
    let policies = ["ci-image-discovery", "popular-build-images", "latest-app-tags"];
    for policy in policies {
        wait_discovery(bed, policy, "ConnectionRefused", |_| true)?;
    }
    let row = |kind: &str, name: &str| row(bed, kind, name);
    ensure!(row("discoverypolicies", "latest-app-tags")? == ["ConnectionRefused", "1", "0", ""]);

    // The servers require other credentials than the manifests have.
    let tools = Tools::built(&["prometheus", "tiny", "registry"])?;
    let home = bed.cluster.home();
    let options = PrometheusOptions { password: true, history: runners(), ..PrometheusOptions::default() };
    let prometheus = Prometheus::start(home, &tools, "mimir", options)?;
    let auth = RegistryAuth::Token { realm: Some("https://auth.example.com/token".to_owned()) };
    let registry = Registry::start(
        home,
        &tools,
        "apps",
        RegistryOptions { auth, ..RegistryOptions::new("registry.example.com") },
    )?;
    for app in APPS {
        registry.push_tags(app, &["v1.8.0", "v1.9.0", "v1.10.0", "v2.0.0", "latest"], &ImageSpec::scratch())?;
    }
    let tokens = registry.token_server().context("it has a token server")?;
    let _fronts = [
        bed.serve("mimir.example.com", prometheus.address())?,
        bed.serve("registry.example.com", registry.address())?,
        bed.serve("auth.example.com", tokens.address())?,
    ];
    for policy in policies {
        wait_discovery(bed, policy, "Unauthorized", |_| true)?;
    }
    ensure!(row("discoverypolicies", "popular-build-images")? == ["Unauthorized", "1", "0", ""]);

    // The operator uses the right credentials at once.
    let (user, password) = registry.credentials().context("it wants credentials")?;
    let secret = json!({ "data": { "token": null }, "stringData": { "username": user, "password": password } });
    for name in ["prometheus-creds", "registry-api-creds"] {
        bed.cluster.kubectl(&[
            "patch",
            "secret",
            name,
            "-n",
            "drop-system",
            "--type=merge",
            "-p",
            &secret.to_string(),
        ])?;
    }
    let sets = [
        ("ci-build-images", "ci-image-discovery", 3),
        ("auto-cached-ci-images", "popular-build-images", 4),
        ("registry-discovered-apps", "latest-app-tags", 9),
        ("newest-applications", "newest-applications", 6),
        ("popular-images", "popular-images", 3),
    ];
    for (set, policy, images) in sets {
        wait_set(bed, set, &format!("AllReady {images}/{images}"))?;
        let (ready, managed) = (format!("{images}/{images}"), images.to_string());
        ensure!(row("cachedimagesets", set)? == ["AllReady", &ready, &managed, policy]);
        wait_discovery(bed, policy, "Synced", |_| true)?;
    }
    wait_set(bed, "ci-tools", "AllReady 3/3")?;
    ensure!(row("cachedimagesets", "ci-tools")? == ["AllReady", "3/3", "3", ""]);
    wait_set(bed, "private-ci-images", "AllReady 2/2")?;
    let [status, sources, images, last_sync] = row("discoverypolicies", "ci-image-discovery")?;
    ensure!([status, sources, images] == ["Synced", "1", "3"] && !last_sync.is_empty(), "{last_sync}");
    let newest =
        bed.look().discoveries.get("latest-app-tags").and_then(|policy| policy.status.clone()).unwrap_or_default();
    let newest: Vec<_> = newest.discovered_images.iter().map(|image| image.image.as_str()).take(3).collect();
    ensure!(newest.iter().all(|image| image.ends_with(":v2.0.0")), "{newest:?}");
    Ok(())
}

/// A week of GitLab runners: one or more Pods per image, and one Pod of an image that is filtered out.
fn runners() -> Vec<Series> {
    let images = RUNNER_IMAGES.map(|image| format!("registry.example.com/{image}:1"));
    let images = images.iter().map(String::as_str).enumerate().chain([(7, "docker.io/library/alpine:3.20")]);
    let pods =
        images.flat_map(|(others, image)| (0..=others).map(move |pod| (image, format!("runner-{others}-{pod}"))));
    pods.map(|(image, pod)| {
        let labels = [("image", image), ("pod", &pod), ("container", "build"), ("namespace", "gitlab-runner")];
        recorded("container_memory_working_set_bytes", &labels, 5, 7, (0, 24), 1e9)
    })
    .collect()
}

/// Returns the cells of an object's row between its name and its age, as `kubectl get` shows them.
fn row(bed: &Bed, kind: &str, name: &str) -> Result<[String; 4]> {
    let table = bed.cluster.kubectl(&["get", kind, name])?;
    let mut lines = table.lines();
    let (head, cells) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let columns: &[&str] = match kind {
        "cachedimagesets" => &["NAME", "STATUS", "READY", "MANAGED", "SOURCE", "AGE"],
        _ => &["NAME", "STATUS", "SOURCES", "IMAGES", "LASTSYNC", "AGE"],
    };
    ensure!(head.split_whitespace().eq(columns.iter().copied()), "{table}");
    // Each column begins at the position of its header.
    let starts = columns.iter().map(|column| head.find(&format!(" {column}")).map_or(0, |at| at + 1));
    let starts: Vec<usize> = starts.collect();
    let cell = |column: usize| {
        let (from, to) = (starts.get(column).copied().unwrap_or_default(), starts.get(column + 1).copied());
        let text = cells.get(from..to.unwrap_or(cells.len()).min(cells.len()));
        text.unwrap_or_default().trim().to_owned()
    };
    Ok([1, 2, 3, 4].map(cell))
}
