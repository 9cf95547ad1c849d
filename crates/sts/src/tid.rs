//! Token identifiers: minutes since a base date.

use gridseal_types::UtcTime;

/// Minutes of a day.
const DAY_MIN: u32 = 1_440;
/// The minute of each day that is reserved for special tokens.
const RESERVED_MIN: u32 = 1;

/// First minute of a meter's time line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BaseDate {
    /// 1 January 1993; ended on 24 November 2024. Read only.
    Y1993,
    /// 1 January 2014; ends on 24 November 2045.
    Y2014,
    /// 1 January 2035; ends on 24 November 2066.
    Y2035,
}

impl BaseDate {
    /// The code, two digits: `93`, `14`, `35`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Y1993 => "93",
            Self::Y2014 => "14",
            Self::Y2035 => "35",
        }
    }

    /// The base date of a year.
    #[must_use]
    pub const fn of_year(year: u16) -> Option<Self> {
        match year {
            1993 => Some(Self::Y1993),
            2014 => Some(Self::Y2014),
            2035 => Some(Self::Y2035),
            _ => None,
        }
    }

    /// The year.
    #[must_use]
    pub const fn year(self) -> u16 {
        match self {
            Self::Y1993 => 1993,
            Self::Y2014 => 2014,
            Self::Y2035 => 2035,
        }
    }

    /// The next one, to which a key change with roll-over leads.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        match self {
            Self::Y1993 => Some(Self::Y2014),
            Self::Y2014 => Some(Self::Y2035),
            Self::Y2035 => None,
        }
    }

    fn start(self) -> UtcTime {
        UtcTime::from_civil(self.year(), 1, 1, 0, 0, 0).unwrap_or(UtcTime(0))
    }
}

/// A time that no identifier of the base date stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TidError {
    /// Before the base date.
    #[error("time lies before the base date {}", .0.year())]
    Before(BaseDate),
    /// After its last minute.
    #[error("time lies after the last minute of base date {}: the meter must move to the next one", .0.year())]
    After(BaseDate),
}

/// A token identifier: 24 bits, minutes since the base date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tid(u32);

impl Tid {
    /// Largest identifier.
    pub const MAX: Self = Self(0xFF_FFFF);

    /// From the low 24 bits of a number.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & 0xFF_FFFF)
    }

    /// The 24 bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether the minute is 00:01 of a day, which only special tokens carry.
    #[must_use]
    pub const fn is_reserved(self) -> bool {
        self.0 % DAY_MIN == RESERVED_MIN
    }

    /// The identifier of a token issued at this time: its minute, or 00:02 for the reserved 00:01.
    ///
    /// # Errors
    /// [`TidError`].
    ///
    /// # Source
    /// STS fact sheet, A3.
    pub fn at(base: BaseDate, time: UtcTime) -> Result<Self, TidError> {
        let seconds = time.0.checked_sub(base.start().0).ok_or(TidError::Before(base))?;
        let minutes = u32::try_from(seconds / 60).map_err(|_| TidError::After(base))?;
        let tid = if minutes <= Self::MAX.0 { Self(minutes) } else { return Err(TidError::After(base)) };
        //= STS A3: minute 00:01 of every day is reserved; a token of that minute carries 00:02
        if tid.is_reserved() { tid.next().ok_or(TidError::After(base)) } else { Ok(tid) }
    }

    /// The next identifier that an issuer may use.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        let next = Self(self.0.checked_add(1)?);
        let next = if next.is_reserved() { Self(next.0.checked_add(1)?) } else { next };
        (next <= Self::MAX).then_some(next)
    }

    /// The minute it stands for.
    #[must_use]
    pub fn time(self, base: BaseDate) -> UtcTime {
        UtcTime(base.start().0.saturating_add(u64::from(self.0).saturating_mul(60)))
    }

    /// The upper 8 bits, which a key expiry number is compared with.
    #[must_use]
    pub const fn period(self) -> u8 {
        let [_, period, _, _] = self.0.to_be_bytes();
        period
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(year: u16, month: u8, day: u8, hour: u8, minute: u8) -> UtcTime {
        UtcTime::from_civil(year, month, day, hour, minute, 0).unwrap()
    }

    //= STS A3: minute 00:01 of every day is reserved; a token of that minute carries 00:02
    #[test]
    fn the_reserved_minute_is_skipped() {
        let tid = Tid::at(BaseDate::Y2014, at(2026, 7, 29, 0, 1)).unwrap();
        assert_eq!(tid.bits(), 6_612_482);
        assert_eq!(Tid::at(BaseDate::Y2014, at(2026, 7, 29, 0, 2)), Ok(tid));
        assert_eq!(Tid::at(BaseDate::Y2014, at(2026, 7, 29, 0, 0)).unwrap().next(), Some(tid));
    }

    #[test]
    fn each_base_date_ends_where_the_sheet_says() {
        for (base, end) in [
            (BaseDate::Y1993, at(2024, 11, 24, 20, 15)),
            (BaseDate::Y2014, at(2045, 11, 24, 20, 15)),
            (BaseDate::Y2035, at(2066, 11, 24, 20, 15)),
        ] {
            assert_eq!(Tid::at(base, end), Ok(Tid::MAX));
            assert_eq!(Tid::at(base, UtcTime(end.0 + 60)), Err(TidError::After(base)));
            assert_eq!(Tid::MAX.time(base), end);
            assert_eq!(Tid::MAX.next(), None);
        }
        let before = at(2013, 12, 31, 23, 59);
        assert_eq!(Tid::at(BaseDate::Y2014, before), Err(TidError::Before(BaseDate::Y2014)));
    }
}
