//! HDLC frames and wrapper units.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use super::{
    Authenticity, Decoded, FaultCause, Node, Opener, Route, TreeDecoder, Walk,
    assembly::{Cut, Part, Put},
    branch::{Branch, Said, named, text, unsigned},
    service,
};
use crate::{
    frame::hdlc::{Address, Control, FLAG, Frame, Parameters},
    wire::{DecodeError, Reader, Rule},
};

/// LLC of a command and of a response.
pub(super) const LLC: [[u8; 3]; 2] = [[0xE6, 0xE6, 0x00], [0xE6, 0xE7, 0x00]];

impl TreeDecoder {
    /// Walks one frame and says what came of it.
    pub(super) fn whole(
        &mut self,
        form: &'static str,
        bytes: &[u8],
        opener: &mut dyn Opener,
        inside: impl FnOnce(&mut Branch, &mut Reader<'_>, &mut Walk<'_>) -> Result<(), DecodeError>,
    ) -> Decoded {
        let mut walk = Walk {
            opener,
            assemblies: &mut self.assemblies,
            route: Route::default(),
            layers: 0,
            inside: None,
            authenticity: None,
            fault: None,
        };
        let mut branch = Branch::new();
        if let Err(error) = inside(&mut branch, &mut Reader::new(bytes), &mut walk) {
            walk.failed(error);
        }
        let authenticity = walk.authenticity.unwrap_or(Authenticity::None);
        let fault = walk.fault;
        Decoded { form, offset: 0, size: bytes.len(), nodes: branch.into_nodes(), authenticity, fault }
    }

    pub(super) fn wrapper(&mut self, bytes: &[u8], opener: &mut dyn Opener) -> Vec<Decoded> {
        let mut frames: Vec<Decoded> = Vec::new();
        let mut start = 0usize;
        while let Some(rest) = bytes.get(start..).filter(|rest| !rest.is_empty() || frames.is_empty()) {
            let size = match rest.get(6..8) {
                Some([high, low]) => usize::from(u16::from_be_bytes([*high, *low])).saturating_add(8),
                _ => rest.len(),
            };
            let unit = rest.get(..size).unwrap_or(rest);
            let mut decoded = self.whole("wrapper", unit, opener, wrapper_unit);
            shift(&mut decoded, start);
            start = start.saturating_add(unit.len());
            // Where there is no wrapper there is no next unit either.
            let is_wrapper = unit.starts_with(&[0, 1]);
            frames.push(decoded);
            if !is_wrapper || unit.is_empty() {
                break;
            }
        }
        frames
    }

    pub(super) fn hdlc(&mut self, bytes: &[u8], opener: &mut dyn Opener) -> Vec<Decoded> {
        let mut frames = Vec::new();
        let mut start = 0usize;
        while let Some(rest) = bytes.get(start..).filter(|rest| !rest.is_empty()) {
            if let [FLAG, ..] = rest {
                start = start.saturating_add(1);
                continue;
            }
            //= DLMS 12.14: a flag inside a frame does not end it
            let announced = match rest {
                [high @ 0xA0..=0xAF, low, ..] => usize::from(u16::from_be_bytes([high & 0x07, *low])),
                _ => 0,
            };
            let is_whole = announced > 0 && rest.len() >= announced;
            let to_flag = rest.iter().position(|octet| *octet == FLAG).unwrap_or(rest.len());
            let size = if is_whole { announced } else { to_flag };
            let frame = rest.get(..size).unwrap_or(rest);
            let mut decoded = self.whole("hdlc", frame, opener, hdlc_frame);
            shift(&mut decoded, start);
            start = start.saturating_add(size.max(1));
            frames.push(decoded);
        }
        if frames.is_empty() {
            frames.push(self.whole("hdlc", bytes, opener, hdlc_frame));
        }
        frames
    }
}

