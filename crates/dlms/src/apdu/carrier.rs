//! Carriers: the APDUs around a protected one.

use alloc::vec::Vec;

use gridseal_types::SystemTitle;

use super::{ciphered::Protected, tag};
use crate::wire::{DecodeError, Reader, Rule, Writer};

/// Which APDUs carry protected ones in an association. Closed: the choices of the standard.
///
/// # Source
/// DLMS fact sheet, sections 5.4 and 5.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// One tag for each service, global key.
    Glo,
    /// One tag for each service, dedicated key.
    Ded,
    /// general-glo-ciphering: any APDU, global key.
    GeneralGlo,
    /// general-ded-ciphering: any APDU, dedicated key.
    GeneralDed,
    /// general-ciphering: any APDU, with a header that names both ends and the key.
    GeneralCiphering(KeyKind),
}

/// Where the key of a general-ciphering APDU comes from. Closed: the choices of the standard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// The global unicast key.
    Identified,
    /// A fresh key, wrapped under the master key.
    Wrapped,
    /// One-pass Diffie-Hellman, C(1e, 1s): an ephemeral key of the originator, signed, and the recipient's static key.
    AgreedOnePass,
    /// Static unified model, C(0e, 2s): the static keys of both; the transaction-id makes it another key each time.
    AgreedStatic,
}

/// Whether and where general-signing is among the layers of a protected APDU. Closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Signing {
    /// Nothing is signed.
    #[default]
    None,
    /// The plain APDU is signed, then ciphered.
    Inside,
    /// The ciphered APDU is signed.
    Outside,
}

impl Signing {
    /// Bytes that general-signing adds to an APDU of up to 65,535 bytes.
    #[must_use]
    pub const fn overhead_max(self) -> usize {
        match self {
            Self::None => 0,
            Self::Inside | Self::Outside => {
                HEADER_SIZE_MAX.saturating_add(LENGTH_SIZE_MAX).saturating_add(SIGNATURE_SIZE_MAX)
            }
        }
    }
}

/// Bytes by which the layers of a protected APDU may exceed the plain one.
pub const LAYERS_OVERHEAD_MAX: usize = Carrier::GeneralCiphering(KeyKind::AgreedOnePass)
    .overhead_max()
    .saturating_add(Signing::Inside.overhead_max());

impl Carrier {
    /// Whether the dedicated key protects.
    #[must_use]
    pub const fn is_dedicated(self) -> bool {
        matches!(self, Self::Ded | Self::GeneralDed)
    }

    /// The general form with the same key.
    #[must_use]
    pub const fn general(self) -> Self {
        match self {
            Self::Glo | Self::GeneralGlo => Self::GeneralGlo,
            Self::Ded | Self::GeneralDed => Self::GeneralDed,
            Self::GeneralCiphering(_) => self,
        }
    }

    /// Whether it can carry an APDU with this tag: glo and ded have tags for some services only.
    #[must_use]
    pub const fn carries(self, tag: u8) -> bool {
        match self {
            Self::Glo => glo_tag(tag).is_some(),
            Self::Ded => ded_tag(tag).is_some(),
            Self::GeneralGlo | Self::GeneralDed | Self::GeneralCiphering(_) => true,
        }
    }

    /// Bytes that the carrier adds to an APDU of up to 65,535 bytes, tag of authentication included.
    #[must_use]
    pub const fn overhead_max(self) -> usize {
        let header = match self {
            Self::Glo | Self::Ded => 1,
            Self::GeneralGlo | Self::GeneralDed => 1 + 1 + SystemTitle::SIZE,
            Self::GeneralCiphering(kind) => HEADER_SIZE_MAX.saturating_add(kind.size_max()),
        };
        Protected::HEADER_SIZE.saturating_add(TAG_SIZE).saturating_add(LENGTH_SIZE_MAX).saturating_add(header)
    }
}

impl KeyKind {
    /// Octets of the key-info at most: those of suite 2.
    const fn size_max(self) -> usize {
        match self {
            Self::Identified => 3,
            Self::Wrapped => 1 + 2 + 1 + 40,
            Self::AgreedOnePass => 2 + 2 + 2 + 2 * POINT_SIZE_MAX,
            Self::AgreedStatic => 2 + 2 + 1,
        }
    }
}

