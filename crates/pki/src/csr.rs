//! Requests: parsed once, at the edge.

use gridseal_crypto::{PublicKey, sha256};
use gridseal_trust::csr::{parse_csr, subject_public_key_info};
use gridseal_types::{Code, Digest};

/// A certificate request as it arrived.
#[derive(Debug, Clone, Copy)]
pub struct Csr<'a>(pub &'a [u8]);

/// The key of a request whose holder has proven to have it. Nothing else of a request is ever used: subject and extensions
/// come from the register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LintedCsr {
    key: PublicKey,
}

impl Csr<'_> {
    /// Reads a PKCS#10 request, DER.
    ///
    /// # Errors
    /// [`Code::Csr`] unless it is one request of version 1 for a P-256 key, bounded in size, signed by that key with
    /// ecdsa-with-SHA256, and nothing follows it.
    pub fn parse(self) -> Result<LintedCsr, Code> {
        Ok(LintedCsr { key: parse_csr(self.0)? })
    }
}

impl LintedCsr {
    /// The key.
    #[must_use]
    pub const fn key(&self) -> &PublicKey {
        &self.key
    }

    /// SHA-256 of its SubjectPublicKeyInfo.
    #[must_use]
    pub fn key_hash(&self) -> Digest {
        key_hash(&self.key)
    }
}

/// SHA-256 of a key's SubjectPublicKeyInfo.
pub(crate) fn key_hash(key: &PublicKey) -> Digest {
    Digest(sha256(&[&subject_public_key_info(key)]))
}
