//! Rows of a profile buffer, cell by cell: plain, compact, with repeated values left out or sent as differences.

use alloc::vec::Vec;

use gridseal_types::{Kind, UtcTime};

use super::{
    Data, DateTime, DecodeError, Elements, Reader, Rule,
    data::{is_simple, tag},
};

/// Most columns that a row may have.
const COLUMNS_MAX: usize = 64;

/// Where the clock of a profile is and how far its rows are apart: what a clock that was left out is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockColumn {
    /// Index of the column, from 0.
    pub column: usize,
    /// capture_period in seconds; 0 when rows are captured by events.
    pub capture_period_s: u32,
}

/// The cells of one row.
pub type Row<'r, 'a> = &'r [Data<'a>];

/// A row could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RowError {
    /// The bytes are no array of structures of simple values.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A clock was left out, and there is no capture period, no clock above it, or no instant in it.
    #[error("row {row} has no clock, and it cannot be calculated")]
    ClockUnknown {
        /// Index of the row, from 0.
        row: usize,
    },
    /// A difference has no value of its kind above it, or leads out of that value's range.
    #[error("row {row}, column {column}: difference does not fit the value above it")]
    Difference {
        /// Index of the row, from 0.
        row: usize,
        /// Index of the column, from 0.
        column: usize,
    },
    /// A row has more or fewer cells than the first one.
    #[error("row {row} has {found} cells, the first row has {expected}")]
    Width {
        /// Index of the row, from 0.
        row: usize,
        /// Cells found.
        found: usize,
        /// Cells of the first row.
        expected: usize,
    },
}

impl RowError {
    /// Always the peer: whoever sent the rows.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        Kind::Peer
    }
}

#[derive(Debug)]
enum Source<'a> {
    Tagged { reader: Reader<'a>, left: usize },
    Compact(Elements<'a>),
}

/// Reads a profile buffer row by row. A null stands for the value above it, in the clock's column for the time one
/// capture period later; a delta is added to the value above it. One row is held at a time: no allocation per cell.
///
/// ```
/// use gridseal_dlms::wire::{Data, Rows};
/// let buffer = [0x01, 2, 0x02, 1, 0x11, 7, 0x02, 1, 0x1F, 2];
/// let mut rows = Rows::new(&buffer, None).unwrap();
/// assert_eq!(rows.next_row().unwrap(), Some(&[Data::Unsigned(7)][..]));
/// assert_eq!(rows.next_row().unwrap(), Some(&[Data::Unsigned(9)][..]));
/// assert_eq!(rows.next_row().unwrap(), None);
/// ```
///
/// # Source
/// DLMS fact sheet, sections 2.3 and 2.4.
#[derive(Debug)]
pub struct Rows<'a> {
    source: Source<'a>,
    clock: Option<ClockColumn>,
    cells: Vec<Data<'a>>,
    row: usize,
}

impl<'a> Rows<'a> {
    /// Reads the buffer of a profile: an array of structures or a compact array.
    ///
    /// # Errors
    /// [`DecodeError`] when it is neither.
    pub fn new(buffer: &'a [u8], clock: Option<ClockColumn>) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(buffer);
        let start = reader.clone();
        let source = match reader.u8("profile buffer")? {
            tag::ARRAY => {
                let left = reader.length("profile buffer")?;
                if left > reader.left() {
                    let rule = Rule::CountExceedsInput { count: left, left: reader.left() };
                    return Err(start.fail("profile buffer", rule));
                }
                Source::Tagged { reader, left }
            }
            tag::COMPACT_ARRAY => match Data::from_bytes(buffer)? {
                Data::CompactArray(array) => Source::Compact(array.elements()),
                _ => return Err(start.fail("profile buffer", Rule::Tag { tag: tag::COMPACT_ARRAY })),
            },
            tag => return Err(start.fail("profile buffer", Rule::Tag { tag })),
        };
        Ok(Self { source, clock, cells: Vec::new(), row: 0 })
    }

    /// The next row, `None` after the last.
    ///
    /// # Errors
    /// [`RowError`]; the rows after a failed one are not read.
    pub fn next_row(&mut self) -> Result<Option<Row<'_, 'a>>, RowError> {
        let outcome = self.advance();
        if outcome.is_err() {
            self.source = Source::Tagged { reader: Reader::new(&[]), left: 0 };
        }
        Ok(outcome?.then_some(self.cells.as_slice()))
    }

