//! One certificate, taken apart.
#![deny(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "bytes from outside"
)]

use alloc::{string::String, vec::Vec};

use gridseal_crypto::{ForeignKey, HashAlgorithm, sha256};
use gridseal_types::{Digest, UtcTime};

use super::{CERTIFICATE_SIZE_MAX, Fault};
use crate::der::{
    self, BIT_STRING, BOOLEAN, Der, Element, GENERALIZED_TIME, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING,
    SEQUENCE, SET, UTC_TIME,
};

/// tcg-kp-EKCertificate, 2.23.133.8.1.
const EK_CERTIFICATE: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];
/// tcg-at-tpmManufacturer, -Model, -Version: 2.23.133.2.1 to .3.
const TPM_ATTRIBUTES: [&[u8]; 3] =
    [&[0x67, 0x81, 0x05, 0x02, 0x01], &[0x67, 0x81, 0x05, 0x02, 0x02], &[0x67, 0x81, 0x05, 0x02, 0x03]];
/// Prefix of the identifiers of the TCG, 2.23.133.
const TCG: &[u8] = &[0x67, 0x81, 0x05];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// Extensions that say nothing we need, and may be critical: subjectDirectoryAttributes, certificatePolicies,
/// issuerAltName, both key identifiers, cRLDistributionPoints, policyConstraints, inhibitAnyPolicy, authorityInfoAccess.
const HARMLESS: [&[u8]; 9] = [
    &[0x55, 0x1d, 0x09],
    &[0x55, 0x1d, 0x20],
    &[0x55, 0x1d, 0x12],
    &[0x55, 0x1d, 0x0e],
    &[0x55, 0x1d, 0x23],
    &[0x55, 0x1d, 0x1f],
    &[0x55, 0x1d, 0x24],
    &[0x55, 0x1d, 0x36],
    &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x01, 0x01],
];
/// Most extensions that are looked at.
const EXTENSIONS_MAX: usize = 64;
/// Longest attribute of a TPM, bytes.
const ATTRIBUTE_SIZE_MAX: usize = 64;

/// The part of a TPM in its certificate's subjectAltName.
#[derive(Clone, PartialEq, Eq, Debug, Default, minicbor::Encode, minicbor::Decode)]
pub struct TpmModel {
    /// Manufacturer, `id:` and eight hex digits of its four letters.
    #[n(0)]
    pub manufacturer: String,
    /// Part number.
    #[n(1)]
    pub model: String,
    /// Firmware version, `id:` and hex digits.
    #[n(2)]
    pub version: String,
}

/// A certificate, read but not believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// What is signed.
    to_be_signed: Vec<u8>,
    hash: Option<HashAlgorithm>,
    signature: Vec<u8>,
    /// Contents of the serial number.
    pub(super) serial: Vec<u8>,
    /// Name of the issuer, whole element.
    pub(super) issuer: Vec<u8>,
    /// Name of the subject, whole element.
    pub(super) subject: Vec<u8>,
    /// Valid from, to.
    pub(super) validity: (UtcTime, UtcTime),
    /// Its key, `None` for a kind that is not supported.
    pub(super) key: Option<ForeignKey>,
    pub(super) extensions: Extensions,
    /// SHA-256 of the whole certificate, without padding.
    pub fingerprint: Digest,
}

/// What the extensions say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Extensions {
    /// basicConstraints: authority, longest path below it.
    pub(super) is_authority: bool,
    pub(super) path_length: Option<u8>,
    /// Bits of keyUsage, first bit highest; `None` without the extension.
    pub(super) key_usage: Option<u16>,
    pub(super) is_endorsement: bool,
    pub(super) tpm: TpmModel,
    pub(super) has_unknown_critical: bool,
}

/// Bits of keyUsage.
pub(super) const KEY_ENCIPHERMENT: u16 = 1 << 13;
pub(super) const KEY_AGREEMENT: u16 = 1 << 11;
pub(super) const KEY_CERT_SIGN: u16 = 1 << 10;

