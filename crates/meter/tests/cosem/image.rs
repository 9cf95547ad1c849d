//! Image transfer: blocks, holes, verdicts; rule S6.

use gridseal_dlms::{apdu::result::ActionResult, wire::Data};
use gridseal_meter::cosem::Note;

use crate::world::{ALL, World, obis};

const IMAGE: [u8; 6] = [0, 0, 44, 0, 0, 255];

fn initiate(world: &mut World, size: u32) -> ActionResult {
    let value = Data::Structure(vec![Data::OctetString(b"app 2"), Data::DoubleLongUnsigned(size)]);
    world.act(18, obis(IMAGE), 1, value)
}

fn block(world: &mut World, number: u32, bytes: &[u8]) -> ActionResult {
    let value = Data::Structure(vec![Data::DoubleLongUnsigned(number), Data::OctetString(bytes)]);
    world.act(18, obis(IMAGE), 2, value)
}

fn status(world: &mut World) -> i64 {
    world.number(18, obis(IMAGE), 6)
}

#[test]
fn a_signed_image_is_activated_whatever_the_order_of_its_blocks() {
    let mut world = World::new();
    let image = obis(IMAGE);
    assert_eq!(world.number(18, image, 2), 512);
    assert_eq!(block(&mut world, 0, &[0; 512]), ActionResult::OtherReason, "not initiated");
    assert_eq!(initiate(&mut world, 1_030), ActionResult::Success);
    assert_eq!(block(&mut world, 2, b"signed"), ActionResult::Success);
    assert_eq!(block(&mut world, 0, &[1; 512]), ActionResult::Success);
    assert_eq!(world.number(18, image, 4), 1, "first hole");
    assert_eq!(world.get(18, image, 3).unwrap(), [0x04, 3, 0b1010_0000]);
    let ready = world.act(18, image, 3, Data::Integer(0));
    assert_eq!((ready, status(&mut world)), (ActionResult::TemporaryFailure, 1), "no verdict on a part");
    assert_eq!(block(&mut world, 1, &[2; 512]), ActionResult::Success);
    assert_eq!(block(&mut world, 1, &[2; 512]), ActionResult::Success, "a repeat changes nothing");
    assert_eq!(world.number(18, image, 4), 3);
    assert_eq!(world.act(18, image, 3, Data::Integer(0)), ActionResult::Success);
    assert_eq!(status(&mut world), 3);
    let bytes = world.get(18, image, 7).unwrap();
    let info = Data::from_bytes(&bytes).unwrap();
    let Data::Array(info) = info else { panic!() };
    let Data::Structure(parts) = &info[0] else { panic!() };
    assert_eq!(parts[..2], [Data::DoubleLongUnsigned(1_030), Data::OctetString(b"app 2")]);
    assert_eq!(world.act(18, image, 4, Data::Integer(0)), ActionResult::Success);
    assert_eq!(status(&mut world), 6);
    let firmware = world.get(1, obis([1, 1, 0, 2, 0, 255]), 2).unwrap();
    assert_eq!(firmware[2..], *b"app 2");
    assert_eq!(world.get(1, obis([1, 0, 0, 2, 0, 255]), 2).unwrap()[2..], *b"metrology 1", "rule S15");
    assert_eq!(world.notes(), [Note::ImageVerified { is_good: true }, Note::ImageActivated]);
}

#[test]
fn s6_an_image_without_a_good_signature_is_never_activated() {
    let mut world = World::new();
    let image = obis(IMAGE);
    initiate(&mut world, 20);
    assert_eq!(block(&mut world, 0, &[7; 20]), ActionResult::Success);
    assert_ne!(world.act(18, image, 4, Data::Integer(0)), ActionResult::Success, "activation verifies, too");
    assert_eq!(status(&mut world), 4);
    assert_ne!(world.act(18, image, 3, Data::Integer(0)), ActionResult::Success);
    assert_ne!(world.act(18, image, 4, Data::Integer(0)), ActionResult::Success);
    assert_eq!(world.get(1, obis([1, 1, 0, 2, 0, 255]), 2).unwrap()[2..], *b"application 1");
    assert_eq!(world.notes(), [Note::ImageVerified { is_good: false }]);
}

#[test]
fn sizes_numbers_and_contradictions_are_refused() {
    let mut world = World::new();
    let violated = ActionResult::ScopeOfAccessViolated;
    assert_eq!(initiate(&mut world, 0), violated);
    assert_eq!(initiate(&mut world, u32::MAX), violated, "memory is bounded");
    assert_eq!(initiate(&mut world, 1_030), ActionResult::Success);
    for (number, size) in [(0, 511), (0, 513), (2, 512), (2, 5), (3, 512), (u32::MAX, 512)] {
        assert_eq!(block(&mut world, number, &vec![0; size]), violated, "{number} {size}");
    }
    assert_eq!(block(&mut world, 0, &[1; 512]), ActionResult::Success);
    assert_eq!(block(&mut world, 0, &[2; 512]), violated, "another block in its place");
    assert_eq!(world.set(18, obis(IMAGE), 5, &Data::Boolean(false)).number(), 0);
    assert_eq!(initiate(&mut world, 1_030), ActionResult::ReadWriteDenied, "disabled");
}

#[test]
fn a_broadcast_brings_blocks_and_nothing_else() {
    let mut world = World::new();
    initiate(&mut world, 20);
    let mut world = world.by(ALL);
    world.context.is_broadcast = true;
    assert_eq!(block(&mut world, 0, &[7; 20]), ActionResult::Success);
    assert_eq!(initiate(&mut world, 30), ActionResult::ReadWriteDenied);
    assert_eq!(world.act(8, crate::world::CLOCK, 6, Data::Long(1)), ActionResult::ReadWriteDenied);
    let breaker = obis([0, 0, 96, 3, 10, 255]);
    assert_eq!(world.act(70, breaker, 1, Data::Integer(0)), ActionResult::ReadWriteDenied);
    assert!(world.get(8, crate::world::CLOCK, 2).is_err());
}
