//! One writer for one database: a service that rests on what it holds in memory must be the only one that writes, and
//! must notice when the database under it is not the one it left.
//!
//! Three things together, the same on SQLite and on PostgreSQL:
//! - a lock that ends with its holder (a locked file, a session's advisory lock) refuses a second writer;
//! - a row with an epoch, raised by each claim and read in each transaction, fences a writer whose lock was lost or that
//!   was pushed aside by force: it commits nothing any more;
//! - a marker file outside the database holds epoch and number of the last commit, so that an older database which was
//!   put back is refused.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use gridseal_crypto::sha256;
use gridseal_types::{
    Kind,
    records::{Records, RecordsError, Table, Write},
};

use crate::tags::{RowTags, Stored, StoredRow, Sum};

/// Table of the writer's row, empty key.
pub(crate) const WRITER: Table = "store_writer";
/// Commits after which the marker file is flushed; in between it survives the process, not the machine.
const FLUSH_EVERY: u64 = 1_024;

/// How a writer claims a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Refused while another writer holds it, and when it is older than the marker.
    IfFree,
    /// Pushes aside a writer that cannot be reached any more: its next commit fails with [`RecordsError::Fenced`].
    Force,
    /// After a restore that was approved: an older database and a lost marker are taken as they are. Rows are checked
    /// all the same.
    Restored,
    /// Takes the rows of a database that was written without a key as they are, and authenticates them from now on.
    Adopt,
}

/// Why a database could not be claimed; it is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// Another writer holds it.
    #[error("another process writes to this database")]
    Occupied,
    /// It is older than its marker: a backup was put back, or another database.
    #[error("database stands at commit {found}, its marker at {marker}: an older one was put back")]
    Stale {
        /// Number of the database's last commit.
        found: u64,
        /// Number in the marker.
        marker: u64,
    },
    /// It has had a writer, but its marker is gone: whether it is the newest cannot be told.
    #[error(
        "database stands at commit {found}, its marker is missing, which counts as 0: whether the database is the \
         newest cannot be told"
    )]
    MarkerMissing {
        /// Number of the database's last commit.
        found: u64,
    },
    /// Neither of the marker's two copies is whole.
    #[error("marker file is damaged")]
    MarkerDamaged,
    /// A row is not what was written under its key.
    #[error("row {key} of table {table} is damaged")]
    Damaged {
        /// Its table.
        table: String,
        /// Its key, in hex; one of a device begins with the device's Name.
        key: String,
    },
    /// Rows were put back to an older state, deleted or added.
    #[error("rows of the database do not add up: some were put back, deleted or added")]
    Altered,
    /// The rows are not authenticated, though the writer has a key for that.
    #[error("rows of the database are not authenticated")]
    Unauthenticated,
    /// The rows are authenticated, and the writer has no key.
    #[error("rows of the database are authenticated under a key that is not given")]
    KeyMissing,
    /// A file could not be used.
    #[error("lock or marker file cannot be used")]
    Io(#[from] io::Error),
    /// The store failed.
    #[error(transparent)]
    Records(#[from] RecordsError),
}

impl ClaimError {
    /// Stable name, as in logs and replies.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Occupied => "store.occupied",
            Self::Stale { .. } => "store.stale",
            Self::MarkerMissing { .. } => "store.marker_missing",
            Self::MarkerDamaged => "store.marker_damaged",
            Self::Damaged { .. } => RecordsError::Damaged.code(),
            Self::Altered => "store.altered",
            Self::Unauthenticated => "store.unauthenticated",
            Self::KeyMissing => "store.key_missing",
            Self::Io(_) => "store.marker_io",
            Self::Records(error) => error.code(),
        }
    }

    /// Who has to act.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Occupied => Kind::Transient,
            Self::Records(error) => error.kind(),
            _ => Kind::Local,
        }
    }
}

/// Where a database stands: how often it was claimed, and how many commits its writers made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub(crate) struct Position {
    #[n(0)]
    pub(crate) epoch: u64,
    #[n(1)]
    pub(crate) commits: u64,
    /// Sum of the tags of all other rows, where rows have tags.
    #[n(2)]
    pub(crate) sum: Option<Sum>,
}

