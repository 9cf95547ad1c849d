//! Messages that open and close an association, and the initiate inside of them.

use alloc::{format, string::String, vec::Vec};

use gridseal_types::SystemTitle;

use super::{
    Scalar, Walk,
    branch::{Branch, Said, named, octets},
    service,
};
use crate::{
    acse::{AARE, AARQ, Aare, Aarq, InitiateError, InitiateErrorKind, RLRQ, Release},
    wire::{DecodeError, Reader, Rule, ber},
};

/// Names of the bits of a conformance block, from the most significant one of the first octet.
const SERVICES: [&str; 24] = [
    "reserved-0",
    "general-protection",
    "general-block-transfer",
    "read",
    "write",
    "unconfirmed-write",
    "delta-value-encoding",
    "reserved-7",
    "attribute-0-set",
    "priority",
    "attribute-0-get",
    "block-get",
    "block-set",
    "block-action",
    "multiple-references",
    "information-report",
    "data-notification",
    "access",
    "parameterized-access",
    "get",
    "set",
    "selective-access",
    "event-notification",
    "action",
];

/// A whole message of either kind: a field for each tag, in the order found.
pub(super) fn message(
    branch: &mut Branch,
    reader: &mut Reader<'_>,
    walk: &mut Walk<'_>,
) -> Result<(), DecodeError> {
    let mut whole = reader.clone();
    let at = whole.offset();
    let bytes = whole.remainder();
    let kind = bytes.first().copied().unwrap_or_default();
    let name = match kind {
        AARQ => "AARQ",
        AARE => "AARE",
        RLRQ => "RLRQ",
        _ => "RLRE",
    };
    branch.group(name, reader, |branch, reader| {
        reader.u8(name)?;
        let size = ber::length(reader, name)?;
        let mut fields = reader.take(name, size)?;
        let mut mechanism = 0;
        while fields.left() > 0 {
            field(branch, &mut fields, walk, (kind, &mut mechanism))?;
        }
        reader.finish(name)?;
        Ok((None, None))
    })?;
    // The machines' own decoder has the last word.
    let judged = match kind {
        AARQ => Aarq::from_bytes(bytes).map(drop),
        AARE => Aare::from_bytes(bytes).map(drop),
        _ => Release::from_bytes(bytes).map(drop),
    };
    judged.map_err(|error| DecodeError { offset: at.saturating_add(error.offset), ..error })
}

fn field_name(kind: u8, tag: u8) -> &'static str {
    match (kind, tag) {
        (AARQ | AARE, 0x80) => "protocol-version",
        (AARQ | AARE, 0xA1) => "application-context-name",
        (AARQ, 0xA2) => "called-AP-title",
        (AARQ, 0xA3) => "called-AE-qualifier",
        (AARQ, 0xA4) => "called-AP-invocation-id",
        (AARQ, 0xA5) => "called-AE-invocation-id",
        (AARQ, 0xA6) => "calling-AP-title",
        (AARQ, 0xA7) => "calling-AE-qualifier",
        (AARQ, 0xA8) => "calling-AP-invocation-id",
        (AARQ, 0xA9) => "calling-AE-invocation-id",
        (AARQ, 0x8A) => "sender-acse-requirements",
        (AARQ, 0x8B) | (AARE, 0x89) => "mechanism-name",
        (AARQ, 0xAC) => "calling-authentication-value",
        (AARE, 0xA2) => "association-result",
        (AARE, 0xA3) => "result-source-diagnostic",
        (AARE, 0xA4) => "responding-AP-title",
        (AARE, 0xA5) => "responding-AE-qualifier",
        (AARE, 0xA6) => "responding-AP-invocation-id",
        (AARE, 0xA7) => "responding-AE-invocation-id",
        (AARE, 0x88) => "responder-acse-requirements",
        (AARE, 0xAA) => "responding-authentication-value",
        (_, 0xBE) => "user-information",
        (_, 0x80) => "reason",
        _ => "unknown field",
    }
}

