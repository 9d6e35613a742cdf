//! The charts on a real cluster: install, work, upgrade, uninstall.
//!
//! The operator's image contains the binary of the other tests, because that needs no build. With DROP_IMAGE, the image
//! comes from an OCI archive: `cargo xtask image && DROP_IMAGE=target/drop-image.tar cargo test -p drop-e2e --test
//! install`, with a path from the repository's root.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use drop_e2e::{Scraper, root};
use drop_testbed::{AuditEvent, Authority, Cluster, ClusterOptions, ImageSpec, NodeOptions, Tools, wait_for};
use serde_json::{Value, json};

const NAMESPACE: &str = "drop-system";
const ACCOUNT: &str = "system:serviceaccount:drop-system:drop";
const QUICKSTART: &str = include_str!("../../../examples/quickstart.yaml");

/// Makes the operator use the permissions of its roles.
const WORK: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: login, namespace: drop-system}
stringData: {token: secret}
---
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {name: quick}
spec: {maxConcurrentNodes: 2, minDelayBetweenPulls: 1s}
---
apiVersion: drop.corewire.io/v1alpha1
kind: DiscoveryPolicy
metadata: {name: nobody-answers}
spec:
  sources:
    - {type: prometheus, prometheus: {endpoint: "http://127.0.0.1:9", query: up}, secretRef: {name: login}}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImageSet
metadata: {name: tools}
spec:
  policyRef: {name: quick}
  images:
    - {image: docker.io/library/alpine, tag: "3.20"}
    - {image: docker.io/library/node, tag: "20"}
"#;

/// Permissions that an undisturbed run does not show in the audit log, and the reason for each.
const UNSEEN: [(&str, &str, &str); 4] = [
    ("cachedimagesets/finalizers", "update", "an admission plugin asks for it"),
    ("nodecaches", "create", "an apply that creates is logged as a patch"),
    ("pods", "get", "after a creation whose answer was lost"),
    ("cachedimages", "get", "after a creation whose answer was lost"),
];

/// Two clients that ask for metrics. One of them has the permission.
const READERS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: monitoring}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: prometheus, namespace: monitoring}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: somebody, namespace: monitoring}
";
/// The values that allow the first client to read metrics, with the certificate in [`TLS_SECRET`].
const GUARDED: &str = "metrics.tls.secret=metrics-tls,metrics.auth.enabled=true,\
    metrics.auth.readers[0].namespace=monitoring,metrics.auth.readers[0].name=prometheus";
const TLS_SECRET: &str = "metrics-tls";
/// The Service of the metrics.
const SERVICE: &str = "drop-metrics.drop-system.svc";

/// A verb on a resource; the namespace is empty for the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Permission {
    namespace: String,
    group: String,
    resource: String,
    verb: String,
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, group, resource, verb } = self;
        let place = if namespace.is_empty() { "cluster" } else { namespace };
        let dot = if group.is_empty() { "" } else { "." };
        write!(f, "{place}: {verb} {resource}{dot}{group}")
    }
}

#[test]
fn the_charts_install_the_operator_which_needs_what_its_roles_grant_and_no_more() {
    let cluster = start().unwrap();
    let result = install(&cluster)
        .and_then(|()| other_values_are_accepted(&cluster))
        .and_then(|()| quickstart(&cluster))
        .and_then(|()| work(&cluster))
        .and_then(|()| foreign_secrets_are_out_of_reach(&cluster))
        .and_then(|()| upgrade(&cluster))
        .and_then(|()| roles_grant_what_is_needed(&cluster))
        .and_then(|()| uninstall(&cluster))
        .and_then(|()| install_again(&cluster))
        .and_then(|()| migrate(&cluster));
    if let Err(error) = result {
        let pods = cluster.kubectl(&["-n", NAMESPACE, "describe", "pods"]).unwrap_or_default();
        let log = cluster.kubectl(&["-n", NAMESPACE, "logs", "deployment/drop"]).unwrap_or_default();
        panic!("{error:#}\n{pods}\n{log}");
    }
}

