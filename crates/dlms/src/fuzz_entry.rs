//! Entries for fuzzers and for the replay of kept inputs: decode, encode again, compare. They panic where the two
//! differ and never for any other reason.

use crate::{
    apdu::{
        ciphered::GeneralGlo,
        notification::{DataNotification, DataNotificationConfirm, Leniency},
    },
    frame::wrapper::WrapperDecoder,
    wire::Data,
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

/// general-glo-ciphering.
pub fn ciphered_apdu(bytes: &[u8]) {
    let Ok(apdu) = GeneralGlo::from_bytes(bytes) else { return };
    assert_eq!(apdu.to_bytes(), bytes, "a decoded apdu encodes to the same bytes");
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
