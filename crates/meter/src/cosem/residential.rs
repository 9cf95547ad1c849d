//! The built-in objects of a residential meter.
//!
//! # Source
//! DLMS fact sheet, section 10. The logical name of port protection is not in it \[check\].

use std::collections::BTreeMap;

use gridseal_dlms::{class, wire::Data};
use gridseal_types::{ObisCode, SystemTitle};

use super::{
    DeviceConfig,
    association::{association, security_setup_of},
    measure,
    object::Object,
    security::{SECURITY_SETUP, to_bits},
};

/// Period of the load profile and of demand, seconds.
const QUARTER_S: u32 = 900;
const DAY_S: u32 = 86_400;
/// Script tables: the breaker's, the image's and the tariffs'.
const BREAKER_SCRIPTS: [u8; 6] = [0, 0, 10, 0, 106, 255];
const IMAGE_SCRIPTS: [u8; 6] = [0, 0, 10, 0, 107, 255];
const TARIFF_SCRIPTS: [u8; 6] = [0, 0, 10, 0, 100, 255];
const BREAKER: [u8; 6] = [0, 0, 96, 3, 10, 255];
const IMAGE: [u8; 6] = [0, 0, 44, 0, 0, 255];
pub(super) const TARIFF: [u8; 6] = [0, 0, 96, 14, 0, 255];
const STATUS: [u8; 6] = [0, 0, 96, 10, 1, 255];
const CLOCK: [u8; 6] = [0, 0, 1, 0, 0, 255];
const IMPORT: [u8; 6] = [1, 0, 1, 8, 0, 255];
const EXPORT: [u8; 6] = [1, 0, 2, 8, 0, 255];
const POWER: [u8; 6] = [1, 0, 1, 7, 0, 255];
const PUSH: [u8; 6] = [0, 0, 25, 9, 0, 255];
const GAS: [u8; 6] = [0, 1, 24, 2, 1, 255];

/// Bytes that a block of an image leaves free in an APDU: descriptor, counters, protection.
const BLOCK_OVERHEAD: u16 = 96;

#[derive(Default)]
struct Set(BTreeMap<ObisCode, Object>);

impl Set {
    fn add(&mut self, (id, version): (u16, u8), groups: [u8; 6], fill: impl FnOnce(&mut Object)) {
        let Some(class) = class::find(id, version) else { return };
        let mut object = Object::new(class, ObisCode::new(groups));
        fill(&mut object);
        self.0.insert(object.obis, object);
    }

    fn data(&mut self, groups: [u8; 6], value: &Data<'_>) {
        self.add((1, 0), groups, |object| object.keep(2, value));
    }

    fn measured(&mut self, [quantity, processing, tariff]: [u8; 3], unit: u8, scaler: i8) {
        self.add((3, 0), [1, 0, quantity, processing, tariff, 255], |object| {
            object.compute(2);
            object.keep(3, &scaler_unit(scaler, unit));
        });
    }

    fn profile(&mut self, groups: [u8; 6], columns: &[(u16, [u8; 6], i8)], period_s: u32, entries: u32) {
        self.add((7, 1), groups, |object| {
            object.compute(2);
            object.keep(3, &Data::Array(columns.iter().map(|column| captured(column, 0)).collect()));
            object.keep(4, &Data::DoubleLongUnsigned(period_s));
            object.compute(7);
            object.keep(8, &Data::DoubleLongUnsigned(entries));
        });
    }
}

fn scaler_unit(scaler: i8, unit: u8) -> Data<'static> {
    Data::Structure(vec![Data::Integer(scaler), Data::Enum(unit)])
}

fn captured((class, obis, attribute): &(u16, [u8; 6], i8), index: u16) -> Data<'_> {
    Data::Structure(vec![
        Data::LongUnsigned(*class),
        Data::OctetString(obis),
        Data::Integer(*attribute),
        Data::LongUnsigned(index),
    ])
}

fn script_reference(table: &[u8; 6], selector: u16) -> Data<'_> {
    Data::Structure(vec![Data::OctetString(table), Data::LongUnsigned(selector)])
}

