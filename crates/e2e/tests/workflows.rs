//! The GitHub workflows, without GitHub.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::fs;
use std::process::Command;

use drop_e2e::root;
use drop_testbed::Tools;
use serde_json::Value;

fn workflow(name: &str) -> Value {
    let text = fs::read_to_string(root().join(format!(".github/workflows/{name}.yml"))).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

#[test]
fn the_workflows_have_no_errors() {
    let tools = Tools::with(&["actionlint"], &|line| eprintln!("{line}")).unwrap();
    // Without linters of other languages, which some machines have.
    let arguments = ["-no-color", "-shellcheck=", "-pyflakes="];
    let workflows = ["test", "release", "book"].map(|name| format!(".github/workflows/{name}.yml"));
    let output = Command::new(tools.path("actionlint")).args(arguments).args(workflows).current_dir(root()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Somebody else could move a tag of an action to other code.
#[test]
fn actions_are_pinned_to_commits() {
    for name in ["test", "release", "book"] {
        let workflow = workflow(name);
        for (job, of_job) in workflow["jobs"].as_object().unwrap() {
            for step in of_job["steps"].as_array().into_iter().flatten() {
                let Some(action) = step["uses"].as_str() else { continue };
                let commit = action.split_once('@').unwrap().1;
                let is_commit = commit.len() == 40 && commit.chars().all(|c| c.is_ascii_hexdigit());
                assert!(is_commit, "{name}, {job}: {action}");
            }
        }
    }
}
