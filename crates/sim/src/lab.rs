//! The lab, and the violations found in it.

use std::collections::BTreeMap;
use std::fmt;

use drop_core::{Name, Settings};
use jiff::{SignedDuration, Timestamp};

use crate::agenda::Agenda;
use crate::disk::Disk;
use crate::process::Process;
use crate::pulls::Pulls;
use crate::{Api, Knobs, Record};

/// The time at which every lab begins. The fraction reveals rounding to whole seconds.
pub(crate) const EPOCH: Timestamp = Timestamp::constant(1_767_225_600, 300_000_000);

/// How many violations are kept. The first ones are the most useful.
pub(crate) const KEPT: usize = 20;

/// A small cluster with an operator.
pub struct Lab {
    /// The current time.
    pub now: Timestamp,
    /// The durations and faults.
    pub knobs: Knobs,
    /// The objects of the API server.
    pub api: Api,
    /// The record of all events.
    pub record: Record,
    /// The name of this lab in the messages of failed checks.
    pub title: String,
    /// The violations, in order; at most 20.
    pub violations: Vec<Violation>,
    pub(crate) settings: Settings,
    /// The running operators; the one that was started last is the last.
    pub(crate) processes: Vec<Process>,
    /// The longest lag of a watch beyond the usual.
    pub(crate) longest_lag: SignedDuration,
    pub(crate) agenda: Agenda,
    /// The disks, by the node's UID.
    pub(crate) disks: BTreeMap<Name, Disk>,
    pub(crate) pulls: Pulls,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When the lab noticed it.
    pub at: Timestamp,
    /// The violation, as a sentence.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {}: {}", crate::record::clock(self.at), self.what)
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl Lab {
    /// Makes an empty cluster with a running operator.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let mut lab = Self {
            now: EPOCH,
            knobs: Knobs::default(),
            api: Api::default(),
            record: Record::default(),
            title: String::new(),
            violations: Vec::new(),
            settings,
            processes: Vec::new(),
            longest_lag: SignedDuration::ZERO,
            agenda: Agenda::default(),
            disks: BTreeMap::new(),
            pulls: Pulls::default(),
        };
        lab.start();
        lab
    }

    /// Records a violation.
    pub(crate) fn violate(&mut self, what: impl Into<String>) {
        if self.violations.len() < KEPT {
            let what = what.into();
            self.note(|| format!("VIOLATION: {what}"));
            self.violations.push(Violation { at: self.now, what });
        }
    }

    /// Begins to record events for [`Record::timeline`].
    pub fn keep_journal(&mut self) {
        self.record.journal.get_or_insert_default();
    }

    /// Begins to keep the events of watches in [`Record::history`].
    pub fn keep_history(&mut self) {
        self.record.history.get_or_insert_default();
    }

    /// Records an event in the journal, if there is one.
    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(journal) = &mut self.record.journal {
            journal.push((self.now, what()));
        }
    }

    pub(crate) fn violate_all(&mut self, whats: Vec<String>) {
        whats.into_iter().for_each(|what| self.violate(what));
    }

    /// Records that the script of events names an object that does not exist.
    pub(crate) fn misses(&mut self, kind: &str, name: &str) {
        self.violate(format!("there is no {kind} {name}"));
    }
}
