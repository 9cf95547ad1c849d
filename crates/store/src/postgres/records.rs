//! Records in PostgreSQL: one table for each service, in a schema of its own.

use std::path::Path;

use gridseal_crypto::{Key, role::RecordTag};
use gridseal_types::records::{Commit, Durability, Records, RecordsError, Row, Table, Write};

use tokio_postgres::types::ToSql;

use super::session::{ConnectError, Failure, PostgresSettings, Session, failed};
use crate::{
    SoleWriter, Transact,
    fence::{self, Claim, ClaimError, Fence},
    tags::{RowTags, Stored, StoredRow, Tag, Tagged, Unchecked, tagged},
};

/// Whether a standby stands ready to acknowledge. Without the right to see that, the answer is no.
const STANDBY: &str = "SELECT current_setting('synchronous_standby_names') <> '' AND EXISTS(
    SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND sync_state IN ('sync', 'quorum'))";

/// The records of one service in a schema of a PostgreSQL database; a change is on the server's disk before `commit` or
/// `transact` returns, and on the standby's for [`Durability::Replicated`].
///
/// A transaction takes its turn before it reads and is serialisable: as with [`crate::SqliteRecords`] nobody commits
/// between a decision and its commit, and a caller waits up to [`crate::BUSY_TIMEOUT`] for the others.
///
/// Once a writer has claimed the schema ([`SoleWriter::claim`]) nobody else commits to it. A writer whose
/// connection broke is not connected again: it starts anew, from what is on record.
#[derive(Debug)]
pub struct PostgresRecords {
    settings: PostgresSettings,
    session: Session,
    tags: Option<RowTags>,
    fence: Option<Fence>,
    stands_alone: bool,
}

impl PostgresRecords {
    /// Connects, and makes the schema when there is none.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect(settings: PostgresSettings) -> Result<Self, ConnectError> {
        let session = Session::connect(&settings)?;
        Ok(Self { settings, session, tags: None, fence: None, stands_alone: false })
    }

    /// The same records for a site whose operator has decided to have no standby: [`Durability::Replicated`] then asks
    /// for no more than [`Durability::Local`], which otherwise is refused.
    #[must_use]
    pub fn standing_alone(mut self) -> Self {
        self.stands_alone = true;
        self
    }

    /// The same records with every row authenticated: one that was changed or moved is [`RecordsError::Damaged`] when it
    /// is read, and a claim checks them all. See [`crate::record_tag_key`].
    #[must_use]
    pub fn authenticated_by(mut self, key: Key<RecordTag, 32>) -> Self {
        self.tags = Some(RowTags(key));
        self
    }

    fn writer_lock(&self, function: &str) -> Result<bool, RecordsError> {
        let lock = format!("SELECT {function}(hashtextextended('gridseal.writer.' || $1::text, 0))");
        let row = self.session.run(self.session.client.query_one(&lock, &[&self.settings.schema]));
        row.map_err(|failure| failed("claim", &failure))?.try_get(0).map_err(|_| RecordsError::Failed)
    }

    fn claim_locked(&mut self, claim: Claim, marker: &Path) -> Result<u64, ClaimError> {
        let turn = Turn::new(self);
        turn.begin()?;
        let (mut fence, position) = Fence::claim(self, claim, marker, self.tags.as_ref())?;
        let row = tagged(self.tags.as_ref(), Vec::new(), Some(position), self)?;
        turn.write(&row, Durability::Local)?;
        fence.claimed()?;
        let epoch = fence.epoch();
        self.fence = Some(fence);
        Ok(epoch)
    }

    fn connected(&mut self) -> Result<(), RecordsError> {
        if !self.session.is_usable() && self.fence.is_none() {
            self.session = Session::connect(&self.settings).map_err(|error| {
                tracing::error!(code = "store.postgres_lost", %error, "cannot connect to postgresql again");
                RecordsError::Failed
            })?;
        }
        Ok(())
    }
}

impl SoleWriter for PostgresRecords {
    fn claim(&mut self, claim: Claim, marker: &Path) -> Result<u64, ClaimError> {
        if claim != Claim::Force && !self.writer_lock("pg_try_advisory_lock")? {
            return Err(ClaimError::Occupied);
        }
        let claimed = self.claim_locked(claim, marker);
        if claimed.is_err() && claim != Claim::Force {
            // The session ends soon in any case, and the lock with it.
            let _ = self.writer_lock("pg_advisory_unlock");
        }
        claimed
    }
}

type Parameters<'p, const N: usize> = [&'p (dyn ToSql + Sync); N];

/// One transaction; dropped before it has ended, on an error or a panic of the decision, it rolls back.
struct Turn<'s> {
    records: &'s PostgresRecords,
    is_open: bool,
}

impl<'s> Turn<'s> {
    const fn new(records: &'s PostgresRecords) -> Self {
        Self { records, is_open: true }
    }

