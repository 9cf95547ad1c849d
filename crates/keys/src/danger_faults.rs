//! Faults that a simulator plants to see that it finds them. Built only with the feature `danger-faults`.

/// One fault of the key service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// Answers leave before their commit. The driver does that: nothing in here changes.
    PersistFirst,
    /// A change counts as confirmed on the head-end's word, and the old keys are destroyed when the new ones are sent.
    Confirm,
    /// Counters are used beyond the durable block.
    Lease,
    /// A promotion takes the epoch that is there.
    Epoch,
    /// A byte-identical repeat is answered as a replay.
    OpenIdempotent,
}

impl Fault {
    /// All faults.
    pub const ALL: [Self; 5] =
        [Self::PersistFirst, Self::Confirm, Self::Lease, Self::Epoch, Self::OpenIdempotent];

    /// Name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PersistFirst => "persist-first",
            Self::Confirm => "confirm",
            Self::Lease => "lease",
            Self::Epoch => "epoch",
            Self::OpenIdempotent => "open-idempotent",
        }
    }
}
