//! Who hangs where: bindings of installers, swapped devices, exchange and return; and devices that are no meters.

use gridseal_onboarding::endpoint_manager::{
    EventKind,
    installation::{self, By, Changed, bind, correct, exchange, take_back},
    register::{self, RegisterEntry},
    voucher_log,
};
use gridseal_trust::enrol::{
    delivery::hand_over,
    device::Event,
    installation::InstallRequest,
    label::{LabelA, LabelB},
    session::Step,
    voucher_log::{LogEntry, VoucherLog},
};
use gridseal_types::{
    Code, DeviceState, DeviceType, Digest, EkName, UtcTime,
    records::{Commit, Write},
    service::keys::{KeyReply, KeyRequest},
};

use crate::support::{
    START, World,
    factory::{Factory, MODEL, Owner, SYSTEM_TITLE},
};

const NOW: UtcTime = START;
const FIRST: &str = "GS-0000001";
const SECOND: &str = "GS-0000002";

fn request(device: EkName, serial: &str, point: &str) -> InstallRequest {
    let label = LabelA { model: MODEL.into(), serial: serial.into(), device };
    InstallRequest { label, point: point.into(), at: NOW }
}

fn entry(world: &World, device: &EkName) -> RegisterEntry {
    register::entry(&world.register, device).unwrap().unwrap()
}

fn bound(world: &mut World, by: By, request: &InstallRequest) -> Result<EkName, Code> {
    let (writes, outcome) = bind(&world.register, NOW, by, request).unwrap();
    world.register.commit(writes).unwrap();
    outcome
}

fn point_of(world: &World, device: &EkName) -> Option<String> {
    installation::of(&world.register, device).unwrap().map(|bound| bound.point)
}

/// A device that names `place`, bound to P1, and its neighbour, bound to P2.
fn neighbours(place: &str) -> (World, EkName, EkName) {
    let mut world = World::mounted_at(place);
    let (one, two) = (world.device_name(), world.register_neighbour(SECOND));
    assert_eq!(bound(&mut world, By::Installer, &request(one, FIRST, "P1")), Ok(one));
    assert_eq!(bound(&mut world, By::Installer, &request(two, SECOND, "P2")), Ok(two));
    (world, one, two)
}

fn tell_keys(world: &mut World, changed: &[Changed]) {
    for Changed { device, state, attested_at } in changed.iter().copied() {
        world.ask_keys(KeyRequest::SetState { device, state, attested_at });
    }
}

// Onboarding specification, row A40: an installer's request is data, and replaces nothing
#[test]
fn an_installers_request_binds_only_what_is_known_and_free() {
    let (mut world, one, two) = neighbours("P1");
    let mut stranger = one;
    stranger.0[5] ^= 1;
    let rows = [
        ("again", request(one, FIRST, "P1"), Ok(one)),
        ("a stranger", request(stranger, FIRST, "P3"), Err(Code::Unknown)),
        ("another serial number", request(one, SECOND, "P1"), Err(Code::Label)),
        ("bound elsewhere", request(one, FIRST, "P3"), Err(Code::State)),
        ("a point that is taken", request(two, SECOND, "P1"), Err(Code::State)),
    ];
    for (name, request, expected) in rows {
        assert_eq!(bound(&mut world, By::Installer, &request), expected, "{name}");
        assert_eq!(point_of(&world, &one).as_deref(), Some("P1"), "{name}");
        assert_eq!(point_of(&world, &two).as_deref(), Some("P2"), "{name}");
    }
    let mut other = request(one, FIRST, "P1");
    other.label.model = "OTHER".into();
    assert_eq!(bound(&mut world, By::Installer, &other), Err(Code::Label));
}

#[test]
fn a_device_in_its_place_onboards_and_confirms_it() {
    let (mut world, one, _) = neighbours("P1");
    world.start();
    world.run();
    assert!(world.is_confirmed(), "{:?}", world.register_events);
    assert!(installation::of(&world.register, &one).unwrap().unwrap().confirmed);
}

