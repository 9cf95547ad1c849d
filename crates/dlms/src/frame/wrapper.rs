//! The TCP wrapper: `0001 | source wPort u16 | destination wPort u16 | length u16 | APDU`.

use alloc::{collections::VecDeque, vec::Vec};

use gridseal_types::Kind;

use crate::wire::{DecodeError, Reader, Rule, Writer};

/// Size of the header in bytes.
pub const HEADER_SIZE: usize = 8;
/// wPort of the management logical device on the server side (the meter).
pub const MANAGEMENT_LOGICAL_DEVICE: u16 = 0x0001;
/// wPort of the management client (the head-end).
pub const MANAGEMENT_CLIENT: u16 = 0x0001;

const VERSION: u16 = 0x0001;

/// One APDU with the two wPorts between which it travels. The APDU has 1 to 65,535 bytes.
///
/// # Source
/// DLMS fact sheet, section 1.2; IEC 62056-47.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrapperFrame {
    source: u16,
    destination: u16,
    apdu: Vec<u8>,
}

/// An APDU that no wrapper can carry: empty, or above 65,535 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an APDU of {size} bytes does not fit into a wrapper frame")]
pub struct ApduSizeError {
    /// Size of the APDU in bytes.
    pub size: usize,
}

impl ApduSizeError {
    /// Always the caller.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        Kind::Local
    }
}

impl WrapperFrame {
    /// A frame with this APDU.
    ///
    /// # Errors
    /// [`ApduSizeError`] when the APDU is empty or larger than 65,535 bytes.
    pub fn new(source: u16, destination: u16, apdu: Vec<u8>) -> Result<Self, ApduSizeError> {
        if apdu.is_empty() || u16::try_from(apdu.len()).is_err() {
            return Err(ApduSizeError { size: apdu.len() });
        }
        Ok(Self { source, destination, apdu })
    }

    /// wPort of the sender.
    #[must_use]
    pub const fn source(&self) -> u16 {
        self.source
    }

    /// wPort of the receiver.
    #[must_use]
    pub const fn destination(&self) -> u16 {
        self.destination
    }

    /// The APDU.
    #[must_use]
    pub fn apdu(&self) -> &[u8] {
        &self.apdu
    }

    /// The APDU, taken out.
    #[must_use]
    pub fn into_apdu(self) -> Vec<u8> {
        self.apdu
    }

    /// Header and APDU.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(HEADER_SIZE.saturating_add(self.apdu.len()));
        writer.u16(VERSION);
        writer.u16(self.source);
        writer.u16(self.destination);
        // `new` and the decoder let no larger APDU in.
        writer.u16(u16::try_from(self.apdu.len()).unwrap_or(u16::MAX));
        writer.bytes(&self.apdu);
        writer.into_bytes()
    }
}

#[derive(Debug, Clone, Copy)]
struct Header {
    source: u16,
    destination: u16,
    length: usize,
}

impl Header {
    fn decode(bytes: &[u8], apdu_size_max: usize) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u16("wrapper version")?;
        if version != VERSION {
            return Err(Reader::new(bytes).fail("wrapper version", Rule::Version { found: version }));
        }
        let (source, destination) = (reader.u16("source wPort")?, reader.u16("destination wPort")?);
        let start = reader.clone();
        let length = usize::from(reader.u16("wrapper length")?);
        if length == 0 {
            return Err(start.fail("wrapper length", Rule::LengthNotAllowed { found: 0 }));
        }
        //= DLMS 1.2: a length over the limit ends the connection before anything is allocated
        if length > apdu_size_max {
            return Err(start.fail("wrapper length", Rule::TooLong { found: length, limit: apdu_size_max }));
        }
        Ok(Self { source, destination, length })
    }
}

/// Reads the one frame of a UDP datagram.
///
/// # Errors
/// [`DecodeError`] for a header that cannot be, an APDU above `apdu_size_max`, or a datagram that is longer or shorter
/// than its header says.
pub fn datagram(bytes: &[u8], apdu_size_max: usize) -> Result<WrapperFrame, DecodeError> {
    //= DLMS 1.2: a datagram holds exactly one unit
    let Header { source, destination, length } = Header::decode(bytes, apdu_size_max)?;
    let mut reader = Reader::new(bytes);
    reader.bytes("wrapper header", HEADER_SIZE)?;
    let apdu = reader.bytes("apdu", length)?.to_vec();
    reader.finish("wrapper")?;
    Ok(WrapperFrame { source, destination, apdu })
}

/// Cuts a byte stream into frames: one frame over several pieces and several frames in one piece both happen.
///
/// It holds at most one header or one APDU below the limit, and the frames that were not polled yet. After an error
/// the stream has no frame borders any more: the decoder stays failed, and the connection must be closed.
#[derive(Debug)]
pub struct WrapperDecoder {
    apdu_size_max: usize,
    header: Option<Header>,
    /// Bytes of the header or, once that is complete, of the APDU.
    buffer: Vec<u8>,
    frames: VecDeque<WrapperFrame>,
    failure: Option<DecodeError>,
}