/// `{selector, [{service, class, name, member, parameter}]}`: a script of one action.
fn script(selector: u16, writes: bool, target: &(u16, [u8; 6], i8), parameter: Data<'static>) -> Vec<u8> {
    let (class, obis, member) = target;
    let action = Data::Structure(vec![
        Data::Enum(if writes { 1 } else { 2 }),
        Data::LongUnsigned(*class),
        Data::OctetString(obis),
        Data::Integer(*member),
        parameter,
    ]);
    Data::Structure(vec![Data::LongUnsigned(selector), Data::Array(vec![action])]).to_bytes()
}

fn scripts(object: &mut Object, list: &[Vec<u8>]) {
    let list = list.iter().filter_map(|script| Data::from_bytes(script).ok()).collect();
    object.keep(2, &Data::Array(list));
}

/// The built-in set.
pub(super) fn objects(config: &DeviceConfig) -> BTreeMap<ObisCode, Object> {
    let mut set = Set::default();
    identity(&mut set, config);
    associations(&mut set, config);
    registers(&mut set);
    profiles(&mut set);
    calendar(&mut set);
    control(&mut set, config);
    communication(&mut set, config);
    payment(&mut set);
    set.0
}

fn identity(set: &mut Set, config: &DeviceConfig) {
    set.add((8, 0), CLOCK, |clock| {
        clock.is_public = true;
        clock.compute(2);
        clock.keep(9, &Data::Enum(1));
    });
    let name = logical_device_name(config.title);
    set.add((1, 0), [0, 0, 42, 0, 0, 255], |object| {
        object.is_public = true;
        object.keep(2, &Data::OctetString(&name));
    });
    set.add((17, 0), [0, 0, 41, 0, 0, 255], |object| {
        object.is_public = true;
        let entry = vec![Data::LongUnsigned(config.sap), Data::OctetString(&name)];
        object.keep(2, &Data::Array(vec![Data::Structure(entry)]));
    });
    for key in [0, 1] {
        set.add((1, 0), [0, 0, 43, 1, key, 255], |object| {
            object.is_public = true;
            object.compute(2);
        });
    }
    set.data([0, 0, 96, 1, 0, 255], &Data::OctetString(&name));
    set.data([0, 0, 96, 1, 1, 255], &Data::OctetString(b"bench meter"));
    set.data([1, 0, 0, 2, 0, 255], &Data::OctetString(b"metrology 1"));
    set.data([1, 0, 0, 2, 8, 255], &Data::OctetString(&[]));
    set.data([1, 1, 0, 2, 0, 255], &Data::OctetString(b"application 1"));
    set.data([1, 1, 0, 2, 8, 255], &Data::OctetString(&[]));
    set.data(STATUS, &Data::Unsigned(0));
    set.data([0, 0, 96, 7, 21, 255], &Data::LongUnsigned(0));
    set.data([0, 0, 96, 7, 9, 255], &Data::LongUnsigned(0));
    for quantity in [32, 52, 72] {
        set.data([1, 0, quantity, 32, 0, 255], &Data::LongUnsigned(0));
        set.data([1, 0, quantity, 36, 0, 255], &Data::LongUnsigned(0));
    }
    for alarm in [0, 10] {
        set.add((1, 0), [0, 0, 97, 98, alarm, 255], |object| {
            object.keep(2, &Data::DoubleLongUnsigned(0));
            object.writable = vec![2];
        });
    }
}

/// Three letters of the maker and the number, from the system title: 13 characters.
/// Manufacturer and number of a system title, as text.
pub(crate) fn logical_device_name(title: SystemTitle) -> Vec<u8> {
    let (maker, number) = title.as_bytes().split_at(3);
    let digits = number.iter().flat_map(|octet| [octet >> 4, octet & 0x0F]);
    let digits =
        digits.map(|digit| if digit < 10 { b'0'.saturating_add(digit) } else { b'7'.saturating_add(digit) });
    maker.iter().copied().chain(digits).collect()
}

