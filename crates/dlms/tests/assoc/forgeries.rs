//! What is refused: forged, repeated, reflected, downgraded, weak.

use gridseal_dlms::{
    acse::{Aare, Aarq, Mechanism},
    apdu::carrier::{Carrier, Signing},
    assoc::{
        CryptoFault, Done, Operation, Protection,
        client::{self, ClientSettings, Request, Response},
        server::{self, ServerSettings},
        table::{ClientState, ServerState},
    },
    suite::local::{KeySet, LocalCrypto, Ports, VolatileCounters},
    wire::Data,
};
use gridseal_types::SystemTitle;

use crate::pair::{CLIENT_TITLE, CLOCK, Direction, ENERGY, HANDLE, PROFILE, Pair, SERVER_TITLE, TestRng};

const MECHANISMS: [Mechanism; 4] = [Mechanism::None, Mechanism::LowLevel, Mechanism::Gmac, Mechanism::Sha256];

fn last_refusal(pair: &Pair) -> server::Refusal {
    match pair.at_server.last() {
        Some(server::Event::Refused(refusal)) => *refusal,
        other => panic!("{other:?}"),
    }
}

/// The next protected request of the client, caught before it arrives.
fn caught_request(pair: &mut Pair) -> Vec<u8> {
    let line = std::mem::replace(&mut pair.line, Box::new(|_, _| vec![]));
    pair.input(client::Input::Request(Request::Get(ENERGY, None)));
    pair.line = line;
    pair.wire.last().unwrap().1.clone()
}

//= DLMS 12.1: the tag is compared, whatever bit is flipped
#[test]
fn every_flipped_bit_of_a_request_is_refused_and_the_true_one_still_serves() {
    for carrier in [Carrier::Glo, Carrier::Ded, Carrier::GeneralGlo, Carrier::GeneralDed] {
        let settings = ClientSettings { carrier, ..ClientSettings::ciphered(CLIENT_TITLE, Mechanism::Gmac) };
        let server = ServerSettings::ciphered(1, SERVER_TITLE, Mechanism::Gmac);
        let mut pair = Pair::new(settings, server).associated();
        let request = caught_request(&mut pair);
        let last = pair.server_crypto.last_received(KeySet::Unicast, CLIENT_TITLE);
        for bit in 0..8 * request.len() {
            let mut forged = request.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            pair.give_server(&forged);
            assert_eq!(pair.objects.calls, 0, "{carrier:?} bit {bit}");
            assert_eq!(pair.server.state(), ServerState::Associated);
        }
        assert_eq!(pair.server_crypto.last_received(KeySet::Unicast, CLIENT_TITLE), last);
        pair.give_server(&request);
        assert_eq!(pair.objects.calls, 1, "{carrier:?}");
    }
}

//= DLMS 12.1: the tag is compared, whatever bit is flipped
#[test]
fn every_flipped_bit_of_a_response_is_refused_and_the_true_one_is_still_taken() {
    for carrier in [Carrier::Glo, Carrier::GeneralDed] {
        let settings = ClientSettings { carrier, ..ClientSettings::ciphered(CLIENT_TITLE, Mechanism::Gmac) };
        let server = ServerSettings::ciphered(1, SERVER_TITLE, Mechanism::Gmac);
        let mut pair = Pair::new(settings, server).associated();
        pair.line =
            Box::new(|direction, apdu| if direction == Direction::ToServer { vec![apdu] } else { vec![] });
        pair.input(client::Input::Request(Request::Get(ENERGY, None)));
        let response = pair.wire.last().unwrap().1.clone();
        for bit in 0..8 * response.len() {
            let mut forged = response.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            pair.give_client(&forged);
            let is_ignored = matches!(pair.at_client.last(), Some(client::Event::Ignored(_)));
            assert!(is_ignored && pair.client.state() == ClientState::Requesting, "bit {bit}");
        }
        pair.give_client(&response);
        let value = Data::DoubleLongUnsigned(123_456).to_bytes();
        assert_eq!(pair.at_client.last(), Some(&client::Event::Response(Response::Get(Ok(value)))));
    }
}

//= DLMS 12.1: the tag is compared, whatever bit is flipped
#[test]
fn every_flipped_bit_of_the_opening_opens_nothing() {
    // 0: AARQ, 1: AARE, 2: pass 3, 3: pass 4.
    for mechanism in [Mechanism::None, Mechanism::LowLevel, Mechanism::Gmac, Mechanism::Sha256] {
        let good = Pair::ciphered(mechanism).associated().wire;
        for (index, (_, apdu)) in good.iter().enumerate() {
            for bit in 0..8 * apdu.len() {
                let mut pair = Pair::ciphered(mechanism);
                let mut count = 0;
                pair.line = Box::new(move |_, mut apdu| {
                    if count == index {
                        apdu[bit / 8] ^= 1 << (bit % 8);
                    }
                    count += 1;
                    vec![apdu]
                });
                pair.input(client::Input::Associate);
                let opened = pair.at_client.iter().any(|e| matches!(e, client::Event::Associated { .. }));
                // ACSE fields beside titles, challenges and the ciphered initiate carry no protection of their own:
                // a flipped bit there may be passed over, but never changes who is at the other end.
                let is_open = opened && pair.server.state() == ServerState::Associated;
                if is_open {
                    assert!(index < 2, "{mechanism:?}: bit {bit} of pass {}", index + 1);
                    let kept = unprotected(&good[index].1, bit);
                    assert!(kept, "{mechanism:?}: message {index}, bit {bit} was believed");
                }
            }
        }
    }
}

