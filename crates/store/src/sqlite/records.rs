//! Records in SQLite: one table, all services alike.

use std::{fs::File, path::Path};

use gridseal_crypto::{Key, role::RecordTag};
use gridseal_types::records::{Commit, Durability, Records, RecordsError, Table, Write};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::connection::{self, OpenError, Schema};
use crate::{
    SoleWriter, Standby, Transact,
    fence::{self, Claim, ClaimError, Fence},
    tags::{RowTags, Stored, StoredRow, Tag, Tagged, Unchecked, tagged},
};

const SCHEMA: Schema = Schema {
    application_id: u32::from_be_bytes(*b"GSrc"),
    version: 2,
    create: "CREATE TABLE records(
                 tbl TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, tag BLOB,
                 PRIMARY KEY(tbl, key)) STRICT, WITHOUT ROWID",
    upgrade: Some("ALTER TABLE records ADD COLUMN tag BLOB"),
};

const GET: &str = "SELECT value, tag FROM records WHERE tbl = ?1 AND key = ?2";
const RANGE: &str = "SELECT key, value, tag FROM records WHERE tbl = ?1 AND key > ?2 ORDER BY key LIMIT ?3";
const PUT: &str = "INSERT INTO records(tbl, key, value, tag) VALUES(?1, ?2, ?3, ?4)
                   ON CONFLICT(tbl, key) DO UPDATE SET value = excluded.value, tag = excluded.tag";
const DELETE: &str = "DELETE FROM records WHERE tbl = ?1 AND key = ?2";

const PAGE: &str = "SELECT tbl, key, value, tag FROM records WHERE (tbl, key) > (?1, ?2)
                    ORDER BY tbl, key LIMIT ?3";
const TAG: &str = "SELECT tag FROM records WHERE tbl = ?1 AND key = ?2";
const SET_TAG: &str = "UPDATE records SET tag = ?3 WHERE tbl = ?1 AND key = ?2";

/// The records of one service in an SQLite file; a change is on disk before `commit` or `transact` returns.
///
/// Several processes may open the same file, for example a service and a command line tool. Whoever decides on what it
/// reads uses [`SqliteRecords::transact`]; a plain [`Commit::commit`] is for blind writes and for files with one writer.
/// A caller waits up to [`crate::BUSY_TIMEOUT`] for the transaction of another process.
///
/// ```
/// use gridseal_store::SqliteRecords;
/// use gridseal_types::records::{Overlay, RecordsError};
///
/// let mut records = SqliteRecords::in_memory()?;
/// let count: u64 = records.transact(|records| {
///     let mut overlay = Overlay::new(records);
///     let count = overlay.load::<u64>("visits", b"meter")?.unwrap_or(0).saturating_add(1);
///     overlay.save("visits", b"meter", &count);
///     Ok::<_, RecordsError>((overlay.into_writes(), count))
/// })?;
/// assert_eq!(count, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SqliteRecords {
    connection: Connection,
    tags: Option<RowTags>,
    replication: Replication,
    fence: Option<Fence>,
    /// Held as long as this is the only writer.
    lock: Option<File>,
}

/// What [`Durability::Replicated`] asks for.
#[derive(Debug)]
enum Replication {
    /// Nothing can be replicated.
    Refused,
    /// The site has no standby and wants none.
    StandsAlone,
    To(Box<dyn Standby>),
    /// This is the standby: the changes bring the row of their writer along.
    Follows,
}

