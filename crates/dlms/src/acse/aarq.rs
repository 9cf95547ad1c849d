//! AARQ: a client asks for an association.

use alloc::vec::Vec;
use core::fmt;

use gridseal_types::SystemTitle;

use super::{
    AARQ, ContextName, Mechanism,
    name::{authentication_value, integer, octets, requirements, title, wrapped},
};
use crate::wire::{
    DecodeError, Writer,
    ber::{self, Ber},
};

/// Asks for an association: `60 len` and the fields below in this order.
///
/// | tag | field |
/// |---|---|
/// | 80 | protocol-version, read and left out |
/// | A1 | application-context-name |
/// | A2 to A5 | called titles and ids, read and left out |
/// | A6 | calling-AP-title: the client's system title |
/// | A7 | calling-AE-qualifier: the client's signing certificate |
/// | A8 | calling-AP-invocation-id, read and left out |
/// | A9 | calling-AE-invocation-id: the user |
/// | 8A, 8B, AC | requirements, mechanism-name, calling-authentication-value |
/// | BE | user-information: an InitiateRequest, ciphered or not |
///
/// Nothing in it is verified. `Debug` shows the size of the authentication value only: it may be a password.
///
/// # Source
/// DLMS fact sheet, section 3.1; vectors `dlms/aarq-*.toml`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Aarq<'a> {
    /// Application context.
    pub context: ContextName,
    /// The client's system title, a claim.
    pub calling_title: Option<SystemTitle>,
    /// The client's signing certificate, DER.
    pub calling_certificate: Option<&'a [u8]>,
    /// User of the client.
    pub calling_user: Option<u8>,
    /// Authentication mechanism; [`Mechanism::None`] is never written.
    pub mechanism: Mechanism,
    /// Password or challenge, at most 64 bytes.
    pub authentication: Option<&'a [u8]>,
    /// InitiateRequest, or its ciphered form.
    pub user_information: &'a [u8],
}

impl fmt::Debug for Aarq<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aarq")
            .field("context", &self.context)
            .field("calling_title", &self.calling_title)
            .field("calling_user", &self.calling_user)
            .field("mechanism", &self.mechanism)
            .field("authentication_size", &self.authentication.map(<[u8]>::len))
            .finish_non_exhaustive()
    }
}

impl<'a> Aarq<'a> {
    /// Reads a whole message. Unknown, repeated and misplaced fields are refused.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Ber::open(bytes, AARQ, "aarq")?;
        fields.optional(0x80, "protocol-version")?;
        let context = ContextName::decode(&mut ber::inner(
            &mut fields.required(0xA1, "application-context-name")?,
            0x06,
            "application-context-name",
        )?)?;
        for tag in [0xA2, 0xA3, 0xA4, 0xA5] {
            fields.optional(tag, "called titles")?;
        }
        let calling_title = title(fields.optional(0xA6, "calling-AP-title")?, "calling-AP-title")?;
        let calling_certificate =
            octets(fields.optional(0xA7, "calling-AE-qualifier")?, "calling-AE-qualifier")?;
        fields.optional(0xA8, "calling-AP-invocation-id")?;
        let calling_user =
            integer(fields.optional(0xA9, "calling-AE-invocation-id")?, "calling-AE-invocation-id")?;
        requirements(fields.optional(0x8A, "sender-acse-requirements")?, "sender-acse-requirements")?;
        let mechanism = match fields.optional(0x8B, "mechanism-name")? {
            None => Mechanism::None,
            Some(mut contents) => Mechanism::decode(&mut contents)?,
        };
        let field = "calling-authentication-value";
        let authentication = authentication_value(fields.optional(0xAC, field)?, field)?;
        let user_information =
            octets(Some(fields.required(0xBE, "user-information")?), "user-information")?.unwrap_or_default();
        fields.finish("aarq")?;
        Ok(Self {
            context,
            calling_title,
            calling_certificate,
            calling_user,
            mechanism,
            authentication,
            user_information,
        })
    }

    /// The whole message.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut fields = Writer::default();
        ber::wrap(&mut fields, 0xA1, &wrapped(0x06, &self.context.to_bytes()));
        if let Some(title) = self.calling_title {
            ber::wrap(&mut fields, 0xA6, &wrapped(0x04, title.as_bytes()));
        }
        if let Some(certificate) = self.calling_certificate {
            ber::wrap(&mut fields, 0xA7, &wrapped(0x04, certificate));
        }
        if let Some(user) = self.calling_user {
            ber::wrap(&mut fields, 0xA9, &wrapped(0x02, &[user]));
        }
        if self.mechanism != Mechanism::None {
            ber::wrap(&mut fields, 0x8A, &[0x07, 0x80]);
            ber::wrap(&mut fields, 0x8B, &self.mechanism.to_bytes());
        }
        if let Some(value) = self.authentication {
            ber::wrap(&mut fields, 0xAC, &wrapped(0x80, value));
        }
        ber::wrap(&mut fields, 0xBE, &wrapped(0x04, self.user_information));
        ber::message(AARQ, fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Rule;

    fn aarq(challenge: &[u8]) -> Aarq<'_> {
        Aarq {
            context: ContextName::LogicalNameCiphered,
            calling_title: Some(SystemTitle(*b"MMM\0\0\0\0\x01")),
            calling_certificate: None,
            calling_user: Some(7),
            mechanism: Mechanism::Gmac,
            authentication: Some(challenge),
            user_information: &[0x21; 60],
        }
    }

    //= DLMS 3.1: lengths above 127 take several octets
    #[test]
    fn an_aarq_above_127_octets_has_a_long_length_and_round_trips() {
        let challenge = [0x55; 64];
        let bytes = aarq(&challenge).to_bytes();
        assert_eq!(bytes.get(1), Some(&0x81));
        assert_eq!(Aarq::from_bytes(&bytes), Ok(aarq(&challenge)));
    }

    #[test]
    fn a_challenge_above_64_octets_and_repeated_fields_are_refused() {
        let bytes = aarq(&[0x55; 65]).to_bytes();
        assert_eq!(Aarq::from_bytes(&bytes).unwrap_err().rule, Rule::TooLong { found: 65, limit: 64 });
        let twice = [0x60, 18, 0xA1, 7, 6, 7, 0x60, 0x85, 0x74, 5, 8, 1, 1];
        let mut twice = twice.to_vec();
        twice.extend_from_slice(&[0xA1, 7, 6, 7, 0x60, 0x85, 0x74]);
        assert!(Aarq::from_bytes(&twice).is_err());
    }

    //= DLMS 12.2: no secret is printed
    #[test]
    fn debug_shows_no_password() {
        let text = alloc::format!("{:?}", aarq(b"SECRET-1"));
        assert!(!text.contains("SECRET") && !text.contains("83, 69") && text.contains("Some(8)"), "{text}");
    }
}
