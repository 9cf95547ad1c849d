//! SET: attributes are written.

use alloc::vec::Vec;

use super::{
    list,
    reference::{AttributeId, InvokeId, Selection, boolean, decode_selected, encode_selected, open, start},
    result::DataAccessResult,
    tag::{SET_REQUEST, SET_RESPONSE},
};
use crate::wire::{Data, DecodeError, Reader, Rule, Writer};

/// Part of a long request or response: `last | block number u32 | length and raw data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block<'a> {
    /// Whether it is the last one.
    pub last: bool,
    /// Number of this block, from 1.
    pub number: u32,
    /// Part of the encoded parameters.
    pub raw: &'a [u8],
}

impl<'a> Block<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            last: boolean(reader, "last-block")?,
            number: reader.u32("block-number")?,
            raw: reader.prefixed("raw-data")?,
        })
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.u8(u8::from(self.last));
        writer.u32(self.number);
        writer.prefixed(self.raw);
    }
}

/// `C1 | choice | invoke-id | ...`. Values are encoded A-XDR values, one each.
///
/// # Source
/// DLMS fact sheet, sections 5.8 and 7.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetRequest<'a> {
    /// `01`: one attribute.
    Normal {
        /// Invocation.
        invoke_id: InvokeId,
        /// What is written.
        attribute: AttributeId,
        /// Which part of it.
        selection: Option<Selection<'a>>,
        /// The value.
        value: &'a [u8],
    },
    /// `02`: one attribute, the first block of its value.
    FirstBlock {
        /// Invocation.
        invoke_id: InvokeId,
        /// What is written.
        attribute: AttributeId,
        /// Which part of it.
        selection: Option<Selection<'a>>,
        /// Beginning of the value.
        block: Block<'a>,
    },
    /// `03`: a further block.
    Block {
        /// Invocation.
        invoke_id: InvokeId,
        /// Further part.
        block: Block<'a>,
    },
    /// `04`: several attributes.
    List {
        /// Invocation.
        invoke_id: InvokeId,
        /// What is written, and which part of it.
        items: Vec<(AttributeId, Option<Selection<'a>>)>,
        /// As many values.
        values: Vec<&'a [u8]>,
    },
    /// `05`: several attributes, the first block of the list of values.
    FirstBlockList {
        /// Invocation.
        invoke_id: InvokeId,
        /// What is written, and which part of it.
        items: Vec<(AttributeId, Option<Selection<'a>>)>,
        /// Beginning of count and values.
        block: Block<'a>,
    },
}

impl<'a> SetRequest<'a> {
    /// Reads a whole APDU.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = open(bytes, SET_REQUEST)?;
        let at = reader.clone();
        let choice = reader.u8("set-request")?;
        let invoke_id = InvokeId(reader.u8("invoke-id-and-priority")?);
        let reader_ref = &mut reader;
        let request = match choice {
            1 | 2 => {
                let (attribute, selection) = decode_selected(reader_ref)?;
                if choice == 1 {
                    Self::Normal { invoke_id, attribute, selection, value: Data::skip(reader_ref)? }
                } else {
                    Self::FirstBlock { invoke_id, attribute, selection, block: Block::decode(reader_ref)? }
                }
            }
            3 => Self::Block { invoke_id, block: Block::decode(reader_ref)? },
            4 | 5 => {
                let items = list::read(reader_ref, "attribute-descriptor-list", decode_selected)?;
                if choice == 4 {
                    let values = list::read_exactly(reader_ref, "value-list", items.len(), Data::skip)?;
                    Self::List { invoke_id, items, values }
                } else {
                    Self::FirstBlockList { invoke_id, items, block: Block::decode(reader_ref)? }
                }
            }
            tag => return Err(at.fail("set-request", Rule::Tag { tag })),
        };
        reader.finish("set-request")?;
        Ok(request)
    }

    /// The whole APDU.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let write_items = |writer: &mut Writer, items: &[(AttributeId, Option<Selection<'_>>)]| {
            writer.length(items.len());
            items.iter().for_each(|item| encode_selected(writer, item));
        };
        let begin = |choice, invoke_id: &InvokeId| {
            let mut writer = start(SET_REQUEST, choice);
            writer.u8(invoke_id.0);
            writer
        };
        let mut writer;
        match self {
            Self::Normal { invoke_id, attribute, selection, value } => {
                writer = begin(1, invoke_id);
                encode_selected(&mut writer, &(*attribute, *selection));
                writer.bytes(value);
            }
            Self::FirstBlock { invoke_id, attribute, selection, block } => {
                writer = begin(2, invoke_id);
                encode_selected(&mut writer, &(*attribute, *selection));
                block.encode(&mut writer);
            }
            Self::Block { invoke_id, block } => {
                writer = begin(3, invoke_id);
                block.encode(&mut writer);
            }
            Self::List { invoke_id, items, values } => {
                writer = begin(4, invoke_id);
                write_items(&mut writer, items);
                writer.length(values.len());
                values.iter().for_each(|value| writer.bytes(value));
            }
            Self::FirstBlockList { invoke_id, items, block } => {
                writer = begin(5, invoke_id);
                write_items(&mut writer, items);
                block.encode(&mut writer);
            }
        }
        writer.into_bytes()
    }
}

