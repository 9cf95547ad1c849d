//! Dates and times as meters send them: local, without a zone, with parts left open.

use core::fmt;

/// A date. An open part means "every": the first of every month, every day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Date {
    /// Year, four digits.
    pub year: Option<u16>,
    /// Month, 1 to 12.
    pub month: Option<u8>,
    /// Day of the month, 1 to 31.
    pub day: Option<u8>,
}

/// A time of day. An open part means "every".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Time {
    /// Hour, 0 to 23.
    pub hour: Option<u8>,
    /// Minute, 0 to 59.
    pub minute: Option<u8>,
    /// Second, 0 to 59, where the format has one.
    pub second: Option<u8>,
}

/// A date and a time of day, in the meter's local time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DateTime {
    /// Date.
    pub date: Date,
    /// Time of day.
    pub time: Time,
    /// Whether the meter says that this is daylight-saving time. By convention meters keep standard time.
    pub is_summer: bool,
}

fn part(f: &mut fmt::Formatter<'_>, value: Option<u16>, width: usize) -> fmt::Result {
    match value {
        Some(value) => write!(f, "{value:0width$}"),
        None => write!(f, "{:*<width$}", ""),
    }
}

impl fmt::Display for Date {
    /// `2008-05-31`; an open part prints as stars.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        part(f, self.year, 4)?;
        f.write_str("-")?;
        part(f, self.month.map(u16::from), 2)?;
        f.write_str("-")?;
        part(f, self.day.map(u16::from), 2)
    }
}

impl fmt::Display for Time {
    /// `23:50` or `23:50:07`; an open part prints as stars.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        part(f, self.hour.map(u16::from), 2)?;
        f.write_str(":")?;
        part(f, self.minute.map(u16::from), 2)?;
        match self.second {
            Some(second) => write!(f, ":{second:02}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for DateTime {
    /// `2008-05-31T23:50`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}T{}", self.date, self.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_parts_print_as_stars() {
        let date = Date { year: Some(2008), month: Some(5), day: None };
        let time = Time { hour: Some(3), minute: Some(7), second: None };
        assert_eq!(alloc::format!("{}", DateTime { date, time, is_summer: false }), "2008-05-**T03:07");
    }
}
