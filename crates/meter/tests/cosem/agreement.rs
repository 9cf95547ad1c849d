//! Key agreement over certificates: what both sides get, and what is refused.

use gridseal_crypto::{Curve, CurvePublic, Key, Rng, RngError, role::Guek};
use gridseal_dlms::{
    acse::Mechanism,
    apdu::result::ActionResult,
    suite::agreement::{Parties, Side, read_key_data},
    wire::Data,
};
use gridseal_meter::cosem::{KeyId, KeyRefusal, Note};
use gridseal_trust::party::Purpose;

use crate::{
    certificates::{Authority, SETUP, import},
    world::{CLIENT, METER, METER_SEED, World, signer},
};

const CLIENT_SEED: u8 = 5;
const PARTIES: Parties = Parties { client: CLIENT, server: METER };

struct Drawn(u8);

impl Rng for Drawn {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
        buffer.fill(self.0);
        Ok(())
    }
}

fn side(curve: Curve, id: u8, seed: u8) -> Side {
    Side::new(id, curve, &mut Drawn(seed)).unwrap()
}

fn entry(id: u8, data: &[u8]) -> Data<'_> {
    Data::Structure(vec![Data::Enum(id), Data::OctetString(data)])
}

/// A meter that believes the client's certificate.
fn world(suite: u8) -> World {
    let mut world = World::suite(suite);
    let curve = Curve::of_suite(suite);
    let mut owner = Authority::new(curve, "owner", 1);
    let root = owner.root();
    let client = owner.party(CLIENT, &signer(curve, CLIENT_SEED), Purpose::Signature);
    assert_eq!(import(&mut world, &root), ActionResult::Success);
    assert_eq!(import(&mut world, &client), ActionResult::Success);
    world.notes();
    world
}

