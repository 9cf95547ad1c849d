//! The port through which a server reaches its objects.

use alloc::{boxed::Box, vec::Vec};
use core::fmt;

use gridseal_types::SystemTitle;

use crate::{
    acse::Mechanism,
    apdu::{
        reference::{AttributeId, MethodId, Selection},
        result::{ActionResult, DataAccessResult},
    },
    assoc::Protection,
};

/// Who asks, and how the request was protected. Access rights are judged by whoever implements [`Objects`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessContext {
    /// Client's service access point.
    pub client_sap: u16,
    /// The client's title; verified when [`AccessContext::protection`] has a tag or the mechanism uses it.
    pub client_title: Option<SystemTitle>,
    /// User of the client, as it says.
    pub user: Option<u8>,
    /// How the client authenticated itself.
    pub mechanism: Mechanism,
    /// How the request was protected.
    pub protection: Protection,
    /// Whether the client signed it.
    pub is_signed: bool,
    /// Whether the broadcast key protected it: the originator is anybody who has that key.
    pub is_broadcast: bool,
}

/// One attribute to read or write.
#[derive(Debug, Clone, Copy)]
pub struct AttributeRequest<'a> {
    /// Who asks.
    pub context: &'a AccessContext,
    /// What.
    pub attribute: AttributeId,
    /// Which part of it; the parameter is one encoded value whose structure was checked.
    pub selection: Option<Selection<'a>>,
}

/// One method to invoke.
#[derive(Debug, Clone, Copy)]
pub struct MethodRequest<'a> {
    /// Who asks.
    pub context: &'a AccessContext,
    /// What.
    pub method: MethodId,
    /// One encoded value whose structure was checked.
    pub parameters: Option<&'a [u8]>,
}

/// Makes an encoded value piece by piece, so that a long profile is never built as a whole.
///
/// It is a snapshot or a cursor of its own: it must go on giving the same value when the object changes meanwhile.
pub trait ValueSource: Send {
    /// Appends at least `wanted` further bytes of the encoded value to `out`, or all that are left (a whole row more
    /// than asked is fine). Gives whether more follow.
    ///
    /// # Errors
    /// Why the value ends early; the transfer is then aborted with it.
    fn fill(&mut self, wanted: usize, out: &mut Vec<u8>) -> Result<bool, DataAccessResult>;
}

/// A value that was read: exactly one encoded A-XDR value, tag first.
pub enum Value {
    /// As a whole.
    Encoded(Vec<u8>),
    /// Piece by piece.
    Stream(Box<dyn ValueSource>),
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encoded(bytes) => write!(f, "Encoded[{} bytes]", bytes.len()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// What a method gave.
#[derive(Debug)]
pub struct ActionReply {
    /// Whether it ran.
    pub result: ActionResult,
    /// One encoded value, or why there is none.
    pub returned: Option<Result<Vec<u8>, DataAccessResult>>,
}

impl ActionReply {
    /// A method that ran and returns nothing.
    pub const SUCCESS: Self = Self { result: ActionResult::Success, returned: None };

    /// A method that did not run.
    #[must_use]
    pub const fn refused(result: ActionResult) -> Self {
        Self { result, returned: None }
    }

    /// A method that ran and returns one encoded value.
    #[must_use]
    pub const fn returns(value: Vec<u8>) -> Self {
        Self { result: ActionResult::Success, returned: Some(Ok(value)) }
    }
}

/// The objects of one logical device. Each call does one thing at once; the server machine has already judged the
/// association, the protection it demands and the form of the APDU. Access rights per object are judged here.
///
/// `reply_to_HLS_authentication` (class 15, 0.0.40.0.0.255, method 1) never arrives here: the machine serves it.
pub trait Objects {
    /// Reads an attribute.
    ///
    /// # Errors
    /// The result that the client is told.
    fn get(&mut self, request: AttributeRequest<'_>) -> Result<Value, DataAccessResult>;

    /// Writes an attribute; `value` is one encoded value whose structure was checked.
    ///
    /// # Errors
    /// The result that the client is told; nothing was changed.
    fn set(&mut self, request: AttributeRequest<'_>, value: &[u8]) -> Result<(), DataAccessResult>;

    /// Invokes a method.
    fn action(&mut self, request: MethodRequest<'_>) -> ActionReply;
}
