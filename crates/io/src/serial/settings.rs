//! Speed and shape of a character.

use core::{fmt, str::FromStr};

use nix::sys::termios::BaudRate;

/// Speed of a line, in bits a second. Closed: what optical heads, the wired bus and radio sticks use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Baud {
    /// 300: the sign-on of IEC 62056-21.
    B300,
    /// 600.
    B600,
    /// 1,200.
    B1200,
    /// 2,400: usual on the wired M-Bus.
    B2400,
    /// 4,800.
    B4800,
    /// 9,600: SML heads and push meters.
    B9600,
    /// 19,200.
    B19200,
    /// 38,400.
    B38400,
    /// 57,600.
    B57600,
    /// 115,200.
    B115200,
}

impl Baud {
    /// All of them, slowest first.
    pub const ALL: [Self; 10] = [
        Self::B300,
        Self::B600,
        Self::B1200,
        Self::B2400,
        Self::B4800,
        Self::B9600,
        Self::B19200,
        Self::B38400,
        Self::B57600,
        Self::B115200,
    ];

    /// Bits a second.
    #[must_use]
    pub const fn bits_per_second(self) -> u32 {
        match self {
            Self::B300 => 300,
            Self::B600 => 600,
            Self::B1200 => 1200,
            Self::B2400 => 2400,
            Self::B4800 => 4800,
            Self::B9600 => 9600,
            Self::B19200 => 19_200,
            Self::B38400 => 38_400,
            Self::B57600 => 57_600,
            Self::B115200 => 115_200,
        }
    }

    /// The speed of so many bits a second.
    #[must_use]
    pub fn of(bits_per_second: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|baud| baud.bits_per_second() == bits_per_second)
    }

    pub(super) const fn rate(self) -> BaudRate {
        match self {
            Self::B300 => BaudRate::B300,
            Self::B600 => BaudRate::B600,
            Self::B1200 => BaudRate::B1200,
            Self::B2400 => BaudRate::B2400,
            Self::B4800 => BaudRate::B4800,
            Self::B9600 => BaudRate::B9600,
            Self::B19200 => BaudRate::B19200,
            Self::B38400 => BaudRate::B38400,
            Self::B57600 => BaudRate::B57600,
            Self::B115200 => BaudRate::B115200,
        }
    }
}

/// What guards a character.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parity {
    /// Eight bits, nothing: `8N1`.
    None,
    /// Eight bits and an even parity bit: `8E1`, the wired M-Bus.
    Even,
    /// Seven bits and an even parity bit: `7E1`, IEC 62056-21. On the wire eight bits; see [`super::SevenEven`].
    SevenEven,
}

/// Settings of a line. Shown and parsed as `9600,8N1`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LineSettings {
    /// Speed.
    pub baud: Baud,
    /// Shape of a character.
    pub parity: Parity,
}

impl LineSettings {
    /// Optical heads of SML meters.
    ///
    /// # Source
    /// Fact sheet on the local metering network, section 10.
    pub const SML: Self = Self { baud: Baud::B9600, parity: Parity::None };
    /// The sign-on of IEC 62056-21, mode C.
    pub const SIGN_ON: Self = Self { baud: Baud::B300, parity: Parity::SevenEven };
    /// The wired M-Bus at its usual speed.
    pub const MBUS: Self = Self { baud: Baud::B2400, parity: Parity::Even };
}

impl fmt::Display for LineSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = match self.parity {
            Parity::None => "8N1",
            Parity::Even => "8E1",
            Parity::SevenEven => "7E1",
        };
        write!(f, "{},{shape}", self.baud.bits_per_second())
    }
}

/// A text that names no settings of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineSettingsError {
    /// No such speed.
    #[error("speed is one of 300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200")]
    Baud,
    /// No such shape of a character.
    #[error("the character is 8N1, 8E1 or 7E1, after a comma: 9600,8N1")]
    Parity,
}

impl FromStr for LineSettings {
    type Err = LineSettingsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (baud, shape) = text.split_once(',').unwrap_or((text, "8N1"));
        let baud = baud.parse().ok().and_then(Baud::of).ok_or(LineSettingsError::Baud)?;
        let parity = match shape {
            "8N1" | "8n1" => Parity::None,
            "8E1" | "8e1" => Parity::Even,
            "7E1" | "7e1" => Parity::SevenEven,
            _ => return Err(LineSettingsError::Parity),
        };
        Ok(Self { baud, parity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_shown_as_they_are_parsed() {
        for text in ["300,7E1", "9600,8N1", "2400,8E1"] {
            assert_eq!(
                text.parse::<LineSettings>().map(|settings| settings.to_string()),
                Ok(text.to_owned())
            );
        }
        assert_eq!("9600".parse(), Ok(LineSettings::SML));
        assert_eq!("9601,8N1".parse::<LineSettings>(), Err(LineSettingsError::Baud));
        assert_eq!("9600,9N1".parse::<LineSettings>(), Err(LineSettingsError::Parity));
        assert_eq!("".parse::<LineSettings>(), Err(LineSettingsError::Baud));
    }
}
