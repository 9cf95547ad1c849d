//! Extended link layer (EN 13757-4, CI 8C to 8F).

use gridseal_crypto::lmn::MeterKeyRef;

use super::{address::MeterAddress, crc};
use crate::wire::{DecodeError, Reader, Rule};

/// Bits H (hop count) and R (repeated) of the communication control field: a repeater changes them, so they are clear
/// in the counter block.
const REPEATER_BITS: u8 = 0x12;

/// The extended link layer as sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ell {
    /// CI field: 8C, 8D, 8E or 8F.
    pub ci: u8,
    /// Communication control.
    pub control: u8,
    /// Access number.
    pub access: u8,
    /// Second address (8E, 8F).
    pub address: Option<MeterAddress>,
    /// Session number and the checksum of the payload, as sent (8D, 8F).
    pub session: Option<Session>,
}

/// Session number (8D, 8F): bits 0 to 3 session, 4 to 28 minutes, 29 to 31 encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session(pub u32);

impl Session {
    /// Mode of encryption: 0 none, 1 AES-128-CTR.
    #[must_use]
    pub const fn encryption(self) -> u32 {
        self.0 >> 29
    }

    /// The meter's minutes, 25 bits.
    #[must_use]
    pub const fn minutes(self) -> u32 {
        (self.0 >> 4) & 0x01FF_FFFF
    }

    /// The session within a minute.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0 & 0xF
    }
}

/// Whether a CI field begins an extended link layer that is read here.
#[must_use]
pub const fn is_ell(ci: u8) -> bool {
    matches!(ci, 0x86 | 0x8C..=0x8F)
}

impl Ell {
    /// Reads the layer up to, and without, the payload checksum.
    ///
    /// # Errors
    /// [`Rule::Truncated`]; [`Rule::Unsupported`] for CI 86 and for an encryption other than none and AES-128-CTR.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = reader.clone();
        let ci = reader.u8("CI field")?;
        if !matches!(ci, 0x8C..=0x8F) {
            return Err(start.fail("CI field", Rule::Unsupported { name: "extended link layer V (CI 86)" }));
        }
        let (control, access) = (reader.u8("communication control")?, reader.u8("access number")?);
        //= LMN 3: 8E is 10 bytes and has no session number
        let address = match ci {
            0x8E | 0x8F => Some(MeterAddress(reader.array("second address")?)),
            _ => None,
        };
        let at = reader.clone();
        let session = match ci {
            0x8D | 0x8F => Some(Session(reader.u32_le("session number")?)),
            _ => None,
        };
        if session.is_some_and(|session| session.encryption() > 1) {
            return Err(
                at.fail("session number", Rule::Unsupported { name: "reserved encryption of the session" })
            );
        }
        Ok(Self { ci, control, access, address, session })
    }

    /// Appends the layer as sent, without the payload checksum.
    pub fn encode(&self, out: &mut alloc::vec::Vec<u8>) {
        out.extend_from_slice(&[self.ci, self.control, self.access]);
        out.extend(self.address.iter().flat_map(|address| address.0));
        out.extend(self.session.iter().flat_map(|session| session.0.to_le_bytes()));
    }

    /// Whether the payload is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.session.is_some_and(|session| session.encryption() == 1)
    }

    /// The initial counter block: `M(2) ID(4) V T || CC with H and R cleared || SN(4) || 0000 || 00`.
    ///
    /// # Source
    /// EN 13757-4, extended link layer; vectors T4 and T5 of the local network fact sheet.
    #[must_use]
    pub fn counter_block(&self, link: MeterAddress) -> [u8; 16] {
        //= LMN 3: the counter block clears bits H and R of the control field
        let [a, b, c, d, e, f, g, h] = self.address.unwrap_or(link).0;
        let [s0, s1, s2, s3] = self.session.map_or(0, |session| session.0).to_le_bytes();
        [a, b, c, d, e, f, g, h, self.control & !REPEATER_BITS, s0, s1, s2, s3, 0, 0, 0]
    }

    /// Encrypts or decrypts `payload` (checksum and what follows) in place.
    pub fn apply(&self, link: MeterAddress, key: MeterKeyRef<'_>, payload: &mut [u8]) {
        key.ctr(&self.counter_block(link), payload);
    }
}

/// Checks `CRC(2) || rest`, low byte first, and gives the rest. `None` when it does not match.
#[must_use]
pub fn checked_payload(payload: &[u8]) -> Option<&[u8]> {
    let (found, rest) = payload.split_first_chunk::<2>()?;
    (u16::from_le_bytes(*found) == crc::crc(rest)).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    //= LMN 3: 8E is 10 bytes and has no session number
    #[test]
    fn each_form_has_its_own_size() {
        let bytes = [0x55; 20];
        for (ci, size) in [(0x8C, 3), (0x8D, 7), (0x8E, 11), (0x8F, 15)] {
            let mut all = bytes.to_vec();
            all[0] = ci;
            // Session number with encryption 1.
            for byte in &mut all[1..] {
                *byte = 0x20;
            }
            let mut reader = Reader::new(&all);
            let ell = Ell::decode(&mut reader).unwrap();
            assert_eq!(reader.offset(), size, "{ci:02x}");
            let mut out = alloc::vec::Vec::new();
            ell.encode(&mut out);
            assert_eq!(out, all[..size]);
        }
    }

    #[test]
    fn form_five_and_reserved_encryptions_are_refused_by_name() {
        let error = Ell::decode(&mut Reader::new(&[0x86, 0, 0, 0])).unwrap_err();
        assert!(matches!(error.rule, Rule::Unsupported { .. }));
        for encryption in 2..8u8 {
            let bytes = [0x8D, 0, 0, 0, 0, 0, encryption << 5];
            assert!(Ell::decode(&mut Reader::new(&bytes)).is_err(), "{encryption}");
        }
    }
}
