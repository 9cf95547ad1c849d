//! Seven bits and even parity, in software.

/// Seven-bit characters with even parity in bit 7, as IEC 62056-21 sends them.
#[derive(Clone, Copy, Debug)]
pub struct SevenEven;

impl SevenEven {
    /// The character that a byte of the line carries; `None` when its parity is wrong.
    #[must_use]
    pub const fn decode(byte: u8) -> Option<u8> {
        if byte.count_ones().is_multiple_of(2) { Some(byte & 0x7f) } else { None }
    }

    /// The byte of the line for a character; bit 7 as given is ignored.
    #[must_use]
    pub const fn encode(character: u8) -> u8 {
        let character = character & 0x7f;
        if character.count_ones().is_multiple_of(2) { character } else { character | 0x80 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_survives_and_every_flipped_bit_is_found() {
        for character in 0..0x80 {
            let sent = SevenEven::encode(character);
            assert_eq!(SevenEven::decode(sent), Some(character));
            for bit in 0..8 {
                assert_eq!(SevenEven::decode(sent ^ (1 << bit)), None);
            }
        }
    }
}
