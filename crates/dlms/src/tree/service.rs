//! APDUs: which one it is, and the fields of GET, SET and ACTION.

mod long;

use alloc::{
    format,
    string::{String, ToString},
};

use gridseal_types::ObisCode;

use super::{
    LAYERS_MAX, Scalar, Walk, acse,
    assembly::{Cut, Part},
    branch::{Branch, Said, named, octets, text},
    data,
    frame::{LLC, put_said},
    protected,
};
use crate::{
    acse::{AARE, AARQ, InitiateError, InitiateRequest, InitiateResponse, RLRE, RLRQ},
    apdu::{
        access::{AccessRequest, AccessResponse},
        action::{ActionRequest, ActionResponse},
        carrier::CipheredApdu,
        event::EventNotification,
        exception::ExceptionResponse,
        get::{GetRequest, GetResponse},
        notification::{DATA_NOTIFICATION_CONFIRM, DataNotification, DataNotificationConfirm, Leniency},
        report::InformationReport,
        result::{ActionResult, DataAccessResult, LIST_MAX},
        set::{SetRequest, SetResponse},
        tag,
    },
    class,
    wire::{Data, DecodeError, Reader, Rule},
};

type Walked = Result<(), DecodeError>;

/// An APDU with or without the LLC before it.
pub(super) fn llc_and_apdu(branch: &mut Branch, reader: &mut Reader<'_>, walk: &mut Walk<'_>) -> Walked {
    let from = reader.clone();
    let is_llc = reader.clone().array::<3>("LLC").is_ok_and(|octets| LLC.contains(&octets));
    if is_llc {
        let octets = reader.array::<3>("LLC")?;
        let meaning = if octets == LLC[0] { "command" } else { "response" };
        branch.leaf("LLC", &from, reader, (Some(Scalar::Octets(octets.to_vec())), Some(meaning.into())))?;
    }
    apdu(branch, reader, walk)
}

/// An APDU inside of another one.
pub(super) fn nested(branch: &mut Branch, reader: &mut Reader<'_>, walk: &mut Walk<'_>) -> Walked {
    if walk.layers >= LAYERS_MAX {
        return Err(reader.fail("apdu", Rule::TooDeep { limit: LAYERS_MAX.into() }));
    }
    walk.layers = walk.layers.saturating_add(1);
    let outcome = apdu(branch, reader, walk);
    walk.layers = walk.layers.saturating_sub(1);
    outcome
}

/// One APDU, up to the end of the reader.
pub(super) fn apdu(branch: &mut Branch, reader: &mut Reader<'_>, walk: &mut Walk<'_>) -> Walked {
    let start = reader.clone();
    let first = reader.clone().u8("apdu tag")?;
    match first {
        AARQ | AARE | RLRQ | RLRE => acse::message(branch, reader, walk),
        tag::GENERAL_CIPHERING => protected::general_ciphering(branch, reader, walk),
        tag::GENERAL_SIGNING => protected::general_signing(branch, reader, walk),
        tag::GENERAL_BLOCK_TRANSFER => protected::general_block(branch, reader, walk),
        0xE6 | 0xE7 => protected::gateway(branch, reader, walk),
        first if CipheredApdu::is_carrier(first) => protected::ciphered(branch, reader, walk),
        _ => {
            let bytes = start.clone().remainder();
            plain(branch, reader, walk, first)?;
            reader.finish("apdu")?;
            // The decoder that the machines use has the last word.
            let at = start.offset();
            judge(first, bytes)
                .map_err(|error| DecodeError { offset: at.saturating_add(error.offset), ..error })
        }
    }
}