impl Position {
    pub(crate) fn row(&self) -> Write {
        // Encoding into memory cannot fail for this type.
        let value = minicbor::to_vec(self).unwrap_or_default();
        Write { table: WRITER, key: Vec::new(), value: Some(value) }
    }
}

/// The writer's own knowledge of where its database stands.
#[derive(Debug)]
pub(crate) struct Fence {
    position: Position,
    marker: Marker,
}

pub(crate) fn position(records: &impl Records) -> Result<Option<Position>, RecordsError> {
    let row = records.get(WRITER, &[])?;
    row.map(|row| minicbor::decode(&row).map_err(|_| RecordsError::Damaged)).transpose()
}

/// Number of the last commit of a writer that has claimed, 0 before.
pub(crate) fn commits(records: &impl Records) -> Result<u64, RecordsError> {
    Ok(position(records)?.unwrap_or_default().commits)
}

/// What a transaction reads first and writes last, as one row.
pub(crate) const fn row() -> (Table, &'static [u8]) {
    (WRITER, &[])
}

impl Fence {
    /// Checks the database and its marker, and says where the claim brings it. The caller commits that, then calls
    /// [`Fence::claimed`].
    pub(crate) fn claim<S: Records + Stored>(
        records: &S,
        claim: Claim,
        marker: &Path,
        tags: Option<&RowTags>,
    ) -> Result<(Self, Position), ClaimError> {
        let found = match records.writer_row()? {
            Some(row) => Some(checked(&row, tags)?),
            None => None,
        };
        let (marker, noted) = Marker::open(marker)?;
        let noted = match (noted, claim) {
            (Noted::At(noted), _) => noted,
            (_, Claim::Restored) => Position::default(),
            (Noted::Damaged, _) => return Err(ClaimError::MarkerDamaged),
            (Noted::Nothing, _) => match found {
                Some(Position { commits, .. }) => return Err(ClaimError::MarkerMissing { found: commits }),
                None => Position::default(),
            },
        };
        let found = found.unwrap_or_default();
        if claim != Claim::Restored && (found.epoch < noted.epoch || found.commits < noted.commits) {
            return Err(ClaimError::Stale { found: found.commits, marker: noted.commits });
        }
        let sum = match (tags, found.sum) {
            (None, None) => None,
            (None, Some(_)) => return Err(ClaimError::KeyMissing),
            (Some(tags), Some(sum)) if tags.check_all(records)? == sum => Some(sum),
            (Some(_), Some(_)) => return Err(ClaimError::Altered),
            (Some(tags), None) if claim == Claim::Adopt || records.page(("", &[]), 1)?.is_empty() => {
                Some(tags.adopt(records)?)
            }
            (Some(_), None) => return Err(ClaimError::Unauthenticated),
        };
        let position = Position {
            epoch: found.epoch.max(noted.epoch).saturating_add(1),
            commits: found.commits.max(noted.commits).saturating_add(1),
            sum,
        };
        Ok((Self { position, marker }, position))
    }

    pub(crate) const fn epoch(&self) -> u64 {
        self.position.epoch
    }

    /// Number of the last commit.
    pub(crate) const fn commits(&self) -> u64 {
        self.position.commits
    }

    /// The claim is durable: so is the marker, before the writer does anything.
    pub(crate) fn claimed(&mut self) -> io::Result<()> {
        self.marker.note(self.position)?;
        self.marker.file.sync_all()
    }

    /// A commit is durable: the marker follows.
    pub(crate) fn committed(&mut self) -> io::Result<()> {
        self.position.commits = self.position.commits.saturating_add(1);
        self.marker.note(self.position)?;
        if self.position.commits.is_multiple_of(FLUSH_EVERY) {
            self.marker.file.sync_data()?;
        }
        Ok(())
    }
}

/// A position before it is claimed: its tag counts as soon as rows have tags at all.
fn checked(row: &StoredRow, tags: Option<&RowTags>) -> Result<Position, RecordsError> {
    let position: Position = minicbor::decode(&row.value).map_err(|_| RecordsError::Damaged)?;
    if let (Some(tags), Some(_)) = (tags, position.sum) {
        tags.check(WRITER, &row.key, &row.value, row.tag.as_deref())?;
    }
    Ok(position)
}

