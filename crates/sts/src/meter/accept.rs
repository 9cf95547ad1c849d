//! Whether a token is taken: format, class, decipherment, check sum, validation, execution, in this order.

use gridseal_types::UtcTime;

use crate::{
    amount::Amount,
    identity::{KeyAttributes, KeyType},
    key_change::{CompleteSet, Sections},
    tid::Tid,
    token::{Block, Class, Content, Function, Manufacturer, Token},
};

use super::{
    KeyVault, Keys, MeterError,
    memory::Standing,
    state::{Before, State},
};

/// How far ahead of a trusted clock an identifier may lie, minutes.
const FUTURE_MAX_MIN: u32 = 24 * 60;
/// Number of the register that stands for all.
const ALL_REGISTERS: u16 = 0xFFFF;

/// What an accepted token did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Accepted {
    /// Credit was booked.
    Credit {
        /// Register, 0 to 7.
        register: u8,
        /// Amount, in the register's unit.
        amount: i64,
    },
    /// A management function was done.
    Done(Function),
    /// Run these tests, show these values.
    Test {
        /// A bit each.
        control: u64,
        /// For whose meters; the meter's application ignores those of others.
        manufacturer: Manufacturer,
    },
    /// Show an extended flag.
    ReadExtended {
        /// Which.
        control: u64,
    },
    /// A section of a key change was taken; others are missing.
    Section,
    /// The decoder key was changed.
    KeyChanged,
}

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No token of a known class.
    #[error("format error")]
    Format,
    /// The check sum is wrong: mistyped, for another meter, or guessed.
    #[error("check sum error")]
    Crc,
    /// Its identifier lies below all that are remembered.
    #[error("token is old")]
    Old,
    /// Its identifier was used.
    #[error("token was used")]
    Used,
    /// Its identifier lies beyond the key's life.
    #[error("key has expired")]
    KeyExpired,
    /// Credit under a default key.
    #[error("credit under a default key")]
    DefaultKey,
    /// A key of a kind that the present one may not bring in.
    #[error("key type not permitted")]
    KeyType,
    /// The register would overflow. The token stays good.
    #[error("credit register would overflow")]
    Overflow,
    /// A value out of range.
    #[error("value out of range")]
    Range,
    /// A function that this meter does not have.
    #[error("function not available")]
    Function,
    /// Its identifier lies more than a day ahead of the meter's clock.
    #[error("token lies in the future")]
    Future,
    /// Too many bad entries; wait.
    #[error("locked for {left_s} s")]
    Locked {
        /// How long, seconds, rounded up.
        left_s: u32,
    },
}

impl Refusal {
    /// Whether the entry counts towards the lock-out: what has a right check sum is no guess, save once in 65,536 times.
    const fn is_bad_entry(self) -> bool {
        matches!(self, Self::Format | Self::Crc)
    }
}

/// An entry.
pub(crate) struct Entered {
    pub(crate) token: Token,
    pub(crate) time: Option<UtcTime>,
    pub(crate) locked_ms: u64,
}

/// What an entry comes to.
pub(crate) struct Decision {
    /// New state, to be made durable first; `None` when there is nothing to remember.
    pub(crate) state: Option<State>,
    /// New keys, in force once the state is durable.
    pub(crate) keys: Option<Keys>,
    pub(crate) told: Result<Accepted, Refusal>,
}

enum Taken {
    /// Changes `State`.
    Changed(Accepted),
    /// Changes nothing durable.
    Unchanged(Accepted),
    Key(CompleteSet, Option<UnderBefore>),
}

/// The set came under the key before the present one.
struct UnderBefore;

