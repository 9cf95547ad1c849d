//! HDLC addresses: one, two or four octets of 7 bits each, the last one marked by its lowest bit.

use alloc::vec::Vec;

use crate::wire::{DecodeError, Reader, Rule};

/// A client's address, one octet: 0 to 127.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientAddress(u8);

impl ClientAddress {
    /// `None` above 127.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number < 0x80 { Some(Self(number)) } else { None }
    }

    /// The number, 0 to 127.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// A server's address: logical device and, if there is one, physical device. One octet for a logical device below 128
/// alone, two for both below 128, four when either is larger, each at most 16,383.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerAddress {
    logical: u16,
    physical: Option<u16>,
    octets: u8,
}

/// Largest number in two octets of 7 bits.
const NUMBER_MAX: u16 = 0x3FFF;

impl ServerAddress {
    /// The shortest form; `None` above 16,383.
    #[must_use]
    pub const fn new(logical: u16, physical: Option<u16>) -> Option<Self> {
        if logical > NUMBER_MAX {
            return None;
        }
        Some(match physical {
            None if logical < 0x80 => Self { logical, physical, octets: 1 },
            None => Self { logical, physical: Some(0), octets: 4 },
            Some(device) if device > NUMBER_MAX => return None,
            Some(device) if logical < 0x80 && device < 0x80 => Self { logical, physical, octets: 2 },
            Some(_) => Self { logical, physical, octets: 4 },
        })
    }

    /// Four octets whatever the numbers: some lines have addresses of one size only. `None` above 16,383.
    #[must_use]
    pub const fn wide(logical: u16, physical: u16) -> Option<Self> {
        if logical > NUMBER_MAX || physical > NUMBER_MAX {
            return None;
        }
        Some(Self { logical, physical: Some(physical), octets: 4 })
    }

    /// Logical device.
    #[must_use]
    pub const fn logical(self) -> u16 {
        self.logical
    }

    /// Physical device.
    #[must_use]
    pub const fn physical(self) -> Option<u16> {
        self.physical
    }
}

/// An address as it stands in a frame. Which of the two sides it names follows from who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    octets: u8,
    upper: u16,
    lower: u16,
}

impl From<ClientAddress> for Address {
    fn from(address: ClientAddress) -> Self {
        Self { octets: 1, upper: u16::from(address.0), lower: 0 }
    }
}

impl From<ServerAddress> for Address {
    fn from(address: ServerAddress) -> Self {
        Self { octets: address.octets, upper: address.logical, lower: address.physical.unwrap_or_default() }
    }
}

impl Address {
    /// As the address of a client: it has one octet.
    #[must_use]
    pub fn client(self) -> Option<ClientAddress> {
        u8::try_from(self.upper).ok().filter(|_| self.octets == 1).map(ClientAddress)
    }

    /// As the address of a server.
    #[must_use]
    pub fn server(self) -> ServerAddress {
        let physical = (self.octets > 1).then_some(self.lower);
        ServerAddress { logical: self.upper, physical, octets: self.octets }
    }

    /// Whether both name the same device: the size of the address does not matter, a missing physical device is any.
    #[must_use]
    pub const fn is_same_device(self, other: Self) -> bool {
        let either_is_short = self.octets == 1 || other.octets == 1;
        self.upper == other.upper && (either_is_short || self.lower == other.lower)
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        //= DLMS 1.1: an address has one, two or four octets
        let start = reader.clone();
        let mut numbers = [0u16; 4];
        for (index, number) in numbers.iter_mut().enumerate() {
            let octet = reader.u8("address")?;
            *number = u16::from(octet >> 1);
            if octet & 1 == 1 {
                let [a, b, c, d] = numbers;
                return match index {
                    0 => Ok(Self { octets: 1, upper: a, lower: 0 }),
                    1 => Ok(Self { octets: 2, upper: a, lower: b }),
                    3 => Ok(Self { octets: 4, upper: (a << 7) | b, lower: (c << 7) | d }),
                    _ => Err(start.fail("address", Rule::LengthNotAllowed { found: 3 })),
                };
            }
        }
        Err(start.fail("address", Rule::LengthNotAllowed { found: 5 }))
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let low = |number: u16| u8::try_from((number & 0x7F) << 1).unwrap_or_default();
        match self.octets {
            1 => [low(self.upper) | 1].to_vec(),
            2 => [low(self.upper), low(self.lower) | 1].to_vec(),
            _ => [low(self.upper >> 7), low(self.upper), low(self.lower >> 7), low(self.lower) | 1].to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= DLMS 1.1: an address has one, two or four octets
    //= DLMS 12.14: answers with four-octet addresses are understood
    #[test]
    fn addresses_of_one_two_and_four_octets_read_back_and_others_are_refused() {
        let cases: [(ServerAddress, &[u8]); 4] = [
            (ServerAddress::new(1, None).unwrap(), &[0x03]),
            (ServerAddress::new(1, Some(17)).unwrap(), &[0x02, 0x23]),
            (ServerAddress::new(1, Some(1_000)).unwrap(), &[0x00, 0x02, 0x0E, 0xD1]),
            (ServerAddress::wide(0x3FFF, 0x3FFF).unwrap(), &[0xFE, 0xFE, 0xFE, 0xFF]),
        ];
        for (address, bytes) in cases {
            assert_eq!(Address::from(address).to_bytes(), bytes);
            let read = Address::decode(&mut Reader::new(bytes)).unwrap();
            assert_eq!(read.server(), address);
        }
        let refused = |bytes: &[u8]| Address::decode(&mut Reader::new(bytes)).unwrap_err().rule;
        assert_eq!(refused(&[0, 0, 3]), Rule::LengthNotAllowed { found: 3 });
        assert_eq!(refused(&[0, 0, 0, 0, 3]), Rule::LengthNotAllowed { found: 5 });
        assert_eq!(ServerAddress::new(0x4000, None), None);
        assert_eq!(ClientAddress::new(0x80), None);
    }
}