/// Octets of the tag and the header of the general forms, with a transaction-id of 8 and nothing in the last two fields.
const HEADER_SIZE_MAX: usize = 1 + 3 * 9 + 2;
/// Octets of a point of the larger curve.
const POINT_SIZE_MAX: usize = 96;
/// Octets of the longer signature with its length.
const SIGNATURE_SIZE_MAX: usize = 1 + POINT_SIZE_MAX;
/// Octets of a length up to 65,535.
const LENGTH_SIZE_MAX: usize = 3;
/// Octets of a tag of authentication.
const TAG_SIZE: usize = 12;

/// Rows of plain, global and dedicated tag.
const TAGS: [(u8, u8, u8); 10] = [
    (tag::INITIATE_REQUEST, 0x21, 0x41),
    (tag::INITIATE_RESPONSE, 0x28, 0x48),
    (tag::CONFIRMED_SERVICE_ERROR, 0x2E, 0x4E),
    (tag::GET_REQUEST, 0xC8, 0xD0),
    (tag::SET_REQUEST, 0xC9, 0xD1),
    (tag::EVENT_NOTIFICATION, 0xCA, 0xD2),
    (tag::ACTION_REQUEST, 0xCB, 0xD3),
    (tag::GET_RESPONSE, 0xCC, 0xD4),
    (tag::SET_RESPONSE, 0xCD, 0xD5),
    (tag::ACTION_RESPONSE, 0xCF, 0xD7),
];

const fn row(plain: u8) -> Option<(u8, u8)> {
    let mut rows = TAGS.as_slice();
    while let [(tag, glo, ded), rest @ ..] = rows {
        if *tag == plain {
            return Some((*glo, *ded));
        }
        rows = rest;
    }
    None
}

const fn glo_tag(plain: u8) -> Option<u8> {
    match row(plain) {
        Some((glo, _)) => Some(glo),
        None => None,
    }
}

const fn ded_tag(plain: u8) -> Option<u8> {
    match row(plain) {
        Some((_, ded)) => Some(ded),
        None => None,
    }
}

/// A protected APDU in any of the four carriers, before it is opened.
///
/// # Source
/// DLMS fact sheet, section 5.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CipheredApdu<'a> {
    /// How it is carried.
    pub carrier: Carrier,
    /// Tag that the plain APDU must have: said by glo and ded, open in the general forms.
    pub inner_tag: Option<u8>,
    /// Originator, when a general form names it: a claim until the tag was verified.
    pub system_title: Option<SystemTitle>,
    /// Security control, counter, content.
    pub protected: Protected<'a>,
}

impl<'a> CipheredApdu<'a> {
    /// Whether an APDU with this first octet is one of the four carriers.
    #[must_use]
    pub fn is_carrier(first: u8) -> bool {
        matches!(first, tag::GENERAL_GLO | tag::GENERAL_DED)
            || TAGS.iter().any(|(_, glo, ded)| first == *glo || first == *ded)
    }

    /// Whether an APDU with this first octet is protected: in one of the four carriers, in general-ciphering, or signed.
    #[must_use]
    pub fn is_protected(first: u8) -> bool {
        Self::is_carrier(first) || matches!(first, tag::GENERAL_CIPHERING | tag::GENERAL_SIGNING)
    }

    /// Reads a whole APDU.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule; [`Rule::Tag`] for what is none of the four carriers.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let start = reader.clone();
        let first = reader.u8("apdu tag")?;
        let (carrier, inner_tag) = match first {
            tag::GENERAL_GLO => (Carrier::GeneralGlo, None),
            tag::GENERAL_DED => (Carrier::GeneralDed, None),
            _ => TAGS
                .iter()
                .find_map(|(plain, glo, ded)| match first {
                    _ if first == *glo => Some((Carrier::Glo, Some(*plain))),
                    _ if first == *ded => Some((Carrier::Ded, Some(*plain))),
                    _ => None,
                })
                .ok_or_else(|| start.fail("apdu tag", Rule::Tag { tag: first }))?,
        };
        let mut system_title = None;
        if inner_tag.is_none() {
            let at = reader.clone();
            let title = reader.prefixed("system title")?;
            if !title.is_empty() {
                let rule = Rule::LengthNotAllowed { found: title.len() };
                system_title =
                    Some(SystemTitle::from_slice(title).ok_or_else(|| at.fail("system title", rule))?);
            }
        }
        //= DLMS 12.7: lengths of a ciphered body of any size are written and read alike
        let size = reader.length("ciphered content")?;
        let mut content = reader.take("ciphered content", size)?;
        reader.finish("ciphered apdu")?;
        let protected = Protected::decode(&mut content)?;
        Ok(Self { carrier, inner_tag, system_title, protected })
    }
}

