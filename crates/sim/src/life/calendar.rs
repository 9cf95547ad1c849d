//! What is due when.

use std::{cmp::Reverse, collections::BinaryHeap};

use gridseal_types::UtcTime;

/// Something that is due. Meters are numbered from 0 in their part of the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// A meter is made, sold, mounted and switched on.
    Install(usize),
    /// It is visited: attested, read.
    Visit(usize),
    /// It is visited again, for so many times already.
    Reach(usize, u32),
    /// Its keys are changed; the number of the change for this owner, from 0.
    Rekey(usize, u32),
    /// A site of an owner burns down, comes back, and serves again.
    SiteBurns(usize),
    SiteReturns(usize),
    SiteChanges(usize),
}

/// What is due, in its order.
#[derive(Debug, Default)]
pub(super) struct Calendar {
    queue: BinaryHeap<Reverse<(UtcTime, u64, Due)>>,
    entered: u64,
}

impl Calendar {
    pub(super) fn enter(&mut self, at: UtcTime, due: Due) {
        self.entered += 1;
        self.queue.push(Reverse((at, self.entered, due)));
    }

    pub(super) fn next(&mut self) -> Option<(UtcTime, Due)> {
        self.queue.pop().map(|Reverse((at, _, due))| (at, due))
    }
}