fn answers(bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let Data::Array(entries) = Data::from_bytes(bytes).unwrap() else { panic!() };
    let entry = |entry: &Data<'_>| match entry {
        Data::Structure(fields) => match &fields[..] {
            [Data::Enum(id), Data::OctetString(data)] => (*id, data.to_vec()),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    entries.iter().map(entry).collect()
}

#[test]
fn both_sides_get_the_same_keys() {
    for suite in [1, 2] {
        let (curve, mut world) = (Curve::of_suite(suite), world(suite));
        let client = signer(curve, CLIENT_SEED);
        let sides = [side(curve, 2, 0x51), side(curve, 0, 0x52), side(curve, 3, 0x53)];
        let data: Vec<Vec<u8>> = sides.iter().map(|side| side.key_data(&client).unwrap()).collect();
        let request = sides.iter().zip(&data).map(|(side, data)| entry(side.key_id(), data));
        let answer = world.call(64, SETUP, 3, Data::Array(request.collect())).unwrap();
        let answers = answers(&answer);
        assert_eq!(answers.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [2, 0, 3], "in the order asked");
        let meter = signer(curve, METER_SEED).public();
        for ((side, (id, data)), (at_meter, of_meter)) in sides.iter().zip(&answers).zip(&world.keys.agreed) {
            let point = read_key_data(curve, *id, data, std::slice::from_ref(&meter)).unwrap();
            let key: Key<Guek, 16> = side.key(&point, PARTIES).unwrap();
            assert!(at_meter.number() == *id && bool::from(key.ct_eq(of_meter)));
        }
        assert!(suite == 2 || world.keys.agreed.len() == 3);
        assert_eq!(world.notes(), [Note::KeysReplaced { count: 3 }]);
    }
}

#[test]
fn whatever_is_not_the_clients_own_offer_is_refused_and_nothing_changes() {
    let curve = Curve::P256;
    let mut world = world(1);
    let (client, stranger) = (signer(curve, CLIENT_SEED), signer(curve, 9));
    let good = side(curve, 0, 0x52).key_data(&client).unwrap();
    let (point, signature) = good.split_at(64);
    let mut off_curve = good.clone();
    off_curve[63] ^= 1;
    let static_point = |key: &CurvePublic| {
        let signature = client.sign(&[&[0], key.point()].concat()).unwrap();
        [key.point(), &signature].concat()
    };
    // r || s as SEQUENCE of two INTEGERs.
    let der = [point, &[0x30, 0x44, 0x02, 0x20], &signature[..32], &[0x02, 0x20], &signature[32..]].concat();
    for (data, refusal) in [
        (off_curve, KeyRefusal::Point),
        (vec![0; 128], KeyRefusal::Point),
        (good[..127].to_vec(), KeyRefusal::KeyData),
        (good[..64].to_vec(), KeyRefusal::KeyData),
        (der, KeyRefusal::KeyData),
        (vec![], KeyRefusal::KeyData),
        (side(curve, 0, 0x52).key_data(&stranger).unwrap(), KeyRefusal::Signature),
        (side(curve, 1, 0x52).key_data(&client).unwrap(), KeyRefusal::Signature),
        (static_point(&client.public()), KeyRefusal::Swapped),
        (static_point(&signer(curve, METER_SEED).public()), KeyRefusal::Swapped),
    ] {
        let list = Data::Array(vec![entry(0, &data)]);
        assert_eq!(world.call(64, SETUP, 3, list), Err(ActionResult::OtherReason), "{refusal}");
        assert_eq!(world.notes(), [Note::KeysRefused(refusal)]);
        // One bad key spoils the others.
        let other = side(curve, 2, 0x53).key_data(&client).unwrap();
        let both = Data::Array(vec![entry(2, &other), entry(0, &data)]);
        assert_eq!(world.call(64, SETUP, 3, both), Err(ActionResult::OtherReason));
        world.notes();
    }
    let same_point = side(curve, 2, 0x52).key_data(&client).unwrap();
    for (list, refusal) in [
        (vec![entry(0, &good), entry(0, &good)], KeyRefusal::List),
        (vec![entry(0, &good), entry(2, &same_point)], KeyRefusal::Swapped),
        (vec![], KeyRefusal::List),
    ] {
        assert_eq!(world.call(64, SETUP, 3, Data::Array(list)), Err(ActionResult::OtherReason));
        assert_eq!(world.notes(), [Note::KeysRefused(refusal)]);
    }
    assert!(world.keys.agreed.is_empty());
    world.keys.refusal = Some(KeyRefusal::Store);
    let list = || Data::Array(vec![entry(0, &good)]);
    assert_eq!(world.call(64, SETUP, 3, list()), Err(ActionResult::OtherReason));
    world.keys.refusal = None;
    assert!(world.call(64, SETUP, 3, list()).is_ok());
}

#[test]
fn who_may_agree_is_said_by_certificate_purpose_and_proof() {
    let curve = Curve::P256;
    let client = signer(curve, CLIENT_SEED);
    let good = side(curve, 0, 0x52).key_data(&client).unwrap();
    let agree = |world: &mut World, refusal| {
        let list = Data::Array(vec![entry(0, &good)]);
        assert_eq!(world.call(64, SETUP, 3, list), Err(ActionResult::OtherReason));
        assert_eq!(world.notes(), [Note::KeysRefused(refusal)]);
    };
    let mut nobody = World::suite(1);
    agree(&mut nobody, KeyRefusal::NoCertificate);
    agree(&mut World::new(), KeyRefusal::Suite);
    // The same key, certified for something else.
    let mut owner = Authority::new(curve, "owner", 1);
    let root = owner.root();
    for purpose in [Purpose::Agreement, Purpose::Tls] {
        let mut world = World::suite(1);
        assert_eq!(import(&mut world, &root), ActionResult::Success);
        assert_eq!(import(&mut world, &owner.party(CLIENT, &client, purpose)), ActionResult::Success);
        world.notes();
        agree(&mut world, KeyRefusal::NoCertificate);
    }
    let mut unproven = world(1);
    unproven.context.mechanism = Mechanism::LowLevel;
    agree(&mut unproven, KeyRefusal::Client);
    let mut untitled = world(1);
    untitled.context.client_title = None;
    agree(&mut untitled, KeyRefusal::Client);
    let mut other = world(1);
    other.context.client_title = Some(METER);
    agree(&mut other, KeyRefusal::NoCertificate);
    let mut keyless = world(1);
    keyless.keys.seeds.clear();
    agree(&mut keyless, KeyRefusal::NoPair);
    assert_eq!(KeyId::from_number(4), None);
}
