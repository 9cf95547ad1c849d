//! Where implementations read the standard in different ways, and what every one of them has in its octets.

use gridseal_dlms::{
    acse::Mechanism,
    apdu::carrier::{Carrier, KeyKind, Signing},
    assoc::{CryptoFault, Operation, PeerChallenge},
    suite::local::PeerQuirks,
};

use crate::{
    pair::{CLIENT_TITLE, SERVER_TITLE},
    suites::{bytes, end, open, run, seal},
};

#[test]
fn readings_of_the_standard_do_not_mix() {
    let ends = [CLIENT_TITLE, SERVER_TITLE];
    let normative = PeerQuirks::default();
    for (quirks, carrier, signing, fault) in [
        (
            PeerQuirks { short_aad: true, ..normative },
            Carrier::GeneralCiphering(KeyKind::Identified),
            Signing::None,
            CryptoFault::Tag,
        ),
        (
            PeerQuirks { unsized_content: true, ..normative },
            Carrier::GeneralGlo,
            Signing::Inside,
            CryptoFault::Signature,
        ),
    ] {
        for (one, other) in [(normative, quirks), (quirks, normative)] {
            let mut client = end::<16>(1, CLIENT_TITLE, ends, one);
            let request = bytes(run(&mut client, &seal(carrier, signing, SERVER_TITLE, vec![0xC0; 9])));
            let mut server = end::<16>(1, SERVER_TITLE, ends, other);
            assert_eq!(run(&mut server, &open(&request, CLIENT_TITLE)), Err(fault));
        }
    }
}

fn control_octets<const N: usize>(suite: u8) {
    let mut server = end::<N>(suite, SERVER_TITLE, [CLIENT_TITLE, SERVER_TITLE], PeerQuirks::default());
    let response = vec![0x08, 0, 6, 0x5F, 0x1F, 4, 0, 0, 0x7E, 0x1F, 4, 0, 0, 7];
    let initiate = bytes(run(&mut server, &seal(Carrier::Glo, Signing::None, CLIENT_TITLE, response)));
    assert_eq!((initiate[0], initiate[2]), (0x28, 0x30 | suite), "glo-initiateResponse");
    let challenge =
        PeerChallenge { mechanism: Mechanism::Gmac, title: Some(CLIENT_TITLE), challenge: vec![7; 16] };
    let reply = bytes(run(&mut server, &Operation::HlsReply(challenge)));
    assert_eq!(reply[0], 0x10 | suite, "pass 4 of mechanism 5");
    for carrier in [Carrier::Glo, Carrier::GeneralGlo] {
        let sealed =
            bytes(run(&mut server, &seal(carrier, Signing::None, CLIENT_TITLE, vec![0xC4, 1, 0xC1, 0, 0])));
        let at = if carrier == Carrier::Glo { 2 } else { 11 };
        assert_eq!(sealed[at], 0x30 | suite, "{carrier:?}");
    }
}

//= DLMS 12.9: the suite is in every control octet
#[test]
fn the_suite_is_in_the_control_octet_of_responses_initiates_and_proofs() {
    control_octets::<16>(0);
    control_octets::<16>(1);
    control_octets::<32>(2);
}

//= DLMS 5.5: a transaction-id that nothing covers is not remembered
#[test]
fn a_header_that_the_tag_leaves_out_neither_repeats_an_apdu_nor_locks_its_sender_out() {
    let ends = [CLIENT_TITLE, SERVER_TITLE];
    let quirks = PeerQuirks { short_aad: true, ..PeerQuirks::default() };
    let mut client = end::<16>(1, CLIENT_TITLE, ends, quirks);
    let mut server = end::<16>(1, SERVER_TITLE, ends, quirks);
    let mut request = |kind| {
        let carrier = Carrier::GeneralCiphering(kind);
        bytes(run(&mut client, &seal(carrier, Signing::None, SERVER_TITLE, vec![0xC0; 9])))
    };
    // `DB | length | transaction-id ..`: the highest one of all.
    let renamed = |apdu: &[u8]| [&apdu[..2], &[0xFF; 8], &apdu[10..]].concat();
    let identified = request(KeyKind::Identified);
    assert_eq!(identified[..2], [0xDD, 8]);
    assert!(run(&mut server, &open(&renamed(&identified), CLIENT_TITLE)).is_ok(), "its counter is right");
    assert!(run(&mut server, &open(&identified, CLIENT_TITLE)).is_err(), "and used up");
    let next = request(KeyKind::Identified);
    assert!(run(&mut server, &open(&next, CLIENT_TITLE)).is_ok(), "nobody is locked out");
    // A key that follows from the transaction-id is another one under another id.
    let agreed = request(KeyKind::AgreedStatic);
    assert_eq!(run(&mut server, &open(&renamed(&agreed), CLIENT_TITLE)), Err(CryptoFault::Tag));
    assert!(run(&mut server, &open(&agreed, CLIENT_TITLE)).is_ok());
    for kind in [KeyKind::Wrapped, KeyKind::AgreedOnePass] {
        let apdu = request(kind);
        assert_eq!(run(&mut server, &open(&renamed(&apdu), CLIENT_TITLE)), Err(CryptoFault::Transaction));
    }
}
