//! `cargo xtask book`: the documentation as a site, in `target/book`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use drop_testbed::cargo;

use crate::root;

const VERSION: &str = "0.5.4";
/// `site-url` in `book.toml`: the page for what is not found has it as its base.
const SITE: &str = "/drop/";
/// Where readers of the site find what lies outside of `docs`.
const REPOSITORY: &str = "https://github.com/corewire/drop/blob/main/";
/// How pages link to that.
const OUTWARD: &str = "href=\"../";

/// Builds the book. Every warning and every link that leads nowhere is an error.
pub(crate) fn run() -> Result<()> {
    let (root, program) = (root()?, mdbook()?);
    let book = root.join("target/book");
    let output = Command::new(&program).args(["build", "--dest-dir"]).arg(&book).arg(&root).output();
    let output = output.with_context(|| program.display().to_string())?;
    let log = String::from_utf8_lossy(&output.stderr);
    let is_complaint = |line: &str| ["WARN", "ERROR"].iter().any(|level| line.contains(level));
    ensure!(output.status.success() && !log.lines().any(is_complaint), "the book does not build:\n{log}");
    let mut dead = Vec::new();
    for entry in fs::read_dir(&book).with_context(|| book.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "html") {
            let html = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let html = lead_outward(&html, &root);
            let targets = targets(&html).into_iter().filter(|target| !book.join(target).exists());
            dead.extend(targets.map(|target| format!("{}: {target}", path.display())));
            fs::write(&path, html).with_context(|| path.display().to_string())?;
        }
    }
    ensure!(dead.is_empty(), "links of the book that lead nowhere:\n{}", dead.join("\n"));
    println!("{}", book.join("index.html").display());
    Ok(())
}

/// mdBook, built where it is not there yet; about a minute on two cores.
pub(crate) fn mdbook() -> Result<PathBuf> {
    let home = root()?.join("target/tools");
    let program = home.join("bin/mdbook");
    let found = Command::new(&program).arg("--version").output();
    if found.is_ok_and(|output| output.stdout.ends_with(format!("v{VERSION}\n").as_bytes())) {
        return Ok(program);
    }
    println!("building mdBook {VERSION}");
    let install = ["install", "mdbook", "--locked", "--debug", "--no-default-features", "--version", VERSION];
    let status = cargo()
        .args(install)
        .arg("--root")
        .arg(&home)
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "mdBook does not build: cargo {}", install.join(" "));
    Ok(program)
}

/// Lets links out of `docs` lead to the repository. mdBook takes its Markdown files for pages of the book.
fn lead_outward(html: &str, root: &Path) -> String {
    let mut parts = html.split(OUTWARD);
    let mut led = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (link, rest) = part.split_once('"').unwrap_or((part, ""));
        let (file, anchor) = link.split_once('#').map_or((link, String::new()), |(file, to)| (file, format!("#{to}")));
        let page = file.strip_suffix(".html").map(|page| format!("{page}.md"));
        let file = page.filter(|page| root.join(page).exists()).unwrap_or_else(|| file.to_owned());
        led.push_str(&format!("href=\"{REPOSITORY}{file}{anchor}\"{rest}"));
    }
    led
}

/// The files of the site that a page's `href` and `src` name.
fn targets(html: &str) -> BTreeSet<&str> {
    let values = ["href=\"", "src=\""].into_iter().flat_map(|attribute| html.split(attribute).skip(1));
    let links = values.filter_map(|rest| rest.split('"').next());
    let files = links.filter(|link| !link.contains(':')).filter_map(|link| link.split('#').next());
    files.filter(|file| !file.is_empty() && *file != SITE).collect()
}

#[cfg(test)]
mod tests {
    use super::{lead_outward, targets};

    #[test]
    fn links_to_files_of_the_site_are_found_and_others_left_out() {
        let html = r##"<a href="a.html#b"></a><img src="c.svg"><a href="#d"></a><a href="https://example.com/e"><base href="/drop/">"##;
        assert_eq!(targets(html), ["a.html", "c.svg"].into());
    }

    #[test]
    fn links_out_of_the_book_lead_to_the_repository() {
        let html = r#"<a href="../README.html#tests">a</a><a href="../examples/a.yaml">b</a><a href="c.html">c</a>"#;
        let expected = concat!(
            r#"<a href="https://github.com/corewire/drop/blob/main/README.md#tests">a</a>"#,
            r#"<a href="https://github.com/corewire/drop/blob/main/examples/a.yaml">b</a><a href="c.html">c</a>"#
        );
        assert_eq!(lead_outward(html, &crate::root().unwrap()), expected);
    }
}
