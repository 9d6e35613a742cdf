//! Keeps one copy of each value that many objects share.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::Name;

/// With fewer values than this, unused ones are not looked for.
const FEW: usize = 1000;

/// The values in use. Five thousand nodes that list or remember the same image share one copy.
#[derive(Debug)]
pub struct Interner<T: ?Sized> {
    values: BTreeSet<Arc<T>>,
    /// The number of values that were kept when unused ones were last dropped.
    kept: usize,
}

/// Texts, such as references and digests.
#[derive(Debug, Default)]
pub struct Texts(Interner<str>);

impl Texts {
    /// Returns the one copy of `text`.
    pub fn share(&mut self, text: &str) -> Name {
        self.0.share(text).into()
    }
}

impl<T: ?Sized> Default for Interner<T> {
    fn default() -> Self {
        Self { values: BTreeSet::new(), kept: 0 }
    }
}

impl<T: ?Sized + Ord> Interner<T> {
    /// Returns the one copy of `value`.
    pub fn share<V: Borrow<T> + Into<Arc<T>>>(&mut self, value: V) -> Arc<T> {
        if let Some(known) = self.values.get(value.borrow()) {
            return known.clone();
        }
        if self.values.len() > 2 * self.kept + FEW {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.kept = self.values.len();
        }
        let value = value.into();
        self.values.insert(value.clone());
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_kept_once_and_for_as_long_as_it_is_used() {
        let mut texts = Interner::<str>::default();
        let one = texts.share("alpine");
        assert!(Arc::ptr_eq(&one, &texts.share("alpine")));
        for number in 0..10 * FEW {
            texts.share(number.to_string().as_str());
        }
        assert!(texts.values.len() <= 2 * FEW, "{}", texts.values.len());
        assert!(Arc::ptr_eq(&one, &texts.share("alpine")));
    }
}
