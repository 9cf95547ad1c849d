//! Transport layer: CI field, short and long header, configuration field (EN 13757-7).

use alloc::vec::Vec;

use super::address::MeterAddress;
use crate::wire::{DecodeError, Reader, Rule};

/// Which header follows a CI field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderKind {
    /// None.
    None,
    /// `ACC ST CF`.
    Short,
    /// `ID(4) M(2) V T ACC ST CF`.
    Long,
}

/// What a message holds behind its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// Records (DIF, VIF, data).
    Full,
    /// Data of records whose DIF and VIF were sent before.
    Compact,
    /// A command to the device: records.
    Command,
    /// Nothing, or nothing beyond the header: acknowledgements.
    Transport,
    /// An application error: one code and details.
    ApplicationError,
    /// An alarm.
    Alarm,
    /// Something that is recognised and not read; its name.
    Other(&'static str),
}

/// Header and content of each CI field; `None` for one that is not in the list.
///
/// # Source
/// EN 13757-7, CI field codes; local network fact sheet, section 2.
#[must_use]
pub const fn ci_field(ci: u8) -> Option<(HeaderKind, Content)> {
    use Content::{Alarm, ApplicationError, Command, Compact, Full, Other, Transport};
    use HeaderKind::{Long, None as Bare, Short};
    Some(match ci {
        0x51 => (Bare, Command),
        0x5A => (Short, Command),
        0x5B => (Long, Command),
        0x78 => (Bare, Full),
        0x7A => (Short, Full),
        0x72 => (Long, Full),
        0x79 => (Bare, Compact),
        0x7B => (Short, Compact),
        0x73 => (Long, Compact),
        0x8A => (Short, Transport),
        0x80 | 0x8B => (Long, Transport),
        0x6E => (Short, ApplicationError),
        0x6F => (Long, ApplicationError),
        0x70 => (Bare, ApplicationError),
        0x71 => (Bare, Alarm),
        0x74 => (Short, Alarm),
        0x75 => (Long, Alarm),
        0x50 | 0x54 | 0x66 => (Bare, Other("application select")),
        0x67 => (Short, Other("application select")),
        0x53 | 0x55 | 0x68 => (Long, Other("application select")),
        0x52 => (Bare, Other("selection of a device")),
        0x5F | 0x9F => (Long, Other("security management")),
        0x9E => (Short, Other("security management")),
        0x60 | 0x7C => (Long, Other("DLMS")),
        0x61 | 0x7D => (Short, Other("DLMS")),
        0x64 | 0x7E => (Long, Other("SML")),
        0x65 | 0x7F => (Short, Other("SML")),
        0x69 => (Bare, Other("format frame")),
        0x6A => (Short, Other("format frame")),
        0x6B | 0x84 | 0x85 => (Long, Other("format frame")),
        0x6C | 0x6D => (Long, Other("clock synchronisation")),
        0xC0 | 0xC2 => (Long, Other("image transfer")),
        0xC1 => (Short, Other("image transfer")),
        0xC3 | 0xC5 => (Long, Other("security information transfer")),
        0xC4 => (Short, Other("security information transfer")),
        0x81 | 0x82 | 0x83 | 0x87 | 0x88 | 0x89 => (Bare, Other("network management")),
        0xA0..=0xB7 => (Bare, Other("manufacturer-specific application")),
        0xB8..=0xBF => (Bare, Other("baud rate")),
        _ => return None,
    })
}

/// The configuration field with its extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Configuration {
    /// CF as sent.
    pub cf: u16,
    /// Extension as sent; as many bytes as the mode has.
    pub cfe: [u8; 2],
    /// Message counter in the header (modes 7 to 10, bit Z).
    pub mcr: Option<u32>,
    /// Key version in the header (bit V).
    pub key_version: Option<u8>,
}

impl Configuration {
    /// Security mode, bits 8 to 12.
    #[must_use]
    pub const fn mode(&self) -> u8 {
        let [_, high] = self.cf.to_le_bytes();
        high & 0x1F
    }

