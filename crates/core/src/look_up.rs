//! Many keys looked up in one map.

use std::borrow::Borrow;
use std::collections::BTreeMap;

/// A map with at most this many times more entries than keys is walked; in a larger one, each key is searched.
const SPARSE: usize = 8;

/// Returns the value of each of `keys` in `map`. The keys are in order and may repeat. If there are many keys, one walk
/// through both finds the values.
pub(crate) fn look_up<'a, K, Q, V>(map: &'a BTreeMap<K, V>, keys: &[&Q]) -> Vec<Option<&'a V>>
where
    K: Borrow<Q> + Ord,
    Q: Ord,
{
    if keys.len() * SPARSE < map.len() {
        return keys.iter().map(|key| map.get(*key)).collect();
    }
    let mut entries = map.iter().peekable();
    let find = |key: &&Q| {
        while entries.next_if(|(other, _)| (*other).borrow() < *key).is_some() {}
        entries.peek().filter(|(other, _)| (*other).borrow() == *key).map(|(_, value)| *value)
    };
    keys.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Name;

    #[test]
    fn keys_are_found_in_maps_of_any_size() {
        let names = ["b", "d", "d", "e"].map(Name::from);
        let names: Vec<&Name> = names.iter().collect();
        for keys in [&[][..], &["a"], &["d"], &["a", "b", "c", "e", "f"], &["c", "z"]] {
            let many = (0..100).map(|number| format!("a{number}"));
            let small: BTreeMap<Name, String> = keys.iter().map(|key| ((*key).into(), (*key).to_owned())).collect();
            let mut large = small.clone();
            large.extend(many.map(|key| (key.as_str().into(), key)));
            for map in [small, large] {
                let each: Vec<Option<&String>> = names.iter().map(|name| map.get(*name)).collect();
                assert_eq!(look_up(&map, &names), each, "{keys:?}");
            }
        }
    }
}
