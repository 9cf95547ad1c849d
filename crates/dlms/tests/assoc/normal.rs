//! What works between ours and ours.

use gridseal_dlms::{
    acse::{Conformance, Mechanism},
    apdu::{
        access::AccessResult,
        carrier::Carrier,
        result::{ActionResult, DataAccessResult},
    },
    assoc::{
        Protection,
        client::{self, AccessItem, ClientSettings, Request, Response},
        server::{self, ServerSettings},
        table::{ClientState, ServerState},
    },
    suite::local::{LocalCrypto, LocalSettings},
    wire::{Data, Rows},
};

use crate::pair::{
    CLIENT_TITLE, CLOCK, Direction, ECHO, ENERGY, PROFILE, Pair, SERVER_TITLE, TestObjects, ring,
};

/// Every service once, over whatever the pair is.
pub(crate) fn serve_all(pair: &mut Pair) {
    let energy = Data::DoubleLongUnsigned(123_456).to_bytes();
    assert_eq!(pair.ask(Request::Get(ENERGY, None)), Response::Get(Ok(energy.clone())));
    let missing = gridseal_dlms::apdu::reference::AttributeId { attribute: 9, ..ENERGY };
    let undefined = Err(DataAccessResult::ObjectUndefined);
    assert_eq!(pair.ask(Request::Get(missing, None)), Response::Get(undefined.clone()));
    assert_eq!(
        pair.ask(Request::GetList(vec![(ENERGY, None), (missing, None)])),
        Response::GetList(vec![Ok(energy), undefined])
    );
    let new = Data::DoubleLongUnsigned(7).to_bytes();
    assert_eq!(pair.ask(Request::Set(ENERGY, None, new.clone())), Response::Set(DataAccessResult::Success));
    assert_eq!(
        pair.ask(Request::SetList(vec![(ENERGY, None, new.clone()), (missing, None, new.clone())])),
        Response::SetList(vec![DataAccessResult::Success, DataAccessResult::ReadWriteDenied])
    );
    let Response::Action(outcome) = pair.ask(Request::Action(ECHO, Some(new.clone()))) else { panic!() };
    assert_eq!((outcome.result, outcome.returned), (ActionResult::Success, Some(Ok(new.clone()))));
    let Response::ActionList(outcomes) =
        pair.ask(Request::ActionList(vec![(ECHO, Some(new.clone())), (ECHO, None)]))
    else {
        panic!()
    };
    assert_eq!(outcomes[1].returned, Some(Ok(Data::Null.to_bytes())));
    let Response::Get(Ok(profile)) = pair.ask(Request::Get(PROFILE, None)) else { panic!() };
    assert_eq!(profile, TestObjects::profile(1_000));
    let mut rows = Rows::new(&profile, None).unwrap();
    assert_eq!(core::iter::from_fn(|| rows.next_row().unwrap().map(<[_]>::len)).sum::<usize>(), 4_000);
}

fn access(pair: &mut Pair) {
    let new = Data::DoubleLongUnsigned(8).to_bytes();
    let items = vec![
        AccessItem::Get(CLOCK, None),
        AccessItem::Set(ENERGY, None, new.clone()),
        AccessItem::Get(ENERGY, None),
        AccessItem::Action(ECHO, Some(new.clone())),
    ];
    let Response::Access(replies) = pair.ask(Request::Access(items)) else { panic!() };
    assert!(replies.iter().all(|reply| reply.result.is_success()));
    assert_eq!((&replies[2].value, &replies[3].value), (&new, &new));
    assert_eq!(replies[1].result, AccessResult::Set(DataAccessResult::Success));
}

//= DLMS 12.10: the context with ciphering is one of the contexts
//= DLMS 12.13: dedicated carriers and the ciphered service error are there
#[test]
fn every_mechanism_and_carrier_serves_every_service_and_is_released() {
    let mechanisms =
        [Mechanism::None, Mechanism::LowLevel, Mechanism::Gmac, Mechanism::Sha256, Mechanism::Ecdsa];
    let carriers = [Carrier::Glo, Carrier::Ded, Carrier::GeneralGlo, Carrier::GeneralDed];
    for mechanism in mechanisms {
        for carrier in carriers {
            for protection in [Protection::Authenticated, Protection::AuthenticatedEncrypted] {
                let settings = ClientSettings {
                    carrier,
                    protection,
                    required: protection,
                    ..ClientSettings::ciphered(CLIENT_TITLE, mechanism)
                };
                let server = ServerSettings {
                    required: Protection::Authenticated,
                    response: Protection::None,
                    ..ServerSettings::ciphered(1, SERVER_TITLE, mechanism)
                };
                let mut pair = Pair::new(settings, server).associated();
                serve_all(&mut pair);
                access(&mut pair);
                pair.input(client::Input::Release);
                assert_eq!(pair.at_client.last(), Some(&client::Event::Released));
                assert_eq!(pair.at_server.last(), Some(&server::Event::Released));
                assert_eq!(pair.server.state(), ServerState::Idle);
                let refused = |event: &server::Event| matches!(event, server::Event::Refused(_));
                assert!(!pair.at_server.iter().any(refused), "{:?}", pair.at_server);
            }
        }
    }
}

