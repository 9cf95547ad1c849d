//! Decision and commit as one step.

use gridseal_types::records::{Commit, MemoryRecords, Records, RecordsError, Write};

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
    fn transact<T, E: From<RecordsError>>(
        &mut self,
        decide: impl FnOnce(&Self) -> Result<(Vec<Write>, T), E>,
    ) -> Result<T, E>;
}

impl Transact for MemoryRecords {
    fn transact<T, E: From<RecordsError>>(
        &mut self,
        decide: impl FnOnce(&Self) -> Result<(Vec<Write>, T), E>,
    ) -> Result<T, E> {
        let (writes, result) = decide(self)?;
        self.commit(writes)?;
        Ok(result)
    }
}
