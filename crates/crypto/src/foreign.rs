//! Signatures that others made, with the algorithms that others chose: certificates of TPM vendors, signed files.
//!
//! Our own documents are ES256 alone; nothing here signs. P-521, SHA-1, RSA-PSS and exponents other than 65,537 are not
//! supported.

use alloc::{boxed::Box, vec::Vec};

use p256::ecdsa::signature::hazmat::PrehashVerifier;
use sha2::{Digest, Sha384, Sha512};

use crate::{PublicKey, RsaPublicKey, backend::sec1, sha256};

/// A hash that a foreign signature may be over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashAlgorithm {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl HashAlgorithm {
    /// Size of a digest, bytes.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Digest of a message.
    #[must_use]
    pub fn digest(self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => sha256(&[message]).to_vec(),
            Self::Sha384 => Sha384::digest(message).to_vec(),
            Self::Sha512 => Sha512::digest(message).to_vec(),
        }
    }

    /// DER of DigestInfo up to the digest (RFC 8017, section 9.2, note 1).
    pub(crate) const fn digest_info(self) -> &'static [u8; 19] {
        match self {
            Self::Sha256 => b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20",
            Self::Sha384 => b"\x30\x41\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\x04\x30",
            Self::Sha512 => b"\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40",
        }
    }
}

/// A public key of somebody else, for verifying only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForeignKey {
    /// ECDSA on P-256.
    P256(PublicKey),
    /// ECDSA on P-384.
    P384(Box<p384::ecdsa::VerifyingKey>),
    /// RSASSA-PKCS1-v1_5.
    Rsa(RsaPublicKey),
}

impl ForeignKey {
    /// The P-384 key of an uncompressed SEC 1 point, 97 bytes; `None` when it is not on the curve.
    #[must_use]
    pub fn p384_from_sec1(point: &[u8]) -> Option<Self> {
        if point.len() != 97 || point.first() != Some(&4) {
            return None;
        }
        p384::ecdsa::VerifyingKey::from_sec1_bytes(point).ok().map(|key| Self::P384(Box::new(key)))
    }

    /// Size of r and s each of an ECDSA signature, bytes; `None` for an RSA key.
    #[must_use]
    pub const fn scalar_size(&self) -> Option<usize> {
        match self {
            Self::P256(_) => Some(32),
            Self::P384(_) => Some(48),
            Self::Rsa(_) => None,
        }
    }

    /// Whether this key signed the digest. An ECDSA signature is r || s, each of [`ForeignKey::scalar_size`] bytes.
    #[must_use]
    pub fn verifies_digest(&self, hash: HashAlgorithm, digest: &[u8], signature: &[u8]) -> bool {
        if digest.len() != hash.size() {
            return false;
        }
        match self {
            Self::P256(key) => {
                let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&sec1(key.point()));
                let signature = p256::ecdsa::Signature::from_slice(signature);
                key.is_ok_and(|key| signature.is_ok_and(|s| key.verify_prehash(digest, &s).is_ok()))
            }
            Self::P384(key) => p384::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_prehash(digest, &signature).is_ok()),
            Self::Rsa(key) => key.verifies_digest(hash, digest, signature),
        }
    }
}
