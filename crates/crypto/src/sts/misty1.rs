//! EA 11, MISTY1 (RFC 2994): 8 rounds, 128-bit key, 64-bit block.
//!
//! The two substitutions are evaluated as polynomials over bits (S9 has degree 2, S7 degree 3) on four values at once, one
//! in each 16-bit lane of a u64, so that nothing is looked up under a secret index.

use zeroize::Zeroize;

const S7: [u16; 128] = [
    27, 50, 51, 90, 59, 16, 23, 84, 91, 26, 114, 115, 107, 44, 102, 73, 31, 36, 19, 108, 55, 46, 63, 74, 93,
    15, 64, 86, 37, 81, 28, 4, 11, 70, 32, 13, 123, 53, 68, 66, 43, 30, 65, 20, 75, 121, 21, 111, 14, 85, 9,
    54, 116, 12, 103, 83, 40, 10, 126, 56, 2, 7, 96, 41, 25, 18, 101, 47, 48, 57, 8, 104, 95, 120, 42, 76,
    100, 69, 117, 61, 89, 72, 3, 87, 124, 79, 98, 60, 29, 33, 94, 39, 106, 112, 77, 58, 1, 109, 110, 99, 24,
    119, 35, 5, 38, 118, 0, 49, 45, 122, 127, 97, 80, 34, 17, 6, 71, 22, 82, 78, 113, 62, 105, 67, 52, 92,
    88, 125,
];

const S9: [u16; 512] = [
    451, 203, 339, 415, 483, 233, 251, 53, 385, 185, 279, 491, 307, 9, 45, 211, 199, 330, 55, 126, 235, 356,
    403, 472, 163, 286, 85, 44, 29, 418, 355, 280, 331, 338, 466, 15, 43, 48, 314, 229, 273, 312, 398, 99,
    227, 200, 500, 27, 1, 157, 248, 416, 365, 499, 28, 326, 125, 209, 130, 490, 387, 301, 244, 414, 467, 221,
    482, 296, 480, 236, 89, 145, 17, 303, 38, 220, 176, 396, 271, 503, 231, 364, 182, 249, 216, 337, 257,
    332, 259, 184, 340, 299, 430, 23, 113, 12, 71, 88, 127, 420, 308, 297, 132, 349, 413, 434, 419, 72, 124,
    81, 458, 35, 317, 423, 357, 59, 66, 218, 402, 206, 193, 107, 159, 497, 300, 388, 250, 406, 481, 361, 381,
    49, 384, 266, 148, 474, 390, 318, 284, 96, 373, 463, 103, 281, 101, 104, 153, 336, 8, 7, 380, 183, 36,
    25, 222, 295, 219, 228, 425, 82, 265, 144, 412, 449, 40, 435, 309, 362, 374, 223, 485, 392, 197, 366,
    478, 433, 195, 479, 54, 238, 494, 240, 147, 73, 154, 438, 105, 129, 293, 11, 94, 180, 329, 455, 372, 62,
    315, 439, 142, 454, 174, 16, 149, 495, 78, 242, 509, 133, 253, 246, 160, 367, 131, 138, 342, 155, 316,
    263, 359, 152, 464, 489, 3, 510, 189, 290, 137, 210, 399, 18, 51, 106, 322, 237, 368, 283, 226, 335, 344,
    305, 327, 93, 275, 461, 121, 353, 421, 377, 158, 436, 204, 34, 306, 26, 232, 4, 391, 493, 407, 57, 447,
    471, 39, 395, 198, 156, 208, 334, 108, 52, 498, 110, 202, 37, 186, 401, 254, 19, 262, 47, 429, 370, 475,
    192, 267, 470, 245, 492, 269, 118, 276, 427, 117, 268, 484, 345, 84, 287, 75, 196, 446, 247, 41, 164, 14,
    496, 119, 77, 378, 134, 139, 179, 369, 191, 270, 260, 151, 347, 352, 360, 215, 187, 102, 462, 252, 146,
    453, 111, 22, 74, 161, 313, 175, 241, 400, 10, 426, 323, 379, 86, 397, 358, 212, 507, 333, 404, 410, 135,
    504, 291, 167, 440, 321, 60, 505, 320, 42, 341, 282, 417, 408, 213, 294, 431, 97, 302, 343, 476, 114,
    394, 170, 150, 277, 239, 69, 123, 141, 325, 83, 95, 376, 178, 46, 32, 469, 63, 457, 487, 428, 68, 56, 20,
    177, 363, 171, 181, 90, 386, 456, 468, 24, 375, 100, 207, 109, 256, 409, 304, 346, 5, 288, 443, 445, 224,
    79, 214, 319, 452, 298, 21, 6, 255, 411, 166, 67, 136, 80, 351, 488, 289, 115, 382, 188, 194, 201, 371,
    393, 501, 116, 460, 486, 424, 405, 31, 65, 13, 442, 50, 61, 465, 128, 168, 87, 441, 354, 328, 217, 261,
    98, 122, 33, 511, 274, 264, 448, 169, 285, 432, 422, 205, 243, 92, 258, 91, 473, 324, 502, 173, 165, 58,
    459, 310, 383, 70, 225, 30, 477, 230, 311, 506, 389, 140, 143, 64, 437, 190, 120, 0, 172, 272, 350, 292,
    2, 444, 162, 234, 112, 508, 278, 348, 76, 450,
];

