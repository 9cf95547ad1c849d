//! Long values in both directions, with blocks lost, repeated and invented.

use gridseal_dlms::{
    acse::{Conformance, Mechanism},
    apdu::result::DataAccessResult,
    assoc::{
        client::{self, ClientSettings, Request, Response},
        server::ServerSettings,
    },
    wire::Data,
};

use crate::pair::{CLIENT_TITLE, Direction, ECHO, ENERGY, PROFILE, Pair, SERVER_TITLE, TestObjects};

const MAX_PDU: u16 = 300;

fn pair(without: Conformance) -> Pair {
    let conformance = Conformance::SPOKEN.without(without);
    let client = ClientSettings {
        max_pdu: MAX_PDU,
        conformance,
        ..ClientSettings::ciphered(CLIENT_TITLE, Mechanism::Gmac)
    };
    let server = ServerSettings {
        max_pdu: MAX_PDU,
        conformance,
        ..ServerSettings::ciphered(1, SERVER_TITLE, Mechanism::Gmac)
    };
    Pair::new(client, server).associated()
}

fn service_blocks() -> Conformance {
    Conformance::BLOCK_GET | Conformance::BLOCK_SET | Conformance::BLOCK_ACTION
}

fn long_requests(pair: &mut Pair) {
    let long = Data::OctetString(&[0x5A; 2_000]).to_bytes();
    let set = Request::Set(ENERGY, None, long.clone());
    assert_eq!(pair.ask(set), Response::Set(DataAccessResult::Success));
    assert_eq!(pair.objects.values[&ENERGY], long);
    let list = Request::SetList(vec![(ENERGY, None, long.clone()), (ENERGY, None, long.clone())]);
    assert_eq!(pair.ask(list), Response::SetList(vec![DataAccessResult::Success; 2]));
    let Response::Action(outcome) = pair.ask(Request::Action(ECHO, Some(long.clone()))) else { panic!() };
    assert_eq!(outcome.returned, Some(Ok(long.clone())));
    let calls = vec![(ECHO, Some(long.clone())), (ECHO, Some(long.clone()))];
    let Response::ActionList(outcomes) = pair.ask(Request::ActionList(calls)) else { panic!() };
    assert!(outcomes.iter().all(|outcome| outcome.returned == Some(Ok(long.clone()))));
    let list = Request::GetList(vec![(ENERGY, None), (ENERGY, None)]);
    assert_eq!(pair.ask(list), Response::GetList(vec![Ok(long.clone()), Ok(long)]));
    assert_eq!(
        pair.ask(Request::Get(PROFILE, None)),
        Response::Get(Ok(TestObjects::profile(pair.objects.profile_rows)))
    );
}

//= DLMS 5.8: the next block follows the one that was confirmed; any other number changes nothing
//= DLMS 5.8: blocks of an answer follow one another
#[test]
fn long_values_cross_in_blocks_of_the_service() {
    let mut pair = pair(Conformance::GENERAL_BLOCK_TRANSFER);
    long_requests(&mut pair);
    assert!(pair.wire.iter().all(|(_, apdu)| apdu[0] != 0xE0 && apdu.len() <= MAX_PDU.into()));
}

#[test]
fn long_values_cross_in_general_blocks() {
    let mut pair = pair(service_blocks());
    long_requests(&mut pair);
    assert!(pair.wire.iter().any(|(_, apdu)| apdu[0] == 0xE0));
    let is_small =
        |(_, apdu): &(Direction, Vec<u8>)| matches!(apdu[0], 0x60 | 0x61) || apdu.len() <= MAX_PDU.into();
    assert!(pair.wire.iter().all(is_small));
}

#[test]
fn general_blocks_that_are_lost_are_asked_for_again() {
    for lost in 0..40usize {
        let mut pair = pair(service_blocks());
        pair.objects.profile_rows = 300;
        let mut count = 0;
        pair.line = Box::new(move |_, apdu| {
            count += usize::from(apdu[0] == 0xE0);
            if apdu[0] == 0xE0 && count == lost + 1 { vec![] } else { vec![apdu] }
        });
        pair.input(client::Input::Request(Request::Get(PROFILE, None)));
        for _ in 0..3 {
            if !pair.at_client.iter().any(|event| matches!(event, client::Event::Response(_))) {
                pair.wait();
            }
        }
        let whole = TestObjects::profile(300);
        let expected = client::Event::Response(Response::Get(Ok(whole)));
        assert!(pair.at_client.contains(&expected), "lost {lost}");
    }
}

