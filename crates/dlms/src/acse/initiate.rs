//! InitiateRequest and InitiateResponse: what an association may carry.

use alloc::vec::Vec;
use core::fmt;

use super::Conformance;
use crate::wire::{DecodeError, Reader, Rule, Writer};

/// Version of the DLMS protocol, the only one.
pub const DLMS_VERSION: u8 = 6;
/// VAA name of an association with logical names.
pub const VAA_LOGICAL_NAME: u16 = 0x0007;
/// Smallest maximum PDU that is accepted, bytes; 0 means no limit.
pub const MAX_PDU_MIN: u16 = 64;

const REQUEST: u8 = 0x01;
const RESPONSE: u8 = 0x08;
const SERVICE_ERROR: u8 = 0x0E;
const CONFORMANCE: [u8; 4] = [0x5F, 0x1F, 0x04, 0x00];

/// A dedicated key on its way, inside the ciphered InitiateRequest only. Never printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DedicatedKeyBytes<'a>(pub &'a [u8]);

impl fmt::Debug for DedicatedKeyBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DedicatedKeyBytes[{} bytes]", self.0.len())
    }
}

/// Proposes services and sizes: `01 | dedicated key | response-allowed | quality | 06 | conformance | max-PDU u16`.
///
/// # Source
/// DLMS fact sheet, section 3.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitiateRequest<'a> {
    /// Key for this association alone, 16 or 32 bytes.
    pub dedicated_key: Option<DedicatedKeyBytes<'a>>,
    /// False asks for an association without answers.
    pub response_allowed: bool,
    /// Proposed quality of service.
    pub quality_of_service: Option<i8>,
    /// Proposed version, [`DLMS_VERSION`].
    pub version: u8,
    /// Proposed services.
    pub conformance: Conformance,
    /// Largest APDU that the client takes, bytes; 0 = no limit.
    pub max_pdu: u16,
}

impl<'a> InitiateRequest<'a> {
    /// Reads a whole APDU.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        expect(&mut reader, REQUEST, "initiate-request")?;
        let dedicated_key = match present(&mut reader, "dedicated-key")? {
            false => None,
            true => Some(DedicatedKeyBytes(reader.prefixed("dedicated-key")?)),
        };
        let response_allowed = match present(&mut reader, "response-allowed")? {
            false => true,
            true => reader.u8("response-allowed")? != 0,
        };
        let quality_of_service = quality(&mut reader)?;
        let version = reader.u8("dlms version")?;
        let conformance = conformance(&mut reader)?;
        let max_pdu = reader.u16("max-pdu")?;
        reader.finish("initiate-request")?;
        Ok(Self { dedicated_key, response_allowed, quality_of_service, version, conformance, max_pdu })
    }

    /// The whole APDU.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(48);
        writer.u8(REQUEST);
        match self.dedicated_key {
            None => writer.u8(0),
            Some(key) => {
                writer.u8(1);
                writer.prefixed(key.0);
            }
        }
        writer.bytes(if self.response_allowed { &[0] } else { &[1, 0] });
        write_quality(&mut writer, self.quality_of_service);
        writer.u8(self.version);
        writer.bytes(&CONFORMANCE);
        writer.bytes(&self.conformance.to_bytes());
        writer.u16(self.max_pdu);
        writer.into_bytes()
    }
}

/// Settles services and sizes: `08 | quality | 06 | conformance | max-PDU u16 | VAA u16`.
///
/// # Source
/// DLMS fact sheet, section 3.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitiateResponse {
    /// Quality of service.
    pub quality_of_service: Option<i8>,
    /// Version, [`DLMS_VERSION`].
    pub version: u8,
    /// Services that both speak.
    pub conformance: Conformance,
    /// Largest APDU that the server takes, bytes; 0 = no limit.
    pub max_pdu: u16,
    /// [`VAA_LOGICAL_NAME`], FA00 with short names.
    pub vaa_name: u16,
}

impl InitiateResponse {
    /// Reads a whole APDU.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        expect(&mut reader, RESPONSE, "initiate-response")?;
        let quality_of_service = quality(&mut reader)?;
        let version = reader.u8("dlms version")?;
        let conformance = conformance(&mut reader)?;
        let (max_pdu, vaa_name) = (reader.u16("max-pdu")?, reader.u16("vaa-name")?);
        reader.finish("initiate-response")?;
        Ok(Self { quality_of_service, version, conformance, max_pdu, vaa_name })
    }

    /// The whole APDU.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(16);
        writer.u8(RESPONSE);
        write_quality(&mut writer, self.quality_of_service);
        writer.u8(self.version);
        writer.bytes(&CONFORMANCE);
        writer.bytes(&self.conformance.to_bytes());
        writer.u16(self.max_pdu);
        writer.u16(self.vaa_name);
        writer.into_bytes()
    }
}

