//! HDLC frames: `7E | format (2) | destination | source | control | HCS (2) and information | FCS (2) | 7E`.

mod address;
mod decoder;
mod link;
mod parameters;

use alloc::vec::Vec;

pub use address::{Address, ClientAddress, ServerAddress};
pub use decoder::{FrameError, HdlcDecoder};
pub use link::{Input, Link, LinkError, LinkEvent, LinkRole, LinkSettings, Output};
pub use parameters::Parameters;

use crate::wire::{DecodeError, Reader, Rule, Writer};

/// Opening and closing flag.
pub const FLAG: u8 = 0x7E;
/// Largest frame between the flags, bytes: the length field has 11 bits.
pub const FRAME_SIZE_MAX: usize = 2_047;
/// Address, control and check octets around the information of a frame, at most: 2 + 4 + 1 + 1 + 2 + 2.
pub const FRAME_OVERHEAD_MAX: usize = 12;

/// Control octet. Sequence numbers count modulo 8.
///
/// # Source
/// DLMS fact sheet, section 1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// `RRR P SSS 0`: information.
    Information {
        /// Next number expected by the sender of this frame.
        receive: u8,
        /// Number of this frame.
        send: u8,
        /// Whether the peer may send now.
        poll: bool,
    },
    /// `RRR P 0001`: ready.
    ReceiveReady {
        /// Next number expected.
        receive: u8,
        /// Whether the peer may send now.
        poll: bool,
    },
    /// `RRR P 0101`: not ready.
    ReceiveNotReady {
        /// Next number expected.
        receive: u8,
        /// Whether the peer may send now.
        poll: bool,
    },
    /// `93`: opens the link.
    Snrm,
    /// `53`: closes the link.
    Disconnect,
    /// `73`: agreed.
    Acknowledge,
    /// `1F`: the link is closed.
    Disconnected,
    /// `97`: a frame could not be accepted.
    Reject,
    /// `13`, `03`: information without sequence, not answered.
    Unnumbered {
        /// Poll bit.
        poll: bool,
    },
}

impl Control {
    const fn from_octet(octet: u8) -> Option<Self> {
        let (receive, poll) = (octet >> 5, octet & 0x10 != 0);
        Some(match octet {
            0x93 => Self::Snrm,
            0x53 => Self::Disconnect,
            0x73 | 0x63 => Self::Acknowledge,
            0x1F | 0x0F => Self::Disconnected,
            0x97 | 0x87 => Self::Reject,
            0x13 | 0x03 => Self::Unnumbered { poll },
            _ if octet & 1 == 0 => Self::Information { receive, send: (octet >> 1) & 7, poll },
            _ if octet & 0x0F == 0x01 => Self::ReceiveReady { receive, poll },
            _ if octet & 0x0F == 0x05 => Self::ReceiveNotReady { receive, poll },
            _ => return None,
        })
    }

    const fn octet(self) -> u8 {
        const fn numbered(receive: u8, poll: bool, low: u8) -> u8 {
            ((receive & 7) << 5) | (if poll { 0x10 } else { 0 }) | low
        }
        match self {
            Self::Information { receive, send, poll } => numbered(receive, poll, (send & 7) << 1),
            Self::ReceiveReady { receive, poll } => numbered(receive, poll, 0x01),
            Self::ReceiveNotReady { receive, poll } => numbered(receive, poll, 0x05),
            Self::Snrm => 0x93,
            Self::Disconnect => 0x53,
            Self::Acknowledge => 0x73,
            Self::Disconnected => 0x1F,
            Self::Reject => 0x97,
            Self::Unnumbered { poll } => {
                if poll {
                    0x13
                } else {
                    0x03
                }
            }
        }
    }
}

/// One frame, checked: both check sums are right, addresses and control are whole.
///
/// # Source
/// DLMS fact sheet, section 1.1; vectors `dlms/hdlc-*.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Whether more segments of the same APDU follow.
    pub segmented: bool,
    /// Receiver.
    pub destination: Address,
    /// Sender.
    pub source: Address,
    /// What it does.
    pub control: Control,
    /// Information, without check octets.
    pub information: Vec<u8>,
}

