//! Who a telegram is from: manufacturer, identification, version and medium.

use core::fmt;

use alloc::string::String;

/// Manufacturer code: three letters in 15 bits; bit 15 says that the address is not globally unique.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Manufacturer(pub u16);

impl Manufacturer {
    /// The code of three capital letters.
    ///
    /// # Source
    /// EN 13757-3, manufacturer identification.
    #[must_use]
    pub fn from_letters(letters: &str) -> Option<Self> {
        //= LMN 1: M is three letters, five bits each
        let letters: [u8; 3] = letters.as_bytes().try_into().ok()?;
        letters
            .iter()
            .try_fold(0u16, |code, letter| {
                let value = letter.checked_sub(64).filter(|value| (1..=26).contains(value))?;
                Some((code << 5) | u16::from(value))
            })
            .map(Self)
    }

    /// Whether the address is unique only where the meter stands.
    #[must_use]
    pub const fn is_local(self) -> bool {
        self.0 & 0x8000 != 0
    }
}

impl fmt::Display for Manufacturer {
    /// Three letters, or four hex digits when the code is not one of letters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = [(self.0 >> 10) & 0x1F, (self.0 >> 5) & 0x1F, self.0 & 0x1F];
        if !values.iter().all(|value| (1..=26).contains(value)) {
            return write!(f, "{:04X}", self.0);
        }
        values.into_iter().try_for_each(|value| {
            let letter = u8::try_from(value).map_or(b'?', |value| value.saturating_add(64));
            fmt::Write::write_char(f, char::from(letter))
        })
    }
}

impl fmt::Debug for Manufacturer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Manufacturer({self})")
    }
}

/// Device type of EN 13757-3: what the meter measures, or what the device is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Medium(pub u8);

const MEDIA: &[(u8, &str)] = &[
    (0x00, "other"),
    (0x01, "oil"),
    (0x02, "electricity"),
    (0x03, "gas"),
    (0x04, "heat"),
    (0x05, "steam"),
    (0x06, "warm_water"),
    (0x07, "water"),
    (0x08, "heat_cost_allocator"),
    (0x09, "compressed_air"),
    (0x0A, "cooling_return"),
    (0x0B, "cooling_flow"),
    (0x0C, "heat_flow"),
    (0x0D, "heat_cooling"),
    (0x0E, "bus"),
    (0x0F, "unknown"),
    (0x15, "hot_water"),
    (0x16, "cold_water"),
    (0x17, "dual_water"),
    (0x18, "pressure"),
    (0x19, "ad_converter"),
    (0x1A, "smoke_detector"),
    (0x1B, "room_sensor"),
    (0x1C, "gas_detector"),
    (0x20, "breaker"),
    (0x21, "valve"),
    (0x25, "customer_unit"),
    (0x28, "waste_water"),
    (0x29, "garbage"),
    (0x31, "communication_controller"),
    (0x32, "unidirectional_repeater"),
    (0x33, "bidirectional_repeater"),
    (0x36, "radio_converter_system"),
    (0x37, "radio_converter_meter"),
];

impl Medium {
    /// Name as in the output of `gridseal decode`; `reserved` for a type that the standard does not name.
    #[must_use]
    pub fn name(self) -> &'static str {
        MEDIA.iter().find(|(code, _)| *code == self.0).map_or("reserved", |(_, name)| name)
    }

    /// The type of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        MEDIA.iter().find(|(_, known)| *known == name).map(|(code, _)| Self(*code))
    }
}

/// Address of a meter, in the order of the link layer: `M(2) ID(4) V T`, as transmitted.
///
/// The identification stays four raw bytes: some meters send hex digits in it, and the initialisation vectors are made
/// of what was sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeterAddress(pub [u8; 8]);

