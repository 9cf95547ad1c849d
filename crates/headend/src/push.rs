//! From a meter's push to readings.

use gridseal_dlms::{
    apdu::notification::DataNotification,
    wire::{Data, DateTime, DateTimeError, DecodeError, DeviationSign},
};
use gridseal_types::{Kind, ObisCode, Quality, Reading, ReadingKey, SystemTitle, Unit, UtcTime};

/// Which end of the interval a meter's clock names. Closed: an interval has two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClockStamp {
    /// The end: when the row was captured.
    #[default]
    IntervalEnd,
    /// The start.
    IntervalStart,
}

/// What the head-end must know of a meter model to read its push: what the push setup lists, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushModel {
    /// Logical name that the push begins with.
    pub push_setup: ObisCode,
    /// Quantity of the value.
    pub obis: ObisCode,
    /// Capture period in seconds, above zero.
    pub interval_s: u32,
    /// What the clock names.
    pub stamp: ClockStamp,
    /// Which way the clock's deviation counts.
    pub deviation: DeviationSign,
}

impl PushModel {
    /// Our own meter's push of its load profile with this capture period in seconds (0 counts as 1).
    #[must_use]
    pub const fn load_profile(interval_s: u32) -> Self {
        Self {
            push_setup: ObisCode::PUSH_SETUP,
            obis: ObisCode::ACTIVE_ENERGY_IMPORT,
            interval_s: if interval_s == 0 { 1 } else { interval_s },
            stamp: ClockStamp::IntervalEnd,
            deviation: DeviationSign::Standard,
        }
    }
}

/// A push is not what its meter model sends. It never holds a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormError {
    /// The body has other fields than the push setup lists.
    #[error("push does not have the fields that the model lists")]
    Fields,
    /// It comes from another push setup.
    #[error("push comes from another push setup")]
    PushSetup,
    /// The clock is no date-time.
    #[error("clock of the row")]
    Clock(#[source] DecodeError),
    /// The clock names no instant, or one before 1970.
    #[error("clock of the row")]
    Instant(#[source] DateTimeError),
    /// The value is no integer.
    #[error("value is no integer")]
    Value,
    /// The unit is not one that readings have.
    #[error("unit {0} is not supported")]
    Unit(u8),
    /// The scaled value is no whole number of its unit, or beyond 63 bits: rounding would lose energy silently.
    #[error("value with its scaler is not a whole number of the unit")]
    Scaler,
}

impl FormError {
    /// Always the peer, or the model that was chosen for it.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        Kind::Peer
    }
}

/// The readings of one push. A value that is null-data was not measured: it is no reading, and never a zero.
///
/// Body: structure of push setup's logical name, clock (octet-string of 12), status (unsigned), value, and a structure
/// of scaler (integer) and unit (enum). Value and scaler become a whole number of the unit, exactly.
///
/// # Errors
/// [`FormError`].
///
/// # Source
/// DLMS fact sheet, sections 7 and 8; head-end fact sheet, section 2.7; vector `dlms/push-row-plain.toml`.
pub fn decode_push(
    model: &PushModel,
    meter: SystemTitle,
    push: &DataNotification<'_>,
) -> Result<Vec<Reading>, FormError> {
    let Data::Structure(fields) = &push.body else { return Err(FormError::Fields) };
    let [
        Data::OctetString(name),
        Data::OctetString(clock),
        Data::Unsigned(status),
        value,
        Data::Structure(scaler_unit),
    ] = fields.as_slice()
    else {
        return Err(FormError::Fields);
    };
    let [Data::Integer(scaler), Data::Enum(unit)] = scaler_unit.as_slice() else {
        return Err(FormError::Fields);
    };
    if *name != model.push_setup.groups() {
        return Err(FormError::PushSetup);
    }
    let start = interval_start(model, clock)?;
    let unit = Unit::from_dlms(*unit).ok_or(FormError::Unit(*unit))?;
    let Some(value) = integer(value)? else { return Ok(Vec::new()) };
    let value = scale(value, *scaler).ok_or(FormError::Scaler)?;
    let key = ReadingKey { start, meter, obis: model.obis };
    Ok(vec![Reading { key, interval_s: model.interval_s, value, unit, quality: Quality(*status) }])
}

fn interval_start(model: &PushModel, clock: &[u8]) -> Result<UtcTime, FormError> {
    let at = DateTime::from_bytes(clock)
        .map_err(FormError::Clock)?
        .to_utc(model.deviation)
        .map_err(FormError::Instant)?;
    match model.stamp {
        ClockStamp::IntervalStart => Ok(at),
        //= headend 2.7: an interval is keyed by its start, converted once, when it is decoded
        ClockStamp::IntervalEnd => {
            at.0.checked_sub(u64::from(model.interval_s))
                .map(UtcTime)
                .ok_or(FormError::Instant(DateTimeError::NoInstant))
        }
    }
}

fn integer(value: &Data<'_>) -> Result<Option<i128>, FormError> {
    Ok(Some(match *value {
        Data::Null => return Ok(None),
        Data::Integer(value) => value.into(),
        Data::Long(value) => value.into(),
        Data::DoubleLong(value) => value.into(),
        Data::Long64(value) => value.into(),
        Data::Unsigned(value) => value.into(),
        Data::LongUnsigned(value) => value.into(),
        Data::DoubleLongUnsigned(value) => value.into(),
        Data::Long64Unsigned(value) => value.into(),
        _ => return Err(FormError::Value),
    }))
}

/// `value` x 10^`scaler`, exactly, or `None`.
fn scale(value: i128, scaler: i8) -> Option<i64> {
    let power = 10i128.checked_pow(scaler.unsigned_abs().into())?;
    let scaled = if scaler >= 0 {
        value.checked_mul(power)?
    } else {
        (value.checked_rem(power)? == 0).then(|| value.checked_div(power))??
    };
    i64::try_from(scaled).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling_is_exact_or_refused() {
        assert_eq!(scale(123, 0), Some(123));
        assert_eq!(scale(123, 3), Some(123_000));
        assert_eq!(scale(-1_230, -1), Some(-123));
        assert_eq!(scale(1_234, -1), None);
        assert_eq!(scale(i128::from(u64::MAX), 0), None);
        assert_eq!(scale(1, 18), Some(1_000_000_000_000_000_000));
        for scaler in [19, 38, 39, 127] {
            assert_eq!(scale(1, scaler), None, "{scaler}");
        }
        assert_eq!(scale(1, -128), None);
    }
}
