//! What a block says: credit, tests, management, by class and subclass.

use alloc::vec::Vec;

use crate::{
    amount::{Amount, Money},
    tid::Tid,
};

use super::{Block, Class};

/// What is sold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Commodity {
    /// Electricity; a unit of credit is 0.1 kWh.
    Electricity,
    /// Water; 0.1 m3.
    Water,
    /// Gas; 0.1 m3.
    Gas,
    /// Time; 0.1 min.
    Time,
}

impl Commodity {
    const fn of(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Electricity,
            1 => Self::Water,
            2 => Self::Gas,
            _ => Self::Time,
        }
    }

    /// Its number, 0 to 3: the subclass of its credit, and its register.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Electricity => 0,
            Self::Water => 1,
            Self::Gas => 2,
            Self::Time => 3,
        }
    }
}

/// Manufacturer code of a test token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manufacturer {
    /// Two digits (subclass 0); control has 36 bits.
    Two(u8),
    /// Four digits (subclass 1); control has 28 bits.
    Four(u16),
}

/// Contents of a token. Numbers hold as many bits as their field; a constructor of [`Block`] refuses more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// 0.0 to 0.3.
    Credit {
        /// What is sold.
        commodity: Commodity,
        /// Random number, 4 bits.
        random: u8,
        /// Identifier.
        tid: Tid,
        /// Amount, in tenths of the unit.
        amount: Amount,
    },
    /// 0.4 to 0.7.
    Currency {
        /// What is sold.
        commodity: Commodity,
        /// Identifier.
        tid: Tid,
        /// Amount, in 10^-5 of the currency's base unit.
        amount: Money,
    },
    /// 1.0 and 1.1.
    Test {
        /// What to test or show, a bit each; all ones runs all tests. Other meanings are not public.
        control: u64,
        /// For whose meters.
        manufacturer: Manufacturer,
    },
    /// 1.2: reads an extended flag; control has 36 bits.
    ReadExtended {
        /// Which flag.
        control: u64,
    },
    /// 2.0 to 2.2, 2.5 to 2.7 and 2.10.
    Management {
        /// What it does.
        function: Function,
        /// Random number, 4 bits.
        random: u8,
        /// Identifier.
        tid: Tid,
        /// The function's value, 16 bits.
        value: u16,
    },
    /// 2.3, 2.4, 2.8, 2.9: a section of a key change; its payload stays in the block.
    KeySection {
        /// Subclass.
        subclass: u8,
    },
}

/// Functions of management tokens that carry an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Function {
    /// 2.0: limit of power, watts, coded as an [`Amount`].
    MaximumPower,
    /// 2.1: clears the register with this number; FFFF = all.
    ClearCredit,
    /// 2.2: tariff rate; its meaning is reserved.
    TariffRate,
    /// 2.5: clears a tamper condition; the value is 0.
    ClearTamper,
    /// 2.6: limit of phase unbalance, watts, coded as an [`Amount`].
    PhaseUnbalance,
    /// 2.7: water meter factor; reserved.
    WaterFactor,
    /// 2.10: extended flags: index (6 bits) and value (10 bits).
    Extended,
}

impl Function {
    /// The function of a subclass of class 2.
    #[must_use]
    pub const fn of(subclass: u8) -> Option<Self> {
        Some(match subclass {
            0 => Self::MaximumPower,
            1 => Self::ClearCredit,
            2 => Self::TariffRate,
            5 => Self::ClearTamper,
            6 => Self::PhaseUnbalance,
            7 => Self::WaterFactor,
            10 => Self::Extended,
            _ => return None,
        })
    }

    /// Its subclass.
    #[must_use]
    pub const fn subclass(self) -> u8 {
        match self {
            Self::MaximumPower => 0,
            Self::ClearCredit => 1,
            Self::TariffRate => 2,
            Self::ClearTamper => 5,
            Self::PhaseUnbalance => 6,
            Self::WaterFactor => 7,
            Self::Extended => 10,
        }
    }

    /// Whether its value is coded as an [`Amount`].
    #[must_use]
    pub const fn is_amount(self) -> bool {
        matches!(self, Self::MaximumPower | Self::PhaseUnbalance)
    }
}

/// A class and subclass, or a value, that is reserved, proprietary or not verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnsupportedError {
    /// Reserved or proprietary.
    #[error("class {class}.{subclass} is reserved, proprietary or unverified: not supported")]
    Subclass {
        /// Class.
        class: u8,
        /// Subclass.
        subclass: u8,
    },
    /// A field that must be zero is not.
    #[error("padding of class {class}.{subclass} is not zero")]
    Padding {
        /// Class.
        class: u8,
        /// Subclass.
        subclass: u8,
    },
    /// A value with more bits than its field.
    #[error("{field} does not fit into its {bits} bits")]
    Width {
        /// Field.
        field: &'static str,
        /// Bits of the field.
        bits: u32,
    },
}

