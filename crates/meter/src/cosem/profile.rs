//! Profile generic: rows that are captured as time passes, and read by range or by entry.

use std::{collections::VecDeque, sync::Arc};

use gridseal_dlms::{
    apdu::{reference::Selection, result::DataAccessResult},
    assoc::{Value, ValueSource},
    wire::{Data, Writer},
};
use gridseal_types::{ObisCode, UtcTime};

use super::{
    Device, Keyholder, clock,
    object::{items, name, number},
};

/// Class of profiles.
pub(super) const PROFILE: u16 = 7;
/// Most columns of a profile.
const COLUMNS_MAX: usize = 32;
/// Most rows of a profile.
const ENTRIES_MAX: i64 = 4_096;
/// Largest value that a column may hold, bytes: a longer one is not captured.
const CELL_SIZE_MAX: usize = 64;
/// Rows that a profile holds when the device is switched on, at most.
const PREFILLED: u64 = 96;
/// The standard event log, and the code that it captures.
const EVENT_LOG: ObisCode = ObisCode::new([0, 0, 99, 98, 0, 255]);
const EVENT_CODE: ObisCode = ObisCode::new([0, 0, 96, 11, 0, 255]);

/// Event codes as IDIS numbers them \[check\].
pub(super) const EVENT_POWER_UP: u8 = 2;
pub(super) const EVENT_CLOCK_OLD: u8 = 4;
pub(super) const EVENT_CLOCK_NEW: u8 = 5;
pub(super) const EVENT_KEYS_CHANGED: u8 = 48;
pub(super) const EVENT_CERTIFICATES_CHANGED: u8 = 49;
pub(super) const EVENT_IMAGE_REFUSED: u8 = 51;
pub(super) const EVENT_IMAGE_ACTIVATED: u8 = 52;

/// One captured row: encoded values.
type Row = Arc<[Vec<u8>]>;

/// What a profile has captured, oldest row first.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    rows: VecDeque<Row>,
    /// Clock at which the next row is due.
    next: Option<UtcTime>,
}

/// One captured attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Column {
    class: u16,
    obis: ObisCode,
    attribute: i8,
    index: u16,
}

impl Column {
    fn read(value: &Data<'_>) -> Option<Self> {
        let [class, obis, attribute, index] = items(value) else { return None };
        Some(Self {
            class: u16::try_from(number(class)?).ok()?,
            obis: name(obis)?,
            attribute: i8::try_from(number(attribute)?).ok()?,
            index: u16::try_from(number(index)?).ok()?,
        })
    }

    fn is_clock(self) -> bool {
        (self.class, self.attribute) == (8, 2)
    }
}

/// Which rows and columns are wanted.
struct Wanted {
    rows: Vec<Row>,
    /// `None` for all.
    columns: Option<Vec<usize>>,
}

impl Device {
    fn columns(&self, profile: ObisCode) -> Vec<Column> {
        let Some(object) = self.objects.get(&profile) else { return Vec::new() };
        items(&object.data(3)).iter().filter_map(Column::read).collect()
    }

    fn period_s(&self, profile: ObisCode) -> Option<u64> {
        let object = self.objects.get(&profile)?;
        u64::try_from(object.number(4)).ok().filter(|period| *period > 0)
    }

    fn profiles(&self) -> Vec<ObisCode> {
        self.objects.values().filter(|object| object.class.id == PROFILE).map(|object| object.obis).collect()
    }

    /// Gives each profile that has none its buffer, with the rows before now.
    pub(super) fn fill_profiles(&mut self) {
        let now = self.now();
        for profile in self.profiles() {
            if self.profiles.contains_key(&profile) {
                continue;
            }
            self.profiles.insert(profile, Buffer::default());
            let Some(period_s) = self.period_s(profile) else { continue };
            let last = now.0.checked_div(period_s).unwrap_or(0);
            let entries = self.objects.get(&profile).map_or(0, |object| object.number(8));
            let count = PREFILLED.min(u64::try_from(entries).unwrap_or(0)).min(last);
            for index in last.saturating_sub(count)..last {
                let at = UtcTime(index.saturating_add(1).saturating_mul(period_s));
                self.capture(profile, at, clock::shifted(at, self.offset_s.saturating_neg()));
            }
        }
        self.align_profiles();
    }

