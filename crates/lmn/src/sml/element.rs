//! Type-length fields, the elements of which messages are made.

use alloc::vec::Vec;

use crate::wire::{DecodeError, Reader, Rule};

use super::Mode;

/// Most bytes of one type-length field.
const LENGTH_BYTES_MAX: usize = 4;
/// Longest octet string, and most elements of a list.
const LENGTH_MAX: usize = 1 << 16;
/// Deepest nesting of lists.
pub const DEPTH_MAX: usize = 12;

/// An unsigned number with the number of bytes in which it was sent: meters shorten numbers, and re-encoding keeps that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Unsigned {
    /// Value.
    pub value: u64,
    /// Bytes, 1 to 8.
    pub width: u8,
}

/// A signed number with the number of bytes in which it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signed {
    /// Value.
    pub value: i64,
    /// Bytes, 1 to 8.
    pub width: u8,
}

impl Unsigned {
    /// A number in as many bytes as its field has by the standard: 1, 2, 4 or 8.
    #[must_use]
    pub const fn new(value: u64, width: u8) -> Self {
        Self { value, width }
    }
}

impl Signed {
    /// A number in as many bytes as its field has by the standard.
    #[must_use]
    pub const fn new(value: i64, width: u8) -> Self {
        Self { value, width }
    }
}

/// One element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element<'a> {
    /// `00`: end of a message.
    End,
    /// `01`: an optional element that is not there.
    Absent,
    /// Octets.
    Octets(&'a [u8]),
    /// Boolean.
    Boolean(bool),
    /// Signed number.
    Signed(Signed),
    /// Unsigned number.
    Unsigned(Unsigned),
    /// A list of so many elements, which follow.
    List(usize),
}

/// Reads elements one after the other.
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    reader: Reader<'a>,
    bytes: &'a [u8],
    pub(super) mode: Mode,
}

impl<'a> Elements<'a> {
    /// A reader over a payload.
    #[must_use]
    pub const fn new(bytes: &'a [u8], mode: Mode) -> Self {
        Self { reader: Reader::new(bytes), bytes, mode }
    }

