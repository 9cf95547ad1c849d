//! ACCESS, notifications, reports and exceptions.

use alloc::string::String;

use super::{
    Walked, access_result, action_result, data, date_time, descriptor, list, long_invoke_id, selection,
};
use crate::{
    tree::{
        Scalar,
        branch::{Branch, Said, named, octets},
    },
    wire::{DecodeError, Reader, Rule},
};

type Outcome = Result<Said, DecodeError>;

fn apdu_tag(branch: &mut Branch, reader: &mut Reader<'_>) -> Walked {
    let from = reader.clone();
    reader.u8("apdu tag")?;
    branch.leaf("apdu tag", &from, reader, (None, None))
}

pub(super) fn event(branch: &mut Branch, reader: &mut Reader<'_>) -> Outcome {
    apdu_tag(branch, reader)?;
    if branch.present("time", reader)? {
        date_time(branch, reader)?;
    }
    descriptor(branch, reader, false)?;
    data::value(branch, reader)?;
    Ok((None, None))
}

pub(super) fn report(branch: &mut Branch, reader: &mut Reader<'_>) -> Outcome {
    apdu_tag(branch, reader)?;
    if branch.present("current-time", reader)? {
        let from = reader.clone();
        let time = reader.prefixed("current-time")?;
        branch.leaf("current-time", &from, reader, octets(time))?;
    }
    list(branch, "variable-access-specification", reader, |branch, reader| {
        let (from, field) = (reader.clone(), "variable-access-specification");
        let choice = reader.u8(field)?;
        let name = reader.u16("variable-name")?;
        branch.leaf("variable-name", &from, reader, named(name, "short name"))?;
        match choice {
            2 => Ok(()),
            4 => {
                branch.u8("selector", reader, |_| None)?;
                data::value(branch, reader)
            }
            tag => Err(from.fail(field, Rule::Tag { tag })),
        }
    })?;
    list(branch, "list-of-data", reader, data::value)?;
    Ok((None, None))
}

pub(super) fn notification(branch: &mut Branch, reader: &mut Reader<'_>) -> Outcome {
    apdu_tag(branch, reader)?;
    long_invoke_id(branch, reader)?;
    //= DLMS 12.16: the date-time comes without a tag; lenient reading takes one
    let mut ahead = reader.clone();
    let is_tagged = ahead.u8("date-time")? == 9;
    if is_tagged {
        let from = reader.clone();
        *reader = ahead;
        let remark = Some(String::from("not in the standard, sent by some meters"));
        branch.leaf("tag before the date-time", &from, reader, (Some(Scalar::Unsigned(9)), remark))?;
    }
    date_time(branch, reader)?;
    data::value(branch, reader)?;
    Ok((None, None))
}

pub(super) fn confirm(branch: &mut Branch, reader: &mut Reader<'_>) -> Outcome {
    apdu_tag(branch, reader)?;
    long_invoke_id(branch, reader)?;
    Ok((None, None))
}

pub(super) fn exception(branch: &mut Branch, reader: &mut Reader<'_>) -> Outcome {
    apdu_tag(branch, reader)?;
    let state = |number| {
        Some(String::from(match number {
            1 => "service not allowed",
            2 => "service unknown",
            _ => "unknown state error",
        }))
    };
    branch.u8("state-error", reader, state)?;
    let service = |number| {
        Some(String::from(match number {
            1 => "operation not possible",
            2 => "service not supported",
            3 => "other reason",
            4 => "pdu too long",
            5 => "deciphering error",
            6 => "invocation counter error",
            _ => "unknown service error",
        }))
    };
    if branch.u8("service-error", reader, service)? == 6 {
        branch.u32("lowest invocation counter", reader)?;
    }
    Ok((None, None))
}

fn specification(branch: &mut Branch, reader: &mut Reader<'_>) -> Walked {
    let (from, field) = (reader.clone(), "access-request-specification");
    let choice = reader.u8(field)?;
    let meaning = match choice {
        1 => "get",
        2 => "set",
        3 => "action",
        4 => "get with selection",
        5 => "set with selection",
        tag => return Err(from.fail(field, Rule::Tag { tag })),
    };
    branch.leaf("choice", &from, reader, named(choice, meaning))?;
    descriptor(branch, reader, choice == 3)?;
    if choice >= 4 { selection(branch, reader) } else { Ok(()) }
}

pub(super) fn access_request(branch: &mut Branch, reader: &mut Reader<'_>) -> Outcome {
    apdu_tag(branch, reader)?;
    long_invoke_id(branch, reader)?;
    date_time(branch, reader)?;
    list(branch, "access-request-specification", reader, specification)?;
    list(branch, "access-request-list-of-data", reader, data::value)?;
    Ok((None, None))
}

pub(super) fn access_response(branch: &mut Branch, reader: &mut Reader<'_>) -> Outcome {
    apdu_tag(branch, reader)?;
    long_invoke_id(branch, reader)?;
    date_time(branch, reader)?;
    if branch.present("access-request-specification", reader)? {
        list(branch, "access-request-specification", reader, specification)?;
    }
    list(branch, "access-response-list-of-data", reader, data::value)?;
    list(branch, "access-response-specification", reader, |branch, reader| {
        let (from, field) = (reader.clone(), "access-response-specification");
        let choice = reader.u8(field)?;
        let meaning = match choice {
            1 => "get",
            2 => "set",
            3 => "action",
            tag => return Err(from.fail(field, Rule::Tag { tag })),
        };
        branch.leaf("choice", &from, reader, named(choice, meaning))?;
        if choice == 3 { action_result(branch, reader) } else { access_result(branch, reader) }
    })?;
    Ok((None, None))
}
