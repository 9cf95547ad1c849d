//! Durable records as a port: what a service keeps is a handful of tables of (key, value), and a change of several of
//! them is one transaction. `store` implements it on SQLite, the simulator in memory with crashes.

use alloc::{collections::BTreeMap, vec::Vec};

use crate::Kind;

/// Key and value of one row.
pub type Row = (Vec<u8>, Vec<u8>);

/// Name of a table; each service declares its own.
pub type Table = &'static str;

/// One change: a new value, or none to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Table.
    pub table: Table,
    /// Key within the table.
    pub key: Vec<u8>,
    /// New value.
    pub value: Option<Vec<u8>>,
}

/// How far a commit must have come before it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Durability {
    /// On this site's disk. A standby gets it a little later.
    #[default]
    Local,
    /// On this site's disk and on the standby's, as for everything whose loss could strand a meter. A store that has
    /// neither a standby nor the word of its operator that it stands alone refuses it.
    Replicated,
}

/// The store failed. Except after [`RecordsError::Uncertain`] and [`RecordsError::Unreplicated`] nothing of the
/// transaction was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordsError {
    /// The database or its disk failed.
    #[error("record store failed")]
    Failed,
    /// A row does not have the form in which it was written, or the database is damaged.
    #[error("record is damaged")]
    Damaged,
    /// The disk, or the room given to the database, is full.
    #[error("no room for the changes")]
    Full,
    /// Another writer has taken the store over: this one only reads.
    #[error("another writer has taken the store over")]
    Fenced,
    /// No standby has acknowledged. The changes may be durable here: what rests on memory is to be loaded again.
    #[error("no standby has acknowledged the changes")]
    Unreplicated,
    /// Whether the changes are durable is not known: what rests on memory is to be loaded again.
    #[error("outcome of the commit is not known")]
    Uncertain,
}

impl RecordsError {
    /// Stable name, as in logs and replies: `store.fenced`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Failed => "store.failed",
            Self::Damaged => "store.damaged",
            Self::Full => "store.full",
            Self::Fenced => "store.fenced",
            Self::Unreplicated => "store.unreplicated",
            Self::Uncertain => "store.uncertain",
        }
    }

    /// Who has to act.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::Failed | Self::Damaged | Self::Full | Self::Fenced => Kind::Local,
            Self::Unreplicated | Self::Uncertain => Kind::Transient,
        }
    }
}

/// Reading side of the port. It shows committed state only.
pub trait Records {
    /// The value of a key.
    ///
    /// # Errors
    /// [`RecordsError`].
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, RecordsError>;

    /// Up to `limit` entries with keys above `after`, ascending.
    ///
    /// # Errors
    /// [`RecordsError`].
    fn range(&self, table: Table, after: &[u8], limit: usize) -> Result<Vec<Row>, RecordsError>;
}

/// Writing side of the port.
pub trait Commit {
    /// Makes all writes durable, or none, and returns when they are as durable as wanted. The last write of a key counts.
    ///
    /// # Errors
    /// [`RecordsError`].
    fn commit_with(&mut self, writes: Vec<Write>, durability: Durability) -> Result<(), RecordsError>;

    /// [`Commit::commit_with`] on this site's disk alone.
    ///
    /// # Errors
    /// [`RecordsError`].
    fn commit(&mut self, writes: Vec<Write>) -> Result<(), RecordsError> {
        self.commit_with(writes, Durability::Local)
    }
}

/// Committed state with the changes of a decision in the making on top. The decision sees its own changes; nobody else
/// does until they are committed.
#[derive(Debug)]
pub struct Overlay<'r, R> {
    base: &'r R,
    pending: BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>,
}

impl<'r, R: Records> Overlay<'r, R> {
    /// Nothing changed yet.
    pub const fn new(base: &'r R) -> Self {
        Self { base, pending: BTreeMap::new() }
    }

    /// What lies below, without the changes of this decision.
    #[must_use]
    pub const fn base(&self) -> &'r R {
        self.base
    }

    /// The value of a key as this decision sees it.
    ///
    /// # Errors
    /// [`RecordsError`].
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, RecordsError> {
        match self.pending.get(&(table, key.to_vec())) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(table, key),
        }
    }

    /// A typed value; one that does not decode counts as a damaged store, never as absent.
    ///
    /// # Errors
    /// [`RecordsError`].
    pub fn load<T: for<'b> minicbor::Decode<'b, ()>>(
        &self,
        table: Table,
        key: &[u8],
    ) -> Result<Option<T>, RecordsError> {
        let bytes = self.get(table, key)?;
        bytes.map(|bytes| minicbor::decode(&bytes).map_err(|_| RecordsError::Damaged)).transpose()
    }

    /// Sets a value.
    pub fn put(&mut self, table: Table, key: &[u8], value: Vec<u8>) {
        self.pending.insert((table, key.to_vec()), Some(value));
    }

    /// Sets a typed value.
    pub fn save<T: minicbor::Encode<()>>(&mut self, table: Table, key: &[u8], value: &T) {
        // Encoding into memory cannot fail for types without a failing `Encode`.
        self.put(table, key, minicbor::to_vec(value).unwrap_or_default());
    }

    /// Deletes a key.
    pub fn delete(&mut self, table: Table, key: &[u8]) {
        self.pending.insert((table, key.to_vec()), None);
    }

    /// The changes, to be committed as one transaction.
    #[must_use]
    pub fn into_writes(self) -> Vec<Write> {
        self.pending.into_iter().map(|((table, key), value)| Write { table, key, value }).collect()
    }
}

/// Records in memory: for tests and simulation. A clone taken before a commit is what a crash before it leaves. They
/// stand alone, so [`Durability::Replicated`] asks for nothing more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryRecords(BTreeMap<(Table, Vec<u8>), Vec<u8>>);

impl Records for MemoryRecords {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, RecordsError> {
        Ok(self.0.get(&(table, key.to_vec())).cloned())
    }

    fn range(&self, table: Table, after: &[u8], limit: usize) -> Result<Vec<Row>, RecordsError> {
        let start = core::ops::Bound::Excluded((table, after.to_vec()));
        let entries = self.0.range((start, core::ops::Bound::Unbounded));
        let entries = entries.take_while(|((found, _), _)| *found == table).take(limit);
        Ok(entries.map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }
}

impl Commit for MemoryRecords {
    fn commit_with(&mut self, writes: Vec<Write>, _: Durability) -> Result<(), RecordsError> {
        for write in writes {
            match write.value {
                Some(value) => self.0.insert((write.table, write.key), value),
                None => self.0.remove(&(write.table, write.key)),
            };
        }
        Ok(())
    }
}