// Onboarding specification, row A38: two meters swapped at installation are held when they call in
#[test]
fn two_devices_in_each_others_place_are_both_held_until_corrected() {
    let (mut world, one, two) = neighbours("P2");
    world.start();
    assert!(world.run_until(|world| world.meter.events.contains(&Event::Unanswered)));
    for device in [one, two] {
        let entry = entry(&world, &device);
        assert_eq!((entry.state, entry.quarantine), (DeviceState::Quarantined, Some(Code::Label)));
        assert_eq!(entry.tls_key, None, "no certificate, so no reading");
    }
    assert!(!world.key_requests.contains(&"challenge"), "no public-key work");
    assert!(world.admissions.is_empty());
    assert!(world.register_events.contains(&EventKind::Quarantined(Code::Label)));
    assert_eq!(world.key_requests.iter().filter(|name| **name == "set-state").count(), 2);
    // A release without a correction overrides nothing: the next contact finds the same.
    let (writes, released) = register::readmit(&world.register, NOW, FIRST, "try again").unwrap();
    world.register.commit(writes).unwrap();
    assert_eq!(released, Some(one));
    let held = |world: &World| entry(world, &one).state == DeviceState::Quarantined;
    assert!(world.run_until(held));

    let (writes, changed) = correct(&world.register, NOW, [one, two], "swapped in the stairwell").unwrap();
    world.register.commit(writes).unwrap();
    let changed = changed.unwrap();
    assert_eq!(changed.iter().map(|changed| changed.state).collect::<Vec<_>>(), [DeviceState::Registered; 2]);
    tell_keys(&mut world, &changed);
    assert_eq!(
        (point_of(&world, &one).as_deref(), point_of(&world, &two).as_deref()),
        (Some("P2"), Some("P1"))
    );
    world.run();
    assert!(world.is_confirmed(), "{:?}", world.register_events);
    assert_eq!(entry(&world, &two).state, DeviceState::Registered);
}

#[test]
fn a_device_that_named_its_place_is_not_held_by_a_strangers_word() {
    let (mut world, one, two) = neighbours("P2");
    let mut confirmed = installation::of(&world.register, &two).unwrap().unwrap();
    confirmed.confirmed = true;
    let write = Write {
        table: installation::INSTALLATIONS,
        key: two.as_bytes().to_vec(),
        value: Some(minicbor::to_vec(&confirmed).unwrap()),
    };
    world.register.commit(vec![write]).unwrap();
    world.start();
    assert!(world.run_until(|world| world.meter.events.contains(&Event::Unanswered)));
    assert_eq!(entry(&world, &one).state, DeviceState::Quarantined);
    assert_eq!(entry(&world, &two).state, DeviceState::Registered);
}

#[test]
fn an_unbound_device_at_a_bound_place_is_held_and_one_at_a_free_place_is_not() {
    let mut world = World::mounted_at("P2");
    let two = world.register_neighbour(SECOND);
    assert_eq!(bound(&mut world, By::Installer, &request(two, SECOND, "P2")), Ok(two));
    world.start();
    assert!(world.run_until(|world| world.meter.events.contains(&Event::Unanswered)));
    assert_eq!(entry(&world, &two).state, DeviceState::Quarantined);

    let mut world = World::mounted_at("P2");
    world.start();
    world.run();
    assert!(world.is_confirmed());
}

#[test]
fn a_meter_is_exchanged_and_comes_back() {
    let (mut world, one, two) = neighbours("P1");
    world.start();
    world.run();
    assert!(world.is_confirmed());
    let taken = |world: &World, point| {
        exchange(&world.register, NOW, &request(two, SECOND, point), "display broken").unwrap()
    };
    assert_eq!(taken(&world, "P1").1, Err(Code::State), "the new one hangs elsewhere");
    let (writes, returned) = take_back(&world.register, NOW, &two, "not needed").unwrap();
    world.register.commit(writes).unwrap();
    assert_eq!(returned, Ok(Vec::new()), "it never operated");
    assert_eq!(taken(&world, "P9").1, Err(Code::State), "nothing hangs there");

    let (writes, changed) = taken(&world, "P1");
    world.register.commit(writes).unwrap();
    let old = entry(&world, &one);
    assert_eq!(
        changed,
        Ok(vec![Changed { device: one, state: DeviceState::Suspended, attested_at: old.attested_at }])
    );
    assert_eq!((old.state, old.admission_pending), (DeviceState::Suspended, true));
    assert_eq!((point_of(&world, &one), point_of(&world, &two).as_deref()), (None, Some("P1")));
    tell_keys(&mut world, &changed.unwrap());
    let apdu = world.seal_apdu(5, b"reading");
    assert!(
        !matches!(world.open_apdu(&apdu), gridseal_types::service::keys::OpenVerdict::Fresh { .. }),
        "nothing is opened for a suspended device"
    );

    // Repaired, it goes where the other one was.
    let back = exchange(&world.register, NOW, &request(one, FIRST, "P1"), "repaired").unwrap();
    world.register.commit(back.0).unwrap();
    assert_eq!(
        back.1.unwrap().iter().map(|changed| changed.state).collect::<Vec<_>>(),
        [DeviceState::Operating]
    );
    let again = take_back(&world.register, NOW, &two, "twice").unwrap();
    assert_eq!(again.1, Err(Code::State));
}

