//! Lists of bounded length.

use alloc::vec::Vec;

use super::result::LIST_MAX;
use crate::wire::{DecodeError, Reader, Rule};

/// Reads a count, which is at most [`LIST_MAX`] and not above the bytes left, and as many items.
pub(super) fn read<'a, T>(
    reader: &mut Reader<'a>,
    field: &'static str,
    mut item: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let start = reader.clone();
    let count = reader.length(field)?;
    if count > reader.left() {
        return Err(start.fail(field, Rule::CountExceedsInput { count, left: reader.left() }));
    }
    if count > LIST_MAX {
        return Err(start.fail(field, Rule::TooLong { found: count, limit: LIST_MAX }));
    }
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(item(reader)?);
    }
    Ok(items)
}

/// As [`read`]; the list must be as long as another one of the same APDU.
pub(super) fn read_exactly<'a, T>(
    reader: &mut Reader<'a>,
    field: &'static str,
    expected: usize,
    item: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let start = reader.clone();
    let items = read(reader, field, item)?;
    if items.len() == expected {
        Ok(items)
    } else {
        Err(start.fail(field, Rule::LengthNotAllowed { found: items.len() }))
    }
}
