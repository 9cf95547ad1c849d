//! Compact frames: data of records whose DIF and VIF were sent in an earlier full frame.

use alloc::{collections::BTreeMap, vec::Vec};

use super::{
    address::MeterAddress,
    crc,
    record::{FILLER, Header},
};
use crate::wire::{DecodeError, Reader, Rule};

/// Formats kept.
pub const FORMAT_COUNT_MAX: usize = 256;
/// Bytes of DIF and VIF of a format.
pub const FORMAT_SIZE_MAX: usize = 256;

/// Formats are kept by kind of device and signature; `None` serves every device.
type Key = (Option<[u8; 4]>, u16);

/// Formats by signature. A signature is only 16 bits and not secret, so a format that is known is never replaced by
/// another one with the same signature.
#[derive(Debug, Default, Clone)]
pub struct FormatCache {
    formats: BTreeMap<Key, Vec<u8>>,
}

/// A compact frame cannot be expanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompactError {
    /// No full frame with this format was seen.
    #[error("format {signature:04x} of the compact frame is not known yet: it comes with a full frame")]
    FormatUnknown {
        /// Signature of the format.
        signature: u16,
    },
    /// The expanded frame is not the one that the meter has.
    #[error("expanded compact frame has checksum {computed:04x}, the meter's has {found:04x}")]
    Checksum {
        /// Checksum that the meter sent.
        found: u16,
        /// Checksum of the expanded frame.
        computed: u16,
    },
    /// The bytes are not those of the format.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl CompactError {
    /// Stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::FormatUnknown { .. } => "lmn.format_unknown",
            Self::Checksum { .. } => "lmn.format_checksum",
            Self::Decode(error) => error.code(),
        }
    }
}

fn kind(meter: MeterAddress) -> [u8; 4] {
    let [m0, m1, _, _, _, _, version, medium] = meter.0;
    [m0, m1, version, medium]
}

impl FormatCache {
    /// Adds a format for every kind of device: all DIF to VIFE bytes of a full frame. Gives its signature.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not a sequence of headers.
    pub fn add(&mut self, headers: &[u8]) -> Result<u16, DecodeError> {
        let mut reader = Reader::new(headers);
        if headers.len() > FORMAT_SIZE_MAX {
            return Err(reader.fail("format", Rule::TooLong { found: headers.len(), limit: FORMAT_SIZE_MAX }));
        }
        while reader.left() > 0 {
            Header::decode(&mut reader, false)?;
        }
        let signature = crc::crc(headers);
        self.formats.insert((None, signature), headers.to_vec());
        Ok(signature)
    }

    /// Keeps the format of a full frame of a meter. What is not a sequence of records is not kept.
    pub fn learn(&mut self, meter: MeterAddress, body: &[u8]) {
        let mut headers = Vec::new();
        for record in super::record::Records::new(body, 0, super::record::RecordOptions::default()) {
            let Ok(record) = record else { return };
            headers.extend_from_slice(record.header);
        }
        let is_room = self.formats.len() < FORMAT_COUNT_MAX && headers.len() <= FORMAT_SIZE_MAX;
        if is_room && !headers.is_empty() {
            self.formats.entry((Some(kind(meter)), crc::crc(&headers))).or_insert(headers);
        }
    }

