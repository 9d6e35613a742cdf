//! `cargo xtask book`: the documentation as a site, in `target/site`.
//!
//! The site has the same layout as the repository, so that a page's link to an example leads to it on both.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::root;

const VERSION: &str = "0.5.4";
/// What pages link to beside each other.
const EXAMPLES: &str = "examples";

/// Builds the book. Every warning and every link that leads nowhere is an error.
pub(crate) fn run() -> Result<()> {
    let (root, program) = (root()?, mdbook()?);
    let site = root.join("target/site");
    if site.exists() {
        fs::remove_dir_all(&site).with_context(|| site.display().to_string())?;
    }
    let book = site.join("docs");
    let output = Command::new(&program).args(["build", "--dest-dir"]).arg(&book).arg(&root).output();
    let output = output.with_context(|| program.display().to_string())?;
    let log = String::from_utf8_lossy(&output.stderr);
    let is_complaint = |line: &str| ["WARN", "ERROR"].iter().any(|level| line.contains(level));
    ensure!(output.status.success() && !log.lines().any(is_complaint), "the book does not build:\n{log}");
    copy(&root.join(EXAMPLES), &site.join(EXAMPLES))?;
    let dead = dead_links(&book)?;
    ensure!(dead.is_empty(), "links of the book that lead nowhere:\n{}", dead.join("\n"));
    println!("{}", book.join("index.html").display());
    Ok(())
}

/// mdBook, built where it is not there yet; about a minute on two cores.
fn mdbook() -> Result<PathBuf> {
    let home = root()?.join("target/tools");
    let program = home.join("bin/mdbook");
    let found = Command::new(&program).arg("--version").output();
    if found.is_ok_and(|output| output.stdout.ends_with(format!("v{VERSION}\n").as_bytes())) {
        return Ok(program);
    }
    println!("building mdBook {VERSION}");
    let install = ["install", "mdbook", "--locked", "--debug", "--no-default-features", "--version", VERSION];
    let status = Command::new(env!("CARGO"))
        .args(install)
        .arg("--root")
        .arg(&home)
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "mdBook does not build: cargo {}", install.join(" "));
    Ok(program)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).with_context(|| target.display().to_string())?;
        }
    }
    Ok(())
}

/// Links and pictures of the pages that lead to no file of the site.
fn dead_links(book: &Path) -> Result<Vec<String>> {
    let mut dead = Vec::new();
    for entry in fs::read_dir(book).with_context(|| book.display().to_string())? {
        let path = entry?.path();
        let is_page = path.extension().is_some_and(|extension| extension == "html");
        // It is shown under any address, and the one of all pages repeats the others.
        if is_page && !path.ends_with("404.html") && !path.ends_with("print.html") {
            let html = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            for link in targets(&html) {
                if !book.join(link).exists() {
                    dead.push(format!("{}: {link}", path.display()));
                }
            }
        }
    }
    if dead.is_empty() && !book.join("index.html").exists() {
        bail!("{} has no pages", book.display());
    }
    Ok(dead)
}

/// The files of the site that a page's `href` and `src` name.
fn targets(html: &str) -> BTreeSet<&str> {
    let values = ["href=\"", "src=\""].into_iter().flat_map(|attribute| html.split(attribute).skip(1));
    let links = values.filter_map(|rest| rest.split('"').next());
    let files = links.filter(|link| !link.contains(':')).filter_map(|link| link.split('#').next());
    files.filter(|file| !file.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::targets;

    #[test]
    fn links_to_files_of_the_site_are_found_and_others_left_out() {
        let html = r##"<a href="a.html#b"></a><img src="c.svg"><a href="#d"></a><a href="https://example.com/e">"##;
        assert_eq!(targets(html), ["a.html", "c.svg"].into());
    }
}
