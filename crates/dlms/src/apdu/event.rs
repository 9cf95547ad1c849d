//! EventNotification: a server tells the value of one attribute on its own account.

use alloc::vec::Vec;

use super::{
    reference::{AttributeId, open, optional},
    tag::EVENT_NOTIFICATION,
};
use crate::wire::{Data, DateTime, DecodeError, Rule, Writer};

/// `C2 | time, optional | attribute-descriptor | value`. It is never answered.
///
/// # Source
/// DLMS fact sheet, section 7; IEC 62056-5-3, event-notification-request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EventNotification<'a> {
    /// When it happened.
    pub time: Option<DateTime>,
    /// Whose value it is.
    pub attribute: AttributeId,
    /// One encoded A-XDR value.
    pub value: &'a [u8],
}

impl<'a> EventNotification<'a> {
    /// Reads a whole APDU.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = open(bytes, EVENT_NOTIFICATION)?;
        let mut time = None;
        if optional(&mut reader, "time")? {
            let start = reader.clone();
            let found = reader.length("time")?;
            if found != DateTime::SIZE {
                return Err(start.fail("time", Rule::LengthNotAllowed { found }));
            }
            time = Some(DateTime::decode(&mut reader)?);
        }
        let attribute = AttributeId::decode(&mut reader)?;
        let value = Data::skip(&mut reader)?;
        reader.finish("event-notification")?;
        Ok(Self { time, attribute, value })
    }

    /// The whole APDU.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(32);
        writer.u8(EVENT_NOTIFICATION);
        match self.time {
            None => writer.u8(0),
            Some(time) => {
                writer.u8(1);
                writer.prefixed(&time.to_bytes());
            }
        }
        self.attribute.encode(&mut writer);
        writer.bytes(self.value);
        writer.into_bytes()
    }
}
