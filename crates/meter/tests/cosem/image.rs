//! Image transfer: blocks, holes, verdicts, power cuts; rule S6.

use gridseal_crypto::{
    Key, SecondSigner, Signer, SigningKey,
    role::{FirmwareSecond, FirmwareSigning},
};
use gridseal_dlms::{apdu::result::ActionResult, wire::Data};
use gridseal_meter::cosem::{ImageConfig, ImageRefusal, Note, Part};
use gridseal_trust::firmware::{FirmwareDraft, FirmwareRefusal, FirmwareTrust, sign_image};
use gridseal_types::{Digest, UtcTime};

use crate::world::{ALL, World, obis};

const IMAGE: [u8; 6] = [0, 0, 44, 0, 0, 255];
const ACTIVE: [u8; 6] = [1, 1, 0, 2, 0, 255];
const CONTENTS: &[u8] = &[0x5A; 600];

struct Maker(SigningKey<FirmwareSigning>, SecondSigner<FirmwareSecond>);

fn maker() -> Maker {
    let second = SecondSigner::new(&Key::take(&mut [8; 32])).unwrap();
    Maker(SigningKey::new(&Key::take(&mut [7; 32])).unwrap(), second)
}

impl Maker {
    fn image(&self, model: &str, version: u32) -> Vec<u8> {
        let draft = FirmwareDraft { model, version, identifier: b"app 2", issued: UtcTime(1) };
        sign_image(draft, CONTENTS, (&self.0, &self.1)).unwrap().unwrap()
    }

    fn world(&self) -> World {
        let second = Digest(self.1.public().id());
        let trust = FirmwareTrust { key: self.0.public(), second, model: "EM-1".into() };
        World::taking(ImageConfig { trust, version: 3 })
    }
}

fn initiate(world: &mut World, size: usize) -> ActionResult {
    let size = u32::try_from(size).unwrap();
    let value = Data::Structure(vec![Data::OctetString(b"app 2"), Data::DoubleLongUnsigned(size)]);
    world.act(18, obis(IMAGE), 1, value)
}

fn block(world: &mut World, number: u32, bytes: &[u8]) -> ActionResult {
    let value = Data::Structure(vec![Data::DoubleLongUnsigned(number), Data::OctetString(bytes)]);
    world.act(18, obis(IMAGE), 2, value)
}

fn verify(world: &mut World) -> ActionResult {
    world.act(18, obis(IMAGE), 3, Data::Integer(0))
}

fn activate(world: &mut World) -> ActionResult {
    world.act(18, obis(IMAGE), 4, Data::Integer(0))
}

fn status(world: &mut World) -> i64 {
    world.number(18, obis(IMAGE), 6)
}

fn active(world: &mut World) -> Vec<u8> {
    world.get(1, obis(ACTIVE), 2).unwrap()[2..].to_vec()
}

/// Sends all blocks of an image, the last first.
fn send(world: &mut World, image: &[u8]) {
    assert_eq!(initiate(world, image.len()), ActionResult::Success);
    for (number, bytes) in (0..).zip(image.chunks(512)).collect::<Vec<_>>().into_iter().rev() {
        assert_eq!(block(world, number, bytes), ActionResult::Success);
    }
}

