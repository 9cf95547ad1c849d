//! A meter's key in the size of its suite: 16 bytes in suites 0 and 1, 32 in suite 2.

use alloc::vec::Vec;

use gridseal_crypto::{
    Curve, EnvelopeContext, EnvelopeError, Key, Rng, RngError, WrappedKey,
    role::{Kek, Role},
};
use gridseal_dlms::suite::agreement::{AgreementFault, Parties, Side};
use gridseal_types::service::keys::Bytes;

use crate::{DataKeys, KeysError, record::opened};

/// A key of one role. Closed: the sizes of the suites.
#[derive(Debug)]
#[allow(clippy::exhaustive_enums, reason = "the sizes of the suites")]
pub enum MeterKey<R: Role> {
    /// Of suite 0 or 1.
    Short(Key<R, 16>),
    /// Of suite 2.
    Long(Key<R, 32>),
}

impl<R: Role> From<Key<R, 16>> for MeterKey<R> {
    fn from(key: Key<R, 16>) -> Self {
        Self::Short(key)
    }
}

impl<R: Role> From<Key<R, 32>> for MeterKey<R> {
    fn from(key: Key<R, 32>) -> Self {
        Self::Long(key)
    }
}

impl<R: Role> MeterKey<R> {
    /// Whether its size is that of a suite.
    #[must_use]
    pub const fn fits(&self, suite: u8) -> bool {
        matches!((self, suite), (Self::Short(_), 0 | 1) | (Self::Long(_), 2))
    }

    pub(crate) fn generate(suite: u8, rng: &mut dyn Rng) -> Result<Self, RngError> {
        if suite == 2 { Key::generate(rng).map(Self::Long) } else { Key::generate(rng).map(Self::Short) }
    }

    pub(crate) fn open(
        keys: &DataKeys,
        context: &EnvelopeContext,
        envelope: &Bytes,
    ) -> Result<Self, KeysError> {
        if context.suite == 2 {
            opened(keys, context, envelope).map(Self::Long)
        } else {
            opened(keys, context, envelope).map(Self::Short)
        }
    }

    pub(crate) fn wrap(
        &self,
        keys: &DataKeys,
        context: &EnvelopeContext,
        rng: &mut dyn Rng,
    ) -> Result<WrappedKey, EnvelopeError> {
        match self {
            Self::Short(key) => key.wrap(keys, context, rng),
            Self::Long(key) => key.wrap(keys, context, rng),
        }
    }

    /// The key that a meter's point and our own side give.
    pub(crate) fn agreed(
        side: &Side,
        other: &gridseal_crypto::CurvePublic,
        parties: Parties,
    ) -> Result<Self, AgreementFault> {
        match other.curve() {
            Curve::P256 => side.key(other, parties).map(Self::Short),
            Curve::P384 => side.key(other, parties).map(Self::Long),
        }
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Short(one), Self::Short(other)) => one.ct_eq(other).into(),
            (Self::Long(one), Self::Long(other)) => one.ct_eq(other).into(),
            _ => false,
        }
    }

    /// The bytes in hex, for the inventory of a demo's or a test's own throw-away keys.
    #[cfg(feature = "danger-inventory")]
    pub(crate) fn danger_reveal_hex(&self) -> alloc::string::String {
        match self {
            Self::Short(key) => key.danger_reveal_hex(),
            Self::Long(key) => key.danger_reveal_hex(),
        }
    }
}

impl MeterKey<Kek> {
    /// Wraps a key for the meter that holds this one; `None` for a key of another size.
    pub(crate) fn wrap_for_meter<R: Role>(&self, key: &MeterKey<R>) -> Option<Vec<u8>> {
        match (self, key) {
            (Self::Short(kek), MeterKey::Short(key)) => Some(kek.wrap_for_meter(key)),
            (Self::Long(kek), MeterKey::Long(key)) => Some(kek.wrap_for_meter(key)),
            _ => None,
        }
    }
}
