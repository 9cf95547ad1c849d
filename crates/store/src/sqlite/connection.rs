//! Opening a database file: who may read it, how durable it is, and whether it is ours.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    time::Duration,
};

use gridseal_types::{Kind, records::RecordsError};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::records::meaning_of;

/// How long a transaction waits for that of another process before it fails.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Prepared statements kept for each connection.
const STATEMENTS_MAX: usize = 32;
const OWNER_ONLY: u32 = 0o600;

/// A database could not be opened; an existing file is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file or its folder could not be used.
    #[error("database file cannot be used")]
    Io(#[from] io::Error),
    /// SQLite refused.
    #[error("sqlite refused the database")]
    Sqlite(#[from] rusqlite::Error),
    /// Group or others may use the file.
    #[error("database file has mode {mode:o}, expected 600: check who read it, then chmod")]
    Exposed {
        /// Mode found.
        mode: u32,
    },
    /// The file is a database of something else.
    #[error("database file holds something else (application id {found:#x}, expected {expected:#x})")]
    Foreign {
        /// Application id found.
        found: u32,
        /// Application id expected.
        expected: u32,
    },
    /// The file system has no shared memory for a write-ahead log.
    #[error("file system cannot carry a write-ahead log")]
    Journal,
    /// The file was written by another version of the program.
    #[error("database file has schema version {found}, this program knows {supported}")]
    Version {
        /// Version found.
        found: u32,
        /// Version this program knows.
        supported: u32,
    },
    /// The rows are sealed under another key, or sealed where they should be clear, or the other way round.
    #[error("database is not sealed under this key")]
    Key,
}

impl OpenError {
    /// Stable name, as in logs: that of the record stores where disk or database failed.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Sqlite(error) => meaning_of(error).code(),
            Self::Io(error) if error.kind() == io::ErrorKind::StorageFull => RecordsError::Full.code(),
            Self::Io(_) => RecordsError::Failed.code(),
            Self::Exposed { .. } => "store.exposed",
            Self::Foreign { .. } => "store.foreign",
            Self::Journal => "store.journal",
            Self::Version { .. } => "store.version",
            Self::Key => "store.key",
        }
    }

    /// Whether it is worth another try.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Sqlite(error) if is_busy(error) => Kind::Transient,
            _ => Kind::Local,
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
    matches!(error.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked))
}

/// What a database file holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schema {
    /// Four letters in the file's header that say what it is.
    pub(crate) application_id: u32,
    /// Raised with each change of the tables.
    pub(crate) version: u32,
    /// Makes the tables.
    pub(crate) create: &'static str,
    /// What brings a file of the version before to this one, if it can be brought.
    pub(crate) upgrade: Option<&'static str>,
}

/// Opens a file, made when there is none: readable by its owner alone, write-ahead log, flushed before a commit returns.
pub(crate) fn open(path: &Path, schema: &Schema) -> Result<Connection, OpenError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let folder = File::open(folder)?;
    // Two processes that open a new file at once would meet in the change to the write-ahead log, for which SQLite does
    // not wait. The lock is on the folder: a second handle of the file itself would drop SQLite's locks when closed.
    folder.lock()?;
    match fs::metadata(path) {
        Ok(metadata) => {
            let mode = metadata.permissions().mode() & 0o777;
            if mode & !OWNER_ONLY != 0 {
                return Err(OpenError::Exposed { mode });
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(path)?;
            folder.sync_all()?;
        }
        Err(error) => return Err(error.into()),
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    prepare(Connection::open_with_flags(path, flags)?, schema, true)
}

/// Opens a database that is gone with the connection.
pub(crate) fn in_memory(schema: &Schema) -> Result<Connection, OpenError> {
    prepare(Connection::open_in_memory()?, schema, false)
}

fn prepare(connection: Connection, schema: &Schema, on_disk: bool) -> Result<Connection, OpenError> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // Nothing is changed, not even the journal mode, before the file is known to be ours.
    let found = check(&connection, schema)?;
    let journal: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if on_disk && journal != "wal" {
        return Err(OpenError::Journal);
    }
    connection.execute_batch(
        "PRAGMA synchronous = FULL;
         PRAGMA foreign_keys = ON;
         PRAGMA trusted_schema = OFF;
         PRAGMA secure_delete = ON;",
    )?;
    if found != Found::Current {
        let transaction = Transaction::new_unchecked(&connection, TransactionBehavior::Immediate)?;
        // Another process may have been faster.
        if let Found::Lacks(statements) = check(&transaction, schema)? {
            transaction.execute_batch(statements)?;
            transaction.pragma_update(None, "application_id", schema.application_id)?;
            transaction.pragma_update(None, "user_version", schema.version)?;
            transaction.commit()?;
        }
    }
    Ok(connection)
}

/// What a database file of ours is like.
#[derive(PartialEq, Eq)]
enum Found {
    Current,
    /// It is empty or of the version before: these statements bring it up to date.
    Lacks(&'static str),
}

/// What the file holds; an error when it is not ours or of another version.
fn check(connection: &Connection, schema: &Schema) -> Result<Found, OpenError> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, u32>(0));
    let (found, version) = (pragma("application_id")?, pragma("user_version")?);
    let tables: u32 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if (found, version, tables) == (0, 0, 0) {
        return Ok(Found::Lacks(schema.create));
    }
    let Schema { application_id: expected, version: supported, upgrade, .. } = *schema;
    if found != expected {
        return Err(OpenError::Foreign { found, expected });
    }
    match upgrade {
        _ if version == supported => Ok(Found::Current),
        Some(upgrade) if version.checked_add(1) == Some(supported) => Ok(Found::Lacks(upgrade)),
        _ => Err(OpenError::Version { found: version, supported }),
    }
}
