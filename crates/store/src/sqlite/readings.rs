//! Readings in SQLite: time first, each once, sealed.

use core::fmt;
use std::path::Path;

use gridseal_crypto::{EnvelopeError, Key, Rng, RngError, role::Dek};
use gridseal_headend::{LIST_MAX, ReadingFilter, ReadingStore, StoreOutcome};
use gridseal_types::{Kind, ObisCode, Reading, ReadingKey, SystemTitle, UtcTime, records::RecordsError};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::{
    access::{self, Access},
    connection::{self, OpenError, Schema},
    records::meaning_of,
    sealing::{Content, Place, Sealer, commitment},
};

const SCHEMA: Schema = Schema {
    application_id: u32::from_be_bytes(*b"GSrd"),
    version: 1,
    create: "CREATE TABLE reading(
                 start INTEGER NOT NULL, meter BLOB NOT NULL, obis BLOB NOT NULL, content BLOB NOT NULL,
                 PRIMARY KEY(start, meter, obis)) STRICT, WITHOUT ROWID;
             CREATE TABLE conflict(
                 start INTEGER NOT NULL, meter BLOB NOT NULL, obis BLOB NOT NULL, number INTEGER NOT NULL,
                 content BLOB NOT NULL,
                 PRIMARY KEY(start, meter, obis, number)) STRICT, WITHOUT ROWID;
             CREATE TABLE sealing(one INTEGER PRIMARY KEY CHECK(one = 1), commitment BLOB) STRICT;
             CREATE TABLE access(
                 number INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, who TEXT NOT NULL,
                 purpose TEXT NOT NULL, meter BLOB, filter TEXT NOT NULL, readings INTEGER NOT NULL) STRICT;
             CREATE TRIGGER access_kept BEFORE DELETE ON access
                 BEGIN SELECT RAISE(ABORT, 'accesses are kept'); END;
             CREATE TRIGGER access_fixed BEFORE UPDATE ON access
                 BEGIN SELECT RAISE(ABORT, 'accesses are kept'); END;
             CREATE TABLE admission(
                 meter BLOB PRIMARY KEY, tls_key BLOB NOT NULL UNIQUE, admission BLOB NOT NULL)
                 STRICT, WITHOUT ROWID",
    upgrade: None,
};

const INSERT: &str = "INSERT INTO reading(start, meter, obis, content) VALUES(?1, ?2, ?3, ?4)
                      ON CONFLICT DO NOTHING";
const CURRENT: &str = "SELECT content FROM reading WHERE start = ?1 AND meter = ?2 AND obis = ?3";
const CONFLICTS: &str = "SELECT number, content FROM conflict WHERE start = ?1 AND meter = ?2 AND obis = ?3
                         ORDER BY number";
const INSERT_CONFLICT: &str = "INSERT INTO conflict(start, meter, obis, number, content)
                               VALUES(?1, ?2, ?3, ?4, ?5)";
/// Parameters of all queries with a filter: last start, lower bound (start, meter, obis), meter, obis, limit.
macro_rules! select {
    ($columns:literal, $table:literal, $order:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM ",
            $table,
            " WHERE start <= ?1 AND (start, meter, obis) > (?2, ?3, ?4)
             AND (?5 IS NULL OR meter = ?5) AND (?6 IS NULL OR obis = ?6) ",
            $order,
            " LIMIT ?7"
        )
    };
}
const LIST: &str = select!("start, meter, obis, 0, content", "reading", "ORDER BY start, meter, obis");
const LIST_CONFLICTS: &str =
    select!("start, meter, obis, number, content", "conflict", "ORDER BY start, meter, obis, number");
const COUNT: &str = select!("count(*)", "reading", "");

/// The store of readings failed; nothing changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadingsError {
    /// SQLite failed.
    #[error("sqlite failed")]
    Sqlite(#[from] rusqlite::Error),
    /// A row does not open: it was changed or moved.
    #[error("stored reading does not open")]
    Envelope(#[from] EnvelopeError),
    /// A row opens and is no reading.
    #[error("stored reading does not decode")]
    Content,
    /// The interval starts later than the database can say.
    #[error("interval start {} is out of range", start.0)]
    Start {
        /// Interval start.
        start: UtcTime,
    },
    /// Who or purpose of an access is missing or too long.
    #[error("who and purpose need 1 to {max} bytes", max = super::ACCESS_TEXT_SIZE_MAX)]
    Access,
}

impl ReadingsError {
    /// Whether it is worth another try.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Sqlite(_) | Self::Envelope(EnvelopeError::Rng(_)) => Kind::Transient,
            _ => Kind::Local,
        }
    }

    /// Stable name, as in logs: that of the record stores where the database failed.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Sqlite(error) => meaning_of(error).code(),
            Self::Envelope(EnvelopeError::Rng(_)) => RecordsError::Failed.code(),
            Self::Envelope(_) | Self::Content => RecordsError::Damaged.code(),
            Self::Start { .. } => "reading.start",
            Self::Access => "reading.access",
        }
    }
}