    /// Expands `signature(2) checksum(2) data` into the records of a full frame.
    ///
    /// # Errors
    /// [`CompactError`]; nothing is ever guessed.
    ///
    /// # Source
    /// EN 13757-3, compact frame; vector T4 of the local network fact sheet.
    pub fn expand(&self, meter: MeterAddress, body: &[u8], offset: usize) -> Result<Vec<u8>, CompactError> {
        //= LMN 8: a compact frame is expanded by its format's signature, and the checksum of the full frame must match
        let mut reader = Reader::at(body, offset);
        let signature = reader.u16_le("format signature")?;
        let found = reader.u16_le("checksum of the full frame")?;
        let known = self
            .formats
            .get(&(Some(kind(meter)), signature))
            .or_else(|| self.formats.get(&(None, signature)))
            .ok_or(CompactError::FormatUnknown { signature })?;
        let mut headers = Reader::new(known);
        let mut full = Vec::new();
        while headers.left() > 0 {
            let start = headers.clone();
            let header = Header::decode(&mut headers, false)?;
            let size = headers.offset().saturating_sub(start.offset());
            full.extend_from_slice(start.rest().get(..size).unwrap_or_default());
            full.extend_from_slice(reader.bytes("data", header.data_size(&reader)?)?);
        }
        // Fillers pad the encrypted blocks around the data.
        if reader.rest().iter().any(|byte| *byte != FILLER) {
            reader.finish("compact frame")?;
        }
        let computed = crc::crc(&full);
        if found == computed { Ok(full) } else { Err(CompactError::Checksum { found, computed }) }
    }
}

/// `signature(2) checksum(2) data` of a full frame's records; `None` when they are not records.
#[must_use]
pub fn compact(body: &[u8]) -> Option<Vec<u8>> {
    let (mut headers, mut data, mut full) = (Vec::new(), Vec::new(), Vec::new());
    for record in super::record::Records::new(body, 0, super::record::RecordOptions::default()) {
        let record = record.ok()?;
        headers.extend_from_slice(record.header);
        data.extend_from_slice(record.data);
        full.extend_from_slice(record.header);
        full.extend_from_slice(record.data);
    }
    let mut out = crc::crc(&headers).to_le_bytes().to_vec();
    out.extend_from_slice(&crc::crc(&full).to_le_bytes());
    out.extend_from_slice(&data);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const METER: MeterAddress = MeterAddress([0x2D, 0x2C, 1, 2, 3, 4, 0x30, 2]);

    //= LMN 8: a compact frame is expanded by its format's signature, and the checksum of the full frame must match
    #[test]
    fn a_compact_frame_needs_its_full_frame_first() {
        let full = hex::decode("04050b0b0000fb8275").unwrap();
        let full = &full[..6];
        let mut cache = FormatCache::default();
        let short = compact(full).unwrap();
        let unknown = CompactError::FormatUnknown { signature: crc::crc(&[4, 5]) };
        assert_eq!(cache.expand(METER, &short, 0), Err(unknown));
        cache.learn(METER, full);
        assert_eq!(cache.expand(METER, &short, 0).as_deref(), Ok(full));
        let other = MeterAddress([0x2D, 0x2C, 1, 2, 3, 4, 0x31, 2]);
        assert_eq!(cache.expand(other, &short, 0), Err(unknown), "another kind of device, another format");
        cache.add(&[4, 5]).unwrap();
        assert_eq!(cache.expand(other, &short, 0).as_deref(), Ok(full));
        for bit in 0..short.len() * 8 {
            let mut flipped = short.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(cache.expand(METER, &flipped, 0).is_err(), "bit {bit}");
        }
        for end in 0..short.len() {
            assert!(cache.expand(METER, &short[..end], 0).is_err());
        }
    }

    #[test]
    fn the_cache_is_limited_and_does_not_learn_what_is_broken() {
        let mut cache = FormatCache::default();
        cache.learn(METER, &[4, 5, 1]);
        assert!(cache.formats.is_empty());
        for storage in 0..FORMAT_COUNT_MAX + 20 {
            let [low, high] = u16::try_from(storage).unwrap().to_le_bytes();
            cache.learn(METER, &[0xC1, 0x80 | (low & 0xF), 0x80 | (low >> 4), high & 0xF, 0x13, 0]);
        }
        assert_eq!(cache.formats.len(), FORMAT_COUNT_MAX);
        assert!(cache.add(&[4; FORMAT_SIZE_MAX + 1]).is_err());
    }
}