    /// Waits for the turn; returns the writer's row, unchecked.
    fn begin(&self) -> Result<Option<Raw>, RecordsError> {
        let PostgresRecords { session, settings, .. } = self.records;
        // The snapshot is taken by the first statement that reads, after the lock: it shows what the one before left.
        let begin = format!(
            "BEGIN ISOLATION LEVEL SERIALIZABLE; LOCK TABLE {}.turn IN EXCLUSIVE MODE",
            settings.schema
        );
        let (table, key) = fence::row();
        let parameters: Parameters<'_, 2> = [&table, &key];
        let begun = session.run(async {
            let (begun, row) = tokio::join!(
                session.client.batch_execute(&begin),
                session.client.query_opt(&session.statements.get, &parameters)
            );
            begun?;
            row?.map(|row| raw(&row)).transpose()
        });
        begun.map_err(|failure| failed("begin", &failure))
    }

    /// Writes and commits.
    fn write(mut self, changes: &[Tagged], durability: Durability) -> Result<(), RecordsError> {
        let PostgresRecords { session, settings, stands_alone, .. } = self.records;
        let is_replicated = durability == Durability::Replicated && !stands_alone;
        if is_replicated && !self.has_standby()? {
            return Err(RecordsError::Unreplicated);
        }
        let Batch { puts, deletes } = Batch::new(changes);
        let level = if is_replicated { "on" } else { "local" };
        let level = format!("SET LOCAL synchronous_commit = {level}");
        let (put, delete): (Parameters<'_, 4>, Parameters<'_, 2>) =
            ([&puts.0, &puts.1, &puts.2, &puts.3], [&deletes.0, &deletes.1]);
        // One round trip: what fails in the middle turns the commit into a roll back.
        let answer = async {
            let (set, put, deleted, ended) = tokio::join!(
                session.client.batch_execute(&level),
                session.client.execute(&session.statements.put, &put),
                session.client.execute(&session.statements.delete, &delete),
                session.client.batch_execute("COMMIT")
            );
            set.and(put).and(deleted).and(ended)
        };
        let done = if is_replicated {
            session.run_replicated(settings.standby_timeout, answer)
        } else {
            session.run(answer).map(|()| true)
        };
        self.is_open = false;
        match done {
            Ok(true) => Ok(()),
            Ok(false) => Err(RecordsError::Unreplicated),
            Err(Failure::Lost) => {
                failed("commit", &Failure::Lost);
                Err(RecordsError::Uncertain)
            }
            Err(failure) => Err(failed("commit", &failure)),
        }
    }

    fn has_standby(&self) -> Result<bool, RecordsError> {
        let session = &self.records.session;
        let row = session.run(session.client.query_one(STANDBY, &[]));
        row.map_err(|failure| failed("standby", &failure))?.try_get(0).map_err(|_| RecordsError::Failed)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let session = &self.records.session;
        if self.is_open && session.is_usable() {
            // A session that cannot roll back is lost, and its transaction with it.
            let _ = session.run(session.client.batch_execute("ROLLBACK"));
        }
    }
}

type Bytes<'w> = Vec<&'w [u8]>;
type Tags<'w> = Vec<Option<&'w [u8]>>;

