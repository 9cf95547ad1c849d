//! What kind of device a manifest is about.

/// The parts of a metering system that find their owner by the same protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
#[non_exhaustive]
pub enum DeviceType {
    /// A meter: gets DLMS keys of its own.
    #[default]
    #[n(0)]
    Meter,
    /// A data concentrator: carries sealed APDUs and holds no key of a meter.
    #[n(1)]
    Concentrator,
    /// A smart meter gateway.
    #[n(2)]
    Gateway,
}

impl DeviceType {
    /// All of them, by their number in a manifest.
    pub const ALL: [Self; 3] = [Self::Meter, Self::Concentrator, Self::Gateway];

    /// Number in a manifest.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Meter => 0,
            Self::Concentrator => 1,
            Self::Gateway => 2,
        }
    }

    /// Stable lower-case name, as printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meter => "meter",
            Self::Concentrator => "concentrator",
            Self::Gateway => "gateway",
        }
    }
}
