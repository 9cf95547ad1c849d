//! What a meter knows and must not forget.

use alloc::vec::Vec;

use gridseal_crypto::sts::Algorithm;

use crate::{identity::KeyAttributes, tid::Tid};

use super::{Lockout, TidMemory};

/// What is fixed when a meter is made or set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Configuration {
    /// How its tokens are enciphered.
    pub algorithm: Algorithm,
    /// Whether tokens come on magnetic cards (TCT 01): only then a common key is taken.
    pub magnetic_card: bool,
    /// Whether a meter with a trusted clock refuses identifiers more than a day ahead.
    pub refuse_future: bool,
    /// Largest credit that a register holds, in its unit.
    pub register_max: i64,
}

/// What tokens have set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Registers {
    /// Credit of electricity, water, gas, time in tenths of their unit, then of the same four in 10^-5 of the currency.
    pub credit: [i64; 8],
    /// Limit of power, watts.
    pub power_max_w: Option<u32>,
    /// Limit of phase unbalance, watts.
    pub unbalance_max_w: Option<u32>,
    /// Whether a tamper condition stands.
    pub is_tampered: bool,
}

/// The key before the present one, with its attributes: a set under it is judged by them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    /// The key, wrapped.
    pub wrapped_key: Vec<u8>,
    /// Its attributes.
    pub attributes: KeyAttributes,
}

/// Everything that one record holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Number of the record.
    pub sequence: u64,
    /// Set-up.
    pub configuration: Configuration,
    /// Attributes of the decoder key in force.
    pub attributes: KeyAttributes,
    /// That key, wrapped by the meter's vault.
    pub wrapped_key: Vec<u8>,
    /// The key before, until the present one is proved.
    pub before: Option<Before>,
    /// Identifiers taken.
    pub memory: TidMemory,
    /// Bad entries.
    pub lockout: Lockout,
    /// What tokens have set.
    pub registers: Registers,
}

impl State {
    /// A meter as it leaves the factory.
    #[must_use]
    pub const fn new(
        configuration: Configuration,
        attributes: KeyAttributes,
        wrapped_key: Vec<u8>,
        memory: TidMemory,
    ) -> Self {
        Self {
            sequence: 1,
            configuration,
            attributes,
            wrapped_key,
            before: None,
            memory,
            lockout: Lockout { bad_count: 0 },
            registers: Registers {
                credit: [0; 8],
                power_max_w: None,
                unbalance_max_w: None,
                is_tampered: false,
            },
        }
    }

    pub(crate) fn has_expired(&self, tid: Tid) -> bool {
        self.attributes.expiry.has_expired(tid)
    }
}
