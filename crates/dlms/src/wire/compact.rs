//! compact-array: many values of one type, whose description is written once.

use super::{
    Data, DecodeError, Reader, Rule, Writer,
    data::{DEPTH_MAX, fixed_size, is_simple, skip_simple, tag},
};

/// Most types in one description.
pub const DESCRIPTION_NODES_MAX: usize = 64;

/// `type-description | contents length | contents`.
///
/// A description is the tag of a simple type, `01 | count u16 | type`, or `02 | count | types`. The contents hold the
/// values without tags; how many there are follows from their length. Decoding has checked that the contents are whole
/// elements, that every element takes at least one byte, and that a null stands only beside such a value. So the
/// number of values is at most [`DESCRIPTION_NODES_MAX`] times the number of bytes received.
///
/// # Source
/// DLMS fact sheet, section 2.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactArray<'a> {
    description: &'a [u8],
    contents: &'a [u8],
}

/// What one description contains.
#[derive(Debug, Clone, Copy, Default)]
struct Shape {
    /// Fewest bytes that one element takes.
    size_min: usize,
    nodes: usize,
}

impl<'a> CompactArray<'a> {
    /// A compact array of what was encoded elsewhere.
    ///
    /// # Errors
    /// As decoding it: [`DecodeError`] with the offset in `description` or `contents`.
    pub fn new(description: &'a [u8], contents: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(description);
        let shape = shape(&mut reader, 0)?;
        reader.finish("type-description")?;
        Self { description, contents }.checked(shape, &Reader::new(contents))
    }

    /// Reads description and contents, after the tag.
    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut ahead = reader.clone();
        let shape = shape(&mut ahead, 0)?;
        let size = ahead.offset().saturating_sub(reader.offset());
        let description = reader.bytes("type-description", size)?;
        let mut at = reader.clone();
        let contents = reader.prefixed("compact-array contents")?;
        at.length("compact-array contents")?;
        Self { description, contents }.checked(shape, &at)
    }

    fn checked(self, shape: Shape, at: &Reader<'_>) -> Result<Self, DecodeError> {
        //= DLMS 2.3: elements that take no bytes have no count
        if shape.size_min == 0 && !self.contents.is_empty() {
            return Err(at.fail("type-description", Rule::OutOfRange));
        }
        let mut elements = self.elements();
        while elements.contents.left() > 0 {
            let offset = elements.contents.offset();
            elements.step().map_err(|error| DecodeError {
                offset: at.offset().saturating_add(offset.max(error.offset)),
                ..error
            })?;
        }
        Ok(self)
    }

    /// The elements in their order.
    #[must_use]
    pub const fn elements(&self) -> Elements<'a> {
        Elements { description: self.description, contents: Reader::new(self.contents) }
    }

    /// The type of the elements as bytes.
    #[must_use]
    pub const fn description(&self) -> &'a [u8] {
        self.description
    }

    /// Steps over a type description.
    pub(crate) fn skip_description(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        shape(reader, 0).map(drop)
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.bytes(self.description);
        writer.prefixed(self.contents);
    }
}

/// The elements of a [`CompactArray`].
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    description: &'a [u8],
    contents: Reader<'a>,
}

impl<'a> Elements<'a> {
    fn step(&mut self) -> Result<(), DecodeError> {
        skip_value(&mut Reader::new(self.description), &mut self.contents)
    }

