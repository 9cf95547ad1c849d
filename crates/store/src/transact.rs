//! Decision and commit as one step.

use std::path::Path;

use gridseal_types::records::{Commit, Durability, MemoryRecords, Records, RecordsError, Write};

use crate::{Claim, ClaimError};

/// Records whose state a decision can rest on until its changes are committed.
///
/// Reading through [`Records`] and committing later through [`Commit`] is right only for the one process that writes.
/// As soon as a second one may write, its change can fall in between and is overwritten: the audit chain would fork.
pub trait Transact: Records + Commit {
    /// Lets `decide` read, then makes the writes it returns durable, all or none, before its other result is returned.
    /// Nobody else commits in between.
    ///
    /// A decision that is refused may still have something to record: it returns `Ok` with the writes and the refusal.
    /// Keep it short, and do not wait in it for anybody: other writers wait for it.
    ///
    /// # Errors
    /// What `decide` fails with, or [`RecordsError`]; nothing is written then.
    fn transact_with<T, E: From<RecordsError>>(
        &mut self,
        decide: impl FnOnce(&Self) -> Result<(Vec<Write>, Durability, T), E>,
    ) -> Result<T, E>;

    /// [`Transact::transact_with`] on this site's disk alone.
    ///
    /// # Errors
    /// As there.
    fn transact<T, E: From<RecordsError>>(
        &mut self,
        decide: impl FnOnce(&Self) -> Result<(Vec<Write>, T), E>,
    ) -> Result<T, E> {
        self.transact_with(|records| {
            decide(records).map(|(writes, result)| (writes, Durability::Local, result))
        })
    }
}

/// Records that can have one writer only, as a service needs that rests on what it holds in memory.
pub trait SoleWriter: Transact {
    /// Becomes the only writer, and returns the epoch of the claim: from now on nobody else commits, whether he has
    /// claimed or not, until a later claim. Reading stays open to all.
    ///
    /// `marker` is a file that is not kept, backed up and restored together with the database: it tells an older database
    /// that was put back from the newest.
    ///
    /// # Errors
    /// [`ClaimError`]; the database is as it was.
    fn claim(&mut self, claim: Claim, marker: &Path) -> Result<u64, ClaimError>;
}

impl Transact for MemoryRecords {
    fn transact_with<T, E: From<RecordsError>>(
        &mut self,
        decide: impl FnOnce(&Self) -> Result<(Vec<Write>, Durability, T), E>,
    ) -> Result<T, E> {
        let (writes, durability, result) = decide(self)?;
        self.commit_with(writes, durability)?;
        Ok(result)
    }
}
