//! Where readings go: a port that the database adapters implement.

use gridseal_types::{ObisCode, Reading, ReadingKey, SystemTitle, UtcTime};

/// Most readings in one list.
pub const LIST_MAX: usize = 10_000;

/// What became of one reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreOutcome {
    /// It is new.
    Stored,
    /// The same reading is there already: nothing changed.
    Duplicate,
    /// Another reading has the same key: both are kept, the first stays current.
    Conflict,
}

/// Readings, stored once by their key (rule S7, decision D1).
pub trait ReadingStore {
    /// Why the store failed.
    type Error: core::error::Error;

    /// Stores all readings or none, durably before it returns. One outcome for each, in order; two readings of one
    /// call with the same key are judged one after the other.
    ///
    /// # Errors
    /// Whatever the store fails with: then nothing of this call is stored.
    fn store(&mut self, readings: &[Reading]) -> Result<Vec<StoreOutcome>, Self::Error>;

    /// Current readings that match, ascending by key (interval start first), at most `filter.limit`.
    ///
    /// # Errors
    /// Whatever the store fails with.
    fn list(&self, filter: &ReadingFilter) -> Result<Vec<Reading>, Self::Error>;
}

/// Which readings to list; what is `None` does not restrict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadingFilter {
    /// Of this meter.
    pub meter: Option<SystemTitle>,
    /// Of this quantity.
    pub obis: Option<ObisCode>,
    /// Interval starts here or later.
    pub from: Option<UtcTime>,
    /// Interval starts before.
    pub until: Option<UtcTime>,
    /// Only keys after this one: the last key of the page before.
    pub after: Option<ReadingKey>,
    /// Most readings wanted; above [`LIST_MAX`] counts as that.
    pub limit: usize,
}

impl Default for ReadingFilter {
    fn default() -> Self {
        Self { meter: None, obis: None, from: None, until: None, after: None, limit: LIST_MAX }
    }
}

impl ReadingFilter {
    /// Whether a reading with this key is wanted; the limit is not judged.
    #[must_use]
    pub fn matches(&self, key: &ReadingKey) -> bool {
        self.meter.is_none_or(|meter| meter == key.meter)
            && self.obis.is_none_or(|obis| obis == key.obis)
            && self.from.is_none_or(|from| from <= key.start)
            && self.until.is_none_or(|until| key.start < until)
            && self.after.is_none_or(|after| after < *key)
    }
}
