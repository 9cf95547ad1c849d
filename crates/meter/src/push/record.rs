//! What the push machine keeps across restarts.

use gridseal_types::Kind;

use super::keys::KeptKeys;
use crate::row::Row;

/// Version of the record's form.
const VERSION: u8 = 1;

/// The durable state: deterministic CBOR, written whole.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub(super) struct Record {
    #[n(0)]
    version: u8,
    /// First counter value that is not reserved.
    #[n(1)]
    pub(super) reserved_end: u64,
    #[n(2)]
    pub(super) next_invoke_id: u32,
    /// Generation of the keys under which frames were sealed.
    #[n(3)]
    pub(super) key_generation: u32,
    /// Newest row, also when it was confirmed and left the queue.
    #[n(4)]
    pub(super) last_row: Option<Row>,
    /// Rows not yet confirmed, oldest first.
    #[n(5)]
    pub(super) queue: Vec<Kept>,
    /// What became of the delivered keys.
    #[cbor(n(6), default)]
    pub(super) keys: KeptKeys,
}

/// One row that is not yet confirmed.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub(super) struct Kept {
    #[n(0)]
    pub(super) row: Row,
    #[n(1)]
    pub(super) invoke_id: u32,
    /// Wrapper frame with the sealed APDU, once there is one.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub(super) frame: Option<Vec<u8>>,
}

/// A record that cannot be used. The meter must not start with a fresh one instead: that would repeat nonces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// It is not a record, or bytes follow it.
    #[error("push record cannot be read")]
    Malformed,
    /// It was written by another version of the software.
    #[error("push record has version {found}, expected 1")]
    Version {
        /// Version found.
        found: u8,
    },
    /// Its keys do not follow from the delivered ones.
    #[error("keys of the push record do not follow from the delivered ones")]
    Keys,
}

impl RecordError {
    /// Always local: the meter's own storage.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        Kind::Local
    }
}

impl Record {
    pub(super) fn new(key_generation: u32) -> Self {
        Self {
            version: VERSION,
            reserved_end: 0,
            next_invoke_id: 0,
            key_generation,
            last_row: None,
            queue: Vec::new(),
            keys: KeptKeys::default(),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut decoder = minicbor::Decoder::new(bytes);
        let record: Self = decoder.decode().map_err(|_| RecordError::Malformed)?;
        if decoder.position() != bytes.len() {
            return Err(RecordError::Malformed);
        }
        if record.version != VERSION {
            return Err(RecordError::Version { found: record.version });
        }
        Ok(record)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("writing to memory does not fail")
    }
}
