//! The meter's side: when a token is taken, what it changes, and what must be durable before anybody is told.
//!
//! [`Meter::handle`] takes an input; [`Meter::poll`] is drained after it. A token leads to [`Output::Persist`] with a whole
//! record, and only after [`Input::Persisted`] to [`Output::Told`]. Until then no other token is taken. A record is
//! written to the slot that is not in use, so that a cut at any byte leaves the old record or the new one; [`recover`]
//! chooses. Credit and token memory are in one record: a token is used and booked, or neither.

mod accept;
mod journal;
mod lockout;
mod memory;
mod state;

use alloc::{collections::VecDeque, vec::Vec};

use gridseal_crypto::sts::DecoderKey;
use gridseal_types::{Tick, UtcTime};

use crate::{key_change::Sections, token::Token};

pub use accept::{Accepted, Refusal};
pub use journal::{RecoverError, Recovered, Slot, encode as encode_record, recover};
pub use lockout::Lockout;
pub use memory::{TidMemory, TidMemoryError};
pub use state::{Before, Configuration, Registers, State};

/// How long sections of an incomplete key change are kept, milliseconds.
const SECTIONS_AGE_MAX_MS: u64 = 24 * 3_600_000;

/// Keeps keys for the meter: its secure element, or what stands for it.
pub trait KeyVault {
    /// Wraps a key for storage; `None` when that fails, and the token is not taken.
    fn wrap(&mut self, key: &DecoderKey) -> Option<Vec<u8>>;
    /// Opens a wrapped key; `None` when it is not of this vault.
    fn unwrap_key(
        &mut self,
        algorithm: gridseal_crypto::sts::Algorithm,
        wrapped: &[u8],
    ) -> Option<DecoderKey>;
}

/// What goes in.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input {
    /// A token was entered; the time when the meter has a clock that it trusts.
    Token(Token, Option<UtcTime>),
    /// The record with this sequence number is durable.
    Persisted(u64),
}

/// What comes out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Write this record to this slot, durably, then answer [`Input::Persisted`].
    Persist {
        /// Sequence number.
        sequence: u64,
        /// Slot to write; the other one holds the record in force.
        slot: Slot,
        /// Record.
        record: Vec<u8>,
    },
    /// Tell the customer.
    Told(Result<Accepted, Refusal>),
}

/// An input that does not fit the present state; nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MeterError {
    /// A record waits to be made durable.
    #[error("a record is not durable yet")]
    Busy,
    /// No record with this sequence number waits.
    #[error("record {0} is not awaited")]
    NotAwaited(u64),
    /// The vault failed; the token is as good as before.
    #[error("key vault failed")]
    Vault,
}

/// Keys of the meter, opened.
#[derive(Debug)]
pub(crate) struct Keys {
    /// In force.
    pub(crate) present: DecoderKey,
    /// The one before, until a token under the present one has proved it. It opens key change sections only: a set mixed
    /// from two sets cannot be told from a good one, and must not leave the meter with a key that nobody has.
    pub(crate) before: Option<DecoderKey>,
}

struct Waiting {
    state: State,
    keys: Option<Keys>,
    told: Result<Accepted, Refusal>,
}

/// The meter.
pub struct Meter {
    state: State,
    keys: Keys,
    slot: Slot,
    sections: Sections,
    sections_since: Tick,
    /// Since when the lock-out in force runs; a power cut starts it anew.
    locked_since: Tick,
    waiting: Option<Waiting>,
    outputs: VecDeque<Output>,
}

impl core::fmt::Debug for Meter {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Meter").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Meter {
    /// A meter that starts, from the record that [`recover`] chose.
    ///
    /// # Errors
    /// [`MeterError::Vault`] when its keys do not open.
    pub fn start(
        recovered: journal::Recovered,
        now: Tick,
        vault: &mut dyn KeyVault,
    ) -> Result<Self, MeterError> {
        let journal::Recovered { state, slot } = recovered;
        let algorithm = state.configuration.algorithm;
        let mut open = |wrapped: &[u8]| vault.unwrap_key(algorithm, wrapped).ok_or(MeterError::Vault);
        let present = open(&state.wrapped_key)?;
        let before = state.before.as_ref().map(|before| open(&before.wrapped_key)).transpose()?;
        Ok(Self {
            state,
            keys: Keys { present, before },
            slot,
            sections: Sections::default(),
            sections_since: now,
            locked_since: now,
            waiting: None,
            outputs: VecDeque::new(),
        })
    }

    /// What is in force.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Feeds one input.
    ///
    /// # Errors
    /// [`MeterError`]; nothing changed.
    pub fn handle(&mut self, now: Tick, input: Input, vault: &mut dyn KeyVault) -> Result<(), MeterError> {
        match input {
            Input::Token(token, time) => self.token(now, token, time, vault),
            Input::Persisted(sequence) => self.persisted(now, sequence),
        }
    }

    /// The next output; drain it after every input.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn token(
        &mut self,
        now: Tick,
        token: Token,
        time: Option<UtcTime>,
        vault: &mut dyn KeyVault,
    ) -> Result<(), MeterError> {
        if self.waiting.is_some() {
            return Err(MeterError::Busy);
        }
        if now.0.saturating_sub(self.sections_since.0) > SECTIONS_AGE_MAX_MS {
            self.sections = Sections::default();
        }
        if self.sections.is_empty() {
            self.sections_since = now;
        }
        let locked_ms = self.state.lockout.left_ms(self.locked_since, now);
        let decision = accept::decide(
            &self.state,
            &self.keys,
            &mut self.sections,
            accept::Entered { token, time, locked_ms },
            vault,
        )?;
        let accept::Decision { state, keys, told } = decision;
        match state {
            // Nothing to remember: tests, sections that wait for others, refusals while locked.
            None => self.outputs.push_back(Output::Told(told)),
            Some(mut state) => {
                state.sequence = self.state.sequence.saturating_add(1);
                let slot = self.slot.other();
                let record = journal::encode(&state);
                self.outputs.push_back(Output::Persist { sequence: state.sequence, slot, record });
                self.waiting = Some(Waiting { state, keys, told });
            }
        }
        Ok(())
    }

    fn persisted(&mut self, now: Tick, sequence: u64) -> Result<(), MeterError> {
        match self.waiting.take() {
            Some(waiting) if waiting.state.sequence == sequence => {
                // A refusal that is durable is a bad entry: its lock-out begins now, however many there were.
                if waiting.told.is_err() {
                    self.locked_since = now;
                }
                self.state = waiting.state;
                self.slot = self.slot.other();
                if let Some(keys) = waiting.keys {
                    self.keys = keys;
                    self.sections = Sections::default();
                }
                self.outputs.push_back(Output::Told(waiting.told));
                Ok(())
            }
            waiting => {
                self.waiting = waiting;
                Err(MeterError::NotAwaited(sequence))
            }
        }
    }
}
