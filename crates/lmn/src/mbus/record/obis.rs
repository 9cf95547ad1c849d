//! OBIS codes of records, where one is defined.

use gridseal_types::ObisCode;

use super::Qualifiers;
use crate::{
    mbus::address::Medium,
    reading::{Compound, Function, Quantity, Reading, Value},
};

/// The code of a present value; `None` for kept values, extremes, rates and whatever has no code of its own.
///
/// # Source
/// IEC 62056-6-1 and EN 13757-1 (value groups of heat, gas and water), as OMS lists them for its meters.
pub(super) fn code(medium: Medium, reading: &Reading<'_>, qualifiers: &Qualifiers) -> Option<ObisCode> {
    let is_number = matches!(reading.value, Value::Number(_) | Value::Real(_));
    let is_plain = reading.storage == 0
        && reading.subunit == 0
        && reading.function == Function::Instantaneous
        && reading.compound == Compound::None;
    let is_qualified = qualifiers
        .as_slice()
        .iter()
        .any(|q| !q.is_second && !matches!(q.code, 0x00 | 0x1D | 0x3B | 0x3C | 0x70..=0x77 | 0x7D));
    if !is_number || !is_plain || is_qualified {
        return None;
    }
    let tariff = u8::try_from(reading.tariff).ok()?;
    let is_backward = qualifiers.has(0x3C);
    let (a, c, d, e) = match (medium.0, reading.quantity) {
        (0x02, quantity) => {
            let (c, d, e) = electricity(quantity, tariff, is_backward, qualifiers.phase())?;
            (1, c, d, e)
        }
        _ if is_backward => return None,
        (0x08, Quantity::HeatCostAllocation) => (4, 1, 0, tariff),
        (0x0A | 0x0B, quantity) => (5, thermal(quantity)?, 0, tariff),
        (0x04 | 0x0C | 0x0D, quantity) => (6, thermal(quantity)?, 0, tariff),
        (0x03, Quantity::Volume) => (7, 3, 0, tariff),
        (0x07 | 0x16, quantity) => (8, water(quantity)?, 0, tariff),
        (0x06 | 0x15, quantity) => (9, water(quantity)?, 0, tariff),
        _ => return None,
    };
    Some(ObisCode::new([a, 0, c, d, e, 255]))
}

/// Value groups C, D and E.
const fn electricity(
    quantity: Quantity,
    tariff: u8,
    is_backward: bool,
    phase: Option<u8>,
) -> Option<(u8, u8, u8)> {
    let direction = if is_backward { 1 } else { 0 };
    // Phases L1, L2 and L3 are 20 apart, beginning at 21.
    let shift: u8 = match phase {
        Some(1) => 20,
        Some(2) => 40,
        Some(3) => 60,
        _ => 0,
    };
    let (c, d, e): (u8, u8, u8) = match quantity {
        Quantity::Energy => (1, 8, tariff),
        Quantity::ReactiveEnergy => (3, 8, tariff),
        Quantity::ApparentEnergy => (9, 8, tariff),
        Quantity::Power => (1, 7, 0),
        Quantity::ReactivePower => (3, 7, 0),
        Quantity::ApparentPower => (9, 7, 0),
        Quantity::Current if direction == 0 => return Some((11u8.saturating_add(shift), 7, 0)),
        Quantity::Voltage if direction == 0 => return Some((12u8.saturating_add(shift), 7, 0)),
        Quantity::Frequency if direction == 0 && shift == 0 => return Some((14, 7, 0)),
        _ => return None,
    };
    Some((c.saturating_add(direction).saturating_add(shift), d, e))
}

/// Value group C of heat and cooling.
const fn thermal(quantity: Quantity) -> Option<u8> {
    Some(match quantity {
        Quantity::Energy => 1,
        Quantity::Volume => 2,
        Quantity::Mass => 3,
        Quantity::Power => 8,
        Quantity::VolumeFlow => 9,
        Quantity::FlowTemperature => 10,
        Quantity::ReturnTemperature => 11,
        Quantity::TemperatureDifference => 12,
        _ => return None,
    })
}

/// Value group C of water.
const fn water(quantity: Quantity) -> Option<u8> {
    Some(match quantity {
        Quantity::Volume => 1,
        Quantity::VolumeFlow => 2,
        _ => return None,
    })
}
