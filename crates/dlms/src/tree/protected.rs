//! Protected APDUs, blocks and gateways: messages around messages.

use alloc::{format, string::String};

use super::{
    Carried, LAYERS_MAX, Opened, Scalar, Walk,
    acse::title_said,
    assembly::{Cut, Part},
    branch::{Branch, Said, named, octets, text},
    data,
    frame::put_said,
    service,
};
use crate::{
    apdu::{
        carrier::CipheredApdu,
        ciphered::SecurityControl,
        general::{GeneralCiphering, GeneralSigning, KeyInfo},
        tag,
    },
    assoc::CryptoFault,
    frame::block::GeneralBlock,
    wire::{DateTime, DecodeError, Reader, Rule},
};

type Walked = Result<(), DecodeError>;
/// Octets of a tag of authentication.
const TAG_SIZE: usize = 12;

impl Walk<'_> {
    /// Walks bytes that were decrypted or put together.
    pub(super) fn inner(
        &mut self,
        branch: &mut Branch,
        (field, bytes): (&'static str, &[u8]),
        said: Said,
        inside: fn(&mut Branch, &mut Reader<'_>, &mut Walk<'_>) -> Walked,
    ) {
        let outer = self.inside.replace(field);
        if self.layers >= LAYERS_MAX {
            self.failed(Reader::new(bytes).fail("apdu", Rule::TooDeep { limit: LAYERS_MAX.into() }));
        } else {
            self.layers = self.layers.saturating_add(1);
            branch.inner(field, bytes, said, |branch, reader| {
                if let Err(error) = inside(branch, reader, self) {
                    self.failed(error);
                }
            });
            self.layers = self.layers.saturating_sub(1);
        }
        self.inside = outer;
    }

    /// What an opener made of a protected message.
    fn take(
        &mut self,
        branch: &mut Branch,
        at: usize,
        inner_tag: Option<u8>,
        opened: Result<Option<Opened>, CryptoFault>,
    ) {
        let Opened { plain, is_verified, how } = match opened {
            Ok(Some(opened)) => opened,
            Ok(None) => return branch.remark("closed: no keys were given"),
            Err(fault) => {
                branch.remark(format!("closed: {fault}"));
                return self.fail(at, fault);
            }
        };
        //= DLMS 5.4: the tag inside must be the one that the carrier names
        if inner_tag.is_some_and(|expected| plain.first() != Some(&expected)) {
            branch.remark("opened, but it is not what the carrier names");
            return self.fail(at, CryptoFault::Form);
        }
        self.opened(is_verified);
        let how = if is_verified { how } else { format!("{how}, NOT VERIFIED: it may be anything") };
        // An initiate may hold a key, which is not shown.
        let value = (plain.first() != Some(&tag::INITIATE_REQUEST)).then(|| Scalar::Octets(plain.clone()));
        self.inner(branch, ("plain apdu", &plain), (value, Some(how)), service::apdu);
    }
}

const fn carrier_name(first: u8) -> &'static str {
    match first {
        0x21 => "glo-initiate-request",
        0x28 => "glo-initiate-response",
        0x2E => "glo-confirmed-service-error",
        0x41 => "ded-initiate-request",
        0x48 => "ded-initiate-response",
        0x4E => "ded-confirmed-service-error",
        0xC8 => "glo-get-request",
        0xC9 => "glo-set-request",
        0xCA => "glo-event-notification",
        0xCB => "glo-action-request",
        0xCC => "glo-get-response",
        0xCD => "glo-set-response",
        0xCF => "glo-action-response",
        0xD0 => "ded-get-request",
        0xD1 => "ded-set-request",
        0xD2 => "ded-event-notification",
        0xD3 => "ded-action-request",
        0xD4 => "ded-get-response",
        0xD5 => "ded-set-response",
        0xD7 => "ded-action-response",
        tag::GENERAL_GLO => "general-glo-ciphering",
        _ => "general-ded-ciphering",
    }
}

/// glo, ded, general-glo and general-ded.
pub(super) fn ciphered(branch: &mut Branch, reader: &mut Reader<'_>, walk: &mut Walk<'_>) -> Walked {
    let at = reader.offset();
    let bytes = reader.clone().remainder();
    let first = bytes.first().copied().unwrap_or_default();
    let apdu = CipheredApdu::from_bytes(bytes).map_err(|error| behind(error, at));
    let is_general = matches!(first, tag::GENERAL_GLO | tag::GENERAL_DED);
    let mut control_at = at;
    branch.group(carrier_name(first), reader, |branch, reader| {
        reader.u8("apdu tag")?;
        if is_general {
            title(branch, "system-title", reader)?;
        }
        let mut content = content(branch, reader)?;
        control_at = content.offset();
        protected(branch, &mut content)?;
        Ok((None, None))
    })?;
    let apdu = apdu?;
    let opened = walk.opener.open(Carried::Ciphered(&apdu));
    walk.take(branch, control_at, apdu.inner_tag, opened);
    Ok(())
}