/// Number of lanes, and one in each.
const ONES: u64 = 0x0001_0001_0001_0001;

/// The same 16 bits in every lane.
const fn lanes(value: u16) -> u64 {
    value as u64 * ONES
}

/// Polynomials of a substitution up to degree 3, in every lane.
struct Polynomials<const BITS: usize> {
    constant: u64,
    linear: [u64; BITS],
    quadratic: [[u64; BITS]; BITS],
    cubic: [[[u64; BITS]; BITS]; BITS],
}

const fn polynomials<const BITS: usize, const SIZE: usize>(table: [u16; SIZE]) -> Polynomials<BITS> {
    let mut values = table;
    // Moebius transform: from values to coefficients.
    let mut bit = 1;
    while bit < SIZE {
        let mut product = 0;
        while product < SIZE {
            if product & bit != 0 {
                values[product] ^= values[product ^ bit];
            }
            product += 1;
        }
        bit <<= 1;
    }
    let mut found = Polynomials {
        constant: lanes(values[0]),
        linear: [0; BITS],
        quadratic: [[0; BITS]; BITS],
        cubic: [[[0; BITS]; BITS]; BITS],
    };
    let mut a = 0;
    while a < BITS {
        found.linear[a] = lanes(values[1 << a]);
        let mut b = 0;
        while b < a {
            found.quadratic[a][b] = lanes(values[1 << a | 1 << b]);
            let mut c = 0;
            while c < b {
                found.cubic[a][b][c] = lanes(values[1 << a | 1 << b | 1 << c]);
                c += 1;
            }
            b += 1;
        }
        a += 1;
    }
    found
}

const P7: Polynomials<7> = polynomials(S7);
const P9: Polynomials<9> = polynomials(S9);

/// All ones in the lanes whose bit `bit` is set.
#[inline(always)]
const fn spread(values: u64, bit: usize) -> u64 {
    (values >> bit & ONES).wrapping_mul(0xFFFF)
}

#[inline(always)]
fn s9(values: u64) -> u64 {
    let mut masks = [0; 9];
    (0..9).for_each(|bit| masks[bit] = spread(values, bit));
    let mut sum = P9.constant;
    for a in 0..9 {
        let mut row = P9.linear[a];
        for (coefficient, mask) in P9.quadratic[a].iter().zip(masks).take(a) {
            row ^= coefficient & mask;
        }
        sum ^= row & masks[a];
    }
    sum
}

#[inline(always)]
fn s7(values: u64) -> u64 {
    let mut masks = [0; 7];
    (0..7).for_each(|bit| masks[bit] = spread(values, bit));
    let mut sum = P7.constant;
    for a in 0..7 {
        let mut row = P7.linear[a];
        for b in 0..a {
            let mut inner = P7.quadratic[a][b];
            for (coefficient, mask) in P7.cubic[a][b].iter().zip(masks).take(b) {
                inner ^= coefficient & mask;
            }
            row ^= inner & masks[b];
        }
        sum ^= row & masks[a];
    }
    sum
}

/// The function FI in each lane.
#[inline(always)]
fn fi(values: u64, keys: u64) -> u64 {
    let low = values & lanes(0x7F);
    let mut nine = s9(values >> 7 & lanes(0x1FF)) ^ low;
    let seven = s7(low) ^ (nine & lanes(0x7F)) ^ (keys >> 9 & lanes(0x7F));
    nine = s9(nine ^ (keys & lanes(0x1FF))) ^ seven;
    seven << 9 | nine
}

/// The key and what is made of it.
pub(super) struct Schedule {
    key: [u16; 8],
    mixed: [u16; 8],
}

impl Drop for Schedule {
    fn drop(&mut self) {
        self.key.zeroize();
        self.mixed.zeroize();
    }
}

