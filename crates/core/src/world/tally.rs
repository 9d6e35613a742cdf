//! Counts the nodes on which an image has each standing.

use crate::objects::presence::Standing;

/// The number of nodes on which an image has each standing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) cached: usize,
    pub(crate) outdated: usize,
    pub(crate) missing: usize,
    pub(crate) failed: usize,
    pub(crate) evicted: usize,
}

impl Tally {
    pub(crate) fn targeted(self) -> usize {
        self.there() + self.missing + self.failed + self.evicted
    }

    /// Returns the number of nodes that have the image.
    pub(crate) fn there(self) -> usize {
        self.cached + self.outdated
    }

    pub(super) fn take_in(&mut self, mut moves: Moves) {
        for standing in Standing::ALL {
            let count = self.of(standing);
            *count = (*count + *moves.entered.of(standing)).saturating_sub(*moves.left.of(standing));
        }
    }

    pub(super) fn of(&mut self, standing: Standing) -> &mut usize {
        match standing {
            Standing::Cached => &mut self.cached,
            Standing::Outdated => &mut self.outdated,
            Standing::Missing => &mut self.missing,
            Standing::Failed => &mut self.failed,
            Standing::Evicted => &mut self.evicted,
        }
    }
}

/// The change of the numbers of nodes on which an image has each standing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moves {
    pub(super) left: Tally,
    pub(super) entered: Tally,
}

impl Moves {
    pub(super) fn add(&mut self, before: Option<Standing>, after: Option<Standing>) {
        before.into_iter().for_each(|standing| *self.left.of(standing) += 1);
        after.into_iter().for_each(|standing| *self.entered.of(standing) += 1);
    }
}
