//! The key service behind a whole onboarding: what it repeats, what it opens, what it never writes down.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

#[path = "keys/orders.rs"]
mod orders;
#[path = "../../onboarding/tests/support/mod.rs"]
mod support;

use gridseal_crypto::{Key, WrappedKey, role::DeviceRootSecret};
use gridseal_keys::{
    Core, DataKeysFile, KeysError, Keystore, KeystoreFile, front,
    record::{DEVICES, DeviceEntry, SESSIONS, VERSIONS, VersionEntry, version_key},
};
use gridseal_trust::{
    audit::{AUDIT, end, verify_chain},
    enrol::{
        delivery::{Release, deliver},
        device::{Event, Input},
        secrets::{OwnerSecretExt, owner_secret},
        session::{Step, seal_hello},
    },
};
use gridseal_types::{
    Code, DeviceState, Digest, Nonce, Sid, SystemTitle, UtcTime,
    records::{Commit, MemoryRecords, Records, Table, Write},
    service::keys::{
        Bytes, Challenge, KeyKind, KeyOrigin, KeyReply, KeyRequest, OpenVerdict, Provision, TpmSession,
        VersionState,
    },
};
use support::{
    Leg, NoRng, START, TestRng, World,
    factory::{Factory, Made, Owner, SYSTEM_TITLE, seal},
};

fn onboarded() -> World {
    let mut world = World::new();
    world.start();
    world.run();
    assert!(world.is_confirmed());
    world
}

fn is_fresh(verdict: &OpenVerdict) -> bool {
    matches!(verdict, OpenVerdict::Fresh { .. })
}

fn refusal(reply: &KeyReply) -> Option<Code> {
    match reply {
        KeyReply::Refused { code } => Some(*code),
        _ => None,
    }
}

fn put(records: &mut MemoryRecords, table: Table, key: &[u8], value: &impl minicbor::Encode<()>) {
    let value = Some(minicbor::to_vec(value).unwrap());
    records.commit(vec![Write { table, key: key.to_vec(), value }]).unwrap();
}

fn device_entry(world: &World) -> DeviceEntry {
    let row = world.key_records.get(DEVICES, world.device_name().as_bytes()).unwrap().unwrap();
    minicbor::decode(&row).unwrap()
}

fn version(world: &World, kind: KeyKind, version: u32) -> VersionEntry {
    let key = version_key(&world.device_name(), kind, version);
    minicbor::decode(&world.key_records.get(VERSIONS, &key).unwrap().unwrap()).unwrap()
}

/// State of all three keys of a delivery, which go together.
fn state(world: &World, number: u32) -> VersionState {
    let states = KeyKind::ALL.map(|kind| version(world, kind, number).state);
    assert!(states.iter().all(|state| *state == states[0]), "{states:?}");
    states[0]
}

#[test]
fn every_request_of_a_session_made_twice_gets_the_same_bytes_and_draws_nothing_again() {
    let mut world = World::new();
    world.asks_twice = true;
    world.start();
    world.run();
    assert!(world.is_confirmed(), "{:?}", world.register_events);
    for name in ["open-hello", "challenge", "open-message", "own", "confirm-ownership", "provision", "finish"]
    {
        assert!(world.key_requests.contains(&name), "{name}");
    }
    let device = world.device_name();
    let attested_at = world.entry().attested_at;
    let delivery = world.made.delivery.clone();
    let again = world.ask_keys(KeyRequest::Deliver { record: delivery, system_title: SYSTEM_TITLE });
    assert!(matches!(again, KeyReply::Delivered { .. }));
    world.ask_keys(KeyRequest::SetState { device, state: DeviceState::Suspended, attested_at });
}

