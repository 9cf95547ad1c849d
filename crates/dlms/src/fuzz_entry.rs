//! Entries for fuzzers and for the replay of kept inputs: decode, encode again, compare. They panic where the two
//! differ and never for any other reason.

mod machine;
mod message_tree;

use alloc::vec::Vec;

pub use machine::{KeyedServers, assoc_client, assoc_server, assoc_server_over, block_transfer, hdlc_link};
pub use message_tree::message_tree;

use crate::{
    acse::{Aare, Aarq, InitiateError, InitiateRequest, InitiateResponse, Release},
    apdu::{
        access::{AccessRequest, AccessResponse},
        action::{ActionRequest, ActionResponse},
        carrier::{CipheredApdu, carry},
        ciphered::GeneralGlo,
        event::EventNotification,
        exception::ExceptionResponse,
        general::{GeneralCiphering, GeneralSigning},
        get::{GetRequest, GetResponse},
        notification::{DataNotification, DataNotificationConfirm, Leniency},
        report::InformationReport,
        set::{SetRequest, SetResponse},
    },
    frame::{
        hdlc::{Frame, HdlcDecoder},
        wrapper::WrapperDecoder,
    },
    wire::{ClockColumn, Data, Rows},
};

/// Limit of the decoder under test, bytes.
const APDU_SIZE_MAX: usize = 1_024;

/// A-XDR data. What decodes has one canonical form; only the octet of a boolean may differ from it.
pub fn axdr_data(bytes: &[u8]) {
    let Ok(data) = Data::from_bytes(bytes) else { return };
    let canonical = data.to_bytes();
    assert_eq!(canonical.len(), bytes.len(), "canonical form has the size of the input");
    let again = Data::from_bytes(&canonical).map(|data| data.to_bytes());
    assert_eq!(again.as_ref(), Ok(&canonical), "canonical form is stable");
    let mut reader = crate::wire::Reader::new(bytes);
    assert_eq!(Data::skip(&mut reader), Ok(bytes), "what can be read can be stepped over");
    // Restored rows are never more than the elements received, which are at most as many as bytes.
    let clock = ClockColumn { column: 0, capture_period_s: 900 };
    if let Ok(mut rows) = Rows::new(bytes, Some(clock)) {
        let count = core::iter::from_fn(|| rows.next_row().ok().flatten().map(|_| ())).count();
        assert!(count <= bytes.len(), "rows are bounded by the input");
    }
}

/// A stream of HDLC frames, in one piece and octet by octet.
pub fn hdlc_frame(bytes: &[u8]) {
    let (mut whole, mut single) = (HdlcDecoder::new(), HdlcDecoder::new());
    whole.push(bytes);
    bytes.iter().for_each(|octet| single.push(&[*octet]));
    assert_eq!(whole.dropped(), single.dropped(), "cuts change nothing");
    while let Some(frame) = whole.poll() {
        assert_eq!(Some(&frame), single.poll().as_ref(), "cuts change nothing");
        let encoded = frame.to_bytes().unwrap_or_default();
        let inner = encoded.get(1..encoded.len().saturating_sub(1)).unwrap_or_default();
        assert_eq!(Frame::from_bytes(inner).as_ref(), Ok(&frame), "a decoded frame encodes to itself");
    }
}

/// AARQ, AARE, RLRQ, RLRE and what they carry: the written form is stable.
pub fn ber_aarq(bytes: &[u8]) {
    if let Ok(aarq) = Aarq::from_bytes(bytes) {
        assert_eq!(Aarq::from_bytes(&aarq.to_bytes()), Ok(aarq), "aarq round trips");
        if let Ok(initiate) = InitiateRequest::from_bytes(aarq.user_information) {
            let again = initiate.to_bytes();
            assert_eq!(InitiateRequest::from_bytes(&again), Ok(initiate), "initiate round trips");
        }
    }
    if let Ok(aare) = Aare::from_bytes(bytes) {
        assert_eq!(Aare::from_bytes(&aare.to_bytes()), Ok(aare), "aare round trips");
        if let Some(initiate) = aare.user_information.and_then(|b| InitiateResponse::from_bytes(b).ok()) {
            assert_eq!(InitiateResponse::from_bytes(&initiate.to_bytes()), Ok(initiate));
        }
    }
    if let Ok(release) = Release::from_bytes(bytes) {
        assert_eq!(Release::from_bytes(&release.to_bytes()), Ok(release), "release round trips");
    }
}

fn round_trip(bytes: &[u8], written: Option<Vec<u8>>) {
    if let Some(written) = written {
        // Booleans may have been any octet; everything else has one form.
        assert_eq!(written.len(), bytes.len(), "a decoded apdu encodes to the same size");
    }
}