    /// Bytes not yet read.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.reader.left()
    }

    /// Bytes read so far.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.reader.offset()
    }

    /// The bytes between two offsets.
    #[must_use]
    pub fn between(&self, from: usize, to: usize) -> &'a [u8] {
        self.bytes.get(from..to).unwrap_or_default()
    }

    /// An error at the present offset.
    #[must_use]
    pub const fn fail(&self, field: &'static str, rule: Rule) -> DecodeError {
        self.reader.fail(field, rule)
    }

    /// The next element; reads nothing.
    ///
    /// # Errors
    /// As [`Self::element`].
    pub fn peek(&self, field: &'static str) -> Result<Element<'a>, DecodeError> {
        self.clone().element(field)
    }

    /// Whether the next element is an absent one; then it is read.
    pub fn absent(&mut self) -> bool {
        let is_absent = self.reader.peek() == Some(0x01);
        if is_absent {
            let _ = self.reader.u8("absent");
        }
        is_absent
    }

    /// The next element. Of a list only the head is read.
    ///
    /// # Errors
    /// [`Rule::Truncated`], [`Rule::LengthNotAllowed`], [`Rule::TooLong`], [`Rule::Unknown`] for a reserved type.
    #[inline]
    pub fn element(&mut self, field: &'static str) -> Result<Element<'a>, DecodeError> {
        let start = self.reader.clone();
        let first = self.reader.u8(field)?;
        match first {
            0x00 => return Ok(Element::End),
            0x01 => return Ok(Element::Absent),
            _ => {}
        }
        let mut length = usize::from(first & 0x0F);
        let mut more = first & 0x80 != 0;
        let mut head = 1usize;
        while more {
            if head >= LENGTH_BYTES_MAX {
                return Err(start
                    .fail(field, Rule::TooLong { found: head.saturating_add(1), limit: LENGTH_BYTES_MAX }));
            }
            let next = self.reader.u8(field)?;
            length = length << 4 | usize::from(next & 0x0F);
            more = next & 0x80 != 0;
            head = head.saturating_add(1);
        }
        if length > LENGTH_MAX {
            return Err(start.fail(field, Rule::TooLong { found: length, limit: LENGTH_MAX }));
        }
        let kind = first >> 4 & 0x7;
        if kind == 7 {
            // An element takes a byte at least: a count above what is left is false.
            if length > self.reader.left() {
                return Err(start.fail(field, Rule::LengthNotAllowed { found: length }));
            }
            return Ok(Element::List(length));
        }
        let size =
            length.checked_sub(head).ok_or(start.fail(field, Rule::LengthNotAllowed { found: length }))?;
        let bytes = self.reader.bytes(field, size)?;
        let not_allowed = start.fail(field, Rule::LengthNotAllowed { found: size });
        match (kind, bytes) {
            (0, _) => Ok(Element::Octets(bytes)),
            (4, [value]) => Ok(Element::Boolean(*value != 0)),
            (5, [first, ..]) if size <= 8 => {
                let sign = if first & 0x80 == 0 { 0 } else { -1i64 };
                let value = bytes.iter().fold(sign, |value, byte| value << 8 | i64::from(*byte));
                Ok(Element::Signed(Signed { value, width: u8::try_from(size).unwrap_or(8) }))
            }
            (6, [_, ..]) if size <= 8 => {
                let value = bytes.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
                Ok(Element::Unsigned(Unsigned { value, width: u8::try_from(size).unwrap_or(8) }))
            }
            (4..=6, _) => Err(not_allowed),
            _ => Err(start.fail(field, Rule::Unknown { found: u32::from(kind) })),
        }
    }

    /// The head of a list of exactly `count` elements.
    ///
    /// # Errors
    /// As [`Self::element`], [`Rule::LengthNotAllowed`] for another count, [`Rule::Unknown`] for another type.
    pub fn list(&mut self, field: &'static str, count: usize) -> Result<(), DecodeError> {
        let start = self.clone();
        match self.any_list(field)? {
            found if found == count => Ok(()),
            found => Err(start.fail(field, Rule::LengthNotAllowed { found })),
        }
    }

    /// The head of a list of any number of elements.
    ///
    /// # Errors
    /// As [`Self::element`], [`Rule::Unknown`] for another type.
    pub fn any_list(&mut self, field: &'static str) -> Result<usize, DecodeError> {
        let start = self.clone();
        match self.element(field)? {
            Element::List(count) => Ok(count),
            _ => Err(start.wrong_type(field)),
        }
    }

    /// The error for an element of a type that the field cannot have.
    #[must_use]
    pub fn wrong_type(&self, field: &'static str) -> DecodeError {
        let found = u32::from(self.reader.peek().unwrap_or_default());
        self.fail(field, Rule::Unknown { found })
    }

    /// Skips one element with all that is in it.
    ///
    /// # Errors
    /// As [`Self::element`], [`Rule::TooDeep`].
    pub fn skip(&mut self, field: &'static str) -> Result<(), DecodeError> {
        self.skip_nested(field, 0)
    }

    fn skip_nested(&mut self, field: &'static str, depth: usize) -> Result<(), DecodeError> {
        if depth > DEPTH_MAX {
            return Err(self.fail(field, Rule::TooDeep { limit: DEPTH_MAX }));
        }
        if let Element::List(count) = self.element(field)? {
            for _ in 0..count {
                self.skip_nested(field, depth.saturating_add(1))?;
            }
        }
        Ok(())
    }
}

fn head(out: &mut Vec<u8>, kind: u8, length: usize) {
    let nibbles: u32 = if length <= 0xF {
        1
    } else if length <= 0xFF {
        2
    } else if length <= 0xFFF {
        3
    } else {
        4
    };
    for place in (0..nibbles).rev() {
        let nibble = u8::try_from(length >> place.saturating_mul(4) & 0xF).unwrap_or_default();
        let more = if place > 0 { 0x80 } else { 0 };
        let kind = if place.saturating_add(1) == nibbles { kind << 4 } else { 0 };
        out.push(more | kind | nibble);
    }
}

/// The length field of something with its own length in it: one byte more once it does not fit.
const fn with_head(size: usize) -> usize {
    let mut length = size.saturating_add(1);
    let mut limit = 0xF;
    while length > limit && limit < LENGTH_MAX {
        length = length.saturating_add(1);
        limit = limit << 4 | 0xF;
    }
    length
}

impl Element<'_> {
    /// Writes the element; of a list its head.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::End => out.push(0x00),
            Self::Absent => out.push(0x01),
            Self::Octets(bytes) => {
                head(out, 0, with_head(bytes.len()));
                out.extend_from_slice(bytes);
            }
            Self::Boolean(value) => out.extend_from_slice(&[0x42, u8::from(*value)]),
            Self::Signed(Signed { value, width }) => number(out, 5, &value.to_be_bytes(), *width),
            Self::Unsigned(Unsigned { value, width }) => number(out, 6, &value.to_be_bytes(), *width),
            Self::List(count) => head(out, 7, *count),
        }
    }
}