/// The certificate at the front of what an NV index holds: padding behind it is cut off. `None` when there is none.
#[must_use]
pub fn cut(bytes: &[u8]) -> Option<&[u8]> {
    let whole = Der::new(bytes).optional(SEQUENCE)?.whole;
    (whole.len() <= CERTIFICATE_SIZE_MAX).then_some(whole)
}

/// Hash of a signature algorithm with ECDSA or RSASSA-PKCS1-v1_5; `None` for another.
pub(super) fn signature_hash(algorithm: &[u8]) -> Option<HashAlgorithm> {
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    let identifier = Der::new(algorithm).inside(SEQUENCE)?.expect(OBJECT_IDENTIFIER)?;
    match (identifier.strip_prefix(ECDSA), identifier.strip_prefix(RSA)) {
        (Some([2]), _) | (_, Some([11])) => Some(HashAlgorithm::Sha256),
        (Some([3]), _) | (_, Some([12])) => Some(HashAlgorithm::Sha384),
        (Some([4]), _) | (_, Some([13])) => Some(HashAlgorithm::Sha512),
        _ => None,
    }
}

fn identifier_of(algorithm: &[u8]) -> Option<&[u8]> {
    Der::new(algorithm).inside(SEQUENCE)?.expect(OBJECT_IDENTIFIER)
}

/// Days since 1970-01-01 of a date of the Gregorian calendar, from 1970 on.
fn days_since_epoch(year: u64, month: u64, day: u64) -> Option<u64> {
    let shifted = if month > 2 { year } else { year.checked_sub(1)? };
    let month_index = month.checked_add(9)?.checked_rem(12)?;
    let in_year =
        month_index.checked_mul(153)?.checked_add(2)?.checked_div(5)?.checked_add(day)?.checked_sub(1)?;
    shifted
        .checked_mul(365)?
        .checked_add(shifted.checked_div(4)?)?
        .checked_sub(shifted.checked_div(100)?)?
        .checked_add(shifted.checked_div(400)?)?
        .checked_add(in_year)?
        .checked_sub(719_468)
}

/// UTCTime or GeneralizedTime, seconds present or not; before 1970 it is 1970.
pub(crate) fn read_time(element: Element<'_>) -> Option<UtcTime> {
    let text = element.contents.strip_suffix(b"Z")?;
    let number = |range: core::ops::Range<usize>| {
        text.get(range)?.iter().try_fold(0u64, |value, byte| {
            let digit = char::from(*byte).to_digit(10)?;
            value.checked_mul(10)?.checked_add(u64::from(digit))
        })
    };
    let (year, rest) = match element.tag {
        UTC_TIME => {
            let short = number(0..2)?;
            (short.checked_add(if short < 50 { 2_000 } else { 1_900 })?, 2usize)
        }
        GENERALIZED_TIME => (number(0..4)?, 4),
        _ => return None,
    };
    let at = |index: usize| {
        let start = rest.checked_add(index.checked_mul(2)?)?;
        number(start..start.checked_add(2)?)
    };
    let (month, day, hour, minute) = (at(0)?, at(1)?, at(2)?, at(3)?);
    // Some issuers leave the seconds out.
    let second = if text.len() == rest.checked_add(8)? { 0 } else { at(4)? };
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    if year < 1_970 {
        return Some(UtcTime(0));
    }
    let days = days_since_epoch(year, month, day)?;
    let seconds = hour.checked_mul(3_600)?.checked_add(minute.checked_mul(60)?)?.checked_add(second)?;
    Some(UtcTime(days.checked_mul(86_400)?.checked_add(seconds)?))
}

