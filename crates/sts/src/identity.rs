//! Who a token is for: meter numbers with their check digits, supply groups, and the attributes of a key.

use core::fmt;

use crate::tid::{BaseDate, Tid};

/// A number that is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Not the digits that the field needs.
    #[error("{field} must have {digits}")]
    Digits {
        /// Field.
        field: &'static str,
        /// What it must have.
        digits: &'static str,
    },
    /// A check digit that does not fit.
    #[error("{field} ends in {found}, its check digit is {expected}")]
    CheckDigit {
        /// Field.
        field: &'static str,
        /// Last digit found.
        found: u8,
        /// Last digit expected.
        expected: u8,
    },
    /// A number out of its range.
    #[error("{field} must be {range}")]
    Range {
        /// Field.
        field: &'static str,
        /// Its range.
        range: &'static str,
    },
}

/// Luhn check digit over digits: every second one doubled, beginning with the last.
///
/// # Source
/// STS fact sheet, A4.
#[must_use]
pub fn luhn(digits: &[u8]) -> u8 {
    let sum = digits.iter().rev().enumerate().fold(0u8, |sum, (place, digit)| {
        let value = if place % 2 == 0 { digit.saturating_mul(2) } else { *digit };
        // 10 to 18 count as the sum of their two digits; the running sum stays below 10.
        let value = if value > 9 { value.saturating_sub(9) } else { value };
        sum.saturating_add(value) % 10
    });
    10u8.saturating_sub(sum) % 10
}

/// Whether a meter number's own check digit is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrnCheck {
    /// As the standard has it.
    Strict,
    /// For test meters whose number has no valid check digit.
    Off,
}

/// A meter's primary account number: 18 digits, of issuer (IIN), meter number (DRN) and a check digit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pan {
    digits: [u8; 18],
    /// Digits of the IIN, 4 or 6; the DRN has 13 or 11.
    iin: usize,
}

impl fmt::Display for Pan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.digits.iter().try_for_each(|digit| write!(f, "{digit}"))
    }
}

impl fmt::Debug for Pan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pan({self})")
    }
}

fn digit_values(field: &'static str, text: &str, into: &mut [u8]) -> Result<(), IdentityError> {
    let fits = text.len() == into.len() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !fits {
        return Err(IdentityError::Digits { field, digits: "decimal digits of the right number" });
    }
    into.iter_mut().zip(text.bytes()).for_each(|(value, byte)| *value = byte.wrapping_sub(b'0'));
    Ok(())
}

fn check(field: &'static str, digits: &[u8]) -> Result<(), IdentityError> {
    let Some((found, body)) = digits.split_last() else {
        return Err(IdentityError::Digits { field, digits: "digits" });
    };
    let expected = luhn(body);
    if *found == expected {
        Ok(())
    } else {
        Err(IdentityError::CheckDigit { field, found: *found, expected })
    }
}

impl Pan {
    /// From issuer number and meter number: 6 and 11 digits, or `0000` and 13 digits.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn new(iin: &str, drn: &str, drn_check: DrnCheck) -> Result<Self, IdentityError> {
        let known = matches!((iin.len(), drn.len()), (6, 11) | (4, 13));
        if !known || (iin.len() == 4 && iin != "0000") {
            let digits = "6 and 11 digits, or be 0000 and 13 digits";
            return Err(IdentityError::Digits { field: "IIN and DRN", digits });
        }
        let mut digits = [0; 18];
        let (head, tail) = digits.split_at_mut(iin.len());
        digit_values("IIN", iin, head)?;
        let (number, last) = tail.split_at_mut(drn.len());
        digit_values("DRN", drn, number)?;
        if drn_check == DrnCheck::Strict {
            check("DRN", number)?;
        }
        let _ = last;
        let (body, last) = digits.split_at_mut(17);
        last.fill(luhn(body));
        Ok(Self { digits, iin: iin.len() })
    }

    /// From all 18 digits. The meter number has 13 digits when the first four are zeros, else 11.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn parse(text: &str, drn_check: DrnCheck) -> Result<Self, IdentityError> {
        let mut digits = [0; 18];
        digit_values("PAN", text, &mut digits)?;
        check("PAN", &digits)?;
        let iin = if digits.starts_with(&[0; 4]) { 4 } else { 6 };
        let pan = Self { digits, iin };
        if drn_check == DrnCheck::Strict {
            check("DRN", pan.drn())?;
        }
        Ok(pan)
    }

    /// Values of the 18 digits.
    #[must_use]
    pub const fn digits(&self) -> &[u8; 18] {
        &self.digits
    }

    /// Values of the meter number's 11 or 13 digits.
    #[must_use]
    pub fn drn(&self) -> &[u8] {
        self.digits.get(self.iin..17).unwrap_or_default()
    }

    /// Values of the issuer number's 6 or 4 digits.
    #[must_use]
    pub fn iin(&self) -> &[u8] {
        self.digits.get(..self.iin).unwrap_or_default()
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $field:literal, $low:literal ..= $high:literal, $range:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($inner);

        impl $name {
            /// The number, checked.
            ///
            /// # Errors
            /// [`IdentityError::Range`].
            pub const fn new(value: $inner) -> Result<Self, IdentityError> {
                #[allow(unused_comparisons, reason = "a range may begin at 0")]
                if value < $low || value > $high {
                    return Err(IdentityError::Range { field: $field, range: $range });
                }
                Ok(Self(value))
            }

            /// The number.
            #[must_use]
            pub const fn value(self) -> $inner {
                self.0
            }
        }
    };
}