fn field(
    branch: &mut Branch,
    fields: &mut Reader<'_>,
    walk: &mut Walk<'_>,
    (kind, mechanism): (u8, &mut u8),
) -> Result<(), DecodeError> {
    let tag = fields.clone().u8("field")?;
    let name = field_name(kind, tag);
    branch.group(name, fields, |branch, fields| {
        fields.u8(name)?;
        let size = ber::length(fields, name)?;
        let mut contents = fields.take(name, size)?;
        let bytes = contents.clone().remainder();
        Ok(match (name, bytes) {
            ("application-context-name", [6, 7, arc @ ..]) => object(arc, context_name),
            ("mechanism-name", arc) => {
                *mechanism = arc.last().copied().unwrap_or_default();
                object(arc, mechanism_name)
            }
            ("calling-AP-title" | "responding-AP-title", [4, 8, title @ ..]) => {
                if let Some(title) = SystemTitle::from_slice(title) {
                    walk.opener.claimed(kind == AARQ, title);
                }
                title_said(title)
            }
            ("calling-authentication-value", [0x80, _, value @ ..]) if *mechanism == 1 => {
                (None, Some(format!("password of {} bytes, not shown", value.len())))
            }
            ("calling-authentication-value" | "responding-authentication-value", [0x80, _, value @ ..]) => {
                (Some(Scalar::Octets(value.to_vec())), Some(format!("challenge of {} bytes", value.len())))
            }
            ("calling-AE-invocation-id", [2, 1, user]) => named(*user, "user"),
            ("association-result", [2, 1, result]) => named(*result, result_name(*result)),
            ("result-source-diagnostic", [source, 3, 2, 1, number]) => {
                named(*number, diagnostic_name(*source, *number))
            }
            ("reason", [reason]) => named(*reason, reason_name(kind, *reason)),
            ("user-information", [4, ..]) => {
                contents.u8(name)?;
                let size = ber::length(&mut contents, name)?;
                let mut inner = contents.take(name, size)?;
                service::nested(branch, &mut inner, walk)?;
                (None, None)
            }
            _ => octets(bytes),
        })
    })
}

fn object(arc: &[u8], name: fn(u8) -> &'static str) -> Said {
    let number = arc.last().copied().unwrap_or_default();
    (Some(Scalar::Octets(arc.to_vec())), Some(String::from(name(number))))
}

/// A title: its letters, where they are some, and the rest.
pub(super) fn title_said(title: &[u8]) -> Said {
    let letters = title.get(..3).filter(|letters| letters.iter().all(u8::is_ascii_uppercase));
    let letters = letters.and_then(|letters| core::str::from_utf8(letters).ok());
    (Some(Scalar::Octets(title.to_vec())), letters.map(|letters| format!("manufacturer {letters}")))
}

const fn context_name(number: u8) -> &'static str {
    match number {
        1 => "logical names, no ciphering",
        2 => "short names, no ciphering",
        3 => "logical names, with ciphering",
        4 => "short names, with ciphering",
        _ => "unknown context",
    }
}

const fn mechanism_name(number: u8) -> &'static str {
    match number {
        0 => "0, none",
        1 => "1, low level: password",
        2 => "2, manufacturer specific",
        3 => "3, MD5",
        4 => "4, SHA-1",
        5 => "5, GMAC",
        6 => "6, SHA-256",
        7 => "7, ECDSA",
        _ => "unknown mechanism",
    }
}

const fn result_name(number: u8) -> &'static str {
    match number {
        0 => "accepted",
        1 => "rejected for good",
        2 => "rejected for now",
        _ => "unknown result",
    }
}

const fn diagnostic_name(source: u8, number: u8) -> &'static str {
    match (source, number) {
        (0xA1 | 0xA2, 0) => "null",
        (0xA1 | 0xA2, 1) => "no reason",
        (0xA1, 2) => "application context not supported",
        (0xA1, 3) => "calling title not recognised",
        (0xA1, 11) => "mechanism not recognised",
        (0xA1, 12) => "mechanism required",
        (0xA1, 13) => "authentication failure",
        (0xA1, 14) => "authentication required",
        (0xA2, 2) => "no common version",
        _ => "unknown diagnostic",
    }
}

const fn reason_name(kind: u8, number: u8) -> &'static str {
    match (kind, number) {
        (_, 0) => "normal",
        (RLRQ, 1) => "urgent",
        (_, 1) => "not finished",
        (_, 30) => "user defined",
        _ => "unknown reason",
    }
}

