//! The local performer: vectors of the standard, counters, keys of both sizes.

use std::cell::RefCell;

use gridseal_crypto::{Key, hls::Secret};
use gridseal_dlms::{
    acse::Mechanism,
    apdu::carrier::{Carrier, Signing},
    assoc::{AssociationHandle, CryptoFault, Done, Operation, PeerChallenge, Protection},
    suite::local::{
        CounterStore, CounterStoreError, KeyCounters, KeyRing, KeySet, LocalCrypto, LocalSettings, NewKeys,
        Ports, VolatileCounters,
    },
};
use gridseal_types::SystemTitle;

use crate::pair::{CLIENT_TITLE, HANDLE, SERVER_TITLE, TestRng, local, local_signing, ring};

fn perform(crypto: &mut LocalCrypto, operation: &Operation) -> Result<Vec<u8>, CryptoFault> {
    let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut TestRng(3) };
    match crypto.perform(HANDLE, operation, &mut ports)? {
        Done::Bytes(bytes) => Ok(bytes),
        Done::Opened { plain, .. } => Ok(plain),
        _ => Ok(vec![]),
    }
}

fn seal(carrier: Carrier, protection: Protection, apdu: &str) -> Operation {
    let apdu = hex::decode(apdu).unwrap();
    Operation::Seal { carrier, protection, signing: Signing::None, peer: None, apdu }
}

//= DLMS 5.3: the nonce is system title and counter, the associated data control octet and authentication key
//= DLMS 12.8: the control octet says what is done
#[test]
fn all_protections_and_carriers_give_the_vectors_of_the_fact_sheet() {
    let get = "c0010000080000010000ff0200";
    let sealed = |crypto: &mut LocalCrypto, carrier, protection| {
        hex::encode(perform(crypto, &seal(carrier, protection, get)).unwrap())
    };
    let at = || local(SERVER_TITLE, 0x0123_4567);
    assert_eq!(
        sealed(&mut at(), Carrier::Glo, Protection::AuthenticatedEncrypted),
        "c81e3001234567411312ff935a47566827c467bc7d825c3be4a77c3fcc056b6b"
    );
    assert_eq!(
        sealed(&mut at(), Carrier::GeneralGlo, Protection::AuthenticatedEncrypted),
        "db084d4d4d0000bc614e1e3001234567411312ff935a47566827c467bc7d825c3be4a77c3fcc056b6b"
    );
    assert_eq!(
        sealed(&mut at(), Carrier::Glo, Protection::Authenticated),
        format!("c81e1001234567{get}06725d910f9221d263877516")
    );
    let refused = perform(&mut at(), &seal(Carrier::Glo, Protection::Encrypted, get));
    assert!(matches!(refused, Err(CryptoFault::SecurityControl(_))), "no tag: refused by default");
    let settings = LocalSettings { danger_unauthenticated: true, ..LocalSettings::server(0, SERVER_TITLE) };
    let mut danger = LocalCrypto::new(settings, ring(), 0x0123_4567);
    assert_eq!(
        sealed(&mut danger, Carrier::Glo, Protection::Encrypted),
        "c8122001234567411312ff935a47566827c467bc"
    );
}

#[test]
fn suite_2_has_keys_of_32_bytes() {
    let keys = KeyRing::<32>::new(
        Key::take(&mut std::array::from_fn(|index| index as u8)),
        Key::take(&mut std::array::from_fn(|index| 0xD0 + index as u8)),
    );
    let mut crypto = LocalCrypto::new(LocalSettings::server(2, SERVER_TITLE), keys, 0x0123_4567);
    let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut TestRng(3) };
    let operation = seal(Carrier::Glo, Protection::AuthenticatedEncrypted, "c0010000080000010000ff0200");
    let Ok(Done::Bytes(sealed)) = crypto.perform(HANDLE, &operation, &mut ports) else { panic!() };
    assert_eq!(hex::encode(sealed), "c81e3201234567e82b2ad3ee8c12a6fb27038f08442193498c6a53de55eeb9d2");
}

