//! Clock, calendar, schedules, demand.

use gridseal_dlms::{
    apdu::result::{ActionResult, DataAccessResult},
    wire::Data,
};
use gridseal_meter::cosem::{Note, Rights};
use gridseal_types::UtcTime;

use crate::world::{CLOCK, LOAD, START, World, obis, written};

const TARIFF: [u8; 6] = [0, 0, 96, 14, 0, 255];
/// An identity, and objects that a lab file adds.
const FIRMWARE: [u8; 6] = [1, 0, 0, 2, 0, 255];
const OPEN: [u8; 6] = [0, 0, 96, 1, 7, 255];
const READ_ONLY: [u8; 6] = [0, 0, 96, 1, 8, 255];
const NO_METHOD: [u8; 6] = [1, 0, 96, 1, 9, 255];
const TARIFF_SCRIPTS: [u8; 6] = [0, 0, 10, 0, 100, 255];

#[test]
fn the_clock_is_set_shifted_and_adjusted_and_says_so() {
    let mut world = World::new();
    let now = world.pass(START, 70);
    assert_eq!(world.get(8, CLOCK, 2).unwrap()[2..], written(now));
    let good = DataAccessResult::Success;
    assert_eq!(world.act(8, CLOCK, 3, Data::Integer(0)), ActionResult::Success);
    assert_eq!(world.device.now(), UtcTime(START.0 + 60), "the nearest minute");
    assert_eq!(world.act(8, CLOCK, 6, Data::Long(-30)), ActionResult::Success);
    assert_eq!(world.device.now(), UtcTime(START.0 + 30));
    assert_eq!(world.act(8, CLOCK, 6, Data::Long(901)), ActionResult::ScopeOfAccessViolated);
    let later = UtcTime(START.0 + 500_000);
    assert_eq!(world.set(8, CLOCK, 2, &Data::OctetString(&written(later))), good);
    assert_eq!(world.device.now(), later);
    assert_eq!(world.act(8, CLOCK, 1, Data::Integer(0)), ActionResult::Success);
    assert_eq!(world.device.now().0 % 900, 0);
    let changes = world.notes().into_iter().filter(|note| matches!(note, Note::ClockChanged { .. }));
    assert_eq!(changes.count(), 4);
    let mut unspecified = written(START);
    unspecified[5] = 0xFF;
    assert_eq!(world.set(8, CLOCK, 2, &Data::OctetString(&unspecified)), DataAccessResult::TypeUnmatched);
    let early = written(UtcTime(1_000));
    assert_eq!(world.set(8, CLOCK, 2, &Data::OctetString(&early)), DataAccessResult::ScopeOfAccessViolated);
    assert_eq!(world.set(8, CLOCK, 3, &Data::Long(841)), DataAccessResult::ScopeOfAccessViolated);
    assert_eq!(world.set(8, CLOCK, 3, &Data::Long(-60)), good);
    let [.., high, low, _] = written(START);
    assert_eq!([high, low], [0, 0]);
    assert_eq!(world.get(8, CLOCK, 2).unwrap()[11..13], [0xFF, 0xC4], "CET");
}

#[test]
fn a_preset_time_is_set_within_its_interval_alone() {
    let mut world = World::new();
    assert_eq!(world.act(8, CLOCK, 4, Data::Integer(0)), ActionResult::OtherReason, "nothing is preset");
    let at = |offset: u64| written(UtcTime(START.0 + offset));
    let (to, from, until) = (at(1_000), at(10), at(20));
    let preset = |parts: [&[u8; 12]; 3]| {
        Data::Structure(parts.map(|part| Data::OctetString(part)).to_vec()).to_bytes()
    };
    let give = |world: &mut World, bytes: &[u8]| world.act(8, CLOCK, 5, Data::from_bytes(bytes).unwrap());
    assert_eq!(give(&mut world, &preset([&to, &until, &from])), ActionResult::ScopeOfAccessViolated);
    assert_eq!(give(&mut world, &preset([&to, &from, &until])), ActionResult::Success);
    assert_eq!(world.act(8, CLOCK, 4, Data::Integer(0)), ActionResult::TemporaryFailure);
    world.pass(START, 15);
    assert_eq!(world.act(8, CLOCK, 4, Data::Integer(0)), ActionResult::Success);
    assert_eq!(world.device.now(), UtcTime(START.0 + 1_000));
}

