//! The block: class, subclass, payload and check sum, enciphered and transposed.

use gridseal_crypto::sts::DecoderKey;

use super::Token;

/// Where the class bits sit within the block once they are transposed.
const CLASS_SHIFT: u32 = 27;
const PAYLOAD_MASK: u64 = (1 << 44) - 1;

/// Class of a token, 2 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// 0: credit.
    Credit,
    /// 1: tests and displays, not enciphered.
    Test,
    /// 2: management.
    Management,
    /// 3: reserved.
    Reserved,
}

impl Class {
    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Credit => 0,
            Self::Test => 1,
            Self::Management => 2,
            Self::Reserved => 3,
        }
    }

    const fn of(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Credit,
            1 => Self::Test,
            2 => Self::Management,
            _ => Self::Reserved,
        }
    }

    /// Whether the block is enciphered.
    #[must_use]
    pub const fn is_enciphered(self) -> bool {
        matches!(self, Self::Credit | Self::Management)
    }
}

/// A plain block.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Class.
    pub class: Class,
    /// Subclass, 4 bits.
    pub subclass: u8,
    /// Payload, 44 bits.
    pub payload: u64,
}

impl core::fmt::Debug for Block {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // The payload of a key change section is part of a key.
        write!(f, "Block({}.{})", self.class.number(), self.subclass)
    }
}

fn crc16(bytes: &[u8]) -> u16 {
    let crc = bytes.iter().fold(0xFFFFu16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| {
            let carry = (crc & 1).wrapping_neg();
            crc >> 1 ^ carry & 0xA001
        })
    });
    crc.swap_bytes()
}

impl Block {
    /// The check sum over class, subclass and payload; currency credit has one byte more.
    fn check_sum(self) -> u16 {
        let bits = u64::from(self.class.number()) << 48
            | u64::from(self.subclass & 0xF) << 44
            | self.payload & PAYLOAD_MASK;
        let [_, bytes @ ..] = bits.to_be_bytes();
        let [a, b, c, d, e, f, g] = bytes;
        //= STS A1: the check sum of a currency credit covers one byte 01 more
        match (self.class, self.subclass) {
            (Class::Credit, 4..=7) => crc16(&[a, b, c, d, e, f, g, 1]),
            _ => crc16(&bytes),
        }
    }

    fn to_bits(self) -> u64 {
        u64::from(self.subclass & 0xF) << 60
            | (self.payload & PAYLOAD_MASK) << 16
            | u64::from(self.check_sum())
    }

    /// The token of this block. Class 1 is not enciphered and needs no key.
    ///
    /// # Source
    /// STS fact sheet, A1.
    #[must_use]
    pub fn seal(self, key: &DecoderKey) -> Token {
        let bits = self.to_bits();
        self.transposed(if self.class.is_enciphered() { key.encrypt(bits) } else { bits })
    }

    /// The token of a block of class 1, which is not enciphered; `None` for another class.
    #[must_use]
    pub fn print(self) -> Option<Token> {
        (!self.class.is_enciphered()).then(|| self.transposed(self.to_bits()))
    }

    fn transposed(self, block: u64) -> Token {
        let class = u128::from(self.class.number());
        let displaced = u128::from(block >> CLASS_SHIFT & 3);
        let rest = u128::from(block & !(3 << CLASS_SHIFT));
        Token::from_bits(displaced << 64 | rest | class << CLASS_SHIFT)
    }

    /// The class of a token: readable without a key.
    #[must_use]
    pub fn class_of(token: Token) -> Class {
        let [.., a, b, c, d] = token.bits().to_be_bytes();
        let bits = u32::from_be_bytes([a, b, c, d]) >> CLASS_SHIFT & 3;
        Class::of(u8::try_from(bits).unwrap_or(3))
    }

    /// The block of a token, deciphered where its class is, and whether its check sum is right.
    #[must_use]
    pub fn open(token: Token, key: Option<&DecoderKey>) -> Option<(Self, bool)> {
        let class = Self::class_of(token);
        let displaced = token.bits() >> 64 & 3;
        let low = token.bits() & u128::from(u64::MAX) & !(3 << CLASS_SHIFT);
        let transposed = u64::try_from(low | displaced << CLASS_SHIFT).unwrap_or_default();
        let bits = match (class, key) {
            (Class::Credit | Class::Management, Some(key)) => key.decrypt(transposed),
            (Class::Credit | Class::Management, None) => return None,
            (Class::Test | Class::Reserved, _) => transposed,
        };
        let subclass = u8::try_from(bits >> 60).unwrap_or_default();
        let block = Self { class, subclass, payload: bits >> 16 & PAYLOAD_MASK };
        let is_right = bits & 0xFFFF == u64::from(block.check_sum());
        Some((block, is_right))
    }
}