//= DLMS 4: the counter of mechanism 5 is drawn from the sequence of the global key
//= DLMS 4: the control octet of mechanism 5 says authentication only
#[test]
fn gmac_replies_are_those_of_the_green_book() {
    let (of_server, of_client) = (b"P6wRJ21F".to_vec(), b"K56iVagY".to_vec());
    let peer = |title, challenge: &[u8]| PeerChallenge {
        mechanism: Mechanism::Gmac,
        title: Some(title),
        challenge: challenge.to_vec(),
    };
    let mut client = local(CLIENT_TITLE, 1);
    let pass_3 = perform(&mut client, &Operation::HlsReply(peer(SERVER_TITLE, &of_server))).unwrap();
    assert_eq!(hex::encode(pass_3), "10000000011a52fe7dd3e72748973c1e28");
    let mut server = local(SERVER_TITLE, 0x0123_4567);
    let pass_4 = perform(&mut server, &Operation::HlsReply(peer(CLIENT_TITLE, &of_client))).unwrap();
    assert_eq!(hex::encode(pass_4), "1001234567fe1466afb3dbcd4f9389e2b7");
}

//= DLMS 3.4: the initiate is protected with the global key, also when it delivers a dedicated one
//= DLMS 5.4: a dedicated key has the size of the suite's keys
#[test]
fn the_initiate_of_the_fact_sheet_opens_and_its_dedicated_key_stays_with_the_performer() {
    let mut server = local(CLIENT_TITLE, 0);
    let apdu = hex::decode("21303001234567801302ff8a7874133d414ced25b42534d28db0047720606b175bd52211be6841db204d39ee6fdb8e356855").unwrap();
    let plain = perform(&mut server, &Operation::OpenInitiate { apdu, peer: SERVER_TITLE }).unwrap();
    assert_eq!(hex::encode(&plain), "01000000065f1f0400007e1f04b0");
    assert!(
        perform(&mut server, &seal(Carrier::Ded, Protection::AuthenticatedEncrypted, "c401c100")).is_ok()
    );
    let mut other = local(CLIENT_TITLE, 0);
    let sealed = perform(&mut other, &seal(Carrier::Ded, Protection::AuthenticatedEncrypted, "c401c100"));
    assert_eq!(sealed, Err(CryptoFault::NoKey));
}

#[test]
fn the_broadcast_of_the_fact_sheet_is_sealed_and_opened() {
    let mut sender = local(CLIENT_TITLE, 0);
    sender.resume_broadcast(16);
    let plain = hex::decode("c3010046000060030aff01010f00").unwrap();
    let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut TestRng(3) };
    let Ok(Done::Bytes(sealed)) = sender.seal_broadcast(Carrier::Glo, &plain, &mut ports) else { panic!() };
    assert_eq!(hex::encode(&sealed), "cb1f70000000104d903005d61ca6eb140bcf8546e1f3806a4411f08b468646c6e1");
    let mut receiver = local(SERVER_TITLE, 0);
    let open =
        |is_broadcast| Operation::Open { apdu: sealed.clone(), peer: Some(CLIENT_TITLE), is_broadcast };
    assert!(matches!(perform(&mut receiver, &open(false)), Err(CryptoFault::KeySet(_))));
    assert_eq!(perform(&mut receiver, &open(true)), Ok(plain));
    assert!(matches!(perform(&mut receiver, &open(true)), Err(CryptoFault::Counter { .. })));
}

//= DLMS 4: a password is sent in clear and changed without the master key: it is nobody's secret but its own
#[test]
fn a_new_password_changes_no_secret_and_a_new_secret_no_password() {
    let secret = |text: &[u8]| Some(gridseal_crypto::hls::Secret::take(&mut text.to_vec()));
    let knows = |crypto: &mut LocalCrypto, password: &[u8]| {
        perform(crypto, &Operation::CheckPassword(password.to_vec())).is_ok()
    };
    // Whether the reply of mechanism 6 is that of the first secret.
    let replies = |crypto: &mut LocalCrypto, verifier: &mut LocalCrypto| {
        let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut TestRng(4) };
        let own = verifier.perform(HANDLE, &Operation::Challenge(Mechanism::Sha256), &mut ports);
        let Ok(Done::Bytes(own)) = own else { panic!() };
        let theirs = perform(crypto, &Operation::Challenge(Mechanism::Sha256)).unwrap();
        let peer =
            |title, challenge| PeerChallenge { mechanism: Mechanism::Sha256, title: Some(title), challenge };
        let reply = perform(crypto, &Operation::HlsReply(peer(SERVER_TITLE, own))).unwrap();
        let verify = Operation::HlsVerify { peer: peer(CLIENT_TITLE, theirs), reply };
        perform(verifier, &verify).is_ok()
    };
    let mut verifier = local(SERVER_TITLE, 0);
    let mut crypto = local(CLIENT_TITLE, 0);
    assert!(knows(&mut crypto, b"DLMSsecret123456") && replies(&mut crypto, &mut verifier));
    crypto.replace(NewKeys { password: secret(b"1"), ..NewKeys::default() });
    assert!(knows(&mut crypto, b"1") && !knows(&mut crypto, b"DLMSsecret123456"));
    assert!(replies(&mut crypto, &mut verifier), "the secret is what it was");
    let mut crypto = local(CLIENT_TITLE, 0);
    crypto.replace(NewKeys { secret: secret(b"another secret!!"), ..NewKeys::default() });
    assert!(knows(&mut crypto, b"DLMSsecret123456") && !knows(&mut crypto, b"another secret!!"));
    assert!(!replies(&mut crypto, &mut verifier));
}