fn judge(first: u8, bytes: &[u8]) -> Walked {
    match first {
        tag::INITIATE_REQUEST => InitiateRequest::from_bytes(bytes).map(drop),
        tag::INITIATE_RESPONSE => InitiateResponse::from_bytes(bytes).map(drop),
        tag::CONFIRMED_SERVICE_ERROR => InitiateError::from_bytes(bytes).map(drop),
        tag::GET_REQUEST => GetRequest::from_bytes(bytes).map(drop),
        tag::GET_RESPONSE => GetResponse::from_bytes(bytes).map(drop),
        tag::SET_REQUEST => SetRequest::from_bytes(bytes).map(drop),
        tag::SET_RESPONSE => SetResponse::from_bytes(bytes).map(drop),
        tag::ACTION_REQUEST => ActionRequest::from_bytes(bytes).map(drop),
        tag::ACTION_RESPONSE => ActionResponse::from_bytes(bytes).map(drop),
        tag::EVENT_NOTIFICATION => EventNotification::from_bytes(bytes).map(drop),
        tag::INFORMATION_REPORT => InformationReport::from_bytes(bytes).map(drop),
        tag::DATA_NOTIFICATION => DataNotification::from_bytes(bytes, Leniency::DateTimeTag).map(drop),
        DATA_NOTIFICATION_CONFIRM => DataNotificationConfirm::from_bytes(bytes).map(drop),
        tag::EXCEPTION_RESPONSE => ExceptionResponse::from_bytes(bytes).map(drop),
        tag::ACCESS_REQUEST => AccessRequest::from_bytes(bytes).map(drop),
        tag::ACCESS_RESPONSE => AccessResponse::from_bytes(bytes).map(drop),
        _ => Err(Reader::new(bytes).fail("apdu tag", Rule::Tag { tag: first })),
    }
}

fn plain(branch: &mut Branch, reader: &mut Reader<'_>, walk: &mut Walk<'_>, first: u8) -> Walked {
    match first {
        tag::INITIATE_REQUEST => branch.group("initiate-request", reader, acse::initiate_request),
        tag::INITIATE_RESPONSE => branch.group("initiate-response", reader, acse::initiate_response),
        tag::CONFIRMED_SERVICE_ERROR => branch.group("confirmed-service-error", reader, acse::service_error),
        tag::GET_REQUEST => branch.group("get-request", reader, get_request),
        tag::GET_RESPONSE => branch.group("get-response", reader, |b, r| get_response(b, r, walk)),
        tag::SET_REQUEST => branch.group("set-request", reader, |b, r| set_request(b, r, walk)),
        tag::SET_RESPONSE => branch.group("set-response", reader, set_response),
        tag::ACTION_REQUEST => branch.group("action-request", reader, |b, r| action_request(b, r, walk)),
        tag::ACTION_RESPONSE => branch.group("action-response", reader, |b, r| action_response(b, r, walk)),
        tag::EVENT_NOTIFICATION => branch.group("event-notification", reader, long::event),
        tag::INFORMATION_REPORT => branch.group("information-report", reader, long::report),
        tag::DATA_NOTIFICATION => branch.group("data-notification", reader, long::notification),
        DATA_NOTIFICATION_CONFIRM => branch.group("data-notification-confirm", reader, long::confirm),
        tag::EXCEPTION_RESPONSE => branch.group("exception-response", reader, long::exception),
        tag::ACCESS_REQUEST => branch.group("access-request", reader, long::access_request),
        tag::ACCESS_RESPONSE => branch.group("access-response", reader, long::access_response),
        tag => Err(reader.fail("apdu tag", Rule::Tag { tag })),
    }
}

/// Tag, choice with its name, invoke-id.
fn head(
    branch: &mut Branch,
    reader: &mut Reader<'_>,
    name: fn(u8) -> Option<&'static str>,
) -> Result<u8, DecodeError> {
    let (mut from, field) = (reader.clone(), "choice");
    reader.u8("apdu tag")?;
    branch.leaf("apdu tag", &from, reader, (None, None))?;
    from = reader.clone();
    let choice = reader.u8(field)?;
    let meaning = name(choice).ok_or_else(|| from.fail(field, Rule::Tag { tag: choice }))?;
    branch.leaf(field, &from, reader, named(choice, meaning))?;
    branch.u8("invoke-id-and-priority", reader, |octet| {
        let confirmed = if octet & 0x40 == 0 { "unconfirmed" } else { "confirmed" };
        let priority = if octet & 0x80 == 0 { "normal" } else { "high" };
        Some(format!("id {}, {confirmed}, {priority} priority", octet & 0x0F))
    })?;
    Ok(choice)
}