fn associations(set: &mut Set, config: &DeviceConfig) {
    let mut add = |index: u8, reference: &[u8]| {
        set.add((15, 1), *association(index).groups(), |object| {
            object.is_public = index == 0;
            (2..=8).for_each(|attribute| object.compute(attribute));
            object.keep(9, &Data::OctetString(reference));
        });
    };
    add(0, SECURITY_SETUP.groups());
    for (index, grant) in (1u8..=254).zip(&config.grants) {
        add(index, security_setup_of(grant));
    }
    set.add((64, 1), *SECURITY_SETUP.groups(), |object| {
        object.keep(2, &Data::Enum(to_bits(config.policy)));
        object.keep(3, &Data::Enum(config.suite));
        object.keep(4, &Data::OctetString(config.client_title.as_bytes()));
        object.keep(5, &Data::OctetString(config.title.as_bytes()));
        object.compute(6);
    });
    set.add((30, 0), [0, 0, 43, 2, 0, 255], |_| {});
}

fn registers(set: &mut Set) {
    for tariff in 0..=2 {
        set.measured([1, 8, tariff], measure::WATT_HOUR, 0);
        set.measured([2, 8, tariff], measure::WATT_HOUR, 0);
    }
    for quantity in [3, 4] {
        set.measured([quantity, 8, 0], measure::VAR_HOUR, 0);
    }
    for quantity in [1, 2, 21, 41, 61, 22, 42, 62] {
        set.measured([quantity, 7, 0], measure::WATT, 0);
    }
    for phase in [0u8, 20, 40] {
        set.measured([phase.saturating_add(31), 7, 0], measure::AMPERE, -2);
        set.measured([phase.saturating_add(32), 7, 0], measure::VOLT, -1);
    }
    set.measured([14, 7, 0], measure::HERTZ, -2);
    set.add((5, 0), [1, 0, 1, 4, 0, 255], |object| {
        object.compute(2);
        object.keep(3, &Data::DoubleLongUnsigned(0));
        object.keep(4, &scaler_unit(0, measure::WATT));
        object.keep(5, &Data::Unsigned(0));
        object.keep(8, &Data::DoubleLongUnsigned(QUARTER_S));
        object.keep(9, &Data::LongUnsigned(1));
    });
    set.add((4, 0), [1, 0, 1, 6, 0, 255], |object| {
        object.keep(2, &Data::DoubleLongUnsigned(0));
        object.keep(3, &scaler_unit(0, measure::WATT));
        object.keep(4, &Data::Unsigned(0));
    });
}

fn profiles(set: &mut Set) {
    let clock = (8, CLOCK, 2);
    let energies = [(3, IMPORT, 2), (3, EXPORT, 2)];
    let with_status = [clock, (1, STATUS, 2), energies[0], energies[1]];
    set.profile([1, 0, 99, 1, 0, 255], &with_status, QUARTER_S, 960);
    set.profile([1, 0, 99, 2, 0, 255], &with_status, DAY_S, 62);
    set.profile([0, 0, 98, 1, 0, 255], &[clock, energies[0], energies[1]], 0, 24);
    set.profile([0, 0, 99, 98, 0, 255], &[clock, (1, [0, 0, 96, 11, 0, 255], 2)], 0, 100);
    set.data([0, 0, 96, 11, 0, 255], &Data::Unsigned(0));
    set.profile([0, 1, 24, 3, 0, 255], &[clock, (4, GAS, 2)], 3_600, 240);
}

