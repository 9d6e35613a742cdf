//! The commands and values of the documentation, judged by Helm and kubectl themselves, without a cluster.
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::LazyLock;

use drop_docs::{blocks, commands, root};
use drop_testbed::Tools;

/// Where charts are published; in the tests they come from the repository.
const PUBLISHED: &str = "oci://ghcr.io/corewire/";

static TOOLS: LazyLock<Tools> =
    LazyLock::new(|| Tools::with(&["helm", "kubernetes"], &|line| eprintln!("{line}")).unwrap());

/// What a tool prints; `Err` holds what it complains of.
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

#[test]
fn options_of_commands_exist() {
    for (tool, common) in [("helm", "help"), ("kubectl", "options")] {
        let common = run(tool, &[common]).unwrap();
        let mut helps: BTreeMap<Vec<String>, String> = BTreeMap::new();
        let commands = commands(tool).unwrap();
        assert!(commands.len() > 3, "{commands:#?}");
        for command in commands {
            let arguments = command.words.get(1..).unwrap_or_default();
            // Options may stand before the verb.
            let rest: Vec<&String> = arguments.iter().skip_while(|word| !is_verb(tool, word)).collect();
            // The verb, and its object where that has options of its own.
            let verb: Vec<String> =
                rest.iter().take(if rest.first().is_some_and(|word| *word == "create" || *word == "rollout") { 2 } else { 1 }).map(|word| (*word).clone()).collect();
            assert!(!verb.is_empty(), "{command}: there is no such verb");
            let help = helps.entry(verb.clone()).or_insert_with(|| {
                let verb: Vec<&str> = verb.iter().map(String::as_str).collect();
                run(tool, &[&verb[..], &["--help"]].concat()).unwrap_or_else(|error| panic!("{command}: {error}"))
            });
            let options = arguments.iter().filter(|word| word.starts_with('-') && word.len() > 1);
            for option in options.map(|option| option.split('=').next().unwrap_or_default()) {
                assert!(has_option(help, option) || has_option(&common, option), "{command}: there is no {option}");
            }
        }
    }
}

/// Whether the tool has such a command.
fn is_verb(tool: &str, word: &str) -> bool {
    static KNOWN: LazyLock<BTreeMap<&str, String>> =
        LazyLock::new(|| ["helm", "kubectl"].map(|tool| (tool, run(tool, &["--help"]).unwrap())).into());
    let is_first = |line: &str| line.split_whitespace().next() == Some(word);
    KNOWN.get(tool).is_some_and(|help| help.lines().any(|line| line.starts_with("  ") && is_first(line)))
}

#[test]
fn charts_render_as_they_are_installed() {
    let mut rendered = 0;
    for command in commands("helm").unwrap() {
        let ["helm", "install" | "upgrade", rest @ ..] = &command.words.iter().map(String::as_str).collect::<Vec<_>>()[..]
        else {
            continue;
        };
        let words = rest.iter().map(|word| match word.strip_prefix(PUBLISHED) {
            Some(chart) => chart,
            None => word,
        });
        let words: Vec<&str> = ["template"].into_iter().chain(words).collect();
        run("helm", &words).unwrap_or_else(|error| panic!("{command}: {error}"));
        rendered += 1;
    }
    assert!(rendered > 2);
}

#[test]
fn values_in_the_documentation_are_those_of_the_chart() {
    let values: Vec<_> = blocks().unwrap().into_iter().filter(|block| block.is("values")).collect();
    assert!(!values.is_empty());
    for block in values {
        let file = std::env::temp_dir().join(format!("drop-docs-{}.yaml", std::process::id()));
        fs::write(&file, &block.text).unwrap();
        let result = run("helm", &["template", "drop", "charts/drop", "--values", &file.display().to_string()]);
        fs::remove_file(&file).unwrap();
        result.unwrap_or_else(|error| panic!("{block}: {error}"));
    }
}
