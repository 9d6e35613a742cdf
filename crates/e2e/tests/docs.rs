//! Checks the commands and values of the documentation with Helm and kubectl, without a cluster.
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::LazyLock;

use drop_api::names::short_hash;
use drop_docs::{blocks, commands, root};
use drop_testbed::Tools;
use serde_json::Value;

/// The address of published charts; the tests use those of the repository instead.
const PUBLISHED: &str = "oci://ghcr.io/corewire/";
/// Verbs whose options depend on the object.
const WITH_OBJECT: [&str; 2] = ["create", "rollout"];

static TOOLS: LazyLock<Tools> = LazyLock::new(|| Tools::built(&["helm", "kubernetes"]).unwrap());

/// Returns the output of a tool; `Err` holds its error messages.
fn run(tool: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(TOOLS.path(tool)).args(arguments).current_dir(root()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Whether a help text has this option, long or short.
fn has_option(help: &str, option: &str) -> bool {
    let mut words = help.split(|c: char| c.is_whitespace() || c == ',' || c == '=' || c == ':');
    words.any(|word| word == option)
}

/// Returns the verb of a command, and its object if the object has options of its own. Options may precede the verb.
fn verb<'a>(tool: &str, arguments: &'a [String]) -> Vec<&'a str> {
    static HELP: LazyLock<BTreeMap<&str, String>> =
        LazyLock::new(|| ["helm", "kubectl"].map(|tool| (tool, run(tool, &["--help"]).unwrap())).into());
    let is_verb = |word: &str| {
        let mut rows = HELP.get(tool).into_iter().flat_map(|help| help.lines()).filter(|line| line.starts_with("  "));
        rows.any(|row| row.split_whitespace().next() == Some(word))
    };
    let words: Vec<&str> = arguments.iter().map(String::as_str).skip_while(|word| !is_verb(word)).collect();
    let length = if words.first().is_some_and(|verb| WITH_OBJECT.contains(verb)) { 2 } else { 1 };
    words.into_iter().take(length).collect()
}

#[test]
fn options_of_commands_exist() {
    for (tool, common) in [("helm", "help"), ("kubectl", "options")] {
        let common = run(tool, &[common]).unwrap();
        let commands = commands(tool).unwrap();
        assert!(commands.len() > 3, "{commands:#?}");
        for command in commands {
            let arguments = command.words.get(1..).unwrap_or_default();
            let verb = verb(tool, arguments);
            assert!(!verb.is_empty(), "{command}: there is no such verb");
            let help =
                run(tool, &[&verb[..], &["--help"]].concat()).unwrap_or_else(|error| panic!("{command}: {error}"));
            let options = arguments.iter().filter(|word| word.starts_with('-') && word.len() > 1);
            for option in options.map(|option| option.split('=').next().unwrap_or_default()) {
                assert!(has_option(&help, option) || has_option(&common, option), "{command}: there is no {option}");
            }
        }
    }
}

#[test]
fn charts_render_as_they_are_installed() {
    let mut rendered = 0;
    for command in commands("helm").unwrap() {
        let words = command.words.iter().map(|word| word.strip_prefix(PUBLISHED).unwrap_or(word));
        let words: Vec<&str> = words.collect();
        let [_, "install" | "upgrade", rest @ ..] = &words[..] else { continue };
        let words = [&["template"], rest].concat();
        run("helm", &words).unwrap_or_else(|error| panic!("{command}: {error}"));
        rendered += 1;
    }
    assert!(rendered > 2);
}

#[test]
fn charts_render_with_the_values_of_argo_cd_and_flux() {
    let mut rendered = Vec::new();
    for file in ["examples/gitops/argocd/application.yaml", "examples/gitops/flux/operator.yaml"] {
        let objects: Vec<Value> = serde_saphyr::from_multiple(&fs::read_to_string(root().join(file)).unwrap()).unwrap();
        for object in objects {
            let (source, version, values) = match object["kind"].as_str() {
                Some("Application") => ("/spec/source", "targetRevision", "/spec/source/helm/valuesObject"),
                Some("HelmRelease") => ("/spec/chart/spec", "version", "/spec/values"),
                _ => continue,
            };
            let source = object.pointer(source).unwrap();
            let chart = format!("charts/{}", source["chart"].as_str().unwrap());
            let definition = fs::read_to_string(root().join(&chart).join("Chart.yaml")).unwrap();
            let definition: Value = serde_saphyr::from_str(&definition).unwrap();
            let wanted = source[version].as_str().unwrap();
            let published = definition["version"].as_str().unwrap();
            assert!(published.starts_with(wanted.trim_end_matches('x')), "{file}: {chart} has the version {published}");
            let values = object.pointer(values).map(Value::to_string).unwrap_or_else(|| "{}".to_owned());
            template("drop", &chart, &values).unwrap_or_else(|error| panic!("{file}: {error}"));
            rendered.push(chart);
        }
    }
    assert_eq!(rendered, ["charts/drop-crds", "charts/drop", "charts/drop-crds", "charts/drop"]);
}

/// Renders a chart with these values.
fn template(release: &str, chart: &str, values: &str) -> Result<String, String> {
    let file =
        std::env::temp_dir().join(format!("drop-docs-{}-{}.yaml", std::process::id(), short_hash(values.as_bytes())));
    fs::write(&file, values).unwrap();
    let result = run("helm", &["template", release, chart, "--values", &file.display().to_string()]);
    fs::remove_file(&file).unwrap();
    result
}

#[test]
fn values_in_the_documentation_are_those_of_the_chart() {
    let values: Vec<_> = blocks().unwrap().into_iter().filter(|block| block.is("values")).collect();
    assert!(!values.is_empty());
    for block in values {
        template("drop", "charts/drop", &block.text).unwrap_or_else(|error| panic!("{block}: {error}"));
    }
}
