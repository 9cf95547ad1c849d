//! Messages: transaction, group, what to do on error, a body, a checksum.

mod body;
mod part;
mod value;

use alloc::vec::Vec;

use crate::wire::{DecodeError, Rule};

use super::{
    Mode,
    crc::Checksum,
    element::{Element, Elements, Unsigned},
};

pub use body::{
    Attention, Body, CloseMessage, GetListRequest, GetListResponse, GetProcParameterRequest,
    GetProcParameterResponse, GetProfileListResponse, GetProfilePackResponse, GetProfileRequest, ListEntry,
    OpenRequest, OpenResponse, PeriodEntry, ProfileHeader, ProfileRow, ProfileValue, SetProcParameterRequest,
    Tree,
};
pub use part::{Octets, Part, Raw};
pub use value::{Time, Value};

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message<'a> {
    /// Names the exchange.
    pub transaction_id: Octets<'a>,
    /// Messages of one group are answered in order.
    pub group: Unsigned,
    /// What happens to the following messages when this one fails.
    pub abort_on_error: Unsigned,
    /// Bytes of the body's tag, 2 or 4.
    pub tag_width: u8,
    /// Body.
    pub body: Body<'a>,
    /// Which checksum it came with.
    pub checksum: Checksum,
}

impl<'a> Message<'a> {
    /// A message with the standard's checksum.
    #[must_use]
    pub const fn new(transaction_id: &'a [u8], body: Body<'a>) -> Self {
        Self {
            transaction_id: Octets(transaction_id),
            group: Unsigned::new(0, 1),
            abort_on_error: Unsigned::new(0, 1),
            tag_width: 2,
            body,
            checksum: Checksum::X25,
        }
    }

    /// Reads one message and checks its checksum before anybody sees the body.
    ///
    /// # Errors
    /// [`DecodeError`].
    ///
    /// # Source
    /// LMN fact sheet, section 10; vector T9.
    pub fn decode(elements: &mut Elements<'a>) -> Result<Self, DecodeError> {
        let start = elements.offset();
        elements.list("message", 6)?;
        let transaction_id = Part::decode(elements)?;
        let group = Part::decode(elements)?;
        let abort_on_error = Part::decode(elements)?;
        elements.list("body", 2)?;
        let tag: Unsigned = Part::decode(elements)?;
        let body = Body::decode(tag.value, elements)?;
        let end = elements.offset();
        let at = elements.clone();
        let Element::Unsigned(crc) = elements.element("checksum")? else {
            return Err(at.wrong_type("checksum"));
        };
        let checksum = checksum(elements.between(start, end), crc, elements.mode)
            .map_err(|rule| at.fail("checksum of message", rule))?;
        let at = elements.clone();
        if elements.element("end of message")? != Element::End {
            return Err(at.wrong_type("end of message"));
        }
        Ok(Self { transaction_id, group, abort_on_error, tag_width: tag.width, body, checksum })
    }

    /// Writes the message with its checksum.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        Element::List(6).encode(out);
        self.transaction_id.encode(out);
        self.group.encode(out);
        self.abort_on_error.encode(out);
        Element::List(2).encode(out);
        Unsigned::new(self.body.tag(), self.tag_width).encode(out);
        self.body.encode(out);
        let crc = self.checksum.of(out.get(start..).unwrap_or_default());
        Unsigned::new(u64::from(crc.swap_bytes()), 2).encode(out);
        Element::End.encode(out);
    }
}

fn checksum(covered: &[u8], found: Unsigned, mode: Mode) -> Result<Checksum, Rule> {
    let found = u16::try_from(found.value).map_err(|_| Rule::OutOfRange)?.swap_bytes();
    let computed = Checksum::X25.of(covered);
    if found == computed {
        return Ok(Checksum::X25);
    }
    //= SML 10: old firmware of one manufacturer has CRC-16/KERMIT in its messages
    if mode == Mode::Tolerant && found == Checksum::Kermit.of(covered) {
        return Ok(Checksum::Kermit);
    }
    Err(Rule::Checksum { found, computed })
}
