//! COSEM date, time and date-time, with their wildcards.

use core::{fmt, ops::RangeInclusive};

use gridseal_types::{Kind, UtcTime};

use super::{DecodeError, Reader, Rule};

/// Octet that says "not specified".
const UNSPECIFIED: u8 = 0xFF;
/// Year that says "not specified".
const YEAR_UNSPECIFIED: u16 = 0xFFFF;
/// Deviation that says "not specified" (0x8000).
const DEVIATION_UNSPECIFIED: i16 = i16::MIN;
/// Possible distances of a local time from UTC, minutes, in both signs: the Line Islands are 14 hours ahead.
const DEVIATION_RANGE: RangeInclusive<i16> = -840..=840;

/// A date, 5 octets: year (u16), month, day of month, day of week. Any part may be "not specified".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    /// Year; FFFF = not specified.
    pub year: u16,
    /// Month 1 to 12; FD = end, FE = begin of daylight saving; FF = not specified.
    pub month: u8,
    /// Day 1 to 31; FD = second last, FE = last day of the month; FF = not specified.
    pub day: u8,
    /// Day of the week, 1 = Monday; FF = not specified.
    pub weekday: u8,
}

/// A time of day, 4 octets: hour, minute, second, hundredths. Any part may be "not specified".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    /// Hour 0 to 23; FF = not specified.
    pub hour: u8,
    /// Minute 0 to 59; FF = not specified.
    pub minute: u8,
    /// Second 0 to 59; FF = not specified.
    pub second: u8,
    /// Hundredths of a second 0 to 99; FF = not specified.
    pub hundredths: u8,
}

/// A date-time, 12 octets: date, time, deviation (i16), clock status.
///
/// # Source
/// DLMS fact sheet, section 2.2; IEC 62056-6-2, date and time formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DateTime {
    /// Local date.
    pub date: Date,
    /// Local time.
    pub time: Time,
    /// Minutes from local time to UTC (`UTC = local + deviation`, CET = -60), `None` when not specified.
    pub deviation_min: Option<i16>,
    /// Clock status: bit 0 invalid, 1 doubtful, 2 different clock base, 3 invalid status, 7 daylight saving active;
    /// FF = not specified.
    pub status: u8,
}

/// Which way the deviation of a meter model counts: some models invert the standard's sign. Closed: there is no third.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviationSign {
    /// `UTC = local + deviation`.
    #[default]
    Standard,
    /// `UTC = local - deviation`.
    Inverted,
}

/// A date-time that names no instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DateTimeError {
    /// Year, month, day, hour, minute or second is not specified, or stands for a rule instead of a date.
    #[error("date-time has a part that is not specified")]
    Unspecified,
    /// The deviation is not specified: only the time zone of the meter's model can tell the instant.
    #[error("date-time has no deviation from UTC")]
    NoDeviation,
    /// The date does not exist, or lies before 1970.
    #[error("date-time is no instant since 1970")]
    NoInstant,
}

impl DateTimeError {
    /// Always the peer: whoever sent the date-time.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        Kind::Peer
    }
}

impl Date {
    /// Size in bytes.
    pub const SIZE: usize = 5;

    /// Reads the 5 octets.
    ///
    /// # Errors
    /// [`Rule::Truncated`] or [`Rule::OutOfRange`].
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            year: reader.u16("year")?,
            month: part(reader, "month", |octet| matches!(octet, 1..=12 | 0xFD | 0xFE))?,
            day: part(reader, "day", |octet| matches!(octet, 1..=31 | 0xFD | 0xFE))?,
            weekday: part(reader, "weekday", |octet| matches!(octet, 1..=7))?,
        })
    }

    /// The 5 octets.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; Self::SIZE] {
        let [high, low] = self.year.to_be_bytes();
        [high, low, self.month, self.day, self.weekday]
    }
}

impl Time {
    /// Size in bytes.
    pub const SIZE: usize = 4;

    /// Reads the 4 octets.
    ///
    /// # Errors
    /// [`Rule::Truncated`] or [`Rule::OutOfRange`].
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            hour: part(reader, "hour", |octet| octet <= 23)?,
            minute: part(reader, "minute", |octet| octet <= 59)?,
            second: part(reader, "second", |octet| octet <= 59)?,
            hundredths: part(reader, "hundredths", |octet| octet <= 99)?,
        })
    }

    /// The 4 octets.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; Self::SIZE] {
        [self.hour, self.minute, self.second, self.hundredths]
    }
}

impl DateTime {
    /// Size in bytes.
    pub const SIZE: usize = 12;

