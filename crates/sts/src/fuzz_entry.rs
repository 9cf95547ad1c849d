//! Entries for the fuzzer: bytes are digits, blocks and records.

use gridseal_crypto::sts::{Algorithm, DecoderKey};

use crate::{
    meter::{self, Slot},
    token::{Block, Content, Token},
};

/// Text as a token: whatever parses prints as the same digits; whatever opens with a right check sum seals to the same.
///
/// # Panics
/// Where that does not hold.
pub fn sts_token(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else { return };
    let Ok(token) = Token::parse(text) else { return };
    let digits = alloc::format!("{token}");
    assert_eq!(Token::parse(&digits), Ok(token), "a printed token reads the same");
    let Some(key) = DecoderKey::take(Algorithm::Misty1, &mut [0x42; 16]) else { return };
    let Some((block, is_right)) = Block::open(token, Some(&key)) else { return };
    if is_right {
        if block.class.is_enciphered() {
            assert_eq!(block.seal(&key), token, "an opened token seals to itself");
        }
        if let Ok(content) = Content::of_block(block)
            && !matches!(content, Content::KeySection { .. })
        {
            assert_eq!(content.to_block(), Ok(block), "contents make the same block");
        }
    }
}

/// Bytes as a record: what decodes encodes to the same.
///
/// # Panics
/// Where that does not hold.
pub fn sts_record(bytes: &[u8]) {
    if let Ok(recovered) = meter::recover(bytes, &[]) {
        assert_eq!(recovered.slot, Slot::A, "the second slot is empty");
        let encoded = meter::encode_record(&recovered.state);
        assert!(bytes.starts_with(&encoded), "a decoded record encodes to the same bytes");
    }
}