/// `C5 | choice | invoke-id | ...`.
///
/// # Source
/// DLMS fact sheet, sections 5.8 and 7.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetResponse {
    /// `01`: one result.
    Normal {
        /// Invocation.
        invoke_id: InvokeId,
        /// What came of it.
        result: DataAccessResult,
    },
    /// `02`: a block was received, more are expected.
    Block {
        /// Invocation.
        invoke_id: InvokeId,
        /// Number of the block.
        block_number: u32,
    },
    /// `03`: the last block was received.
    LastBlock {
        /// Invocation.
        invoke_id: InvokeId,
        /// What came of it.
        result: DataAccessResult,
        /// Number of the block.
        block_number: u32,
    },
    /// `04`: the last block of a list was received.
    LastBlockList {
        /// Invocation.
        invoke_id: InvokeId,
        /// What came of each.
        results: Vec<DataAccessResult>,
        /// Number of the block.
        block_number: u32,
    },
    /// `05`: several results, in the order of the request.
    List {
        /// Invocation.
        invoke_id: InvokeId,
        /// What came of each.
        results: Vec<DataAccessResult>,
    },
}

fn decode_result(reader: &mut Reader<'_>) -> Result<DataAccessResult, DecodeError> {
    reader.u8("data-access-result").map(DataAccessResult::from_number)
}

impl SetResponse {
    /// Reads a whole APDU.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = open(bytes, SET_RESPONSE)?;
        let at = reader.clone();
        let choice = reader.u8("set-response")?;
        let invoke_id = InvokeId(reader.u8("invoke-id-and-priority")?);
        let number = |reader: &mut Reader<'_>| reader.u32("block-number");
        let response = match choice {
            1 => Self::Normal { invoke_id, result: decode_result(&mut reader)? },
            2 => Self::Block { invoke_id, block_number: number(&mut reader)? },
            3 => Self::LastBlock {
                invoke_id,
                result: decode_result(&mut reader)?,
                block_number: number(&mut reader)?,
            },
            4 => Self::LastBlockList {
                invoke_id,
                results: list::read(&mut reader, "result-list", decode_result)?,
                block_number: number(&mut reader)?,
            },
            5 => Self::List { invoke_id, results: list::read(&mut reader, "result-list", decode_result)? },
            tag => return Err(at.fail("set-response", Rule::Tag { tag })),
        };
        reader.finish("set-response")?;
        Ok(response)
    }

    /// The whole APDU.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let begin = |choice, invoke_id: &InvokeId| {
            let mut writer = start(SET_RESPONSE, choice);
            writer.u8(invoke_id.0);
            writer
        };
        let list = |writer: &mut Writer, results: &[DataAccessResult]| {
            writer.length(results.len());
            results.iter().for_each(|result| writer.u8(result.number()));
        };
        let mut writer;
        match self {
            Self::Normal { invoke_id, result } => {
                writer = begin(1, invoke_id);
                writer.u8(result.number());
            }
            Self::Block { invoke_id, block_number } => {
                writer = begin(2, invoke_id);
                writer.u32(*block_number);
            }
            Self::LastBlock { invoke_id, result, block_number } => {
                writer = begin(3, invoke_id);
                writer.u8(result.number());
                writer.u32(*block_number);
            }
            Self::LastBlockList { invoke_id, results, block_number } => {
                writer = begin(4, invoke_id);
                list(&mut writer, results);
                writer.u32(*block_number);
            }
            Self::List { invoke_id, results } => {
                writer = begin(5, invoke_id);
                list(&mut writer, results);
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
            | Self::LastBlock { invoke_id, .. }
            | Self::LastBlockList { invoke_id, .. }
            | Self::List { invoke_id, .. } => *invoke_id,
        }
    }
}
