//! Whether a reading's time can be true. No security decision rests on it (rule S14): it keeps rows out that could never
//! be found again under a right key.

use gridseal_types::{Kind, Reading, UtcTime};

/// How far a meter's clock may be ahead of the head-end's, seconds: beyond an hour the clock is wrong, not adrift.
pub const CLOCK_AHEAD_MAX_S: u64 = 3_600;

/// 2000-01-01T00:00:00Z: a meter clock that was never set starts here or before.
const OLDEST: UtcTime = UtcTime(946_684_800);

/// Why a reading's time cannot be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Implausible {
    /// The interval does not start at a multiple of its length: two deliveries of one interval could get two keys.
    #[error("interval start is not a multiple of its length")]
    NotAligned,
    /// The interval ends further ahead than [`CLOCK_AHEAD_MAX_S`].
    #[error("interval ends in the future")]
    InFuture,
    /// The interval starts before the year 2000.
    #[error("interval starts before the year 2000")]
    TooOld,
}

impl Implausible {
    /// Always the peer: the meter's clock.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        Kind::Peer
    }
}

/// What is wrong with the time of a reading that arrived `at`.
#[must_use]
pub fn implausible(reading: &Reading, at: UtcTime) -> Option<Implausible> {
    let start = reading.key.start;
    let interval_s = u64::from(reading.interval_s);
    if !start.0.is_multiple_of(interval_s) {
        return Some(Implausible::NotAligned);
    }
    if start < OLDEST {
        return Some(Implausible::TooOld);
    }
    let is_ahead = start.0.saturating_add(interval_s) > at.0.saturating_add(CLOCK_AHEAD_MAX_S);
    is_ahead.then_some(Implausible::InFuture)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gridseal_types::{ObisCode, Quality, ReadingKey, SystemTitle, Unit};

    #[test]
    fn time_must_be_aligned_and_between_2000_and_an_hour_ahead() {
        let check = |start: u64, at: u64| {
            let key = ReadingKey {
                start: UtcTime(start),
                meter: SystemTitle([1; 8]),
                obis: ObisCode::ACTIVE_ENERGY_IMPORT,
            };
            implausible(
                &Reading { key, interval_s: 900, value: 0, unit: Unit::WattHour, quality: Quality(0) },
                UtcTime(at),
            )
        };
        let now = 1_800_000_000;
        assert_eq!(check(now, now), None);
        assert_eq!(check(now + 2_700, now), None);
        assert_eq!(check(now + 3_600, now), Some(Implausible::InFuture));
        assert_eq!(check(now + 1, now), Some(Implausible::NotAligned));
        assert_eq!(check(900, now), Some(Implausible::TooOld));
    }
}
