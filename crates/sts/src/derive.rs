//! Decoder keys: what a vending key, a meter's number and the key's attributes come to.

use alloc::{format, vec::Vec};

use gridseal_crypto::{
    Key,
    role::StsVending,
    sts::{Algorithm, DecoderKey, derive_dkga02, derive_dkga04},
};

use crate::identity::{KeyAttributes, KeyType, Pan};

/// A derivation that is not supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeriveError {
    /// The vending key has another length than its derivation needs.
    #[error("DKGA 02 needs a vending key of 8 bytes, DKGA 04 one of 20; this one has {found}")]
    KeyLength {
        /// Bytes found.
        found: usize,
    },
    /// DKGA 02 makes keys for EA 07 only.
    #[error("DKGA 02 makes keys for EA 07 only")]
    Algorithm,
    /// An initialisation key comes from the manufacturer, not from a vending key.
    #[error("key type 0 is the manufacturer's own: it is not derived")]
    Initialisation,
    /// A common key under DKGA 04: its message is not public.
    #[error("key type 3 under DKGA 04 is not verified: not supported")]
    Common,
}

/// A vending key, for one of the two derivations.
#[derive(Debug)]
#[non_exhaustive]
pub enum VendingKey {
    /// DKGA 02, legacy: 64 bits.
    Dkga02(Key<StsVending, 8>),
    /// DKGA 04: 160 bits.
    Dkga04(Key<StsVending, 20>),
}

impl VendingKey {
    /// Takes the bytes over for the derivation with this number, 2 or 4, and wipes the source.
    ///
    /// # Errors
    /// [`DeriveError::KeyLength`].
    pub fn take(dkga: Dkga, source: &mut [u8]) -> Result<Self, DeriveError> {
        let error = DeriveError::KeyLength { found: source.len() };
        match dkga {
            Dkga::Two => Key::take_slice(source).map(Self::Dkga02).ok_or(error),
            Dkga::Four => Key::take_slice(source).map(Self::Dkga04).ok_or(error),
        }
    }

    /// The decoder key of a meter.
    ///
    /// # Errors
    /// [`DeriveError`].
    ///
    /// # Source
    /// STS fact sheet, A5.
    pub fn derive(
        &self,
        algorithm: Algorithm,
        pan: &Pan,
        attributes: &KeyAttributes,
    ) -> Result<DecoderKey, DeriveError> {
        if attributes.key_type == KeyType::Initialisation {
            return Err(DeriveError::Initialisation);
        }
        match self {
            Self::Dkga02(_) if algorithm != Algorithm::Sta => Err(DeriveError::Algorithm),
            Self::Dkga02(key) => {
                Ok(derive_dkga02(key, pan_block(pan, attributes) ^ control_block(attributes)))
            }
            Self::Dkga04(_) if attributes.key_type == KeyType::Common => Err(DeriveError::Common),
            Self::Dkga04(key) => Ok(derive_dkga04(key, algorithm, &message(algorithm, pan, attributes))),
        }
    }
}

/// Number of a derivation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dkga {
    /// 02.
    Two,
    /// 04.
    Four,
}

fn decimal_as_hex(digits: impl IntoIterator<Item = u8>) -> u64 {
    digits.into_iter().fold(0, |block, digit| block << 4 | u64::from(digit & 0xF))
}

/// The last digits of the issuer's number and all of the meter's, 16 together.
fn pan_block(pan: &Pan, attributes: &KeyAttributes) -> u64 {
    let drn = pan.drn();
    let head = pan.iin().len().saturating_sub(16usize.saturating_sub(drn.len()));
    let iin = pan.iin().get(head..).unwrap_or_default().iter().copied();
    let common = attributes.key_type == KeyType::Common;
    decimal_as_hex(iin.chain(drn.iter().map(|digit| if common { 0 } else { *digit })))
}

fn control_block(attributes: &KeyAttributes) -> u64 {
    let text = format!(
        "{}{:06}{:02}{}",
        attributes.key_type.number(),
        attributes.supply_group.value(),
        attributes.tariff_index.value(),
        attributes.revision.value(),
    );
    decimal_as_hex(text.bytes().map(|byte| byte.wrapping_sub(b'0'))) << 24 | 0xFF_FFFF
}

fn message(algorithm: Algorithm, pan: &Pan, attributes: &KeyAttributes) -> Vec<u8> {
    let (code, bits) = match algorithm {
        Algorithm::Misty1 => ("11", 128u32),
        _ => ("07", 64),
    };
    let mut message = Vec::with_capacity(49);
    let mut group = |texts: [&str; 4]| {
        message.push(4);
        for text in texts {
            message.push(u8::try_from(text.len()).unwrap_or_default());
            message.extend_from_slice(text.as_bytes());
        }
    };
    group(["04", attributes.base.code(), code, &format!("{:02}", attributes.tariff_index.value())]);
    group([
        &format!("{:06}", attributes.supply_group.value()),
        &format!("{}", attributes.key_type.number()),
        &format!("{}", attributes.revision.value()),
        &format!("{pan}"),
    ]);
    // One zero octet parts what the key is for from whom it is for.
    message.insert(13, 0);
    message.extend_from_slice(&bits.to_be_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{DrnCheck, KeyExpiryNumber, KeyRevisionNumber, SupplyGroupCode, TariffIndex};
    use crate::tid::BaseDate;

    fn attributes(group: u32) -> KeyAttributes {
        KeyAttributes {
            key_type: KeyType::Unique,
            supply_group: SupplyGroupCode::new(group).unwrap(),
            tariff_index: TariffIndex::new(1).unwrap(),
            revision: KeyRevisionNumber::new(1).unwrap(),
            expiry: KeyExpiryNumber(255),
            base: BaseDate::Y2014,
        }
    }

    #[test]
    fn blocks_and_message_are_those_of_the_sheet() {
        let pan = Pan::parse("600727000000000009", DrnCheck::Strict).unwrap();
        assert_eq!(pan_block(&pan, &attributes(123_456)), 0x0072_7000_0000_0000);
        assert_eq!(control_block(&attributes(123_456)), 0x2123_4560_11FF_FFFF);
        let expected = "04023034023134023037023031000406323031343537013201311236303037323730303030303030303030\
                        303900000040";
        let found = message(Algorithm::Sta, &pan, &attributes(201_457));
        assert_eq!(hex::encode(found), expected);
    }

    #[test]
    fn what_was_not_verified_is_refused() {
        let pan = Pan::parse("600727000000000009", DrnCheck::Strict).unwrap();
        let four = VendingKey::take(Dkga::Four, &mut [7; 20]).unwrap();
        let two = VendingKey::take(Dkga::Two, &mut [7; 8]).unwrap();
        let of = |key_type| KeyAttributes { key_type, ..attributes(1) };
        let refused =
            |key: &VendingKey, algorithm, key_type| key.derive(algorithm, &pan, &of(key_type)).unwrap_err();
        assert_eq!(refused(&four, Algorithm::Misty1, KeyType::Common), DeriveError::Common);
        assert_eq!(refused(&four, Algorithm::Misty1, KeyType::Initialisation), DeriveError::Initialisation);
        assert_eq!(refused(&two, Algorithm::Misty1, KeyType::Unique), DeriveError::Algorithm);
        assert!(two.derive(Algorithm::Sta, &pan, &of(KeyType::Common)).is_ok());
        assert!(
            VendingKey::take(Dkga::Four, &mut [7; 8]).is_err()
                && VendingKey::take(Dkga::Two, &mut [7; 20]).is_err()
        );
    }
}
