//! Label, annotation and field-manager names, and the rules that make any
//! string fit where Kubernetes bounds it.

/// Value of [`LABEL_MANAGED_BY`] and the field manager of every write.
pub const MANAGER: &str = "drop";
/// `apiVersion` of Drop's objects.
pub const API_VERSION: &str = "drop.corewire.io/v1alpha1";

/// Marks the Pods that Drop made.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// On a pull Pod with one image: its CachedImage.
pub const LABEL_CACHED_IMAGE: &str = "drop.corewire.io/cachedimage";
/// On a pull Pod and on a child CachedImage: the CachedImageSet.
pub const LABEL_IMAGE_SET: &str = "drop.corewire.io/imageset";
/// On a child CachedImage: whether it is in its set's list, [`ORIGIN_STATIC`], or only
/// discovered, [`ORIGIN_DISCOVERED`].
pub const LABEL_ORIGIN: &str = "drop.corewire.io/origin";
/// Value of [`LABEL_ORIGIN`].
pub const ORIGIN_STATIC: &str = "static";
/// Value of [`LABEL_ORIGIN`].
pub const ORIGIN_DISCOVERED: &str = "discovered";
/// On a pull Pod: the node it pulls onto.
pub const LABEL_NODE: &str = "drop.corewire.io/node";
/// Prefix of the label keys that a pull Pod carries, one per CachedImage.
pub const LABEL_PREFIX_CACHED_IMAGE: &str = "cachedimage.drop.corewire.io/";
/// On a pull Pod: the PullPolicy whose limits it counts against; absent for the
/// built-in defaults. An annotation, because a policy's name may be longer than
/// a label's value.
pub const ANNOTATION_POLICY: &str = "drop.corewire.io/policy";
/// On a pull Pod: the references that its containers were ordered to pull, in their order, separated by
/// spaces. Admission may rewrite those in the containers, to those of a proxy for one.
pub const ANNOTATION_IMAGES: &str = "drop.corewire.io/images";
/// When the turn of its node began that a pull Pod goes on with, so that a restarted operator knows; absent where the
/// Pod begins a turn.
pub const ANNOTATION_GOES_ON_SINCE: &str = "drop.corewire.io/goes-on-since";
/// Tells the cluster autoscaler that a pull Pod does not keep its node.
pub const ANNOTATION_SAFE_TO_EVICT: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict";

/// The longest label value, and the longest name part of a label key.
const LABEL_MAX: usize = 63;

/// `text` as a label value or the name part of a label key: itself where it
/// fits, else a readable prefix and a hash of the whole.
///
/// `text` must consist of characters that labels allow, as object names do.
#[must_use]
pub fn label_value(text: &str) -> String {
    bounded(text, LABEL_MAX)
}

/// `text` where it has at most `max` characters, else a readable prefix and a
/// hash of the whole.
#[must_use]
pub fn bounded(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let hash = short_hash(text.as_bytes());
    let prefix: String = text.chars().take(max.saturating_sub(hash.len() + 1)).collect();
    format!("{}-{hash}", prefix.trim_end_matches(['-', '.', '_']))
}

/// Ten characters that stand for `bytes`: the first 50 bits of their 64-bit
/// FNV-1a hash, mixed, in the alphabet that Kubernetes uses for generated names
/// (no vowels, so no words).
///
/// FNV-1a: Fowler, Noll, Vo, <http://www.isthe.com/chongo/tech/comp/fnv/>; the
/// finaliser is MurmurHash3's, which spreads the low bits upwards.
#[must_use]
pub fn short_hash(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"bcdfghjklmnpqrstvwxz2456789013ay";
    let mut hash = stable_hash(bytes);
    (0..10)
        .map(|_| {
            let index = usize::try_from(hash >> 59).unwrap_or_default();
            hash <<= 5;
            char::from(ALPHABET.get(index).copied().unwrap_or(b'b'))
        })
        .collect()
}

/// A 64-bit hash that is the same in every process and version of Drop.
#[must_use]
pub fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_stay_and_long_ones_keep_a_readable_prefix() {
        assert_eq!(label_value("alpine-3-20"), "alpine-3-20");
        let fits = "x".repeat(63);
        assert_eq!(label_value(&fits), fits);

        let long = format!("{}.{}", "a".repeat(51), "b".repeat(201));
        let value = label_value(&long);
        assert!(value.len() <= 63 && value.starts_with(&"a".repeat(51)), "{value}");
        assert!(value.ends_with(|c: char| c.is_ascii_alphanumeric()), "{value}");
        assert_ne!(value, label_value(&format!("{long}c")));
    }

    #[test]
    fn hashes_differ_in_every_character_position() {
        let hashes: std::collections::BTreeSet<_> = (0..10_000_u32).map(|n| short_hash(&n.to_le_bytes())).collect();
        assert_eq!(hashes.len(), 10_000);
        for position in 0..10 {
            let used: std::collections::BTreeSet<_> =
                hashes.iter().filter_map(|hash| hash.chars().nth(position)).collect();
            assert_eq!(used.len(), 32, "position {position}");
        }
    }
}
