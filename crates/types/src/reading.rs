//! One metered value, typed.

use crate::{ObisCode, SystemTitle, UtcTime};

/// Unit of a reading, after the scaler was applied to the integer base unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
#[non_exhaustive]
pub enum Unit {
    /// Active energy, watt-hours (DLMS unit 30).
    #[n(30)]
    WattHour,
    /// Reactive energy, var-hours (DLMS unit 32).
    #[n(32)]
    VarHour,
}

impl Unit {
    /// Unit of a DLMS `scal_unit_type` code, `None` for one that no reading here uses.
    #[must_use]
    pub const fn from_dlms(code: u8) -> Option<Self> {
        match code {
            30 => Some(Self::WattHour),
            32 => Some(Self::VarHour),
            _ => None,
        }
    }

    /// Symbol as printed: `Wh`, `varh`.
    #[must_use]
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::WattHour => "Wh",
            Self::VarHour => "varh",
        }
    }
}

/// Status byte of a load-profile row as the meter sent it; zero means nothing to remark.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct Quality(#[n(0)] pub u8);

/// What makes a reading unique: meter, channel (one obis of one profile) and interval start (rule S7, decision D1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, minicbor::Encode, minicbor::Decode)]
pub struct ReadingKey {
    /// Start of the interval in UTC.
    #[n(0)]
    pub start: UtcTime,
    /// System title under whose key the reading arrived.
    #[n(1)]
    pub meter: SystemTitle,
    /// Quantity.
    #[n(2)]
    pub obis: ObisCode,
}

/// One value of one interval, in the integer base unit. A missing value is no reading, never a zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, minicbor::Encode, minicbor::Decode)]
pub struct Reading {
    /// Identity.
    #[n(0)]
    pub key: ReadingKey,
    /// Length of the interval in seconds.
    #[n(1)]
    pub interval_s: u32,
    /// Value in `unit`, scaler applied.
    #[n(2)]
    pub value: i64,
    /// Unit of `value`.
    #[n(3)]
    pub unit: Unit,
    /// Status as the meter reported it.
    #[n(4)]
    pub quality: Quality,
}
