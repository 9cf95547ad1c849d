//! A tolerant reader of DER for certificates of others: what real issuers write, not only what the standard allows.
//!
//! Tolerated: lengths that are not the shortest. Refused: indefinite lengths, lengths beyond the input, tags of more than
//! one byte. Nothing recurses, so nesting costs nothing.
#![deny(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "bytes from outside"
)]

use alloc::vec::Vec;

use gridseal_crypto::{ForeignKey, HashAlgorithm, PublicKey, RsaPublicKey};

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// Some vendors name the keys of their TPMs so.
const RSAES_OAEP: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x07];
pub(crate) const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
pub(crate) const CURVE_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
pub(crate) const CURVE_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];

/// One element: tag, contents, and all its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element<'d> {
    pub(crate) tag: u8,
    pub(crate) contents: &'d [u8],
    pub(crate) whole: &'d [u8],
}

/// Reads elements off the front.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Der<'d>(&'d [u8]);

impl<'d> Der<'d> {
    pub(crate) const fn new(bytes: &'d [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next element, whatever it is.
    pub(crate) fn any(&mut self) -> Option<Element<'d>> {
        let input = self.0;
        let (&tag, rest) = input.split_first()?;
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x0f))?;
                let length =
                    bytes.iter().fold(0u32, |length, byte| length.wrapping_shl(8) | u32::from(*byte));
                (usize::try_from(length).ok()?, rest)
            }
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        let whole = input.get(..input.len().checked_sub(rest.len())?)?;
        Some(Element { tag, contents, whole })
    }

    /// The next element, which has this tag; otherwise nothing is read.
    pub(crate) fn optional(&mut self, tag: u8) -> Option<Element<'d>> {
        let mut ahead = *self;
        let element = ahead.any().filter(|element| element.tag == tag)?;
        *self = ahead;
        Some(element)
    }

    /// Contents of the next element, which must have this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Option<&'d [u8]> {
        self.optional(tag).map(|element| element.contents)
    }

    /// Reader of the contents of the next element, which must have this tag.
    pub(crate) fn inside(&mut self, tag: u8) -> Option<Self> {
        self.expect(tag).map(Self)
    }
}

/// Magnitude of a non-negative INTEGER, without leading zeros.
fn magnitude(contents: &[u8]) -> &[u8] {
    let start = contents.iter().position(|byte| *byte != 0).unwrap_or(contents.len());
    contents.get(start..).unwrap_or_default()
}

/// Bytes of a BIT STRING with no unused bits.
pub(crate) fn bits(contents: &[u8]) -> Option<&[u8]> {
    contents.split_first().filter(|(unused, _)| **unused == 0).map(|(_, bits)| bits)
}

/// The key of a SubjectPublicKeyInfo (whole element): P-256, P-384, or RSA of 2,048 to 4,096 bits with exponent 65,537.
#[must_use]
pub fn foreign_key(spki: &[u8]) -> Option<ForeignKey> {
    let mut info = Der::new(spki).inside(SEQUENCE)?;
    let mut algorithm = info.inside(SEQUENCE)?;
    let key = bits(info.expect(BIT_STRING)?)?;
    let kind = algorithm.expect(OBJECT_IDENTIFIER)?;
    if kind == RSA_ENCRYPTION || kind == RSAES_OAEP {
        let mut numbers = Der::new(key).inside(SEQUENCE)?;
        let modulus = magnitude(numbers.expect(INTEGER)?);
        let exponent = magnitude(numbers.expect(INTEGER)?);
        return RsaPublicKey::from_modulus(modulus).filter(|_| exponent == [1, 0, 1]).map(ForeignKey::Rsa);
    }
    match (kind, algorithm.expect(OBJECT_IDENTIFIER)?) {
        (EC_PUBLIC_KEY, CURVE_P256) => PublicKey::from_sec1(key).map(ForeignKey::P256),
        (EC_PUBLIC_KEY, CURVE_P384) => ForeignKey::p384_from_sec1(key),
        _ => None,
    }
}

/// r || s, `size` bytes each, of `SEQUENCE { r INTEGER, s INTEGER }`.
pub(crate) fn ecdsa_signature(der: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut numbers = Der::new(der).inside(SEQUENCE)?;
    let mut signature = Vec::with_capacity(size.saturating_mul(2));
    for _ in 0..2 {
        let number = magnitude(numbers.expect(INTEGER)?);
        let padding = size.checked_sub(number.len())?;
        signature.resize(signature.len().saturating_add(padding), 0);
        signature.extend_from_slice(number);
    }
    Some(signature)
}

/// Whether `key` made this signature over a digest, in the form in which certificates and signed files have it.
pub(crate) fn signature_verifies(
    key: &ForeignKey,
    hash: HashAlgorithm,
    digest: &[u8],
    signature: &[u8],
) -> bool {
    match key.scalar_size() {
        None => key.verifies_digest(hash, digest, signature),
        Some(size) => ecdsa_signature(signature, size)
            .is_some_and(|signature| key.verifies_digest(hash, digest, &signature)),
    }
}