/// Every plain APDU, and the carriers.
pub fn apdu(bytes: &[u8]) {
    round_trip(bytes, GetRequest::from_bytes(bytes).ok().map(|apdu| apdu.to_bytes()));
    round_trip(bytes, GetResponse::from_bytes(bytes).ok().map(|apdu| apdu.to_bytes()));
    round_trip(bytes, SetRequest::from_bytes(bytes).ok().map(|apdu| apdu.to_bytes()));
    round_trip(bytes, SetResponse::from_bytes(bytes).ok().map(|apdu| apdu.to_bytes()));
    round_trip(bytes, ActionRequest::from_bytes(bytes).ok().map(|apdu| apdu.to_bytes()));
    round_trip(bytes, ActionResponse::from_bytes(bytes).ok().map(|apdu| apdu.to_bytes()));
    round_trip(bytes, AccessRequest::from_bytes(bytes).ok().map(|apdu| apdu.to_bytes()));
    round_trip(bytes, AccessResponse::from_bytes(bytes).ok().map(|apdu| apdu.to_bytes()));
    round_trip(bytes, EventNotification::from_bytes(bytes).ok().map(|apdu| apdu.to_bytes()));
    round_trip(bytes, InformationReport::from_bytes(bytes).ok().map(|apdu| apdu.to_bytes()));
    round_trip(bytes, ExceptionResponse::from_bytes(bytes).ok().map(|apdu| apdu.to_bytes()));
    round_trip(bytes, InitiateError::from_bytes(bytes).ok().map(|apdu| apdu.to_bytes().to_vec()));
    if let Ok(apdu) = CipheredApdu::from_bytes(bytes) {
        let tag = apdu.inner_tag.unwrap_or_default();
        let written = carry(apdu.carrier, tag, apdu.system_title, &apdu.protected);
        assert_eq!(written.as_deref(), Some(bytes), "a carrier encodes to the same bytes");
    }
}

/// A stream of wrapper frames, in one piece and octet by octet.
pub fn wrapper_frame(bytes: &[u8]) {
    let mut whole = WrapperDecoder::new(APDU_SIZE_MAX);
    let mut single = WrapperDecoder::new(APDU_SIZE_MAX);
    let outcome = whole.push(bytes);
    assert_eq!(outcome, bytes.iter().try_for_each(|octet| single.push(&[*octet])), "cuts change nothing");
    let mut rest = bytes;
    while let Some(frame) = whole.poll() {
        assert_eq!(Some(&frame), single.poll().as_ref(), "cuts change nothing");
        assert!(frame.apdu().len() <= APDU_SIZE_MAX, "limit holds");
        let encoded = frame.to_bytes();
        assert!(rest.starts_with(&encoded), "frame encodes to the bytes it came from");
        rest = rest.get(encoded.len()..).unwrap_or_default();
    }
}

/// The general forms, and their layers as a server with keys judges them: nothing but what that key made opens.
pub fn ciphered_apdu(bytes: &[u8]) {
    if let Some(mut servers) = KeyedServers::new() {
        ciphered_apdu_over(&mut servers, bytes);
    }
}

/// As [`ciphered_apdu`], over servers whose keys were made once: making them costs more than most inputs do.
pub fn ciphered_apdu_over(servers: &mut KeyedServers, bytes: &[u8]) {
    if let Ok(apdu) = GeneralGlo::from_bytes(bytes) {
        assert_eq!(apdu.to_bytes(), bytes, "a decoded apdu encodes to the same bytes");
    }
    if let Ok(apdu) = GeneralCiphering::from_bytes(bytes) {
        assert_eq!(apdu.to_bytes(), bytes, "a decoded apdu encodes to the same bytes");
    }
    if let Ok(apdu) = GeneralSigning::from_bytes(bytes) {
        assert_eq!(apdu.to_bytes(), bytes, "a decoded apdu encodes to the same bytes");
    }
    servers.open(bytes);
}

/// DataNotification in both modes, and its confirmation.
pub fn notification(bytes: &[u8]) {
    if let Ok(confirm) = DataNotificationConfirm::from_bytes(bytes) {
        assert_eq!(confirm.to_bytes(), bytes, "a decoded confirmation encodes to the same bytes");
    }
    let lenient = DataNotification::from_bytes(bytes, Leniency::DateTimeTag);
    if let Ok(strict) = DataNotification::from_bytes(bytes, Leniency::Strict) {
        let encoded = strict.to_bytes();
        assert_eq!(encoded.len(), bytes.len(), "canonical form has the size of the input");
        assert_eq!(
            lenient.map(|apdu| apdu.to_bytes()),
            Ok(encoded),
            "lenient reading accepts all that is strict"
        );
    } else if let Ok(lenient) = lenient {
        let encoded = lenient.to_bytes();
        let again = DataNotification::from_bytes(&encoded, Leniency::Strict).map(|apdu| apdu.to_bytes());
        assert_eq!(again, Ok(encoded), "what is written is strict");
    }
}
