//! The one cursor over received bytes.

use gridseal_types::Kind;

/// Bytes do not form the value they should: what, where and why. It never holds the bytes themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} at offset {offset}: {rule}")]
pub struct DecodeError {
    /// Field that was being read, in the words of the standard.
    pub field: &'static str,
    /// Offset in bytes from the start of the outermost value given to the decoder.
    pub offset: usize,
    /// Rule that was broken.
    pub rule: Rule,
}

impl DecodeError {
    /// Always the peer: whoever sent the bytes.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        Kind::Peer
    }
}

/// The rule that the bytes break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rule {
    /// The input ends inside the field.
    #[error("{needed} bytes are needed, {left} are left")]
    Truncated {
        /// Bytes that the field needs.
        needed: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// Bytes follow where the value must end.
    #[error("{count} bytes follow the end of the value")]
    Trailing {
        /// Bytes beyond the end.
        count: usize,
    },
    /// Length of the indefinite form, or with more than four octets.
    #[error("length has a form that is not allowed")]
    LengthForm,
    /// Length in more octets than it needs.
    #[error("length is not in its shortest form")]
    LengthNotMinimal,
    /// The field has another length than its type demands.
    #[error("length is {found}, which this field cannot have")]
    LengthNotAllowed {
        /// Length found, bytes.
        found: usize,
    },
    /// A length above the limit of the receiver.
    #[error("length {found} is above the limit of {limit}")]
    TooLong {
        /// Length announced, bytes.
        found: usize,
        /// Limit, bytes.
        limit: usize,
    },
    /// More elements announced than bytes are left.
    #[error("{count} elements cannot fit into the {left} bytes left")]
    CountExceedsInput {
        /// Elements announced.
        count: usize,
        /// Bytes left.
        left: usize,
    },
    /// Values nested deeper than [`crate::wire::DEPTH_MAX`].
    #[error("nested deeper than {limit} levels")]
    TooDeep {
        /// Limit, levels.
        limit: usize,
    },
    /// A tag that is not one of the standard's, or one that is not supported.
    #[error("tag {tag:#04x} is not supported here")]
    Tag {
        /// Tag found.
        tag: u8,
    },
    /// A number outside the range of its field.
    #[error("value is out of range")]
    OutOfRange,
    /// Text with characters that its type does not allow.
    #[error("text has a character that its type does not allow")]
    Text,
    /// A check sequence that does not match.
    #[error("check sequence does not match")]
    Checksum,
    /// A version of the format that is not the only one known.
    #[error("version {found} is not known")]
    Version {
        /// Version found.
        found: u16,
    },
}