#[test]
fn concentrator_and_gateway_onboard_by_the_same_path_and_get_no_meter_key() {
    for device_type in [DeviceType::Concentrator, DeviceType::Gateway] {
        let mut world = World::of(device_type, |_, _| ());
        world.start();
        world.run();
        assert!(world.is_confirmed(), "{device_type:?}: {:?}", world.register_events);
        assert!(world.meter.events.contains(&Event::Accepted(Step::DONE)));
        let entry = world.entry();
        assert_eq!((entry.state, entry.device_type), (DeviceState::Operating, device_type));
        assert!(entry.tls_key.is_some(), "it has its certificate");
        assert!(world.meter.record().installed.unwrap().keys.is_empty(), "and no DLMS key");
        assert_eq!(
            (entry.admission(), world.admissions.len()),
            (None, 0),
            "no head-end takes it for a meter"
        );
    }
}

/// Asks the key service to take label B of the world's device, with the voucher it came with.
fn typed(world: &mut World, secret: [u8; 32], serial: &str, device: EkName) -> KeyReply {
    let label = LabelB { serial: serial.into(), secret: gridseal_crypto::Key::take(&mut secret.clone()) };
    let recipient = Owner::new(1).encryption();
    let record = hand_over(&label, device, &recipient, &mut crate::support::TestRng::new("hand", 0)).unwrap();
    let voucher = world.made.voucher.clone();
    world.key_records = gridseal_types::records::MemoryRecords::default();
    world.ask_keys(KeyRequest::DeliverLabel { record, voucher, system_title: SYSTEM_TITLE })
}

#[test]
fn a_typed_secret_is_taken_when_the_voucher_commits_to_it() {
    let mut world = World::new();
    let device = world.device_name();
    let n_1: [u8; 32] = hmac_n1(&world);
    assert!(matches!(typed(&mut world, n_1, FIRST, device), KeyReply::Delivered { epoch: 1, .. }));
    let mut wrong = n_1;
    wrong[31] ^= 1;
    let mut stranger = device;
    stranger.0[9] ^= 1;
    for (name, reply) in [
        ("another secret", typed(&mut world, wrong, FIRST, device)),
        ("another serial number", typed(&mut world, n_1, SECOND, device)),
        ("another device", typed(&mut world, n_1, FIRST, stranger)),
        ("a poor secret", typed(&mut world, [7; 32], FIRST, device)),
    ] {
        assert!(matches!(reply, KeyReply::Refused { code: Code::Label }), "{name}: {reply:?}");
    }
}

fn hmac_n1(world: &World) -> [u8; 32] {
    use gridseal_trust::enrol::secrets::owner_secret_input;
    let root = gridseal_crypto::Key::<gridseal_crypto::role::DeviceRootSecret, 32>::take(
        &mut world.made.device_root.clone(),
    );
    root.mac(&[&owner_secret_input(1)])
}

