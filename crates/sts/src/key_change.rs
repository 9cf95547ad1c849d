//! Key changes: a new decoder key in two, three or four tokens under the present one.

use alloc::vec::Vec;

use gridseal_crypto::sts::{Algorithm, DecoderKey, KeyPart};

use crate::{
    identity::{KeyAttributes, KeyExpiryNumber, KeyRevisionNumber, KeyType, SupplyGroupCode, TariffIndex},
    token::{Block, Class, Token},
};

/// Subclasses of the sections, first to fourth.
const SUBCLASSES: [u8; 4] = [3, 4, 8, 9];

/// The new key and what the set is to do.
#[derive(Debug, Clone, Copy)]
pub struct KeyChange<'k> {
    /// New key.
    pub key: &'k DecoderKey,
    /// Its attributes.
    pub attributes: KeyAttributes,
    /// Whether the base date changes: the meter then clears its memory of identifiers.
    pub roll_over: bool,
    /// Whether an EA 07 set has a third token, with the supply group. EA 11 sets always have four.
    pub triplet: bool,
}

impl KeyChange<'_> {
    /// The tokens, under the present key, in order.
    ///
    /// # Source
    /// STS fact sheet, A7.
    #[must_use]
    pub fn tokens(&self, present: &DecoderKey) -> Vec<Token> {
        self.blocks().map(|block| block.seal(present)).collect()
    }

    fn blocks(&self) -> impl Iterator<Item = Block> + '_ {
        let parts: Vec<KeyPart> = self.key.parts().collect();
        let fields = |section: usize| {
            let KeyAttributes { expiry, revision, key_type, tariff_index, supply_group, .. } =
                self.attributes;
            let ken = u64::from(expiry.0);
            let is_three = self.triplet && self.key.algorithm() == Algorithm::Sta;
            match section {
                0 => {
                    ken >> 4 << 8
                        | u64::from(revision.value()) << 4
                        | u64::from(self.roll_over) << 3
                        | u64::from(is_three) << 2
                        | u64::from(key_type.number())
                }
                1 => (ken & 0xF) << 8 | u64::from(tariff_index.value()),
                2 => u64::from(supply_group.value()) & 0xFFF,
                _ => u64::from(supply_group.value()) >> 12,
            }
        };
        // Which part of the key each section carries.
        let order: &[usize] = match self.key.algorithm() {
            Algorithm::Misty1 => &[0, 3, 1, 2],
            _ => &[0, 1],
        };
        let supply_group = (self.triplet && self.key.algorithm() == Algorithm::Sta)
            .then(|| u64::from(self.attributes.supply_group.value()) << 20);
        let sections: Vec<u64> = order
            .iter()
            .enumerate()
            .filter_map(|(section, part)| Some(parts.get(*part)?.in_section(fields(section))))
            .chain(supply_group)
            .collect();
        sections.into_iter().zip(SUBCLASSES).map(|(payload, subclass)| Block {
            class: Class::Management,
            subclass,
            payload,
        })
    }
}

/// What the first section says of the new key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    expiry_high: u8,
    revision: KeyRevisionNumber,
    key_type: KeyType,
    roll_over: bool,
    triplet: bool,
}

/// Sections on their way to a set, in any order. In memory only: a part of a key is never stored.
#[derive(Debug, Default)]
pub struct Sections {
    first: Option<(Header, KeyPart)>,
    second: Option<(u8, TariffIndex, KeyPart)>,
    /// The upper 12 bits of its payload; what is below them is a part of a key, or of a supply group code.
    third: Option<(u64, KeyPart)>,
    fourth: Option<(u32, KeyPart)>,
    /// Whether they came under the key before the present one.
    under_before: bool,
}

/// A complete set.
#[derive(Debug)]
pub struct CompleteSet {
    /// New key.
    pub key: DecoderKey,
    /// Kind of the new key.
    pub key_type: KeyType,
    /// Its revision.
    pub revision: KeyRevisionNumber,
    /// Its expiry.
    pub expiry: KeyExpiryNumber,
    /// Its tariff index.
    pub tariff_index: TariffIndex,
    /// Its supply group, when the set carries it.
    pub supply_group: Option<SupplyGroupCode>,
    /// Whether the base date moves on.
    pub roll_over: bool,
}