//= DLMS 5.9: a forged or foreign counter locks nobody out
#[test]
fn holders_of_the_broadcast_key_take_no_room_from_the_client() {
    let mut receiver = local(SERVER_TITLE, 0);
    let set = hex::decode("c3010046000060030aff01010f00").unwrap();
    for number in 0..70_u8 {
        let mut sender = local(SystemTitle([0x4D, 0x4D, 0x4D, 0, 0, 0, 1, number]), 0);
        let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut TestRng(3) };
        let sealed = sender.seal_broadcast(Carrier::GeneralGlo, &set, &mut ports).unwrap();
        let Done::Bytes(apdu) = sealed else { panic!() };
        let opened = perform(&mut receiver, &Operation::Open { apdu, peer: None, is_broadcast: true });
        assert_eq!(opened.is_ok(), number < 64, "broadcasters have a bound of their own: {number}");
    }
    let mut client = local(CLIENT_TITLE, 0);
    let apdu =
        perform(&mut client, &seal(Carrier::Glo, Protection::AuthenticatedEncrypted, "c001c100")).unwrap();
    let open = Operation::Open { apdu, peer: Some(CLIENT_TITLE), is_broadcast: false };
    assert!(perform(&mut receiver, &open).is_ok());
}

/// Writes down what was stored, and can fail.
#[derive(Default)]
struct Log {
    reserved: Vec<u64>,
    accepted: Vec<u32>,
    transactions: Vec<u64>,
    fails: bool,
}

/// A handle on the log.
struct Store<'l>(&'l RefCell<Log>);

impl CounterStore for Store<'_> {
    fn reserve(&mut self, _: KeySet, end: u64) -> Result<(), CounterStoreError> {
        let mut log = self.0.borrow_mut();
        log.reserved.push(end);
        if log.fails { Err(CounterStoreError) } else { Ok(()) }
    }

    fn accepted(&mut self, _: KeySet, _: SystemTitle, counter: u32) -> Result<(), CounterStoreError> {
        let mut log = self.0.borrow_mut();
        log.accepted.push(counter);
        if log.fails { Err(CounterStoreError) } else { Ok(()) }
    }

    fn reserve_transactions(&mut self, end: u64) -> Result<(), CounterStoreError> {
        let mut log = self.0.borrow_mut();
        log.transactions.push(end);
        if log.fails { Err(CounterStoreError) } else { Ok(()) }
    }

    fn accepted_transaction(&mut self, _: SystemTitle, id: u64) -> Result<(), CounterStoreError> {
        let mut log = self.0.borrow_mut();
        log.transactions.push(id);
        if log.fails { Err(CounterStoreError) } else { Ok(()) }
    }
}