/// Whether a bit lies in a field that nothing protects and nobody uses.
fn unprotected(apdu: &[u8], bit: usize) -> bool {
    let mut changed = apdu.to_vec();
    changed[bit / 8] ^= 1 << (bit % 8);
    if apdu[0] == 0x60 {
        let (good, found) = (Aarq::from_bytes(apdu).unwrap(), Aarq::from_bytes(&changed).unwrap());
        return good == found;
    }
    let (good, found) = (Aare::from_bytes(apdu).unwrap(), Aare::from_bytes(&changed).unwrap());
    // Mechanism and diagnostic numbers of an association without high level security say nothing.
    Aare { diagnostic: good.diagnostic, mechanism: good.mechanism, ..found } == good
}

//= DLMS 12.5: a plain answer inside a ciphered association is a downgrade and refused
//= DLMS 12.5: a plain apdu inside a ciphered association is refused
#[test]
fn plain_apdus_inside_a_ciphered_association_are_refused_in_both_directions() {
    for mechanism in MECHANISMS {
        let mut pair = Pair::ciphered(mechanism).associated();
        let get = [&[0xC0, 1, 0xC1, 0, 3][..], ENERGY.obis.groups(), &[2, 0]].concat();
        pair.give_server(&get);
        assert_eq!((pair.objects.calls, last_refusal(&pair)), (0, server::Refusal::Protection));
        pair.line =
            Box::new(|direction, apdu| if direction == Direction::ToServer { vec![apdu] } else { vec![] });
        pair.input(client::Input::Request(Request::Get(ENERGY, None)));
        let invoke_id = 0xC0 | if mechanism.is_high_level() { 2 } else { 1 };
        pair.give_client(&[0xC4, 1, invoke_id, 0, 0x06, 0, 0, 0, 9]);
        let downgrade = client::Event::Ignored(client::Refusal::Protection);
        assert_eq!(pair.at_client.last(), Some(&downgrade));
        assert_eq!(pair.client.state(), ClientState::Requesting);
    }
}

//= DLMS 12.5: an equal or lower counter is refused, before any cryptography
#[test]
fn repeated_and_lower_counters_are_refused_on_both_sides_and_change_nothing() {
    for carrier in [Carrier::Glo, Carrier::Ded, Carrier::GeneralGlo, Carrier::GeneralDed] {
        let settings = ClientSettings { carrier, ..ClientSettings::ciphered(CLIENT_TITLE, Mechanism::Gmac) };
        let server = ServerSettings::ciphered(1, SERVER_TITLE, Mechanism::Gmac);
        let mut pair = Pair::new(settings, server).associated();
        pair.ask(Request::Get(ENERGY, None));
        let [.., (_, request), (_, response)] = pair.wire.as_slice() else { panic!() };
        let (request, response) = (request.clone(), response.clone());
        pair.ask(Request::Get(CLOCK, None));
        let calls = pair.objects.calls;
        for (_, old) in pair.wire.clone().iter().filter(|(to, _)| *to == Direction::ToServer) {
            pair.give_server(old);
        }
        pair.give_server(&request);
        assert_eq!(pair.objects.calls, calls, "{carrier:?}");
        assert!(matches!(last_refusal(&pair), server::Refusal::Crypto(CryptoFault::Counter { .. })));
        let _ = caught_request(&mut pair);
        pair.give_client(&response);
        let refused = pair.at_client.last();
        let is_replay = matches!(
            refused,
            Some(client::Event::Ignored(client::Refusal::Crypto(CryptoFault::Counter { .. })))
        );
        assert!(is_replay, "{carrier:?} {refused:?}");
    }
}

//= DLMS 5.9: the counter of a GMAC reply is judged like every other
#[test]
fn a_gmac_reply_with_a_counter_that_was_used_is_refused() {
    let mechanism = Mechanism::Gmac;
    let client = ClientSettings { own_title: Some(CLIENT_TITLE), mechanism, ..ClientSettings::public() };
    let server = ServerSettings { mechanism, ..ServerSettings::public(1, SERVER_TITLE) };
    let mut pair = Pair::new(client, server);
    pair.server_crypto.resume_received(KeySet::Unicast, CLIENT_TITLE, 100);
    pair.input(client::Input::Associate);
    assert!(matches!(last_refusal(&pair), server::Refusal::Crypto(CryptoFault::Counter { found: 100, .. })));
    assert_eq!(pair.server.state(), ServerState::Idle);
}