    /// The next row of each profile is due at the next end of its period.
    pub(super) fn align_profiles(&mut self) {
        let now = self.now();
        for profile in self.profiles() {
            let next = self.period_s(profile).map(|period_s| {
                UtcTime(now.0.checked_div(period_s).unwrap_or(0).saturating_add(1).saturating_mul(period_s))
            });
            self.profiles.entry(profile).or_default().next = next;
        }
    }

    /// Captures what is due. Of periods that passed unseen only the last one is captured: a missing row is not invented.
    pub(super) fn capture_due(&mut self) {
        let now = self.now();
        for profile in self.profiles() {
            let due =
                self.profiles.get(&profile).and_then(|buffer| buffer.next).is_some_and(|next| next <= now);
            let (true, Some(period_s)) = (due, self.period_s(profile)) else { continue };
            let end = now.0.checked_div(period_s).unwrap_or(0).saturating_mul(period_s);
            let at = UtcTime(end);
            self.capture(profile, at, clock::shifted(at, self.offset_s.saturating_neg()));
            if let Some(buffer) = self.profiles.get_mut(&profile) {
                buffer.next = Some(UtcTime(end.saturating_add(period_s)));
            }
        }
    }

    /// Captures a row now: method 2.
    pub(super) fn capture_now(&mut self, profile: ObisCode) {
        self.capture(profile, self.now(), self.told);
    }

    /// Captures a row that the clock calls `at`, with what was measured at `measured_at`.
    fn capture(&mut self, profile: ObisCode, at: UtcTime, measured_at: UtcTime) {
        let cells: Vec<Vec<u8>> =
            self.columns(profile).into_iter().map(|column| self.cell(column, at, measured_at)).collect();
        let entries = self.objects.get(&profile).map_or(0, |object| object.number(8));
        let entries = usize::try_from(entries).unwrap_or(0);
        let rows = &mut self.profiles.entry(profile).or_default().rows;
        rows.push_back(cells.into());
        while rows.len() > entries {
            rows.pop_front();
        }
    }

    fn cell(&self, column: Column, at: UtcTime, measured_at: UtcTime) -> Vec<u8> {
        let null = || Data::Null.to_bytes();
        if column.is_clock() {
            return Data::OctetString(&self.local(at)).to_bytes();
        }
        let Some(value) = self.capturable(column.obis, column.attribute, measured_at) else { return null() };
        let value = match (column.index, Data::from_bytes(&value)) {
            (0, _) => value,
            (index, Ok(whole)) => {
                let part = items(&whole).get(usize::from(index).saturating_sub(1));
                part.map_or_else(null, Data::to_bytes)
            }
            (_, Err(_)) => null(),
        };
        if value.len() > CELL_SIZE_MAX { null() } else { value }
    }

    /// An event happened: its code is captured by the standard event log.
    pub(super) fn log_event(&mut self, code: u8) {
        if let Some(object) = self.objects.get_mut(&EVENT_CODE) {
            object.keep(2, &Data::Unsigned(code));
            self.capture_now(EVENT_LOG);
        }
    }

    /// Forgets the rows of a profile.
    pub(super) fn reset_profile(&mut self, profile: ObisCode) {
        if let Some(buffer) = self.profiles.get_mut(&profile) {
            buffer.rows.clear();
        }
    }

