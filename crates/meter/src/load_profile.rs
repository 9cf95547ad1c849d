//! The load profile: one row per interval, out of a simulated register.

use gridseal_types::UtcTime;

use crate::row::{ROW_STATUS_POWER_DOWN, Row};

/// A clock that went back further than this was wrong before, seconds.
pub(crate) const SET_BACK_MAX_S: u64 = 86_400;

/// 2000-01-01T00:00:00Z: a clock below this was never set, and no row can say when it was measured.
const CLOCK_SET_FROM: UtcTime = UtcTime(946_684_800);

/// Simulated consumption: a function of its own seed and of the interval, so that a restart changes nothing.
#[derive(Debug, Clone, Copy)]
pub struct Consumption {
    seed: u64,
    average_w: u32,
}

impl Consumption {
    /// Consumption that varies between 20 % and 180 % of `average_w` watts.
    #[must_use]
    pub const fn new(seed: u64, average_w: u32) -> Self {
        Self { seed, average_w }
    }

    /// Energy of the interval in milliwatt-hours.
    fn energy_mwh(&self, start: UtcTime, interval_s: u32) -> u64 {
        let percent = 20 + mix(self.seed ^ mix(start.0)) % 161;
        let full = u64::from(self.average_w) * u64::from(interval_s);
        // watt-seconds / 3.6 = milliwatt-hours; percent / 100.
        full.saturating_mul(percent) / 360
    }
}

/// SplitMix64's output function: spreads neighbouring inputs over the whole range.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// Captures a row at the end of each interval. Intervals begin at multiples of their length since 1970.
#[derive(Debug)]
pub struct LoadProfile {
    interval_s: u32,
    consumption: Consumption,
    register_mwh: u64,
    last_end: Option<UtcTime>,
    /// Intervals passed without power since the last row.
    has_gap: bool,
}

impl LoadProfile {
    /// A profile with intervals of `interval_s` seconds (0 counts as 1), going on after the last row that was kept
    /// ([`crate::Push::last_row`]); `None` for a new meter.
    #[must_use]
    pub fn resume(interval_s: u32, consumption: Consumption, last: Option<&Row>) -> Self {
        Self {
            interval_s: interval_s.max(1),
            consumption,
            register_mwh: last.map_or(0, |row| row.energy_wh.saturating_mul(1_000)),
            last_end: last.map(Row::end),
            has_gap: false,
        }
    }

    /// Power came back, or came for the first time: whatever ended before `now` was not measured and stays missing.
    pub fn powered_on(&mut self, now: UtcTime) {
        let interval_s = u64::from(self.interval_s);
        let end = UtcTime(now.0 / interval_s * interval_s);
        self.forget_future(end);
        if self.last_end.is_none_or(|last_end| last_end < end) {
            self.has_gap = self.last_end.is_some();
            self.last_end = Some(end);
        }
    }

    /// A row from far ahead comes from a clock that was fast, and must not keep the meter from measuring until that time has
    /// come (rule S14). A clock that was set back by less waits: the same interval is never captured twice (rule S7).
    fn forget_future(&mut self, end: UtcTime) {
        if self.last_end.is_some_and(|last_end| last_end.0.saturating_sub(end.0) > SET_BACK_MAX_S) {
            self.last_end = Some(end);
            self.has_gap = true;
        }
    }

    /// End of the interval that runs at `now`: when to capture next.
    #[must_use]
    pub fn next_capture_at(&self, now: UtcTime) -> UtcTime {
        let interval_s = u64::from(self.interval_s);
        UtcTime((now.0 / interval_s + 1).saturating_mul(interval_s))
    }