    /// Gives the simple values of the next element one after the other, without building it: `visit` is called for
    /// each, structures and arrays are entered. False when there is no further element.
    ///
    /// # Errors
    /// [`DecodeError`] for a text or a date that its type does not allow; its offset counts from the contents.
    pub fn visit_next(&mut self, visit: &mut dyn FnMut(Data<'a>)) -> Result<bool, DecodeError> {
        if self.contents.left() == 0 {
            return Ok(false);
        }
        visit_value(&mut Reader::new(self.description), &mut self.contents, visit)?;
        Ok(true)
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Data<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.contents.left() == 0 {
            return None;
        }
        let element = value(&mut Reader::new(self.description), &mut self.contents);
        if element.is_err() {
            self.contents.remainder();
        }
        Some(element)
    }
}

fn shape(reader: &mut Reader<'_>, depth: usize) -> Result<Shape, DecodeError> {
    if depth > DEPTH_MAX {
        return Err(reader.fail("type-description", Rule::TooDeep { limit: DEPTH_MAX }));
    }
    let start = reader.clone();
    let shape = match reader.u8("type-description")? {
        tag::ARRAY => {
            let count = usize::from(reader.u16("type-description")?);
            let element = shape(reader, depth.saturating_add(1))?;
            if element.size_min == 0 {
                return Err(start.fail("type-description", Rule::OutOfRange));
            }
            Shape { size_min: count.saturating_mul(element.size_min), nodes: element.nodes.saturating_add(1) }
        }
        tag::STRUCTURE => {
            let mut sum = Shape { size_min: 0, nodes: 1 };
            for _ in 0..reader.length("type-description")? {
                let part = shape(reader, depth.saturating_add(1))?;
                sum.size_min = sum.size_min.saturating_add(part.size_min);
                sum.nodes = sum.nodes.saturating_add(part.nodes);
            }
            sum
        }
        tag if is_simple(tag) => Shape { size_min: fixed_size(tag).unwrap_or(1), nodes: 1 },
        tag => return Err(start.fail("type-description", Rule::Tag { tag })),
    };
    if shape.nodes > DESCRIPTION_NODES_MAX {
        let rule = Rule::TooLong { found: shape.nodes, limit: DESCRIPTION_NODES_MAX };
        return Err(start.fail("type-description", rule));
    }
    Ok(shape)
}

/// Steps over one value of the type at the front of `kind`, and over that type.
fn skip_value(kind: &mut Reader<'_>, contents: &mut Reader<'_>) -> Result<(), DecodeError> {
    match kind.u8("type-description")? {
        tag::ARRAY => {
            let count = kind.u16("type-description")?;
            let element = kind.clone();
            shape(kind, 0)?;
            (0..count).try_for_each(|_| skip_value(&mut element.clone(), contents))
        }
        tag::STRUCTURE => (0..kind.length("type-description")?).try_for_each(|_| skip_value(kind, contents)),
        tag => skip_simple(contents, tag),
    }
}

fn value<'a>(kind: &mut Reader<'_>, contents: &mut Reader<'a>) -> Result<Data<'a>, DecodeError> {
    let start = kind.clone();
    Ok(match kind.u8("type-description")? {
        tag::ARRAY => {
            let count = kind.u16("type-description")?;
            let element = kind.clone();
            shape(kind, 0)?;
            let items = (0..count).map(|_| value(&mut element.clone(), contents));
            Data::Array(items.collect::<Result<_, _>>()?)
        }
        tag::STRUCTURE => {
            let count = kind.length("type-description")?;
            Data::Structure((0..count).map(|_| value(kind, contents)).collect::<Result<_, _>>()?)
        }
        tag => Data::decode_simple(contents, tag)
            .unwrap_or_else(|| Err(start.fail("type-description", Rule::Tag { tag })))?,
    })
}

fn visit_value<'a>(
    kind: &mut Reader<'_>,
    contents: &mut Reader<'a>,
    visit: &mut dyn FnMut(Data<'a>),
) -> Result<(), DecodeError> {
    let start = kind.clone();
    match kind.u8("type-description")? {
        tag::ARRAY => {
            let count = kind.u16("type-description")?;
            let element = kind.clone();
            shape(kind, 0)?;
            (0..count).try_for_each(|_| visit_value(&mut element.clone(), contents, visit))
        }
        tag::STRUCTURE => {
            (0..kind.length("type-description")?).try_for_each(|_| visit_value(kind, contents, visit))
        }
        tag => {
            visit(
                Data::decode_simple(contents, tag)
                    .unwrap_or_else(|| Err(start.fail("type-description", Rule::Tag { tag })))?,
            );
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{vec, vec::Vec};

    //= DLMS 2.3: elements that take no bytes have no count
    #[test]
    fn compact_array_counts_elements_by_the_length_of_their_contents() {
        let bytes = [0x13, 0x02, 0x02, 0x12, 0x09, 0x09, 0, 1, 1, 0xAA, 0, 2, 2, 0xBB, 0xCC];
        let data = Data::from_bytes(&bytes).unwrap();
        let Data::CompactArray(array) = &data else { panic!() };
        let rows: Vec<_> = array.elements().map(Result::unwrap).collect();
        let row =
            |number, octets| Data::Structure(vec![Data::LongUnsigned(number), Data::OctetString(octets)]);
        assert_eq!(rows, [row(1, &[0xAA]), row(2, &[0xBB, 0xCC])]);
        assert_eq!(data.to_bytes(), bytes);
        let refused = |bytes: &[u8]| Data::from_bytes(bytes).unwrap_err().rule;
        assert_eq!(refused(&[0x13, 0x00, 0x01, 0x00]), Rule::OutOfRange, "null has no size");
        assert_eq!(refused(&[0x13, 0x02, 0x00, 0x01, 0x00]), Rule::OutOfRange, "empty structure");
        assert_eq!(refused(&[0x13, 0x01, 0xFF, 0xFF, 0x00, 0x01, 0x00]), Rule::OutOfRange, "array of null");
        assert_eq!(refused(&[0x13, 0x12, 0x03, 0, 1, 2]), Rule::Truncated { needed: 2, left: 1 });
        assert_eq!(refused(&[0x13, 0x13, 0x00]), Rule::Tag { tag: 0x13 }, "no compact array in itself");
    }

    #[test]
    fn a_deep_or_wide_description_is_refused() {
        let mut deep = vec![0x13];
        (0..40).for_each(|_| deep.extend([0x02, 0x01]));
        deep.extend([0x11, 0x00]);
        assert_eq!(Data::from_bytes(&deep).unwrap_err().rule, Rule::TooDeep { limit: DEPTH_MAX });
        let mut wide = vec![0x13, 0x02, 0x81, 0xFF];
        wide.extend([0x00; 255]);
        wide.push(0);
        let error = Data::from_bytes(&wide).unwrap_err();
        assert_eq!(error.rule, Rule::TooLong { found: 256, limit: DESCRIPTION_NODES_MAX });
        let mut nested = vec![0x13];
        (0..10).for_each(|_| nested.extend([0x01, 0xFF, 0xFF]));
        nested.extend([0x11, 0x01, 0x00]);
        assert!(Data::from_bytes(&nested).is_err(), "a false element count costs no work");
    }
}
