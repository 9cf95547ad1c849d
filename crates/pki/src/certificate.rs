//! The certificate and its part that is signed.

use const_oid::db::{rfc5280::ID_CE_SUBJECT_KEY_IDENTIFIER, rfc5912::ECDSA_WITH_SHA_256};
use der::{
    Decode, Encode, Sequence,
    asn1::{BitString, OctetString},
};
use gridseal_crypto::{PublicKey, Signature, sha256};
use gridseal_trust::csr::{key_of_spki, signature_from_der, signature_to_der};
use gridseal_types::UtcTime;
use x509_cert::{
    AlgorithmIdentifier, SubjectPublicKeyInfo, Version,
    ext::{Extension, Extensions, pkix::SubjectKeyIdentifier},
    name::Name,
    serial_number::SerialNumber,
    time::Validity,
};

/// TBSCertificate (RFC 5280 section 4.1) without the unique identifiers, which nobody may use any more.
///
/// The type of `x509-cert` cannot be put together without its builder, which brings SHA-1.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub(crate) struct ToBeSigned {
    #[asn1(context_specific = "0", default = "Default::default")]
    pub(crate) version: Version,
    pub(crate) serial: SerialNumber,
    pub(crate) algorithm: AlgorithmIdentifier,
    pub(crate) issuer: Name,
    pub(crate) validity: Validity,
    pub(crate) subject: Name,
    pub(crate) key: SubjectPublicKeyInfo,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT", optional = "true")]
    pub(crate) extensions: Option<Extensions>,
}

#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct Signed {
    body: ToBeSigned,
    algorithm: AlgorithmIdentifier,
    signature: BitString,
}

/// A certificate of P-256 keys: what this authority issues or works under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    body: ToBeSigned,
    key: PublicKey,
}

impl Certificate {
    /// Reads a DER certificate; nothing is verified. `None` unless it is one of a P-256 key, signed with
    /// ecdsa-with-SHA256, in the form that re-encodes to the same bytes.
    #[must_use]
    pub fn parse(der: &[u8]) -> Option<Self> {
        let signed = Signed::from_der(der).ok()?;
        let is_canonical = signed.to_der().ok()? == der;
        let is_ecdsa = signed.algorithm == ecdsa_sha256() && signed.body.algorithm == signed.algorithm;
        let key = key_of_spki(&signed.body.key.to_der().ok()?)?;
        (is_canonical && is_ecdsa).then(|| Self { der: der.to_vec(), body: signed.body, key })
    }

    pub(crate) fn assemble(body: ToBeSigned, signature: &Signature) -> der::Result<Self> {
        let key = body.key.to_der().ok().and_then(|der| key_of_spki(&der));
        let key = key.ok_or_else(|| der::Error::from(der::ErrorKind::Failed))?;
        let signature = BitString::from_bytes(&signature_to_der(signature))?;
        let der = Signed { body: body.clone(), algorithm: ecdsa_sha256(), signature }.to_der()?;
        Ok(Self { der, body, key })
    }

    /// The certificate, DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The certified key.
    #[must_use]
    pub const fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Serial number, big-endian, without leading zeros.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        self.body.serial.as_bytes()
    }

    /// Start of validity.
    #[must_use]
    pub fn not_before(&self) -> UtcTime {
        UtcTime(self.body.validity.not_before.to_unix_duration().as_secs())
    }

    /// End of validity.
    #[must_use]
    pub fn not_after(&self) -> UtcTime {
        UtcTime(self.body.validity.not_after.to_unix_duration().as_secs())
    }

    /// Whether this key signed that certificate.
    #[must_use]
    pub fn has_signed(&self, other: &Self) -> bool {
        let Ok(signed) = Signed::from_der(&other.der) else { return false };
        let signature = signed.signature.as_bytes().and_then(signature_from_der);
        let body = signed.body.to_der();
        body.is_ok_and(|body| signature.is_some_and(|signature| self.key.verifies(&body, &signature)))
    }

    pub(crate) const fn body(&self) -> &ToBeSigned {
        &self.body
    }

    pub(crate) const fn subject(&self) -> &Name {
        &self.body.subject
    }

    /// Subject key identifier, as in the certificate.
    pub(crate) fn key_id(&self) -> Option<OctetString> {
        let is_id = |extension: &&Extension| extension.extn_id == ID_CE_SUBJECT_KEY_IDENTIFIER;
        let extension = self.body.extensions.as_deref()?.iter().find(is_id)?;
        Some(SubjectKeyIdentifier::from_der(extension.extn_value.as_bytes()).ok()?.0)
    }
}

/// ecdsa-with-SHA256, without parameters (RFC 5758 section 3.2).
pub(crate) const fn ecdsa_sha256() -> AlgorithmIdentifier {
    AlgorithmIdentifier { oid: ECDSA_WITH_SHA_256, parameters: None }
}

/// Identifier of a key: the first 20 bytes of SHA-256 over its point (RFC 7093 section 2, method 1).
pub(crate) fn key_id(key: &PublicKey) -> der::Result<OctetString> {
    let hash = sha256(&[&key.sec1()]);
    OctetString::new(hash.iter().copied().take(20).collect::<Vec<u8>>())
}
