//! Profile generic.

use gridseal_dlms::{
    apdu::result::{ActionResult, DataAccessResult},
    wire::Data,
};
use gridseal_types::{ObisCode, UtcTime};

use crate::world::{CLOCK, IMPORT, LOAD, START, World, obis, written};

fn column(class: u16, obis: &ObisCode, attribute: i8) -> Data<'_> {
    Data::Structure(vec![
        Data::LongUnsigned(class),
        Data::OctetString(obis.groups()),
        Data::Integer(attribute),
        Data::LongUnsigned(0),
    ])
}

fn range<'a>(from: &'a [u8], to: &'a [u8], columns: Vec<Data<'a>>) -> (u8, Data<'a>) {
    let (from, to) = (Data::OctetString(from), Data::OctetString(to));
    (1, Data::Structure(vec![column(8, &CLOCK, 2), from, to, Data::Array(columns)]))
}

fn entries(from: u32, to: u32, first: u16, last: u16) -> (u8, Data<'static>) {
    let (from, to) = (Data::DoubleLongUnsigned(from), Data::DoubleLongUnsigned(to));
    (2, Data::Structure(vec![from, to, Data::LongUnsigned(first), Data::LongUnsigned(last)]))
}

#[test]
fn a_day_of_rows_is_there_and_more_come_with_time() {
    let mut world = World::new();
    let rows = world.rows(LOAD, None);
    assert_eq!((rows.len(), rows[0].len()), (96, 4));
    assert_eq!(rows[95][0][2..], written(START), "the last one ends now");
    assert_eq!(rows, World::new().rows(LOAD, None), "two meters have the same");
    let energy = |row: &[Vec<u8>]| u32::from_be_bytes(row[2][1..].try_into().unwrap());
    assert!(rows.windows(2).all(|pair| energy(&pair[0]) < energy(&pair[1])));
    world.pass(START, 899);
    assert_eq!(world.rows(LOAD, None).len(), 96);
    world.pass(UtcTime(START.0 + 899), 1);
    let more = world.rows(LOAD, None);
    assert_eq!((more.len(), &more[..96]), (97, rows.as_slice()));
    assert_eq!(more[96][0][2..], written(UtcTime(START.0 + 900)));
    // Asleep for hours: what was not measured is not there.
    world.device.tick(UtcTime(START.0 + 36_000), &mut world.keys);
    assert_eq!(world.rows(LOAD, None).len(), 98);
}

#[test]
fn rows_are_selected_by_time_with_both_bounds_and_by_column() {
    let mut world = World::new();
    let at = |rows_back: u64| written(UtcTime(START.0 - rows_back * 900));
    let (from, to) = (at(4), at(1));
    let rows = world.rows(LOAD, Some(range(&from, &to, vec![])));
    assert_eq!((rows.len(), rows[0].len()), (4, 4));
    assert_eq!(rows[3][0][2..], to);
    let energy = column(3, &IMPORT, 2);
    let rows = world.rows(LOAD, Some(range(&from, &to, vec![energy.clone(), column(8, &CLOCK, 2)])));
    assert_eq!((rows.len(), rows[0].len(), rows[0][0][0]), (4, 2, 6), "columns in the order asked for");
    assert!(world.rows(LOAD, Some(range(&to, &from, vec![]))).is_empty(), "an empty range is no error");
    // A date-time with its own tag, in another zone.
    let (mut local, later) = (from, to);
    (local[5], local[9], local[10]) = (local[5] + 1, 0xFF, 0xC4);
    let tagged = [&[0x19][..], &local].concat();
    let parameter = Data::Structure(vec![
        column(8, &CLOCK, 2),
        Data::from_bytes(&tagged).unwrap(),
        Data::OctetString(&later),
        Data::Array(vec![]),
    ]);
    assert_eq!(world.rows(LOAD, Some((1, parameter))).len(), 4);
    // By a number, too.
    let all = world.rows(LOAD, None);
    let value = |row: usize| Data::from_bytes(&all[row][2]).unwrap();
    let parameter = Data::Structure(vec![energy, value(10), value(12), Data::Array(vec![])]);
    assert_eq!(world.rows(LOAD, Some((1, parameter))), all[10..=12]);
}

#[test]
fn rows_are_selected_by_number_from_1_with_0_for_the_end() {
    let mut world = World::new();
    let all = world.rows(LOAD, None);
    assert_eq!(world.rows(LOAD, Some(entries(1, 0, 1, 0))), all);
    assert_eq!(world.rows(LOAD, Some(entries(95, 200, 1, 0))), all[94..]);
    assert!(world.rows(LOAD, Some(entries(97, 0, 1, 0))).is_empty());
    assert!(world.rows(LOAD, Some(entries(5, 4, 1, 0))).is_empty());
    assert!(world.rows(LOAD, Some(entries(u32::MAX, u32::MAX, 1, 0))).is_empty());
    let rows = world.rows(LOAD, Some(entries(2, 2, 3, 4)));
    assert_eq!(rows, [all[1][2..].to_vec()]);
    let refused = |world: &mut World, selection| world.select(7, LOAD, 2, Some(selection)).unwrap_err();
    for (selection, result) in [
        (entries(0, 0, 1, 0), DataAccessResult::ScopeOfAccessViolated),
        (entries(1, 0, 0, 0), DataAccessResult::ScopeOfAccessViolated),
        (entries(1, 0, 5, 0), DataAccessResult::ScopeOfAccessViolated),
        (entries(1, 0, 2, 1), DataAccessResult::ScopeOfAccessViolated),
        ((2, Data::Array(vec![])), DataAccessResult::TypeUnmatched),
        ((1, Data::Structure(vec![])), DataAccessResult::TypeUnmatched),
        ((3, Data::Null), DataAccessResult::ScopeOfAccessViolated),
        (
            (1, Data::Structure(vec![column(3, &CLOCK, 2), Data::Null, Data::Null, Data::Array(vec![])])),
            DataAccessResult::ScopeOfAccessViolated,
        ),
        (
            (1, Data::Structure(vec![column(8, &CLOCK, 2), Data::Null, Data::Null, Data::Array(vec![])])),
            DataAccessResult::TypeUnmatched,
        ),
    ] {
        assert_eq!(refused(&mut world, selection), result);
    }
    let clock = world.select(8, CLOCK, 2, Some(entries(1, 0, 1, 0)));
    assert_eq!(clock, Err(DataAccessResult::ScopeOfAccessViolated), "nothing but buffers is selected");
}

