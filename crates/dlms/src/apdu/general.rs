//! general-ciphering and general-signing: protected APDUs that name both ends, and for the first also the key.

use alloc::vec::Vec;

use gridseal_types::SystemTitle;

use super::{
    ciphered::Protected,
    reference::{open, optional},
    tag::{GENERAL_CIPHERING, GENERAL_SIGNING},
};
use crate::wire::{DecodeError, Reader, Rule, Writer};

/// Five fields, each with a length before it, empty ones included.
///
/// # Source
/// DLMS fact sheet, sections 5.4 and 5.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GeneralHeader<'a> {
    /// Names the exchange; a response repeats it.
    pub transaction_id: &'a [u8],
    /// System title of who protected it, 8 bytes or none.
    pub originator: &'a [u8],
    /// System title of whom it is for, 8 bytes or none.
    pub recipient: &'a [u8],
    /// Date-time, 12 bytes or none.
    pub date_time: &'a [u8],
    /// Anything else.
    pub other_information: &'a [u8],
    /// The five fields as they are on the wire, lengths included: what the tag covers.
    pub wire: &'a [u8],
}

/// The five fields as they are on the wire, with nothing in date-time and other information.
#[must_use]
pub fn header_wire(transaction_id: &[u8], originator: SystemTitle, recipient: SystemTitle) -> Vec<u8> {
    let mut writer = Writer::with_capacity(32);
    for field in [transaction_id, originator.as_bytes(), recipient.as_bytes(), &[], &[]] {
        writer.prefixed(field);
    }
    writer.into_bytes()
}

impl<'a> GeneralHeader<'a> {
    /// Reads the five fields, and nothing after them.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_wire(wire: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(wire);
        let header = Self::decode(&mut reader)?;
        reader.finish("general header")?;
        Ok(header)
    }

    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let start = reader.clone();
        let transaction_id = reader.prefixed("transaction-id")?;
        let originator = sized(reader, "originator-system-title", 8)?;
        let recipient = sized(reader, "recipient-system-title", 8)?;
        let date_time = sized(reader, "date-time", 12)?;
        let other_information = reader.prefixed("other-information")?;
        let size = reader.offset().saturating_sub(start.offset());
        let wire = start.clone().bytes("general header", size)?;
        Ok(Self { transaction_id, originator, recipient, date_time, other_information, wire })
    }
}

fn sized<'a>(reader: &mut Reader<'a>, field: &'static str, size: usize) -> Result<&'a [u8], DecodeError> {
    let start = reader.clone();
    let bytes = reader.prefixed(field)?;
    if bytes.is_empty() || bytes.len() == size {
        return Ok(bytes);
    }
    Err(start.fail(field, Rule::LengthNotAllowed { found: bytes.len() }))
}

/// Which key protects a general-ciphering APDU. Closed: the choices of the standard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyInfo<'a> {
    /// `00`: the global unicast (0) or broadcast key (1).
    Identified(u8),
    /// `01`: a fresh key, wrapped under a key-encryption key, 0 being the master key.
    Wrapped {
        /// Which key-encryption key.
        kek_id: u8,
        /// RFC 3394, 24 or 40 bytes.
        wrapped: &'a [u8],
    },
    /// `02`: a key that both agree upon.
    Agreed {
        /// `01 01` one-pass, `01 02` static.
        parameters: &'a [u8],
        /// Ephemeral public key and its signature, or nothing.
        data: &'a [u8],
    },
}

impl<'a> KeyInfo<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let start = reader.clone();
        Ok(match reader.u8("key-info")? {
            0 => Self::Identified(reader.u8("identified-key")?),
            1 => {
                Self::Wrapped { kek_id: reader.u8("kek-id")?, wrapped: reader.prefixed("key-ciphered-data")? }
            }
            2 => Self::Agreed {
                parameters: reader.prefixed("key-parameters")?,
                data: reader.prefixed("key-ciphered-data")?,
            },
            tag => return Err(start.fail("key-info", Rule::Tag { tag })),
        })
    }

    fn encode(&self, writer: &mut Writer) {
        match self {
            Self::Identified(id) => writer.bytes(&[0, *id]),
            Self::Wrapped { kek_id, wrapped } => {
                writer.bytes(&[1, *kek_id]);
                writer.prefixed(wrapped);
            }
            Self::Agreed { parameters, data } => {
                writer.u8(2);
                writer.prefixed(parameters);
                writer.prefixed(data);
            }
        }
    }
}

/// `DD | header | key-info, optional | length and [`Protected`]`. Nothing in it is verified.
///
/// # Source
/// DLMS fact sheet, section 5.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GeneralCiphering<'a> {
    /// The five fields.
    pub header: GeneralHeader<'a>,
    /// Which key.
    pub key_info: Option<KeyInfo<'a>>,
    /// Security control, counter, content.
    pub protected: Protected<'a>,
}

