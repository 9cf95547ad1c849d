//! EA 07, the Standard Transfer Algorithm: 16 rounds of nibble substitution and bit permutation on a 64-bit block.
//!
//! The substitutions are evaluated as polynomials over bits, for all 16 nibbles of the block at once, so that nothing is
//! looked up under a secret index.

const ROUNDS: u32 = 16;
/// One bit of each nibble.
const LOW: u64 = 0x1111_1111_1111_1111;

type Box4 = [u8; 16];

/// Substitution where the key bit is 0, and where it is 1.
const S1: Box4 = [14, 10, 7, 9, 12, 3, 2, 5, 13, 0, 15, 1, 4, 8, 6, 11];
const S2: Box4 = [12, 8, 2, 13, 7, 6, 1, 3, 11, 5, 9, 15, 0, 4, 10, 14];
/// Bit i moves to bit P[i].
const P: [u8; 64] = [
    55, 42, 10, 18, 24, 21, 44, 35, 2, 22, 56, 43, 27, 58, 9, 50, 6, 36, 12, 61, 37, 38, 53, 16, 62, 3, 7, 4,
    32, 20, 63, 25, 51, 52, 54, 33, 49, 19, 46, 29, 48, 31, 23, 30, 41, 28, 13, 5, 40, 60, 39, 11, 15, 17, 1,
    0, 57, 34, 59, 8, 47, 14, 45, 26,
];

const fn inverse(table: Box4) -> Box4 {
    let mut inverse = [0; 16];
    let mut input = 0u8;
    while input < 16 {
        inverse[table[input as usize] as usize] = input;
        input += 1;
    }
    inverse
}

/// Coefficients of a substitution's polynomials: all ones where the output bit has the product, else zero.
type Polynomials = [[u64; 4]; 16];

const fn polynomials(table: Box4) -> Polynomials {
    let mut values = table;
    // Moebius transform: from values to coefficients.
    let mut bit = 1;
    while bit < 16 {
        let mut product = 0;
        while product < 16 {
            if product & bit != 0 {
                values[product] ^= values[product ^ bit];
            }
            product += 1;
        }
        bit <<= 1;
    }
    let mut coefficients = [[0; 4]; 16];
    let mut product = 0;
    while product < 16 {
        let mut output = 0;
        while output < 4 {
            if values[product] >> output & 1 == 1 {
                coefficients[product][output] = u64::MAX;
            }
            output += 1;
        }
        product += 1;
    }
    coefficients
}

/// For each distance of rotation the bits that it moves to their place.
const fn rotations(permutation: [u8; 64]) -> [u64; 64] {
    let mut masks = [0; 64];
    let mut bit = 0;
    while bit < 64 {
        let distance = (permutation[bit] as usize + 64 - bit) % 64;
        masks[distance] |= 1 << bit;
        bit += 1;
    }
    masks
}

const fn inverse_permutation(permutation: [u8; 64]) -> [u8; 64] {
    let mut inverse = [0; 64];
    let mut bit = 0u8;
    while bit < 64 {
        inverse[permutation[bit as usize] as usize] = bit;
        bit += 1;
    }
    inverse
}

const FORWARD: [Polynomials; 2] = [polynomials(S1), polynomials(S2)];
const BACKWARD: [Polynomials; 2] = [polynomials(inverse(S1)), polynomials(inverse(S2))];
const MOVES: [u64; 64] = rotations(P);
const MOVES_BACK: [u64; 64] = rotations(inverse_permutation(P));

/// Substitutes every nibble, by the second table where `select` has the nibble's lowest bit.
#[inline(always)]
fn substitute(tables: &[Polynomials; 2], state: u64, select: u64) -> u64 {
    let input = [state & LOW, state >> 1 & LOW, state >> 2 & LOW, state >> 3 & LOW];
    let mut products = [LOW; 16];
    for product in 1..16usize {
        let lowest = product.trailing_zeros() as usize;
        products[product] = products[product & (product - 1)] & input[lowest];
    }
    let mut outputs = [[0u64; 4]; 2];
    for (output, table) in outputs.iter_mut().zip(tables) {
        for (coefficients, product) in table.iter().zip(products) {
            for (bit, coefficient) in output.iter_mut().zip(coefficients) {
                *bit ^= product & coefficient;
            }
        }
    }
    let [first, second] = outputs;
    (0..4).fold(0, |state, bit| state | (first[bit] ^ (select & (first[bit] ^ second[bit]))) << bit)
}

#[inline(always)]
fn permute(moves: &[u64; 64], state: u64) -> u64 {
    let mut moved = 0;
    for (distance, mask) in (0u32..).zip(moves) {
        moved |= (state & mask).rotate_left(distance);
    }
    moved
}

/// Enciphers a block.
pub(super) fn encrypt(key: u64, block: u64) -> u64 {
    let mut key = (!key).rotate_right(12);
    let mut state = block;
    for _ in 0..ROUNDS {
        state = permute(&MOVES, substitute(&FORWARD, state, key >> 3 & LOW));
        key = key.rotate_left(1);
    }
    state
}

/// Deciphers a block.
pub(super) fn decrypt(key: u64, block: u64) -> u64 {
    let mut key = (!key).rotate_left(3);
    let mut state = block;
    for _ in 0..ROUNDS {
        state = substitute(&BACKWARD, permute(&MOVES_BACK, state), key >> 3 & LOW);
        key = key.rotate_right(1);
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_out_as_the_sheet_says() {
        assert_eq!(encrypt(0, 0), 0xb9d4_feed_8b78_a797);
        assert_eq!(encrypt(0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210), 0x938e_dc67_9596_6fda);
        assert_eq!(decrypt(0x0123_4567_89ab_cdef, 0x938e_dc67_9596_6fda), 0xfedc_ba98_7654_3210);
    }

    #[test]
    fn polynomials_are_the_tables() {
        for (tables, boxes) in [(&FORWARD, [S1, S2]), (&BACKWARD, [inverse(S1), inverse(S2)])] {
            for (select, table) in boxes.into_iter().enumerate() {
                for input in 0..16u64 {
                    let output = substitute(tables, input, select as u64) & 0xF;
                    assert_eq!(output, u64::from(table[input as usize]));
                }
            }
        }
    }
}
