//! A-XDR values.

use alloc::{format, string::String};

use super::{
    Scalar,
    branch::{Branch, Said, text, unsigned},
};
use crate::wire::{
    CompactArray, DEPTH_MAX, Data, DateTime, DateTimeError, DecodeError, DeviationSign, Reader, Rule,
    type_tag,
};

/// One value with its tag.
pub(super) fn value(branch: &mut Branch, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    nested(branch, reader, 0)
}

fn nested(branch: &mut Branch, reader: &mut Reader<'_>, depth: usize) -> Result<(), DecodeError> {
    let start = reader.clone();
    let mut ahead = reader.clone();
    let tag = ahead.u8("tag")?;
    let name = match tag {
        type_tag::ARRAY => "array",
        type_tag::STRUCTURE => "structure",
        type_tag::COMPACT_ARRAY => return compact(branch, reader),
        _ => {
            let data = Data::decode_simple(&mut ahead, tag)
                .unwrap_or_else(|| Err(start.fail("tag", Rule::Tag { tag })))?;
            *reader = ahead;
            return branch.leaf(data.type_name(), &start, reader, simple(&data));
        }
    };
    branch.group(name, reader, |branch, reader| {
        reader.u8("tag")?;
        if depth >= DEPTH_MAX {
            return Err(reader.fail(name, Rule::TooDeep { limit: DEPTH_MAX }));
        }
        let at = reader.clone();
        let count = reader.length(name)?;
        if count > reader.left() {
            return Err(at.fail(name, Rule::CountExceedsInput { count, left: reader.left() }));
        }
        for _ in 0..count {
            nested(branch, reader, depth.saturating_add(1))?;
        }
        let noun = if count == 1 { "element" } else { "elements" };
        Ok((None, Some(format!("{count} {noun}"))))
    })
}

/// The description once, then values without tags.
fn compact(branch: &mut Branch, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    branch.group("compact-array", reader, |branch, reader| {
        let mut whole = reader.clone();
        reader.u8("tag")?;
        // Judges description and contents as a whole before anything is walked.
        Data::skip(&mut whole)?;
        let mut ahead = reader.clone();
        let array = CompactArray::decode(&mut ahead)?;
        let from = reader.clone();
        let description = reader.bytes("type-description", array.description().len())?;
        branch.leaf("type-description", &from, reader, (Some(Scalar::Octets(description.to_vec())), None))?;
        let mut count = 0usize;
        branch.group("contents", reader, |branch, reader| {
            let size = reader.length("contents")?;
            let mut contents = reader.take("contents", size)?;
            while contents.left() > 0 {
                untagged(branch, &mut Reader::new(description), &mut contents)?;
                count = count.saturating_add(1);
            }
            Ok((None, None))
        })?;
        Ok((None, Some(format!("{count} elements"))))
    })
}

fn untagged(
    branch: &mut Branch,
    kind: &mut Reader<'_>,
    contents: &mut Reader<'_>,
) -> Result<(), DecodeError> {
    let start = kind.clone();
    match kind.u8("type-description")? {
        type_tag::ARRAY => branch.group("array", contents, |branch, contents| {
            let count = kind.u16("type-description")?;
            let element = kind.clone();
            CompactArray::skip_description(kind)?;
            (0..count).try_for_each(|_| untagged(branch, &mut element.clone(), contents))?;
            Ok((None, Some(format!("{count} elements"))))
        }),
        type_tag::STRUCTURE => branch.group("structure", contents, |branch, contents| {
            let count = kind.length("type-description")?;
            (0..count).try_for_each(|_| untagged(branch, kind, contents))?;
            Ok((None, Some(format!("{count} elements"))))
        }),
        // A null takes no bytes; to name it would make a tree larger than what was received.
        type_tag::NULL => Ok(()),
        tag => {
            let from = contents.clone();
            let data = Data::decode_simple(contents, tag)
                .unwrap_or_else(|| Err(start.fail("type-description", Rule::Tag { tag })))?;
            branch.leaf(data.type_name(), &from, contents, simple(&data))
        }
    }
}

/// What a simple value says.
pub(super) fn simple(data: &Data<'_>) -> Said {
    let signed = |value: i64| (Some(Scalar::Signed(value)), None);
    match data {
        Data::Boolean(value) => (Some(Scalar::Boolean(*value)), None),
        Data::BitString(bits) => text(format!("{bits}")),
        Data::DoubleLong(value) | Data::DeltaDoubleLong(value) => signed((*value).into()),
        Data::DoubleLongUnsigned(value) | Data::DeltaDoubleLongUnsigned(value) => unsigned(*value),
        Data::OctetString(bytes) => (Some(Scalar::Octets(bytes.to_vec())), octet_meaning(bytes)),
        Data::VisibleString(value) | Data::Utf8String(value) => text(*value),
        Data::Integer(value) | Data::DeltaInteger(value) => signed((*value).into()),
        Data::Long(value) | Data::DeltaLong(value) => signed((*value).into()),
        Data::Unsigned(value) | Data::Enum(value) | Data::DeltaUnsigned(value) => unsigned(*value),
        Data::Bcd(value) => text(format!("{value:02x}")),
        Data::LongUnsigned(value) | Data::DeltaLongUnsigned(value) => unsigned(*value),
        Data::Long64(value) => signed(*value),
        Data::Long64Unsigned(value) => unsigned(*value),
        Data::Float32(value) => (Some(Scalar::Real(f64::from(*value))), None),
        Data::Float64(value) => (Some(Scalar::Real(*value)), None),
        Data::DateTime(at) => date_time(at),
        Data::Date(date) => text(format!("{date}")),
        Data::Time(time) => text(format!("{time}")),
        _ => (None, None),
    }
}

/// A date-time: its local text, and the instant where it names one.
pub(super) fn date_time(at: &DateTime) -> Said {
    let instant = match at.to_utc(DeviationSign::Standard) {
        Ok(at) => Some(format!("{at}")),
        Err(DateTimeError::NoDeviation) => Some(String::from("no deviation from UTC")),
        Err(_) => None,
    };
    (Some(Scalar::Text(format!("{at}"))), instant)
}

/// Octet-strings are what the class says; what looks like a date-time, a logical name or text is remarked.
fn octet_meaning(bytes: &[u8]) -> Option<String> {
    if let Ok(at) = DateTime::from_bytes(bytes) {
        // Twelve octets of text or of zeros also have that length.
        if at.date.year == 0xFFFF || (1_970..=2_200).contains(&at.date.year) {
            return Some(format!("date-time {at}"));
        }
    }
    if let [a, b, c, d, e, 255] = bytes {
        return Some(format!("logical name {a}-{b}:{c}.{d}.{e}.255"));
    }
    let is_text = bytes.len() > 2 && bytes.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
    let text = is_text.then(|| core::str::from_utf8(bytes).ok()).flatten()?;
    Some(format!("\"{text}\""))
}
