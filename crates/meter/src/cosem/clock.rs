//! The clock: what it shows, and how it is set.

use gridseal_dlms::{
    apdu::result::DataAccessResult,
    wire::{Data, DateTime, DeviationSign},
};
use gridseal_types::{ObisCode, UtcTime};

use super::{
    Device, Note,
    object::{items, number},
    profile,
};

/// Farthest that one shift may go, seconds.
const SHIFT_MAX_S: i64 = 900;
/// Clock before which and after which none is set: 2000 and 2100.
const SETTABLE: core::ops::Range<u64> = 946_684_800..4_102_444_800;

/// A time that waits to be set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Preset {
    to: UtcTime,
    /// First and last instant at which it may be.
    from: UtcTime,
    until: UtcTime,
    /// Whether it came from a client that has proven who it is.
    is_trusted: bool,
}

/// An instant moved by seconds.
pub(super) fn shifted(at: UtcTime, by_s: i64) -> UtcTime {
    UtcTime(at.0.saturating_add_signed(by_s))
}

/// Nearest multiple of a length; the later one from the middle on.
const fn nearest(at: UtcTime, length_s: u64) -> UtcTime {
    let half = length_s / 2;
    let Some(count) = at.0.saturating_add(half).checked_div(length_s) else { return at };
    UtcTime(count.saturating_mul(length_s))
}

/// A date-time, as an octet string or with its own tag.
pub(super) fn date_time(value: &Data<'_>) -> Option<DateTime> {
    match value {
        Data::OctetString(bytes) => DateTime::from_bytes(bytes).ok(),
        Data::DateTime(at) => Some(*at),
        _ => None,
    }
}

impl Device {
    /// Minutes from local time to UTC.
    fn deviation_min(&self) -> i16 {
        let clock = self.objects.get(&ObisCode::CLOCK);
        clock.and_then(|clock| i16::try_from(clock.number(3)).ok()).unwrap_or(0)
    }

    /// An instant as this meter writes it.
    pub(super) fn local(&self, at: UtcTime) -> [u8; DateTime::SIZE] {
        let written = DateTime::from_utc(at, self.deviation_min(), 0);
        written.map_or([0xFF; DateTime::SIZE], DateTime::to_bytes)
    }

    /// The instant that a client means; without a deviation it means this meter's.
    pub(super) fn instant(&self, value: &Data<'_>) -> Option<UtcTime> {
        let mut at = date_time(value)?;
        at.deviation_min = at.deviation_min.or(Some(self.deviation_min()));
        at.to_utc(DeviationSign::Standard).ok()
    }

    /// Sets attribute 2.
    pub(super) fn set_time(&mut self, value: &Data<'_>, is_proven: bool) -> Result<(), DataAccessResult> {
        let to = self.instant(value).ok_or(DataAccessResult::TypeUnmatched)?;
        self.set_clock(to, is_proven)
    }

    /// Whether attribute 3 may be set so.
    pub(super) fn check_time_zone(value: &Data<'_>) -> Result<(), DataAccessResult> {
        let minutes = number(value).filter(|minutes| (-840..=840).contains(minutes));
        minutes.map(|_| ()).ok_or(DataAccessResult::ScopeOfAccessViolated)
    }

    fn set_clock(&mut self, to: UtcTime, is_trusted: bool) -> Result<(), DataAccessResult> {
        if !SETTABLE.contains(&to.0) {
            return Err(DataAccessResult::ScopeOfAccessViolated);
        }
        let from = self.now();
        // What a trusted clock has shown so far stays.
        self.raise_floor();
        //= design S14: a clock is trusted once somebody who proved to be allowed to has set it, and no longer than until
        // somebody else does
        self.is_clock_trusted = is_trusted;
        self.log_event(profile::EVENT_CLOCK_OLD);
        let signed = |at: UtcTime| i64::try_from(at.0).unwrap_or(i64::MAX);
        self.offset_s = signed(to).saturating_sub(signed(self.told));
        // What lies between both clocks neither happened nor was measured.
        self.looked_at = self.now();
        self.align_profiles();
        self.log_event(profile::EVENT_CLOCK_NEW);
        self.note(Note::ClockChanged { from, to });
        Ok(())
    }

    /// Methods 1 to 6. What only moves the clock is as good as the time that it had.
    pub(super) fn clock_method(
        &mut self,
        method: i8,
        value: &Data<'_>,
        is_proven: bool,
    ) -> Result<(), DataAccessResult> {
        let now = self.now();
        let stays_trusted = is_proven && self.is_clock_trusted;
        match method {
            1 => self.set_clock(nearest(now, 900), stays_trusted),
            2 => self.set_clock(nearest(now, self.measuring_period()), stays_trusted),
            3 => self.set_clock(nearest(now, 60), stays_trusted),
            4 => {
                let Preset { to, from, until, is_trusted } =
                    self.preset.ok_or(DataAccessResult::OtherReason)?;
                if !(from..=until).contains(&now) {
                    return Err(DataAccessResult::TemporaryFailure);
                }
                self.set_clock(to, is_proven && is_trusted)?;
                self.preset = None;
                Ok(())
            }
            5 => {
                let [to, from, until] = items(value) else { return Err(DataAccessResult::TypeUnmatched) };
                let read = |value: &Data<'_>| self.instant(value).ok_or(DataAccessResult::TypeUnmatched);
                let preset =
                    Preset { to: read(to)?, from: read(from)?, until: read(until)?, is_trusted: is_proven };
                if preset.from > preset.until || !SETTABLE.contains(&preset.to.0) {
                    return Err(DataAccessResult::ScopeOfAccessViolated);
                }
                self.preset = Some(preset);
                Ok(())
            }
            6 => {
                let by_s = number(value).ok_or(DataAccessResult::TypeUnmatched)?;
                if !(-SHIFT_MAX_S..=SHIFT_MAX_S).contains(&by_s) {
                    return Err(DataAccessResult::ScopeOfAccessViolated);
                }
                self.set_clock(shifted(now, by_s), stays_trusted)
            }
            _ => Err(DataAccessResult::ObjectUndefined),
        }
    }

    /// Capture period of the load profile, seconds.
    fn measuring_period(&self) -> u64 {
        let profile = self.objects.get(&ObisCode::LOAD_PROFILE_1);
        let period = profile.map_or(0, |profile| profile.number(4));
        u64::try_from(period).ok().filter(|period| *period > 0).unwrap_or(900)
    }
}
