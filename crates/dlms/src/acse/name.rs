//! Names of application contexts and of authentication mechanisms.

use crate::wire::{DecodeError, Reader, Rule, Writer};

/// Object identifier arc of DLMS: 2.16.756.5.8, five octets of which the first is joint-iso-ccitt.
const ARC: [u8; 5] = [0x60, 0x85, 0x74, 0x05, 0x08];
const CONTEXT: u8 = 1;
const MECHANISM: u8 = 2;

/// Application context. Closed: the four that the standard defines.
///
/// # Source
/// DLMS fact sheet, section 3.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextName {
    /// Logical names, no ciphering.
    LogicalName,
    /// Short names, no ciphering.
    ShortName,
    /// Logical names, with ciphering.
    LogicalNameCiphered,
    /// Short names, with ciphering.
    ShortNameCiphered,
}

impl ContextName {
    /// Whether APDUs of the association are ciphered.
    #[must_use]
    pub const fn is_ciphered(self) -> bool {
        matches!(self, Self::LogicalNameCiphered | Self::ShortNameCiphered)
    }

    /// Last arc of the object identifier.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::LogicalName => 1,
            Self::ShortName => 2,
            Self::LogicalNameCiphered => 3,
            Self::ShortNameCiphered => 4,
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = reader.clone();
        match arc(reader, CONTEXT, "application-context-name")? {
            1 => Ok(Self::LogicalName),
            2 => Ok(Self::ShortName),
            3 => Ok(Self::LogicalNameCiphered),
            4 => Ok(Self::ShortNameCiphered),
            _ => Err(start.fail("application-context-name", Rule::OutOfRange)),
        }
    }

    pub(super) fn to_bytes(self) -> [u8; 7] {
        object_identifier(CONTEXT, self.number())
    }
}

/// Authentication mechanism. Closed: the ids of the standard; national ones are refused.
///
/// # Source
/// DLMS fact sheet, section 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mechanism {
    /// No authentication.
    None,
    /// Password in the AARQ.
    LowLevel,
    /// Vendor specific: recognised, never spoken.
    Manufacturer,
    /// MD5 over challenge and secret: legacy profile only.
    Md5,
    /// SHA-1 over challenge and secret: legacy profile only.
    Sha1,
    /// GMAC under the unicast key.
    Gmac,
    /// SHA-256 over secret, titles and challenges.
    Sha256,
    /// ECDSA over titles and challenges: suites 1 and 2.
    Ecdsa,
}

impl Mechanism {
    /// The mechanism with this id.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::None,
            1 => Self::LowLevel,
            2 => Self::Manufacturer,
            3 => Self::Md5,
            4 => Self::Sha1,
            5 => Self::Gmac,
            6 => Self::Sha256,
            7 => Self::Ecdsa,
            _ => return None,
        })
    }

    /// Its id.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::LowLevel => 1,
            Self::Manufacturer => 2,
            Self::Md5 => 3,
            Self::Sha1 => 4,
            Self::Gmac => 5,
            Self::Sha256 => 6,
            Self::Ecdsa => 7,
        }
    }

    /// Whether it has four passes with challenges: high level security.
    #[must_use]
    pub const fn is_high_level(self) -> bool {
        !matches!(self, Self::None | Self::LowLevel)
    }

    /// Fewest bytes of its challenges.
    #[must_use]
    pub const fn challenge_size_min(self) -> usize {
        //= DLMS 4: challenges have 8 to 64 bytes, those of mechanism 7 at least 32
        match self {
            Self::Ecdsa => 32,
            _ => super::CHALLENGE_SIZE_MIN,
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = reader.clone();
        let number = arc(reader, MECHANISM, "mechanism-name")?;
        Self::from_number(number).ok_or_else(|| start.fail("mechanism-name", Rule::OutOfRange))
    }

    pub(super) fn to_bytes(self) -> [u8; 7] {
        object_identifier(MECHANISM, self.number())
    }
}

/// Last arc of an object identifier that must be `ARC.branch.x`.
fn arc(reader: &mut Reader<'_>, branch: u8, field: &'static str) -> Result<u8, DecodeError> {
    let start = reader.clone();
    let [a, b, c, d, e, found, last] = reader.array(field)?;
    reader.finish(field)?;
    if [a, b, c, d, e] != ARC || found != branch {
        return Err(start.fail(field, Rule::OutOfRange));
    }
    Ok(last)
}

const fn object_identifier(branch: u8, last: u8) -> [u8; 7] {
    let [a, b, c, d, e] = ARC;
    [a, b, c, d, e, branch, last]
}

pub(super) fn authentication_value<'a>(
    contents: Option<Reader<'a>>,
    field: &'static str,
) -> Result<Option<&'a [u8]>, DecodeError> {
    let Some(mut contents) = contents else { return Ok(None) };
    let start = contents.clone();
    let value = crate::wire::ber::inner(&mut contents, 0x80, field)?.remainder();
    if value.len() > super::CHALLENGE_SIZE_MAX {
        let rule = Rule::TooLong { found: value.len(), limit: super::CHALLENGE_SIZE_MAX };
        return Err(start.fail(field, rule));
    }
    Ok(Some(value))
}

/// `80 02 07 80`-like contents: the bit string that asks for authentication, one bit.
pub(super) fn requirements(contents: Option<Reader<'_>>, field: &'static str) -> Result<bool, DecodeError> {
    let Some(mut contents) = contents else { return Ok(false) };
    let start = contents.clone();
    let [unused, bits] = contents.array(field)?;
    contents.finish(field)?;
    if unused > 7 || bits & 0x7F != 0 {
        return Err(start.fail(field, Rule::OutOfRange));
    }
    Ok(bits & 0x80 != 0)
}

/// An octet string of its own tag 04 inside a field.
pub(super) fn octets<'a>(
    contents: Option<Reader<'a>>,
    field: &'static str,
) -> Result<Option<&'a [u8]>, DecodeError> {
    let Some(mut contents) = contents else { return Ok(None) };
    Ok(Some(crate::wire::ber::inner(&mut contents, 0x04, field)?.remainder()))
}

/// A system title inside an octet string.
pub(super) fn title(
    contents: Option<Reader<'_>>,
    field: &'static str,
) -> Result<Option<gridseal_types::SystemTitle>, DecodeError> {
    let Some(start) = contents.clone() else { return Ok(None) };
    let Some(bytes) = octets(contents, field)? else { return Ok(None) };
    gridseal_types::SystemTitle::from_slice(bytes)
        .map(Some)
        .ok_or_else(|| start.fail(field, Rule::LengthNotAllowed { found: bytes.len() }))
}

/// A small non-negative integer of tag 02 inside a field.
pub(super) fn integer(contents: Option<Reader<'_>>, field: &'static str) -> Result<Option<u8>, DecodeError> {
    let Some(mut contents) = contents else { return Ok(None) };
    let start = contents.clone();
    let bytes = crate::wire::ber::inner(&mut contents, 0x02, field)?.remainder();
    match bytes {
        [value] => Ok(Some(*value)),
        _ => Err(start.fail(field, Rule::LengthNotAllowed { found: bytes.len() })),
    }
}

pub(super) fn wrapped(tag: u8, contents: &[u8]) -> alloc::vec::Vec<u8> {
    let mut writer = Writer::default();
    crate::wire::ber::wrap(&mut writer, tag, contents);
    writer.into_bytes()
}