#[test]
fn plain_associations_serve_with_each_mechanism_that_needs_no_cipher() {
    for mechanism in
        [Mechanism::None, Mechanism::LowLevel, Mechanism::Gmac, Mechanism::Sha256, Mechanism::Ecdsa]
    {
        let client = ClientSettings { own_title: Some(CLIENT_TITLE), mechanism, ..ClientSettings::public() };
        let server = ServerSettings { mechanism, ..ServerSettings::public(16, SERVER_TITLE) };
        let mut pair = Pair::new(client, server).associated();
        serve_all(&mut pair);
        assert_eq!(pair.objects.last.unwrap().mechanism, mechanism);
        pair.input(client::Input::Release);
        assert_eq!(pair.client.state(), ClientState::Idle);
    }
}

#[test]
fn legacy_mechanisms_work_in_the_legacy_profile_and_nowhere_else() {
    for mechanism in [Mechanism::Md5, Mechanism::Sha1] {
        let make = || Pair::ciphered(mechanism);
        let mut pair = make();
        pair.input(client::Input::Associate);
        assert!(matches!(pair.at_client.last(), Some(client::Event::Refused(_))), "{:?}", pair.at_client);
        let mut pair = make();
        let legacy = |own_title| {
            let settings = LocalSettings { legacy_mechanisms: true, ..LocalSettings::client(0, own_title) };
            LocalCrypto::new(settings, ring(), 0)
        };
        (pair.client_crypto, pair.server_crypto) = (legacy(CLIENT_TITLE), legacy(SERVER_TITLE));
        serve_all(&mut pair.associated());
    }
}

//= DLMS 12.11: a dedicated key has a counter of its own, from 0
#[test]
fn a_dedicated_key_counts_from_zero_in_both_directions() {
    let settings =
        ClientSettings { carrier: Carrier::Ded, ..ClientSettings::ciphered(CLIENT_TITLE, Mechanism::None) };
    let mut pair =
        Pair::new(settings, ServerSettings::ciphered(1, SERVER_TITLE, Mechanism::None)).associated();
    pair.wire.clear();
    pair.ask(Request::Get(ENERGY, None));
    let first = |direction| {
        let apdu = &pair.wire.iter().find(|(found, _)| *found == direction).unwrap().1;
        (apdu[0], apdu[2..7].to_vec())
    };
    assert_eq!(first(Direction::ToServer), (0xD0, vec![0x30, 0, 0, 0, 0]));
    assert_eq!(first(Direction::ToClient), (0xD4, vec![0x30, 0, 0, 0, 0]));
}

#[test]
fn a_server_pushes_protected_notifications() {
    let mut pair = Pair::ciphered(Mechanism::Gmac).associated();
    let event = [&[0xC2, 0, 0, 3][..], ENERGY.obis.groups(), &[2, 0x11, 5]].concat();
    let report = [&[0x18, 0, 1, 0, 0, 3][..], ENERGY.obis.groups(), &[2, 1, 0x11, 5]].concat();
    for plain in [vec![0x0F, 0, 0, 0, 1, 0, 0x11, 5], event, report] {
        pair.server.handle(pair.now, server::Input::Notify(plain.clone()), &mut pair.objects).unwrap();
        pair.run();
        assert_eq!(pair.wire.last().unwrap().1[0], 0xDB);
        assert_eq!(pair.at_client.last(), Some(&client::Event::Notification(plain)));
    }
}

#[test]
fn a_notification_that_crosses_the_release_is_handed_out_and_the_release_ends_well() {
    let plain = vec![0x0F, 0, 0, 0, 1, 0, 0x11, 5];
    let public = Pair::new(ClientSettings::public(), ServerSettings::public(16, SERVER_TITLE));
    for mut pair in [public, Pair::ciphered(Mechanism::Gmac), Pair::ciphered(Mechanism::None)] {
        pair = pair.associated();
        // The request to release is on its way while the meter sends.
        let line = std::mem::replace(&mut pair.line, Box::new(|_, _| vec![]));
        pair.input(client::Input::Release);
        let release = pair.wire.last().unwrap().1.clone();
        pair.line = line;
        pair.server.handle(pair.now, server::Input::Notify(plain.clone()), &mut pair.objects).unwrap();
        pair.run();
        assert_eq!(pair.at_client.last(), Some(&client::Event::Notification(plain.clone())));
        pair.give_server(&release);
        assert_eq!(pair.at_client.last(), Some(&client::Event::Released));
        let ignored = |event: &client::Event| matches!(event, client::Event::Ignored(_));
        assert!(!pair.at_client.iter().any(ignored), "{:?}", pair.at_client);
    }
}