impl MeterAddress {
    /// The address of its parts; `id` is most significant byte first, as printed.
    #[must_use]
    pub const fn new(manufacturer: Manufacturer, id: [u8; 4], version: u8, medium: Medium) -> Self {
        let [m0, m1] = manufacturer.0.to_le_bytes();
        let [i3, i2, i1, i0] = id;
        Self([m0, m1, i0, i1, i2, i3, version, medium.0])
    }

    /// From the order of the long transport header: `ID(4) M(2) V T`.
    #[must_use]
    pub const fn from_transport(bytes: [u8; 8]) -> Self {
        //= LMN 1: the link layer has M, ID, V, T; the long transport header has ID, M, V, T
        let [i0, i1, i2, i3, m0, m1, version, medium] = bytes;
        Self([m0, m1, i0, i1, i2, i3, version, medium])
    }

    /// In the order of the long transport header.
    #[must_use]
    pub const fn to_transport(self) -> [u8; 8] {
        let [m0, m1, i0, i1, i2, i3, version, medium] = self.0;
        [i0, i1, i2, i3, m0, m1, version, medium]
    }

    /// Manufacturer.
    #[must_use]
    pub const fn manufacturer(self) -> Manufacturer {
        let [m0, m1, ..] = self.0;
        Manufacturer(u16::from_le_bytes([m0, m1]))
    }

    /// Identification as transmitted, least significant byte first.
    #[must_use]
    pub const fn id(self) -> [u8; 4] {
        let [_, _, i0, i1, i2, i3, _, _] = self.0;
        [i0, i1, i2, i3]
    }

    /// Identification as printed on the meter: eight digits.
    #[must_use]
    pub fn id_text(self) -> String {
        alloc::format!("{:08X}", u32::from_le_bytes(self.id()))
    }

    /// Version (generation) of the meter.
    #[must_use]
    pub const fn version(self) -> u8 {
        let [.., version, _] = self.0;
        version
    }

    /// Medium, or device type.
    #[must_use]
    pub const fn medium(self) -> Medium {
        let [.., medium] = self.0;
        Medium(medium)
    }
}

impl fmt::Display for MeterAddress {
    /// `ELS 12345678 v33 t03`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} v{:02x} t{:02x}",
            self.manufacturer(),
            self.id_text(),
            self.version(),
            self.medium().0
        )
    }
}

impl fmt::Debug for MeterAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MeterAddress({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= LMN 1: M is three letters, five bits each
    #[test]
    fn manufacturers_are_three_letters() {
        assert_eq!(Manufacturer::from_letters("ELS"), Some(Manufacturer(0x1593)));
        assert_eq!(alloc::format!("{}", Manufacturer(0x1593)), "ELS");
        assert_eq!(alloc::format!("{}", Manufacturer(0xFFFF)), "FFFF");
        for wrong in ["els", "EL", "ELSE", "E S"] {
            assert_eq!(Manufacturer::from_letters(wrong), None);
        }
        assert!(Manufacturer(0x9593).is_local());
    }

    //= LMN 1: the link layer has M, ID, V, T; the long transport header has ID, M, V, T
    #[test]
    fn link_and_transport_order_differ() {
        let address = MeterAddress([0x93, 0x15, 0x78, 0x56, 0x34, 0x12, 0x33, 0x03]);
        assert_eq!(address.to_transport(), [0x78, 0x56, 0x34, 0x12, 0x93, 0x15, 0x33, 0x03]);
        assert_eq!(MeterAddress::from_transport(address.to_transport()), address);
        assert_eq!(alloc::format!("{address}"), "ELS 12345678 v33 t03");
        let parts = MeterAddress::new(Manufacturer(0x1593), [0x12, 0x34, 0x56, 0x78], 0x33, Medium(3));
        assert_eq!(parts, address);
    }

    #[test]
    fn identification_with_hex_digits_is_kept() {
        assert_eq!(MeterAddress([0, 0, 0xEF, 0xCD, 0xAB, 0x09, 0, 0]).id_text(), "09ABCDEF");
    }
}