impl Certificate {
    /// Reads a certificate; what follows it is padding.
    ///
    /// # Errors
    /// [`Fault::Size`], [`Fault::Format`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        if bytes.len() > super::CHAIN_MAX.saturating_mul(CERTIFICATE_SIZE_MAX) {
            return Err(Fault::Size);
        }
        let whole = Der::new(bytes).optional(SEQUENCE).ok_or(Fault::Format)?;
        if whole.whole.len() > CERTIFICATE_SIZE_MAX {
            return Err(Fault::Size);
        }
        Self::read(whole).ok_or(Fault::Format)
    }

    fn read(whole: Element<'_>) -> Option<Self> {
        let mut outer = Der::new(whole.contents);
        let to_be_signed = outer.optional(SEQUENCE)?;
        let algorithm = outer.optional(SEQUENCE)?;
        let signature = der::bits(outer.expect(BIT_STRING)?)?;
        let mut body = Der::new(to_be_signed.contents);
        // Version 3: extensions are what all of this is about.
        if body.inside(0xa0)?.expect(INTEGER)? != [2] {
            return None;
        }
        let serial = body.expect(INTEGER)?;
        let inner_algorithm = body.optional(SEQUENCE)?;
        if identifier_of(inner_algorithm.whole)? != identifier_of(algorithm.whole)? {
            return None;
        }
        let issuer = body.optional(SEQUENCE)?;
        let mut validity = body.inside(SEQUENCE)?;
        let validity = (read_time(validity.any()?)?, read_time(validity.any()?)?);
        let subject = body.optional(SEQUENCE)?;
        let spki = body.optional(SEQUENCE)?;
        // issuerUniqueID and subjectUniqueID.
        body.optional(0x81);
        body.optional(0x82);
        let mut extensions = Extensions::default();
        if let Some(mut list) = body.inside(0xa3) {
            extensions.read(list.inside(SEQUENCE)?)?;
        }
        Some(Self {
            to_be_signed: to_be_signed.whole.to_vec(),
            hash: signature_hash(algorithm.whole),
            signature: signature.to_vec(),
            serial: serial.to_vec(),
            issuer: issuer.whole.to_vec(),
            subject: subject.whole.to_vec(),
            validity,
            key: der::foreign_key(spki.whole),
            extensions,
            fingerprint: Digest(sha256(&[whole.whole])),
        })
    }

    /// Whether `issuer`'s key signed this certificate.
    ///
    /// # Errors
    /// [`Fault::Algorithm`] when key or algorithm are not supported, [`Fault::Signature`].
    pub(super) fn is_signed_by(&self, issuer: &Self) -> Result<(), Fault> {
        let (Some(hash), Some(key)) = (self.hash, &issuer.key) else { return Err(Fault::Algorithm) };
        let digest = hash.digest(&self.to_be_signed);
        let verifies = der::signature_verifies(key, hash, &digest, &self.signature);
        if verifies { Ok(()) } else { Err(Fault::Signature) }
    }

    /// Whether it may issue with so many authorities below it.
    pub(super) fn may_issue(&self, authorities_below: usize) -> bool {
        let Extensions { is_authority, path_length, key_usage, has_unknown_critical, .. } = &self.extensions;
        *is_authority
            && path_length.is_none_or(|most| authorities_below <= usize::from(most))
            && key_usage.is_none_or(|usage| usage & KEY_CERT_SIGN != 0)
            && !has_unknown_critical
    }

    pub(crate) fn is_valid_at(&self, now: UtcTime) -> bool {
        self.validity.0 <= now && now <= self.validity.1
    }
}

impl Extensions {
    fn read(&mut self, mut list: Der<'_>) -> Option<()> {
        let mut seen: Vec<&[u8]> = Vec::new();
        while !list.is_empty() {
            let mut extension = list.inside(SEQUENCE)?;
            let identifier = extension.expect(OBJECT_IDENTIFIER)?;
            let is_critical = extension.expect(BOOLEAN).is_some_and(|value| value != [0]);
            let value = extension.expect(OCTET_STRING)?;
            if seen.contains(&identifier) || seen.len() >= EXTENSIONS_MAX {
                return None;
            }
            seen.push(identifier);
            match identifier {
                BASIC_CONSTRAINTS => self.read_constraints(value)?,
                KEY_USAGE => self.key_usage = Some(read_usage(value)?),
                EXTENDED_KEY_USAGE => self.is_endorsement = read_purposes(value)?,
                SUBJECT_ALT_NAME => self.tpm = read_alternative_names(value)?,
                known if HARMLESS.contains(&known) || known.starts_with(TCG) => {}
                _ => self.has_unknown_critical |= is_critical,
            }
        }
        Some(())
    }