#[test]
fn energy_does_not_follow_the_clock_and_rows_are_not_invented() {
    let mut world = World::new();
    let energy = world.number(3, crate::world::IMPORT, 2);
    let rows = world.number(7, LOAD, 7);
    let later = written(UtcTime(START.0 + 86_400 * 30));
    assert_eq!(world.set(8, CLOCK, 2, &Data::OctetString(&later)), DataAccessResult::Success);
    world.pass(START, 5);
    assert_eq!(world.number(3, crate::world::IMPORT, 2), energy);
    assert_eq!(world.number(7, LOAD, 7), rows, "30 days were not measured");
}

#[test]
fn the_calendar_selects_tariffs_and_a_special_day_another_day() {
    let mut world = World::new();
    world.pass(START, 1);
    assert_eq!(world.number(1, obis(TARIFF), 2), 1, "08:00");
    let night = UtcTime(START.0 + 14 * 3_600 - 1);
    world.pass(night, 2);
    assert_eq!(world.number(1, obis(TARIFF), 2), 2, "22:00");
    let table = obis([0, 0, 11, 0, 0, 255]);
    let day = |index, day| {
        Data::Structure(vec![
            Data::LongUnsigned(index),
            Data::OctetString(&[0x07, 0xEB, 1, 16, 0xFF]),
            Data::Unsigned(day),
        ])
    };
    assert_eq!(world.act(11, table, 1, day(1, 7)), ActionResult::Success);
    assert_eq!(world.act(11, table, 1, day(1, 1)), ActionResult::Success, "replaces entry 1");
    assert_eq!(world.get(11, table, 2).unwrap()[1], 1);
    assert_eq!(world.act(11, table, 2, Data::LongUnsigned(2)), ActionResult::ObjectUndefined);
    assert_eq!(world.act(11, table, 2, Data::LongUnsigned(1)), ActionResult::Success);
    // A passive calendar with one part of the day, and a day that is special.
    let calendar = obis([0, 0, 13, 0, 0, 255]);
    let part = Data::Structure(vec![
        Data::OctetString(&[0, 0, 0, 0]),
        Data::OctetString(&TARIFF_SCRIPTS),
        Data::LongUnsigned(2),
    ]);
    let days = Data::Array(vec![Data::Structure(vec![Data::Unsigned(1), Data::Array(vec![part])])]);
    assert_eq!(
        world.set(20, calendar, 5, &days),
        DataAccessResult::ReadWriteDenied,
        "the active one is not written"
    );
    assert_eq!(world.set(20, calendar, 9, &days), DataAccessResult::Success);
    let noon = UtcTime(START.0 + 28 * 3_600);
    world.pass(noon, 1);
    assert_eq!(world.number(1, obis(TARIFF), 2), 1);
    assert_eq!(
        world.set(20, calendar, 10, &Data::OctetString(&written(UtcTime(noon.0 + 3)))),
        DataAccessResult::Success
    );
    world.pass(UtcTime(noon.0 + 1), 1);
    assert_eq!(world.number(1, obis(TARIFF), 2), 1);
    world.pass(UtcTime(noon.0 + 2), 1);
    assert_eq!(world.number(1, obis(TARIFF), 2), 2, "activated at its time");
}