#[test]
fn a_notification_stands_in_the_way_of_no_answer_and_is_refused_when_it_is_too_large() {
    let client = ClientSettings { max_pdu: 300, ..ClientSettings::public() };
    let conformance = Conformance::SPOKEN.without(Conformance::BLOCK_GET);
    let server = ServerSettings { conformance, ..ServerSettings::public(16, SERVER_TITLE) };
    let mut pair = Pair::new(client, server).associated();
    // The first general block of the answer is lost, and a notification comes before it is sent again.
    let mut is_lost = false;
    pair.line = Box::new(move |direction, apdu| {
        let is_first = direction == Direction::ToClient && apdu[0] == 0xE0 && !is_lost;
        is_lost |= is_first;
        if is_first { vec![] } else { vec![apdu] }
    });
    pair.input(client::Input::Request(Request::Get(PROFILE, None)));
    let plain = vec![0x0F, 0, 0, 0, 1, 0, 0x11, 5];
    pair.server.handle(pair.now, server::Input::Notify(plain.clone()), &mut pair.objects).unwrap();
    pair.run();
    assert_eq!(pair.at_client.last(), Some(&client::Event::Notification(plain)));
    pair.wait();
    let whole = Response::Get(Ok(TestObjects::profile(1_000)));
    assert_eq!(pair.at_client.last(), Some(&client::Event::Response(whole)));
    let long = [&[0x0F, 0, 0, 0, 1, 0][..], &Data::OctetString(&[7; 700]).to_bytes()].concat();
    let before = pair.wire.len();
    pair.server.handle(pair.now, server::Input::Notify(long), &mut pair.objects).unwrap();
    pair.run();
    assert!(matches!(pair.at_server.last(), Some(server::Event::Refused(server::Refusal::Blocks(_)))));
    assert_eq!(pair.wire.len(), before);
}

#[test]
fn the_carrier_of_the_response_is_that_of_the_request() {
    for (carrier, request, response) in [
        (Carrier::Glo, 0xC8, 0xCC),
        (Carrier::Ded, 0xD0, 0xD4),
        (Carrier::GeneralGlo, 0xDB, 0xDB),
        (Carrier::GeneralDed, 0xDC, 0xDC),
    ] {
        let settings = ClientSettings { carrier, ..ClientSettings::ciphered(CLIENT_TITLE, Mechanism::Gmac) };
        let server = ServerSettings::ciphered(1, SERVER_TITLE, Mechanism::Gmac);
        let mut pair = Pair::new(settings, server).associated();
        pair.wire.clear();
        pair.ask(Request::Get(ENERGY, None));
        let tags: Vec<_> = pair.wire.iter().map(|(_, apdu)| apdu[0]).collect();
        assert_eq!(tags, [request, response]);
    }
}

#[test]
fn no_apdu_is_larger_than_the_other_side_takes() {
    for max_pdu in [128u16, 200, 300, 1_000] {
        let client = ClientSettings { max_pdu, ..ClientSettings::ciphered(CLIENT_TITLE, Mechanism::Sha256) };
        let server =
            ServerSettings { max_pdu, ..ServerSettings::ciphered(1, SERVER_TITLE, Mechanism::Sha256) };
        let mut pair = Pair::new(client, server).associated();
        serve_all(&mut pair);
        // The two messages that agree upon the size are not yet bound by it.
        let later = pair.wire.iter().skip(2);
        assert!(later.clone().count() > 10);
        later.for_each(|(_, apdu)| assert!(apdu.len() <= usize::from(max_pdu), "{max_pdu}"));
    }
}

#[test]
fn services_that_were_not_agreed_upon_are_refused_on_both_sides() {
    let conformance = Conformance::GET;
    let server = ServerSettings { conformance, ..ServerSettings::public(16, SERVER_TITLE) };
    let mut pair = Pair::new(ClientSettings::public(), server).associated();
    let request = Request::Set(ENERGY, None, Data::Null.to_bytes());
    let error = pair.client.handle(pair.now, client::Input::Request(request)).unwrap_err();
    assert_eq!(error, client::ClientError::Service);
    let set = [&[0xC1, 1, 0xC1, 0, 3][..], ENERGY.obis.groups(), &[2, 0, 0]].concat();
    let calls = pair.objects.calls;
    pair.give_server(&set);
    assert_eq!(pair.wire.last().unwrap().1, [0xD8, 2, 2]);
    assert_eq!(pair.objects.calls, calls);
}