#[test]
fn the_right_reply_to_another_method_proves_nothing() {
    let mechanism = Mechanism::Sha256;
    let client = ClientSettings { own_title: Some(CLIENT_TITLE), mechanism, ..ClientSettings::public() };
    let server = ServerSettings { mechanism, ..ServerSettings::public(1, SERVER_TITLE) };
    let mut pair = Pair::new(client, server);
    pair.line = Box::new(|_, mut apdu| {
        if apdu[0] == 0xC3 {
            apdu[11] = 2;
        }
        vec![apdu]
    });
    pair.input(client::Input::Associate);
    assert_eq!((last_refusal(&pair), pair.server.state()), (server::Refusal::State, ServerState::Idle));
}

//= DLMS 5.9: a counter is stored only after its tag was verified
#[test]
fn a_forged_high_counter_locks_nobody_out() {
    let mut pair = Pair::ciphered(Mechanism::Gmac).associated();
    let mut forged = caught_request(&mut pair);
    forged[3..7].copy_from_slice(&[0xFF; 4]);
    pair.give_server(&forged);
    assert!(matches!(last_refusal(&pair), server::Refusal::Crypto(CryptoFault::Tag)));
    // The other way round, while the client waits.
    let _ = caught_request(&mut pair);
    pair.give_client(&[&[0xCC, 30, 0x30, 0xFF, 0xFF, 0xFF, 0xFF][..], &[0; 25]].concat());
    assert!(matches!(
        pair.at_client.last(),
        Some(client::Event::Ignored(client::Refusal::Crypto(CryptoFault::Tag)))
    ));
    pair.wait();
    let value = Data::DoubleLongUnsigned(123_456).to_bytes();
    assert_eq!(pair.ask(Request::Get(ENERGY, None)), Response::Get(Ok(value)));
}

//= DLMS 12.6: an association does not set the own counter back
//= DLMS 5.9: sending counters are durable before use and never go down
#[test]
fn counters_go_on_over_associations() {
    let mut pair = Pair::ciphered(Mechanism::Gmac);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        pair = pair.associated();
        pair.ask(Request::Get(ENERGY, None));
        pair.input(client::Input::Release);
    }
    for (direction, apdu) in &pair.wire {
        if matches!(apdu[0], 0xC8 | 0xCC | 0xCB | 0xCF) {
            let start = 2;
            let counter = u32::from_be_bytes(apdu[start + 1..start + 5].try_into().unwrap());
            assert!(seen.insert((*direction == Direction::ToServer, counter)), "{counter} twice");
        }
    }
    assert!(seen.len() >= 12);
}

#[test]
fn another_system_title_is_refused() {
    let settings = ClientSettings {
        carrier: Carrier::GeneralGlo,
        ..ClientSettings::ciphered(CLIENT_TITLE, Mechanism::Gmac)
    };
    let mut pair =
        Pair::new(settings, ServerSettings::ciphered(1, SERVER_TITLE, Mechanism::Gmac)).associated();
    let mut request = caught_request(&mut pair);
    request[2..10].copy_from_slice(b"XXX\0\0\0\0\x09");
    pair.give_server(&request);
    assert!(matches!(last_refusal(&pair), server::Refusal::Crypto(CryptoFault::Title)));
    let pinned = ClientSettings {
        server_title: Some(SystemTitle(*b"XXX\0\0\0\0\x09")),
        ..ClientSettings::ciphered(CLIENT_TITLE, Mechanism::Gmac)
    };
    let mut pair = Pair::new(pinned, ServerSettings::ciphered(1, SERVER_TITLE, Mechanism::Gmac));
    pair.input(client::Input::Associate);
    assert_eq!(pair.at_client.last(), Some(&client::Event::Refused(client::Refusal::Title)));
}

#[test]
fn a_client_under_the_servers_own_title_is_refused() {
    let settings = ClientSettings::ciphered(SERVER_TITLE, Mechanism::Gmac);
    let mut pair = Pair::new(settings, ServerSettings::ciphered(1, SERVER_TITLE, Mechanism::Gmac));
    pair.input(client::Input::Associate);
    assert_eq!(pair.at_server[0], server::Event::Refused(server::Refusal::Title));
    assert!(matches!(pair.at_client.last(), Some(client::Event::Refused(_))));
}

//= DLMS 4: a client gives up when the server's challenge is its own
#[test]
fn a_reflected_challenge_is_refused() {
    for mechanism in [Mechanism::Gmac, Mechanism::Sha256, Mechanism::Ecdsa] {
        let mut pair = Pair::ciphered(mechanism);
        let mut own: Vec<u8> = vec![];
        pair.line = Box::new(move |_, apdu| {
            if let Ok(aarq) = Aarq::from_bytes(&apdu) {
                own = aarq.authentication.unwrap().to_vec();
            }
            match Aare::from_bytes(&apdu) {
                Ok(aare) => vec![Aare { authentication: Some(&own), ..aare }.to_bytes()],
                Err(_) => vec![apdu],
            }
        });
        pair.input(client::Input::Associate);
        assert_eq!(pair.at_client.last(), Some(&client::Event::Refused(client::Refusal::Challenge)));
    }
}