impl SqliteRecords {
    /// Opens a file, made when there is none; its mode is 0600.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Ok(Self::new(connection::open(path.as_ref(), &SCHEMA)?))
    }

    /// Records that are gone when dropped: for tests.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn in_memory() -> Result<Self, OpenError> {
        Ok(Self::new(connection::in_memory(&SCHEMA)?))
    }

    const fn new(connection: Connection) -> Self {
        Self { connection, tags: None, replication: Replication::Refused, fence: None, lock: None }
    }

    /// The same records for a site whose operator has decided to have no standby: [`Durability::Replicated`] then asks
    /// for no more than [`Durability::Local`], which otherwise is refused.
    #[must_use]
    pub fn standing_alone(mut self) -> Self {
        self.replication = Replication::StandsAlone;
        self
    }

    /// The same records with a standby, which gets each change that is committed under a claim.
    #[must_use]
    pub fn replicated_to(mut self, standby: impl Standby + 'static) -> Self {
        self.replication = Replication::To(Box::new(standby));
        self
    }

    /// The same records as a copy that follows the writer of another file: for [`crate::StandbyRecords`].
    #[must_use]
    pub fn as_standby(mut self) -> Self {
        self.replication = Replication::Follows;
        self
    }

    /// The same records with every row authenticated: one that was changed or moved is
    /// [`RecordsError::Damaged`] when it is read, and a claim checks them all. See [`crate::record_tag_key`].
    #[must_use]
    pub fn authenticated_by(mut self, key: Key<RecordTag, 32>) -> Self {
        self.tags = Some(RowTags(key));
        self
    }

    /// Gives the file room for so many pages of 4 KiB: a commit that needs more is [`RecordsError::Full`].
    ///
    /// # Errors
    /// [`RecordsError`].
    pub fn limit_pages(&mut self, pages: u32) -> Result<(), RecordsError> {
        self.connection
            .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
            .map_err(|error| failed("limit", &error))
    }

    /// Decision and commit in one transaction: [`Transact::transact`], for callers that know which records they have.
    ///
    /// # Errors
    /// What `decide` fails with, or [`RecordsError`]; nothing is written then.
    pub fn transact<T, E: From<RecordsError>>(
        &mut self,
        decide: impl FnOnce(&Self) -> Result<(Vec<Write>, T), E>,
    ) -> Result<T, E> {
        Transact::transact(self, decide)
    }

    fn decide_and_write<T, E: From<RecordsError>>(
        &mut self,
        decide: impl FnOnce(&Self) -> Result<(Vec<Write>, Durability, T), E>,
    ) -> Result<T, E> {
        let transaction = begin(&self.connection)?;
        let (table, key) = fence::row();
        let next = match self.replication {
            Replication::Follows => None,
            _ => fence::next(self.fence.as_ref(), self.get(table, key)?.as_deref())?,
        };
        let (writes, durability, result) = decide(self)?;
        let number = self.fence.as_ref().map(|fence| fence.commits().saturating_add(1));
        let waits = durability == Durability::Replicated;
        let is_possible = match (&mut self.replication, number) {
            (Replication::StandsAlone, _) => true,
            (Replication::To(standby), Some(number)) => !waits || standby.is_ready(number),
            _ => !waits,
        };
        if !is_possible {
            return Err(RecordsError::Unreplicated.into());
        }
        if writes.is_empty() {
            return Ok(result);
        }
        let changes = tagged(self.tags.as_ref(), writes, next, self)?;
        write(transaction, &changes)?;
        fence::follow(self.fence.as_mut())?;
        if let (Replication::To(standby), Some(number)) = (&mut self.replication, number) {
            standby.ship(number, &plain(changes));
            if waits && !standby.has_acknowledged(number) {
                return Err(RecordsError::Unreplicated.into());
            }
        }
        Ok(result)
    }
}

impl SoleWriter for SqliteRecords {
    fn claim(&mut self, claim: Claim, marker: &Path) -> Result<u64, ClaimError> {
        let lock = match self.connection.path() {
            Some(path) if !path.is_empty() && claim != Claim::Force => {
                Some(fence::lock(Path::new(&format!("{path}-writer")))?)
            }
            _ => None,
        };
        let transaction = begin(&self.connection)?;
        let (mut fence, position) = Fence::claim(self, claim, marker, self.tags.as_ref())?;
        let row = tagged(self.tags.as_ref(), Vec::new(), Some(position), self)?;
        write(transaction, &row)?;
        fence.claimed()?;
        let epoch = fence.epoch();
        if let Replication::To(standby) = &mut self.replication {
            standby.ship(fence.commits(), &plain(row));
        }
        (self.fence, self.lock) = (Some(fence), lock);
        Ok(epoch)
    }
}

/// Immediate: the write lock is taken before the first read. Dropped without commit, on an error or a panic of the
/// decision, the transaction rolls back.
fn begin(connection: &Connection) -> Result<Transaction<'_>, RecordsError> {
    Transaction::new_unchecked(connection, TransactionBehavior::Immediate)
        .map_err(|error| failed("begin", &error))
}

fn write(transaction: Transaction<'_>, changes: &[Tagged]) -> Result<(), RecordsError> {
    apply(&transaction, changes).map_err(|error| failed("write", &error))?;
    transaction.commit().map_err(|error| failed("commit", &error))
}

fn plain(changes: Vec<Tagged>) -> Vec<Write> {
    changes.into_iter().map(|Tagged { table, key, value, .. }| Write { table, key, value }).collect()
}

impl SqliteRecords {
    fn checked(
        &self,
        table: Table,
        key: &[u8],
        value: &[u8],
        tag: Option<&[u8]>,
    ) -> Result<(), RecordsError> {
        self.tags.as_ref().map_or(Ok(()), |tags| tags.check(table, key, value, tag))
    }
}

