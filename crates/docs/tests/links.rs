//! Every link within the repository leads somewhere, and the book has every page.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use drop_docs::{Page, pages, root};

/// The path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

/// What is wrong with a link.
fn wrong(page: &Page, link: &str, pages: &BTreeMap<PathBuf, Page>) -> Option<&'static str> {
    if link.contains("://") {
        return None;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = match file {
        "" => page.path.clone(),
        file => normal(&page.path.parent().unwrap().join(file)),
    };
    if !root().join(&target).exists() {
        return Some("there is no such file");
    }
    let known = || pages.get(&target).is_some_and(|page| page.anchors().contains(anchor));
    (!anchor.is_empty() && !known()).then_some("there is no such heading")
}

#[test]
fn links_lead_to_files_and_headings_that_exist() {
    let pages: BTreeMap<PathBuf, Page> = pages().unwrap().into_iter().map(|page| (page.path.clone(), page)).collect();
    let mut problems = Vec::new();
    for page in pages.values() {
        for link in page.links() {
            problems.extend(wrong(page, &link, &pages).map(|why| format!("{}: {link}: {why}", page.path.display())));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn the_summary_names_every_page() {
    let (docs, summary) = (Path::new("docs"), Path::new("docs/SUMMARY.md"));
    let pages = pages().unwrap();
    let mut named = pages.iter().find(|page| page.path == summary).unwrap().links();
    named.sort();
    let others = pages.iter().filter(|page| page.path != summary);
    let below = others.filter_map(|page| page.path.strip_prefix(docs).ok());
    let mut below: Vec<_> = below.map(|path| path.display().to_string()).collect();
    below.sort();
    assert_eq!(named, below);
}
