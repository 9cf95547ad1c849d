//! Dates and times: types F, G, I and J.

use crate::reading::{Date, DateTime, Quality, Time, Value};

/// Type G, two bytes. `None` for the invalid date FFFF.
///
/// # Source
/// EN 13757-3, annex A; local network fact sheet, section 8.
fn date(bytes: [u8; 2], century: Option<u8>) -> Option<Date> {
    //= LMN 8: type G, day 0, month 15 and year 127 stand for every
    let [low, high] = bytes;
    if bytes == [0xFF, 0xFF] && century.is_none() {
        return None;
    }
    let year = u16::from((low >> 5) | ((high >> 4) << 3));
    // Without a century, 80 and below are of this one.
    let base = match century {
        Some(century) if century > 0 => u16::from(century).saturating_mul(100).saturating_add(1900),
        _ if year <= 80 => 2000,
        _ => 1900,
    };
    Some(Date {
        year: (year != 127).then(|| year.saturating_add(base)),
        month: Some(high & 0x0F).filter(|month| (1..=12).contains(month)),
        day: Some(low & 0x1F).filter(|day| *day != 0),
    })
}

fn below(value: u8, limit: u8) -> Option<u8> {
    Some(value).filter(|value| *value < limit)
}

/// The value of a date (VIF 6C).
pub(super) fn date_value(data: &[u8]) -> Option<(Value<'_>, Quality)> {
    Some(match date(data.try_into().ok()?, None) {
        Some(date) => (Value::Date(date), Quality::Good),
        None => (Value::Octets(data), Quality::InvalidTime),
    })
}

/// The value of a date and time (VIF 6D): J, F or I by size. `None` for another size.
pub(super) fn date_time_value(data: &[u8]) -> Option<(Value<'_>, Quality)> {
    let quality = |is_invalid: bool| if is_invalid { Quality::InvalidTime } else { Quality::Good };
    Some(match *data {
        [second, minute, hour] => {
            let time = Time {
                hour: below(hour & 0x1F, 24),
                minute: below(minute & 0x3F, 60),
                second: below(second & 0x3F, 60),
            };
            (Value::Time(time), Quality::Good)
        }
        //= LMN 8: type F has a century and a day 31 that is a real day
        [minute, hour, low, high] => {
            let date = date([low, high], Some((hour >> 5) & 3))?;
            let time = Time { hour: below(hour & 0x1F, 24), minute: below(minute & 0x3F, 60), second: None };
            (
                Value::DateTime(DateTime { date, time, is_summer: hour & 0x80 != 0 }),
                quality(minute & 0x80 != 0),
            )
        }
        [second, minute, hour, low, high, _] => {
            let date = date([low, high], Some(0))?;
            let time = Time {
                hour: below(hour & 0x1F, 24),
                minute: below(minute & 0x3F, 60),
                second: below(second & 0x3F, 60),
            };
            let is_summer = second & 0x40 != 0;
            (Value::DateTime(DateTime { date, time, is_summer }), quality(minute & 0x80 != 0))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(data: &[u8]) -> alloc::string::String {
        match date_time_value(data).or_else(|| date_value(data)) {
            Some((Value::Date(date), _)) => alloc::format!("{date}"),
            Some((Value::DateTime(at), _)) => alloc::format!("{at}"),
            Some((Value::Time(time), _)) => alloc::format!("{time}"),
            other => alloc::format!("{other:?}"),
        }
    }

    //= LMN 8: type F has a century and a day 31 that is a real day
    #[test]
    fn day_31_is_a_day_and_day_0_is_every_day() {
        assert_eq!(text(&[0x32, 0x37, 0x1F, 0x15]), "2008-05-31T23:50");
        assert_eq!(text(&[0x32, 0x17, 0x00, 0x15]), "2008-05-**T23:50");
        assert_eq!(text(&[0x3F, 0x1F, 0x1F, 0x15]), "2008-05-31T**:**");
    }

    //= LMN 8: type G, day 0, month 15 and year 127 stand for every
    #[test]
    fn open_parts_and_the_invalid_date_of_type_g() {
        assert_eq!(text(&[0x5F, 0x1C]), "2010-12-31");
        assert_eq!(text(&[0xE0, 0xFF]), "****-**-**");
        assert_eq!(date_value(&[0xFF, 0xFF]), Some((Value::Octets(&[0xFF, 0xFF]), Quality::InvalidTime)));
        assert_eq!(text(&[0x21, 0xA1]), "1981-01-01");
        assert_eq!(text(&[0x01, 0xA1]), "2080-01-01");
    }

    #[test]
    fn the_century_of_type_f_overrules_the_pivot() {
        assert_eq!(text(&[0, 0x20, 0x21, 0xA1]), "2081-01-01T00:00");
        assert_eq!(text(&[0, 0x00, 0x21, 0xA1]), "1981-01-01T00:00");
    }

    #[test]
    fn an_invalid_mark_goes_into_the_quality() {
        assert_eq!(
            date_time_value(&[0x80, 0, 0x21, 0x11]).map(|(_, quality)| quality),
            Some(Quality::InvalidTime)
        );
        assert_eq!(text(&[7, 50, 23]), "23:50:07");
        assert_eq!(text(&[7, 50, 23, 0x1F, 0x15, 0]), "2008-05-31T23:50:07");
    }
}