#[test]
fn a_signed_image_is_activated_whatever_the_order_of_its_blocks() {
    let (maker, name) = (maker(), obis(IMAGE));
    let mut world = maker.world();
    let image = maker.image("EM-1", 4);
    let last = image.len().div_ceil(512) - 1;
    assert_eq!(world.number(18, name, 2), 512);
    assert_eq!(block(&mut world, 0, &image[..512]), ActionResult::OtherReason, "not initiated");
    assert_eq!(initiate(&mut world, image.len()), ActionResult::Success);
    assert_eq!(block(&mut world, 0, &image[..512]), ActionResult::Success);
    assert_eq!(block(&mut world, 2, &image[1_024..1_536]), ActionResult::Success);
    assert_eq!(world.number(18, name, 4), 1, "first hole");
    assert_eq!(world.get(18, name, 3).unwrap()[2], 0b1010_0000);
    let ready = verify(&mut world);
    assert_eq!((ready, status(&mut world)), (ActionResult::TemporaryFailure, 1), "no verdict on a part");
    for (number, bytes) in (0..).zip(image.chunks(512)) {
        assert_eq!(block(&mut world, number, bytes), ActionResult::Success, "a repeat changes nothing");
    }
    assert_eq!(world.number(18, name, 4), i64::try_from(last + 1).unwrap());
    assert_eq!(verify(&mut world), ActionResult::Success);
    assert_eq!(status(&mut world), 3);
    let bytes = world.get(18, name, 7).unwrap();
    let Data::Array(info) = Data::from_bytes(&bytes).unwrap() else { panic!() };
    let Data::Structure(parts) = &info[0] else { panic!() };
    let size = u32::try_from(image.len()).unwrap();
    assert_eq!(parts[..2], [Data::DoubleLongUnsigned(size), Data::OctetString(b"app 2")]);
    assert_eq!(parts[2], Data::OctetString(gridseal_trust::firmware::signature(&image).unwrap()));
    assert_eq!(active(&mut world), b"application 1");
    assert_eq!(activate(&mut world), ActionResult::Success);
    assert_eq!((status(&mut world), active(&mut world)), (6, b"app 2".to_vec()));
    assert_eq!(world.get(1, obis([1, 0, 0, 2, 0, 255]), 2).unwrap()[2..], *b"metrology 1", "rule S15");
    assert_eq!(world.notes(), [Note::ImageVerified { version: 4 }, Note::ImageActivated { version: 4 }]);
}

#[test]
fn s6_an_image_that_is_not_whole_own_and_newer_is_never_activated() {
    let maker = maker();
    let good = maker.image("EM-1", 4);
    let mut changed = good.clone();
    *changed.last_mut().unwrap() ^= 1;
    let mut unsigned = good.clone();
    // Inside the second signature, which is 3,309 bytes in front of the contents.
    let place = good.len() - CONTENTS.len() - 100;
    unsigned[place] ^= 1;
    let stranger = Maker(SigningKey::new(&Key::take(&mut [9; 32])).unwrap(), maker.1);
    let own = self::maker();
    for (image, refusal) in [
        (CONTENTS.to_vec(), FirmwareRefusal::Format),
        (stranger.image("EM-1", 4), FirmwareRefusal::Signature),
        (unsigned, FirmwareRefusal::SecondSignature),
        (own.image("EM-2", 4), FirmwareRefusal::Model),
        (own.image("EM-1", 2), FirmwareRefusal::Older { found: 2, active: 3 }),
        (changed, FirmwareRefusal::Contents),
    ] {
        for is_direct in [false, true] {
            let mut world = own.world();
            send(&mut world, &image);
            let refused = if is_direct { activate(&mut world) } else { verify(&mut world) };
            assert_eq!((refused, status(&mut world)), (ActionResult::OtherReason, 4), "{refusal}");
            assert_eq!(world.notes(), [Note::ImageRefused(ImageRefusal::Firmware(refusal))]);
            assert_ne!(verify(&mut world), ActionResult::Success, "a verdict stands");
            assert_ne!(activate(&mut world), ActionResult::Success);
            assert_eq!(active(&mut world), b"application 1");
            assert_eq!(world.get(18, obis(IMAGE), 7).unwrap(), [1, 0], "nothing to activate");
        }
    }
    let mut world = World::new();
    send(&mut world, &good);
    assert_eq!(verify(&mut world), ActionResult::OtherReason);
    assert_eq!(world.notes(), [Note::ImageRefused(ImageRefusal::NoTrust)]);
}

