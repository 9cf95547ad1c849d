//! Entries for the fuzzer and for the replay of kept inputs: decode, encode again, compare. They panic where the two
//! differ and never for any other reason.
//!
//! A map with a member that this version does not know decodes without it, so what is compared is the value: it decodes
//! from its own encoding.

use alloc::vec::Vec;
use core::fmt::Debug;

use super::{
    cose::Sign1,
    delivery, delivery_list,
    document::{Delegation, Entry, Header, Manifest, Policy, Redirect},
    init::{
        InitChallenge, InitHello, InitProof, InitRedirect, decode_registered, decode_registration,
        encode_registered, encode_registration,
    },
    installation::InstallRequest,
    label, order,
    receipt::{Receipt, ReceiptFile},
    relay::{RelayPull, RelayWork},
    shipment::{Shipment, Transfer},
    voucher::Voucher,
    voucher_log,
    wire::Read,
};

fn round_trip<T: PartialEq + Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Read<T>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    let Ok(value) = decode(bytes) else { return };
    let encoded = encode(&value);
    assert!(encoded.len() <= bytes.len(), "one encoding is the shortest");
    assert_eq!(decode(&encoded).as_ref(), Ok(&value), "a decoded value decodes from its own encoding");
}

/// What an owner and a manufacturer sign, and the form of a signature.
pub fn document(bytes: &[u8]) {
    let _ = Sign1::decode(bytes);
    round_trip(bytes, Manifest::decode, Manifest::encode);
    round_trip(bytes, Header::decode, Header::encode);
    round_trip(bytes, Entry::decode, Entry::encode);
    round_trip(bytes, Delegation::decode, Delegation::encode);
    round_trip(bytes, Redirect::decode, Redirect::encode);
    round_trip(bytes, Policy::decode, Policy::encode);
}

/// A vendor's delivery list.
pub fn list(bytes: &[u8]) {
    delivery_list::fuzz_entry(bytes);
}

/// A voucher: what decodes is checked against no key, so that every check but a signature's is reached.
pub fn voucher(bytes: &[u8]) {
    round_trip(bytes, Voucher::decode, Voucher::encode);
    if let Ok(voucher) = Voucher::decode(bytes) {
        assert!(voucher.verify(&[]).is_err(), "without a key nothing is verified");
    }
}

/// Orders, results and polls. The first byte says what kind of order a result answers.
pub fn order(bytes: &[u8]) {
    let _ = order::Envelope::decode(bytes);
    round_trip(bytes, order::OrderBody::decode, order::OrderBody::encode);
    round_trip(bytes, order::PollBody::decode, order::PollBody::encode);
    round_trip(bytes, order::Order::decode, order::Order::encode);
    if let Some((kind, body)) = bytes.split_first()
        && let Some(kind) = order::Kind::from_number(*kind)
    {
        round_trip(body, |body| order::ResultBody::decode(body, kind), order::ResultBody::encode);
    }
}

/// Messages with the init server.
pub fn init_message(bytes: &[u8]) {
    round_trip(bytes, InitHello::decode, InitHello::encode);
    round_trip(bytes, InitChallenge::decode, InitChallenge::encode);
    round_trip(bytes, InitProof::decode, InitProof::encode);
    round_trip(bytes, InitRedirect::decode_payload, InitRedirect::encode_payload);
    round_trip(bytes, decode_registration, encode_registration);
    round_trip(bytes, decode_registered, |seq| encode_registered(*seq));
}

/// Messages between config server and endpoint manager.
pub fn relay_message(bytes: &[u8]) {
    round_trip(bytes, RelayPull::decode, RelayPull::encode);
    round_trip(bytes, RelayWork::decode, RelayWork::encode);
}

/// A delivery record, the release inside one, and a file of records.
pub fn delivery_record(bytes: &[u8]) {
    delivery::fuzz_entry(bytes);
    round_trip(bytes, delivery::decode_delivery, |records| delivery::encode_delivery(records));
}

/// Both labels, and an installer's request.
pub fn label(bytes: &[u8]) {
    label::fuzz_entry(bytes);
    round_trip(bytes, InstallRequest::decode, InstallRequest::encode);
}

/// A shipment, and the log of voucher entries.
pub fn shipment(bytes: &[u8]) {
    round_trip(bytes, Shipment::decode, Shipment::encode);
    round_trip(bytes, Transfer::decode, Transfer::encode);
    voucher_log::fuzz_entry(bytes);
}

/// A receipt file, checked against no key.
pub fn receipt(bytes: &[u8]) {
    round_trip(bytes, Receipt::decode, Receipt::encode);
    round_trip(bytes, ReceiptFile::decode, ReceiptFile::encode);
    if let Ok(file) = ReceiptFile::decode(bytes) {
        assert!(file.verify(&[]).is_err(), "without a key nothing is verified");
    }
}
