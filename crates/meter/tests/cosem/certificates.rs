//! Certificates and key pairs: the way of an owner's certificates into a meter, and everything that is refused.

use gridseal_crypto::{Curve, CurveSigner};
use gridseal_dlms::{acse::Mechanism, apdu::result::ActionResult, assoc::Protection, wire::Data};
use gridseal_meter::cosem::{CertificateRefusal, Note, RestoreError, Saved};
use gridseal_trust::party::{Draft, Fault, Purpose, Role, Subject, assemble, parse_csr};
use gridseal_types::{ObisCode, SystemTitle, UtcTime};

use crate::world::{CLIENT, CLOCK, METER, START, World, signer, written};

pub(crate) const SETUP: ObisCode = ObisCode::new([0, 0, 43, 0, 0, 255]);
const DAY: u64 = 86_400;

/// An authority with its key.
pub(crate) struct Authority {
    name: &'static str,
    curve: Curve,
    seed: u8,
    serial: u8,
}

impl Authority {
    pub(crate) fn new(curve: Curve, name: &'static str, seed: u8) -> Self {
        Self { name, curve, seed, serial: 0 }
    }

    /// Certificate of a key, valid for a day around `at`.
    pub(crate) fn issue(&mut self, subject: &Subject, key: &CurveSigner, role: Role, at: UtcTime) -> Vec<u8> {
        self.serial += 1;
        let own = signer(self.curve, self.seed);
        let (issuer_key, key) = (own.public(), key.public());
        let draft = Draft {
            serial: &[self.serial],
            issuer: &Subject::Authority(self.name.into()).name(),
            issuer_key: &issuer_key,
            subject,
            validity: (UtcTime(at.0 - DAY), UtcTime(at.0 + DAY)),
            key: &key,
            role,
        };
        let body = draft.to_be_signed();
        assemble(&body, issuer_key.curve(), &own.sign(&body).unwrap())
    }

    pub(crate) fn root(&mut self) -> Vec<u8> {
        self.root_at(START)
    }

    fn root_at(&mut self, at: UtcTime) -> Vec<u8> {
        let key = signer(self.curve, self.seed);
        self.issue(&Subject::Authority(self.name.into()), &key, Role::Authority(None), at)
    }

    /// Certificate of a party.
    pub(crate) fn party(&mut self, title: SystemTitle, key: &CurveSigner, purpose: Purpose) -> Vec<u8> {
        self.issue(&Subject::Party(title), key, Role::Party(purpose), START)
    }
}

pub(crate) fn import(world: &mut World, der: &[u8]) -> ActionResult {
    world.act(64, SETUP, 6, Data::OctetString(der))
}

pub(crate) fn by_serial<'a>(serial: &'a [u8], issuer: &'a [u8]) -> Data<'a> {
    let named = Data::Structure(vec![Data::OctetString(serial), Data::OctetString(issuer)]);
    Data::Structure(vec![Data::Enum(1), named])
}

fn by_entity(entity: u8, kind: u8, title: &[u8]) -> Data<'_> {
    let named = Data::Structure(vec![Data::Enum(entity), Data::Enum(kind), Data::OctetString(title)]);
    Data::Structure(vec![Data::Enum(0), named])
}

fn octets(value: &[u8]) -> Vec<u8> {
    match Data::from_bytes(value).unwrap() {
        Data::OctetString(bytes) => bytes.to_vec(),
        other => panic!("{other:?}"),
    }
}

/// A meter of suite 1, and the authority that it believes.
fn owned() -> (World, Authority) {
    let (mut world, mut owner) = (World::suite(1), Authority::new(Curve::P256, "owner", 1));
    let root = owner.root();
    assert_eq!(import(&mut world, &root), ActionResult::Success);
    (world, owner)
}

fn refused(world: &mut World) -> Vec<CertificateRefusal> {
    let notes = world.notes().into_iter();
    notes
        .filter_map(|note| if let Note::CertificateRefused(refusal) = note { Some(refusal) } else { None })
        .collect()
}

