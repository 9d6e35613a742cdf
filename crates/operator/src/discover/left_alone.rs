//! Servers that Drop does not ask for some time: they have asked for that, or are out of reach.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use drop_core::discovery::SourceFailure;
use jiff::Timestamp;

use crate::clock;

/// The servers that are left alone, each with the failure that is the reason, and until when.
pub struct LeftAlone<K>(Mutex<BTreeMap<K, (SourceFailure, Timestamp)>>);

impl<K: Ord> LeftAlone<K> {
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// Checks that a server may be asked.
    ///
    /// # Errors
    /// The failure for which it is left alone, with the time left.
    pub fn check(&self, server: &K) -> Result<(), SourceFailure> {
        let now = clock::now();
        let servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match servers.get(server) {
            Some((failure, until)) if *until > now => {
                Err(SourceFailure { retry_after: Some(until.duration_since(now)), ..failure.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Leaves a server alone for as long as its failure says; not at all if the failure does not say so.
    pub fn note(&self, server: K, failure: &SourceFailure) {
        let now = clock::now();
        let Some(until) = failure.retry_after.and_then(|wait| now.checked_add(wait).ok()) else { return };
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        servers.retain(|_, (_, until)| *until > now);
        servers.insert(server, (failure.clone(), until));
    }

    /// Lets a server be asked again: another test may get its port.
    #[cfg(test)]
    pub fn forget(&self, is_it: impl Fn(&K) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|server, _| !is_it(server));
    }
}
