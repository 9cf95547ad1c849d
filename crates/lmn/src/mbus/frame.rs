//! The radio frame: checksums of formats A and B, and the link header.

use alloc::vec::Vec;

use super::{address::MeterAddress, crc::crc};
use crate::wire::{DecodeError, Reader, Rule};

/// Block 1 without its checksum: `L C M(2) A(6)`.
pub const LINK_SIZE: usize = 10;
/// A frame without checksums, at most: L is one byte.
pub const FRAME_SIZE_MAX: usize = 256;

const BLOCK_SIZE: usize = 16;
const CRC_SIZE: usize = 2;
/// First part of a frame of format B with two checksums, without the checksum.
const B_FIRST_SIZE: usize = 126;
/// Longest frame of format B with one checksum, with it.
const B_SINGLE_SIZE: usize = 128;

/// How a frame carries its checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// After 10 bytes and then after each 16; L counts no checksum.
    A,
    /// At the end, and after 126 bytes of a long frame; L counts checksums.
    B,
    /// The receiver has taken them off.
    Stripped,
}

impl Format {
    /// Name as in the output of `gridseal decode`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
            Self::Stripped => "stripped",
        }
    }

    /// The format of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::A, Self::B, Self::Stripped].into_iter().find(|format| format.name() == name)
    }
}

/// The link header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Control field. Meters send odd ones; none is refused.
    pub control: u8,
    /// Address of the sender: the meter, or a radio adapter.
    pub address: MeterAddress,
}

impl Link {
    /// Reads the header of a frame without checksums; the length byte is not looked at.
    ///
    /// # Errors
    /// [`Rule::Truncated`].
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.u8("L field")?;
        Ok(Self { control: reader.u8("C field")?, address: MeterAddress(reader.array("address")?) })
    }

    /// Name of the control field, `None` for one that the standard does not name.
    #[must_use]
    pub const fn control_name(&self) -> Option<&'static str> {
        Some(match self.control {
            0x44 => "SND-NR",
            0x46 => "SND-IR",
            0x47 => "ACC-NR",
            0x48 => "ACC-DMD",
            0x40 => "SND-NKE",
            0x06 => "CNF-IR",
            0x43 | 0x53 | 0x73 => "SND-UD",
            0x08 | 0x18 | 0x28 | 0x38 => "RSP-UD",
            0x5A | 0x7A => "REQ-UD1",
            0x5B | 0x7B => "REQ-UD2",
            0x00 => "ACK",
            0x01 => "NACK",
            _ => return None,
        })
    }
}

/// Size on air of a frame of format A.
fn size_a(length: usize) -> usize {
    //= LMN 1: format A on air has 1 + L + 2 * (1 + ceil((L - 9) / 16)) bytes
    let blocks = length.saturating_sub(9).div_ceil(BLOCK_SIZE);
    length.saturating_add(1).saturating_add(CRC_SIZE.saturating_mul(blocks.saturating_add(1)))
}

/// Takes the checksums off, after checking each. `out` is cleared and gets the frame as if it had been sent without
/// them: its length byte is its size minus one. Tried in this order: format A, format B, already stripped; the layout
/// follows from L alone.
///
/// A frame of format B whose checksum is wrong has the size of a stripped one and is taken for it: say which format
/// you expect where you know it.
///
/// # Errors
/// [`Rule::LengthNotAllowed`] when L fits no format, [`Rule::Checksum`] with the offset of the checksum.
///
/// # Source
/// EN 13757-4, frame formats A and B.
pub fn strip(bytes: &[u8], expected: Option<Format>, out: &mut Vec<u8>) -> Result<Format, DecodeError> {
    out.clear();
    let mut reader = Reader::new(bytes);
    let length = usize::from(reader.clone().u8("L field")?);
    let fits = |format| expected.is_none_or(|expected| expected == format);
    let is_whole = bytes.len() == length.saturating_add(1);
    if length < LINK_SIZE.saturating_sub(1) {
        return Err(reader.fail("L field", Rule::LengthNotAllowed { found: length }));
    }
    let format = if bytes.len() == size_a(length) && fits(Format::A) {
        strip_a(&mut reader, out)?;
        Format::A
    } else if is_whole && expected == Some(Format::B) {
        strip_b(bytes, out)?;
        Format::B
    } else if is_whole && fits(Format::B) && strip_b(bytes, out).is_ok() {
        Format::B
    } else if is_whole && fits(Format::Stripped) {
        out.clear();
        out.extend_from_slice(bytes);
        Format::Stripped
    } else {
        return Err(reader.fail("L field", Rule::LengthNotAllowed { found: length }));
    };
    let length = u8::try_from(out.len().saturating_sub(1)).unwrap_or(u8::MAX);
    if let Some(first) = out.first_mut() {
        *first = length;
    }
    Ok(format)
}

fn checked(reader: &mut Reader<'_>, covered: &[u8]) -> Result<(), DecodeError> {
    let at = reader.clone();
    let found = u16::from_be_bytes(reader.array("checksum")?);
    let computed = crc(covered);
    if found == computed { Ok(()) } else { Err(at.fail("checksum", Rule::Checksum { found, computed })) }
}

