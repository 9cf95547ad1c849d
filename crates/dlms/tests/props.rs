//! Round trips, and bytes at random.
#![allow(clippy::unwrap_used, reason = "test code")]

use gridseal_crypto::{
    InvocationCounter, Key,
    role::{Gak, Guek},
};
use gridseal_dlms::{
    apdu::{
        ciphered::GeneralGlo,
        notification::{DataNotification, Leniency, LongInvokeId},
    },
    frame::wrapper::WrapperFrame,
    fuzz_entry,
    suite::protect::{open_general_glo, seal_general_glo},
    wire::{BitString, Data, DateTime, DeviationSign},
};
use gridseal_types::{SystemTitle, UtcTime};
use proptest::{collection::vec, prelude::*};

const TITLE: SystemTitle = SystemTitle(*b"GSL\0\0\0\0\x01");
const BYTES: &[u8] = &[0xA5; 300];

fn keys() -> (Key<Guek, 16>, Key<Gak, 16>) {
    (Key::take(&mut [0x11; 16]), Key::take(&mut [0xD0; 16]))
}

fn seal(start: u32, plain: &[u8]) -> Vec<u8> {
    let (guek, gak) = keys();
    let mut counter = InvocationCounter::resume(start.into());
    counter.extend(counter.reserve(1).unwrap());
    seal_general_glo(&guek, &gak, TITLE, counter.take().unwrap(), plain).unwrap()
}

fn opens(apdu: &[u8]) -> Option<Vec<u8>> {
    let (guek, gak) = keys();
    let apdu = GeneralGlo::from_bytes(apdu).ok()?;
    // As the receiver does: the title of the APDU leads to the keys, so another title leads to none.
    open_general_glo(&guek, &gak, apdu.system_title.filter(|title| *title == TITLE)?, &apdu).ok()
}

fn data() -> impl Strategy<Value = Data<'static>> {
    let leaf = prop_oneof![
        Just(Data::Null),
        any::<bool>().prop_map(Data::Boolean),
        any::<i32>().prop_map(Data::DoubleLong),
        any::<u32>().prop_map(Data::DoubleLongUnsigned),
        any::<i8>().prop_map(Data::Integer),
        any::<i16>().prop_map(Data::Long),
        any::<u8>().prop_map(Data::Unsigned),
        any::<u16>().prop_map(Data::LongUnsigned),
        any::<i64>().prop_map(Data::Long64),
        any::<u64>().prop_map(Data::Long64Unsigned),
        any::<u8>().prop_map(Data::Enum),
        (0..BYTES.len()).prop_map(|size| Data::OctetString(&BYTES[..size])),
        (0..8 * BYTES.len())
            .prop_map(|bits| Data::BitString(BitString::new(bits, &BYTES[..bits.div_ceil(8)]).unwrap())),
        Just(Data::VisibleString("Gridseal")),
        Just(Data::Utf8String("Zähler")),
        (0..4_000_000_000u64)
            .prop_map(|at| Data::DateTime(DateTime::from_utc(UtcTime(at + 86_400), -60, 0).unwrap())),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(Data::Array),
            vec(inner, 0..8).prop_map(Data::Structure),
        ]
    })
}

proptest! {
    #[test]
    fn data_round_trips(value in data()) {
        let bytes = value.to_bytes();
        prop_assert_eq!(Data::from_bytes(&bytes), Ok(value));
    }

    #[test]
    fn notifications_round_trip_in_both_modes(id in any::<u32>(), at in proptest::option::of(86_400u64..4_000_000_000), body in data()) {
        let date_time = at.map(|at| DateTime::from_utc(UtcTime(at), 0, 0).unwrap());
        let apdu = DataNotification { long_invoke_id: LongInvokeId(id), date_time, body };
        let bytes = apdu.to_bytes();
        for leniency in [Leniency::Strict, Leniency::DateTimeTag] {
            let decoded = DataNotification::from_bytes(&bytes, leniency);
            prop_assert_eq!(decoded.as_ref(), Ok(&apdu));
        }
    }

    #[test]
    fn instants_round_trip_at_every_deviation(at in 86_400u64..253_402_214_400, deviation in -840i16..=840) {
        let local = DateTime::from_utc(UtcTime(at), deviation, 0).unwrap();
        prop_assert_eq!(DateTime::from_bytes(&local.to_bytes()), Ok(local));
        prop_assert_eq!(local.to_utc(DeviationSign::Standard), Ok(UtcTime(at)));
    }

    #[test]
    fn what_was_sealed_opens(counter in any::<u32>(), plain in vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(opens(&seal(counter, &plain)), Some(plain));
    }

    #[test]
    fn a_flipped_bit_never_opens(counter in any::<u32>(), plain in vec(any::<u8>(), 0..40), position in any::<prop::sample::Index>()) {
        let mut sealed = seal(counter, &plain);
        let bit = position.index(8 * sealed.len());
        sealed[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(opens(&sealed), None);
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        fuzz_entry::axdr_data(&bytes);
        fuzz_entry::wrapper_frame(&bytes);
        fuzz_entry::ciphered_apdu(&bytes);
        fuzz_entry::notification(&bytes);
        fuzz_entry::hdlc_frame(&bytes);
        fuzz_entry::ber_aarq(&bytes);
        fuzz_entry::apdu(&bytes);
    }

    #[test]
    fn random_operations_never_panic_and_open_nothing_without_a_proof(bytes in vec(any::<u8>(), 0..400)) {
        fuzz_entry::assoc_server(&bytes);
        fuzz_entry::assoc_client(&bytes);
        fuzz_entry::block_transfer(&bytes);
        fuzz_entry::hdlc_link(&bytes);
    }

    #[test]
    fn changed_bytes_of_real_messages_never_panic(value in data(), position in any::<prop::sample::Index>(), octet in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let notification = DataNotification { long_invoke_id: LongInvokeId(1), date_time: None, body: value.clone() }.to_bytes();
        let sealed = seal(1, &notification);
        let frame = WrapperFrame::new(1, 1, sealed.clone()).unwrap().to_bytes();
        type Case = (fn(&[u8]), Vec<u8>);
        let entries: [Case; 4] = [
            (fuzz_entry::axdr_data, value.to_bytes()),
            (fuzz_entry::notification, notification),
            (fuzz_entry::ciphered_apdu, sealed),
            (fuzz_entry::wrapper_frame, frame),
        ];
        for (entry, mut bytes) in entries {
            entry(&bytes);
            let at = position.index(bytes.len());
            bytes[at] = octet;
            entry(&bytes);
            entry(&bytes[..cut.index(bytes.len())]);
        }
    }
}

//= DLMS 12.1: the tag is compared, whatever bit is flipped
#[test]
fn every_flipped_bit_of_one_apdu_is_refused() {
    let sealed = seal(7, b"reading");
    for bit in 0..8 * sealed.len() {
        let mut changed = sealed.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(opens(&changed), None, "bit {bit}");
    }
    assert!(opens(&sealed).is_some());
}