fn number(out: &mut Vec<u8>, kind: u8, bytes: &[u8; 8], width: u8) {
    let width = usize::from(width.clamp(1, 8));
    head(out, kind, width.saturating_add(1));
    out.extend_from_slice(bytes.get(8usize.saturating_sub(width)..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bytes: &[u8]) -> Result<Element<'_>, DecodeError> {
        Elements::new(bytes, Mode::Strict).element("element")
    }

    #[test]
    fn shortened_numbers_are_extended_by_their_type() {
        assert_eq!(one(&[0x55, 0xFC, 0xA4, 0x98, 0x84]), Ok(Element::Signed(Signed::new(-56_321_916, 4))));
        assert_eq!(one(&[0x52, 0xFF]), Ok(Element::Signed(Signed::new(-1, 1))));
        assert_eq!(one(&[0x62, 0xFF]), Ok(Element::Unsigned(Unsigned::new(255, 1))));
        assert_eq!(one(&[0x54, 0x80, 0, 1]), Ok(Element::Signed(Signed::new(-8_388_607, 3))));
    }

    #[test]
    fn long_lengths_come_back_and_lying_ones_are_refused() {
        for size in [0, 1, 13, 14, 15, 16, 252, 253, 254, 255, 4_000, 5_000] {
            let bytes = alloc::vec![7; size];
            let mut out = Vec::new();
            Element::Octets(&bytes).encode(&mut out);
            if size == 0 {
                assert_eq!(out, [0x01], "an empty string is an absent one");
                continue;
            }
            assert_eq!(one(&out), Ok(Element::Octets(&bytes)), "{size}");
            assert!(one(&out[..out.len() - 1]).is_err());
        }
        assert!(one(&[0x80, 0x80, 0x80, 0x80, 0x00]).is_err());
        assert!(one(&[0x7F, 0x01]).is_err(), "fifteen elements in one byte");
        assert!(one(&[0x42]).is_err() && one(&[0x5A, 1, 2, 3, 4, 5, 6, 7, 8, 9]).is_err());
        assert!(one(&[0x22, 0x00]).is_err(), "a reserved type");
    }

    #[test]
    fn nesting_ends_at_the_limit() {
        let bomb = alloc::vec![0x71; 10_000];
        let error = Elements::new(&bomb, Mode::Tolerant).skip("tree").unwrap_err();
        assert_eq!(error.rule, Rule::TooDeep { limit: DEPTH_MAX });
    }
}
