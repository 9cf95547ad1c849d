//! A-XDR `Data`: the one type that carries every attribute value.

use alloc::vec::Vec;

use super::{Date, DateTime, DecodeError, Reader, Rule, Time, Writer};

/// Deepest nesting of arrays and structures.
pub const DEPTH_MAX: usize = 16;

mod tag {
    pub(super) const NULL: u8 = 0x00;
    pub(super) const ARRAY: u8 = 0x01;
    pub(super) const STRUCTURE: u8 = 0x02;
    pub(super) const BOOLEAN: u8 = 0x03;
    pub(super) const BIT_STRING: u8 = 0x04;
    pub(super) const DOUBLE_LONG: u8 = 0x05;
    pub(super) const DOUBLE_LONG_UNSIGNED: u8 = 0x06;
    pub(super) const OCTET_STRING: u8 = 0x09;
    pub(super) const VISIBLE_STRING: u8 = 0x0A;
    pub(super) const UTF8_STRING: u8 = 0x0C;
    pub(super) const INTEGER: u8 = 0x0F;
    pub(super) const LONG: u8 = 0x10;
    pub(super) const UNSIGNED: u8 = 0x11;
    pub(super) const LONG_UNSIGNED: u8 = 0x12;
    pub(super) const LONG64: u8 = 0x14;
    pub(super) const LONG64_UNSIGNED: u8 = 0x15;
    pub(super) const ENUM: u8 = 0x16;
    pub(super) const FLOAT32: u8 = 0x17;
    pub(super) const FLOAT64: u8 = 0x18;
    pub(super) const DATE_TIME: u8 = 0x19;
    pub(super) const DATE: u8 = 0x1A;
    pub(super) const TIME: u8 = 0x1B;
}

