//! Which PCRs, and the digest of their values.
#![deny(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "bytes from outside"
)]

use alloc::vec::Vec;

use gridseal_types::Digest;

use super::{ALG_SHA256, Flaw, Reader, StructureError, digest};

/// PCRs of a bank.
pub const PCR_COUNT: u8 = 24;
/// Bytes of a bit map of [`PCR_COUNT`] bits.
const SELECT_SIZE: u8 = 3;

/// A non-empty selection of PCRs of the SHA-256 bank: the only bank we use (a SHA-1 bank is never accepted).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PcrSelection {
    /// Bit *i* selects PCR *i*; bits 24 and above are clear.
    bits: u32,
}

impl PcrSelection {
    /// The selection of these indices, each below [`PCR_COUNT`]; `None` for none or an index out of range.
    #[must_use]
    pub fn new(indices: &[u8]) -> Option<Self> {
        let bits = indices.iter().try_fold(0u32, |bits, &index| {
            (index < PCR_COUNT).then(|| bits | 1u32.wrapping_shl(u32::from(index)))
        })?;
        (bits != 0).then_some(Self { bits })
    }

    /// Reads a whole TPML_PCR_SELECTION: one bank, SHA-256, three bytes of select, at least one bit.
    ///
    /// # Errors
    /// [`StructureError`] with field and offset.
    pub fn decode(bytes: &[u8]) -> Result<Self, StructureError> {
        let mut reader = Reader::new(bytes);
        let selection = Self::read(&mut reader)?;
        reader.finish("TPML_PCR_SELECTION")?;
        Ok(selection)
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, StructureError> {
        let at_count = reader.error("count", Flaw::Value);
        if reader.u32("count")? != 1 {
            return Err(at_count);
        }
        reader.one_of(&[ALG_SHA256], "hash")?;
        let at_size = reader.error("sizeofSelect", Flaw::Value);
        if reader.u8("sizeofSelect")? != SELECT_SIZE {
            return Err(at_size);
        }
        let at_select = reader.error("pcrSelect", Flaw::Value);
        let select = reader.take(usize::from(SELECT_SIZE), "pcrSelect")?;
        let bits = select.iter().rev().fold(0u32, |bits, byte| bits.wrapping_shl(8) | u32::from(*byte));
        if bits == 0 { Err(at_select) } else { Ok(Self { bits }) }
    }

    /// TPML_PCR_SELECTION, 10 bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(10);
        bytes.extend_from_slice(&1u32.to_be_bytes());
        bytes.extend_from_slice(&ALG_SHA256.to_be_bytes());
        bytes.push(SELECT_SIZE);
        bytes.extend(self.bits.to_le_bytes().into_iter().take(usize::from(SELECT_SIZE)));
        bytes
    }

    /// Selected indices, ascending.
    pub fn indices(self) -> impl Iterator<Item = u8> {
        (0..PCR_COUNT).filter(move |&index| self.bits & 1u32.wrapping_shl(u32::from(index)) != 0)
    }
}

impl core::fmt::Debug for PcrSelection {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("sha256:")?;
        f.debug_list().entries(self.indices()).finish()
    }
}

/// TPML_PCR_SELECTION of these indices; one that is out of range is left out. Without any index the result is one that
/// [`PcrSelection::decode`] refuses.
#[must_use]
pub fn pcr_selection(indices: &[u8]) -> Vec<u8> {
    let known = indices.iter().filter(|index| **index < PCR_COUNT);
    PcrSelection { bits: known.fold(0, |bits, index| bits | 1u32.wrapping_shl(u32::from(*index))) }.encode()
}

/// The pcrDigest of a quote: SHA-256 over the values of the selected PCRs in ascending order of index.
#[must_use]
pub fn pcr_digest(values: &[Digest]) -> Digest {
    let parts: Vec<&[u8]> = values.iter().map(|value| value.as_bytes().as_slice()).collect();
    digest(&parts)
}