impl WrapperDecoder {
    /// A decoder for the start of a stream that refuses APDUs above `apdu_size_max` bytes.
    #[must_use]
    pub const fn new(apdu_size_max: usize) -> Self {
        Self { apdu_size_max, header: None, buffer: Vec::new(), frames: VecDeque::new(), failure: None }
    }

    /// Takes the next piece of the stream. Poll afterwards, also after an error: frames before it are whole.
    ///
    /// # Errors
    /// [`DecodeError`] for a header that cannot be; its offset counts from the start of that frame. The same error
    /// again for every further call.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), DecodeError> {
        if let Some(error) = self.failure {
            return Err(error);
        }
        while !piece.is_empty() {
            let wanted = self.header.map_or(HEADER_SIZE, |header| header.length);
            let missing = wanted.saturating_sub(self.buffer.len());
            let (taken, rest) = piece.split_at_checked(missing).unwrap_or((piece, &[]));
            self.buffer.extend_from_slice(taken);
            piece = rest;
            if self.buffer.len() == wanted {
                self.complete()?;
            }
        }
        Ok(())
    }

    /// The next whole frame.
    pub fn poll(&mut self) -> Option<WrapperFrame> {
        self.frames.pop_front()
    }

    fn complete(&mut self) -> Result<(), DecodeError> {
        let bytes = core::mem::take(&mut self.buffer);
        match self.header.take() {
            None => {
                let header = Header::decode(&bytes, self.apdu_size_max)
                    .inspect_err(|error| self.failure = Some(*error))?;
                self.header = Some(header);
            }
            Some(Header { source, destination, .. }) => {
                self.frames.push_back(WrapperFrame { source, destination, apdu: bytes });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn frame(apdu: &[u8]) -> WrapperFrame {
        WrapperFrame::new(1, 16, apdu.to_vec()).unwrap()
    }

    #[test]
    fn frames_are_found_however_the_stream_is_cut() {
        let frames = [frame(&[1]), frame(&[2; 300]), frame(&[3, 4])];
        let stream: Vec<u8> = frames.iter().flat_map(WrapperFrame::to_bytes).collect();
        for size in [1, 2, 7, 8, 9, 100, stream.len()] {
            let mut decoder = WrapperDecoder::new(1_024);
            stream.chunks(size).for_each(|piece| decoder.push(piece).unwrap());
            let found: Vec<_> = core::iter::from_fn(|| decoder.poll()).collect();
            assert_eq!(found, frames, "pieces of {size}");
        }
    }

    //= DLMS 1.2: a length over the limit ends the connection before anything is allocated
    #[test]
    fn a_length_over_the_limit_is_refused_before_it_is_allocated_and_the_decoder_stays_failed() {
        let mut decoder = WrapperDecoder::new(64);
        let mut stream = frame(&[9]).to_bytes();
        stream.extend([0, 1, 0, 1, 0, 1, 0xFF, 0xFF]);
        let error = decoder.push(&stream).unwrap_err();
        assert_eq!((error.offset, error.rule), (6, Rule::TooLong { found: 65_535, limit: 64 }));
        assert!(decoder.buffer.capacity() < 64);
        assert_eq!(decoder.poll(), Some(frame(&[9])), "whole frames before the error are not lost");
        assert_eq!(decoder.push(&frame(&[1]).to_bytes()), Err(error));
        assert_eq!(decoder.poll(), None);
    }

    //= DLMS 1.2: a datagram holds exactly one unit
    #[test]
    fn a_datagram_is_exactly_one_frame() {
        let bytes = frame(&[7; 30]).to_bytes();
        assert_eq!(datagram(&bytes, 64), Ok(frame(&[7; 30])));
        assert!(datagram(&bytes[..37], 64).is_err());
        assert!(datagram(&[&bytes[..], &[0]].concat(), 64).is_err());
        assert!(datagram(&bytes, 29).is_err());
    }

    #[test]
    fn version_and_empty_frames_are_refused() {
        let refuse = |bytes: &[u8]| WrapperDecoder::new(64).push(bytes).unwrap_err().rule;
        assert_eq!(refuse(&[0, 2, 0, 1, 0, 1, 0, 1]), Rule::Version { found: 2 });
        assert_eq!(refuse(&[0, 1, 0, 1, 0, 1, 0, 0]), Rule::LengthNotAllowed { found: 0 });
        assert!(WrapperFrame::new(1, 1, vec![]).is_err());
        assert!(WrapperFrame::new(1, 1, vec![0; 65_536]).is_err());
    }
}
