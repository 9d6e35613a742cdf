//! The charts as Helm renders them, without a cluster.
//!
//! `BLESS=1 cargo test --package drop-e2e --test charts` writes the expected files anew.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "these are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::sync::LazyLock;

use drop_e2e::root;
use drop_testbed::Tools;
use k8s_openapi::api::{apps::v1 as apps, core::v1 as core, networking::v1 as networking, policy::v1 as policy};
use k8s_openapi::api::{rbac::v1 as rbac, scheduling::v1 as scheduling};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

static TOOLS: LazyLock<Tools> = LazyLock::new(|| Tools::built(&["helm", "prometheus"]).unwrap());

/// Returns the output of a tool; `Err` holds its error messages.
fn run(tool: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(TOOLS.path(tool)).args(arguments).current_dir(root()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Renders the chart `drop` with a file of values.
fn render(values: &str) -> String {
    let values = format!("crates/e2e/tests/charts/{values}.yaml");
    run("helm", &["template", "drop", "charts/drop", "--namespace", "drop-system", "--values", &values]).unwrap()
}

fn objects(manifests: &str) -> Vec<Value> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(manifests).unwrap();
    objects.into_iter().filter(|object| !object.is_null()).collect()
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Returns the paths of all fields of `given` that are lost when it is read as a `T`.
fn lost<T: DeserializeOwned + Serialize>(given: &Value) -> Vec<String> {
    let read: T = serde_json::from_value(given.clone()).unwrap_or_else(|error| panic!("{error}:\n{given:#}"));
    let mut lost = Vec::new();
    compare(given, &serde_json::to_value(read).unwrap(), "", &mut lost);
    lost
}

fn compare(given: &Value, read: &Value, path: &str, lost: &mut Vec<String>) {
    match given {
        Value::Object(fields) => {
            for (key, value) in fields {
                compare(value, &read[key], &format!("{path}.{key}"), lost);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                compare(item, &read[index], &format!("{path}[{index}]"), lost);
            }
        }
        value if value == read && !value.is_null() => {}
        value => lost.push(format!("{path}: {value} is read as {read}")),
    }
}

/// Returns the fields of the object that Kubernetes does not know. A cluster with the other kinds validates those, in
/// the scenario `docs`.
fn unknown_fields(object: &Value) -> Vec<String> {
    match text(object, "/kind") {
        "ClusterRole" => lost::<rbac::ClusterRole>(object),
        "ClusterRoleBinding" => lost::<rbac::ClusterRoleBinding>(object),
        "ConfigMap" => lost::<core::ConfigMap>(object),
        "CustomResourceDefinition" => lost::<CustomResourceDefinition>(object),
        "Deployment" => lost::<apps::Deployment>(object),
        "NetworkPolicy" => lost::<networking::NetworkPolicy>(object),
        "PodDisruptionBudget" => lost::<policy::PodDisruptionBudget>(object),
        "PriorityClass" => lost::<scheduling::PriorityClass>(object),
        "Role" => lost::<rbac::Role>(object),
        "RoleBinding" => lost::<rbac::RoleBinding>(object),
        "Service" => lost::<core::Service>(object),
        "ServiceAccount" => lost::<core::ServiceAccount>(object),
        "PrometheusRule" | "ServiceMonitor" => Vec::new(),
        kind => panic!("nothing is known of {kind}"),
    }
}

#[test]
fn helm_finds_nothing_wrong_with_the_charts() {
    for chart in ["charts/drop", "charts/drop-crds"] {
        let found = run("helm", &["lint", "--strict", chart]).unwrap();
        assert!(!found.contains("[INFO]"), "{found}");
    }
}

#[test]
fn each_file_of_values_renders_as_recorded() {
    for values in ["default", "minimal", "everything"] {
        let rendered = render(values);
        let path = root().join(format!("crates/e2e/tests/charts/{values}.rendered.yaml"));
        if std::env::var_os("BLESS").is_some() {
            fs::write(&path, &rendered).unwrap();
        }
        assert!(fs::read_to_string(&path).unwrap_or_default() == rendered, "{} differs", path.display());
    }
}

#[test]
fn objects_have_only_fields_that_kubernetes_knows() {
    for values in ["default", "minimal", "everything"] {
        let objects = objects(&render(values));
        for object in &objects {
            let name = text(object, "/metadata/name");
            assert_eq!(unknown_fields(object), Vec::<String>::new(), "{values}: {} {name}", object["kind"]);
        }
        check_consistency(&objects);
    }
}

#[test]
fn a_plain_install_has_the_definitions_and_keeps_them() {
    for (chart, with_operator) in [("charts/drop", true), ("charts/drop-crds", false)] {
        let objects = objects(&run("helm", &["template", "any-name", chart]).unwrap());
        let (definitions, others): (Vec<_>, Vec<_>) =
            objects.iter().partition(|object| object["kind"] == "CustomResourceDefinition");
        let names: Vec<&str> = definitions.iter().map(|object| text(object, "/spec/names/plural")).collect();
        assert_eq!(names, ["cachedimages", "cachedimagesets", "discoverypolicies", "nodecaches", "pullpolicies"]);
        for definition in definitions {
            assert_eq!(text(definition, "/metadata/annotations/helm.sh~1resource-policy"), "keep");
        }
        assert_eq!(!others.is_empty(), with_operator, "{chart}: {others:#?}");
    }
}

#[test]
fn bad_values_are_refused_with_a_remedy() {
    let cases = [
        ("replicas=3", "additional properties 'replicas' not allowed"),
        ("crds.install=maybe", "got string, want boolean"),
        ("defaultPolicy.pullTimeout=soon", "defaultPolicy/pullTimeout"),
        ("leaderElection.enabled=false", "only one replica may run, so set replicaCount=1"),
        ("serviceMonitor.enabled=true,metrics.enabled=false", "so set metrics.enabled=true"),
        ("serviceAccount.create=false", "or set serviceAccount.create=true"),
        ("metrics.auth.enabled=true", "name a certificate in metrics.tls.secret"),
        ("caBundle.secret=a,caBundle.configMap=b", "set either configMap or secret"),
        ("defaultPolicy.maxConcurrentNodes=1000000", "want 100,000"),
        ("prometheusRule.enabled=true,prometheusRule.alerts.DropX.for=1h", "there is no alert DropX, only DropDown,"),
        ("prometheusRule.alerts.DropDown.severity=page", "additional properties 'severity' not allowed"),
        ("metrics.tls=null", "at '/metrics': missing property 'tls'"),
        ("podDisruptionBudget.maxUnavailable=0", "podDisruptionBudget/maxUnavailable': minimum: got 0, want 1"),
    ];
    for (values, expected) in cases {
        let error = run("helm", &["template", "drop", "charts/drop", "--set", values]).unwrap_err();
        assert!(error.contains(expected), "{values}: {error}");
    }
}

/// An upgrade from the Go operator's chart with `--reuse-values` keeps the value.
#[test]
fn the_definitions_cannot_be_switched_off_in_their_own_chart() {
    let template = |install: &str| run("helm", &["template", "drop-crds", "charts/drop-crds", "--set", install]);
    assert_eq!(template("install=true").unwrap(), template("global.a=b").unwrap());
    assert!(template("install=false").unwrap_err().contains("/install"));
}

#[test]
fn names_follow_the_release() {
    for (release, expected) in [("drop", "drop"), ("my", "my-drop"), ("dropper", "dropper")] {
        let objects = objects(&run("helm", &["template", release, "charts/drop"]).unwrap());
        assert_eq!(text(one(&objects, "Deployment"), "/metadata/name"), expected);
    }
}

/// Returns the only object of a kind.
fn one<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let object = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert_eq!(found.next(), None);
    object
}

/// Whether the selector selects an object with these labels.
fn selects(selector: &Value, labels: &Value) -> bool {
    let selector = selector.as_object().unwrap();
    !selector.is_empty() && selector.iter().all(|(key, value)| labels[key] == *value)
}

/// Returns the names in a list of objects. Each name must occur once.
fn names(list: &Value) -> BTreeSet<&str> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let names: BTreeSet<&str> = list.iter().map(|item| text(item, "/name")).collect();
    assert_eq!(names.len(), list.len(), "{list:#?}");
    names
}