    /// Captures the interval that ended last, once. `None` when it was captured already.
    ///
    /// Earlier intervals that nobody captured stay missing: the meter was not there to measure, and a missing value is
    /// never a zero. The row after such a gap says so ([`ROW_STATUS_POWER_DOWN`]).
    pub fn capture(&mut self, now: UtcTime) -> Option<Row> {
        let interval_s = u64::from(self.interval_s);
        let end = UtcTime(now.0 / interval_s * interval_s);
        let start = UtcTime(end.0.checked_sub(interval_s)?);
        // No head-end takes such a row, and those behind it would wait for ever.
        if start < CLOCK_SET_FROM {
            return None;
        }
        self.forget_future(end);
        if self.last_end.is_some_and(|last_end| last_end >= end) {
            return None;
        }
        let is_after_gap = core::mem::take(&mut self.has_gap) || self.last_end.is_some_and(|end| end < start);
        let energy_mwh = self.consumption.energy_mwh(start, self.interval_s);
        self.register_mwh = self.register_mwh.saturating_add(energy_mwh);
        self.last_end = Some(end);
        Some(Row {
            start,
            interval_s: self.interval_s,
            status: if is_after_gap { ROW_STATUS_POWER_DOWN } else { 0 },
            energy_wh: self.register_mwh / 1_000,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_interval_is_captured_once_and_the_register_never_falls() {
        let mut profile = LoadProfile::resume(900, Consumption::new(1, 500), None);
        let mut last: Option<Row> = None;
        for now in (1_800_000_000..1_800_090_000).step_by(300) {
            let Some(row) = profile.capture(UtcTime(now)) else { continue };
            assert_eq!((row.start.0 % 900, row.status), (0, 0));
            if let Some(last) = last {
                assert_eq!(row.start, last.end());
                let used = row.energy_wh - last.energy_wh;
                assert!((24..=226).contains(&used), "20 to 180 % of 125 Wh, not {used}");
            }
            last = Some(row);
        }
        assert_eq!(profile.next_capture_at(UtcTime(1_800_000_000)), UtcTime(1_800_000_900));
    }

    #[test]
    fn what_ended_before_power_came_is_not_invented() {
        let mut fresh = LoadProfile::resume(900, Consumption::new(1, 500), None);
        fresh.powered_on(UtcTime(1_800_000_100));
        assert_eq!(fresh.capture(UtcTime(1_800_000_200)), None);
        let first = fresh.capture(UtcTime(1_800_000_900)).unwrap();
        assert_eq!((first.start, first.status), (UtcTime(1_800_000_000), 0));
        let mut again = LoadProfile::resume(900, Consumption::new(1, 500), Some(&first));
        again.powered_on(UtcTime(1_800_009_100));
        assert_eq!(again.capture(UtcTime(1_800_009_200)), None);
        let after = again.capture(UtcTime(1_800_009_900)).unwrap();
        assert_eq!((after.start, after.status), (UtcTime(1_800_009_000), ROW_STATUS_POWER_DOWN));
    }

    #[test]
    fn s14_a_clock_that_was_ten_years_fast_does_not_stop_the_profile_and_an_hour_back_repeats_nothing() {
        let resume = |last: Option<&Row>| LoadProfile::resume(900, Consumption::new(1, 500), last);
        let mut profile = resume(None);
        let now = 1_800_000_000;
        assert_eq!(profile.capture(UtcTime(9_000)), None, "1970: the clock was never set");
        profile.capture(UtcTime(now)).unwrap();
        assert_eq!(profile.capture(UtcTime(now - 3_600)), None, "an hour back");
        let late = profile.capture(UtcTime(now + 900)).unwrap();
        let fast = profile.capture(UtcTime(now + 3_650 * 86_400)).unwrap();
        for (mut profile, at) in [(profile, now + 1_800), (resume(Some(&fast)), now + 1_800)] {
            profile.powered_on(UtcTime(at));
            assert_eq!(profile.capture(UtcTime(at)), None, "when it ended is known, not when it began");
            let next = profile.capture(UtcTime(at + 900)).unwrap();
            assert_eq!((next.start, next.status), (UtcTime(at), ROW_STATUS_POWER_DOWN));
            assert!(next.start >= late.end() && next.energy_wh >= fast.energy_wh);
        }
    }

    #[test]
    fn a_gap_is_marked_and_adds_no_energy_and_a_restart_repeats_the_same_row() {
        let resume = |last: Option<&Row>| LoadProfile::resume(900, Consumption::new(7, 500), last);
        let first = resume(None).capture(UtcTime(1_800_000_000)).unwrap();
        let again = resume(None).capture(UtcTime(1_800_000_899)).unwrap();
        assert_eq!(first, again);
        let later = resume(Some(&first)).capture(UtcTime(1_800_090_000)).unwrap();
        assert_eq!(later.status, ROW_STATUS_POWER_DOWN);
        assert!(later.energy_wh - first.energy_wh <= 226);
        assert_eq!(resume(Some(&later)).capture(UtcTime(1_800_090_000)), None);
    }
}
