//! The encoder: every vector byte for byte, and every profile there and back.

use gridseal_crypto::{InvocationCounter, Key, Ticket, lmn::MeterKeyRef, role::MeterLmn};
use gridseal_lmn::mbus::{
    Header, KeySource, Manufacturer, Medium, MeterAddress, OpenOptions, Opener, SingleKey,
    afl::Afl,
    ell::{Ell, Session},
    encode::{EncodeError, Telegram},
    frame::{Format, Link},
    tpl::{Configuration, Content, Tpl, TplFields},
};
use gridseal_types::Tick;
use proptest::prelude::*;

use super::telegram::{bytes, key_and_input, open};

pub(crate) fn ticket(value: u32) -> Ticket {
    let mut counter = InvocationCounter::resume(value.into());
    counter.extend(counter.reserve(1).unwrap());
    counter.take().unwrap()
}

/// Opens a vector, and makes it again of what was read.
fn made_again(name: &str) -> (Vec<u8>, Vec<u8>) {
    let (key, input) = key_and_input(name);
    let mut opener = Opener::default();
    opener.formats_mut().add(&bytes("040504fb827504853c04fb82f53c01fd17")).unwrap();
    let mut header = Header::default();
    let opened = opener.open(Tick(0), &input, &key, &OpenOptions::default(), &mut header).unwrap();
    let mode = header.tpl.unwrap().mode();
    let mut body = opened.body.bytes.to_vec();
    if opened.body.kind == gridseal_lmn::mbus::BodyKind::Content(Content::Compact) {
        body = gridseal_lmn::mbus::compact::compact(&body).unwrap();
    }
    if matches!(mode, 5 | 7) {
        body = body[2..].to_vec();
    }
    let session = header.ell.and_then(|ell| ell.session).map(|session| session.0 & 0x1FFF_FFFF);
    let telegram = Telegram {
        link: header.link.unwrap(),
        ell: header.ell,
        afl: header.afl,
        tpl: header.tpl.unwrap(),
        body: &body,
        clear_tail: if matches!(mode, 5 | 7) { opened.clear_tail } else { 0 },
    };
    let counter = session.or(header.counter()).map(ticket);
    let again = telegram.encode(header.format.unwrap(), Some((&key.0).into()), counter).unwrap();
    (input, again)
}

#[test]
fn every_vector_is_made_again_byte_for_byte() {
    for name in [
        "t1-mode-5-format-a",
        "t2-profile-b-short",
        "t3-profile-b-long",
        "t4-ell-ctr-compact",
        "t5-ell-ctr-full",
        "t6-profile-d",
        "t7-profile-d-format-a",
        "t8-mode-5-long",
    ] {
        let (input, again) = made_again(name);
        assert_eq!(hex::encode(again), hex::encode(input), "{name}");
    }
}

const METER: MeterAddress =
    MeterAddress::new(Manufacturer(0x1593), [0x12, 0x34, 0x56, 0x78], 0x33, Medium(7));

fn tpl(cf: u16, cfe: [u8; 2], mcr: Option<u32>, is_long: bool) -> Tpl {
    let configuration = Configuration { cf, cfe, mcr, key_version: None };
    Tpl {
        ci: if is_long { 0x72 } else { 0x7A },
        content: Content::Full,
        address: is_long.then_some(METER),
        fields: Some(TplFields { access: 0x42, status: 0, configuration }),
    }
}

fn key() -> Key<MeterLmn, 16> {
    Key::take(&mut b"a key for tests!".to_owned())
}

/// A telegram of each profile: 0 clear, 1 A, 2 B, 3 D, 4 extended link layer, 5 B with a long header and key information.
fn telegram(profile: u8, body: &[u8]) -> Telegram<'_> {
    let link = Link { control: 0x44, address: METER };
    let afl = |mcl, ki| Afl { mcl: Some(mcl), ki, mcr: Some(0), ..Afl::default() };
    let (ell, afl, tpl) = match profile {
        0 => (None, None, tpl(0, [0; 2], None, false)),
        1 => (None, None, tpl(0x0500, [0; 2], None, false)),
        2 => (None, Some(afl(0x25, None)), tpl(0x0700, [0x10, 0], None, false)),
        3 => (None, None, tpl(0x2AFF, [0x10, 0x01], Some(0), false)),
        4 => {
            let session = Some(Session(1 << 29));
            let ell = Ell { ci: 0x8D, control: 0x20, access: 0x42, address: None, session };
            (Some(ell), None, Tpl { ci: 0x78, content: Content::Full, address: None, fields: None })
        }
        _ => (None, Some(afl(0x37, Some(0x0110))), tpl(0x0700, [0x10, 0], None, true)),
    };
    Telegram { link, ell, afl, tpl, body, clear_tail: 0 }
}