#[test]
fn a_reflected_reply_proves_nothing() {
    for mechanism in [Mechanism::Gmac, Mechanism::Sha256, Mechanism::Ecdsa] {
        let client = ClientSettings { own_title: Some(CLIENT_TITLE), mechanism, ..ClientSettings::public() };
        let server = ServerSettings { mechanism, ..ServerSettings::public(1, SERVER_TITLE) };
        let mut pair = Pair::new(client, server);
        // Pass 4 is pass 3, sent back.
        pair.line = Box::new({
            let mut pass_3 = vec![];
            move |_, apdu| match apdu[0] {
                0xC3 => {
                    pass_3 = apdu[13..].to_vec();
                    vec![apdu]
                }
                0xC7 => vec![[&[0xC7, 1, apdu[2], 0, 1, 0][..], &pass_3].concat()],
                _ => vec![apdu],
            }
        });
        pair.input(client::Input::Associate);
        assert!(matches!(pair.at_client.last(), Some(client::Event::Refused(client::Refusal::Crypto(_)))));
    }
}

/// A plain SET of the energy register, which a broadcast may bring.
fn set_energy(value: u32) -> Vec<u8> {
    let value = Data::DoubleLongUnsigned(value).to_bytes();
    [&[0xC1, 1, 0x81, 0, 3][..], ENERGY.obis.groups(), &[2, 0], &value].concat()
}

fn broadcast(sender: &mut LocalCrypto, carrier: Carrier, plain: &[u8]) -> Vec<u8> {
    let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut TestRng(1) };
    let Ok(Done::Bytes(sealed)) = sender.seal_broadcast(carrier, plain, &mut ports) else { panic!() };
    sealed
}

fn to_all(pair: &mut Pair, apdu: &[u8]) {
    pair.server.handle(pair.now, server::Input::Broadcast(apdu), &mut pair.objects).unwrap();
    pair.run();
}

//= DLMS 5.2: the key-set bit must say which key is meant
#[test]
fn the_broadcast_key_opens_nothing_in_a_unicast_association_and_is_never_answered() {
    let mut pair = Pair::ciphered(Mechanism::Gmac).associated();
    let sealed = broadcast(&mut pair.client_crypto, Carrier::GeneralGlo, &set_energy(7));
    pair.give_server(&sealed);
    assert!(matches!(last_refusal(&pair), server::Refusal::Crypto(CryptoFault::KeySet(_))));
    assert_eq!(pair.objects.calls, 0);
    // A unicast APDU with the bit set.
    let mut request = caught_request(&mut pair);
    request[2] |= 0x40;
    pair.give_server(&request);
    assert!(matches!(last_refusal(&pair), server::Refusal::Crypto(CryptoFault::KeySet(_))));
    // As a broadcast it is taken, once, and not answered.
    let answers = |pair: &Pair| pair.wire.iter().filter(|(to, _)| *to == Direction::ToClient).count();
    let before = answers(&pair);
    for _ in 0..2 {
        to_all(&mut pair, &sealed);
    }
    assert_eq!((pair.objects.calls, answers(&pair)), (1, before));
    let context = pair.objects.last.unwrap();
    assert!(context.is_broadcast && context.client_title.is_none(), "not the client of the association");
    let unicast = caught_request(&mut pair);
    to_all(&mut pair, &unicast);
    assert_eq!((pair.objects.calls, answers(&pair)), (1, before));
}

//= DLMS 5.9: a counter is one of a key and of who sends, also where the APDU does not name it
#[test]
fn a_broadcast_without_a_title_is_the_configured_senders_and_nobody_elses_is_taken() {
    let settings = |broadcast_title| ServerSettings {
        broadcast_title,
        ..ServerSettings::ciphered(1, SERVER_TITLE, Mechanism::None)
    };
    let client = || ClientSettings::ciphered(CLIENT_TITLE, Mechanism::None);
    let mut pair = Pair::new(client(), settings(Some(CLIENT_TITLE)));
    let mut sender = crate::pair::local(CLIENT_TITLE, 0);
    let sealed = broadcast(&mut sender, Carrier::Glo, &set_energy(7));
    for _ in 0..2 {
        to_all(&mut pair, &sealed);
    }
    assert_eq!(pair.objects.calls, 1, "once");
    assert_eq!(pair.objects.last.unwrap().client_title, Some(CLIENT_TITLE));
    let mut other = crate::pair::local(gridseal_types::SystemTitle(*b"MMM\0\0\0\0\x09"), 0);
    let foreign = broadcast(&mut other, Carrier::GeneralGlo, &set_energy(8));
    to_all(&mut pair, &foreign);
    assert_eq!(last_refusal(&pair), server::Refusal::Crypto(CryptoFault::Title));
    // Without a configured sender the APDU has to name it.
    let mut pair = Pair::new(client(), settings(None));
    to_all(&mut pair, &sealed);
    assert_eq!(last_refusal(&pair), server::Refusal::Crypto(CryptoFault::Title));
    to_all(&mut pair, &foreign);
    assert_eq!(pair.objects.calls, 1);
}