// Onboarding specification, row A22: the owner sees a second sale in the manufacturer's log
#[test]
fn a_fork_in_the_log_of_voucher_entries_is_seen() {
    let factory = Factory::new();
    let keys = [factory.voucher_key()];
    let mut world = World::new();
    let voucher = gridseal_trust::enrol::voucher::Voucher::decode(&world.made.voucher).unwrap();
    let [header, sold] = voucher.element_hashes().unwrap()[..] else { panic!("one entry") };
    let entry = |previous, entry| LogEntry { previous, entry };
    let digest = |number| Digest([number; 32]);
    let honest = vec![entry(digest(1), digest(2)), entry(header, sold), entry(digest(3), digest(4))];
    let mut read = |entries: Vec<LogEntry>| {
        let file = VoucherLog::new(entries).encode(&factory.voucher, NOW).unwrap();
        let (head, log) = VoucherLog::open(&file, &keys).unwrap();
        let (writes, found) = voucher_log::read(&world.register, NOW, &head, &log).unwrap();
        world.register.commit(writes).unwrap();
        found.map(|found| (found.in_order, found.missing, found.forked))
    };
    let serial = || vec![FIRST.to_owned()];
    assert_eq!(read(honest[..1].to_vec()), Ok((0, serial(), vec![])));
    assert_eq!(read(honest.clone()), Ok((1, vec![], vec![])));
    let with = |more: LogEntry| [honest.clone(), vec![more]].concat();
    assert_eq!(read(with(entry(header, digest(9)))), Ok((0, vec![], serial())), "sold to two");
    assert_eq!(read(honest.clone()), Err(Code::Fork), "a log only grows");
    let mut rewritten = with(entry(header, digest(9)));
    rewritten[0] = entry(digest(1), digest(5));
    assert_eq!(read(rewritten), Err(Code::Fork), "and is not rewritten");
}

#[test]
fn a_sale_by_somebody_else_after_our_entry_is_a_fork_too() {
    let factory = Factory::new();
    let world = World::new();
    let voucher = gridseal_trust::enrol::voucher::Voucher::decode(&world.made.voucher).unwrap();
    let [header, sold] = voucher.element_hashes().unwrap()[..] else { panic!("one entry") };
    let log = VoucherLog::new(vec![
        LogEntry { previous: header, entry: sold },
        LogEntry { previous: sold, entry: Digest([1; 32]) },
    ]);
    let file = log.encode(&factory.voucher, NOW).unwrap();
    let (head, log) = VoucherLog::open(&file, &[factory.voucher_key()]).unwrap();
    let (_, found) = voucher_log::read(&world.register, NOW, &head, &log).unwrap();
    assert_eq!(found.unwrap().forked, [FIRST]);
}

#[test]
fn heads_of_shipments_are_compared_with_one_another() {
    let factory = Factory::new();
    let mut world = World::new();
    let mut remember = |number: u8| {
        let entry = LogEntry { previous: Digest([1; 32]), entry: Digest([number; 32]) };
        let file = VoucherLog::new(vec![entry]).encode(&factory.voucher, NOW).unwrap();
        let (head, _) = VoucherLog::open(&file, &[factory.voucher_key()]).unwrap();
        let (writes, outcome) = voucher_log::remember(&world.register, &head).unwrap();
        world.register.commit(writes).unwrap();
        outcome
    };
    assert_eq!(remember(1), Ok(()));
    assert_eq!(remember(1), Ok(()));
    assert_eq!(remember(2), Err(Code::Fork), "two logs of one size");
}

#[test]
fn only_what_is_in_the_log_is_registered() {
    let (factory, owner) = (Factory::new(), Owner::new(1));
    let world = World::new();
    let rules = owner.registration_rules(&factory);
    let shipped = register::Shipped::check(&rules, &world.made.manifest, &world.made.voucher).unwrap();
    let voucher = gridseal_trust::enrol::voucher::Voucher::decode(&world.made.voucher).unwrap();
    let [header, sold] = voucher.element_hashes().unwrap()[..] else { panic!("one entry") };
    let other = LogEntry { previous: Digest([1; 32]), entry: Digest([2; 32]) };
    let check = |entries: Vec<LogEntry>, index: usize| {
        let log = VoucherLog::new(entries);
        let head = gridseal_trust::enrol::voucher_log::LogHead::verify(
            &log.head(&factory.voucher, NOW).unwrap(),
            &[factory.voucher_key()],
        );
        let path = log.proofs().inclusion(index).unwrap();
        let proof = gridseal_trust::enrol::voucher_log::LogProof { index: index.try_into().unwrap(), path };
        shipped.logged(&head.unwrap(), &proof)
    };
    let own = LogEntry { previous: header, entry: sold };
    assert_eq!(check(vec![other, own, other], 1), Ok(()));
    assert_eq!(check(vec![other, own, other], 0), Err(Code::Voucher));
    assert_eq!(check(vec![other], 0), Err(Code::Voucher));
}
