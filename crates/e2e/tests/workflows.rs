//! Checks the GitHub workflows, without GitHub.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::fs;
use std::path::Path;
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
    let tools = Tools::built(&["actionlint"]).unwrap();
    // Without linters of other languages, which only some machines have.
    let arguments = ["-no-color", "-shellcheck=", "-pyflakes="];
    let workflows = ["test", "release", "book"].map(|name| format!(".github/workflows/{name}.yml"));
    let output = Command::new(tools.path("actionlint")).args(arguments).args(workflows).current_dir(root()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// A third party could move a tag of an action to other code.
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

#[test]
fn a_release_is_refused_where_any_file_names_another_version() {
    let version = env!("CARGO_PKG_VERSION");
    let files = ["Cargo.toml", "charts/drop/Chart.yaml", "charts/drop-crds/Chart.yaml", "SECURITY.md", "CHANGELOG.md"];
    let steps = workflow("release")["jobs"]["version"]["steps"].clone();
    let script = steps[1]["run"].as_str().unwrap().to_owned();
    let home = std::env::temp_dir().join(format!("drop-release-{}", std::process::id()));
    let passes = |tree: &Path| {
        // Runs it as GitHub does.
        let mut shell = Command::new("bash");
        shell.args(["--noprofile", "--norc", "-e", "-c", &script]).env("TAG", format!("v{version}"));
        shell.current_dir(tree).output().unwrap().status.success()
    };
    let write = |file: &str, text: &str| {
        let path = home.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let read = |file: &str| fs::read_to_string(root().join(file)).unwrap();
    let released = |file: &str| match file {
        "CHANGELOG.md" => format!("## [{version}]\n"),
        file => read(file),
    };
    files.iter().for_each(|file| write(file, &released(file)));
    assert!(passes(&home));
    for file in files {
        let text = released(file);
        for (at, _) in text.match_indices(version) {
            let (before, after) = text.split_at(at);
            // Versions of other software may be equal by chance.
            if before.ends_with("drop:") || before.ends_with("ersion: ") || before.ends_with("ersion: \"") {
                write(file, &format!("{before}9{after}"));
                assert!(!passes(&home), "{file}: {}", after.lines().next().unwrap());
            }
        }
        write(file, &text);
    }
    write("CHANGELOG.md", "## [Unreleased]\n");
    assert!(!passes(&home));
    fs::remove_dir_all(&home).unwrap();
}