#[test]
fn what_is_sent_to_all_is_whole_wants_no_answer_and_disturbs_no_association() {
    let mut pair = Pair::ciphered(Mechanism::None).associated();
    let mut sender = crate::pair::local(CLIENT_TITLE, 0);
    let name = [ENERGY.obis.groups().as_slice(), &[2]].concat();
    let block = [1, 0, 0, 0, 1, 1, 0];
    for refused in [
        [&[0xC0, 1, 0xC1, 0, 3][..], &name, &[0]].concat(),
        [&[0xC0, 2, 0xC1, 0, 0, 0, 1][..]].concat(),
        [&[0xC1, 2, 0xC1, 0, 3][..], &name, &[0], &block].concat(),
        [&[0xC1, 3, 0xC1][..], &block].concat(),
        [&[0xC3, 2, 0xC1, 0, 0, 0, 1][..]].concat(),
        [&[0xC3, 6, 0xC1][..], &block].concat(),
    ] {
        let service = refused[0];
        let sealed = broadcast(&mut sender, Carrier::GeneralGlo, &refused);
        to_all(&mut pair, &sealed);
        assert_eq!(last_refusal(&pair), server::Refusal::Service(service), "{refused:02x?}");
    }
    assert_eq!(pair.objects.calls, 0);
    assert!(matches!(pair.ask(Request::Get(ENERGY, None)), Response::Get(Ok(_))));
}

//= DLMS 12.8: every block of a request is protected as its first one
#[test]
fn blocks_of_another_protection_neither_end_a_request_nor_ask_for_an_answer() {
    // A server that demands nothing, and a client that protects all the same.
    let lax = ServerSettings {
        required: Protection::None,
        response: Protection::None,
        ..ServerSettings::ciphered(1, SERVER_TITLE, Mechanism::None)
    };
    let client = ClientSettings { max_pdu: 300, ..ClientSettings::ciphered(CLIENT_TITLE, Mechanism::None) };
    let mut pair = Pair::new(client, lax).associated();
    let seal = |pair: &mut Pair, plain: &[u8]| {
        let seal = Operation::Seal {
            carrier: Carrier::Glo,
            protection: Protection::AuthenticatedEncrypted,
            signing: Signing::None,
            peer: Some(SERVER_TITLE),
            apdu: plain.to_vec(),
        };
        let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut TestRng(1) };
        let Ok(Done::Bytes(sealed)) = pair.client_crypto.perform(HANDLE, &seal, &mut ports) else { panic!() };
        sealed
    };
    let value = Data::DoubleLongUnsigned(9).to_bytes();
    let head = [&[0xC1, 2, 0xC5, 0, 3][..], ENERGY.obis.groups(), &[2, 0]].concat();
    let block = |last, number, raw: &[u8]| [&[last, 0, 0, 0, number, raw.len() as u8], raw].concat();
    let first = [&head[..], &block(0, 1, &value[..2])].concat();
    let last = [&[0xC1, 3, 0xC5][..], &block(1, 2, &value[2..])].concat();
    let before = pair.objects.values[&ENERGY].clone();
    for is_first_plain in [true, false] {
        let (one, other) = match is_first_plain {
            true => (first.clone(), seal(&mut pair, &last)),
            false => (seal(&mut pair, &first), last.clone()),
        };
        pair.give_server(&one);
        pair.give_server(&other);
        assert_eq!((pair.objects.calls, &pair.objects.values[&ENERGY]), (0, &before));
    }
    // Begun under protection it is ended so.
    for part in [&first, &last] {
        let sealed = seal(&mut pair, part);
        pair.give_server(&sealed);
    }
    assert_eq!(pair.objects.values[&ENERGY], value);
    // What was asked for under protection is not given out in clear.
    let get = [&[0xC0, 1, 0xC6, 0, 7][..], PROFILE.obis.groups(), &[2, 0]].concat();
    let get = seal(&mut pair, &get);
    pair.give_server(&get);
    pair.give_server(&[0xC0, 2, 0xC6, 0, 0, 0, 1]);
    let answer = &pair.wire.last().unwrap().1;
    assert_eq!((answer[0], answer[1], answer[8]), (0xC4, 2, 1), "an error and no data: {answer:02x?}");
}

//= DLMS 5.2: control octets of other suites and of weaker protection are refused
//= DLMS 12.8: less protection than demanded is refused, whatever it is called
#[test]
fn weaker_protection_other_suites_and_compression_are_refused() {
    for protection in [Protection::Authenticated, Protection::Encrypted] {
        let settings =
            ClientSettings { protection, ..ClientSettings::ciphered(CLIENT_TITLE, Mechanism::None) };
        let server = ServerSettings::ciphered(1, SERVER_TITLE, Mechanism::None);
        let mut pair = Pair::new(settings, server).associated();
        pair.input(client::Input::Request(Request::Get(ENERGY, None)));
        assert_eq!(pair.objects.calls, 0, "{protection:?}");
    }
    for control in [0x31, 0x32, 0x3F, 0xB0, 0x00, 0x20] {
        let mut pair = Pair::ciphered(Mechanism::None).associated();
        let mut request = caught_request(&mut pair);
        request[2] = control;
        pair.give_server(&request);
        let refusal = last_refusal(&pair);
        assert!(
            matches!(refusal, server::Refusal::Crypto(CryptoFault::SecurityControl(_))),
            "{control:02x}: {refusal:?}"
        );
    }
}