    fn advance(&mut self) -> Result<bool, RowError> {
        let Self { source, clock, cells, row } = self;
        let mut column = 0usize;
        let mut failure = None;
        let mut place = |cell: Data<'a>| {
            if failure.is_none() {
                failure = place(cells, cell, *row, column, *clock).err();
            }
            column = column.saturating_add(1);
        };
        match source {
            Source::Compact(elements) => {
                if !elements.visit_next(&mut place)? {
                    return Ok(false);
                }
            }
            Source::Tagged { reader, left } => {
                let Some(after) = left.checked_sub(1) else {
                    reader.finish("profile buffer")?;
                    return Ok(false);
                };
                *left = after;
                tagged_row(reader, &mut place)?;
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        if column != cells.len() {
            return Err(RowError::Width { row: *row, found: column, expected: cells.len() });
        }
        *row = row.saturating_add(1);
        Ok(true)
    }
}

fn tagged_row<'a>(reader: &mut Reader<'a>, place: &mut dyn FnMut(Data<'a>)) -> Result<(), DecodeError> {
    let start = reader.clone();
    match reader.u8("profile row")? {
        tag::STRUCTURE => {}
        tag => return Err(start.fail("profile row", Rule::Tag { tag })),
    }
    let count = reader.length("profile row")?;
    if count > COLUMNS_MAX {
        return Err(start.fail("profile row", Rule::TooLong { found: count, limit: COLUMNS_MAX }));
    }
    for _ in 0..count {
        let start = reader.clone();
        let tag = reader.u8("profile cell")?;
        let cell = if is_simple(tag) { Data::decode_simple(reader, tag) } else { None };
        place(cell.unwrap_or_else(|| Err(start.fail("profile cell", Rule::Tag { tag })))?);
    }
    Ok(())
}

fn place<'a>(
    cells: &mut Vec<Data<'a>>,
    cell: Data<'a>,
    row: usize,
    column: usize,
    clock: Option<ClockColumn>,
) -> Result<(), RowError> {
    let clock = clock.filter(|clock| clock.column == column);
    if row == 0 {
        return first(cells, cell, column, clock);
    }
    let Some(above) = cells.get_mut(column) else {
        let found = column.saturating_add(1);
        return Err(RowError::Width { row, found, expected: cells.len() });
    };
    match cell {
        Data::Null => {
            //= DLMS 2.4: a clock that was left out is one capture period after the one above it, or an error
            //= DLMS 2.4: null repeats the value above it
            if let Some(clock) = clock {
                *above = later(above, clock.capture_period_s).ok_or(RowError::ClockUnknown { row })?;
            }
        }
        Data::DeltaInteger(_)
        | Data::DeltaLong(_)
        | Data::DeltaDoubleLong(_)
        | Data::DeltaUnsigned(_)
        | Data::DeltaLongUnsigned(_)
        | Data::DeltaDoubleLongUnsigned(_) => {
            *above = added(above, &cell).ok_or(RowError::Difference { row, column })?;
        }
        cell => *above = cell,
    }
    Ok(())
}

/// A cell of the first row, which has nothing above it.
fn first<'a>(
    cells: &mut Vec<Data<'a>>,
    cell: Data<'a>,
    column: usize,
    clock: Option<ClockColumn>,
) -> Result<(), RowError> {
    let is_delta = (tag::DELTA_INTEGER..=tag::DELTA_DOUBLE_LONG_UNSIGNED).contains(&cell.tag());
    match (clock, &cell) {
        (Some(_), Data::Null) => Err(RowError::ClockUnknown { row: 0 }),
        _ if is_delta => Err(RowError::Difference { row: 0, column }),
        _ if column >= COLUMNS_MAX => Err(RowError::Width { row: 0, found: column, expected: COLUMNS_MAX }),
        _ => {
            cells.push(cell);
            Ok(())
        }
    }
}

