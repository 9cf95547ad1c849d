//! DataNotification, with which a meter pushes, and the confirmation of its receipt.

use alloc::vec::Vec;

use crate::wire::{Data, DateTime, DecodeError, Reader, Rule, Writer};

/// Tag of [`DataNotification`].
pub const DATA_NOTIFICATION: u8 = 0x0F;
/// Tag of [`DataNotificationConfirm`].
pub const DATA_NOTIFICATION_CONFIRM: u8 = 0x10;

/// Tag of an octet-string, which some meters wrongly put before the date-time.
const OCTET_STRING: u8 = 0x09;

/// long-invoke-id-and-priority, 32 bits: 0 to 23 the id, 28 self-descriptive, 29 processing option, 30 confirmed,
/// 31 high priority. Reserved bits are kept as received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LongInvokeId(pub u32);

impl LongInvokeId {
    /// Largest id; after it comes 0.
    pub const ID_MAX: u32 = 0x00FF_FFFF;
    /// Bit 30: the sender wants a confirmation.
    pub const CONFIRMED: u32 = 1 << 30;

    /// A confirmed service with this id, of which the low 24 bits count.
    #[must_use]
    pub const fn confirmed(id: u32) -> Self {
        Self((id & Self::ID_MAX) | Self::CONFIRMED)
    }

    /// The id alone, 0 to [`LongInvokeId::ID_MAX`].
    #[must_use]
    pub const fn id(self) -> u32 {
        self.0 & Self::ID_MAX
    }

    /// Whether the sender wants a confirmation.
    #[must_use]
    pub const fn is_confirmed(self) -> bool {
        self.0 & Self::CONFIRMED != 0
    }
}

/// How strictly the date-time of a notification is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Leniency {
    /// As the standard says: length and octets, no tag.
    #[default]
    Strict,
    /// Also with the tag of an octet-string before it, as some meters send it.
    DateTimeTag,
}

/// Data that a meter sends on its own account.
///
/// `0F | long-invoke-id u32 | date-time: length (0 or 12) and octets, no tag | Data`.
///
/// # Source
/// DLMS fact sheet, section 7 and trap 16; IEC 62056-5-3, DataNotification.
#[derive(Debug, Clone, PartialEq)]
pub struct DataNotification<'a> {
    /// Invocation.
    pub long_invoke_id: LongInvokeId,
    /// When it was sent, if the meter says so.
    pub date_time: Option<DateTime>,
    /// What the push setup lists, normally a structure.
    pub body: Data<'a>,
}

impl<'a> DataNotification<'a> {
    /// Reads a whole APDU.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &'a [u8], leniency: Leniency) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        expect_tag(&mut reader, DATA_NOTIFICATION)?;
        let long_invoke_id = LongInvokeId(reader.u32("long-invoke-id")?);
        let date_time = date_time(&mut reader, leniency)?;
        let body = Data::decode(&mut reader)?;
        reader.finish("data-notification")?;
        Ok(Self { long_invoke_id, date_time, body })
    }

    /// The whole APDU, in the standard's form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u8(DATA_NOTIFICATION);
        writer.u32(self.long_invoke_id.0);
        write_date_time(&mut writer, self.date_time);
        self.body.encode(&mut writer);
        writer.into_bytes()
    }
}

/// Says that what a [`DataNotification`] carried is durable at the receiver.
///
/// `10 | long-invoke-id u32`, 5 bytes. The id is repeated bit by bit.
///
/// **Not verified against the standard.** Newer editions have a confirmed form of the service with an APDU of tag 16;
/// whether more fields follow the id there could not be checked, so both ends of this form are ours. It travels
/// without protection of its own, inside the mutually authenticated link to the head-end, which holds no key: who
/// controls that link can withhold or forge a confirmation, which is denial of service and no more (rule Z1).
///
/// # Source
/// Ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataNotificationConfirm {
    /// Invocation that is confirmed.
    pub long_invoke_id: LongInvokeId,
}

