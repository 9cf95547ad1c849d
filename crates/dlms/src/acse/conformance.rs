//! Conformance: the services that a peer speaks.

use core::ops::{BitAnd, BitOr};

/// Services of an association, 24 bits; bit 0 is the most significant bit of the first octet.
///
/// # Source
/// DLMS fact sheet, section 3.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conformance(u32);

const fn bit(index: u32) -> Conformance {
    Conformance(0x0080_0000 >> index)
}

impl Conformance {
    /// Bit 1: general-glo, general-ded, general-ciphering, general-signing.
    pub const GENERAL_PROTECTION: Self = bit(1);
    /// Bit 2: general-block-transfer.
    pub const GENERAL_BLOCK_TRANSFER: Self = bit(2);
    /// Bit 6: delta types.
    pub const DELTA_VALUE_ENCODING: Self = bit(6);
    /// Bit 8: SET with attribute 0.
    pub const ATTRIBUTE_0_SET: Self = bit(8);
    /// Bit 9: priority.
    pub const PRIORITY: Self = bit(9);
    /// Bit 10: GET with attribute 0.
    pub const ATTRIBUTE_0_GET: Self = bit(10);
    /// Bit 11: blocks in GET.
    pub const BLOCK_GET: Self = bit(11);
    /// Bit 12: blocks in SET.
    pub const BLOCK_SET: Self = bit(12);
    /// Bit 13: blocks in ACTION.
    pub const BLOCK_ACTION: Self = bit(13);
    /// Bit 14: lists.
    pub const MULTIPLE_REFERENCES: Self = bit(14);
    /// Bit 16: DataNotification.
    pub const DATA_NOTIFICATION: Self = bit(16);
    /// Bit 17: ACCESS.
    pub const ACCESS: Self = bit(17);
    /// Bit 19: GET.
    pub const GET: Self = bit(19);
    /// Bit 20: SET.
    pub const SET: Self = bit(20);
    /// Bit 21: selective access.
    pub const SELECTIVE_ACCESS: Self = bit(21);
    /// Bit 22: EventNotification.
    pub const EVENT_NOTIFICATION: Self = bit(22);
    /// Bit 23: ACTION.
    pub const ACTION: Self = bit(23);

    /// All that the machines of this crate speak.
    pub const SPOKEN: Self = Self::GENERAL_PROTECTION
        .and(Self::GENERAL_BLOCK_TRANSFER)
        .and(Self::PRIORITY)
        .and(Self::BLOCK_GET)
        .and(Self::BLOCK_SET)
        .and(Self::BLOCK_ACTION)
        .and(Self::MULTIPLE_REFERENCES)
        .and(Self::DATA_NOTIFICATION)
        .and(Self::ACCESS)
        .and(Self::GET)
        .and(Self::SET)
        .and(Self::SELECTIVE_ACCESS)
        .and(Self::EVENT_NOTIFICATION)
        .and(Self::ACTION);

    /// From the three octets.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 3]) -> Self {
        let [a, b, c] = bytes;
        Self(u32::from_be_bytes([0, a, b, c]))
    }

    /// The three octets.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 3] {
        let [_, a, b, c] = self.0.to_be_bytes();
        [a, b, c]
    }

    /// Both sets together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set without the services of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether it has all services of `other`.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether it has no service at all.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitAnd for Conformance {
    type Output = Self;

    /// The services that both have.
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for Conformance {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.and(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_count_from_the_most_significant_one() {
        let field = Conformance::from_bytes([0x40, 0x7E, 0x1F]);
        assert!(field.has(Conformance::GENERAL_PROTECTION | Conformance::GET | Conformance::ACTION));
        assert!(!field.has(Conformance::GENERAL_BLOCK_TRANSFER) && !field.has(Conformance::ACCESS));
        assert_eq!(field.to_bytes(), [0x40, 0x7E, 0x1F]);
        assert_eq!((field & Conformance::GET), Conformance::GET);
        assert!(field.without(Conformance::from_bytes([0x40, 0x7E, 0x1F])).is_empty());
    }
}