/// Readings, admissions and the record of accesses in an SQLite file; what is stored is on disk before the call returns.
///
/// Value, unit, quality and length of a reading are sealed under a data key; interval start, meter and obis are the
/// row's key and stay in clear (rule S12). Lists of all meters in a span of time are fast; one meter over all time reads
/// every row of the span.
///
/// Several processes may open the same file.
pub struct SqliteReadings {
    pub(super) connection: Connection,
    key: Option<Key<Dek, 32>>,
    rng: Box<dyn Rng + Send>,
}

impl fmt::Debug for SqliteReadings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connection, key, .. } = self;
        f.debug_struct("SqliteReadings")
            .field("connection", connection)
            .field("key", key)
            .finish_non_exhaustive()
    }
}

/// Never asked: nothing is sealed in clear stores.
struct NoRng;

impl Rng for NoRng {
    fn fill(&mut self, _: &mut [u8]) -> Result<(), RngError> {
        Err(RngError)
    }
}

impl SqliteReadings {
    /// Opens a file whose readings are sealed under this key, made when there is none; its mode is 0600.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::Key`] when the rows are in clear or sealed under another key.
    pub fn open(
        path: impl AsRef<Path>,
        key: Key<Dek, 32>,
        rng: impl Rng + Send + 'static,
    ) -> Result<Self, OpenError> {
        let connection = connection::open(path.as_ref(), &SCHEMA)?;
        Self { connection, key: Some(key), rng: Box::new(rng) }.checked()
    }

    /// Opens a file whose readings are **in clear**: whoever copies the file learns when somebody is at home. For tests,
    /// and for disks that something else seals.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::Key`] when the rows are sealed.
    pub fn danger_open_clear(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let connection = connection::open(path.as_ref(), &SCHEMA)?;
        Self { connection, key: None, rng: Box::new(NoRng) }.checked()
    }

    /// Readings that are gone when dropped, in clear: for tests.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn in_memory() -> Result<Self, OpenError> {
        let connection = connection::in_memory(&SCHEMA)?;
        Self { connection, key: None, rng: Box::new(NoRng) }.checked()
    }

    /// Remembers the commitment to the key of a new file, or compares it.
    fn checked(self) -> Result<Self, OpenError> {
        let commitment = self.key.as_ref().map(commitment);
        let transaction = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
        let known: Option<Option<[u8; 32]>> =
            transaction.query_row("SELECT commitment FROM sealing", [], |row| row.get(0)).optional()?;
        match known {
            Some(known) if known != commitment => return Err(OpenError::Key),
            Some(_) => drop(transaction),
            None => {
                transaction.execute("INSERT INTO sealing(one, commitment) VALUES(1, ?1)", [commitment])?;
                transaction.commit()?;
            }
        }
        Ok(self)
    }

    /// Current readings that match, as [`ReadingStore::list`] gives them; the access is on record before they are
    /// returned.
    ///
    /// # Errors
    /// [`ReadingsError`]: nothing was read for the caller then.
    pub fn list_for(
        &self,
        access: Access<'_>,
        filter: &ReadingFilter,
    ) -> Result<Vec<Reading>, ReadingsError> {
        self.read(LIST, access, filter)
    }

    /// Readings that came second under a key with another value, ascending by key, otherwise as
    /// [`SqliteReadings::list_for`]. `filter.after` goes on after all conflicts of that key.
    ///
    /// # Errors
    /// [`ReadingsError`]: nothing was read for the caller then.
    pub fn list_conflicts_for(
        &self,
        access: Access<'_>,
        filter: &ReadingFilter,
    ) -> Result<Vec<Reading>, ReadingsError> {
        self.read(LIST_CONFLICTS, access, filter)
    }

    /// How many current readings match, whatever the filter's limit. No value is read, so it is no access.
    ///
    /// # Errors
    /// [`ReadingsError`].
    pub fn count(&self, filter: &ReadingFilter) -> Result<u64, ReadingsError> {
        let mut statement = self.connection.prepare_cached(COUNT)?;
        let Bounds { last, start, meter, obis } = Bounds::of(filter);
        let (of_meter, of_obis) = columns(filter);
        let count =
            statement.query_row(params![last, start, meter, obis, of_meter, of_obis, 1], |row| row.get(0))?;
        Ok(count)
    }

    fn read(
        &self,
        sql: &str,
        access: Access<'_>,
        filter: &ReadingFilter,
    ) -> Result<Vec<Reading>, ReadingsError> {
        access::check(access)?;
        let mut readings = Vec::new();
        // One statement sees one state. The write lock is taken only for the record of the access, not for the search.
        let mut statement = self.connection.prepare_cached(sql)?;
        let Bounds { last, start, meter, obis } = Bounds::of(filter);
        let (of_meter, of_obis) = columns(filter);
        let limit = i64::try_from(filter.limit.min(LIST_MAX)).unwrap_or(i64::MAX);
        let mut rows = statement.query(params![last, start, meter, obis, of_meter, of_obis, limit])?;
        let mut sealer = Sealer::new(self.key.as_ref());
        while let Some(row) = rows.next()? {
            let place = place(row)?;
            let content: &[u8] = row.get_ref(4)?.as_blob().map_err(|_| ReadingsError::Content)?;
            readings.push(sealer.open(place, content)?.into_reading(place.key));
        }
        access::record(&self.connection, access, filter, readings.len())?;
        Ok(readings)
    }
}