const fn split(word: u32) -> (u16, u16) {
    let [a, b, c, d] = word.to_be_bytes();
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

const fn join(high: u16, low: u16) -> u32 {
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    u32::from_be_bytes([a, b, c, d])
}

const fn lane(values: u64, index: u32) -> u16 {
    (values >> (16 * index) & 0xFFFF) as u16
}

impl Schedule {
    pub(super) fn new(bytes: &[u8; 16]) -> Self {
        let mut key = [0; 8];
        let (words, _) = bytes.as_chunks::<2>();
        key.iter_mut().zip(words).for_each(|(word, bytes)| *word = u16::from_be_bytes(*bytes));
        let mut mixed = [0; 8];
        for half in [0, 4] {
            let pack = |shift: usize| {
                (0..4).fold(0, |packed, index| {
                    packed | u64::from(key[(half + index + shift) % 8]) << (16 * index)
                })
            };
            let values = fi(pack(0), pack(1));
            (0..4).for_each(|index| mixed[half + index] = lane(values, index as u32));
        }
        Self { key, mixed }
    }

    /// FO of round `k`. Its first two FI do not depend on each other and share one evaluation.
    #[inline(always)]
    fn fo(&self, input: u32, k: usize) -> u32 {
        let (left, right) = split(input);
        let values = u64::from(left ^ self.key[k]) | u64::from(right ^ self.key[(k + 2) % 8]) << 16;
        let keys = u64::from(self.mixed[(k + 5) % 8]) | u64::from(self.mixed[(k + 1) % 8]) << 16;
        let both = fi(values, keys);
        let first = lane(both, 0) ^ right;
        let second = lane(both, 1) ^ first;
        let third = fi(u64::from(first ^ self.key[(k + 7) % 8]), u64::from(self.mixed[(k + 3) % 8]));
        join(second ^ self.key[(k + 4) % 8], lane(third, 0) ^ second)
    }

    const fn fl_keys(&self, k: usize) -> (u16, u16) {
        let half = k / 2;
        if k.is_multiple_of(2) {
            (self.key[half], self.mixed[(half + 6) % 8])
        } else {
            (self.mixed[(half + 2) % 8], self.key[(half + 4) % 8])
        }
    }

    const fn fl(&self, input: u32, k: usize) -> u32 {
        let (and, or) = self.fl_keys(k);
        let (left, right) = split(input);
        let right = right ^ (left & and);
        join(left ^ (right | or), right)
    }

    const fn fl_inverse(&self, input: u32, k: usize) -> u32 {
        let (and, or) = self.fl_keys(k);
        let (left, right) = split(input);
        let left = left ^ (right | or);
        join(left, right ^ (left & and))
    }

    pub(super) fn encrypt(&self, block: u64) -> u64 {
        let (mut left, mut right) = halves(block);
        for k in [0, 2, 4, 6] {
            left = self.fl(left, k);
            right = self.fl(right, k + 1) ^ self.fo(left, k);
            left ^= self.fo(right, k + 1);
        }
        u64::from(self.fl(right, 9)) << 32 | u64::from(self.fl(left, 8))
    }

    pub(super) fn decrypt(&self, block: u64) -> u64 {
        let (right, left) = halves(block);
        let (mut left, mut right) = (self.fl_inverse(left, 8), self.fl_inverse(right, 9));
        for k in [6, 4, 2, 0] {
            left ^= self.fo(right, k + 1);
            right = self.fl_inverse(right ^ self.fo(left, k), k + 1);
            left = self.fl_inverse(left, k);
        }
        u64::from(left) << 32 | u64::from(right)
    }
}

const fn halves(block: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = block.to_be_bytes();
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_out_as_rfc_2994_says() {
        let key = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff_u128.to_be_bytes();
        let schedule = Schedule::new(&key);
        for (plain, sealed) in
            [(0x0123_4567_89ab_cdef, 0x8b1d_a5f5_6ab3_d07c), (0xfedc_ba98_7654_3210, 0x04b6_8240_b13b_e95d)]
        {
            assert_eq!(schedule.encrypt(plain), sealed);
            assert_eq!(schedule.decrypt(sealed), plain);
        }
    }

    #[test]
    fn polynomials_are_the_tables() {
        for (input, output) in (0u64..).zip(S9) {
            assert_eq!(s9(input * ONES), lanes(output));
        }
        for (input, output) in (0u64..).zip(S7) {
            assert_eq!(s7(input * ONES), lanes(output));
        }
    }
}
