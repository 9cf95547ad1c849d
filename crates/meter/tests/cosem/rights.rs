//! Who may do what, and how each client learns it.

use gridseal_dlms::{
    acse::Mechanism,
    apdu::result::{ActionResult, DataAccessResult},
    assoc::Protection,
    wire::Data,
};
use gridseal_meter::cosem::{Note, ObjectChange, ObjectError, Rights};
use gridseal_types::ObisCode;

use crate::world::{ALL, CLOCK, IMPORT, MANAGEMENT, PUBLIC, READER, World, obis};

const ASSOCIATION: ObisCode = ObisCode::new([0, 0, 40, 0, 0, 255]);
const NAME: ObisCode = ObisCode::new([0, 0, 42, 0, 0, 255]);

/// Class, name, attribute modes, method modes.
type Entry = (i64, Vec<u8>, Vec<u8>, Vec<u8>);

fn object_list(world: &mut World) -> Vec<Entry> {
    let bytes = world.get(15, ASSOCIATION, 2).unwrap();
    let Data::Array(entries) = Data::from_bytes(&bytes).unwrap() else { panic!() };
    let modes = |list: &Data<'_>| {
        let Data::Array(list) = list else { panic!() };
        list.iter()
            .map(|entry| match entry {
                Data::Structure(parts) => match parts[1] {
                    Data::Enum(mode) => mode,
                    _ => panic!(),
                },
                _ => panic!(),
            })
            .collect()
    };
    entries
        .iter()
        .map(|entry| {
            let Data::Structure(parts) = entry else { panic!() };
            let (Data::LongUnsigned(class), Data::OctetString(name)) = (&parts[0], &parts[2]) else {
                panic!()
            };
            let Data::Structure(access) = &parts[3] else { panic!() };
            (i64::from(*class), name.to_vec(), modes(&access[0]), modes(&access[1]))
        })
        .collect()
}

#[test]
fn each_client_sees_its_objects_with_its_rights_and_no_others() {
    let mut world = World::new();
    let all = object_list(&mut world);
    assert!(all.len() > 60);
    let clock = all.iter().find(|(class, ..)| *class == 8).unwrap();
    assert_eq!((&clock.2[..3], &clock.3[..]), (&[1, 3, 3][..], &[1; 6][..]));
    let association = all.iter().find(|(class, ..)| *class == 15).unwrap();
    assert_eq!((association.2[6], &association.3[2..]), (0, &[0; 2][..]), "a secret comes wrapped: method 2");
    let register = all.iter().find(|(class, ..)| *class == 3).unwrap();
    assert_eq!(register.3[0], 0, "nobody resets what was measured");
    let low = object_list(&mut World::with(Mechanism::LowLevel));
    let association = low.iter().find(|(class, ..)| *class == 15).unwrap();
    assert_eq!(association.2[6], 2, "a password is written and never read");
    let mut world = world.by(READER);
    let read = object_list(&mut world);
    assert_eq!(read.len(), all.len());
    assert!(read.iter().all(|(_, _, modes, methods)| modes.iter().chain(methods).all(|mode| *mode < 2)));
    let mut world = world.by(PUBLIC);
    let public = object_list(&mut world);
    assert_eq!(public.len(), 6, "clock, name, access points, association, two counters");
}

#[test]
fn what_the_list_says_is_what_happens() {
    for client in [MANAGEMENT, READER, PUBLIC] {
        let mut world = World::new().by(client);
        for (class, name, modes, _) in object_list(&mut world) {
            let obis = ObisCode::new(name.try_into().unwrap());
            for (attribute, mode) in (1i8..).zip(modes) {
                let class = u16::try_from(class).unwrap();
                let value = world.get(class, obis, attribute);
                assert_eq!(value.is_ok(), mode & 1 == 1, "{client} {obis} {attribute} {value:?}");
                let refused = world.set(class, obis, attribute, &Data::DontCare);
                assert_eq!(refused == DataAccessResult::ReadWriteDenied, mode & 2 == 0, "{obis} {attribute}");
            }
        }
    }
}

#[test]
fn everybody_may_know_who_the_meter_is_and_what_it_has_heard() {
    let mut world = World::new().by(PUBLIC);
    assert_eq!(world.get(1, NAME, 2).unwrap()[2..], *b"MMM0000BC614E");
    assert!(world.get(8, CLOCK, 2).is_ok());
    assert_eq!(world.number(1, obis([0, 0, 43, 1, 0, 255]), 2), 0);
    world.keys.received.insert(0, 4_711);
    assert_eq!(world.number(1, obis([0, 0, 43, 1, 0, 255]), 2), 4_711);
    assert_eq!(world.get(3, IMPORT, 2), Err(DataAccessResult::ObjectUndefined));
    assert_eq!(world.act(8, CLOCK, 6, Data::Long(1)), ActionResult::ReadWriteDenied);
    assert_eq!(world.set(8, CLOCK, 3, &Data::Long(1)), DataAccessResult::ReadWriteDenied);
    let denied = world.notes().into_iter().filter(|note| matches!(note, Note::Denied { .. })).count();
    assert_eq!(denied, 2);
}

