//! AARE: a server answers an AARQ.

use alloc::vec::Vec;
use core::fmt;

use gridseal_types::SystemTitle;

use super::{
    AARE, ContextName, Mechanism,
    name::{authentication_value, integer, octets, requirements, title, wrapped},
};
use crate::wire::{
    DecodeError, Reader, Rule, Writer,
    ber::{self, Ber},
};

/// association-result. Closed: the standard has three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AssociateResult {
    /// Open, or open until the peer has authenticated itself.
    Accepted,
    /// Refused; asking again changes nothing.
    RejectedPermanent,
    /// Refused for now.
    RejectedTransient,
}

impl fmt::Display for AssociateResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accepted => "accepted",
            Self::RejectedPermanent => "rejected",
            Self::RejectedTransient => "rejected for now",
        })
    }
}

/// result-source-diagnostic: who refused and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Diagnostic {
    /// acse-service-user: 0 null, 1 no reason, 2 context not supported, 3 calling title not recognised, 11 mechanism
    /// not recognised, 12 mechanism required, 13 authentication failure, 14 authentication required.
    User(u8),
    /// acse-service-provider: 0 null, 1 no reason, 2 no common version.
    Provider(u8),
}

impl Diagnostic {
    /// Nothing to say: accepted.
    pub const NULL: Self = Self::User(0);
    /// Refused without a reason.
    pub const NO_REASON: Self = Self::User(1);
    /// The application context is not spoken here.
    pub const CONTEXT_NOT_SUPPORTED: Self = Self::User(2);
    /// Authentication failed.
    pub const AUTHENTICATION_FAILURE: Self = Self::User(13);
    /// Go on with pass 3 of high level security.
    pub const AUTHENTICATION_REQUIRED: Self = Self::User(14);
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User(1) => "no reason given",
            Self::User(2) => "application context not supported",
            Self::User(3) => "calling title not recognised",
            Self::User(11) => "mechanism not recognised",
            Self::User(12) => "mechanism required",
            Self::User(13) => "authentication failure",
            Self::User(14) => "authentication required",
            Self::User(number) => return write!(f, "user diagnostic {number}"),
            Self::Provider(number) => return write!(f, "provider diagnostic {number}"),
        })
    }
}

/// Answers an AARQ: `61 len` and the fields below in this order.
///
/// | tag | field |
/// |---|---|
/// | A1 | application-context-name |
/// | A2, A3 | association-result, result-source-diagnostic |
/// | A4 | responding-AP-title: the server's system title |
/// | A5 | responding-AE-qualifier: the server's signing certificate |
/// | A6 | responding-AP-invocation-id, read and left out |
/// | A7 | responding-AE-invocation-id, read and left out |
/// | 88, 89, AA | requirements, mechanism-name, responding-authentication-value |
/// | BE | user-information: InitiateResponse or error, ciphered or not |
///
/// # Source
/// DLMS fact sheet, section 3.2; vectors `dlms/aare-*.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aare<'a> {
    /// Application context.
    pub context: ContextName,
    /// Whether the association is open.
    pub result: AssociateResult,
    /// Why not, or what is still missing.
    pub diagnostic: Diagnostic,
    /// The server's system title, a claim.
    pub responding_title: Option<SystemTitle>,
    /// The server's signing certificate, DER.
    pub responding_certificate: Option<&'a [u8]>,
    /// Authentication mechanism; [`Mechanism::None`] is never written.
    pub mechanism: Mechanism,
    /// The server's challenge, at most 64 bytes.
    pub authentication: Option<&'a [u8]>,
    /// InitiateResponse, ConfirmedServiceError, or a ciphered form.
    pub user_information: Option<&'a [u8]>,
}

impl<'a> Aare<'a> {
    /// Reads a whole message. Unknown, repeated and misplaced fields are refused.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Ber::open(bytes, AARE, "aare")?;
        fields.optional(0x80, "protocol-version")?;
        let context = ContextName::decode(&mut ber::inner(
            &mut fields.required(0xA1, "application-context-name")?,
            0x06,
            "application-context-name",
        )?)?;
        let start = fields.required(0xA2, "association-result")?;
        let result = match integer(Some(start.clone()), "association-result")? {
            Some(0) => AssociateResult::Accepted,
            Some(1) => AssociateResult::RejectedPermanent,
            Some(2) => AssociateResult::RejectedTransient,
            _ => return Err(start.fail("association-result", Rule::OutOfRange)),
        };
        let diagnostic = diagnostic(fields.required(0xA3, "result-source-diagnostic")?)?;
        let responding_title = title(fields.optional(0xA4, "responding-AP-title")?, "responding-AP-title")?;
        let field = "responding-AE-qualifier";
        let responding_certificate = octets(fields.optional(0xA5, field)?, field)?;
        fields.optional(0xA6, "responding-AP-invocation-id")?;
        fields.optional(0xA7, "responding-AE-invocation-id")?;
        requirements(fields.optional(0x88, "responder-acse-requirements")?, "responder-acse-requirements")?;
        let mechanism = match fields.optional(0x89, "mechanism-name")? {
            None => Mechanism::None,
            Some(mut contents) => Mechanism::decode(&mut contents)?,
        };
        let field = "responding-authentication-value";
        let authentication = authentication_value(fields.optional(0xAA, field)?, field)?;
        let user_information = octets(fields.optional(0xBE, "user-information")?, "user-information")?;
        fields.finish("aare")?;
        Ok(Self {
            context,
            result,
            diagnostic,
            responding_title,
            responding_certificate,
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
        let result = match self.result {
            AssociateResult::Accepted => 0,
            AssociateResult::RejectedPermanent => 1,
            AssociateResult::RejectedTransient => 2,
        };
        ber::wrap(&mut fields, 0xA2, &wrapped(0x02, &[result]));
        let (source, number) = match self.diagnostic {
            Diagnostic::User(number) => (0xA1, number),
            Diagnostic::Provider(number) => (0xA2, number),
        };
        ber::wrap(&mut fields, 0xA3, &wrapped(source, &wrapped(0x02, &[number])));
        if let Some(title) = self.responding_title {
            ber::wrap(&mut fields, 0xA4, &wrapped(0x04, title.as_bytes()));
        }
        if let Some(certificate) = self.responding_certificate {
            ber::wrap(&mut fields, 0xA5, &wrapped(0x04, certificate));
        }
        if self.mechanism != Mechanism::None {
            ber::wrap(&mut fields, 0x88, &[0x07, 0x80]);
            ber::wrap(&mut fields, 0x89, &self.mechanism.to_bytes());
        }
        if let Some(value) = self.authentication {
            ber::wrap(&mut fields, 0xAA, &wrapped(0x80, value));
        }
        if let Some(information) = self.user_information {
            ber::wrap(&mut fields, 0xBE, &wrapped(0x04, information));
        }
        ber::message(AARE, fields)
    }
}

fn diagnostic(mut contents: Reader<'_>) -> Result<Diagnostic, DecodeError> {
    let field = "result-source-diagnostic";
    let start = contents.clone();
    let source = contents.clone().u8(field)?;
    let number = match source {
        0xA1 | 0xA2 => integer(Some(ber::inner(&mut contents, source, field)?), field)?,
        tag => return Err(start.fail(field, Rule::Tag { tag })),
    };
    let number = number.unwrap_or_default();
    Ok(if source == 0xA1 { Diagnostic::User(number) } else { Diagnostic::Provider(number) })
}