    /// Reads a date-time that fills the whole input: the contents of an octet-string.
    ///
    /// # Errors
    /// As [`DateTime::decode`], and [`Rule::LengthNotAllowed`] unless there are 12 octets.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        if bytes.len() != Self::SIZE {
            return Err(reader.fail("date-time", Rule::LengthNotAllowed { found: bytes.len() }));
        }
        Self::decode(&mut reader)
    }

    /// Reads the 12 octets.
    ///
    /// # Errors
    /// [`Rule::Truncated`] or [`Rule::OutOfRange`].
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let date = Date::decode(reader)?;
        let time = Time::decode(reader)?;
        let start = reader.clone();
        let deviation_min = match i16::from_be_bytes(reader.array("deviation")?) {
            DEVIATION_UNSPECIFIED => None,
            minutes if DEVIATION_RANGE.contains(&minutes) => Some(minutes),
            _ => return Err(start.fail("deviation", Rule::OutOfRange)),
        };
        Ok(Self { date, time, deviation_min, status: reader.u8("clock status")? })
    }

    /// The 12 octets.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let [y0, y1, month, day, weekday] = self.date.to_bytes();
        let [hour, minute, second, hundredths] = self.time.to_bytes();
        let [d0, d1] = self.deviation_min.unwrap_or(DEVIATION_UNSPECIFIED).to_be_bytes();
        [y0, y1, month, day, weekday, hour, minute, second, hundredths, d0, d1, self.status]
    }

    /// The instant, to the second; hundredths are dropped, the day of the week is not compared.
    ///
    /// # Errors
    /// [`DateTimeError`] when it names none; nothing is guessed.
    ///
    /// # Source
    /// DLMS fact sheet, section 2.2: `UTC = local + deviation`.
    pub fn to_utc(self, sign: DeviationSign) -> Result<UtcTime, DateTimeError> {
        //= DLMS 2.2: UTC is local time plus the deviation
        let Self { date, time, .. } = self;
        let octets = [date.month, date.day, time.hour, time.minute, time.second];
        if date.year == YEAR_UNSPECIFIED || octets.iter().any(|octet| *octet >= 0xFD) {
            return Err(DateTimeError::Unspecified);
        }
        let deviation_s = i64::from(self.deviation_min.ok_or(DateTimeError::NoDeviation)?).saturating_mul(60);
        let shift_s = match sign {
            DeviationSign::Standard => deviation_s,
            DeviationSign::Inverted => deviation_s.saturating_neg(),
        };
        UtcTime::from_civil(date.year, date.month, date.day, time.hour, time.minute, time.second)
            .and_then(|local| local.0.checked_add_signed(shift_s))
            .map(UtcTime)
            .ok_or(DateTimeError::NoInstant)
    }

    /// The local date-time of an instant at a deviation, with clock status `status`; `None` when the local time lies
    /// before 1970 or the deviation is above 14 hours.
    #[must_use]
    pub fn from_utc(at: UtcTime, deviation_min: i16, status: u8) -> Option<Self> {
        if !DEVIATION_RANGE.contains(&deviation_min) {
            return None;
        }
        let shift_s = i64::from(deviation_min).saturating_mul(60).saturating_neg();
        let local = UtcTime(at.0.checked_add_signed(shift_s)?);
        let (year, month, day, hour, minute, second) = local.civil();
        // 1970-01-01 was a Thursday, day 4 of a week that starts with Monday as day 1.
        let weekday = (local.0 / 86_400).saturating_add(3) % 7;
        let weekday = u8::try_from(weekday).ok()?.saturating_add(1);
        Some(Self {
            date: Date { year, month, day, weekday },
            time: Time { hour, minute, second, hundredths: 0 },
            deviation_min: Some(deviation_min),
            status,
        })
    }
}

/// One octet of a date or time: two digits, `?` when not specified, a rule such as "last day" in hex.
fn write_part(f: &mut fmt::Formatter<'_>, octet: u8) -> fmt::Result {
    match octet {
        UNSPECIFIED => f.write_str("?"),
        0xFD | 0xFE => write!(f, "{octet:02X}h"),
        octet => write!(f, "{octet:02}"),
    }
}

/// `2026-11-25`; a part that is not specified is `?`, one that stands for a rule is its number in hex.
impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.year {
            YEAR_UNSPECIFIED => f.write_str("?-")?,
            year => write!(f, "{year:04}-")?,
        }
        write_part(f, self.month)?;
        f.write_str("-")?;
        write_part(f, self.day)
    }
}

/// `12:00:00`, and hundredths where they are specified and not zero.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_part(f, self.hour)?;
        f.write_str(":")?;
        write_part(f, self.minute)?;
        f.write_str(":")?;
        write_part(f, self.second)?;
        match self.hundredths {
            0 | UNSPECIFIED => Ok(()),
            hundredths => write!(f, ".{hundredths:02}"),
        }
    }
}

