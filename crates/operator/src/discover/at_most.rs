//! Lists with bounded memory.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The first `N` items of a list. The others are read, but not kept: a few kilobytes of gzip may expand to millions of
/// them.
#[derive(Debug)]
pub struct AtMost<T, const N: usize> {
    /// The first items.
    pub items: Vec<T>,
    /// Whether there were more.
    pub is_cut: bool,
}

impl<T, const N: usize> Default for AtMost<T, N> {
    fn default() -> Self {
        Self { items: Vec::new(), is_cut: false }
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for AtMost<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const N: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Items<T, N> {
            type Value = AtMost<T, N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<AtMost<T, N>, A::Error> {
                let mut list = AtMost::default();
                while list.items.len() < N {
                    match seq.next_element()? {
                        Some(item) => list.items.push(item),
                        None => return Ok(list),
                    }
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    list.is_cut = true;
                }
                Ok(list)
            }
        }
        deserializer.deserialize_seq(Items(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_is_read_over_and_told() {
        for (text, items, is_cut) in
            [("[]", vec![], false), ("[1,2]", vec![1, 2], false), (r#"[1,2,"three",{}]"#, vec![1, 2], true)]
        {
            let list: AtMost<u32, 2> = serde_json::from_str(text).unwrap();
            assert_eq!((list.items, list.is_cut), (items, is_cut), "{text}");
        }
        assert!(serde_json::from_str::<AtMost<u32, 2>>("[1,2,3").is_err());
    }
}
