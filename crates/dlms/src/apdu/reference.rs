//! What a request names: attributes and methods of objects, selections, invocations.

use gridseal_types::ObisCode;

use crate::wire::{Data, DecodeError, Reader, Rule, Writer};

/// invoke-id-and-priority, 8 bits: 0 to 3 the id, 6 confirmed, 7 high priority; 4 and 5 are kept as received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvokeId(pub u8);

impl InvokeId {
    /// A confirmed service of high priority with this id, of which the low 4 bits count.
    #[must_use]
    pub const fn confirmed(id: u8) -> Self {
        Self(0xC0 | (id & 0x0F))
    }

    /// The id alone, 0 to 15.
    #[must_use]
    pub const fn id(self) -> u8 {
        self.0 & 0x0F
    }

    /// Whether the sender wants an answer.
    #[must_use]
    pub const fn is_confirmed(self) -> bool {
        self.0 & 0x40 != 0
    }
}

/// One attribute of one object: `class u16 | obis (6) | attribute i8`.
///
/// # Source
/// DLMS fact sheet, section 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttributeId {
    /// Number of the interface class.
    pub class: u16,
    /// Logical name of the object.
    pub obis: ObisCode,
    /// Attribute, from 1; 0 names all of them.
    pub attribute: i8,
}

/// One method of one object: `class u16 | obis (6) | method i8`.
///
/// # Source
/// DLMS fact sheet, section 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MethodId {
    /// Number of the interface class.
    pub class: u16,
    /// Logical name of the object.
    pub obis: ObisCode,
    /// Method, from 1.
    pub method: i8,
}

/// Class 15, current association, method 1: reply_to_HLS_authentication.
pub const REPLY_TO_HLS_AUTHENTICATION: MethodId =
    MethodId { class: 15, obis: ObisCode::new([0, 0, 40, 0, 0, 255]), method: 1 };

fn triple(reader: &mut Reader<'_>, field: &'static str) -> Result<(u16, ObisCode, i8), DecodeError> {
    let class = reader.u16(field)?;
    let obis = ObisCode::new(reader.array(field)?);
    Ok((class, obis, i8::from_be_bytes(reader.array(field)?)))
}

fn write_triple(writer: &mut Writer, class: u16, obis: ObisCode, member: i8) {
    writer.u16(class);
    writer.bytes(obis.groups());
    writer.bytes(&member.to_be_bytes());
}

impl AttributeId {
    /// Size in bytes.
    pub const SIZE: usize = 9;

    /// Attribute `attribute` of the object `obis` of class `class`.
    #[must_use]
    pub const fn new(class: u16, obis: ObisCode, attribute: i8) -> Self {
        Self { class, obis, attribute }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (class, obis, attribute) = triple(reader, "attribute-descriptor")?;
        Ok(Self { class, obis, attribute })
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        write_triple(writer, self.class, self.obis, self.attribute);
    }
}

impl MethodId {
    /// Method `method` of the object `obis` of class `class`.
    #[must_use]
    pub const fn new(class: u16, obis: ObisCode, method: i8) -> Self {
        Self { class, obis, method }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (class, obis, method) = triple(reader, "method-descriptor")?;
        Ok(Self { class, obis, method })
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        write_triple(writer, self.class, self.obis, self.method);
    }
}

/// Selective access: `selector | parameter`, the parameter being one encoded value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection<'a> {
    /// 1 by range, 2 by entry; others belong to a class.
    pub selector: u8,
    /// One A-XDR value.
    pub parameter: &'a [u8],
}

impl<'a> Selection<'a> {
    /// Reads selector and parameter, without the octet that says whether there is one.
    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { selector: reader.u8("access-selector")?, parameter: Data::skip(reader)? })
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.u8(self.selector);
        writer.bytes(self.parameter);
    }
}

/// An attribute and, with OPTIONAL before it, a selection.
pub(crate) type Selected<'a> = (AttributeId, Option<Selection<'a>>);

pub(crate) fn decode_selected<'a>(reader: &mut Reader<'a>) -> Result<Selected<'a>, DecodeError> {
    let attribute = AttributeId::decode(reader)?;
    let selection =
        if optional(reader, "access-selection")? { Some(Selection::decode(reader)?) } else { None };
    Ok((attribute, selection))
}

pub(crate) fn encode_selected(writer: &mut Writer, (attribute, selection): &Selected<'_>) {
    attribute.encode(writer);
    match selection {
        None => writer.u8(0),
        Some(selection) => {
            writer.u8(1);
            selection.encode(writer);
        }
    }
}

/// The octet before an OPTIONAL field, or of a boolean: 00 or 01.
pub(crate) fn optional(reader: &mut Reader<'_>, field: &'static str) -> Result<bool, DecodeError> {
    let start = reader.clone();
    match reader.u8(field)? {
        0 => Ok(false),
        1 => Ok(true),
        tag => Err(start.fail(field, Rule::Tag { tag })),
    }
}

/// A boolean: any octet but 0 is true.
pub(crate) fn boolean(reader: &mut Reader<'_>, field: &'static str) -> Result<bool, DecodeError> {
    reader.u8(field).map(|octet| octet != 0)
}

/// Opens a whole APDU with this tag.
pub(crate) fn open<'a>(bytes: &'a [u8], tag: u8) -> Result<Reader<'a>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let start = reader.clone();
    match reader.u8("apdu tag")? {
        found if found == tag => Ok(reader),
        found => Err(start.fail("apdu tag", Rule::Tag { tag: found })),
    }
}

/// Tag and choice of an APDU that is about to be written.
pub(crate) fn start(tag: u8, choice: u8) -> Writer {
    let mut writer = Writer::with_capacity(64);
    writer.u8(tag);
    writer.u8(choice);
    writer
}
