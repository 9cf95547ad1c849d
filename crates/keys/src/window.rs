//! The replay window of one key and direction (decision D1).

use alloc::vec::Vec;

use gridseal_crypto::sha256;
use gridseal_types::N16;

/// How many counters a window remembers.
const WINDOW_SIZE: u32 = 64;

/// Counters accepted under one key, with digests of what they carried.
#[derive(Debug, Clone, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Window {
    /// Highest counter accepted.
    #[n(0)]
    highest: Option<u32>,
    /// Counters within 64 of it and digests of their APDUs, ascending.
    #[n(1)]
    seen: Vec<(u32, N16)>,
}

/// How an authentic APDU stands to what came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Its counter was never seen; `late` when it lies below the highest.
    Fresh {
        /// Overtaken by a higher counter.
        late: bool,
    },
    /// The very same bytes were accepted before.
    Duplicate,
    /// Its counter was used by other bytes, or lies below the window.
    Replay,
}

impl Window {
    /// Judges an authentic APDU and, when it is fresh, remembers it. Only [`Arrival::Fresh`] changes the window.
    pub fn arrive(&mut self, counter: u32, apdu: &[u8]) -> Arrival {
        let hash = sha256(&[apdu]);
        let mut digest = N16([0; 16]);
        digest.0.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
        match self.seen.binary_search_by_key(&counter, |(seen, _)| *seen) {
            Ok(at) if self.seen.get(at).is_some_and(|(_, seen)| *seen == digest) => Arrival::Duplicate,
            Ok(_) => Arrival::Replay,
            Err(_) if self.highest.is_some_and(|highest| counter < floor(highest)) => Arrival::Replay,
            Err(at) => {
                let late = self.highest.is_some_and(|highest| counter < highest);
                self.seen.insert(at, (counter, digest));
                let highest = self.highest.map_or(counter, |highest| highest.max(counter));
                self.highest = Some(highest);
                self.seen.retain(|(seen, _)| *seen >= floor(highest));
                Arrival::Fresh { late }
            }
        }
    }
}

/// Lowest counter that a window with this highest one still judges.
const fn floor(highest: u32) -> u32 {
    highest.saturating_sub(WINDOW_SIZE - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_fresh_once_duplicate_for_the_same_bytes_and_replay_for_others() {
        let mut window = Window::default();
        assert_eq!(window.arrive(5, b"five"), Arrival::Fresh { late: false });
        assert_eq!(window.arrive(5, b"five"), Arrival::Duplicate);
        assert_eq!(window.arrive(5, b"other"), Arrival::Replay);
        assert_eq!(window.arrive(9, b"nine"), Arrival::Fresh { late: false });
        assert_eq!(window.arrive(7, b"seven"), Arrival::Fresh { late: true });
        assert_eq!(window.arrive(7, b"seven"), Arrival::Duplicate);
    }

    #[test]
    fn what_lies_below_the_window_is_replay_and_memory_is_bounded() {
        let mut window = Window::default();
        for counter in 0..1_000u32 {
            assert_eq!(window.arrive(counter * 2, b"x"), Arrival::Fresh { late: false });
        }
        let highest = 1_998;
        assert_eq!(window.arrive(highest - 64, b"x"), Arrival::Replay);
        assert_eq!(window.arrive(highest - 63, b"x"), Arrival::Fresh { late: true });
        assert!(window.seen.len() <= 64);
        let before = window.clone();
        assert_eq!(window.arrive(3, b"x"), Arrival::Replay);
        assert_eq!(window, before, "a refused counter changes nothing");
    }

    #[test]
    fn the_whole_range_of_counters_fits() {
        let mut window = Window::default();
        assert_eq!(window.arrive(0, b"first"), Arrival::Fresh { late: false });
        assert_eq!(window.arrive(u32::MAX, b"last"), Arrival::Fresh { late: false });
        assert_eq!(window.arrive(0, b"first"), Arrival::Replay);
    }
}
