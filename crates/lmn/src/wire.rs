//! The one cursor over received bytes, and the error of decoding.

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

    /// Stable code, such as `lmn.truncated`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.rule.code()
    }
}

/// The rule that the bytes break. One list for every protocol of the crate.
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
    /// A length that the field cannot have.
    #[error("length is {found}, which this field cannot have")]
    LengthNotAllowed {
        /// Length found.
        found: usize,
    },
    /// A length above the limit of the receiver.
    #[error("length {found} is above the limit of {limit}")]
    TooLong {
        /// Length found.
        found: usize,
        /// Limit.
        limit: usize,
    },
    /// Values nested deeper than the limit.
    #[error("nested deeper than {limit} levels")]
    TooDeep {
        /// Limit, levels.
        limit: usize,
    },
    /// A checksum that does not match what it covers.
    #[error("checksum is {found:04x}, the bytes give {computed:04x}")]
    Checksum {
        /// Checksum as received.
        found: u16,
        /// Checksum of the received bytes.
        computed: u16,
    },
    /// A tag, type or control value that is not one of the standard's.
    #[error("value {found:#x} is not one of the standard's")]
    Unknown {
        /// Value found.
        found: u32,
    },
    /// A value of the standard that is recognised and refused.
    #[error("{name} is recognised and not supported")]
    Unsupported {
        /// Name in the words of the standard.
        name: &'static str,
    },
    /// A number outside the range of its field.
    #[error("value is out of range")]
    OutOfRange,
    /// Two fields that must agree do not.
    #[error("does not agree with {other}")]
    Mismatch {
        /// The other field.
        other: &'static str,
    },
}

impl Rule {
    /// Stable code, such as `lmn.truncated`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Truncated { .. } => "lmn.truncated",
            Self::Trailing { .. } => "lmn.trailing",
            Self::LengthNotAllowed { .. } => "lmn.length",
            Self::TooLong { .. } => "lmn.too_long",
            Self::TooDeep { .. } => "lmn.too_deep",
            Self::Checksum { .. } => "lmn.checksum",
            Self::Unknown { .. } => "lmn.unknown",
            Self::Unsupported { .. } => "lmn.unsupported",
            Self::OutOfRange => "lmn.range",
            Self::Mismatch { .. } => "lmn.mismatch",
        }
    }
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

    /// A reader over a part of a larger value: offsets count from `offset`.
    #[must_use]
    pub const fn at(bytes: &'a [u8], offset: usize) -> Self {
        Self { rest: bytes, offset }
    }

    /// Bytes read so far, plus the offset it began with.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes not yet read.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.rest.len()
    }

    /// The bytes not yet read; reads nothing.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next byte; reads nothing.
    #[must_use]
    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
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
    #[inline]
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
    #[inline]
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let Some((taken, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.fail(field, Rule::Truncated { needed: N, left: self.left() }));
        };
        self.rest = rest;
        self.offset = self.offset.saturating_add(N);
        Ok(*taken)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`Rule::Truncated`].
    #[inline]
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array(field).map(u8::from_le_bytes)
    }

    /// Two bytes, little-endian (M-Bus).
    ///
    /// # Errors
    /// [`Rule::Truncated`].
    #[inline]
    pub fn u16_le(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_le_bytes)
    }

    /// Four bytes, little-endian (M-Bus).
    ///
    /// # Errors
    /// [`Rule::Truncated`].
    #[inline]
    pub fn u32_le(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_le_bytes)
    }

    /// Two bytes, big-endian (SML).
    ///
    /// # Errors
    /// [`Rule::Truncated`].
    #[inline]
    pub fn u16_be(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_be_bytes)
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

    #[test]
    fn errors_name_field_offset_rule_and_a_stable_code() {
        let mut reader = Reader::at(&[1, 2, 3], 10);
        assert_eq!(reader.u16_le("first"), Ok(0x0201));
        let error = reader.u32_le("second").unwrap_err();
        assert_eq!((error.field, error.offset, error.code()), ("second", 12, "lmn.truncated"));
        assert_eq!(alloc::format!("{error}"), "second at offset 12: 4 bytes are needed, 1 are left");
        assert_eq!(reader.peek(), Some(3), "a failed read takes nothing");
        assert_eq!(reader.finish("value").unwrap_err().rule, Rule::Trailing { count: 1 });
    }
}
