//! Durable records as a port: what a service keeps is a handful of tables of (key, value), and a change of several of
//! them is one transaction. `store` implements it on SQLite, the simulator in memory with crashes.

use alloc::{collections::BTreeMap, vec::Vec};

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

/// The store failed; nothing of the transaction was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("record store failed")]
pub struct RecordsError;

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
    /// Makes all writes durable, or none.
    ///
    /// # Errors
    /// [`RecordsError`].
    fn commit(&mut self, writes: Vec<Write>) -> Result<(), RecordsError>;
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

    /// A typed value; one that does not decode counts as a failed store, never as absent.
    ///
    /// # Errors
    /// [`RecordsError`].
    pub fn load<T: for<'b> minicbor::Decode<'b, ()>>(
        &self,
        table: Table,
        key: &[u8],
    ) -> Result<Option<T>, RecordsError> {
        let bytes = self.get(table, key)?;
        bytes.map(|bytes| minicbor::decode(&bytes).map_err(|_| RecordsError)).transpose()
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

/// Records in memory: for tests and simulation. A clone taken before a commit is what a crash before it leaves.
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
    fn commit(&mut self, writes: Vec<Write>) -> Result<(), RecordsError> {
        for write in writes {
            match write.value {
                Some(value) => self.0.insert((write.table, write.key), value),
                None => self.0.remove(&(write.table, write.key)),
            };
        }
        Ok(())
    }
}