/// Entity, type and serial of each certificate.
fn list(world: &mut World) -> Vec<(u8, u8, Vec<u8>)> {
    let bytes = world.get(64, SETUP, 6).unwrap();
    let Data::Array(entries) = Data::from_bytes(&bytes).unwrap() else { panic!() };
    let entry = |entry: &Data<'_>| match entry {
        Data::Structure(fields) => match &fields[..] {
            [Data::Enum(entity), Data::Enum(kind), Data::OctetString(serial), _, _, _] => {
                (*entity, *kind, serial.to_vec())
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    entries.iter().map(entry).collect()
}

#[test]
fn a_meter_gets_certificates_for_pairs_of_its_own_and_shows_what_it_has() {
    for suite in [1, 2] {
        let curve = Curve::of_suite(suite);
        let mut world = World::suite(suite);
        let mut owner = Authority::new(curve, "owner", 1);
        let root = owner.root();
        assert_eq!(import(&mut world, &root), ActionResult::Success);
        for purpose in Purpose::ALL {
            let kind = purpose.number();
            assert_eq!(world.act(64, SETUP, 4, Data::Enum(kind)), ActionResult::Success);
            let request = octets(&world.call(64, SETUP, 5, Data::Enum(kind)).unwrap());
            let (title, key) = parse_csr(&request).unwrap();
            assert_eq!((title, key.curve()), (METER, curve));
            let before = world.keys.seeds[&purpose];
            let pair = signer(curve, before.1.unwrap());
            assert_eq!(pair.public(), key, "the pair that waits");
            let certificate = owner.party(METER, &pair, purpose);
            assert_eq!(import(&mut world, &certificate), ActionResult::Success);
            assert_eq!(world.keys.seeds[&purpose], (before.1, None), "in use now");
            assert_eq!(import(&mut world, &certificate), ActionResult::Success, "once more changes nothing");
            let shown = world.call(64, SETUP, 7, by_entity(0, kind, METER.as_bytes())).unwrap();
            assert_eq!(octets(&shown), certificate);
        }
        let client = signer(curve, 5);
        let certificate = owner.party(CLIENT, &client, Purpose::Signature);
        assert_eq!(import(&mut world, &certificate), ActionResult::Success);
        let of = |entity, kind, serial| (entity, kind, vec![serial]);
        assert_eq!(list(&mut world), [of(2, 3, 1), of(0, 0, 2), of(0, 1, 3), of(0, 2, 4), of(1, 0, 5)]);
        assert!(world.keys.believed.contains(&(Purpose::Signature, CLIENT, client.public())));
        let issuer = Subject::Authority("owner".into()).name();
        assert_eq!(octets(&world.call(64, SETUP, 7, by_serial(&[5], &issuer)).unwrap()), certificate);
        let notes: Vec<&str> = world.notes().iter().map(Note::name).collect();
        let taken = ["key-pair-made", "certificate-taken"].repeat(3);
        assert_eq!(notes, [&["anchor-taken"], &taken[..], &["certificate-taken"]].concat());

        world.power_cut();
        assert_eq!(list(&mut world).len(), 5);
        assert!(world.keys.believed.contains(&(Purpose::Signature, CLIENT, client.public())));
        assert_eq!(world.act(64, SETUP, 8, by_entity(2, 3, &[])), ActionResult::Success);
        assert_eq!(world.keys.believed, [], "without their anchor nobody is believed");
        assert_eq!(world.act(64, SETUP, 8, by_serial(&[5], &issuer)), ActionResult::Success);
        assert_eq!(world.act(64, SETUP, 8, by_serial(&[5], &issuer)), ActionResult::ObjectUnavailable);
        world.power_cut();
        assert_eq!(list(&mut world).len(), 3);
    }
}

#[test]
fn whatever_cannot_be_believed_is_refused_and_changes_nothing() {
    let curve = Curve::P256;
    let mut world = World::suite(1);
    let (mut owner, mut stranger) = (Authority::new(curve, "owner", 1), Authority::new(curve, "stranger", 2));
    let (client, other) = (signer(curve, 5), signer(curve, 6));
    let root = owner.root();
    let good = owner.party(CLIENT, &client, Purpose::Signature);
    assert_eq!(import(&mut world, &good), ActionResult::OtherReason, "before its anchor");
    assert_eq!(refused(&mut world), [Fault::NoPath.into()]);
    assert_eq!(import(&mut world, &root), ActionResult::Success);
    assert_eq!(import(&mut world, &good), ActionResult::Success);
    let waiting = |world: &mut World| {
        assert_eq!(world.act(64, SETUP, 4, Data::Enum(0)), ActionResult::Success);
        signer(curve, world.keys.seeds[&Purpose::Signature].1.unwrap())
    };
    let (list_before, pair) = (list(&mut world), waiting(&mut world));
    world.notes();
    let mut namesake = Authority::new(curve, "owner", 3);
    namesake.serial = 100;
    let over = owner.issue(
        &Subject::Party(CLIENT),
        &other,
        Role::Party(Purpose::Signature),
        UtcTime(START.0 - 9 * DAY),
    );
    let early = owner.issue(
        &Subject::Party(CLIENT),
        &other,
        Role::Party(Purpose::Signature),
        UtcTime(START.0 + 9 * DAY),
    );
    let mut big = Authority::new(Curve::P384, "owner", 1);
    big.serial = 50;
    let mut changed = owner.party(CLIENT, &other, Purpose::Signature);
    *changed.last_mut().unwrap() ^= 1;
    owner.serial = 1;
    let same_serial = owner.party(CLIENT, &other, Purpose::Tls);
    owner.serial = 60;
    let nameless = Subject::Authority("client".into());
    for (der, refusal) in [
        (vec![0x30; 65_535], Fault::Size.into()),
        (vec![0x30, 0], Fault::Format.into()),
        (stranger.party(CLIENT, &other, Purpose::Signature), Fault::NoPath.into()),
        (namesake.party(CLIENT, &other, Purpose::Signature), Fault::Signature.into()),
        (over, Fault::Expired.into()),
        (early, Fault::NotYet.into()),
        (big.party(CLIENT, &signer(Curve::P384, 9), Purpose::Signature), Fault::Curve.into()),
        (owner.issue(&nameless, &other, Role::Party(Purpose::Signature), START), Fault::Subject.into()),
        (owner.party(CLIENT, &client, Purpose::Agreement), CertificateRefusal::KeyReused),
        (
            owner.party(SystemTitle(*b"OTHER\0\0\x01"), &client, Purpose::Signature),
            CertificateRefusal::KeyReused,
        ),
        (owner.party(CLIENT, &pair, Purpose::Signature), CertificateRefusal::KeyReused),
        (owner.party(METER, &other, Purpose::Signature), CertificateRefusal::OtherKey),
        (owner.party(METER, &pair, Purpose::Tls), CertificateRefusal::OtherKey),
        (same_serial, CertificateRefusal::Duplicate),
        (stranger.root_at(UtcTime(START.0 - 9 * DAY)), Fault::Expired.into()),
    ] {
        assert_eq!(import(&mut world, &der), ActionResult::OtherReason, "{refusal}");
        assert_eq!(refused(&mut world), [refusal]);
    }
    assert_eq!(import(&mut world, &changed), ActionResult::OtherReason);
    assert_eq!(refused(&mut world).len(), 1);
    assert_eq!(list(&mut world), list_before);
    world.power_cut();
    assert_eq!(list(&mut world), list_before);
}

#[test]
fn only_a_client_that_has_proven_who_it_is_brings_or_removes_certificates() {
    let mut owner = Authority::new(Curve::P256, "owner", 1);
    let root = owner.root();
    for (mechanism, protection) in [
        (Mechanism::None, Protection::AuthenticatedEncrypted),
        (Mechanism::LowLevel, Protection::AuthenticatedEncrypted),
        (Mechanism::Md5, Protection::AuthenticatedEncrypted),
    ] {
        let mut world = World::suite(1);
        (world.context.mechanism, world.context.protection) = (mechanism, protection);
        assert_eq!(import(&mut world, &root), ActionResult::ReadWriteDenied);
        assert_eq!(world.act(64, SETUP, 4, Data::Enum(0)), ActionResult::ReadWriteDenied);
        assert_eq!(world.act(64, SETUP, 8, by_serial(&[1], &[])), ActionResult::ReadWriteDenied);
        assert_eq!(refused(&mut world), [CertificateRefusal::Client; 3]);
    }
}

#[test]
fn pairs_and_requests_need_a_suite_a_purpose_and_a_pair() {
    let mut world = World::suite(1);
    assert_eq!(world.call(64, SETUP, 5, Data::Enum(1)), Err(ActionResult::OtherReason), "no such pair");
    assert_eq!(world.act(64, SETUP, 4, Data::Enum(3)), ActionResult::OtherReason, "other");
    assert_eq!(world.act(64, SETUP, 4, Data::Enum(4)), ActionResult::TypeUnmatched);
    assert!(world.call(64, SETUP, 5, Data::Enum(0)).is_ok(), "the pair in use can ask for a new certificate");
    assert_eq!(world.call(64, SETUP, 7, by_serial(&[1], &[])), Err(ActionResult::ObjectUnavailable));
}

#[test]
fn no_more_certificates_are_kept_than_there_is_room_for_and_none_that_is_not_durable() {
    let curve = Curve::P256;
    let mut world = World::suite(1);
    let mut owner = Authority::new(curve, "owner", 1);
    let root = owner.root();
    world.keys.room = Some(0);
    assert_eq!(import(&mut world, &root), ActionResult::OtherReason);
    assert_eq!((refused(&mut world), list(&mut world)), (vec![CertificateRefusal::Store], vec![]));
    world.keys.room = None;
    assert_eq!(import(&mut world, &root), ActionResult::Success);
    for seed in 1..=31 {
        let title = SystemTitle([seed; 8]);
        let certificate = owner.party(title, &signer(curve, 0x40 + seed), Purpose::Signature);
        assert_eq!(import(&mut world, &certificate), ActionResult::Success);
    }
    let one_more = owner.party(CLIENT, &signer(curve, 0x70), Purpose::Signature);
    assert_eq!(import(&mut world, &one_more), ActionResult::OtherReason);
    assert_eq!(refused(&mut world), [CertificateRefusal::Full]);
    world.keys.room = Some(0);
    let issuer = Subject::Authority("owner".into()).name();
    assert_eq!(world.act(64, SETUP, 8, by_serial(&[1], &issuer)), ActionResult::OtherReason);
    assert_eq!(list(&mut world).len(), 32);
}

//= design S14: a clock is trusted once somebody who proved to be allowed to has set it
#[test]
fn s14_a_certificate_is_over_by_a_trusted_clock_and_stays_so() {
    let curve = Curve::P256;
    let mut world = World::suite(1);
    let mut owner = Authority::new(curve, "owner", 1);
    let root = owner.root();
    let certificate = owner.party(CLIENT, &signer(curve, 5), Purpose::Signature);
    world.power_cut();
    assert_eq!(import(&mut world, &root), ActionResult::Success);
    assert_eq!(import(&mut world, &certificate), ActionResult::Success);
    assert_eq!(world.keys.believed.len(), 1);
    let late = UtcTime(START.0 + 9 * DAY);
    let set = |world: &mut World, at| world.set(8, CLOCK, 2, &Data::OctetString(&written(at))).number();
    // Whoever has not proven anything moves the clock, and no decision.
    world.context.mechanism = Mechanism::LowLevel;
    assert_eq!(set(&mut world, late), 0);
    assert_eq!(world.keys.believed.len(), 1);
    world.context.mechanism = Mechanism::Gmac;
    assert_eq!(set(&mut world, late), 0);
    assert_eq!(world.keys.believed, []);
    // The clock is lost with power, not what it had shown.
    world.power_cut();
    assert_eq!(world.keys.believed, []);
    let again = owner.party(CLIENT, &signer(curve, 6), Purpose::Signature);
    assert_eq!(import(&mut world, &again), ActionResult::OtherReason);
    assert_eq!(refused(&mut world), [Fault::Expired.into()]);
}

//= design S14: a certificate ends by a trusted clock, whoever sets it or not, and what it has replaced does not come back
#[test]
fn s14_a_certificate_ends_while_time_passes_and_leaves_no_way_back_to_the_configured_key() {
    let mut world = World::suite(1);
    let mut owner = Authority::new(Curve::P256, "owner", 1);
    let root = owner.root();
    let certificate = owner.party(CLIENT, &signer(Curve::P256, 5), Purpose::Signature);
    assert_eq!(import(&mut world, &root), ActionResult::Success);
    assert_eq!(import(&mut world, &certificate), ActionResult::Success);
    let clock = Data::OctetString(&written(START));
    assert_eq!(world.set(8, CLOCK, 2, &clock).number(), 0);
    assert_eq!(world.keys.believed.len(), 1);
    let client = [(Purpose::Signature, CLIENT)];
    assert_eq!(world.keys.certified, client);
    world.device.tick(UtcTime(START.0 + DAY - 60), &mut world.keys);
    assert_eq!(world.keys.believed.len(), 1, "not before its end");
    world.device.tick(UtcTime(START.0 + DAY + 60), &mut world.keys);
    assert_eq!(world.keys.believed, [], "nobody has set the clock");
    assert_eq!(world.keys.certified, client, "only another certificate opens it again");
}

//= design S14: by a clock that nobody has set no key takes the place of another
#[test]
fn s14_an_expired_certificate_takes_the_place_of_no_key_while_the_clock_is_not_set() {
    let curve = Curve::P256;
    for is_configured in [false, true] {
        let mut world = World::suite(1);
        let mut owner = Authority::new(curve, "owner", 1);
        let root = owner.root();
        let good = owner.party(CLIENT, &signer(curve, 5), Purpose::Signature);
        let late = UtcTime(START.0 - 9 * DAY);
        let subject = Subject::Party(CLIENT);
        let expired = owner.issue(&subject, &signer(curve, 6), Role::Party(Purpose::Signature), late);
        world.power_cut();
        assert_eq!(import(&mut world, &root), ActionResult::Success);
        if is_configured {
            let key = signer(curve, 5).public();
            world.keys.configured = Some((Purpose::Signature, CLIENT, key));
        } else {
            assert_eq!(import(&mut world, &good), ActionResult::Success);
        }
        let before = world.keys.believed.clone();
        assert_eq!(import(&mut world, &expired), ActionResult::OtherReason);
        assert_eq!(refused(&mut world), [CertificateRefusal::Clock]);
        if !is_configured {
            // Nor with an older key that is believed still, and used no more.
            let clock = Data::OctetString(&written(START));
            assert_eq!(world.set(8, CLOCK, 2, &clock).number(), 0);
            let second = owner.party(CLIENT, &signer(curve, 8), Purpose::Signature);
            assert_eq!(import(&mut world, &second), ActionResult::Success);
            world.power_cut();
            let first_again = owner.party(CLIENT, &signer(curve, 5), Purpose::Signature);
            assert_eq!(import(&mut world, &first_again), ActionResult::OtherReason);
            assert_eq!(refused(&mut world), [CertificateRefusal::Clock]);
            assert_eq!(world.keys.believed[0].2, signer(curve, 8).public());
            continue;
        }
        assert_eq!(world.keys.believed, before);
        assert_eq!(import(&mut world, &good), ActionResult::Success, "its own key");
        // Whoever may sets the clock first: what has expired is told, and what has not takes the place.
        let clock = Data::OctetString(&written(START));
        assert_eq!(world.set(8, CLOCK, 2, &clock).number(), 0);
        assert_eq!(import(&mut world, &expired), ActionResult::OtherReason);
        assert_eq!(refused(&mut world), [Fault::Expired.into()]);
        let renewed = owner.party(CLIENT, &signer(curve, 7), Purpose::Signature);
        assert_eq!(import(&mut world, &renewed), ActionResult::Success);
        assert_eq!(world.keys.believed[0].2, signer(curve, 7).public());
    }
}

//= design S14: a clock is trusted once somebody who proved to be allowed to has set it
#[test]
fn s14_a_clock_that_a_script_a_preset_or_a_shift_has_moved_ends_no_certificate() {
    const SCRIPTS: ObisCode = ObisCode::new([0, 0, 10, 0, 100, 255]);
    let curve = Curve::P256;
    let late = written(UtcTime(START.0 + 9 * DAY));
    let early = written(UtcTime(START.0 - DAY / 2));
    let mut world = World::suite(1);
    let mut owner = Authority::new(curve, "owner", 1);
    let root = owner.root();
    let certificate = owner.party(CLIENT, &signer(curve, 5), Purpose::Signature);
    assert_eq!(import(&mut world, &root), ActionResult::Success);
    assert_eq!(import(&mut world, &certificate), ActionResult::Success);
    let set = |world: &mut World, at: &[u8]| world.set(8, CLOCK, 2, &Data::OctetString(at)).number();
    // A script that a client has written who has not proven anything, and that one who has runs.
    let set_clock = Data::Structure(vec![
        Data::Enum(1),
        Data::LongUnsigned(8),
        Data::OctetString(CLOCK.groups()),
        Data::Integer(2),
        Data::OctetString(&late),
    ]);
    let script = Data::Structure(vec![Data::LongUnsigned(1), Data::Array(vec![set_clock])]);
    world.context.mechanism = Mechanism::LowLevel;
    assert_eq!(world.set(9, SCRIPTS, 2, &Data::Array(vec![script])).number(), 0);
    let preset = [&late, &early, &late].map(|at| Data::OctetString(at));
    assert_eq!(world.act(8, CLOCK, 5, Data::Structure(preset.to_vec())), ActionResult::Success);
    world.context.mechanism = Mechanism::Gmac;
    let preset_by_another = (8, CLOCK, 4, Data::Integer(0));
    for (class, obis, method, value) in [preset_by_another, (9, SCRIPTS, 1, Data::LongUnsigned(1))] {
        assert_eq!(set(&mut world, &written(START)), 0);
        assert_eq!(world.act(class, obis, method, value), ActionResult::Success);
        assert_eq!(world.device.now().0, START.0 + 9 * DAY);
        assert_eq!(world.keys.believed.len(), 1, "class {class}");
        // A shift makes no time of it that can be relied on.
        assert_eq!(world.act(8, CLOCK, 6, Data::Long(1)), ActionResult::Success);
        assert_eq!(world.keys.believed.len(), 1, "class {class}");
    }
    // A clock that can be relied on and is shifted by somebody who may stays so; a preset time alone moves nothing.
    assert_eq!(set(&mut world, &written(UtcTime(START.0 + DAY - 10))), 0);
    let preset = [&early, &early, &early].map(|at| Data::OctetString(at));
    assert_eq!(world.act(8, CLOCK, 5, Data::Structure(preset.to_vec())), ActionResult::Success);
    assert_eq!(world.keys.believed.len(), 1);
    assert_eq!(world.act(8, CLOCK, 6, Data::Long(20)), ActionResult::Success);
    assert_eq!(world.keys.believed, []);
}

//= design S14: a clock is trusted once somebody who proved to be allowed to has set it
#[test]
fn s14_a_preset_time_decides_when_both_who_gave_it_and_who_sets_it_may() {
    let late = written(UtcTime(START.0 + 9 * DAY));
    let early = written(UtcTime(START.0 - DAY / 2));
    let preset = [&late, &early, &late].map(|at| Data::OctetString(at));
    for (gives, sets, decides) in [
        (Mechanism::Gmac, Mechanism::Gmac, true),
        (Mechanism::Gmac, Mechanism::LowLevel, false),
        (Mechanism::LowLevel, Mechanism::Gmac, false),
    ] {
        let mut world = World::suite(1);
        let mut owner = Authority::new(Curve::P256, "owner", 1);
        let root = owner.root();
        let certificate = owner.party(CLIENT, &signer(Curve::P256, 5), Purpose::Signature);
        assert_eq!(import(&mut world, &root), ActionResult::Success);
        assert_eq!(import(&mut world, &certificate), ActionResult::Success);
        world.context.mechanism = gives;
        assert_eq!(world.act(8, CLOCK, 5, Data::Structure(preset.to_vec())), ActionResult::Success);
        world.context.mechanism = sets;
        assert_eq!(world.act(8, CLOCK, 4, Data::Integer(0)), ActionResult::Success);
        assert_eq!(world.device.now().0, START.0 + 9 * DAY);
        assert_eq!(world.keys.believed.is_empty(), decides, "{gives:?} {sets:?}");
    }
    // Whoever has proven nothing moves a clock that could be relied on, and no decision.
    let (mut world, mut owner) = owned();
    assert_eq!(world.set(8, CLOCK, 2, &Data::OctetString(&written(UtcTime(START.0 + DAY - 10)))).number(), 0);
    let certificate = owner.party(CLIENT, &signer(Curve::P256, 5), Purpose::Signature);
    assert_eq!(import(&mut world, &certificate), ActionResult::Success);
    world.context.mechanism = Mechanism::LowLevel;
    assert_eq!(world.act(8, CLOCK, 6, Data::Long(20)), ActionResult::Success);
    assert_eq!(world.keys.believed.len(), 1);
}

//= design S14: what a trusted clock has shown is not forgotten when somebody else sets it back
#[test]
fn s14_what_has_ended_by_a_trusted_clock_does_not_begin_again_when_somebody_sets_it_back() {
    let curve = Curve::P256;
    let (mut world, mut owner) = owned();
    // Time passes, and nothing that is there begins or ends by it.
    world.device.tick(UtcTime(START.0 + DAY / 2), &mut world.keys);
    world.context.mechanism = Mechanism::LowLevel;
    assert_eq!(world.set(8, CLOCK, 2, &Data::OctetString(&written(START))).number(), 0);
    world.context.mechanism = Mechanism::Gmac;
    let over = UtcTime(START.0 + DAY / 4 - DAY);
    let subject = Subject::Party(CLIENT);
    let over = owner.issue(&subject, &signer(curve, 6), Role::Party(Purpose::Signature), over);
    assert_eq!(import(&mut world, &over), ActionResult::OtherReason);
    assert_eq!(refused(&mut world), [Fault::Expired.into()]);
}

#[test]
fn power_may_go_between_a_certificate_and_the_use_of_its_pair() {
    let curve = Curve::P256;
    let (mut world, mut owner) = owned();
    assert_eq!(world.act(64, SETUP, 4, Data::Enum(0)), ActionResult::Success);
    let before = world.keys.seeds[&Purpose::Signature];
    let certificate = owner.party(METER, &signer(curve, before.1.unwrap()), Purpose::Signature);
    assert_eq!(import(&mut world, &certificate), ActionResult::Success);
    world.keys.seeds.insert(Purpose::Signature, before);
    world.power_cut();
    assert_eq!(world.keys.seeds[&Purpose::Signature], (before.1, None));
}

#[test]
fn a_damaged_record_is_no_reason_to_begin_again() {
    let mut world = World::suite(1);
    let saved = |setup: &[u8], image: Option<&[u8]>| Saved {
        setup: Some(setup.to_vec()),
        image: image.map(<[u8]>::to_vec),
        blocks: None,
    };
    for setup in [&[][..], &[0x80], &[0x85, 9, 0, 0, 0x80, 0xF6]] {
        assert_eq!(world.device.restore(&saved(setup, None), &mut world.keys), Err(RestoreError::Setup));
    }
    let empty = Saved { image: Some(vec![0x84]), ..Saved::default() };
    assert_eq!(world.device.restore(&empty, &mut world.keys), Err(RestoreError::Image));
}
