//! Requests: parsed once, at the edge.

use der::{Decode, Encode};
use gridseal_crypto::{PublicKey, sha256};
use gridseal_trust::csr::{parse_csr, subject_public_key_info};
use gridseal_types::{Code, Digest};
use x509_cert::request::CertReq;

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

/// Whether a request asks for this common name and nothing else in its subject, as the renewal of such a certificate must.
#[must_use]
pub fn is_for_common_name(csr: &[u8], name: &str) -> bool {
    let Ok(request) = CertReq::from_der(csr) else { return false };
    let wanted = crate::profile::common_name(name).and_then(|name| Ok(name.to_der()?));
    matches!((request.info.subject.to_der(), wanted), (Ok(asked), Ok(wanted)) if asked == wanted)
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