//= DLMS 5.4: the tag inside must be the one that the carrier names
#[test]
fn a_request_under_the_tag_of_another_service_is_refused() {
    let mut pair = Pair::ciphered(Mechanism::None).associated();
    let mut request = caught_request(&mut pair);
    request[0] = 0xC9;
    pair.give_server(&request);
    assert!(matches!(last_refusal(&pair), server::Refusal::Crypto(CryptoFault::Form)));
    assert_eq!(pair.objects.calls, 0);
}

//= DLMS 3.2: until pass 4 only the reply to the challenge is served
//= DLMS 12.4: nothing is served before the last pass, whatever the link says
#[test]
fn nothing_is_served_before_the_client_has_proved_itself() {
    for mechanism in [Mechanism::Gmac, Mechanism::Sha256, Mechanism::Ecdsa] {
        let client = ClientSettings { own_title: Some(CLIENT_TITLE), mechanism, ..ClientSettings::public() };
        let server = ServerSettings { mechanism, ..ServerSettings::public(1, SERVER_TITLE) };
        let get = [&[0xC0, 1, 0xC1, 0, 3][..], ENERGY.obis.groups(), &[2, 0]].concat();
        let mut pair = Pair::new(client, server);
        pair.give_server(&get);
        assert_eq!(pair.wire.last().unwrap().1, [0xD8, 1, 1]);
        // The client's pass 3 is replaced by a request.
        let other = get.clone();
        pair.line = Box::new(move |_, apdu| if apdu[0] == 0xC3 { vec![other.clone()] } else { vec![apdu] });
        pair.input(client::Input::Associate);
        assert_eq!((pair.objects.calls, pair.server.state()), (0, ServerState::Idle));
        assert_eq!(pair.wire.last().unwrap().1, [0xD8, 1, 1]);
    }
}

//= DLMS 4: each challenge is used once, right or wrong
#[test]
fn a_wrong_reply_ends_the_attempt_and_the_right_one_comes_too_late() {
    let client = ClientSettings {
        own_title: Some(CLIENT_TITLE),
        mechanism: Mechanism::Sha256,
        ..ClientSettings::public()
    };
    let server = ServerSettings { mechanism: Mechanism::Sha256, ..ServerSettings::public(1, SERVER_TITLE) };
    let mut pair = Pair::new(client, server);
    pair.line = Box::new(|_, apdu| {
        if apdu[0] != 0xC3 {
            return vec![apdu];
        }
        let mut wrong = apdu.clone();
        *wrong.last_mut().unwrap() ^= 1;
        vec![wrong, apdu]
    });
    pair.input(client::Input::Associate);
    assert_eq!(pair.server.state(), ServerState::Idle);
    assert!(!pair.at_server.iter().any(|event| matches!(event, server::Event::Associated { .. })));
}

#[test]
fn the_counter_of_a_gmac_reply_is_used_once() {
    let mut pair = Pair::ciphered(Mechanism::Gmac).associated();
    let after = pair.server_crypto.last_received(KeySet::Unicast, CLIENT_TITLE).unwrap();
    // AARQ 100, reply 101, its carrier 102.
    assert_eq!(after, 102);
    pair.ask(Request::Get(ENERGY, None));
    assert_eq!(pair.server_crypto.last_received(KeySet::Unicast, CLIENT_TITLE), Some(103));
}

/// Rule S11: towards a peer that has not authenticated itself every failure looks alike.
#[test]
fn failures_before_authentication_look_alike() {
    let answer = |bend: &dyn Fn(&mut Pair)| {
        let mut pair = Pair::ciphered(Mechanism::LowLevel);
        bend(&mut pair);
        pair.input(client::Input::Associate);
        let answer = pair.wire.iter().find(|(to, _)| *to == Direction::ToClient).unwrap().1.clone();
        assert!(matches!(pair.at_server[0], server::Event::Refused(_)), "{:?}", pair.at_server);
        assert_eq!(pair.server.state(), ServerState::Idle);
        answer
    };
    let change = |at: fn(&[u8]) -> usize| {
        move |pair: &mut Pair| {
            pair.line = Box::new(move |_, mut apdu| {
                if apdu[0] == 0x60 {
                    let at = at(&apdu);
                    apdu[at] ^= 1;
                }
                vec![apdu]
            });
        }
    };
    let find = |apdu: &[u8], wanted: &[u8]| apdu.windows(wanted.len()).position(|w| w == wanted).unwrap();
    let answers = [
        ("tag", answer(&change(|apdu| apdu.len() - 1))),
        ("ciphertext", answer(&change(|apdu| apdu.len() - 15))),
        ("control", answer(&change(|apdu| apdu.windows(2).position(|w| w == [0x21, 0x1F]).unwrap() + 2))),
        ("password", answer(&change(|apdu| apdu.windows(4).position(|w| w == b"DLMS").unwrap()))),
        ("title", answer(&change(|apdu| apdu.windows(3).position(|w| w == b"MMM").unwrap()))),
        ("context", {
            let context = [0x05, 0x08, 0x01, 0x03];
            answer(&move |pair: &mut Pair| {
                pair.line = Box::new(move |_, mut apdu| {
                    if apdu[0] == 0x60 {
                        let at = find(&apdu, &context) + 3;
                        apdu[at] = 1;
                    }
                    vec![apdu]
                });
            })
        }),
        ("mechanism", answer(&change(|apdu| apdu.windows(4).position(|w| w == [5, 8, 2, 1]).unwrap() + 3))),
        (
            "replay",
            answer(&|pair| {
                pair.server_crypto.resume_received(KeySet::Unicast, CLIENT_TITLE, 1_000);
            }),
        ),
    ];
    for (name, found) in &answers {
        assert_eq!(found, &answers[0].1, "{name}");
    }
}