#[test]
fn what_runs_is_never_followed_by_something_older_also_after_a_power_cut() {
    let maker = maker();
    let mut world = maker.world();
    send(&mut world, &maker.image("EM-1", 9));
    assert_eq!(activate(&mut world), ActionResult::Success);
    world.power_cut();
    assert_eq!((status(&mut world), active(&mut world)), (6, b"app 2".to_vec()));
    send(&mut world, &maker.image("EM-1", 8));
    assert_eq!(verify(&mut world), ActionResult::OtherReason);
    let older = ImageRefusal::Firmware(FirmwareRefusal::Older { found: 8, active: 9 });
    assert!(world.notes().contains(&Note::ImageRefused(older)));
    // Verified before, older than what runs since: activation looks once more.
    let mut world = maker.world();
    send(&mut world, &maker.image("EM-1", 5));
    assert_eq!(verify(&mut world), ActionResult::Success);
    let verified = [Part::Image, Part::Blocks].map(|part| (part, world.keys.kept[&part].clone()));
    send(&mut world, &maker.image("EM-1", 6));
    assert_eq!(activate(&mut world), ActionResult::Success);
    world.keys.kept.extend(verified);
    world.power_cut();
    assert_eq!(status(&mut world), 3);
    assert_eq!((activate(&mut world), status(&mut world)), (ActionResult::OtherReason, 7));
}

#[test]
fn a_transfer_goes_on_after_a_power_cut_wherever_it_comes() {
    let maker = maker();
    let image = maker.image("EM-1", 4);
    let blocks: Vec<(u32, &[u8])> = (0..).zip(image.chunks(512)).collect();
    let mut world = maker.world();
    assert_eq!(initiate(&mut world, image.len()), ActionResult::Success);
    for (number, bytes) in &blocks {
        world.power_cut();
        assert_eq!(status(&mut world), 1);
        assert_eq!(world.number(18, obis(IMAGE), 4), i64::from(*number), "those before it are there");
        assert_eq!(block(&mut world, *number, bytes), ActionResult::Success);
    }
    world.power_cut();
    assert_eq!(verify(&mut world), ActionResult::Success);
    world.power_cut();
    assert_eq!((status(&mut world), activate(&mut world)), (3, ActionResult::Success));
    world.power_cut();
    assert_eq!((status(&mut world), active(&mut world)), (6, b"app 2".to_vec()));
}

#[test]
fn a_torn_block_is_sent_again_and_what_cannot_be_kept_is_not_confirmed() {
    let maker = maker();
    let image = maker.image("EM-1", 4);
    let mut world = maker.world();
    assert_eq!(initiate(&mut world, image.len()), ActionResult::Success);
    assert_eq!(block(&mut world, 0, &image[..512]), ActionResult::Success);
    let whole = world.keys.kept[&Part::Blocks].clone();
    assert_eq!(block(&mut world, 1, &image[512..1_024]), ActionResult::Success);
    let both = world.keys.kept[&Part::Blocks].clone();
    for size in whole.len()..both.len() {
        world.keys.kept.insert(Part::Blocks, both[..size].to_vec());
        world.power_cut();
        assert_eq!(world.number(18, obis(IMAGE), 4), 1, "{size} bytes");
        assert_eq!(world.keys.kept[&Part::Blocks], whole, "the torn end is cut off");
    }
    let mut damaged = both.clone();
    damaged[whole.len() + 20] ^= 1;
    world.keys.kept.insert(Part::Blocks, damaged);
    world.power_cut();
    assert_eq!(world.number(18, obis(IMAGE), 4), 1);
    world.keys.room = Some(0);
    assert_eq!(block(&mut world, 1, &image[512..1_024]), ActionResult::HardwareFault);
    assert_eq!(world.number(18, obis(IMAGE), 4), 1);
    assert_eq!(initiate(&mut world, 5_000), ActionResult::HardwareFault);
    assert_eq!(world.number(18, obis(IMAGE), 4), 1, "the transfer goes on");
    world.keys.room = None;
    send(&mut world, &image);
    world.keys.room = Some(0);
    assert_eq!((verify(&mut world), status(&mut world)), (ActionResult::OtherReason, 1));
    world.keys.room = Some(1);
    assert_eq!((activate(&mut world), status(&mut world)), (ActionResult::OtherReason, 3));
    assert_eq!(active(&mut world), b"application 1");
    world.keys.room = None;
    assert_eq!(activate(&mut world), ActionResult::Success);
}

#[test]
fn sizes_numbers_and_contradictions_are_refused() {
    let mut world = World::new();
    let violated = ActionResult::ScopeOfAccessViolated;
    assert_eq!(initiate(&mut world, 0), violated);
    assert_eq!(initiate(&mut world, 1 << 20), violated, "memory is bounded");
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
