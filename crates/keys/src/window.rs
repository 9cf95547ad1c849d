//! The replay window of one key and direction (decision D1).
//!
//! Two APDUs count as the same bytes when key, originator, counter and the first eight bytes of the *verified* tag agree:
//! the tag authenticates every other byte, and only the holder of the key could make another one.

use alloc::{boxed::Box, vec::Vec};

/// How many counters a window remembers.
pub const WINDOW_SIZE: u32 = 64;

/// First bytes of a tag that verified.
pub type TagHead = [u8; 8];

/// Counters accepted under one key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Window {
    /// Highest counter accepted, when there is one.
    highest: u32,
    /// Bit `n`: counter `highest - n` was accepted.
    seen: u64,
    /// Tags by counter modulo 64, from the first arrival on.
    tags: Option<Box<[TagHead; 64]>>,
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

const fn place(counter: u32) -> usize {
    (counter % WINDOW_SIZE) as usize
}

impl Window {
    /// Highest counter accepted.
    #[must_use]
    pub const fn highest(&self) -> Option<u32> {
        if self.seen == 0 { None } else { Some(self.highest) }
    }

    /// Judges an authentic APDU and, when it is fresh, remembers it. Only [`Arrival::Fresh`] changes the window.
    pub fn arrive(&mut self, counter: u32, tag: TagHead) -> Arrival {
        let late = match self.highest() {
            None => {
                (self.highest, self.seen) = (counter, 1);
                false
            }
            Some(highest) if counter > highest => {
                self.seen = self.seen.checked_shl(counter - highest).unwrap_or(0) | 1;
                self.highest = counter;
                false
            }
            Some(highest) => {
                let below = highest - counter;
                if below >= WINDOW_SIZE {
                    return Arrival::Replay;
                }
                if self.seen >> below & 1 == 1 {
                    return if self.tag(counter) == Some(tag) { Arrival::Duplicate } else { Arrival::Replay };
                }
                self.seen |= 1 << below;
                true
            }
        };
        let tags = self.tags.get_or_insert_with(|| Box::new([[0; 8]; 64]));
        if let Some(slot) = tags.get_mut(place(counter)) {
            *slot = tag;
        }
        Arrival::Fresh { late }
    }

    /// Bytes of the place that the next counter will take.
    pub(crate) fn tag_ahead(&self) -> u64 {
        self.tag(self.highest.wrapping_add(1)).map_or(0, u64::from_be_bytes)
    }

    fn tag(&self, counter: u32) -> Option<TagHead> {
        self.tags.as_ref()?.get(place(counter)).copied()
    }

    /// Counters and tags that it remembers, ascending.
    #[must_use]
    pub fn entries(&self) -> Vec<(u32, TagHead)> {
        let below = (0..WINDOW_SIZE).rev().filter(|below| self.seen >> below & 1 == 1);
        let counters = below.filter_map(|below| self.highest.checked_sub(below));
        counters.filter_map(|counter| Some((counter, self.tag(counter)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Arrival = Arrival::Fresh { late: false };
    const LATE: Arrival = Arrival::Fresh { late: true };

    #[test]
    fn a_counter_is_fresh_once_duplicate_for_the_same_tag_and_replay_for_another() {
        let mut window = Window::default();
        assert_eq!(window.highest(), None);
        assert_eq!(window.arrive(5, *b"    five"), FRESH);
        assert_eq!(window.arrive(5, *b"    five"), Arrival::Duplicate);
        assert_eq!(window.arrive(5, *b"   other"), Arrival::Replay);
        assert_eq!(window.arrive(9, *b"    nine"), FRESH);
        assert_eq!(window.arrive(7, *b"   seven"), LATE);
        assert_eq!(window.arrive(7, *b"   seven"), Arrival::Duplicate);
        assert_eq!(window.entries().iter().map(|entry| entry.0).collect::<Vec<_>>(), [5, 7, 9]);
    }

    #[test]
    fn what_lies_below_the_window_is_replay_and_changes_nothing() {
        let mut window = Window::default();
        for counter in 0..1_000u32 {
            assert_eq!(window.arrive(counter * 2, [1; 8]), FRESH);
        }
        let before = window.clone();
        assert_eq!(window.arrive(1_998 - 64, [1; 8]), Arrival::Replay);
        assert_eq!(window.arrive(3, [1; 8]), Arrival::Replay);
        assert_eq!(window, before);
        assert_eq!(window.arrive(1_998 - 63, [1; 8]), LATE);
        assert_eq!(window.entries().len(), 33);
    }

    #[test]
    fn the_whole_range_of_counters_fits() {
        let mut window = Window::default();
        assert_eq!(window.arrive(0, [1; 8]), FRESH);
        assert_eq!(window.arrive(u32::MAX, [2; 8]), FRESH);
        assert_eq!(window.arrive(0, [1; 8]), Arrival::Replay);
        assert_eq!(window.arrive(u32::MAX, [2; 8]), Arrival::Duplicate);
    }

    #[test]
    fn any_order_of_arrivals_is_judged_as_by_a_list_of_all_of_them() {
        let mut random = 1_u64;
        for _ in 0..200 {
            let (mut window, mut all) = (Window::default(), alloc::collections::BTreeMap::new());
            for _ in 0..300 {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let counter = 500 + u32::try_from(random >> 33 & 0xFF).unwrap();
                let tag = [u8::try_from(random >> 50 & 1).unwrap(); 8];
                let highest = all.keys().next_back().copied();
                let expected = match (all.get(&counter), highest) {
                    (_, Some(highest)) if counter + 64 <= highest => Arrival::Replay,
                    (Some(known), _) if *known == tag => Arrival::Duplicate,
                    (Some(_), _) => Arrival::Replay,
                    (None, highest) => {
                        Arrival::Fresh { late: highest.is_some_and(|highest| counter < highest) }
                    }
                };
                assert_eq!(window.arrive(counter, tag), expected, "{counter}");
                if expected == FRESH || expected == LATE {
                    all.insert(counter, tag);
                }
            }
            let mut again = Window::default();
            for (counter, tag) in window.entries() {
                again.arrive(counter, tag);
            }
            assert_eq!(again.entries(), window.entries(), "as it comes back from a row");
        }
    }
}