/// Whether the caller may write, by the row that its transaction has read; and the position it leaves with its changes.
/// Without a claim of its own it may as long as nobody has one.
pub(crate) fn next(fence: Option<&Fence>, found: Option<&[u8]>) -> Result<Option<Position>, RecordsError> {
    let (Some(fence), Some(found)) = (fence, found) else {
        return if fence.is_none() && found.is_none() { Ok(None) } else { Err(RecordsError::Fenced) };
    };
    let found: Position = minicbor::decode(found).map_err(|_| RecordsError::Damaged)?;
    if found.epoch != fence.position.epoch {
        return Err(RecordsError::Fenced);
    }
    Ok(Some(Position { commits: found.commits.saturating_add(1), ..found }))
}

/// Lets the marker follow a commit that is durable.
pub(crate) fn follow(fence: Option<&mut Fence>) -> Result<(), RecordsError> {
    let Some(fence) = fence else { return Ok(()) };
    fence.committed().map_err(|error| {
        tracing::error!(code = "store.marker_io", %error, "marker file cannot be written");
        RecordsError::Uncertain
    })
}

impl Drop for Fence {
    fn drop(&mut self) {
        // What was noted last is in the file already; this makes it survive the machine. There is nobody to tell.
        let _ = self.marker.file.sync_data();
    }
}

/// A file with two copies of a position, written in turn: epoch 8, commits 8, SHA-256 over both, cut to 16.
#[derive(Debug)]
struct Marker {
    file: File,
}

const COPY_SIZE: usize = 32;
const NUMBERS_SIZE: usize = 16;

enum Noted {
    Nothing,
    Damaged,
    At(Position),
}

impl Marker {
    fn open(path: &Path) -> io::Result<(Self, Noted)> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut bytes = [0; 2 * COPY_SIZE];
        let size = read_at_most(&file, &mut bytes)?;
        let copies =
            bytes.chunks_exact(COPY_SIZE).filter_map(|copy| copy.first_chunk().and_then(position_of));
        let newest = copies.max_by_key(|position| (position.commits, position.epoch));
        let noted = match newest {
            Some(position) => Noted::At(position),
            None if size == 0 => Noted::Nothing,
            None => Noted::Damaged,
        };
        Ok((Self { file }, noted))
    }

    fn note(&self, position: Position) -> io::Result<()> {
        let mut copy = [0; COPY_SIZE];
        let numbers = numbers_of(position);
        let sum = sha256(&[&numbers]);
        copy.iter_mut().zip(numbers.iter().chain(&sum)).for_each(|(to, from)| *to = *from);
        let offset = if position.commits.is_multiple_of(2) { 0 } else { COPY_SIZE };
        self.file.write_all_at(&copy, u64::try_from(offset).unwrap_or(0))
    }
}

fn numbers_of(position: Position) -> [u8; NUMBERS_SIZE] {
    ((u128::from(position.epoch) << 64) | u128::from(position.commits)).to_be_bytes()
}

fn position_of(copy: &[u8; COPY_SIZE]) -> Option<Position> {
    let (numbers, sum) = copy.split_first_chunk::<NUMBERS_SIZE>()?;
    if !sha256(&[numbers]).starts_with(sum) {
        return None;
    }
    let (epoch, commits) = numbers.split_first_chunk::<8>()?;
    Some(Position {
        epoch: u64::from_be_bytes(*epoch),
        commits: u64::from_be_bytes(commits.try_into().ok()?),
        sum: None,
    })
}

fn read_at_most(file: &File, bytes: &mut [u8]) -> io::Result<usize> {
    let mut size = 0;
    while let Some(rest) = bytes.get_mut(size..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, u64::try_from(size).unwrap_or(0))? {
            0 => break,
            count => size = size.saturating_add(count),
        }
    }
    Ok(size)
}

/// A file that is locked as long as the value lives.
pub(crate) fn lock(path: &Path) -> Result<File, ClaimError> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(ClaimError::Occupied),
        Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
    }
}
