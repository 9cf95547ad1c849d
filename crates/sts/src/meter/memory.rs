//! The meter's memory of token identifiers.

use alloc::vec::Vec;

use crate::tid::Tid;

/// Fewest and most identifiers that a memory holds.
const SIZES: core::ops::RangeInclusive<usize> = 1..=512;

/// A size out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a memory of identifiers holds 1 to 512 of them")]
pub struct TidMemoryError;

/// Identifiers of tokens that were taken, ascending, always full: it starts filled with the time of manufacture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TidMemory(Vec<Tid>);

/// How an identifier stands to the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    New,
    Used,
    Old,
}

impl TidMemory {
    /// Size that is commonly quoted.
    pub const DEFAULT_SIZE: usize = 50;

    /// A memory of `size` identifiers, all of them that of the manufacture.
    ///
    /// # Errors
    /// [`TidMemoryError`].
    pub fn new(size: usize, made: Tid) -> Result<Self, TidMemoryError> {
        if SIZES.contains(&size) { Ok(Self(alloc::vec![made; size])) } else { Err(TidMemoryError) }
    }

    pub(crate) fn from_stored(tids: Vec<Tid>) -> Option<Self> {
        (SIZES.contains(&tids.len()) && tids.is_sorted()).then_some(Self(tids))
    }

    /// The identifiers, ascending.
    #[must_use]
    pub fn tids(&self) -> &[Tid] {
        &self.0
    }

    //= STS A8: below the smallest identifier in memory a token is old, one in memory is used, any other is new
    pub(crate) fn standing(&self, tid: Tid) -> Standing {
        if self.0.first().is_some_and(|smallest| tid < *smallest) {
            return Standing::Old;
        }
        if self.0.binary_search(&tid).is_ok() { Standing::Used } else { Standing::New }
    }

    /// Remembers a new identifier in place of the smallest.
    pub(crate) fn remember(&mut self, tid: Tid) {
        let at = self.0.partition_point(|known| *known < tid);
        self.0.insert(at, tid);
        self.0.remove(0);
    }

    /// Forgets all but a floor: after the base date has moved on, identifiers count from anew.
    pub(crate) fn clear(&mut self) {
        self.0.iter_mut().for_each(|tid| *tid = Tid::from_bits(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= STS A8: below the smallest identifier in memory a token is old, one in memory is used, any other is new
    #[test]
    fn a_full_memory_forgets_the_smallest_and_what_lies_below_is_old() {
        let tid = Tid::from_bits;
        let mut memory = TidMemory::new(3, tid(100)).unwrap();
        assert_eq!(memory.standing(tid(99)), Standing::Old);
        assert_eq!(memory.standing(tid(100)), Standing::Used);
        for new in [200, 150, 300] {
            assert_eq!(memory.standing(tid(new)), Standing::New);
            memory.remember(tid(new));
            assert_eq!(memory.standing(tid(new)), Standing::Used);
        }
        assert_eq!(memory.standing(tid(149)), Standing::Old);
        assert_eq!(memory.standing(tid(160)), Standing::New);
        assert!(TidMemory::new(0, tid(0)).is_err() && TidMemory::new(513, tid(0)).is_err());
    }
}
