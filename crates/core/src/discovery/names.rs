//! Turns the texts of backends into images.

use std::collections::BTreeMap;

use regex::Regex;

use super::left_out::{LeftOut, Why};
use super::{InvalidSpec, regex};
use crate::Name;
use crate::objects::reference::{NotAName, Reference, check_name};

/// The longest full reference that a CachedImage can hold, in bytes.
const MAX_LENGTH: usize = 512;

/// The rule for the names that count as images.
#[derive(Clone, Debug)]
pub struct Names {
    filter: Option<Regex>,
}

impl Names {
    /// Compiles the rule. The full reference has to match `filter` (the spec's `imageFilter`).
    ///
    /// # Errors
    /// If `filter` is not a regular expression.
    pub fn compile(filter: Option<&str>) -> Result<Self, InvalidSpec> {
        Ok(Self { filter: filter.map(|pattern| regex("imageFilter", pattern)).transpose()? })
    }

    /// Returns the full reference that `text` means. All spellings of an image give the same one.
    pub fn read(&self, text: &str) -> Result<Name, LeftOut> {
        let text = text.trim();
        let left_out = |image: &str, why| Err(LeftOut { image: image.into(), why });
        if text.is_empty() {
            return left_out(text, Why::NoLabel);
        }
        let reference = Reference::parse(text);
        let image = reference.as_str();
        let checked = if image.len() > MAX_LENGTH { Err(NotAName::Form) } else { check_name(text) };
        match checked {
            // cAdvisor calls an image without a name by its ID, and CRI-O does so without `sha256:`.
            Err(NotAName::Id) => return left_out(text, Why::OnlyAnId),
            Err(NotAName::Form) => {
                return left_out(&text.chars().take(MAX_LENGTH).collect::<String>(), Why::NotAnImage);
            }
            Ok(()) => {}
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
    /// Returns the full reference that `text` means; `None` if it is left out.
    pub fn read(&mut self, text: &str) -> Option<Name> {
        if let Some(read) = self.read.get(text) {
            return read.clone().ok();
        }
        let read = self.names.read(text);
        self.read.insert(text.to_owned(), read.clone());
        read.ok()
    }

    /// The names that were left out.
    pub fn left_out(self) -> impl Iterator<Item = LeftOut> {
        self.read.into_values().filter_map(Result::err)
    }
}