/// Offsets count from the start of what was given, not of the frame in it.
fn shift(decoded: &mut Decoded, by: usize) {
    fn nodes(list: &mut [Node], by: usize) {
        for node in list.iter_mut().filter(|node| !node.is_inner) {
            node.offset = node.offset.saturating_add(by);
            nodes(&mut node.children, by);
        }
    }
    decoded.offset = by;
    nodes(&mut decoded.nodes, by);
    if let Some(fault) = decoded.fault.as_mut().filter(|fault| fault.inside.is_none()) {
        fault.offset = fault.offset.saturating_add(by);
        if let FaultCause::Decode(error) = &mut fault.cause {
            error.offset = error.offset.saturating_add(by);
        }
    }
}

fn wrapper_unit(
    branch: &mut Branch,
    reader: &mut Reader<'_>,
    walk: &mut Walk<'_>,
) -> Result<(), DecodeError> {
    let start = reader.clone();
    let version = branch.u16("version", reader)?;
    if version != 1 {
        return Err(start.fail("wrapper version", Rule::Version { found: version }));
    }
    let source = branch.u16("source wPort", reader)?;
    branch.remark(sap_name(source));
    let destination = branch.u16("destination wPort", reader)?;
    branch.remark(sap_name(destination));
    walk.route = Route { source: source.into(), destination: destination.into() };
    let at = reader.clone();
    let length = usize::from(branch.u16("length", reader)?);
    if length == 0 {
        return Err(at.fail("wrapper length", Rule::LengthNotAllowed { found: 0 }));
    }
    let mut apdu = reader.take("apdu", length)?;
    service::apdu(branch, &mut apdu, walk)
}

const fn sap_name(sap: u16) -> &'static str {
    match sap {
        0 => "none",
        1 => "management",
        0x10 => "public client",
        0x66 => "pre-established client",
        0x7F => "all stations",
        _ => "service access point",
    }
}

fn hdlc_frame(branch: &mut Branch, reader: &mut Reader<'_>, walk: &mut Walk<'_>) -> Result<(), DecodeError> {
    let bytes = reader.clone().remainder();
    let from = reader.clone();
    let format = reader.u16("frame format")?;
    let remark =
        format!("{} bytes{}", format & 0x07FF, if format & 0x0800 == 0 { "" } else { ", segmented" });
    branch.leaf("frame format", &from, reader, named(format, remark))?;
    let destination = address(branch, "destination", reader)?;
    let source = address(branch, "source", reader)?;
    let from = reader.clone();
    let octet = reader.u8("control")?;
    // The one decoder of frames judges lengths and both check sequences.
    let frame = Frame::from_bytes(bytes)?;
    branch.leaf(
        "control",
        &from,
        reader,
        (Some(super::Scalar::Unsigned(octet.into())), Some(control(frame.control))),
    )?;
    walk.route = Route { source: key_of(source), destination: key_of(destination) };
    if frame.information.is_empty() {
        let from = reader.clone();
        reader.u16("FCS")?;
        return branch.leaf("FCS", &from, reader, text("right"));
    }
    let from = reader.clone();
    reader.u16("HCS")?;
    branch.leaf("HCS", &from, reader, text("right"))?;
    let mut information = reader.take("information", frame.information.len())?;
    let outcome = contents(branch, &mut information, walk, &frame);
    let from = reader.clone();
    reader.u16("FCS")?;
    branch.leaf("FCS", &from, reader, text("right"))?;
    outcome
}