impl<'a> GeneralCiphering<'a> {
    /// Reads a whole APDU.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = open(bytes, GENERAL_CIPHERING)?;
        let header = GeneralHeader::decode(&mut reader)?;
        let key_info =
            if optional(&mut reader, "key-info")? { Some(KeyInfo::decode(&mut reader)?) } else { None };
        let size = reader.length("ciphered content")?;
        let mut content = reader.take("ciphered content", size)?;
        reader.finish("general-ciphering")?;
        Ok(Self { header, key_info, protected: Protected::decode(&mut content)? })
    }

    /// The whole APDU.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(64);
        writer.u8(GENERAL_CIPHERING);
        writer.bytes(self.header.wire);
        match &self.key_info {
            None => writer.u8(0),
            Some(info) => {
                writer.u8(1);
                info.encode(&mut writer);
            }
        }
        writer.length(self.protected.body.len().saturating_add(Protected::HEADER_SIZE));
        self.protected.encode(&mut writer);
        writer.into_bytes()
    }
}

/// `DF | header | length and content | length and signature`. Nothing in it is verified.
///
/// # Source
/// DLMS fact sheet, section 5.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GeneralSigning<'a> {
    /// The five fields.
    pub header: GeneralHeader<'a>,
    /// An APDU.
    pub content: &'a [u8],
    /// r and s as they are, 64 or 96 bytes.
    pub signature: &'a [u8],
}

impl<'a> GeneralSigning<'a> {
    /// Reads a whole APDU.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = open(bytes, GENERAL_SIGNING)?;
        let header = GeneralHeader::decode(&mut reader)?;
        let content = reader.prefixed("content")?;
        let signature = reader.prefixed("signature")?;
        reader.finish("general-signing")?;
        Ok(Self { header, content, signature })
    }

    /// What is signed: header and content, the content with its length when `counts_length`. The normative description
    /// has the length; some peers leave it out. Neither could be checked against the standard.
    #[must_use]
    pub fn signed(&self, counts_length: bool) -> Vec<u8> {
        let mut writer = Writer::with_capacity(self.header.wire.len().saturating_add(self.content.len()));
        writer.bytes(self.header.wire);
        if counts_length {
            writer.prefixed(self.content);
        } else {
            writer.bytes(self.content);
        }
        writer.into_bytes()
    }

    /// The whole APDU.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(self.content.len().saturating_add(128));
        writer.u8(GENERAL_SIGNING);
        writer.bytes(self.header.wire);
        writer.prefixed(self.content);
        writer.prefixed(self.signature);
        writer.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apdu::ciphered::SecurityControl;

    const HEADER: &[u8] = &[
        8, 1, 2, 3, 4, 5, 6, 7, 8, 8, 0x4D, 0x4D, 0x4D, 0, 0, 0xBC, 0x61, 0x4E, 8, 0x4D, 0x4D, 0x4D, 0, 0, 0,
        0, 1, 0, 0,
    ];

    fn header() -> GeneralHeader<'static> {
        GeneralHeader::from_wire(HEADER).unwrap()
    }

    #[test]
    fn a_header_is_written_as_it_is_read() {
        let titles = [9, 18].map(|at| SystemTitle::from_slice(&HEADER[at + 1..at + 9]).unwrap());
        assert_eq!(header_wire(header().transaction_id, titles[0], titles[1]), HEADER);
        assert!(GeneralHeader::from_wire(&[HEADER, &[0]].concat()).is_err());
    }

    //= DLMS 12.13: dedicated carriers and the ciphered service error are there
    #[test]
    fn general_ciphering_reads_with_every_kind_of_key_and_keeps_its_header_byte_for_byte() {
        let protected =
            Protected { security_control: SecurityControl(0x31), invocation_counter: 0, body: &[0x5A; 230] };
        let infos = [
            None,
            Some(KeyInfo::Identified(1)),
            Some(KeyInfo::Wrapped { kek_id: 0, wrapped: &[7; 24] }),
            Some(KeyInfo::Agreed { parameters: &[1], data: &[9; 128] }),
        ];
        for key_info in infos {
            let apdu = GeneralCiphering { header: header(), key_info, protected };
            let bytes = apdu.to_bytes();
            let read = GeneralCiphering::from_bytes(&bytes).unwrap();
            assert_eq!((read, read.header.wire), (apdu, HEADER));
            for size in 0..bytes.len() {
                assert!(GeneralCiphering::from_bytes(&bytes[..size]).is_err(), "{size} bytes");
            }
        }
        let mut seven = HEADER.to_vec();
        seven[9] = 7;
        assert!(GeneralHeader::decode(&mut Reader::new(&seven)).is_err());
    }

    #[test]
    fn a_signed_apdu_reads_back_and_says_both_readings_of_what_is_signed() {
        let apdu = GeneralSigning { header: header(), content: &[0xC0, 1], signature: &[3; 64] };
        let bytes = apdu.to_bytes();
        assert_eq!(GeneralSigning::from_bytes(&bytes), Ok(apdu));
        assert_eq!(apdu.signed(true), [HEADER, &[2, 0xC0, 1]].concat());
        assert_eq!(apdu.signed(false), [HEADER, &[0xC0, 1]].concat());
    }
}
