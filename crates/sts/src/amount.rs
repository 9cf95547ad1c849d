//! Amounts: a decimal exponent and a mantissa, each range of the exponent starting where the one before ends. Integers
//! and exact fractions throughout; rounding is in the customer's favour.

/// Mantissas below this value; each exponent starts with it.
const STEP: u128 = 1 << 14;

/// An amount that its coding cannot carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("amount {value} is beyond what a token can carry (at most {max})")]
pub struct AmountError {
    /// The amount.
    pub value: i64,
    /// Largest amount, in the same unit.
    pub max: i64,
}

/// A 16-bit amount: credit in tenths of a unit, limits in watts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(u16);

/// Exponent and mantissa of a magnitude; the mantissa may equal [`STEP`] after rounding up, which carries.
fn code(value: u128, exponent_max: u32, round_up: bool) -> Option<u128> {
    let (mut numerator, mut denominator, mut exponent) = (value, 1u128, 0u32);
    while exponent < exponent_max && numerator >= STEP.checked_mul(denominator)? {
        numerator = numerator.checked_sub(STEP.checked_mul(denominator)?)?;
        denominator = denominator.checked_mul(10)?;
        exponent = exponent.checked_add(1)?;
    }
    let mantissa =
        if round_up { numerator.div_ceil(denominator) } else { numerator.checked_div(denominator)? };
    u128::from(exponent).checked_mul(STEP)?.checked_add(mantissa)
}

fn value(coded: u128) -> u128 {
    let (exponent, mantissa) = (coded >> 14, coded & 0x3FFF);
    let mut power = 1u128;
    let mut sum = 0u128;
    for _ in 0..exponent {
        sum = sum.saturating_add(STEP.saturating_mul(power));
        power = power.saturating_mul(10);
    }
    sum.saturating_add(mantissa.saturating_mul(power))
}

impl Amount {
    /// Largest amount.
    pub const MAX: i64 = 18_201_624;

    /// The smallest coded amount that is at least `value`.
    ///
    /// # Errors
    /// [`AmountError`] above [`Self::MAX`] or below 0.
    ///
    /// # Source
    /// STS fact sheet, A2.
    pub fn new(value: i64) -> Result<Self, AmountError> {
        let error = AmountError { value, max: Self::MAX };
        let magnitude = u128::try_from(value).map_err(|_| error)?;
        if value > Self::MAX {
            return Err(error);
        }
        code(magnitude, 3, true).and_then(|coded| u16::try_from(coded).ok()).map(Self).ok_or(error)
    }

    /// From the 16 bits of a token.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The 16 bits.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The amount that the bits stand for: what a ledger books, and what the meter adds.
    #[must_use]
    pub fn value(self) -> u32 {
        u32::try_from(value(u128::from(self.0))).unwrap_or(u32::MAX)
    }
}

/// A 20-bit amount of money with its sign, in 10^-5 of the currency's base unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money(u32);

impl Money {
    const SIGN: u32 = 1 << 19;

    /// The coded amount nearest to `value` in the customer's favour: up for a credit, down in magnitude for a debit.
    ///
    /// # Errors
    /// [`AmountError`] when the coding ends before it; no amount of 64 bits does.
    ///
    /// # Source
    /// STS fact sheet, A2 (CUR).
    pub fn new(value: i64) -> Result<Self, AmountError> {
        let error = AmountError { value, max: i64::MAX };
        let coded = code(u128::from(value.unsigned_abs()), 31, value >= 0).ok_or(error)?;
        let magnitude = u32::try_from(coded).ok().filter(|coded| *coded < Self::SIGN).ok_or(error)?;
        Ok(Self(if value < 0 { magnitude | Self::SIGN } else { magnitude }))
    }

    /// From the low 20 bits of a number.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & 0xF_FFFF)
    }

    /// The 20 bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The amount; `None` beyond 64 bits, which no issuer of ours gives out.
    #[must_use]
    pub fn value(self) -> Option<i64> {
        let magnitude = i64::try_from(value(u128::from(self.0 & !Self::SIGN))).ok()?;
        Some(if self.0 & Self::SIGN == 0 { magnitude } else { magnitude.saturating_neg() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_coded_as_the_sheet_says() {
        for (value, bits) in [
            (0, 0),
            (1, 0x0001),
            (256, 0x0100),
            (16_383, 0x3fff),
            (16_384, 0x4000),
            (20_000, 0x416a),
            (180_223, 0x8000),
            (180_224, 0x8000),
            (1_818_623, 0xc000),
            (18_201_624, 0xffff),
        ] {
            assert_eq!(Amount::new(value).unwrap().bits(), bits, "{value}");
        }
        assert!(
            Amount::new(18_201_625).is_err() && Amount::new(-1).is_err() && Amount::new(i64::MAX).is_err()
        );
    }

    #[test]
    fn the_meter_never_adds_less_than_was_paid_and_less_than_one_step_more() {
        for value in (0..=Amount::MAX).step_by(977) {
            let booked = i64::from(Amount::new(value).unwrap().value());
            assert!((value..value + 1_000).contains(&booked), "{value} is booked as {booked}");
        }
        for bits in 0..=u16::MAX {
            let amount = Amount::from_bits(bits);
            assert_eq!(
                Amount::new(i64::from(amount.value())),
                Ok(amount),
                "every coded amount is its own code"
            );
        }
    }

    #[test]
    fn money_is_coded_as_the_sheet_says() {
        for (value, bits) in [
            (1, 0x060aa),
            (16_383, 0x178e3),
            (180_224, 0x1bf4a),
            (182_042_624, 0x28000),
            (-1, 0x860a9),
            (-180_224, 0x9bf49),
        ] {
            // The sheet gives them in whole units of the currency.
            assert_eq!(Money::new(value * 100_000).unwrap().bits(), bits, "{value}");
        }
        assert!(Money::new(i64::MAX).is_ok() && Money::new(i64::MIN).is_ok());
    }

    #[test]
    fn money_is_rounded_in_the_customers_favour() {
        for value in (-5_000_000_000i64..5_000_000_000).step_by(7_777_777) {
            let booked = Money::new(value).unwrap().value().unwrap();
            assert!(booked >= value, "{value} is booked as {booked}");
        }
        assert_eq!(Money::from_bits(0x7_FFFF).value(), None);
    }
}