    /// Rows of a profile.
    pub(super) fn entries_in_use(&self, profile: ObisCode) -> u32 {
        let count = self.profiles.get(&profile).map_or(0, |buffer| buffer.rows.len());
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Whether an attribute may be set so. A change of what is captured, how often and how much, ends the old rows.
    pub(super) fn check_profile(&self, attribute: i8, value: &Data<'_>) -> Result<(), DataAccessResult> {
        let is_good = match attribute {
            3 => {
                let columns = items(value);
                columns.len() <= COLUMNS_MAX && columns.iter().all(|column| self.is_capturable(column))
            }
            4 => number(value).is_some_and(|period| period <= 31 * 86_400),
            5 => matches!(value, Data::Enum(1 | 2)),
            8 => number(value).is_some_and(|entries| (1..=ENTRIES_MAX).contains(&entries)),
            _ => true,
        };
        if is_good { Ok(()) } else { Err(DataAccessResult::ScopeOfAccessViolated) }
    }

    fn is_capturable(&self, column: &Data<'_>) -> bool {
        let Some(column) = Column::read(column) else { return false };
        let Some(object) = self.objects.get(&column.obis) else { return false };
        // Lists, buffers, rights and keys are not captured.
        let is_simple =
            !matches!((column.class, column.attribute), (PROFILE, 2) | (15 | 17 | 18 | 30 | 64, _));
        object.class.id == column.class && object.class.attribute(column.attribute).is_some() && is_simple
    }

    /// Attribute 2, whole or selected.
    pub(super) fn buffer(
        &self,
        profile: ObisCode,
        selection: Option<Selection<'_>>,
    ) -> Result<Value, DataAccessResult> {
        let buffer = self.profiles.get(&profile).ok_or(DataAccessResult::ObjectUnavailable)?;
        let newest_first = self.objects.get(&profile).is_some_and(|object| object.number(5) == 2);
        let rows = || -> Vec<Row> {
            let rows = buffer.rows.iter().cloned();
            if newest_first { rows.rev().collect() } else { rows.collect() }
        };
        let wanted = match selection {
            None => Wanted { rows: rows(), columns: None },
            Some(Selection { selector, parameter }) => {
                let parameter = Data::from_bytes(parameter).map_err(|_| DataAccessResult::TypeUnmatched)?;
                match selector {
                    1 => self.by_range(profile, rows(), &parameter)?,
                    2 => by_entry(rows(), self.columns(profile).len(), &parameter)?,
                    _ => return Err(DataAccessResult::ScopeOfAccessViolated),
                }
            }
        };
        Ok(Value::Stream(Box::new(Rows { wanted, sent: None })))
    }

    /// `{restricting object, from, to, selected columns}`; both bounds belong to the range.
    fn by_range(
        &self,
        profile: ObisCode,
        rows: Vec<Row>,
        parameter: &Data<'_>,
    ) -> Result<Wanted, DataAccessResult> {
        let unmatched = DataAccessResult::TypeUnmatched;
        let (Data::Structure(_), [restricting, from, to, selected]) = (parameter, items(parameter)) else {
            return Err(unmatched);
        };
        let Data::Array(selected) = selected else { return Err(unmatched) };
        let columns = self.columns(profile);
        let find = |wanted: &Data<'_>| {
            let wanted = Column::read(wanted).ok_or(unmatched)?;
            let found = columns.iter().position(|column| *column == wanted);
            found.ok_or(DataAccessResult::ScopeOfAccessViolated)
        };
        let restricting = find(restricting)?;
        let columns = selected.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        if columns.len() > COLUMNS_MAX {
            return Err(DataAccessResult::ScopeOfAccessViolated);
        }
        let bound = |value: &Data<'_>| self.ordinal(value).ok_or(unmatched);
        let range = bound(from)?..=bound(to)?;
        let is_inside = |row: &Row| {
            let cell = row.get(restricting).and_then(|cell| Data::from_bytes(cell).ok());
            cell.and_then(|cell| self.ordinal(&cell)).is_some_and(|at| range.contains(&at))
        };
        let rows = rows.into_iter().filter(is_inside).collect();
        Ok(Wanted { rows, columns: (!columns.is_empty()).then_some(columns) })
    }

    /// A value by which rows are ordered: an instant or a number.
    fn ordinal(&self, value: &Data<'_>) -> Option<i64> {
        number(value).or_else(|| i64::try_from(self.instant(value)?.0).ok())
    }

