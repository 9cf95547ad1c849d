//! Data protection: values and a method through layers, and what does not get through.

use gridseal_dlms::{
    acse::Mechanism,
    apdu::result::ActionResult,
    assoc::Protection,
    suite::local::{DataKey, DataLayer, DataProtection, Ports, VolatileCounters},
    wire::Data,
};
use gridseal_meter::cosem::{KeyRefusal, Note};
use gridseal_types::{ObisCode, SystemTitle};

use crate::world::{CLIENT, Counting, IMPORT, METER, READER, World, client_crypto, obis};

const PROTECTION: ObisCode = ObisCode::new([0, 0, 43, 2, 0, 255]);
const BREAKER: [u8; 6] = [0, 0, 96, 3, 10, 255];
const ALARM: [u8; 6] = [0, 0, 97, 98, 10, 255];

fn layer(protection: DataProtection, key: DataKey, id: u64) -> DataLayer {
    DataLayer {
        protection,
        transaction_id: id.to_be_bytes().to_vec(),
        originator: Some(CLIENT),
        recipient: Some(METER),
        other_information: b"bench".to_vec(),
        key,
    }
}

const BOTH: DataProtection = DataProtection::Cipher(Protection::AuthenticatedEncrypted);

fn kinds() -> Vec<(DataProtection, DataKey)> {
    vec![
        (BOTH, DataKey::Identified(0)),
        (DataProtection::Cipher(Protection::Authenticated), DataKey::Identified(0)),
        (BOTH, DataKey::Wrapped { kek_id: 0, wrapped: vec![] }),
        (BOTH, DataKey::Agreed { parameters: vec![1], data: vec![] }),
        (DataProtection::Signature, DataKey::Identified(0)),
    ]
}

/// As the class has it.
fn written(layer: &DataLayer) -> Vec<u8> {
    let title = |title: Option<SystemTitle>| title.map_or(vec![], |title| title.as_bytes().to_vec());
    let (from, to) = (title(layer.originator), title(layer.recipient));
    let kind = match layer.protection {
        DataProtection::Cipher(Protection::Authenticated) => 0,
        DataProtection::Cipher(_) => 2,
        DataProtection::Signature => 3,
    };
    let (number, options) = match &layer.key {
        DataKey::Identified(id) => (0, Data::Enum(*id)),
        DataKey::Wrapped { kek_id, wrapped } => {
            (1, Data::Structure(vec![Data::Enum(*kek_id), Data::OctetString(wrapped)]))
        }
        DataKey::Agreed { parameters, data } => {
            (2, Data::Structure(vec![Data::OctetString(parameters), Data::OctetString(data)]))
        }
    };
    let key = Data::Structure(vec![Data::Enum(number), options]);
    let fields = vec![
        Data::OctetString(&layer.transaction_id),
        Data::OctetString(&from),
        Data::OctetString(&to),
        Data::OctetString(&layer.other_information),
        key,
    ];
    Data::Structure(vec![Data::Enum(kind), Data::Structure(fields)]).to_bytes()
}

fn array(entries: &[Vec<u8>]) -> Data<'_> {
    Data::Array(entries.iter().map(|entry| Data::from_bytes(entry).unwrap()).collect())
}

fn listed(class: u16, name: &[u8; 6], attribute: i8) -> Vec<u8> {
    Data::Structure(vec![
        Data::LongUnsigned(class),
        Data::OctetString(name),
        Data::Integer(attribute),
        Data::LongUnsigned(0),
        Data::Null,
    ])
    .to_bytes()
}

/// Opens `{layers, data}` as the client.
fn open(answer: &[u8]) -> Vec<u8> {
    let Data::Structure(parts) = Data::from_bytes(answer).unwrap() else { panic!() };
    let [Data::Array(layers), Data::OctetString(data)] = &parts[..] else { panic!() };
    let layers: Vec<DataLayer> = layers.iter().map(read).collect();
    client_crypto().unprotect_data(&layers, data).unwrap()
}