//= DLMS 5.9: sending counters are durable before use and never go down
#[test]
fn nothing_is_sealed_or_handed_out_before_its_counter_is_durable() {
    let log = RefCell::new(Log::default());
    let mut store = Store(&log);
    let mut rng = TestRng(1);
    let mut sender = local(CLIENT_TITLE, 1_000);
    let mut receiver = local(SERVER_TITLE, 0);
    let operation = seal(Carrier::Glo, Protection::AuthenticatedEncrypted, "c0010000080000010000ff0200");
    log.borrow_mut().fails = true;
    let mut ports = Ports { counters: &mut store, rng: &mut rng };
    assert_eq!(sender.perform(HANDLE, &operation, &mut ports), Err(CryptoFault::Unavailable));
    log.borrow_mut().fails = false;
    let mut sent = vec![];
    for _ in 0..300 {
        let mut ports = Ports { counters: &mut store, rng: &mut rng };
        let Ok(Done::Bytes(apdu)) = sender.perform(HANDLE, &operation, &mut ports) else { panic!() };
        let counter = u32::from_be_bytes(apdu[3..7].try_into().unwrap());
        assert!(u64::from(counter) < *log.borrow().reserved.last().unwrap());
        sent.push(apdu);
    }
    log.borrow_mut().fails = true;
    let open = Operation::Open { apdu: sent[0].clone(), peer: Some(CLIENT_TITLE), is_broadcast: false };
    let mut ports = Ports { counters: &mut store, rng: &mut rng };
    assert_eq!(receiver.perform(HANDLE, &open, &mut ports), Err(CryptoFault::Unavailable));
    assert_eq!(receiver.last_received(KeySet::Unicast, CLIENT_TITLE), None);
    log.borrow_mut().fails = false;
    let mut ports = Ports { counters: &mut store, rng: &mut rng };
    assert!(receiver.perform(HANDLE, &open, &mut ports).is_ok());
    assert_eq!(log.borrow().accepted.last(), Some(&1_000));
}

#[test]
fn an_exhausted_counter_refuses_and_never_wraps() {
    let mut crypto = local(CLIENT_TITLE, u64::from(u32::MAX));
    let operation = seal(Carrier::Glo, Protection::AuthenticatedEncrypted, "c001c100");
    assert!(perform(&mut crypto, &operation).is_ok());
    assert_eq!(perform(&mut crypto, &operation), Err(CryptoFault::Exhausted));
}

#[test]
fn associations_and_peers_are_bounded() {
    let mut crypto = local(SERVER_TITLE, 0);
    let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut TestRng(3) };
    let operation = Operation::Challenge(Mechanism::Gmac);
    let refused =
        (0..1_000).filter(|n| crypto.perform(AssociationHandle(*n), &operation, &mut ports).is_err()).count();
    assert_eq!(refused, 1_000 - 64);
    crypto.perform(AssociationHandle(3), &Operation::End, &mut ports).unwrap();
    assert!(crypto.perform(AssociationHandle(5_000), &operation, &mut ports).is_ok());
}

//= DLMS 4: mechanism 2 is recognised and refused
#[test]
fn the_manufacturers_mechanism_is_refused_by_name() {
    let mut crypto = local(SERVER_TITLE, 0);
    let refused = perform(&mut crypto, &Operation::Challenge(Mechanism::Manufacturer)).unwrap_err();
    assert_eq!(refused.to_string(), "mechanism 2 is not spoken here");
    let settings = gridseal_dlms::assoc::client::ClientSettings {
        mechanism: Mechanism::Manufacturer,
        ..gridseal_dlms::assoc::client::ClientSettings::public()
    };
    assert!(gridseal_dlms::assoc::client::Client::new(settings, HANDLE).is_err());
}

//= DLMS 12.2: no secret is printed
#[test]
fn debug_of_operations_results_and_performer_shows_no_secret() {
    let mut crypto = local(SERVER_TITLE, 0);
    let challenge = perform(&mut crypto, &Operation::Challenge(Mechanism::Sha256)).unwrap();
    let operations = [
        Operation::CheckPassword(b"SECRETSECRET".to_vec()),
        Operation::SealInitiate { apdu: b"SECRETSECRET".to_vec(), dedicated: true },
        seal(Carrier::Glo, Protection::AuthenticatedEncrypted, &hex::encode("SECRETSECRET")),
    ];
    let secret = Secret::take(&mut b"SECRETSECRET".to_vec());
    let done = Done::Bytes(b"SECRETSECRET".to_vec());
    let text = format!("{operations:?} {secret:?} {done:?} {:?}", ring());
    assert!(!text.contains("SECRET") && !text.contains("83, 69, 67") && !text.contains("208, 209"), "{text}");
    assert_eq!(challenge.len(), 32);
}

