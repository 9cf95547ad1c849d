//! Breaker, limiter, registers, push, port protection, payment.

use gridseal_dlms::{
    apdu::{
        notification::{DataNotification, Leniency},
        result::{ActionResult, DataAccessResult},
    },
    wire::Data,
};
use gridseal_meter::cosem::{Note, Rights};
use gridseal_types::UtcTime;

use crate::world::{IMPORT, START, World, obis};

const BREAKER: [u8; 6] = [0, 0, 96, 3, 10, 255];
const LIMITER: [u8; 6] = [0, 0, 17, 0, 0, 255];

#[test]
fn the_breaker_follows_its_mode() {
    let breaker = obis(BREAKER);
    // Mode, state after disconnect and reconnect.
    for (mode, after) in [(1, 2), (2, 1), (3, 2), (4, 1), (5, 2), (6, 2)] {
        let mut world = World::new();
        assert_eq!(world.set(70, breaker, 4, &Data::Enum(mode)), DataAccessResult::Success);
        assert_eq!(world.act(70, breaker, 1, Data::Integer(0)), ActionResult::Success);
        assert_eq!((world.number(70, breaker, 2), world.number(70, breaker, 3)), (0, 0));
        assert_eq!(world.act(70, breaker, 2, Data::Integer(0)), ActionResult::Success);
        assert_eq!(world.number(70, breaker, 3), after, "mode {mode}");
        assert_eq!(world.device.is_supplied(), after == 1);
        assert!(world.notes().contains(&Note::Switched { is_connected: false }));
    }
    let mut world = World::new();
    world.set(70, breaker, 4, &Data::Enum(0));
    assert_eq!(world.act(70, breaker, 1, Data::Integer(0)), ActionResult::ReadWriteDenied);
    assert_eq!(world.set(70, breaker, 4, &Data::Enum(7)), DataAccessResult::ScopeOfAccessViolated);
    assert_eq!(world.set(70, breaker, 2, &Data::Boolean(false)), DataAccessResult::ReadWriteDenied);
}

#[test]
fn the_limiter_disconnects_after_its_time_and_not_before() {
    let mut world = World::new();
    let limiter = obis(LIMITER);
    let monitored = obis([1, 0, 1, 7, 0, 255]);
    world.change(3, monitored, Some(Rights::ALL), (2, Data::DoubleLongUnsigned(900)));
    assert_eq!(world.set(71, limiter, 6, &Data::DoubleLongUnsigned(10)), DataAccessResult::Success);
    assert_eq!(world.set(71, limiter, 4, &Data::LongUnsigned(1)), DataAccessResult::TypeUnmatched);
    assert_eq!(world.set(71, limiter, 4, &Data::DoubleLongUnsigned(500)), DataAccessResult::Success);
    assert_eq!(world.number(71, limiter, 3), 500);
    let now = world.pass(START, 10);
    assert!(world.device.is_supplied());
    // Below for a moment: the time begins again.
    world.set(3, monitored, 2, &Data::DoubleLongUnsigned(400));
    let now = world.pass(now, 1);
    world.set(3, monitored, 2, &Data::DoubleLongUnsigned(900));
    let now = world.pass(now, 10);
    assert!(world.device.is_supplied());
    world.pass(now, 1);
    assert!(!world.device.is_supplied());
}

#[test]
fn an_emergency_changes_the_threshold_for_its_duration() {
    let mut world = World::new();
    let limiter = obis(LIMITER);
    world.set(71, limiter, 4, &Data::DoubleLongUnsigned(9_000));
    world.set(71, limiter, 5, &Data::DoubleLongUnsigned(300));
    world.set(71, limiter, 9, &Data::Array(vec![Data::LongUnsigned(7)]));
    let begin = crate::world::written(UtcTime(START.0 + 5));
    let profile =
        Data::Structure(vec![Data::LongUnsigned(7), Data::OctetString(&begin), Data::DoubleLongUnsigned(10)]);
    assert_eq!(world.set(71, limiter, 8, &profile), DataAccessResult::Success);
    for (at, is_emergency, threshold) in [(4, 0, 9_000), (5, 1, 300), (14, 1, 300), (15, 0, 9_000)] {
        world.device.tick(UtcTime(START.0 + at), &mut world.keys);
        assert_eq!((world.number(71, limiter, 10), world.number(71, limiter, 3)), (is_emergency, threshold));
    }
}

