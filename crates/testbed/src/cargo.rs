//! Cargo, run by a program that cargo runs.

use std::process::Command;

/// Variables that tell a program about its package.
const OF_THE_PACKAGE: [&str; 2] = ["CARGO_MANIFEST_", "CARGO_PKG_"];

/// Cargo without what it told this program about its package. Build scripts may read these
/// variables, as ring's does: where they differ from those of the shell, each build would make
/// ring and all that needs it anew.
#[must_use]
pub fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| OF_THE_PACKAGE.iter().any(|prefix| name.starts_with(prefix))) {
            cargo.env_remove(name);
        }
    }
    cargo
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::cargo;

    #[test]
    fn cargo_is_told_nothing_of_the_package_that_runs_it() {
        let removed =
            |name: &str| cargo().get_envs().any(|(found, value)| found == OsStr::new(name) && value.is_none());
        for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME"] {
            assert!(std::env::var_os(name).is_some(), "cargo does not set {name}");
            assert!(removed(name), "{name}");
        }
        // Where the user has set it, it counts for this build, too.
        assert!(!removed("CARGO_HOME"));
    }
}