/// A list: its count, then as many items.
fn list(
    branch: &mut Branch,
    field: &'static str,
    reader: &mut Reader<'_>,
    mut item: impl FnMut(&mut Branch, &mut Reader<'_>) -> Walked,
) -> Walked {
    branch.group(field, reader, |branch, reader| {
        let start = reader.clone();
        let count = reader.length(field)?;
        if count > reader.left() {
            return Err(start.fail(field, Rule::CountExceedsInput { count, left: reader.left() }));
        }
        if count > LIST_MAX {
            return Err(start.fail(field, Rule::TooLong { found: count, limit: LIST_MAX }));
        }
        (0..count).try_for_each(|_| item(branch, reader))?;
        Ok((None, Some(format!("{count} items"))))
    })
}

/// Class, logical name, attribute or method.
fn descriptor(branch: &mut Branch, reader: &mut Reader<'_>, is_method: bool) -> Walked {
    let field = if is_method { "method-descriptor" } else { "attribute-descriptor" };
    branch.group(field, reader, |branch, reader| {
        let from = reader.clone();
        let class = reader.u16("class-id")?;
        let known = class::newest(class);
        branch.leaf(
            "class-id",
            &from,
            reader,
            named(class, known.map_or("class not known", |class| class.name)),
        )?;
        let from = reader.clone();
        let obis = ObisCode::new(reader.array("instance-id")?);
        let said = (Some(Scalar::Octets(obis.groups().to_vec())), Some(format!("{obis}")));
        branch.leaf("instance-id", &from, reader, said)?;
        let from = reader.clone();
        let member = i8::from_be_bytes(reader.array(field)?);
        let (name, found) = if is_method {
            ("method-id", known.and_then(|class| class.method(member)).map(|method| method.name))
        } else {
            ("attribute-id", known.and_then(|class| class.attribute(member)).map(|attribute| attribute.name))
        };
        branch.leaf(name, &from, reader, (Some(Scalar::Signed(member.into())), found.map(String::from)))?;
        Ok((None, Some(format!("{class} {obis} {member}"))))
    })
}

/// An attribute and, perhaps, a selection.
fn selected(branch: &mut Branch, reader: &mut Reader<'_>) -> Walked {
    descriptor(branch, reader, false)?;
    if branch.present("access-selection", reader)? { selection(branch, reader) } else { Ok(()) }
}

fn selection(branch: &mut Branch, reader: &mut Reader<'_>) -> Walked {
    branch.u8("access-selector", reader, |selector| {
        Some(String::from(match selector {
            1 => "by range",
            2 => "by entry",
            _ => "of the class",
        }))
    })?;
    data::value(branch, reader)
}

fn access_result(branch: &mut Branch, reader: &mut Reader<'_>) -> Walked {
    let name = |number| Some(DataAccessResult::from_number(number).to_string());
    branch.u8("data-access-result", reader, name).map(drop)
}

/// `00 value` or `01 result`.
fn get_result(branch: &mut Branch, reader: &mut Reader<'_>) -> Walked {
    let (from, field) = (reader.clone(), "get-data-result");
    match reader.u8(field)? {
        0 => {
            branch.leaf(field, &from, reader, named(0u8, "data"))?;
            data::value(branch, reader)
        }
        1 => {
            branch.leaf(field, &from, reader, named(1u8, "data-access-result"))?;
            access_result(branch, reader)
        }
        tag => Err(from.fail(field, Rule::Tag { tag })),
    }
}

fn boolean(branch: &mut Branch, field: &'static str, reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
    let from = reader.clone();
    let is_true = reader.u8(field)? != 0;
    branch.leaf(field, &from, reader, (Some(Scalar::Boolean(is_true)), None))?;
    Ok(is_true)
}

/// Raw data of one block, and the value when it was the last one.
fn raw(
    branch: &mut Branch,
    reader: &mut Reader<'_>,
    walk: &mut Walk<'_>,
    (kind, number, is_last): (u8, u32, bool),
) -> Walked {
    let from = reader.clone();
    let bytes = branch.prefixed("raw-data", reader)?;
    let part = Part { number, is_first: number == 1, is_last, bytes };
    let put = walk.assemblies.put(walk.route, Cut::Service(kind), &part);
    let inside = if kind == tag::ACTION_RESPONSE { outcome_whole } else { value_whole };
    put_said(branch, (&from, reader), walk, put, inside)
}

fn value_whole(branch: &mut Branch, reader: &mut Reader<'_>, _: &mut Walk<'_>) -> Walked {
    let mut ahead = reader.clone();
    if Data::skip(&mut ahead).is_ok() && ahead.left() == 0 {
        return data::value(branch, reader);
    }
    rest(branch, "values of a list", reader)
}

fn outcome_whole(branch: &mut Branch, reader: &mut Reader<'_>, _: &mut Walk<'_>) -> Walked {
    let mut ahead = reader.clone();
    if outcome(&mut Branch::new(), &mut ahead).is_ok() && ahead.left() == 0 {
        return outcome(branch, reader);
    }
    rest(branch, "outcomes of a list", reader)
}

fn rest(branch: &mut Branch, field: &'static str, reader: &mut Reader<'_>) -> Walked {
    let from = reader.clone();
    let bytes = reader.remainder();
    branch.leaf(field, &from, reader, octets(bytes))
}

/// `last | number | raw data`.
fn block(branch: &mut Branch, reader: &mut Reader<'_>, walk: &mut Walk<'_>, kind: u8) -> Walked {
    let is_last = boolean(branch, "last-block", reader)?;
    let number = branch.u32("block-number", reader)?;
    raw(branch, reader, walk, (kind, number, is_last))
}

const fn get_request_name(choice: u8) -> Option<&'static str> {
    Some(match choice {
        1 => "normal",
        2 => "next",
        3 => "with list",
        _ => return None,
    })
}