//= DLMS 3.3: a ciphered association is released under its key
#[test]
fn a_stranger_can_neither_replace_nor_release_a_ciphered_association() {
    let mut pair = Pair::ciphered(Mechanism::Gmac).associated();
    let aarq = pair.wire[0].1.clone();
    for stranger in [&aarq[..], &[0x62, 3, 0x80, 1, 0], &[0x62, 0]] {
        pair.give_server(stranger);
        assert_eq!(pair.server.state(), ServerState::Associated);
    }
    let value = Data::DoubleLongUnsigned(123_456).to_bytes();
    assert_eq!(pair.ask(Request::Get(ENERGY, None)), Response::Get(Ok(value)));
    let settings =
        ServerSettings { plain_release: true, ..ServerSettings::ciphered(1, SERVER_TITLE, Mechanism::Gmac) };
    let client = ClientSettings::ciphered(CLIENT_TITLE, Mechanism::Gmac);
    let mut pair = Pair::new(client, settings).associated();
    pair.give_server(&[0x62, 3, 0x80, 1, 0]);
    assert_eq!(pair.server.state(), ServerState::Idle, "where a profile allows it");
}

#[test]
fn a_server_that_leaves_out_the_authentication_is_not_believed() {
    let mut pair = Pair::new(
        ClientSettings {
            own_title: Some(CLIENT_TITLE),
            mechanism: Mechanism::Sha256,
            ..ClientSettings::public()
        },
        ServerSettings::public(1, SERVER_TITLE),
    );
    let initiate = [0x08, 0, 6, 0x5F, 0x1F, 4, 0, 0, 0x7E, 0x1F, 4, 0, 0, 7];
    pair.line = Box::new(move |direction, apdu| {
        let accepted = Aare {
            context: gridseal_dlms::acse::ContextName::LogicalName,
            result: gridseal_dlms::acse::AssociateResult::Accepted,
            diagnostic: gridseal_dlms::acse::Diagnostic::NULL,
            responding_title: Some(SERVER_TITLE),
            responding_certificate: None,
            mechanism: Mechanism::None,
            authentication: None,
            user_information: Some(&initiate),
        };
        if direction == Direction::ToClient { vec![accepted.to_bytes()] } else { vec![apdu] }
    });
    pair.input(client::Input::Associate);
    assert_eq!(pair.at_client.last(), Some(&client::Event::Refused(client::Refusal::Authentication)));
}

#[test]
fn counter_errors_name_the_lowest_counter_only_where_a_profile_demands_it() {
    for counter_error in [false, true] {
        let server =
            ServerSettings { counter_error, ..ServerSettings::ciphered(1, SERVER_TITLE, Mechanism::None) };
        let client = ClientSettings::ciphered(CLIENT_TITLE, Mechanism::None);
        let mut pair = Pair::new(client, server).associated();
        pair.ask(Request::Get(ENERGY, None));
        let old = pair.wire.iter().rfind(|(to, _)| *to == Direction::ToServer).unwrap().1.clone();
        pair.give_server(&old);
        let answer = &pair.wire.last().unwrap().1;
        let expected: &[u8] = if counter_error { &[0xD8, 1, 6, 0, 0, 0, 102] } else { &[0xD8, 1, 5] };
        assert_eq!(answer, expected);
    }
}

#[test]
fn a_pending_association_ends_when_nobody_proves_himself() {
    let mut pair = Pair::ciphered(Mechanism::Gmac);
    pair.line = Box::new(|_, apdu| if matches!(apdu[0], 0x60 | 0x61) { vec![apdu] } else { vec![] });
    pair.input(client::Input::Associate);
    assert_eq!(pair.server.state(), ServerState::Pending);
    pair.wait();
    pair.wait();
    assert_eq!((pair.server.state(), pair.client.state()), (ServerState::Idle, ClientState::Idle));
}

#[test]
fn the_answer_to_another_invocation_is_not_taken() {
    let mut pair = Pair::new(ClientSettings::public(), ServerSettings::public(1, SERVER_TITLE)).associated();
    let request = caught_request(&mut pair);
    pair.give_client(&[0xC4, 1, request[2] ^ 1, 0, 0x11, 9]);
    assert_eq!(pair.at_client.last(), Some(&client::Event::Ignored(client::Refusal::Unexpected)));
    pair.give_client(&[0xC4, 1, request[2], 0, 0x11, 7]);
    let value = Data::Unsigned(7).to_bytes();
    assert_eq!(pair.at_client.last(), Some(&client::Event::Response(Response::Get(Ok(value)))));
}

