//! CRC-16/EN-13757.

const POLYNOMIAL: u16 = 0x3D65;
/// Bytes taken at a time.
const SLICES: usize = 8;

const TABLES: [[u16; 256]; SLICES] = tables();

#[expect(
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "evaluated when compiled"
)]
const fn tables() -> [[u16; 256]; SLICES] {
    let mut tables = [[0; 256]; SLICES];
    let mut byte = 0;
    while byte < 256 {
        let mut value = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 0x8000 == 0 { value << 1 } else { (value << 1) ^ POLYNOMIAL };
            bit += 1;
        }
        tables[0][byte] = value;
        byte += 1;
    }
    let mut slice = 1;
    while slice < SLICES {
        let mut byte = 0;
        while byte < 256 {
            let previous = tables[slice - 1][byte];
            tables[slice][byte] = (previous << 8) ^ tables[0][(previous >> 8) as usize];
            byte += 1;
        }
        slice += 1;
    }
    tables
}

#[expect(clippy::indexing_slicing, reason = "a byte and a constant index arrays of that size")]
fn entry<const SLICE: usize>(byte: u8) -> u16 {
    const { assert!(SLICE < SLICES) };
    TABLES[SLICE][usize::from(byte)]
}

/// The checksum of the bytes: polynomial 3D65, from 0, not reflected, inverted at the end.
///
/// # Source
/// EN 13757-4, block checksum; check value of "123456789" is C2B7.
#[must_use]
pub fn crc(bytes: &[u8]) -> u16 {
    //= LMN 1: CRC-16/EN-13757
    !update(0, bytes)
}

/// Continues the inner state, which starts at 0 and is inverted at the end.
#[must_use]
pub(super) fn update(mut state: u16, bytes: &[u8]) -> u16 {
    let (chunks, rest) = bytes.as_chunks::<SLICES>();
    for [b0, b1, b2, b3, b4, b5, b6, b7] in chunks {
        let [high, low] = state.to_be_bytes();
        state = entry::<7>(b0 ^ high)
            ^ entry::<6>(b1 ^ low)
            ^ entry::<5>(*b2)
            ^ entry::<4>(*b3)
            ^ entry::<3>(*b4)
            ^ entry::<2>(*b5)
            ^ entry::<1>(*b6)
            ^ entry::<0>(*b7);
    }
    for byte in rest {
        let [high, low] = state.to_be_bytes();
        state = entry::<0>(high ^ byte) ^ u16::from_be_bytes([low, 0]);
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    //= LMN 1: CRC-16/EN-13757
    #[test]
    fn checksum_has_the_check_value_and_is_the_same_in_pieces() {
        assert_eq!(crc(b"123456789"), 0xC2B7);
        let bytes: alloc::vec::Vec<u8> = (0..=255).collect();
        for cut in 0..=bytes.len() {
            let (first, second) = bytes.split_at(cut);
            assert_eq!(!update(update(0, first), second), crc(&bytes));
        }
        assert_eq!(crc(&[]), 0xFFFF);
    }
}
