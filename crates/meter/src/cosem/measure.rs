//! Simulated quantities: each a function of time alone, so that two runs and a restart agree.

use gridseal_dlms::wire::Data;
use gridseal_types::{ObisCode, UtcTime};

/// Where energy is 0: 2020-01-01.
const EPOCH_S: u64 = 1_577_836_800;
/// Length of the intervals in which power is constant, seconds.
pub(super) const INTERVAL_S: u64 = 900;

/// Units of class 3, attribute 3.
pub(super) const WATT: u8 = 27;
pub(super) const WATT_HOUR: u8 = 30;
pub(super) const VAR_HOUR: u8 = 32;
pub(super) const AMPERE: u8 = 33;
pub(super) const VOLT: u8 = 35;
pub(super) const HERTZ: u8 = 44;

/// SplitMix64's output function.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// Energy at the start of interval `index`, watt-hours: about `mean` an interval, with a wobble of up to half of it.
fn energy_at(index: u64, mean: u64, seed: u64) -> u64 {
    let wobble = mix(index ^ mix(seed)).checked_rem(mean / 2).unwrap_or(0);
    index.saturating_mul(mean).saturating_add(wobble)
}

/// Energy at an instant and the power that flows, watt-hours and watts.
fn flow(at: UtcTime, mean: u64, seed: u64) -> (u64, u64) {
    let since = at.0.saturating_sub(EPOCH_S);
    let (index, rest) = (since / INTERVAL_S, since % INTERVAL_S);
    let start = energy_at(index, mean, seed);
    let used = energy_at(index.saturating_add(1), mean, seed).saturating_sub(start);
    (start.saturating_add(used.saturating_mul(rest) / INTERVAL_S), used.saturating_mul(3_600 / INTERVAL_S))
}

/// Mean energy of an interval by quantity, watt-hours or var-hours; `None` for what is no flow.
const fn mean_of(quantity: u8) -> Option<u64> {
    Some(match quantity {
        1 => 105,
        2 => 21,
        3 => 33,
        4 => 9,
        _ => return None,
    })
}

fn narrow(value: u64) -> Data<'static> {
    Data::DoubleLongUnsigned(u32::try_from(value).unwrap_or(u32::MAX))
}

/// Value of a measured register at an instant; `None` for what is not measured.
pub(super) fn value(obis: ObisCode, at: UtcTime) -> Option<Data<'static>> {
    let [1, 0, quantity, processing, tariff, 255] = *obis.groups() else { return None };
    let noise = |seed: u64, range: u64| mix((at.0 / 60) ^ seed).checked_rem(range).unwrap_or(0);
    let small = |value: u64| Data::LongUnsigned(u16::try_from(value).unwrap_or(u16::MAX));
    Some(match (quantity, processing, tariff) {
        // Tariff 1 has two thirds of the energy, tariff 2 the rest: together they are the total.
        (1..=4, 8, 0..=2) => {
            let total = flow(at, mean_of(quantity)?, u64::from(quantity)).0;
            let first = total.saturating_mul(2) / 3;
            narrow(match tariff {
                0 => total,
                1 => first,
                _ => total.saturating_sub(first),
            })
        }
        (1 | 2, 7, 0) => narrow(flow(at, mean_of(quantity)?, u64::from(quantity)).1),
        // Power of each phase: a third of all.
        (21 | 41 | 61, 7, 0) => narrow(flow(at, 105, 1).1 / 3),
        (22 | 42 | 62, 7, 0) => narrow(flow(at, 21, 2).1 / 3),
        (31 | 51 | 71, 7, 0) => small(noise(u64::from(quantity), 90).saturating_add(30)),
        (32 | 52 | 72, 7, 0) => small(noise(u64::from(quantity), 60).saturating_add(2_270)),
        (14, 7, 0) => small(noise(u64::from(quantity), 9).saturating_add(4_996)),
        _ => return None,
    })
}

/// Mean power of active import over the interval that ends at or before `at`, watts.
pub(super) fn demand(from: UtcTime, to: UtcTime) -> u32 {
    let span = to.0.saturating_sub(from.0);
    let used = flow(to, 105, 1).0.saturating_sub(flow(from, 105, 1).0);
    u32::try_from(used.saturating_mul(3_600).checked_div(span).unwrap_or(0)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energy_never_falls_and_power_is_its_slope() {
        let mut last = 0;
        for at in (1_800_000_000..1_800_090_000).step_by(300) {
            let (energy, power) = flow(UtcTime(at), 105, 1);
            assert!(energy >= last && power <= 4 * 158, "{energy} {power}");
            last = energy;
        }
        assert!((1..=632).contains(&demand(UtcTime(1_800_000_000), UtcTime(1_800_000_900))));
        let total = value(ObisCode::ACTIVE_ENERGY_IMPORT, UtcTime(1_800_000_000));
        assert_eq!(total, value(ObisCode::ACTIVE_ENERGY_IMPORT, UtcTime(1_800_000_000)));
        assert_eq!(value(ObisCode::CLOCK, UtcTime(0)), None);
    }
}