fn get_request(branch: &mut Branch, reader: &mut Reader<'_>) -> Result<Said, DecodeError> {
    match head(branch, reader, get_request_name)? {
        1 => selected(branch, reader)?,
        2 => drop(branch.u32("block-number", reader)?),
        _ => list(branch, "attribute-descriptor-list", reader, selected)?,
    }
    Ok((None, None))
}

const fn get_response_name(choice: u8) -> Option<&'static str> {
    Some(match choice {
        1 => "normal",
        2 => "with datablock",
        3 => "with list",
        _ => return None,
    })
}

fn get_response(
    branch: &mut Branch,
    reader: &mut Reader<'_>,
    walk: &mut Walk<'_>,
) -> Result<Said, DecodeError> {
    match head(branch, reader, get_response_name)? {
        1 => get_result(branch, reader)?,
        2 => {
            let is_last = boolean(branch, "last-block", reader)?;
            let number = branch.u32("block-number", reader)?;
            let from = reader.clone();
            match reader.u8("datablock result")? {
                0 => {
                    branch.leaf("datablock result", &from, reader, named(0u8, "raw data"))?;
                    raw(branch, reader, walk, (tag::GET_RESPONSE, number, is_last))?;
                }
                1 => {
                    branch.leaf("datablock result", &from, reader, named(1u8, "data-access-result"))?;
                    access_result(branch, reader)?;
                }
                tag => return Err(from.fail("datablock result", Rule::Tag { tag })),
            }
        }
        _ => list(branch, "result-list", reader, get_result)?,
    }
    Ok((None, None))
}

const fn set_request_name(choice: u8) -> Option<&'static str> {
    Some(match choice {
        1 => "normal",
        2 => "with first datablock",
        3 => "with datablock",
        4 => "with list",
        5 => "with list and first datablock",
        _ => return None,
    })
}

fn set_request(
    branch: &mut Branch,
    reader: &mut Reader<'_>,
    walk: &mut Walk<'_>,
) -> Result<Said, DecodeError> {
    match head(branch, reader, set_request_name)? {
        choice @ (1 | 2) => {
            selected(branch, reader)?;
            if choice == 1 {
                data::value(branch, reader)?;
            } else {
                block(branch, reader, walk, tag::SET_REQUEST)?;
            }
        }
        3 => block(branch, reader, walk, tag::SET_REQUEST)?,
        choice => {
            list(branch, "attribute-descriptor-list", reader, selected)?;
            if choice == 4 {
                list(branch, "value-list", reader, data::value)?;
            } else {
                block(branch, reader, walk, tag::SET_REQUEST)?;
            }
        }
    }
    Ok((None, None))
}

const fn set_response_name(choice: u8) -> Option<&'static str> {
    Some(match choice {
        1 => "normal",
        2 => "block received",
        3 => "last block received",
        4 => "last block of a list received",
        5 => "with list",
        _ => return None,
    })
}

