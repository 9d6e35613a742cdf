//! The order of the operator's modules, as `src/main.rs` states it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The place of each module in the numbered list of `src/main.rs`.
fn order(main: &str) -> BTreeMap<String, usize> {
    let lines = main.lines().filter_map(|line| {
        let (number, rest) = line.strip_prefix("//! ")?.split_once(". ")?;
        Some((number.parse::<usize>().ok()?, rest.split_once(':')?.0))
    });
    lines.flat_map(|(number, names)| names.split(", ").map(move |name| (name.replace('`', ""), number))).collect()
}

/// The top-level modules that a file names behind `crate::`.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let paths = code.split("crate::").skip(1);
    let groups = paths.flat_map(|path| match path.strip_prefix('{') {
        Some(group) => group.split('}').next().unwrap().split(',').map(str::to_owned).collect(),
        None => vec![path.to_owned()],
    });
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    groups.map(|path| path.trim_start().split(|c| !is_part(c)).next().unwrap().to_owned()).collect()
}

/// Every source file, with the top-level module that it belongs to.
fn files(folder: &Path) -> Vec<(String, PathBuf)> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let inside = path.strip_prefix(folder).unwrap().with_extension("");
            files.push((inside.iter().next().unwrap().to_str().unwrap().to_owned(), path));
        }
    }
    files
}

#[test]
fn modules_only_use_modules_of_lines_above_their_own() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let order = order(&fs::read_to_string(folder.join("main.rs")).unwrap());
    for (module, path) in files(&folder) {
        // `fake` serves tests of all modules.
        if module == "main" || module == "fake" {
            continue;
        }
        let place = *order.get(&module).unwrap_or_else(|| panic!("{module} is missing in the list of src/main.rs"));
        for import in imports(&fs::read_to_string(&path).unwrap()) {
            let is_above =
                import == module || import == "fake" || order.get(&import).is_some_and(|other| *other < place);
            assert!(is_above, "{} uses {import}, which is not above {module} in src/main.rs", path.display());
        }
    }
}

#[test]
fn imports_are_found_in_all_forms() {
    let text = "use crate::act::lease;\nuse crate::{cli, serve::http};\n// crate::comment\nlet x = crate::watch::y();";
    assert_eq!(Vec::from_iter(imports(text)), ["act", "cli", "serve", "watch"]);
    let order = order("//! Text 1. no.\n//! 1. `a`, `b`: first\n//!    more\n//! 2. `c`: second");
    assert_eq!(order, [("a", 1), ("b", 1), ("c", 2)].map(|(name, place)| (name.to_owned(), place)).into());
}
