//! Tokens: 20 digits, the block inside them, and what the block says.

mod block;
mod content;

use core::fmt;

pub use block::{Block, Class};
pub use content::{Commodity, Content, Field, Fields, Function, Manufacturer, UnsupportedError};

/// Largest token: 66 bits.
const MAX: u128 = (1 << 66) - 1;

/// A token as a person types it: a number below 2^66, printed as 20 digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(u128);

/// Text that is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Not 20 digits.
    #[error("a token has 20 digits, {found} found")]
    Length {
        /// Digits found.
        found: usize,
    },
    /// Another character than a digit.
    #[error("character {place} is no digit")]
    Digit {
        /// Place, from 1.
        place: usize,
    },
    /// 2^66 or more.
    #[error("number is above 73786976294838206463, the largest token")]
    TooLarge,
}

impl Token {
    /// Reads 20 digits. Spaces and hyphens between them are skipped, as people group them.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let (mut number, mut found) = (0u128, 0usize);
        for (place, byte) in text.bytes().enumerate() {
            if matches!(byte, b' ' | b'-') {
                continue;
            }
            if !byte.is_ascii_digit() {
                return Err(FormatError::Digit { place: place.saturating_add(1) });
            }
            found = found.saturating_add(1);
            number = number.saturating_mul(10).saturating_add(u128::from(byte.wrapping_sub(b'0')));
        }
        if found != 20 {
            return Err(FormatError::Length { found });
        }
        if number > MAX {
            return Err(FormatError::TooLarge);
        }
        Ok(Self(number))
    }

    /// The 66 bits.
    #[must_use]
    pub const fn bits(self) -> u128 {
        self.0
    }

    const fn from_bits(bits: u128) -> Self {
        Self(bits & MAX)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A token is money: its digits are shown where somebody asks for them, and in no log.
        f.write_str("Token[20 digits]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn only_twenty_digits_below_two_to_the_66_are_a_token() {
        assert_eq!(Token::parse("73786976294838206463").unwrap().to_string(), "73786976294838206463");
        assert_eq!(Token::parse("0000 0000 0000 0000 0001").unwrap().to_string(), "00000000000000000001");
        assert_eq!(Token::parse("73786976294838206464"), Err(FormatError::TooLarge));
        assert_eq!(Token::parse("99999999999999999999"), Err(FormatError::TooLarge));
        assert_eq!(Token::parse("1"), Err(FormatError::Length { found: 1 }));
        assert_eq!(Token::parse(&"9".repeat(1_000)), Err(FormatError::Length { found: 1_000 }));
        assert_eq!(Token::parse("7378697629483820646x"), Err(FormatError::Digit { place: 20 }));
        assert_eq!(Token::parse("\u{0661}378697629483820646"), Err(FormatError::Digit { place: 1 }));
    }
}
