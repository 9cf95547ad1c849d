#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]
//! Vectors made by a script that shares no code with this crate, in both directions; and what is refused.

use alloc::{format, vec::Vec};
extern crate std;

use std::{fs, path::Path};

use gridseal_crypto::{
    Key,
    role::{OwnerSecret, Role},
};
use gridseal_types::{Code, Digest, Nonce};

use super::{super::secrets::OwnerSecretExt, *};

struct Vector(toml::Table);

impl Vector {
    fn load(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/onboarding");
        let table: toml::Table = fs::read_to_string(folder.join(name)).unwrap().parse().unwrap();
        Self(table["value"].as_table().unwrap().clone())
    }

    fn bytes(&self, field: &str) -> Vec<u8> {
        hex::decode(self.0[field].as_str().unwrap()).unwrap()
    }

    fn array<const N: usize>(&self, field: &str) -> [u8; N] {
        self.bytes(field).try_into().unwrap()
    }

    fn nonce(&self, field: &str) -> Nonce {
        Nonce(self.array(field))
    }

    fn key<R: Role>(&self, field: &str) -> Key<R, 32> {
        Key::take(&mut self.array(field))
    }

    fn seq(&self) -> OrderSeq {
        self.0["seq"].as_integer().unwrap().unsigned_abs()
    }
}

fn vectors() -> (Vector, Key<OwnerSecret, 32>) {
    (Vector::load("gso_orders.toml"), Vector::load("gso_framing.toml").key("n_1"))
}

#[test]
fn every_kind_of_order_and_answer_is_read_and_written_byte_for_byte() {
    let (v, _) = vectors();
    for kind in Kind::ALL {
        let payload = v.bytes(&format!("{}_payload", kind.name()));
        let order = Order::decode(&payload).unwrap();
        assert_eq!((order.task.kind(), order.seq, order.epoch), (kind, v.seq(), 1));
        assert_eq!(order.encode(), payload, "{}", kind.name());

        let body = v.bytes(&format!("{}_result_body", kind.name()));
        let result = ResultBody::decode(&body, kind).unwrap();
        assert_eq!(result.order, order_digest(&payload));
        assert_eq!(result.outcome.as_ref().unwrap().kind(), kind);
        assert_eq!(result.encode(), body, "{}", kind.name());
    }
    let body = v.bytes("refused_result_body");
    let refused = ResultBody::decode(&body, Kind::Attest).unwrap();
    assert_eq!(refused.outcome, Err(Code::Rollback));
    assert_eq!(refused.encode(), body);
}

#[test]
fn a_provision_order_is_named_by_its_whole_payload() {
    let (v, _) = vectors();
    let digest = crate::enrol::session::config_digest(&v.bytes("provision_payload"));
    assert_eq!(digest, Digest(v.array("provision_config_digest")));
}

#[test]
fn an_order_is_sealed_byte_for_byte() {
    let (v, secret) = vectors();
    let (seq, r, wire) = (v.seq(), v.nonce("r"), v.bytes("order_wire"));
    let key = secret.seal_order(seq, &r);
    assert!(bool::from(key.ct_eq(&v.key("k_order"))));
    let envelope = Envelope::decode(&wire).unwrap();
    assert!(matches!(envelope, Envelope::Order { seq: found, r: fresh, .. } if found == seq && fresh == r));
    let opened = envelope.open(&key).unwrap();
    let body = OrderBody::decode(&opened).unwrap();
    assert_eq!(body.encode(), opened);
    assert_eq!(seal_order(&key, seq, &r, &body).unwrap(), wire);

    let signed = crate::enrol::cose::Sign1::decode(&body.signed).unwrap();
    assert_eq!(signed.payload, v.bytes("attest_payload"));
    let delegation = crate::enrol::cose::Sign1::decode(&body.delegation).unwrap();
    let config_key = crate::enrol::document::Delegation::decode(delegation.payload).unwrap().key;
    assert!(signed.verify(crate::enrol::cose::SignedType::Order, &config_key));
    assert!(!signed.verify(crate::enrol::cose::SignedType::C6, &config_key), "a signature for another type");
}

#[test]
fn a_result_is_sealed_byte_for_byte() {
    let (v, secret) = vectors();
    let (seq, r2, wire) = (v.seq(), v.nonce("r2"), v.bytes("result_wire"));
    let key = secret.seal_result(seq, &v.nonce("r"), &r2);
    assert!(bool::from(key.ct_eq(&v.key("k_result"))));
    let body = Envelope::decode(&wire).unwrap().open(&key).unwrap();
    assert_eq!(body, v.bytes("attest_result_body"));
    let body = ResultBody::decode(&body, Kind::Attest).unwrap();
    assert_eq!(seal_result(&key, seq, &r2, &body).unwrap(), wire);
}

#[test]
fn a_poll_is_sealed_byte_for_byte() {
    let (v, secret) = vectors();
    let (r3, wire) = (v.nonce("r3"), v.bytes("poll_wire"));
    let key = secret.seal_poll(&r3);
    assert!(bool::from(key.ct_eq(&v.key("k_poll"))));
    let envelope = Envelope::decode(&wire).unwrap();
    assert!(matches!(envelope, Envelope::Poll { kid, .. } if kid == secret.kid()));
    let body = PollBody::decode(&envelope.open(&key).unwrap()).unwrap();
    assert_eq!((body.last_seq, body.encode()), (v.seq() - 1, v.bytes("poll_body")));
    assert_eq!(seal_poll(&key, &secret.kid(), &r3, &body).unwrap(), wire);
}

