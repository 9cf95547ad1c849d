//! GET: attributes are read.

use alloc::vec::Vec;

use super::{
    list,
    reference::{AttributeId, InvokeId, Selection, boolean, decode_selected, encode_selected, open, start},
    result::{DataAccessResult, GetResult, decode_get_result, encode_get_result},
    tag::{GET_REQUEST, GET_RESPONSE},
};
use crate::wire::{DecodeError, Rule};

/// `C0 | choice | invoke-id | ...`.
///
/// # Source
/// DLMS fact sheet, sections 5.8 and 7.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GetRequest<'a> {
    /// `01`: one attribute.
    Normal {
        /// Invocation.
        invoke_id: InvokeId,
        /// What is read.
        attribute: AttributeId,
        /// Which part of it.
        selection: Option<Selection<'a>>,
    },
    /// `02`: the next block.
    Next {
        /// Invocation.
        invoke_id: InvokeId,
        /// Number of the last block received, from 1.
        block_number: u32,
    },
    /// `03`: several attributes.
    List {
        /// Invocation.
        invoke_id: InvokeId,
        /// What is read, and which part of it.
        items: Vec<(AttributeId, Option<Selection<'a>>)>,
    },
}

impl<'a> GetRequest<'a> {
    /// Reads a whole APDU.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = open(bytes, GET_REQUEST)?;
        let at = reader.clone();
        let choice = reader.u8("get-request")?;
        let invoke_id = InvokeId(reader.u8("invoke-id-and-priority")?);
        let request = match choice {
            1 => {
                let (attribute, selection) = decode_selected(&mut reader)?;
                Self::Normal { invoke_id, attribute, selection }
            }
            2 => Self::Next { invoke_id, block_number: reader.u32("block-number")? },
            3 => {
                let items = list::read(&mut reader, "attribute-descriptor-list", decode_selected)?;
                Self::List { invoke_id, items }
            }
            tag => return Err(at.fail("get-request", Rule::Tag { tag })),
        };
        reader.finish("get-request")?;
        Ok(request)
    }

    /// The whole APDU.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer;
        match self {
            Self::Normal { invoke_id, attribute, selection } => {
                writer = start(GET_REQUEST, 1);
                writer.u8(invoke_id.0);
                encode_selected(&mut writer, &(*attribute, *selection));
            }
            Self::Next { invoke_id, block_number } => {
                writer = start(GET_REQUEST, 2);
                writer.u8(invoke_id.0);
                writer.u32(*block_number);
            }
            Self::List { invoke_id, items } => {
                writer = start(GET_REQUEST, 3);
                writer.u8(invoke_id.0);
                writer.length(items.len());
                items.iter().for_each(|item| encode_selected(&mut writer, item));
            }
        }
        writer.into_bytes()
    }
}

/// `C4 | choice | invoke-id | ...`.
///
/// # Source
/// DLMS fact sheet, sections 5.8 and 7.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GetResponse<'a> {
    /// `01`: one result.
    Normal {
        /// Invocation.
        invoke_id: InvokeId,
        /// The value.
        result: GetResult<'a>,
    },
    /// `02`: one block of a result.
    Block {
        /// Invocation.
        invoke_id: InvokeId,
        /// Whether it is the last one.
        last: bool,
        /// Number of this block, from 1.
        block_number: u32,
        /// Part of the encoded value (of a list: of its results), or why there is none.
        result: Result<&'a [u8], DataAccessResult>,
    },
    /// `03`: several results, in the order of the request.
    List {
        /// Invocation.
        invoke_id: InvokeId,
        /// The values.
        results: Vec<GetResult<'a>>,
    },
}

impl<'a> GetResponse<'a> {
    /// Reads a whole APDU.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = open(bytes, GET_RESPONSE)?;
        let at = reader.clone();
        let choice = reader.u8("get-response")?;
        let invoke_id = InvokeId(reader.u8("invoke-id-and-priority")?);
        let response = match choice {
            1 => Self::Normal { invoke_id, result: decode_get_result(&mut reader)? },
            2 => {
                let last = boolean(&mut reader, "last-block")?;
                let block_number = reader.u32("block-number")?;
                let at = reader.clone();
                let result = match reader.u8("datablock result")? {
                    0 => Ok(reader.prefixed("raw-data")?),
                    1 => Err(DataAccessResult::from_number(reader.u8("data-access-result")?)),
                    tag => return Err(at.fail("datablock result", Rule::Tag { tag })),
                };
                Self::Block { invoke_id, last, block_number, result }
            }
            3 => {
                Self::List { invoke_id, results: list::read(&mut reader, "result-list", decode_get_result)? }
            }
            tag => return Err(at.fail("get-response", Rule::Tag { tag })),
        };
        reader.finish("get-response")?;
        Ok(response)
    }

    /// The whole APDU.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer;
        match self {
            Self::Normal { invoke_id, result } => {
                writer = start(GET_RESPONSE, 1);
                writer.u8(invoke_id.0);
                encode_get_result(&mut writer, result);
            }
            Self::Block { invoke_id, last, block_number, result } => {
                writer = start(GET_RESPONSE, 2);
                writer.u8(invoke_id.0);
                writer.u8(u8::from(*last));
                writer.u32(*block_number);
                match result {
                    Ok(raw) => {
                        writer.u8(0);
                        writer.prefixed(raw);
                    }
                    Err(result) => {
                        writer.u8(1);
                        writer.u8(result.number());
                    }
                }
            }
            Self::List { invoke_id, results } => {
                writer = start(GET_RESPONSE, 3);
                writer.u8(invoke_id.0);
                writer.length(results.len());
                results.iter().for_each(|result| encode_get_result(&mut writer, result));
            }
        }
        writer.into_bytes()
    }

    /// The invocation that it answers.
    #[must_use]
    pub const fn invoke_id(&self) -> InvokeId {
        match self {
            Self::Normal { invoke_id, .. } | Self::Block { invoke_id, .. } | Self::List { invoke_id, .. } => {
                *invoke_id
            }
        }
    }
}