/// `2026-11-25T12:00:00+01:00`, ISO 8601 when all parts are specified; without a zone when the deviation is not.
impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}T{}", self.date, self.time)?;
        let Some(deviation) = self.deviation_min else { return Ok(()) };
        // The standard counts from local time to UTC, everybody else the other way round.
        let sign = if deviation <= 0 { '+' } else { '-' };
        let minutes = deviation.unsigned_abs();
        write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

fn part(
    reader: &mut Reader<'_>,
    field: &'static str,
    is_allowed: impl Fn(u8) -> bool,
) -> Result<u8, DecodeError> {
    let start = reader.clone();
    let octet = reader.u8(field)?;
    if octet == UNSPECIFIED || is_allowed(octet) {
        return Ok(octet);
    }
    Err(start.fail(field, Rule::OutOfRange))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BERLIN_NOON: [u8; 12] = [0x07, 0xEA, 11, 25, 3, 12, 0, 0, 0, 0xFF, 0xC4, 0];

    //= DLMS 2.2: UTC is local time plus the deviation
    #[test]
    fn deviation_counts_from_local_time_to_utc_and_its_sign_is_a_switch() {
        let noon = DateTime::from_bytes(&BERLIN_NOON).unwrap();
        assert_eq!(noon.deviation_min, Some(-60));
        let utc = noon.to_utc(DeviationSign::Standard).unwrap();
        assert_eq!(utc, UtcTime::from_civil(2026, 11, 25, 11, 0, 0).unwrap());
        let inverted = noon.to_utc(DeviationSign::Inverted).unwrap();
        assert_eq!(inverted, UtcTime::from_civil(2026, 11, 25, 13, 0, 0).unwrap());
        assert_eq!(DateTime::from_utc(utc, -60, 0).unwrap().to_bytes(), BERLIN_NOON);
    }

    #[test]
    fn text_is_iso_8601_and_says_what_is_not_specified() {
        let text = |change: &[(usize, u8)]| {
            let mut bytes = BERLIN_NOON;
            change.iter().for_each(|(index, octet)| bytes[*index] = *octet);
            alloc::format!("{}", DateTime::from_bytes(&bytes).unwrap())
        };
        assert_eq!(text(&[]), "2026-11-25T12:00:00+01:00");
        assert_eq!(text(&[(9, 0x00), (10, 0x5A)]), "2026-11-25T12:00:00-01:30");
        assert_eq!(text(&[(9, 0x80), (10, 0x00), (8, 7)]), "2026-11-25T12:00:00.07");
        assert_eq!(text(&[(0, 0xFF), (1, 0xFF), (3, 0xFE), (6, 0xFF)]), "?-11-FEhT12:?:00+01:00");
    }

    #[test]
    fn what_is_not_specified_is_never_guessed() {
        let with = |index: usize, octet: u8| {
            let mut bytes = BERLIN_NOON;
            bytes[index] = octet;
            DateTime::from_bytes(&bytes).unwrap().to_utc(DeviationSign::Standard)
        };
        for index in [2, 3, 5, 6, 7] {
            assert_eq!(with(index, 0xFF), Err(DateTimeError::Unspecified), "octet {index}");
        }
        assert_eq!(with(3, 0xFE), Err(DateTimeError::Unspecified));
        assert!(with(4, 0xFF).is_ok() && with(8, 0xFF).is_ok());
        assert_eq!(with(3, 31), Err(DateTimeError::NoInstant), "31 November");
        let mut bytes = BERLIN_NOON;
        bytes[9..11].copy_from_slice(&[0x80, 0x00]);
        let no_zone = DateTime::from_bytes(&bytes).unwrap();
        assert_eq!(no_zone.to_utc(DeviationSign::Standard), Err(DateTimeError::NoDeviation));
        assert_eq!(no_zone.to_bytes(), bytes);
    }

    #[test]
    fn parts_out_of_range_are_refused() {
        for (index, octet, field) in
            [(2, 13, "month"), (3, 0, "day"), (4, 8, "weekday"), (5, 24, "hour"), (9, 0x40, "deviation")]
        {
            let mut bytes = BERLIN_NOON;
            bytes[index] = octet;
            let error = DateTime::from_bytes(&bytes).unwrap_err();
            assert_eq!((error.field, error.offset, error.rule), (field, index, Rule::OutOfRange));
        }
        assert!(DateTime::from_bytes(&BERLIN_NOON[..11]).is_err());
    }
}
