//! Texts that many objects share, each kept once.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::Name;

/// The fewest texts that are looked through for those that nobody uses any more.
const FEW: usize = 1000;

/// Texts in use. Five thousand nodes that remember the same image hold its reference
/// and digest once.
#[derive(Debug, Default)]
pub struct Texts {
    texts: BTreeSet<Name>,
    /// How many there were when those that nobody used were last dropped.
    kept: usize,
}

impl Texts {
    /// The one copy of `text`.
    pub fn share(&mut self, text: &str) -> Name {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        if self.texts.len() > 2 * self.kept + FEW {
            self.texts.retain(|text| Arc::strong_count(text) > 1);
            self.kept = self.texts.len();
        }
        let text = Name::from(text);
        self.texts.insert(text.clone());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_kept_once_and_for_as_long_as_it_is_used() {
        let mut texts = Texts::default();
        let one = texts.share("alpine");
        assert!(Arc::ptr_eq(&one, &texts.share("alpine")));
        for number in 0..10 * FEW {
            texts.share(&number.to_string());
        }
        assert!(texts.texts.len() <= 2 * FEW, "{}", texts.texts.len());
        assert!(Arc::ptr_eq(&one, &texts.share("alpine")));
    }
}
