//! A cursor over a log: little-endian fields, and where a flaw is.
#![deny(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "bytes from outside"
)]

use core::fmt;

/// What is wrong with a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LogFlaw {
    /// Larger than [`super::LOG_SIZE_MAX`].
    Size,
    /// It ends inside a field.
    Truncated,
    /// A count or length that does not fit what it counts.
    Length,
    /// A value that is unknown or not allowed there.
    Value,
    /// The log has no SHA-256 digests.
    NoSha256,
}

impl LogFlaw {
    /// Name as reported.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Truncated => "truncated",
            Self::Length => "length",
            Self::Value => "value",
            Self::NoSha256 => "no-sha256",
        }
    }
}

/// A log is malformed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field} at byte {offset}: {flaw}")]
pub struct LogError {
    /// Field.
    pub field: &'static str,
    /// Offset of the field in the log.
    pub offset: usize,
    /// Rule that is broken.
    pub flaw: LogFlaw,
}

impl fmt::Display for LogFlaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Reads fields off the front of a log.
#[derive(Clone, Debug)]
pub(super) struct LogReader<'l> {
    rest: &'l [u8],
    offset: usize,
}

impl<'l> LogReader<'l> {
    pub(super) fn new(log: &'l [u8]) -> Result<Self, LogError> {
        let reader = Self { rest: log, offset: 0 };
        if log.len() > super::LOG_SIZE_MAX { Err(reader.error("log", LogFlaw::Size)) } else { Ok(reader) }
    }

    /// A part of a log, whose offsets count from `offset`.
    pub(super) const fn part(bytes: &'l [u8], offset: usize) -> Self {
        Self { rest: bytes, offset }
    }

    pub(super) const fn error(&self, field: &'static str, flaw: LogFlaw) -> LogError {
        LogError { field, offset: self.offset, flaw }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) const fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn take(&mut self, length: usize, field: &'static str) -> Result<&'l [u8], LogError> {
        let (value, rest) =
            self.rest.split_at_checked(length).ok_or_else(|| self.error(field, LogFlaw::Truncated))?;
        self.rest = rest;
        self.offset = self.offset.saturating_add(length);
        Ok(value)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], LogError> {
        let at_start = self.error(field, LogFlaw::Truncated);
        self.take(N, field)?.try_into().map_err(|_| at_start)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, LogError> {
        self.array(field).map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, LogError> {
        self.array(field).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, LogError> {
        self.array(field).map(u32::from_le_bytes)
    }

    /// A u32 length and that many bytes.
    pub(super) fn counted(&mut self, field: &'static str) -> Result<&'l [u8], LogError> {
        let at_start = self.error(field, LogFlaw::Length);
        let length = usize::try_from(self.u32(field)?).map_err(|_| at_start)?;
        if length > self.rest.len() { Err(at_start) } else { self.take(length, field) }
    }
}
