//! The one cursor for bytes to be sent.

use alloc::vec::Vec;

/// Appends values to a byte vector.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty writer with room for `size` bytes.
    #[must_use]
    pub fn with_capacity(size: usize) -> Self {
        Self { bytes: Vec::with_capacity(size) }
    }

    /// What was written so far.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What was written.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A length in its shortest form.
    ///
    /// # Source
    /// DLMS fact sheet, section 2.1 (length rule).
    pub fn length(&mut self, length: usize) {
        if let Some(short) = u8::try_from(length).ok().filter(|short| *short < 0x80) {
            return self.u8(short);
        }
        let octets = length.to_be_bytes();
        let leading = octets.iter().take_while(|octet| **octet == 0).count();
        let significant = octets.get(leading..).unwrap_or_default();
        // At most eight octets, so the count fits beside the marker bit.
        self.u8(0x80 | u8::try_from(significant.len()).unwrap_or(0));
        self.bytes(significant);
    }

    /// A length and the bytes.
    pub fn prefixed(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.bytes(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Reader;

    #[test]
    fn lengths_are_written_as_they_are_read() {
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536, 16_777_215, 16_777_216] {
            let mut writer = Writer::default();
            writer.length(length);
            assert_eq!(Reader::new(&writer.into_bytes()).length("length"), Ok(length));
        }
    }
}