pub(crate) fn decide(
    state: &State,
    keys: &Keys,
    sections: &mut Sections,
    entered: Entered,
    vault: &mut dyn KeyVault,
) -> Result<Decision, MeterError> {
    let class = Block::class_of(entered.token);
    if entered.locked_ms > 0 && class != Class::Test {
        let left_s = u32::try_from(entered.locked_ms.div_ceil(1_000)).unwrap_or(u32::MAX);
        return Ok(Decision { state: None, keys: None, told: Err(Refusal::Locked { left_s }) });
    }
    let mut next = state.clone();
    let (block, before) = match open(keys, entered.token) {
        Ok(opened) => opened,
        Err(refusal) => return Ok(refused(next, refusal, class)),
    };
    match take(&mut next, sections, block, before, entered.time) {
        Err(refusal) => Ok(refused(state.clone(), refusal, class)),
        Ok(Taken::Unchanged(accepted)) => Ok(Decision { state: None, keys: None, told: Ok(accepted) }),
        Ok(Taken::Changed(accepted)) => {
            next.lockout = super::Lockout::default();
            // A token with an identifier that opened under the present key proves it.
            let keys = keys.before.is_some().then(|| open_present(&mut next, vault)).transpose()?;
            Ok(Decision { state: Some(next), keys, told: Ok(accepted) })
        }
        Ok(Taken::Key(set, under_before)) => {
            let old = if under_before.is_some() { keys.before.as_ref() } else { Some(&keys.present) };
            // Without another key a roll-over would make every used token good again.
            if set.roll_over && old.is_some_and(|old| old.ct_eq(&set.key)) {
                *sections = Sections::default();
                return Ok(refused(state.clone(), Refusal::Range, class));
            }
            let keys = change_key(&mut next, set, under_before, vault)?;
            Ok(Decision { state: Some(next), keys: Some(keys), told: Ok(Accepted::KeyChanged) })
        }
    }
}

fn refused(state: State, refusal: Refusal, class: Class) -> Decision {
    // Tests need no key, so guessing at them gains nothing.
    let counts = refusal.is_bad_entry() && class != Class::Test;
    let state = counts.then(|| State { lockout: state.lockout.more(), ..state });
    Decision { state, keys: None, told: Err(refusal) }
}

/// The block with a right check sum, and whether it came under the key before.
fn open(keys: &Keys, token: Token) -> Result<(Block, Option<UnderBefore>), Refusal> {
    if Block::class_of(token) == Class::Reserved {
        return Err(Refusal::Format);
    }
    let (block, is_right) = Block::open(token, Some(&keys.present)).ok_or(Refusal::Format)?;
    if is_right {
        return Ok((block, None));
    }
    let before = keys.before.as_ref().and_then(|key| Block::open(token, Some(key)));
    match before {
        Some((block, true)) if is_section(block) => Ok((block, Some(UnderBefore))),
        _ => Err(Refusal::Crc),
    }
}

fn is_section(block: Block) -> bool {
    block.class == Class::Management && matches!(block.subclass, 3 | 4 | 8 | 9)
}

fn take(
    state: &mut State,
    sections: &mut Sections,
    block: Block,
    before: Option<UnderBefore>,
    time: Option<UtcTime>,
) -> Result<Taken, Refusal> {
    let content = Content::of_block(block).map_err(|_| Refusal::Function)?;
    if let Some(tid) = content.tid() {
        validate(state, tid, time)?;
    }
    match content {
        Content::Credit { commodity, tid, amount, .. } => {
            book(state, commodity.number(), i64::from(amount.value()), tid)
        }
        Content::Currency { commodity, tid, amount } => {
            let amount = amount.value().ok_or(Refusal::Range)?;
            book(state, commodity.number() | 4, amount, tid)
        }
        Content::Management { function, tid, value, .. } => {
            manage(state, function, value)?;
            state.memory.remember(tid);
            Ok(Taken::Changed(Accepted::Done(function)))
        }
        Content::Test { control, manufacturer } => {
            Ok(Taken::Unchanged(Accepted::Test { control, manufacturer }))
        }
        Content::ReadExtended { control } => Ok(Taken::Unchanged(Accepted::ReadExtended { control })),
        Content::KeySection { .. } => section(state, sections, block, before),
    }
}

//= STS A8: old, then used, then beyond the key's life, otherwise valid
fn validate(state: &State, tid: Tid, time: Option<UtcTime>) -> Result<(), Refusal> {
    match state.memory.standing(tid) {
        Standing::Old => return Err(Refusal::Old),
        Standing::Used => return Err(Refusal::Used),
        Standing::New => {}
    }
    if state.has_expired(tid) {
        return Err(Refusal::KeyExpired);
    }
    let now = time.filter(|_| state.configuration.refuse_future);
    if let Some(now) = now.and_then(|now| Tid::at(state.attributes.base, now).ok())
        && tid.bits() > now.bits().saturating_add(FUTURE_MAX_MIN)
    {
        return Err(Refusal::Future);
    }
    Ok(())
}

