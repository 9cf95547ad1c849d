//! Exact decimal numbers.

use core::fmt;

/// `mantissa * 10^exponent`, exact. The exponent stays as the meter has it: 1.0 and 10 * 10^-1 are different values of
/// this type, because the resolution of a register is information.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Decimal {
    /// The integer as sent.
    pub mantissa: i128,
    /// Power of ten.
    pub exponent: i16,
}

/// Powers of ten that an f64 holds exactly.
const EXACT: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

impl Decimal {
    /// `mantissa * 10^exponent`.
    #[must_use]
    pub const fn new(mantissa: i128, exponent: i16) -> Self {
        Self { mantissa, exponent }
    }

    /// Multiplied by `10^by`.
    #[must_use]
    pub const fn scaled(self, by: i16) -> Self {
        Self { mantissa: self.mantissa, exponent: self.exponent.saturating_add(by) }
    }

    /// The exact sum; `None` when it does not fit.
    #[must_use]
    pub fn plus(self, other: Self) -> Option<Self> {
        let exponent = self.exponent.min(other.exponent);
        let of = |number: Self| {
            let by = u32::try_from(number.exponent.checked_sub(exponent)?).ok()?;
            number.mantissa.checked_mul(10i128.checked_pow(by)?)
        };
        Some(Self { mantissa: of(self)?.checked_add(of(other)?)?, exponent })
    }

    /// The value in units of `10^exponent`, when it is a whole number of them.
    #[must_use]
    pub fn in_units_of(self, exponent: i16) -> Option<i128> {
        let by = self.exponent.checked_sub(exponent)?;
        let power = 10i128.checked_pow(u32::from(by.unsigned_abs()))?;
        if by >= 0 {
            return self.mantissa.checked_mul(power);
        }
        (self.mantissa.checked_rem(power)? == 0).then(|| self.mantissa.checked_div(power)).flatten()
    }

    /// The nearest floating-point number, for statistics and display; correctly rounded for up to 15 digits.
    #[must_use]
    pub fn to_f64(self) -> f64 {
        scale(mantissa_f64(self.mantissa), self.exponent)
    }
}

#[expect(clippy::as_conversions, reason = "rounds to nearest, which is what is wanted")]
const fn mantissa_f64(mantissa: i128) -> f64 {
    mantissa as f64
}

/// `value * 10^exponent`; one rounding while the exponent is within 22.
pub(crate) fn scale(value: f64, exponent: i16) -> f64 {
    let mut left = usize::from(exponent.unsigned_abs());
    let mut value = value;
    while left > 0 {
        let step = left.min(EXACT.len().saturating_sub(1));
        let power = EXACT.get(step).copied().unwrap_or(1.0);
        value = if exponent < 0 { value / power } else { value * power };
        left = left.saturating_sub(step);
    }
    value
}

/// The text is not a decimal number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a decimal number such as -28504.27 or 1.5e3")]
pub struct DecimalParseError;

impl core::str::FromStr for Decimal {
    type Err = DecimalParseError;

    /// Reads digits with an optional fraction and exponent; the fraction's digits become the scaler.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.trim_start_matches('-').is_empty() || !is_digits(fraction) || whole.starts_with('+') {
            return Err(DecimalParseError);
        }
        let mantissa = alloc::format!("{whole}{fraction}").parse().map_err(|_| DecimalParseError)?;
        let places = i16::try_from(fraction.len()).map_err(|_| DecimalParseError)?;
        let exponent: i16 = exponent.parse().map_err(|_| DecimalParseError)?;
        Ok(Self { mantissa, exponent: exponent.checked_sub(places).ok_or(DecimalParseError)? })
    }
}

impl fmt::Display for Decimal {
    /// Plain digits, never an exponent: `28504.27`, `-0.003`, `500`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = alloc::format!("{}", self.mantissa.unsigned_abs());
        let sign = if self.mantissa < 0 { "-" } else { "" };
        let places = usize::from(self.exponent.unsigned_abs());
        if self.exponent >= 0 || self.mantissa == 0 {
            let zeros = if self.exponent < 0 || self.mantissa == 0 { 0 } else { places };
            return write!(f, "{sign}{digits}{:0<zeros$}", "");
        }
        match digits.len().checked_sub(places).filter(|whole| *whole > 0) {
            Some(whole) => {
                let (whole, fraction) = digits.split_at(whole);
                write!(f, "{sign}{whole}.{fraction}")
            }
            None => write!(f, "{sign}0.{digits:0>places$}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_print_exactly_and_without_an_exponent() {
        for (mantissa, exponent, text) in [
            (2_850_427, -2, "28504.27"),
            (-3, -3, "-0.003"),
            (5, 2, "500"),
            (0, 3, "0"),
            (0, -3, "0"),
            (-56_321_916, -4, "-5632.1916"),
            (12, -2, "0.12"),
        ] {
            assert_eq!(alloc::format!("{}", Decimal::new(mantissa, exponent)), text);
        }
    }

    #[test]
    fn text_is_read_exactly_or_refused() {
        for (text, mantissa, exponent) in [
            ("28504.27", 2_850_427, -2),
            ("-0.003", -3, -3),
            ("500", 500, 0),
            ("1.5e3", 15, 2),
            ("2E-7", 2, -7),
        ] {
            assert_eq!(text.parse(), Ok(Decimal::new(mantissa, exponent)), "{text}");
        }
        for wrong in ["", "-", ".5", "1.-5", "1.2.3", "+1", "1e", "1e99999", "0x10", "1 2"] {
            assert_eq!(wrong.parse::<Decimal>(), Err(DecimalParseError), "{wrong}");
        }
    }

    #[test]
    fn sums_are_exact_or_refused() {
        assert_eq!(Decimal::new(1, 0).plus(Decimal::new(5, -3)), Some(Decimal::new(1_005, -3)));
        assert_eq!(Decimal::new(1, 100).plus(Decimal::new(1, -100)), None);
        assert_eq!(Decimal::new(i128::MAX, 0).plus(Decimal::new(1, 0)), None);
        assert_eq!(Decimal::new(1_500, -1).in_units_of(0), Some(150));
        assert_eq!(Decimal::new(15, -1).in_units_of(0), None);
        assert_eq!(Decimal::new(15, 1).in_units_of(0), Some(150));
    }

    #[test]
    fn floating_point_rounds_once() {
        assert_eq!(Decimal::new(2_850_427, -2).to_f64(), 28_504.27);
        assert_eq!(Decimal::new(3, 30).to_f64(), 3e30);
    }
}