#[test]
fn a_reply_to_a_challenge_in_an_open_association_reaches_no_object() {
    let mut pair = Pair::ciphered(Mechanism::Gmac).associated();
    let method = gridseal_dlms::apdu::reference::REPLY_TO_HLS_AUTHENTICATION;
    let parameters = Some(Data::OctetString(&[7; 17]).to_bytes());
    let Response::Action(outcome) = pair.ask(Request::Action(method, parameters)) else { panic!() };
    assert_eq!(outcome.result, gridseal_dlms::apdu::result::ActionResult::ReadWriteDenied);
    assert_eq!(pair.objects.calls, 0);
}

#[test]
fn apdus_above_the_agreed_size_are_not_taken() {
    let client = ClientSettings { max_pdu: 300, ..ClientSettings::public() };
    let server = ServerSettings { max_pdu: 300, ..ServerSettings::public(1, SERVER_TITLE) };
    let mut pair = Pair::new(client, server).associated();
    let value = Data::OctetString(&[7; 400]).to_bytes();
    let set = [&[0xC1, 1, 0xC1, 0, 3][..], ENERGY.obis.groups(), &[2, 0], &value].concat();
    pair.give_server(&set);
    assert_eq!(pair.objects.calls, 0);
    assert_eq!(pair.wire.last().unwrap().1, [0xD8, 1, 4]);
    let request = caught_request(&mut pair);
    pair.give_client(&[&[0xC4, 1, request[2], 0][..], &value].concat());
    let refused = pair.at_client.last();
    assert!(matches!(refused, Some(client::Event::Ignored(client::Refusal::Blocks(_)))), "{refused:?}");
}

//= DLMS 12.8: less protection than demanded is refused, whatever it is called
#[test]
fn a_response_or_initiate_with_less_protection_than_demanded_is_refused() {
    let weak = ServerSettings {
        required: Protection::Authenticated,
        response: Protection::None,
        ..ServerSettings::ciphered(1, SERVER_TITLE, Mechanism::None)
    };
    let settings = ClientSettings {
        protection: Protection::Authenticated,
        ..ClientSettings::ciphered(CLIENT_TITLE, Mechanism::None)
    };
    let mut pair = Pair::new(settings, weak).associated();
    pair.input(client::Input::Request(Request::Get(ENERGY, None)));
    assert_eq!(pair.objects.calls, 1);
    assert_eq!(pair.at_client.last(), Some(&client::Event::Ignored(client::Refusal::Protection)));
    // An initiate under a true tag, but readable by everybody.
    let mut pair = Pair::ciphered(Mechanism::None);
    let mut server = crate::pair::local(SERVER_TITLE, 9_000);
    pair.line = Box::new(move |_, apdu| {
        let Ok(aare) = Aare::from_bytes(&apdu) else { return vec![apdu] };
        let seal = gridseal_dlms::assoc::Operation::Seal {
            carrier: Carrier::Glo,
            protection: Protection::Authenticated,
            signing: Signing::None,
            peer: None,
            apdu: vec![0x08, 0, 6, 0x5F, 0x1F, 4, 0, 0, 0x7E, 0x1F, 4, 0, 0, 7],
        };
        let mut rng = crate::pair::TestRng(1);
        let mut counters = gridseal_dlms::suite::local::VolatileCounters;
        let mut ports = gridseal_dlms::suite::local::Ports { counters: &mut counters, rng: &mut rng };
        let sealed = server.perform(crate::pair::HANDLE, &seal, &mut ports);
        let Ok(gridseal_dlms::assoc::Done::Bytes(sealed)) = sealed else { panic!() };
        vec![Aare { user_information: Some(&sealed), ..aare }.to_bytes()]
    });
    pair.input(client::Input::Associate);
    assert_eq!(pair.at_client.last(), Some(&client::Event::Refused(client::Refusal::Protection)));
}

//= DLMS 4: challenges have 8 to 64 bytes, those of mechanism 7 at least 32
#[test]
fn a_short_challenge_of_mechanism_7_is_refused_unless_a_profile_takes_it() {
    for (mechanism, size, short_challenge, is_taken) in [
        (Mechanism::Ecdsa, 31, false, false),
        (Mechanism::Ecdsa, 16, true, true),
        (Mechanism::Ecdsa, 7, true, false),
        (Mechanism::Gmac, 7, false, false),
        (Mechanism::Gmac, 8, false, true),
    ] {
        let client = ClientSettings { own_title: Some(CLIENT_TITLE), mechanism, ..ClientSettings::public() };
        let server = ServerSettings { mechanism, short_challenge, ..ServerSettings::public(1, SERVER_TITLE) };
        let mut pair = Pair::new(client, server);
        pair.line = Box::new(move |_, apdu| match Aarq::from_bytes(&apdu) {
            Ok(aarq) => {
                let cut = aarq.authentication.map(|value| &value[..size]);
                vec![Aarq { authentication: cut, ..aarq }.to_bytes()]
            }
            Err(_) => vec![],
        });
        pair.input(client::Input::Associate);
        let expected = if is_taken { ServerState::Pending } else { ServerState::Idle };
        assert_eq!(pair.server.state(), expected, "{mechanism:?} {size}");
    }
}
