//! Tables of the value information field.

use crate::reading::{Quantity, Unit};

/// A value information field: the primary code, and the code in the table FB or FD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vif {
    /// Primary code, 7 bits: 7B and 7D select a table, 7C spells the unit out, 7F is the manufacturer's.
    pub primary: u8,
    /// Code in the table, 7 bits; 0 without one.
    pub table: u8,
}

/// What a VIF says: quantity, unit, power of ten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meaning {
    pub(crate) quantity: Quantity,
    pub(crate) unit: Unit,
    pub(crate) exponent: i16,
}

const TIMES: [Unit; 4] = [Unit::Second, Unit::Minute, Unit::Hour, Unit::Day];

fn of(quantity: Quantity, unit: Unit, exponent: i16) -> Meaning {
    Meaning { quantity, unit, exponent }
}

/// Unit of time of the low two bits: s, min, h, d.
pub(super) fn time_unit(code: u8) -> Unit {
    TIMES.get(usize::from(code & 3)).copied().unwrap_or(Unit::Second)
}

fn power(code: u8, mask: u8, base: i16) -> i16 {
    base.saturating_add(i16::from(code & mask))
}

impl Vif {
    /// No value information: manufacturer data, requests.
    pub const NONE: Self = Self { primary: 0x7F, table: 0 };

    /// Whether the code is the manufacturer's.
    #[must_use]
    pub const fn is_manufacturer(self) -> bool {
        self.primary == 0x7F
    }

    pub(crate) fn meaning(self) -> Meaning {
        match self.primary {
            0x7B => table_fb(self.table),
            0x7D => table_fd(self.table),
            code => primary(code),
        }
    }

    /// Whether an integer of this code is a set of bits or a number that is never negative.
    pub(crate) const fn is_unsigned(self) -> bool {
        self.primary == 0x7D && matches!(self.table, 0x08..=0x1F | 0x62 | 0x66)
            || matches!(self.primary, 0x78..=0x7A)
    }
}

fn primary(code: u8) -> Meaning {
    use Quantity as Q;
    use Unit as U;
    let n7 = |base| power(code, 7, base);
    let n3 = |base| power(code, 3, base);
    match code {
        0x00..=0x07 => of(Q::Energy, U::WattHour, n7(-3)),
        0x08..=0x0F => of(Q::Energy, U::Joule, n7(0)),
        0x10..=0x17 => of(Q::Volume, U::CubicMetre, n7(-6)),
        0x18..=0x1F => of(Q::Mass, U::Kilogram, n7(-3)),
        0x20..=0x23 => of(Q::OnTime, time_unit(code), 0),
        0x24..=0x27 => of(Q::OperatingTime, time_unit(code), 0),
        0x28..=0x2F => of(Q::Power, U::Watt, n7(-3)),
        0x30..=0x37 => of(Q::Power, U::JoulePerHour, n7(0)),
        0x38..=0x3F => of(Q::VolumeFlow, U::CubicMetrePerHour, n7(-6)),
        0x40..=0x47 => of(Q::VolumeFlow, U::CubicMetrePerMinute, n7(-7)),
        0x48..=0x4F => of(Q::VolumeFlow, U::CubicMetrePerSecond, n7(-9)),
        0x50..=0x57 => of(Q::MassFlow, U::KilogramPerHour, n7(-3)),
        0x58..=0x5B => of(Q::FlowTemperature, U::Celsius, n3(-3)),
        0x5C..=0x5F => of(Q::ReturnTemperature, U::Celsius, n3(-3)),
        0x60..=0x63 => of(Q::TemperatureDifference, U::Kelvin, n3(-3)),
        0x64..=0x67 => of(Q::ExternalTemperature, U::Celsius, n3(-3)),
        0x68..=0x6B => of(Q::Pressure, U::Bar, n3(-3)),
        0x6C => of(Q::Date, U::None, 0),
        0x6D => of(Q::DateTime, U::None, 0),
        0x6E => of(Q::HeatCostAllocation, U::HeatCostUnit, 0),
        0x70..=0x73 => of(Q::AveragingDuration, time_unit(code), 0),
        0x74..=0x77 => of(Q::ActualityDuration, time_unit(code), 0),
        0x78 => of(Q::FabricationNumber, U::None, 0),
        0x79 => of(Q::EnhancedIdentification, U::None, 0),
        0x7A => of(Q::BusAddress, U::None, 0),
        0x7C => of(Q::PlainText, U::PlainText, 0),
        0x7E => of(Q::Any, U::None, 0),
        0x7F => of(Q::Manufacturer, U::None, 0),
        _ => of(Q::Unknown, U::None, 0),
    }
}