/// A section that no issuer makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("section of a key change holds a value out of range")]
pub struct SectionError;

fn bits(payload: u64, shift: u32, count: u32) -> u64 {
    payload.checked_shr(shift).unwrap_or(0)
        & 1u64.checked_shl(count).map_or(u64::MAX, |bit| bit.wrapping_sub(1))
}

fn byte(payload: u64, shift: u32, count: u32) -> u8 {
    u8::try_from(bits(payload, shift, count)).unwrap_or_default()
}

impl Sections {
    /// Takes a section whose check sum was right. A first section with another header starts a new set, and so does a
    /// section under another key.
    ///
    /// # Errors
    /// [`SectionError`]; nothing is kept of it.
    pub fn take(&mut self, block: Block, under_before: bool) -> Result<(), SectionError> {
        if self.under_before != under_before {
            *self = Self { under_before, ..Self::default() };
        }
        let payload = block.payload;
        let part = KeyPart::of_section(payload);
        match block.subclass {
            3 => {
                let header = Header {
                    expiry_high: byte(payload, 40, 4),
                    revision: KeyRevisionNumber::new(byte(payload, 36, 4)).map_err(|_| SectionError)?,
                    roll_over: bits(payload, 35, 1) == 1,
                    triplet: bits(payload, 34, 1) == 1,
                    key_type: KeyType::from_number(byte(payload, 32, 2)).ok_or(SectionError)?,
                };
                if self.first.as_ref().is_some_and(|(present, _)| *present != header) {
                    *self = Self { under_before, ..Self::default() };
                }
                self.first = Some((header, part));
            }
            4 => {
                let index = TariffIndex::new(byte(payload, 32, 8)).map_err(|_| SectionError)?;
                self.second = Some((byte(payload, 40, 4), index, part));
            }
            8 => self.third = Some((bits(payload, 32, 12), part)),
            9 => {
                let high = u32::try_from(bits(payload, 32, 12)).map_err(|_| SectionError)?;
                self.fourth = Some((high, part));
            }
            _ => return Err(SectionError),
        }
        Ok(())
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.first.is_none() && self.second.is_none() && self.third.is_none() && self.fourth.is_none()
    }

    /// The set, when it is complete for a meter with this algorithm.
    ///
    /// # Errors
    /// [`SectionError`] when a supply group is out of range: the set is of no use.
    pub fn complete(&self, algorithm: Algorithm) -> Result<Option<CompleteSet>, SectionError> {
        let (Some((header, first)), Some((expiry_low, tariff_index, second))) = (&self.first, &self.second)
        else {
            return Ok(None);
        };
        let group = |value: u64| {
            let value = u32::try_from(value).map_err(|_| SectionError)?;
            SupplyGroupCode::new(value).map(Some).map_err(|_| SectionError)
        };
        let (parts, supply_group) = match (algorithm, &self.third, &self.fourth) {
            (Algorithm::Misty1, Some((low, third)), Some((high, fourth))) => {
                (alloc::vec![first, third, fourth, second], group(u64::from(*high) << 12 | low)?)
            }
            (Algorithm::Misty1, ..) => return Ok(None),
            (_, Some((upper, lower)), _) if header.triplet => {
                let payload = lower.in_section(*upper);
                if bits(payload, 0, 20) != 0 {
                    return Err(SectionError);
                }
                (alloc::vec![first, second], group(bits(payload, 20, 24))?)
            }
            _ if header.triplet => return Ok(None),
            _ => (alloc::vec![first, second], None),
        };
        let key = DecoderKey::join(algorithm, &parts).ok_or(SectionError)?;
        Ok(Some(CompleteSet {
            key,
            key_type: header.key_type,
            revision: header.revision,
            expiry: KeyExpiryNumber(header.expiry_high << 4 | expiry_low & 0xF),
            tariff_index: *tariff_index,
            supply_group,
            roll_over: header.roll_over,
        }))
    }
}
