//! ACTION: methods are invoked.

use alloc::vec::Vec;

use super::{
    list,
    reference::{InvokeId, MethodId, open, optional, start},
    result::{ActionResult, GetResult, decode_get_result, encode_get_result},
    set::Block,
    tag::{ACTION_REQUEST, ACTION_RESPONSE},
};
use crate::wire::{Data, DecodeError, Reader, Rule, Writer};

/// `C3 | choice | invoke-id | ...`. Parameters are encoded A-XDR values.
///
/// # Source
/// DLMS fact sheet, section 7.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ActionRequest<'a> {
    /// `01`: one method.
    Normal {
        /// Invocation.
        invoke_id: InvokeId,
        /// What is invoked.
        method: MethodId,
        /// With what.
        parameters: Option<&'a [u8]>,
    },
    /// `02`: the next block of a response.
    Next {
        /// Invocation.
        invoke_id: InvokeId,
        /// Number of the last block received, from 1.
        block_number: u32,
    },
    /// `03`: several methods.
    List {
        /// Invocation.
        invoke_id: InvokeId,
        /// What is invoked.
        methods: Vec<MethodId>,
        /// As many parameters; null stands for none.
        parameters: Vec<&'a [u8]>,
    },
    /// `04`: one method, the first block of its parameters.
    FirstBlock {
        /// Invocation.
        invoke_id: InvokeId,
        /// What is invoked.
        method: MethodId,
        /// Beginning of the parameters.
        block: Block<'a>,
    },
    /// `05`: several methods, the first block of the list of parameters.
    FirstBlockList {
        /// Invocation.
        invoke_id: InvokeId,
        /// What is invoked.
        methods: Vec<MethodId>,
        /// Beginning of count and parameters.
        block: Block<'a>,
    },
    /// `06`: a further block.
    Block {
        /// Invocation.
        invoke_id: InvokeId,
        /// Further part.
        block: Block<'a>,
    },
}

impl<'a> ActionRequest<'a> {
    /// Reads a whole APDU.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = open(bytes, ACTION_REQUEST)?;
        let at = reader.clone();
        let choice = reader.u8("action-request")?;
        let invoke_id = InvokeId(reader.u8("invoke-id-and-priority")?);
        let reader_ref = &mut reader;
        let request = match choice {
            1 => {
                let method = MethodId::decode(reader_ref)?;
                let has_parameters = optional(reader_ref, "method-invocation-parameters")?;
                let parameters = if has_parameters { Some(Data::skip(reader_ref)?) } else { None };
                Self::Normal { invoke_id, method, parameters }
            }
            2 => Self::Next { invoke_id, block_number: reader_ref.u32("block-number")? },
            3 | 5 => {
                let methods = list::read(reader_ref, "method-descriptor-list", MethodId::decode)?;
                if choice == 3 {
                    let field = "method-invocation-parameters";
                    let parameters = list::read_exactly(reader_ref, field, methods.len(), Data::skip)?;
                    Self::List { invoke_id, methods, parameters }
                } else {
                    Self::FirstBlockList { invoke_id, methods, block: Block::decode(reader_ref)? }
                }
            }
            4 => {
                let method = MethodId::decode(reader_ref)?;
                Self::FirstBlock { invoke_id, method, block: Block::decode(reader_ref)? }
            }
            6 => Self::Block { invoke_id, block: Block::decode(reader_ref)? },
            tag => return Err(at.fail("action-request", Rule::Tag { tag })),
        };
        reader.finish("action-request")?;
        Ok(request)
    }

    /// The whole APDU.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let begin = |choice, invoke_id: &InvokeId| {
            let mut writer = start(ACTION_REQUEST, choice);
            writer.u8(invoke_id.0);
            writer
        };
        let write_methods = |writer: &mut Writer, methods: &[MethodId]| {
            writer.length(methods.len());
            methods.iter().for_each(|method| method.encode(writer));
        };
        let mut writer;
        match self {
            Self::Normal { invoke_id, method, parameters } => {
                writer = begin(1, invoke_id);
                method.encode(&mut writer);
                match parameters {
                    None => writer.u8(0),
                    Some(parameters) => {
                        writer.u8(1);
                        writer.bytes(parameters);
                    }
                }
            }
            Self::Next { invoke_id, block_number } => {
                writer = begin(2, invoke_id);
                writer.u32(*block_number);
            }
            Self::List { invoke_id, methods, parameters } => {
                writer = begin(3, invoke_id);
                write_methods(&mut writer, methods);
                writer.length(parameters.len());
                parameters.iter().for_each(|parameters| writer.bytes(parameters));
            }
            Self::FirstBlock { invoke_id, method, block } => {
                writer = begin(4, invoke_id);
                method.encode(&mut writer);
                block.encode(&mut writer);
            }
            Self::FirstBlockList { invoke_id, methods, block } => {
                writer = begin(5, invoke_id);
                write_methods(&mut writer, methods);
                block.encode(&mut writer);
            }
            Self::Block { invoke_id, block } => {
                writer = begin(6, invoke_id);
                block.encode(&mut writer);
            }
        }
        writer.into_bytes()
    }
}