    fn read_constraints(&mut self, value: &[u8]) -> Option<()> {
        let mut constraints = Der::new(value).inside(SEQUENCE)?;
        self.is_authority = constraints.expect(BOOLEAN).is_some_and(|value| value != [0]);
        if let Some(length) = constraints.expect(INTEGER) {
            let [length] = length else { return None };
            self.path_length = Some(*length);
        }
        Some(())
    }
}

/// The first two bytes of the bit string, first bit highest.
fn read_usage(value: &[u8]) -> Option<u16> {
    let (_, bits) = Der::new(value).expect(BIT_STRING)?.split_first()?;
    let byte = |index: usize| bits.get(index).copied().unwrap_or(0);
    Some(u16::from_be_bytes([byte(0), byte(1)]))
}

fn read_purposes(value: &[u8]) -> Option<bool> {
    let mut list = Der::new(value).inside(SEQUENCE)?;
    let mut found = false;
    while !list.is_empty() {
        found |= list.expect(OBJECT_IDENTIFIER)? == EK_CERTIFICATE;
    }
    Some(found)
}

/// The TPM's attributes in the directoryName; vendors put them in one set or in three.
fn read_alternative_names(value: &[u8]) -> Option<TpmModel> {
    let mut names = Der::new(value).inside(SEQUENCE)?;
    let mut tpm = TpmModel::default();
    while !names.is_empty() {
        let name = names.any()?;
        if name.tag != 0xa4 {
            continue;
        }
        let mut sets = Der::new(name.contents).inside(SEQUENCE)?;
        while !sets.is_empty() {
            let mut attributes = sets.inside(SET)?;
            while !attributes.is_empty() {
                let mut attribute = attributes.inside(SEQUENCE)?;
                let identifier = attribute.expect(OBJECT_IDENTIFIER)?;
                let text = attribute.any()?.contents;
                let place = TPM_ATTRIBUTES.iter().position(|known| *known == identifier);
                let slot = match place {
                    Some(0) => &mut tpm.manufacturer,
                    Some(1) => &mut tpm.model,
                    Some(2) => &mut tpm.version,
                    _ => continue,
                };
                if text.len() > ATTRIBUTE_SIZE_MAX || !text.iter().all(|byte| (0x20..0x7f).contains(byte)) {
                    return None;
                }
                *slot = text.iter().map(|byte| char::from(*byte)).collect();
            }
        }
    }
    Some(tpm)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_time_is_read_as_its_calendar_has_it() {
        let read = |tag: u8, text: &[u8]| {
            super::read_time(crate::der::Element { tag, contents: text, whole: text }).map(|time| time.0)
        };
        assert_eq!(read(0x17, b"700101000000Z"), Some(0));
        assert_eq!(read(0x17, b"261129000000Z"), Some(1_795_910_400));
        assert_eq!(read(0x18, b"20240229235959Z"), Some(1_709_251_199));
        assert_eq!(read(0x18, b"99991231235959Z"), Some(253_402_300_799));
        assert_eq!(read(0x18, b"19500101000000Z"), Some(0), "before 1970");
        assert_eq!(read(0x17, b"2611290000Z"), Some(1_795_910_400), "without seconds");
        for wrong in [&b"261329000000Z"[..], b"261132000000Z", b"2611290000", b"26112900000aZ", b"Z", b""] {
            assert_eq!(read(0x17, wrong), None, "{wrong:?}");
        }
    }
}