/// InitiateRequest. A dedicated key in it is not shown.
pub(super) fn initiate_request(branch: &mut Branch, reader: &mut Reader<'_>) -> Result<Said, DecodeError> {
    reader.u8("initiate-request")?;
    if branch.present("dedicated-key", reader)? {
        let from = reader.clone();
        let key = reader.prefixed("dedicated-key")?;
        let meaning = format!("key of {} bytes, not shown", key.len());
        branch.leaf("dedicated-key", &from, reader, (None, Some(meaning)))?;
    }
    if branch.present("response-allowed", reader)? {
        branch.u8("response-allowed", reader, |_| None)?;
    }
    quality(branch, reader)?;
    branch.u8("dlms version", reader, |_| None)?;
    conformance(branch, reader)?;
    let from = reader.clone();
    let size = reader.u16("max-pdu")?;
    branch.leaf("max-pdu", &from, reader, pdu_size(size))?;
    Ok((None, None))
}

/// InitiateResponse.
pub(super) fn initiate_response(branch: &mut Branch, reader: &mut Reader<'_>) -> Result<Said, DecodeError> {
    reader.u8("initiate-response")?;
    quality(branch, reader)?;
    branch.u8("dlms version", reader, |_| None)?;
    conformance(branch, reader)?;
    let from = reader.clone();
    let size = reader.u16("max-pdu")?;
    branch.leaf("max-pdu", &from, reader, pdu_size(size))?;
    let from = reader.clone();
    let vaa = reader.u16("vaa-name")?;
    let meaning = match vaa {
        0x0007 => "logical names",
        0xFA00 => "short names",
        _ => "unknown",
    };
    branch.leaf("vaa-name", &from, reader, named(vaa, meaning))?;
    Ok((None, None))
}

/// ConfirmedServiceError.
pub(super) fn service_error(branch: &mut Branch, reader: &mut Reader<'_>) -> Result<Said, DecodeError> {
    let mut whole = reader.clone();
    let error = InitiateError::from_bytes(whole.bytes("confirmed-service-error", 4)?);
    reader.u8("confirmed-service-error")?;
    let service = |number| {
        Some(String::from(match number {
            1 => "initiate",
            5 => "read",
            6 => "write",
            _ => "other service",
        }))
    };
    branch.u8("service", reader, service)?;
    branch.u8("category", reader, |number| {
        Some(String::from(if number == 6 { "initiate" } else { "other" }))
    })?;
    branch.u8("reason", reader, |_| None)?;
    let meaning = error.ok().map(|error| match error.initiate_kind() {
        InitiateErrorKind::VersionTooLow => "version too low",
        InitiateErrorKind::IncompatibleConformance => "no service in common",
        InitiateErrorKind::PduSizeTooShort => "pdu size too short",
        InitiateErrorKind::Refused => "refused",
        InitiateErrorKind::Other => "other reason",
    });
    Ok((None, meaning.map(String::from)))
}

fn pdu_size(size: u16) -> Said {
    named(size, if size == 0 { "no limit" } else { "bytes" })
}

fn quality(branch: &mut Branch, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    if branch.present("quality-of-service", reader)? {
        let from = reader.clone();
        let value = i8::from_be_bytes(reader.array("quality-of-service")?);
        branch.leaf("quality-of-service", &from, reader, (Some(Scalar::Signed(value.into())), None))?;
    }
    Ok(())
}

fn conformance(branch: &mut Branch, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    let field = "conformance";
    let from = reader.clone();
    expect(reader, 0x5F)?;
    let mut ahead = reader.clone();
    if ahead.u8(field)? == 0x1F {
        *reader = ahead;
    }
    expect(reader, 0x04)?;
    expect(reader, 0x00)?;
    let [a, b, c] = reader.array(field)?;
    let bits = u32::from_be_bytes([0, a, b, c]);
    let has = |index: usize| u32::try_from(index).ok().and_then(|at| 0x0080_0000u32.checked_shr(at));
    let named =
        SERVICES.iter().enumerate().filter(|(index, _)| has(*index).is_some_and(|bit| bits & bit != 0));
    let names: Vec<&str> = named.map(|(_, name)| *name).collect();
    branch.leaf(field, &from, reader, (Some(Scalar::Octets([a, b, c].to_vec())), Some(names.join(", "))))
}

fn expect(reader: &mut Reader<'_>, expected: u8) -> Result<(), DecodeError> {
    let start = reader.clone();
    match reader.u8("conformance")? {
        tag if tag == expected => Ok(()),
        tag => Err(start.fail("conformance", Rule::Tag { tag })),
    }
}