impl DataNotificationConfirm {
    /// Size in bytes.
    pub const SIZE: usize = 5;

    /// Reads a whole APDU.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        expect_tag(&mut reader, DATA_NOTIFICATION_CONFIRM)?;
        let long_invoke_id = LongInvokeId(reader.u32("long-invoke-id")?);
        reader.finish("data-notification-confirm")?;
        Ok(Self { long_invoke_id })
    }

    /// The whole APDU.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(Self::SIZE);
        writer.u8(DATA_NOTIFICATION_CONFIRM);
        writer.u32(self.long_invoke_id.0);
        writer.into_bytes()
    }
}

fn expect_tag(reader: &mut Reader<'_>, expected: u8) -> Result<(), DecodeError> {
    let start = reader.clone();
    match reader.u8("apdu tag")? {
        tag if tag == expected => Ok(()),
        tag => Err(start.fail("apdu tag", Rule::Tag { tag })),
    }
}

fn date_time(reader: &mut Reader<'_>, leniency: Leniency) -> Result<Option<DateTime>, DecodeError> {
    //= DLMS 12.16: the date-time comes without a tag; lenient reading takes one
    let mut length = reader.clone();
    // 9 is no length that a date-time can have, so the two forms cannot be taken for each other.
    if leniency == Leniency::DateTimeTag && length.u8("date-time")? == OCTET_STRING {
        *reader = length;
    }
    let start = reader.clone();
    match reader.length("date-time")? {
        0 => Ok(None),
        DateTime::SIZE => DateTime::decode(reader).map(Some),
        found => Err(start.fail("date-time", Rule::LengthNotAllowed { found })),
    }
}

/// Length (0 or 12) and octets, as in every long APDU.
pub(super) fn optional_date_time(reader: &mut Reader<'_>) -> Result<Option<DateTime>, DecodeError> {
    date_time(reader, Leniency::Strict)
}

pub(super) fn write_date_time(writer: &mut Writer, date_time: Option<DateTime>) {
    match date_time {
        None => writer.length(0),
        Some(at) => writer.prefixed(&at.to_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= DLMS 12.16: the date-time comes without a tag; lenient reading takes one
    #[test]
    fn a_tagged_date_time_is_read_in_lenient_mode_only() {
        let plain = DataNotification {
            long_invoke_id: LongInvokeId::confirmed(7),
            date_time: DateTime::from_utc(gridseal_types::UtcTime(1_800_000_000), 0, 0),
            body: Data::Null,
        };
        let bytes = plain.to_bytes();
        let mut tagged = bytes.clone();
        tagged.insert(5, OCTET_STRING);
        for leniency in [Leniency::Strict, Leniency::DateTimeTag] {
            assert_eq!(DataNotification::from_bytes(&bytes, leniency).as_ref(), Ok(&plain));
        }
        assert_eq!(DataNotification::from_bytes(&tagged, Leniency::DateTimeTag), Ok(plain));
        let error = DataNotification::from_bytes(&tagged, Leniency::Strict).unwrap_err();
        assert_eq!((error.offset, error.rule), (5, Rule::LengthNotAllowed { found: 9 }));
    }

    #[test]
    fn confirmation_repeats_the_invocation_and_has_one_size() {
        let confirm = DataNotificationConfirm { long_invoke_id: LongInvokeId::confirmed(0x0100_0002) };
        let bytes = confirm.to_bytes();
        assert_eq!(bytes, [0x10, 0x40, 0x00, 0x00, 0x02]);
        assert_eq!(DataNotificationConfirm::from_bytes(&bytes), Ok(confirm));
        assert!(DataNotificationConfirm::from_bytes(&bytes[..4]).is_err());
        assert!(DataNotificationConfirm::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
        assert!(DataNotificationConfirm::from_bytes(&[0x0F, 0, 0, 0, 0]).is_err());
    }
}