/// Checks that the references between objects match.
fn check_consistency(objects: &[Value]) {
    let key = |object| ["/kind", "/metadata/namespace", "/metadata/name"].map(|pointer| text(object, pointer));
    let keys: BTreeSet<_> = objects.iter().map(key).collect();
    assert_eq!(keys.len(), objects.len(), "two of one name");
    let deployment = one(objects, "Deployment");
    let namespace = text(deployment, "/metadata/namespace");
    let template = &deployment["spec"]["template"];
    let (labels, pod) = (&template["metadata"]["labels"], &template["spec"]);
    let container = &pod["containers"][0];
    let account = text(pod, "/serviceAccountName");
    names(&container["env"]);
    assert_eq!(names(&container["volumeMounts"]), names(&pod["volumes"]));
    for object in objects {
        let name = text(object, "/metadata/name");
        let is_valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        assert!(name.len() <= 63 && name.chars().all(is_valid), "{name}");
        match text(object, "/kind") {
            "ClusterRoleBinding" | "RoleBinding" => {
                let role =
                    [text(object, "/roleRef/kind"), text(object, "/metadata/namespace"), text(object, "/roleRef/name")];
                assert!(keys.contains(&role), "{name} binds {role:?}");
                let subject = &object["subjects"][0];
                let is_own = subject["name"] == account && subject["namespace"] == namespace;
                assert!(is_own || name.ends_with("-metrics-reader"), "{object:#}");
            }
            "Deployment" => assert!(selects(&object["spec"]["selector"]["matchLabels"], labels)),
            "NetworkPolicy" if name.ends_with("-pull") => {}
            "NetworkPolicy" => assert!(selects(&object["spec"]["podSelector"]["matchLabels"], labels)),
            "PodDisruptionBudget" => {
                assert!(selects(&object["spec"]["selector"]["matchLabels"], labels));
                assert!(deployment["spec"]["replicas"].as_u64() > Some(1), "{object:#}");
            }
            "PriorityClass" => assert!(container["env"].as_array().unwrap().iter().any(|env| env["value"] == name)),
            "Service" => assert!(selects(&object["spec"]["selector"], labels)),
            "ServiceAccount" => assert_eq!(name, account),
            "ServiceMonitor" => {
                let service = one(objects, "Service");
                assert!(selects(&object["spec"]["selector"]["matchLabels"], &service["metadata"]["labels"]));
            }
            _ => {}
        }
    }
}

