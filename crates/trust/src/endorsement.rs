//! Certificates of endorsement keys: is this the key of a TPM that a vendor made?
//!
//! What real vendors issue breaks rules that strict parsers keep: no subject, notAfter in 9999, lengths that are not the
//! shortest, keys named RSAES-OAEP, padding behind the certificate in NV memory. So certificates are read by a tolerant
//! reader, and everything that decides is checked one by one. Issuers come from a bundle of the owner; nothing is fetched.
//!
//! # Source
//! Onboarding specification, section 4; TCG EK Credential Profile; RFC 5280, section 6.

mod certificate;
mod path;
mod revocation;

pub(crate) use certificate::read_time;
pub use certificate::{Certificate, TpmModel, cut};
pub use path::{Assured, Endorsements, Issuers};
pub use revocation::RevocationList;

/// Largest certificate, bytes.
pub const CERTIFICATE_SIZE_MAX: usize = 4_096;
/// Most certificates that a device or a manifest presents.
pub const CHAIN_MAX: usize = 4;
/// Largest revocation list, bytes.
pub const REVOCATION_LIST_SIZE_MAX: usize = 4 * 1024 * 1024;

/// Why a certificate of an endorsement key is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Too large, or too many.
    #[error("certificates are too large or too many")]
    Size,
    /// It cannot be read even by a tolerant reader.
    #[error("certificate cannot be read")]
    Format,
    /// A critical extension that nobody here knows.
    #[error("unknown critical extension")]
    CriticalExtension,
    /// It is for another key than the device has.
    #[error("certificate of another key")]
    OtherKey,
    /// It does not say that it is one of an endorsement key.
    #[error("not a certificate of an endorsement key")]
    Purpose,
    /// It is one of a certificate authority.
    #[error("certificate of an authority in place of a device's")]
    Authority,
    /// It does not name its TPM.
    #[error("TPM manufacturer, model and version are missing")]
    Attributes,
    /// The TPM's manufacturer is not allowed for this model.
    #[error("TPM manufacturer is not allowed")]
    Manufacturer,
    /// Not yet or no longer valid.
    #[error("certificate is not valid at this time")]
    Time,
    /// No path to a trust anchor of this model.
    #[error("no path to a trust anchor")]
    NoPath,
    /// A path was found, and a signature in it does not verify.
    #[error("signature does not verify")]
    Signature,
    /// A signature algorithm or a key that is not supported.
    #[error("signature algorithm is not supported")]
    Algorithm,
    /// Revoked by its issuer.
    #[error("certificate is revoked")]
    Revoked,
    /// The owner wants a certificate for this model and there is none.
    #[error("certificate is missing")]
    Missing,
}

impl Fault {
    /// Code as reported, stable.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Size => "ek-certificate.size",
            Self::Format => "ek-certificate.format",
            Self::CriticalExtension => "ek-certificate.critical-extension",
            Self::OtherKey => "ek-certificate.other-key",
            Self::Purpose => "ek-certificate.purpose",
            Self::Authority => "ek-certificate.authority",
            Self::Attributes => "ek-certificate.attributes",
            Self::Manufacturer => "ek-certificate.manufacturer",
            Self::Time => "ek-certificate.time",
            Self::NoPath => "ek-certificate.no-path",
            Self::Signature => "ek-certificate.signature",
            Self::Algorithm => "ek-certificate.algorithm",
            Self::Revoked => "ek-certificate.revoked",
            Self::Missing => "ek-certificate.missing",
        }
    }
}

impl From<Fault> for gridseal_types::Code {
    fn from(_: Fault) -> Self {
        Self::Endorsement
    }
}

/// Entry of the fuzzer: bytes as a certificate, as a revocation list, and as a chain with itself as every issuer.
#[doc(hidden)]
pub fn fuzz_entry(bytes: &[u8]) {
    let _ = RevocationList::parse(bytes);
    let Ok(certificate) = Certificate::parse(bytes) else { return };
    let whole = cut(bytes).expect("what parses has a length");
    assert_eq!(Certificate::parse(whole).as_ref(), Ok(&certificate), "padding changes nothing");
    let mut issuers = Issuers::default();
    let chain = alloc::vec![bytes.to_vec(); CHAIN_MAX];
    let now = gridseal_types::UtcTime(1_800_000_000);
    let key = gridseal_crypto::RsaPublicKey::from_modulus(&[0xff; 256]).expect("odd");
    let key = gridseal_crypto::tpm::EndorsementKey::Rsa2048(key);
    assert!(issuers.judge(&key, &chain, now).is_err(), "without an anchor nothing is believed");
    issuers.intermediate(bytes);
    assert!(issuers.judge(&key, &chain, now).is_err(), "an intermediate is no anchor");
}