#[test]
fn names_classes_and_attributes_that_are_not_there_are_told_apart() {
    let mut world = World::new();
    assert_eq!(world.get(3, obis([9; 6]), 2), Err(DataAccessResult::ObjectUndefined));
    assert_eq!(world.get(4, IMPORT, 2), Err(DataAccessResult::ObjectClassInconsistent));
    assert_eq!(world.get(3, IMPORT, 4), Err(DataAccessResult::ObjectUndefined));
    assert_eq!(world.get(3, IMPORT, 0), Err(DataAccessResult::ObjectUndefined));
    assert_eq!(world.act(3, IMPORT, 2, Data::Integer(0)), ActionResult::ObjectUndefined);
    assert_eq!(world.act(8, CLOCK, 6, Data::Integer(0)), ActionResult::TypeUnmatched);
    assert_eq!(world.set(8, CLOCK, 3, &Data::Unsigned(0)), DataAccessResult::TypeUnmatched);
    let mut world = world.by(ALL);
    assert_eq!(world.get(3, IMPORT, 2), Err(DataAccessResult::ReadWriteDenied), "who invokes need not read");
    let mut world = world.by(99);
    assert_eq!(world.get(8, CLOCK, 2), Err(DataAccessResult::ReadWriteDenied), "nobody's access point");
}

#[test]
fn an_association_tells_about_itself_and_the_others() {
    let mut world = World::new().by(READER);
    let partners = world.get(15, ASSOCIATION, 3).unwrap();
    assert_eq!(partners, [2, 2, 0x0F, 2, 0x12, 0, 1]);
    assert_eq!(world.get(15, ASSOCIATION, 4).unwrap()[2..], [0x60, 0x85, 0x74, 5, 8, 1, 3]);
    assert_eq!(world.get(15, ASSOCIATION, 6).unwrap()[2..], [0x60, 0x85, 0x74, 5, 8, 2, 5]);
    assert_eq!(world.number(15, ASSOCIATION, 8), 2);
    assert_eq!(world.get(15, ASSOCIATION, 7), Err(DataAccessResult::ReadWriteDenied));
    let public = obis([0, 0, 40, 0, 2, 255]);
    assert_eq!(world.number(15, public, 8), 0);
    world.device.associated(PUBLIC, true);
    assert_eq!(world.number(15, public, 8), 2);
    world.device.associated(PUBLIC, false);
    assert_eq!(world.number(15, public, 8), 0);
    assert_eq!(world.get(15, public, 4).unwrap()[8], 1, "not ciphered");
}

#[test]
fn the_policy_binds_associations_that_are_open() {
    let mut world = World::new();
    world.context.protection = Protection::Authenticated;
    assert!(world.get(3, IMPORT, 2).is_ok());
    world.context.protection = Protection::AuthenticatedEncrypted;
    let setup = obis([0, 0, 43, 0, 0, 255]);
    // Authenticated and encrypted, both ways.
    assert_eq!(world.act(64, setup, 1, Data::Enum(0x6C)), ActionResult::Success);
    assert_eq!(
        world.device.policy(),
        (Protection::AuthenticatedEncrypted, Protection::AuthenticatedEncrypted)
    );
    world.context.protection = Protection::Authenticated;
    assert_eq!(world.get(3, IMPORT, 2), Err(DataAccessResult::ReadWriteDenied));
    world.context.protection = Protection::AuthenticatedEncrypted;
    for weaker in [0x00, 0x24, 0x48] {
        assert_eq!(world.act(64, setup, 1, Data::Enum(weaker)), ActionResult::ScopeOfAccessViolated);
    }
    for unknown in [0x6D, 0x7C, 0xEC] {
        assert_eq!(world.act(64, setup, 1, Data::Enum(unknown)), ActionResult::OtherReason, "signatures");
    }
    assert!(world.get(3, IMPORT, 2).is_ok());
}

#[test]
fn an_override_is_checked_and_limits_every_client() {
    let mut world = World::new();
    let change = |class, obis, access, attribute, value: Data<'_>| ObjectChange {
        class,
        version: None,
        obis,
        access,
        attributes: [(attribute, value.to_bytes())].into(),
    };
    let none = Some(Rights { read: true, ..Rights::NONE });
    for (wrong, error) in [
        (change(3, CLOCK, None, 2, Data::Null), ObjectError::Name(8)),
        (change(999, obis([9; 6]), None, 2, Data::Null), ObjectError::Class(999)),
        (change(3, IMPORT, None, 9, Data::Null), ObjectError::Attribute(9)),
        (change(3, IMPORT, None, 3, Data::Null), ObjectError::Value(3)),
    ] {
        assert_eq!(world.device.change(&wrong), Err(error));
    }
    let new = obis([0, 0, 96, 1, 9, 255]);
    world.device.change(&change(1, new, Some(Rights::ALL), 2, Data::OctetString(b"a"))).unwrap();
    assert_eq!(world.set(1, new, 2, &Data::OctetString(b"bc")), DataAccessResult::Success);
    let clock = change(8, CLOCK, none, 9, Data::Enum(4));
    world.device.change(&clock).unwrap();
    assert_eq!(world.number(8, CLOCK, 9), 4);
    assert_eq!(world.act(8, CLOCK, 6, Data::Long(1)), ActionResult::ReadWriteDenied);
    assert_eq!(world.set(8, CLOCK, 3, &Data::Long(1)), DataAccessResult::ReadWriteDenied);
}

#[test]
fn a_password_is_changed_where_nobody_listens() {
    let mut world = World::with(Mechanism::LowLevel);
    let value = Data::OctetString(b"12345678");
    world.context.protection = Protection::Authenticated;
    assert_eq!(world.set(15, ASSOCIATION, 7, &value), DataAccessResult::ReadWriteDenied);
    world.context.protection = Protection::AuthenticatedEncrypted;
    assert_eq!(
        world.set(15, ASSOCIATION, 7, &Data::OctetString(b"")),
        DataAccessResult::ScopeOfAccessViolated
    );
    assert_eq!(world.set(15, ASSOCIATION, 7, &value), DataAccessResult::Success);
    assert_eq!(world.keys.secrets, [b"12345678".to_vec()]);
    let mut world = World::new();
    assert_eq!(
        world.set(15, ASSOCIATION, 7, &value),
        DataAccessResult::ReadWriteDenied,
        "mechanism 5 has none"
    );
}
