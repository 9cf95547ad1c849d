//! Values to records.

use alloc::vec::Vec;

use crate::{
    mbus::record::{Header, Vif},
    reading::{Decimal, Function, Quantity, Unit},
    wire::{DecodeError, Reader},
};

/// A value cannot be written as a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// No code of the standard says this quantity in this unit and power of ten.
    #[error("no value information field says this quantity, unit and scaler")]
    NoCode,
    /// Storage, tariff or subunit do not fit into ten extensions.
    #[error("storage, tariff or subunit is out of range")]
    OutOfRange,
    /// The value does not fit into the data field, or its kind is another one.
    #[error("value does not fit into the data field of the record")]
    Value,
    /// The header is none.
    #[error(transparent)]
    Header(#[from] DecodeError),
}

/// The VIF that says `quantity` in `unit` with the power of ten of `number`.
fn vif_for(quantity: Quantity, unit: Unit, exponent: i16) -> Option<Vif> {
    let primary = (0..0x7Bu8).map(|primary| Vif { primary, table: 0 });
    let tables = [0x7Bu8, 0x7D].into_iter();
    let tables = tables.flat_map(|primary| (0..0x80u8).map(move |table| Vif { primary, table }));
    primary.chain(tables).find(|vif| {
        let meaning = vif.meaning();
        (meaning.quantity, meaning.unit, meaning.exponent) == (quantity, unit, exponent)
    })
}

/// DIF to VIF of an integer or BCD record: `data_field` is the coding of EN 13757-3 (1 to 4, 6, 7 integers, 9 to C and
/// E BCD).
///
/// # Errors
/// [`RecordError::NoCode`], [`RecordError::OutOfRange`].
pub fn header_for(
    data_field: u8,
    quantity: (Quantity, Unit, i16),
    function: Function,
    storage: u64,
    (tariff, subunit): (u32, u16),
) -> Result<Vec<u8>, RecordError> {
    let (quantity, unit, exponent) = quantity;
    let vif = vif_for(quantity, unit, exponent).ok_or(RecordError::NoCode)?;
    if storage >> 41 != 0 || tariff >> 20 != 0 || subunit >> 10 != 0 {
        return Err(RecordError::OutOfRange);
    }
    let function = match function {
        Function::Instantaneous => 0x00,
        Function::Maximum => 0x10,
        Function::Minimum => 0x20,
        Function::DuringError => 0x30,
    };
    let lowest = u8::from(storage & 1 == 1);
    let mut out = alloc::vec![(data_field & 0x0F) | function | (lowest << 6)];
    let (mut storage, mut tariff, mut subunit) = (storage >> 1, tariff, subunit);
    while storage != 0 || tariff != 0 || subunit != 0 {
        if let Some(last) = out.last_mut() {
            *last |= 0x80;
        }
        let [low_storage, ..] = (storage & 0x0F).to_le_bytes();
        let [low_tariff, ..] = (tariff & 3).to_le_bytes();
        let [low_subunit, _] = (subunit & 1).to_le_bytes();
        out.push(low_storage | (low_tariff << 4) | (low_subunit << 6));
        (storage, tariff, subunit) = (storage >> 4, tariff >> 2, subunit >> 1);
    }
    match vif.primary {
        0x7B | 0x7D => out.extend_from_slice(&[vif.primary | 0x80, vif.table]),
        primary => out.push(primary),
    }
    Ok(out)
}

/// The data of a number under a header: integers little-endian, BCD with the sign in the top digit. The inverse of
/// reading, corrections of the header included.
///
/// # Errors
/// [`RecordError::Value`] when the number has digits below the resolution or does not fit.
pub fn data_for(header: &[u8], number: Decimal) -> Result<Vec<u8>, RecordError> {
    let mut reader = Reader::new(header);
    let decoded = Header::decode(&mut reader, false)?;
    reader.finish("header")?;
    let (size, is_bcd) = match decoded.data_field() {
        field @ 1..=4 => (usize::from(field), false),
        6 => (6, false),
        7 => (8, false),
        field @ 9..=0xC => (usize::from(field.saturating_sub(8)), true),
        0xE => (6, true),
        _ => return Err(RecordError::Value),
    };
    let mut exponent = decoded.vif.meaning().exponent;
    for extension in decoded.extensions {
        match extension & 0x7F {
            code @ 0x70..=0x77 => exponent = exponent.saturating_add(i16::from(code & 7)).saturating_sub(6),
            0x7D => exponent = exponent.saturating_add(3),
            // An offset or a changed meaning has no inverse here.
            0x78..=0x7B | 0x41 | 0x49 | 0x50..=0x67 => return Err(RecordError::Value),
            0x7F => break,
            _ => {}
        }
    }
    let value = number.in_units_of(exponent).ok_or(RecordError::Value)?;
    if is_bcd { bcd(value, size) } else { integer(value, size, decoded.vif.is_unsigned()) }
        .ok_or(RecordError::Value)
}

