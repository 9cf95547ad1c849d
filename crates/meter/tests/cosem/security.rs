//! Security setup: keys that arrive, and what is refused.

use gridseal_crypto::Curve;
use gridseal_dlms::{acse::Mechanism, apdu::result::ActionResult, wire::Data};
use gridseal_meter::cosem::{KeyId, KeyRefusal, Note};
use gridseal_trust::party::Purpose;
use gridseal_types::ObisCode;

use crate::world::{CLIENT, World, obis, signer};

const SETUP: ObisCode = ObisCode::new([0, 0, 43, 0, 0, 255]);

fn key(id: u8, wrapped: &[u8]) -> Data<'_> {
    Data::Structure(vec![Data::Enum(id), Data::OctetString(wrapped)])
}

#[test]
fn keys_are_taken_over_all_or_none() {
    let mut world = World::new();
    let list = Data::Array(vec![key(2, &[2; 24]), key(0, &[1; 24])]);
    assert_eq!(world.act(64, SETUP, 2, list.clone()), ActionResult::Success);
    let taken = vec![(KeyId::Unicast, vec![1; 24]), (KeyId::Authentication, vec![2; 24])];
    assert_eq!(world.keys.transfers, [taken]);
    assert!(world.notes().contains(&Note::KeysReplaced { count: 2 }));
    let twice = Data::Array(vec![key(0, &[1; 24]), key(0, &[2; 24])]);
    for wrong in [twice, Data::Array(vec![])] {
        assert_eq!(world.act(64, SETUP, 2, wrong), ActionResult::OtherReason);
    }
    assert_eq!(world.act(64, SETUP, 2, Data::Array(vec![key(4, &[1; 24])])), ActionResult::TypeUnmatched);
    assert_eq!(world.act(64, SETUP, 2, Data::Array(vec![key(0, &[1; 23])])), ActionResult::TypeUnmatched);
    assert_eq!(world.keys.transfers.len(), 1);
    world.keys.refusal = Some(KeyRefusal::Wrapped);
    assert_eq!(world.act(64, SETUP, 2, list), ActionResult::OtherReason);
    assert!(world.notes().contains(&Note::KeysRefused(KeyRefusal::Wrapped)));
}

#[test]
fn certificates_and_agreement_are_refused_in_suite_0() {
    let mut world = World::new();
    let agreement = Data::Array(vec![Data::Structure(vec![Data::Enum(0), Data::OctetString(&[0; 128])])]);
    assert_eq!(world.act(64, SETUP, 3, agreement), ActionResult::OtherReason);
    assert_eq!(world.act(64, SETUP, 4, Data::Enum(0)), ActionResult::OtherReason);
    assert_eq!(world.act(64, SETUP, 5, Data::Enum(0)), ActionResult::OtherReason);
    assert_eq!(world.act(64, SETUP, 6, Data::OctetString(&[0x30])), ActionResult::OtherReason);
    assert_eq!(
        world.act(64, SETUP, 8, crate::certificates::by_serial(&[1], &[])),
        ActionResult::ObjectUnavailable
    );
    assert_eq!(world.get(64, SETUP, 6).unwrap(), [1, 0], "no certificates");
}

#[test]
fn version_0_has_a_policy_of_its_own_form_and_no_agreement() {
    let mut world = World::new();
    let change = gridseal_meter::cosem::ObjectChange {
        class: 64,
        version: Some(0),
        obis: SETUP,
        access: None,
        attributes: [(2, Data::Enum(1).to_bytes())].into(),
    };
    world.device.change(&change).unwrap();
    assert_eq!(world.act(64, SETUP, 1, Data::Enum(3)), ActionResult::Success);
    assert_eq!(world.act(64, SETUP, 1, Data::Enum(2)), ActionResult::ScopeOfAccessViolated);
    assert_eq!(world.act(64, SETUP, 3, Data::Array(vec![])), ActionResult::ObjectUndefined);
    assert_eq!(world.act(64, SETUP, 2, Data::Array(vec![key(0, &[1; 24])])), ActionResult::Success);
}

#[test]
fn a_secret_is_changed_where_the_mechanism_has_one() {
    let association = obis([0, 0, 40, 0, 0, 255]);
    let mut world = World::with(Mechanism::Sha256);
    let secret = || Data::OctetString(&[5; 24]);
    assert_eq!(world.act(15, association, 2, secret()), ActionResult::Success);
    assert_eq!(world.keys.secrets, [vec![5; 24]]);
    assert_eq!(world.act(15, association, 3, Data::Null), ActionResult::TypeUnmatched);
    world.keys.refusal = Some(KeyRefusal::NoMaster);
    assert_eq!(world.act(15, association, 2, secret()), ActionResult::OtherReason);
    let mut world = World::new();
    assert_eq!(
        world.act(15, association, 2, secret()),
        ActionResult::ReadWriteDenied,
        "mechanism 5 has none"
    );
}

#[test]
fn a_raised_policy_survives_a_power_cut_and_is_not_raised_unless_it_is_kept() {
    let mut world = World::new();
    world.keys.room = Some(0);
    assert_eq!(world.act(64, SETUP, 1, Data::Enum(0x6C)), ActionResult::HardwareFault);
    assert_eq!(world.number(64, SETUP, 2), 0x24);
    world.keys.room = None;
    assert_eq!(world.act(64, SETUP, 1, Data::Enum(0x6C)), ActionResult::Success);
    world.power_cut();
    assert_eq!(world.number(64, SETUP, 2), 0x6C);
}

#[test]
fn signatures_are_demanded_once_both_sides_have_keys_for_them() {
    let mut world = World::new();
    assert_eq!(world.act(64, SETUP, 1, Data::Enum(0x34)), ActionResult::OtherReason, "suite 0");
    let mut world = World::suite(1);
    assert_eq!(world.act(64, SETUP, 1, Data::Enum(0x34)), ActionResult::OtherReason, "no key of the client");
    assert_eq!(world.act(64, SETUP, 1, Data::Enum(0xA4)), ActionResult::Success, "responses");
    assert_eq!(world.device.signatures(), (false, true));
    let mut owner = crate::certificates::Authority::new(Curve::P256, "owner", 1);
    let client = owner.party(CLIENT, &signer(Curve::P256, 5), Purpose::Signature);
    for der in [owner.root(), client] {
        assert_eq!(crate::certificates::import(&mut world, &der), ActionResult::Success);
    }
    assert_eq!(world.act(64, SETUP, 1, Data::Enum(0xB4)), ActionResult::Success);
    assert_eq!(world.device.signatures(), (true, true));
    assert_eq!(world.act(64, SETUP, 1, Data::Enum(0xFC)), ActionResult::ReadWriteDenied, "not signed");
    world.context.is_signed = true;
    assert_eq!(world.act(64, SETUP, 1, Data::Enum(0xFF)), ActionResult::OtherReason);
    assert_eq!(world.act(64, SETUP, 1, Data::Enum(0xFC)), ActionResult::Success);
}