fn read(layer: &Data<'_>) -> DataLayer {
    let part = |data: &Data<'_>| match data {
        Data::OctetString(bytes) => bytes.to_vec(),
        other => panic!("{other:?}"),
    };
    let Data::Structure(parts) = layer else { panic!() };
    let [Data::Enum(kind), Data::Structure(options)] = &parts[..] else { panic!() };
    let Data::Structure(key) = &options[4] else { panic!() };
    let key = match (&key[0], &key[1]) {
        (Data::Enum(0), Data::Enum(id)) => DataKey::Identified(*id),
        (Data::Enum(1), Data::Structure(fields)) => DataKey::Wrapped { kek_id: 0, wrapped: part(&fields[1]) },
        (Data::Enum(2), Data::Structure(fields)) => {
            DataKey::Agreed { parameters: part(&fields[0]), data: part(&fields[1]) }
        }
        other => panic!("{other:?}"),
    };
    DataLayer {
        protection: match kind {
            0 => DataProtection::Cipher(Protection::Authenticated),
            3 => DataProtection::Signature,
            _ => BOTH,
        },
        transaction_id: part(&options[0]),
        originator: SystemTitle::from_slice(&part(&options[1])),
        recipient: SystemTitle::from_slice(&part(&options[2])),
        other_information: part(&options[3]),
        key,
    }
}

/// Protects as the client; gives layers, encoded, and data.
fn protect(layers: &[DataLayer], plain: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut Counting(9) };
    let (layers, data) = client_crypto().protect_data(layers, plain, &mut ports).unwrap();
    (layers.iter().map(written).collect(), data)
}

fn set(world: &mut World, layers: &[DataLayer], value: u32) -> ActionResult {
    let plain = Data::Structure(vec![Data::DoubleLongUnsigned(value)]).to_bytes();
    let (layers, data) = protect(layers, &plain);
    let list = [listed(1, &ALARM, 2)];
    let request = Data::Structure(vec![array(&list), array(&layers), Data::OctetString(&data)]);
    world.act(30, PROTECTION, 2, request)
}

#[test]
fn values_are_read_through_every_kind_of_layer_and_through_two() {
    let mut world = World::suite(1);
    let direct = world.get(3, IMPORT, 2).unwrap();
    let list = [listed(3, IMPORT.groups(), 2), listed(8, &[0, 0, 1, 0, 0, 255], 9)];
    let mut cases: Vec<Vec<DataLayer>> =
        kinds().into_iter().map(|(protection, key)| vec![layer(protection, key, 1)]).collect();
    cases.push(vec![layer(DataProtection::Signature, DataKey::Identified(0), 1), cases[0][0].clone()]);
    for layers in cases {
        let asked: Vec<Vec<u8>> = layers
            .iter()
            .map(|layer| written(&DataLayer { originator: None, recipient: Some(CLIENT), ..layer.clone() }))
            .collect();
        let answer =
            world.call(30, PROTECTION, 1, Data::Structure(vec![array(&list), array(&asked)])).unwrap();
        let plain = open(&answer);
        let Data::Structure(values) = Data::from_bytes(&plain).unwrap() else { panic!() };
        assert_eq!(values[0].to_bytes(), direct, "{:?}", layers[0].key);
        assert_eq!(values.len(), 2);
    }
}

#[test]
fn values_are_written_and_methods_invoked_once() {
    let mut world = World::suite(1);
    for (count, (protection, key)) in (1..).zip(kinds()) {
        let layers = [layer(protection, key, count.into())];
        assert_eq!(set(&mut world, &layers, count), ActionResult::Success);
        assert_eq!(world.number(1, obis(ALARM), 2), i64::from(count));
        assert_eq!(set(&mut world, &layers, 99), ActionResult::OtherReason, "the same transaction");
        assert_eq!(world.notes(), [Note::KeysRefused(KeyRefusal::Transaction)]);
        world.power_cut();
        assert_eq!(set(&mut world, &layers, 99), ActionResult::OtherReason, "also after a power cut");
        world.notes();
    }
    let (layers, data) = protect(&[layer(BOTH, DataKey::Identified(0), 50)], &Data::Integer(0).to_bytes());
    let target =
        || Data::Structure(vec![Data::LongUnsigned(70), Data::OctetString(&BREAKER), Data::Integer(1)]);
    let request = Data::Structure(vec![target(), array(&layers), Data::OctetString(&data)]);
    assert_eq!(world.act(30, PROTECTION, 3, request), ActionResult::Success);
    assert_eq!(world.number(70, obis(BREAKER), 2), 0, "switched off");
    world.keys.room = Some(0);
    let late = [layer(BOTH, DataKey::Identified(0), 60)];
    assert_eq!(set(&mut world, &late, 7), ActionResult::HardwareFault, "what cannot be kept is not done");
    world.keys.room = None;
    assert_eq!(set(&mut world, &late, 7), ActionResult::Success);
}