fn strip_a(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let mut size = LINK_SIZE;
    while reader.left() > 0 {
        let block = reader.bytes("block", size.min(reader.left().saturating_sub(CRC_SIZE)))?;
        checked(reader, block)?;
        out.extend_from_slice(block);
        size = BLOCK_SIZE;
    }
    Ok(())
}

fn strip_b(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
    out.clear();
    let mut reader = Reader::new(bytes);
    if bytes.len() > B_SINGLE_SIZE {
        let first = reader.bytes("blocks 1 and 2", B_FIRST_SIZE)?;
        checked(&mut reader, first)?;
        out.extend_from_slice(first);
    } else if bytes.len() < LINK_SIZE.saturating_add(CRC_SIZE) {
        return Err(reader.fail("L field", Rule::LengthNotAllowed { found: bytes.len() }));
    }
    let last = reader.bytes("last block", reader.left().saturating_sub(CRC_SIZE))?;
    checked(&mut reader, last)?;
    out.extend_from_slice(last);
    Ok(())
}

/// Puts length and checksums on a frame without them, whose first byte is the length byte, of any value. `None` when
/// the frame is too long for the format or has no whole link header.
#[must_use]
pub fn dress(frame: &[u8], format: Format) -> Option<Vec<u8>> {
    let body = frame.get(1..).filter(|body| body.len() >= LINK_SIZE.saturating_sub(1))?;
    let checksums = match format {
        Format::Stripped | Format::A => 0,
        Format::B if frame.len() > B_FIRST_SIZE => CRC_SIZE.saturating_mul(2),
        Format::B => CRC_SIZE,
    };
    let length = u8::try_from(body.len().saturating_add(checksums)).ok()?;
    let mut out = Vec::with_capacity(FRAME_SIZE_MAX.saturating_mul(2));
    out.push(length);
    out.extend_from_slice(body);
    let (first, size) = match format {
        Format::Stripped => return Some(out),
        Format::A => (LINK_SIZE, BLOCK_SIZE),
        Format::B => (B_FIRST_SIZE, usize::MAX),
    };
    let plain = core::mem::take(&mut out);
    let (block, mut rest) = plain.split_at_checked(first).unwrap_or((&plain, &[]));
    out.extend_from_slice(block);
    out.extend_from_slice(&crc(block).to_be_bytes());
    while !rest.is_empty() {
        let (block, later) = rest.split_at_checked(size).unwrap_or((rest, &[]));
        out.extend_from_slice(block);
        out.extend_from_slice(&crc(block).to_be_bytes());
        rest = later;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(size: usize) -> Vec<u8> {
        let mut frame: Vec<u8> = (0..size).map(|byte| u8::try_from(byte % 251).unwrap()).collect();
        frame[0] = u8::try_from(size - 1).unwrap();
        frame
    }

    #[test]
    fn every_size_round_trips_in_every_format() {
        for size in LINK_SIZE..=FRAME_SIZE_MAX {
            for format in [Format::A, Format::B, Format::Stripped] {
                let plain = frame(size);
                let Some(dressed) = dress(&plain, format) else {
                    assert!(format == Format::B && size > 252, "{size} {format:?}");
                    continue;
                };
                let mut out = Vec::new();
                assert_eq!(strip(&dressed, None, &mut out), Ok(format), "{size}");
                assert_eq!(out, plain);
                assert_eq!(strip(&dressed, Some(format), &mut out), Ok(format), "{size}");
            }
        }
    }

    //= LMN 1: format A on air has 1 + L + 2 * (1 + ceil((L - 9) / 16)) bytes
    #[test]
    fn every_flipped_bit_of_format_a_is_found() {
        let dressed = dress(&frame(60), Format::A).unwrap();
        let mut out = Vec::new();
        for bit in 0..dressed.len() * 8 {
            let mut flipped = dressed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(strip(&flipped, None, &mut out).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_flipped_bit_of_an_expected_format_b_is_found() {
        for size in [20, 200] {
            let dressed = dress(&frame(size), Format::B).unwrap();
            let mut out = Vec::new();
            for bit in 0..dressed.len() * 8 {
                let mut flipped = dressed.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(strip(&flipped, Some(Format::B), &mut out).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_length_that_lies_names_the_length_field() {
        let mut out = Vec::new();
        for bytes in [&[0x44][..], &[8, 1, 2, 3, 4, 5, 6, 7, 8], &[200; 20], &[9; 11]] {
            let error = strip(bytes, None, &mut out).unwrap_err();
            assert_eq!((error.field, error.offset), ("L field", 0), "{bytes:?}");
        }
        assert!(strip(&[], None, &mut out).is_err());
    }

    #[test]
    fn odd_control_values_of_real_meters_are_read() {
        for control in [0xC6, 0xC4, 0xEE] {
            let bytes = [9, control, 1, 2, 3, 4, 5, 6, 7, 8];
            let link = Link::decode(&mut Reader::new(&bytes)).unwrap();
            assert_eq!((link.control, link.control_name()), (control, None));
        }
    }
}
