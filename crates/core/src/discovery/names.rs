//! From the texts of backends to images.

use std::collections::BTreeMap;

use drop_api::cached_image::IMAGE_NAME;
use regex::Regex;

use super::left_out::{LeftOut, Why};
use super::{InvalidSpec, regex};
use crate::Name;
use crate::objects::reference::Reference;

/// The longest full reference, in bytes: what a CachedImage can hold.
const MAX_LENGTH: usize = 512;

/// What counts as an image.
#[derive(Clone, Debug)]
pub struct Names {
    grammar: Regex,
    filter: Option<Regex>,
}

impl Names {
    /// Of those, `filter` (the spec's `imageFilter`) is to match the full reference.
    ///
    /// # Errors
    /// Where `filter` is no regular expression.
    pub fn compile(filter: Option<&str>) -> Result<Self, InvalidSpec> {
        Ok(Self {
            grammar: regex("", IMAGE_NAME)?,
            filter: filter.map(|pattern| regex("imageFilter", pattern)).transpose()?,
        })
    }

    /// The full reference that `text` means, so that all spellings of an image are one.
    fn read(&self, text: &str) -> Result<Name, LeftOut> {
        let text = text.trim();
        let left_out = |image: &str, why| Err(LeftOut { image: image.into(), why });
        if text.is_empty() {
            return left_out(text, Why::NoLabel);
        }
        // Kubelet and cAdvisor call an image without a name by its ID.
        if text.starts_with("sha256:") {
            return left_out(text, Why::OnlyAnId);
        }
        let reference = Reference::parse(text);
        let image = reference.as_str();
        if image.len() > MAX_LENGTH || !self.grammar.is_match(image) {
            return left_out(&text.chars().take(MAX_LENGTH).collect::<String>(), Why::NotAnImage);
        }
        if self.filter.as_ref().is_some_and(|filter| !filter.is_match(image)) {
            return left_out(image, Why::ImageFilter);
        }
        Ok(image.into())
    }

    /// Reads the texts of one answer.
    pub fn reader(&self) -> Reader<'_> {
        Reader { names: self, read: BTreeMap::new() }
    }
}

/// Reads each text of an answer once, however often it occurs.
pub struct Reader<'a> {
    names: &'a Names,
    read: BTreeMap<String, Result<Name, LeftOut>>,
}

impl Reader<'_> {
    /// The full reference that `text` means; `None` where it is left out.
    pub fn read(&mut self, text: &str) -> Option<Name> {
        if let Some(read) = self.read.get(text) {
            return read.clone().ok();
        }
        let read = self.names.read(text);
        self.read.insert(text.to_owned(), read.clone());
        read.ok()
    }

    /// What was left out.
    pub fn left_out(self) -> impl Iterator<Item = LeftOut> {
        self.read.into_values().filter_map(Result::err)
    }
}
