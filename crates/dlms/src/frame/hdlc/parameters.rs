//! What SNRM and UA negotiate.

use alloc::vec::Vec;

use crate::wire::{DecodeError, Reader, Rule, Writer};

/// Sizes and windows of one side of a link: what it can send and what it can take.
///
/// # Source
/// DLMS fact sheet, section 1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// Largest information field that it sends, bytes.
    pub information_transmit: u16,
    /// Largest information field that it takes, bytes.
    pub information_receive: u16,
    /// Frames that it sends before it waits, 1 to 7.
    pub window_transmit: u8,
    /// Frames that it takes before it answers, 1 to 7.
    pub window_receive: u8,
}

impl Default for Parameters {
    /// What holds when nothing is said: 128 bytes, one frame.
    fn default() -> Self {
        Self { information_transmit: 128, information_receive: 128, window_transmit: 1, window_receive: 1 }
    }
}

const GROUP: [u8; 2] = [0x81, 0x80];
const INFORMATION_MAX: u16 = 2_030;

impl Parameters {
    /// Reads the information of an SNRM or UA; an empty one gives the defaults, unknown parameters are passed over.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut parameters = Self::default();
        if bytes.is_empty() {
            return Ok(parameters);
        }
        let mut reader = Reader::new(bytes);
        let start = reader.clone();
        if reader.array::<2>("parameter group")? != GROUP {
            return Err(start.fail("parameter group", Rule::OutOfRange));
        }
        let size = usize::from(reader.u8("parameter group")?);
        let mut group = reader.take("parameter group", size)?;
        reader.finish("parameter group")?;
        while group.left() > 0 {
            let at = group.clone();
            let id = group.u8("parameter")?;
            let size = usize::from(group.u8("parameter")?);
            let octets = group.bytes("parameter", size)?;
            // Values come in one, two or four octets, whatever their size.
            let value = octets.iter().fold(0u32, |value, octet| (value << 8) | u32::from(*octet));
            let refused = || at.fail("parameter", Rule::OutOfRange);
            if octets.is_empty() || octets.len() > 4 {
                return Err(refused());
            }
            let information = || {
                let value = u16::try_from(value).ok().filter(|value| *value >= 1).ok_or_else(refused)?;
                Ok::<_, DecodeError>(value.min(INFORMATION_MAX))
            };
            let window = || u8::try_from(value).ok().filter(|v| (1..=7).contains(v)).ok_or_else(refused);
            match id {
                0x05 => parameters.information_transmit = information()?,
                0x06 => parameters.information_receive = information()?,
                0x07 => parameters.window_transmit = window()?,
                0x08 => parameters.window_receive = window()?,
                _ => {}
            }
        }
        Ok(parameters)
    }

    /// The information of an SNRM or UA.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(24);
        writer.bytes(&GROUP);
        writer.u8(20);
        for (id, value) in [(0x05, self.information_transmit), (0x06, self.information_receive)] {
            writer.bytes(&[id, 2]);
            writer.u16(value);
        }
        for (id, value) in [(0x07, self.window_transmit), (0x08, self.window_receive)] {
            writer.bytes(&[id, 4]);
            writer.u32(u32::from(value));
        }
        writer.into_bytes()
    }

    /// What holds on our side of the link: minimum of what one sends and the other takes.
    #[must_use]
    pub fn negotiated(self, peer: Self) -> Self {
        //= DLMS 1.1: the result is the minimum, what I send against what you take
        Self {
            information_transmit: self.information_transmit.min(peer.information_receive),
            information_receive: self.information_receive.min(peer.information_transmit),
            window_transmit: self.window_transmit.min(peer.window_receive),
            window_receive: self.window_receive.min(peer.window_transmit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= DLMS 1.1: the result is the minimum, what I send against what you take
    #[test]
    fn parameters_are_negotiated_crosswise_and_read_in_any_width() {
        let peer = Parameters::from_bytes(&[0x81, 0x80, 6, 0x05, 1, 0x80, 0x06, 1, 0x40]).unwrap();
        let ours = Parameters {
            information_transmit: 1_024,
            information_receive: 1_024,
            window_transmit: 7,
            window_receive: 7,
        };
        let negotiated = ours.negotiated(peer);
        assert_eq!((negotiated.information_transmit, negotiated.information_receive), (64, 128));
        assert_eq!((negotiated.window_transmit, negotiated.window_receive), (1, 1));
        assert_eq!(Parameters::from_bytes(&ours.to_bytes()), Ok(ours));
        assert_eq!(Parameters::from_bytes(&[]), Ok(Parameters::default()));
        assert!(Parameters::from_bytes(&[0x81, 0x80, 3, 0x07, 1, 8]).is_err(), "window above 7");
        assert!(Parameters::from_bytes(&[0x81, 0x80, 3, 0x05, 1, 0]).is_err(), "no information at all");
        assert!(Parameters::from_bytes(&[0x81, 0x80, 9, 0x05]).is_err());
    }
}
