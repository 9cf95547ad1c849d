//! SML, the Smart Message Language: what electricity meters say through their optical head and to a gateway.
//!
//! | module | what is in it |
//! |---|---|
//! | [`transport`] | escape sequences, padding, checksum of a file; a receiver that finds files in a stream |
//! | [`element`] | type-length fields: octets, numbers, lists |
//! | [`message`] | messages, every body, both directions |
//! | [`reading`](mod@reading) | typed readings of a list, with the quirks of known meters |
//!
//! A file is taken whole or not at all: one wrong checksum anywhere, and nothing of it is used. SML by itself
//! authenticates nobody; signatures are kept as octets, because what they cover belongs to product standards.

mod crc;
pub mod element;
pub mod message;
pub mod reading;
pub mod transport;

use alloc::vec::Vec;

use crate::wire::DecodeError;

pub use crc::Checksum;
pub use message::Message;

/// How much a decoder lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// As the standard has it.
    Strict,
    /// With the deviations of known meters: checksums of another kind, times in other shapes.
    #[default]
    Tolerant,
}

/// The messages of a file.
///
/// # Errors
/// [`DecodeError`] with the offset in the payload; nothing of the file is returned then.
pub fn messages(payload: &[u8], mode: Mode) -> Result<Vec<Message<'_>>, DecodeError> {
    let mut reader = element::Elements::new(payload, mode);
    let mut messages = Vec::new();
    while reader.left() > 0 {
        messages.push(Message::decode(&mut reader)?);
    }
    Ok(messages)
}

/// Bytes of messages, one after the other: the payload of a file.
#[must_use]
pub fn encode(messages: &[Message<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    messages.iter().for_each(|message| message.encode(&mut out));
    out
}

/// Bytes as a stream, as a file and as a payload, for the fuzzer: what decodes encodes to the same messages.
///
/// # Panics
/// Where that does not hold.
#[doc(hidden)]
pub fn fuzz_entry(bytes: &[u8]) {
    let mut receiver = transport::Receiver::new();
    receiver.push(bytes, |file| {
        if let Ok(payload) = transport::open(file) {
            let _ = messages(&payload, Mode::Tolerant);
        }
    });
    assert!(receiver.pending() <= transport::FILE_SIZE_MAX, "memory is bounded");
    if let Ok(read) = messages(bytes, Mode::Tolerant) {
        let written = encode(&read);
        assert_eq!(messages(&written, Mode::Tolerant), Ok(read), "what was read is written");
    }
}