//= DLMS 12.3: challenges come from the cryptographic generator
#[test]
fn a_failed_generator_gives_no_challenge() {
    struct Broken;
    impl gridseal_crypto::Rng for Broken {
        fn fill(&mut self, _: &mut [u8]) -> Result<(), gridseal_crypto::RngError> {
            Err(gridseal_crypto::RngError)
        }
    }
    let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut Broken };
    let outcome = local(SERVER_TITLE, 0).perform(HANDLE, &Operation::Challenge(Mechanism::Gmac), &mut ports);
    assert_eq!(outcome, Err(CryptoFault::Unavailable));
}

//= DLMS 12.17: a hint never lowers the own counter and never moves it far
#[test]
fn a_hint_never_lowers_a_counter_and_never_burns_the_key() {
    let mut crypto = local(CLIENT_TITLE, 1_000);
    let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut TestRng(3) };
    let counter = |crypto: &mut LocalCrypto| {
        let sealed =
            perform(crypto, &seal(Carrier::Glo, Protection::AuthenticatedEncrypted, "c001c100")).unwrap();
        u32::from_be_bytes(sealed[3..7].try_into().unwrap())
    };
    crypto.follow_hint(5, &mut ports).unwrap();
    assert_eq!(counter(&mut crypto), 1_000);
    crypto.follow_hint(7_000, &mut ports).unwrap();
    assert_eq!(counter(&mut crypto), 7_001);
    let far = crypto.follow_hint(0xFFFF_FFF0, &mut ports);
    assert!(matches!(far, Err(CryptoFault::Counter { .. })));
    assert_eq!(counter(&mut crypto), 7_002);
    crypto.resume_received(KeySet::Unicast, SERVER_TITLE, 50);
    crypto.resume_received(KeySet::Unicast, SERVER_TITLE, 10);
    assert_eq!(crypto.last_received(KeySet::Unicast, SERVER_TITLE), Some(50), "nor is the peer's");
}

//= DLMS 6.2: the counters of a changed key begin again, those of a known key go on
#[test]
fn a_replaced_key_has_its_own_counters_and_the_old_one_opens_nothing() {
    let sealed = |crypto: &mut LocalCrypto| {
        perform(crypto, &seal(Carrier::Glo, Protection::AuthenticatedEncrypted, "C001C1000800")).unwrap()
    };
    let counter = |apdu: &[u8]| u32::from_be_bytes(apdu[3..7].try_into().unwrap());
    let open =
        |apdu: &[u8]| Operation::Open { apdu: apdu.to_vec(), peer: Some(CLIENT_TITLE), is_broadcast: false };
    let (mut client, mut server) = (local(CLIENT_TITLE, 100), local(SERVER_TITLE, 5_000));
    let old = sealed(&mut client);
    assert!(perform(&mut server, &open(&old)).is_ok());
    let replace = |crypto: &mut LocalCrypto, counters| {
        crypto.replace(NewKeys { guek: Some((Key::take(&mut [9; 16]), counters)), ..NewKeys::default() });
    };
    replace(&mut server, KeyCounters::default());
    let late = sealed(&mut client);
    assert_eq!(perform(&mut server, &open(&late)), Err(CryptoFault::Tag));
    replace(&mut client, KeyCounters::default());
    let first = sealed(&mut client);
    assert_eq!((counter(&first), counter(&sealed(&mut server))), (0, 0));
    assert!(perform(&mut server, &open(&first)).is_ok(), "its counters begin again");
    // The first key comes back: what was accepted under it stays accepted.
    let received = [(CLIENT_TITLE, counter(&old))].into();
    let known = KeyCounters { sending_end: 5_256, received };
    server.replace(NewKeys { guek: Some((ring().guek, known)), ..NewKeys::default() });
    assert!(matches!(perform(&mut server, &open(&old)), Err(CryptoFault::Counter { .. })));
    assert_eq!(counter(&sealed(&mut server)), 5_256);
}