fn behind(error: DecodeError, at: usize) -> DecodeError {
    DecodeError { offset: at.saturating_add(error.offset), ..error }
}

fn title<'a>(
    branch: &mut Branch,
    field: &'static str,
    reader: &mut Reader<'a>,
) -> Result<&'a [u8], DecodeError> {
    let from = reader.clone();
    let title = reader.prefixed(field)?;
    branch.leaf(field, &from, reader, if title.is_empty() { text("left out") } else { title_said(title) })?;
    Ok(title)
}

/// The length, and what it announces.
fn content<'a>(branch: &mut Branch, reader: &mut Reader<'a>) -> Result<Reader<'a>, DecodeError> {
    let from = reader.clone();
    let size = reader.length("ciphered content")?;
    branch.leaf("length", &from, reader, (u64::try_from(size).ok().map(Scalar::Unsigned), None))?;
    let content = reader.take("ciphered content", size)?;
    reader.finish("ciphered apdu")?;
    Ok(content)
}

/// Control, counter, content, tag.
fn protected(branch: &mut Branch, reader: &mut Reader<'_>) -> Walked {
    let from = reader.clone();
    let control = SecurityControl(reader.u8("security control")?);
    branch.leaf("security control", &from, reader, named(control.0, control_text(control)))?;
    branch.u32("invocation counter", reader)?;
    let size = if control.is_authenticated() { TAG_SIZE } else { 0 };
    let body = reader.left().saturating_sub(size);
    let from = reader.clone();
    let bytes = reader.bytes("content", body)?;
    let name = if control.is_encrypted() { "ciphertext" } else { "content in clear" };
    branch.leaf(name, &from, reader, octets(bytes))?;
    if control.is_authenticated() {
        let from = reader.clone();
        let bytes = reader.bytes("authentication tag", TAG_SIZE)?;
        branch.leaf("authentication tag", &from, reader, octets(bytes))?;
    }
    Ok(())
}

fn control_text(control: SecurityControl) -> String {
    let protection = match (control.is_encrypted(), control.is_authenticated()) {
        (false, false) => "not protected",
        (false, true) => "authenticated",
        (true, false) => "encrypted",
        (true, true) => "encrypted and authenticated",
    };
    let key = if control.is_broadcast() { ", broadcast key" } else { "" };
    let compressed = if control.is_compressed() { ", compressed" } else { "" };
    format!("{protection}, suite {}{key}{compressed}", control.suite())
}

/// The five fields of the general forms.
fn general_header(branch: &mut Branch, reader: &mut Reader<'_>) -> Walked {
    branch.prefixed("transaction-id", reader)?;
    title(branch, "originator-system-title", reader)?;
    title(branch, "recipient-system-title", reader)?;
    let from = reader.clone();
    let time = reader.prefixed("date-time")?;
    let said = match DateTime::from_bytes(time) {
        Ok(at) => data::date_time(&at),
        Err(_) if time.is_empty() => text("left out"),
        Err(_) => octets(time),
    };
    branch.leaf("date-time", &from, reader, said)?;
    branch.prefixed("other-information", reader).map(drop)
}

fn key_info(branch: &mut Branch, reader: &mut Reader<'_>, info: Option<KeyInfo<'_>>) -> Walked {
    if !branch.present("key-info", reader)? {
        return Ok(());
    }
    let from = reader.clone();
    reader.u8("key-info")?;
    let (number, name) = match info {
        Some(KeyInfo::Identified(_)) => (0u8, "identified key"),
        Some(KeyInfo::Wrapped { .. }) => (1, "wrapped key"),
        _ => (2, "agreed key"),
    };
    branch.leaf("kind of key", &from, reader, named(number, name))?;
    match info {
        Some(KeyInfo::Identified(_)) => {
            let name =
                |id| Some(String::from(if id == 0 { "global unicast key" } else { "global broadcast key" }));
            branch.u8("key-id", reader, name).map(drop)
        }
        Some(KeyInfo::Wrapped { .. }) => {
            branch.u8("kek-id", reader, |id| (id == 0).then(|| String::from("master key")))?;
            branch.prefixed("key-ciphered-data", reader).map(drop)
        }
        _ => {
            let parameters = branch.prefixed("key-parameters", reader)?;
            branch.remark(match parameters {
                [1] => "one-pass, C(1e,1s)",
                [2] => "static unified, C(0e,2s)",
                _ => "unknown scheme",
            });
            branch.prefixed("key-ciphered-data", reader).map(drop)
        }
    }
}