#[test]
fn s15_measured_registers_have_no_write_path() {
    let mut world = World::new();
    let before = world.get(3, IMPORT, 2);
    assert_eq!(world.set(3, IMPORT, 2, &Data::DoubleLongUnsigned(0)), DataAccessResult::ReadWriteDenied);
    let unit = Data::Structure(vec![Data::Integer(3), Data::Enum(30)]);
    assert_eq!(world.set(3, IMPORT, 3, &unit), DataAccessResult::ReadWriteDenied);
    assert_eq!(world.act(3, IMPORT, 1, Data::Integer(0)), ActionResult::ReadWriteDenied);
    assert_eq!(world.get(3, IMPORT, 2), before);
    // On the bench an override makes a plain register of it.
    world.change(3, IMPORT, Some(Rights::ALL), (2, Data::DoubleLongUnsigned(123_456)));
    assert_eq!(world.number(3, IMPORT, 2), 123_456);
    assert_eq!(world.set(3, IMPORT, 2, &Data::LongUnsigned(5)), DataAccessResult::TypeUnmatched);
    assert_eq!(world.set(3, IMPORT, 2, &Data::DoubleLongUnsigned(5)), DataAccessResult::Success);
    assert_eq!(world.act(3, IMPORT, 1, Data::Integer(0)), ActionResult::Success);
    assert_eq!(world.number(3, IMPORT, 2), 0);
}

#[test]
fn a_push_sends_what_its_list_says() {
    let mut world = World::new();
    let push = obis([0, 0, 25, 9, 0, 255]);
    assert_eq!(world.act(40, push, 1, Data::Integer(0)), ActionResult::Success);
    let apdu = world.device.take_push().unwrap();
    let sent = DataNotification::from_bytes(&apdu, Leniency::Strict).unwrap();
    let Data::Structure(parts) = &sent.body else { panic!() };
    assert_eq!(parts[0], Data::OctetString(push.groups()));
    let energy = world.get(3, IMPORT, 2).unwrap();
    assert_eq!(parts[2].to_bytes(), energy);
    assert_eq!(world.device.take_push(), None);
    for _ in 0..4 {
        assert_eq!(world.act(40, push, 1, Data::Integer(0)), ActionResult::Success);
    }
    assert_eq!(world.act(40, push, 1, Data::Integer(0)), ActionResult::TemporaryFailure, "memory is bounded");
}

#[test]
fn what_is_not_simulated_keeps_its_attributes_and_refuses_its_methods() {
    let mut world = World::new();
    let gateway = obis([0, 0, 19, 40, 0, 255]);
    assert_eq!(world.act(115, gateway, 1, Data::OctetString(&[1; 8])), ActionResult::OtherReason);
    assert_eq!(world.act(111, obis([0, 0, 19, 0, 0, 255]), 1, Data::Integer(0)), ActionResult::OtherReason);
    let credit = obis([0, 0, 19, 10, 0, 255]);
    assert_eq!(world.set(112, credit, 4, &Data::Unsigned(3)), DataAccessResult::Success);
    assert_eq!(world.number(112, credit, 4), 3);
    assert_eq!(world.set(112, credit, 2, &Data::DoubleLong(100)), DataAccessResult::ReadWriteDenied, "money");
    let client = obis([0, 1, 24, 1, 0, 255]);
    assert_eq!(world.set(72, client, 4, &Data::DoubleLongUnsigned(3_600)), DataAccessResult::Success);
    assert_eq!(world.act(72, client, 1, Data::Unsigned(1)), ActionResult::OtherReason);
    let port = obis([0, 0, 44, 2, 0, 255]);
    assert_eq!(world.set(124, port, 3, &Data::LongUnsigned(9)), DataAccessResult::Success);
    world.device.refused();
    assert_eq!((world.number(124, port, 9), world.number(124, port, 10)), (1, 1));
    assert_eq!(world.act(124, port, 1, Data::Integer(0)), ActionResult::Success);
    assert_eq!((world.number(124, port, 9), world.number(124, port, 10)), (0, 1));
    let tcp = obis([0, 0, 25, 0, 0, 255]);
    assert_eq!(world.set(41, tcp, 6, &Data::LongUnsigned(5)), DataAccessResult::Success);
    assert_eq!(world.device.inactivity().as_secs(), 10, "never so short that nobody gets in");
}

#[test]
fn a_power_cut_leaves_the_breaker_as_it_is() {
    let breaker = obis(BREAKER);
    for (mode, reconnects, state) in [(4, false, 0), (4, true, 1), (1, true, 2)] {
        let mut world = World::new();
        assert_eq!(world.set(70, breaker, 4, &Data::Enum(mode)), DataAccessResult::Success);
        assert_eq!(world.act(70, breaker, 1, Data::Integer(0)), ActionResult::Success);
        if reconnects {
            assert_eq!(world.act(70, breaker, 2, Data::Integer(0)), ActionResult::Success);
        }
        world.power_cut();
        assert_eq!(world.number(70, breaker, 3), state);
        assert_eq!(world.device.is_supplied(), state == 1);
    }
}

#[test]
fn a_push_has_no_other_destination() {
    let push = obis([0, 0, 25, 9, 0, 255]);
    let mut world = World::new();
    let present = world.get(40, push, 3).unwrap();
    let present = Data::from_bytes(&present).unwrap();
    assert_eq!(world.set(40, push, 3, &present), DataAccessResult::Success);
    let other = Data::Structure(vec![Data::Enum(0), Data::OctetString(b"127.0.0.1:9"), Data::Enum(0)]);
    assert_eq!(world.set(40, push, 3, &other), DataAccessResult::ScopeOfAccessViolated);
    assert_eq!(world.get(40, push, 3).unwrap(), present.to_bytes());
}
