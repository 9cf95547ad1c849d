//! One certificate, taken apart.
#![deny(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "bytes from outside"
)]

use alloc::vec::Vec;

use gridseal_crypto::{Curve, CurvePublic};
use gridseal_types::{SystemTitle, UtcTime};

use super::{CERTIFICATE_SIZE_MAX, Fault, Purpose};
use crate::{
    der::{
        BIT_STRING, BOOLEAN, CURVE_P256, CURVE_P384, Der, EC_PUBLIC_KEY, INTEGER, OBJECT_IDENTIFIER,
        OCTET_STRING, SEQUENCE, SET, bits, ecdsa_signature,
    },
    endorsement::read_time,
};

/// ecdsa-with-SHA256 and -SHA384, without the last arc.
const ECDSA_WITH: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
/// Extensions that say nothing we need: both key identifiers, extKeyUsage, certificatePolicies, cRLDistributionPoints,
/// authorityInfoAccess.
const HARMLESS: [&[u8]; 6] = [
    &[0x55, 0x1d, 0x0e],
    &[0x55, 0x1d, 0x23],
    &[0x55, 0x1d, 0x25],
    &[0x55, 0x1d, 0x20],
    &[0x55, 0x1d, 0x1f],
    &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x01, 0x01],
];
/// Most extensions.
const EXTENSIONS_MAX: usize = 16;
/// Bits of keyUsage, first bit highest.
const DIGITAL_SIGNATURE: u8 = 0x80;
const KEY_AGREEMENT: u8 = 0x08;
const KEY_CERT_SIGN: u8 = 0x04;
const CRL_SIGN: u8 = 0x02;
/// Longest serial number, bytes.
const SERIAL_SIZE_MAX: usize = 21;

/// Whose certificate it is, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// An authority, with at most so many authorities below it.
    Authority(Option<u8>),
    /// A party.
    Party(Purpose),
}

/// A certificate, read but not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    to_be_signed: Vec<u8>,
    /// Curve of the issuer's key, as the signature algorithm has it.
    pub(super) signed_on: Curve,
    signature: Vec<u8>,
    serial: Vec<u8>,
    issuer: Vec<u8>,
    subject: Vec<u8>,
    alt_name: Vec<u8>,
    title: Option<SystemTitle>,
    validity: (UtcTime, UtcTime),
    key: CurvePublic,
    role: Option<Role>,
    pub(super) has_unknown_critical: bool,
}

#[derive(Default)]
struct Extensions {
    alt_name: Vec<u8>,
    usage: Option<u8>,
    is_authority: bool,
    path_length: Option<u8>,
    has_unknown_critical: bool,
}

impl Certificate {
    /// Reads a certificate; nothing is verified.
    ///
    /// # Errors
    /// [`Fault::Size`], [`Fault::Key`], [`Fault::Format`].
    pub fn parse(der: &[u8]) -> Result<Self, Fault> {
        if der.len() > CERTIFICATE_SIZE_MAX {
            return Err(Fault::Size);
        }
        Self::read(der).unwrap_or(Err(Fault::Format))
    }

    fn read(der: &[u8]) -> Option<Result<Self, Fault>> {
        let mut outer = Der::new(der);
        let mut certificate = outer.inside(SEQUENCE)?;
        let to_be_signed = certificate.optional(SEQUENCE)?;
        let algorithm = certificate.optional(SEQUENCE)?;
        let signature = bits(certificate.expect(BIT_STRING)?)?;
        let mut body = Der::new(to_be_signed.contents);
        let is_version_3 = body.inside(0xa0)?.expect(INTEGER)? == [2];
        let serial = body.expect(INTEGER)?;
        let inner_algorithm = body.optional(SEQUENCE)?;
        let issuer = body.optional(SEQUENCE)?;
        let mut validity = body.inside(SEQUENCE)?;
        let (not_before, not_after) = (read_time(validity.any()?)?, read_time(validity.any()?)?);
        let subject = body.optional(SEQUENCE)?;
        let spki = body.optional(SEQUENCE)?;
        let extensions = Extensions::read(body.inside(0xa3)?.inside(SEQUENCE)?)?;
        let is_whole = outer.is_empty() && certificate.is_empty() && body.is_empty() && validity.is_empty();
        let is_serial = (1..=SERIAL_SIZE_MAX).contains(&serial.len());
        if !is_whole || !is_version_3 || !is_serial || algorithm.whole != inner_algorithm.whole {
            return None;
        }
        let signed_on = curve_of_algorithm(algorithm.contents)?;
        let Some(key) = curve_key(spki.whole) else { return Some(Err(Fault::Key)) };
        Some(Ok(Self {
            der: der.to_vec(),
            to_be_signed: to_be_signed.whole.to_vec(),
            signed_on,
            signature: ecdsa_signature(signature, signed_on.coordinate_size())?,
            serial: serial.to_vec(),
            issuer: issuer.whole.to_vec(),
            subject: subject.whole.to_vec(),
            role: extensions.role(),
            alt_name: extensions.alt_name,
            title: title_of(subject.contents),
            validity: (not_before, not_after),
            key,
            has_unknown_critical: extensions.has_unknown_critical,
        }))
    }

