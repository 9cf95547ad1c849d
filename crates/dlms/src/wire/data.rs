//! A-XDR `Data`: the one type that carries every attribute value.

use alloc::vec::Vec;
use core::fmt::{self, Write as _};

use super::{CompactArray, Date, DateTime, DecodeError, Reader, Rule, Time, Writer};

/// Deepest nesting of arrays and structures.
pub const DEPTH_MAX: usize = 16;

pub(crate) mod tag {
    pub(crate) const NULL: u8 = 0x00;
    pub(crate) const ARRAY: u8 = 0x01;
    pub(crate) const STRUCTURE: u8 = 0x02;
    pub(crate) const BOOLEAN: u8 = 0x03;
    pub(crate) const BIT_STRING: u8 = 0x04;
    pub(crate) const DOUBLE_LONG: u8 = 0x05;
    pub(crate) const DOUBLE_LONG_UNSIGNED: u8 = 0x06;
    pub(crate) const OCTET_STRING: u8 = 0x09;
    pub(crate) const VISIBLE_STRING: u8 = 0x0A;
    pub(crate) const UTF8_STRING: u8 = 0x0C;
    pub(crate) const INTEGER: u8 = 0x0F;
    pub(crate) const LONG: u8 = 0x10;
    pub(crate) const UNSIGNED: u8 = 0x11;
    pub(crate) const LONG_UNSIGNED: u8 = 0x12;
    pub(crate) const LONG64: u8 = 0x14;
    pub(crate) const LONG64_UNSIGNED: u8 = 0x15;
    pub(crate) const ENUM: u8 = 0x16;
    pub(crate) const FLOAT32: u8 = 0x17;
    pub(crate) const FLOAT64: u8 = 0x18;
    pub(crate) const DATE_TIME: u8 = 0x19;
    pub(crate) const DATE: u8 = 0x1A;
    pub(crate) const TIME: u8 = 0x1B;
    pub(crate) const BCD: u8 = 0x0D;
    pub(crate) const COMPACT_ARRAY: u8 = 0x13;
    pub(crate) const DELTA_INTEGER: u8 = 0x1C;
    pub(crate) const DELTA_LONG: u8 = 0x1D;
    pub(crate) const DELTA_DOUBLE_LONG: u8 = 0x1E;
    pub(crate) const DELTA_UNSIGNED: u8 = 0x1F;
    pub(crate) const DELTA_LONG_UNSIGNED: u8 = 0x20;
    pub(crate) const DELTA_DOUBLE_LONG_UNSIGNED: u8 = 0x21;
    pub(crate) const DONT_CARE: u8 = 0xFF;
}