/// Changes by kind, as columns.
#[derive(Default)]
struct Batch<'w> {
    puts: (Vec<Table>, Bytes<'w>, Bytes<'w>, Tags<'w>),
    deletes: (Vec<Table>, Bytes<'w>),
}

impl<'w> Batch<'w> {
    /// Of changes to different rows.
    fn new(changes: &'w [Tagged]) -> Self {
        let mut batch = Self::default();
        for Tagged { table, key, value, tag } in changes {
            if let Some(value) = value {
                batch.puts.0.push(table);
                batch.puts.1.push(key);
                batch.puts.2.push(value);
                batch.puts.3.push(tag.as_ref().map(<[u8; 32]>::as_slice));
            } else {
                batch.deletes.0.push(table);
                batch.deletes.1.push(key);
            }
        }
        batch
    }
}

impl PostgresRecords {
    fn checked(
        &self,
        table: Table,
        key: &[u8],
        value: &[u8],
        tag: Option<&[u8]>,
    ) -> Result<(), RecordsError> {
        self.tags.as_ref().map_or(Ok(()), |tags| tags.check(table, key, value, tag))
    }

    /// A row unchecked: value and tag.
    fn raw(&self, table: Table, key: &[u8]) -> Result<Option<Raw>, RecordsError> {
        let session = &self.session;
        let row = session.run(async {
            let row = session.client.query_opt(&session.statements.get, &[&table, &key]).await?;
            row.map(|row| raw(&row)).transpose()
        });
        row.map_err(|failure| failed("get", &failure))
    }
}

/// Value and tag.
type Raw = (Vec<u8>, Option<Vec<u8>>);

fn raw(row: &tokio_postgres::Row) -> Result<Raw, tokio_postgres::Error> {
    Ok((row.try_get(0)?, row.try_get(1)?))
}

impl Stored for PostgresRecords {
    fn page(&self, (table, key): (&str, &[u8]), limit: usize) -> Result<Vec<StoredRow>, RecordsError> {
        let (session, limit) = (&self.session, i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = session.run(async {
            let rows = session.client.query(&session.statements.page, &[&table, &key, &limit]).await?;
            let row = |row: &tokio_postgres::Row| {
                Ok(StoredRow {
                    table: row.try_get(0)?,
                    key: row.try_get(1)?,
                    value: row.try_get(2)?,
                    tag: row.try_get(3)?,
                })
            };
            rows.iter().map(row).collect::<Result<_, _>>()
        });
        rows.map_err(|failure| failed("page", &failure))
    }

    fn writer_row(&self) -> Result<Option<StoredRow>, RecordsError> {
        let (table, key) = fence::row();
        let row = self.raw(table, key)?;
        Ok(row.map(|(value, tag)| StoredRow { table: table.to_owned(), key: key.to_vec(), value, tag }))
    }

    fn tags(&self, places: &[(Table, &[u8])]) -> Result<Vec<Option<Tag>>, RecordsError> {
        let (tables, keys): (Vec<Table>, Vec<&[u8]>) = places.iter().copied().unzip();
        let session = &self.session;
        let tags = session.run(async {
            let rows = session.client.query(&session.statements.tags, &[&tables, &keys]).await?;
            rows.iter().map(|row| row.try_get::<_, Option<Vec<u8>>>(0)).collect::<Result<Vec<_>, _>>()
        });
        let tags = tags.map_err(|failure| failed("tags", &failure))?;
        let sized = |tag: Option<Vec<u8>>| {
            tag.map(|tag| tag.try_into().map_err(|_| RecordsError::Damaged)).transpose()
        };
        tags.into_iter().map(sized).collect()
    }

    fn set_tags(&self, rows: &[(StoredRow, Tag)]) -> Result<(), RecordsError> {
        let column = |of: fn(&(StoredRow, Tag)) -> &[u8]| rows.iter().map(of).collect::<Vec<_>>();
        let tables: Vec<&str> = rows.iter().map(|(row, _)| row.table.as_str()).collect();
        let (keys, tags) = (column(|(row, _)| &row.key), column(|(_, tag)| tag));
        let session = &self.session;
        let parameters: Parameters<'_, 3> = [&tables, &keys, &tags];
        let set = session.client.execute(&session.statements.set_tags, &parameters);
        session.run(set).map(|_| ()).map_err(|failure| failed("set tags", &failure))
    }
}

impl Records for PostgresRecords {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, RecordsError> {
        let Some((value, tag)) = self.raw(table, key)? else { return Ok(None) };
        self.checked(table, key, &value, tag.as_deref())?;
        Ok(Some(value))
    }

    fn range(&self, table: Table, after: &[u8], limit: usize) -> Result<Vec<Row>, RecordsError> {
        let (session, limit) = (&self.session, i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = session.run(async {
            let rows = session.client.query(&session.statements.range, &[&table, &after, &limit]).await?;
            let row = |row: &tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
            rows.iter().map(row).collect::<Result<Vec<Unchecked>, _>>()
        });
        let checked =
            rows.map_err(|failure| failed("range", &failure))?.into_iter().map(|(key, value, tag)| {
                self.checked(table, &key, &value, tag.as_deref())?;
                Ok((key, value))
            });
        checked.collect()
    }
}

impl Commit for PostgresRecords {
    fn commit_with(&mut self, writes: Vec<Write>, durability: Durability) -> Result<(), RecordsError> {
        self.transact_with(|_| Ok((writes, durability, ())))
    }
}

impl Transact for PostgresRecords {
    fn transact_with<T, E: From<RecordsError>>(
        &mut self,
        decide: impl FnOnce(&Self) -> Result<(Vec<Write>, Durability, T), E>,
    ) -> Result<T, E> {
        self.connected()?;
        let turn = Turn::new(self);
        let row = turn.begin()?;
        if let (Some((value, tag)), Some(_)) = (&row, &self.fence) {
            let (table, key) = fence::row();
            self.checked(table, key, value, tag.as_deref())?;
        }
        let next = fence::next(self.fence.as_ref(), row.as_ref().map(|(value, _)| value.as_slice()))?;
        let (writes, durability, result) = decide(self)?;
        if writes.is_empty() {
            return Ok(result);
        }
        let changes = tagged(self.tags.as_ref(), writes, next, self)?;
        turn.write(&changes, durability)?;
        fence::follow(self.fence.as_mut())?;
        Ok(result)
    }
}
