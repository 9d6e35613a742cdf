//! Names of objects.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A name or UID; cheap to copy, shared wherever it occurs.
///
/// The maps of a [`World`](crate::World) compare names millions of times per plan. Copies of one name have the same
/// address, and other names are compared by eight bytes at a time: the `memcmp` of musl, which the binary of the
/// container image uses, goes byte by byte.
#[derive(Clone)]
pub struct Name(Arc<str>);

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Default for Name {
    fn default() -> Self {
        Self("".into())
    }
}

impl<T: Into<Arc<str>>> From<T> for Name {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.cmp(other).is_eq()
    }
}

impl Eq for Name {}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { compare(self.as_bytes(), other.as_bytes()) }
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// As `str` does, because maps of names are also asked for texts.
impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_str().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// Compares bytes as slices compare, eight at a time.
fn compare(one: &[u8], other: &[u8]) -> Ordering {
    let (words, other_words) = (one.as_chunks::<8>().0, other.as_chunks::<8>().0);
    for (word, other_word) in words.iter().zip(other_words) {
        let (word, other_word) = (u64::from_be_bytes(*word), u64::from_be_bytes(*other_word));
        if word != other_word {
            return word.cmp(&other_word);
        }
    }
    let done = words.len().min(other_words.len()) * 8;
    let (rest, other_rest) = (one.get(done..).unwrap_or_default(), other.get(done..).unwrap_or_default());
    for (byte, other_byte) in rest.iter().zip(other_rest) {
        if byte != other_byte {
            return byte.cmp(other_byte);
        }
    }
    rest.len().cmp(&other_rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_compare_as_texts_do() {
        let parts = ["", "a", "b", "node-1", "node-10", "node-2", "registry.example.com/a", "é", "~", "\u{10ffff}"];
        let texts: Vec<String> =
            parts.iter().flat_map(|one| parts.iter().map(move |two| format!("{one}{two}"))).collect();
        for one in &texts {
            for other in &texts {
                let (name, other_name) = (Name::from(&**one), Name::from(&**other));
                assert_eq!(name.cmp(&other_name), one.cmp(other), "{one:?} {other:?}");
                assert_eq!(name == other_name, one == other, "{one:?} {other:?}");
                assert_eq!(name.cmp(&name.clone()), Ordering::Equal);
            }
        }
    }
}