fn set_response(branch: &mut Branch, reader: &mut Reader<'_>) -> Result<Said, DecodeError> {
    let choice = head(branch, reader, set_response_name)?;
    match choice {
        1 | 3 => access_result(branch, reader)?,
        4 | 5 => list(branch, "result-list", reader, access_result)?,
        _ => {}
    }
    if matches!(choice, 2..=4) {
        branch.u32("block-number", reader)?;
    }
    Ok((None, None))
}

const fn action_request_name(choice: u8) -> Option<&'static str> {
    Some(match choice {
        1 => "normal",
        2 => "next block of the response",
        3 => "with list",
        4 => "with first block",
        5 => "with list and first block",
        6 => "with block",
        _ => return None,
    })
}

fn action_request(
    branch: &mut Branch,
    reader: &mut Reader<'_>,
    walk: &mut Walk<'_>,
) -> Result<Said, DecodeError> {
    let method = |branch: &mut Branch, reader: &mut Reader<'_>| descriptor(branch, reader, true);
    match head(branch, reader, action_request_name)? {
        1 => {
            method(branch, reader)?;
            if branch.present("method-invocation-parameters", reader)? {
                data::value(branch, reader)?;
            }
        }
        2 => drop(branch.u32("block-number", reader)?),
        4 => {
            method(branch, reader)?;
            block(branch, reader, walk, tag::ACTION_REQUEST)?;
        }
        6 => block(branch, reader, walk, tag::ACTION_REQUEST)?,
        choice => {
            list(branch, "method-descriptor-list", reader, method)?;
            if choice == 3 {
                list(branch, "method-invocation-parameters", reader, data::value)?;
            } else {
                block(branch, reader, walk, tag::ACTION_REQUEST)?;
            }
        }
    }
    Ok((None, None))
}

const fn action_response_name(choice: u8) -> Option<&'static str> {
    Some(match choice {
        1 => "normal",
        2 => "with block",
        3 => "with list",
        4 => "block of the request received",
        _ => return None,
    })
}

fn action_response(
    branch: &mut Branch,
    reader: &mut Reader<'_>,
    walk: &mut Walk<'_>,
) -> Result<Said, DecodeError> {
    match head(branch, reader, action_response_name)? {
        1 => outcome(branch, reader)?,
        2 => block(branch, reader, walk, tag::ACTION_RESPONSE)?,
        3 => list(branch, "action-response-list", reader, outcome)?,
        _ => drop(branch.u32("block-number", reader)?),
    }
    Ok((None, None))
}

fn action_result(branch: &mut Branch, reader: &mut Reader<'_>) -> Walked {
    let name = |number| Some(ActionResult::from_number(number).to_string());
    branch.u8("action-result", reader, name).map(drop)
}

/// Result and, perhaps, what the method returned.
fn outcome(branch: &mut Branch, reader: &mut Reader<'_>) -> Walked {
    action_result(branch, reader)?;
    if branch.present("return-parameters", reader)? { get_result(branch, reader) } else { Ok(()) }
}

fn long_invoke_id(branch: &mut Branch, reader: &mut Reader<'_>) -> Walked {
    let from = reader.clone();
    let id = reader.u32("long-invoke-id-and-priority")?;
    let flags = [
        (0x1000_0000, "self-descriptive"),
        (0x2000_0000, "processing option"),
        (0x4000_0000, "confirmed"),
        (0x8000_0000, "high priority"),
    ];
    let mut meaning = format!("id {}", id & 0x00FF_FFFF);
    for (_, name) in flags.into_iter().filter(|(bit, _)| id & bit != 0) {
        meaning.push_str(", ");
        meaning.push_str(name);
    }
    branch.leaf("long-invoke-id-and-priority", &from, reader, named(id, meaning))
}

/// An octet string that holds a date-time, of 0 or 12 bytes.
fn date_time(branch: &mut Branch, reader: &mut Reader<'_>) -> Walked {
    let (from, field) = (reader.clone(), "date-time");
    let bytes = reader.prefixed(field)?;
    let said =
        match bytes {
            [] => text("absent"),
            bytes => data::date_time(&crate::wire::DateTime::from_bytes(bytes).map_err(|error| {
                DecodeError { offset: from.offset().saturating_add(error.offset), ..error }
            })?),
        };
    branch.leaf(field, &from, reader, said)
}