    const fn low(&self) -> u8 {
        let [low, _] = self.cf.to_le_bytes();
        low
    }

    /// Number of encrypted blocks of 16 bytes (modes 5 and 7).
    #[must_use]
    pub const fn block_count(&self) -> u8 {
        self.low() >> 4
    }

    /// Number of encrypted bytes (mode 10); 255 means all that is left.
    #[must_use]
    pub const fn byte_count(&self) -> u8 {
        self.low()
    }

    /// Bytes of extension that the mode has.
    #[must_use]
    pub const fn extension_size(&self) -> usize {
        match self.mode() {
            7 => 1,
            8..=10 => 2,
            _ => 0,
        }
    }

    /// The extension as sent.
    #[must_use]
    pub fn extension(&self) -> &[u8] {
        self.cfe.get(..self.extension_size()).unwrap_or_default()
    }

    /// Key id (modes 7 to 10).
    #[must_use]
    pub const fn key_id(&self) -> u8 {
        let [first, _] = self.cfe;
        first & 0x0F
    }

    /// How the key is derived (modes 7 to 10): 0 not at all, 1 KDF-A.
    #[must_use]
    pub const fn derivation(&self) -> u8 {
        let [first, _] = self.cfe;
        (first >> 4) & 3
    }

    const fn has_counter(&self) -> bool {
        matches!(self.mode(), 7..=10) && self.cf & 0x2000 != 0
    }

    const fn has_version(&self) -> bool {
        let [first, _] = self.cfe;
        matches!(self.mode(), 7..=10) && first & 0x40 != 0
    }

    /// Name of a security mode, with what it is refused as.
    #[must_use]
    pub const fn mode_name(mode: u8) -> &'static str {
        match mode {
            0 => "no encryption",
            2 => "DES-CBC, initialisation vector zero (mode 2)",
            3 => "DES-CBC (mode 3)",
            4 => "AES-128-CBC, initialisation vector zero (mode 4)",
            5 => "AES-128-CBC (mode 5, OMS profile A)",
            7 => "AES-128-CBC with ephemeral key (mode 7, OMS profile B)",
            8 => "AES-128-CTR with CMAC (mode 8)",
            9 => "AES-128-GCM (mode 9)",
            10 => "AES-128-CCM with ephemeral key (mode 10, OMS profile D)",
            13 => "TLS (mode 13, OMS profile C)",
            15 => "external security module (mode 15)",
            _ => "reserved security mode",
        }
    }
}

/// The transport layer of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tpl {
    /// CI field.
    pub ci: u8,
    /// Content behind the header.
    pub content: Content,
    /// Address of the meter (long header).
    pub address: Option<MeterAddress>,
    /// What the header says; `None` without a header.
    pub fields: Option<TplFields>,
}

/// Fields of the short and of the long header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TplFields {
    /// Access number.
    pub access: u8,
    /// Status.
    pub status: u8,
    /// Configuration field.
    pub configuration: Configuration,
}

impl Tpl {
    /// Reads CI field and header.
    ///
    /// # Errors
    /// [`Rule::Unknown`] for a CI field that is not in the list, [`Rule::Truncated`].
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = reader.clone();
        let ci = reader.u8("CI field")?;
        let (kind, content) =
            ci_field(ci).ok_or_else(|| start.fail("CI field", Rule::Unknown { found: ci.into() }))?;
        let address = match kind {
            HeaderKind::Long => Some(MeterAddress::from_transport(reader.array("address of the meter")?)),
            HeaderKind::None | HeaderKind::Short => None,
        };
        let fields = match kind {
            HeaderKind::None => None,
            HeaderKind::Short | HeaderKind::Long => Some(TplFields::decode(reader)?),
        };
        Ok(Self { ci, content, address, fields })
    }

    /// Appends CI field and header as sent.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.ci);
        out.extend(self.address.iter().flat_map(|address| address.to_transport()));
        if let Some(fields) = &self.fields {
            out.extend_from_slice(&[fields.access, fields.status]);
            out.extend_from_slice(&fields.configuration.cf.to_le_bytes());
            out.extend_from_slice(fields.configuration.extension());
            out.extend(fields.configuration.mcr.iter().flat_map(|mcr| mcr.to_le_bytes()));
            out.extend(fields.configuration.key_version);
        }
    }

    /// Security mode; 0 without a header.
    #[must_use]
    pub fn mode(&self) -> u8 {
        self.fields.map_or(0, |fields| fields.configuration.mode())
    }
}