/// A field by name, for people.
pub type Field = (&'static str, i128);
/// All fields.
pub type Fields = Vec<Field>;

fn fits(field: &'static str, value: u64, bits: u32) -> Result<u64, UnsupportedError> {
    if value.checked_shr(bits).unwrap_or(0) == 0 {
        Ok(value)
    } else {
        Err(UnsupportedError::Width { field, bits })
    }
}

fn low16(payload: u64) -> u16 {
    u16::try_from(payload & 0xFFFF).unwrap_or_default()
}

fn tid_of(payload: u64) -> Tid {
    Tid::from_bits(u32::try_from(payload >> 16 & 0xFF_FFFF).unwrap_or_default())
}

fn nibble_at(payload: u64, shift: u32) -> u8 {
    u8::try_from(payload.checked_shr(shift).unwrap_or(0) & 0xF).unwrap_or_default()
}

impl Content {
    /// The block with these contents.
    ///
    /// # Errors
    /// [`UnsupportedError::Width`] for a number that its field does not hold, [`UnsupportedError::Subclass`] for a key
    /// section, which [`crate::key_change`] makes.
    pub fn to_block(self) -> Result<Block, UnsupportedError> {
        let with_tid = |random: u8, tid: Tid, value: u16| {
            fits("random number", u64::from(random), 4)
                .map(|random| random << 40 | u64::from(tid.bits()) << 16 | u64::from(value))
        };
        let (class, subclass, payload) = match self {
            Self::Credit { commodity, random, tid, amount } => {
                (Class::Credit, commodity.number(), with_tid(random, tid, amount.bits())?)
            }
            Self::Currency { commodity, tid, amount } => {
                let bits = u64::from(amount.bits());
                let payload = bits >> 16 << 40 | u64::from(tid.bits()) << 16 | bits & 0xFFFF;
                (Class::Credit, commodity.number() | 4, payload)
            }
            Self::Test { control, manufacturer } => match manufacturer {
                Manufacturer::Two(code) => {
                    (Class::Test, 0, fits("control", control, 36)? << 8 | u64::from(code))
                }
                Manufacturer::Four(code) => {
                    (Class::Test, 1, fits("control", control, 28)? << 16 | u64::from(code))
                }
            },
            Self::ReadExtended { control } => (Class::Test, 2, fits("control", control, 36)? << 8),
            Self::Management { function, random, tid, value } => {
                let subclass = function.subclass();
                if function == Function::ClearTamper && value != 0 {
                    return Err(UnsupportedError::Padding { class: 2, subclass });
                }
                (Class::Management, subclass, with_tid(random, tid, value)?)
            }
            Self::KeySection { subclass } => return Err(UnsupportedError::Subclass { class: 2, subclass }),
        };
        Ok(Block { class, subclass, payload })
    }

    /// The contents of a block whose check sum was right.
    ///
    /// # Errors
    /// [`UnsupportedError`] for what is reserved, proprietary or not verified.
    pub fn of_block(block: Block) -> Result<Self, UnsupportedError> {
        let Block { class, subclass, payload } = block;
        let reserved = UnsupportedError::Subclass { class: class.number(), subclass };
        let tid = tid_of(payload);
        let random = nibble_at(payload, 40);
        Ok(match (class, subclass) {
            (Class::Credit, 0..=3) => {
                let amount = Amount::from_bits(low16(payload));
                Self::Credit { commodity: Commodity::of(subclass), random, tid, amount }
            }
            (Class::Credit, 4..=7) => {
                let bits = u32::from(random) << 16 | u32::from(low16(payload));
                Self::Currency { commodity: Commodity::of(subclass), tid, amount: Money::from_bits(bits) }
            }
            (Class::Test, 0) => {
                let code = u8::try_from(payload & 0xFF).unwrap_or_default();
                Self::Test { control: payload >> 8, manufacturer: Manufacturer::Two(code) }
            }
            (Class::Test, 1) => {
                Self::Test { control: payload >> 16, manufacturer: Manufacturer::Four(low16(payload)) }
            }
            (Class::Test, 2) if payload & 0xFF == 0 => Self::ReadExtended { control: payload >> 8 },
            (Class::Test, 2) => return Err(UnsupportedError::Padding { class: 1, subclass }),
            (Class::Management, 3 | 4 | 8 | 9) => Self::KeySection { subclass },
            (Class::Management, _) => {
                let function = Function::of(subclass).ok_or(reserved)?;
                let value = low16(payload);
                if function == Function::ClearTamper && value != 0 {
                    return Err(UnsupportedError::Padding { class: 2, subclass });
                }
                Self::Management { function, random, tid, value }
            }
            _ => return Err(reserved),
        })
    }

    /// The identifier, if the contents have one.
    #[must_use]
    pub const fn tid(&self) -> Option<Tid> {
        match self {
            Self::Credit { tid, .. } | Self::Currency { tid, .. } | Self::Management { tid, .. } => {
                Some(*tid)
            }
            _ => None,
        }
    }

    /// Every field by name, in the order of the payload. Sections of a key change show none: they are a key.
    #[must_use]
    pub fn fields(&self) -> Fields {
        match *self {
            Self::Credit { random, tid, amount, .. } => alloc::vec![
                ("rnd", random.into()),
                ("tid", tid.bits().into()),
                ("amount", amount.value().into()),
                ("amount_bits", amount.bits().into()),
            ],
            Self::Currency { tid, amount, .. } => {
                let mut fields: Fields =
                    alloc::vec![("tid", tid.bits().into()), ("amount_bits", amount.bits().into())];
                fields.extend(amount.value().map(|value| ("amount", value.into())));
                fields
            }
            Self::Test { control, manufacturer } => {
                let code = match manufacturer {
                    Manufacturer::Two(code) => code.into(),
                    Manufacturer::Four(code) => code.into(),
                };
                alloc::vec![("control", control.into()), ("manufacturer", code)]
            }
            Self::ReadExtended { control } => alloc::vec![("control", control.into())],
            Self::Management { function, random, tid, value } => {
                let mut fields: Fields = alloc::vec![("rnd", random.into()), ("tid", tid.bits().into())];
                if function.is_amount() {
                    fields.push(("watts", Amount::from_bits(value).value().into()));
                }
                if function == Function::Extended {
                    fields.push(("index", (value >> 10).into()));
                    fields.push(("flags", (value & 0x3FF).into()));
                }
                fields.push(("value", value.into()));
                fields
            }
            Self::KeySection { .. } => Fields::new(),
        }
    }
}