#[test]
fn scripts_run_on_request_and_by_schedule_and_reach_no_rights() {
    let mut world = World::new();
    let scripts = obis(TARIFF_SCRIPTS);
    assert_eq!(world.act(9, scripts, 1, Data::LongUnsigned(2)), ActionResult::Success);
    assert_eq!(world.number(1, obis(TARIFF), 2), 2);
    assert_eq!(world.act(9, scripts, 1, Data::LongUnsigned(9)), ActionResult::ScopeOfAccessViolated);
    let action = |service, class, name: [u8; 6], member, parameter| {
        let name = Box::leak(Box::new(name)).as_slice();
        Data::Structure(vec![
            Data::Enum(service),
            Data::LongUnsigned(class),
            Data::OctetString(name),
            Data::Integer(member),
            parameter,
        ])
    };
    let script =
        |selector, action| Data::Structure(vec![Data::LongUnsigned(selector), Data::Array(vec![action])]);
    let list = Data::Array(vec![
        script(1, action(2, 64, [0, 0, 43, 0, 0, 255], 1, Data::Enum(0x6C))),
        script(2, action(2, 9, TARIFF_SCRIPTS, 1, Data::LongUnsigned(2))),
        script(3, action(1, 3, [1, 0, 1, 8, 0, 255], 2, Data::DoubleLongUnsigned(0))),
        script(4, action(2, 70, [0, 0, 96, 3, 10, 255], 1, Data::Integer(0))),
        script(5, action(1, 1, FIRMWARE, 2, Data::OctetString(b"other"))),
        script(6, action(1, 1, OPEN, 2, Data::Unsigned(9))),
        script(7, action(1, 1, READ_ONLY, 2, Data::Unsigned(9))),
        script(8, action(2, 3, NO_METHOD, 1, Data::Integer(0))),
    ]);
    world.change(1, obis(OPEN), Some(Rights::ALL), (2, Data::Unsigned(1)));
    let read = Rights { read: true, ..Rights::NONE };
    world.change(1, obis(READ_ONLY), Some(read), (2, Data::Unsigned(1)));
    world.change(3, obis(NO_METHOD), Some(Rights { write: true, ..read }), (2, Data::Unsigned(1)));
    assert_eq!(world.set(9, scripts, 2, &list), DataAccessResult::Success);
    assert_eq!(
        world.act(9, scripts, 1, Data::LongUnsigned(1)),
        ActionResult::ReadWriteDenied,
        "no rights, no keys"
    );
    assert_ne!(world.act(9, scripts, 1, Data::LongUnsigned(2)), ActionResult::Success, "no endless script");
    assert_eq!(world.act(9, scripts, 1, Data::LongUnsigned(3)), ActionResult::ReadWriteDenied, "no energy");
    assert_eq!(world.act(9, scripts, 1, Data::LongUnsigned(5)), ActionResult::ReadWriteDenied, "no identity");
    assert_eq!(world.act(9, scripts, 1, Data::LongUnsigned(6)), ActionResult::Success);
    assert_eq!(world.number(1, obis(OPEN), 2), 9);
    for limited in [7, 8] {
        let outcome = world.act(9, scripts, 1, Data::LongUnsigned(limited));
        assert_eq!(outcome, ActionResult::ReadWriteDenied, "what nobody may, script {limited}");
    }
    // Schedule 0.0.15.0.2.255 runs script 4 at 08:00:05 of whatever day.
    let schedule = obis([0, 0, 15, 0, 2, 255]);
    let script = Data::Structure(vec![Data::OctetString(&TARIFF_SCRIPTS), Data::LongUnsigned(4)]);
    assert_eq!(world.set(22, schedule, 2, &script), DataAccessResult::Success);
    let at = Data::Structure(vec![Data::OctetString(&[8, 0, 5, 0xFF]), Data::OctetString(&[0xFF; 5])]);
    assert_eq!(world.set(22, schedule, 4, &Data::Array(vec![at])), DataAccessResult::Success);
    world.pass(START, 4);
    assert!(world.device.is_supplied());
    world.pass(UtcTime(START.0 + 4), 1);
    assert!(!world.device.is_supplied());
}

#[test]
fn demand_is_averaged_over_its_period_and_its_maximum_is_kept() {
    let mut world = World::new();
    let (demand, maximum) = (obis([1, 0, 1, 4, 0, 255]), obis([1, 0, 1, 6, 0, 255]));
    for quarter in 0..=8 {
        world.device.tick(UtcTime(START.0 + quarter * 900), &mut world.keys);
    }
    let (last, highest) = (world.number(5, demand, 3), world.number(4, maximum, 2));
    assert!(last > 0 && highest >= last, "{last} {highest}");
    assert_eq!(world.get(5, demand, 6).unwrap()[2..], written(UtcTime(START.0 + 8 * 900)));
    assert_eq!(world.act(4, maximum, 1, Data::Integer(0)), ActionResult::Success);
    assert_eq!(world.number(4, maximum, 2), 0);
    world.pass(UtcTime(START.0 + 8 * 900), 100);
    assert_eq!(world.act(5, demand, 2, Data::Integer(0)), ActionResult::Success);
    assert!(world.number(4, maximum, 2) > 0, "the period that was cut counts");
    assert_eq!(world.act(5, demand, 1, Data::Integer(0)), ActionResult::Success);
    assert_eq!(world.number(5, demand, 3), 0);
}
