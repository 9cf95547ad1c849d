//! From a key to a place, by open addressing: one cache line for most look-ups. Nothing ever iterates over it, so its order
//! reaches no output.

use alloc::{vec, vec::Vec};

/// Places by key; a key is eight bytes.
#[derive(Debug)]
pub(crate) struct Index {
    /// Key and place plus one; zero is free. A power of two of them.
    cells: Vec<(u64, u32)>,
    used: usize,
    /// Mixed into every key, so that nobody outside can choose keys that meet.
    seed: u64,
}

const CELLS_MIN: usize = 64;

impl Index {
    pub(crate) fn new(seed: u64) -> Self {
        Self { cells: vec![(0, 0); CELLS_MIN], used: 0, seed: seed | 1 }
    }

    fn start(&self, key: u64) -> usize {
        let mixed = (key ^ self.seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ mixed >> 32).wrapping_mul(self.seed);
        (mixed >> 20) as usize & (self.cells.len() - 1)
    }

    /// The place of a key.
    pub(crate) fn find(&self, key: u64) -> Option<u32> {
        let mask = self.cells.len() - 1;
        let mut at = self.start(key);
        loop {
            let (found, place) = *self.cells.get(at)?;
            if place == 0 {
                return None;
            }
            if found == key {
                return Some(place - 1);
            }
            at = (at + 1) & mask;
        }
    }

    /// Sets the place of a key.
    pub(crate) fn insert(&mut self, key: u64, place: u32) {
        if (self.used + 1) * 2 > self.cells.len() {
            let doubled = self.cells.len() * 2;
            let old = core::mem::replace(&mut self.cells, vec![(0, 0); doubled]);
            old.into_iter().filter(|cell| cell.1 != 0).for_each(|(key, place)| self.place(key, place));
        }
        let Some(place) = place.checked_add(1) else { return };
        if self.find(key).is_none() {
            self.used += 1;
        }
        self.place(key, place);
    }

    fn place(&mut self, key: u64, place: u32) {
        let mask = self.cells.len() - 1;
        let mut at = self.start(key);
        while let Some(cell) = self.cells.get_mut(at) {
            if cell.1 == 0 || cell.0 == key {
                *cell = (key, place);
                return;
            }
            at = (at + 1) & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_at_its_place_and_no_other_one_is() {
        let mut index = Index::new(7);
        for number in 0..10_000_u32 {
            index.insert(u64::from(number) << 32, number);
        }
        index.insert(5 << 32, 77);
        for number in 0..10_000_u32 {
            let expected = if number == 5 { 77 } else { number };
            assert_eq!(index.find(u64::from(number) << 32), Some(expected));
            assert_eq!(index.find(u64::from(number) << 32 | 1), None);
        }
        assert_eq!(index.used, 10_000);
    }
}
