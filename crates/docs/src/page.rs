//! A page, its links and the anchors that links may name.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

use crate::{Block, root};

/// Directories of the root without pages: what is built, and what is hidden.
const WITHOUT: &str = "target";

/// A Markdown file.
#[derive(Clone, Debug)]
pub struct Page {
    /// Its path below the root.
    pub path: PathBuf,
    /// What is written in it.
    pub text: String,
}

/// Every Markdown file of the repository, in the order of their paths.
///
/// # Errors
/// One cannot be read.
pub fn pages() -> io::Result<Vec<Page>> {
    let mut pages = Vec::new();
    collect(Path::new(""), &mut pages)?;
    pages.sort_by(|one: &Page, other| one.path.cmp(&other.path));
    Ok(pages)
}

fn collect(folder: &Path, pages: &mut Vec<Page>) -> io::Result<()> {
    for entry in fs::read_dir(root().join(folder))? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        let path = folder.join(&name);
        if kind.is_dir() && name != WITHOUT && !name.as_encoded_bytes().starts_with(b".") {
            collect(&path, pages)?;
        } else if kind.is_file() && path.extension() == Some(OsStr::new("md")) {
            pages.push(Page { text: fs::read_to_string(entry.path())?, path });
        }
    }
    Ok(())
}

impl Page {
    fn events(&self) -> Parser<'_> {
        Parser::new_ext(&self.text, Options::ENABLE_TABLES)
    }

    /// Where the page's links and pictures lead, as it is written.
    #[must_use]
    pub fn links(&self) -> Vec<String> {
        let target = |event| match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => Some(dest_url.into_string()),
            _ => None,
        };
        self.events().filter_map(target).collect()
    }

    /// What may follow the `#` of a link to the page: its headings in lower case, with dashes for spaces and
    /// without punctuation.
    #[must_use]
    pub fn anchors(&self) -> BTreeSet<String> {
        let (mut anchors, mut heading) = (BTreeSet::new(), None::<String>);
        for event in self.events() {
            match (event, &mut heading) {
                (Event::Start(Tag::Heading { .. }), _) => heading = Some(String::new()),
                (Event::Text(text) | Event::Code(text), Some(heading)) => heading.push_str(&text),
                (Event::End(TagEnd::Heading(_)), _) => anchors.extend(heading.take().as_deref().map(anchor)),
                _ => {}
            }
        }
        anchors
    }

    /// The page's fenced blocks of code, with what they include.
    ///
    /// # Errors
    /// A file that is included cannot be read.
    pub fn blocks(&self) -> io::Result<Vec<Block>> {
        let (mut blocks, mut block) = (Vec::new(), None::<Block>);
        for (event, range) in self.events().into_offset_iter() {
            match (event, &mut block) {
                (Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))), _) => {
                    let line = 1 + self.text.get(..range.start).unwrap_or_default().matches('\n').count();
                    block = Some(Block::new(&self.path, line, &info));
                }
                (Event::Text(text), Some(block)) => block.text.push_str(&text),
                (Event::End(TagEnd::CodeBlock), _) => blocks.extend(block.take()),
                _ => {}
            }
        }
        blocks.iter_mut().try_for_each(Block::include)?;
        Ok(blocks)
    }
}

fn anchor(heading: &str) -> String {
    let letters = heading.chars().filter(|&c| c.is_alphanumeric() || c == ' ' || c == '-' || c == '_');
    letters.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> Page {
        Page { path: "docs/page.md".into(), text: text.to_owned() }
    }

    #[test]
    fn links_pictures_and_anchors_are_found() {
        let page = page("# What `drop demo` shows, and why\n[a](b.md#c) ![d](e.svg)\n\n    [no](link)\n");
        assert_eq!(page.links(), ["b.md#c", "e.svg"]);
        assert_eq!(page.anchors(), ["what-drop-demo-shows-and-why".to_owned()].into());
    }

    #[test]
    fn a_block_knows_its_line_its_language_and_what_it_includes() {
        let page = page("text\n\n```yaml refused\n{{#include ../clippy.toml}}\na: b\n```\n");
        let blocks = page.blocks().unwrap();
        assert_eq!(blocks.len(), 1);
        assert_eq!(blocks[0].to_string(), "docs/page.md:3");
        assert_eq!(blocks[0].language, "yaml");
        assert!(blocks[0].is("refused"));
        assert!(blocks[0].text.starts_with("allow-unwrap-in-tests") && blocks[0].text.ends_with("a: b\n"));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = page("```yaml\n{{#include nothing.yaml}}\n```\n").blocks().unwrap_err();
        assert!(error.to_string().contains("docs/page.md:1: docs/nothing.yaml"), "{error}");
    }
}