/// One value with its tag. Strings borrow from the received bytes.
///
/// The number of nodes is at most the number of bytes decoded, so memory is bounded by the input.
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
    /// `0D`: one octet, two digits.
    Bcd(u8),
    /// `13`: values of one type, which is written once.
    CompactArray(CompactArray<'a>),
    /// `1C`: to be added to the value above it, see [`super::Rows`]; likewise up to `21`.
    DeltaInteger(i8),
    /// `1D`.
    DeltaLong(i16),
    /// `1E`.
    DeltaDoubleLong(i32),
    /// `1F`.
    DeltaUnsigned(u8),
    /// `20`.
    DeltaLongUnsigned(u16),
    /// `21`.
    DeltaDoubleLongUnsigned(u32),
    /// `FF`.
    DontCare,
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

/// The bits as digits, first one first.
impl fmt::Display for BitString<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bits = (0..self.bit_count).filter_map(|index| self.bit(index));
        bits.try_for_each(|bit| f.write_char(if bit { '1' } else { '0' }))
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
        let tag = reader.u8("tag")?;
        Ok(match tag {
            tag::ARRAY => Self::Array(elements(reader, "array", depth)?),
            tag::STRUCTURE => Self::Structure(elements(reader, "structure", depth)?),
            tag::COMPACT_ARRAY => Self::CompactArray(CompactArray::decode(reader)?),
            _ => Self::decode_simple(reader, tag)
                .unwrap_or_else(|| Err(start.fail("tag", Rule::Tag { tag })))?,
        })
    }

    /// Reads the value of a simple type, whose tag was read elsewhere. `None` for a tag that is none of a simple type.
    pub(crate) fn decode_simple(reader: &mut Reader<'a>, tag: u8) -> Option<Result<Self, DecodeError>> {
        if !is_simple(tag) {
            return None;
        }
        Some(Self::simple(reader, tag))
    }

    fn simple(reader: &mut Reader<'a>, tag: u8) -> Result<Self, DecodeError> {
        Ok(match tag {
            tag::NULL => Self::Null,
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
            tag::BCD => Self::Bcd(reader.u8("bcd")?),
            tag::DELTA_INTEGER => Self::DeltaInteger(i8::from_be_bytes(reader.array("delta-integer")?)),
            tag::DELTA_LONG => Self::DeltaLong(i16::from_be_bytes(reader.array("delta-long")?)),
            tag::DELTA_DOUBLE_LONG => {
                Self::DeltaDoubleLong(i32::from_be_bytes(reader.array("delta-double-long")?))
            }
            tag::DELTA_UNSIGNED => Self::DeltaUnsigned(reader.u8("delta-unsigned")?),
            tag::DELTA_LONG_UNSIGNED => Self::DeltaLongUnsigned(reader.u16("delta-long-unsigned")?),
            tag::DELTA_DOUBLE_LONG_UNSIGNED => {
                Self::DeltaDoubleLongUnsigned(reader.u32("delta-double-long-unsigned")?)
            }
            _ => Self::DontCare,
        })
    }

    /// Steps over one value and gives its bytes, tag included. Lengths, counts and depth are checked, texts and dates
    /// are not; nothing is allocated.
    ///
    /// # Errors
    /// As [`Data::decode`].
    pub fn skip(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
        let mut ahead = reader.clone();
        skip_nested(&mut ahead, 0)?;
        reader.bytes("data", ahead.offset().saturating_sub(reader.offset()))
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
        match self {
            Self::Array(items) => encode_elements(writer, tag::ARRAY, items),
            Self::Structure(items) => encode_elements(writer, tag::STRUCTURE, items),
            Self::CompactArray(array) => {
                writer.u8(tag::COMPACT_ARRAY);
                array.encode(writer);
            }
            simple => {
                writer.u8(simple.tag());
                simple.encode_simple(writer);
            }
        }
    }

    /// The tag with which it is written.
    #[must_use]
    pub const fn tag(&self) -> u8 {
        match self {
            Self::Null => tag::NULL,
            Self::Array(_) => tag::ARRAY,
            Self::Structure(_) => tag::STRUCTURE,
            Self::Boolean(_) => tag::BOOLEAN,
            Self::BitString(_) => tag::BIT_STRING,
            Self::DoubleLong(_) => tag::DOUBLE_LONG,
            Self::DoubleLongUnsigned(_) => tag::DOUBLE_LONG_UNSIGNED,
            Self::OctetString(_) => tag::OCTET_STRING,
            Self::VisibleString(_) => tag::VISIBLE_STRING,
            Self::Utf8String(_) => tag::UTF8_STRING,
            Self::Integer(_) => tag::INTEGER,
            Self::Long(_) => tag::LONG,
            Self::Unsigned(_) => tag::UNSIGNED,
            Self::LongUnsigned(_) => tag::LONG_UNSIGNED,
            Self::Long64(_) => tag::LONG64,
            Self::Long64Unsigned(_) => tag::LONG64_UNSIGNED,
            Self::Enum(_) => tag::ENUM,
            Self::Float32(_) => tag::FLOAT32,
            Self::Float64(_) => tag::FLOAT64,
            Self::DateTime(_) => tag::DATE_TIME,
            Self::Date(_) => tag::DATE,
            Self::Time(_) => tag::TIME,
            Self::Bcd(_) => tag::BCD,
            Self::CompactArray(_) => tag::COMPACT_ARRAY,
            Self::DeltaInteger(_) => tag::DELTA_INTEGER,
            Self::DeltaLong(_) => tag::DELTA_LONG,
            Self::DeltaDoubleLong(_) => tag::DELTA_DOUBLE_LONG,
            Self::DeltaUnsigned(_) => tag::DELTA_UNSIGNED,
            Self::DeltaLongUnsigned(_) => tag::DELTA_LONG_UNSIGNED,
            Self::DeltaDoubleLongUnsigned(_) => tag::DELTA_DOUBLE_LONG_UNSIGNED,
            Self::DontCare => tag::DONT_CARE,
        }
    }

    /// Name of its type in the standard's words.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null-data",
            Self::Array(_) => "array",
            Self::Structure(_) => "structure",
            Self::Boolean(_) => "boolean",
            Self::BitString(_) => "bit-string",
            Self::DoubleLong(_) => "double-long",
            Self::DoubleLongUnsigned(_) => "double-long-unsigned",
            Self::OctetString(_) => "octet-string",
            Self::VisibleString(_) => "visible-string",
            Self::Utf8String(_) => "utf8-string",
            Self::Integer(_) => "integer",
            Self::Long(_) => "long",
            Self::Unsigned(_) => "unsigned",
            Self::LongUnsigned(_) => "long-unsigned",
            Self::Long64(_) => "long64",
            Self::Long64Unsigned(_) => "long64-unsigned",
            Self::Enum(_) => "enum",
            Self::Float32(_) => "float32",
            Self::Float64(_) => "float64",
            Self::DateTime(_) => "date-time",
            Self::Date(_) => "date",
            Self::Time(_) => "time",
            Self::Bcd(_) => "bcd",
            Self::CompactArray(_) => "compact-array",
            Self::DeltaInteger(_) => "delta-integer",
            Self::DeltaLong(_) => "delta-long",
            Self::DeltaDoubleLong(_) => "delta-double-long",
            Self::DeltaUnsigned(_) => "delta-unsigned",
            Self::DeltaLongUnsigned(_) => "delta-long-unsigned",
            Self::DeltaDoubleLongUnsigned(_) => "delta-double-long-unsigned",
            Self::DontCare => "dont-care",
        }
    }

    /// Writes the value of a simple type without its tag; nothing for the other types.
    pub(super) fn encode_simple(&self, writer: &mut Writer) {
        match self {
            Self::Boolean(value) => writer.u8(u8::from(*value)),
            Self::DoubleLong(value) | Self::DeltaDoubleLong(value) => writer.bytes(&value.to_be_bytes()),
            Self::DoubleLongUnsigned(value) | Self::DeltaDoubleLongUnsigned(value) => writer.u32(*value),
            Self::Integer(value) | Self::DeltaInteger(value) => writer.bytes(&value.to_be_bytes()),
            Self::Long(value) | Self::DeltaLong(value) => writer.bytes(&value.to_be_bytes()),
            Self::Unsigned(value) | Self::Enum(value) | Self::Bcd(value) | Self::DeltaUnsigned(value) => {
                writer.u8(*value);
            }
            Self::LongUnsigned(value) | Self::DeltaLongUnsigned(value) => writer.u16(*value),
            Self::Long64(value) => writer.bytes(&value.to_be_bytes()),
            Self::Long64Unsigned(value) => writer.u64(*value),
            Self::Float32(value) => writer.bytes(&value.to_be_bytes()),
            Self::Float64(value) => writer.bytes(&value.to_be_bytes()),
            Self::DateTime(value) => writer.bytes(&value.to_bytes()),
            Self::Date(value) => writer.bytes(&value.to_bytes()),
            Self::Time(value) => writer.bytes(&value.to_bytes()),
            Self::OctetString(bytes) => writer.prefixed(bytes),
            Self::VisibleString(text) | Self::Utf8String(text) => writer.prefixed(text.as_bytes()),
            Self::BitString(bits) => {
                writer.length(bits.bit_count);
                writer.bytes(bits.bytes);
            }
            Self::Null | Self::DontCare | Self::Array(_) | Self::Structure(_) | Self::CompactArray(_) => {}
        }
    }
}