/// One value with its tag. Strings borrow from the received bytes.
///
/// The number of nodes is at most the number of bytes decoded, so memory is bounded by the input.
/// Not supported yet, and refused with [`Rule::Tag`]: bcd (0D), compact-array (13), the delta types (1C to 21) and
/// don't-care (FF).
///
/// # Source
/// DLMS fact sheet, section 2.1; IEC 62056-6-2 data types.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Data<'a> {
    /// `00`.
    Null,
    /// `01`: count, then elements of one type, each with its tag. One type is not enforced: null may replace any.
    Array(Vec<Self>),
    /// `02`: count, then elements, each with its tag.
    Structure(Vec<Self>),
    /// `03`: any non-zero octet is true; 01 is sent.
    Boolean(bool),
    /// `04`: length in bits, then whole octets, first bit first.
    BitString(BitString<'a>),
    /// `05`.
    DoubleLong(i32),
    /// `06`.
    DoubleLongUnsigned(u32),
    /// `09`.
    OctetString(&'a [u8]),
    /// `0A`: 7-bit text.
    VisibleString(&'a str),
    /// `0C`.
    Utf8String(&'a str),
    /// `0F`.
    Integer(i8),
    /// `10`.
    Long(i16),
    /// `11`.
    Unsigned(u8),
    /// `12`.
    LongUnsigned(u16),
    /// `14`.
    Long64(i64),
    /// `15`.
    Long64Unsigned(u64),
    /// `16`.
    Enum(u8),
    /// `17`.
    Float32(f32),
    /// `18`.
    Float64(f64),
    /// `19`.
    DateTime(DateTime),
    /// `1A`.
    Date(Date),
    /// `1B`.
    Time(Time),
}

/// A string of bits; the first one is the most significant bit of the first octet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitString<'a> {
    bit_count: usize,
    bytes: &'a [u8],
}

impl<'a> BitString<'a> {
    /// The first `bit_count` bits of `bytes`; `None` unless there are exactly as many octets as the bits need.
    #[must_use]
    pub const fn new(bit_count: usize, bytes: &'a [u8]) -> Option<Self> {
        if bit_count.div_ceil(8) != bytes.len() {
            return None;
        }
        Some(Self { bit_count, bytes })
    }

    /// Number of bits.
    #[must_use]
    pub const fn bit_count(&self) -> usize {
        self.bit_count
    }

    /// The bit with this index, `None` beyond the end.
    #[must_use]
    pub fn bit(&self, index: usize) -> Option<bool> {
        let octet = self.bytes.get(index / 8).filter(|_| index < self.bit_count)?;
        Some(octet & (0x80 >> (index % 8)) != 0)
    }
}

impl<'a> Data<'a> {
    /// Reads one value that fills the whole input.
    ///
    /// # Errors
    /// As [`Data::decode`], and [`Rule::Trailing`] when bytes follow.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let data = Self::decode(&mut reader)?;
        reader.finish("data")?;
        Ok(data)
    }

    /// Reads one value.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule; nesting ends at [`DEPTH_MAX`], and a count above the number of
    /// bytes left is refused before anything is allocated.
    pub fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Self::decode_nested(reader, 0)
    }

    fn decode_nested(reader: &mut Reader<'a>, depth: usize) -> Result<Self, DecodeError> {
        let start = reader.clone();
        Ok(match reader.u8("tag")? {
            tag::NULL => Self::Null,
            tag::ARRAY => Self::Array(elements(reader, "array", depth)?),
            tag::STRUCTURE => Self::Structure(elements(reader, "structure", depth)?),
            tag::BOOLEAN => Self::Boolean(reader.u8("boolean")? != 0),
            tag::BIT_STRING => Self::BitString(bit_string(reader)?),
            tag::DOUBLE_LONG => Self::DoubleLong(i32::from_be_bytes(reader.array("double-long")?)),
            tag::DOUBLE_LONG_UNSIGNED => Self::DoubleLongUnsigned(reader.u32("double-long-unsigned")?),
            tag::OCTET_STRING => Self::OctetString(reader.prefixed("octet-string")?),
            tag::VISIBLE_STRING => Self::VisibleString(text(reader, "visible-string", <[u8]>::is_ascii)?),
            tag::UTF8_STRING => Self::Utf8String(text(reader, "utf8-string", |_| true)?),
            tag::INTEGER => Self::Integer(i8::from_be_bytes(reader.array("integer")?)),
            tag::LONG => Self::Long(i16::from_be_bytes(reader.array("long")?)),
            tag::UNSIGNED => Self::Unsigned(reader.u8("unsigned")?),
            tag::LONG_UNSIGNED => Self::LongUnsigned(reader.u16("long-unsigned")?),
            tag::LONG64 => Self::Long64(i64::from_be_bytes(reader.array("long64")?)),
            tag::LONG64_UNSIGNED => Self::Long64Unsigned(reader.u64("long64-unsigned")?),
            tag::ENUM => Self::Enum(reader.u8("enum")?),
            tag::FLOAT32 => Self::Float32(f32::from_be_bytes(reader.array("float32")?)),
            tag::FLOAT64 => Self::Float64(f64::from_be_bytes(reader.array("float64")?)),
            tag::DATE_TIME => Self::DateTime(DateTime::decode(reader)?),
            tag::DATE => Self::Date(Date::decode(reader)?),
            tag::TIME => Self::Time(Time::decode(reader)?),
            tag => return Err(start.fail("tag", Rule::Tag { tag })),
        })
    }

    /// The value as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        self.encode(&mut writer);
        writer.into_bytes()
    }

    /// Writes tag and value.
    pub fn encode(&self, writer: &mut Writer) {
        let mut fixed = |tag, bytes: &[u8]| {
            writer.u8(tag);
            writer.bytes(bytes);
        };
        match self {
            Self::Null => fixed(tag::NULL, &[]),
            Self::Boolean(value) => fixed(tag::BOOLEAN, &[u8::from(*value)]),
            Self::DoubleLong(value) => fixed(tag::DOUBLE_LONG, &value.to_be_bytes()),
            Self::DoubleLongUnsigned(value) => fixed(tag::DOUBLE_LONG_UNSIGNED, &value.to_be_bytes()),
            Self::Integer(value) => fixed(tag::INTEGER, &value.to_be_bytes()),
            Self::Long(value) => fixed(tag::LONG, &value.to_be_bytes()),
            Self::Unsigned(value) => fixed(tag::UNSIGNED, &[*value]),
            Self::LongUnsigned(value) => fixed(tag::LONG_UNSIGNED, &value.to_be_bytes()),
            Self::Long64(value) => fixed(tag::LONG64, &value.to_be_bytes()),
            Self::Long64Unsigned(value) => fixed(tag::LONG64_UNSIGNED, &value.to_be_bytes()),
            Self::Enum(value) => fixed(tag::ENUM, &[*value]),
            Self::Float32(value) => fixed(tag::FLOAT32, &value.to_be_bytes()),
            Self::Float64(value) => fixed(tag::FLOAT64, &value.to_be_bytes()),
            Self::DateTime(value) => fixed(tag::DATE_TIME, &value.to_bytes()),
            Self::Date(value) => fixed(tag::DATE, &value.to_bytes()),
            Self::Time(value) => fixed(tag::TIME, &value.to_bytes()),
            Self::OctetString(bytes) => string(writer, tag::OCTET_STRING, bytes),
            Self::VisibleString(text) => string(writer, tag::VISIBLE_STRING, text.as_bytes()),
            Self::Utf8String(text) => string(writer, tag::UTF8_STRING, text.as_bytes()),
            Self::BitString(bits) => {
                writer.u8(tag::BIT_STRING);
                writer.length(bits.bit_count);
                writer.bytes(bits.bytes);
            }
            Self::Array(items) => encode_elements(writer, tag::ARRAY, items),
            Self::Structure(items) => encode_elements(writer, tag::STRUCTURE, items),
        }
    }
}