/// The instant `period_s` later, in the same local time; `None` without a period or without an instant.
fn later(above: &Data<'_>, period_s: u32) -> Option<Data<'static>> {
    let at = match above {
        Data::DateTime(at) => *at,
        Data::OctetString(octets) => DateTime::from_bytes(octets).ok()?,
        _ => return None,
    };
    if period_s == 0 {
        return None;
    }
    let local = UtcTime::from_civil(
        at.date.year,
        at.date.month,
        at.date.day,
        at.time.hour,
        at.time.minute,
        at.time.second,
    )?;
    let moved = DateTime::from_utc(UtcTime(local.0.checked_add(u64::from(period_s))?), 0, at.status)?;
    let mut moved = DateTime { deviation_min: at.deviation_min, ..moved };
    moved.time.hundredths = at.time.hundredths;
    if at.date.weekday == 0xFF {
        moved.date.weekday = 0xFF;
    }
    Some(Data::DateTime(moved))
}

fn added(above: &Data<'_>, delta: &Data<'_>) -> Option<Data<'static>> {
    let delta = match delta {
        Data::DeltaInteger(delta) => i64::from(*delta),
        Data::DeltaLong(delta) => i64::from(*delta),
        Data::DeltaDoubleLong(delta) => i64::from(*delta),
        Data::DeltaUnsigned(delta) => i64::from(*delta),
        Data::DeltaLongUnsigned(delta) => i64::from(*delta),
        Data::DeltaDoubleLongUnsigned(delta) => i64::from(*delta),
        _ => return None,
    };
    let sum = |value: i64| value.checked_add(delta);
    Some(match above {
        Data::Integer(value) => Data::Integer(sum(i64::from(*value))?.try_into().ok()?),
        Data::Long(value) => Data::Long(sum(i64::from(*value))?.try_into().ok()?),
        Data::DoubleLong(value) => Data::DoubleLong(sum(i64::from(*value))?.try_into().ok()?),
        Data::Long64(value) => Data::Long64(sum(*value)?),
        Data::Unsigned(value) => Data::Unsigned(sum(i64::from(*value))?.try_into().ok()?),
        Data::LongUnsigned(value) => Data::LongUnsigned(sum(i64::from(*value))?.try_into().ok()?),
        Data::DoubleLongUnsigned(value) => Data::DoubleLongUnsigned(sum(i64::from(*value))?.try_into().ok()?),
        Data::Long64Unsigned(value) => Data::Long64Unsigned(value.checked_add_signed(delta)?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: [u8; 12] = [0x07, 0xEA, 11, 25, 3, 12, 0, 0, 0, 0xFF, 0xC4, 0];
    const CLOCK: ClockColumn = ClockColumn { column: 0, capture_period_s: 900 };

    fn buffer(rows: &[&[Data<'_>]]) -> Vec<u8> {
        Data::Array(rows.iter().map(|row| Data::Structure(row.to_vec())).collect()).to_bytes()
    }

    //= DLMS 2.4: a clock that was left out is one capture period after the one above it, or an error
    //= DLMS 2.4: null repeats the value above it
    #[test]
    fn values_that_were_left_out_are_restored_from_the_row_above() {
        let bytes = buffer(&[
            &[Data::OctetString(&NOON), Data::DoubleLongUnsigned(1_000)],
            &[Data::Null, Data::Null],
            &[Data::Null, Data::DeltaUnsigned(5)],
        ]);
        let mut rows = Rows::new(&bytes, Some(CLOCK)).unwrap();
        rows.next_row().unwrap();
        let second = rows.next_row().unwrap().unwrap().to_vec();
        let mut quarter = DateTime::from_bytes(&NOON).unwrap();
        quarter.time.minute = 15;
        assert_eq!(second, [Data::DateTime(quarter), Data::DoubleLongUnsigned(1_000)]);
        quarter.time.minute = 30;
        let third = rows.next_row().unwrap().unwrap();
        assert_eq!(third, [Data::DateTime(quarter), Data::DoubleLongUnsigned(1_005)]);
        assert_eq!(rows.next_row(), Ok(None));
        let mut events = Rows::new(&bytes, Some(ClockColumn { column: 0, capture_period_s: 0 })).unwrap();
        assert!(events.next_row().is_ok());
        assert_eq!(
            events.next_row(),
            Err(RowError::ClockUnknown { row: 1 }),
            "no period: nothing is invented"
        );
        assert_eq!(events.next_row(), Ok(None), "after an error comes nothing");
    }

    #[test]
    fn a_difference_that_leaves_the_range_or_stands_alone_is_refused() {
        let bytes = buffer(&[&[Data::Unsigned(250)], &[Data::DeltaUnsigned(6)]]);
        let mut rows = Rows::new(&bytes, None).unwrap();
        rows.next_row().unwrap();
        assert_eq!(rows.next_row(), Err(RowError::Difference { row: 1, column: 0 }));
        let bytes = buffer(&[&[Data::DeltaUnsigned(6)]]);
        assert_eq!(
            Rows::new(&bytes, None).unwrap().next_row(),
            Err(RowError::Difference { row: 0, column: 0 })
        );
        let bytes = buffer(&[&[Data::Null]]);
        assert_eq!(
            Rows::new(&bytes, Some(CLOCK)).unwrap().next_row(),
            Err(RowError::ClockUnknown { row: 0 })
        );
    }

    #[test]
    fn rows_of_different_width_are_refused_and_compact_rows_read_alike() {
        let bytes = buffer(&[&[Data::Unsigned(1), Data::Unsigned(2)], &[Data::Unsigned(3)]]);
        let mut rows = Rows::new(&bytes, None).unwrap();
        rows.next_row().unwrap();
        assert_eq!(rows.next_row(), Err(RowError::Width { row: 1, found: 1, expected: 2 }));
        let compact = [0x13, 0x02, 0x02, 0x11, 0x1F, 0x04, 7, 0, 8, 2];
        let mut rows = Rows::new(&compact, None).unwrap();
        assert_eq!(rows.next_row(), Err(RowError::Difference { row: 0, column: 1 }));
        let compact = [0x13, 0x02, 0x02, 0x11, 0x12, 0x06, 7, 0, 1, 8, 0, 2];
        let mut rows = Rows::new(&compact, None).unwrap();
        assert_eq!(rows.next_row(), Ok(Some(&[Data::Unsigned(7), Data::LongUnsigned(1)][..])));
        assert_eq!(rows.next_row(), Ok(Some(&[Data::Unsigned(8), Data::LongUnsigned(2)][..])));
        assert_eq!(rows.next_row(), Ok(None));
        assert!(Rows::new(&[0x01, 0x84, 0xFF, 0xFF, 0xFF, 0xFF], None).is_err());
    }
}