#[test]
fn odd_values_make_objects_that_fit_each_other() {
    let (long, tls) = ("x".repeat(53), "metrics.tls.secret=tls");
    let guarded = format!("{tls},metrics.auth.enabled=true");
    let cases = [
        ("drop", "default", "replicaCount=2".to_owned()),
        ("drop", "own", "replicaCount=1".to_owned()),
        ("drop", "own", "replicaCount=0,leaderElection.enabled=false".to_owned()),
        (&long, "own", "networkPolicy.enabled=true,prometheusRule.enabled=true".to_owned()),
        ("my", "own", format!("fullnameOverride={},networkPolicy.enabled=true", "y".repeat(63))),
        ("my", "own", "nameOverride=other,networkPolicy.enabled=true,serviceMonitor.enabled=true".to_owned()),
        ("drop", "own", format!("{tls},serviceMonitor.enabled=true,caBundle.secret=ca")),
        ("drop", "own", format!("{guarded},metrics.enabled=false,caBundle.configMap=ca")),
        ("drop", "own", format!("{guarded},serviceMonitor.enabled=true,metrics.auth.readers=null")),
        ("drop", "own", format!("{guarded},metrics.auth.readers[0].name=a,metrics.auth.readers[0].namespace=b")),
        ("drop", "own", "serviceAccount.create=false,serviceAccount.name=a,pullPods.priorityClass.name=b".to_owned()),
        ("drop", "own", "pullPods.priorityClass.create=false,pullPods.priorityClass.name=b".to_owned()),
        (
            "drop",
            "own",
            "defaultPolicy=null,extraArgs=null,extraEnv=null,podAnnotations=null,podLabels=null".to_owned(),
        ),
        ("drop", "own", "resources=null,tolerations=null,affinity=null,topologySpreadConstraints=null".to_owned()),
        ("drop", "own", "dashboard.enabled=true,dashboard.labels=null,imagePullSecrets=null".to_owned()),
    ];
    for (release, namespace, set) in &cases {
        let arguments = ["template", release, "charts/drop", "--namespace", namespace, "--set", set];
        let objects = objects(&run("helm", &arguments).unwrap_or_else(|error| panic!("{set}: {error}")));
        for object in &objects {
            assert_eq!(unknown_fields(object), Vec::<String>::new(), "{set}: {object:#}");
        }
        check_consistency(&objects);
    }
}

