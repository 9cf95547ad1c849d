//! OBIS codes: which quantity a value is.

use core::{fmt, str::FromStr};

/// OBIS code, value groups A to F. Text form `A-B:C.D.E.F`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct ObisCode(#[cbor(n(0), with = "minicbor::bytes")] [u8; 6]);

impl ObisCode {
    /// Active energy import, total (Wh).
    pub const ACTIVE_ENERGY_IMPORT: Self = Self::new([1, 0, 1, 8, 0, 255]);
    /// Load profile 1.
    pub const LOAD_PROFILE_1: Self = Self::new([1, 0, 99, 1, 0, 255]);
    /// Clock.
    pub const CLOCK: Self = Self::new([0, 0, 1, 0, 0, 255]);
    /// Push setup.
    pub const PUSH_SETUP: Self = Self::new([0, 0, 25, 9, 0, 255]);

    /// The code of the six value groups.
    #[must_use]
    pub const fn new(groups: [u8; 6]) -> Self {
        Self(groups)
    }

    /// The six value groups A to F.
    #[must_use]
    pub const fn groups(&self) -> &[u8; 6] {
        &self.0
    }
}

impl fmt::Display for ObisCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, last] = self.groups();
        write!(f, "{a}-{b}:{c}.{d}.{e}.{last}")
    }
}

impl fmt::Debug for ObisCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObisCode({self})")
    }
}

/// The text is not an OBIS code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an OBIS code such as 1-0:1.8.0.255")]
pub struct ObisParseError;

impl FromStr for ObisCode {
    type Err = ObisParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut groups = [0u8; 6];
        let mut parts = text.split(['-', ':', '.']);
        for group in &mut groups {
            *group = parts.next().and_then(|part| part.parse().ok()).ok_or(ObisParseError)?;
        }
        let code = Self::new(groups);
        // Printing again is the simplest proof that every separator stood where it belongs.
        if parts.next().is_some() || alloc::format!("{code}") != text {
            return Err(ObisParseError);
        }
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_wrong_separators_are_refused() {
        assert_eq!("1-0:1.8.0.255".parse(), Ok(ObisCode::ACTIVE_ENERGY_IMPORT));
        for wrong in ["", "1.0.1.8.0.255", "1-0:1.8.0", "1-0:1.8.0.256", "1-0:1.8.0.255.1", "01-0:1.8.0.255"]
        {
            assert_eq!(wrong.parse::<ObisCode>(), Err(ObisParseError), "{wrong}");
        }
    }
}