/// Why an InitiateRequest is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InitiateErrorKind {
    /// 0, and every number that is not known.
    Other,
    /// 1: the proposed version is too low.
    VersionTooLow,
    /// 2: no service in common.
    IncompatibleConformance,
    /// 3: the proposed PDU size is too small.
    PduSizeTooShort,
    /// 4: refused by the handler.
    Refused,
}

/// ConfirmedServiceError for initiate: `0E 01 06 reason`. Also read with other services, whose reason is kept.
///
/// # Source
/// DLMS fact sheet, section 3.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitiateError {
    /// Service that failed: 1 initiate, 5 read, 6 write.
    pub service: u8,
    /// Kind of error: 6 initiate.
    pub category: u8,
    /// Number inside its kind.
    pub reason: u8,
}

impl InitiateError {
    /// A failed initiate.
    #[must_use]
    pub const fn initiate(kind: InitiateErrorKind) -> Self {
        let reason = match kind {
            InitiateErrorKind::Other => 0,
            InitiateErrorKind::VersionTooLow => 1,
            InitiateErrorKind::IncompatibleConformance => 2,
            InitiateErrorKind::PduSizeTooShort => 3,
            InitiateErrorKind::Refused => 4,
        };
        Self { service: 1, category: 6, reason }
    }

    /// Why a initiate failed; [`InitiateErrorKind::Other`] for every other service.
    #[must_use]
    pub const fn initiate_kind(&self) -> InitiateErrorKind {
        match (self.service, self.category, self.reason) {
            (1, 6, 1) => InitiateErrorKind::VersionTooLow,
            (1, 6, 2) => InitiateErrorKind::IncompatibleConformance,
            (1, 6, 3) => InitiateErrorKind::PduSizeTooShort,
            (1, 6, 4) => InitiateErrorKind::Refused,
            _ => InitiateErrorKind::Other,
        }
    }

    /// Reads a whole APDU.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        expect(&mut reader, SERVICE_ERROR, "confirmed-service-error")?;
        let [service, category, reason] = reader.array("confirmed-service-error")?;
        reader.finish("confirmed-service-error")?;
        Ok(Self { service, category, reason })
    }

    /// The whole APDU.
    #[must_use]
    pub const fn to_bytes(&self) -> [u8; 4] {
        [SERVICE_ERROR, self.service, self.category, self.reason]
    }
}

fn expect(reader: &mut Reader<'_>, expected: u8, field: &'static str) -> Result<(), DecodeError> {
    let start = reader.clone();
    match reader.u8(field)? {
        tag if tag == expected => Ok(()),
        tag => Err(start.fail(field, Rule::Tag { tag })),
    }
}

/// The octet before an OPTIONAL or DEFAULT field.
fn present(reader: &mut Reader<'_>, field: &'static str) -> Result<bool, DecodeError> {
    let start = reader.clone();
    match reader.u8(field)? {
        0 => Ok(false),
        1 => Ok(true),
        tag => Err(start.fail(field, Rule::Tag { tag })),
    }
}

fn quality(reader: &mut Reader<'_>) -> Result<Option<i8>, DecodeError> {
    let field = "quality-of-service";
    Ok(match present(reader, field)? {
        false => None,
        true => Some(i8::from_be_bytes(reader.array(field)?)),
    })
}

fn write_quality(writer: &mut Writer, quality: Option<i8>) {
    match quality {
        None => writer.u8(0),
        Some(quality) => {
            writer.u8(1);
            writer.bytes(&quality.to_be_bytes());
        }
    }
}

/// `5F 1F 04 00` and three octets; old peers leave the `1F` out.
fn conformance(reader: &mut Reader<'_>) -> Result<Conformance, DecodeError> {
    let field = "conformance";
    expect(reader, 0x5F, field)?;
    let mut ahead = reader.clone();
    if ahead.u8(field)? == 0x1F {
        *reader = ahead;
    }
    expect(reader, 0x04, field)?;
    expect(reader, 0x00, field)?;
    Ok(Conformance::from_bytes(reader.array(field)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_with_a_dedicated_key_round_trips_and_prints_no_key() {
        let key = [0xC5; 16];
        let request = InitiateRequest {
            dedicated_key: Some(DedicatedKeyBytes(&key)),
            response_allowed: true,
            quality_of_service: None,
            version: DLMS_VERSION,
            conformance: Conformance::SPOKEN,
            max_pdu: 1_200,
        };
        assert_eq!(InitiateRequest::from_bytes(&request.to_bytes()), Ok(request));
        let text = alloc::format!("{request:?}");
        assert!(text.contains("[16 bytes]") && !text.contains("197"), "{text}");
    }

    #[test]
    fn an_initiate_error_names_its_reason() {
        let error = InitiateError::initiate(InitiateErrorKind::PduSizeTooShort);
        assert_eq!(error.to_bytes(), [0x0E, 1, 6, 3]);
        let read = InitiateError::from_bytes(&[0x0E, 1, 6, 3]).unwrap();
        assert_eq!(read.initiate_kind(), InitiateErrorKind::PduSizeTooShort);
    }
}
