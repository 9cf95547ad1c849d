//! Typed readings of a list, and the quirks of known meters.

use gridseal_types::ObisCode;

use crate::reading::{Decimal, Quality, Quantity, Reading, Text, Unit, Value as Typed};

use super::message::{GetListResponse, ListEntry, Time, Value};

/// A deviation of known meters, by their server id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quirk {
    /// DZG DVS74 of certain serial numbers: power is positive, but sent as a signed number that is too short.
    UnsignedPower,
}

/// Serial numbers of the DVS74 that send power so, both ends inclusive.
const DVS74_SERIALS: [(u64, u64); 2] = [(42_000_000, 48_999_999), (55_000_000, 58_999_999)];

impl Quirk {
    /// The quirk of the meter with this server id, if it has one. Ranges are strict: newer meters are right, and the
    /// opposite error was seen where a range was too wide.
    #[must_use]
    pub fn of(server_id: &[u8]) -> Option<Self> {
        //= SML 10: DZG DVS74 of two ranges of serial numbers send positive power as a short signed number
        let (0x0A, [0x01, b'D', b'Z', b'G', serial @ ..]) =
            server_id.split_first().map(|(first, rest)| (*first, rest))?
        else {
            return None;
        };
        let serial: [u8; 5] = serial.try_into().ok()?;
        let number = serial.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        DVS74_SERIALS
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&number))
            .then_some(Self::UnsignedPower)
    }

    const fn applies_to(self, name: &[u8]) -> bool {
        matches!(self, Self::UnsignedPower) && matches!(name, [1, 0, 16 | 36, 7, 0, 255])
    }
}

/// An entry as a typed reading, with what SML says beside it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SmlReading<'a> {
    /// Reading.
    pub reading: Reading<'a>,
    /// Status of the meter; its bits are the manufacturer's.
    pub status: Option<u64>,
    /// Time of the value.
    pub time: Option<Time>,
    /// Signature over the value, as sent. What it covers is the product standard's; it is not verified here.
    pub signature: Option<&'a [u8]>,
}

/// The readings of a list, in its order. An entry whose name is no OBIS code has none.
pub fn readings<'l, 'a>(list: &'l GetListResponse<'a>) -> impl Iterator<Item = SmlReading<'a>> + 'l {
    let quirk = Quirk::of(list.server_id.0);
    list.entries.iter().map(move |entry| reading(entry, quirk))
}

fn reading<'a>(entry: &ListEntry<'a>, quirk: Option<Quirk>) -> SmlReading<'a> {
    let code: Option<[u8; 6]> = entry.name.0.try_into().ok();
    let obis = code.map(ObisCode::new);
    // A scaler has eight bits by the standard; with one that has more there is no value rather than a wrong one.
    let exponent = entry.scaler.map_or(Some(0), |scaler| i8::try_from(scaler.value).ok());
    let number = |mantissa: i128| {
        exponent.map_or(Typed::None, |exponent| Typed::Number(Decimal::new(mantissa, exponent.into())))
    };
    let quirk = quirk.filter(|quirk| quirk.applies_to(entry.name.0));
    let value = match entry.value {
        Value::Signed(signed) if quirk.is_some() && signed.width <= 3 => {
            let bits = u32::from(signed.width).saturating_mul(8);
            let wrapped = if signed.value < 0 { 1i128.checked_shl(bits).unwrap_or(0) } else { 0 };
            number(i128::from(signed.value).saturating_add(wrapped))
        }
        Value::Signed(signed) => number(i128::from(signed.value)),
        Value::Unsigned(unsigned) => number(i128::from(unsigned.value)),
        Value::Boolean(value) => Typed::Boolean(value),
        Value::Octets(octets) if octets.0.is_empty() => Typed::None,
        Value::Octets(octets) if is_text(octets.0) => Typed::Text(Text::forward(octets.0)),
        Value::Octets(octets) => Typed::Octets(octets.0),
        Value::List(raw) => Typed::Octets(raw.0),
    };
    let mut reading = Reading::new(quantity(code.as_ref()), value);
    reading.unit = match (entry.unit, reading.value) {
        (Some(unit), Typed::Number(_)) => u8::try_from(unit.value).map_or(Unit::None, Unit::from_dlms),
        _ => Unit::None,
    };
    if exponent.is_none() {
        reading.quality = Quality::Unreadable;
    }
    reading.obis = obis;
    if let Some([_, _, _, 8 | 9, tariff, _]) = code {
        reading.tariff = u32::from(tariff);
    }
    SmlReading {
        reading,
        status: entry.status.map(|status| status.value),
        time: entry.time,
        signature: entry.signature.map(|signature| signature.0),
    }
}

/// Three or more printable characters and nothing else.
fn is_text(octets: &[u8]) -> bool {
    octets.len() >= 3 && octets.iter().all(|byte| matches!(byte, 0x20..=0x7E))
}

/// What an OBIS code of electricity measures.
const fn quantity(code: Option<&[u8; 6]>) -> Quantity {
    match code {
        Some([1, _, 1 | 2 | 21 | 22 | 41 | 42 | 61 | 62, 8 | 9, _, _]) => Quantity::Energy,
        Some([1, _, 3..=8, 8 | 9, _, _]) => Quantity::ReactiveEnergy,
        Some([1, _, 9 | 10, 8 | 9, _, _]) => Quantity::ApparentEnergy,
        Some([1, _, 1 | 2 | 15 | 16 | 21 | 22 | 36 | 41 | 42 | 56 | 61 | 62 | 76, 7, _, _]) => {
            Quantity::Power
        }
        Some([1, _, 3..=8, 7, _, _]) => Quantity::ReactivePower,
        Some([1, _, 9 | 10, 7, _, _]) => Quantity::ApparentPower,
        Some([1, _, 32 | 52 | 72, 7, _, _]) => Quantity::Voltage,
        Some([1, _, 11 | 31 | 51 | 71, 7, _, _]) => Quantity::Current,
        Some([1, _, 14, 7, _, _]) => Quantity::Frequency,
        Some([1, _, 81, 7, 1 | 2, _]) => Quantity::PhaseAngleVoltage,
        Some([1, _, 81, 7, _, _]) => Quantity::PhaseAngleCurrent,
        _ => Quantity::Unknown,
    }
}