/// Whether values with this tag hold no other values.
pub(super) const fn is_simple(tag: u8) -> bool {
    matches!(
        tag,
        tag::NULL | tag::BOOLEAN..=tag::DOUBLE_LONG_UNSIGNED
            | tag::OCTET_STRING
            | tag::VISIBLE_STRING
            | tag::UTF8_STRING
            | tag::BCD
            | tag::INTEGER..=tag::LONG_UNSIGNED
            | tag::LONG64..=tag::DELTA_DOUBLE_LONG_UNSIGNED
            | tag::DONT_CARE
    )
}

/// Size of the values of a simple type whose size is fixed.
pub(super) const fn fixed_size(tag: u8) -> Option<usize> {
    Some(match tag {
        tag::NULL | tag::DONT_CARE => 0,
        tag::BOOLEAN
        | tag::BCD
        | tag::INTEGER
        | tag::UNSIGNED
        | tag::ENUM
        | tag::DELTA_INTEGER
        | tag::DELTA_UNSIGNED => 1,
        tag::LONG | tag::LONG_UNSIGNED | tag::DELTA_LONG | tag::DELTA_LONG_UNSIGNED => 2,
        tag::DOUBLE_LONG
        | tag::DOUBLE_LONG_UNSIGNED
        | tag::FLOAT32
        | tag::TIME
        | tag::DELTA_DOUBLE_LONG
        | tag::DELTA_DOUBLE_LONG_UNSIGNED => 4,
        tag::LONG64 | tag::LONG64_UNSIGNED | tag::FLOAT64 => 8,
        tag::DATE_TIME => 12,
        tag::DATE => 5,
        _ => return None,
    })
}