/// What the information of a frame is.
fn contents(
    branch: &mut Branch,
    reader: &mut Reader<'_>,
    walk: &mut Walk<'_>,
    frame: &Frame,
) -> Result<(), DecodeError> {
    match frame.control {
        Control::Snrm | Control::Acknowledge => branch.group("parameters", reader, |branch, reader| {
            let at = reader.offset();
            let parameters = Parameters::from_bytes(&frame.information)
                .map_err(|error| DecodeError { offset: error.offset.saturating_add(at), ..error })?;
            let from = reader.clone();
            reader.remainder();
            let said: [(&'static str, u16); 4] = [
                ("max-information-transmit", parameters.information_transmit),
                ("max-information-receive", parameters.information_receive),
                ("window-transmit", parameters.window_transmit.into()),
                ("window-receive", parameters.window_receive.into()),
            ];
            said.into_iter()
                .try_for_each(|(field, value)| branch.leaf(field, &from, reader, unsigned(value)))?;
            Ok((None, None))
        }),
        Control::Information { send, .. } => segment(branch, reader, walk, (frame, send)),
        Control::Unnumbered { .. } => service::llc_and_apdu(branch, reader, walk),
        _ => {
            let from = reader.clone();
            let bytes = reader.remainder();
            branch.leaf("information", &from, reader, super::branch::octets(bytes))
        }
    }
}

fn segment(
    branch: &mut Branch,
    reader: &mut Reader<'_>,
    walk: &mut Walk<'_>,
    (frame, send): (&Frame, u8),
) -> Result<(), DecodeError> {
    let is_first = LLC.iter().any(|llc| frame.information.starts_with(llc));
    if is_first && !frame.segmented {
        return service::llc_and_apdu(branch, reader, walk);
    }
    let from = reader.clone();
    reader.remainder();
    // Only the first segment of an APDU has the LLC.
    let part = Part { number: send.into(), is_first, is_last: !frame.segmented, bytes: &frame.information };
    let is_continued = walk.assemblies.is_open(walk.route, Cut::Hdlc);
    if !is_first && !is_continued {
        walk.fail(from.offset(), FaultCause::Missing { found: send.into(), expected: 0 });
        return branch.leaf("segment", &from, reader, text("its beginning is missing"));
    }
    let put = walk.assemblies.put(walk.route, Cut::Hdlc, &part);
    put_said(branch, (&from, reader), walk, put, service::llc_and_apdu)
}

/// Says what became of a part, and walks the message when it is whole.
pub(super) fn put_said(
    branch: &mut Branch,
    (from, to): (&Reader<'_>, &Reader<'_>),
    walk: &mut Walk<'_>,
    put: Result<Put, FaultCause>,
    inside: fn(&mut Branch, &mut Reader<'_>, &mut Walk<'_>) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let said: Said = match &put {
        Ok(Put::Whole(bytes)) => text(format!("the last part of {} bytes", bytes.len())),
        Ok(Put::Open(size)) => text(format!("more parts follow, {size} bytes so far")),
        Ok(Put::Repeated) => text("repeated, not taken again"),
        Err(cause) => text(cause.to_string()),
    };
    branch.leaf("part", from, to, said)?;
    match put {
        Ok(Put::Whole(bytes)) => {
            walk.inner(branch, ("put together", &bytes), (None, None), inside);
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(cause) => {
            walk.fail(from.offset(), cause);
            Ok(())
        }
    }
}

fn key_of(address: Address) -> u32 {
    let server = address.server();
    (u32::from(server.logical()) << 16) | u32::from(server.physical().unwrap_or_default())
}

fn address(
    branch: &mut Branch,
    field: &'static str,
    reader: &mut Reader<'_>,
) -> Result<Address, DecodeError> {
    let from = reader.clone();
    let address = Address::decode(reader)?;
    let server = address.server();
    let meaning = match server.physical() {
        None => format!("{}", server.logical()),
        Some(physical) => format!("logical device {}, physical device {physical}", server.logical()),
    };
    branch.leaf(field, &from, reader, text(meaning))?;
    Ok(address)
}

fn control(control: Control) -> String {
    let poll = |poll| if poll { ", poll" } else { "" };
    match control {
        Control::Information { receive, send, poll: p } => {
            format!("I, send {send}, receive {receive}{}", poll(p))
        }
        Control::ReceiveReady { receive, poll: p } => format!("RR, receive {receive}{}", poll(p)),
        Control::ReceiveNotReady { receive, poll: p } => format!("RNR, receive {receive}{}", poll(p)),
        Control::Snrm => String::from("SNRM: open the link"),
        Control::Disconnect => String::from("DISC: close the link"),
        Control::Acknowledge => String::from("UA: agreed"),
        Control::Disconnected => String::from("DM: the link is closed"),
        Control::Reject => String::from("FRMR: frame not accepted"),
        Control::Unnumbered { poll: p } => format!("UI{}", poll(p)),
    }
}
