//! What was measured.

macro_rules! quantities {
    ($($(#[$doc:meta])* $variant:ident $name:literal;)*) => {
        /// What was measured, in words that are the same for every protocol of the local network.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Quantity {
            $($(#[$doc])* $variant,)*
        }

        impl Quantity {
            /// Name as in the output of `gridseal decode`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The quantity of this name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

quantities! {
    /// Not known, or not said.
    Unknown "unknown";
    /// Known to the manufacturer only.
    Manufacturer "manufacturer_specific";
    /// Any: a request for whatever there is.
    Any "any";
    /// Without dimension.
    Dimensionless "dimensionless";
    /// In the unit that the meter spells out.
    PlainText "plain_text_unit";

    /// Energy, active where it is electrical.
    Energy "energy";
    /// Reactive energy.
    ReactiveEnergy "reactive_energy";
    /// Apparent energy.
    ApparentEnergy "apparent_energy";
    /// Volume.
    Volume "volume";
    /// Mass.
    Mass "mass";
    /// Power, active where it is electrical.
    Power "power";
    /// Highest power of a period, cumulated.
    CumulativeMaximumPower "cumulative_maximum_power";
    /// Reactive power.
    ReactivePower "reactive_power";
    /// Apparent power.
    ApparentPower "apparent_power";
    /// Volume flow.
    VolumeFlow "volume_flow";
    /// Mass flow.
    MassFlow "mass_flow";
    /// Voltage.
    Voltage "voltage";
    /// Current.
    Current "current";
    /// Frequency.
    Frequency "frequency";
    /// Angle between two voltages.
    PhaseAngleVoltage "phase_angle_u_u";
    /// Angle between voltage and current.
    PhaseAngleCurrent "phase_angle_u_i";
    /// Power factor.
    PowerFactor "power_factor";
    /// Flow temperature.
    FlowTemperature "flow_temperature";
    /// Return temperature.
    ReturnTemperature "return_temperature";
    /// Temperature difference.
    TemperatureDifference "temperature_difference";
    /// External temperature.
    ExternalTemperature "external_temperature";
    /// Temperature limit.
    TemperatureLimit "temperature_limit";
    /// Pressure.
    Pressure "pressure";
    /// Relative humidity.
    RelativeHumidity "relative_humidity";
    /// Units of a heat cost allocator.
    HeatCostAllocation "heat_cost_allocation";
    /// Rating factor of a heat cost allocator.
    HeatCostFactor "heat_cost_factor";

    /// Time since power-on.
    OnTime "on_time";
    /// Time of operation.
    OperatingTime "operating_time";
    /// Averaging duration.
    AveragingDuration "averaging_duration";
    /// Actuality duration: age of the value.
    ActualityDuration "actuality_duration";
    /// Date.
    Date "date";
    /// Date and time.
    DateTime "date_time";
    /// Duration of what the record's qualifiers say.
    Duration "duration";
    /// Point in time.
    TimePoint "time_point";

    /// Credit.
    Credit "credit";
    /// Debit.
    Debit "debit";

    /// Fabrication number.
    FabricationNumber "fabrication_number";
    /// Enhanced identification.
    EnhancedIdentification "enhanced_identification";
    /// Address on the bus.
    BusAddress "bus_address";
    /// Unique message identification.
    MessageIdentification "message_identification";
    /// Device type.
    DeviceType "device_type";
    /// Manufacturer.
    ManufacturerName "manufacturer";
    /// Identification of a parameter set.
    ParameterSet "parameter_set";
    /// Model or version.
    Model "model";
    /// Hardware version.
    HardwareVersion "hardware_version";
    /// Version of the metrological firmware.
    MetrologyFirmware "metrology_firmware_version";
    /// Version of other software.
    SoftwareVersion "software_version";
    /// Customer location.
    CustomerLocation "customer_location";
    /// Customer.
    Customer "customer";
    /// Identification of the device.
    DeviceIdentification "device_identification";
    /// Access code.
    AccessCode "access_code";
    /// Password.
    Password "password";
    /// Error flags.
    ErrorFlags "error_flags";
    /// Error mask.
    ErrorMask "error_mask";
    /// Status word.
    Status "status";
    /// Security key.
    SecurityKey "security_key";
    /// Digital output.
    DigitalOutput "digital_output";
    /// Digital input.
    DigitalInput "digital_input";
    /// Baud rate.
    BaudRate "baud_rate";
    /// Response delay.
    ResponseDelay "response_delay";
    /// Retry count.
    Retry "retry";
    /// Remote control.
    RemoteControl "remote_control";
    /// First storage number of a block.
    FirstStorage "first_storage";
    /// Last storage number of a block.
    LastStorage "last_storage";
    /// Size of a storage block.
    StorageBlockSize "storage_block_size";
    /// Descriptor of tariff and subunit.
    TariffDescriptor "tariff_descriptor";
    /// Storage interval.
    StorageInterval "storage_interval";
    /// Data of the operator.
    OperatorData "operator_data";
    /// Time since the last readout.
    SinceReadout "since_readout";
    /// Start of a tariff.
    TariffStart "tariff_start";
    /// Duration of a tariff.
    TariffDuration "tariff_duration";
    /// Period of a tariff.
    TariffPeriod "tariff_period";
    /// Container of a wireless telegram.
    WirelessContainer "wireless_container";
    /// Period of transmission.
    TransmissionPeriod "transmission_period";
    /// Reset counter.
    ResetCounter "reset_counter";
    /// Cumulation counter.
    CumulationCounter "cumulation_counter";
    /// Control signal.
    ControlSignal "control_signal";
    /// Day of the week.
    Weekday "weekday";
    /// Week number.
    WeekNumber "week_number";
    /// Time of the change of day.
    DayChange "day_change";
    /// State of parameter activation.
    ParameterActivation "parameter_activation";
    /// Information of the supplier.
    SupplierInformation "supplier_information";
    /// Time since the last cumulation.
    SinceCumulation "since_cumulation";
    /// Time of operation on battery.
    BatteryTime "battery_time";
    /// Date of the change of battery.
    BatteryChange "battery_change";
    /// Level of the received radio signal.
    RadioLevel "radio_level";
    /// Daylight saving.
    DaylightSaving "daylight_saving";
    /// Listening window.
    ListeningWindow "listening_window";
    /// Days that the battery will last.
    BatteryDaysLeft "battery_days_left";
    /// How often the meter was stopped.
    StopCount "stop_count";
    /// Container of the manufacturer.
    ManufacturerContainer "manufacturer_container";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_map_back() {
        for quantity in [Quantity::Energy, Quantity::ManufacturerContainer, Quantity::PhaseAngleCurrent] {
            assert_eq!(Quantity::from_name(quantity.name()), Some(quantity));
        }
        assert_eq!(Quantity::from_name("nonsense"), None);
    }
}
