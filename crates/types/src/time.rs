//! Time as values: nothing below the shell reads a clock.

use core::{fmt, ops::Add, time::Duration};

/// Monotonic milliseconds since an arbitrary start, given by the caller; never calendar time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Tick(pub u64);

impl Tick {
    /// Milliseconds since `earlier`, zero when that lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The tick `delay` later; the last tick there is when it lies beyond.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        self + delay
    }
}

impl Add<Duration> for Tick {
    type Output = Self;
    fn add(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Seconds since 1970-01-01 UTC. No security decision rests on one that is not authenticated (rule S14).
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, minicbor::Encode, minicbor::Decode,
)]
#[cbor(transparent)]
pub struct UtcTime(#[n(0)] pub u64);

impl UtcTime {
    /// Calendar fields of this instant in UTC: year, month 1..=12, day 1..=31, hour, minute, second.
    #[must_use]
    pub fn civil(self) -> (u16, u8, u8, u8, u8, u8) {
        let days = self.0 / 86_400;
        let rest = self.0 % 86_400;
        // Days to civil date, era of 400 years starting on 1 March (Hinnant's algorithm restated).
        let shifted = days + 719_468;
        let era = shifted / 146_097;
        let day_of_era = shifted % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_index = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_index + 2) / 5 + 1;
        let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let narrow = |value: u64| u8::try_from(value).unwrap_or(u8::MAX);
        (
            u16::try_from(year).unwrap_or(u16::MAX),
            narrow(month),
            narrow(day),
            narrow(rest / 3_600),
            narrow(rest % 3_600 / 60),
            narrow(rest % 60),
        )
    }

    /// The instant of calendar fields in UTC, `None` for a date that does not exist or lies before 1970.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "the fields of a civil time, from large to small")]
    pub fn from_civil(year: u16, month: u8, day: u8, hour: u8, minute: u8, second: u8) -> Option<Self> {
        if year < 1970 || !(1..=12).contains(&month) || day == 0 || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let length = match month {
            2 => 28 + u8::from(leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        if day > length {
            return None;
        }
        let shifted_year = u64::from(year) - u64::from(month <= 2);
        let era = shifted_year / 400;
        let year_of_era = shifted_year % 400;
        let month_index = (u64::from(month) + 9) % 12;
        let day_of_year = (153 * month_index + 2) / 5 + u64::from(day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
        Some(Self(days * 86_400 + u64::from(hour) * 3_600 + u64::from(minute) * 60 + u64::from(second)))
    }
}

impl fmt::Display for UtcTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day, hour, minute, second) = self.civil();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn civil_dates_round_trip_over_leap_years_and_2038() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (2_147_483_648, "2038-01-19T03:14:08Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            let time = UtcTime(seconds);
            assert_eq!(alloc::format!("{time}"), text);
            let (y, m, d, h, mi, s) = time.civil();
            assert_eq!(UtcTime::from_civil(y, m, d, h, mi, s), Some(time));
        }
        assert_eq!(UtcTime::from_civil(2026, 2, 29, 0, 0, 0), None);
    }
}
