//! TPMT_SIGNATURE: ECDSA with SHA-256 on P-256.
#![deny(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "bytes from outside"
)]

use alloc::vec::Vec;

use gridseal_crypto::Signature;

use super::{ALG_ECDSA, ALG_SHA256, Flaw, Reader, StructureError, tpm2b};

/// Size of a coordinate or of r and s.
const SCALAR_SIZE: usize = 32;

/// Puts `value` at the end of a 32-byte number: a TPM may leave leading zeros away.
pub(super) fn pad(value: &[u8], into: &mut [u8]) {
    into.iter_mut().rev().zip(value.iter().rev()).for_each(|(to, from)| *to = *from);
}

/// r || s of a TPMT_SIGNATURE (sigAlg, hash, r, s), each of r and s 1 to 32 bytes.
///
/// # Errors
/// [`StructureError`] with field and offset; another algorithm is [`Flaw::Value`].
pub fn parse_signature(bytes: &[u8]) -> Result<Signature, StructureError> {
    let mut reader = Reader::new(bytes);
    reader.one_of(&[ALG_ECDSA], "sigAlg")?;
    reader.one_of(&[ALG_SHA256], "hash")?;
    let mut signature = [0; 64];
    let (r_half, s_half) = signature.split_at_mut(SCALAR_SIZE);
    for (field, half) in [("signatureR", r_half), ("signatureS", s_half)] {
        let at_start = reader.error(field, Flaw::Value);
        let value = reader.tpm2b(SCALAR_SIZE, field)?;
        if value.is_empty() {
            return Err(at_start);
        }
        pad(value, half);
    }
    reader.finish("TPMT_SIGNATURE")?;
    Ok(signature)
}

/// The TPMT_SIGNATURE of r || s, 72 bytes.
#[must_use]
pub fn signature_structure(signature: &Signature) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(72);
    bytes.extend_from_slice(&ALG_ECDSA.to_be_bytes());
    bytes.extend_from_slice(&ALG_SHA256.to_be_bytes());
    signature.chunks(SCALAR_SIZE).for_each(|half| tpm2b(&mut bytes, half));
    bytes
}
