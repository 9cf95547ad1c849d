//! Buffers of profiles: columns from the capture objects, rows with what was left out put back.

use anyhow::Result;
use gridseal_dlms::{
    apdu::{reference::AttributeId, result::DataAccessResult},
    class::{self, Type},
    wire::{ClockColumn, Data, RowError, Rows},
};
use gridseal_types::ObisCode;
use serde_json::{Map, Value, json};

use super::{
    item::dotted,
    read::{self, Read},
    session::Session,
    shown::{ScalerUnit, Shown, head, named, plain, scaled, typed},
};

/// A column: an attribute of an object, or one element of it.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    attribute: AttributeId,
    index: u16,
    scaler_unit: Option<ScalerUnit>,
}

/// What the rows of a profile are.
#[derive(Debug, Default)]
pub struct Layout {
    columns: Vec<Column>,
    /// capture_period in seconds.
    period_s: u32,
}

/// Reads capture objects and period of a profile, and the scalers of its columns.
pub async fn layout<const N: usize>(session: &mut Session<'_, N>, obis: ObisCode) -> Result<Layout> {
    let reads = [3, 4].map(|attribute| Read::plain(AttributeId::new(7, obis, attribute)));
    let mut values = read::fetch(session, &reads).await?.into_iter();
    let objects = values.next().and_then(Result::ok).unwrap_or_default();
    let period = values.next().and_then(Result::ok).unwrap_or_default();
    let period_s = match Data::from_bytes(&period) {
        Ok(Data::DoubleLongUnsigned(period_s)) => period_s,
        _ => 0,
    };
    let mut columns = columns(&objects);
    let wanted: Vec<(usize, AttributeId)> = columns
        .iter()
        .enumerate()
        .filter_map(|(index, column)| Some((index, read::scaler_of(column.attribute)?)))
        .collect();
    let reads: Vec<Read> = wanted.iter().map(|(_, attribute)| Read::plain(*attribute)).collect();
    let scalers = read::fetch(session, &reads).await?;
    for ((index, _), scaler) in wanted.into_iter().zip(scalers) {
        if let (Some(column), Ok(value)) = (columns.get_mut(index), scaler) {
            column.scaler_unit = ScalerUnit::read(&value);
        }
    }
    Ok(Layout { columns, period_s })
}

fn columns(objects: &[u8]) -> Vec<Column> {
    let Ok(Data::Array(entries)) = Data::from_bytes(objects) else { return Vec::new() };
    let column = |entry: &Data<'_>| match entry {
        Data::Structure(parts) => match parts.as_slice() {
            [
                Data::LongUnsigned(class),
                Data::OctetString(name),
                Data::Integer(attribute),
                Data::LongUnsigned(index),
            ] => {
                let obis = ObisCode::new((*name).try_into().ok()?);
                let attribute = AttributeId::new(*class, obis, *attribute);
                Some(Column { attribute, index: *index, scaler_unit: None })
            }
            _ => None,
        },
        _ => None,
    };
    entries.iter().map_while(column).collect()
}

impl Layout {
    fn clock(&self) -> Option<ClockColumn> {
        let is_clock = |column: &Column| (column.attribute.class, column.attribute.attribute) == (8, 2);
        let column = self.columns.iter().position(is_clock)?;
        Some(ClockColumn { column, capture_period_s: self.period_s })
    }

    /// The rows of a buffer as typed values.
    fn rows(&self, buffer: &[u8]) -> Result<Vec<Vec<Value>>, RowError> {
        let mut rows = Rows::new(buffer, self.clock())?;
        let mut all = Vec::new();
        while let Some(row) = rows.next_row()? {
            let cells = row.iter().enumerate().map(|(index, cell)| typed(cell, self.kind(index)));
            all.push(cells.collect());
        }
        Ok(all)
    }

    fn kind(&self, index: usize) -> Option<&'static Type> {
        let column = self.columns.get(index).filter(|column| column.index == 0)?;
        let attribute = class::newest(column.attribute.class)?.attribute(column.attribute.attribute)?;
        Some(&attribute.value)
    }

    /// A buffer as it is printed. Rows that cannot be put back together are an error of the item: nothing is made up.
    pub fn show(&self, attribute: AttributeId, buffer: &[u8], is_proven: bool) -> Shown {
        let mut object = named(attribute);
        object.insert("authenticated".into(), json!(is_proven));
        match self.rows(buffer) {
            Ok(rows) => {
                // As it came, beside the rows with what was left out put back.
                if let Ok(data) = Data::from_bytes(buffer)
                    && let Value::Object(told) = typed(&data, None)
                {
                    object.extend(told);
                }
                self.show_rows(attribute, object, &rows)
            }
            // A row may hold more than simple values.
            Err(RowError::Decode(_)) => read::show_value(attribute, buffer, None, is_proven),
            Err(error) => {
                let message = error.to_string();
                object.insert("error".into(), json!({"code": "dlms.rows", "message": message}));
                Shown::new(object, format!("{}  {message}", head(attribute)), false)
            }
        }
    }

    fn show_rows(
        &self,
        attribute: AttributeId,
        mut object: Map<String, Value>,
        rows: &[Vec<Value>],
    ) -> Shown {
        let columns = self.columns.iter().map(|column| {
            let mut told = named(column.attribute);
            if column.index != 0 {
                told.insert("index".into(), json!(column.index));
            }
            if let Some(scaler_unit) = column.scaler_unit {
                scaler_unit.put(&mut told);
            }
            Value::Object(told)
        });
        let scaler_unit = |index: usize| self.columns.get(index).and_then(|column| column.scaler_unit);
        let names = self.columns.iter().map(|column| {
            let unit = column.scaler_unit.map_or_else(String::new, |unit| format!(" {}", unit.symbol()));
            format!("{}:{}{unit}", dotted(column.attribute.obis), column.attribute.attribute)
        });
        let mut text =
            format!("{}  {} rows\n  {}", head(attribute), rows.len(), names.collect::<Vec<_>>().join(" | "));
        for row in rows {
            let cells = row.iter().enumerate().map(|(index, cell)| {
                scaler_unit(index).and_then(|unit| scaled(cell, unit.scaler)).unwrap_or_else(|| plain(cell))
            });
            text.push_str("\n  ");
            text.push_str(&cells.collect::<Vec<_>>().join(" | "));
        }
        object.insert("columns".into(), columns.collect());
        object.insert("rows".into(), json!(rows));
        Shown::new(object, text, true)
    }
}

/// Whether the meter itself refused the buffer.
pub fn refused(attribute: AttributeId, result: DataAccessResult) -> Shown {
    let mut object = named(attribute);
    object.insert("error".into(), super::shown::access_error(result));
    Shown::new(object, format!("{}  {}", head(attribute), super::shown::refusal(result)), false)
}
