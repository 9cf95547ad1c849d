//! One row of the load profile, and how it is pushed.

use gridseal_dlms::{
    apdu::notification::{DataNotification, LongInvokeId},
    wire::{Data, DateTime},
};
use gridseal_types::{ObisCode, UtcTime};

/// Status bit of a row before which the meter was not measuring: power was down or the meter restarted.
pub const ROW_STATUS_POWER_DOWN: u8 = 0x80;

/// DLMS unit code of watt-hours.
const UNIT_WATT_HOUR: u8 = 30;
/// Energy is sent in whole watt-hours: value x 10^0.
const SCALER: i8 = 0;

/// One captured interval of the load profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Row {
    /// Start of the interval in UTC.
    #[n(0)]
    pub start: UtcTime,
    /// Length of the interval in seconds.
    #[n(1)]
    pub interval_s: u32,
    /// Status bits; zero means nothing to remark.
    #[n(2)]
    pub status: u8,
    /// Register of active energy import at the end of the interval, watt-hours.
    #[n(3)]
    pub energy_wh: u64,
}

impl Row {
    /// End of the interval.
    #[must_use]
    pub const fn end(&self) -> UtcTime {
        UtcTime(self.start.0.saturating_add(self.interval_s as u64))
    }

    /// The DataNotification that carries this row: a structure of the push setup's logical name, the clock at the
    /// *end* of the interval (octet-string of 12, deviation 0), the status (unsigned), the register
    /// (double-long-unsigned, or long64-unsigned above that) and its scaler and unit (structure of integer and enum).
    ///
    /// `None` for an instant that no date-time expresses.
    ///
    /// # Source
    /// DLMS fact sheet, sections 7 and 8 (profile generic, push setup); vector `dlms/push-row-plain.toml`.
    #[must_use]
    pub fn notification(&self, long_invoke_id: LongInvokeId) -> Option<Vec<u8>> {
        let clock = DateTime::from_utc(self.end(), 0, 0)?.to_bytes();
        let energy = u32::try_from(self.energy_wh)
            .map_or(Data::Long64Unsigned(self.energy_wh), Data::DoubleLongUnsigned);
        let body = Data::Structure(vec![
            Data::OctetString(ObisCode::PUSH_SETUP.groups()),
            Data::OctetString(&clock),
            Data::Unsigned(self.status),
            energy,
            Data::Structure(vec![Data::Integer(SCALER), Data::Enum(UNIT_WATT_HOUR)]),
        ]);
        Some(DataNotification { long_invoke_id, date_time: None, body }.to_bytes())
    }
}