#[test]
fn what_was_changed_on_the_way_does_not_open() {
    let (v, secret) = vectors();
    let r = v.nonce("r");
    let keys = [
        ("order_wire", secret.seal_order(v.seq(), &r)),
        ("result_wire", secret.seal_result(v.seq(), &r, &v.nonce("r2"))),
        ("poll_wire", secret.seal_poll(&v.nonce("r3"))),
    ];
    for (field, key) in &keys {
        let whole = v.bytes(field);
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            let opened = Envelope::decode(&changed).and_then(|envelope| envelope.open(key));
            assert!(opened.is_err(), "{field}, byte {at}");
        }
    }
    // The key of one kind of message opens no other.
    let order = v.bytes("order_wire");
    for (_, key) in &keys[1..] {
        assert_eq!(Envelope::decode(&order).unwrap().open(key), Err(Code::Grant));
    }
}

fn order_with(kind: u8, body: &[u8]) -> Vec<u8> {
    encode(|w| {
        w.map(6).key(1).bytes(&[7; 34]).key(2).uint(1u8).key(3).uint(1u8).key(4).uint(kind).key(5);
        w.raw(body).key(6).uint(0u8);
    })
}

#[test]
fn a_body_that_its_kind_does_not_have_is_refused() {
    let rule = |kind, body: &[u8]| Order::decode(&order_with(kind, body)).map_err(|error| error.rule);
    let one = |value: &[u8]| [&[0xa1, 0x01], value].concat();
    let salt = [0x42, 0, 0];
    let caller = [&[0x50][..], &[0; 16]].concat();
    for (kind, body, expected) in [
        (0, alloc::vec![0xa0], "integer out of range"),
        (11, alloc::vec![0xa0], "integer out of range"),
        (1, alloc::vec![0xa0], "member missing"),
        (2, alloc::vec![0xa0], "member missing"),
        (
            3,
            [&[0xa2, 0x01, 0x81][..], &salt, &[0x02, 0x82], &caller, &caller].concat(),
            "as many salts as nonces",
        ),
        (3, [&[0xa2, 0x01, 0x80][..], &[0x02, 0x80]].concat(), "length out of range"),
        (4, one(&[0x80]), "length out of range"),
        (5, one(&[0x00]), "unknown critical member"),
        (7, one(&[0x40]), "length out of range"),
        (8, one(&[0x00]), "unknown critical member"),
        (9, one(&[0x02]), "integer out of range"),
        (10, one(&[0x80]), "length out of range"),
    ] {
        assert_eq!(rule(kind, &body).unwrap_err(), expected, "kind {kind}");
    }
    assert!(rule(5, &[0xa1, 0x20, 0x00]).is_ok(), "an extension below zero is skipped");
    let mut without_kind = order_with(5, &[0xa0]);
    // {.., 4: 5, 5: {}, ..} without its member 4.
    let at = without_kind.windows(2).position(|pair| pair == [0x04, 0x05]).unwrap();
    without_kind.drain(at..at + 2);
    without_kind[0] -= 1;
    assert_eq!(Order::decode(&without_kind).unwrap_err().rule, "member missing");
}

#[test]
fn an_answer_needs_its_status_and_a_refusal_has_none() {
    let body = |status: u64, answer: &[u8]| {
        let bytes = encode(|w| {
            w.map(3).key(1).bytes(&[0; 32]).key(2).uint(status).key(3).raw(answer);
        });
        ResultBody::decode(&bytes, Kind::Suspend).map_err(|error| error.rule)
    };
    assert_eq!(body(0, &[0xa0]).unwrap().outcome, Ok(Answer::Suspended));
    assert_eq!(body(31, &[0xa0]).unwrap().outcome, Err(Code::Command));
    assert_eq!(body(31, &[0xa1, 0x01, 0x00]), Err("unknown critical member"));
    assert_eq!(body(99, &[0xa0]), Err("member missing"), "a code that does not exist");
    assert_eq!(body(256, &[0xa0]), Err("integer out of range"));
}

#[test]
fn a_message_larger_than_its_kind_is_refused_before_it_is_opened() {
    let wire = |number: u8, size: usize| {
        let id: &[u8] = if number == 11 { &[0x50; 17] } else { &[0x01] };
        encode(|w| {
            w.array(5).uint(1u8).uint(number).raw(id).bytes(&[0; 32]).bytes(&alloc::vec![0; size]);
        })
    };
    for (number, most) in [(9, ORDER_SIZE_MAX), (10, RESULT_SIZE_MAX), (11, POLL_SIZE_MAX)] {
        assert_eq!(Envelope::decode(&wire(number, most)), Err(Code::Size), "{number}");
        assert!(Envelope::decode(&wire(number, most / 2)).is_ok(), "{number}");
    }
    assert_eq!(Envelope::decode(&wire(8, 16)), Err(Code::Format));
}