fn calendar(set: &mut Set) {
    set.data(TARIFF, &Data::Unsigned(1));
    set.add((9, 0), TARIFF_SCRIPTS, |object| {
        let tariff = |number: u8| script(number.into(), true, &(1, TARIFF, 2), Data::Unsigned(number));
        scripts(object, &[tariff(1), tariff(2)]);
    });
    set.add((11, 0), [0, 0, 11, 0, 0, 255], |_| {});
    set.add((20, 0), [0, 0, 13, 0, 0, 255], |object| {
        const NEW_YEAR: [u8; 12] = [0xFF, 0xFF, 1, 1, 0xFF, 0, 0, 0, 0, 0x80, 0, 0xFF];
        let (season, week) = (Data::OctetString(b"1"), Data::OctetString(b"1"));
        let begin = Data::OctetString(&NEW_YEAR);
        let seasons = Data::Array(vec![Data::Structure(vec![season, begin, week.clone()])]);
        let days = core::iter::repeat_n(Data::Unsigned(1), 7);
        let weeks = Data::Array(vec![Data::Structure(core::iter::once(week).chain(days).collect())]);
        let part = |hour: &'static [u8; 4], tariff: u16| {
            let table = Data::OctetString(&TARIFF_SCRIPTS);
            Data::Structure(vec![Data::OctetString(hour), table, Data::LongUnsigned(tariff)])
        };
        let parts = vec![part(&[0, 0, 0, 0], 2), part(&[6, 0, 0, 0], 1), part(&[22, 0, 0, 0], 2)];
        let day = Data::Structure(vec![Data::Unsigned(1), Data::Array(parts)]);
        for active in [2, 6] {
            object.keep(active, &Data::OctetString(b"1"));
        }
        for (attribute, value) in [(3, &seasons), (4, &weeks), (5, &Data::Array(vec![day]))] {
            object.keep(attribute, value);
            object.keep(attribute.saturating_add(4), value);
        }
    });
}

fn control(set: &mut Set, config: &DeviceConfig) {
    set.add((70, 0), BREAKER, |object| {
        object.keep(2, &Data::Boolean(true));
        object.keep(3, &Data::Enum(1));
        object.keep(4, &Data::Enum(4));
    });
    set.add((9, 0), BREAKER_SCRIPTS, |object| {
        let switch = |method: i8| (70, BREAKER, method);
        let nothing = || Data::Integer(0);
        scripts(object, &[script(1, false, &switch(1), nothing()), script(2, false, &switch(2), nothing())]);
    });
    set.add((71, 0), [0, 0, 17, 0, 0, 255], |object| {
        let monitored = vec![Data::LongUnsigned(3), Data::OctetString(&POWER), Data::Integer(2)];
        object.keep(2, &Data::Structure(monitored));
        // A threshold of 0 limits nothing.
        for threshold in 3..=5 {
            object.keep(threshold, &Data::DoubleLongUnsigned(0));
        }
        object.keep(6, &Data::DoubleLongUnsigned(60));
        object.keep(7, &Data::DoubleLongUnsigned(60));
        let over = script_reference(&BREAKER_SCRIPTS, 1);
        // Below the threshold nothing is switched on by itself: there is no script 0.
        object.keep(11, &Data::Structure(vec![over, script_reference(&BREAKER_SCRIPTS, 0)]));
    });
    set.add((18, 0), IMAGE, |object| {
        let limit = if config.max_pdu == 0 { 1_024 } else { config.max_pdu };
        let block = u32::from(limit.saturating_sub(BLOCK_OVERHEAD).clamp(16, 512));
        object.keep(2, &Data::DoubleLongUnsigned(block));
        object.keep(5, &Data::Boolean(true));
        for computed in [3, 4, 6, 7] {
            object.compute(computed);
        }
    });
    set.add((9, 0), IMAGE_SCRIPTS, |object| {
        scripts(object, &[script(1, false, &(18, IMAGE, 4), Data::Integer(0))]);
    });
    set.add((22, 0), [0, 0, 15, 0, 2, 255], |object| {
        object.keep(2, &script_reference(&IMAGE_SCRIPTS, 1));
    });
}