/// general-ciphering.
pub(super) fn general_ciphering(branch: &mut Branch, reader: &mut Reader<'_>, walk: &mut Walk<'_>) -> Walked {
    let at = reader.offset();
    let bytes = reader.clone().remainder();
    let apdu = GeneralCiphering::from_bytes(bytes).map_err(|error| behind(error, at));
    let info = apdu.as_ref().ok().and_then(|apdu| apdu.key_info);
    let mut control_at = at;
    branch.group("general-ciphering", reader, |branch, reader| {
        reader.u8("apdu tag")?;
        general_header(branch, reader)?;
        // A form that the decoder refuses is walked only as far as it is understood.
        apdu?;
        key_info(branch, reader, info)?;
        let mut content = content(branch, reader)?;
        control_at = content.offset();
        protected(branch, &mut content)?;
        Ok((None, None))
    })?;
    let apdu = apdu?;
    let opened = walk.opener.open(Carried::General(&apdu));
    walk.take(branch, control_at, None, opened);
    Ok(())
}

/// general-signing: what is signed is in clear.
pub(super) fn general_signing(branch: &mut Branch, reader: &mut Reader<'_>, walk: &mut Walk<'_>) -> Walked {
    let at = reader.offset();
    let bytes = reader.clone().remainder();
    let apdu = GeneralSigning::from_bytes(bytes).map_err(|error| behind(error, at));
    let verified = apdu.as_ref().ok().and_then(|apdu| walk.opener.verifies(apdu));
    let mut signature_at = at;
    branch.group("general-signing", reader, |branch, reader| {
        reader.u8("apdu tag")?;
        general_header(branch, reader)?;
        let size = reader.length("content")?;
        let mut content = reader.take("content", size)?;
        service::nested(branch, &mut content, walk)?;
        signature_at = reader.offset();
        branch.prefixed("signature", reader)?;
        branch.remark(match verified {
            Some(true) => "right",
            Some(false) => "WRONG",
            None => "not judged: the originator's public key was not given",
        });
        reader.finish("general-signing")?;
        Ok((None, None))
    })?;
    apdu?;
    match verified {
        Some(true) => walk.opened(true),
        Some(false) => walk.fail(signature_at, CryptoFault::Signature),
        None => {}
    }
    Ok(())
}

/// general-block-transfer.
pub(super) fn general_block(branch: &mut Branch, reader: &mut Reader<'_>, walk: &mut Walk<'_>) -> Walked {
    let at = reader.offset();
    let bytes = reader.clone().remainder();
    let block = GeneralBlock::from_bytes(bytes).map_err(|error| behind(error, at))?;
    branch.group("general-block-transfer", reader, |branch, reader| {
        reader.u8("apdu tag")?;
        branch.u8("block-control", reader, |_| {
            let last = if block.last { "last, " } else { "" };
            let streaming = if block.streaming { "streaming, " } else { "" };
            Some(format!("{last}{streaming}window {}", block.window))
        })?;
        branch.u16("block-number", reader)?;
        branch.u16("block-number-ack", reader)?;
        let from = reader.clone();
        branch.prefixed("block-data", reader)?;
        if block.data.is_empty() {
            branch.remark("an acknowledgement");
            return Ok((None, None));
        }
        let number = block.number.into();
        let part = Part { number, is_first: number == 1, is_last: block.last, bytes: block.data };
        let put = walk.assemblies.put(walk.route, Cut::General, &part);
        put_said(branch, (&from, reader), walk, put, service::apdu)?;
        Ok((None, None))
    })
}

/// An APDU on its way through a gateway.
pub(super) fn gateway(branch: &mut Branch, reader: &mut Reader<'_>, walk: &mut Walk<'_>) -> Walked {
    let first = reader.clone().u8("apdu tag")?;
    let name = if first == 0xE6 { "gateway-request" } else { "gateway-response" };
    branch.group(name, reader, |branch, reader| {
        reader.u8("apdu tag")?;
        branch.u8("network-id", reader, |_| None)?;
        branch.prefixed("physical-device-address", reader)?;
        service::nested(branch, reader, walk)?;
        Ok((None, None))
    })
}
