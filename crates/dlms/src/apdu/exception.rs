//! exception-response: a request was not taken.

use alloc::vec::Vec;

use super::{reference::open, tag::EXCEPTION_RESPONSE};
use crate::wire::{DecodeError, Rule, Writer};

/// state-error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateError {
    /// 1: the state does not allow the service.
    ServiceNotAllowed,
    /// 2: the service is not known.
    ServiceUnknown,
    /// Another number.
    Unknown(u8),
}

/// service-error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServiceError {
    /// 1.
    OperationNotPossible,
    /// 2.
    ServiceNotSupported,
    /// 3.
    OtherReason,
    /// 4.
    PduTooLong,
    /// 5: the APDU could not be opened.
    DecipheringError,
    /// 6: the counter is too low; the lowest value that is accepted.
    InvocationCounter(u32),
    /// Another number.
    Unknown(u8),
}

/// `D8 | state-error | service-error`, and `u32` after an invocation-counter error.
///
/// It is mostly sent without protection, because the sender could not open the request: nothing in it is more than a
/// hint.
///
/// # Source
/// DLMS fact sheet, sections 5.9 and 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExceptionResponse {
    /// What the state allowed.
    pub state: StateError,
    /// What went wrong.
    pub service: ServiceError,
}

impl ExceptionResponse {
    /// The one answer to everything from a peer that has not authenticated itself (rule S11).
    pub const NOT_ALLOWED: Self =
        Self { state: StateError::ServiceNotAllowed, service: ServiceError::OperationNotPossible };
    /// An APDU inside an association could not be opened.
    pub const DECIPHERING: Self =
        Self { state: StateError::ServiceNotAllowed, service: ServiceError::DecipheringError };

    /// Reads a whole APDU.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = open(bytes, EXCEPTION_RESPONSE)?;
        let state = match reader.u8("state-error")? {
            1 => StateError::ServiceNotAllowed,
            2 => StateError::ServiceUnknown,
            0 => return Err(reader.fail("state-error", Rule::OutOfRange)),
            other => StateError::Unknown(other),
        };
        let service = match reader.u8("service-error")? {
            1 => ServiceError::OperationNotPossible,
            2 => ServiceError::ServiceNotSupported,
            3 => ServiceError::OtherReason,
            4 => ServiceError::PduTooLong,
            5 => ServiceError::DecipheringError,
            6 => ServiceError::InvocationCounter(reader.u32("invocation-counter")?),
            0 => return Err(reader.fail("service-error", Rule::OutOfRange)),
            other => ServiceError::Unknown(other),
        };
        reader.finish("exception-response")?;
        Ok(Self { state, service })
    }

    /// The whole APDU.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(7);
        writer.u8(EXCEPTION_RESPONSE);
        writer.u8(match self.state {
            StateError::ServiceNotAllowed => 1,
            StateError::ServiceUnknown => 2,
            StateError::Unknown(other) => other,
        });
        match self.service {
            ServiceError::OperationNotPossible => writer.u8(1),
            ServiceError::ServiceNotSupported => writer.u8(2),
            ServiceError::OtherReason => writer.u8(3),
            ServiceError::PduTooLong => writer.u8(4),
            ServiceError::DecipheringError => writer.u8(5),
            ServiceError::InvocationCounter(lowest) => {
                writer.u8(6);
                writer.u32(lowest);
            }
            ServiceError::Unknown(other) => writer.u8(other),
        }
        writer.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_counter_follows_only_a_counter_error() {
        let bytes = [0xD8, 1, 6, 0, 0, 1, 0];
        let read = ExceptionResponse::from_bytes(&bytes).unwrap();
        assert_eq!(read.service, ServiceError::InvocationCounter(256));
        assert_eq!(read.to_bytes(), bytes);
        assert!(ExceptionResponse::from_bytes(&bytes[..3]).is_err());
        assert!(ExceptionResponse::from_bytes(&[0xD8, 1, 5, 0]).is_err());
        assert_eq!(ExceptionResponse::NOT_ALLOWED.to_bytes(), [0xD8, 1, 1]);
        assert_eq!(ExceptionResponse::DECIPHERING.to_bytes(), [0xD8, 1, 5]);
    }
}