/// Steps over the value of a simple type whose tag was read elsewhere.
pub(super) fn skip_simple(reader: &mut Reader<'_>, tag: u8) -> Result<(), DecodeError> {
    match (fixed_size(tag), tag) {
        (Some(size), _) => reader.bytes("data", size)?,
        (None, tag::BIT_STRING) => bit_string(reader)?.bytes,
        (None, _) => reader.prefixed("data")?,
    };
    Ok(())
}

fn skip_nested(reader: &mut Reader<'_>, depth: usize) -> Result<(), DecodeError> {
    let start = reader.clone();
    match reader.u8("tag")? {
        tag @ (tag::ARRAY | tag::STRUCTURE) => {
            let field = if tag == tag::ARRAY { "array" } else { "structure" };
            for _ in 0..element_count(reader, field, depth)? {
                skip_nested(reader, depth.saturating_add(1))?;
            }
            Ok(())
        }
        tag::COMPACT_ARRAY => CompactArray::decode(reader).map(|_| ()),
        tag if is_simple(tag) => skip_simple(reader, tag),
        tag => Err(start.fail("tag", Rule::Tag { tag })),
    }
}

fn element_count(reader: &mut Reader<'_>, field: &'static str, depth: usize) -> Result<usize, DecodeError> {
    if depth >= DEPTH_MAX {
        return Err(reader.fail(field, Rule::TooDeep { limit: DEPTH_MAX }));
    }
    let start = reader.clone();
    let count = reader.length(field)?;
    //= DLMS 2.1: an element takes at least its tag, so a count above the bytes left is false
    if count > reader.left() {
        return Err(start.fail(field, Rule::CountExceedsInput { count, left: reader.left() }));
    }
    Ok(count)
}

fn elements<'a>(
    reader: &mut Reader<'a>,
    field: &'static str,
    depth: usize,
) -> Result<Vec<Data<'a>>, DecodeError> {
    let count = element_count(reader, field, depth)?;
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
