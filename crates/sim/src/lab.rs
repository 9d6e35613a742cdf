//! The lab, and what is found wrong in it.

use std::collections::BTreeMap;
use std::fmt;

use drop_core::{Name, Settings};
use jiff::{SignedDuration, Timestamp};

use crate::agenda::Agenda;
use crate::disk::Disk;
use crate::process::Process;
use crate::pulls::Pulls;
use crate::{Api, Knobs, Record};

/// When every lab begins. The fraction shows where whole seconds are rounded.
pub(crate) const EPOCH: Timestamp = Timestamp::constant(1_767_225_600, 300_000_000);

/// How many violations are kept: the first ones tell most.
pub(crate) const KEPT: usize = 20;

/// A small cluster with an operator.
pub struct Lab {
    /// What time it is.
    pub now: Timestamp,
    /// How long things take, and what goes wrong.
    pub knobs: Knobs,
    /// What the API server has.
    pub api: Api,
    /// What happened.
    pub record: Record,
    /// What to call this lab where a check fails.
    pub title: String,
    /// What should not have happened, in the order in which it did; at most 20.
    pub violations: Vec<Violation>,
    pub(crate) settings: Settings,
    /// Operators that run; the last one was started last.
    pub(crate) processes: Vec<Process>,
    /// The most by which a watch has lagged, besides what is usual.
    pub(crate) longest_lag: SignedDuration,
    pub(crate) agenda: Agenda,
    /// By the node's UID what is on its disk.
    pub(crate) disks: BTreeMap<Name, Disk>,
    pub(crate) pulls: Pulls,
}

/// Something that should not have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When it was noticed.
    pub at: Timestamp,
    /// What it is, as a sentence.
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
    /// An empty cluster with a running operator.
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

    /// Takes down that something happened that should not have.
    pub(crate) fn violate(&mut self, what: impl Into<String>) {
        if self.violations.len() < KEPT {
            let what = what.into();
            self.note(|| format!("VIOLATION: {what}"));
            self.violations.push(Violation { at: self.now, what });
        }
    }

    /// Takes down from now on what happens, for [`Record::timeline`].
    pub fn keep_journal(&mut self) {
        self.record.journal.get_or_insert_default();
    }

    /// Keeps from now on what watches show, in [`Record::history`].
    pub fn keep_history(&mut self) {
        self.record.history.get_or_insert_default();
    }

    /// Takes down that something happened, where that is asked for.
    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(journal) = &mut self.record.journal {
            journal.push((self.now, what()));
        }
    }

    pub(crate) fn violate_all(&mut self, whats: Vec<String>) {
        whats.into_iter().for_each(|what| self.violate(what));
    }

    /// Takes down that the script of events names something that is not there.
    pub(crate) fn misses(&mut self, kind: &str, name: &str) {
        self.violate(format!("there is no {kind} {name}"));
    }
}
