//! Who looked at readings, when and what for (rule S12).

use gridseal_headend::ReadingFilter;
use gridseal_types::{SystemTitle, UtcTime};
use rusqlite::{Connection, params};

use super::readings::{ReadingsError, SqliteReadings};

/// Most bytes of each text of an access.
pub const ACCESS_TEXT_SIZE_MAX: usize = 256;
/// Most accesses in one list.
const ACCESSES_MAX: usize = 10_000;

const INSERT: &str = "INSERT INTO access(at, who, purpose, meter, filter, readings)
                      VALUES(coalesce(?1, unixepoch()), ?2, ?3, ?4, ?5, ?6)";
/// An access without a meter in its filter may have met any meter.
const LIST: &str = "SELECT number, at, who, purpose, meter, filter, readings FROM access
                    WHERE number > ?1 AND (?2 IS NULL OR meter IS NULL OR meter = ?2) ORDER BY number LIMIT ?3";

/// On whose behalf readings are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access<'a> {
    /// When, by the reader's clock; `None` asks the database's.
    pub at: Option<UtcTime>,
    /// Who reads: a person or a service, 1 to [`ACCESS_TEXT_SIZE_MAX`] bytes.
    pub who: &'a str,
    /// What for, 1 to [`ACCESS_TEXT_SIZE_MAX`] bytes: `billing`, `case C-4711`.
    pub purpose: &'a str,
}

impl Access<'static> {
    /// What is on record when a caller says nothing.
    pub const UNSTATED: Self = Self { at: None, who: "unnamed", purpose: "unstated" };
}

/// One recorded access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRecord {
    /// Number, rising.
    pub number: u64,
    /// When.
    pub at: UtcTime,
    /// Who.
    pub who: String,
    /// What for.
    pub purpose: String,
    /// Whose readings, `None` when the list was not restricted to one meter.
    pub meter: Option<SystemTitle>,
    /// The whole filter, for people.
    pub filter: String,
    /// How many readings were returned.
    pub readings: u64,
}

/// Refuses an access that does not say whose it is.
pub(super) fn check(access: Access<'_>) -> Result<(), ReadingsError> {
    let is_stated = |text: &str| !text.trim().is_empty() && text.len() <= ACCESS_TEXT_SIZE_MAX;
    if is_stated(access.who) && is_stated(access.purpose) { Ok(()) } else { Err(ReadingsError::Access) }
}

/// Puts an access on record, durably.
pub(super) fn record(
    connection: &Connection,
    access: Access<'_>,
    filter: &ReadingFilter,
    readings: usize,
) -> Result<(), ReadingsError> {
    let Access { at, who, purpose } = access;
    let at = at.map(|at| at.0);
    let readings = i64::try_from(readings).unwrap_or(i64::MAX);
    let meter = filter.meter.map(|meter| meter.0);
    let mut insert = connection.prepare_cached(INSERT)?;
    insert.execute(params![at, who, purpose, meter, text(filter), readings])?;
    Ok(())
}

fn text(filter: &ReadingFilter) -> String {
    let ReadingFilter { meter, obis, from, until, after, limit } = filter;
    let parts = [
        meter.map(|meter| format!("meter={meter}")),
        obis.map(|obis| format!("obis={obis}")),
        from.map(|from| format!("from={from}")),
        until.map(|until| format!("until={until}")),
        after.map(|after| format!("after={}/{}/{}", after.start, after.meter, after.obis)),
        Some(format!("limit={limit}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

impl SqliteReadings {
    /// Recorded accesses with numbers above `after`, ascending, at most `limit`. With a meter: those that were for this
    /// meter or for all.
    ///
    /// # Errors
    /// [`ReadingsError`].
    pub fn accesses(
        &self,
        meter: Option<SystemTitle>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<AccessRecord>, ReadingsError> {
        let mut statement = self.connection.prepare_cached(LIST)?;
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let limit = i64::try_from(limit.min(ACCESSES_MAX)).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![after, meter.map(|meter| meter.0), limit], |row| {
            Ok(AccessRecord {
                number: row.get(0)?,
                at: UtcTime(row.get(1)?),
                who: row.get(2)?,
                purpose: row.get(3)?,
                meter: row.get::<_, Option<[u8; 8]>>(4)?.map(SystemTitle),
                filter: row.get(5)?,
                readings: row.get(6)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}