fn elements<'a>(
    reader: &mut Reader<'a>,
    field: &'static str,
    depth: usize,
) -> Result<Vec<Data<'a>>, DecodeError> {
    if depth >= DEPTH_MAX {
        return Err(reader.fail(field, Rule::TooDeep { limit: DEPTH_MAX }));
    }
    let start = reader.clone();
    let count = reader.length(field)?;
    //= DLMS 2.1: an element takes at least its tag, so a count above the bytes left is false
    if count > reader.left() {
        return Err(start.fail(field, Rule::CountExceedsInput { count, left: reader.left() }));
    }
    // No reservation by `count`: nested false counts would multiply it.
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(Data::decode_nested(reader, depth.saturating_add(1))?);
    }
    Ok(items)
}

fn bit_string<'a>(reader: &mut Reader<'a>) -> Result<BitString<'a>, DecodeError> {
    let bit_count = reader.length("bit-string")?;
    let bytes = reader.bytes("bit-string", bit_count.div_ceil(8))?;
    Ok(BitString { bit_count, bytes })
}

fn text<'a>(
    reader: &mut Reader<'a>,
    field: &'static str,
    is_allowed: fn(&[u8]) -> bool,
) -> Result<&'a str, DecodeError> {
    let start = reader.clone();
    let bytes = reader.prefixed(field)?;
    core::str::from_utf8(bytes)
        .ok()
        .filter(|_| is_allowed(bytes))
        .ok_or_else(|| start.fail(field, Rule::Text))
}

fn string(writer: &mut Writer, tag: u8, bytes: &[u8]) {
    writer.u8(tag);
    writer.prefixed(bytes);
}

fn encode_elements(writer: &mut Writer, tag: u8, items: &[Data<'_>]) {
    writer.u8(tag);
    writer.length(items.len());
    items.iter().for_each(|item| item.encode(writer));
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn nesting_ends_at_the_limit() {
        let nested = |levels: usize| {
            let mut bytes = vec![];
            (0..levels).for_each(|_| bytes.extend([tag::STRUCTURE, 1]));
            bytes.push(tag::NULL);
            bytes
        };
        assert!(Data::from_bytes(&nested(DEPTH_MAX)).is_ok());
        let bytes = nested(DEPTH_MAX + 1);
        let error = Data::from_bytes(&bytes).unwrap_err();
        assert_eq!(error.rule, Rule::TooDeep { limit: DEPTH_MAX });
        assert_eq!(error.offset, 2 * DEPTH_MAX + 1);
    }

    //= DLMS 2.1: an element takes at least its tag, so a count above the bytes left is false
    #[test]
    fn a_count_above_the_bytes_left_is_refused() {
        let error = Data::from_bytes(&[tag::ARRAY, 0x84, 0xFF, 0xFF, 0xFF, 0xFF, 0]).unwrap_err();
        assert_eq!(error.rule, Rule::CountExceedsInput { count: 0xFFFF_FFFF, left: 1 });
    }

    #[test]
    fn bits_count_from_the_most_significant_one() {
        let Ok(Data::BitString(bits)) = Data::from_bytes(&[tag::BIT_STRING, 10, 0x80, 0x40]) else {
            panic!()
        };
        assert_eq!(
            (bits.bit(0), bits.bit(1), bits.bit(9), bits.bit(10)),
            (Some(true), Some(false), Some(true), None)
        );
        assert_eq!(BitString::new(9, &[0]), None);
    }
}
