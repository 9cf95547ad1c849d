//! Values and times.

use alloc::vec::Vec;

use crate::{
    sml::{
        Mode,
        element::{Element, Elements, Signed, Unsigned},
    },
    wire::{DecodeError, Rule},
};

use super::part::{Octets, Part, Raw};

/// A value of a list entry.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// Boolean.
    Boolean(bool),
    /// Octets.
    Octets(Octets<'a>),
    /// Signed number.
    Signed(Signed),
    /// Unsigned number.
    Unsigned(Unsigned),
    /// A list: kept as its bytes.
    List(Raw<'a>),
}

impl<'a> Part<'a> for Value<'a> {
    #[inline]
    fn decode(elements: &mut Elements<'a>) -> Result<Self, DecodeError> {
        let start = elements.clone();
        Ok(match elements.element("value")? {
            Element::Boolean(value) => Self::Boolean(value),
            Element::Octets(value) => Self::Octets(Octets(value)),
            Element::Absent => Self::Octets(Octets(&[])),
            Element::Signed(value) => Self::Signed(value),
            Element::Unsigned(value) => Self::Unsigned(value),
            Element::List(_) => {
                *elements = start;
                Self::List(Raw::decode(elements)?)
            }
            Element::End => return Err(start.wrong_type("value")),
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Boolean(value) => value.encode(out),
            Self::Octets(value) => value.encode(out),
            Self::Signed(value) => value.encode(out),
            Self::Unsigned(value) => value.encode(out),
            Self::List(value) => value.encode(out),
        }
    }
}

/// A time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Time {
    /// Seconds since the meter began to count.
    SecondIndex(Unsigned),
    /// Seconds since 1970, UTC.
    Timestamp(Unsigned),
    /// Seconds since 1970, UTC, with the offset of local time and of its season, minutes.
    Local {
        /// UTC.
        timestamp: Unsigned,
        /// Local time from UTC.
        offset_min: Signed,
        /// Season's share.
        season_min: Signed,
    },
    /// A bare number in place of a time: a second index of old firmware. Tolerant mode only.
    Bare(Unsigned),
    /// The three parts of a local time without the choice before them. Tolerant mode only.
    BareLocal {
        /// UTC.
        timestamp: Unsigned,
        /// Local time from UTC.
        offset_min: Signed,
        /// Season's share.
        season_min: Signed,
    },
}

impl Time {
    /// Seconds as sent, whatever they count from.
    #[must_use]
    pub const fn seconds(&self) -> u64 {
        match self {
            Self::SecondIndex(seconds) | Self::Timestamp(seconds) | Self::Bare(seconds) => seconds.value,
            Self::Local { timestamp, .. } | Self::BareLocal { timestamp, .. } => timestamp.value,
        }
    }

    /// Whether the seconds count from 1970.
    #[must_use]
    pub const fn is_calendar(&self) -> bool {
        matches!(self, Self::Timestamp(_) | Self::Local { .. } | Self::BareLocal { .. })
    }
}

type LocalParts = (Unsigned, Signed, Signed);

fn local(elements: &mut Elements<'_>) -> Result<LocalParts, DecodeError> {
    Ok((Part::decode(elements)?, Part::decode(elements)?, Part::decode(elements)?))
}

impl<'a> Part<'a> for Time {
    fn decode(elements: &mut Elements<'a>) -> Result<Self, DecodeError> {
        let start = elements.clone();
        let tolerant = elements.mode == Mode::Tolerant;
        match elements.element("time")? {
            //= SML 10: a bare number, or three parts, in place of a time
            Element::Unsigned(seconds) if tolerant => return Ok(Self::Bare(seconds)),
            Element::List(3) if tolerant => {
                let (timestamp, offset_min, season_min) = local(elements)?;
                return Ok(Self::BareLocal { timestamp, offset_min, season_min });
            }
            Element::List(2) => {}
            Element::List(found) => return Err(start.fail("time", Rule::LengthNotAllowed { found })),
            _ => return Err(start.wrong_type("time")),
        }
        let at = elements.clone();
        let choice: Unsigned = Part::decode(elements)?;
        Ok(match choice.value {
            1 => Self::SecondIndex(Part::decode(elements)?),
            2 => Self::Timestamp(Part::decode(elements)?),
            3 => {
                elements.list("local time", 3)?;
                let (timestamp, offset_min, season_min) = local(elements)?;
                Self::Local { timestamp, offset_min, season_min }
            }
            found => {
                return Err(at.fail(
                    "kind of time",
                    Rule::Unknown { found: u32::try_from(found).unwrap_or(u32::MAX) },
                ));
            }
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let mut choice = |number: u64| {
            Element::List(2).encode(out);
            Unsigned::new(number, 1).encode(out);
        };
        match self {
            Self::SecondIndex(seconds) => {
                choice(1);
                seconds.encode(out);
            }
            Self::Timestamp(seconds) => {
                choice(2);
                seconds.encode(out);
            }
            Self::Local { timestamp, offset_min, season_min } => {
                choice(3);
                parts(out, (timestamp, offset_min, season_min));
            }
            Self::Bare(seconds) => seconds.encode(out),
            Self::BareLocal { timestamp, offset_min, season_min } => {
                parts(out, (timestamp, offset_min, season_min));
            }
        }
    }
}

fn parts(out: &mut Vec<u8>, (timestamp, offset_min, season_min): (&Unsigned, &Signed, &Signed)) {
    Element::List(3).encode(out);
    timestamp.encode(out);
    offset_min.encode(out);
    season_min.encode(out);
}