#[test]
fn authorisations_are_drawn_once_and_re_used_by_the_next_session() {
    let mut world = World::new();
    world.lose(Leg::Session(Step::COMMANDS));
    world.start();
    let own = |world: &World| world.key_requests.iter().filter(|name| **name == "own").count();
    assert!(world.run_until(|world| own(world) == 1));
    let first = device_entry(&world).auth;
    assert!(first.iter().all(Option::is_some));
    world.reboot();
    world.run();
    assert!(world.is_confirmed());
    assert_eq!((own(&world), device_entry(&world).auth), (2, first));
    assert!(device_entry(&world).auth_confirmed);
}

/// A device that got version 1 of its keys, whose receipt was lost, and the keys it then had.
fn half_installed() -> (World, support::factory::DeliveredKeys) {
    let mut world = World::new();
    for _ in 0..3 {
        world.lose(Leg::Session(Step::INSTALLED));
    }
    world.start();
    world.run();
    assert_eq!(world.meter.events.last(), Some(&Event::Operating { confirmed: false }));
    let keys = world.delivered_keys();
    world.meter.device.handle(world.now, Input::TerminusRefused).expect("operating");
    (world, keys)
}

#[test]
fn the_first_apdu_under_new_keys_confirms_them_and_ends_the_old_ones() {
    let (mut world, old) = half_installed();
    let early = seal(&old, SYSTEM_TITLE, 1, b"early");
    assert_eq!(world.open_apdu(&early), OpenVerdict::Rejected, "not operating yet");
    world.run();
    assert!(world.is_confirmed());
    assert_eq!(device_entry(&world).channel_version, 2);
    assert_eq!((state(&world, 1), state(&world, 2)), (VersionState::PreActive, VersionState::PreActive));

    assert!(is_fresh(&world.open_apdu(&early)), "nothing under the new keys was seen");
    assert_eq!((state(&world, 1), state(&world, 2)), (VersionState::Active, VersionState::PreActive));
    // The counters of the two versions have nothing to do with one another.
    let under_new = world.seal_apdu(1, b"under the new key");
    let forged = [&under_new[..under_new.len() - 1], &[under_new[under_new.len() - 1] ^ 1]].concat();
    assert_eq!(world.open_apdu(&forged), OpenVerdict::Rejected);
    assert_eq!(state(&world, 2), VersionState::PreActive, "only what verifies confirms");
    assert!(is_fresh(&world.open_apdu(&under_new)));
    assert_eq!((state(&world, 1), state(&world, 2)), (VersionState::Deactivated, VersionState::Active));
    for late in [early, seal(&old, SYSTEM_TITLE, 2, b"late")] {
        assert_eq!(world.open_apdu(&late), OpenVerdict::Rejected);
    }
    let replayed = world.open_apdu(&under_new);
    assert!(matches!(replayed, OpenVerdict::Duplicate { .. }));
    assert!(!version(&world, KeyKind::Guek, 1).envelope.0.is_empty(), "kept for good");
}

