//! Lock-out against guessing: with 16 bits of check sum, one number in 65,536 looks good.

use gridseal_types::Tick;

/// Bad entries that are free.
const FREE_COUNT: u8 = 3;
/// First lock-out, milliseconds; each further bad entry doubles it.
const FIRST_MS: u64 = 10_000;
/// Longest lock-out, milliseconds.
const LONGEST_MS: u64 = 1_280_000;

/// Bad entries since the last good one. A power cut does not reset it: the lock-out starts anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lockout {
    /// Bad entries, up to 255.
    pub bad_count: u8,
}

impl Lockout {
    /// One bad entry more.
    #[must_use]
    pub const fn more(self) -> Self {
        Self { bad_count: self.bad_count.saturating_add(1) }
    }

    /// How long this lock-out lasts, milliseconds; 0 when there is none.
    #[must_use]
    pub fn duration_ms(self) -> u64 {
        match self.bad_count.checked_sub(FREE_COUNT) {
            None => 0,
            Some(doublings) => {
                FIRST_MS.checked_shl(u32::from(doublings.min(10))).unwrap_or(LONGEST_MS).min(LONGEST_MS)
            }
        }
    }

    /// How long it still lasts.
    #[must_use]
    pub fn left_ms(self, since: Tick, now: Tick) -> u64 {
        self.duration_ms().saturating_sub(now.0.saturating_sub(since.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_bad_entries_lock_for_ten_seconds_and_each_further_one_doubles_it() {
        let durations: alloc::vec::Vec<u64> =
            (0..14).map(|bad_count| Lockout { bad_count }.duration_ms() / 1_000).collect();
        assert_eq!(durations, [0, 0, 0, 10, 20, 40, 80, 160, 320, 640, 1_280, 1_280, 1_280, 1_280]);
        assert_eq!(Lockout { bad_count: 255 }.more().duration_ms(), LONGEST_MS);
        assert_eq!(Lockout { bad_count: 3 }.left_ms(Tick(5_000), Tick(8_000)), 7_000);
    }
}
