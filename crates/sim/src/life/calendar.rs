//! What is due when.

use std::{cmp::Reverse, collections::BinaryHeap};

use gridseal_types::UtcTime;

/// Something that is due. Meters and owners are numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// A meter is made, sold, mounted and switched on.
    Install,
    /// Something with a meter, as long as this owner has it.
    Meter {
        meter: usize,
        owner: usize,
        what: What,
    },
    /// An owner looks who is silent.
    Look(usize),
    /// A site of an owner burns down, comes back, and the owner changes to it.
    SiteBurns(usize),
    SiteReturns(usize),
    SiteChanges(usize),
    /// The authorities of an owner issue nothing for a while.
    AuthorityFails(usize),
    AuthorityReturns(usize),
}

/// What is due with a meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// It is attested and read.
    Visit,
    /// It is read again, after so many tries.
    Reach(u32),
    /// The DLMS keys change; the number of the change for this owner.
    Rekey(u32),
    /// The channel secrets in the root change.
    Rotate,
    /// Both ways to change keys at once.
    Cross,
    /// Its software changes.
    Update,
    /// It boots something else while it is held back.
    DoubtHeld,
    /// The authorisations of the TPM change.
    Authorise,
    /// It is held back, and let go.
    Suspend,
    Resume,
    /// It boots something else, and a person looks and lets it go.
    Doubt,
    Trust,
    /// It is stolen.
    Steal,
    /// It goes to the next owner.
    Sell,
    /// It comes to its end.
    End,
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