    /// Value of an attribute for a capture; `None` where there is none.
    fn capturable(&self, obis: ObisCode, attribute: i8, at: UtcTime) -> Option<Vec<u8>> {
        self.present(self.objects.get(&obis)?, attribute, at)
    }

    /// The attributes that a push sends, each as it is now; null for one that cannot be sent.
    pub(super) fn collect(&self, list: &Data<'_>, keys: &dyn Keyholder) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u8(0x02);
        writer.length(items(list).len());
        for entry in items(list) {
            let column = Column::read(entry).filter(|_| self.is_capturable(entry) || is_name(entry));
            let value = column.and_then(|column| {
                self.read_whole(column.obis, column.attribute, keys).filter(|value| value.len() <= 256)
            });
            writer.bytes(&value.unwrap_or_else(|| Data::Null.to_bytes()));
        }
        writer.into_bytes()
    }
}

/// Whether a logical name is meant, which every object may send.
fn is_name(entry: &Data<'_>) -> bool {
    Column::read(entry).is_some_and(|column| column.attribute == 1)
}

/// `{from, to, first column, last column}`, counted from 1; 0 as an end is the last one.
fn by_entry(rows: Vec<Row>, column_count: usize, parameter: &Data<'_>) -> Result<Wanted, DataAccessResult> {
    let (Data::Structure(_), [from, to, first, last]) = (parameter, items(parameter)) else {
        return Err(DataAccessResult::TypeUnmatched);
    };
    let read = |value: &Data<'_>| {
        let is_whole = matches!(value, Data::DoubleLongUnsigned(_) | Data::LongUnsigned(_));
        let found = number(value).filter(|_| is_whole).and_then(|value| usize::try_from(value).ok());
        found.ok_or(DataAccessResult::TypeUnmatched)
    };
    let (from, to, first, last) = (read(from)?, read(to)?, read(first)?, read(last)?);
    let is_backwards = last != 0 && last < first;
    if from == 0 || first == 0 || first > column_count.max(1) || is_backwards {
        return Err(DataAccessResult::ScopeOfAccessViolated);
    }
    let end = |end: usize, count: usize| if end == 0 { count } else { end.min(count) };
    let (row_end, column_end) = (end(to, rows.len()), end(last, column_count));
    let start = from.saturating_sub(1);
    let rows = rows.get(start..row_end).unwrap_or_default().to_vec();
    let columns: Vec<usize> = (first.saturating_sub(1)..column_end).collect();
    Ok(Wanted { rows, columns: (columns.len() < column_count).then_some(columns) })
}

/// Writes rows as they are asked for. It has its own references: later captures change nothing in it.
struct Rows {
    wanted: Wanted,
    /// Rows sent; `None` before the count was.
    sent: Option<usize>,
}

impl ValueSource for Rows {
    fn fill(&mut self, wanted: usize, out: &mut Vec<u8>) -> Result<bool, DataAccessResult> {
        let goal = out.len().saturating_add(wanted);
        let mut writer = Writer::default();
        let mut next = self.sent.unwrap_or_else(|| {
            writer.u8(0x01);
            writer.length(self.wanted.rows.len());
            0
        });
        while let Some(row) = self.wanted.rows.get(next) {
            if out.len().saturating_add(writer.as_bytes().len()) >= goal {
                break;
            }
            write_row(&mut writer, row, self.wanted.columns.as_deref());
            next = next.saturating_add(1);
        }
        out.extend_from_slice(writer.as_bytes());
        self.sent = Some(next);
        Ok(next < self.wanted.rows.len())
    }
}

fn write_row(writer: &mut Writer, row: &Row, columns: Option<&[usize]>) {
    writer.u8(0x02);
    match columns {
        None => {
            writer.length(row.len());
            row.iter().for_each(|cell| writer.bytes(cell));
        }
        Some(columns) => {
            writer.length(columns.len());
            let cells = columns.iter().filter_map(|column| row.get(*column));
            cells.for_each(|cell| writer.bytes(cell));
        }
    }
}
