//! Certificates of DLMS parties: meters, clients, and the authorities above them; requests for them, and the path to a
//! trust anchor as a meter judges it.
//!
//! A certificate is for one purpose, its subject's common name is the system title of its holder, its key is on the curve
//! of the security suite. Nothing is fetched: authorities are those that the meter was given.
//!
//! # Source
//! DLMS fact sheet, section 6.2; key service specification, section 12.2 \[check\]; RFC 5280, RFC 2986.

mod certificate;
mod issue;
mod path;

pub use certificate::{Certificate, Role, parse_csr};
pub use issue::{Draft, Subject, assemble, csr_to_be_signed};
pub use path::{Authorities, Clock};

/// Largest certificate that is looked at, bytes; one of a meter on P-256 has about 500.
pub const CERTIFICATE_SIZE_MAX: usize = 2_048;

/// What a party's certificate is for. Closed: a key has one purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Signatures: mechanism 7, general-signing, ephemeral keys.
    Signature,
    /// Static keys of key agreement.
    Agreement,
    /// TLS.
    Tls,
}

impl Purpose {
    /// Every purpose.
    pub const ALL: [Self; 3] = [Self::Signature, Self::Agreement, Self::Tls];

    /// Number of the certificate type in class 64.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Signature => 0,
            Self::Agreement => 1,
            Self::Tls => 2,
        }
    }

    /// The purpose of a certificate type; `None` for "other" and what is not known.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| i64::from(purpose.number()) == number)
    }

    /// Name as reported.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Signature => "digital signature",
            Self::Agreement => "key agreement",
            Self::Tls => "tls",
        }
    }
}

/// Why a certificate is refused: for the log of whoever refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Too large.
    #[error("certificate is too large")]
    Size,
    /// No X.509 certificate of version 3 in DER, or bytes behind it.
    #[error("not a certificate of version 3")]
    Format,
    /// A key that is on neither curve, or whose point is on no curve.
    #[error("certified key is no point of P-256 or P-384")]
    Key,
    /// The key, or an issuer's, is not on the curve that the security suite needs.
    #[error("key is not on the curve of the security suite")]
    Curve,
    /// Neither signature, key agreement, TLS nor authority, or not the purpose that is needed.
    #[error("certificate is for another purpose")]
    Purpose,
    /// The common name is no system title.
    #[error("subject is no system title")]
    Subject,
    /// It is not one of an authority that may issue, or such a one where a party's must be.
    #[error("issuer may not issue")]
    Authority,
    /// A critical extension that nobody here knows.
    #[error("unknown critical extension")]
    CriticalExtension,
    /// No path to a trust anchor.
    #[error("issuer is not known")]
    NoPath,
    /// A signature in the path does not verify.
    #[error("signature does not verify")]
    Signature,
    /// Expired, by a clock that is trusted or by the latest time that is known to have passed.
    #[error("certificate or an issuer has expired")]
    Expired,
    /// Not valid yet by a clock that is trusted.
    #[error("certificate or an issuer is not valid yet")]
    NotYet,
}

#[cfg(test)]
mod tests;

/// Entry of the fuzzer: bytes as a request, and as a certificate that certifies itself.
#[doc(hidden)]
pub fn fuzz_entry(bytes: &[u8]) {
    if let Ok((title, key)) = parse_csr(bytes) {
        assert_eq!(parse_csr(bytes), Ok((title, key)), "read alike");
    }
    let Ok(certificate) = Certificate::parse(bytes) else { return };
    assert_eq!(certificate.der(), bytes, "the whole of it");
    assert!(bytes.len() <= CERTIFICATE_SIZE_MAX, "bounded");
    let mut nobody = Authorities::default();
    let clock = Clock::Untrusted { floor: gridseal_types::UtcTime(0) };
    let curve = certificate.key().curve();
    assert!(nobody.judge(&certificate, curve, clock).is_err(), "without an anchor nobody is believed");
    nobody.intermediates.push(&certificate);
    assert!(nobody.judge(&certificate, curve, clock).is_err(), "an intermediate is no anchor");
}
