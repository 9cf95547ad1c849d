//! Protected APDUs: the header that the receiver of a ciphered APDU needs before it opens it.

use alloc::vec::Vec;

use gridseal_types::SystemTitle;

use crate::wire::{DecodeError, Reader, Rule, Writer};

/// Tag of [`GeneralGlo`].
pub const GENERAL_GLO_CIPHERING: u8 = 0xDB;

/// Security control octet: bit 7 compression, 6 broadcast key, 5 encrypted, 4 authenticated, 0 to 3 suite.
///
/// # Source
/// DLMS fact sheet, section 5.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecurityControl(pub u8);

impl SecurityControl {
    /// Suite 0, encrypted and authenticated, unicast key.
    pub const AUTHENTICATED_ENCRYPTION: Self = Self(0x30);

    /// Security suite, 0 to 15.
    #[must_use]
    pub const fn suite(self) -> u8 {
        self.0 & 0x0F
    }

    /// Whether a tag follows the content.
    #[must_use]
    pub const fn is_authenticated(self) -> bool {
        self.0 & 0x10 != 0
    }

    /// Whether the content is encrypted.
    #[must_use]
    pub const fn is_encrypted(self) -> bool {
        self.0 & 0x20 != 0
    }

    /// Whether the broadcast key protects it.
    #[must_use]
    pub const fn is_broadcast(self) -> bool {
        self.0 & 0x40 != 0
    }

    /// Whether the content was compressed before it was protected.
    #[must_use]
    pub const fn is_compressed(self) -> bool {
        self.0 & 0x80 != 0
    }
}

/// What every ciphered carrier holds: `security control (1) | invocation counter u32 | body`.
///
/// # Source
/// DLMS fact sheet, section 5.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protected<'a> {
    /// How the body is protected.
    pub security_control: SecurityControl,
    /// Counter of the originator: second half of the nonce.
    pub invocation_counter: u32,
    /// Ciphertext, then the tag of 12 bytes, as the security control says.
    pub body: &'a [u8],
}

impl<'a> Protected<'a> {
    /// Bytes before the body.
    pub const HEADER_SIZE: usize = 5;

    /// Reads the content of a carrier, up to its end.
    ///
    /// # Errors
    /// [`Rule::Truncated`] below five bytes.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        Self::decode(&mut Reader::new(bytes))
    }

    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            security_control: SecurityControl(reader.u8("security control")?),
            invocation_counter: reader.u32("invocation counter")?,
            body: reader.remainder(),
        })
    }

    /// Writes header and body.
    pub fn encode(&self, writer: &mut Writer) {
        writer.u8(self.security_control.0);
        writer.u32(self.invocation_counter);
        writer.bytes(self.body);
    }
}

/// general-glo-ciphering: any APDU under a global key, with the originator's system title.
///
/// `DB | length and system title (0 or 8 bytes) | length and [`Protected`]`. Nothing in it is verified: a title here
/// is a claim until the tag under that meter's key was checked.
///
/// # Source
/// DLMS fact sheet, section 5.4; vector `dlms/general-glo-green-book.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GeneralGlo<'a> {
    /// Originator; `None` when left out because the association knows it.
    pub system_title: Option<SystemTitle>,
    /// How the content is protected.
    pub security_control: SecurityControl,
    /// Counter of the originator.
    pub invocation_counter: u32,
    /// Ciphertext and tag.
    pub body: &'a [u8],
}

impl<'a> GeneralGlo<'a> {
    /// Reads a whole APDU. Lengths may have any of the standard's forms, and must have the shortest one.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let start = reader.clone();
        let tag = reader.u8("apdu tag")?;
        if tag != GENERAL_GLO_CIPHERING {
            return Err(start.fail("apdu tag", Rule::Tag { tag }));
        }
        let system_title = system_title(&mut reader)?;
        //= DLMS 12.7: lengths of a ciphered body of any size are written and read alike
        let at = reader.clone();
        let size = reader.length("ciphered content")?;
        if size < Protected::HEADER_SIZE {
            return Err(at.fail("ciphered content", Rule::LengthNotAllowed { found: size }));
        }
        if size > reader.left() {
            let rule = Rule::Truncated { needed: size, left: reader.left() };
            return Err(reader.fail("ciphered content", rule));
        }
        if let Some(count) = reader.left().checked_sub(size).filter(|count| *count > 0) {
            return Err(reader.fail("general-glo-ciphering", Rule::Trailing { count }));
        }
        // The content reaches to the end of the input, so offsets in errors stay those of the APDU.
        let Protected { security_control, invocation_counter, body } = Protected::decode(&mut reader)?;
        Ok(Self { system_title, security_control, invocation_counter, body })
    }

    /// The part that does not depend on the carrier.
    #[must_use]
    pub const fn protected(&self) -> Protected<'a> {
        Protected {
            security_control: self.security_control,
            invocation_counter: self.invocation_counter,
            body: self.body,
        }
    }

    /// The whole APDU.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let content_size = self.body.len().saturating_add(Protected::HEADER_SIZE);
        let mut writer = Writer::with_capacity(content_size.saturating_add(16));
        writer.u8(GENERAL_GLO_CIPHERING);
        writer.prefixed(self.system_title.as_ref().map_or(&[], |title| title.as_bytes().as_slice()));
        writer.length(content_size);
        self.protected().encode(&mut writer);
        writer.into_bytes()
    }
}

fn system_title(reader: &mut Reader<'_>) -> Result<Option<SystemTitle>, DecodeError> {
    let start = reader.clone();
    let bytes = reader.prefixed("system title")?;
    if bytes.is_empty() {
        return Ok(None);
    }
    SystemTitle::from_slice(bytes)
        .map(Some)
        .ok_or_else(|| start.fail("system title", Rule::LengthNotAllowed { found: bytes.len() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn apdu(body: &[u8]) -> GeneralGlo<'_> {
        GeneralGlo {
            system_title: Some(SystemTitle(*b"GSL\0\0\0\0\x01")),
            security_control: SecurityControl::AUTHENTICATED_ENCRYPTION,
            invocation_counter: 9,
            body,
        }
    }

    //= DLMS 12.7: lengths of a ciphered body of any size are written and read alike
    #[test]
    fn bodies_of_every_length_form_round_trip() {
        for size in [0, 12, 122, 123, 128, 250, 251, 256, 65_530, 65_531, 70_000] {
            let body = vec![0xA5; size];
            let bytes = apdu(&body).to_bytes();
            assert_eq!(GeneralGlo::from_bytes(&bytes), Ok(apdu(&body)), "{size} bytes");
        }
    }

    #[test]
    fn truncated_and_trailing_bytes_are_told_apart() {
        let bytes = apdu(&[1; 20]).to_bytes();
        for size in 0..bytes.len() {
            let error = GeneralGlo::from_bytes(&bytes[..size]).unwrap_err();
            assert!(matches!(error.rule, Rule::Truncated { .. }), "{size}: {error}");
        }
        let error = GeneralGlo::from_bytes(&[&bytes[..], &[0, 0]].concat()).unwrap_err();
        assert_eq!(error.rule, Rule::Trailing { count: 2 });
    }
}
