//! The layers of the crate: imports run one way.
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom to the top. What is not in a folder of its own is named like its file.
const LAYERS: [&[&str]; 11] = [
    &["interner", "look_up", "name", "settings", "text", "time"],
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

/// The crate's modules: by path, such as `objects::memory`, the code without comments and unit tests.
fn modules() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let code = |file: &Path| {
        let text = fs::read_to_string(file).unwrap();
        let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
    };
    let modules = files.iter().filter(|file| !file.ends_with("lib.rs")).map(|file| {
        let path = file.strip_prefix(&root).unwrap().with_extension("");
        let names: Vec<&str> = path.iter().map(|name| name.to_str().unwrap()).collect();
        (names.join("::"), code(file))
    });
    modules.collect()
}

fn parent(module: &str) -> &str {
    module.rsplit_once("::").map_or("", |(parent, _)| parent)
}

fn joined(module: &str, path: &str) -> String {
    if module.is_empty() { path.to_owned() } else { format!("{module}::{path}") }
}

/// Returns the paths that a module's code names after `before`: `objects::memory::Record` after `crate::`.
fn named_after(before: &str, code: &str) -> Vec<String> {
    let mut named = Vec::new();
    for part in code.split(before).skip(1) {
        let path = |text: &str| {
            let is_of_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            text.trim_start().chars().take_while(|c| is_of_path(*c)).collect::<String>()
        };
        let prefix = path(part);
        match part.strip_prefix(&*prefix).and_then(|rest| rest.strip_prefix('{')) {
            Some(rest) => {
                let several = rest.split('}').next().unwrap_or_default();
                named.extend(several.split(',').map(|name| format!("{prefix}{}", path(name))));
            }
            None => named.push(prefix),
        }
    }
    named
}

/// Returns what a module's code names, as paths from the crate's root: by `crate::`, by `super::`, and by the names of
/// its own submodules, but for those that it only shows to others.
fn imports(module: &str, code: &str) -> Vec<String> {
    let mut imports = named_after("crate::", code);
    assert!(!code.contains("super::super::"), "{module}: name it by crate::");
    imports.extend(named_after("super::", code).iter().map(|path| joined(parent(module), path)));
    let own = code.lines().filter_map(|line| line.trim().trim_start_matches("pub ").strip_prefix("mod "));
    let own: Vec<&str> = own.map(|name| name.trim_end_matches(';')).collect();
    for line in code.lines().filter(|line| !line.starts_with("pub")) {
        let words = line.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
        let starts = words.filter_map(|word| word.split_once("::"));
        imports.extend(starts.filter(|(first, _)| own.contains(first)).map(|(first, _)| joined(module, first)));
    }
    imports
}

#[test]
fn no_module_imports_a_layer_above_its_own() {
    let modules = modules();
    let mut wrong = Vec::new();
    for (module, code) in &modules {
        let own = module.split("::").next().unwrap();
        let own = layer(own).unwrap_or_else(|| panic!("{module} is in no layer"));
        // `Name` is everybody's. Other names of the crate's root hide their layer.
        let above = |import: &String| match import.split("::").next() {
            None | Some("Name" | "") => false,
            Some(first) => layer(first).is_none_or(|layer| layer > own),
        };
        let imports = imports(module, code).into_iter();
        wrong.extend(imports.filter(above).map(|import| format!("{module} imports {import}")));
    }
    assert!(modules.len() > 50, "{}", modules.len());
    assert_eq!(wrong, [] as [String; 0]);
}

#[test]
fn modules_import_each_other_in_circles_only_inside_world() {
    let modules = modules();
    let is_of_world = |module: &str| module == "world" || module.starts_with("world::");
    let named = |import: String| {
        let mut path = Some(import.trim_end_matches(':').to_owned());
        while let Some(name) = path.take() {
            if modules.contains_key(&name) {
                return Some(name);
            }
            path = name.rsplit_once("::").map(|(parent, _)| parent.to_owned());
        }
        None
    };
    let others = modules.iter().filter(|(module, _)| !is_of_world(module));
    let mut graph: BTreeMap<&str, BTreeSet<String>> = others
        .map(|(module, code)| {
            let imports = imports(module, code).into_iter().filter_map(named);
            (&**module, imports.filter(|other| other != module && !is_of_world(other)).collect())
        })
        .collect();
    // What imports nothing that is left is in no circle.
    loop {
        let left: BTreeSet<String> = graph.keys().map(|module| (*module).to_owned()).collect();
        graph.retain(|_, imports| imports.iter().any(|import| left.contains(import)));
        if graph.len() == left.len() {
            break;
        }
    }
    assert_eq!(graph, BTreeMap::new());
}