#[test]
fn a_block_number_that_was_not_asked_for_changes_nothing_at_the_server() {
    let client = ClientSettings { max_pdu: 300, ..ClientSettings::public() };
    let mut pair = Pair::new(client, ServerSettings::public(16, SERVER_TITLE)).associated();
    let get = [&[0xC0, 1, 0xC5, 0, 7][..], PROFILE.obis.groups(), &[2, 0]].concat();
    pair.give_server(&get);
    let first = pair.wire.last().unwrap().1.clone();
    assert_eq!(&first[..3], [0xC4, 2, 0xC5]);
    // Ahead, from another invocation, and behind: refused, and the transfer goes on.
    for next in
        [[0xC0, 2, 0xC5, 0, 0, 0, 9], [0xC0, 2, 0xC6, 0, 0, 0, 1], [0xC0, 2, 0xC5, 0xFF, 0xFF, 0xFF, 0xFF]]
    {
        pair.give_server(&next);
        let answer = &pair.wire.last().unwrap().1;
        assert_eq!((answer[3], answer[8]), (1, 1), "{answer:02x?}");
    }
    pair.give_server(&[0xC0, 2, 0xC5, 0, 0, 0, 0]);
    assert_eq!(pair.wire.last().unwrap().1, first, "the block before is repeated");
    pair.give_server(&[0xC0, 2, 0xC5, 0, 0, 0, 1]);
    assert_eq!(&pair.wire.last().unwrap().1[4..8], [0, 0, 0, 2]);
}

//= DLMS 5.8: a missing or repeated block of a request is refused and changes nothing
#[test]
fn missing_and_repeated_blocks_of_a_request_are_refused_and_change_nothing() {
    let mut pair = Pair::new(ClientSettings::public(), ServerSettings::public(16, SERVER_TITLE)).associated();
    let head = [&[0xC1, 2, 0xC5, 0, 3][..], ENERGY.obis.groups(), &[2, 0]].concat();
    let value = Data::OctetString(&[9; 20]).to_bytes();
    let block = |last: u8, number: u8, raw: &[u8]| [&[last, 0, 0, 0, number, raw.len() as u8], raw].concat();
    pair.give_server(&[&head[..], &block(0, 1, &value[..10])].concat());
    assert_eq!(pair.wire.last().unwrap().1, [0xC5, 2, 0xC5, 0, 0, 0, 1]);
    for number in [1, 3, 255] {
        pair.give_server(&[&[0xC1, 3, 0xC5][..], &block(1, number, &value[10..])].concat());
        assert_eq!(pair.wire.last().unwrap().1[..4], [0xC5, 3, 0xC5, 19], "block {number}");
    }
    assert_ne!(pair.objects.values[&ENERGY], value);
    pair.give_server(&[&[0xC1, 3, 0xC5][..], &block(1, 2, &value[10..])].concat());
    assert_eq!(pair.wire.last().unwrap().1, [0xC5, 3, 0xC5, 0, 0, 0, 0, 2]);
    assert_eq!(pair.objects.values[&ENERGY], value);
}

#[test]
fn a_request_in_blocks_without_end_is_aborted_and_memory_is_bounded() {
    let mut pair = Pair::new(ClientSettings::public(), ServerSettings::public(16, SERVER_TITLE)).associated();
    let head = [&[0xC1, 2, 0xC5, 0, 3][..], ENERGY.obis.groups(), &[2, 0]].concat();
    let raw = vec![0u8; 900];
    let block = |number: u32| [&[0][..], &number.to_be_bytes(), &[0x82, 0x03, 0x84], raw.as_slice()].concat();
    pair.give_server(&[&head[..], &block(1)].concat());
    let mut is_aborted = false;
    for number in 2..100 {
        pair.give_server(&[&[0xC1, 3, 0xC5][..], &block(number)].concat());
        is_aborted |= pair.wire.last().unwrap().1[3] == 17;
    }
    assert!(is_aborted);
}

#[test]
fn answers_whose_blocks_do_not_follow_one_another_are_never_handed_out() {
    let client = ClientSettings { max_pdu: 300, ..ClientSettings::public() };
    let mut pair = Pair::new(client, ServerSettings::public(16, SERVER_TITLE)).associated();
    pair.line = Box::new(|direction, mut apdu| {
        // The number of the second block is changed to the third.
        if direction == Direction::ToClient && apdu.starts_with(&[0xC4, 2]) && apdu[7] == 2 {
            apdu[7] = 3;
        }
        vec![apdu]
    });
    pair.input(client::Input::Request(Request::Get(PROFILE, None)));
    assert!(matches!(pair.at_client.last(), Some(client::Event::Ignored(_))), "{:?}", pair.at_client.last());
    pair.wait();
    assert_eq!(pair.at_client.last(), Some(&client::Event::Failed(client::Failure::Timeout)));
}

