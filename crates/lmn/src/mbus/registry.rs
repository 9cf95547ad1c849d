//! Configured meters, found by a hash of their address, and the counters that keep replays out.

use gridseal_crypto::{
    Key,
    lmn::{KeyMap, MeterKeyRef},
    role::MeterLmn,
};

use super::{
    address::MeterAddress,
    open::{Counter, KeySource, Known, Profile},
};

/// The last accepted message of a meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastMessage {
    /// Message counter.
    pub counter: u32,
    /// The first eight bytes of its authentication code: tells a radio repeat from another message.
    pub tag: [u8; 8],
}

#[derive(Debug, Clone, Copy)]
struct State {
    profile: Option<Profile>,
    has_last: bool,
    last: LastMessage,
}

/// A meter cannot be configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The key stands in documentation.
    #[error("key of meter {meter} is a well-known default and protects nothing")]
    WellKnownKey {
        /// Address of the meter.
        meter: MeterAddress,
    },
    /// The meter is configured twice.
    #[error("meter {meter} is configured twice")]
    Twice {
        /// Address of the meter.
        meter: MeterAddress,
    },
}

/// Keys, expected protection and last counters of very many meters. A slot is 48 bytes, key included; a registry made
/// [`Registry::with_capacity`] has 5 slots for 4 meters, 60 bytes each.
///
/// One key for each meter: a new key is put in with [`Registry::replace`], which begins a new counter.
#[derive(Debug, Default)]
pub struct Registry {
    meters: KeyMap<State>,
    accepts_well_known: bool,
}

impl Registry {
    /// A registry that takes `count` meters before it grows.
    #[must_use]
    pub fn with_capacity(count: usize) -> Self {
        Self { meters: KeyMap::with_capacity(count), accepts_well_known: false }
    }

    /// Takes keys that stand in documentation too: for bench work with test keys, never for a gateway.
    pub const fn danger_accept_well_known_keys(&mut self) {
        self.accepts_well_known = true;
    }

    /// Meters configured.
    #[must_use]
    pub fn len(&self) -> usize {
        self.meters.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.meters.is_empty()
    }

    /// Bytes that the table occupies, keys included.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.meters.size_bytes()
    }

    /// Configures a meter. With `profile` nothing weaker and nothing else is accepted from it; without, every profile
    /// that encrypts.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn insert(
        &mut self,
        meter: MeterAddress,
        key: &Key<MeterLmn, 16>,
        profile: Option<Profile>,
    ) -> Result<(), RegistryError> {
        if self.meters.find(meter.0).is_some() {
            return Err(RegistryError::Twice { meter });
        }
        self.replace(meter, key, profile)
    }

    /// Configures a meter, or gives it a new key and with it a new counter.
    ///
    /// # Errors
    /// [`RegistryError::WellKnownKey`].
    pub fn replace(
        &mut self,
        meter: MeterAddress,
        key: &Key<MeterLmn, 16>,
        profile: Option<Profile>,
    ) -> Result<(), RegistryError> {
        //= LMN 7: well-known default keys are refused by policy
        if !self.accepts_well_known && MeterKeyRef::from(key).is_well_known() {
            return Err(RegistryError::WellKnownKey { meter });
        }
        let last = LastMessage { counter: 0, tag: [0; 8] };
        self.meters.insert(meter.0, key, State { profile, has_last: false, last });
        Ok(())
    }

    /// The last accepted message of a meter, `None` before the first and for a meter that is not configured.
    #[must_use]
    pub fn last(&self, meter: MeterAddress) -> Option<LastMessage> {
        self.meters.find(meter.0).filter(|entry| entry.value.has_last).map(|entry| entry.value.last)
    }

    /// Restores what was made durable, at start.
    pub fn restore(&mut self, meter: MeterAddress, last: LastMessage) {
        if let Some(state) = self.meters.value_mut(meter.0) {
            (state.has_last, state.last) = (true, last);
        }
    }

    /// Takes over a counter that was made durable before. It never goes back.
    pub fn accept(&mut self, counter: &Counter) {
        //= LMN 6: the counter never moves down
        if let Some(state) = self.meters.value_mut(counter.meter.0)
            && (!state.has_last || counter.value > state.last.counter)
        {
            (state.has_last, state.last) = (true, LastMessage { counter: counter.value, tag: counter.tag });
        }
    }
}

impl KeySource for Registry {
    fn find(&self, meter: MeterAddress) -> Option<Known<'_>> {
        let entry = self.meters.find(meter.0)?;
        let last = entry.value.has_last.then_some(entry.value.last);
        Some(Known { key: entry.key, profile: entry.value.profile, is_configured: true, last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(number: u64) -> MeterAddress {
        MeterAddress(number.to_le_bytes())
    }

    fn key(byte: u8) -> Key<MeterLmn, 16> {
        Key::take(&mut [byte; 16])
    }

    //= LMN 7: well-known default keys are refused by policy
    #[test]
    fn well_known_keys_and_second_entries_are_refused() {
        let mut registry = Registry::default();
        let refused = Err(RegistryError::WellKnownKey { meter: meter(1) });
        assert_eq!(registry.insert(meter(1), &key(0), None), refused);
        assert!(registry.is_empty());
        registry.danger_accept_well_known_keys();
        assert_eq!(registry.insert(meter(1), &key(0), None), Ok(()));
        assert_eq!(registry.insert(meter(1), &key(3), None), Err(RegistryError::Twice { meter: meter(1) }));
    }

    //= LMN 6: the counter never moves down
    #[test]
    fn counters_only_rise_until_the_key_is_new() {
        let mut registry = Registry::default();
        registry.insert(meter(1), &key(3), None).unwrap();
        let counter = |value| Counter { meter: meter(1), key_id: 0, key_version: 0, value, tag: [9; 8] };
        assert_eq!(registry.last(meter(1)), None);
        registry.accept(&counter(7));
        registry.accept(&counter(5));
        assert_eq!(registry.last(meter(1)).map(|last| last.counter), Some(7));
        registry.replace(meter(1), &key(4), None).unwrap();
        assert_eq!(registry.last(meter(1)), None);
    }

    #[test]
    fn a_meter_costs_at_most_64_bytes_and_its_key() {
        let registry = Registry::with_capacity(100_000);
        assert!(registry.size_bytes() <= 100_000 * (64 + 16), "{}", registry.size_bytes());
    }
}