#[test]
fn one_apdu_twice_in_a_batch_is_fresh_once_and_audited_once() {
    let mut world = onboarded();
    let apdu = world.seal_apdu(7, b"reading");
    let request = KeyRequest::OpenApdu { apdu };
    let other = KeyRequest::OpenApdu { apdu: b"noise".to_vec() };
    let audited = world.key_records.range(AUDIT, &[], 1_000).unwrap().len();
    let requests = vec![request.clone(), other, request];
    let decision = world.keys.decide(&world.key_records, START, &mut NoRng, requests).unwrap();
    let verdicts: Vec<&OpenVerdict> = decision
        .replies
        .iter()
        .map(|reply| match reply {
            KeyReply::Apdu(verdict) => verdict,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(matches!(
        verdicts[..],
        [OpenVerdict::Fresh { late: false, .. }, OpenVerdict::Rejected, OpenVerdict::Duplicate { .. }]
    ));
    world.key_records.commit(decision.writes).unwrap();
    let entries = world.key_records.range(AUDIT, &[], 1_000).unwrap();
    let acts =
        verify_chain(entries.iter().map(|(_, value)| value.as_slice()), end(&world.key_records).unwrap())
            .unwrap();
    let new: Vec<(&str, &str)> =
        acts[audited..].iter().map(|entry| (entry.act.as_str(), entry.detail.as_str())).collect();
    assert_eq!(
        new,
        [
            ("channel-keys.confirmed", "1"),
            ("master-key.confirmed", "1"),
            ("apdus.rejected", "1"),
            ("apdus.exchanged", "2")
        ]
    );
}

#[test]
fn nothing_is_opened_once_the_attestation_is_too_old() {
    let mut world = onboarded();
    let apdu = world.seal_apdu(1, b"reading");
    let attested = device_entry(&world).attested_at;
    assert_eq!(attested, world.entry().attested_at);
    let end_ms = (attested.0 + Core::ATTESTATION_AGE_DEFAULT_S - START.0) * 1_000;
    world.now = gridseal_types::Tick(end_ms + 1_000);
    assert_eq!(world.open_apdu(&apdu), OpenVerdict::Rejected);
    world.now = gridseal_types::Tick(end_ms);
    assert!(is_fresh(&world.open_apdu(&apdu)));
    world.now = gridseal_types::Tick(end_ms + 1_000);
    assert_eq!(world.open_apdu(&apdu), OpenVerdict::Rejected, "not even again");
}

#[test]
fn apdus_are_opened_for_operating_devices_only() {
    let mut world = onboarded();
    let device = world.device_name();
    let attested_at = device_entry(&world).attested_at;
    for (counter, state) in (1..).zip([
        DeviceState::Registered,
        DeviceState::Installing,
        DeviceState::Suspended,
        DeviceState::Quarantined,
    ]) {
        let apdu = world.seal_apdu(counter, b"reading");
        world.ask_keys(KeyRequest::SetState { device, state, attested_at });
        assert_eq!(world.open_apdu(&apdu), OpenVerdict::Rejected, "{state:?}");
        world.ask_keys(KeyRequest::SetState { device, state: DeviceState::Operating, attested_at });
        assert!(is_fresh(&world.open_apdu(&apdu)), "{state:?}: the refusal used up no counter");
    }
}

#[test]
fn an_apdu_under_another_meters_title_is_rejected() {
    let mut world = onboarded();
    let keys = world.delivered_keys();
    let unknown = seal(&keys, SystemTitle(*b"GSL\0\0\0\0\x09"), 1, b"reading");
    assert_eq!(world.open_apdu(&unknown), OpenVerdict::Rejected);
    // A second device: its title leads to its own keys, of which there are none yet.
    let (other, title) = second_device(&mut world);
    assert_ne!(other.ek_name, world.device_name());
    assert_eq!(world.open_apdu(&seal(&keys, title, 1, b"reading")), OpenVerdict::Rejected);
}

fn second_device(world: &mut World) -> (Made, SystemTitle) {
    let other = Factory::new().make("GS-0000002", &Owner::new(1));
    let title = SystemTitle(*b"GSL\0\0\0\0\x02");
    let reply = world.ask_keys(KeyRequest::Deliver { record: other.delivery.clone(), system_title: title });
    assert!(matches!(reply, KeyReply::Delivered { device, .. } if device == other.ek_name));
    (other, title)
}

#[test]
fn an_envelope_in_another_row_or_place_does_not_open() {
    let mut world = onboarded();
    let (other, _) = second_device(&mut world);
    let own = device_entry(&world);
    let row = world.key_records.get(DEVICES, other.ek_name.as_bytes()).unwrap().unwrap();
    let mut moved: DeviceEntry = minicbor::decode(&row).unwrap();
    let secret = owner_secret(&Key::<DeviceRootSecret, 32>::take(&mut other.device_root.clone()), 1);
    let m = Nonce([1; 32]);
    let wire = seal_hello(&secret.seal_c1(&m), &secret.kid(), &m, b"hello").unwrap();
    let opens = |records: &MemoryRecords, wire: &[u8]| {
        let request = KeyRequest::OpenHello { wire: wire.to_vec() };
        world
            .keys
            .decide(records, START, &mut NoRng, vec![request])
            .map(|decision| decision.replies[0].clone())
    };
    assert!(matches!(opens(&world.key_records, &wire), Ok(KeyReply::Hello { .. })));
    moved.secret = own.secret.clone();
    let mut records = world.key_records.clone();
    put(&mut records, DEVICES, other.ek_name.as_bytes(), &moved);
    assert!(matches!(opens(&records, &wire), Err(KeysError::Keystore)), "row of another device");

    let apdu = world.seal_apdu(1, b"reading");
    let name = world.device_name();
    let row = |kind| version(&world, kind, 1);
    let (guek, gak, kek) = (row(KeyKind::Guek), row(KeyKind::Gak), row(KeyKind::Kek));
    let mut flipped = gak.envelope.clone();
    flipped.0[30] ^= 1;
    let places = [
        ("key of another kind", VersionEntry { envelope: kek.envelope, ..guek.clone() }),
        ("key of another kind", VersionEntry { envelope: guek.envelope.clone(), ..gak.clone() }),
        ("changed bit", VersionEntry { envelope: flipped, ..gak.clone() }),
        ("another origin", VersionEntry { origin: KeyOrigin::Vendor, ..guek.clone() }),
    ];
    for (place, entry) in places {
        let mut records = world.key_records.clone();
        put(&mut records, VERSIONS, &version_key(&name, entry.kind, 1), &entry);
        let request = KeyRequest::OpenApdu { apdu: apdu.clone() };
        let opened = world.keys.decide(&records, world.utc(), &mut NoRng, vec![request]);
        assert!(matches!(opened, Err(KeysError::Keystore)), "{place}");
    }
    // Version 1 in the row of version 2.
    let mut records = world.key_records.clone();
    let mut entry = own;
    entry.channel_version = 2;
    entry.versions = KeyKind::ALL.map(|kind| (kind, 2)).to_vec();
    put(&mut records, DEVICES, name.as_bytes(), &entry);
    for kind in KeyKind::ALL {
        let moved = VersionEntry { version: 2, ..row(kind) };
        put(&mut records, VERSIONS, &version_key(&name, kind, 2), &moved);
    }
    let request = KeyRequest::OpenApdu { apdu };
    let opened = world.keys.decide(&records, world.utc(), &mut NoRng, vec![request]);
    assert!(matches!(opened, Err(KeysError::Keystore)), "another version");
}

#[test]
fn a_delivery_is_taken_once_for_its_device_its_owner_and_its_title() {
    let mut world = World::new();
    let before = world.owner_state();
    let (factory, owner) = (Factory::new(), Owner::new(1));
    let root = || Key::<DeviceRootSecret, 32>::take(&mut world.made.device_root.clone());
    let release = Release {
        ek_name: world.device_name(),
        epoch: 1,
        serial: "GS-0000001".into(),
        entry: Digest([0; 32]),
    };
    let next = Release { epoch: 2, ..release.clone() };
    let recipient = owner.encryption();
    let rng = &mut TestRng::new("delivery", 0);
    let stranger = Factory { voucher: support::signing_key("another vendor"), ..Factory::new() };
    let second = factory.make("GS-0000002", &owner);
    let rows = [
        (
            "another epoch",
            Code::EpochMismatch,
            deliver(&next, &owner_secret(&root(), 2), &factory.voucher, &recipient, rng),
        ),
        (
            "another secret",
            Code::EpochMismatch,
            deliver(&release, &owner_secret(&root(), 7), &factory.voucher, &recipient, rng),
        ),
        (
            "another vendor",
            Code::Label,
            deliver(&release, &owner_secret(&root(), 1), &stranger.voucher, &recipient, rng),
        ),
        (
            "another owner",
            Code::Label,
            deliver(&release, &owner_secret(&root(), 1), &factory.voucher, &Owner::new(2).encryption(), rng),
        ),
        ("title of another device", Code::Label, Ok(second.delivery)),
        ("no record", Code::Format, Ok(Vec::new())),
        ("too large", Code::Size, Ok(vec![0; 2_049])),
    ];
    for (name, code, record) in rows {
        let request = KeyRequest::Deliver { record: record.unwrap(), system_title: SYSTEM_TITLE };
        assert_eq!(refusal(&world.ask_keys(request)), Some(code), "{name}");
        assert_eq!(world.owner_state(), before, "{name}");
    }
}

#[test]
fn a_step_of_a_session_that_is_not_due_is_refused_and_changes_nothing() {
    let mut world = World::new();
    world.start();
    assert!(world.run_until(|world| world.meter.events.contains(&Event::Accepted(Step::CHALLENGE))));
    let (sid, before) = (world.entry().sessions[0], world.owner_state());
    let digest = Digest([0; 32]);
    let finish = |sid| KeyRequest::Finish {
        sid,
        receipt: digest,
        th6: digest,
        th7: digest,
        now: START,
        attested_at: START,
    };
    let provision = Provision {
        sid,
        th5: digest,
        storage_point: [0; 64],
        ldevid_chain: Vec::new(),
        ca_bundle: Vec::new(),
        terminus: Vec::new(),
        policy_version: 1,
        previous: digest,
        entry_index: 1,
        entry: digest,
        now: START,
        channel_keys: true,
    };
    let unknown = Sid([9; 16]);
    for (request, code) in [
        (KeyRequest::ConfirmOwnership { sid, responses: Vec::new() }, Code::State),
        (KeyRequest::Provision(provision), Code::State),
        (finish(sid), Code::State),
        (finish(unknown), Code::Nonce),
        (KeyRequest::OpenMessage { sid: unknown, wire: Vec::new() }, Code::Nonce),
        (KeyRequest::OpenHello { wire: vec![0x85] }, Code::Format),
    ] {
        assert_eq!(refusal(&world.ask_keys(request)), Some(code));
        assert_eq!(world.owner_state(), before);
    }
}

/// One request of each kind.
fn requests() -> Vec<KeyRequest> {
    let (sid, digest) = (Sid([0; 16]), Digest([0; 32]));
    let device = gridseal_types::EkName([0; 34]);
    let session = TpmSession { handle: 0, nonce_tpm: gridseal_types::N16([0; 16]) };
    vec![
        KeyRequest::Deliver { record: Vec::new(), system_title: SYSTEM_TITLE },
        KeyRequest::DeliverLabel { record: Vec::new(), voucher: Vec::new(), system_title: SYSTEM_TITLE },
        KeyRequest::SignRedirect { payload: Vec::new() },
        KeyRequest::OpenHello { wire: Vec::new() },
        KeyRequest::Challenge(Challenge {
            c1: Vec::new(),
            endorsement: vec![0; 64],
            ak_name: device,
            suites: Vec::new(),
            pcr_selection: Vec::new(),
            ima_next: 0,
            voucher_head: digest,
        }),
        KeyRequest::OpenMessage { sid, wire: Vec::new() },
        KeyRequest::Own { sid, act: digest, th3: digest, sessions: [session; 2], permanent: 0 },
        KeyRequest::ConfirmOwnership { sid, responses: vec![Bytes(Vec::new())] },
        KeyRequest::Provision(Provision {
            sid,
            th5: digest,
            storage_point: [0; 64],
            ldevid_chain: Vec::new(),
            ca_bundle: Vec::new(),
            terminus: Vec::new(),
            policy_version: 0,
            previous: digest,
            entry_index: 0,
            entry: digest,
            now: START,
            channel_keys: true,
        }),
        KeyRequest::Finish { sid, receipt: digest, th6: digest, th7: digest, now: START, attested_at: START },
        KeyRequest::SetState { device, state: DeviceState::Operating, attested_at: START },
        KeyRequest::OpenApdu { apdu: Vec::new() },
    ]
}

#[test]
fn each_caller_may_ask_for_its_own_requests_and_no_other() {
    let requests = requests();
    let (last, sessions) = requests.split_last().unwrap();
    assert!(front::allows(front::HEADEND, last) && !front::allows(front::ENDPOINT_MANAGER, last));
    for request in sessions {
        assert!(front::allows(front::ENDPOINT_MANAGER, request) && !front::allows(front::HEADEND, request));
    }
    for caller in ["", "config-server", "init-server", "pki", "Endpoint-Manager", "endpoint-manager "] {
        assert!(requests.iter().all(|request| !front::allows(caller, request)), "{caller}");
    }
}

#[test]
fn a_keystore_opens_under_its_own_key_and_delegation_only() {
    let (factory, owner) = (Factory::new(), Owner::new(1));
    let rng = &mut TestRng::new("keystore test", 0);
    let dek = || Key::generate(&mut TestRng::new("dek test", 1)).unwrap();
    let file = KeystoreFile::create(&dek(), [1; 16], rng).unwrap();
    let config = file.public_keys(&dek()).unwrap().config;
    let open = |key, delegation: Vec<u8>| Keystore::open(&file, key, delegation, vec![factory.voucher_key()]);
    assert!(open(dek(), owner.delegation(config, 3, 1)).is_ok());
    let other = Key::generate(&mut TestRng::new("dek test", 2)).unwrap();
    assert!(matches!(open(other, owner.delegation(config, 3, 1)), Err(KeysError::Keystore)));
    for delegation in [
        owner.delegation(config, 1, 1),
        owner.delegation(config, 2, 1),
        owner.delegation(owner.config_key_public(), 3, 1),
        Vec::new(),
    ] {
        assert!(matches!(open(dek(), delegation), Err(KeysError::Delegation)));
    }
}

#[test]
fn no_record_of_any_service_holds_a_raw_key() {
    let (mut world, _) = half_installed();
    world.run();
    assert!(world.is_confirmed());
    let apdu = world.seal_apdu(1, b"reading");
    assert!(is_fresh(&world.open_apdu(&apdu)));
    let inventory = world.keys.danger_inventory(&world.key_records).unwrap();
    for role in [
        "OwnerSecret",
        "AuthValue",
        "ActivationSecret",
        "SessionSecret",
        "Guek",
        "Gak",
        "Kek",
        "Dek",
        "ConfigSigning",
    ] {
        assert!(inventory.contains_key(role), "{role}");
    }
    let keys: Vec<(&str, Vec<u8>)> = inventory
        .iter()
        .flat_map(|(role, keys)| keys.iter().map(|key| (*role, hex::decode(key).unwrap())))
        .collect();
    assert!(keys.len() > 20, "{}", keys.len());
    let tables: [(&MemoryRecords, &[Table]); 3] = [
        (&world.key_records, &[DEVICES, SESSIONS, VERSIONS, "key_pseudonyms", "key_titles", AUDIT]),
        (&world.register, &["em_devices", "em_sessions", "em_replaced", AUDIT]),
        (&world.init_records, &["init_redirects", AUDIT]),
    ];
    let mut searched = 0;
    let mut search = |what: &str, bytes: &[u8]| {
        searched += bytes.len();
        for (role, key) in &keys {
            assert!(!bytes.windows(key.len()).any(|window| window == key), "{role} in {what}");
        }
    };
    for (records, tables) in tables {
        for table in tables {
            for (key, value) in records.range(table, &[], 10_000).unwrap() {
                search(table, &key);
                search(table, &value);
            }
        }
    }
    for (leg, wire) in &world.sent {
        search(&format!("{leg:?}"), wire);
    }
    search("flash", &world.meter.flash);
    assert!(searched > 20_000, "{searched}");
}

#[test]
fn the_audit_log_of_an_onboarding_is_a_chain_that_names_each_act() {
    let world = onboarded();
    let acts = |records: &MemoryRecords| {
        let rows = records.range(AUDIT, &[], 1_000).unwrap();
        let entries = verify_chain(rows.iter().map(|(_, value)| value.as_slice()), end(records).unwrap())
            .expect("a chain");
        entries.into_iter().map(|entry| entry.act).collect::<Vec<_>>()
    };
    assert_eq!(
        acts(&world.key_records),
        [
            "owner-secret.imported",
            "redirect.signed",
            "ownership.commanded",
            "ownership.confirmed",
            "channel-keys.sent",
            "device.state"
        ]
    );
    assert_eq!(acts(&world.register), ["device.registered", "device.installing", "device.operating"]);
    assert_eq!(acts(&world.init_records), ["redirect.stored"]);
    let attested = device_entry(&world).attested_at;
    assert!(attested >= START && attested <= UtcTime(world.utc().0));
}

#[test]
fn the_active_keys_are_tried_however_many_were_sent_and_lost_since() {
    let mut world = onboarded();
    let first = world.seal_apdu(0, b"first");
    assert!(is_fresh(&world.open_apdu(&first)));
    let mut entry = device_entry(&world);
    assert_eq!(entry.active_version, 1);
    entry.channel_version = 9;
    put(&mut world.key_records, DEVICES, entry.device.as_bytes(), &entry);
    let second = world.seal_apdu(1, b"second");
    assert!(is_fresh(&world.open_apdu(&second)));
}

#[test]
fn a_credential_goes_to_the_registered_endorsement_key_only() {
    let hello = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let seen = std::rc::Rc::clone(&hello);
    let mut world = World::new();
    let before = world.key_records.clone();
    world.replace(Leg::Session(Step::HELLO), move |_, wire| {
        *seen.borrow_mut() = wire.to_vec();
        wire.to_vec()
    });
    world.start();
    world.run();
    assert!(world.is_confirmed());
    world.key_records = before;
    let right = gridseal_trust::tpm::endorsement_key(&world.entry().ek_pub.0).unwrap().bytes().to_vec();
    let other = *gridseal_crypto::Signer::public(
        &support::signing_key::<gridseal_crypto::role::OwnerSigning>("another TPM"),
    )
    .point();
    let ask = |endorsement: Vec<u8>| {
        KeyRequest::Challenge(Challenge {
            c1: hello.borrow().clone(),
            endorsement,
            ak_name: gridseal_types::EkName([0; 34]),
            suites: vec![1],
            pcr_selection: vec![],
            ima_next: 0,
            voucher_head: gridseal_types::Digest([0; 32]),
        })
    };
    assert_eq!(refusal(&world.decide(ask(other.to_vec()))), Some(Code::Endorsement));
    assert!(matches!(world.decide(ask(right)), KeyReply::Sealed { .. }));
}

/// Numbers of the data keys under which the envelopes of all records are.
fn data_keys_in_use(world: &World) -> Vec<u64> {
    let rows =
        |table| world.key_records.range(table, &[], 1_000).unwrap().into_iter().map(|(_, value)| value);
    let mut envelopes: Vec<Bytes> = Vec::new();
    for row in rows(DEVICES) {
        let entry: DeviceEntry = minicbor::decode(&row).unwrap();
        envelopes.push(entry.secret);
        envelopes.extend(entry.auth.into_iter().flatten());
    }
    for row in rows(SESSIONS) {
        let entry: gridseal_keys::record::SessionEntry = minicbor::decode(&row).unwrap();
        envelopes.push(entry.activation);
        envelopes.extend(entry.salts);
        envelopes.extend(entry.commands.into_iter().flatten().map(|tunnel| tunnel.session_key));
    }
    for row in rows(VERSIONS) {
        envelopes.push(minicbor::decode::<VersionEntry>(&row).unwrap().envelope);
    }
    assert!(envelopes.len() > 9, "devices, a session and channels");
    envelopes.into_iter().map(|bytes| WrappedKey(bytes.0).data_key_id().unwrap()).collect()
}

/// The world's key service under a second data key.
fn renew_data_keys(world: &mut World) {
    let (kek, tenant) = (Key::take(&mut [5; 32]), *b"tenant of tests\0");
    let mut file = DataKeysFile::new();
    let mut rng = TestRng::new("data keys", 0);
    file.renew(&kek, tenant, START, &mut rng).unwrap();
    file.renew(&kek, tenant, START, &mut rng).unwrap();
    let keys = file.open(&kek, tenant).unwrap();
    world.keys = Owner::new(1).open_keys(&Factory::new()).with_data_keys(keys);
}

#[test]
fn everything_under_a_former_data_key_moves_on_row_by_row_and_still_opens() {
    let (mut world, _) = half_installed();
    world.run();
    assert!(world.is_confirmed());
    second_device(&mut world);
    renew_data_keys(&mut world);
    let apdu = world.seal_apdu(1, b"under an envelope of the former key");
    assert!(is_fresh(&world.open_apdu(&apdu)));
    let mut rng = TestRng::new("rewrap", 0);
    let mut steps = 0;
    let (moved, left) = loop {
        let now = world.utc();
        let step = world.keys.rewrap_step(&world.key_records, now, &mut rng, 1).unwrap();
        world.key_records.commit(step.writes).unwrap();
        steps += 1;
        let ids = data_keys_in_use(&world);
        assert_eq!(ids.iter().filter(|id| **id == 2).count() as u64, step.moved, "step {steps}");
        // The service works on, whatever was moved already.
        let apdu = world.seal_apdu(1 + steps, b"in between");
        assert!(is_fresh(&world.open_apdu(&apdu)), "step {steps}");
        if step.is_done {
            break (step.moved, step.left);
        }
    };
    let ids = data_keys_in_use(&world);
    assert!(ids.iter().all(|id| *id == 2), "{ids:?}");
    assert_eq!((moved, left), (ids.len() as u64, 0));
    let again = world.keys.rewrap_step(&world.key_records, world.utc(), &mut NoRng, 1).unwrap();
    assert!(again.is_done && again.writes.is_empty());
    let entries = world.key_records.range(AUDIT, &[], 1_000).unwrap();
    let end = end(&world.key_records).unwrap();
    let chain = verify_chain(entries.iter().map(|(_, value)| value.as_slice()), end).unwrap();
    let told = chain.iter().find(|entry| entry.act == "data-key.rewrapped").unwrap();
    assert_eq!((told.subject.as_str(), told.detail.as_str()), ("2", moved.to_string().as_str()));
}

#[test]
fn an_envelope_in_another_row_stops_the_move_instead_of_being_made_good() {
    let mut world = onboarded();
    let (other, _) = second_device(&mut world);
    let own = device_entry(&world);
    let row = world.key_records.get(DEVICES, other.ek_name.as_bytes()).unwrap().unwrap();
    let mut moved: DeviceEntry = minicbor::decode(&row).unwrap();
    moved.secret = own.secret;
    put(&mut world.key_records, DEVICES, other.ek_name.as_bytes(), &moved);
    renew_data_keys(&mut world);
    let mut rng = TestRng::new("rewrap", 0);
    let step = world.keys.rewrap_step(&world.key_records, world.utc(), &mut rng, 100);
    assert!(matches!(step, Err(KeysError::Keystore)));
}

#[test]
fn s10_an_act_whose_audit_entry_cannot_be_written_is_not_done() {
    let mut world = onboarded();
    let (device, attested_at) = (world.device_name(), world.entry().attested_at);
    let request = || KeyRequest::SetState { device, state: DeviceState::Suspended, attested_at };
    assert!(world.keys.decide(&world.key_records, world.utc(), &mut NoRng, vec![request()]).is_ok());
    put(&mut world.key_records, "audit_head", &[], &"no head");
    let done = world.keys.decide(&world.key_records, world.utc(), &mut NoRng, vec![request()]);
    assert!(matches!(done, Err(KeysError::Records(_))), "neither writes nor a reply");
}