#[test]
fn what_methods_of_one_request_return_is_bounded_together() {
    let client = ClientSettings { max_pdu: 4_000, ..ClientSettings::public() };
    let server = ServerSettings {
        max_pdu: 4_000,
        assembled_size_max: 1_000,
        ..ServerSettings::public(16, SERVER_TITLE)
    };
    let mut pair = Pair::new(client, server).associated();
    let value = Data::OctetString(&[7; 400]).to_bytes();
    let calls = vec![(ECHO, Some(value.clone())); 3];
    let Response::ActionList(outcomes) = pair.ask(Request::ActionList(calls)) else { panic!() };
    assert_eq!(pair.objects.calls, 3, "each of them ran");
    let returned: Vec<_> = outcomes.into_iter().map(|outcome| outcome.returned.unwrap()).collect();
    assert_eq!(returned, [Ok(value.clone()), Ok(value), Err(DataAccessResult::OtherReason)]);
}

//= DLMS 5.8: an answer whose blocks are missing is none, and neither is one to a request that is not whole yet
#[test]
fn a_whole_answer_in_the_middle_of_blocks_is_refused() {
    let long = Data::OctetString(&[7; 700]).to_bytes();
    let sides = || {
        let client = ClientSettings { max_pdu: MAX_PDU, ..ClientSettings::public() };
        let server = ServerSettings { max_pdu: MAX_PDU, ..ServerSettings::public(16, SERVER_TITLE) };
        Pair::new(client, server).associated()
    };
    let (get, get_list) = (Request::Get(PROFILE, None), Request::GetList(vec![(PROFILE, None); 2]));
    let set = Request::Set(ENERGY, None, long.clone());
    let set_list = Request::SetList(vec![(ENERGY, None, long.clone())]);
    let action = Request::Action(ECHO, Some(long.clone()));
    let action_list = Request::ActionList(vec![(ECHO, Some(long.clone()))]);
    // How many answers of this kind are real, and what comes instead of the next one.
    let (get_block, set_block, action_block, action_next) = ([0xC4, 2], [0xC5, 2], [0xC7, 2], [0xC7, 4]);
    for (request, instead_of, real, forged) in [
        (&get, get_block, 1, &[0xC4, 1, 0, 0, 0x11, 5][..]),
        (&get_list, get_block, 1, &[0xC4, 3, 0, 2, 0, 0x11, 5, 1, 3]),
        (&set, set_block, 0, &[0xC5, 1, 0, 0]),
        (&set, set_block, 0, &[0xC5, 3, 0, 0, 0, 0, 0, 1]),
        (&set_list, set_block, 0, &[0xC5, 5, 0, 1, 0]),
        (&set_list, set_block, 0, &[0xC5, 4, 0, 1, 0, 0, 0, 0, 1]),
        (&action, action_next, 0, &[0xC7, 1, 0, 0, 0]),
        (&action, action_next, 0, &[0xC7, 2, 0, 1, 0, 0, 0, 1, 2, 0, 0]),
        (&action_list, action_next, 0, &[0xC7, 3, 0, 1, 0, 0]),
        // After the first block of the answer.
        (&action, action_block, 1, &[0xC7, 1, 0, 0, 0]),
    ] {
        let mut pair = sides();
        let (forged, mut left) = (forged.to_vec(), real);
        pair.line = Box::new(move |direction, apdu| {
            if direction == Direction::ToClient && apdu.starts_with(&instead_of) {
                if left == 0 {
                    let mut forged = forged.clone();
                    forged[2] = apdu[2];
                    return vec![forged];
                }
                left -= 1;
            }
            vec![apdu]
        });
        pair.input(client::Input::Request(request.clone()));
        let last = pair.at_client.last();
        assert_eq!(last, Some(&client::Event::Ignored(client::Refusal::Unexpected)), "{request:?}");
    }
    // An error is believed wherever it comes, of a list too.
    for (request, error, told) in [
        (set, vec![0xC5, 1, 0, 3], Response::Set(DataAccessResult::ReadWriteDenied)),
        (set_list, vec![0xC5, 5, 0, 1, 3], Response::SetList(vec![DataAccessResult::ReadWriteDenied])),
    ] {
        let mut pair = sides();
        pair.line = Box::new(move |direction, apdu| {
            let is_first = direction == Direction::ToClient && apdu.starts_with(&set_block);
            vec![if is_first { [&error[..2], &[apdu[2]], &error[3..]].concat() } else { apdu }]
        });
        assert_eq!(pair.ask(request), told);
    }
}
