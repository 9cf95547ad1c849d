//! Cuts a byte stream into HDLC frames.

use alloc::{collections::VecDeque, vec::Vec};

use super::{FLAG, FRAME_SIZE_MAX, Frame, judge_header};
use crate::wire::DecodeError;

/// Octets that were dropped because they form no frame.
pub type FrameError = DecodeError;

/// Cuts a byte stream into frames. It holds at most one frame's bytes and the frames that were not polled.
///
/// Frames are delimited by their length field, not by the flag, which may also stand inside of them. What does not
/// check is dropped up to the next flag and counted; the stream goes on, as noise on a line must not end it.
#[derive(Debug, Default)]
pub struct HdlcDecoder {
    /// From an opening flag on; empty while none was seen.
    buffer: Vec<u8>,
    frames: VecDeque<Frame>,
    dropped: u64,
    last_error: Option<FrameError>,
}

impl HdlcDecoder {
    /// A decoder for the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece of the stream; poll afterwards.
    pub fn push(&mut self, piece: &[u8]) {
        for octet in piece {
            if self.buffer.is_empty() && *octet != FLAG {
                continue;
            }
            self.buffer.push(*octet);
            self.advance();
        }
    }

    /// The next whole frame.
    pub fn poll(&mut self) -> Option<Frame> {
        self.frames.pop_front()
    }

    /// How many candidates were dropped since the start.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Why the last candidate was dropped.
    #[must_use]
    pub const fn last_error(&self) -> Option<FrameError> {
        self.last_error
    }

    fn advance(&mut self) {
        // A failed candidate may hide a whole frame that begins at a flag inside of it.
        while let Some(step) = self.judge() {
            match step {
                Step::Frame(frame, size) => {
                    self.frames.push_back(frame);
                    // The closing flag may open the next frame.
                    self.buffer.drain(..size.min(self.buffer.len()));
                }
                Step::Drop(error) => {
                    self.dropped = self.dropped.saturating_add(1);
                    self.last_error = error.or(self.last_error);
                    let next = self.buffer.iter().skip(1).position(|octet| *octet == FLAG);
                    match next {
                        Some(at) => drop(self.buffer.drain(..at.saturating_add(1))),
                        None => self.buffer.clear(),
                    }
                }
                Step::SkipFlag => drop(self.buffer.drain(..1)),
            }
        }
    }

    /// What is at the front of the buffer, `None` while more is needed.
    fn judge(&self) -> Option<Step> {
        let rest = self.buffer.get(1..)?;
        match rest {
            [FLAG, ..] => return Some(Step::SkipFlag),
            [first, ..] if first & 0xF0 != 0xA0 => return Some(Step::Drop(None)),
            _ => {}
        }
        //= DLMS 1.1: the length field delimits, a flag inside a frame is data
        let [high, low] = *rest.first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes([high & 0x07, low]));
        debug_assert!(length <= FRAME_SIZE_MAX);
        //= DLMS 1.1: a damaged length is found by the header's check sequence, not by waiting for as many octets
        if let Some(Err(error)) = judge_header(rest) {
            return Some(Step::Drop(Some(error)));
        }
        let content = rest.get(..length)?;
        let closing = rest.get(length)?;
        if *closing != FLAG {
            return Some(Step::Drop(None));
        }
        Some(match Frame::from_bytes(content) {
            Ok(frame) => Step::Frame(frame, length.saturating_add(1)),
            Err(error) => Step::Drop(Some(error)),
        })
    }
}

enum Step {
    Frame(Frame, usize),
    Drop(Option<FrameError>),
    SkipFlag,
}

#[cfg(test)]
mod tests {
    use super::super::{ClientAddress, Control, ServerAddress};
    use super::*;

    fn frame(information: &[u8]) -> Frame {
        Frame {
            segmented: false,
            destination: ServerAddress::new(1, None).unwrap().into(),
            source: ClientAddress::new(0x10).unwrap().into(),
            control: Control::Information { receive: 0, send: 0, poll: true },
            information: information.to_vec(),
        }
    }

    //= DLMS 1.1: the length field delimits, a flag inside a frame is data
    //= DLMS 12.14: a flag inside a frame does not end it
    #[test]
    fn frames_with_flags_inside_are_found_however_the_stream_is_cut() {
        let frames = [frame(&[FLAG; 20]), frame(&[1, FLAG, 0xA0, FLAG]), frame(&[9])];
        let mut stream = b"noise".to_vec();
        for (index, frame) in frames.iter().enumerate() {
            let bytes = frame.to_bytes().unwrap();
            // One flag may close a frame and open the next.
            stream.extend(&bytes[usize::from(index > 0)..]);
        }
        for size in [1, 2, 3, 7, stream.len()] {
            let mut decoder = HdlcDecoder::new();
            stream.chunks(size).for_each(|piece| decoder.push(piece));
            let found: Vec<_> = core::iter::from_fn(|| decoder.poll()).collect();
            assert_eq!(found, frames, "pieces of {size}");
        }
    }

    #[test]
    fn a_damaged_frame_is_dropped_and_the_next_one_is_found() {
        let mut damaged = frame(&[1, 2, 3]).to_bytes().unwrap();
        damaged[9] ^= 1;
        let mut decoder = HdlcDecoder::new();
        decoder.push(&damaged);
        decoder.push(&frame(&[4]).to_bytes().unwrap());
        assert_eq!(decoder.poll(), Some(frame(&[4])));
        assert_eq!(decoder.poll(), None);
        assert!(decoder.dropped() >= 1 && decoder.last_error().is_some());
    }

    #[test]
    fn a_frame_with_a_damaged_length_is_dropped_before_as_many_octets_came() {
        for (at, bit) in (1..3).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut damaged = frame(&[1, 2, 3]).to_bytes().unwrap();
            damaged[at] ^= 1 << bit;
            let mut decoder = HdlcDecoder::new();
            decoder.push(&damaged);
            decoder.push(&frame(&[4]).to_bytes().unwrap());
            assert_eq!(decoder.poll(), Some(frame(&[4])), "octet {at}, bit {bit}");
        }
    }

    #[test]
    fn memory_is_bounded_by_one_frame() {
        let mut decoder = HdlcDecoder::new();
        let noise: Vec<u8> = (0..200_000u32).map(|n| [FLAG, 0xA7, 0xFF, 3][(n % 4) as usize]).collect();
        decoder.push(&noise);
        assert!(decoder.buffer.len() <= FRAME_SIZE_MAX + 2, "{}", decoder.buffer.len());
    }
}