/// Reads from the front of a byte slice. Nobody else indexes received bytes.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// A reader at offset 0.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, offset: 0 }
    }

    /// Bytes read so far.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes not yet read.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.rest.len()
    }

    /// An error at the present offset.
    #[must_use]
    pub const fn fail(&self, field: &'static str, rule: Rule) -> DecodeError {
        DecodeError { field, offset: self.offset, rule }
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`Rule::Truncated`].
    pub fn bytes(&mut self, field: &'static str, count: usize) -> Result<&'a [u8], DecodeError> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(self.fail(field, Rule::Truncated { needed: count, left: self.left() }));
        };
        self.rest = rest;
        self.offset = self.offset.saturating_add(count);
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`Rule::Truncated`].
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let at = self.clone();
        <[u8; N]>::try_from(self.bytes(field, N)?)
            .map_err(|_| at.fail(field, Rule::Truncated { needed: N, left: at.left() }))
    }

    /// One byte.
    ///
    /// # Errors
    /// [`Rule::Truncated`].
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array(field).map(u8::from_be_bytes)
    }

    /// Two bytes, big-endian.
    ///
    /// # Errors
    /// [`Rule::Truncated`].
    pub fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_be_bytes)
    }

    /// Four bytes, big-endian.
    ///
    /// # Errors
    /// [`Rule::Truncated`].
    pub fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_be_bytes)
    }

    /// Eight bytes, big-endian.
    ///
    /// # Errors
    /// [`Rule::Truncated`].
    pub fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// A length: 0 to 127 in one octet, else `0x80 | n` and n octets, big-endian, n at most 4 and as small as possible.
    /// The value is not yet compared with what is left.
    ///
    /// # Errors
    /// [`Rule::Truncated`], [`Rule::LengthForm`], [`Rule::LengthNotMinimal`].
    ///
    /// # Source
    /// DLMS fact sheet, section 2.1 (length rule).
    pub fn length(&mut self, field: &'static str) -> Result<usize, DecodeError> {
        //= DLMS 2.1: a length below 128 is one octet, any other is counted octets
        let start = self.clone();
        let first = self.u8(field)?;
        if first < 0x80 {
            return Ok(usize::from(first));
        }
        let octets = match first {
            0x81..=0x84 => self.bytes(field, usize::from(first & 0x7F))?,
            _ => return Err(start.fail(field, Rule::LengthForm)),
        };
        let value = octets.iter().fold(0u32, |value, octet| (value << 8) | u32::from(*octet));
        if value < 0x80 || octets.first() == Some(&0) {
            return Err(start.fail(field, Rule::LengthNotMinimal));
        }
        usize::try_from(value).map_err(|_| start.fail(field, Rule::LengthForm))
    }

    /// A length and as many bytes.
    ///
    /// # Errors
    /// As [`Reader::length`] and [`Reader::bytes`].
    pub fn prefixed(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let count = self.length(field)?;
        self.bytes(field, count)
    }

    /// The next `count` bytes as a reader of their own, whose offsets go on counting from the same start.
    ///
    /// # Errors
    /// [`Rule::Truncated`].
    pub fn take(&mut self, field: &'static str, count: usize) -> Result<Self, DecodeError> {
        let offset = self.offset;
        Ok(Self { rest: self.bytes(field, count)?, offset })
    }

    /// Everything that is left.
    pub fn remainder(&mut self) -> &'a [u8] {
        let rest = core::mem::take(&mut self.rest);
        self.offset = self.offset.saturating_add(rest.len());
        rest
    }

    /// Ends the value.
    ///
    /// # Errors
    /// [`Rule::Trailing`] when bytes are left.
    pub const fn finish(&self, field: &'static str) -> Result<(), DecodeError> {
        match self.left() {
            0 => Ok(()),
            count => Err(self.fail(field, Rule::Trailing { count })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= DLMS 2.1: a length below 128 is one octet, any other is counted octets
    #[test]
    fn lengths_are_read_in_their_shortest_form_only() {
        let length = |bytes: &[u8]| Reader::new(bytes).length("length").map_err(|error| error.rule);
        assert_eq!(length(&[0x7F]), Ok(127));
        assert_eq!(length(&[0x81, 0x80]), Ok(128));
        assert_eq!(length(&[0x82, 0x01, 0x00]), Ok(256));
        assert_eq!(length(&[0x83, 0x01, 0x00, 0x00]), Ok(65_536));
        assert_eq!(length(&[0x84, 0x01, 0x00, 0x00, 0x00]), Ok(16_777_216));
        assert_eq!(length(&[0x81, 0x7F]), Err(Rule::LengthNotMinimal));
        assert_eq!(length(&[0x82, 0x00, 0xFF]), Err(Rule::LengthNotMinimal));
        assert_eq!(length(&[0x80]), Err(Rule::LengthForm));
        assert_eq!(length(&[0x85, 1, 0, 0, 0, 0]), Err(Rule::LengthForm));
        assert_eq!(length(&[0x82, 0x01]), Err(Rule::Truncated { needed: 2, left: 1 }));
    }

    #[test]
    fn errors_name_field_and_offset() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.u16("first"), Ok(0x0102));
        let error = reader.u32("second").unwrap_err();
        assert_eq!((error.field, error.offset), ("second", 2));
        assert_eq!(alloc::format!("{error}"), "second at offset 2: 4 bytes are needed, 1 are left");
        assert_eq!(reader.finish("value").unwrap_err().rule, Rule::Trailing { count: 1 });
    }
}
