//! Effects that are under way or failed.

use jiff::Timestamp;

use super::effect::EffectKey;
use crate::Name;

/// An effect that is under way, or that failed and waits for a retry.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    /// Failures in a row.
    pub(crate) failures: u32,
    /// Whether one of the failed attempts may have been carried out.
    pub(crate) in_doubt: bool,
    /// The earliest next try; `None` while it is under way.
    pub(crate) not_before: Option<Timestamp>,
    /// The API server's message if it denied the effect.
    pub(crate) refusal: Option<Name>,
    /// Whether the object of the effect has gone since it began.
    pub(crate) is_overtaken: bool,
}

impl Flight {
    pub(crate) fn is_under_way(&self) -> bool {
        self.not_before.is_none()
    }

    /// Returns the set whose CachedImages this effect creates, changes or deletes, if any.
    pub(crate) fn fills<'a>(&self, key: &'a EffectKey) -> Option<&'a Name> {
        match key {
            EffectKey::Child { set, .. } if self.is_under_way() => Some(set),
            _ => None,
        }
    }
}