fn integer(value: i128, size: usize, is_unsigned: bool) -> Option<Vec<u8>> {
    let bits = u32::try_from(size).ok()?.checked_mul(8)?;
    let limit = 1i128.checked_shl(bits)?;
    let half = limit >> 1;
    let fits =
        if is_unsigned { (0..limit).contains(&value) } else { (half.checked_neg()?..half).contains(&value) };
    let bytes = value.to_le_bytes();
    fits.then(|| bytes.get(..size).map(<[u8]>::to_vec)).flatten()
}

fn bcd(value: i128, size: usize) -> Option<Vec<u8>> {
    let mut left = value.unsigned_abs();
    let mut out = Vec::with_capacity(size);
    for _ in 0..size {
        let digits = u8::try_from(left.checked_rem(100)?).ok()?;
        let (high, low) = (digits.checked_div(10)?, digits.checked_rem(10)?);
        out.push((high << 4) | low);
        left = left.checked_div(100)?;
    }
    if value < 0 {
        let last = out.last_mut()?;
        // The top digit gives way to the sign.
        if *last >> 4 != 0 {
            return None;
        }
        *last |= 0xF0;
    }
    (left == 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mbus::record::{RecordOptions, Records},
        reading::Value,
    };

    #[test]
    fn every_quantity_of_the_tables_comes_back_from_its_header() {
        for primary in 0..0x80u8 {
            for table in if matches!(primary, 0x7B | 0x7D) { 0..0x80u8 } else { 0..1 } {
                let vif = Vif { primary, table };
                let meaning = vif.meaning();
                let said = (meaning.quantity, meaning.unit, meaning.exponent);
                let Ok(header) = header_for(4, said, Function::Maximum, 0x1_23, (5, 2)) else {
                    assert!(primary >= 0x7B, "{vif:?}");
                    continue;
                };
                let data = data_for(&header, Decimal::new(17, meaning.exponent)).unwrap();
                let bytes = [header, data].concat();
                let record = Records::new(&bytes, 0, RecordOptions::default()).next().unwrap().unwrap();
                let reading = record.reading;
                assert_eq!((reading.quantity, reading.unit), (meaning.quantity, meaning.unit), "{vif:?}");
                assert_eq!((reading.storage, reading.tariff, reading.subunit), (0x123, 5, 2));
                assert_eq!(reading.function, Function::Maximum);
                let number = Value::Number(Decimal::new(17, meaning.exponent));
                assert!(reading.value == number || meaning.quantity == Quantity::DateTime, "{vif:?}");
            }
        }
    }

    #[test]
    fn numbers_are_written_as_they_are_read_or_refused() {
        let written =
            |header: &[u8], mantissa, exponent| data_for(header, Decimal::new(mantissa, exponent)).ok();
        assert_eq!(written(&[0x04, 0x13], -1, -3), Some(alloc::vec![0xFF; 4]));
        assert_eq!(written(&[0x0A, 0x13], -234, -3), Some(alloc::vec![0x34, 0xF2]));
        assert_eq!(written(&[0x0A, 0x13], -1_234, -3), None, "no digit is left for the sign");
        assert_eq!(written(&[0x0A, 0x13], 10_000, -3), None);
        assert_eq!(written(&[0x01, 0x13], 128, -3), None);
        assert_eq!(written(&[0x04, 0x13], 1, -4), None, "below the resolution");
        assert_eq!(written(&[0x04, 0x13], 2, 0), Some(alloc::vec![0xD0, 7, 0, 0]));
        assert_eq!(written(&[0x04, 0x93, 0x7D], 2, 0), Some(alloc::vec![2, 0, 0, 0]));
        assert_eq!(written(&[0x02, 0xFD, 0x17], 0xFFFF, 0), Some(alloc::vec![0xFF, 0xFF]));
        assert_eq!(written(&[0x0D, 0x13], 1, 0), None);
    }

    #[test]
    fn out_of_range_parts_are_refused() {
        let said = (Quantity::Volume, Unit::CubicMetre, -3);
        let header = |storage, tariff, subunit| {
            header_for(4, said, Function::Instantaneous, storage, (tariff, subunit))
        };
        assert!(header((1 << 41) - 1, (1 << 20) - 1, (1 << 10) - 1).is_ok_and(|header| header.len() == 12));
        assert_eq!(header(1 << 41, 0, 0), Err(RecordError::OutOfRange));
        assert_eq!(header(0, 1 << 20, 0), Err(RecordError::OutOfRange));
        assert_eq!(header(0, 0, 1 << 10), Err(RecordError::OutOfRange));
        let none = header_for(4, (Quantity::Volume, Unit::Watt, 0), Function::Instantaneous, 0, (0, 0));
        assert_eq!(none, Err(RecordError::NoCode));
    }
}