    /// The certificate as it came, DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Contents of the serial number, as they are in the certificate.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// Name of the issuer, DER.
    #[must_use]
    pub fn issuer(&self) -> &[u8] {
        &self.issuer
    }

    /// Name of the subject, DER.
    #[must_use]
    pub fn subject(&self) -> &[u8] {
        &self.subject
    }

    /// Contents of subjectAltName, DER; empty without one.
    #[must_use]
    pub fn alt_name(&self) -> &[u8] {
        &self.alt_name
    }

    /// The system title in the subject's common name.
    #[must_use]
    pub const fn title(&self) -> Option<SystemTitle> {
        self.title
    }

    /// Valid from, to; both inclusive.
    #[must_use]
    pub const fn validity(&self) -> (UtcTime, UtcTime) {
        self.validity
    }

    /// The certified key.
    #[must_use]
    pub const fn key(&self) -> &CurvePublic {
        &self.key
    }

    /// Whose it is; `None` for a combination of purposes that no DLMS certificate has.
    #[must_use]
    pub const fn role(&self) -> Option<Role> {
        self.role
    }

    /// Whether issuer and subject have one name.
    #[must_use]
    pub fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }

    /// Whether this key signed this certificate: on its own curve, with that curve's hash.
    #[must_use]
    pub fn is_signed_by(&self, key: &CurvePublic) -> bool {
        key.curve() == self.signed_on && key.verifies(&self.to_be_signed, &self.signature)
    }
}

impl Extensions {
    fn read(mut list: Der<'_>) -> Option<Self> {
        let mut read = Self::default();
        let mut seen: Vec<&[u8]> = Vec::new();
        while !list.is_empty() {
            let mut extension = list.inside(SEQUENCE)?;
            let identifier = extension.expect(OBJECT_IDENTIFIER)?;
            let is_critical = extension.expect(BOOLEAN).is_some_and(|value| value != [0]);
            let value = extension.expect(OCTET_STRING)?;
            if seen.contains(&identifier) || seen.len() >= EXTENSIONS_MAX || !extension.is_empty() {
                return None;
            }
            seen.push(identifier);
            match identifier {
                KEY_USAGE => {
                    // keyUsage has nine bits; the ninth, decipherOnly, is in no DLMS certificate.
                    let (_, octets) = Der::new(value).expect(BIT_STRING)?.split_first()?;
                    let [first] = octets else { return None };
                    read.usage = Some(*first);
                }
                BASIC_CONSTRAINTS => {
                    let mut constraints = Der::new(value).inside(SEQUENCE)?;
                    read.is_authority = constraints.expect(BOOLEAN).is_some_and(|value| value != [0]);
                    if let Some(length) = constraints.expect(INTEGER) {
                        let [length @ 0..=0x7f] = length else { return None };
                        read.path_length = Some(*length);
                    }
                }
                SUBJECT_ALT_NAME => read.alt_name = value.to_vec(),
                known if HARMLESS.contains(&known) => {}
                _ => read.has_unknown_critical |= is_critical,
            }
        }
        Some(read)
    }

