//! The typed value in which every protocol of the local network ends.

mod date;
mod decimal;
mod quantity;
mod text;
mod unit;

pub use date::{Date, DateTime, Time};
pub(crate) use decimal::scale;
pub use decimal::{Decimal, DecimalParseError};
pub use quantity::Quantity;
pub use text::Text;
pub use unit::{Compound, Unit};

use gridseal_types::ObisCode;

/// One value of a meter, with everything that says what it means. It borrows text and raw octets from the telegram.
///
/// Whether it may be trusted is not in here: that is a property of the telegram it came in.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Reading<'a> {
    /// What was measured.
    pub quantity: Quantity,
    /// The value, in `unit`.
    pub value: Value<'a>,
    /// Unit of the value; [`Unit::None`] for what has none.
    pub unit: Unit,
    /// A second unit by which the first is divided or multiplied.
    pub compound: Compound,
    /// OBIS code where the standard or the telegram defines one.
    pub obis: Option<ObisCode>,
    /// Storage number: 0 is the present value, higher ones are kept values. At most 41 bits.
    pub storage: u64,
    /// Tariff: 0 is the total. At most 20 bits.
    pub tariff: u32,
    /// Part of the device. At most 10 bits.
    pub subunit: u16,
    /// How the value came about.
    pub function: Function,
    /// What the meter, or the decoding, has to remark.
    pub quality: Quality,
}

impl<'a> Reading<'a> {
    /// A present value without unit, OBIS code or remark: to be filled in.
    #[must_use]
    pub const fn new(quantity: Quantity, value: Value<'a>) -> Self {
        Self {
            quantity,
            value,
            unit: Unit::None,
            compound: Compound::None,
            obis: None,
            storage: 0,
            tariff: 0,
            subunit: 0,
            function: Function::Instantaneous,
            quality: Quality::Good,
        }
    }

    /// Power of ten by which the meter's integer is multiplied; `None` for what is no decimal number.
    #[must_use]
    pub const fn scaler(&self) -> Option<i16> {
        match self.value {
            Value::Number(number) => Some(number.exponent),
            _ => None,
        }
    }
}

/// The value itself.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// No value in the telegram: a request, or a record without data.
    None,
    /// An exact decimal number.
    Number(Decimal),
    /// A number that the meter sends as floating point, scaled. Not exact.
    Real(f64),
    /// A truth value (SML).
    Boolean(bool),
    /// Text.
    Text(Text<'a>),
    /// Octets with no meaning known here, in the order in which they were sent.
    Octets(&'a [u8]),
    /// A date; parts may be left open.
    Date(Date),
    /// A date with a time of day, local.
    DateTime(DateTime),
    /// A time of day, local.
    Time(Time),
    /// Digits that are no number, such as an error display: the octets as sent.
    NotANumber(&'a [u8]),
}

/// How a value came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Function {
    /// The value at the moment of sending or storing.
    #[default]
    Instantaneous,
    /// The highest of a period.
    Maximum,
    /// The lowest of a period.
    Minimum,
    /// The value while an error was present.
    DuringError,
}

impl Function {
    /// Name as in the output of `gridseal decode`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Instantaneous => "instantaneous",
            Self::Maximum => "maximum",
            Self::Minimum => "minimum",
            Self::DuringError => "during_error",
        }
    }

    /// The function of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Instantaneous, Self::Maximum, Self::Minimum, Self::DuringError];
        all.into_iter().find(|function| function.name() == name)
    }
}

/// What there is to remark about a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Quality {
    /// Nothing.
    #[default]
    Good,
    /// The meter reports an error for this record; code of EN 13757-3 (record errors, VIFE 01 to 1C).
    Reported(u8),
    /// The meter marks the date or time as not valid.
    InvalidTime,
    /// The digits are no number.
    Unreadable,
}

impl Quality {
    /// Name as in the output of `gridseal decode`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Reported(_) => "reported_error",
            Self::InvalidTime => "invalid_time",
            Self::Unreadable => "unreadable",
        }
    }
}
