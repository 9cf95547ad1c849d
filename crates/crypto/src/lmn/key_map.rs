//! A table of very many meter keys, found by an 8-byte name.

use alloc::vec::Vec;
use core::fmt;

use zeroize::Zeroize;

use super::MeterKeyRef;
use crate::{Key, role::MeterLmn};

/// Name, key and a small value side by side, so that a look-up touches one or two lines of the cache.
///
/// Open addressing with linear probing. The names are the owner's configuration, and a look-up of any other name stops
/// at the first free slot: what arrives by radio cannot make it slow. Keys are wiped when replaced, removed, when the
/// table grows, and on drop.
///
/// Size: one slot is 24 bytes and the value; a table made [`KeyMap::with_capacity`] has 5 slots for 4 names.
pub struct KeyMap<V> {
    slots: Vec<Slot<V>>,
    count: usize,
}

struct Slot<V> {
    name: u64,
    key: [u8; 16],
    value: Option<V>,
}

impl<V> Drop for Slot<V> {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// One meter of a [`KeyMap`].
#[derive(Debug)]
pub struct Entry<'a, V> {
    /// The key, to be used and not to be seen.
    pub key: MeterKeyRef<'a>,
    /// What is kept with it.
    pub value: &'a V,
}

impl<V> fmt::Debug for KeyMap<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyMap[{} keys]", self.count)
    }
}

impl<V> Default for KeyMap<V> {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl<V> KeyMap<V> {
    /// A table that takes `count` keys before it grows.
    #[must_use]
    pub fn with_capacity(count: usize) -> Self {
        // One slot is always free: it ends every search.
        Self { slots: Self::empty(count + count / 4 + 1), count: 0 }
    }

    fn empty(size: usize) -> Vec<Slot<V>> {
        core::iter::repeat_with(|| Slot { name: 0, key: [0; 16], value: None }).take(size).collect()
    }

    /// Keys in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no key in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes that the table occupies.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot<V>>()
    }

    /// The slot of a name, or the free one where it would be.
    fn position(&self, name: u64) -> usize {
        let mixed = (name ^ (name >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let size = self.slots.len();
        // The high half of the product is uniform below `size`, without a division.
        let start = (u128::from(mixed) * size as u128) >> 64;
        let mut at = start as usize;
        while self.slots[at].value.is_some() && self.slots[at].name != name {
            at += 1;
            if at == size {
                at = 0;
            }
        }
        at
    }

    /// The meter of a name.
    #[must_use]
    pub fn find(&self, name: [u8; 8]) -> Option<Entry<'_, V>> {
        let slot = &self.slots[self.position(u64::from_le_bytes(name))];
        slot.value.as_ref().map(|value| Entry { key: MeterKeyRef(&slot.key), value })
    }

    /// The value of a name, to be changed.
    pub fn value_mut(&mut self, name: [u8; 8]) -> Option<&mut V> {
        let at = self.position(u64::from_le_bytes(name));
        self.slots[at].value.as_mut()
    }

    /// Puts a key in; one of the same name is replaced, and its value returned.
    pub fn insert(&mut self, name: [u8; 8], key: &Key<MeterLmn, 16>, value: V) -> Option<V> {
        if (self.count + 1) * 10 > self.slots.len() * 9 || self.count + 1 >= self.slots.len() {
            self.grow();
        }
        let name = u64::from_le_bytes(name);
        let at = self.position(name);
        let slot = &mut self.slots[at];
        slot.name = name;
        slot.key = *key.bytes();
        let old = slot.value.replace(value);
        self.count += usize::from(old.is_none());
        old
    }

    fn grow(&mut self) {
        let size = self.slots.len() + self.slots.len() / 2 + 8;
        let old = core::mem::replace(&mut self.slots, Self::empty(size));
        for mut slot in old {
            if let Some(value) = slot.value.take() {
                let at = self.position(slot.name);
                let place = &mut self.slots[at];
                place.name = slot.name;
                place.key = slot.key;
                place.value = Some(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> Key<MeterLmn, 16> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        Key::take(&mut bytes)
    }

    #[test]
    fn every_name_finds_its_own_key_and_value_while_the_table_grows() {
        let mut map = KeyMap::default();
        for number in 0..5_000u64 {
            assert_eq!(map.insert((number * 256).to_le_bytes(), &key(number), number), None);
        }
        assert_eq!(map.len(), 5_000);
        for number in 0..5_000u64 {
            let entry = map.find((number * 256).to_le_bytes()).unwrap();
            assert_eq!((entry.key.0, *entry.value), (key(number).bytes(), number));
        }
        assert!(map.find(1u64.to_le_bytes()).is_none());
        assert_eq!(map.insert([0; 8], &key(9), 7), Some(0), "a name is there once");
        assert_eq!(map.len(), 5_000);
        *map.value_mut([0; 8]).unwrap() = 8;
        assert_eq!(map.find([0; 8]).map(|entry| *entry.value), Some(8));
    }

    #[test]
    fn a_slot_costs_forty_bytes_and_a_quarter_stays_free() {
        let map = KeyMap::<(u64, u32, bool)>::with_capacity(1_000);
        assert_eq!(map.size_bytes(), 40 * 1_251);
    }

    #[test]
    fn an_empty_table_finds_nothing() {
        assert!(KeyMap::<u8>::default().find([1; 8]).is_none());
    }
}
