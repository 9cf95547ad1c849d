//! BER, as far as the association control messages need it: tag, definite length, contents.

use alloc::vec::Vec;

use super::{DecodeError, Reader, Rule, Writer};

/// Reads fields in the order of their tags, each at most once.
#[derive(Debug)]
pub(crate) struct Ber<'a> {
    reader: Reader<'a>,
}

impl<'a> Ber<'a> {
    /// Opens a whole message with this tag.
    pub(crate) fn open(bytes: &'a [u8], tag: u8, field: &'static str) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let start = reader.clone();
        match reader.u8(field)? {
            found if found == tag => {}
            found => return Err(start.fail(field, Rule::Tag { tag: found })),
        }
        let size = length(&mut reader, field)?;
        if size > reader.left() {
            return Err(reader.fail(field, Rule::Truncated { needed: size, left: reader.left() }));
        }
        if let Some(count) = reader.left().checked_sub(size).filter(|count| *count > 0) {
            return Err(reader.fail(field, Rule::Trailing { count }));
        }
        Ok(Self { reader })
    }

    /// The field with this tag when it comes next.
    pub(crate) fn optional(
        &mut self,
        tag: u8,
        field: &'static str,
    ) -> Result<Option<Reader<'a>>, DecodeError> {
        let mut ahead = self.reader.clone();
        if ahead.left() == 0 || ahead.u8(field)? != tag {
            return Ok(None);
        }
        let size = length(&mut ahead, field)?;
        let contents = ahead.take(field, size)?;
        self.reader = ahead;
        Ok(Some(contents))
    }

    /// The field with this tag, which must come next.
    pub(crate) fn required(&mut self, tag: u8, field: &'static str) -> Result<Reader<'a>, DecodeError> {
        let start = self.reader.clone();
        match self.optional(tag, field)? {
            Some(contents) => Ok(contents),
            None if start.left() == 0 => Err(start.fail(field, Rule::Truncated { needed: 2, left: 0 })),
            None => {
                let tag = start.clone().u8(field)?;
                Err(start.fail(field, Rule::Tag { tag }))
            }
        }
    }

    /// Ends the message: a field that is unknown, repeated or out of order is left and refused.
    pub(crate) fn finish(self, field: &'static str) -> Result<(), DecodeError> {
        let start = self.reader.clone();
        match self.reader.clone().u8(field) {
            Err(_) => Ok(()),
            Ok(tag) => Err(start.fail(field, Rule::Tag { tag })),
        }
    }
}

/// What is inside one more tag and fills the contents to their end.
pub(crate) fn inner<'a>(
    reader: &mut Reader<'a>,
    tag: u8,
    field: &'static str,
) -> Result<Reader<'a>, DecodeError> {
    let start = reader.clone();
    match reader.u8(field)? {
        found if found == tag => {}
        found => return Err(start.fail(field, Rule::Tag { tag: found })),
    }
    let size = length(reader, field)?;
    let contents = reader.take(field, size)?;
    reader.finish(field)?;
    Ok(contents)
}

/// A definite length; unlike in A-XDR it need not be in its shortest form.
pub(crate) fn length(reader: &mut Reader<'_>, field: &'static str) -> Result<usize, DecodeError> {
    let start = reader.clone();
    let first = reader.u8(field)?;
    if first < 0x80 {
        return Ok(usize::from(first));
    }
    let octets = match first {
        0x81..=0x84 => reader.bytes(field, usize::from(first & 0x7F))?,
        _ => return Err(start.fail(field, Rule::LengthForm)),
    };
    let value = octets.iter().fold(0u32, |value, octet| (value << 8) | u32::from(*octet));
    usize::try_from(value).map_err(|_| start.fail(field, Rule::LengthForm))
}

/// Writes one field around its contents.
pub(crate) fn wrap(writer: &mut Writer, tag: u8, contents: &[u8]) {
    //= DLMS 3.1: lengths above 127 take several octets
    writer.u8(tag);
    writer.prefixed(contents);
}

/// A whole message around its fields.
pub(crate) fn message(tag: u8, fields: Writer) -> Vec<u8> {
    let fields = fields.into_bytes();
    let mut writer = Writer::with_capacity(fields.len().saturating_add(4));
    wrap(&mut writer, tag, &fields);
    writer.into_bytes()
}
