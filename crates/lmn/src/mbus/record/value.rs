//! Data of a record to a value, and its corrections.

use super::{Header, Qualifiers, date, manufacturer_reading, obis, qualifier::Qualifier, vif::time_unit};
use crate::{
    mbus::address::Medium,
    reading::{Compound, Decimal, Quality, Quantity, Reading, Text, Unit, Value, scale},
    wire::{DecodeError, Rule},
};

fn integer(bytes: &[u8], is_signed: bool) -> i128 {
    let value = bytes.iter().rev().fold(0i128, |value, byte| (value << 8) | i128::from(*byte));
    match bytes.last() {
        Some(last) if is_signed && last & 0x80 != 0 => {
            let bits = u32::try_from(bytes.len()).unwrap_or(0).saturating_mul(8);
            value.saturating_sub(1i128.checked_shl(bits).unwrap_or(0))
        }
        _ => value,
    }
}

/// BCD, least significant byte first; top digit F is a minus sign, other digits above 9 make it no number.
fn bcd(bytes: &[u8]) -> Option<i128> {
    //= LMN 8: BCD with top nibble F is negative, other digits A to E are an error display
    let (last, lower) = bytes.split_last()?;
    let is_negative = last >> 4 == 0xF;
    let top = if is_negative { last & 0x0F } else { *last };
    let value = core::iter::once(&top).chain(lower.iter().rev()).try_fold(0i128, |value, byte| {
        let (high, low) = (byte >> 4, byte & 0x0F);
        let digits = (high <= 9 && low <= 9)
            .then(|| i128::from(high).saturating_mul(10).saturating_add(low.into()))?;
        value.checked_mul(100)?.checked_add(digits)
    })?;
    Some(if is_negative { value.saturating_neg() } else { value })
}

fn number<'a>(value: Option<i128>, exponent: i16, data: &'a [u8]) -> (Value<'a>, Quality) {
    match value {
        Some(value) => (Value::Number(Decimal::new(value, exponent)), Quality::Good),
        None => (Value::NotANumber(data), Quality::Unreadable),
    }
}

/// Variable data behind its length byte.
fn variable(data: &[u8], exponent: i16) -> (Value<'_>, Quality) {
    let Some((length, bytes)) = data.split_first() else { return (Value::None, Quality::Good) };
    match length {
        0x00..=0xBF => (Value::Text(Text::reversed(bytes)), Quality::Good),
        0xC0..=0xC9 => number(if bytes.is_empty() { Some(0) } else { bcd(bytes) }, exponent, data),
        0xD0..=0xD9 => {
            let value = if bytes.is_empty() { Some(0) } else { bcd(bytes) };
            number(value.map(i128::saturating_neg), exponent, data)
        }
        _ => (Value::Octets(bytes), Quality::Good),
    }
}

fn plain<'a>(header: &Header<'_>, data: &'a [u8], exponent: i16) -> (Value<'a>, Quality) {
    match header.data_field() {
        1..=4 | 6 | 7 => number(Some(integer(data, !header.vif.is_unsigned())), exponent, data),
        5 => match <[u8; 4]>::try_from(data) {
            Ok(bytes) => (Value::Real(scale(f64::from(f32::from_le_bytes(bytes)), exponent)), Quality::Good),
            Err(_) => (Value::NotANumber(data), Quality::Unreadable),
        },
        9..=0xC | 0xE => number(bcd(data), exponent, data),
        0xD => variable(data, exponent),
        _ => (Value::None, Quality::Good),
    }
}