#[test]
fn nothing_gets_through_that_is_forged_too_little_or_forbidden() {
    let mut world = World::suite(1);
    let plain = Data::Structure(vec![Data::DoubleLongUnsigned(7)]).to_bytes();
    let list = [listed(1, &ALARM, 2)];
    for (protection, key) in kinds() {
        let (layers, data) = protect(&[layer(protection, key, 1)], &plain);
        for at in 0..data.len() {
            let mut changed = data.clone();
            changed[at] ^= 1;
            let request = Data::Structure(vec![array(&list), array(&layers), Data::OctetString(&changed)]);
            assert_eq!(world.act(30, PROTECTION, 2, request), ActionResult::OtherReason, "byte {at}");
        }
        for size in [0, 4, data.len() - 1] {
            let request =
                Data::Structure(vec![array(&list), array(&layers), Data::OctetString(&data[..size])]);
            assert_eq!(world.act(30, PROTECTION, 2, request), ActionResult::OtherReason, "{size} bytes");
        }
    }
    // Fields that the tag covers, titles, ids.
    let good = layer(BOTH, DataKey::Identified(0), 1);
    let (_, data) = protect(std::slice::from_ref(&good), &plain);
    for wrong in [
        DataLayer { other_information: vec![], ..good.clone() },
        DataLayer { transaction_id: 2u64.to_be_bytes().to_vec(), ..good.clone() },
        DataLayer { transaction_id: vec![1; 7], ..good.clone() },
        DataLayer { originator: Some(METER), ..good.clone() },
        DataLayer { originator: None, ..good.clone() },
        DataLayer { recipient: Some(CLIENT), ..good.clone() },
        DataLayer { protection: DataProtection::Cipher(Protection::Authenticated), ..good.clone() },
        DataLayer { key: DataKey::Identified(1), ..good.clone() },
        DataLayer { key: DataKey::Wrapped { kek_id: 0, wrapped: vec![0; 24] }, ..good.clone() },
    ] {
        let layers = [written(&wrong)];
        let request = Data::Structure(vec![array(&list), array(&layers), Data::OctetString(&data)]);
        assert_eq!(world.act(30, PROTECTION, 2, request), ActionResult::OtherReason, "{wrong:?}");
    }
    assert_eq!(world.number(1, obis(ALARM), 2), 0);
    // Static agreed keys are not for answers, and a reader writes nothing through a layer.
    let asked = DataLayer { originator: None, recipient: Some(CLIENT), ..good.clone() };
    let fixed = DataLayer { key: DataKey::Agreed { parameters: vec![2], data: vec![] }, ..asked.clone() };
    let (fixed, asked) = ([written(&fixed)], [written(&asked)]);
    let read = |layers| Data::Structure(vec![array(&list), array(layers)]);
    assert_eq!(world.act(30, PROTECTION, 1, read(&fixed)), ActionResult::OtherReason);
    let secret = [listed(15, &[0, 0, 40, 0, 0, 255], 7)];
    let request = Data::Structure(vec![array(&secret), array(&asked)]);
    assert_eq!(world.act(30, PROTECTION, 1, request), ActionResult::ReadWriteDenied, "the password");
    let none: [Vec<u8>; 0] = [];
    assert_eq!(world.act(30, PROTECTION, 1, read(&none)), ActionResult::ScopeOfAccessViolated);
    world.change(30, PROTECTION, None, (6, Data::Unsigned(0x10)));
    assert_eq!(
        world.act(30, PROTECTION, 1, read(&asked)),
        ActionResult::ReadWriteDenied,
        "a signature is required"
    );
    world.context.mechanism = Mechanism::LowLevel;
    assert_eq!(world.act(30, PROTECTION, 1, read(&asked)), ActionResult::ReadWriteDenied);
    let mut reader = World::suite(1).by(READER);
    assert_eq!(set(&mut reader, &[good], 7), ActionResult::ReadWriteDenied);
}