number!(
    /// Supply group code (SGC), 6 decimal digits.
    SupplyGroupCode, u32, "supply group code", 0..=999_999, "6 decimal digits"
);
number!(
    /// Tariff index (TI), 2 decimal digits.
    TariffIndex, u8, "tariff index", 0..=99, "2 decimal digits"
);
number!(
    /// Key revision number (KRN), 1 to 9.
    KeyRevisionNumber, u8, "key revision number", 1..=9, "1 to 9"
);

/// Key expiry number (KEN): the last period, of 2^16 minutes, in which a key may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyExpiryNumber(pub u8);

impl KeyExpiryNumber {
    /// Whether a token with this identifier is beyond the key's life.
    #[must_use]
    pub const fn has_expired(self, tid: Tid) -> bool {
        tid.period() > self.0
    }
}

/// What kind of decoder key a meter has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyType {
    /// 0, DITK: the manufacturer's own.
    Initialisation,
    /// 1, DDTK: default, for shipping; takes no credit.
    Default,
    /// 2, DUTK: unique to the meter.
    Unique,
    /// 3, DCTK: common to a group; magnetic cards only.
    Common,
}

impl KeyType {
    /// The kind with this number, 0 to 3.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Initialisation),
            1 => Some(Self::Default),
            2 => Some(Self::Unique),
            3 => Some(Self::Common),
            _ => None,
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Initialisation => 0,
            Self::Default => 1,
            Self::Unique => 2,
            Self::Common => 3,
        }
    }

    /// Whether a key of this kind may bring in one of the other. Only what is known of the standard's table is allowed.
    ///
    /// # Source
    /// STS fact sheet, A5.
    #[must_use]
    pub const fn may_bring(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Initialisation, Self::Default | Self::Unique | Self::Common)
                | (Self::Unique, Self::Unique | Self::Default)
                | (Self::Common, Self::Common)
        )
    }
}

/// The attributes of a decoder key: what it is derived from beside the meter's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyAttributes {
    /// Kind.
    pub key_type: KeyType,
    /// Supply group.
    pub supply_group: SupplyGroupCode,
    /// Tariff index.
    pub tariff_index: TariffIndex,
    /// Revision.
    pub revision: KeyRevisionNumber,
    /// Expiry.
    pub expiry: KeyExpiryNumber,
    /// Base date.
    pub base: BaseDate,
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn check_digits_are_those_of_the_sheet() {
        let values = |text: &str| text.bytes().map(|byte| byte - b'0').collect::<alloc::vec::Vec<_>>();
        for (digits, expected) in
            [("1234567890", 3), ("1111111111", 5), ("60072700000000000", 9), ("00000100000000008", 2)]
        {
            assert_eq!(luhn(&values(digits)), expected, "{digits}");
        }
    }

    #[test]
    fn a_pan_is_made_of_its_parts_and_a_wrong_digit_anywhere_is_refused() {
        let pan = Pan::new("600727", "00000000000", DrnCheck::Strict).unwrap();
        assert_eq!(pan.to_string(), "600727000000000009");
        let long = Pan::new("0000", "0100000000008", DrnCheck::Strict).unwrap();
        assert_eq!(long.to_string(), "000001000000000082");
        assert_eq!(Pan::parse("000001000000000082", DrnCheck::Strict), Ok(long));
        let text = "600727111111111153";
        assert!(Pan::parse(text, DrnCheck::Strict).is_ok());
        for place in 0..18 {
            let mut changed = text.as_bytes().to_vec();
            changed[place] = b'0' + (changed[place] - b'0' + 1) % 10;
            let changed = core::str::from_utf8(&changed).unwrap();
            assert!(Pan::parse(changed, DrnCheck::Strict).is_err(), "{changed}");
        }
        assert!(Pan::new("600727", "11111111114", DrnCheck::Strict).is_err());
        assert!(Pan::new("600727", "11111111114", DrnCheck::Off).is_ok());
        for (iin, drn) in [("", ""), ("600727", "1"), ("0001", "0100000000008"), ("60072a", "00000000000")] {
            assert!(Pan::new(iin, drn, DrnCheck::Off).is_err(), "{iin} {drn}");
        }
    }

    #[test]
    fn key_ken_85_of_base_2014_ends_where_the_sheet_says() {
        let expiry = KeyExpiryNumber(85);
        let at = |hour, minute| {
            let time = gridseal_types::UtcTime::from_civil(2024, 9, 18, hour, minute, 0).unwrap();
            Tid::at(BaseDate::Y2014, time).unwrap()
        };
        assert!(!expiry.has_expired(at(22, 55)) && expiry.has_expired(at(22, 56)));
    }
}