    /// keyUsage has exactly one of three sets for a party.
    fn role(&self) -> Option<Role> {
        const BOTH: u8 = DIGITAL_SIGNATURE | KEY_AGREEMENT;
        match self.usage? {
            usage if self.is_authority => {
                let is_issuer = usage & KEY_CERT_SIGN != 0 && usage & !(KEY_CERT_SIGN | CRL_SIGN) == 0;
                is_issuer.then_some(Role::Authority(self.path_length))
            }
            DIGITAL_SIGNATURE => Some(Role::Party(Purpose::Signature)),
            KEY_AGREEMENT => Some(Role::Party(Purpose::Agreement)),
            BOTH => Some(Role::Party(Purpose::Tls)),
            _ => None,
        }
    }
}

/// A certificate request whose own key has signed it: system title of the subject, and the key. Attributes are not looked
/// into.
///
/// # Errors
/// [`Fault::Size`], [`Fault::Format`], [`Fault::Key`], [`Fault::Subject`], [`Fault::Signature`] without the proof of
/// possession.
pub fn parse_csr(der: &[u8]) -> Result<(SystemTitle, CurvePublic), Fault> {
    if der.len() > CERTIFICATE_SIZE_MAX {
        return Err(Fault::Size);
    }
    read_csr(der).unwrap_or(Err(Fault::Format))
}

fn read_csr(der: &[u8]) -> Option<Result<(SystemTitle, CurvePublic), Fault>> {
    let mut outer = Der::new(der);
    let mut request = outer.inside(SEQUENCE)?;
    let to_be_signed = request.optional(SEQUENCE)?;
    let signed_on = curve_of_algorithm(request.optional(SEQUENCE)?.contents)?;
    let signature = bits(request.expect(BIT_STRING)?)?;
    let mut body = Der::new(to_be_signed.contents);
    let version = body.expect(INTEGER)?;
    let subject = body.expect(SEQUENCE)?;
    let spki = body.optional(SEQUENCE)?;
    body.expect(0xa0)?;
    if !outer.is_empty() || !request.is_empty() || !body.is_empty() || version != [0] {
        return None;
    }
    let signature = ecdsa_signature(signature, signed_on.coordinate_size())?;
    let Some(key) = curve_key(spki.whole) else { return Some(Err(Fault::Key)) };
    if key.curve() != signed_on || !key.verifies(to_be_signed.whole, &signature) {
        return Some(Err(Fault::Signature));
    }
    Some(title_of(subject).map(|title| (title, key)).ok_or(Fault::Subject))
}

/// Curve and hash of a signature algorithm.
fn curve_of_algorithm(algorithm: &[u8]) -> Option<Curve> {
    match Der::new(algorithm).expect(OBJECT_IDENTIFIER)?.strip_prefix(ECDSA_WITH)? {
        [2] => Some(Curve::P256),
        [3] => Some(Curve::P384),
        _ => None,
    }
}

/// The key of a SubjectPublicKeyInfo on P-256 or P-384, an uncompressed point that is on its curve.
fn curve_key(spki: &[u8]) -> Option<CurvePublic> {
    let mut info = Der::new(spki).inside(SEQUENCE)?;
    let mut algorithm = info.inside(SEQUENCE)?;
    let (4, point) = bits(info.expect(BIT_STRING)?)?.split_first()? else { return None };
    let curve = match (algorithm.expect(OBJECT_IDENTIFIER)?, algorithm.expect(OBJECT_IDENTIFIER)?) {
        (EC_PUBLIC_KEY, CURVE_P256) => Curve::P256,
        (EC_PUBLIC_KEY, CURVE_P384) => Curve::P384,
        _ => return None,
    };
    CurvePublic::from_point(curve, point)
}

/// The system title that is the only common name of a name: 16 hex digits.
fn title_of(name: &[u8]) -> Option<SystemTitle> {
    let mut sets = Der::new(name);
    let mut found = None;
    while !sets.is_empty() {
        let mut attributes = sets.inside(SET)?;
        while !attributes.is_empty() {
            let mut attribute = attributes.inside(SEQUENCE)?;
            if attribute.expect(OBJECT_IDENTIFIER)? == COMMON_NAME {
                let text = attribute.any()?.contents;
                if found.replace(text).is_some() {
                    return None;
                }
            }
        }
    }
    let digits: &[u8; 16] = found?.try_into().ok()?;
    let mut title = [0; SystemTitle::SIZE];
    for (octet, pair) in title.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        let digit = |digit: &u8| u8::try_from(char::from(*digit).to_digit(16)?).ok();
        *octet = digit(high)?.wrapping_shl(4) | digit(low)?;
    }
    Some(SystemTitle(title))
}