impl Stored for SqliteRecords {
    fn page(&self, (table, key): (&str, &[u8]), limit: usize) -> Result<Vec<StoredRow>, RecordsError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let page = || {
            let mut statement = self.connection.prepare_cached(PAGE)?;
            let rows = statement.query_map(params![table, key, limit], |row| {
                Ok(StoredRow { table: row.get(0)?, key: row.get(1)?, value: row.get(2)?, tag: row.get(3)? })
            })?;
            rows.collect::<rusqlite::Result<_>>()
        };
        page().map_err(|error| failed("page", &error))
    }

    fn writer_row(&self) -> Result<Option<StoredRow>, RecordsError> {
        let (table, key) = fence::row();
        let get = || {
            let mut statement = self.connection.prepare_cached(GET)?;
            let row = statement.query_row(params![table, key], |row| {
                let (table, key) = (table.to_owned(), key.to_vec());
                Ok(StoredRow { table, key, value: row.get(0)?, tag: row.get(1)? })
            });
            row.optional()
        };
        get().map_err(|error| failed("get", &error))
    }

    fn tags(&self, places: &[(Table, &[u8])]) -> Result<Vec<Option<Tag>>, RecordsError> {
        let tags = || {
            let mut statement = self.connection.prepare_cached(TAG)?;
            let tag = |(table, key): &(Table, &[u8])| {
                let tag = statement.query_row(params![table, key], |row| row.get::<_, Option<Tag>>(0));
                tag.optional().map(Option::flatten)
            };
            places.iter().map(tag).collect::<rusqlite::Result<_>>()
        };
        tags().map_err(|error| failed("tags", &error))
    }

    fn set_tags(&self, rows: &[(StoredRow, Tag)]) -> Result<(), RecordsError> {
        let set = || {
            let mut statement = self.connection.prepare_cached(SET_TAG)?;
            rows.iter()
                .try_for_each(|(row, tag)| statement.execute(params![row.table, row.key, tag]).map(|_| ()))
        };
        set().map_err(|error| failed("set tags", &error))
    }
}

impl Records for SqliteRecords {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, RecordsError> {
        let get = || {
            let mut statement = self.connection.prepare_cached(GET)?;
            let row = statement.query_row(params![table, key], |row| Ok((row.get(0)?, row.get(1)?)));
            row.optional()
        };
        let row: Option<(Vec<u8>, Option<Vec<u8>>)> = get().map_err(|error| failed("get", &error))?;
        let Some((value, tag)) = row else { return Ok(None) };
        self.checked(table, key, &value, tag.as_deref())?;
        Ok(Some(value))
    }

    fn range(
        &self,
        table: Table,
        after: &[u8],
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, RecordsError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let range = || {
            let mut statement = self.connection.prepare_cached(RANGE)?;
            let rows = statement
                .query_map(params![table, after, limit], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            rows.collect::<rusqlite::Result<_>>()
        };
        let rows: Vec<Unchecked> = range().map_err(|error| failed("range", &error))?;
        let checked = rows.into_iter().map(|(key, value, tag)| {
            self.checked(table, &key, &value, tag.as_deref())?;
            Ok((key, value))
        });
        checked.collect()
    }
}

impl Commit for SqliteRecords {
    fn commit_with(&mut self, writes: Vec<Write>, durability: Durability) -> Result<(), RecordsError> {
        self.transact_with(|_| Ok((writes, durability, ())))
    }
}

impl Transact for SqliteRecords {
    fn transact_with<T, E: From<RecordsError>>(
        &mut self,
        decide: impl FnOnce(&Self) -> Result<(Vec<Write>, Durability, T), E>,
    ) -> Result<T, E> {
        self.decide_and_write(decide)
    }
}

fn apply(connection: &Connection, changes: &[Tagged]) -> rusqlite::Result<()> {
    let mut put = connection.prepare_cached(PUT)?;
    let mut delete = connection.prepare_cached(DELETE)?;
    for Tagged { table, key, value, tag } in changes {
        match value {
            Some(value) => put.execute(params![table, key, value, tag])?,
            None => delete.execute(params![table, key])?,
        };
    }
    Ok(())
}

/// What an error means for the caller; the cause is for the operator. SQLite's messages hold no values.
fn failed(step: &'static str, error: &rusqlite::Error) -> RecordsError {
    let meaning = meaning_of(error);
    tracing::error!(code = meaning.code(), step, %error, "record store failed");
    meaning
}

/// SQLITE_IOERR_SHMSIZE: the index of the write-ahead log finds no room on the disk.
const NO_ROOM_FOR_INDEX: i32 = 10 | (19 << 8);

/// What an error of SQLite means for who asked.
pub(super) fn meaning_of(error: &rusqlite::Error) -> RecordsError {
    use rusqlite::ErrorCode::{DatabaseCorrupt, DiskFull, NotADatabase};
    if error.sqlite_error().is_some_and(|error| error.extended_code == NO_ROOM_FOR_INDEX) {
        return RecordsError::Full;
    }
    match error.sqlite_error_code() {
        Some(DiskFull) => RecordsError::Full,
        Some(DatabaseCorrupt | NotADatabase) => RecordsError::Damaged,
        _ => RecordsError::Failed,
    }
}
