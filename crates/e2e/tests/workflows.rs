//! The GitHub workflows, without GitHub.
#![allow(clippy::unwrap_used, reason = "this is a test")]

use std::process::Command;

use drop_e2e::root;
use drop_testbed::Tools;

#[test]
fn the_workflows_have_no_errors() {
    let tools = Tools::with(&["actionlint"], &|line| eprintln!("{line}")).unwrap();
    // Without linters of other languages, which some machines have.
    let arguments = ["-no-color", "-shellcheck=", "-pyflakes="];
    let workflows = [".github/workflows/test.yml", ".github/workflows/release.yml"];
    let output = Command::new(tools.path("actionlint")).args(arguments).args(workflows).current_dir(root()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