impl ReadingStore for SqliteReadings {
    type Error = ReadingsError;

    fn store(&mut self, readings: &[Reading]) -> Result<Vec<StoreOutcome>, ReadingsError> {
        let transaction = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
        let mut sealer = Sealer::new(self.key.as_ref());
        let mut outcomes = Vec::with_capacity(readings.len());
        {
            let mut insert = transaction.prepare_cached(INSERT)?;
            for reading in readings {
                let ReadingKey { start, meter, obis } = reading.key;
                let place = Place { key: reading.key, number: 0 };
                let content = sealer.seal(place, &reading.into(), self.rng.as_mut())?;
                let is_new =
                    insert.execute(params![seconds(start)?, meter.as_bytes(), obis.groups(), content])? == 1;
                outcomes.push(if is_new {
                    StoreOutcome::Stored
                } else {
                    second(&transaction, &mut sealer, reading, self.rng.as_mut())?
                });
            }
        }
        transaction.commit()?;
        Ok(outcomes)
    }

    /// As [`SqliteReadings::list_for`]. The port names neither reader nor purpose: the access is recorded at the
    /// database's clock ([`Access::UNSTATED`]).
    fn list(&self, filter: &ReadingFilter) -> Result<Vec<Reading>, ReadingsError> {
        self.read(LIST, Access::UNSTATED, filter)
    }
}

/// Judges a reading whose key is taken, and keeps it if its content is new.
fn second(
    connection: &Connection,
    sealer: &mut Sealer<'_>,
    reading: &Reading,
    rng: &mut dyn Rng,
) -> Result<StoreOutcome, ReadingsError> {
    let ReadingKey { start, meter, obis } = reading.key;
    let (start, meter, obis) = (seconds(start)?, meter.as_bytes(), obis.groups());
    let content = Content::from(reading);
    let mut place = Place { key: reading.key, number: 0 };
    let current: Vec<u8> =
        connection.prepare_cached(CURRENT)?.query_row(params![start, meter, obis], |row| row.get(0))?;
    if sealer.open(place, &current)? == content {
        return Ok(StoreOutcome::Duplicate);
    }
    let mut conflicts = connection.prepare_cached(CONFLICTS)?;
    let mut rows = conflicts.query(params![start, meter, obis])?;
    while let Some(row) = rows.next()? {
        place.number = row.get(0)?;
        let stored: Vec<u8> = row.get(1)?;
        if sealer.open(place, &stored)? == content {
            return Ok(StoreOutcome::Duplicate);
        }
    }
    place.number = place.number.checked_add(1).ok_or(ReadingsError::Content)?;
    let stored = sealer.seal(place, &content, rng)?;
    connection.prepare_cached(INSERT_CONFLICT)?.execute(params![start, meter, obis, place.number, stored])?;
    Ok(StoreOutcome::Conflict)
}

/// What a filter means for the primary key: no later start than `last`, no key up to (start, meter, obis).
struct Bounds {
    last: i64,
    start: i64,
    meter: Vec<u8>,
    obis: Vec<u8>,
}

impl Bounds {
    fn of(filter: &ReadingFilter) -> Self {
        let clamp = |start: u64| i64::try_from(start).unwrap_or(i64::MAX);
        // An empty meter is below every meter: all keys of that start are above the bound.
        let from = filter.from.unwrap_or_default();
        let (start, meter, obis) = match filter.after {
            Some(after) if after.start >= from => {
                (after.start, after.meter.as_bytes().to_vec(), after.obis.groups().to_vec())
            }
            _ => (from, Vec::new(), Vec::new()),
        };
        let last = filter.until.map_or(i64::MAX, |until| until.0.checked_sub(1).map_or(-1, clamp));
        Self { last, start: clamp(start.0), meter, obis }
    }
}

fn columns(filter: &ReadingFilter) -> (Option<[u8; 8]>, Option<[u8; 6]>) {
    (filter.meter.map(|meter| meter.0), filter.obis.map(|obis| *obis.groups()))
}

fn seconds(start: UtcTime) -> Result<i64, ReadingsError> {
    i64::try_from(start.0).map_err(|_| ReadingsError::Start { start })
}

fn place(row: &Row<'_>) -> Result<Place, ReadingsError> {
    let start = UtcTime(row.get(0)?);
    let key = ReadingKey { start, meter: SystemTitle(row.get(1)?), obis: ObisCode::new(row.get(2)?) };
    Ok(Place { key, number: row.get(3)? })
}
