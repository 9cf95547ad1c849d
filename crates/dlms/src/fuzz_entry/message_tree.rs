//! The tree of a message: bounded, inside of its bytes, the same each time, and never more lenient or stricter than the
//! decoders that the machines use.

use alloc::{string::String, vec::Vec};

use gridseal_types::SystemTitle;

use crate::{
    acse::{Aare, Aarq, Release},
    apdu::{
        access::{AccessRequest, AccessResponse},
        action::{ActionRequest, ActionResponse},
        event::EventNotification,
        exception::ExceptionResponse,
        general::GeneralSigning,
        get::{GetRequest, GetResponse},
        report::InformationReport,
        set::{SetRequest, SetResponse},
    },
    assoc::CryptoFault,
    tree::{Carried, Decoded, FaultCause, Form, NODES_MAX, Node, Opened, Opener, TreeDecoder},
    wire::{Data, DecodeError, Rule},
};

/// Opens everything to what it holds, so that what lies inside is walked too.
struct Glass;

impl Opener for Glass {
    fn open(&mut self, carried: Carried<'_>) -> Result<Option<Opened>, CryptoFault> {
        let protected = match carried {
            Carried::Ciphered(apdu) => apdu.protected,
            Carried::General(apdu) => apdu.protected,
        };
        match protected.invocation_counter % 4 {
            0 => Err(CryptoFault::Tag),
            1 => Ok(None),
            odd => {
                Ok(Some(Opened { plain: protected.body.to_vec(), is_verified: odd == 2, how: String::new() }))
            }
        }
    }

    fn verifies(&mut self, signed: &GeneralSigning<'_>) -> Option<bool> {
        signed.signature.first().map(|octet| octet & 1 == 0)
    }

    fn claimed(&mut self, _: bool, _: SystemTitle) {}
}

/// `form | length u8 and piece | ...`: pieces of one recording.
pub fn message_tree(bytes: &[u8]) {
    let [form, rest @ ..] = bytes else { return };
    let form = match form % 5 {
        0 => Form::Auto,
        1 => Form::Hdlc,
        2 => Form::Wrapper,
        3 => Form::Apdu,
        _ => Form::Data,
    };
    let (mut decoder, mut again) = (TreeDecoder::new(), TreeDecoder::new());
    let mut rest = rest;
    while let [size, tail @ ..] = rest {
        // The last piece may be longer than its octet says, so that large ones are tried too.
        let size = if *size == 0xFF { tail.len() } else { usize::from(*size).min(tail.len()) };
        let (piece, after) = tail.split_at_checked(size).unwrap_or((tail, &[]));
        let decoded = decoder.decode(piece, form, &mut Glass);
        assert!(
            decoded == again.decode(piece, form, &mut Glass) || has_real(&decoded),
            "equal input, equal tree"
        );
        for frame in &decoded {
            let mut count = 0;
            frame.nodes.iter().for_each(|node| inside(node, 0, piece.len(), &mut count));
            assert!(count <= NODES_MAX, "bounded");
        }
        if let (Form::Apdu, [frame]) = (form, decoded.as_slice()) {
            agrees(piece, frame);
        }
        if let (Form::Data, [frame]) = (form, decoded.as_slice()) {
            // A tree has a limit where values have none, and looks at each element of compact arrays.
            let full = Rule::TooLong { found: NODES_MAX.saturating_add(1), limit: NODES_MAX };
            let is_read = Data::from_bytes(piece).is_ok_and(|data| is_good(&data));
            let is_alike = match frame.fault.map(|fault| fault.cause) {
                None => is_read,
                Some(FaultCause::Decode(DecodeError { rule, .. })) => !is_read || rule == full,
                Some(_) => !is_read,
            };
            assert!(is_alike, "values read alike");
        }
        rest = after;
    }
}

/// Whether the texts and dates inside of compact arrays are some.
fn is_good(data: &Data<'_>) -> bool {
    match data {
        Data::Array(items) | Data::Structure(items) => items.iter().all(is_good),
        Data::CompactArray(array) => array.elements().all(|element| element.is_ok_and(|data| is_good(&data))),
        _ => true,
    }
}

/// A number that is not equal to itself.
fn has_real(frames: &[Decoded]) -> bool {
    fn any(nodes: &[Node]) -> bool {
        nodes
            .iter()
            .any(|node| matches!(node.value, Some(crate::tree::Scalar::Real(_))) || any(&node.children))
    }
    frames.iter().any(|frame| any(&frame.nodes))
}

fn inside(node: &Node, start: usize, end: usize, count: &mut usize) {
    *count = count.saturating_add(1);
    let last = node.offset.saturating_add(node.size);
    let (start, end) = if node.is_inner {
        (0, node.size)
    } else {
        assert!(node.offset >= start && last <= end, "{} lies in its parent", node.field);
        // What is inside of a field may be put together of more than this frame.
        (node.offset, end)
    };
    node.children.iter().for_each(|child| inside(child, start, end, count));
}

/// What a machine would take has a tree without a fault; texts and dates inside of values are judged by it alone.
fn agrees(bytes: &[u8], frame: &Decoded) {
    let is_taken: Vec<bool> = [
        GetRequest::from_bytes(bytes).is_ok(),
        GetResponse::from_bytes(bytes).is_ok(),
        SetRequest::from_bytes(bytes).is_ok(),
        SetResponse::from_bytes(bytes).is_ok(),
        ActionRequest::from_bytes(bytes).is_ok(),
        ActionResponse::from_bytes(bytes).is_ok(),
        AccessRequest::from_bytes(bytes).is_ok(),
        AccessResponse::from_bytes(bytes).is_ok(),
        EventNotification::from_bytes(bytes).is_ok(),
        ExceptionResponse::from_bytes(bytes).is_ok(),
        InformationReport::from_bytes(bytes).is_ok(),
    ]
    .into();
    let is_acse = Aarq::from_bytes(bytes).is_ok()
        || Aare::from_bytes(bytes).is_ok()
        || Release::from_bytes(bytes).is_ok();
    let Some(fault) = frame.fault.filter(|fault| fault.inside.is_none() && !is_acse) else { return };
    if is_taken.contains(&true) {
        let is_own = match fault.cause {
            FaultCause::Decode(DecodeError { rule, .. }) => {
                matches!(rule, Rule::Text | Rule::OutOfRange | Rule::TooLong { .. })
            }
            FaultCause::Missing { .. } | FaultCause::TooLong { .. } => true,
            FaultCause::Crypto(_) => false,
        };
        assert!(is_own, "the tree refuses what a machine takes: {fault:?}");
    }
}
