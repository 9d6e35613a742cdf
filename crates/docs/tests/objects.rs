//! Every object that readers may copy is one that the API knows, without a cluster. That a real API server
//! takes it shows in `crates/e2e`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::fs;
use std::path::Path;

use drop_api::{CachedImageSetSpec, CachedImageSpec, DiscoveryPolicySpec, PullPolicySpec, names, strict};
use drop_docs::{Block, blocks, root};
use serde_json::Value;

/// What is wrong with the objects of a text.
fn check(text: &str) -> Result<(), String> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| error.to_string())?;
    documents.into_iter().filter(|object| object["apiVersion"] == names::API_VERSION).try_for_each(check_object)
}

fn check_object(mut object: Value) -> Result<(), String> {
    let spec = object["spec"].take();
    let read = match object["kind"].as_str().unwrap_or_default() {
        "CachedImage" => strict::read::<CachedImageSpec>(spec, "spec").map(drop),
        "CachedImageSet" => strict::read::<CachedImageSetSpec>(spec, "spec").map(drop),
        "DiscoveryPolicy" => strict::read::<DiscoveryPolicySpec>(spec, "spec").map(drop),
        "PullPolicy" => strict::read::<PullPolicySpec>(spec, "spec").map(drop),
        kind => Err(format!("{kind:?} is no kind that users write")),
    };
    read.map_err(|why| format!("{} {}: {why}", object["kind"], object["metadata"]["name"]))
}

fn yaml() -> Vec<Block> {
    blocks().unwrap().into_iter().filter(|block| block.language == "yaml").collect()
}

#[test]
fn objects_in_the_documentation_have_only_fields_that_exist() {
    let blocks = yaml();
    assert!(blocks.len() > 5, "{blocks:#?}");
    let problems = blocks.iter().filter_map(|block| Some(format!("{block}: {}", check(&block.text).err()?)));
    let problems: Vec<String> = problems.collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn a_field_that_does_not_exist_is_found() {
    let object = format!("apiVersion: {}\nkind: CachedImage\nspec: {{image: a, tagg: b}}\n", names::API_VERSION);
    assert!(check(&object).unwrap_err().contains("spec.tagg: there is no such field"));
}

#[test]
fn every_example_is_shown_on_a_page() {
    let shown: Vec<Block> = yaml();
    for entry in fs::read_dir(root().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let text = fs::read_to_string(&path).unwrap();
            let is_shown = shown.iter().any(|block| block.text.contains(&text));
            assert!(is_shown, "include {} in a page", Path::new(path.file_name().unwrap()).display());
        }
    }
}

#[test]
fn paths_of_commands_exist() {
    for program in ["kubectl", "drop", "helm"] {
        for command in drop_docs::commands(program).unwrap() {
            // What is not below one of the repository's directories is the reader's own.
            let of_ours = |word: &&String| {
                ["examples/", "deploy/", "charts/", "docs/"].iter().any(|folder| word.starts_with(folder))
            };
            for path in command.words.iter().filter(of_ours) {
                assert!(root().join(path).exists(), "{command}: there is no {path}");
            }
        }
    }
}

#[test]
fn every_alert_has_a_row() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let (page, rules) = (read("docs/alerts.md"), read("charts/drop/files/alerts.yaml"));
    let rules: Value = serde_saphyr::from_str(&rules).unwrap();
    for rule in rules["groups"][0]["rules"].as_array().unwrap() {
        let name = rule["alert"].as_str().unwrap();
        assert!(page.contains(&format!("| `{name}` |")), "{name}");
    }
}
