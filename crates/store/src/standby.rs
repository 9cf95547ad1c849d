//! A second copy of the records of an SQLite file: what PostgreSQL does by itself, as a port.

use core::fmt;

use gridseal_types::records::{Commit, Durability, Records, RecordsError, Write};

use crate::fence;

/// Where the changes of a writer go beside its own file. Calls come in the order of the commits.
pub trait Standby: Send + fmt::Debug {
    /// Whether the standby has everything before commit `number` and can take it: asked before a commit that needs its
    /// word. `false` refuses that commit.
    fn is_ready(&mut self, number: u64) -> bool;

    /// Hands over the changes of a commit that is durable here. A standby that cannot take them is behind from then on.
    fn ship(&mut self, number: u64, writes: &[Write]);

    /// Waits, no longer than its own patience, until commit `number` is durable at the standby.
    fn has_acknowledged(&mut self, number: u64) -> bool;
}

/// Records as a standby: on another disk, or at the far end of a link that brings the changes.
#[derive(Debug)]
pub struct StandbyRecords<R> {
    records: R,
    /// Number of the last commit that is durable here; `None` once a commit failed.
    number: Option<u64>,
}

impl<R: Records + Commit> StandbyRecords<R> {
    /// Takes up where the copy stands. A new standby starts as a copy of the writer's file.
    ///
    /// # Errors
    /// [`RecordsError`].
    pub fn new(records: R) -> Result<Self, RecordsError> {
        let number = Some(fence::commits(&records)?);
        Ok(Self { records, number })
    }

    /// The copy.
    #[must_use]
    pub const fn records(&self) -> &R {
        &self.records
    }
}

impl<R: Records + Commit + Send + fmt::Debug> Standby for StandbyRecords<R> {
    fn is_ready(&mut self, number: u64) -> bool {
        self.number.and_then(|last| last.checked_add(1)) == Some(number)
    }

    fn ship(&mut self, number: u64, writes: &[Write]) {
        // A commit that comes twice is done already; one that leaves a gap cannot be taken any more.
        if !self.is_ready(number) {
            return;
        }
        let done = self.records.commit_with(writes.to_vec(), Durability::Local);
        self.number = done.is_ok().then_some(number);
    }

    fn has_acknowledged(&mut self, number: u64) -> bool {
        self.number.is_some_and(|last| last >= number)
    }
}