/// The reading of a record.
pub(super) fn reading<'a>(
    header: &Header<'a>,
    data: &'a [u8],
    offset: usize,
    medium: Medium,
) -> Result<(Reading<'a>, Qualifiers), DecodeError> {
    if header.is_manufacturer_data() {
        return Ok((manufacturer_reading(data), Qualifiers::default()));
    }
    let meaning = header.vif.meaning();
    let (qualifiers, is_manufacturer) = if header.vif.is_manufacturer() {
        (Qualifiers::default(), true)
    } else {
        Qualifiers::decode(header.extensions)
    };
    let mut reading = Reading::new(meaning.quantity, Value::None);
    reading.unit = meaning.unit;
    reading.storage = header.storage;
    reading.tariff = header.tariff;
    reading.subunit = header.subunit;
    reading.function = header.function();
    let is_date_size =
        |kind| matches!((kind, header.data_field()), (Quantity::Date, 2) | (Quantity::DateTime, 3 | 4 | 6));
    let is_date_qualifier = qualifiers.as_slice().iter().any(|qualifier| is_date(*qualifier));
    let dated = if is_date_qualifier {
        Some(if data.len() == 2 { Quantity::Date } else { Quantity::DateTime })
    } else {
        None
    };
    let kind = dated.unwrap_or(meaning.quantity);
    let decoded = match kind {
        Quantity::Date if is_date_size(kind) => date::date_value(data),
        Quantity::DateTime if is_date_size(kind) => date::date_time_value(data),
        _ => None,
    };
    (reading.value, reading.quality) = decoded.unwrap_or_else(|| plain(header, data, meaning.exponent));
    // A profile in one record: its bytes are kept, and not taken for text.
    if [0x13, 0x1E, 0x1F].iter().any(|profile| qualifiers.has(*profile))
        && let (0xD, Some((_, bytes))) = (header.data_field(), data.split_first())
    {
        reading.value = Value::Octets(bytes);
    }
    if is_manufacturer {
        //= LMN 8: what the manufacturer defines is kept as such, never guessed
        reading.quantity = Quantity::Manufacturer;
        reading.unit = Unit::None;
        if let Value::Number(number) = reading.value {
            reading.value = Value::Number(Decimal::new(number.mantissa, 0));
        }
        return Ok((reading, qualifiers));
    }
    for qualifier in qualifiers.as_slice() {
        qualify(&mut reading, *qualifier).ok_or(DecodeError {
            field: "data",
            offset,
            rule: Rule::OutOfRange,
        })?;
    }
    if dated.is_some() {
        (reading.quantity, reading.unit) = (kind, Unit::None);
    }
    reading.obis = obis::code(medium, &reading, &qualifiers);
    Ok((reading, qualifiers))
}

fn is_date(qualifier: Qualifier) -> bool {
    !qualifier.is_second
        && matches!(
            qualifier.code,
            0x39 | 0x42 | 0x43 | 0x46 | 0x47 | 0x4A | 0x4B | 0x4E | 0x4F | 0x6A | 0x6B | 0x6E | 0x6F
        )
}

/// Applies one qualifier; `None` when a number leaves its range.
fn qualify(reading: &mut Reading<'_>, qualifier: Qualifier) -> Option<()> {
    if qualifier.is_second {
        return Some(());
    }
    match qualifier.code {
        0x12..=0x14 | 0x1D..=0x1F => {}
        0x00 => {}
        code @ 0x01..=0x1C => reading.quality = Quality::Reported(code),
        code @ 0x20..=0x38 => reading.compound = compound(code),
        0x3E if reading.unit == Unit::CubicMetre => reading.unit = Unit::CubicMetreCorrected,
        0x3E if reading.unit == Unit::CubicMetrePerHour => reading.unit = Unit::CubicMetrePerHourCorrected,
        0x3D => reading.unit = Unit::None,
        0x41 | 0x49 => unscale(reading, Quantity::Dimensionless, Unit::None),
        code @ 0x50..=0x67 => unscale(reading, Quantity::Duration, time_unit(code)),
        code @ 0x70..=0x77 => multiply(reading, i16::from(code & 7).saturating_sub(6)),
        0x7D => multiply(reading, 3),
        code @ 0x78..=0x7B => {
            let by = Decimal::new(1, i16::from(code & 3).saturating_sub(3));
            match &mut reading.value {
                Value::Number(number) => *number = number.plus(by)?,
                Value::Real(real) => *real += by.to_f64(),
                _ => {}
            }
        }
        _ => {}
    }
    Some(())
}

/// The record's number is a count or a duration, to which the power of ten of the VIF does not apply.
fn unscale(reading: &mut Reading<'_>, quantity: Quantity, unit: Unit) {
    (reading.quantity, reading.unit) = (quantity, unit);
    if let Value::Number(number) = &mut reading.value {
        number.exponent = 0;
    }
}

fn multiply(reading: &mut Reading<'_>, by: i16) {
    match &mut reading.value {
        Value::Number(number) => *number = number.scaled(by),
        Value::Real(real) => *real = scale(*real, by),
        _ => {}
    }
}

fn compound(code: u8) -> Compound {
    Compound::Per(match code {
        0x20 => Unit::Second,
        0x21 => Unit::Minute,
        0x22 => Unit::Hour,
        0x23 => Unit::Day,
        0x24 => Unit::Week,
        0x25 => Unit::Month,
        0x26 => Unit::Year,
        0x27 => Unit::Revolution,
        0x28 | 0x29 => Unit::InputPulse,
        0x2A | 0x2B => Unit::OutputPulse,
        0x2C => Unit::Litre,
        0x2D => Unit::CubicMetre,
        0x2E => Unit::Kilogram,
        0x2F => Unit::Kelvin,
        0x30 => Unit::KilowattHour,
        0x31 => Unit::Gigajoule,
        0x32 => Unit::Kilowatt,
        0x33 => Unit::KelvinLitre,
        0x34 => Unit::Volt,
        0x35 => Unit::Ampere,
        0x36 => return Compound::Times(Unit::Second),
        0x37 => return Compound::Times(Unit::SecondPerVolt),
        _ => return Compound::Times(Unit::SecondPerAmpere),
    })
}
