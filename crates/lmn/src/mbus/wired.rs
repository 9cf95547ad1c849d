//! The wired frame (EN 13757-2).

use alloc::vec::Vec;

use crate::wire::{DecodeError, Reader, Rule};

/// A frame of the wired bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WiredFrame<'a> {
    /// `E5`: acknowledged.
    Acknowledge,
    /// `10 C A CS 16`: a request without data.
    Short {
        /// Control field.
        control: u8,
        /// Primary address: 1 to 250, 0 new, FD selected, FE any, FF broadcast.
        address: u8,
    },
    /// `68 L L 68 C A CI data CS 16`.
    Long {
        /// Control field.
        control: u8,
        /// Primary address.
        address: u8,
        /// CI field and what follows, at least one byte.
        payload: &'a [u8],
    },
}

/// Offset of the CI field in a long frame.
pub const PAYLOAD_OFFSET: usize = 6;

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

impl<'a> WiredFrame<'a> {
    /// Reads one whole frame.
    ///
    /// # Errors
    /// [`Rule::Unknown`] for a first byte or a stop byte of no frame, [`Rule::Mismatch`] for two lengths that differ,
    /// [`Rule::LengthNotAllowed`], [`Rule::Checksum`], [`Rule::Truncated`], [`Rule::Trailing`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let start = reader.clone();
        let frame = match reader.u8("start byte")? {
            0xE5 => Self::Acknowledge,
            0x10 => {
                let covered = checked_sum(&mut reader, 2)?;
                let mut covered = Reader::at(covered, 1);
                Self::Short { control: covered.u8("C field")?, address: covered.u8("A field")? }
            }
            0x68 => {
                let length = reader.u8("L field")?;
                let again = reader.clone();
                if reader.u8("second L field")? != length {
                    return Err(again.fail("second L field", Rule::Mismatch { other: "the first" }));
                }
                let second = reader.clone();
                match reader.u8("second start byte")? {
                    0x68 => {}
                    found => {
                        return Err(second.fail("second start byte", Rule::Unknown { found: found.into() }));
                    }
                }
                if length < 3 {
                    return Err(start.fail("L field", Rule::LengthNotAllowed { found: length.into() }));
                }
                let mut covered = Reader::at(checked_sum(&mut reader, length.into())?, 4);
                Self::Long {
                    control: covered.u8("C field")?,
                    address: covered.u8("A field")?,
                    payload: covered.remainder(),
                }
            }
            found => return Err(start.fail("start byte", Rule::Unknown { found: found.into() })),
        };
        reader.finish("frame")?;
        Ok(frame)
    }

    /// The frame as sent; `None` for a payload that is empty or longer than 253 bytes.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match self {
            Self::Acknowledge => out.push(0xE5),
            Self::Short { control, address } => {
                out.extend_from_slice(&[0x10, *control, *address, control.wrapping_add(*address), 0x16]);
            }
            Self::Long { control, address, payload } => {
                let length =
                    u8::try_from(payload.len().checked_add(2)?).ok().filter(|length| *length >= 3)?;
                out.extend_from_slice(&[0x68, length, length, 0x68, *control, *address]);
                out.extend_from_slice(payload);
                let checksum = sum(payload).wrapping_add(*control).wrapping_add(*address);
                out.extend_from_slice(&[checksum, 0x16]);
            }
        }
        Some(out)
    }
}

fn checked_sum<'a>(reader: &mut Reader<'a>, count: usize) -> Result<&'a [u8], DecodeError> {
    let covered = reader.bytes("frame", count)?;
    let at = reader.clone();
    let (found, computed) = (reader.u8("checksum")?, sum(covered));
    if found != computed {
        let rule = Rule::Checksum { found: found.into(), computed: computed.into() };
        return Err(at.fail("checksum", rule));
    }
    let at = reader.clone();
    match reader.u8("stop byte")? {
        0x16 => Ok(covered),
        found => Err(at.fail("stop byte", Rule::Unknown { found: found.into() })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_kinds_of_frame_round_trip() {
        for bytes in [
            &[0xE5][..],
            &[0x10, 0x5B, 0x01, 0x5C, 0x16],
            &[0x68, 4, 4, 0x68, 0x08, 1, 0x78, 0x2F, 0xB0, 0x16],
        ] {
            assert_eq!(WiredFrame::decode(bytes).unwrap().encode().as_deref(), Some(bytes));
        }
        assert_eq!(WiredFrame::Long { control: 8, address: 1, payload: &[] }.encode(), None);
        assert_eq!(WiredFrame::Long { control: 8, address: 1, payload: &[0; 254] }.encode(), None);
    }

    #[test]
    fn every_flipped_bit_of_a_frame_is_found() {
        let bytes = [0x68, 5, 5, 0x68, 0x08, 1, 0x78, 0x2F, 0x11, 0xC1, 0x16];
        assert!(WiredFrame::decode(&bytes).is_ok());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(WiredFrame::decode(&flipped).is_err(), "bit {bit}");
        }
        for end in 0..bytes.len() {
            assert!(WiredFrame::decode(&bytes[..end]).is_err());
        }
    }
}