proptest! {
    #[test]
    fn what_is_made_is_opened_and_says_the_same(
        profile in 0u8..6, value in any::<i32>(), counter in 1u32..0x1FFF_FFFF,
        format in prop::sample::select(vec![Format::A, Format::B, Format::Stripped]), count in 1usize..16,
    ) {
        let mut body = Vec::new();
        for _ in 0..count {
            body.extend_from_slice(&[0x04, 0x13]);
            body.extend_from_slice(&value.to_le_bytes());
        }
        let key = SingleKey(key());
        let sent = telegram(profile, &body).encode(format, Some((&key.0).into()), Some(ticket(counter))).unwrap();
        let (header, line) = open(&key, &OpenOptions::default(), &sent).unwrap();
        prop_assert_eq!(header.format, Some(format));
        prop_assert_eq!(line.matches("volume").count(), count);
        let number = gridseal_lmn::reading::Decimal::new(value.into(), -3);
        prop_assert!(line.contains(&format!("volume {number} m3")), "{}", line);
        let proof = match profile {
            0 => "none".to_owned(),
            1 | 4 => "unproven".to_owned(),
            _ => format!("verified {counter}"),
        };
        prop_assert!(line.starts_with(&proof), "{}", line);
    }

    #[test]
    fn no_bytes_make_the_opener_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), wired in any::<bool>()) {
        let options = OpenOptions { is_wired: wired, ..OpenOptions::default() };
        let _ = open(&SingleKey(key()), &options, &bytes);
    }
}

#[test]
fn protected_telegrams_need_a_key_and_an_unused_counter() {
    let body = [0x04, 0x13, 1, 0, 0, 0];
    let key = key();
    let encode = |profile, key: Option<MeterKeyRef<'_>>, ticket| {
        telegram(profile, &body).encode(Format::A, key, ticket).map(|_| ())
    };
    for profile in 1..6 {
        assert_eq!(encode(profile, None, Some(ticket(1))), Err(EncodeError::NoKey), "{profile}");
    }
    for profile in 2..6 {
        assert_eq!(encode(profile, Some((&key).into()), None), Err(EncodeError::NoCounter), "{profile}");
    }
    assert_eq!(encode(1, Some((&key).into()), None), Ok(()));
    assert_eq!(encode(4, Some((&key).into()), Some(ticket(1 << 29))), Err(EncodeError::NoCounter));
}

#[test]
fn bodies_too_long_for_a_frame_or_for_the_block_count_are_refused() {
    let key = key();
    for (profile, size) in [(0, 256), (1, 15 * 16 - 1), (2, 15 * 16 - 1), (3, 240)] {
        let body = vec![0x2F; size];
        let made = telegram(profile, &body).encode(Format::A, Some((&key).into()), Some(ticket(1)));
        assert_eq!(made, Err(EncodeError::TooLong), "{profile}");
    }
}

#[test]
fn a_message_in_fragments_is_put_together_and_verified_as_a_whole() {
    let keys = SingleKey(key());
    let body = [0x04, 0x13, 7, 0, 0, 0].repeat(20);
    let mut whole = telegram(2, &body);
    let ml = u16::try_from(6 + 128).unwrap();
    whole.afl = Some(Afl { mcl: Some(0x65), mcr: Some(0), ml: Some(ml), ..Afl::default() });
    let sent = whole.encode(Format::Stripped, Some((&keys.0).into()), Some(ticket(9))).unwrap();
    let (header, line) = open(&keys, &OpenOptions::default(), &sent).unwrap();
    assert!(line.starts_with("verified 9"));
    let (afl, message) = (header.afl.unwrap(), &sent[sent.len() - usize::from(ml)..]);
    let frames: Vec<Vec<u8>> = gridseal_lmn::mbus::afl::fragments(&afl, message, 50)
        .unwrap()
        .into_iter()
        .map(|(afl, part)| {
            let mut frame = sent[..10].to_vec();
            afl.encode(&mut frame);
            frame.extend_from_slice(part);
            gridseal_lmn::mbus::frame::dress(&frame, Format::A).unwrap()
        })
        .collect();
    assert_eq!(frames.len(), 3);
    let mut opener = Opener::default();
    let mut open =
        |frame: &[u8]| super::telegram::open_with(&mut opener, &keys, &OpenOptions::default(), frame);
    assert_eq!(open(&frames[0]).unwrap().1.split(" | ").count(), 1, "no value before the whole is checked");
    open(&frames[1]).unwrap();
    let (_, line) = open(&frames[2]).unwrap();
    assert!(line.starts_with("verified 9") && line.matches("volume 0.007 m3").count() == 20, "{line}");
    assert_eq!(open(&frames[1]).unwrap_err().code(), "lmn.fragment_sequence");
    open(&frames[0]).unwrap();
    open(&frames[1]).unwrap();
    let mut flipped = frames[2].clone();
    flipped = {
        let mut plain = Vec::new();
        gridseal_lmn::mbus::frame::strip(&flipped, None, &mut plain).unwrap();
        *plain.last_mut().unwrap() ^= 1;
        plain
    };
    assert_eq!(open(&flipped).unwrap_err().code(), "lmn.mac");
}

#[test]
fn a_wired_frame_is_made_and_opened() {
    let body = [0x04, 0x13, 1, 0, 0, 0];
    let telegram = Telegram { tpl: tpl(0, [0; 2], None, true), ..telegram(0, &body) };
    let sent = telegram.encode_wired(0x08, 1, None, None).unwrap();
    let options = OpenOptions { is_wired: true, ..OpenOptions::default() };
    let (header, line) = open(&(), &options, &sent).unwrap();
    assert_eq!(header.wired, Some((8, 1)));
    assert_eq!(line, "none wired ELS 12345678 v33 t07 | volume 0.001 m3 8-0:1.0.0.255");
    let known = KeySource::find(&(), METER);
    assert!(known.is_none());
}