//= DLMS 12.15: what is decrypted without verification is called so, and no machine does it
#[test]
fn decryption_without_verification_is_a_mode_of_its_own() {
    let guek = ring().guek;
    let ciphertext = hex::decode("411312ff935a47566827c467bc").unwrap();
    let plain =
        gridseal_crypto::apdu::danger_decrypt_unverified(&guek, SERVER_TITLE, 0x0123_4567, &ciphertext)
            .unwrap();
    assert_eq!(hex::encode(&plain), "c0010000080000010000ff0200");
    // The same APDU with a tag that is missing or wrong opens nowhere else.
    let mut receiver = local(CLIENT_TITLE, 0);
    for apdu in [
        "c8122001234567411312ff935a47566827c467bc",
        "c8123001234567411312ff935a47566827c467bc",
        "c81e3001234567411312ff935a47566827c467bc7d825c3be4a77c3fcc056b6c",
    ] {
        let apdu = hex::decode(apdu).unwrap();
        let open = Operation::Open { apdu, peer: Some(SERVER_TITLE), is_broadcast: false };
        assert!(perform(&mut receiver, &open).is_err());
    }
}

/// What a protected vector is opened with, and what must be refused about it.
#[test]
fn every_flipped_bit_of_every_protected_vector_is_refused_and_no_counter_moves() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/dlms");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let vector: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
        let text = |field: &str| vector.get(field).and_then(|value| value.as_str());
        let is_protected = matches!(text("kind"), Some("glo" | "general_glo")) && text("expect").is_some();
        let standard_keys = text("guek") == Some("000102030405060708090a0b0c0d0e0f");
        if !is_protected || !standard_keys {
            continue;
        }
        count += 1;
        let apdu = hex::decode(text("input").unwrap()).unwrap();
        let peer = SystemTitle::from_slice(&hex::decode(text("originator").unwrap()).unwrap());
        let open = |apdu: &[u8]| Operation::Open { apdu: apdu.to_vec(), peer, is_broadcast: false };
        let mut receiver = local(SystemTitle(*b"OWN\0\0\0\0\x01"), 0);
        for bit in 0..8 * apdu.len() {
            let mut forged = apdu.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(perform(&mut receiver, &open(&forged)).is_err(), "bit {bit}");
            assert_eq!(receiver.last_received(KeySet::Unicast, peer.unwrap()), None);
        }
        assert_eq!(perform(&mut receiver, &open(&apdu)), Ok(hex::decode(text("expect").unwrap()).unwrap()));
    }
    assert!(count >= 3, "{count} vectors");
}

fn peer(mechanism: Mechanism, title: SystemTitle, challenge: &[u8]) -> PeerChallenge {
    PeerChallenge { mechanism, title: Some(title), challenge: challenge.to_vec() }
}

//= DLMS 4: each challenge is used once, right or wrong
#[test]
fn a_challenge_is_used_up_by_the_first_reply() {
    let mut server = local(SERVER_TITLE, 0);
    let challenge = perform(&mut server, &Operation::Challenge(Mechanism::Gmac)).unwrap();
    let mut client = local(CLIENT_TITLE, 10);
    let reply =
        perform(&mut client, &Operation::HlsReply(peer(Mechanism::Gmac, SERVER_TITLE, &challenge))).unwrap();
    let verify = |reply: &[u8]| Operation::HlsVerify {
        peer: peer(Mechanism::Gmac, CLIENT_TITLE, b"challenge of the client"),
        reply: reply.to_vec(),
    };
    assert!(perform(&mut server, &verify(&reply[..16])).is_err());
    assert_eq!(perform(&mut server, &verify(&reply)), Err(CryptoFault::Authentication), "too late");
    let challenge = perform(&mut server, &Operation::Challenge(Mechanism::Gmac)).unwrap();
    let reply =
        perform(&mut client, &Operation::HlsReply(peer(Mechanism::Gmac, SERVER_TITLE, &challenge))).unwrap();
    assert!(perform(&mut server, &verify(&reply)).is_ok());
    assert!(perform(&mut server, &verify(&reply)).is_err(), "nor twice");
}

