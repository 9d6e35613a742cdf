//! The layers of the crate: imports run one way.
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom to the top. What is not in a folder of its own is named like its file.
const LAYERS: [&[&str]; 11] = [
    &["interner", "settings", "text", "time"],
    &["pace"],
    &["objects"],
    &["discovery"],
    &["io"],
    &["world"],
    &["gate"],
    &["show"],
    &["plan"],
    &["audit"],
    &["step"],
];

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|names| names.contains(&name))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else {
            found.push(path);
        }
    }
}

#[test]
fn no_module_imports_a_layer_above_its_own() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    for file in files.iter().filter(|file| !file.ends_with("lib.rs")) {
        let module = file.strip_prefix(&root).unwrap().with_extension("");
        let module = module.iter().next().unwrap().to_str().unwrap().to_owned();
        let own = layer(&module).unwrap_or_else(|| panic!("{module} is in no layer"));
        for line in fs::read_to_string(file).unwrap().lines().filter(|line| !line.trim_start().starts_with("//")) {
            for part in line.split("crate::").skip(1) {
                // `Name` and the re-exports of the crate's root are everybody's.
                let several = part.strip_prefix('{').and_then(|rest| rest.split('}').next());
                let imported = several.map_or_else(|| vec![part], |several| several.split(',').collect());
                let names = imported.iter().map(|name| name.trim().split(|c: char| !c.is_alphanumeric() && c != '_'));
                if names.filter_map(|mut words| layer(words.next()?)).any(|layer| layer > own) {
                    wrong.push(format!("{}: {}", file.display(), line.trim()));
                }
            }
        }
    }
    assert!(files.len() > 50, "{}", files.len());
    assert_eq!(wrong, [] as [String; 0]);
}
