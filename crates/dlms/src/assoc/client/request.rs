//! What a client asks and gets, with values that live as long as they are needed.

use alloc::vec::Vec;

use crate::apdu::{
    access::AccessResult,
    exception::ExceptionResponse,
    reference::{AttributeId, MethodId, Selection},
    result::{ActionResult, DataAccessResult},
};

/// Selective access with its own parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedSelection {
    /// 1 by range, 2 by entry; others belong to a class.
    pub selector: u8,
    /// One encoded value.
    pub parameter: Vec<u8>,
}

impl OwnedSelection {
    pub(super) fn borrow(&self) -> Selection<'_> {
        Selection { selector: self.selector, parameter: &self.parameter }
    }
}

/// One thing to do in an ACCESS.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessItem {
    /// Read.
    Get(AttributeId, Option<OwnedSelection>),
    /// Write one encoded value.
    Set(AttributeId, Option<OwnedSelection>, Vec<u8>),
    /// Invoke with one encoded value.
    Action(MethodId, Option<Vec<u8>>),
}

/// A request; values are encoded A-XDR values ([`crate::wire::Data::to_bytes`]). What is too large for the server goes
/// in blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// Read one attribute.
    Get(AttributeId, Option<OwnedSelection>),
    /// Read several.
    GetList(Vec<(AttributeId, Option<OwnedSelection>)>),
    /// Write one attribute.
    Set(AttributeId, Option<OwnedSelection>, Vec<u8>),
    /// Write several.
    SetList(Vec<(AttributeId, Option<OwnedSelection>, Vec<u8>)>),
    /// Invoke one method.
    Action(MethodId, Option<Vec<u8>>),
    /// Invoke several; no parameters are sent as null.
    ActionList(Vec<(MethodId, Option<Vec<u8>>)>),
    /// Several things in one request.
    Access(Vec<AccessItem>),
}

/// What a method gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionOutcomeOwned {
    /// Whether it ran.
    pub result: ActionResult,
    /// One encoded value, or why there is none.
    pub returned: Option<Result<Vec<u8>, DataAccessResult>>,
}

/// What one item of an ACCESS gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessReply {
    /// What came of it.
    pub result: AccessResult,
    /// One encoded value; null where there is none.
    pub value: Vec<u8>,
}

/// The answer to the [`Request`] of the same name, with as many results as there were items.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Response {
    /// One encoded value, which is whole.
    Get(Result<Vec<u8>, DataAccessResult>),
    /// Encoded values in the order of the request.
    GetList(Vec<Result<Vec<u8>, DataAccessResult>>),
    /// What came of it.
    Set(DataAccessResult),
    /// What came of each.
    SetList(Vec<DataAccessResult>),
    /// What came of it.
    Action(ActionOutcomeOwned),
    /// What came of each.
    ActionList(Vec<ActionOutcomeOwned>),
    /// What came of each.
    Access(Vec<AccessReply>),
    /// An exception-response that was protected: the server itself says so.
    Exception(ExceptionResponse),
}
