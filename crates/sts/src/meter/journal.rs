//! Records on storage: two slots, written in turn, each with a sequence number and a check sum.

use alloc::vec::Vec;

use gridseal_crypto::sts::Algorithm;

use crate::{
    identity::{KeyAttributes, KeyExpiryNumber, KeyRevisionNumber, KeyType, SupplyGroupCode, TariffIndex},
    tid::{BaseDate, Tid},
};

use super::{
    Lockout, TidMemory,
    state::{Before, Configuration, Registers, State},
};

const MAGIC: [u8; 4] = *b"GST1";
/// Longest wrapped key that a record holds, bytes.
const WRAPPED_SIZE_MAX: usize = 1_024;

/// One of the two places for a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slot {
    /// First.
    A,
    /// Second.
    B,
}

impl Slot {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// The record in force after a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// State.
    pub state: State,
    /// Where it lies.
    pub slot: Slot,
}

/// Neither slot holds a whole record: the meter must not start as if it were new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no slot holds a whole record: storage is damaged")]
pub struct RecoverError;

/// Chooses the newest whole record.
///
/// # Errors
/// [`RecoverError`] when there is none.
pub fn recover(a: &[u8], b: &[u8]) -> Result<Recovered, RecoverError> {
    let a = decode(a).map(|state| Recovered { state, slot: Slot::A });
    let b = decode(b).map(|state| Recovered { state, slot: Slot::B });
    match (a, b) {
        (Some(a), Some(b)) if b.state.sequence > a.state.sequence => Ok(b),
        (Some(a), _) => Ok(a),
        (None, Some(b)) => Ok(b),
        (None, None) => Err(RecoverError),
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            let carry = (crc & 1).wrapping_neg();
            crc >> 1 ^ carry & 0xEDB8_8320
        })
    })
}

/// The record of a state; integers big-endian.
#[must_use]
pub fn encode(state: &State) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&state.sequence.to_be_bytes());
    let Configuration { algorithm, magnetic_card, refuse_future, register_max } = state.configuration;
    out.extend_from_slice(&[
        u8::from(algorithm == Algorithm::Misty1),
        u8::from(magnetic_card),
        u8::from(refuse_future),
        u8::from(state.registers.is_tampered),
        state.lockout.bad_count,
    ]);
    key(&mut out, &state.attributes, &state.wrapped_key);
    out.push(u8::from(state.before.is_some()));
    if let Some(before) = &state.before {
        key(&mut out, &before.attributes, &before.wrapped_key);
    }
    out.extend_from_slice(&register_max.to_be_bytes());
    state.registers.credit.iter().for_each(|credit| out.extend_from_slice(&credit.to_be_bytes()));
    for limit in [state.registers.power_max_w, state.registers.unbalance_max_w] {
        out.push(u8::from(limit.is_some()));
        out.extend_from_slice(&limit.unwrap_or_default().to_be_bytes());
    }
    counted(&mut out, state.memory.tids().len());
    state.memory.tids().iter().for_each(|tid| out.extend_from_slice(&tid.bits().to_be_bytes()));
    let crc = crc32(&out);
    out.extend_from_slice(&crc.to_be_bytes());
    out
}

fn key(out: &mut Vec<u8>, attributes: &KeyAttributes, wrapped: &[u8]) {
    out.extend_from_slice(&[
        attributes.key_type.number(),
        attributes.tariff_index.value(),
        attributes.revision.value(),
        attributes.expiry.0,
    ]);
    out.extend_from_slice(&attributes.base.year().to_be_bytes());
    out.extend_from_slice(&attributes.supply_group.value().to_be_bytes());
    counted(out, wrapped.len());
    out.extend_from_slice(wrapped);
}

fn counted(out: &mut Vec<u8>, count: usize) {
    // Both counts are bounded far below 2^16 where they are made.
    out.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes());
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn flag(&mut self) -> Option<bool> {
        match self.array::<1>()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    fn limit(&mut self) -> Option<Option<u32>> {
        let is_there = self.flag()?;
        let value = u32::from_be_bytes(self.array()?);
        Some(is_there.then_some(value))
    }

    fn count(&mut self) -> Option<usize> {
        Some(usize::from(u16::from_be_bytes(self.array()?)))
    }

    fn key(&mut self) -> Option<(KeyAttributes, Vec<u8>)> {
        let [key_type, tariff_index, revision, expiry] = self.array()?;
        let attributes = KeyAttributes {
            key_type: KeyType::from_number(key_type)?,
            tariff_index: TariffIndex::new(tariff_index).ok()?,
            revision: KeyRevisionNumber::new(revision).ok()?,
            expiry: KeyExpiryNumber(expiry),
            base: BaseDate::of_year(u16::from_be_bytes(self.array()?))?,
            supply_group: SupplyGroupCode::new(u32::from_be_bytes(self.array()?)).ok()?,
        };
        let count = self.count().filter(|count| *count <= WRAPPED_SIZE_MAX)?;
        Some((attributes, self.bytes(count)?.to_vec()))
    }
}

/// The state of a whole record; `None` for anything else. What lies behind a record in its slot is not looked at.
pub(super) fn decode(bytes: &[u8]) -> Option<State> {
    let mut cursor = Cursor(bytes);
    if cursor.array::<4>()? != MAGIC {
        return None;
    }
    let sequence = u64::from_be_bytes(cursor.array()?);
    let algorithm = if cursor.flag()? { Algorithm::Misty1 } else { Algorithm::Sta };
    let (magnetic_card, refuse_future) = (cursor.flag()?, cursor.flag()?);
    let is_tampered = cursor.flag()?;
    let [bad_count] = cursor.array()?;
    let (attributes, wrapped_key) = cursor.key()?;
    let before = match cursor.flag()? {
        true => cursor.key().map(|(attributes, wrapped_key)| Some(Before { wrapped_key, attributes }))?,
        false => None,
    };
    let register_max = i64::from_be_bytes(cursor.array()?);
    let mut credit = [0; 8];
    for register in &mut credit {
        *register = i64::from_be_bytes(cursor.array()?);
    }
    let (power_max_w, unbalance_max_w) = (cursor.limit()?, cursor.limit()?);
    let mut tids = Vec::new();
    for _ in 0..cursor.count()? {
        tids.push(Tid::from_bits(u32::from_be_bytes(cursor.array()?)));
    }
    let memory = TidMemory::from_stored(tids)?;
    let size = bytes.len().checked_sub(cursor.0.len())?;
    if u32::from_be_bytes(cursor.array()?) != crc32(bytes.get(..size)?) {
        return None;
    }
    Some(State {
        sequence,
        configuration: Configuration { algorithm, magnetic_card, refuse_future, register_max },
        attributes,
        wrapped_key,
        before,
        memory,
        lockout: Lockout { bad_count },
        registers: Registers { credit, power_max_w, unbalance_max_w, is_tampered },
    })
}