#[test]
fn a_buffer_is_reset_captured_limited_and_turned_round() {
    let mut world = World::new();
    assert_eq!(world.act(7, LOAD, 1, Data::Integer(0)), ActionResult::Success);
    assert_eq!(world.number(7, LOAD, 7), 0);
    for _ in 0..3 {
        assert_eq!(world.act(7, LOAD, 2, Data::Integer(0)), ActionResult::Success);
        let now = world.device.now();
        world.pass(now, 1);
    }
    let rows = world.rows(LOAD, None);
    assert_eq!(rows.len(), 3);
    assert_eq!(world.set(7, LOAD, 5, &Data::Enum(2)), DataAccessResult::Success);
    let turned: Vec<_> = rows.into_iter().rev().collect();
    assert_eq!(world.rows(LOAD, None), turned, "newest first");
    assert_eq!(world.set(7, LOAD, 5, &Data::Enum(3)), DataAccessResult::ScopeOfAccessViolated);
    assert_eq!(world.set(7, LOAD, 8, &Data::DoubleLongUnsigned(2)), DataAccessResult::Success);
    assert_eq!(world.number(7, LOAD, 7), 0, "other limits, other rows");
    for _ in 0..5 {
        world.act(7, LOAD, 2, Data::Integer(0));
    }
    assert_eq!(world.number(7, LOAD, 7), 2);
    let violated = DataAccessResult::ScopeOfAccessViolated;
    assert_eq!(world.set(7, LOAD, 8, &Data::DoubleLongUnsigned(4_097)), violated);
    assert_eq!(world.set(7, LOAD, 8, &Data::DoubleLongUnsigned(0)), violated);
}

#[test]
fn captured_columns_must_exist_and_hold_no_rights_and_no_buffers() {
    let mut world = World::new();
    let power = obis([1, 0, 1, 7, 0, 255]);
    let good = Data::Array(vec![column(8, &CLOCK, 2), column(3, &power, 2), column(3, &power, 3)]);
    assert_eq!(world.set(7, LOAD, 3, &good), DataAccessResult::Success);
    assert_eq!(world.act(7, LOAD, 2, Data::Integer(0)), ActionResult::Success);
    assert_eq!(world.rows(LOAD, None)[0].len(), 3);
    let association = obis([0, 0, 40, 0, 0, 255]);
    for bad in [
        column(7, &LOAD, 2),
        column(15, &association, 7),
        column(3, &CLOCK, 2),
        column(3, &power, 9),
        column(3, &obis([9; 6]), 2),
    ] {
        let result = world.set(7, LOAD, 3, &Data::Array(vec![bad]));
        assert_eq!(result, DataAccessResult::ScopeOfAccessViolated);
    }
    let many = Data::Array(vec![column(3, &power, 2); 33]);
    assert_eq!(world.set(7, LOAD, 3, &many), DataAccessResult::ScopeOfAccessViolated);
    assert_eq!(world.rows(LOAD, None).len(), 1, "what was refused changed nothing");
}

#[test]
fn what_is_sent_in_pieces_is_a_snapshot() {
    use gridseal_dlms::assoc::{AttributeRequest, Objects, Value};
    let mut world = World::new();
    let whole = world.select(7, LOAD, 2, None).unwrap();
    let attribute = gridseal_dlms::apdu::reference::AttributeId::new(7, LOAD, 2);
    let request = AttributeRequest { context: &world.context, attribute, selection: None };
    let Ok(Value::Stream(mut source)) = world.device.session(&mut world.keys).get(request) else { panic!() };
    let mut bytes = Vec::new();
    assert!(source.fill(100, &mut bytes).unwrap());
    assert_eq!(world.act(7, LOAD, 1, Data::Integer(0)), ActionResult::Success);
    while source.fill(100, &mut bytes).unwrap() {}
    assert_eq!(bytes, whole);
}

#[test]
fn events_are_logged_with_their_code() {
    let mut world = World::new();
    let log = obis([0, 0, 99, 98, 0, 255]);
    assert_eq!(world.rows(log, None)[0][1], [0x11, 2], "power up");
    world.act(8, CLOCK, 6, Data::Long(5));
    let codes: Vec<u8> = world.rows(log, None).iter().map(|row| row[1][1]).collect();
    assert_eq!(codes, [2, 4, 5]);
}