//= DLMS 4: mechanism 7 signs titles and challenges, r and s as they are
#[test]
fn signatures_of_mechanism_7_are_checked_bit_by_bit_and_by_their_owner() {
    let of_client = [0xC1; 32];
    let mut client = local_signing(CLIENT_TITLE, 0);
    perform(&mut client, &Operation::Challenge(Mechanism::Ecdsa)).unwrap();
    let mut server = local_signing(SERVER_TITLE, 0);
    let sign = |client: &mut LocalCrypto, challenge: &[u8]| {
        perform(client, &Operation::HlsReply(peer(Mechanism::Ecdsa, SERVER_TITLE, challenge))).unwrap()
    };
    let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut TestRng(77) };
    let mut challenge = |server: &mut LocalCrypto| {
        let operation = Operation::Challenge(Mechanism::Ecdsa);
        let Ok(Done::Bytes(challenge)) = server.perform(HANDLE, &operation, &mut ports) else { panic!() };
        challenge
    };
    let verify = |title, of_client: &[u8], reply: &[u8]| Operation::HlsVerify {
        peer: peer(Mechanism::Ecdsa, title, of_client),
        reply: reply.to_vec(),
    };
    let own = perform(&mut local_signing(CLIENT_TITLE, 0), &Operation::Challenge(Mechanism::Ecdsa)).unwrap();
    let of_server = challenge(&mut server);
    let reply = sign(&mut client, &of_server);
    assert_eq!(reply.len(), 64, "r and s, no DER");
    assert!(perform(&mut server, &verify(CLIENT_TITLE, &own, &reply)).is_ok());
    for bit in (0..512).step_by(7) {
        let of_server = challenge(&mut server);
        let mut forged = sign(&mut client, &of_server);
        forged[bit / 8] ^= 1 << (bit % 8);
        assert!(perform(&mut server, &verify(CLIENT_TITLE, &own, &forged)).is_err(), "bit {bit}");
    }
    let of_server = challenge(&mut server);
    let reply = sign(&mut client, &of_server);
    assert!(perform(&mut server, &verify(CLIENT_TITLE, &of_client, &reply)).is_err(), "another challenge");
    let of_server = challenge(&mut server);
    let reply = sign(&mut client, &of_server);
    let stranger = SystemTitle(*b"XXX\0\0\0\0\x09");
    assert_eq!(perform(&mut server, &verify(stranger, &own, &reply)), Err(CryptoFault::NoKey));
    let of_server = challenge(&mut server);
    let reply = sign(&mut client, &of_server);
    assert!(perform(&mut server, &verify(CLIENT_TITLE, &own, &reply[..63])).is_err());
    let mut without = LocalCrypto::new(LocalSettings::server(0, SERVER_TITLE), ring(), 0);
    let refused = perform(&mut without, &Operation::Challenge(Mechanism::Ecdsa));
    assert_eq!(refused, Err(CryptoFault::Mechanism(Mechanism::Ecdsa)));
}

#[test]
fn a_peer_with_our_own_challenge_is_refused_even_with_the_right_reply() {
    // Both draw from the same seed.
    let (mut server, mut client) = (local(SERVER_TITLE, 0), local(CLIENT_TITLE, 0));
    let own = perform(&mut server, &Operation::Challenge(Mechanism::Sha256)).unwrap();
    assert_eq!(perform(&mut client, &Operation::Challenge(Mechanism::Sha256)), Ok(own.clone()));
    let reply =
        perform(&mut client, &Operation::HlsReply(peer(Mechanism::Sha256, SERVER_TITLE, &own))).unwrap();
    let verify = Operation::HlsVerify { peer: peer(Mechanism::Sha256, CLIENT_TITLE, &own), reply };
    assert_eq!(perform(&mut server, &verify), Err(CryptoFault::Authentication));
}

//= DLMS 4: the control octet of mechanism 5 says authentication only
#[test]
fn a_gmac_reply_under_another_control_octet_is_refused() {
    for control in [0x00, 0x11, 0x20, 0x30, 0x50, 0x90] {
        let mut server = local(SERVER_TITLE, 0);
        let challenge = perform(&mut server, &Operation::Challenge(Mechanism::Gmac)).unwrap();
        let keys = ring();
        let header = gridseal_crypto::apdu::Header { originator: CLIENT_TITLE, security_control: control };
        let mut counter = gridseal_crypto::InvocationCounter::resume(5);
        counter.extend(counter.reserve(1).unwrap());
        let ticket = counter.take().unwrap();
        let tag = gridseal_crypto::apdu::gmac(&keys.guek, &keys.gak, header, ticket, &challenge).unwrap();
        let reply = [&[control, 0, 0, 0, 5][..], &tag].concat();
        let verify = Operation::HlsVerify { peer: peer(Mechanism::Gmac, CLIENT_TITLE, b"another"), reply };
        assert_eq!(perform(&mut server, &verify), Err(CryptoFault::Authentication), "{control:02x}");
    }
}
