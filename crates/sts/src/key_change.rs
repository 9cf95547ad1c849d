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

/// A key change that must not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyChangeError {
    /// The memory of identifiers is cleared while the key stays: every token that was used would be good again.
    #[error(
        "the base date changes but the key does not: used tokens would be good again; change the key revision"
    )]
    SameKey,
    /// The two keys are for different algorithms.
    #[error("the new key is for another encryption algorithm than the present one")]
    Algorithm,
}

impl KeyChange<'_> {
    /// The tokens, under the present key, in order.
    ///
    /// # Errors
    /// [`KeyChangeError`].
    ///
    /// # Source
    /// STS fact sheet, A7.
    pub fn tokens(&self, present: &DecoderKey) -> Result<Vec<Token>, KeyChangeError> {
        if present.algorithm() != self.key.algorithm() {
            return Err(KeyChangeError::Algorithm);
        }
        if self.roll_over && present.ct_eq(self.key) {
            return Err(KeyChangeError::SameKey);
        }
        let is_sta = self.key.algorithm() == Algorithm::Sta;
        // Which part of the key each section carries.
        let order: &[usize] = if is_sta { &[0, 1] } else { &[0, 3, 1, 2] };
        let parts: Vec<KeyPart> = self.key.parts().collect();
        let seal = |subclass, payload| Block { class: Class::Management, subclass, payload }.seal(present);
        let with_key = order.iter().zip(SUBCLASSES).filter_map(|(part, subclass)| {
            Some(seal(subclass, parts.get(*part)?.in_section(self.fields(subclass))))
        });
        let supply_group = u64::from(self.attributes.supply_group.value()) << 20;
        Ok(with_key.chain((is_sta && self.triplet).then(|| seal(8, supply_group))).collect())
    }

    /// The upper 12 bits of a section that carries a part of the key.
    fn fields(&self, subclass: u8) -> u64 {
        let KeyAttributes { expiry, revision, key_type, tariff_index, supply_group, .. } = self.attributes;
        let ken = u64::from(expiry.0);
        let is_three = self.triplet && self.key.algorithm() == Algorithm::Sta;
        match subclass {
            3 => {
                ken >> 4 << 8
                    | u64::from(revision.value()) << 4
                    | u64::from(self.roll_over) << 3
                    | u64::from(is_three) << 2
                    | u64::from(key_type.number())
            }
            4 => (ken & 0xF) << 8 | u64::from(tariff_index.value()),
            8 => u64::from(supply_group.value()) & 0xFFF,
            _ => u64::from(supply_group.value()) >> 12,
        }
    }
}

/// What the first section says of the new key.
struct Header {
    expiry_high: u8,
    revision: KeyRevisionNumber,
    key_type: KeyType,
    roll_over: bool,
    triplet: bool,
}

impl Header {
    fn of(fields: u64) -> Result<Self, SectionError> {
        Ok(Self {
            expiry_high: byte(fields, 8, 4),
            revision: KeyRevisionNumber::new(byte(fields, 4, 4)).map_err(|_| SectionError)?,
            roll_over: bits(fields, 3, 1) == 1,
            triplet: bits(fields, 2, 1) == 1,
            key_type: KeyType::from_number(byte(fields, 0, 2)).ok_or(SectionError)?,
        })
    }
}

/// What the second section says: the lower half of the expiry number, and the tariff index.
fn second_fields(fields: u64) -> Result<(u8, TariffIndex), SectionError> {
    let index = TariffIndex::new(byte(fields, 0, 8)).map_err(|_| SectionError)?;
    Ok((byte(fields, 8, 4), index))
}

/// One section: the upper 12 bits of its payload, and the lower 32, which are a part of a key (or, in the third section of
/// EA 07, of a supply group code).
#[derive(Debug)]
struct Section {
    fields: u64,
    part: KeyPart,
}

/// Sections on their way to a set, in any order. In memory only: a part of a key is never stored.
#[derive(Debug, Default)]
pub struct Sections {
    /// First to fourth.
    held: [Option<Section>; 4],
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
    /// Takes a section whose check sum was right. One that differs from the section with its number starts a new set, and
    /// so does one under another key: the others may belong to the old set, and a key made of two sets is nobody's.
    ///
    /// # Errors
    /// [`SectionError`]; nothing is kept of it.
    pub fn take(&mut self, block: Block, under_before: bool) -> Result<(), SectionError> {
        let fields = bits(block.payload, 32, 12);
        match block.subclass {
            3 => Header::of(fields).map(|_| ())?,
            4 => second_fields(fields).map(|_| ())?,
            _ => {}
        }
        let part = KeyPart::of_section(block.payload);
        let place = SUBCLASSES.iter().position(|subclass| *subclass == block.subclass).ok_or(SectionError)?;
        let held = self.held.get(place).ok_or(SectionError)?.as_ref();
        let differs = held.is_some_and(|held| held.fields != fields || !held.part.ct_eq(&part));
        if differs || self.under_before != under_before {
            *self = Self { under_before, ..Self::default() };
        }
        if let Some(held) = self.held.get_mut(place) {
            *held = Some(Section { fields, part });
        }
        Ok(())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.iter().all(Option::is_none)
    }

    /// The set, when it is complete for a meter with this algorithm.
    ///
    /// # Errors
    /// [`SectionError`] when a supply group is out of range: the set is of no use.
    pub fn complete(&self, algorithm: Algorithm) -> Result<Option<CompleteSet>, SectionError> {
        let [Some(first), Some(second), third, fourth] = &self.held else { return Ok(None) };
        let header = Header::of(first.fields)?;
        let (expiry_low, tariff_index) = second_fields(second.fields)?;
        let group = |value: u64| {
            let value = u32::try_from(value).map_err(|_| SectionError)?;
            SupplyGroupCode::new(value).map(Some).map_err(|_| SectionError)
        };
        let (parts, supply_group) = match (algorithm, third, fourth) {
            (Algorithm::Misty1, Some(third), Some(fourth)) => (
                alloc::vec![&first.part, &third.part, &fourth.part, &second.part],
                group(fourth.fields << 12 | third.fields)?,
            ),
            (Algorithm::Misty1, ..) => return Ok(None),
            (_, Some(third), _) if header.triplet => {
                let payload = third.part.in_section(third.fields);
                if bits(payload, 0, 20) != 0 {
                    return Err(SectionError);
                }
                (alloc::vec![&first.part, &second.part], group(bits(payload, 20, 24))?)
            }
            _ if header.triplet => return Ok(None),
            _ => (alloc::vec![&first.part, &second.part], None),
        };
        let key = DecoderKey::join(algorithm, &parts).ok_or(SectionError)?;
        Ok(Some(CompleteSet {
            key,
            key_type: header.key_type,
            revision: header.revision,
            expiry: KeyExpiryNumber(header.expiry_high << 4 | expiry_low & 0xF),
            tariff_index,
            supply_group,
            roll_over: header.roll_over,
        }))
    }
}