/// What one method gave: `result | 00`, or `result | 01 | get-data-result`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActionOutcome<'a> {
    /// Whether it ran.
    pub result: ActionResult,
    /// What it returned.
    pub returned: Option<GetResult<'a>>,
}

impl<'a> ActionOutcome<'a> {
    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let result = ActionResult::from_number(reader.u8("action-result")?);
        let has_returned = optional(reader, "return-parameters")?;
        let returned = if has_returned { Some(decode_get_result(reader)?) } else { None };
        Ok(Self { result, returned })
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.u8(self.result.number());
        match &self.returned {
            None => writer.u8(0),
            Some(returned) => {
                writer.u8(1);
                encode_get_result(writer, returned);
            }
        }
    }
}

/// `C7 | choice | invoke-id | ...`.
///
/// What the blocks of a long response carry could not be checked against the standard: here it is the outcome as in a
/// short response, result first.
///
/// # Source
/// DLMS fact sheet, section 7.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ActionResponse<'a> {
    /// `01`: one outcome.
    Normal {
        /// Invocation.
        invoke_id: InvokeId,
        /// What came of it.
        outcome: ActionOutcome<'a>,
    },
    /// `02`: one block of the outcome.
    Block {
        /// Invocation.
        invoke_id: InvokeId,
        /// Part of the encoded outcome.
        block: Block<'a>,
    },
    /// `03`: several outcomes, in the order of the request.
    List {
        /// Invocation.
        invoke_id: InvokeId,
        /// What came of each.
        outcomes: Vec<ActionOutcome<'a>>,
    },
    /// `04`: a block of the request was received, more are expected.
    Next {
        /// Invocation.
        invoke_id: InvokeId,
        /// Number of the block.
        block_number: u32,
    },
}

impl<'a> ActionResponse<'a> {
    /// Reads a whole APDU.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = open(bytes, ACTION_RESPONSE)?;
        let at = reader.clone();
        let choice = reader.u8("action-response")?;
        let invoke_id = InvokeId(reader.u8("invoke-id-and-priority")?);
        let response = match choice {
            1 => Self::Normal { invoke_id, outcome: ActionOutcome::decode(&mut reader)? },
            2 => Self::Block { invoke_id, block: Block::decode(&mut reader)? },
            3 => {
                let outcomes = list::read(&mut reader, "action-response-list", ActionOutcome::decode)?;
                Self::List { invoke_id, outcomes }
            }
            4 => Self::Next { invoke_id, block_number: reader.u32("block-number")? },
            tag => return Err(at.fail("action-response", Rule::Tag { tag })),
        };
        reader.finish("action-response")?;
        Ok(response)
    }

    /// The whole APDU.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let begin = |choice, invoke_id: &InvokeId| {
            let mut writer = start(ACTION_RESPONSE, choice);
            writer.u8(invoke_id.0);
            writer
        };
        let mut writer;
        match self {
            Self::Normal { invoke_id, outcome } => {
                writer = begin(1, invoke_id);
                outcome.encode(&mut writer);
            }
            Self::Block { invoke_id, block } => {
                writer = begin(2, invoke_id);
                block.encode(&mut writer);
            }
            Self::List { invoke_id, outcomes } => {
                writer = begin(3, invoke_id);
                writer.length(outcomes.len());
                outcomes.iter().for_each(|outcome| outcome.encode(&mut writer));
            }
            Self::Next { invoke_id, block_number } => {
                writer = begin(4, invoke_id);
                writer.u32(*block_number);
            }
        }
        writer.into_bytes()
    }

    /// The invocation that it answers.
    #[must_use]
    pub const fn invoke_id(&self) -> InvokeId {
        match self {
            Self::Normal { invoke_id, .. }
            | Self::Block { invoke_id, .. }
            | Self::List { invoke_id, .. }
            | Self::Next { invoke_id, .. } => *invoke_id,
        }
    }
}
