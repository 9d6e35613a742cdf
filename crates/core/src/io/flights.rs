//! Effects that are under way or failed.

use jiff::Timestamp;

use super::effect::EffectKey;
use crate::Name;

/// An effect that is under way, or that failed and waits.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    /// Failures in a row.
    pub(crate) failures: u32,
    /// Whether one of them may have been done all the same.
    pub(crate) in_doubt: bool,
    /// The earliest next try; `None` while it is under way.
    pub(crate) not_before: Option<Timestamp>,
    /// The API server's message if it refused the effect.
    pub(crate) refusal: Option<Name>,
    /// Whether the object of the effect is gone since.
    pub(crate) is_overtaken: bool,
}

impl Flight {
    pub(crate) fn is_under_way(&self) -> bool {
        self.not_before.is_none()
    }

    /// The set whose CachedImages this is creating, changing or deleting, if it is about one.
    pub(crate) fn fills<'a>(&self, key: &'a EffectKey) -> Option<&'a Name> {
        match key {
            EffectKey::Child { set, .. } if self.is_under_way() => Some(set),
            _ => None,
        }
    }
}
