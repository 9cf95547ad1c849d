//! CRC-16 as SML uses it, four bytes at a time.

/// Which checksum: both have polynomial 0x1021, reflected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// CRC-16/X-25: begins with all ones, inverted at the end.
    #[default]
    X25,
    /// CRC-16/KERMIT: begins and ends plain. Old firmware of one manufacturer.
    Kermit,
}

const POLYNOMIAL: u16 = 0x8408;

#[expect(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    reason = "evaluated at compile time, where a mistake does not compile"
)]
const fn tables() -> [[u16; 256]; 4] {
    let mut tables = [[0; 256]; 4];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u16;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut step = 1;
    while step < 4 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[step - 1][byte];
            tables[step][byte] = before >> 8 ^ tables[0][(before & 0xFF) as usize];
            byte += 1;
        }
        step += 1;
    }
    tables
}

static TABLES: [[u16; 256]; 4] = tables();

fn step(table: &[u16; 256], byte: u8) -> u16 {
    table.get(usize::from(byte)).copied().unwrap_or_default()
}

fn update(crc: u16, bytes: &[u8]) -> u16 {
    let [one, two, three, four] = &TABLES;
    let (quads, rest) = bytes.as_chunks::<4>();
    let crc = quads.iter().fold(crc, |crc, [a, b, c, d]| {
        let [low, high] = crc.to_le_bytes();
        step(four, low ^ a) ^ step(three, high ^ b) ^ step(two, *c) ^ step(one, *d)
    });
    rest.iter().fold(crc, |crc, byte| {
        let [low, _] = crc.to_le_bytes();
        crc >> 8 ^ step(one, low ^ byte)
    })
}

impl Checksum {
    /// The checksum of some bytes.
    #[must_use]
    pub fn of(self, bytes: &[u8]) -> u16 {
        match self {
            Self::X25 => !update(0xFFFF, bytes),
            Self::Kermit => update(0, bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_have_their_check_values() {
        assert_eq!(Checksum::X25.of(b"123456789"), 0x906E);
        assert_eq!(Checksum::Kermit.of(b"123456789"), 0x2189);
    }

    #[test]
    fn any_length_gives_what_one_byte_at_a_time_gives() {
        let bytes: alloc::vec::Vec<u8> = (0..=255u8).collect();
        for length in 0..=255 {
            let plain = bytes[..length].iter().fold(0xFFFF, |crc: u16, byte| {
                (0..8).fold(crc ^ u16::from(*byte), |crc, _| {
                    if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 }
                })
            });
            assert_eq!(Checksum::X25.of(&bytes[..length]), !plain, "{length}");
        }
    }
}