impl Frame {
    /// The frame between two flags; [`None`] above [`FRAME_SIZE_MAX`].
    #[must_use]
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let (destination, source) = (self.destination.to_bytes(), self.source.to_bytes());
        let head = destination.len().saturating_add(source.len()).saturating_add(3);
        let tail = if self.information.is_empty() { 2 } else { 4 };
        let size = head.saturating_add(self.information.len()).saturating_add(tail);
        let length = u16::try_from(size).ok().filter(|_| size <= FRAME_SIZE_MAX)?;
        let mut writer = Writer::with_capacity(size.saturating_add(2));
        writer.u16(0xA000 | (if self.segmented { 0x0800 } else { 0 }) | length);
        writer.bytes(&destination);
        writer.bytes(&source);
        writer.u8(self.control.octet());
        if !self.information.is_empty() {
            let header_check = check(writer.as_bytes());
            writer.bytes(&header_check);
            writer.bytes(&self.information);
        }
        let frame_check = check(writer.as_bytes());
        writer.bytes(&frame_check);
        let mut framed = Vec::with_capacity(size.saturating_add(2));
        framed.push(FLAG);
        framed.extend_from_slice(writer.as_bytes());
        framed.push(FLAG);
        Some(framed)
    }

    /// Reads what is between two flags.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let start = reader.clone();
        let format = reader.u16("frame format")?;
        if format & 0xF000 != 0xA000 {
            return Err(start.fail("frame format", Rule::Version { found: format >> 12 }));
        }
        let length = usize::from(format & 0x07FF);
        if length != bytes.len() {
            return Err(start.fail("frame length", Rule::LengthNotAllowed { found: length }));
        }
        let (destination, source) = (Address::decode(&mut reader)?, Address::decode(&mut reader)?);
        let at = reader.clone();
        let octet = reader.u8("control")?;
        let control =
            Control::from_octet(octet).ok_or_else(|| at.fail("control", Rule::Tag { tag: octet }))?;
        let header = bytes.get(..reader.offset()).unwrap_or_default();
        let information = match reader.left().checked_sub(2) {
            None | Some(0) => &[][..],
            Some(left) => {
                verify(&mut reader, header, "header check sequence")?;
                reader.bytes("information", left.saturating_sub(2))?
            }
        };
        let content = bytes.get(..reader.offset()).unwrap_or_default();
        verify(&mut reader, content, "frame check sequence")?;
        reader.finish("frame")?;
        let segmented = format & 0x0800 != 0;
        Ok(Self { segmented, destination, source, control, information: information.to_vec() })
    }
}

/// Judges the header at the start of a frame that is not whole yet; `None` while the header is not either. The check
/// sequence behind it is its own, or that of a frame without information, which covers the same octets.
fn judge_header(bytes: &[u8]) -> Option<Result<(), DecodeError>> {
    let behind_address = |start: usize| {
        let last = bytes.get(start..)?.iter().take(4).position(|octet| octet & 1 == 1)?;
        // An address of three octets is none, and told so when the frame is whole.
        let size = Some(last.checked_add(1)?).filter(|size| *size != 3)?;
        start.checked_add(size)
    };
    let control = behind_address(behind_address(2)?)?;
    let mut reader = Reader::new(bytes.get(..control.checked_add(3)?)?);
    let header = reader.bytes("header", control.checked_add(1)?).ok()?;
    Some(verify(&mut reader, header, "header check sequence"))
}

fn verify(reader: &mut Reader<'_>, content: &[u8], field: &'static str) -> Result<(), DecodeError> {
    //= DLMS 1.1: both check sequences are compared
    let start = reader.clone();
    let found: [u8; 2] = reader.array(field)?;
    if found == check(content) { Ok(()) } else { Err(start.fail(field, Rule::Checksum)) }
}

/// CRC-16/X-25, low octet first.
pub(crate) fn check(bytes: &[u8]) -> [u8; 2] {
    let crc = bytes.iter().fold(0xFFFFu16, |crc, octet| {
        let index = usize::from((crc ^ u16::from(*octet)) & 0x00FF);
        (crc >> 8) ^ TABLE.get(index).copied().unwrap_or_default()
    });
    (!crc).to_le_bytes()
}

const TABLE: [u16; 256] = table();

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "calculated by the compiler, which refuses what overflows"
)]
const fn table() -> [u16; 256] {
    let mut table = [0u16; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u16;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0x8408 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    //= DLMS 1.1: both check sequences are compared
    #[test]
    fn check_sequences_are_x25_and_every_flipped_bit_is_refused() {
        assert_eq!(check(b"123456789"), 0x906Eu16.to_le_bytes());
        assert_eq!(check(&[0xA0, 0x1E, 0x21, 0x03, 0x73]), [0xC3, 0x7A]);
        let frame = Frame {
            segmented: false,
            destination: ServerAddress::new(1, Some(17)).unwrap().into(),
            source: ClientAddress::new(0x10).unwrap().into(),
            control: Control::Information { receive: 1, send: 2, poll: true },
            information: b"\xE6\xE6\x00\xC0".to_vec(),
        };
        let bytes = frame.to_bytes().unwrap();
        let inner = &bytes[1..bytes.len() - 1];
        assert_eq!(Frame::from_bytes(inner).as_ref(), Ok(&frame));
        for bit in 0..8 * inner.len() {
            let mut changed = inner.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::from_bytes(&changed).is_err(), "bit {bit}");
        }
    }
}