#[test]
fn the_dashboard_reaches_grafana_as_it_is() {
    let set = ["--set", "dashboard.enabled=true,dashboard.annotations.grafana_folder=Drop"];
    let objects = objects(&run("helm", &[&["template", "drop", "charts/drop"][..], &set].concat()).unwrap());
    let map = objects.iter().find(|object| object["kind"] == "ConfigMap").unwrap();
    assert_eq!(unknown_fields(map), Vec::<String>::new());
    assert_eq!(text(map, "/metadata/labels/grafana_dashboard"), "1");
    assert_eq!(text(map, "/metadata/annotations/grafana_folder"), "Drop");
    let file = fs::read_to_string(root().join("charts/drop/files/dashboard.json")).unwrap();
    assert_eq!(text(map, "/data/drop.json"), file);
}

/// Returns the alerts of a rendered PrometheusRule, by name.
fn alerts(set: &str) -> BTreeMap<String, Value> {
    let set = format!("prometheusRule.enabled=true,{set}");
    let show = ["--show-only", "templates/prometheusrule.yaml", "--set", &set];
    let objects = objects(&run("helm", &[&["template", "drop", "charts/drop"][..], &show].concat()).unwrap());
    let rules = objects[0].pointer("/spec/groups/0/rules").and_then(Value::as_array).unwrap();
    rules.iter().map(|rule| (text(rule, "/alert").to_owned(), rule.clone())).collect()
}

#[test]
fn alerts_are_the_file_s_but_for_what_values_change() {
    let rules = fs::read_to_string(root().join("charts/drop/files/alerts.yaml")).unwrap();
    let rules: Value = serde_saphyr::from_str(&rules).unwrap();
    let rules = rules.pointer("/groups/0/rules").and_then(Value::as_array).unwrap();
    let mut expected: BTreeMap<_, _> =
        rules.iter().map(|rule| (text(rule, "/alert").to_owned(), rule.clone())).collect();
    assert_eq!(alerts(""), expected);
    expected.remove("DropDown");
    expected.get_mut("DropStalled").unwrap()["for"] = "6h".into();
    expected.get_mut("DropImageFails").unwrap()["labels"] = json!({"severity": "info", "team": "ci"});
    let changed = alerts(
        "prometheusRule.alerts.DropDown.enabled=false,prometheusRule.alerts.DropStalled.for=6h,\
         prometheusRule.alerts.DropImageFails.labels.severity=info,prometheusRule.alerts.DropImageFails.labels.team=ci",
    );
    assert_eq!(changed, expected);
}

#[test]
fn tilt_installs_what_its_values_say() {
    let tiltfile = fs::read_to_string(root().join("Tiltfile")).unwrap();
    let (_, set) = tiltfile.split_once("set=[").unwrap();
    let (set, _) = set.split_once(']').unwrap();
    let values: Vec<String> = set.split('\'').skip(1).step_by(2).map(|value| value.replace("\\\\", "\\")).collect();
    let flags: Vec<&str> = values.iter().flat_map(|value| ["--set", value.as_str()]).collect();
    let objects = objects(&run("helm", &[&["template", "drop", "charts/drop"][..], &flags].concat()).unwrap());
    let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
    assert_eq!(deployment["spec"]["replicas"], 1);
    let environment = deployment.pointer("/spec/template/spec/containers/0/env").and_then(Value::as_array).unwrap();
    let value = |name: &str| environment.iter().find(|variable| variable["name"] == name).unwrap()["value"].clone();
    assert_eq!((value("DROP_LOG_LEVEL"), value("DROP_LOG_FORMAT")), (json!("info,drop=debug"), json!("text")));
}

#[test]
fn alerts_fire_when_they_should_and_only_then() {
    let rules = "charts/drop/files/alerts.yaml";
    let tests = "crates/e2e/tests/charts/alerts.yaml";
    run("promtool", &["check", "rules", "--lint=all", "--lint-fatal", rules]).unwrap();
    run("promtool", &["test", "rules", tests]).unwrap();
    let tests = fs::read_to_string(root().join(tests)).unwrap();
    let rules: Value = serde_saphyr::from_str(&fs::read_to_string(root().join(rules)).unwrap()).unwrap();
    for rule in rules.pointer("/groups/0/rules").and_then(Value::as_array).unwrap() {
        let name = text(rule, "/alert");
        assert!(tests.contains(&format!("alertname=\"{name}\"")), "no test lets {name} fire");
    }
}
