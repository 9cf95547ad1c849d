//! The one cursor over TPM structures.
#![deny(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "bytes from outside"
)]

use core::fmt;

use gridseal_types::Kind;

/// What is wrong with a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Flaw {
    /// The buffer ends before the field does.
    Truncated,
    /// The field is longer than it may be.
    Length,
    /// The value is none that we know or allow.
    Value,
    /// The point is not on its curve.
    Point,
    /// Bytes follow the structure.
    Trailing,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "buffer ends inside it",
            Self::Length => "too long",
            Self::Value => "unknown or forbidden value",
            Self::Point => "not a point of the curve",
            Self::Trailing => "bytes follow the structure",
        })
    }
}

/// A TPM structure from outside is malformed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field} at byte {offset}: {flaw}")]
pub struct StructureError {
    /// Field as the TPM library calls it.
    pub field: &'static str,
    /// Offset of the field in the buffer.
    pub offset: usize,
    /// Rule that is broken.
    pub flaw: Flaw,
}

impl StructureError {
    /// Always the peer's doing.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        Kind::Peer
    }
}

/// Reads big-endian fields off the front of a buffer.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, offset: 0 }
    }

    pub(crate) const fn error(&self, field: &'static str, flaw: Flaw) -> StructureError {
        StructureError { field, offset: self.offset, flaw }
    }

    pub(crate) fn take(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], StructureError> {
        let (value, rest) =
            self.rest.split_at_checked(length).ok_or_else(|| self.error(field, Flaw::Truncated))?;
        self.rest = rest;
        self.offset = self.offset.saturating_add(length);
        Ok(value)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], StructureError> {
        let at_start = self.error(field, Flaw::Truncated);
        self.take(N, field)?.try_into().map_err(|_| at_start)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, StructureError> {
        self.array(field).map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, StructureError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, StructureError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, StructureError> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// A u16 that must be one of `known`.
    pub(crate) fn one_of(&mut self, known: &[u16], field: &'static str) -> Result<u16, StructureError> {
        let at_start = self.error(field, Flaw::Value);
        let value = self.u16(field)?;
        if known.contains(&value) { Ok(value) } else { Err(at_start) }
    }

    /// The value of a TPM2B of at most `max` bytes.
    pub(crate) fn tpm2b(&mut self, max: usize, field: &'static str) -> Result<&'a [u8], StructureError> {
        let at_start = self.error(field, Flaw::Length);
        let length = usize::from(self.u16(field)?);
        if length > max { Err(at_start) } else { self.take(length, field) }
    }

    pub(crate) fn finish(&self, field: &'static str) -> Result<(), StructureError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.error(field, Flaw::Trailing)) }
    }

    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}
