//! What every field of a message can do: be read and be written.

use alloc::vec::Vec;

use crate::wire::{DecodeError, Rule};

use crate::sml::element::{Element, Elements, Signed, Unsigned};

/// A part of a message.
pub trait Part<'a>: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// [`DecodeError`].
    fn decode(elements: &mut Elements<'a>) -> Result<Self, DecodeError>;

    /// Writes it.
    fn encode(&self, out: &mut Vec<u8>);
}

/// Octets as sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Octets<'a>(pub &'a [u8]);

impl core::fmt::Debug for Octets<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

macro_rules! element {
    ($kind:ty, $name:literal, $variant:ident) => {
        impl<'a> Part<'a> for $kind {
            #[inline]
            fn decode(elements: &mut Elements<'a>) -> Result<Self, DecodeError> {
                let start = elements.clone();
                match elements.element($name)? {
                    Element::$variant(value) => Ok(value),
                    _ => Err(start.wrong_type($name)),
                }
            }

            fn encode(&self, out: &mut Vec<u8>) {
                Element::$variant(*self).encode(out);
            }
        }
    };
}

element!(Unsigned, "unsigned", Unsigned);
element!(Signed, "integer", Signed);
element!(bool, "boolean", Boolean);

impl<'a> Part<'a> for Octets<'a> {
    #[inline]
    fn decode(elements: &mut Elements<'a>) -> Result<Self, DecodeError> {
        let start = elements.clone();
        match elements.element("octet string")? {
            Element::Octets(bytes) => Ok(Self(bytes)),
            // An empty string and an absent one are the same octet.
            Element::Absent => Ok(Self(&[])),
            _ => Err(start.wrong_type("octet string")),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        Element::Octets(self.0).encode(out);
    }
}

impl<'a, T: Part<'a>> Part<'a> for Option<T> {
    #[inline]
    fn decode(elements: &mut Elements<'a>) -> Result<Self, DecodeError> {
        if elements.absent() { Ok(None) } else { T::decode(elements).map(Some) }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Some(part) => part.encode(out),
            None => Element::Absent.encode(out),
        }
    }
}

impl<'a, T: Part<'a>> Part<'a> for Vec<T> {
    fn decode(elements: &mut Elements<'a>) -> Result<Self, DecodeError> {
        let count = elements.any_list("list")?;
        // No more is reserved than the bytes that are left could hold.
        let mut parts = Self::with_capacity(count.min(elements.left() / 2));
        for _ in 0..count {
            parts.push(T::decode(elements)?);
        }
        Ok(parts)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        Element::List(self.len()).encode(out);
        self.iter().for_each(|part| part.encode(out));
    }
}

/// Any element with all that is in it, kept as its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Raw<'a>(pub &'a [u8]);

impl core::fmt::Debug for Raw<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        Octets(self.0).fmt(f)
    }
}

impl<'a> Part<'a> for Raw<'a> {
    fn decode(elements: &mut Elements<'a>) -> Result<Self, DecodeError> {
        let start = elements.offset();
        elements.skip("element")?;
        let bytes = elements.between(start, elements.offset());
        if bytes.is_empty() {
            return Err(elements.fail("element", Rule::Truncated { needed: 1, left: 0 }));
        }
        Ok(Self(bytes))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0);
    }
}