/// Writes one of the four carriers around `security control | counter | content`. `None` when glo or ded has no tag for
/// the APDU, and for general-ciphering, which has a form of its own ([`super::general`]).
#[must_use]
pub fn carry(
    carrier: Carrier,
    plain_tag: u8,
    system_title: Option<SystemTitle>,
    protected: &Protected<'_>,
) -> Option<Vec<u8>> {
    let size = protected.body.len().saturating_add(Protected::HEADER_SIZE);
    let mut writer = Writer::with_capacity(size.saturating_add(16));
    match carrier {
        Carrier::Glo => writer.u8(glo_tag(plain_tag)?),
        Carrier::Ded => writer.u8(ded_tag(plain_tag)?),
        Carrier::GeneralGlo | Carrier::GeneralDed => {
            writer.u8(if carrier == Carrier::GeneralGlo { tag::GENERAL_GLO } else { tag::GENERAL_DED });
            writer.prefixed(system_title.as_ref().map_or(&[], |title| title.as_bytes().as_slice()));
        }
        Carrier::GeneralCiphering(_) => return None,
    }
    writer.length(size);
    protected.encode(&mut writer);
    Some(writer.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apdu::ciphered::SecurityControl;
    use alloc::vec;

    //= DLMS 12.13: dedicated carriers and the ciphered service error are there
    //= DLMS 12.7: lengths of a ciphered body of any size are written and read alike
    #[test]
    fn every_carrier_of_every_service_and_size_reads_back() {
        for size in [0, 12, 122, 123, 200, 250, 251, 255, 256, 400, 65_531] {
            let body = vec![0x5A; size];
            let protected = Protected {
                security_control: SecurityControl::AUTHENTICATED_ENCRYPTION,
                invocation_counter: 9,
                body: &body,
            };
            for (plain, glo, ded) in TAGS {
                for (carrier, first) in [(Carrier::Glo, glo), (Carrier::Ded, ded)] {
                    let bytes = carry(carrier, plain, None, &protected).unwrap();
                    assert_eq!(bytes.first(), Some(&first));
                    let read = CipheredApdu::from_bytes(&bytes).unwrap();
                    assert_eq!((read.carrier, read.inner_tag), (carrier, Some(plain)));
                    assert_eq!(read.protected, protected);
                    assert!(bytes.len() <= size + carrier.overhead_max());
                }
            }
            for carrier in [Carrier::GeneralGlo, Carrier::GeneralDed] {
                let title = Some(SystemTitle(*b"MMM\0\0\0\0\x01"));
                let bytes = carry(carrier, tag::ACCESS_REQUEST, title, &protected).unwrap();
                let read = CipheredApdu::from_bytes(&bytes).unwrap();
                assert_eq!((read.carrier, read.system_title, read.protected), (carrier, title, protected));
                assert!(bytes.len() <= size + carrier.overhead_max());
            }
        }
        let nothing = Protected {
            security_control: SecurityControl::AUTHENTICATED_ENCRYPTION,
            invocation_counter: 9,
            body: &[],
        };
        assert_eq!(carry(Carrier::Glo, tag::ACCESS_REQUEST, None, &nothing), None, "glo has no tag for it");
    }

    #[test]
    fn a_length_above_the_bytes_is_refused() {
        assert!(CipheredApdu::from_bytes(&[0xC8, 0x84, 0xFF, 0xFF, 0xFF, 0xFF, 0x30]).is_err());
        assert!(CipheredApdu::from_bytes(&[0xC8, 0x04, 0x30, 0, 0, 0]).is_err(), "shorter than a header");
        assert!(CipheredApdu::from_bytes(&[0xDD, 0x00]).is_err());
    }
}