/// Starts a cluster with two nodes, and a registry that has the operator's image.
fn start() -> Result<Cluster> {
    let options = ClusterOptions { api_for_pods: true, ..ClusterOptions::new("e2e-install") };
    let cluster = Cluster::start(options, &|line| eprintln!("[e2e-install] {line}"))?;
    let (repository, version) = ("corewire/drop", env!("CARGO_PKG_VERSION"));
    match std::env::var_os("DROP_IMAGE") {
        Some(archive) => cluster.registry().push_archive(repository, version, &root().join(archive))?,
        None => cluster.registry().push_program(repository, version, &drop_e2e::operator_binary()?)?,
    };
    for (repository, tag) in [("library/alpine", "3.20"), ("library/node", "20")] {
        cluster.registry().push(repository, tag, &ImageSpec::runnable())?;
    }
    cluster.add_nodes(vec![NodeOptions::new("node-1"), NodeOptions::new("node-2")])?;
    Ok(cluster)
}

fn helm(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let tools = Tools::built(&["helm"])?;
    let output = Command::new(tools.path("helm"))
        .args(arguments)
        .env("KUBECONFIG", cluster.kubeconfig())
        .current_dir(root())
        .output()?;
    ensure!(output.status.success(), "helm {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs the seed's commands, in a namespace under Pod Security "restricted".
fn install(cluster: &Cluster) -> Result<()> {
    helm(cluster, &["install", "drop-crds", "charts/drop-crds"])?;
    cluster.kubectl(&["create", "namespace", NAMESPACE])?;
    cluster.kubectl(&["label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted"])?;
    let arguments = ["install", "drop", "charts/drop", "--namespace", NAMESPACE, "--create-namespace"];
    let notes = helm(cluster, &[&arguments[..], &["--set", "crds.install=false"]].concat())?;
    ensure!(notes.contains("kubectl get cachedimages"), "{notes}");
    roll_out(cluster)
}

/// Checks that the API server accepts the objects that the charts' other tests render, except for the Prometheus
/// operator's kinds, which it does not know here.
fn other_values_are_accepted(cluster: &Cluster) -> Result<()> {
    for values in ["minimal", "everything"] {
        let values = format!("crates/e2e/tests/charts/{values}.yaml");
        let arguments = ["template", "other", "charts/drop", "--namespace", NAMESPACE, "--values", &values];
        let unknown = ["--set", "serviceMonitor.enabled=false,prometheusRule.enabled=false"];
        let file = cluster.kubeconfig().with_file_name("other.yaml");
        fs::write(&file, helm(cluster, &[&arguments[..], &unknown].concat())?)?;
        cluster.kubectl(&["apply", "--dry-run=server", &format!("--filename={}", file.display())])?;
    }
    Ok(())
}

fn roll_out(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["-n", NAMESPACE, "rollout", "status", "deployment/drop", "--timeout=180s"])?;
    Ok(())
}

fn wait(cluster: &Cluster, condition: &str, object: &str) -> Result<()> {
    cluster.kubectl(&["wait", &format!("--for={condition}"), object, "--timeout=180s"])?;
    Ok(())
}

fn quickstart(cluster: &Cluster) -> Result<()> {
    cluster.apply(QUICKSTART)?;
    wait(cluster, "condition=Ready", "cachedimage/alpine-3-20")?;
    let table = cluster.kubectl(&["get", "cachedimages"])?;
    eprintln!("{table}");
    ensure!(table.contains("Cached") && table.contains("2/2"), "{table}");
    Ok(())
}

fn work(cluster: &Cluster) -> Result<()> {
    cluster.apply(WORK)?;
    wait(cluster, "condition=Ready", "cachedimageset/tools")?;
    wait(cluster, "jsonpath={.status.conditions[0].reason}=ConnectionRefused", "discoverypolicy/nobody-answers")?;
    // Children change with their set, and are deleted with their images.
    let patch = r#"{"spec": {"priority": 7, "images": [{"image": "docker.io/library/node", "tag": "20"}]}}"#;
    cluster.kubectl(&["patch", "cachedimageset", "tools", "--type=merge", "--patch", patch])?;
    wait(cluster, "jsonpath={.status.imagesManaged}=1", "cachedimageset/tools")?;
    let child = ["get", "cachedimages", "-l", "drop.corewire.io/imageset=tools", "-o", "name"];
    wait(cluster, "jsonpath={.spec.priority}=7", cluster.kubectl(&child)?.trim())
}

fn foreign_secrets_are_out_of_reach(cluster: &Cluster) -> Result<()> {
    let groups = ["system:serviceaccounts", "system:serviceaccounts:drop-system", "system:authenticated"];
    let kubeconfig = cluster.kubeconfig_for(ACCOUNT, &groups)?;
    let kubeconfig = kubeconfig.display().to_string();
    let read = |namespace| cluster.kubectl(&["--kubeconfig", &kubeconfig, "-n", namespace, "get", "secret", "login"]);
    cluster.kubectl(&["create", "secret", "generic", "login", "--from-literal=token=foreign"])?;
    read(NAMESPACE).context("its own namespace's Secret")?;
    let refused = format!("{:#}", read("default").err().context("a foreign Secret was read")?);
    ensure!(refused.contains("Forbidden"), "{refused}");
    Ok(())
}

/// Checks that a leader hands over, and that no image is pulled again. From then on metrics require a token.
fn upgrade(cluster: &Cluster) -> Result<()> {
    let authority = Authority::new()?;
    let issued = authority.issue(&[SERVICE])?;
    let certificate = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": TLS_SECRET, "namespace": NAMESPACE },
        "stringData": { "tls.crt": issued.certificate, "tls.key": issued.key, "ca.crt": authority.certificate() },
    });
    cluster.apply(&certificate.to_string())?;
    cluster.apply(READERS)?;
    let pulled = || cluster.kubectl(&["get", "cachedimage/alpine-3-20", "-o", "jsonpath={.status.lastPulledAt}"]);
    let before = pulled()?;
    let arguments = ["upgrade", "drop", "charts/drop", "--namespace", NAMESPACE, "--set", "crds.install=false"];
    helm(cluster, &[&arguments[..], &["--set", "log.level=debug", "--set", GUARDED]].concat())?;
    roll_out(cluster)?;
    // The new leader answers requests about new objects.
    cluster.kubectl(&["patch", "pullpolicy", "quick", "--type=merge", "--patch", r#"{"spec": {"paused": true}}"#])?;
    cluster.kubectl(&["delete", "cachedimageset", "tools"])?;
    wait(cluster, "jsonpath={.status.observedGeneration}=2", "pullpolicy/quick")?;
    ensure!(pulled()? == before, "pulled again by the upgrade");
    metrics_are_told_to_who_may_read_them(cluster, &authority)
}

/// Asks each Pod behind the Service of the metrics.
fn metrics_are_told_to_who_may_read_them(cluster: &Cluster, authority: &Authority) -> Result<()> {
    let token = |account: &str| -> Result<String> {
        Ok(cluster.kubectl(&["-n", "monitoring", "create", "token", account])?.trim().to_owned())
    };
    let (prometheus, somebody) = (token("prometheus")?, token("somebody")?);
    let addresses = |kind: &str, label: &str, path: &str| -> Result<BTreeSet<IpAddr>> {
        let path = format!("jsonpath={path}");
        let addresses = cluster.kubectl(&["-n", NAMESPACE, "get", kind, "-l", label, "-o", &path])?;
        Ok(addresses.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
    };
    let pods = wait_for("the Service to lead to the new Pods alone", Duration::from_secs(60), || {
        let pods = addresses("pods", "app.kubernetes.io/name=drop", "{.items[*].status.podIP}")?;
        let ready = "{.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}";
        let behind = addresses("endpointslices", "kubernetes.io/service-name=drop-metrics", ready)?;
        Ok((pods.len() == 2 && pods == behind).then_some(pods))
    })?;
    for pod in pods {
        let scraper = Scraper::new(authority, (pod, 8080).into())?;
        let scrape = |token| scraper.get(&format!("https://{SERVICE}:8080/metrics"), token);
        for (token, expected) in [(None, 401), (Some(somebody.as_str()), 403), (Some(prometheus.as_str()), 200)] {
            // The previous Pods have just ended: for a while the network of a node may lead to none.
            let what = format!("{pod} to answer, where {expected} is right");
            let (status, text) = wait_for(&what, Duration::from_secs(120), || match scrape(token) {
                Ok(answer) => Ok(Some(answer)),
                Err(error) => {
                    eprintln!("{what}: {error:#}");
                    Ok(None)
                }
            })?;
            ensure!(status == expected, "{status}, not {expected}: {text}");
            ensure!((status == 200) == text.contains("drop_build_info"), "{status}: {text}");
        }
    }
    Ok(())
}

fn roles_grant_what_is_needed(cluster: &Cluster) -> Result<()> {
    let audit = cluster.audit()?;
    let is_own = |event: &&AuditEvent| event.user == ACCOUNT && event.user_agent.starts_with("drop/");
    let requests = || audit.iter().filter(is_own).filter(|event| !event.resource.is_empty());
    let forbidden: Vec<&AuditEvent> = requests().filter(|event| event.code == 403).collect();
    ensure!(forbidden.is_empty(), "refused: {forbidden:#?}");
    let mut times: BTreeMap<Permission, usize> = BTreeMap::new();
    for event in requests() {
        *times.entry(needed(event)).or_default() += 1;
    }
    let granted = granted(cluster)?;
    let missing: Vec<_> = times.keys().filter(|permission| !granted.contains(permission)).collect();
    ensure!(missing.is_empty(), "asked for and not granted: {missing:#?}");
    for permission in &granted {
        let unseen =
            UNSEEN.iter().find(|(resource, verb, _)| *resource == permission.resource && *verb == permission.verb);
        match (times.get(permission), unseen) {
            (Some(times), _) => eprintln!("{permission}: {times} requests"),
            (None, Some((.., why))) => eprintln!("{permission}: none seen, {why}"),
            (None, None) => bail!("granted in vain: {permission}"),
        }
    }
    Ok(())
}

fn needed(event: &AuditEvent) -> Permission {
    let subresource = if event.subresource.is_empty() { String::new() } else { format!("/{}", event.subresource) };
    Permission {
        namespace: event.namespace.clone(),
        group: event.group.clone(),
        resource: format!("{}{subresource}", event.resource),
        verb: event.verb.clone(),
    }
}

/// Returns the permissions that the release's roles grant.
fn granted(cluster: &Cluster) -> Result<BTreeSet<Permission>> {
    let selector = "app.kubernetes.io/instance=drop";
    let roles = cluster.kubectl(&["get", "clusterroles,roles", "-A", "-l", selector, "-o", "json"])?;
    let roles: Value = serde_json::from_str(&roles)?;
    let words = |rule: &Value, field: &str| -> Vec<String> {
        let words = rule.get(field).and_then(Value::as_array).into_iter().flatten();
        words.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut granted = BTreeSet::new();
    for role in roles.get("items").and_then(Value::as_array).context("no roles")? {
        let namespace = role.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
        for rule in role.get("rules").and_then(Value::as_array).context("no rules")? {
            for group in words(rule, "apiGroups") {
                for resource in words(rule, "resources") {
                    for verb in words(rule, "verbs") {
                        let (namespace, group, resource) = (namespace.to_owned(), group.clone(), resource.clone());
                        granted.insert(Permission { namespace, group, resource, verb });
                    }
                }
            }
        }
    }
    Ok(granted)
}

/// Checks that objects of users stay, and that the operator and its own objects are deleted.
fn uninstall(cluster: &Cluster) -> Result<()> {
    helm(cluster, &["uninstall", "drop", "--namespace", NAMESPACE, "--wait"])?;
    helm(cluster, &["uninstall", "drop-crds"])?;
    let images = cluster.kubectl(&["get", "cachedimages"])?;
    ensure!(images.contains("alpine-3-20"), "{images}");
    let left = cluster.kubectl(&["get", "clusterroles,clusterrolebindings,priorityclasses,roles,deployments", "-A"])?;
    ensure!(!left.lines().any(|line| line.contains("/drop")), "{left}");
    Ok(())
}

/// Runs the seed's second quick start after its first: the remaining definitions belong to another release.
fn install_again(cluster: &Cluster) -> Result<()> {
    let arguments = ["install", "drop", "charts/drop", "--namespace", NAMESPACE, "--create-namespace"];
    let refused =
        format!("{:#}", helm(cluster, &arguments).err().context("definitions of another release were taken")?);
    ensure!(refused.contains("invalid ownership metadata"), "{refused}");
    helm(cluster, &[&arguments[..], &["--take-ownership"]].concat())?;
    roll_out(cluster)?;
    wait(cluster, "condition=Ready", "cachedimage/alpine-3-20")?;
    helm(cluster, &["uninstall", "drop", "--namespace", NAMESPACE, "--wait"])?;
    Ok(())
}

/// Upgrades from a chart that brought the definitions without a policy to keep them, as the chart of the Go operator
/// did. It follows the page, once with the release that continues with the definitions, and once with one that gives
/// them up.
fn migrate(cluster: &Cluster) -> Result<()> {
    let chart = cluster.kubeconfig().with_file_name("older");
    let templates = chart.join("templates");
    fs::create_dir_all(&templates)?;
    fs::write(chart.join("Chart.yaml"), "apiVersion: v2\nname: drop\nversion: 0.0.1\n")?;
    for definition in ["cachedimages", "cachedimagesets", "discoverypolicies", "pullpolicies"] {
        let definition = format!("{definition}.yaml");
        let text = fs::read_to_string(root().join("charts/drop/files/crds").join(&definition))?;
        let keep = "  annotations:\n    helm.sh/resource-policy: keep\n";
        ensure!(text.contains(keep), "{definition} does not say that it is to stay");
        fs::write(templates.join(&definition), text.replacen(keep, "", 1))?;
    }
    let chart = chart.display().to_string();
    let page = fs::read_to_string(root().join("docs/migration.md"))?;
    let (_, keep) = page.split_once("\nkubectl annotate").context("how definitions are kept")?;
    let keep = keep.split("\nhelm").next().unwrap_or_default().replace("\\\n", " ");
    let keep: Vec<&str> = ["annotate"].into_iter().chain(keep.split_whitespace()).collect();
    for keeps_definitions in [true, false] {
        cluster.kubectl(&["delete", "crd", "-l", "app.kubernetes.io/part-of=drop"])?;
        helm(cluster, &["install", "drop", &chart, "--namespace", NAMESPACE, "--wait"])?;
        cluster.apply(QUICKSTART)?;
        let image = || cluster.kubectl(&["get", "cachedimage/alpine-3-20", "-o", "jsonpath={.metadata.uid}"]);
        let before = image()?;
        let upgrade = ["upgrade", "drop", "charts/drop", "--namespace", NAMESPACE];
        if keeps_definitions {
            helm(cluster, &upgrade)?;
        } else {
            cluster.kubectl(&keep)?;
            helm(cluster, &[&upgrade[..], &["--set", "crds.install=false"]].concat())?;
            helm(cluster, &["install", "drop-crds", "charts/drop-crds", "--take-ownership"])?;
        }
        ensure!(image().context("gone with its definition")? == before, "another one");
        helm(cluster, &["uninstall", "drop", "--namespace", NAMESPACE, "--wait"])?;
    }
    Ok(())
}