impl TplFields {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (access, status) = (reader.u8("access number")?, reader.u8("status")?);
        let mut configuration =
            Configuration { cf: reader.u16_le("configuration field")?, ..Configuration::default() };
        let extension = reader.bytes("configuration field extension", configuration.extension_size())?;
        configuration.cfe.iter_mut().zip(extension).for_each(|(place, byte)| *place = *byte);
        if configuration.has_counter() {
            configuration.mcr = Some(reader.u32_le("message counter")?);
        }
        if configuration.has_version() {
            configuration.key_version = Some(reader.u8("key version")?);
        }
        Ok(Self { access, status, configuration })
    }

    /// What the application says of itself, bits 0 and 1 of the status.
    #[must_use]
    pub const fn application_state(&self) -> &'static str {
        match self.status & 3 {
            0 => "ok",
            1 => "busy",
            2 => "error",
            _ => "alarm",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(bytes: &[u8]) -> Tpl {
        let mut reader = Reader::new(bytes);
        let tpl = Tpl::decode(&mut reader).unwrap();
        reader.finish("header").unwrap();
        let mut out = Vec::new();
        tpl.encode(&mut out);
        assert_eq!(out, bytes);
        tpl
    }

    #[test]
    fn headers_of_every_mode_have_their_own_size() {
        let mode = |bytes: &[u8]| round_trip(bytes).mode();
        assert_eq!(mode(&[0x78]), 0);
        assert_eq!(mode(&[0x7A, 1, 0, 0x20, 0x25]), 5);
        assert_eq!(mode(&[0x7A, 1, 0, 0x20, 0x07, 0x10]), 7);
        assert_eq!(mode(&[0x7A, 1, 0, 0x20, 0x27, 0x50, 1, 2, 3, 4, 9]), 7);
        assert_eq!(mode(&[0x7A, 1, 0, 0xFF, 0x2A, 0x10, 0x01, 1, 2, 3, 4]), 10);
        assert_eq!(mode(&[0x72, 1, 2, 3, 4, 5, 6, 7, 8, 1, 0, 0, 0]), 0);
        // Bit 13 is S in mode 5, no counter follows.
        assert_eq!(mode(&[0x7A, 1, 0, 0x20, 0x25]), 5);
    }

    #[test]
    fn fields_of_the_configuration_are_read() {
        let tpl = round_trip(&[0x7A, 1, 0x0B, 0x20, 0x27, 0x50, 1, 2, 3, 4, 9]);
        let fields = tpl.fields.unwrap();
        let configuration = fields.configuration;
        assert_eq!((configuration.block_count(), configuration.derivation()), (2, 1));
        assert_eq!((configuration.mcr, configuration.key_version), (Some(0x0403_0201), Some(9)));
        assert_eq!(fields.application_state(), "alarm");
    }

    #[test]
    fn manufacturer_and_unknown_fields_are_never_taken_for_records() {
        for ci in 0..=255u8 {
            let read = ci_field(ci);
            if (0xA0..=0xB7).contains(&ci) {
                assert_eq!(
                    read.map(|(_, content)| content),
                    Some(Content::Other("manufacturer-specific application"))
                );
            }
        }
        assert_eq!(ci_field(0xFF), None);
        assert!(Tpl::decode(&mut Reader::new(&[0xFF])).is_err());
    }
}