fn table_fb(code: u8) -> Meaning {
    use Quantity as Q;
    use Unit as U;
    let n1 = |base| power(code, 1, base);
    let n3 = |base| power(code, 3, base);
    match code {
        0x00..=0x01 => of(Q::Energy, U::WattHour, n1(5)),
        0x02..=0x03 => of(Q::ReactiveEnergy, U::VarHour, n1(3)),
        0x04..=0x05 => of(Q::ApparentEnergy, U::VoltAmpereHour, n1(3)),
        0x08..=0x09 => of(Q::Energy, U::Joule, n1(8)),
        0x0C..=0x0F => of(Q::Energy, U::Calorie, n3(5)),
        0x10..=0x11 => of(Q::Volume, U::CubicMetre, n1(2)),
        0x14..=0x17 => of(Q::ReactivePower, U::Var, n3(0)),
        0x18..=0x19 => of(Q::Mass, U::Tonne, n1(2)),
        0x1A..=0x1B => of(Q::RelativeHumidity, U::RelativeHumidity, n1(-1)),
        0x20 => of(Q::Volume, U::CubicFoot, 0),
        0x21 => of(Q::Volume, U::CubicFoot, -1),
        0x28..=0x29 => of(Q::Power, U::Watt, n1(5)),
        0x2A => of(Q::PhaseAngleVoltage, U::Degree, -1),
        0x2B => of(Q::PhaseAngleCurrent, U::Degree, -1),
        0x2C..=0x2F => of(Q::Frequency, U::Hertz, n3(-3)),
        0x30..=0x31 => of(Q::Power, U::JoulePerHour, n1(8)),
        0x34..=0x37 => of(Q::ApparentPower, U::VoltAmpere, n3(0)),
        0x68..=0x69 => of(Q::HeatCostFactor, U::None, 0),
        0x74..=0x77 => of(Q::TemperatureLimit, U::Celsius, n3(-3)),
        0x78..=0x7F => of(Q::CumulativeMaximumPower, U::Watt, power(code, 7, -3)),
        _ => of(Q::Unknown, U::None, 0),
    }
}

fn table_fd(code: u8) -> Meaning {
    use Quantity as Q;
    use Unit as U;
    let plain = |quantity| of(quantity, U::None, 0);
    match code {
        0x00..=0x03 => of(Q::Credit, U::Currency, power(code, 3, -3)),
        0x04..=0x07 => of(Q::Debit, U::Currency, power(code, 3, -3)),
        0x08..=0x3F => plain(device_quantity(code)).with_unit(device_unit(code)),
        0x40..=0x4F => of(Q::Voltage, U::Volt, power(code, 15, -9)),
        0x50..=0x5F => of(Q::Current, U::Ampere, power(code, 15, -12)),
        0x60 => plain(Q::ResetCounter),
        0x61 => plain(Q::CumulationCounter),
        0x62 => plain(Q::ControlSignal),
        0x63 => plain(Q::Weekday),
        0x64 => plain(Q::WeekNumber),
        0x65 => plain(Q::DayChange),
        0x66 => plain(Q::ParameterActivation),
        0x67 => plain(Q::SupplierInformation),
        0x68..=0x6B => of(Q::SinceCumulation, long_time_unit(code), 0),
        0x6C..=0x6F => of(Q::BatteryTime, long_time_unit(code), 0),
        0x70 => plain(Q::BatteryChange),
        0x71 => of(Q::RadioLevel, U::DecibelMilliwatt, 0),
        0x72 => plain(Q::DaylightSaving),
        0x73 => plain(Q::ListeningWindow),
        0x74 => of(Q::BatteryDaysLeft, U::Day, 0),
        0x75 => plain(Q::StopCount),
        0x76 => plain(Q::ManufacturerContainer),
        _ => plain(Q::Unknown),
    }
}

impl Meaning {
    const fn with_unit(self, unit: Unit) -> Self {
        Self { unit, ..self }
    }
}

/// Unit of time of the low two bits: h, d, month, year.
fn long_time_unit(code: u8) -> Unit {
    let units = [Unit::Hour, Unit::Day, Unit::Month, Unit::Year];
    units.get(usize::from(code & 3)).copied().unwrap_or(Unit::Hour)
}

const fn device_quantity(code: u8) -> Quantity {
    use Quantity as Q;
    match code {
        0x08 => Q::MessageIdentification,
        0x09 => Q::DeviceType,
        0x0A => Q::ManufacturerName,
        0x0B => Q::ParameterSet,
        0x0C => Q::Model,
        0x0D => Q::HardwareVersion,
        0x0E => Q::MetrologyFirmware,
        0x0F => Q::SoftwareVersion,
        0x10 => Q::CustomerLocation,
        0x11 => Q::Customer,
        0x12..=0x15 => Q::AccessCode,
        0x16 => Q::Password,
        0x17 => Q::ErrorFlags,
        0x18 => Q::ErrorMask,
        0x19 => Q::SecurityKey,
        0x1A => Q::DigitalOutput,
        0x1B => Q::DigitalInput,
        0x1C => Q::BaudRate,
        0x1D => Q::ResponseDelay,
        0x1E => Q::Retry,
        0x1F => Q::RemoteControl,
        0x20 => Q::FirstStorage,
        0x21 => Q::LastStorage,
        0x22 => Q::StorageBlockSize,
        0x23 => Q::TariffDescriptor,
        0x24..=0x29 => Q::StorageInterval,
        0x2A => Q::OperatorData,
        0x2B => Q::TimePoint,
        0x2C..=0x2F => Q::SinceReadout,
        0x30 => Q::TariffStart,
        0x31..=0x33 => Q::TariffDuration,
        0x34..=0x39 => Q::TariffPeriod,
        0x3A => Q::Dimensionless,
        0x3B => Q::WirelessContainer,
        0x3C..=0x3F => Q::TransmissionPeriod,
        _ => Q::Unknown,
    }
}

fn device_unit(code: u8) -> Unit {
    match code {
        0x1C => Unit::Baud,
        0x1D => Unit::BitTime,
        0x24..=0x27 | 0x2C..=0x2F | 0x31..=0x37 | 0x3C..=0x3F => time_unit(code),
        0x28 | 0x38 => Unit::Month,
        0x29 | 0x39 => Unit::Year,
        0x2B => Unit::Second,
        _ => Unit::None,
    }
}
