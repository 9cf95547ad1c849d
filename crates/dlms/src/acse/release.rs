//! RLRQ and RLRE: an association is closed.

use alloc::vec::Vec;

use super::{RLRE, RLRQ};
use crate::wire::{
    DecodeError, Reader, Rule, Writer,
    ber::{self, Ber},
};

/// Reason 0: a normal release, in both directions.
pub const RELEASE_NORMAL: u8 = 0;

/// Closes an association, or answers that: `62` or `63 len | 80 01 reason | BE len 04 len user-information`.
///
/// Reasons of a request: 0 normal, 1 urgent, 30 user defined; of a response: 0 normal, 1 not finished, 30. In a
/// ciphered association the user information is a ciphered InitiateRequest or InitiateResponse, which is what keeps a
/// stranger from closing it.
///
/// # Source
/// DLMS fact sheet, section 3.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release<'a> {
    /// Whether it asks or answers.
    pub is_response: bool,
    /// Reason, when there is one.
    pub reason: Option<u8>,
    /// Initiate APDU, ciphered in a ciphered association.
    pub user_information: Option<&'a [u8]>,
}

impl<'a> Release<'a> {
    /// Reads a whole message of either tag.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let is_response = match bytes.first() {
            Some(&RLRQ) => false,
            Some(&RLRE) => true,
            Some(&tag) => return Err(Reader::new(bytes).fail("release", Rule::Tag { tag })),
            None => return Err(Reader::new(bytes).fail("release", Rule::Truncated { needed: 2, left: 0 })),
        };
        let mut fields = Ber::open(bytes, if is_response { RLRE } else { RLRQ }, "release")?;
        let reason = match fields.optional(0x80, "release reason")? {
            None => None,
            Some(mut contents) => {
                let reason = contents.u8("release reason")?;
                contents.finish("release reason")?;
                Some(reason)
            }
        };
        let field = "user-information";
        let user_information = super::name::octets(fields.optional(0xBE, field)?, field)?;
        fields.finish("release")?;
        Ok(Self { is_response, reason, user_information })
    }

    /// The whole message.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut fields = Writer::default();
        if let Some(reason) = self.reason {
            ber::wrap(&mut fields, 0x80, &[reason]);
        }
        if let Some(information) = self.user_information {
            ber::wrap(&mut fields, 0xBE, &super::name::wrapped(0x04, information));
        }
        ber::message(if self.is_response { RLRE } else { RLRQ }, fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_reads_with_and_without_user_information() {
        let plain = [0x62, 3, 0x80, 1, 0];
        let read = Release::from_bytes(&plain).unwrap();
        assert_eq!((read.is_response, read.reason, read.user_information), (false, Some(0), None));
        assert_eq!(read.to_bytes(), plain);
        let empty = Release::from_bytes(&[0x63, 0]).unwrap();
        assert_eq!((empty.is_response, empty.reason), (true, None));
        let ciphered = Release { is_response: true, reason: Some(0), user_information: Some(&[0x28; 200]) };
        assert_eq!(Release::from_bytes(&ciphered.to_bytes()), Ok(ciphered));
        assert!(Release::from_bytes(&[0x62, 4, 0x80, 2, 0, 0]).is_err());
    }
}