fn book(state: &mut State, register: u8, amount: i64, tid: Tid) -> Result<Taken, Refusal> {
    if state.attributes.key_type == KeyType::Default {
        return Err(Refusal::DefaultKey);
    }
    let max = state.configuration.register_max;
    let credit = state.registers.credit.get_mut(usize::from(register)).ok_or(Refusal::Function)?;
    let sum = credit
        .checked_add(amount)
        .filter(|sum| (max.saturating_neg()..=max).contains(sum))
        .ok_or(Refusal::Overflow)?;
    *credit = sum;
    state.memory.remember(tid);
    Ok(Taken::Changed(Accepted::Credit { register, amount }))
}

fn manage(state: &mut State, function: Function, value: u16) -> Result<(), Refusal> {
    let registers = &mut state.registers;
    match function {
        Function::MaximumPower => registers.power_max_w = Some(Amount::from_bits(value).value()),
        Function::PhaseUnbalance => registers.unbalance_max_w = Some(Amount::from_bits(value).value()),
        Function::ClearTamper => registers.is_tampered = false,
        Function::ClearCredit if value == ALL_REGISTERS => registers.credit = [0; 8],
        Function::ClearCredit => {
            *registers.credit.get_mut(usize::from(value)).ok_or(Refusal::Range)? = 0;
        }
        // Their meaning is reserved or belongs to the meter's application: not guessed here.
        Function::TariffRate | Function::WaterFactor | Function::Extended => return Err(Refusal::Function),
    }
    Ok(())
}

fn section(
    state: &State,
    sections: &mut Sections,
    block: Block,
    before: Option<UnderBefore>,
) -> Result<Taken, Refusal> {
    let attributes = match (&before, &state.before) {
        (Some(_), Some(before)) => before.attributes,
        _ => state.attributes,
    };
    sections.take(block, before.is_some()).map_err(|_| Refusal::Range)?;
    match sections.complete(state.configuration.algorithm) {
        Ok(None) => Ok(Taken::Unchanged(Accepted::Section)),
        Ok(Some(set)) => {
            let allowed = attributes.key_type.may_bring(set.key_type)
                && (set.key_type != KeyType::Common || state.configuration.magnetic_card);
            // Both ends of a roll-over must exist.
            let base = if set.roll_over { attributes.base.next() } else { Some(attributes.base) };
            match (allowed, base) {
                (true, Some(_)) => Ok(Taken::Key(set, before)),
                (false, _) => {
                    *sections = Sections::default();
                    Err(Refusal::KeyType)
                }
                (true, None) => {
                    *sections = Sections::default();
                    Err(Refusal::Range)
                }
            }
        }
        Err(_) => {
            *sections = Sections::default();
            Err(Refusal::Range)
        }
    }
}

fn change_key(
    state: &mut State,
    set: CompleteSet,
    under_before: Option<UnderBefore>,
    vault: &mut dyn KeyVault,
) -> Result<Keys, MeterError> {
    let wrapped = vault.wrap(&set.key).ok_or(MeterError::Vault)?;
    let present = Before {
        wrapped_key: core::mem::replace(&mut state.wrapped_key, wrapped),
        attributes: state.attributes,
    };
    // A set under the key before replaces the one that was not proved; the key before stays.
    let before = match (under_before, state.before.take()) {
        (Some(UnderBefore), Some(before)) => before,
        _ => present,
    };
    let base = if set.roll_over { before.attributes.base.next() } else { None };
    state.attributes = KeyAttributes {
        key_type: set.key_type,
        supply_group: set.supply_group.unwrap_or(before.attributes.supply_group),
        tariff_index: set.tariff_index,
        revision: set.revision,
        expiry: set.expiry,
        base: base.unwrap_or(before.attributes.base),
    };
    if base.is_some() {
        state.memory.clear();
    }
    state.lockout = super::Lockout::default();
    let algorithm = state.configuration.algorithm;
    let opened = vault.unwrap_key(algorithm, &before.wrapped_key).ok_or(MeterError::Vault)?;
    state.before = Some(before);
    Ok(Keys { present: set.key, before: Some(opened) })
}

fn open_present(state: &mut State, vault: &mut dyn KeyVault) -> Result<Keys, MeterError> {
    state.before = None;
    let present =
        vault.unwrap_key(state.configuration.algorithm, &state.wrapped_key).ok_or(MeterError::Vault)?;
    Ok(Keys { present, before: None })
}