fn communication(set: &mut Set, config: &DeviceConfig) {
    let list = [(40, PUSH, 1), (8, CLOCK, 2), (3, IMPORT, 2)];
    set.add((40, 1), PUSH, |object| {
        object.keep(2, &Data::Array(list.iter().map(|entry| captured(entry, 0)).collect()));
    });
    let alarm = [0, 1, 25, 9, 0, 255];
    let list = [(40, alarm, 1), (8, CLOCK, 2), (1, [0, 0, 97, 98, 0, 255], 2)];
    set.add((40, 1), alarm, |object| {
        object.keep(2, &Data::Array(list.iter().map(|entry| captured(entry, 0)).collect()));
    });
    set.add((41, 0), [0, 0, 25, 0, 0, 255], |object| {
        object.keep(2, &Data::LongUnsigned(4_059));
        object.keep(3, &Data::OctetString(&[0, 0, 25, 1, 0, 255]));
        object.keep(4, &Data::LongUnsigned(1_460));
        object.keep(5, &Data::Unsigned(8));
        object.keep(6, &Data::LongUnsigned(180));
    });
    set.add((42, 0), [0, 0, 25, 1, 0, 255], |_| {});
    set.add((47, 0), [0, 0, 25, 6, 0, 255], |_| {});
    set.add((23, 1), [0, 0, 22, 0, 0, 255], |object| {
        object.keep(2, &Data::Enum(5));
        object.keep(3, &Data::Unsigned(1));
        object.keep(4, &Data::Unsigned(1));
        object.keep(5, &Data::LongUnsigned(128));
        object.keep(6, &Data::LongUnsigned(128));
        object.keep(7, &Data::LongUnsigned(25));
        object.keep(8, &Data::LongUnsigned(120));
        object.keep(9, &Data::LongUnsigned(config.sap));
    });
    set.add((124, 0), [0, 0, 44, 2, 0, 255], |object| {
        object.keep(2, &Data::Enum(1));
        object.keep(3, &Data::LongUnsigned(5));
        object.keep(7, &Data::OctetString(&[0, 0, 25, 0, 0, 255]));
    });
    set.add((72, 1), [0, 1, 24, 1, 0, 255], |_| {});
    set.add((4, 0), GAS, |object| {
        object.keep(2, &Data::DoubleLongUnsigned(0));
        object.keep(3, &scaler_unit(-3, 13));
        object.keep(4, &Data::Unsigned(0));
    });
}

fn payment(set: &mut Set) {
    set.add((111, 0), [0, 0, 19, 0, 0, 255], |object| {
        object.keep(2, &Data::Structure(vec![Data::Enum(1), Data::Enum(1)]));
    });
    set.add((112, 0), [0, 0, 19, 10, 0, 255], |_| {});
    set.add((113, 0), [0, 0, 19, 20, 0, 255], |_| {});
    set.add((115, 0), [0, 0, 19, 40, 0, 255], |_| {});
}

#[cfg(test)]
mod tests {
    use gridseal_dlms::{acse::Conformance, assoc::Protection};
    use gridseal_types::{SystemTitle, UtcTime};

    use super::*;

    #[test]
    fn every_kept_value_has_the_type_of_its_attribute() {
        let config = DeviceConfig {
            title: SystemTitle(*b"MMM\0\0\xBC\x61\x4E"),
            client_title: SystemTitle(*b"MMM\0\0\0\0\x01"),
            sap: 1,
            suite: 0,
            policy: Protection::AuthenticatedEncrypted,
            conformance: Conformance::SPOKEN,
            max_pdu: 1_024,
            grants: Vec::new(),
            is_clock_trusted: false,
            image: None,
        };
        assert_eq!(logical_device_name(config.title), b"MMM0000BC614E");
        let objects = objects(&config);
        assert!(objects.len() > 60, "{}", objects.len());
        for object in objects.values() {
            for attribute in object.class.attributes {
                let Some(kept) = object.kept(attribute.id) else { continue };
                let value = Data::from_bytes(kept).unwrap();
                let checked = attribute.value.check(&value);
                assert_eq!(checked, Ok(()), "{} {}", object.obis, attribute.name);
            }
            let is_measured = object.class.id == 3;
            assert!(!is_measured || measure::value(object.obis, UtcTime(0)).is_some(), "{}", object.obis);
        }
    }
}
