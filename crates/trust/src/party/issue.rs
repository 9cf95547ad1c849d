//! Requests and certificates, written: what a meter asks with, and what the authority of a bench or a test answers.

use alloc::{string::String, vec::Vec};

use gridseal_crypto::{Curve, CurvePublic, sha256};
use gridseal_types::{SystemTitle, UtcTime};

use super::{Purpose, Role};
use crate::csr::{signature_parts_to_der, tlv};

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const GENERALIZED_TIME: u8 = 0x18;
const UTC_TIME: u8 = 0x17;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const EC_PUBLIC_KEY: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const CRITICAL: [u8; 3] = [0x01, 0x01, 0xff];

/// AlgorithmIdentifier: ECDSA with the hash of the signer's curve.
fn algorithm(curve: Curve) -> Vec<u8> {
    let last = match curve {
        Curve::P256 => 2,
        Curve::P384 => 3,
    };
    tlv(SEQUENCE, &[&tlv(OBJECT_IDENTIFIER, &[&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, last]])])
}

/// SubjectPublicKeyInfo (RFC 5480).
fn key_info(key: &CurvePublic) -> Vec<u8> {
    let curve: &[u8] = match key.curve() {
        Curve::P256 => crate::der::CURVE_P256,
        Curve::P384 => crate::der::CURVE_P384,
    };
    let kind =
        tlv(SEQUENCE, &[&tlv(OBJECT_IDENTIFIER, &[&EC_PUBLIC_KEY]), &tlv(OBJECT_IDENTIFIER, &[curve])]);
    tlv(SEQUENCE, &[&kind, &tlv(BIT_STRING, &[&[0, 4], key.point()])])
}

/// Whom a certificate names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A party: its system title in hex.
    Party(SystemTitle),
    /// An authority, by a name for people.
    Authority(String),
}

impl Subject {
    /// Name with the one common name, DER.
    #[must_use]
    pub fn name(&self) -> Vec<u8> {
        let text = match self {
            Self::Party(title) => {
                let digits = title.as_bytes().iter().flat_map(|octet| [octet >> 4, octet & 0x0f]);
                digits
                    .map(|digit| char::from_digit(digit.into(), 16).unwrap_or('0').to_ascii_uppercase())
                    .collect()
            }
            Self::Authority(name) => name.clone(),
        };
        let attribute = tlv(
            SEQUENCE,
            &[&tlv(OBJECT_IDENTIFIER, &[&[0x55, 0x04, 0x03]]), &tlv(UTF8_STRING, &[text.as_bytes()])],
        );
        tlv(SEQUENCE, &[&tlv(SET, &[&attribute])])
    }
}

/// CertificationRequestInfo of a meter, DER: what the requested key has to sign, with [`assemble`] around it.
///
/// # Source
/// RFC 2986, section 4.1. Which attributes a meter's request has is not verified \[check\]: it has none.
#[must_use]
pub fn csr_to_be_signed(title: SystemTitle, key: &CurvePublic) -> Vec<u8> {
    tlv(SEQUENCE, &[&tlv(INTEGER, &[&[0]]), &Subject::Party(title).name(), &key_info(key), &tlv(0xa0, &[])])
}

/// A request or a certificate, DER: what was signed, the algorithm, the signature r || s.
#[must_use]
pub fn assemble(to_be_signed: &[u8], curve: Curve, signature: &[u8]) -> Vec<u8> {
    let signature = tlv(BIT_STRING, &[&[0], &signature_parts_to_der(signature)]);
    tlv(SEQUENCE, &[to_be_signed, &algorithm(curve), &signature])
}

/// A certificate before it is signed.
#[derive(Debug, Clone)]
pub struct Draft<'d> {
    /// Serial number: a positive number, big-endian, first bit clear.
    pub serial: &'d [u8],
    /// Name of the issuer, DER.
    pub issuer: &'d [u8],
    /// Key of the issuer: what the certificate is signed with.
    pub issuer_key: &'d CurvePublic,
    /// Whom it names.
    pub subject: &'d Subject,
    /// Valid from, to; both inclusive.
    pub validity: (UtcTime, UtcTime),
    /// The certified key.
    pub key: &'d CurvePublic,
    /// What it is for.
    pub role: Role,
}

impl Draft<'_> {
    /// TBSCertificate, DER: what the issuer's key has to sign, with [`assemble`] around it.
    ///
    /// # Source
    /// RFC 5280, section 4.1; key service specification, section 12.2.
    #[must_use]
    pub fn to_be_signed(&self) -> Vec<u8> {
        let validity = tlv(SEQUENCE, &[&time(self.validity.0), &time(self.validity.1)]);
        tlv(
            SEQUENCE,
            &[
                &tlv(0xa0, &[&tlv(INTEGER, &[&[2]])]),
                &tlv(INTEGER, &[self.serial]),
                &algorithm(self.issuer_key.curve()),
                self.issuer,
                &validity,
                &self.subject.name(),
                &key_info(self.key),
                &tlv(0xa3, &[&tlv(SEQUENCE, &[&self.extensions()])]),
            ],
        )
    }

    fn extensions(&self) -> Vec<u8> {
        let (unused, usage) = match self.role {
            Role::Authority(_) => (1, 0x06),
            Role::Party(Purpose::Signature) => (7, 0x80),
            Role::Party(Purpose::Agreement) => (3, 0x08),
            Role::Party(Purpose::Tls) => (3, 0x88),
        };
        let mut extensions = extension(0x0f, &CRITICAL, &tlv(BIT_STRING, &[&[unused, usage]]));
        extensions.extend(extension(0x0e, &[], &tlv(OCTET_STRING, &[&key_id(self.key)])));
        extensions.extend(extension(0x23, &[], &tlv(SEQUENCE, &[&tlv(0x80, &[&key_id(self.issuer_key)])])));
        if let Role::Authority(path_length) = self.role {
            let length = path_length.map(|length| tlv(INTEGER, &[&[length]])).unwrap_or_default();
            extensions.extend(extension(0x13, &CRITICAL, &tlv(SEQUENCE, &[&CRITICAL, &length])));
        }
        extensions
    }
}

/// An extension under 2.5.29.
fn extension(last: u8, critical: &[u8], value: &[u8]) -> Vec<u8> {
    let identifier = tlv(OBJECT_IDENTIFIER, &[&[0x55, 0x1d, last]]);
    tlv(SEQUENCE, &[&identifier, critical, &tlv(OCTET_STRING, &[value])])
}

/// The first 20 bytes of SHA-256 over the point (RFC 7093, section 2, method 1).
fn key_id(key: &CurvePublic) -> Vec<u8> {
    sha256(&[&[4], key.point()]).iter().take(20).copied().collect()
}

/// UTCTime up to 2049, GeneralizedTime from 2050 on; years above 9999 are 9999.
fn time(at: UtcTime) -> Vec<u8> {
    const LAST: u64 = 253_402_300_799;
    let seconds = at.0.min(LAST);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days to a date of the Gregorian calendar, whose years begin in March here.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year + 400 * era + u64::from(month <= 2);
    let rest = alloc::format!(
        "{month:02}{day_of_month:02}{:02}{:02}{:02}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60
    );
    if (1950..2050).contains(&year) {
        tlv(UTC_TIME, &[alloc::format!("{:02}{rest}", year % 100).as_bytes()])
    } else {
        tlv(GENERALIZED_TIME, &[alloc::format!("{year:04}{rest}").as_bytes()])
    }
}
