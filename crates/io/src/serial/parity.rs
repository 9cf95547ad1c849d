//! Seven bits and even parity, in software.

/// A character with an odd number of ones: damaged on the way, or not of this kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("parity is wrong at byte {index}")]
pub struct ParityError {
    /// Index of the first such byte in the bytes given.
    pub index: usize,
}

/// Seven-bit characters with even parity in bit 7, as IEC 62056-21 sends them.
#[derive(Clone, Copy, Debug)]
pub struct SevenEven;

impl SevenEven {
    /// Checks each byte and clears its parity bit, in place.
    ///
    /// # Errors
    /// [`ParityError`] for the first damaged byte; all bytes are seven-bit characters then, too.
    pub fn decode(bytes: &mut [u8]) -> Result<(), ParityError> {
        let mut damaged = None;
        for (index, byte) in bytes.iter_mut().enumerate() {
            if byte.count_ones() % 2 == 1 {
                damaged = damaged.or(Some(index));
            }
            *byte &= 0x7f;
        }
        damaged.map_or(Ok(()), |index| Err(ParityError { index }))
    }

    /// Sets the parity bit of each character, in place; bit 7 as given is ignored.
    pub fn encode(bytes: &mut [u8]) {
        for byte in bytes {
            *byte &= 0x7f;
            if byte.count_ones() % 2 == 1 {
                *byte |= 0x80;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_survives_and_every_flipped_bit_is_found() {
        for character in 0..0x80_u8 {
            let mut sent = [character];
            SevenEven::encode(&mut sent);
            let mut received = sent;
            assert_eq!(SevenEven::decode(&mut received), Ok(()));
            assert_eq!(received, [character]);
            for bit in 0..8 {
                let mut damaged = [b'/' | 0x80, sent[0] ^ (1 << bit)];
                assert_eq!(SevenEven::decode(&mut damaged), Err(ParityError { index: 1 }));
            }
        }
    }
}
